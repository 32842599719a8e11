//! What can go wrong with the log, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{ErrorCode, ffi};

use crate::durable::DurableError;

/// A log that cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// There is none.
    #[error("there is no audit log {}: the agent makes it when it first runs", .0.display())]
    Missing(PathBuf),
    /// It is damaged, or something else stands in its place.
    #[error("the audit log {} is damaged: {why}", path.display())]
    Damaged {
        /// The log.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A newer agent wrote it.
    #[error("the audit log {} has version {version}, this holdup knows 1: use the holdup that wrote it", path.display())]
    Newer {
        /// The log.
        path: PathBuf,
        /// Its version.
        version: i64,
    },
    /// No room.
    #[error("no room for the audit log {}: free some, entries wait meanwhile", .0.display())]
    Full(PathBuf),
    /// The gate is closed.
    #[error("writing is stopped: the audit log {} waits", .0.display())]
    Stopped(PathBuf),
    /// Somebody reads or writes it just now.
    #[error("another program holds the audit log {}: stop that program", .0.display())]
    Busy(PathBuf),
    /// SQLite cannot do it.
    #[error("cannot {doing} the audit log {}", path.display())]
    Sqlite {
        /// The log.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// A file beside it cannot be used.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The medium failed.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// No thread for it.
    #[error("cannot start the audit log's thread")]
    Thread(#[source] io::Error),
}

impl AuditError {
    pub(super) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            why: why.into(),
        }
    }

    pub(super) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            return Self::Full(path.to_owned());
        }
        let path = path.to_owned();
        Self::Io {
            path,
            doing,
            source,
        }
    }

    pub(super) fn sqlite(path: &Path, doing: &'static str, source: rusqlite::Error) -> Self {
        let extended = source.sqlite_error().map_or(0, |e| e.extended_code);
        // What cannot be read back is damage, not a medium that cannot be written.
        if matches!(
            extended,
            ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ
        ) {
            return Self::damaged(path, source.to_string());
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::TooBig) => {
                Self::damaged(path, source.to_string())
            }
            Some(ErrorCode::OperationInterrupted) => Self::Stopped(path.to_owned()),
            Some(ErrorCode::DiskFull) => Self::Full(path.to_owned()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Busy(path.to_owned())
            }
            _ => Self::Sqlite {
                path: path.to_owned(),
                doing,
                source,
            },
        }
    }

    /// Was it a write or a sync that the medium refused?
    pub(super) fn is_medium(&self) -> bool {
        match self {
            Self::Sqlite { source, .. } => {
                source.sqlite_error_code() == Some(ErrorCode::SystemIoFailure)
            }
            Self::Missing(_)
            | Self::Damaged { .. }
            | Self::Newer { .. }
            | Self::Full(_)
            | Self::Stopped(_)
            | Self::Busy(_)
            | Self::Io { .. }
            | Self::Durable(_)
            | Self::Thread(_) => false,
        }
    }

    /// With its causes, on one line.
    pub(super) fn in_words(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(s) = source {
            text = format!("{text}: {s}");
            source = s.source();
        }
        text
    }
}
