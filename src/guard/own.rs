//! The agent's own store, as the plan sees it.
//!
//! Guarding starts before the store is open; until then there is nothing of ours to make durable.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::store::{Mode, OrderError, Orders, StoreState};

use super::databases::{DatabaseView, GuardedDatabase};

/// The store's place in the order of databases.
const PRIORITY: i32 = 100;
/// An early checkpoint is not waited for longer than this; it goes on by itself.
const EARLY: Duration = Duration::from_millis(200);

/// Where the agent leaves the store's orders once it is open.
pub type StoreSlot = Arc<OnceLock<Orders>>;

/// See the module's text.
#[derive(Debug)]
pub struct OwnStore {
    path: String,
    name: String,
    slot: StoreSlot,
}

impl OwnStore {
    /// The store at `path`; its orders will be in `slot`.
    pub fn new(path: &std::path::Path, slot: StoreSlot) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self { path: path.display().to_string(), name, slot }
    }
}

impl GuardedDatabase for OwnStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn priority(&self) -> i32 {
        PRIORITY
    }

    fn frames(&self) -> u32 {
        self.slot.get().map_or(0, |o| o.stats().wal_frames)
    }

    fn settle(&mut self) {
        if let Some(orders) = self.slot.get() {
            orders.settle();
        }
    }

    fn commit(&mut self, left: Duration) -> Result<(), String> {
        match self.slot.get().map(|o| o.commit_in_flight(left)) {
            None | Some(Ok(_)) => Ok(()),
            // A store that has stopped acknowledges nothing, so nothing of it is outstanding.
            Some(Err(OrderError::Failed)) => Ok(()),
            Some(Err(e @ OrderError::Timeout)) => Err(e.to_string()),
        }
    }

    fn checkpoint(&mut self, left: Duration) -> Result<u32, String> {
        match self.slot.get().map(|o| o.checkpoint(Mode::Truncate, left)) {
            None => Ok(0),
            Some(Ok(report)) if report.complete() => Ok(report.wal_frames),
            Some(Ok(report)) => Err(format!(
                "a reader holds {} of {} frames back",
                report.wal_frames - report.backfilled,
                report.wal_frames
            )),
            Some(Err(e)) => Err(e.to_string()),
        }
    }

    fn checkpoint_early(&mut self) {
        if let Some(orders) = self.slot.get()
            && let Err(e) = orders.checkpoint(Mode::Passive, EARLY)
        {
            log::info!("early checkpoint of {}: {e}", self.name);
        }
    }

    fn release(&mut self) {
        if let Some(orders) = self.slot.get() {
            orders.retry_now();
        }
    }

    fn view(&self) -> DatabaseView {
        let stats = self.slot.get().map(Orders::stats);
        DatabaseView {
            path: self.path.clone(),
            role: "own",
            priority: PRIORITY,
            wal_frames: stats.as_ref().map(|s| s.wal_frames),
            state: match stats.map(|s| s.state) {
                None => "not open yet".to_owned(),
                Some(StoreState::Running) => "running".to_owned(),
                Some(StoreState::DiskFull) => "the medium is full".to_owned(),
                Some(StoreState::Failed(why)) => format!("failed: {why}"),
                Some(StoreState::Stopped) => "stopped".to_owned(),
            },
        }
    }
}
