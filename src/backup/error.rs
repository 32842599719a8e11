//! What can go wrong with a backup.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable::DurableError;

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
}
