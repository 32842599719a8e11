//! Room kept back on the medium, given up when everything else is full.
//!
//! With it the power-fail plan still fits a full disk: what was acknowledged is moved out of the
//! write-ahead log although somebody else has used up all the rest. It is only ever allocated,
//! never written (nobody reads it), so it costs the card nothing. It must never be a reason to
//! fail: a file system that cannot keep room back is used without.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::medium::{DurableError, Medium};
use super::own_file::open_own;

/// At most this part of the file system is kept back.
const SHARE: u64 = 20;
/// Beside the reserve, this part of it must be free before it counts as restored: service that
/// resumes must not be full again at once.
const SPARE: u64 = 4;

/// See the module's text.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: AtomicBool,
}

impl Reserve {
    /// The reserve at `path`, of `bytes` bytes but at most a twentieth of the file system; 0 is
    /// none. It is not taken yet.
    pub fn new(path: &Path, bytes: u64) -> Self {
        let size = path
            .parent()
            .and_then(|dir| rustix::fs::statvfs(dir).ok())
            .map_or(u64::MAX, |s| s.f_blocks.saturating_mul(s.f_frsize));
        Self {
            path: path.to_owned(),
            bytes: bytes.min(size / SHARE),
            held: AtomicBool::new(false),
        }
    }

    /// Bytes kept back now.
    pub fn held_bytes(&self) -> u64 {
        if self.is_held() { self.bytes } else { 0 }
    }

    /// Is it whole? A reserve of nothing always is.
    pub fn is_held(&self) -> bool {
        self.bytes == 0 || self.held.load(SeqCst)
    }

    /// Takes the room, or finds that an earlier agent has; false where there is not enough.
    pub fn take(&self, medium: &Medium) -> Result<bool, DurableError> {
        if self.is_held() {
            return Ok(true);
        }
        let file = open_own(&self.path, true).map_err(|e| self.fault("open", e))?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Ok(()) => {
                // An earlier one may have been larger.
                file.set_len(self.bytes)
                    .map_err(|e| self.fault("shorten", e))?;
                medium.sync_data(&file, &self.path)?;
                self.held.store(true, SeqCst);
                Ok(true)
            }
            Err(Errno::NOSPC | Errno::DQUOT) => {
                // Part of it helps nobody.
                self.cut(&file)?;
                Ok(false)
            }
            Err(e) => Err(self.fault("allocate", e.into())),
        }
    }

    /// Takes it again once there is room for it and some more. Until then nothing is written,
    /// so it may be asked often.
    pub fn restore(&self, medium: &Medium) -> Result<bool, DurableError> {
        if self.is_held() {
            return Ok(true);
        }
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let free = rustix::fs::statvfs(dir)
            .map(|s| s.f_bavail.saturating_mul(s.f_frsize))
            .map_err(|e| self.fault("ask for the free room beside", e.into()))?;
        if free < self.bytes + self.bytes / SPARE {
            return Ok(false);
        }
        self.take(medium)
    }

    /// Gives the room up, for whoever writes next; false when there was none to give. The blocks
    /// are free when this returns: until its journal has committed, a file system does not give
    /// them to anybody else.
    pub fn release(&self, medium: &Medium) -> Result<bool, DurableError> {
        let file = match open_own(&self.path, false) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(self.fault("open", e)),
        };
        let meta = file.metadata().map_err(|e| self.fault("look at", e))?;
        self.held.store(false, SeqCst);
        if meta.blocks() == 0 {
            return Ok(false);
        }
        self.cut(&file)?;
        medium.sync_data(&file, &self.path)?;
        Ok(true)
    }

    fn cut(&self, file: &File) -> Result<(), DurableError> {
        file.set_len(0).map_err(|e| self.fault("empty", e))
    }

    fn fault(&self, what: &'static str, source: io::Error) -> DurableError {
        DurableError::Io {
            what,
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_blocks_gives_them_back_and_finds_what_an_earlier_agent_took() {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("open");
        let path = home.path().join("reserve");
        let reserve = Reserve::new(&path, 1 << 20);
        assert!(!reserve.is_held());
        assert!(reserve.take(&medium).expect("take"));
        assert_eq!(reserve.held_bytes(), 1 << 20);
        let blocks = || std::fs::metadata(&path).expect("stat").blocks();
        assert!(blocks() >= 2048, "{} blocks", blocks());
        // The next start, and a disk that is full before anything was taken over.
        let next = Reserve::new(&path, 1 << 20);
        assert!(next.release(&medium).expect("release"));
        assert_eq!(blocks(), 0);
        assert!(!next.release(&medium).expect("nothing left"));
        assert!(next.restore(&medium).expect("restore"));
        assert!(blocks() >= 2048);
    }

    /// Blocks whose journal has not committed are nobody's yet.
    #[test]
    fn room_whose_release_could_not_be_synced_is_not_called_given_up() {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("open");
        let reserve = Reserve::new(&home.path().join("reserve"), 1 << 20);
        assert!(reserve.take(&medium).expect("take"));
        medium.latch("fdatasync: Input/output error");
        let e = reserve.release(&medium).expect_err("not synced");
        assert!(matches!(e, DurableError::Latched(_)), "{e}");
    }

    #[test]
    fn a_reserve_of_nothing_makes_no_file() {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("open");
        let path = home.path().join("reserve");
        let reserve = Reserve::new(&path, 0);
        assert!(reserve.take(&medium).expect("take"));
        assert!(!path.exists());
    }
}
