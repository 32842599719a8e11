//! Page salvage as one of the ways to make a database out of what is left.

use std::path::Path;

use super::super::candidates::{Candidate, Class, Traits, Work};
use super::super::error::RecoveryError;
use super::super::source::Pages;
use super::rebuild::{Pace, Rebuilt, Rest, rebuild};
use super::table::Expected;
use crate::durable::Stride;

/// The rows that `pages` still give, in a fresh database.
pub struct FromPages<'a> {
    pages: &'a dyn Pages,
    known: &'a [Expected<'a>],
    transactions: u32,
    rebuilt: Option<Rebuilt>,
}

impl std::fmt::Debug for FromPages<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FromPages")
            .field("rebuilt", &self.rebuilt)
            .finish_non_exhaustive()
    }
}

impl<'a> FromPages<'a> {
    /// Salvages `pages`, which reflect so many transactions of the log; `known` are tables that
    /// are looked for where the schema is lost.
    pub fn new(pages: &'a dyn Pages, known: &'a [Expected<'a>], transactions: u32) -> Self {
        Self {
            pages,
            known,
            transactions,
            rebuilt: None,
        }
    }

    /// What was kept of each table and what not; after it was built.
    pub fn rebuilt(&self) -> Option<&Rebuilt> {
        self.rebuilt.as_ref()
    }
}

/// Passes the gate for each portion, and syncs it.
struct Passing<'p> {
    work: &'p Work<'p>,
    out: &'p Path,
    stride: Stride,
}

impl Pace for Passing<'_> {
    fn begin(&mut self) -> Result<(), RecoveryError> {
        if self.stride.enter() {
            Ok(())
        } else {
            Err(RecoveryError::stopped(self.out))
        }
    }

    fn rest(&mut self) -> Option<Rest> {
        Some(Box::new(self.stride.rest()))
    }

    fn end(&mut self) -> Result<(), RecoveryError> {
        Ok(self.stride.leave(self.work.medium)?)
    }
}

impl Candidate for FromPages<'_> {
    fn name(&self) -> &'static str {
        "pages"
    }

    fn traits(&self) -> Traits {
        let sum = |of: fn(&super::Tally) -> u64| {
            let tables = self.rebuilt.iter().flat_map(|r| &r.tables);
            u32::try_from(tables.map(|(_, t)| of(t)).sum::<u64>()).unwrap_or(u32::MAX)
        };
        Traits {
            class: Class::Newest,
            through: self.transactions,
            pages_behind: u32::try_from(self.rebuilt.as_ref().map_or(0, |r| r.damaged_leaves))
                .unwrap_or(u32::MAX),
            pages_unproven: 0,
            holes: sum(|t| t.holes),
            // Each row is of one page and its own overflow chain.
            mixed: false,
        }
    }

    fn left_out(&self) -> Vec<(String, String)> {
        let rebuilt = self.rebuilt.iter();
        rebuilt.flat_map(|r| r.left_out.iter().cloned()).collect()
    }

    fn build(&mut self, out: &Path, work: &Work<'_>) -> Result<(), RecoveryError> {
        let mut pace = Passing {
            work,
            out,
            stride: Stride::new(out, work.gate, work.stop),
        };
        let done = rebuild(self.pages, self.known, out, &mut pace);
        // A sync that failed in its middle looks like a stop.
        pace.end()?;
        self.rebuilt = Some(done?);
        Ok(())
    }

    fn finish(&mut self, _: &Path, _: &Work<'_>) -> Result<(), RecoveryError> {
        Ok(())
    }
}
