//! Where a recovery works: the medium, the gate, the time, the room for evidence.
//!
//! It promises that each rename and each removal passes the gate by itself, so that a power
//! failure stills a recovery between any two of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::clock::Clock;
use crate::durable::{Gate, Medium, Pass};

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

    /// Waits for the gate; `path` is what is written next.
    pub(super) fn enter(&self, path: &Path) -> Result<Pass<'a>, RecoveryError> {
        self.work(&|_, _| {}).enter(path)
    }

    /// [`Medium::replace`], past the gate.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), RecoveryError> {
        let _pass = self.enter(path)?;
        Ok(self.medium.replace(path, bytes)?)
    }

    /// [`Medium::rename`], past the gate.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), RecoveryError> {
        let _pass = self.enter(to)?;
        Ok(self.medium.rename(from, to)?)
    }

    /// [`Medium::remove`], past the gate.
    pub(super) fn remove(&self, path: &Path) -> Result<(), RecoveryError> {
        let _pass = self.enter(path)?;
        Ok(self.medium.remove(path)?)
    }

    /// The same for a copy, which may be on another file system.
    pub(super) fn discard(&self, copy: &Path) -> Result<(), RecoveryError> {
        let _pass = self.enter(copy)?;
        Ok(self.medium_of(copy)?.remove(copy)?)
    }

    /// [`Medium::make_dir`], past the gate.
    pub(super) fn make_dir(&self, path: &Path) -> Result<(), RecoveryError> {
        let _pass = self.enter(path)?;
        Ok(self.medium.make_dir(path)?)
    }

    /// [`Medium::set_aside`], past the gate.
    pub fn set_aside(&self, path: &Path) -> Result<PathBuf, RecoveryError> {
        let _pass = self.enter(path)?;
        Ok(self.medium.set_aside(path)?)
    }

    /// Removes the folder `path`, empty by now, past the gate.
    pub(super) fn remove_dir(&self, path: &Path) -> Result<(), RecoveryError> {
        let _pass = self.enter(path)?;
        std::fs::remove_dir(path).map_err(RecoveryError::io("remove", path))?;
        Ok(self.medium.sync_parent(path)?)
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
