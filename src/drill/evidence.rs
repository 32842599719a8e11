//! What a drill leaves: who held it, when, on what, what was expected and what was found.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::census::Range;

/// The version of this format that is written.
pub const EVIDENCE_FORMAT: u32 = 1;

/// The report of one run of `holdup drill`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// [`EVIDENCE_FORMAT`].
    pub format: u32,
    /// The version of holdup that was rehearsed.
    pub holdup: String,
    /// The live gateway's id, or the machine's name where none is configured.
    pub gateway: String,
    /// Who held it.
    pub operator: String,
    /// `operator` or `schedule`.
    pub reason: String,
    /// A row was taken away on purpose: it was to fail, and says nothing of the gateway.
    #[serde(default)]
    pub sabotage: bool,
    /// When it began, RFC 3339 in UTC.
    pub began: String,
    /// The same, in milliseconds since 1970-01-01 UTC.
    pub began_ms: i64,
    /// Had a time server set the clock?
    pub synchronised: bool,
    /// Kernel and machine: `Linux 6.12.47 aarch64`.
    pub system: String,
    /// The file system under the isolated home: `ext4`, `tmpfs`.
    pub medium: String,
    /// What a recovery may take, in seconds: `drill.rto_s`.
    pub rto_s: u64,
    /// Readings written before each disaster.
    pub rows: u64,
    /// All of it, in milliseconds.
    pub took_ms: f64,
    /// Every scenario passed.
    pub passed: bool,
    /// Each of them, in the order in which they were held.
    pub scenarios: Vec<Outcome>,
}

/// How a scenario ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything that was promised is there, in time.
    Pass,
    /// It is not.
    Fail,
}

impl Verdict {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
        }
    }
}

/// What a scenario is made of, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// Readings are written and counted.
    Baseline,
    /// A backup is made, for a key of the drill alone.
    Backup,
    /// The disaster.
    Damage,
    /// Recovery or restore, until the gateway serves again.
    Recover,
    /// Every row is compared; a write and a query are tried.
    Compare,
    /// Everything the drill made is removed.
    CleanUp,
}

impl PhaseName {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Baseline,
        Self::Backup,
        Self::Damage,
        Self::Recover,
        Self::Compare,
        Self::CleanUp,
    ];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Backup => "backup",
            Self::Damage => "damage",
            Self::Recover => "recover",
            Self::Compare => "compare",
            Self::CleanUp => "clean up",
        }
    }

    /// Does the site wait for it after a disaster?
    pub const fn is_outage(self) -> bool {
        match self {
            Self::Recover | Self::Compare => true,
            Self::Baseline | Self::Backup | Self::Damage | Self::CleanUp => false,
        }
    }
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Which.
    pub name: PhaseName,
    /// In milliseconds.
    pub took_ms: f64,
}

/// The backup that a scenario used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupUsed {
    /// Its file name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The written file was decrypted again and found the same.
    pub verified: bool,
    /// How old it was at the disaster, in milliseconds.
    pub age_ms: u64,
}

/// What a database held.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rows {
    /// Rows.
    pub count: u64,
    /// The highest id.
    pub last_id: Option<i64>,
    /// Over every row's id and contents, in lower-case hex.
    pub sha256: String,
}

/// One scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name: `wal-random`.
    pub scenario: String,
    /// What is rehearsed, in a line.
    pub title: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What the rows are: `readings`, `messages`.
    pub what: String,
    /// When it began, RFC 3339 in UTC.
    pub began: String,
    /// The backup, where one was made.
    pub backup: Option<BackupUsed>,
    /// What it was made of.
    pub phases: Vec<Phase>,
    /// The phases that a site waits for, in milliseconds.
    pub recovery_ms: f64,
    /// What SQLite's integrity check said afterwards.
    pub integrity: Option<String>,
    /// What should be there afterwards.
    pub expected: Option<Rows>,
    /// What was there.
    pub found: Option<Rows>,
    /// Ids of rows that are lost, and that recovery itself named.
    pub told_lost: Vec<Range>,
    /// The seed of what was random.
    pub seed: u64,
    /// What was seen, and what is wrong.
    pub notes: Vec<String>,
    /// Why it did not pass.
    pub failures: Vec<String>,
}

impl Outcome {
    /// All phases, in milliseconds.
    pub fn took_ms(&self) -> f64 {
        self.phases.iter().map(|p| p.took_ms).sum()
    }

    /// How long this phase took; `None` where it was not reached.
    pub fn phase_ms(&self, name: PhaseName) -> Option<f64> {
        let mut of = self.phases.iter().filter(|p| p.name == name).peekable();
        of.peek()?;
        Some(of.map(|p| p.took_ms).sum())
    }
}

impl Evidence {
    /// Scenarios that passed.
    pub fn passes(&self) -> usize {
        let passed = |o: &&Outcome| o.verdict == Verdict::Pass;
        self.scenarios.iter().filter(passed).count()
    }
}

/// A length of time for people: `840 ms`, `3.2 s`, `4 min 10 s`, `3 h 5 min`, `12 days`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took(pub(super) f64);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0 / 1000.0;
        if s < 0.0995 {
            write!(f, "{:.0} ms", self.0)
        } else if s < 9.95 {
            write!(f, "{s:.1} s")
        } else if s < 59.5 {
            write!(f, "{s:.0} s")
        } else if s < 3_599.5 {
            two(f, s.round(), 60.0, ["min", "s"])
        } else if s < 172_800.0 {
            two(f, (s / 60.0).round(), 60.0, ["h", "min"])
        } else {
            write!(f, "{:.0} days", s / 86_400.0)
        }
    }
}

/// `4 min 10 s`, and `5 min` where nothing is left over.
fn two(f: &mut fmt::Formatter<'_>, n: f64, each: f64, units: [&str; 2]) -> fmt::Result {
    write!(f, "{} {}", (n / each).floor(), units[0])?;
    if n % each > 0.0 {
        write!(f, " {} {}", n % each, units[1])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_say_them() {
        for (ms, words) in [
            (0.4, "0 ms"),
            (84.0, "84 ms"),
            (840.0, "0.8 s"),
            (3_240.0, "3.2 s"),
            (59_600.0, "1 min"),
            (300_000.0, "5 min"),
            (250_000.0, "4 min 10 s"),
            (11_100_000.0, "3 h 5 min"),
            (1_036_800_000.0, "12 days"),
        ] {
            assert_eq!(Took(ms).to_string(), words);
        }
    }
}
