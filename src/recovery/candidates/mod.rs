//! Candidate databases: built as copies, judged by SQLite, the best one chosen.
//!
//! It promises that the originals are only read, that one copy exists at a time, and that the
//! one that is left is on the medium. Integrity comes first; then no row may be there that was
//! never written; then the most rows win. Every portion passes the gate, so that a power
//! failure stills the work and the return of power resumes it.

mod backfill;
mod choice;
mod image;
mod judge;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use choice::Rule;
pub use image::FromLog;
pub use judge::{Opinion, judge};

use super::RecoveryError;
use super::pages::{Expected, Image, unwritten};
use super::source::FileBytes;
use crate::durable::{Gate, Medium, Pass};

/// How long a closed gate is waited for before asking again whether to stop.
const PATIENCE: Duration = Duration::from_millis(200);
/// Pages that are read between two looks at the gate.
const PAGES_AT_ONCE: u32 = 256;

/// What long work needs.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// The file system of the copies.
    pub medium: &'a Medium,
    /// Passed before each portion.
    pub gate: &'a Arc<Gate>,
    /// Set from elsewhere to give up.
    pub stop: &'a Arc<AtomicBool>,
    /// Told after each portion: bytes done, bytes in all.
    pub progress: &'a dyn Fn(u64, u64),
}

impl<'a> Work<'a> {
    /// Waits for the gate; `path` is what is being written.
    pub fn enter(&self, path: &Path) -> Result<Pass<'a>, RecoveryError> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(RecoveryError::stopped(path));
            }
            if let Some(pass) = self.gate.enter_timeout(PATIENCE) {
                return Ok(pass);
            }
        }
    }

    /// Puts what was written to `file` on the medium.
    pub fn sync(&self, file: &File, path: &Path) -> Result<(), RecoveryError> {
        self.medium
            .sync_data(file, path)
            .map_err(|source| RecoveryError::Durable {
                path: path.to_owned(),
                source,
            })
    }
}

impl std::fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("medium", self.medium)
            .field("gate", self.gate)
            .finish_non_exhaustive()
    }
}

/// Which state of the database a candidate shows; the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// All that was committed, nothing in doubt.
    Whole,
    /// The newest of each page or row that is left.
    Newest,
    /// Whole transactions, some left out.
    Transactions,
    /// The newest of each page, of which some are vouched for by nothing: a second fault in
    /// just such a page would show as a row that was never written.
    Unvouched,
    /// An earlier state: what came later is lost, and what was deleted later is back.
    Earlier,
}

/// What is known of a candidate beside its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// The state that it shows.
    pub class: Class,
    /// Transactions of the log that it reflects.
    pub through: u32,
    /// Pages of which the last version is damaged, so that an older one was taken.
    pub pages_behind: u32,
    /// Pages for which no checksum vouches although they come from the log.
    pub pages_unproven: u32,
    /// Pages of which no file has any version.
    pub holes: u32,
    /// A row may have been put together from pages of different times, which no check sees.
    pub mixed: bool,
}

/// A way to make a database out of what is left.
pub trait Candidate {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// What is known of it; after [`Candidate::build`].
    fn traits(&self) -> Traits;

    /// Objects of its schema that could not be made, each with the reason; after
    /// [`Candidate::build`].
    fn left_out(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Writes it to `out`, where there is nothing yet, as a database file alone that SQLite
    /// opens without making a log.
    fn build(&mut self, out: &Path, work: &Work<'_>) -> Result<(), RecoveryError>;

    /// Gives the chosen file at `out` what was withheld while it was judged.
    fn finish(&mut self, out: &Path, work: &Work<'_>) -> Result<(), RecoveryError>;
}

/// A candidate that was built and looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Its name.
    pub name: &'static str,
    /// What is known of it.
    pub traits: Traits,
    /// What SQLite says.
    pub opinion: Opinion,
    /// Records of tables that are known which nobody wrote, though SQLite gives them.
    pub unwritten: u64,
    /// Objects of its schema that could not be made, each with the reason.
    pub left_out: Vec<(String, String)>,
}

impl Judged {
    fn rows(&self) -> u64 {
        self.opinion.rows()
    }

    /// SQLite finds no fault.
    pub fn is_sound(&self) -> bool {
        self.opinion.faults.is_empty()
    }

    /// The smallest is the best.
    fn rank(&self) -> impl Ord + use<> {
        (
            !self.is_sound(),
            self.traits.mixed,
            self.traits.class,
            std::cmp::Reverse(self.opinion.rows()),
            self.traits.pages_unproven,
            std::cmp::Reverse(self.traits.through),
        )
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The candidates that were built, in that order.
    pub judged: Vec<Judged>,
    /// The one at the output path, by its place among them; `None` if there was none to build.
    pub best: Option<usize>,
}

/// Builds each of `candidates` at `out`, where there must be nothing, and leaves the best one
/// there: durable, and without companions. One that has faults is left only where none is
/// sound. The first that is [`Class::Whole`] and sound ends the search. `known` are tables of which
/// every record can be judged.
pub fn choose(
    out: &Path,
    candidates: &mut [Box<dyn Candidate + '_>],
    known: &[Expected<'_>],
    work: &Work<'_>,
) -> Result<Chosen, RecoveryError> {
    let mut judged: Vec<Judged> = Vec::new();
    let mut built = None;
    for (i, candidate) in candidates.iter_mut().enumerate() {
        if built.is_some() {
            remove(out, work)?;
        }
        candidate.build(out, work)?;
        built = Some(i);
        let opinion = judge(out, work)?;
        // One with faults is the last choice anyhow.
        let unwritten = if opinion.faults.is_empty() {
            unwritten_records(out, known, work)?
        } else {
            0
        };
        let one = Judged {
            name: candidate.name(),
            traits: candidate.traits(),
            opinion,
            unwritten,
            left_out: candidate.left_out(),
        };
        log::info!(
            "candidate {}: {} rows, {}",
            one.name,
            one.opinion.rows(),
            one.opinion.faults.first().map_or("sound", String::as_str)
        );
        let whole = one.traits.class == Class::Whole && !one.traits.mixed;
        let done = one.is_sound() && whole && one.unwritten == 0;
        judged.push(one);
        if done {
            break;
        }
    }
    // Rows that nobody wrote weigh more, as long as no others are lost with them.
    let outdone = |j: &Judged| {
        let same =
            |o: &&Judged| o.is_sound() && o.unwritten == 0 && o.rows() + j.unwritten >= j.rows();
        j.unwritten > 0 && judged.iter().any(|o| same(&o))
    };
    let best = (0..judged.len()).min_by_key(|i| (outdone(&judged[*i]), judged[*i].rank()));
    if let Some(best) = best {
        let candidate = &mut candidates[best];
        let opinion = &judged[best].opinion;
        if built != Some(best) || opinion.spoiled {
            remove(out, work)?;
            candidate.build(out, work)?;
            // Rebuilds the indexes again where that was needed.
            if opinion.reindexed {
                judge(out, work)?;
            }
        }
        candidate.finish(out, work)?;
        let _pass = work.enter(out)?;
        let file = File::open(out).map_err(RecoveryError::io("open", out))?;
        work.sync(&file, out)?;
        work.medium
            .sync_parent(out)
            .map_err(|source| RecoveryError::Durable {
                path: out.to_owned(),
                source,
            })?;
    }
    Ok(Chosen { judged, best })
}

fn unwritten_records(
    out: &Path,
    known: &[Expected<'_>],
    work: &Work<'_>,
) -> Result<u64, RecoveryError> {
    let io = |e| RecoveryError::io("read", out)(e);
    let file = File::open(out).and_then(FileBytes::new).map_err(io)?;
    let image = Image::new(file).map_err(io)?;
    let mut pages = 0u32;
    unwritten(&image, known, || {
        pages = pages.wrapping_add(1);
        // Power may fail meanwhile, or somebody may want it to stop.
        if pages.is_multiple_of(PAGES_AT_ONCE) {
            drop(work.enter(out)?);
        }
        Ok(())
    })
}

/// Removes a copy that was not chosen.
fn remove(out: &Path, work: &Work<'_>) -> Result<(), RecoveryError> {
    let _pass = work.enter(out)?;
    std::fs::remove_file(out).map_err(RecoveryError::io("remove", out))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests plant damaged files")]
mod tests;
