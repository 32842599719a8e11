//! The agent's own databases, as the plan sees them: those that a thread of this process writes.
//!
//! Guarding starts before one is open; until then there is nothing of ours to make durable.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::store::{CheckpointReport, Mode, OrderError, Orders, StoreState};

use super::databases::{DatabaseView, GuardedDatabase};

/// The controls of the thread that writes one.
pub trait Writer: Send + fmt::Debug {
    /// The database's place in the order of databases.
    const PRIORITY: i32;
    /// What an order that was not carried out means.
    fn words(e: OrderError) -> String;
    /// Frames that a checkpoint would have to move now.
    fn frames(&self) -> u32;
    /// Commits what was taken, without waiting for more. Does not wait.
    fn settle(&self);
    /// Commits all that somebody was or will be promised; waits `left` at most.
    ///
    /// # Errors
    /// It was not done in time.
    fn commit(&self, left: Duration) -> Result<(), OrderError>;
    /// Has it make a checkpoint; waits `left` at most.
    ///
    /// # Errors
    /// It was not done in time, or failed.
    fn checkpoint(&self, mode: Mode, left: Duration) -> Result<CheckpointReport, OrderError>;
    /// Waits until nothing that was ordered is still being done; false after `patience`.
    fn wait_idle(&self, patience: Duration) -> bool;
    /// The outage is over.
    fn release(&self);
    /// How it is, in words.
    fn state(&self) -> String;
}

/// See the module's text.
#[derive(Debug)]
pub struct Own<W> {
    path: String,
    name: String,
    writer: W,
}

impl<W: Writer> Own<W> {
    /// The database at `path`, of which `writer` takes orders.
    pub fn new(path: &Path, writer: W) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str());
        Self {
            path: path.display().to_string(),
            name: name.to_string_lossy().into_owned(),
            writer,
        }
    }
}

impl<W: Writer> GuardedDatabase for Own<W> {
    fn name(&self) -> &str {
        &self.name
    }

    fn priority(&self) -> i32 {
        W::PRIORITY
    }

    fn frames(&self) -> u32 {
        self.writer.frames()
    }

    fn settle(&mut self) {
        self.writer.settle();
    }

    fn commit(&mut self, left: Duration) -> Result<(), String> {
        self.writer.commit(left).map_err(W::words)
    }

    fn checkpoint(&mut self, left: Duration) -> Result<u32, String> {
        let report = self
            .writer
            .checkpoint(Mode::Truncate, left)
            .map_err(W::words)?;
        if report.complete() {
            return Ok(report.wal_frames);
        }
        let kept = report.wal_frames - report.backfilled;
        Err(format!(
            "a reader holds {kept} of {} frames back",
            report.wal_frames
        ))
    }

    fn is_quiet(&mut self, patience: Duration) -> bool {
        self.writer.wait_idle(patience)
    }

    fn checkpoint_early(&mut self) {
        // Only left with its thread: power often fails right after the brownout, and the plan must
        // not wait behind it. How it went shows in the frames.
        match self.writer.checkpoint(Mode::Passive, Duration::ZERO) {
            Ok(_) | Err(OrderError::Timeout) => {}
            Err(e @ OrderError::Failed) => {
                log::info!("early checkpoint of {}: {}", self.name, W::words(e));
            }
        }
    }

    fn inspect(&mut self, _hurry: &dyn Fn() -> bool) {}

    fn release(&mut self) {
        self.writer.release();
    }

    fn view(&self) -> DatabaseView {
        DatabaseView {
            path: self.path.clone(),
            role: "own",
            priority: W::PRIORITY,
            wal_frames: Some(self.writer.frames()),
            wal_bytes: 0,
            problem: false,
            other_writers: false,
            state: self.writer.state(),
        }
    }
}

/// The store.
impl Writer for Orders {
    const PRIORITY: i32 = 100;

    fn words(e: OrderError) -> String {
        e.to_string()
    }

    fn frames(&self) -> u32 {
        self.stats().wal_frames
    }

    fn settle(&self) {
        Self::settle(self);
    }

    fn commit(&self, left: Duration) -> Result<(), OrderError> {
        match self.commit_in_flight(left) {
            // A store that has stopped acknowledges nothing, so nothing of it is outstanding.
            Ok(_) | Err(OrderError::Failed) => Ok(()),
            Err(e @ OrderError::Timeout) => Err(e),
        }
    }

    fn checkpoint(&self, mode: Mode, left: Duration) -> Result<CheckpointReport, OrderError> {
        Self::checkpoint(self, mode, left)
    }

    fn wait_idle(&self, patience: Duration) -> bool {
        Self::wait_idle(self, patience)
    }

    fn release(&self) {
        self.retry_now();
    }

    fn state(&self) -> String {
        let state = self.stats().state;
        match state {
            StoreState::Failed(ref why) => format!("failed: {why}"),
            StoreState::Starting
            | StoreState::Running
            | StoreState::DiskFull
            | StoreState::Stopped => state.name().to_owned(),
        }
    }
}
