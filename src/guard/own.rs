//! The agent's own store, as the plan sees it.
//!
//! Guarding starts before the store is open; until then there is nothing of ours to make durable.

use std::path::Path;
use std::time::Duration;

use crate::store::{Mode, OrderError, Orders, StoreState};

use super::databases::{DatabaseView, GuardedDatabase};

/// The store's place in the order of databases.
const PRIORITY: i32 = 100;

/// See the module's text.
#[derive(Debug)]
pub struct OwnStore {
    path: String,
    name: String,
    orders: Orders,
}

impl OwnStore {
    /// The store at `path`, which takes `orders`.
    pub fn new(path: &Path, orders: Orders) -> Self {
        let name = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned();
        Self {
            path: path.display().to_string(),
            name,
            orders,
        }
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
        self.orders.stats().wal_frames
    }

    fn settle(&mut self) {
        self.orders.settle();
    }

    fn commit(&mut self, left: Duration) -> Result<(), String> {
        match self.orders.commit_in_flight(left) {
            // A store that has stopped acknowledges nothing, so nothing of it is outstanding.
            Ok(_) | Err(OrderError::Failed) => Ok(()),
            Err(e @ OrderError::Timeout) => Err(e.to_string()),
        }
    }

    fn checkpoint(&mut self, left: Duration) -> Result<u32, String> {
        let report = self
            .orders
            .checkpoint(Mode::Truncate, left)
            .map_err(|e| e.to_string())?;
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
        self.orders.wait_idle(patience)
    }

    fn checkpoint_early(&mut self) {
        // Only left with the writer: power often fails right after the brownout, and the plan
        // must not wait behind it. How it went shows in the WAL's frames.
        match self.orders.checkpoint(Mode::Passive, Duration::ZERO) {
            Ok(_) | Err(OrderError::Timeout) => {}
            Err(e @ OrderError::Failed) => log::info!("early checkpoint of {}: {e}", self.name),
        }
    }

    fn inspect(&mut self, _hurry: &dyn Fn() -> bool) {}

    fn release(&mut self) {
        self.orders.retry_now();
    }

    fn view(&self) -> DatabaseView {
        let stats = self.orders.stats();
        DatabaseView {
            path: self.path.clone(),
            role: "own",
            priority: PRIORITY,
            wal_frames: Some(stats.wal_frames),
            problem: false,
            other_writers: false,
            state: match stats.state {
                StoreState::Failed(ref why) => format!("failed: {why}"),
                StoreState::Starting
                | StoreState::Running
                | StoreState::DiskFull
                | StoreState::Stopped => stats.state.name().to_owned(),
            },
        }
    }
}
