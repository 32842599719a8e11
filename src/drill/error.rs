//! What can go wrong with a drill itself, not with what it rehearses.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable::DurableError;

use super::home::HomeError;

/// A drill that could not be held.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The isolated home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file, socket or process.
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
    /// A database of the drill cannot be read.
    #[error("cannot read {}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The drill's gateway did not do something in time, or a verb failed.
    #[error("{0}")]
    Stuck(String),
    /// Told to end.
    #[error("interrupted ({0}): the drill's gateways were ended and its home removed")]
    Interrupted(String),
}

impl DrillError {
    /// For `map_err` where a file was used.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err` where a database was read.
    pub(super) fn db(path: &Path) -> impl FnOnce(rusqlite::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Database { path, source }
    }

    /// Was the drill told to end, so that nothing is known of what it rehearsed?
    pub(super) fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted(_))
    }
}

/// An error with its causes, on one line.
pub(super) fn explain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let more = s.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = s.source();
    }
    text
}
