//! The disasters that are rehearsed, and what each of them is held on.

mod hostile;
mod recovery;
mod restore;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use crate::clock::{Clock, Mono, SystemClock};

use super::DrillError;
use super::archive::{Archive, Vault};
use super::census::{Census, Difference, Range, epoch, integrity};
use super::child::Verbs;
use super::damage::Dice;
use super::error::explain;
use super::evidence::{Outcome, Phase, PhaseName, Took, Verdict};
use super::gateway::Gateway;
use super::run::{Limits, Options, Say, outage_ms};

/// Ranges of ids that are told in words.
const MOST_RANGES: usize = 6;

/// A disaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Noise over the start of the write-ahead log.
    WalRandom,
    /// The database's header zeroed.
    HeaderZeroed,
    /// Noise over the outbound queue.
    QueueCorrupt,
    /// The database and its log removed.
    DatabaseDeleted,
    /// Every reading deleted by a query.
    DestructiveQuery,
    /// The card is dead; another gateway takes over.
    FreshCard,
    /// Nothing is left but the backup.
    BackupOnly,
    /// The disk is full during a restore.
    DiskFull,
    /// Power is cut during a restore.
    PowerCut,
}

impl Scenario {
    /// All of them, in the order in which they are held.
    pub const ALL: &[Self] = &[
        Self::WalRandom,
        Self::HeaderZeroed,
        Self::QueueCorrupt,
        Self::DatabaseDeleted,
        Self::DestructiveQuery,
        Self::FreshCard,
        Self::BackupOnly,
        Self::DiskFull,
        Self::PowerCut,
    ];

    /// As the command line spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WalRandom => "wal-random",
            Self::HeaderZeroed => "header-zeroed",
            Self::QueueCorrupt => "queue-corrupt",
            Self::DatabaseDeleted => "database-deleted",
            Self::DestructiveQuery => "destructive-query",
            Self::FreshCard => "fresh-card",
            Self::BackupOnly => "backup-only",
            Self::DiskFull => "disk-full",
            Self::PowerCut => "power-cut",
        }
    }

    /// In a line.
    pub const fn title(self) -> &'static str {
        match self {
            Self::WalRandom => "512 random bytes over the start of the write-ahead log",
            Self::HeaderZeroed => "the database's header is zeroed; SQLite refuses the file",
            Self::QueueCorrupt => "random bytes over the outbound queue; it is rebuilt",
            Self::DatabaseDeleted => "the database and its log are removed; a backup is restored",
            Self::DestructiveQuery => {
                "every reading is deleted by a query; restored to the moment before"
            }
            Self::FreshCard => "the card is dead; a spare gateway takes over from the backup",
            Self::BackupOnly => {
                "databases, snapshots and audit log are gone; only the backup elsewhere is left"
            }
            Self::DiskFull => {
                "the disk is full during a restore: nothing changes, then it succeeds"
            }
            Self::PowerCut => "power is cut again and again during a restore, until it is done",
        }
    }

    /// What the rows are that are compared.
    const fn what(self) -> &'static str {
        match self {
            Self::QueueCorrupt => "messages",
            Self::WalRandom
            | Self::HeaderZeroed
            | Self::DatabaseDeleted
            | Self::DestructiveQuery
            | Self::FreshCard
            | Self::BackupOnly
            | Self::DiskFull
            | Self::PowerCut => "readings",
        }
    }

    /// Holds it up to the comparison.
    pub(super) fn hold(self, stage: &mut Stage<'_>) -> Result<(), DrillError> {
        match self {
            Self::WalRandom => recovery::wal_random(stage),
            Self::HeaderZeroed => recovery::header_zeroed(stage),
            Self::QueueCorrupt => recovery::queue_corrupt(stage),
            Self::DatabaseDeleted => restore::database_deleted(stage),
            Self::DestructiveQuery => restore::destructive_query(stage),
            Self::FreshCard => restore::fresh_card(stage),
            Self::BackupOnly => restore::backup_only(stage),
            Self::DiskFull => hostile::disk_full(stage),
            Self::PowerCut => hostile::power_cut(stage),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|s| s.name() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|s| s.name()).collect();
            format!("no scenario {name:?}: all, {}", names.join(", "))
        })
    }
}

/// What one scenario is held on, and its part of the evidence.
pub(super) struct Stage<'a> {
    options: &'a Options<'a>,
    verbs: &'a Verbs<'a>,
    limits: Limits,
    dir: PathBuf,
    say: &'a Say<'a>,
    pub(super) dice: Dice,
    /// The phase that runs, and since when.
    running: Option<(PhaseName, Mono)>,
    /// The epoch of the store before the disaster.
    epoch: String,
    outcome: Outcome,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        options: &'a Options<'a>,
        verbs: &'a Verbs<'a>,
        limits: Limits,
        dir: PathBuf,
        scenario: Scenario,
        say: &'a Say<'a>,
    ) -> Result<Self, DrillError> {
        let above = dir.parent().unwrap_or(&dir).to_owned();
        crate::durable::Medium::open(&above)?.make_dir(&dir)?;
        let salt = scenario.name().bytes().map(u64::from).sum::<u64>();
        let seed = options.seed.wrapping_add(salt);
        Ok(Self {
            options,
            verbs,
            limits,
            dir,
            say,
            dice: Dice::new(seed),
            running: None,
            epoch: String::new(),
            outcome: Outcome {
                scenario: scenario.name().to_owned(),
                title: scenario.title().to_owned(),
                verdict: Verdict::Fail,
                what: scenario.what().to_owned(),
                began: SystemClock.wall().to_string(),
                backup: None,
                phases: Vec::new(),
                recovery_ms: 0.0,
                integrity: None,
                expected: None,
                found: None,
                told_lost: Vec::new(),
                seed,
                notes: Vec::new(),
                failures: Vec::new(),
            },
        })
    }

    /// The phase before has ended, this one begins.
    pub(super) fn enter(&mut self, phase: PhaseName) {
        self.leave();
        (self.say)(phase.name());
        self.running = Some((phase, SystemClock.mono()));
    }

    fn leave(&mut self) {
        if let Some((name, since)) = self.running.take() {
            let took_ms = SystemClock.mono().since(since).as_secs_f64() * 1000.0;
            self.outcome.phases.push(Phase { name, took_ms });
        }
    }

    /// Something worth knowing was seen.
    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.outcome.notes.push(what.into());
    }

    /// Something is not as it was promised.
    pub(super) fn fail(&mut self, what: impl Into<String>) {
        self.outcome.failures.push(what.into());
    }

    /// A gateway with the id of the live one and `-drill`, or with another one.
    pub(super) fn gateway(&self, name: &str, more: &str) -> Result<Gateway<'a>, DrillError> {
        // An id has at most 64 bytes.
        let mut id = self.options.settings.gateway.id.clone();
        while id.len() > 40 {
            id.pop();
        }
        let id = format!("{id}-{name}");
        Gateway::make(self.verbs, self.dir.join(name), &id, &self.limits, more)
    }

    /// A key, and a place off the card.
    pub(super) fn vault(&self) -> Result<Vault, DrillError> {
        Vault::make(self.dir.join("elsewhere"))
    }

    /// The backup on which the rest relies, and its age at the disaster.
    pub(super) fn used(&mut self, archive: &Archive) {
        self.outcome.backup = Some(archive.used());
    }

    /// Unless the drill was told to end.
    pub(super) fn go_on(&self) -> Result<(), DrillError> {
        self.verbs.stop.check()
    }

    /// Readings before the disaster.
    pub(super) fn rows(&self) -> u64 {
        self.options.rows
    }

    /// Writes the readings and counts what is in the store then.
    pub(super) fn baseline(&mut self, gateway: &mut Gateway<'_>) -> Result<Census, DrillError> {
        self.enter(PhaseName::Baseline);
        gateway.serve()?;
        gateway.write(self.rows())?;
        self.epoch = epoch(&gateway.store())?;
        let census = Census::of_store(&gateway.store())?;
        let (acked, there) = (self.rows(), census.count());
        if there != acked {
            self.fail(format!(
                "{acked} readings were acknowledged and {there} are in the store before any damage"
            ));
        }
        Ok(census)
    }

    /// What should be there afterwards.
    pub(super) fn expect(&mut self, census: &Census) {
        self.outcome.expected = Some(census.summary());
    }

    /// What recovery says is lost for good.
    pub(super) fn told(&mut self, lost: Vec<Range>) {
        self.outcome.told_lost = lost;
    }

    /// Compares every reading, checks the file, and tries a write and a query. At most
    /// `may_lose` rows may be missing, and only those that recovery named.
    pub(super) fn compare(
        &mut self,
        gateway: &mut Gateway<'_>,
        expected: &Census,
        may_lose: u64,
    ) -> Result<(), DrillError> {
        self.sabotage(&gateway.store(), "readings")?;
        self.enter(PhaseName::Compare);
        let found = Census::of_store(&gateway.store())?;
        self.judge(expected, &found, may_lose);
        self.check_file(&gateway.store())?;
        gateway.write(1)?;
        let after = Census::of_store(&gateway.store())?;
        if after.count() != found.count() + 1 {
            let (before, after) = (found.count(), after.count());
            self.fail(format!(
                "a test reading was written: {before} rows before, {after} after"
            ));
        }
        let (last, next) = (expected.last_id(), after.last_id());
        if next <= last && epoch(&gateway.store())? == self.epoch {
            self.fail(format!(
                "a test reading was given id {next}, which another reading had: {last} was the last"
            ));
        }
        Ok(())
    }

    /// What `found` lacks and has too much.
    pub(super) fn judge(&mut self, expected: &Census, found: &Census, may_lose: u64) {
        self.outcome.expected = Some(expected.summary());
        self.outcome.found = Some(found.summary());
        let d = expected.difference(found);
        let told = std::mem::take(&mut self.outcome.told_lost);
        for why in faults(expected, &d, &told, may_lose) {
            self.fail(why);
        }
        if d.missing_rows > 0 && expected.is_told(&d, &told) {
            let (lost, ids) = (d.missing_rows, ranges(&d.missing));
            self.note(format!(
                "lost, and named by recovery: {lost} rows, ids {ids}"
            ));
        }
        self.outcome.told_lost = told;
    }

    /// Asks SQLite whether the file is whole.
    pub(super) fn check_file(&mut self, path: &std::path::Path) -> Result<(), DrillError> {
        let said = integrity(path)?;
        if said != "ok" {
            self.fail(format!("SQLite's integrity check says: {said}"));
        }
        self.outcome.integrity = Some(said);
        Ok(())
    }

    /// Takes the newest row away where the operator wants to see a drill fail.
    pub(super) fn sabotage(
        &mut self,
        path: &std::path::Path,
        table: &str,
    ) -> Result<(), DrillError> {
        if !self.options.sabotage {
            return Ok(());
        }
        let sql = format!("DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})");
        let removed = Connection::open(path).and_then(|db| db.execute(&sql, []));
        let removed = removed.map_err(DrillError::db(path))?;
        self.note(format!(
            "sabotage: {removed} row was removed before the comparison"
        ));
        Ok(())
    }

    /// What became of `file` when its agent started, by the agent's status.
    pub(super) fn recovered(&mut self, status: &Value, file: &str) -> Option<Value> {
        let is = |r: &&Value| r["database"].as_str().is_some_and(|d| d.ends_with(file));
        let report = status["recovered"].as_array()?.iter().find(is)?.clone();
        let lost = report["missing"].as_array().map(Vec::as_slice);
        let ends = |r: &Value| {
            let (first, last) = (r["first"].as_i64()?, r["last"].as_i64()?);
            Some(Range { first, last })
        };
        self.told(lost.unwrap_or_default().iter().filter_map(ends).collect());
        let word = |member: &str| report[member].as_str().unwrap_or("?").to_owned();
        self.note(format!(
            "the agent's verdict: {} ({}), {}",
            word("verdict"),
            word("found"),
            Took(report["took_ms"].as_f64().unwrap_or(0.0))
        ));
        Some(report)
    }

    /// Cleans up and judges the whole.
    ///
    /// # Errors
    /// The drill was told to end, or its files cannot be removed.
    pub(super) fn end(mut self, held: Result<(), DrillError>) -> Result<Outcome, DrillError> {
        match held {
            Err(e) if e.is_interruption() => return Err(e),
            Err(e) => self.fail(explain(&e)),
            Ok(()) if self.outcome.found.is_none() => self.fail("nothing was compared"),
            Ok(()) => {}
        }
        self.enter(PhaseName::CleanUp);
        std::fs::remove_dir_all(&self.dir).map_err(DrillError::io("remove", &self.dir))?;
        self.leave();
        let waited = outage_ms(&self.outcome);
        if let Some(why) = too_late(waited, self.options.settings.drill.rto) {
            self.fail(why);
        }
        self.outcome.recovery_ms = waited;
        if self.outcome.failures.is_empty() {
            self.outcome.verdict = Verdict::Pass;
        }
        Ok(self.outcome)
    }
}

/// What is wrong with a recovery that took `waited` milliseconds.
fn too_late(waited: f64, rto: Duration) -> Option<String> {
    let most = rto.as_secs_f64() * 1000.0;
    (waited > most).then(|| {
        let (waited, most) = (Took(waited), Took(most));
        format!("recovery took {waited}, more than drill.rto_s ({most})")
    })
}

/// What is wrong with a comparison.
fn faults(expected: &Census, d: &Difference, told: &[Range], may_lose: u64) -> Vec<String> {
    let mut faults = Vec::new();
    if d.missing_rows > 0 && !expected.is_told(d, told) {
        let (rows, ids) = (d.missing_rows, ranges(&d.missing));
        let told = ranges(told);
        faults.push(format!(
            "{rows} rows are missing, ids {ids}; what recovery named as lost: {told}"
        ));
    }
    if d.missing_rows > may_lose {
        let rows = d.missing_rows;
        faults.push(format!("{rows} rows are lost, at most {may_lose} may be"));
    }
    if d.missing_rows == 0 && !told.is_empty() {
        let told = ranges(told);
        faults.push(format!(
            "nothing is missing, and recovery named as lost: {told}"
        ));
    }
    if d.altered > 0 {
        faults.push(format!(
            "{} rows have other contents than before",
            d.altered
        ));
    }
    if d.made_up > 0 {
        faults.push(format!("{} rows are there that nobody wrote", d.made_up));
    }
    faults
}

/// The first few, in words.
fn ranges(all: &[Range]) -> String {
    if all.is_empty() {
        return "none".to_owned();
    }
    let shown = all.iter().take(MOST_RANGES).map(ToString::to_string);
    let mut words: Vec<String> = shown.collect();
    if all.len() > MOST_RANGES {
        words.push(format!("and {} further ranges", all.len() - MOST_RANGES));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_that_takes_longer_than_it_may_fails() {
        let rto = Duration::from_secs(300);
        assert_eq!(too_late(300_000.0, rto), None);
        let why = too_late(310_000.0, rto).expect("late");
        assert!(
            why.contains("5 min 10 s") && why.contains("drill.rto_s (5 min)"),
            "{why}"
        );
    }

    #[test]
    fn every_scenario_is_found_by_its_name() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(*scenario));
        }
        "all of them".parse::<Scenario>().expect_err("none");
    }

    #[test]
    fn what_may_be_lost_must_be_little_and_named() {
        let expected = Census::of_ids(1..=100);
        let judged = |found: Census, told: &[Range], may_lose| {
            faults(&expected, &expected.difference(&found), told, may_lose).len()
        };
        let last = [Range {
            first: 100,
            last: 100,
        }];
        assert_eq!(judged(Census::of_ids(1..=100), &[], 0), 0);
        assert_eq!(
            judged(Census::of_ids(1..=99), &last, 1),
            0,
            "little, and named"
        );
        assert_eq!(judged(Census::of_ids(1..=99), &[], 1), 1, "nobody told");
        assert_eq!(
            judged(Census::of_ids(1..=99), &last, 0),
            1,
            "nothing may be lost"
        );
        assert_eq!(
            judged(Census::of_ids(1..=100), &last, 1),
            1,
            "told of what is there"
        );
        assert_eq!(judged(Census::of_ids(1..=101), &[], 1), 1, "made up");
    }
}
