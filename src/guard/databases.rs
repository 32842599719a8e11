//! A database as the plan sees it: the agent's own, or another application's.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// One database in status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatabaseView {
    /// The file.
    pub path: String,
    /// `own` or `guarded`.
    pub role: &'static str,
    /// Higher goes first.
    pub priority: i32,
    /// Frames in its WAL; `None` where nobody has it open.
    pub wal_frames: Option<u32>,
    /// Bytes of pages in another application's WAL that are not in its database yet.
    pub wal_bytes: u64,
    /// It cannot be guarded as it is; `state` says why.
    pub problem: bool,
    /// Others write it and cannot be stilled; `state` says who.
    pub other_writers: bool,
    /// What is known about it, in words.
    pub state: String,
}

/// What the plan does with a database. Called from the plan thread only.
pub trait GuardedDatabase: Send + fmt::Debug {
    /// The file's name, for records.
    fn name(&self) -> &str;
    /// Higher goes first.
    fn priority(&self) -> i32;
    /// Does another application write it? Then it is stilled, while our own writers stop at the
    /// gate.
    fn is_guarded(&self) -> bool {
        false
    }
    /// Frames that a checkpoint would have to move now; blocks of 4 KiB of another application's.
    fn frames(&self) -> u32;
    /// The first lost edge: commit what was taken, without waiting for more. Does not wait.
    fn settle(&mut self);
    /// Makes everything that was acknowledged or committed durable, in about `left`.
    fn commit(&mut self, left: Duration) -> Result<(), String>;
    /// Keeps other writers out until [`Self::release`] and makes durable what they committed
    /// meanwhile. Waits for them for `patience` at most, in all. Asked again after a failure, it
    /// does what is left to do.
    fn still(&mut self, _patience: Duration) -> Result<(), String> {
        Ok(())
    }
    /// Moves the WAL into the database, in about `left`; how many frames.
    fn checkpoint(&mut self, left: Duration) -> Result<u32, String>;
    /// Waits, at most `patience`, until nothing that the plan asked for is still being done.
    fn is_quiet(&mut self, patience: Duration) -> bool;
    /// A checkpoint while service goes on.
    fn checkpoint_early(&mut self);
    /// Looks at it while service goes on; ends early when `hurry` says that something waits.
    fn inspect(&mut self, hurry: &dyn Fn() -> bool);
    /// The outage is over: let other writers in again.
    fn release(&mut self);
    /// For status. Must not touch the data file system: it is asked while that is frozen.
    fn view(&self) -> DatabaseView;
}
