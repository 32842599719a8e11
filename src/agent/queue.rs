//! Connects the queue to the rest: the plan's view of it, what status says, and its start behind
//! the store. Whatever is wrong with it, the store and the agent go on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::config::Settings;
use crate::durable::{Gate, Medium};
use crate::guard::{DatabaseView, GuardedDatabase};
use crate::queue::{self, Queue, QueueDesk, QueueOptions, QueueStats};
use crate::store::{Mode, OrderError, Orders, StoreError};

use super::explain;

/// The queue's place in the order of databases: behind the store.
const PRIORITY: i32 = 90;

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
#[derive(Debug)]
pub(super) struct OwnQueue {
    path: String,
    name: String,
    desk: QueueDesk,
}

impl OwnQueue {
    pub(super) fn new(path: &Path, desk: QueueDesk) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str());
        Self {
            path: path.display().to_string(),
            name: name.to_string_lossy().into_owned(),
            desk,
        }
    }
}

impl GuardedDatabase for OwnQueue {
    fn name(&self) -> &str {
        &self.name
    }

    fn priority(&self) -> i32 {
        PRIORITY
    }

    fn frames(&self) -> u32 {
        self.desk.frames()
    }

    /// Nobody was promised anything by it: its readings are in the store.
    fn settle(&mut self) {}

    /// Each of its commits is synced, and none begins behind a closed gate.
    fn commit(&mut self, _left: Duration) -> Result<(), String> {
        Ok(())
    }

    fn checkpoint(&mut self, left: Duration) -> Result<u32, String> {
        let report = self
            .desk
            .checkpoint(Mode::Truncate, left)
            .map_err(|e| match e {
                OrderError::Timeout => "the queue did not answer in time".to_owned(),
                OrderError::Failed => "the queue has failed or stopped".to_owned(),
            })?;
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
        self.desk.wait_idle(patience)
    }

    fn checkpoint_early(&mut self) {
        // Only left with its thread; how it went shows in the frames.
        if let Err(e @ OrderError::Failed) = self.desk.checkpoint(Mode::Passive, Duration::ZERO) {
            log::info!("early checkpoint of {}: {e}", self.name);
        }
    }

    fn inspect(&mut self, _hurry: &dyn Fn() -> bool) {}

    fn release(&mut self) {
        self.desk.ring();
    }

    fn view(&self) -> DatabaseView {
        let stats = self.desk.stats();
        DatabaseView {
            path: self.path.clone(),
            role: "own",
            priority: PRIORITY,
            wal_frames: Some(stats.wal_frames),
            problem: false,
            other_writers: false,
            state: in_words(&stats),
        }
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

/// Before the store is opened: what the queue has given out already is not used again.
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
