//! In whose hands the damaged files are: what was interrupted, what is copied or moved away, and
//! what is kept while somebody else has them.
//!
//! It promises that evidence is durable before the first change, and one copy at most for each
//! time that a damaged database is waited for.

use std::path::Path;

use super::Run;
use crate::recovery::evidence::{Evidence, clear_parts};
use crate::recovery::files::free_bytes;
use crate::recovery::history::told;
use crate::recovery::look::Looked;
use crate::recovery::missing::missing;
use crate::recovery::report::{Report, Verdict};
use crate::recovery::swap::{self, Resumed};
use crate::recovery::{HoldError, RecoveryError};

impl Run<'_> {
    /// What was kept of the database while it could not be held, if anything.
    pub(super) fn kept_in_use(&self) -> Option<Evidence> {
        let kept = Evidence::of_one_in_use(self.request.database, self.site.evidence);
        kept.unwrap_or_else(|e| {
            log::warn!("what was kept earlier is not known: {e}");
            None
        })
    }

    /// Somebody has the damaged database open, and may checkpoint it or delete its log at any
    /// moment: what can still be copied is copied now. It is no reason to fail otherwise.
    pub(super) fn keep_in_use(&mut self, looked: &Looked, found: Option<&str>, held: &HoldError) {
        let (Some(why), HoldError::InUse { .. }) = (found, held) else {
            return;
        };
        let (database, site) = (self.request.database, self.site);
        let folder = database.parent().unwrap_or(Path::new("/"));
        let room = looked.bytes.saturating_add(super::SPARE);
        if !free_bytes(folder).is_ok_and(|free| free >= room) {
            log::warn!(
                "{} is damaged and in use, and there is no room for a copy of it",
                database.display()
            );
            return;
        }
        (self.request.begins)(why);
        match Evidence::copy_in_use(database, why, site) {
            Ok(kept) => (self.request.say)(&format!(
                "it is damaged and in use: what it holds now is kept in {}",
                kept.dir.display()
            )),
            Err(e) => log::warn!("{} is damaged and in use: {e}", database.display()),
        }
    }

    /// Finishes what a cut interrupted; the evidence where the damaged files lie there now.
    pub(super) fn resume(&mut self) -> Result<Option<Evidence>, RecoveryError> {
        let kept = match swap::resume(self.request.database, self.site)? {
            Resumed::Nothing => return Ok(None),
            Resumed::Swapped(dir) => {
                self.took(&format!(
                    "finished a swap that was interrupted; its evidence is {}",
                    dir.display()
                ));
                let kept = Evidence::read(&dir)?;
                self.finished = Some(kept);
                return Ok(None);
            }
            Resumed::CalledOff(dir) => {
                self.took(&format!(
                    "called off a swap that was interrupted: the database was written since; the \
                     evidence is {}",
                    dir.display()
                ));
                return Ok(None);
            }
            Resumed::InEvidence(dir) => Evidence::read(&dir)?,
        };
        self.took("went on with a recovery that was interrupted");
        Ok(Some(kept))
    }

    /// The report of a recovery that was cut before it could give one.
    pub(super) fn tell_finished(&mut self, kept: Evidence) -> Result<Report, RecoveryError> {
        let database = self.request.database;
        (self.request.begins)(&kept.manifest.reason);
        if let Some(report) = told(&kept.dir) {
            swap::end(database, self.site)?;
            return Ok(report);
        }
        let verdict = if database.exists() {
            Verdict::Salvaged
        } else {
            Verdict::Fresh
        };
        let was = self.look_at(&kept.database())?;
        let mut report = self.report(&was, verdict, kept.manifest.reason.clone());
        if verdict == Verdict::Salvaged {
            report.missing = missing(database, self.request.acknowledged)?;
            report.lost_rows_known = report.missing.iter().map(|m| m.rows()).sum();
        }
        self.finish(report, Some(kept))
    }

    /// Copies the files as evidence, or moves them where there is no room for two.
    pub(super) fn keep(&mut self, looked: &Looked, why: &str) -> Result<Evidence, RecoveryError> {
        let (database, site) = (self.request.database, self.site);
        (self.request.say)("keeping the damaged files as evidence");
        clear_parts(database, site)?;
        if let Some(kept) = Evidence::of_these_files(database, site)? {
            self.took(&format!("the files are kept in {}", kept.dir.display()));
            return Ok(kept);
        }
        let folder = database.parent().unwrap_or(Path::new("/"));
        let free = free_bytes(folder).map_err(RecoveryError::io("ask for free room in", folder))?;
        let needed = super::needed(looked);
        if free >= looked.bytes.saturating_add(needed) {
            let kept = Evidence::copy(database, why, site)?;
            self.took(&format!("copied the files to {}", kept.dir.display()));
            return Ok(kept);
        }
        if free < needed {
            return Err(RecoveryError::NoRoom {
                path: database.to_owned(),
                needed,
                free,
            });
        }
        let kept = Evidence::for_moving(database, why, site)?;
        swap::move_away(database, &kept, site)?;
        self.took(&format!(
            "moved the files to {}: there is no room for a copy of them",
            kept.dir.display()
        ));
        Ok(kept)
    }
}
