//! What can go wrong with the queue, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::durable::DurableError;
use crate::store::{StoreError, without_sql};

/// What to do about a damaged queue: the only thing that also gives back what the store still has.
pub const REMEDY: &str = "stop the agent, run `holdup queue rebuild`, start the agent again";

/// A queue that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// It cannot be opened, or its tables cannot be adopted.
    #[error(transparent)]
    Open(StoreError),
    /// SQLite refused.
    #[error("cannot {doing} {}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
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
    /// Nothing is read or written while the gate is closed.
    #[error(
        "the queue was not touched: writing is stopped (power is failing, or the agent is starting); try again when service resumes"
    )]
    GateClosed,
    /// It is not open.
    #[error("the queue is not open: {0}")]
    NotOpen(String),
    /// What it was cannot be kept, so nothing is made of it.
    #[error("{} is left as it is, because its files cannot be kept as evidence: {why}", path.display())]
    NoEvidence {
        /// The database.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file cannot be put in its place.
    #[error("cannot change {}", path.display())]
    Durable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: DurableError,
    },
    /// A file or stream cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread for it.
    #[error("cannot start the queue's thread")]
    Thread(#[source] io::Error),
}

/// What is to be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Try again later: no room, or somebody else holds the lock.
    Later,
    /// A sync failed: nothing on this medium may be called durable any more.
    Sync,
    /// This file is not usable any more.
    Broken,
}

impl From<StoreError> for QueueError {
    fn from(e: StoreError) -> Self {
        match e {
            // What to do about it is the queue's own.
            StoreError::Malformed { path, doing, why } => Self::Malformed { path, doing, why },
            e @ (StoreError::NotSqlite { .. }
            | StoreError::OrphanWal { .. }
            | StoreError::Look { .. }
            | StoreError::Evidence { .. }
            | StoreError::Schema { .. }
            | StoreError::Busy { .. }
            | StoreError::Full { .. }
            | StoreError::NotWritable { .. }
            | StoreError::Sqlite { .. }
            | StoreError::GateClosed { .. }
            | StoreError::Durable { .. }
            | StoreError::Thread(_)) => Self::Open(e),
        }
    }
}

impl QueueError {
    pub(super) fn sqlite(path: &Path, doing: &'static str, source: rusqlite::Error) -> Self {
        let (path, source) = (path.to_owned(), without_sql(source));
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Malformed {
                path,
                doing,
                why: source,
            },
            _ => Self::Sqlite {
                path,
                doing,
                source,
            },
        }
    }

    /// Sorts it by what is to be done.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::GateClosed
            | Self::Open(
                StoreError::GateClosed { .. } | StoreError::Full { .. } | StoreError::Busy { .. },
            ) => Fault::Later,
            Self::Sqlite { source, .. } => fault_of(source),
            Self::Open(_)
            | Self::Malformed { .. }
            | Self::NotOpen(_)
            | Self::NoEvidence { .. }
            | Self::Durable { .. }
            | Self::Io { .. }
            | Self::Thread(_) => Fault::Broken,
        }
    }

    /// For want of room?
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Open(StoreError::Full { .. }) => true,
            Self::Sqlite { source, .. } => source.sqlite_error_code() == Some(ErrorCode::DiskFull),
            Self::Open(_)
            | Self::Malformed { .. }
            | Self::GateClosed
            | Self::NotOpen(_)
            | Self::NoEvidence { .. }
            | Self::Durable { .. }
            | Self::Io { .. }
            | Self::Thread(_) => false,
        }
    }
}

fn fault_of(e: &rusqlite::Error) -> Fault {
    let Some(e) = e.sqlite_error() else {
        return Fault::Broken;
    };
    match e.extended_code {
        rusqlite::ffi::SQLITE_IOERR_FSYNC | rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC => Fault::Sync,
        rusqlite::ffi::SQLITE_IOERR_SHMSIZE | rusqlite::ffi::SQLITE_IOERR_NOMEM => Fault::Later,
        _ => {
            let later = [
                ErrorCode::DiskFull,
                ErrorCode::DatabaseBusy,
                ErrorCode::DatabaseLocked,
                ErrorCode::FileLockingProtocolFailed,
                ErrorCode::SchemaChanged,
                ErrorCode::OutOfMemory,
            ];
            if later.contains(&e.code) {
                Fault::Later
            } else {
                Fault::Broken
            }
        }
    }
}
