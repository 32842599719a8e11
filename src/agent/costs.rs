//! What steps cost on each card, kept across restarts, and the governor fed by it.
//!
//! Keyed by the card's CID: a new card starts from nothing instead of from its predecessor's
//! numbers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Mono;
use crate::config::Settings;
use crate::durable::{Gate, Medium, read_own};
use crate::guard::Shared;
use crate::power::{Budget, Others, Tail};
use crate::queue::{QueueDesk, WAL_LIMIT};
use crate::store::{Observer, Orders, StoreState};

/// Cards that are remembered.
const CARDS: usize = 8;
/// What changed by much is kept at most this often.
const AGAIN: Duration = Duration::from_secs(3600);
/// Their file is never longer.
const LARGEST: u64 = 1 << 20;
/// The governor's limit while riding on a battery: the WAL is kept nearly empty.
const RIDING_FRAMES: u32 = 16;
/// A frame of the WAL.
const FRAME_BYTES: u64 = 4096 + 24;
/// Without a measured hold-up time the WAL is kept at this size.
const UNMEASURED_FRAMES: u32 = 500;

use super::reporter::Pauses;

type Counts = Vec<(u8, u32)>;

#[derive(Debug, Default, Serialize, Deserialize)]
struct CardCosts {
    commit: Counts,
    /// Files of older versions have none.
    #[serde(default)]
    still: Counts,
    checkpoint: Counts,
    frame: Counts,
    #[serde(default)]
    other: Counts,
    #[serde(default)]
    block: Counts,
    mark: Counts,
    write_back: Counts,
}

#[derive(Debug, Serialize, Deserialize)]
struct CostsFile {
    version: u32,
    cards: BTreeMap<String, CardCosts>,
}

/// The costs' file, and which card this is.
#[derive(Debug)]
pub(super) struct CostsKeeper {
    path: PathBuf,
    card: String,
    file: CostsFile,
    kept: Option<Kept>,
}

/// What the file says of this card, or would say if it could be written.
#[derive(Debug, Clone, Copy)]
struct Kept {
    at: Mono,
    /// What the plan takes by it.
    predicted: Duration,
}

impl CostsKeeper {
    /// Reads what is known about the card under `data_dir`. A file that cannot be read is
    /// nothing known: it is learned again.
    pub(super) fn open(data_dir: &Path, now: Mono) -> (Self, Budget) {
        let path = data_dir.join("costs.json");
        let card = card_id(data_dir);
        let file = read_own(&path, LARGEST)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<CostsFile>(&bytes).ok())
            .filter(|f| f.version == 1)
            .unwrap_or(CostsFile {
                version: 1,
                cards: BTreeMap::new(),
            });
        let budget = file
            .cards
            .get(&card)
            .map_or_else(Budget::default, |c| Budget {
                commit: Tail::restore(c.commit.iter().copied()),
                still: Tail::restore(c.still.iter().copied()),
                checkpoint: Tail::restore(c.checkpoint.iter().copied()),
                frame: Tail::restore(c.frame.iter().copied()),
                other: Tail::restore(c.other.iter().copied()),
                block: Tail::restore(c.block.iter().copied()),
                mark: Tail::restore(c.mark.iter().copied()),
                write_back: Tail::restore(c.write_back.iter().copied()),
            });
        let kept = budget.is_calibrated().then(|| Kept {
            at: now,
            predicted: predicted(&budget),
        });
        let keeper = Self {
            path,
            card,
            file,
            kept,
        };
        (keeper, budget)
    }

    /// The card, for status.
    pub(super) fn card(&self) -> &str {
        &self.card
    }

    /// Keeps what was learned when it is worth a write: soon after the first full measurement,
    /// which an agent that dies would take with it, and when the plan's time changed by a quarter.
    pub(super) fn keep_if_due(
        &mut self,
        budget: &Mutex<Budget>,
        gate: &Gate,
        medium: &Medium,
        now: Mono,
    ) {
        let known = {
            let b = lock(budget);
            b.is_calibrated().then(|| predicted(&b))
        };
        let (Some(new), kept) = (known, self.kept) else {
            return;
        };
        let due = kept.is_none_or(|k| {
            now.since(k.at) >= AGAIN && new.abs_diff(k.predicted) > k.predicted / 4
        });
        if due {
            self.keep(budget, gate, medium, now);
        }
    }

    /// Keeps what was learned, if the gate is open.
    pub(super) fn keep(&mut self, budget: &Mutex<Budget>, gate: &Gate, medium: &Medium, now: Mono) {
        let Some(_pass) = gate.try_enter() else {
            return;
        };
        let costs = {
            let b = lock(budget);
            // A write that fails is not tried again before the next is due.
            self.kept = b.is_calibrated().then(|| Kept {
                at: now,
                predicted: predicted(&b),
            });
            CardCosts {
                commit: b.commit.counts().collect(),
                still: b.still.counts().collect(),
                checkpoint: b.checkpoint.counts().collect(),
                frame: b.frame.counts().collect(),
                other: b.other.counts().collect(),
                block: b.block.counts().collect(),
                mark: b.mark.counts().collect(),
                write_back: b.write_back.counts().collect(),
            }
        };
        self.file.cards.insert(self.card.clone(), costs);
        while self.file.cards.len() > CARDS {
            let other = self.file.cards.keys().find(|k| **k != self.card).cloned();
            let Some(other) = other else { break };
            self.file.cards.remove(&other);
        }
        let written = serde_json::to_vec(&self.file)
            .map_err(|e| e.to_string())
            .and_then(|bytes| {
                medium
                    .replace(&self.path, &bytes)
                    .map_err(|e| super::explain(&e))
            });
        if let Err(e) = written {
            log::warn!("what was learned about the card is not kept: {e}");
        }
    }
}

/// What stands for all that was learned: the plan with one guarded database and 1 MiB in its log.
fn predicted(budget: &Budget) -> Duration {
    budget.predict(0, Others::with(1, 1 << 20)).0
}

/// The CID of the card under `dir`, or the device's number where it has none.
fn card_id(dir: &Path) -> String {
    let Ok(meta) = fs::metadata(dir) else {
        return "unknown".to_owned();
    };
    let dev = meta.dev();
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let node = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // The partition's own directory lies inside the disk's.
    [
        "device/cid",
        "../device/cid",
        "device/serial",
        "../device/serial",
    ]
    .iter()
    .find_map(|p| fs::read_to_string(node.join(p)).ok())
    .map_or_else(
        || format!("dev-{major}:{minor}"),
        |cid| cid.trim().to_owned(),
    )
}

/// Turns every commit and checkpoint into knowledge, and knowledge into a limit for the WAL.
#[derive(Debug)]
pub(super) struct Governor {
    pub(super) budget: Arc<Mutex<Budget>>,
    pub(super) orders: Orders,
    pub(super) queue: QueueDesk,
    pub(super) shared: Arc<Shared>,
    pub(super) guarded: u32,
    pub(super) pauses: Arc<Pauses>,
}

impl Governor {
    /// Sets the limit that today's knowledge allows.
    pub(super) fn govern(&self) {
        let settings = self.shared.published().settings;
        let limit = match settings.holdup {
            _ if self.shared.is_riding() => RIDING_FRAMES,
            None => UNMEASURED_FRAMES,
            Some(holdup) => {
                let allowed = (holdup / 2).saturating_sub(settings.glitch);
                lock(&self.budget).wal_limit(allowed, self.guarded)
            }
        };
        // On a full disk the log goes into the room kept back.
        let room = self.orders.stats().reserve_bytes / FRAME_BYTES;
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let limit = if room == 0 { limit } else { limit.min(room) };
        self.orders.set_wal_limit(limit.max(RIDING_FRAMES));
        self.queue
            .set_wal_limit(limit.clamp(RIDING_FRAMES, WAL_LIMIT));
    }
}

impl Observer for Governor {
    fn committed(&self, took: Duration, rows: usize, _wal_frames: u32) {
        lock(&self.budget).commit.note(took);
        if rows > 0 {
            self.queue.ring();
        }
    }

    fn checkpointed(&self, took: Duration, frames: u32) {
        lock(&self.budget).note_checkpoint(took, frames);
        self.govern();
    }

    fn state(&self, _state: StoreState) {
        self.pauses.update();
        // The service manager starts the agent again, and that recovers it.
        if self.orders.stats().suspect {
            self.shared.stop();
        }
    }
}

pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How many of the settings' databases are other people's.
pub(super) fn guarded(settings: &Settings) -> u32 {
    u32::try_from(settings.databases.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Closer;

    #[test]
    fn what_was_learned_is_kept_after_the_first_full_measurement_and_then_when_it_changed_by_much()
    {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("medium");
        let gate = Gate::new();
        let file = home.path().join("costs.json");
        let at = |s| Mono::default() + Duration::from_secs(s);
        let (mut keeper, budget) = CostsKeeper::open(home.path(), at(0));
        let budget = Mutex::new(budget);
        let ms = Duration::from_millis;
        lock(&budget).commit.note(ms(5));
        lock(&budget).mark.note(ms(5));
        keeper.keep_if_due(&budget, &gate, &medium, at(2));
        assert!(!file.exists(), "no checkpoint was timed yet");
        lock(&budget).note_checkpoint(ms(5), 1);
        gate.close(Closer::Power);
        keeper.keep_if_due(&budget, &gate, &medium, at(4));
        assert!(
            !file.exists(),
            "nothing is written while the gate is closed"
        );
        gate.open(Closer::Power);
        keeper.keep_if_due(&budget, &gate, &medium, at(6));
        let known = |now| CostsKeeper::open(home.path(), now).1.is_calibrated();
        assert!(known(at(6)), "an agent that dies now has left it");

        let inode = || fs::metadata(&file).expect("metadata").ino();
        let first = inode();
        keeper.keep_if_due(&budget, &gate, &medium, at(100_000));
        assert_eq!(inode(), first, "nothing changed, nothing is written");
        lock(&budget).commit.note(ms(500));
        keeper.keep_if_due(&budget, &gate, &medium, at(3600));
        assert_eq!(inode(), first, "at most hourly");
        keeper.keep_if_due(&budget, &gate, &medium, at(3606));
        assert_ne!(inode(), first, "changed by much");
    }

    #[test]
    fn a_file_of_an_older_version_has_no_stillings_and_keeps_the_rest() {
        let old = r#"{"version":1,"cards":{"c":{"commit":[[9,4]],"checkpoint":[],"frame":[],
            "mark":[[8,1]],"write_back":[]}}}"#;
        let file: CostsFile = serde_json::from_str(old).expect("read");
        let card = &file.cards["c"];
        assert_eq!((card.commit.len(), card.still.len()), (1, 0));
    }

    #[test]
    fn the_log_never_grows_larger_than_the_room_kept_back_for_it() {
        use crate::clock::SystemClock;
        use crate::config::StoreSettings;
        use crate::durable::Reserve;
        use crate::store::{Desk, Store, StoreOptions};

        struct Deaf;
        impl Observer for Deaf {
            fn committed(&self, _: Duration, _: usize, _: u32) {}
            fn checkpointed(&self, _: Duration, _: u32) {}
            fn state(&self, _: StoreState) {}
        }

        let home = tempfile::tempdir().expect("temp dir");
        let site = home.path().join("holdup.toml");
        let medium = Arc::new(Medium::open(home.path()).expect("medium"));
        medium
            .replace(&site, b"[power]\nboard = \"sim\"\n")
            .expect("config");
        let settings = crate::config::load(&site).expect("load").settings;
        for (reserve, limit) in [
            (1 << 20, 254),
            (0, UNMEASURED_FRAMES),
            (8240, RIDING_FRAMES),
        ] {
            let desk = Desk::new();
            let store = Store::start(StoreOptions {
                desk: desk.clone(),
                settings: StoreSettings {
                    reserve,
                    ..settings.store
                },
                path: home.path().join(format!("{reserve}.db")),
                ledger: home.path().join(format!("{reserve}.ledger")),
                medium: Arc::clone(&medium),
                gate: Arc::new(Gate::new()),
                reserve: Arc::new(Reserve::new(&home.path().join("reserve"), reserve)),
                clock: Arc::new(SystemClock),
                observer: Arc::new(Deaf),
                salvaged: false,
            })
            .expect("store");
            assert_eq!(store.stats().reserve_bytes, reserve);
            let shared = Arc::new(Shared::new(settings.power, None).expect("shared"));
            let (news, _) = tokio::sync::watch::channel(crate::ingest::PowerNews::default());
            let (pauses, _) = Pauses::new(Arc::clone(&shared), desk.orders(), news);
            let governor = Governor {
                queue: QueueDesk::new(false),
                budget: Arc::default(),
                orders: desk.orders(),
                shared,
                guarded: 0,
                pauses: Arc::new(pauses),
            };
            governor.govern();
            assert_eq!(desk.orders().wal_limit(), limit, "{reserve} bytes");
        }
    }
}
