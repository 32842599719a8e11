//! Connects the queue to the rest: the plan's view of it, what status says, and its start behind
//! the store. Whatever is wrong with it, the store and the agent go on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::config::Settings;
use crate::durable::{Gate, Medium};
use crate::guard::Writer;
use crate::queue::{self, Queue, QueueDesk, QueueOptions, QueueStats};
use crate::store::{CheckpointReport, Mode, OrderError, Orders, StoreError};

use super::explain;

/// Beside the queue, beside what every database has; a rebuild's own.
pub(super) const BESIDE: [&str; 12] = [
    "-suspect",
    "-shm",
    "-swap",
    "-swap.new",
    "-rebuilt",
    "-rebuilt-wal",
    "-rebuilt-shm",
    "-rebuilt-journal",
    "-salvaged",
    "-salvaged-wal",
    "-salvaged-shm",
    "-salvaged-journal",
];

/// What `holdup status --json` says of the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// `off`, `starting`, `running`, `full`, `disk_full`, `waiting`, `failed` or `stopped`.
    pub state: String,
    /// Why it is not well.
    pub problem: Option<String>,
    /// Messages that wait.
    pub depth: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
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
    /// Dead letters that are kept.
    pub dead: u64,
    /// Readings that found another message under their id, since the start.
    pub conflicts: u64,
    /// Seconds for which attempts have failed without one confirmation while it grew.
    pub retry_loop_s: Option<u64>,
    /// Frames in its WAL that are not in the database yet.
    pub wal_frames: u32,
}

impl From<QueueStats> for QueueStatus {
    fn from(s: QueueStats) -> Self {
        Self {
            state: s.state.name().to_owned(),
            problem: s.state.problem().map(str::to_owned),
            depth: s.depth,
            bytes: s.bytes,
            fed_upto: s.fed_upto,
            delivered_upto: s.delivered_upto,
            confirmed: s.confirmed,
            retries: s.retries,
            dropped: s.dropped,
            rejected: s.rejected,
            dead: s.dead,
            conflicts: s.conflicts,
            retry_loop_s: s.retry_loop.map(|t| t.as_secs()),
            wal_frames: s.wal_frames,
        }
    }
}

/// The queue as the plan sees it.
impl Writer for QueueDesk {
    /// Behind the store.
    const PRIORITY: i32 = 90;

    fn words(e: OrderError) -> String {
        match e {
            OrderError::Timeout => "the queue did not answer in time",
            OrderError::Failed => "the queue has failed or stopped",
        }
        .to_owned()
    }

    fn frames(&self) -> u32 {
        Self::frames(self)
    }

    /// Nobody was promised anything by it: its readings are in the store.
    fn settle(&self) {}

    /// Each of its commits is synced, and none begins behind a closed gate.
    fn commit(&self, _left: Duration) -> Result<(), OrderError> {
        Ok(())
    }

    fn checkpoint(&self, mode: Mode, left: Duration) -> Result<CheckpointReport, OrderError> {
        Self::checkpoint(self, mode, left)
    }

    fn wait_idle(&self, patience: Duration) -> bool {
        Self::wait_idle(self, patience)
    }

    fn release(&self) {
        self.ring();
    }

    fn state(&self) -> String {
        in_words(&self.stats())
    }
}

/// The state, with its reason.
pub(super) fn in_words(stats: &QueueStats) -> String {
    let name = stats.state.name();
    stats
        .state
        .problem()
        .map_or_else(|| name.to_owned(), |why| format!("{name}: {why}"))
}

/// What the queue has given out already is not used again.
pub(super) fn keep_above(path: &Path, gate: &Gate, orders: &Orders) -> Result<(), StoreError> {
    let _pass = gate.try_enter().ok_or_else(|| StoreError::GateClosed {
        path: path.to_owned(),
    })?;
    match queue::mark(path) {
        Ok(Some(mark)) => orders.keep_above(mark.epoch, mark.highest),
        Ok(None) => {}
        Err(e) => log::warn!("the queue cannot say how far it had come: {}", explain(&e)),
    }
    Ok(())
}

/// Starts the queue behind the open store; one that is off is only looked after.
pub(super) fn start(
    settings: &Settings,
    desk: &QueueDesk,
    orders: Orders,
    medium: &Arc<Medium>,
    gate: &Arc<Gate>,
    clock: &Arc<dyn Clock>,
) -> Option<Queue> {
    let path = settings.gateway.queue_path();
    if !settings.queue.enabled {
        orders.deliver_nothing();
        if let Err(e) = queue::ensure(&path, medium, gate, &**clock) {
            log::warn!("the queue is off, and could not be used: {}", explain(&e));
        }
        return None;
    }
    let started = Queue::start(QueueOptions {
        desk: desk.clone(),
        settings: settings.queue,
        gateway: settings.gateway.id.clone(),
        path,
        store: settings.gateway.store_path(),
        orders,
        medium: Arc::clone(medium),
        gate: Arc::clone(gate),
        clock: Arc::clone(clock),
    });
    started.inspect_err(|e| log::error!("{}", explain(e))).ok()
}
