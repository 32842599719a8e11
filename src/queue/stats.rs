//! The queue's numbers, readable at any time, also while the file system is frozen.

use std::sync::Arc;
use std::time::Duration;

/// How the queue is. It never says anything of the store: that serves on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum QueueState {
    /// `queue.enabled` is false.
    #[default]
    Off,
    /// It is not open yet.
    Starting,
    /// It takes messages.
    Running,
    /// It holds as much as the settings allow: readings wait in the store.
    Full,
    /// No room on the file system; it is tried again.
    DiskFull,
    /// Somebody else holds its lock, or it could not be used for another passing reason; it is
    /// tried again. Says why.
    Waiting(Arc<str>),
    /// It cannot be used. Says why, and what to do.
    Failed(Arc<str>),
    /// It was told to stop.
    Stopped,
}

impl QueueState {
    /// As status spells it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Full => "full",
            Self::DiskFull => "disk_full",
            Self::Waiting(_) => "waiting",
            Self::Failed(_) => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// Why it is not well, where it says so.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Waiting(why) | Self::Failed(why) => Some(why),
            Self::Off
            | Self::Starting
            | Self::Running
            | Self::Full
            | Self::DiskFull
            | Self::Stopped => None,
        }
    }
}

/// A snapshot of the queue's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// How it is.
    pub state: QueueState,
    /// Messages that wait, leased ones included.
    pub depth: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Dead letters that are kept.
    pub dead: u64,
    /// Readings up to this id have been queued.
    pub fed_upto: i64,
    /// Readings up to this id have left the queue.
    pub delivered_upto: i64,
    /// Messages confirmed, ever.
    pub confirmed: u64,
    /// Failed attempts, ever.
    pub retries: u64,
    /// Messages dropped because it was full, ever.
    pub dropped: u64,
    /// Messages refused since the start because it was full.
    pub rejected: u64,
    /// Messages that became dead letters, ever.
    pub died: u64,
    /// Readings whose message id another message had, since the start.
    pub conflicts: u64,
    /// For how long attempts have failed without one confirmation while it grew; `None`: no loop.
    pub retry_loop: Option<Duration>,
    /// Frames of its write-ahead log that are not in the database yet.
    pub wal_frames: u32,
}
