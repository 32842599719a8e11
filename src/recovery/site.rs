//! Where a recovery works: the medium, the gate, the time, the room for evidence.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::clock::Clock;
use crate::durable::{Gate, Medium};

use super::RecoveryError;
use super::candidates::Work;

/// What every step of a recovery needs.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The file system of the database; all syncs and renames go through it.
    pub medium: &'a Medium,
    /// Passed piece by piece; closed while power fails.
    pub gate: &'a Arc<Gate>,
    /// Set from elsewhere to give up: it is begun again later.
    pub stop: &'a Arc<AtomicBool>,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Where evidence goes.
    pub evidence: &'a Path,
    /// Bytes of evidence that are kept; the newest always is.
    pub evidence_max: u64,
}

impl<'a> Site<'a> {
    /// The file system of `path`: this one, unless it lies in another directory.
    pub(super) fn medium_of(&self, path: &Path) -> Result<Place<'a>, RecoveryError> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        if dir == self.medium.dir() {
            return Ok(Place::Here(self.medium));
        }
        Ok(Place::There(Medium::open(dir)?))
    }

    /// The same for long work on copies.
    pub(super) fn work(&self, progress: &'a dyn Fn(u64, u64)) -> Work<'a> {
        Work {
            medium: self.medium,
            gate: self.gate,
            stop: self.stop,
            progress,
        }
    }
}

impl fmt::Debug for Site<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site")
            .field("evidence", &self.evidence)
            .field("evidence_max", &self.evidence_max)
            .finish_non_exhaustive()
    }
}

/// A medium that may be another than the database's own.
pub(super) enum Place<'a> {
    Here(&'a Medium),
    There(Medium),
}

impl std::ops::Deref for Place<'_> {
    type Target = Medium;

    fn deref(&self) -> &Medium {
        match self {
            Self::Here(medium) => medium,
            Self::There(medium) => medium,
        }
    }
}
