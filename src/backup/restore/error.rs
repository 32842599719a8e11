//! Why nothing was restored.

use std::io;
use std::path::{Path, PathBuf};

use crate::backup::{ArchiveError, BackupError};
use crate::durable::DurableError;
use crate::recovery::HoldError;

/// A restore that was not done.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The archive, or a copy of what is in it.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Other keys are needed.
    #[error("{} needs {which}", path.display())]
    NeedsKey {
        /// The archive.
        path: PathBuf,
        /// Which identities open it, as far as that is known.
        which: String,
    },
    /// It is not what was written.
    #[error("{} is not used: {why}", path.display())]
    NotAsWritten {
        /// The archive.
        path: PathBuf,
        /// What shows it.
        why: String,
    },
    /// Nobody says what is in it.
    #[error(
        "{} has no manifest in it, so that only its databases can be checked: give \
         --without-manifest to restore it nevertheless",
        .0.display()
    )]
    NoManifest(PathBuf),
    /// There is nothing to do.
    #[error("{} holds nothing that is to be restored: {why}", path.display())]
    Nothing {
        /// The archive.
        path: PathBuf,
        /// Why.
        why: String,
    },
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
    /// A restored database does not work.
    #[error("the restored {} cannot {what}", path.display())]
    Trial {
        /// What was tried.
        what: &'static str,
        /// The database.
        path: PathBuf,
        /// SQLite's own words.
        source: rusqlite::Error,
    },
    /// A restored database is not the one that was checked.
    #[error("the restored {} holds {found}, and {expected} were expected", path.display())]
    Miscounted {
        /// The database.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// The new files do not fit beside the old ones.
    #[error(
        "{} has {free} bytes free and the restored files need {needed} beside those that they \
         replace: make room there",
        path.display()
    )]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// No copy of the newest backup is what was written.
    #[error(
        "{why}; nothing was changed. The backup before it is restored with `holdup backup restore \
         {before}`"
    )]
    NoneSound {
        /// What is wrong with the last copy.
        why: String,
        /// The name of the one before.
        before: String,
    },
    /// Somebody has a database open.
    #[error(transparent)]
    Held(#[from] HoldError),
    /// A durable operation was not done.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// An earlier restore was cut and cannot be gone on with.
    #[error("{}: {why}", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Something failed after live files were moved; they are back.
    #[error("it failed, and everything is as it was before")]
    Undone(#[source] Box<Self>),
    /// It failed, and so did the way back; the journal knows what lies where.
    #[error(
        "it failed ({why}) and the old files are not all back yet: they lie where {} says; \
         run `holdup backup restore --resume`",
        journal.display()
    )]
    HalfWay {
        /// The journal.
        journal: PathBuf,
        /// Why it failed at first.
        why: String,
        /// Why the way back failed.
        source: Box<Self>,
    },
}

impl From<ArchiveError> for RestoreError {
    fn from(e: ArchiveError) -> Self {
        Self::Backup(e.into())
    }
}

impl RestoreError {
    /// For `map_err` where a file was used.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// Is another copy of the same backup worth a try?
    pub fn is_of_this_copy(&self) -> bool {
        match self {
            Self::NotAsWritten { .. } | Self::NoManifest(_) => true,
            Self::Io { what, .. } => matches!(*what, "open" | "read"),
            Self::Backup(e) => match e {
                BackupError::Archive(e) => !matches!(e, ArchiveError::WrongKey(_)),
                BackupError::Io { what, .. } => matches!(*what, "open" | "read"),
                BackupError::Manifest { .. } => true,
                BackupError::Durable(_)
                | BackupError::Key(_)
                | BackupError::Sqlite { .. }
                | BackupError::Copy { .. }
                | BackupError::Damaged { .. }
                | BackupError::OwnDamaged { .. }
                | BackupError::Unusable { .. }
                | BackupError::NoDatabase(_)
                | BackupError::Busy(_)
                | BackupError::Held(_)
                | BackupError::Stopped
                | BackupError::NoRoom { .. }
                | BackupError::SameMedium(_)
                | BackupError::Stick { .. }
                | BackupError::NoRecipient
                | BackupError::NotVerified { .. } => false,
            },
            Self::NeedsKey { .. }
            | Self::Nothing { .. }
            | Self::Trial { .. }
            | Self::Miscounted { .. }
            | Self::NoRoom { .. }
            | Self::Held(_)
            | Self::Durable(_)
            | Self::Journal { .. }
            | Self::Undone(_)
            | Self::HalfWay { .. }
            | Self::NoneSound { .. } => false,
        }
    }

    /// For want of room, which may come back.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Backup(e) => e.is_full(),
            Self::Durable(e) => e.is_full(),
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Trial { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            Self::Undone(e) => e.is_full(),
            Self::HalfWay { source, .. } => source.is_full(),
            Self::NeedsKey { .. }
            | Self::NotAsWritten { .. }
            | Self::NoManifest(_)
            | Self::Nothing { .. }
            | Self::Miscounted { .. }
            | Self::Held(_)
            | Self::NoneSound { .. }
            | Self::Journal { .. } => false,
        }
    }
}
