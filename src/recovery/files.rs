//! A database and what SQLite keeps beside it, as files.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What may lie beside a database, the file itself last: a database without its companions loses
/// less than companions without their database, which SQLite deletes.
pub(super) const ALL: [&str; 4] = ["-wal", "-journal", "-shm", ""];

/// `app.db` -> `app.db-wal`.
pub(super) fn companion(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
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

/// Bytes free for us on the file system of `dir`.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let s = rustix::fs::statvfs(dir)?;
    Ok(s.f_bavail.saturating_mul(s.f_frsize))
}
