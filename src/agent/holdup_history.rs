//! The hold-up times that were measured, oldest first, and whether the supply has worn.
//!
//! Kept as a small JSON file under the data directory, replaced as a whole. Status reads the
//! memory, never the file. Measurements are rare and dear: a damaged file is set aside by name, for
//! a person to look at it, and what is good in it goes on; one of a newer version is left as it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Mono, Wall};
use crate::config::is_visible;
use crate::durable::{DurableError, Gate, Medium, read_own};
use crate::guard::{Measured, Outlived};
use crate::power::{Measurement, Reason, proposal, worn};

use super::costs::lock;

/// Measurements that are kept.
const KEPT: usize = 64;
/// More than this is no history of ours.
const LARGEST: u64 = 1 << 20;
const VERSION: u32 = 1;
/// No supply is measured for longer: 24 h.
const LONGEST_MS: f64 = 86_400_000.0;
/// Bytes in one text.
const LONGEST_TEXT: usize = 256;

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When, RFC 3339 in UTC, as far as the wall clock was right.
    pub at: String,
    /// The same in milliseconds since 1970.
    pub wall_ms: i64,
    /// A time server had set the clock.
    pub synchronised: bool,
    /// The card under the data directory (its CID, or a device number).
    pub card: String,
    /// The board's name.
    pub board: String,
    /// `capacitor` or `battery`.
    pub source: String,
    /// From the first lost edge (of a battery: from when it was low) to the last sign of life.
    pub gave_ms: f64,
    /// How far apart the last stamps were.
    pub resolution_ms: f64,
    /// The measurement ended before the supply did: it lasts longer than this.
    pub at_least: bool,
    /// What ended it then; files of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<Outlived>,
    /// `power.holdup_ms` at that time.
    pub configured_ms: Option<u64>,
    /// What it proposes for `power.holdup_ms`.
    pub proposed_ms: Option<u64>,
    /// Stamps written.
    pub stamps: u64,
    /// What one write of a stamp took on average.
    pub write_mean_ms: f64,
    /// What the slowest took.
    pub write_worst_ms: f64,
    /// The boot it happened in, and when in it: no two measurements are the same.
    pub boot: String,
    /// See `boot`.
    pub lost_at_ns: u64,
}

impl HistoryEntry {
    fn new(m: Measured, card: &str, board: &str) -> Self {
        // Of a supply that was not seen to end nobody knows what it gives.
        let proposed = proposal(m.gave).filter(|_| !m.at_least);
        let proposed = proposed.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        Self {
            at: m.on.to_string(),
            wall_ms: m.on.as_millis(),
            synchronised: m.synchronised,
            card: card.to_owned(),
            board: board.to_owned(),
            source: m.source,
            gave_ms: ms(m.gave),
            resolution_ms: ms(m.resolution),
            at_least: m.at_least,
            ended_by: m.ended_by,
            configured_ms: m.configured_ms,
            proposed_ms: proposed,
            stamps: m.stamps,
            write_mean_ms: ms(m.write_mean),
            write_worst_ms: ms(m.write_worst),
            boot: m.boot,
            lost_at_ns: m.lost_at_ns,
        }
    }

    fn is_same_as(&self, other: &Self) -> bool {
        self.boot == other.boot && self.lost_at_ns == other.lost_at_ns
    }

    fn measurement(&self) -> Measurement {
        Measurement {
            gave: Duration::try_from_secs_f64(self.gave_ms / 1000.0).unwrap_or_default(),
            at_least: self.at_least,
            on: Wall::from_millis(self.wall_ms),
        }
    }

    /// What is wrong with it: not what this version could have written.
    fn fault(&self) -> Option<&'static str> {
        let texts = [&self.at, &self.card, &self.board, &self.source, &self.boot];
        let printable = |t: &String| t.len() <= LONGEST_TEXT && t.chars().all(is_visible);
        if !texts.into_iter().all(printable) {
            return Some("a text that is too long or holds control or format characters");
        }
        let times = [
            self.gave_ms,
            self.resolution_ms,
            self.write_mean_ms,
            self.write_worst_ms,
        ];
        let whole = [self.configured_ms, self.proposed_ms];
        let sound = times.iter().all(|ms| (0.0..=LONGEST_MS).contains(ms))
            && whole.iter().flatten().all(|ms| *ms as f64 <= LONGEST_MS);
        (!sound).then_some("a time that is negative or longer than a day")
    }

    /// What was measured and what it is worth, for the log and for people.
    pub fn in_words(&self) -> String {
        let proposal = match self.proposed_ms {
            _ if self.at_least => {
                "nothing is proposed; measure again, and leave the plug out until the gateway is \
                 dark"
                    .to_owned()
            }
            Some(ms) => format!(
                "power.holdup_ms = {ms} keeps a fifth back for age, cold and load (rounded down \
                 to 10 ms)"
            ),
            None => "that is no hold-up time: look at the supply and its wiring".to_owned(),
        };
        let (least, end) = match (self.at_least, self.ended_by) {
            (false, _) => ("", "while the card was written to all the time"),
            (true, Some(Outlived::PowerBack)) => {
                ("at least ", "power was back before it was empty")
            }
            (true, Some(Outlived::AgentEnded)) => {
                ("at least ", "the agent ended before it was empty")
            }
            (true, Some(Outlived::LongEnough)) => {
                ("at least ", "that is as long as a measurement runs")
            }
            (true, None) => ("at least ", "the measurement ended before it was empty"),
        };
        format!(
            "the supply ({}) gave {least}{:.0} ms, {end} ({} stamps, {:.1} ms each, the slowest \
             {:.1} ms; known to {:.0} ms): {proposal}",
            self.source,
            self.gave_ms,
            self.stamps,
            self.write_mean_ms,
            self.write_worst_ms,
            self.resolution_ms,
        )
    }
}

#[derive(Debug, Serialize)]
struct HistoryFile<'a> {
    version: u32,
    measurements: &'a [HistoryEntry],
}

/// The same as it is read: each measurement is looked at by itself.
#[derive(Debug, Deserialize)]
struct AnyFile {
    version: u32,
    measurements: Vec<serde_json::Value>,
}

/// What there is at a path.
#[derive(Debug, Default, PartialEq)]
pub struct History {
    /// Good measurements, oldest first.
    pub measurements: Vec<HistoryEntry>,
    /// What else is in the file that nobody wrote like that.
    pub damage: Option<String>,
}

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A newer version wrote it.
    #[error(
        "{} is a history of version {version}, which this version does not understand: move it away \
         to begin a new one",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// Reads the measurements at `path`; none when there is no file.
///
/// # Errors
/// It cannot be read, or is of a newer version. Damage is no error.
pub fn read_history(path: &Path) -> Result<History, HistoryError> {
    let bytes = match read_own(path, LARGEST) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(History::default()),
        // Not a file of ours, or too large for one.
        Err(e) if e.kind() == io::ErrorKind::Other => return Ok(damaged(e.to_string())),
        Err(source) => {
            let path = path.to_owned();
            return Err(HistoryError::Io { path, source });
        }
    };
    let file: AnyFile = match serde_json::from_slice(&bytes) {
        Ok(file) => file,
        Err(e) => return Ok(damaged(e.to_string())),
    };
    if file.version > VERSION {
        return Err(HistoryError::Version {
            path: path.to_owned(),
            version: file.version,
        });
    }
    let (mut history, all) = (History::default(), file.measurements.len());
    for (n, value) in file.measurements.into_iter().enumerate() {
        let fault = match serde_json::from_value::<HistoryEntry>(value) {
            Ok(entry) => match entry.fault() {
                None => {
                    history.measurements.push(entry);
                    continue;
                }
                Some(fault) => fault.to_owned(),
            },
            Err(e) => e.to_string(),
        };
        let fault = format!("measurement {}: {}", n + 1, fault.escape_debug());
        history.damage.get_or_insert(fault);
    }
    let over = history.measurements.len().saturating_sub(KEPT);
    history.measurements.drain(..over);
    if all > KEPT {
        let many = format!("{all} measurements, where {KEPT} are kept");
        history.damage.get_or_insert(many);
    }
    Ok(history)
}

fn damaged(why: String) -> History {
    History {
        measurements: Vec::new(),
        damage: Some(why),
    }
}

#[derive(Debug, Default)]
struct Held {
    entries: Vec<HistoryEntry>,
    /// Something is not in the file yet.
    unwritten: bool,
    /// Counts what was added.
    changes: u64,
    /// The last attempt to write failed.
    pause: Option<Pause>,
    /// The file on the medium is damaged, and lies there still.
    damaged: bool,
    /// The file on the medium is not ours to replace.
    refused: bool,
}

/// Writes these bytes in place of the file, which may be damaged; where that one is then.
type Write<'a> = &'a dyn Fn(&[u8], bool) -> Result<Option<PathBuf>, DurableError>;

/// What one attempt writes.
struct Unwritten {
    entries: Vec<HistoryEntry>,
    damaged: bool,
    changes: u64,
}

impl Held {
    fn to_write(&self, now: Mono) -> Option<Unwritten> {
        let waits = self.pause.is_some_and(|p| now < p.until);
        (self.unwritten && !self.refused && !waits).then(|| Unwritten {
            entries: self.entries.clone(),
            damaged: self.damaged,
            changes: self.changes,
        })
    }
}

/// Until the next attempt; twice as long after each.
#[derive(Debug, Clone, Copy)]
struct Pause {
    length: Duration,
    until: Mono,
}

impl Pause {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(600);

    fn after(last: Option<Self>, now: Mono) -> Self {
        let length = last.map_or(Self::FIRST, |p| (p.length * 2).min(Self::LONGEST));
        Self {
            length,
            until: now + length,
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct HoldupHistory {
    path: PathBuf,
    card: String,
    board: String,
    held: Mutex<Held>,
}

impl HoldupHistory {
    /// Reads what there is.
    pub(super) fn open(path: PathBuf, card: &str, board: &str) -> Self {
        let mut held = Held::default();
        match read_history(&path) {
            Ok(History {
                measurements,
                damage,
            }) => {
                if let Some(why) = &damage {
                    log::error!("{} is damaged: {why}", path.display());
                }
                held.entries = measurements;
                held.damaged = damage.is_some();
                held.unwritten = damage.is_some();
            }
            Err(e) => {
                log::warn!("{}", super::explain(&e));
                held.refused = true;
            }
        }
        Self {
            path,
            card: card.to_owned(),
            board: board.to_owned(),
            held: Mutex::new(held),
        }
    }

    /// Takes a measurement in, and says what it is, unless it is known already.
    pub(super) fn add(&self, measured: Measured) {
        let entry = HistoryEntry::new(measured, &self.card, &self.board);
        if let Some(fault) = entry.fault() {
            log::error!("a measurement of the hold-up time is not taken over: {fault}");
            return;
        }
        let mut held = lock(&self.held);
        if held.entries.iter().any(|e| e.is_same_as(&entry)) {
            return;
        }
        log::warn!("hold-up time measured: {}", entry.in_words());
        held.entries.push(entry);
        let over = held.entries.len().saturating_sub(KEPT);
        held.entries.drain(..over);
        held.unwritten = true;
        held.changes += 1;
    }

    /// Writes what is not written yet, if the gate is open; where that fails, again after a pause
    /// that grows. Called from one thread. Nobody who asks for a measurement waits for the medium.
    pub(super) fn keep(&self, gate: &Gate, medium: &Medium, now: Mono) {
        self.keep_by(gate, now, &|bytes, damaged| {
            if damaged {
                medium.replace_aside(&self.path, bytes)
            } else {
                medium.replace(&self.path, bytes).map(|()| None)
            }
        });
    }

    fn keep_by(&self, gate: &Gate, now: Mono, write: Write<'_>) {
        let Some(copy) = lock(&self.held).to_write(now) else {
            return;
        };
        let Some(_pass) = gate.try_enter() else {
            return;
        };
        let file = HistoryFile {
            version: VERSION,
            measurements: &copy.entries,
        };
        let written = serde_json::to_vec_pretty(&file)
            .map_err(|e| e.to_string())
            .and_then(|bytes| write(&bytes, copy.damaged).map_err(|e| super::explain(&e)));
        let mut held = lock(&self.held);
        match written {
            Ok(aside) => {
                held.damaged = false;
                held.unwritten = held.changes != copy.changes;
                if held.pause.take().is_some() {
                    log::info!("the measured hold-up times are kept again");
                }
                drop(held);
                if let Some(aside) = aside {
                    log::warn!(
                        "{} was damaged and is now {}",
                        self.path.display(),
                        aside.display()
                    );
                }
            }
            // A full disk passes; what was measured is written when there is room again.
            Err(e) => {
                let before = held.pause;
                held.pause = Some(Pause::after(before, now));
                drop(held);
                if before.is_none() {
                    log::warn!("the measured hold-up times are not kept yet: {e}");
                }
            }
        }
    }

    /// The newest measurement of this board with this source.
    pub(super) fn newest(&self, source: &str) -> Option<HistoryEntry> {
        let held = lock(&self.held);
        held.entries
            .iter()
            .rfind(|e| e.board == self.board && e.source == source)
            .cloned()
    }

    /// Why `configured` can no longer be trusted.
    pub(super) fn worn(&self, source: &str, configured: Duration) -> Option<Reason> {
        let held = lock(&self.held);
        let own = held
            .entries
            .iter()
            .rev()
            .filter(|e| e.board == self.board && e.source == source);
        worn(own.map(HistoryEntry::measurement), configured)
    }
}

fn ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(lost_at_ns: u64, gave_ms: u64) -> Measured {
        Measured {
            boot: "a".to_owned(),
            lost_at_ns,
            on: Wall::from_millis(1_767_225_600_000),
            synchronised: true,
            source: "capacitor".to_owned(),
            configured_ms: None,
            gave: Duration::from_millis(gave_ms),
            resolution: Duration::from_millis(6),
            at_least: false,
            ended_by: None,
            stamps: 300,
            write_mean: Duration::from_millis(2),
            write_worst: Duration::from_millis(9),
        }
    }

    fn at(s: u64) -> Mono {
        Mono::from_nanos(0) + Duration::from_secs(s)
    }

    struct World {
        home: tempfile::TempDir,
        gate: Gate,
        medium: Medium,
    }

    impl World {
        fn new() -> Self {
            let home = tempfile::tempdir().expect("temp dir");
            let medium = Medium::open(home.path()).expect("medium");
            Self {
                home,
                gate: Gate::new(),
                medium,
            }
        }

        fn path(&self) -> PathBuf {
            self.home.path().join("history.json")
        }

        fn open(&self) -> HoldupHistory {
            HoldupHistory::open(self.path(), "card-1", "rpi5")
        }
    }

    #[test]
    fn a_measurement_is_kept_once_and_only_while_writing_is_allowed() {
        let w = World::new();
        let h = w.open();
        h.add(measured(1, 2000));
        w.gate.close(crate::durable::Closer::Power);
        h.keep(&w.gate, &w.medium, at(0));
        assert!(!w.path().exists(), "written behind a closed gate");
        w.gate.open(crate::durable::Closer::Power);
        h.keep(&w.gate, &w.medium, at(0));
        // The next start reads the same heartbeat again.
        let h = w.open();
        h.add(measured(1, 2000));
        h.keep(&w.gate, &w.medium, at(0));
        let kept = read_history(&w.path()).expect("read").measurements;
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].proposed_ms, Some(1600));
        assert_eq!((kept[0].gave_ms, kept[0].resolution_ms), (2000.0, 6.0));
    }

    #[test]
    fn the_newest_sixty_four_are_kept() {
        let w = World::new();
        let h = w.open();
        for n in 0..70 {
            h.add(measured(n, 2000 + n));
        }
        h.keep(&w.gate, &w.medium, at(0));
        let kept = read_history(&w.path()).expect("read").measurements;
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].gave_ms, 2006.0);
    }

    #[test]
    fn a_supply_that_wears_is_said_of_the_same_board_and_source_only() {
        let w = World::new();
        let h = w.open();
        h.add(measured(1, 2000));
        assert_eq!(h.worn("capacitor", Duration::from_millis(1600)), None);
        h.add(measured(2, 1500));
        let reason = h
            .worn("capacitor", Duration::from_millis(1600))
            .expect("worn");
        let text = reason.to_string();
        for part in ["1500 ms", "1600", "2026-01-01", "1200"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(h.worn("battery", Duration::from_millis(1600)), None);
        h.keep(&w.gate, &w.medium, at(0));
        let other = HoldupHistory::open(w.path(), "card-1", "rpi5-x1200");
        assert_eq!(other.worn("capacitor", Duration::from_millis(1600)), None);
    }

    #[test]
    fn a_history_that_is_not_understood_is_never_overwritten() {
        let w = World::new();
        let odd = br#"{"version":2,"measurements":[]}"#;
        w.medium.replace(&w.path(), odd).expect("replace");
        let h = w.open();
        h.add(measured(1, 2000));
        h.keep(&w.gate, &w.medium, at(0));
        assert_eq!(std::fs::read(w.path()).expect("read"), odd);
        let e = read_history(&w.path()).expect_err("refused");
        assert!(e.to_string().contains("version 2"), "{e}");
    }

    #[test]
    fn a_lower_bound_proposes_nothing_and_says_what_ended_it() {
        let least = |ended_by| {
            let m = Measured {
                at_least: true,
                ended_by,
                ..measured(1, 2000)
            };
            HistoryEntry::new(m, "card-1", "rpi5")
        };
        for (ended_by, says) in [
            (Some(Outlived::PowerBack), "power was back"),
            (Some(Outlived::AgentEnded), "the agent ended"),
            (None, "the measurement ended"),
        ] {
            let entry = least(ended_by);
            assert_eq!(entry.proposed_ms, None);
            let words = entry.in_words();
            assert!(words.contains(says), "{says} in {words}");
            assert!(!words.contains("power.holdup_ms ="), "{words}");
            assert_eq!(words.contains("power was back"), says == "power was back");
        }
    }

    #[test]
    fn a_damaged_history_is_set_aside_by_name_and_what_is_good_in_it_goes_on() {
        let good = HistoryEntry::new(measured(1, 2000), "card-1", "rpi5");
        let with = |change: &dyn Fn(&mut HistoryEntry)| {
            let mut entry = good.clone();
            change(&mut entry);
            entry
        };
        let file = |entries: &[HistoryEntry]| {
            serde_json::to_vec(&HistoryFile {
                version: VERSION,
                measurements: entries,
            })
            .expect("json")
        };
        let many: Vec<_> = (0..100).map(|n| with(&|e| e.lost_at_ns = n)).collect();
        for (odd, kept) in [
            (file(&[good.clone(), with(&|e| e.gave_ms = -5.0)]), 1),
            (file(&[good.clone(), with(&|e| e.gave_ms = 1e300)]), 1),
            (
                file(&[with(&|e| e.at = "\u{1b}[2J".to_owned()), good.clone()]),
                1,
            ),
            (
                file(&[with(&|e| e.card = "x".repeat(1000)), good.clone()]),
                1,
            ),
            (file(&[with(&|e| e.proposed_ms = Some(u64::MAX))]), 0),
            (file(&many), KEPT),
            (
                file(&[with(&|e| e.at = "1\u{202e}2".to_owned()), good.clone()]),
                1,
            ),
            (b"\"\\u001b[2J\"".to_vec(), 0),
            (b"not json".to_vec(), 0),
            (vec![b' '; usize::try_from(LARGEST).expect("size") + 1], 0),
        ] {
            let w = World::new();
            w.medium.replace(&w.path(), &odd).expect("plant");
            let read = read_history(&w.path()).expect("read");
            assert_eq!(read.measurements.len(), kept);
            assert!(read.damage.is_some_and(|d| !d.contains('\u{1b}')));
            let h = w.open();
            h.keep(&w.gate, &w.medium, at(0));
            let aside = w.home.path().join("history.json.damaged");
            assert_eq!(std::fs::read(&aside).expect("set aside"), odd);
            let now = read_history(&w.path()).expect("read");
            assert_eq!((now.measurements.len(), now.damage), (kept, None));
        }
    }

    #[test]
    fn a_damaged_history_that_somebody_took_away_is_written_anew() {
        let w = World::new();
        w.medium.replace(&w.path(), b"#").expect("plant");
        let h = w.open();
        std::fs::remove_file(w.path()).expect("remove");
        h.keep(&w.gate, &w.medium, at(0));
        let now = read_history(&w.path()).expect("read");
        assert_eq!((now.measurements.len(), now.damage), (0, None));
    }

    #[test]
    fn what_was_set_aside_before_is_not_overwritten() {
        let w = World::new();
        for n in 0..3u8 {
            w.medium.replace(&w.path(), &[b'#', n]).expect("plant");
            w.open().keep(&w.gate, &w.medium, at(0));
        }
        for (n, name) in ["", "-2", "-3"].iter().enumerate() {
            let aside = w.home.path().join(format!("history.json.damaged{name}"));
            assert_eq!(std::fs::read(aside).expect("kept"), [b'#', n as u8]);
        }
    }

    /// A directory in place of the file that is written first: nothing can be written.
    fn full(w: &World) -> PathBuf {
        let blocked = w.home.path().join("history.json.new");
        std::fs::create_dir(&blocked).expect("directory");
        blocked
    }

    #[test]
    fn a_damaged_history_stays_where_it_is_until_what_is_good_in_it_is_written() {
        let w = World::new();
        let good = HistoryEntry::new(measured(1, 2000), "card-1", "rpi5");
        let good = serde_json::to_string(&good).expect("json");
        let odd = format!("{{\"version\":1,\"measurements\":[{good},7]}}");
        w.medium.replace(&w.path(), odd.as_bytes()).expect("plant");
        let h = w.open();
        let blocked = full(&w);
        h.keep(&w.gate, &w.medium, at(0));
        // The agent may end here: the next one finds the good measurement.
        let now = read_history(&w.path()).expect("read");
        assert_eq!(now.measurements.len(), 1);
        let aside = w.home.path().join("history.json.damaged");
        assert!(!aside.exists());
        std::fs::remove_dir(blocked).expect("room again");
        h.keep(&w.gate, &w.medium, at(1));
        let now = read_history(&w.path()).expect("read");
        assert_eq!((now.measurements.len(), now.damage), (1, None));
        assert_eq!(std::fs::read(aside).expect("set aside"), odd.as_bytes());
    }

    #[test]
    fn what_cannot_be_written_is_tried_again_after_pauses_that_grow_to_ten_minutes() {
        let w = World::new();
        let h = w.open();
        h.add(measured(1, 2000));
        let blocked = full(&w);
        // An attempt is seen by the pause it leaves.
        let mut tried = Vec::new();
        for s in 0..3600 {
            let before = lock(&h.held).pause.map(|p| p.until);
            h.keep(&w.gate, &w.medium, at(s));
            if lock(&h.held).pause.map(|p| p.until) != before {
                tried.push(s);
            }
        }
        let want = [
            0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 1623, 2223, 2823, 3423,
        ];
        assert_eq!(tried, want);
        std::fs::remove_dir(blocked).expect("room again");
        h.keep(&w.gate, &w.medium, at(4022));
        assert!(!w.path().exists());
        h.keep(&w.gate, &w.medium, at(4023));
        assert_eq!(read_history(&w.path()).expect("read").measurements.len(), 1);
    }

    #[test]
    fn while_the_card_stalls_nobody_waits_and_what_comes_meanwhile_is_written_next() {
        let w = World::new();
        let h = w.open();
        h.add(measured(1, 2000));
        let wrote = std::cell::Cell::new(0);
        let write = |bytes: &[u8], _| {
            assert!(h.held.try_lock().is_ok(), "status would wait");
            if wrote.get() == 0 {
                h.add(measured(2, 1900));
            }
            wrote.set(wrote.get() + 1);
            w.medium.replace(&w.path(), bytes).map(|()| None)
        };
        for _ in 0..3 {
            h.keep_by(&w.gate, at(0), &write);
        }
        assert_eq!(wrote.get(), 2);
        assert_eq!(read_history(&w.path()).expect("read").measurements.len(), 2);
    }
}
