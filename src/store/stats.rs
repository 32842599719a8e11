//! Numbers that can be read at any time, also while the file system is frozen.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::schema::Book;

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// The database is not open yet.
    Starting,
    /// It takes and commits readings.
    Running,
    /// No room: readings wait in memory and are committed when there is.
    DiskFull,
    /// The medium or the database failed; nothing more is acknowledged. Says why.
    Failed(Arc<str>),
    /// It was told to stop.
    Stopped,
}

impl StoreState {
    /// As status spells it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::DiskFull => "disk_full",
            Self::Failed(_) => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// What the ledger, outside the database, says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerView {
    /// Ids up to this one are noted as acknowledged; `None`: nothing was noted yet.
    pub upto: Option<i64>,
    /// Ids, first and last, that were acknowledged and were missing when the store was opened.
    pub missing: Option<(i64, i64)>,
    /// Why it is of no use.
    pub problem: Option<String>,
}

/// A snapshot of the store's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStats {
    /// Readings acknowledged since the start, repeats included.
    pub acked: u64,
    /// Rows in the table.
    pub stored: u64,
    /// Readings acknowledged since the start that were there already.
    pub repeats: u64,
    /// The next reading's id.
    pub next_id: i64,
    /// The lowest id kept; `next_id` when there is none.
    pub lowest_id: i64,
    /// Frames of the write-ahead log that are not in the database yet.
    pub wal_frames: u32,
    /// Commits since the start.
    pub commits: u64,
    /// Rows removed by retention, ever.
    pub expired: u64,
    /// The store's random epoch.
    pub epoch: u64,
    /// How it is.
    pub state: StoreState,
    /// Bytes in use in the database, log not counted.
    pub bytes: u64,
    /// Bytes of readings in memory that wait for a commit.
    pub waiting_bytes: usize,
    /// Bytes kept back on the medium for a full disk.
    pub reserve_bytes: u64,
    /// SQLite found the database malformed; it is noted beside it, for the next start.
    pub suspect: bool,
    /// What the ledger says.
    pub ledger: LedgerView,
}

#[derive(Debug)]
pub(super) struct Stats {
    acked: AtomicU64,
    repeats: AtomicU64,
    commits: AtomicU64,
    stored: AtomicU64,
    next_id: AtomicI64,
    lowest_id: AtomicI64,
    expired: AtomicU64,
    epoch: AtomicU64,
    pub(super) wal_frames: AtomicU32,
    pub(super) bytes: AtomicU64,
    pub(super) reserve: AtomicU64,
    pub(super) suspect: AtomicBool,
    state: Mutex<StoreState>,
    ledger: Mutex<LedgerView>,
}

impl Stats {
    pub(super) fn new() -> Self {
        Self {
            acked: AtomicU64::new(0),
            repeats: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            next_id: AtomicI64::new(1),
            lowest_id: AtomicI64::new(1),
            expired: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            wal_frames: AtomicU32::new(0),
            bytes: AtomicU64::new(0),
            reserve: AtomicU64::new(0),
            suspect: AtomicBool::new(false),
            state: Mutex::new(StoreState::Starting),
            ledger: Mutex::default(),
        }
    }

    pub(super) fn book(&self, book: &Book) {
        self.stored.store(book.stored(), Relaxed);
        self.next_id.store(book.next_id, Relaxed);
        self.lowest_id.store(book.lowest_id, Relaxed);
        self.expired.store(book.expired, Relaxed);
        self.epoch.store(book.epoch, Relaxed);
    }

    pub(super) fn committed(&self, acked: u64, repeats: u64) {
        self.acked.fetch_add(acked, Relaxed);
        self.repeats.fetch_add(repeats, Relaxed);
        self.commits.fetch_add(1, Relaxed);
    }

    pub(super) fn state(&self) -> StoreState {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// True when it changed.
    pub(super) fn set_state(&self, new: &StoreState) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *state != *new;
        if changed {
            *state = new.clone();
        }
        changed
    }

    /// Changes what is said of the ledger.
    pub(super) fn ledger<T>(&self, change: impl FnOnce(&mut LedgerView) -> T) -> T {
        change(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn snapshot(&self, waiting_bytes: usize) -> StoreStats {
        StoreStats {
            acked: self.acked.load(Relaxed),
            stored: self.stored.load(Relaxed),
            repeats: self.repeats.load(Relaxed),
            next_id: self.next_id.load(Relaxed),
            lowest_id: self.lowest_id.load(Relaxed),
            wal_frames: self.wal_frames.load(Relaxed),
            commits: self.commits.load(Relaxed),
            expired: self.expired.load(Relaxed),
            epoch: self.epoch.load(Relaxed),
            state: self.state(),
            bytes: self.bytes.load(Relaxed),
            waiting_bytes,
            reserve_bytes: self.reserve.load(Relaxed),
            suspect: self.suspect.load(Relaxed),
            ledger: (self.ledger.lock())
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}
