//! Large files, written piece by piece.
//!
//! It promises that at most one piece is dirty at any time, so that closing the gate leaves
//! little behind, and that a pass is held only while a piece is written. It must never leave a
//! file under its final name: the caller renames what it finished.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::gate::Gate;
use super::medium::{DurableError, Medium, fault};

/// Bytes between two syncs, and the most that is written under one pass.
pub const PIECE: usize = 1 << 20;
/// How often a writer that waits for the gate asks whether it shall go on.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// A new file that is being written.
///
/// As a [`Write`] it waits while the gate is closed, and fails once `stop` is set.
pub struct Bulk<'a> {
    medium: &'a Medium,
    gate: &'a Gate,
    stop: &'a AtomicBool,
    file: File,
    path: PathBuf,
    unsynced: usize,
    written: u64,
}

impl std::fmt::Debug for Bulk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bulk")
            .field("path", &self.path)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl<'a> Bulk<'a> {
    /// Makes `path`, which must not exist, readable and writable for its owner alone.
    pub fn create(
        path: &Path,
        medium: &'a Medium,
        gate: &'a Gate,
        stop: &'a AtomicBool,
    ) -> Result<Self, DurableError> {
        medium.healthy()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| fault("create", path, e.into()))?;
        Ok(Self {
            medium,
            gate,
            stop,
            file: File::from(file),
            path: path.to_owned(),
            unsynced: 0,
            written: 0,
        })
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of it that are on the medium.
    pub fn synced(&self) -> u64 {
        self.written - self.unsynced as u64
    }

    /// Everything written, and the file's name, is on the medium.
    pub fn finish(mut self) -> Result<u64, DurableError> {
        let pass = enter(self.gate, self.stop).map_err(|e| fault("finish", &self.path, e))?;
        self.sync()?;
        self.medium.sync_parent(&self.path)?;
        drop(pass);
        Ok(self.written)
    }

    fn sync(&mut self) -> Result<(), DurableError> {
        self.unsynced = 0;
        self.medium.sync_data(&self.file, &self.path)
    }
}

impl Write for Bulk<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.unsynced);
        let _pass = enter(self.gate, self.stop)?;
        let n = self.file.write(&bytes[..n])?;
        self.unsynced += n;
        self.written += n as u64;
        if self.unsynced >= PIECE {
            self.sync().map_err(io::Error::other)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Long work ended because its stop was set, not because anything is wrong.
#[derive(Debug, thiserror::Error)]
#[error("told to stop; it is done again from its start")]
struct ToldToStop;

/// Is that, somewhere in its causes, why this failed?
pub fn was_told_to_stop(e: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(e);
    while let Some(e) = cause {
        let kept = e.downcast_ref().and_then(io::Error::get_ref);
        if kept.is_some_and(|e| e.is::<ToldToStop>()) {
            return true;
        }
        cause = e.source();
    }
    false
}

/// Waits for the gate to open, until `stop` is set.
pub fn enter<'g>(gate: &'g Gate, stop: &AtomicBool) -> io::Result<super::gate::Pass<'g>> {
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(ToldToStop));
        }
        if let Some(pass) = gate.enter_timeout(LOOK) {
            return Ok(pass);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Closer;

    #[test]
    fn a_closed_gate_stops_it_between_pieces_and_it_can_be_told_to_give_up() {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("open");
        let gate = Gate::new();
        let path = home.path().join("copy");
        let stop = AtomicBool::new(false);
        let mut bulk = Bulk::create(&path, &medium, &gate, &stop).expect("create");
        bulk.write_all(&[1; PIECE + 5]).expect("write");
        gate.close(Closer::Power);
        stop.store(true, Ordering::Relaxed);
        let e = bulk.write_all(&[2; 5]).expect_err("closed").to_string();
        assert!(e.contains("told to stop"), "{e}");
        assert_eq!(bulk.written(), PIECE as u64 + 5);
        assert_eq!(gate.in_flight(), 0);
        gate.open(Closer::Power);
        stop.store(false, Ordering::Relaxed);
        assert_eq!(bulk.finish().expect("finish"), PIECE as u64 + 5);
        Bulk::create(&path, &medium, &gate, &stop).expect_err("never over another file");
    }
}
