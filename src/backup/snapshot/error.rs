//! Why a snapshot was not taken, or is not used.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable::{CopyError, DurableError};
use crate::recovery::RecoveryError;

/// A snapshot that was not taken, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The database was not copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A file could not be used.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// It could not be made durable.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// The check of the copy was stopped or failed.
    #[error(transparent)]
    Check(#[from] RecoveryError),
    /// What it holds cannot be asked for.
    #[error("cannot ask what {} holds", path.display())]
    Sqlite {
        /// The copy.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// SQLite finds a fault in the copy, so the database has it too.
    #[error("the copy of {} is faulty, so the database is too: {fault}", database.display())]
    Faulty {
        /// The database.
        database: PathBuf,
        /// SQLite's words.
        fault: String,
    },
    /// It is not what its manifest says.
    #[error("the snapshot {} cannot be used: {why}", path.display())]
    Damaged {
        /// The archive or its manifest.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It would take more of the medium than it may.
    #[error(
        "a snapshot of {} needs {needed} bytes and may take {room}: make room, or raise \
         snapshot.share_percent",
        database.display()
    )]
    NoRoom {
        /// The database.
        database: PathBuf,
        /// Bytes that it may need at most.
        needed: u64,
        /// Bytes that snapshots may still take.
        room: u64,
    },
}

impl SnapshotError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            why: why.into(),
        }
    }
}
