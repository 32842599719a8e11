//! A database and what SQLite keeps beside it, as files.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What may lie beside a database, the file itself last: a database without its companions loses
/// less than companions without their database, which SQLite deletes.
pub(super) const ALL: [&str; 4] = ["-wal", "-journal", "-shm", ""];

/// `app.db` -> `app.db-wal`.
pub(super) fn companion(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A file, told apart from what may stand in its place later. Without the device's number: after
/// a boot another one may be the same disk's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Identity {
    /// Of what stands at `path` now; `None`: nothing.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Ok(m) => Ok(Some(Self::from(&m))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Identity {
    /// Of no bytes.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl From<&fs::Metadata> for Identity {
    fn from(m: &fs::Metadata) -> Self {
        Self {
            inode: m.ino(),
            bytes: m.len(),
            modified_s: m.mtime(),
            modified_ns: m.mtime_nsec(),
        }
    }
}

/// Opens a regular file; `None` where there is nothing. Never follows a link, and never waits for
/// the other end of a FIFO.
pub(super) fn open_existing(path: &Path, write: bool) -> io::Result<Option<File>> {
    let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
    let quietly = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = access | quietly;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => {
            let file = File::from(fd);
            if file.metadata()?.is_file() {
                Ok(Some(file))
            } else {
                Err(io::Error::other(
                    "it is not a regular file: move it out of the way",
                ))
            }
        }
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP) => Err(io::Error::other("it is a link: move it out of the way")),
        Err(Errno::ISDIR) => Err(io::Error::other(
            "it is a directory: move it out of the way",
        )),
        Err(e) => Err(e.into()),
    }
}

/// What stands in a file's place, in words.
pub fn kind_of(m: &fs::Metadata) -> &'static str {
    let t = m.file_type();
    if t.is_file() {
        "a file"
    } else if t.is_dir() {
        "a directory"
    } else if t.is_symlink() {
        "a link"
    } else if t.is_fifo() {
        "a FIFO"
    } else if t.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// What `conn` sorts goes to a file without a name beside `path` once it outgrows the cache: in
/// memory it would grow with the database, and so it would in a /tmp that is memory.
pub(super) fn sort_beside(conn: &Connection, path: &Path) -> rusqlite::Result<()> {
    conn.pragma_update(None, "temp_store", "FILE")?;
    let dir = path.parent().and_then(Path::to_str);
    match dir.filter(|d| !d.is_empty()) {
        // Of the whole process; SQLite takes the next of its own places where this one is gone.
        Some(dir) => conn.pragma_update(None, "temp_store_directory", dir),
        None => Ok(()),
    }
}

/// Bytes free for us on the file system of `dir`.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let s = rustix::fs::statvfs(dir)?;
    Ok(s.f_bavail.saturating_mul(s.f_frsize))
}
