//! What was done on this gateway, when, and by whom: a hash-chained log of its own file.
//!
//! It promises that an entry is durable before the action it names begins, that entries are only
//! ever appended, and that a change, a removal or damage is seen: by [`Reader::verify`], by
//! `image/audit-verify.py`, and, for a cut tail, by any head (sequence and hash) that left the
//! gateway. It must never be edited, smooth a break over, or keep the agent from its work.
//!
//! # The file
//! `audit.db`, SQLite, one table `audit`, one row an entry. Its journal is a rollback journal in
//! mode TRUNCATE: at rest everything is in one file, which can be read on a read-only medium, where
//! a reader of a write-ahead log would have to make a -shm. Entries are rare, so the further syncs
//! of a commit do not matter. A commit is the journal's truncation, which SQLite syncs;
//! `synchronous=EXTRA` covers the removal of a journal that an earlier agent left hot. Not PERSIST:
//! SQLite opens a journal that has a length, and as root changes its owner then, which on a
//! frozen file system sleeps unkillably.
//!
//! # The canonical form
//! The hash of an entry is SHA-256, in lower-case hex, over ten fields in this order, each as
//! `LENGTH:TEXT,` with the length in bytes of the UTF-8 text in decimal:
//! `holdup-audit-1`, sequence, wall, mono_ms, boot, synchronised (`0` or `1`), actor, action,
//! details (the JSON text as it is stored), previous. Numbers are decimal. `previous` is the hash of
//! the entry before; of the first entry, and of one that names a break, it is 64 zeros. Sequences
//! count from 1 without a gap.
//!
//! # Entries that cannot be written
//! While the gate is closed, the disk full or the file unusable, entries wait in a spool in
//! `run_dir` and are appended later, in order, with the times that they were made.

mod aside;
mod clerk;
mod entry;
mod error;
mod file;
mod read;
mod salvage;
mod spool;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::durable::{CopyOrder, Gate, HotCopy, Medium};

use entry::Draft;

pub use aside::lay_aside;
pub use entry::{Head, Record};
pub use error::AuditError;
pub use read::{Broken, Reader, Verdict};
#[cfg(fuzzing)]
pub use {salvage::entries, spool::respool};

/// The actor of what the agent does by itself.
pub const AGENT: &str = "agent";

/// What a log is made of.
#[derive(Debug)]
pub struct AuditOptions {
    /// The log.
    pub path: PathBuf,
    /// Where entries wait; on a tmpfs.
    pub spool: PathBuf,
    /// The file system that the log lies on.
    pub medium: Arc<Medium>,
    /// Passed before each transaction.
    pub gate: Arc<Gate>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This boot.
    pub boot: String,
}

/// How the log is, from memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStatus {
    /// `starting`, `writing`, `waiting` (entries are spooled) or `unusable`.
    pub state: String,
    /// The last entry that is durable.
    pub head: Option<Head>,
    /// Entries that wait to be written.
    pub waiting: usize,
    /// Entries that were lost for want of room in the spool, since the agent started.
    pub dropped: u64,
    /// Why entries wait, or what is wrong with the log.
    pub problem: Option<String>,
}

/// An action that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names it in both of its entries.
    pub id: String,
    /// Its first entry, once that is durable.
    pub sequence: Option<i64>,
    actor: String,
    action: String,
}

/// The entry is not durable yet; it waits. Whoever cannot do without must not begin.
#[derive(Debug, thiserror::Error)]
#[error("the audit entry for {} is not durable yet: {why}", entry.action)]
pub struct NotDurable {
    /// To go on with nevertheless.
    pub entry: Entry,
    /// Why it waits.
    pub why: String,
}

/// An entry on its way.
#[derive(Debug)]
struct Item {
    draft: Draft,
    written: Option<SyncSender<i64>>,
}

#[derive(Debug, Default)]
struct Slots {
    incoming: VecDeque<Item>,
    dropped: u64,
    /// Something was handed over and is not durable.
    busy: bool,
    status: AuditStatus,
    /// For the copy that is being made, or is to be begun.
    copies: VecDeque<CopyOrder>,
    stop: bool,
    ended: bool,
}

#[derive(Debug, Default)]
struct Desk {
    slots: Mutex<Slots>,
    to_clerk: Condvar,
    from_clerk: Condvar,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries that may wait in memory for the clerk to take them.
const INCOMING: usize = 1024;

/// The log, for those who have something to enter. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    desk: Arc<Desk>,
    clock: Arc<dyn Clock>,
    boot: Arc<str>,
    session: u64,
    count: Arc<AtomicU64>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// The thread that writes; it must be stopped.
#[derive(Debug)]
pub struct Clerk {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Audit {
    /// Starts the thread that opens the log, mends it where it is damaged, and appends what an
    /// earlier agent left in the spool. Nothing is waited for.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(options: AuditOptions) -> Result<(Self, Clerk), AuditError> {
        let desk = Arc::new(Desk::default());
        desk.lock().status.state = "starting".to_owned();
        let audit = Self {
            desk: Arc::clone(&desk),
            clock: Arc::clone(&options.clock),
            boot: options.boot.as_str().into(),
            session: options.clock.mono().as_nanos(),
            count: Arc::default(),
        };
        let thread = clerk::start(options, audit.session, Arc::clone(&desk))?;
        let thread = Some(thread);
        Ok((audit, Clerk { desk, thread }))
    }

    /// Enters one fact. Does not block; where the entry waits, the status says so.
    pub fn note(&self, action: &str, actor: &str, details: Value) {
        self.put(self.draft(action, actor, details, None), None);
    }

    /// The same, unless the last entry of this action was entered with the same `key`.
    pub fn note_once(&self, key: &str, action: &str, actor: &str, details: Value) {
        self.put(self.draft(action, actor, details, Some(key)), None);
    }

    /// Enters that an action begins, and waits at most `patience` until that is durable. Blocks:
    /// never call it on a thread that serves others.
    ///
    /// # Errors
    /// It is not durable by then; it is entered all the same when that is possible.
    pub fn begin(
        &self,
        action: &str,
        actor: &str,
        details: Value,
        patience: Duration,
    ) -> Result<Entry, NotDurable> {
        let n = self.count.fetch_add(1, SeqCst);
        let mut entry = Entry {
            id: format!("{:x}-{n}", self.session),
            sequence: None,
            actor: actor.to_owned(),
            action: action.to_owned(),
        };
        let details = with("begin", &entry.id, details);
        let (written, wait) = sync_channel(1);
        self.put(self.draft(action, actor, details, None), Some(written));
        match wait.recv_timeout(patience) {
            Ok(sequence) => {
                entry.sequence = Some(sequence);
                Ok(entry)
            }
            Err(_) => {
                let status = self.status();
                let why = status.problem.unwrap_or(status.state);
                Err(NotDurable { entry, why })
            }
        }
    }

    /// Enters how an action ended. Does not block.
    pub fn end(&self, entry: &Entry, result: &str, details: Value) {
        let mut details = with("end", &entry.id, details);
        if let Value::Object(map) = &mut details {
            map.insert("result".to_owned(), result.into());
        }
        self.put(self.draft(&entry.action, &entry.actor, details, None), None);
    }

    /// The last durable entry, from memory; `None` before the log is open, or when it is empty.
    pub fn head(&self) -> Option<Head> {
        self.desk.lock().status.head.clone()
    }

    /// How the log is, from memory.
    pub fn status(&self) -> AuditStatus {
        let slots = self.desk.lock();
        let mut status = slots.status.clone();
        status.waiting += slots.incoming.len();
        status
    }

    /// Waits until everything entered so far is durable; false when it is not after `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        let busy = |s: &mut Slots| (s.busy || !s.incoming.is_empty()) && !s.ended;
        let slots = self.desk.lock();
        let (mut slots, _) = self
            .desk
            .from_clerk
            .wait_timeout_while(slots, patience, busy)
            .unwrap_or_else(PoisonError::into_inner);
        !busy(&mut slots)
    }

    fn draft(&self, action: &str, actor: &str, details: Value, key: Option<&str>) -> Draft {
        Draft::new(
            &*self.clock,
            &self.boot,
            actor,
            action,
            details,
            key.map(str::to_owned),
        )
    }

    fn put(&self, draft: Draft, written: Option<SyncSender<i64>>) {
        let mut slots = self.desk.lock();
        if slots.incoming.len() >= INCOMING || slots.ended {
            slots.dropped += 1;
            slots.status.dropped += 1;
            return;
        }
        slots.incoming.push_back(Item { draft, written });
        drop(slots);
        self.desk.to_clerk.notify_one();
    }
}

impl HotCopy for Audit {
    fn hand_over(&self, order: CopyOrder) {
        let mut slots = self.desk.lock();
        // Else it is dropped: nobody would carry it out.
        if !slots.ended && !slots.stop {
            slots.copies.push_back(order);
            drop(slots);
            self.desk.to_clerk.notify_one();
        }
    }
}

/// The details with what ties the two entries of an action together.
fn with(phase: &str, id: &str, details: Value) -> Value {
    let mut map = Map::new();
    map.insert("phase".to_owned(), phase.into());
    map.insert("id".to_owned(), id.into());
    match details {
        Value::Object(more) => map.extend(more),
        Value::Null => {}
        other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            map.insert("details".to_owned(), other);
        }
    }
    Value::Object(map)
}

impl Clerk {
    /// Writes what it may, and ends. What cannot be written stays in the spool.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.desk.lock().stop = true;
        self.desk.to_clerk.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the audit log's thread panicked");
        }
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        self.end();
    }
}
