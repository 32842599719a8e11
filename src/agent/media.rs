//! Looks at the medium's health from time to time, and makes a fuss when it got worse.
//!
//! It promises to read nothing from the medium itself but its own small file, once; to look only
//! while data may be written; and to write only what is news. A worse verdict and another medium are
//! logged, audited and told to scripts; a medium to be replaced also asks for a backup. It must
//! never ask a card for its vendor's page: that may stall writes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audit::AGENT;
use crate::clock::{Clock, Mono};
use crate::durable::{Gate, Medium, read_own_if_there};
use crate::hooks::{Happened, Hooks};
use crate::media::{
    Asked, BlockStat, Confidence, History, Latency, Probe, Report, Seen, Tree, Verdict, disk_under,
    examine, stat,
};
use crate::power::{Budget, State, Word};

use super::AgentError;
use super::background::Background;
use super::costs::lock;
use super::explain;
use super::status::StatusSource;
use super::tell::facts;

/// Between two looks: sysfs and the kernel's log, both in memory.
const EVERY: Duration = Duration::from_secs(60);
/// While one is due and power is not good.
const SOON: Duration = Duration::from_secs(1);
/// Its file is never longer.
const LARGEST: u64 = 1 << 20;
/// With fewer readings, what others write would count as theirs.
const READINGS: u64 = 1000;

/// What `holdup status --json` says of the medium.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MediaStatus {
    /// `unknown` until it was looked at.
    pub verdict: Verdict,
    /// How sure.
    pub confidence: Confidence,
    /// In one sentence.
    pub why: String,
    /// As people know it.
    pub name: Option<String>,
    /// Whom to rule out, in that order.
    pub suspects: Vec<String>,
    /// What to do, in that order.
    pub remedies: Vec<String>,
    /// What commits took.
    pub latency: Option<Latency>,
    /// Bytes written to the whole disk for each acknowledged reading, since the agent started.
    pub bytes_per_reading: Option<f64>,
    /// Another medium was in use when the agent ran last: which.
    pub swapped_from: Option<String>,
    /// When it was looked at last.
    pub looked: Option<String>,
}

impl MediaStatus {
    /// `unknown (confidence: none): this medium tells nothing...`
    pub fn in_words(&self) -> String {
        if self.looked.is_none() {
            return "not looked at yet".to_owned();
        }
        let name = self.name.as_deref().unwrap_or("disk not known");
        format!("{name}: {}; `holdup media` says why", self.verdict)
    }
}

/// Shared with status.
#[derive(Debug, Clone, Default)]
pub(super) struct MediaDesk(Arc<Mutex<MediaStatus>>);

impl MediaDesk {
    pub(super) fn status(&self) -> MediaStatus {
        lock(&self.0).clone()
    }
}

/// Something to make a fuss about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Swapped { from: String },
    Worse { than: Verdict },
}

/// Looks, compares and remembers.
struct Keeper {
    tree: Tree,
    dir: PathBuf,
    path: PathBuf,
    history: History,
    medium: Arc<Medium>,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
    /// Counts when the agent started.
    first: Option<BlockStat>,
    /// What this agent found in use before.
    swapped_from: Option<String>,
    unsaved: bool,
}

impl Keeper {
    fn open(
        tree: Tree,
        dir: PathBuf,
        path: PathBuf,
        medium: Arc<Medium>,
        gate: Arc<Gate>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let history = match read_own_if_there(&path, LARGEST) {
            Ok(bytes) => bytes.map_or_else(History::default, |b| History::parse(&b)),
            Err(e) => {
                log::warn!("{} cannot be read and is begun anew: {e}", path.display());
                History::default()
            }
        };
        let mut keeper = Self {
            tree,
            dir,
            path,
            history,
            medium,
            gate,
            clock,
            first: None,
            swapped_from: None,
            unsaved: false,
        };
        keeper.first = keeper.written();
        keeper
    }

    fn written(&self) -> Option<BlockStat> {
        let disk = disk_under(&self.tree, &self.dir).ok()?;
        Some(stat(&self.tree, &disk)?.0)
    }

    fn look(&mut self, latency: Option<Latency>, acked: u64) -> (MediaStatus, Vec<Change>) {
        let wall = self.clock.wall();
        let since = |now: BlockStat| Some(now.written.saturating_sub(self.first?.written));
        let amplification = (acked >= READINGS)
            .then(|| self.written().and_then(since))
            .flatten()
            .map(|bytes| bytes as f64 / acked as f64);
        let report = examine(
            &self.tree,
            Asked {
                dir: &self.dir,
                probe: Probe::Never,
                latency,
                amplification,
                history: &self.history,
                now_ms: wall.as_millis(),
            },
        );
        let changes = self.remember(&report, latency);
        let judgement = report.judgement.clone();
        let mut remedies: Vec<String> = Vec::new();
        for remedy in judgement.suspects.iter().flat_map(|s| &s.remedies) {
            if !remedies.contains(remedy) {
                remedies.push(remedy.clone());
            }
        }
        let status = MediaStatus {
            verdict: judgement.verdict,
            confidence: judgement.confidence,
            why: judgement.why,
            name: report.device.is_some().then(|| report.name()),
            suspects: judgement
                .suspects
                .iter()
                .map(|s| s.suspect.to_string())
                .collect(),
            remedies,
            latency,
            bytes_per_reading: amplification,
            swapped_from: self.swapped_from.clone(),
            looked: Some(wall.to_string()),
        };
        (status, changes)
    }

    /// Compares with what is remembered, and keeps what is news.
    fn remember(&mut self, report: &Report, latency: Option<Latency>) -> Vec<Change> {
        // A disk without an identity is known by its name alone.
        let Some(id) = report.id().or(report.device.as_deref()) else {
            return Vec::new();
        };
        let news = self.history.note(Seen {
            id,
            name: &report.name(),
            now_ms: self.clock.wall().as_millis(),
            verdict: report.judgement.verdict,
            wear: report.wear,
            latency,
        });
        self.unsaved |= news.changed;
        if self.unsaved
            && let Some(_pass) = self.gate.try_enter()
        {
            match self.medium.replace(&self.path, &self.history.to_json()) {
                Ok(()) => self.unsaved = false,
                Err(e) => log::warn!("what is known of the medium is not kept: {}", explain(&e)),
            }
        }
        let mut changes = Vec::new();
        if let Some(from) = news.swapped_from {
            self.swapped_from = Some(from.clone());
            changes.push(Change::Swapped { from });
        }
        changes.extend(news.worse_than.map(|than| Change::Worse { than }));
        changes
    }
}

/// Starts looking.
///
/// # Errors
/// No thread can be started.
pub(super) fn start(
    source: Arc<StatusSource>,
    hooks: Arc<Hooks>,
    gate: Arc<Gate>,
) -> Result<Background, AgentError> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    Background::start("holdup-media", "medium's health", vec![stop], move || {
        let gateway = lock(&source.settings).gateway.clone();
        let mut keeper: Option<Keeper> = None;
        let mut looked: Option<Mono> = None;
        while !asked.load(SeqCst) {
            let now = source.clock.mono();
            if may_look(&source) && looked.is_none_or(|at| now.since(at) >= EVERY) {
                looked = Some(now);
                let keeper = keeper.get_or_insert_with(|| {
                    Keeper::open(
                        Tree::new(std::path::Path::new("/")),
                        gateway.data_dir.clone(),
                        gateway.media_path(),
                        Arc::clone(&source.medium),
                        Arc::clone(&gate),
                        Arc::clone(&source.clock),
                    )
                });
                let latency = latency(&lock(&source.budget));
                let (status, changes) = keeper.look(latency, source.orders.stats().acked);
                *lock(&source.media.0) = status.clone();
                for change in changes {
                    tell(&source, &hooks, &status, &change);
                }
            }
            let left = looked.map_or(Duration::ZERO, |at| {
                EVERY.saturating_sub(source.clock.mono().since(at))
            });
            std::thread::park_timeout(left.max(SOON));
        }
    })
}

/// While power is lost nothing reads or writes the medium but the plan.
fn may_look(source: &StatusSource) -> bool {
    match source.shared.published().state {
        State::Good | State::Brownout | State::OnBattery { .. } => true,
        State::Starting
        | State::Suspect { .. }
        | State::Failing { .. }
        | State::Parked { .. }
        | State::Resuming { .. }
        | State::Rehearsing { .. }
        | State::Stopping
        | State::Off => false,
    }
}

fn latency(budget: &Budget) -> Option<Latency> {
    let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    let commit = &budget.commit;
    (!commit.is_empty()).then(|| Latency {
        p50_us: us(commit.median()),
        p99_us: us(commit.p99()),
        max_us: us(commit.recent_max()),
        commits: u64::from(commit.count()),
    })
}

fn tell(source: &StatusSource, hooks: &Hooks, status: &MediaStatus, change: &Change) {
    let name = status.name.clone().unwrap_or_default();
    let (action, details) = match change {
        Change::Swapped { from } => {
            log::warn!("the data lies on another medium than before: {name} instead of {from}");
            (
                "medium_changed",
                json!({ "from": from, "to": name, "verdict": status.verdict }),
            )
        }
        Change::Worse { than } => {
            log::warn!(
                "the medium is judged {} (was {than}): {}; `holdup media` says what to do",
                status.verdict,
                status.why
            );
            (
                "medium_worse",
                json!({
                    "medium": name,
                    "verdict": status.verdict,
                    "before": than,
                    "confidence": status.confidence,
                    "why": status.why,
                }),
            )
        }
    };
    source.diary.audit().note(action, AGENT, details);
    let mut told = facts(source);
    told.push(("HOLDUP_MEDIA_VERDICT", status.verdict.to_string()));
    told.push(("HOLDUP_MEDIA_WHY", status.why.clone()));
    told.push(("HOLDUP_MEDIA", name));
    hooks.happened(Happened {
        word: Word::Media,
        facts: told,
    });
    if status.verdict.is_bad() {
        // How it ends is the backups' to say; nobody here waits for it.
        drop(
            source
                .backups
                .ask(format!("{AGENT}: the medium is judged {}", status.verdict)),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clock::ManualClock;
    use crate::durable::Closer;

    /// A gateway's tree with an eMMC, and the agent's keeper on it.
    struct World {
        home: tempfile::TempDir,
        gate: Arc<Gate>,
    }

    const CARD: &str = "sys/devices/mmc_host/mmc0/mmc0:0001";

    impl World {
        fn new() -> Self {
            let home = tempfile::tempdir().expect("temp dir");
            let world = Self {
                home,
                gate: Arc::default(),
            };
            world.put(&format!("{CARD}/type"), "MMC");
            world.put(&format!("{CARD}/cid"), "150100424a5444345207d2f3b1c75a00");
            world.put(&format!("{CARD}/block/mmcblk0/size"), "61079552");
            world.worn("0x01 0x01");
            world.written(0);
            let link = |from: &str, to: &str| {
                let from = world.home.path().join(from);
                fs::create_dir_all(from.parent().expect("folder")).expect("folders");
                std::os::unix::fs::symlink(world.home.path().join(to), from).expect("link");
            };
            link(&format!("{CARD}/block/mmcblk0/device"), CARD);
            link("sys/dev/block/179:0", &format!("{CARD}/block/mmcblk0"));
            world.put("proc/uptime", "1000.0 1.0");
            let mounts = "29 1 179:0 / / rw - ext4 /dev/mmcblk0 rw";
            world.put("proc/self/mountinfo", mounts);
            world.put("dev/kmsg", "6,1,0,-;Booting");
            world
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.home.path().join(path);
            fs::create_dir_all(path.parent().expect("folder")).expect("folders");
            fs::File::create(path)
                .and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()))
                .expect("file");
        }

        fn worn(&self, life: &str) {
            self.put(&format!("{CARD}/life_time"), life);
        }

        fn written(&self, sectors: u64) {
            let stat = format!("0 0 0 0 0 0 {sectors} 0 0 0 0");
            self.put(&format!("{CARD}/block/mmcblk0/stat"), &stat);
        }

        fn keeper(&self) -> Keeper {
            let data = self.home.path().join("data");
            fs::create_dir_all(&data).expect("folder");
            Keeper::open(
                Tree::new(self.home.path()),
                PathBuf::from("/data"),
                data.join("media.json"),
                Arc::new(Medium::open(&data).expect("medium")),
                Arc::clone(&self.gate),
                Arc::new(ManualClock::new()),
            )
        }
    }

    #[test]
    fn a_worse_verdict_is_told_once_also_across_a_restart() {
        let w = World::new();
        let mut keeper = w.keeper();
        let (status, changes) = keeper.look(None, 0);
        assert_eq!((status.verdict, changes.len()), (Verdict::Good, 0));
        w.worn("0x0b 0x01");
        let (status, changes) = keeper.look(None, 0);
        assert_eq!(status.verdict, Verdict::ReplaceNow);
        assert_eq!(
            changes,
            [Change::Worse {
                than: Verdict::Good
            }]
        );
        assert!(!status.remedies.is_empty());
        assert_eq!(keeper.look(None, 0).1, []);
        assert_eq!(w.keeper().look(None, 0).1, [], "remembered");
    }

    #[test]
    fn another_medium_is_told_and_stays_in_the_status() {
        let w = World::new();
        w.keeper().look(None, 0);
        w.put(&format!("{CARD}/cid"), "150100424a5444345207d2f3b2c75a00");
        let mut keeper = w.keeper();
        let (_, changes) = keeper.look(None, 0);
        assert!(
            matches!(&changes[..], [Change::Swapped { .. }]),
            "{changes:?}"
        );
        let (status, changes) = keeper.look(None, 0);
        assert_eq!(changes, []);
        assert!(status.swapped_from.is_some());
    }

    #[test]
    fn nothing_is_written_while_the_gate_is_closed_and_then_it_is_made_up_for() {
        let w = World::new();
        let mut keeper = w.keeper();
        w.gate.close(Closer::Power);
        keeper.look(None, 0);
        assert!(!keeper.path.exists());
        w.gate.open(Closer::Power);
        keeper.look(None, 0);
        assert!(keeper.path.exists());
        let written = fs::metadata(&keeper.path).expect("file").modified().ok();
        keeper.look(None, 0);
        let again = fs::metadata(&keeper.path).expect("file").modified().ok();
        assert_eq!(written, again, "no news, no write");
    }

    #[test]
    fn bytes_for_a_reading_are_those_since_the_agent_started() {
        let w = World::new();
        w.written(1_000_000);
        let mut keeper = w.keeper();
        w.written(1_020_000);
        assert_eq!(keeper.look(None, READINGS - 1).0.bytes_per_reading, None);
        let (status, _) = keeper.look(None, 2000);
        assert_eq!(status.bytes_per_reading, Some(5120.0));
    }
}
