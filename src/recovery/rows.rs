//! Page salvage as one more candidate, and a rolled back database as another.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::candidates::{Candidate, Class, Traits, Work};
use super::pages::FromPages;
use super::{Pages, RecoveryError};

/// Where the first page says by which journal the database is written: 2 is a log.
const JOURNAL: u64 = 18;
/// Written between two syncs.
const PORTION: usize = 1 << 20;

/// The rows that are left, in a database made anew that keeps its kind of journal.
#[derive(Debug)]
pub(super) struct RowSalvage<'a> {
    rows: FromPages<'a>,
    /// The database was written through a log.
    logged: bool,
}

impl<'a> RowSalvage<'a> {
    pub(super) fn new(rows: FromPages<'a>, logged: bool) -> Self {
        Self { rows, logged }
    }
}

impl Candidate for RowSalvage<'_> {
    fn name(&self) -> &'static str {
        self.rows.name()
    }

    fn traits(&self) -> Traits {
        self.rows.traits()
    }

    fn left_out(&self) -> Vec<(String, String)> {
        self.rows.left_out()
    }

    fn build(&mut self, out: &Path, work: &Work<'_>) -> Result<(), RecoveryError> {
        self.rows.build(out, work)
    }

    fn finish(&mut self, out: &Path, work: &Work<'_>) -> Result<(), RecoveryError> {
        self.rows.finish(out, work)?;
        if !self.logged {
            return Ok(());
        }
        let _pass = work.enter(out)?;
        let file = OpenOptions::new()
            .write(true)
            .open(out)
            .map_err(RecoveryError::io("open", out))?;
        file.write_all_at(&[2, 2], JOURNAL)
            .map_err(RecoveryError::io("write", out))?;
        work.sync(&file, out)
    }
}

/// The database as it was before the transaction that its journal rolls back.
pub(super) struct RollBack<'a> {
    pages: &'a dyn Pages,
    /// Every original is there.
    whole: bool,
}

impl<'a> RollBack<'a> {
    pub(super) fn new(pages: &'a dyn Pages, whole: bool) -> Self {
        Self { pages, whole }
    }
}

impl Candidate for RollBack<'_> {
    fn name(&self) -> &'static str {
        "rolled back"
    }

    fn traits(&self) -> Traits {
        Traits {
            class: if self.whole {
                Class::Whole
            } else {
                Class::Newest
            },
            through: 0,
            pages_behind: 0,
            pages_unproven: 0,
            holes: 0,
            mixed: false,
        }
    }

    fn build(&mut self, out: &Path, work: &Work<'_>) -> Result<(), RecoveryError> {
        let failed = |e| RecoveryError::io("write", out)(e);
        let mut file = File::create_new(out).map_err(RecoveryError::io("create", out))?;
        let mut page = vec![0; self.pages.page_size()];
        let mut portion = Vec::with_capacity(PORTION + page.len());
        let last = self.pages.highest();
        let all = u64::from(last) * page.len() as u64;
        for number in 1..=last {
            page.fill(0);
            // A page that cannot be read is a fault that the check will name.
            if let Some(v) = self.pages.versions(number).last()
                && let Err(e) = self.pages.read(*v, &mut page)
            {
                log::warn!("page {number} cannot be read: {e}");
                page.fill(0);
            }
            portion.extend_from_slice(&page);
            if portion.len() >= PORTION || number == last {
                let _pass = work.enter(out)?;
                file.write_all(&portion).map_err(failed)?;
                work.sync(&file, out)?;
                (work.progress)(u64::from(number) * page.len() as u64, all);
                portion.clear();
            }
        }
        Ok(())
    }

    fn finish(&mut self, _: &Path, _: &Work<'_>) -> Result<(), RecoveryError> {
        Ok(())
    }
}
