//! Nobody else has it open: SQLite's lock bytes, probed and held.
//!
//! It promises that from [`Hold::take`] until the hold is dropped no other process reads or
//! writes the database through SQLite: a program that kept the old file open would go on writing
//! to it after the swap, into nothing. Whoever merely has the file open, as far as /proc shows it,
//! counts too. Held by open file descriptions, so that closing another
//! descriptor of the same file in this process does not give the lock away. It must never wait.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::guard::{holders, process_in_words};

use super::files::{companion, open_existing};

/// The lock bytes: sqlite/src/os.h (PENDING_BYTE, 512 bytes) and wal.c (WALINDEX_LOCK_OFFSET, 9).
const DATABASE: (i64, i64) = (0x4000_0000, 512);
const SHARED_MEMORY: (i64, i64) = (120, 9);

/// Why a database cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Somebody has it open.
    #[error("{} is open in {by}: stop that first, then try again", path.display())]
    InUse {
        /// The database.
        path: PathBuf,
        /// Who, as far as this process may see.
        by: String,
    },
    /// The lock cannot be asked for.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The locks, until dropped.
#[derive(Debug)]
pub struct Hold {
    _files: Vec<File>,
}

impl Hold {
    /// Locks `database` and its shared memory against every SQLite. Files that are missing are
    /// nobody's. A file that cannot be opened for writing is held against writers only.
    pub fn take(database: &Path) -> Result<Self, HoldError> {
        let mut files = Vec::new();
        for (path, range) in [
            (database.to_owned(), DATABASE),
            (companion(database, "-shm"), SHARED_MEMORY),
        ] {
            let io = |source| HoldError::Io {
                path: path.clone(),
                source,
            };
            let (file, kind) = match open_existing(&path, true) {
                Ok(found) => (found, libc::F_WRLCK),
                // A read-only medium, or no right to write: readers' locks are all there is.
                Err(_) => (open_existing(&path, false).map_err(io)?, libc::F_RDLCK),
            };
            let Some(file) = file else { continue };
            match lock(&file, range, kind) {
                Ok(()) => files.push(file),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                    return Err(HoldError::InUse {
                        path: database.to_owned(),
                        by: who(database),
                    });
                }
                Err(e) => return Err(io(e)),
            }
        }
        // With a rollback journal an idle connection has no lock, and would go on with the old file.
        if holders(database, &|| false).is_ok_and(|h| h.is_some_and(|h| !h.pids.is_empty())) {
            return Err(HoldError::InUse {
                path: database.to_owned(),
                by: who(database),
            });
        }
        Ok(Self { _files: files })
    }
}

/// `123 (python3) and 456 (app)`.
fn who(database: &Path) -> String {
    let pids = match holders(database, &|| false) {
        Ok(Some(found)) => found.pids,
        Ok(None) | Err(_) => Vec::new(),
    };
    if pids.is_empty() {
        return "another program that this user may not see".to_owned();
    }
    let names: Vec<_> = pids.iter().map(|p| process_in_words(*p)).collect();
    names.join(" and ")
}

#[expect(unsafe_code, reason = "rustix has no F_OFD_SETLK")]
fn lock(file: &File, (start, length): (i64, i64), kind: libc::c_int) -> io::Result<()> {
    // SAFETY: all zeros are a valid `flock`; l_pid must be 0 for F_OFD_SETLK.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    range.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    range.l_start = start;
    range.l_len = length;
    // SAFETY: the descriptor is open, and `range` outlives the call, which only reads it.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn an_idle_connection_keeps_it_and_a_hold_keeps_every_connection_out() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = home.path().join("app.db");
        let conn = Connection::open(&path).expect("open");
        conn.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a)")
            .expect("fill");
        // Idle: no transaction, only the lock that a WAL connection always has.
        let e = Hold::take(&path).expect_err("open in WAL mode");
        assert!(matches!(e, HoldError::InUse { .. }), "{e}");
        drop(conn);
        let hold = Hold::take(&path).expect("nobody has it");
        // Closing another descriptor must not give the lock away, as a POSIX lock would be.
        drop(File::open(&path).expect("open"));
        let other = Connection::open(&path).expect("opening touches nothing");
        other.busy_timeout(std::time::Duration::ZERO).expect("busy");
        let read = other.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0));
        assert_eq!(
            read.expect_err("held").sqlite_error_code(),
            Some(rusqlite::ErrorCode::DatabaseBusy)
        );
        drop(hold);
        other
            .query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0))
            .expect("free again");
    }

    #[test]
    fn a_missing_database_is_nobodys() {
        let home = tempfile::tempdir().expect("temp dir");
        Hold::take(&home.path().join("app.db")).expect("nothing to hold");
    }
}
