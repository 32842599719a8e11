//! From damaged files to a database that serves, in the order that destroys nothing.
//!
//! It promises that evidence is durable before the first repair, that a repair is made on a copy
//! and takes the place of the damaged files in one journalled swap, and that the report says what
//! was kept and what is known to be lost. After a cut at any instant the next call finishes or
//! begins again, and ends with the same rows.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use crate::clock::Mono;

use super::acknowledged::Acknowledged;
use super::candidates::{Candidate, Chosen, Class, FromLog, Judged, Opinion, choose};
use super::evidence::{Evidence, REPORT, prune};
use super::files::{ALL, companion};
use super::hold::Hold;
use super::look::{Condition, Looked, look};
use super::missing::missing;
use super::pages::{Expected, FromPages, JournalState, RolledBack};
use super::report::{LeftOut, Missing, Report, StepTaken, TableKept, Verdict};
use super::restore::{Restored, Restoring, Snapshots};
use super::rows::{RollBack, RowSalvage};
use super::source::Bytes;
use super::swap;
use super::wal::Overlay;
use super::{RecoveryError, Site};

/// Room that is left free beside what is written.
pub(super) const SPARE: u64 = 1 << 20;
/// From this size on progress is told.
const LARGE: u64 = 64 << 20;

/// What the recovered database is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// It takes the damaged one's place.
    InPlace,
    /// It is written here, where there must be nothing; the damaged one stays as it is.
    Copy(PathBuf),
    /// It is only judged; this is where it is made, and removed again.
    Look(PathBuf),
}

/// A database to recover.
pub struct Request<'a> {
    /// Its path; not a link.
    pub database: &'a Path,
    /// Where the result goes.
    pub way: Way,
    /// Tables that are looked for where the schema is lost.
    pub tables: &'a [Expected<'a>],
    /// Why it is taken to be damaged although its files look well.
    pub suspicion: Option<&'a str>,
    /// All of it is checked although its files look well.
    pub thorough: bool,
    /// Power was cut since it was written: a last commit that is not whole is no damage.
    pub cut: bool,
    /// Where nothing can be read the files are put aside, for a new database.
    pub may_be_fresh: bool,
    /// A file in its place that is text, and no database, goes to the evidence.
    pub set_aside: bool,
    /// What is known of the ids in its table `readings`.
    pub acknowledged: Option<Acknowledged>,
    /// Copies that were kept of it, for what its files do not give any more.
    pub snapshots: Option<&'a dyn Snapshots>,
    /// Told what is done next.
    pub say: &'a dyn Fn(&str),
    /// Told why, before the first thing that changes anything.
    pub begins: &'a dyn Fn(&str),
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("database", &self.database)
            .field("way", &self.way)
            .finish_non_exhaustive()
    }
}

/// Looks at a database, and recovers it where anything is off.
pub fn recover(request: &Request<'_>, site: &Site<'_>) -> Result<Report, RecoveryError> {
    let mut run = Run {
        request,
        site,
        began: site.clock.mono(),
        since: site.clock.mono(),
        steps: Vec::new(),
        earlier: None,
        finished: None,
    };
    run.run()
}

struct Run<'a> {
    request: &'a Request<'a>,
    site: &'a Site<'a>,
    began: Mono,
    since: Mono,
    steps: Vec<StepTaken>,
    /// Kept while somebody had the database open, who changed it since.
    earlier: Option<Evidence>,
    /// Of a swap that was interrupted and is finished now, if nobody was told of it.
    finished: Option<Evidence>,
}

impl Run<'_> {
    fn run(&mut self) -> Result<Report, RecoveryError> {
        let database = self.request.database;
        let in_place = self.request.way == Way::InPlace;
        // Whoever only reads a sound database is left alone.
        let mut hold = None;
        if in_place && swap::is_unfinished(database) {
            hold = Some(Hold::take(database)?);
        }
        let mut evidence = if in_place { self.resume()? } else { None };
        if let Some(kept) = self.finished.take() {
            return self.tell_finished(kept);
        }
        let unmoved = in_place && evidence.is_none();
        let (mut looked, mut found) = self.look(evidence.as_ref())?;
        // Kept by an earlier try, while somebody had it open.
        let mut before = if unmoved { self.kept_in_use() } else { None };
        let build = self.builds(&looked) || evidence.is_some() || before.is_some();
        if found.is_none() && !build {
            return Ok(self.as_it_is(&looked));
        }
        if hold.is_none() {
            match Hold::take(database) {
                Ok(taken) => hold = Some(taken),
                Err(e) => {
                    if unmoved && before.is_none() {
                        self.keep_in_use(&looked, found.as_deref(), &e);
                    }
                    return Err(e.into());
                }
            }
            // Now nobody writes between the look and the repair.
            (looked, found) = self.look(evidence.as_ref())?;
            if found.is_none() && !build {
                return Ok(self.as_it_is(&looked));
            }
        }
        if let Some(kept) = before.take() {
            if kept.is_still_true()? {
                self.took(&format!(
                    "the files are as they were copied to {}",
                    kept.dir.display()
                ));
                found.get_or_insert(kept.manifest.reason.clone());
                evidence = Some(kept);
            } else {
                found = Some(in_other_hands(&kept, found));
                self.earlier = Some(kept);
            }
        }
        // What is off is copied or moved away before anything else is done.
        if in_place
            && evidence.is_none()
            && let Some(why) = &found
        {
            (self.request.begins)(why);
            evidence = Some(self.keep(&looked, why)?);
        }
        let done = self.repair(looked, found, evidence);
        drop(hold);
        done
    }

    /// Is a copy built although nothing is off?
    fn builds(&self, looked: &Looked) -> bool {
        match self.request.way {
            Way::Copy(_) => true,
            // What is sound as far as it was looked at is SQLite's, which reads all of it.
            Way::InPlace | Way::Look(_) => self.request.thorough && looked.wal.skipped() == 0,
        }
    }

    fn look_at(&self, database: &Path) -> Result<Looked, RecoveryError> {
        let r = self.request;
        look(database, r.cut, r.acknowledged)
    }

    /// Looks at the files where they are now; what is off, if anything.
    fn look(
        &mut self,
        evidence: Option<&Evidence>,
    ) -> Result<(Looked, Option<String>), RecoveryError> {
        let database = self.request.database;
        let at = evidence.map_or_else(|| database.to_owned(), Evidence::database);
        let looked = self.look_at(&at)?;
        let found = match (&looked.condition, self.request.suspicion) {
            (Condition::Nothing, _) if evidence.is_none() && self.has_snapshots() => {
                Some("it is missing, and snapshots of it are there".to_owned())
            }
            (Condition::Nothing, _) if evidence.is_none() && self.told_of() > 0 => {
                Some("it is missing, and readings in it were acknowledged".to_owned())
            }
            (Condition::Nothing, _) if evidence.is_none() => {
                return Err(RecoveryError::Nothing(database.to_owned()));
            }
            (Condition::Alien, _) if !self.request.set_aside => {
                return Err(RecoveryError::Alien(database.to_owned()));
            }
            (Condition::Alien, _) => Some("it is not an SQLite database but text".to_owned()),
            (Condition::Off(why), _) => Some(why.clone()),
            (_, Some(why)) => Some(why.to_owned()),
            (Condition::Nothing | Condition::Clean | Condition::Replayable(_), None) => None,
        };
        let hole = match looked.hole {
            0 => String::new(),
            n => format!(", but not at {n} bytes at their ends that nobody ever wrote"),
        };
        self.took(&format!("looked at {} bytes{hole}", looked.bytes));
        Ok((looked, found))
    }

    /// Readings that must have been in what is missing now, where a new one may take its place.
    fn told_of(&self) -> u64 {
        let lost = self
            .all_acknowledged()
            .filter(|_| self.request.may_be_fresh);
        lost.map_or(0, Missing::rows)
    }

    /// All readings of which somebody was told.
    fn all_acknowledged(&self) -> Option<Missing> {
        let all = self.request.acknowledged.map(|a| Missing {
            first: a.lowest.max(1),
            last: a.upto,
        });
        all.filter(|m| m.first <= m.last)
    }

    fn has_snapshots(&self) -> bool {
        let all = |s: &dyn Snapshots| s.of(self.request.database, &mut |_| ());
        self.request.snapshots.is_some_and(|s| !all(s).is_empty())
    }

    /// What a snapshot adds, where the files hold less.
    fn restore(
        &mut self,
        looked: &Looked,
        files: Option<&Judged>,
        out: &Path,
    ) -> Result<Option<Restored>, RecoveryError> {
        let place = self.site.medium_of(out)?;
        let restoring = Restoring {
            snapshots: self.request.snapshots,
            database: self.request.database,
            gone: looked.database.as_ref().is_none_or(Bytes::is_empty),
            acknowledged: self.request.acknowledged,
            out,
            work: super::candidates::Work {
                medium: &place,
                ..self.site.work(&|_, _| {})
            },
        };
        restoring.attempt(files, &mut |what| self.took(what))
    }

    /// Builds the best that can be made of the files and puts it where it is wanted.
    fn repair(
        &mut self,
        looked: Looked,
        found: Option<String>,
        mut evidence: Option<Evidence>,
    ) -> Result<Report, RecoveryError> {
        let (request, site) = (self.request, self.site);
        let moved = evidence
            .as_ref()
            .is_some_and(|e| e.manifest.how == super::How::Moved && !request.database.exists());
        // Read from where the files are now.
        let looked = match &evidence {
            Some(e) if moved => self.look_at(&e.database())?,
            Some(_) | None => looked,
        };
        let out = match &request.way {
            Way::InPlace => swap::staged(request.database),
            Way::Copy(to) => to.clone(),
            Way::Look(dir) => dir.join("candidate"),
        };
        // SQLite would lay what stands there over what is made.
        for suffix in ALL.iter().filter(|s| !s.is_empty()) {
            let beside = companion(&out, suffix);
            if beside.symlink_metadata().is_err() {
                continue;
            }
            if request.way == Way::InPlace {
                let aside = site.set_aside(&beside)?;
                self.took(&format!("set aside {}", aside.display()));
            } else {
                let there = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
                return Err(RecoveryError::io("write beside", &beside)(there));
            }
        }
        (request.say)("building what can be read");
        let chosen = self.choose(&looked, &out)?;
        let best = chosen.best.map(|b| &chosen.judged[b]);
        let sound = best.is_some_and(Judged::is_sound);
        let rows = best.map_or(0, |b| b.opinion.rows());
        let whole = best.is_some_and(|b| {
            let all = b.traits.class == Class::Whole && b.unwritten == 0;
            all && !b.opinion.reindexed && b.is_sound()
        });
        self.took(&told(&chosen));
        // The files looked well, and all that is in them is well.
        if found.is_none() && whole {
            if !matches!(request.way, Way::Copy(_)) {
                site.discard(&out)?;
            }
            let mut report = self.as_it_is(&looked);
            report.kept_rows = Some(rows);
            report.tables = best.map(tables).unwrap_or_default();
            if let Way::Copy(to) = &request.way {
                report.output = Some(to.clone());
            }
            return Ok(report);
        }
        let unwritten = chosen.judged.iter().map(|j| j.unwritten).max();
        let found = found.unwrap_or_else(|| {
            let fault = best.and_then(|b| b.opinion.faults.first().cloned());
            match (fault, best.is_some_and(|b| b.opinion.reindexed)) {
                (Some(fault), _) => format!("SQLite's integrity check says: {fault}"),
                (None, true) => "its indexes disagree with their tables".to_owned(),
                (None, false) => match unwritten {
                    Some(n @ 1..) => {
                        format!("{n} records are none that anybody wrote, though SQLite gives them")
                    }
                    Some(0) | None => "not all of it can be read".to_owned(),
                },
            }
        });
        let restored = self.restore(&looked, best, &out)?;
        // Where a snapshot was tried in vain, what is without a row is not kept.
        let sound = sound && out.exists();
        let has_tables = best.is_some_and(|b| !b.opinion.tables.is_empty());
        let verdict = match (sound, rows) {
            _ if restored.is_some() => Verdict::Restored,
            (true, 1..) => Verdict::Salvaged,
            // An empty table is something; no table at all is nothing that anybody had.
            (true, 0) if !request.may_be_fresh && has_tables => Verdict::Salvaged,
            _ if request.may_be_fresh => Verdict::Fresh,
            _ => Verdict::Unrecoverable,
        };
        let mut report = self.report(&looked, verdict, found.clone());
        if let Some(restored) = &restored {
            report.kept_rows = Some(restored.opinion.rows());
            report.tables = tables_of(&restored.opinion);
            report.restored = Some(restored.from.clone());
            report.missing = missing(&out, request.acknowledged)?;
            report.lost_rows_known = report.missing.iter().map(|m| m.rows()).sum();
        }
        if verdict == Verdict::Fresh {
            report.missing = self.all_acknowledged().into_iter().collect();
            report.lost_rows_known = report.missing.iter().map(|m| m.rows()).sum();
        }
        if verdict == Verdict::Salvaged {
            report.kept_rows = Some(rows);
            report.tables = best.map(tables).unwrap_or_default();
            report.missing = missing(&out, request.acknowledged)?;
            report.lost_rows_known = report.missing.iter().map(|m| m.rows()).sum();
            report.damaged_places = best.map_or(0, |b| {
                u64::from(b.traits.pages_behind) + u64::from(b.traits.holes)
            });
            let left_out = best.iter().flat_map(|b| &b.left_out);
            report.left_out = left_out
                .map(|(name, why)| LeftOut {
                    name: name.clone(),
                    why: why.clone(),
                })
                .collect();
            if best.is_some_and(|b| b.traits.class == Class::Earlier) {
                let through = u64::from(best.map_or(0, |b| b.traits.through));
                let all = looked.wal.transactions().len() as u64;
                (report.kept_transactions, report.lost_transactions) = (through, all - through);
            }
        }
        match (&request.way, verdict) {
            (Way::Look(_), _) => site.discard(&out)?,
            (Way::Copy(to), Verdict::Salvaged | Verdict::Restored) => {
                report.output = Some(to.clone())
            }
            (Way::Copy(to), _) => site.discard(to)?,
            (Way::InPlace, Verdict::Unrecoverable) => {
                site.remove(&out)?;
                if let Some(e) = evidence.as_ref().filter(|_| moved) {
                    swap::put_back(request.database, &e.dir, site)?;
                    self.took("put the files back as they were");
                }
            }
            (Way::InPlace, _) => {
                let kept = match evidence.take() {
                    Some(kept) => kept,
                    None => {
                        (request.begins)(&found);
                        self.keep(&looked, &found)?
                    }
                };
                if verdict == Verdict::Fresh {
                    site.remove(&out)?;
                    swap::clear(request.database, &kept, site)?;
                    self.took("made room for a new database");
                } else {
                    swap::swap(request.database, &kept, site)?;
                    self.took("put the recovered database in place");
                }
                report.evidence = Some(kept.dir.clone());
                evidence = Some(kept);
            }
        }
        self.finish(report, evidence)
    }

    /// The report goes beside the evidence; old evidence goes.
    fn finish(
        &mut self,
        mut report: Report,
        evidence: Option<Evidence>,
    ) -> Result<Report, RecoveryError> {
        if let Some(e) = &evidence {
            report.evidence = Some(e.dir.clone());
        }
        report.steps = std::mem::take(&mut self.steps);
        report.took_ms = ms(self.site.clock.mono().since(self.began));
        report.at = self.site.clock.wall().to_string();
        let text = serde_json::to_vec_pretty(&report)
            .map_err(|e| RecoveryError::io("write", Path::new(REPORT))(e.into()))?;
        let kept: Vec<&Path> = [&evidence, &self.earlier]
            .into_iter()
            .flatten()
            .map(|e| e.dir.as_path())
            .collect();
        for dir in &kept {
            self.site.replace(&dir.join(REPORT), &text)?;
        }
        if !kept.is_empty() {
            let site = self.site;
            if self.request.way == Way::InPlace {
                swap::end(self.request.database, site)?;
            }
            // All is done, and said: what is too much goes the next time.
            if let Err(e) = prune(site.evidence_max, &kept, site) {
                log::warn!("old evidence stays: {e}");
            }
        }
        Ok(report)
    }

    fn choose(&self, looked: &Looked, out: &Path) -> Result<Chosen, RecoveryError> {
        let place = self.site.medium_of(out)?;
        let tenths = Cell::new(0);
        let progress = |at: u64, of: u64| {
            let tenth = at.saturating_mul(10) / of.max(1);
            if of >= LARGE && tenth != tenths.replace(tenth) {
                (self.request.say)(&format!("{tenth}0 % of {} MiB written", of >> 20));
            }
        };
        let work = super::candidates::Work {
            medium: &place,
            ..self.site.work(&progress)
        };
        let tables = self.request.tables;
        let database = looked.database.as_ref().map(|f| f as &dyn Bytes);
        // Nobody has both: what lies in a journal's place beside a log with commits is none, and
        // SQLite looks at it in vain.
        let is_logged = !looked.wal.transactions().is_empty();
        if let (Some(file), Some((log, journal))) = (&looked.database, &looked.journal)
            && journal.state() != JournalState::Idle
            && !is_logged
        {
            let back = RolledBack::new(file, log, journal)
                .map_err(RecoveryError::io("read", self.request.database))?;
            let whole = journal.state() == JournalState::Hot;
            return choose(
                out,
                &mut [
                    Box::new(RollBack::new(&back, whole)),
                    Box::new(RowSalvage::new(FromPages::new(&back, tables, 0), false)),
                ],
                tables,
                &work,
            );
        }
        let log = looked.log.as_ref().map(|f| f as &dyn Bytes);
        let overlay = Overlay::new(database, log, &looked.wal, looked.page_size);
        let through = u32::try_from(looked.wal.transactions().len()).unwrap_or(u32::MAX);
        let mut candidates: Vec<Box<dyn Candidate + '_>> = Vec::new();
        for one in FromLog::all(overlay) {
            candidates.push(Box::new(one));
        }
        let rows = FromPages::new(&overlay, tables, through);
        let rows = RowSalvage::new(rows, looked.is_logged());
        candidates.push(Box::new(rows));
        choose(out, &mut candidates, tables, &work)
    }

    fn as_it_is(&mut self, looked: &Looked) -> Report {
        let (verdict, found) = match &looked.condition {
            Condition::Replayable(what) => (Verdict::Replayed, what.clone()),
            Condition::Nothing | Condition::Clean | Condition::Off(_) | Condition::Alien => {
                (Verdict::Clean, "nothing is off".to_owned())
            }
        };
        let mut report = self.report(looked, verdict, found);
        report.steps = std::mem::take(&mut self.steps);
        report.took_ms = ms(self.site.clock.mono().since(self.began));
        report.at = self.site.clock.wall().to_string();
        report
    }

    fn report(&self, looked: &Looked, verdict: Verdict, found: String) -> Report {
        let wal = &looked.wal;
        let committed = || wal.frames().filter(|f| f.transaction.is_some());
        let damaged = committed().filter(|f| f.state.is_damaged()).count() as u64;
        let torn = wal.transactions().iter().filter(|t| t.damaged > 0).count() as u64;
        Report {
            database: self.request.database.to_owned(),
            verdict,
            found,
            kept_frames: committed().count() as u64 - damaged,
            lost_frames: damaged,
            kept_transactions: wal.transactions().len() as u64 - torn,
            lost_transactions: torn,
            kept_rows: None,
            lost_rows_known: 0,
            missing: Vec::new(),
            tables: Vec::new(),
            restored: None,
            evidence: None,
            output: None,
            steps: Vec::new(),
            took_ms: 0.0,
            at: String::new(),
            skipped_frames: wal.skipped(),
            damaged_places: 0,
            left_out: Vec::new(),
        }
    }

    /// Notes a step that ends now.
    fn took(&mut self, what: &str) {
        let now = self.site.clock.mono();
        self.steps.push(StepTaken {
            what: what.to_owned(),
            took_ms: ms(now.since(self.since)),
        });
        self.since = now;
    }
}

/// What is said of a database that somebody else changed while it was waited for.
fn in_other_hands(kept: &Evidence, found: Option<String>) -> String {
    let then = format!(
        "it was damaged while another program had it open ({}), and that program changed it since: \
         as it was then it is kept in {}",
        kept.manifest.reason,
        kept.dir.display()
    );
    match found {
        Some(now) => format!("{now}; {then}"),
        None => then,
    }
}

/// Room that the repaired database needs at most.
fn needed(looked: &Looked) -> u64 {
    let database = looked.database.as_ref().map_or(0, Bytes::len);
    let log = looked.log.as_ref().map_or(0, Bytes::len);
    database + log + SPARE
}

/// The candidates in a line.
fn told(chosen: &Chosen) -> String {
    let each: Vec<_> = chosen
        .judged
        .iter()
        .enumerate()
        .map(|(n, j)| {
            let best = if Some(n) == chosen.best {
                " (taken)"
            } else {
                ""
            };
            let sound = match (j.is_sound(), j.opinion.reindexed) {
                (true, false) => "sound",
                (true, true) => "sound after REINDEX",
                (false, _) => "faulty",
            };
            let odd = match j.unwritten {
                0 => String::new(),
                n => format!(", {n} records that nobody wrote"),
            };
            format!("{}: {} rows, {sound}{odd}{best}", j.name, j.opinion.rows())
        })
        .collect();
    format!("built {}", each.join("; "))
}

fn tables(judged: &Judged) -> Vec<TableKept> {
    tables_of(&judged.opinion)
}

fn tables_of(opinion: &Opinion) -> Vec<TableKept> {
    let all = opinion.tables.iter();
    all.map(|(name, rows)| TableKept {
        name: name.clone(),
        rows: *rows,
    })
    .collect()
}

fn ms(d: std::time::Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

mod custody;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests plant damaged files")]
mod tests;
