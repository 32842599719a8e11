//! Takes snapshots of the agent's own databases now and then, for recovery.
//!
//! It promises that power goes first: none is begun unless power is good, one that is being taken
//! waits through a brownout and is given up when power fails. The interval runs on the monotonic
//! clock, so a wall clock that is put back delays nothing. What it says, it says from memory.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backup::snapshot::{Keep, Shelf, SnapshotError, SnapshotManifest, SnapshotSite, take};
use crate::clock::{Clock, Mono};
use crate::config::Settings;
use crate::durable::{CopyError, Gate, Heed, HotCopy, Medium, enter};
use crate::guard::Shared;
use crate::power::State;
use crate::queue::{self, QueueDesk, QueueState};
use crate::store::{self, Orders, StoreState};

use super::AgentError;
use super::background::Background;
use super::costs::lock;
use super::damage::Known;
use super::explain;
use super::quiet::Quiet;

/// Between those of an open store that has no name any more.
const NAMELESS: Duration = Duration::from_secs(60);
/// What its thread is for.
const WHAT: &str = "snapshots";
/// How often it looks at the state of power and disk.
const LOOK: Duration = Duration::from_secs(1);
/// A missed one is made up this long after the start, or after a tenth of the interval.
const AFTER_START: Duration = Duration::from_secs(300);
/// Where nobody can tell how old the newest one is.
const UNKNOWN_AGE: Duration = Duration::from_secs(3600);
/// After one that was not taken, or after a tenth of the interval.
const AGAIN: Duration = Duration::from_secs(1800);

/// What `holdup status --json` says of snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// `off`, `waiting`, `held_off` or `taking`.
    pub state: String,
    /// Why the next one is held off although it is due.
    pub held_off: Option<String>,
    /// Why the last one was not taken; `null` when it was.
    pub problem: Option<String>,
    /// Seconds until the next one is due.
    pub next_in_s: Option<u64>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// The newest one of each database.
    pub newest: Vec<NewestSnapshot>,
}

/// The newest snapshot of one database; it was verified, as all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewestSnapshot {
    /// The database's file name.
    pub database: String,
    /// The snapshot's.
    pub archive: String,
    /// When it was taken, by the wall clock of then.
    pub taken_at: String,
    /// Rows in it.
    pub rows: u64,
    /// The highest id of its readings.
    pub highest_id: Option<i64>,
    /// How many snapshots of this database there are.
    pub kept: usize,
}

impl SnapshotStatus {
    /// `waiting, next in 3600 s; edge_store.db: 3 kept, newest of TIME with 900 rows`
    pub fn in_words(&self) -> String {
        let mut words = self.state.clone();
        if let Some(s) = self.next_in_s {
            words.push_str(&format!(", next in {s} s"));
        }
        if let Some(why) = &self.held_off {
            words.push_str(&format!(": {why}"));
        }
        for n in &self.newest {
            words.push_str(&format!(
                "; {}: {} kept, newest of {} with {} rows",
                n.database, n.kept, n.taken_at, n.rows
            ));
        }
        if let Some(why) = &self.problem {
            words.push_str(&format!("; NOT TAKEN: {why}"));
        }
        words
    }
}

/// What the snapshots say of themselves, shared with the status.
pub(super) type SnapshotsSeen = Arc<Mutex<SnapshotStatus>>;

/// What it works with.
pub(super) struct Means {
    pub(super) settings: Settings,
    pub(super) orders: Orders,
    pub(super) queue: QueueDesk,
    pub(super) shared: Arc<Shared>,
    pub(super) medium: Arc<Medium>,
    pub(super) gate: Arc<Gate>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seen: SnapshotsSeen,
    pub(super) known: Known,
    pub(super) quiet: Quiet,
}

/// Starts the thread; where none are wanted, none.
pub(super) fn start(means: Means) -> Result<Background, AgentError> {
    let Some(every) = means.settings.snapshot.every else {
        lock(&means.seen).state = "off".to_owned();
        return Ok(Background::idle(WHAT));
    };
    let stop = Arc::new(AtomicBool::new(false));
    let worker = Worker {
        means,
        every,
        stop: Arc::clone(&stop),
    };
    Background::start("holdup-snap", WHAT, vec![stop], move || worker.run())
}

struct Worker {
    means: Means,
    every: Duration,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn run(self) {
        let clock = &self.means.clock;
        self.sweep();
        self.publish();
        let mut due = clock.mono() + self.first();
        let (mut full, mut hurried) = (false, false);
        while !self.stop.load(Ordering::Relaxed) {
            let held_off = self.held_off();
            self.say(due, held_off);
            let left = due.since(clock.mono());
            let nap = if held_off.is_some() {
                LOOK
            } else {
                LOOK.min(left)
            };
            std::thread::park_timeout(nap);
            let now_full = self.means.orders.stats().state == StoreState::DiskFull;
            full = now_full && (full || self.give_room());
            let nameless = self.means.known.is_nameless();
            if nameless && !hurried {
                due = clock.mono();
                hurried = true;
            }
            if clock.mono() < due || self.held_off().is_some() {
                continue;
            }
            lock(&self.means.seen).state = "taking".to_owned();
            let taken = self.take_all();
            let next = if taken { self.interval() } else { self.again() };
            due = clock.mono() + if nameless { next.min(NAMELESS) } else { next };
            self.publish();
        }
    }

    /// When the first one is due: a missed one is made up.
    fn first(&self) -> Duration {
        let newest = self
            .lists()
            .into_iter()
            .filter_map(|(_, all)| all.into_iter().next());
        let taken = newest.map(|m| m.taken_ms).max();
        let now = self.means.clock.wall().as_millis();
        first_due(self.every, taken.map(|at| now.saturating_sub(at)))
    }

    /// A tenth more or less, so that many gateways do not keep step.
    fn interval(&self) -> Duration {
        let mut byte = [128_u8];
        // Without it they keep step.
        rustix::rand::getrandom(&mut byte[..], rustix::rand::GetRandomFlags::empty()).ok();
        let tenth = self.every / 10;
        self.every - tenth + tenth * 2 * u32::from(byte[0]) / 255
    }

    fn again(&self) -> Duration {
        AGAIN.min(self.every / 10).max(LOOK)
    }

    /// Why none may be begun now.
    fn held_off(&self) -> Option<&'static str> {
        match heed(&self.means.shared.published().state) {
            Heed::Go => {}
            Heed::Wait => return Some("power is not steady"),
            Heed::GiveUp(why) => return Some(why),
        }
        match self.means.orders.stats().state {
            StoreState::Running => None,
            StoreState::DiskFull => Some("the disk is full"),
            StoreState::Starting | StoreState::Failed(_) | StoreState::Stopped => {
                Some("the store is not open")
            }
        }
    }

    fn say(&self, due: Mono, held_off: Option<&'static str>) {
        let left = due.since(self.means.clock.mono());
        let held_off = held_off.filter(|_| left.is_zero());
        let mut seen = lock(&self.means.seen);
        seen.state = if held_off.is_some() {
            "held_off"
        } else {
            "waiting"
        }
        .to_owned();
        seen.held_off = held_off.map(str::to_owned);
        seen.next_in_s = Some(left.as_secs());
    }

    /// Of the databases that can be copied now; false where one was not taken.
    fn take_all(&self) -> bool {
        let Some(_busy) = self.means.quiet.enter() else {
            return false;
        };
        let gateway = &self.means.settings.gateway;
        let mut problem = None;
        let store: (PathBuf, &dyn HotCopy) = (gateway.store_path(), &self.means.orders);
        let queue: (PathBuf, &dyn HotCopy) = (gateway.queue_path(), &self.means.queue);
        let open = matches!(
            self.means.queue.stats().state,
            QueueState::Running | QueueState::Full
        );
        for (path, source) in [Some(store), Some(queue).filter(|_| open)]
            .into_iter()
            .flatten()
        {
            match self.take(&path, source) {
                Ok(m) => log::info!(
                    "snapshot {}: {} rows, {} bytes, {} ms",
                    m.archive,
                    m.rows_sent(),
                    m.bytes,
                    m.took_ms
                ),
                // Power comes first, and the next one makes up for it.
                Err(SnapshotError::Copy(e @ (CopyError::Stopped | CopyError::GivenUp(_)))) => {
                    log::info!("no snapshot of {}: {e}", path.display());
                    return false;
                }
                Err(e @ SnapshotError::Faulty { .. }) => {
                    let why = explain(&e);
                    let means = &self.means;
                    (means.known).suspect(&path, &why, &means.medium, &means.gate);
                    let remedy = if path == gateway.queue_path() {
                        queue::REMEDY
                    } else {
                        store::REMEDY
                    };
                    problem = Some(format!("{why}: {remedy}"));
                }
                Err(e) => problem = Some(explain(&e)),
            }
        }
        let mut seen = lock(&self.means.seen);
        if let Some(why) = &problem
            && seen.problem.as_ref() != Some(why)
            && !self.stop.load(Ordering::Relaxed)
        {
            log::error!("no snapshot was taken: {why}");
        }
        seen.problem = problem;
        seen.problem.is_none()
    }

    fn take(
        &self,
        path: &std::path::Path,
        source: &dyn HotCopy,
    ) -> Result<SnapshotManifest, SnapshotError> {
        let settings = self.means.settings.snapshot;
        let shared = &self.means.shared;
        take(
            path,
            source,
            &SnapshotSite {
                dir: &self.means.settings.gateway.snapshots_path(),
                medium: &self.means.medium,
                gate: &self.means.gate,
                stop: &self.stop,
                clock: &*self.means.clock,
                heed: &|| heed(&shared.published().state),
                keep: Keep {
                    count: settings.keep,
                    age: settings.keep_age,
                },
                share_percent: settings.share_percent,
            },
        )
    }

    /// Removes what an earlier agent had begun.
    fn sweep(&self) {
        let gateway = &self.means.settings.gateway;
        let Ok(_pass) = enter(&self.means.gate, &self.stop) else {
            return;
        };
        for path in [gateway.store_path(), gateway.queue_path()] {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let dir = gateway.snapshots_path();
            let shelf = Shelf {
                dir: &dir,
                medium: &self.means.medium,
            };
            if let Err(e) = shelf.sweep(&name) {
                log::warn!("what is left of a snapshot stays: {}", explain(&e));
            }
        }
    }

    /// The disk is full: all but the newest of each database go, before anything else does. False
    /// while nothing may be written.
    fn give_room(&self) -> bool {
        let Some(_busy) = self.means.quiet.enter() else {
            return false;
        };
        let gateway = &self.means.settings.gateway;
        let dir = gateway.snapshots_path();
        let shelf = Shelf {
            dir: &dir,
            medium: &self.means.medium,
        };
        let one = Keep {
            count: 1,
            age: None,
        };
        let Some(_pass) = self.means.gate.try_enter() else {
            return false;
        };
        for (name, all) in self.lists() {
            if all.len() < 2 {
                continue;
            }
            match shelf.prune(&name, one, self.means.clock.wall()) {
                Ok(n) => log::warn!("the disk is full: {n} older snapshots of {name} were removed"),
                Err(e) => log::error!("snapshots cannot be removed: {}", explain(&e)),
            }
        }
        self.means.orders.retry_now();
        self.publish();
        true
    }

    /// The snapshots of each database.
    fn lists(&self) -> Vec<(String, Vec<SnapshotManifest>)> {
        let gateway = &self.means.settings.gateway;
        let dir = gateway.snapshots_path();
        let shelf = Shelf {
            dir: &dir,
            medium: &self.means.medium,
        };
        let mut lists = Vec::new();
        for path in [gateway.store_path(), gateway.queue_path()] {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let listed = shelf.list(&name, &mut |e| log::warn!("{}", explain(&e)));
            let all = listed.unwrap_or_else(|e| {
                log::warn!("{}", explain(&e));
                Vec::new()
            });
            lists.push((name, all));
        }
        lists
    }

    fn publish(&self) {
        let gateway = &self.means.settings.gateway;
        let newest = self.lists().into_iter().filter_map(|(database, all)| {
            let kept = all.len();
            all.into_iter().next().map(|m| NewestSnapshot {
                database,
                rows: m.rows_sent(),
                archive: m.archive,
                taken_at: m.taken_at,
                highest_id: m.highest_id,
                kept,
            })
        });
        let newest: Vec<_> = newest.collect();
        let dir = gateway.snapshots_path();
        let shelf = Shelf {
            dir: &dir,
            medium: &self.means.medium,
        };
        let bytes = shelf.bytes().unwrap_or(0);
        let mut seen = lock(&self.means.seen);
        (seen.newest, seen.bytes) = (newest, bytes);
    }
}

/// How long after the start the first one is due, where the newest is `age` ms old.
fn first_due(every: Duration, age: Option<i64>) -> Duration {
    let soon = AFTER_START.min(every / 10);
    match age.map(u64::try_from) {
        None => soon,
        Some(Ok(age)) => every.saturating_sub(Duration::from_millis(age)).max(soon),
        // The clock was put back, or nobody has set it yet.
        Some(Err(_)) => UNKNOWN_AGE.min(every),
    }
}

/// What power asks of a snapshot.
fn heed(state: &State) -> Heed {
    match state {
        State::Good => Heed::Go,
        State::Starting
        | State::Brownout
        | State::Suspect { .. }
        | State::Resuming { .. }
        | State::Rehearsing { .. } => Heed::Wait,
        State::OnBattery { .. } => Heed::GiveUp("the gateway runs on its battery"),
        State::Failing { .. } | State::Parked { .. } | State::Stopping | State::Off => {
            Heed::GiveUp("power fails, or the agent stops")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn a_missed_one_is_made_up_soon_after_the_start_and_one_that_is_not_due_waits_its_time() {
        assert_eq!(first_due(DAY, None), AFTER_START);
        assert_eq!(first_due(DAY, Some(24 * HOUR_MS)), AFTER_START);
        assert_eq!(first_due(DAY, Some(i64::MAX)), AFTER_START);
        assert_eq!(first_due(DAY, Some(20 * HOUR_MS)), DAY / 6);
        assert_eq!(first_due(DAY, Some(0)), DAY);
    }

    #[test]
    fn a_clock_that_is_put_back_puts_nothing_off_for_longer_than_an_hour() {
        assert_eq!(first_due(DAY, Some(-1)), UNKNOWN_AGE);
        assert_eq!(first_due(DAY, Some(i64::MIN)), UNKNOWN_AGE);
        let short = Duration::from_secs(60);
        assert_eq!(first_due(short, Some(-1)), short);
    }

    #[test]
    fn power_goes_first() {
        assert_eq!(heed(&State::Good), Heed::Go);
        for waits in [State::Starting, State::Brownout] {
            assert_eq!(heed(&waits), Heed::Wait, "{waits:?}");
        }
        for ends in [State::Stopping, State::Off] {
            assert!(matches!(heed(&ends), Heed::GiveUp(_)), "{ends:?}");
        }
    }
}
