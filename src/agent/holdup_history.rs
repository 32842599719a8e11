//! The hold-up times that were measured, oldest first, and whether the supply has worn.
//!
//! Kept as a small JSON file under the data directory, replaced as a whole. Status reads the
//! memory, never the file. A file that cannot be read is left as it is: measurements are rare and
//! dear, so it is for a person to look at it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Wall;
use crate::durable::{Gate, Medium};
use crate::guard::Measured;
use crate::power::{Measurement, Reason, proposal, worn};

use super::costs::lock;

/// Measurements that are kept.
const KEPT: usize = 64;
/// More than this is no history of ours.
const LARGEST: u64 = 1 << 20;
const VERSION: u32 = 1;

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
    /// Power was back first: the supply lasts longer than this.
    pub at_least: bool,
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
        let proposed = proposal(m.gave).map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
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

    /// What was measured and what it is worth, for the log and for people.
    pub fn in_words(&self) -> String {
        let proposal = match self.proposed_ms {
            Some(ms) => format!(
                "power.holdup_ms = {ms} keeps a fifth back for age, cold and load (rounded down \
                 to 10 ms)"
            ),
            None => "that is no hold-up time: look at the supply and its wiring".to_owned(),
        };
        let (least, end) = if self.at_least {
            ("at least ", "power was back before it was empty")
        } else {
            ("", "while the card was written to all the time")
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

#[derive(Debug, Serialize, Deserialize)]
struct HistoryFile {
    version: u32,
    measurements: Vec<HistoryEntry>,
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
    /// It is not what this version writes.
    #[error(
        "{} is not a history that this version understands ({why}): move it away to begin a new one",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Reads the measurements at `path`, oldest first; none when there is no file.
pub fn read_history(path: &Path) -> Result<Vec<HistoryEntry>, HistoryError> {
    // Looked at first: a FIFO in its place would be waited for.
    let plain = fs::metadata(path).and_then(|m| {
        if m.is_file() && m.len() <= LARGEST {
            fs::read(path)
        } else {
            Err(io::Error::other("it is not a history of measurements"))
        }
    });
    let bytes = match plain {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            let path = path.to_owned();
            return Err(HistoryError::Io { path, source });
        }
    };
    let format = |why: String| HistoryError::Format {
        path: path.to_owned(),
        why,
    };
    let file: HistoryFile = serde_json::from_slice(&bytes).map_err(|e| format(e.to_string()))?;
    if file.version != VERSION {
        return Err(format(format!("version {}", file.version)));
    }
    Ok(file.measurements)
}

#[derive(Debug, Default)]
struct Held {
    entries: Vec<HistoryEntry>,
    /// Something is not in the file yet.
    unwritten: bool,
    /// The file on the medium is not ours to replace.
    refused: bool,
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
            Ok(entries) => held.entries = entries,
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
        let mut held = lock(&self.held);
        if held.entries.iter().any(|e| e.is_same_as(&entry)) {
            return;
        }
        log::warn!("hold-up time measured: {}", entry.in_words());
        held.entries.push(entry);
        let over = held.entries.len().saturating_sub(KEPT);
        held.entries.drain(..over);
        held.unwritten = true;
    }

    /// Writes what is not written yet, if the gate is open.
    pub(super) fn keep(&self, gate: &Gate, medium: &Medium) {
        let mut held = lock(&self.held);
        if !held.unwritten || held.refused {
            return;
        }
        let Some(_pass) = gate.try_enter() else {
            return;
        };
        let file = HistoryFile {
            version: VERSION,
            measurements: held.entries.clone(),
        };
        // A full disk passes; what was measured is written when there is room again.
        let written = serde_json::to_vec_pretty(&file)
            .map_err(|e| e.to_string())
            .and_then(|bytes| {
                medium
                    .replace(&self.path, &bytes)
                    .map_err(|e| super::explain(&e))
            });
        match written {
            Ok(()) => held.unwritten = false,
            Err(e) => log::warn!("the measured hold-up time is not kept yet: {e}"),
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
            stamps: 300,
            write_mean: Duration::from_millis(2),
            write_worst: Duration::from_millis(9),
        }
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
        h.keep(&w.gate, &w.medium);
        assert!(!w.path().exists(), "written behind a closed gate");
        w.gate.open(crate::durable::Closer::Power);
        h.keep(&w.gate, &w.medium);
        // The next start reads the same heartbeat again.
        let h = w.open();
        h.add(measured(1, 2000));
        h.keep(&w.gate, &w.medium);
        let kept = read_history(&w.path()).expect("read");
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
        h.keep(&w.gate, &w.medium);
        let kept = read_history(&w.path()).expect("read");
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
        h.keep(&w.gate, &w.medium);
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
        h.keep(&w.gate, &w.medium);
        assert_eq!(fs::read(w.path()).expect("read"), odd);
        let e = read_history(&w.path()).expect_err("refused");
        assert!(e.to_string().contains("version 2"), "{e}");
    }
}
