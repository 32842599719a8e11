//! What can stop a recovery; damage does not, it is what recovery is for.

use std::io;
use std::path::{Path, PathBuf};

use super::hold::HoldError;

/// A step of recovery that was not done.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A file could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// SQLite refused something on a copy.
    #[error("cannot {doing} the copy {}", path.display())]
    Sqlite {
        /// What was tried.
        doing: &'static str,
        /// The copy.
        path: PathBuf,
        /// SQLite's own words.
        source: rusqlite::Error,
    },
    /// The copy could not be made durable.
    #[error("cannot keep the copy {}", path.display())]
    Durable {
        /// The copy.
        path: PathBuf,
        /// What failed.
        source: crate::durable::DurableError,
    },
    /// The medium failed.
    #[error(transparent)]
    Medium(#[from] crate::durable::DurableError),
    /// Somebody else has the database open.
    #[error(transparent)]
    Held(#[from] HoldError),
    /// Neither a copy nor a repair fits.
    #[error(
        "{} cannot be repaired: that needs {needed} bytes beside it and {free} are free; make room",
        path.display()
    )]
    NoRoom {
        /// The database.
        path: PathBuf,
        /// Bytes that the repaired copy needs.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// There is no such database.
    #[error("there is no database at {}, and nothing beside it", .0.display())]
    Nothing(PathBuf),
    /// The file holds text.
    #[error("{} is not an SQLite database but text; it was left untouched", .0.display())]
    Alien(PathBuf),
    /// It was told to stop; what it had begun is to be removed and begun again.
    #[error("stopped while making {}", path.display())]
    Stopped {
        /// The copy that is not finished.
        path: PathBuf,
    },
}

impl RecoveryError {
    /// Somebody keeps it from being opened, or has it open: that may end.
    pub fn is_held_up(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Held(HoldError::Io { source, .. }) => {
                source.kind() == io::ErrorKind::WouldBlock
            }
            Self::Held(HoldError::InUse { .. }) => true,
            Self::Sqlite { .. }
            | Self::Durable { .. }
            | Self::Medium(_)
            | Self::NoRoom { .. }
            | Self::Nothing(_)
            | Self::Alien(_)
            | Self::Stopped { .. } => false,
        }
    }

    /// For want of room, which may come back; nothing was lost by it.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Io { source, .. } => is_no_room(source),
            Self::Durable { source, .. } | Self::Medium(source) => source.is_full(),
            Self::Sqlite { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            Self::Held(_) | Self::Nothing(_) | Self::Alien(_) | Self::Stopped { .. } => false,
        }
    }

    /// Nothing that is tried again later mends it.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Medium(e) | Self::Durable { source: e, .. } => e.is_latched(),
            Self::Io { .. }
            | Self::Sqlite { .. }
            | Self::NoRoom { .. }
            | Self::Held(_)
            | Self::Nothing(_)
            | Self::Alien(_)
            | Self::Stopped { .. } => false,
        }
    }

    pub(super) fn stopped(path: &Path) -> Self {
        Self::Stopped {
            path: path.to_owned(),
        }
    }

    /// What SQLite answered on the copy at `path`; it is interrupted only by a stop.
    pub(super) fn sqlite(doing: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        if source.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) {
            return Self::stopped(path);
        }
        Self::Sqlite {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// An [`RecoveryError::Io`] for `path`, from within `map_err`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

fn is_no_room(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
