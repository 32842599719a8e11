//! Where a backup is made: the medium, the gate, the time, the directory for copies.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Clock;
use crate::durable::{Gate, Medium};

use super::BackupError;

/// What every step of a backup needs.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The file system of `work`; all syncs and renames there go through it.
    pub medium: &'a Medium,
    /// Passed piece by piece; closed while power fails.
    pub gate: &'a Gate,
    /// Set from elsewhere to give up.
    pub stop: &'a Arc<AtomicBool>,
    /// The time.
    pub clock: &'a dyn Clock,
    /// A directory of this room alone, for copies that nobody keeps.
    pub work: &'a Path,
    /// Told of bytes as they are copied, packed or read back.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Told what is done next.
    pub say: &'a (dyn Fn(&str) + Sync),
}

impl fmt::Debug for Site<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site")
            .field("work", &self.work)
            .finish_non_exhaustive()
    }
}

impl Site<'_> {
    /// Has it been told to give up?
    pub(super) fn go_on(&self) -> Result<(), BackupError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(BackupError::Stopped);
        }
        Ok(())
    }
}
