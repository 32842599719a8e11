//! One file system that holds what must last, and the latch on its first failed sync.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, renameat_with};
use rustix::io::Errno;

use super::own_file::{make_fresh, open_own};

/// A durable operation that was not done.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The operation failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An earlier sync failed; nothing is called durable after that.
    #[error("an earlier sync failed ({0}): check the medium, then restart the agent")]
    Latched(String),
}

impl DurableError {
    /// For want of room, which may come back; nothing was lost by it.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_full(source),
            Self::Latched(_) => false,
        }
    }

    /// The medium takes nothing any more until the agent is started anew.
    pub fn is_latched(&self) -> bool {
        matches!(self, Self::Latched(_))
    }
}

/// No room on the file system, or in the quota.
pub(super) fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// So many damaged files of one name are kept beside it.
const MOST_ASIDE: u32 = 32;

/// The file system under one directory.
///
/// All syncs go through it, so that the first failed one is remembered.
#[derive(Debug)]
pub struct Medium {
    dir: PathBuf,
    fd: rustix::fd::OwnedFd,
    failed: OnceLock<String>,
    /// Operations until power is cut, for tests of what a cut leaves behind.
    #[cfg(test)]
    until_cut: std::sync::atomic::AtomicU32,
}

impl Medium {
    /// The file system that holds `dir`, which must exist.
    pub fn open(dir: &Path) -> Result<Self, DurableError> {
        let fd = rustix::fs::open(
            dir,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| fault("open directory", dir, e.into()))?;
        Ok(Self {
            dir: dir.to_owned(),
            fd,
            failed: OnceLock::new(),
            #[cfg(test)]
            until_cut: std::sync::atomic::AtomicU32::new(u32::MAX),
        })
    }

    /// Power goes after `operations` more of them.
    #[cfg(test)]
    pub(crate) fn cut_after(&self, operations: u32) {
        self.until_cut
            .store(operations, std::sync::atomic::Ordering::SeqCst);
    }

    /// The directory it was opened for.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory's descriptor, for [`freeze`] and [`thaw`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Fails once any sync on this medium has failed.
    pub fn healthy(&self) -> Result<(), DurableError> {
        #[cfg(test)]
        {
            use std::sync::atomic::Ordering::SeqCst;
            let next = |n: u32| n.checked_sub(u32::from(n != u32::MAX));
            if self.until_cut.fetch_update(SeqCst, SeqCst, next).is_err() {
                return Err(DurableError::Latched("power was cut".to_owned()));
            }
        }
        match self.failed.get() {
            None => Ok(()),
            Some(why) => Err(DurableError::Latched(why.clone())),
        }
    }

    /// Remembers a sync that failed elsewhere (inside SQLite), so that nothing on this medium
    /// is called durable again. The first failure is the one that is kept.
    pub fn latch(&self, why: &str) {
        if self.failed.set(why.to_owned()).is_ok() {
            log::error!("sync failed on {}: {why}", self.dir.display());
        }
    }

    /// Puts the data of `file` on the medium (fdatasync). `path` is for the error's text.
    pub fn sync_data(&self, file: impl AsFd, path: &Path) -> Result<(), DurableError> {
        self.healthy()?;
        self.keep(rustix::fs::fdatasync(file), "sync", path)
    }

    /// Writes `bytes` to a new file beside `path`, syncs it, renames it over `path` and syncs
    /// the directory: afterwards `path` holds the old or the new bytes, whatever happens.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
        let fresh = self.written_beside(path, bytes, false)?;
        self.put_over(&fresh, path)
    }

    /// The same with a file that its owner alone may read.
    pub fn replace_private(&self, path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
        let fresh = self.written_beside(path, bytes, true)?;
        self.put_over(&fresh, path)
    }

    fn put_over(&self, fresh: &Path, path: &Path) -> Result<(), DurableError> {
        rustix::fs::rename(fresh, path).map_err(|e| fault("rename to", path, e.into()))?;
        self.sync_parent(path)
    }

    /// The same as [`Medium::replace`], and what lay at `path` keeps a name beside it, `NAME.damaged` or
    /// `NAME.damaged-2` and so on, which it answers; `None` where nothing lay there. Nothing is overwritten. The new bytes are on
    /// the medium before the old file is touched: without room for them all stays as it is.
    pub fn replace_aside(
        &self,
        path: &Path,
        bytes: &[u8],
    ) -> Result<Option<PathBuf>, DurableError> {
        let fresh = self.written_beside(path, bytes, false)?;
        let aside = match beside(path, |to| linkat(CWD, path, CWD, to, AtFlags::empty())) {
            // A file system without hard links, somebody else's file, or a directory.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => beside(path, |to| {
                renameat_with(CWD, path, CWD, to, RenameFlags::NOREPLACE)
            }),
            done => done,
        };
        let aside = match aside {
            Ok(aside) => Some(aside),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(fault("set aside", path, e.into())),
        };
        rustix::fs::rename(&fresh, path).map_err(|e| fault("rename to", path, e.into()))?;
        self.sync_parent(path)?;
        Ok(aside)
    }

    /// Gives what lies at `path`, whatever it is, a free name beside it, `NAME.damaged` or
    /// `NAME.damaged-2` and so on, which it answers. It is neither opened nor followed, and nothing
    /// is overwritten.
    pub fn set_aside(&self, path: &Path) -> Result<PathBuf, DurableError> {
        self.healthy()?;
        let aside = beside(path, |to| {
            renameat_with(CWD, path, CWD, to, RenameFlags::NOREPLACE)
        })
        .map_err(|e| fault("set aside", path, e.into()))?;
        self.sync_parent(path)?;
        Ok(aside)
    }

    /// A new file of `bytes` beside `path`, synced; its name is not.
    fn written_beside(
        &self,
        path: &Path,
        bytes: &[u8],
        private: bool,
    ) -> Result<PathBuf, DurableError> {
        self.healthy()?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = path.with_file_name(name);
        let mut file = make_fresh(&fresh).map_err(|e| fault("create", &fresh, e))?;
        if private {
            // Before there is anything to be read.
            let owner = Mode::RUSR | Mode::WUSR;
            rustix::fs::fchmod(&file, owner)
                .map_err(|e| fault("close to others", &fresh, e.into()))?;
        }
        file.write_all(bytes)
            .map_err(|e| fault("write", &fresh, e))?;
        self.keep(rustix::fs::fsync(&file), "sync", &fresh)?;
        Ok(fresh)
    }

    /// A file of `len` bytes at `path` whose blocks are written, not just reserved: the first
    /// real write then needs no journal. An existing file of that size is used as it is.
    pub fn preallocate(&self, path: &Path, len: u64) -> Result<File, DurableError> {
        self.healthy()?;
        let file = open_own(path, true).map_err(|e| fault("open", path, e))?;
        let meta = file.metadata().map_err(|e| fault("look at", path, e))?;
        let have = meta.len();
        // Copied by a tool that leaves holes where there were zeros: a write there needs room.
        let holes = meta.blocks() * 512 < have;
        if have < len || holes {
            let mut at = if holes { 0 } else { have };
            while at < len.max(have) {
                let mut block = [0u8; 4096];
                let n = usize::try_from((len.max(have) - at).min(4096)).unwrap_or(4096);
                let kept = usize::try_from(have.saturating_sub(at)).map_or(n, |k| k.min(n));
                file.read_exact_at(&mut block[..kept], at)
                    .map_err(|e| fault("read", path, e))?;
                file.write_all_at(&block[..n], at)
                    .map_err(|e| fault("extend", path, e))?;
                at += n as u64;
            }
            self.keep(rustix::fs::fsync(&file), "sync", path)?;
            self.sync_parent(path)?;
        }
        Ok(file)
    }

    /// Renames `from` to `to`, over what stands there, and makes both names durable. The bytes of
    /// `from` must be durable already.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), DurableError> {
        self.healthy()?;
        rustix::fs::rename(from, to).map_err(|e| fault("rename to", to, e.into()))?;
        self.sync_parent(to)?;
        if from.parent() == to.parent() {
            return Ok(());
        }
        self.sync_parent(from)
    }

    /// Removes the file `path` where it is, durably.
    pub fn remove(&self, path: &Path) -> Result<(), DurableError> {
        self.healthy()?;
        match rustix::fs::unlink(path) {
            Ok(()) => self.sync_parent(path),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(fault("remove", path, e.into())),
        }
    }

    /// Makes the directory `path`, and those above it that are missing, for its owner alone, with
    /// durable names.
    pub fn make_dir(&self, path: &Path) -> Result<(), DurableError> {
        self.healthy()?;
        if path.is_dir() {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.make_dir(above)?;
        }
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.sync_parent(path),
            Err(e) => Err(fault("make directory", path, e.into())),
        }
    }

    /// Writes back everything dirty on this file system.
    pub fn syncfs(&self) -> Result<(), DurableError> {
        self.healthy()?;
        self.keep(rustix::fs::syncfs(&self.fd), "syncfs", &self.dir)
    }

    /// Makes the names in the directory of `path` durable.
    pub fn sync_parent(&self, path: &Path) -> Result<(), DurableError> {
        self.healthy()?;
        let dir = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let file = File::open(dir).map_err(|e| fault("open directory", dir, e))?;
        self.keep(rustix::fs::fsync(&file), "sync directory", dir)
    }

    fn keep(
        &self,
        done: rustix::io::Result<()>,
        what: &'static str,
        path: &Path,
    ) -> Result<(), DurableError> {
        done.map_err(|e| {
            self.latch(&format!("{what} {}: {e}", path.display()));
            fault(what, path, e.into())
        })
    }
}

/// The first of the names for a damaged `path` that `make` finds free.
fn beside(path: &Path, make: impl Fn(&Path) -> rustix::io::Result<()>) -> Result<PathBuf, Errno> {
    let name = path.file_name().unwrap_or_default();
    for n in 1..=MOST_ASIDE {
        let mut aside = name.to_owned();
        aside.push(".damaged");
        if n > 1 {
            aside.push(format!("-{n}"));
        }
        let aside = path.with_file_name(aside);
        match make(&aside) {
            Ok(()) => return Ok(aside),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::EXIST)
}

pub(super) fn fault(what: &'static str, path: &Path, source: io::Error) -> DurableError {
    DurableError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

// <linux/fs.h>: _IOWR('X', 119, int) and _IOWR('X', 120, int).
const FIFREEZE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<libc::c_int>(b'X', 119);
const FITHAW: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<libc::c_int>(b'X', 120);

/// Freezes the file system that `fd` lies on: everything dirty is written, then nothing more
/// until [`thaw`]. Not interruptible once begun. `EBUSY`: it is frozen already.
pub fn freeze(fd: BorrowedFd<'_>) -> io::Result<()> {
    control::<FIFREEZE>(fd)
}

/// Undoes one freeze. `EINVAL`: it was not frozen.
pub fn thaw(fd: BorrowedFd<'_>) -> io::Result<()> {
    control::<FITHAW>(fd)
}

#[expect(unsafe_code, reason = "FIFREEZE and FITHAW have no wrapper in rustix")]
fn control<const OPCODE: rustix::ioctl::Opcode>(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both ioctls ignore their argument; rustix passes none.
    unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::NoArg::<OPCODE>::new())? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_one_failed_sync_nothing_is_called_durable_again() {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("open");
        medium
            .replace(&home.path().join("a"), b"one")
            .expect("replace");
        medium.latch("fdatasync edge_store.db-wal: Input/output error");
        let again = medium
            .replace(&home.path().join("a"), b"two")
            .expect_err("latched");
        assert!(again.to_string().contains("Input/output error"), "{again}");
        assert_eq!(std::fs::read(home.path().join("a")).expect("read"), b"one");
    }

    #[test]
    fn a_preallocated_file_has_no_unwritten_extent_and_keeps_what_it_holds() {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("open");
        let path = home.path().join("ring");
        let mut file = medium.preallocate(&path, 10_000).expect("first");
        file.write_all(b"kept").expect("write");
        medium.preallocate(&path, 10_000).expect("second");
        let bytes = std::fs::read(&path).expect("read");
        assert_eq!(bytes.len(), 10_000);
        assert_eq!(&bytes[..4], b"kept");
        assert!(bytes[4..].iter().all(|b| *b == 0));
    }

    #[test]
    fn holes_that_a_copy_left_are_filled_and_a_link_is_not_followed() {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("open");
        let path = home.path().join("ring");
        let copy = File::create(&path).expect("create");
        copy.set_len(1 << 20).expect("a hole");
        copy.write_all_at(b"kept", 8192).expect("write");
        medium.preallocate(&path, 1 << 20).expect("fill");
        let meta = std::fs::metadata(&path).expect("stat");
        assert!(meta.blocks() * 512 >= 1 << 20, "{} blocks", meta.blocks());
        assert_eq!(meta.len(), 1 << 20);
        assert_eq!(&std::fs::read(&path).expect("read")[8192..8196], b"kept");
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        medium.preallocate(&link, 2 << 20).expect_err("a link");
        assert_eq!(std::fs::metadata(&path).expect("stat").len(), 1 << 20);
    }

    #[test]
    fn what_is_set_aside_keeps_a_name_and_nothing_is_overwritten() {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("open");
        let at = |name: &str| home.path().join(name);
        for n in ["a.damaged", "a.damaged-2"] {
            std::fs::create_dir(at("a")).expect("directory");
            std::fs::create_dir(at("a").join("inner")).expect("directory");
            assert_eq!(medium.set_aside(&at("a")).expect("set aside"), at(n));
            assert!(at(n).join("inner").is_dir() && !at("a").exists());
        }
        medium.set_aside(&at("missing")).expect_err("nothing there");
    }

    #[test]
    fn a_directory_that_is_missing_is_named() {
        let e = Medium::open(Path::new("/nonexistent/holdup")).expect_err("missing");
        assert!(e.to_string().contains("/nonexistent/holdup"), "{e}");
    }
}
