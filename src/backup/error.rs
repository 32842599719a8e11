//! What can go wrong with a backup.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::durable::{CopyError, DurableError};
use crate::recovery::HoldError;

use super::{ArchiveError, KeyError};

/// A backup or restore that was not done.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file could not be used.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A durable operation was not done.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// SQLite could not.
    #[error("cannot {what} {}", path.display())]
    Sqlite {
        /// What was tried.
        what: &'static str,
        /// On which database.
        path: PathBuf,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// The thread that writes a database did not copy it.
    #[error("cannot copy {}", database.display())]
    Copy {
        /// The database.
        database: PathBuf,
        /// Why.
        source: CopyError,
    },
    /// A database that would not come whole out of its backup.
    #[error("{} is damaged ({why})", database.display())]
    Damaged {
        /// The database, or its copy.
        database: PathBuf,
        /// What was seen.
        why: String,
    },
    /// One of the gateway's own, without which there is no backup.
    #[error("there is no backup: {} is damaged ({why}): {remedy}", database.display())]
    OwnDamaged {
        /// The database.
        database: PathBuf,
        /// What was seen.
        why: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Something else stands in the place of a database; says what, and what to do.
    #[error("{why}")]
    Unusable {
        /// All that is known of it.
        why: String,
    },
    /// A database that is not there.
    #[error("there is no database at {}: make it, or take it out of the configuration", .0.display())]
    NoDatabase(PathBuf),
    /// Its writers leave no room for a reader.
    #[error("{} is locked by those who write it: try again", .0.display())]
    Busy(PathBuf),
    /// Somebody has it open.
    #[error(transparent)]
    Held(#[from] HoldError),
    /// Told to stop.
    #[error("told to stop: power, or the operator; it is done again from its start")]
    Stopped,
    /// Not enough room.
    #[error(
        "{} has {free} bytes free, and the backup needs up to {needed}: make room there",
        path.display()
    )]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// Bytes free for us.
        free: u64,
        /// Bytes that it may take.
        needed: u64,
    },
    /// A copy beside the original is none.
    #[error(
        "{} lies on the gateway's own medium: mount the other one there, or take it out of \
         backup.copies",
        .0.display()
    )]
    SameMedium(PathBuf),
    /// A USB stick that cannot be used.
    #[error("the USB stick {label:?}: {why}")]
    Stick {
        /// Its label.
        label: String,
        /// Why.
        why: String,
    },
    /// Nobody could open it.
    #[error("there is no recipient: run `holdup backup keygen`, or set backup.recipients")]
    NoRecipient,
    /// What was read back is not what was written.
    #[error("the backup {} was not kept: {why}", path.display())]
    NotVerified {
        /// The archive.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// A manifest that cannot be understood.
    #[error("{}: not a manifest of a backup: {why}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl BackupError {
    /// For `map_err` where a file was used.
    pub fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }

    /// The same where SQLite was asked.
    pub(super) fn sqlite(path: &Path, what: &'static str) -> impl Fn(rusqlite::Error) -> Self {
        move |source| match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged {
                database: path.to_owned(),
                why: source.to_string(),
            },
            _ => Self::Sqlite {
                what,
                path: path.to_owned(),
                source,
            },
        }
    }

    /// For want of room, which may come back.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Durable(e) => e.is_full(),
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Sqlite { source, .. } => source.sqlite_error_code() == Some(ErrorCode::DiskFull),
            Self::Copy { source, .. } => source.is_full(),
            Self::NoRoom { .. } => true,
            Self::Damaged { .. }
            | Self::OwnDamaged { .. }
            | Self::Unusable { .. }
            | Self::NoDatabase(_)
            | Self::Busy(_)
            | Self::Held(_)
            | Self::Stopped
            | Self::NoRecipient
            | Self::SameMedium(_)
            | Self::Stick { .. }
            | Self::NotVerified { .. }
            | Self::Archive(_)
            | Self::Key(_)
            | Self::Manifest { .. } => false,
        }
    }
}
