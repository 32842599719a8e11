//! What can go wrong with a database, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::durable::DurableError;

/// What to do about a damaged store.
pub const REMEDY: &str = "restart the agent: it keeps a copy of the damaged files and recovers the \
                          store before it serves again";

/// A database that is not in service.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is something else.
    #[error("{} is not an SQLite database: it starts with {starts_with}; it was left untouched, move it away or set gateway.data_dir elsewhere", path.display())]
    NotSqlite {
        /// The file.
        path: PathBuf,
        /// Its first bytes, printable.
        starts_with: String,
    },
    /// SQLite would delete the write-ahead log that holds the last commits.
    #[error("{} is {state}, but {}-wal beside it holds {wal_bytes} bytes that SQLite would delete; put the database back beside it, or move the -wal away", path.display(), path.display())]
    OrphanWal {
        /// The database file.
        path: PathBuf,
        /// `missing` or `empty`.
        state: &'static str,
        /// Size of the -wal.
        wal_bytes: u64,
    },
    /// The files cannot be looked at; the cause says what to do.
    #[error("cannot look at {}", path.display())]
    Look {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Damaged files could not be copied, so they were not opened.
    #[error("{} is damaged and was not opened, because it cannot be copied to {}; make room there", path.display(), into.display())]
    Evidence {
        /// The database.
        path: PathBuf,
        /// Where the copy should have gone.
        into: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The tables are not what the agent can write to.
    #[error("{} cannot be adopted: {problem}", path.display())]
    Schema {
        /// The database.
        path: PathBuf,
        /// What does not fit, and what would.
        problem: String,
    },
    /// SQLite says that the file's structure is broken.
    #[error("cannot {doing} {}: it is damaged ({why}): {REMEDY}", path.display())]
    Malformed {
        /// The database.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// SQLite's words.
        why: rusqlite::Error,
    },
    /// Another program holds it.
    #[error("cannot {doing} {}: another program holds its lock; stop that program", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// No room.
    #[error("cannot {doing} {}: no room on its file system; free some, service resumes by itself", path.display())]
    Full {
        /// The database.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// The file or its directory cannot be written.
    #[error("cannot {doing} {}: it cannot be written; its directory must exist, be writable by the agent's user and not be mounted read-only", path.display())]
    NotWritable {
        /// The database.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// Anything else that SQLite refused.
    #[error("cannot {doing} {}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// Nothing is written while the gate is closed, opening included.
    #[error("{} was not opened: writing is stopped (power is failing, or the agent is starting); try again when the gate opens", path.display())]
    GateClosed {
        /// The database.
        path: PathBuf,
    },
    /// The medium failed.
    #[error("cannot use {}", path.display())]
    Durable {
        /// The database.
        path: PathBuf,
        /// Why.
        source: DurableError,
    },
    /// No thread for the writer.
    #[error("cannot start the store's writer thread")]
    Thread(#[source] io::Error),
}

/// What a failed statement means for the rows that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// This row will never fit this table; the others may.
    Row,
    /// No room: keep the rows, try again.
    Full,
    /// Somebody else holds the lock: try again at once.
    Busy,
    /// The medium failed: nothing may be called durable any more.
    Medium,
    /// The database is not usable any more, the medium may be.
    Database,
}

/// Sorts an SQLite error by what is to be done about it.
pub(super) fn fault(e: &rusqlite::Error) -> Fault {
    let Some(e) = e.sqlite_error() else {
        return Fault::Database;
    };
    match e.extended_code {
        // The -shm could not grow: the disk is full, nothing was lost.
        rusqlite::ffi::SQLITE_IOERR_SHMSIZE => return Fault::Full,
        rusqlite::ffi::SQLITE_IOERR_NOMEM => return Fault::Busy,
        _ => {}
    }
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other code says that the database cannot go on"
    )]
    match e.code {
        ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig => Fault::Row,
        ErrorCode::DiskFull => Fault::Full,
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::SchemaChanged
        | ErrorCode::OutOfMemory => Fault::Busy,
        ErrorCode::SystemIoFailure => Fault::Medium,
        _ => Fault::Database,
    }
}

/// The same without the SQL that it was met in, which says nothing to people.
pub(crate) fn without_sql(e: rusqlite::Error) -> rusqlite::Error {
    if let rusqlite::Error::SqlInputError { error, msg, .. } = e {
        return rusqlite::Error::SqliteFailure(error, Some(msg));
    }
    e
}

impl StoreError {
    /// What SQLite found damaged, without what to do about it: for who does that.
    pub fn damage(&self) -> Option<String> {
        match self {
            Self::Malformed { path, doing, why } => {
                Some(format!("cannot {doing} {}: {why}", path.display()))
            }
            Self::NotSqlite { .. }
            | Self::OrphanWal { .. }
            | Self::Look { .. }
            | Self::Evidence { .. }
            | Self::Schema { .. }
            | Self::Busy { .. }
            | Self::Full { .. }
            | Self::NotWritable { .. }
            | Self::Sqlite { .. }
            | Self::GateClosed { .. }
            | Self::Durable { .. }
            | Self::Thread(_) => None,
        }
    }

    /// Names what SQLite refused.
    pub(crate) fn sqlite(path: &Path, doing: &'static str, source: rusqlite::Error) -> Self {
        let (path, source) = (path.to_owned(), without_sql(source));
        // The -shm could not be made as large as it must be: no room, in other words.
        if source
            .sqlite_error()
            .is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
        {
            return Self::Full {
                path,
                doing,
                source,
            };
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Malformed {
                path,
                doing,
                why: source,
            },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy {
                path,
                doing,
                source,
            },
            Some(ErrorCode::DiskFull) => Self::Full {
                path,
                doing,
                source,
            },
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::NotWritable {
                    path,
                    doing,
                    source,
                }
            }
            _ => Self::Sqlite {
                path,
                doing,
                source,
            },
        }
    }
}
