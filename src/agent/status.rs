//! The agent's status, put together from memory alone: it is answered while the data file
//! system is frozen.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::audit::AuditStatus;
use crate::board::gauge::GaugeView;
use crate::board::{Input, LinesDescription};
use crate::clock::Clock;
use crate::config::{Settings, Source};
use crate::durable::Medium;
use crate::guard::{DatabaseView, LastOutage, Machine, Shared, read_only};
use crate::power::{Assessment, Budget, MOST_REASONS, Others, Reason, Situation, State, assess};
use crate::queue::QueueDesk;
use crate::recovery::{Report, SetAside};
use crate::store::{LedgerView, Orders, StoreState};

use super::audit::Diary;
use super::backup::{BackupDesk, BackupStatus};
use super::control;
use super::costs::{guarded, lock};
use super::damage::{Damage, Known};
use super::drill::{DrillStatus, Drills};
use super::gauge::GaugeStatus;
use super::holdup_history::{HistoryEntry, HoldupHistory};
use super::lines::LinesSeen;
use super::media::{MediaDesk, MediaStatus};
use super::queue::{self, QueueStatus};
use super::recovered::Recovered;
use super::reset::Resets;
use super::snapshot::{SnapshotStatus, SnapshotsSeen};

/// A store that is not open after this is a reason not to be ready.
const OPENING: Duration = Duration::from_secs(30);

/// What `holdup status --json` prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The gateway's id.
    pub gateway: String,
    /// The agent's version.
    pub version: String,
    /// The agent's process id.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// The board's name.
    pub board: String,
    /// `capacitor` or `battery`.
    pub source: String,
    /// The supply's state: `Starting`, `Good`, `Brownout`, `Suspect`, `OnBattery`, `Failing`,
    /// `Parked`, `Resuming`, `Stopping` or `Off`.
    pub supply: String,
    /// Power is back and service waits until it has been steady: what for, in words.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// The same, in milliseconds from now.
    #[serde(default)]
    pub resumes_in_ms: Option<u64>,
    /// `Ready`, `AtRisk` or `Unprotected`.
    pub readiness: String,
    /// Why it is not ready, as codes, worst first.
    pub reasons: Vec<String>,
    /// The same in words, with the remedy.
    pub advice: Vec<String>,
    /// Those of the reasons that do not mend themselves.
    #[serde(default)]
    pub damage: Vec<Damage>,
    /// The measured hold-up time; `null` until it was measured.
    pub holdup_ms: Option<u64>,
    /// Hold-up time left if power failed now (after a recent outage less than all).
    pub holdup_left_ms: u64,
    /// Glitch time and mandatory steps, from the tail of what this card took.
    pub predicted_ms: u64,
    /// Frames in the store's WAL that are not in the database yet.
    pub wal_frames: u32,
    /// Readings acknowledged since the agent started.
    pub acked: u64,
    /// Readings in the store.
    pub stored: u64,
    /// Bytes of the store in use.
    pub store_bytes: u64,
    /// Bytes kept back on the medium for a full disk; 0 when they were given up.
    pub reserve_bytes: u64,
    /// Readings that retention removed, ever.
    pub expired: u64,
    /// Commits since the agent started.
    pub commits: u64,
    /// `running`, `disk_full`, `failed`, `stopped` or `starting`.
    pub store: String,
    /// What was noted of acknowledged readings outside the store.
    #[serde(default)]
    pub ledger: Ledger,
    /// The audit log.
    #[serde(default)]
    pub audit: AuditStatus,
    /// The outbound queue.
    #[serde(default)]
    pub queue: QueueStatus,
    /// The last outage.
    pub last_outage: Option<LastOutage>,
    /// The last rehearsal since the agent started.
    pub last_rehearsal: Option<LastOutage>,
    /// Whether the hold-up time is being measured: `armed` or `running`.
    pub measuring: Option<String>,
    /// The newest measurement of this supply.
    pub measurement: Option<HistoryEntry>,
    /// All databases that the plan makes durable.
    pub databases: Vec<Database>,
    /// The lines.
    pub gpio: Gpio,
    /// The gauge, in percent of charge.
    pub gauge_percent: Option<f32>,
    /// The gauge on the I2C bus; `null` where none is configured.
    pub gauge: Option<GaugeStatus>,
    /// Why parking does not freeze the data file system; `null` when it does.
    pub freeze_refused: Option<String>,
    /// Guard and plan run with real-time priority.
    pub realtime: bool,
    /// What was recovered since the agent started.
    #[serde(default)]
    pub recovered: Vec<Report>,
    /// What stood where files of a recovery belong and was set aside, since the agent started.
    #[serde(default)]
    pub set_aside: Vec<SetAside>,
    /// Copies of the databases for recovery.
    #[serde(default)]
    pub snapshots: SnapshotStatus,
    /// The last recovery of each database, whenever it was.
    #[serde(default)]
    pub last_recovered: Vec<Report>,
    /// Backups.
    #[serde(default)]
    pub backup: BackupStatus,
    /// Drills: the last one, and whether it is too long ago.
    #[serde(default)]
    pub drill: DrillStatus,
    /// The health of the medium under the data directory.
    #[serde(default)]
    pub media: MediaStatus,
    /// The card under the data directory (its CID, or a device number).
    pub card: String,
}

/// The ack ledger.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Readings up to this id are noted as acknowledged; `null`: none yet.
    pub upto: Option<i64>,
    /// First and last id of readings that were acknowledged and were not in the store when it was
    /// opened; `null`: none are missing.
    pub missing: Option<(i64, i64)>,
    /// Why it is of no use; `null` when it is.
    pub problem: Option<String>,
}

impl From<LedgerView> for Ledger {
    fn from(v: LedgerView) -> Self {
        Self {
            upto: v.upto,
            missing: v.missing,
            problem: v.problem,
        }
    }
}

impl Status {
    /// The supply's state as people are told it.
    pub fn supply_in_words(&self) -> String {
        supply_in_words(&self.supply, self.gpio.reads.as_deref())
    }
}

/// One database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Database {
    /// The file.
    pub path: String,
    /// `own` or `guarded`.
    pub role: String,
    /// Higher goes first.
    pub priority: i32,
    /// Frames in its WAL, where known.
    pub wal_frames: Option<u32>,
    /// Others write it and cannot be stilled; `state` says who.
    #[serde(default)]
    pub other_writers: bool,
    /// In words.
    pub state: String,
}

impl From<DatabaseView> for Database {
    fn from(v: DatabaseView) -> Self {
        Self {
            path: v.path,
            role: v.role.to_owned(),
            priority: v.priority,
            wal_frames: v.wal_frames,
            other_writers: v.other_writers,
            state: v.state,
        }
    }
}

/// The power-fail line.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Gpio {
    /// `v2`, `v1`, `sim`, or `none` while the lines cannot be read.
    pub abi: String,
    /// That ABI is what `gpio.abi` says, not what the kernel answered.
    pub abi_forced: bool,
    /// The chip's label.
    pub chip: Option<String>,
    /// The line's number on the chip.
    pub line: Option<u32>,
    /// What the power-fail line reads now, believed or not: `lost` or `good`.
    pub reads: Option<String>,
    /// Why the lines cannot be read.
    pub error: Option<String>,
    /// What about the lines is not quite as the settings want it.
    pub notes: Vec<String>,
}

impl Gpio {
    /// The ABI, and whether it was chosen or forced.
    pub fn abi_in_words(&self) -> String {
        match (self.abi.as_str(), self.abi_forced) {
            (abi @ ("v1" | "v2"), true) => format!("ABI {abi} (forced by gpio.abi)"),
            (abi @ ("v1" | "v2"), false) => format!("ABI {abi} (chosen by asking the kernel)"),
            (abi, _) => format!("ABI {abi}"),
        }
    }
}

/// Everything that a status is made from.
#[derive(Debug)]
pub(super) struct StatusSource {
    pub(super) settings: Arc<Mutex<Settings>>,
    pub(super) shared: Arc<Shared>,
    pub(super) orders: Orders,
    pub(super) queue: QueueDesk,
    pub(super) budget: Arc<Mutex<Budget>>,
    pub(super) seen: Arc<Mutex<LinesSeen>>,
    pub(super) machine: Arc<dyn Machine>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) started: crate::clock::Mono,
    pub(super) card: String,
    pub(super) medium: Arc<Medium>,
    pub(super) gauge: Option<GaugeView>,
    pub(super) history: HoldupHistory,
    /// Why no hold-up time can be measured until the agent is restarted.
    pub(super) unmeasurable: Option<String>,
    /// The data file system took no writes when it was looked at last.
    pub(super) read_only: AtomicBool,
    pub(super) recovered: Recovered,
    pub(super) snapshots: SnapshotsSeen,
    pub(super) known: Known,
    pub(super) diary: Diary,
    pub(super) backups: BackupDesk,
    pub(super) drills: Drills,
    pub(super) media: MediaDesk,
    pub(super) resets: OnceLock<Arc<Resets>>,
}

impl StatusSource {
    /// Looks whether the data file system takes writes; says why not when that is news. Not while
    /// power is lost: a table of mounts may be held up by what is frozen.
    pub(super) fn look_at_mount(&self) {
        match self.shared.published().state {
            State::Good | State::Brownout | State::OnBattery { .. } => {}
            State::Starting
            | State::Suspect { .. }
            | State::Failing { .. }
            | State::Parked { .. }
            | State::Resuming { .. }
            | State::Rehearsing { .. }
            | State::Stopping
            | State::Off => return,
        }
        self.known.look_at_names();
        let found = read_only(self.medium.fd());
        let before = self.read_only.swap(found.is_some(), Relaxed);
        if let (Some(why), false) = (found, before) {
            log::error!("{why}: {}", Reason::DataReadOnly);
        }
    }

    /// Would the gateway make it now?
    pub(super) fn assessment(&self) -> Assessment {
        let published = self.shared.published();
        let stats = self.orders.stats();
        let mut found: heapless::Vec<Reason, MOST_REASONS> = heapless::Vec::new();
        let late = self.clock.mono().since(self.started) > OPENING;
        let store_reason = match stats.state {
            StoreState::Failed(_) => Some(Reason::StoreFailed),
            StoreState::DiskFull => Some(Reason::DiskFull),
            StoreState::Starting if late || self.known.why_not_open().is_some() => {
                Some(Reason::StoreStarting)
            }
            StoreState::Starting | StoreState::Running | StoreState::Stopped => None,
        };
        found.extend(store_reason);
        if self.read_only.load(Relaxed) {
            found.push(Reason::DataReadOnly).ok();
        }
        if self.medium.healthy().is_err() && store_reason != Some(Reason::StoreFailed) {
            found.push(Reason::MediumFailed).ok();
        }
        found.extend(self.damaged());
        if let Some((from, upto)) = stats.ledger.missing {
            found.push(Reason::AcknowledgedMissing { from, upto }).ok();
        }
        if published.battery_low && published.settings.source == Source::Battery {
            found.push(Reason::BatteryLow).ok();
        }
        if self.shared.databases().iter().any(|d| d.problem) {
            found.push(Reason::GuardedUnusable).ok();
        }
        if self.shared.databases().iter().any(|d| d.other_writers) {
            found.push(Reason::OtherWriters).ok();
        }
        let power = published.settings;
        let worn = |holdup| self.history.worn(power.source.name(), holdup);
        found.extend(power.holdup.and_then(worn));
        let theirs = self.shared.databases();
        let theirs = theirs.iter().filter(|d| d.role == "guarded");
        let theirs = theirs.fold(0, |all: u64, d| all.saturating_add(d.wal_bytes));
        let guarded = Others::with(guarded(&lock(&self.settings)), theirs);
        assess(Situation {
            health: published.health,
            holdup: published.settings.holdup,
            left: published.holdup_left,
            glitch: published.settings.glitch,
            budget: &lock(&self.budget),
            // The plan moves both logs.
            wal_frames: stats.wal_frames.saturating_add(self.queue.frames()),
            guarded,
            found: &found,
        })
    }

    /// As the plan thread saw them last; the store's own numbers as they are now.
    fn databases(&self) -> Vec<Database> {
        let frames = Some(self.orders.stats().wal_frames);
        let mut all: Vec<_> = self
            .shared
            .databases()
            .into_iter()
            .map(Database::from)
            .collect();
        let (_, queue) = self.own();
        for own in all.iter_mut().filter(|d| d.role == "own") {
            if std::path::Path::new(&own.path) == queue {
                let stats = self.queue.stats();
                own.wal_frames = Some(stats.wal_frames);
                own.state = queue::in_words(&stats);
            } else {
                own.wal_frames = frames;
                own.state = self.orders.stats().state.name().to_owned();
            }
        }
        all
    }

    /// The status now.
    pub(super) fn status(&self) -> Status {
        let (recovered, last_recovered, set_aside) = {
            let all = lock(&self.recovered);
            (all.since(), all.last_of_each(), all.aside())
        };
        let assessment = self.assessment();
        let published = self.shared.published();
        let settings = lock(&self.settings).clone();
        let drill = self.drills.status(&settings, self.clock.wall());
        let stats = self.orders.stats();
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Status {
            gateway: settings.gateway.id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.clock.mono().since(self.started).as_secs(),
            board: settings.board.name,
            source: published.settings.source.name().to_owned(),
            supply: published.state.name().to_owned(),
            waits_for: published.wait.map(|w| waits_for(w.settling).to_owned()),
            resumes_in_ms: published.wait.map(|w| ms(w.until.since(self.clock.mono()))),
            readiness: assessment.readiness.name().to_owned(),
            reasons: assessment
                .reasons
                .iter()
                .map(|r| r.code().to_owned())
                .collect(),
            advice: assessment.reasons.iter().map(|r| self.advice(*r)).collect(),
            damage: assessment
                .reasons
                .iter()
                .filter_map(|r| self.damage(*r))
                .collect(),
            holdup_ms: published.settings.holdup.map(ms),
            holdup_left_ms: ms(published.holdup_left),
            predicted_ms: ms(assessment.predicted),
            wal_frames: stats.wal_frames,
            acked: stats.acked,
            stored: stats.stored,
            store_bytes: stats.bytes,
            reserve_bytes: stats.reserve_bytes,
            expired: stats.expired,
            commits: stats.commits,
            store: stats.state.name().to_owned(),
            ledger: stats.ledger.into(),
            audit: self.diary.status(),
            queue: self.queue.stats().into(),
            last_outage: self.shared.last_outage(),
            last_rehearsal: self.shared.last_rehearsal(),
            measuring: control::measuring(published.measuring),
            measurement: self.history.newest(published.settings.source.name()),
            databases: self.databases(),
            gpio: gpio(&lock(&self.seen), published.reads_lost),
            gauge_percent: published.gauge_percent,
            gauge: (settings.gauge.as_ref())
                .zip(self.gauge.as_ref())
                .map(|(s, view)| GaugeStatus::now(s, view, self.clock.mono())),
            freeze_refused: self.machine.freeze_refusal().map(str::to_owned),
            realtime: self.shared.realtime_threads() == 2,
            recovered,
            set_aside,
            last_recovered,
            snapshots: lock(&self.snapshots).clone(),
            backup: self.backups.status(),
            drill,
            media: self.media.status(),
            card: self.card.clone(),
        }
    }
}

fn waits_for(settling: bool) -> &'static str {
    if settling {
        "power is back; after repeated outages it must be steady for power.settle_ms"
    } else {
        "power is back; it must be steady for power.restore_ms"
    }
}

/// The supply's state; what stands for Good because no line tells otherwise is not called that.
pub(super) fn supply_in_words(state: &str, reads: Option<&str>) -> String {
    match (state, reads) {
        ("Good", None) => "unknown, taken as Good".to_owned(),
        ("Good", Some("lost")) => "says lost and is not believed, taken as Good".to_owned(),
        (state, _) => state.to_owned(),
    }
}

/// What the power-fail line reads, as status spells it.
pub(super) fn reads(lost: Option<bool>) -> Option<&'static str> {
    lost.map(|lost| if lost { "lost" } else { "good" })
}

fn gpio(seen: &LinesSeen, lost: Option<bool>) -> Gpio {
    let Some(LinesDescription {
        abi,
        forced,
        lines,
        notes,
        ..
    }) = &seen.open
    else {
        return Gpio {
            abi: "none".to_owned(),
            error: seen.why_not.clone(),
            ..Gpio::default()
        };
    };
    let fail = lines.iter().find(|l| l.line == Input::PowerFail.name());
    Gpio {
        abi: (*abi).to_owned(),
        abi_forced: *forced,
        chip: fail.map(|l| l.chip.clone()),
        line: fail.map(|l| l.offset),
        reads: reads(lost).map(str::to_owned),
        error: None,
        notes: notes
            .iter()
            .map(|n| format!("{}: {}", n.line, n.why))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::durable::Gate;
    use crate::guard::SimMachine;
    use crate::power::Readiness;
    use crate::store::Desk;

    struct World {
        _home: tempfile::TempDir,
        clock: Arc<ManualClock>,
        source: StatusSource,
    }

    /// A gateway that would be ready, if its store were.
    fn world() -> World {
        let home = tempfile::tempdir().expect("temp dir");
        let site = home.path().join("holdup.toml");
        let medium = Arc::new(Medium::open(home.path()).expect("medium"));
        medium
            .replace(&site, b"[power]\nboard = \"sim\"\nholdup_ms = 4000\n")
            .expect("config");
        let mut loaded = crate::config::load(&site).expect("load");
        loaded.settings.gateway.data_dir = home.path().to_owned();
        loaded.settings.gateway.run_dir = home.path().to_owned();
        let clock = Arc::new(ManualClock::new());
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let gate = Arc::new(Gate::new());
        let diary = Diary::start(&loaded, &medium, &gate, &time, "boot", None).expect("diary");
        let settings = loaded.settings;
        let mut budget = Budget::default();
        let quick = Duration::from_millis(2);
        budget.commit.note(quick);
        budget.mark.note(quick);
        budget.note_checkpoint(quick, 1);
        let history = home.path().join("history.json");
        let source = StatusSource {
            queue: QueueDesk::new(false),
            shared: Arc::new(Shared::new(settings.power, None).expect("shared")),
            settings: Arc::new(Mutex::new(settings)),
            orders: Desk::new().orders(),
            budget: Arc::new(Mutex::new(budget)),
            seen: Arc::default(),
            machine: Arc::new(SimMachine),
            started: clock.mono(),
            clock: Arc::clone(&clock) as Arc<_>,
            card: "c".to_owned(),
            medium,
            gauge: None,
            diary,
            history: HoldupHistory::open(history, "c", "sim"),
            unmeasurable: None,
            read_only: AtomicBool::new(false),
            recovered: Recovered::default(),
            snapshots: Arc::default(),
            known: Known::default(),
            backups: BackupDesk::default(),
            drills: Drills::default(),
            media: MediaDesk::default(),
            resets: OnceLock::new(),
        };
        World {
            _home: home,
            clock,
            source,
        }
    }

    #[test]
    fn a_medium_that_latched_is_a_reason_not_to_be_ready() {
        let w = world();
        assert_eq!(w.source.assessment().readiness, Readiness::Ready);
        w.source
            .medium
            .latch("write outage.rec: Input/output error");
        let a = w.source.assessment();
        assert_eq!(a.readiness, Readiness::AtRisk);
        assert_eq!(a.reasons[..], [Reason::MediumFailed]);
        assert_eq!(w.source.status().reasons, ["medium_failed"]);
    }

    #[test]
    fn a_supply_that_no_line_tells_of_is_not_called_good_in_words() {
        let status = world().source.status();
        assert_eq!(status.gpio.reads, None);
        let words = |supply: &str, reads: Option<&str>| {
            let mut s = status.clone();
            s.supply = supply.to_owned();
            s.gpio.reads = reads.map(str::to_owned);
            s.supply_in_words()
        };
        assert_eq!(words("Good", None), "unknown, taken as Good");
        assert_eq!(words("Good", Some("good")), "Good");
        assert!(words("Good", Some("lost")).contains("not believed"));
        assert_eq!(words("Parked", None), "Parked");
    }

    #[test]
    fn a_store_that_does_not_open_is_a_reason_after_half_a_minute() {
        let w = world();
        w.clock.advance(OPENING);
        assert_eq!(w.source.assessment().readiness, Readiness::Ready);
        w.clock.advance(Duration::from_secs(1));
        assert_eq!(w.source.status().store, "starting");
        assert_eq!(w.source.status().readiness, "AtRisk");
        assert_eq!(w.source.status().reasons, ["store_starting"]);
    }

    #[test]
    fn a_store_of_which_it_is_known_why_it_does_not_open_is_a_reason_at_once() {
        let w = world();
        assert_eq!(w.source.assessment().readiness, Readiness::Ready);
        w.source
            .known
            .opening(Some("its log is a directory".to_owned()));
        assert_eq!(w.source.assessment().reasons[..], [Reason::StoreStarting]);
        w.source.known.opening(None);
        assert_eq!(w.source.assessment().readiness, Readiness::Ready);
    }
}
