//! Why nothing was reset, or not yet.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable::DurableError;
use crate::queue::QueueError;
use crate::recovery::HoldError;
use crate::store::StoreError;

/// A reset that was not done, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
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
    /// Somebody has a database open.
    #[error(transparent)]
    Held(#[from] HoldError),
    /// The empty store cannot be made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The empty queue cannot be made.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The journal of an earlier one.
    #[error("{}: {why}", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Something else comes first.
    #[error("{0}")]
    Refused(String),
    /// A file that is not holdup's stands where holdup would erase.
    #[error("{} is in {}, which would be erased: {remedy}", what.display(), within.display())]
    InTheWay {
        /// The file that must stay.
        what: PathBuf,
        /// What would be erased.
        within: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// Not even the journal fits.
    #[error("{} has no room for a reset's journal and empty databases: free a megabyte there; nothing was touched", .0.display())]
    NoRoom(PathBuf),
    /// The gateway's key cannot be used.
    #[error("the gateway's key {} cannot be used: {why}", path.display())]
    Key {
        /// The key.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The log takes nothing.
    #[error("what would be done is not in the audit log yet ({0}): nothing was touched")]
    NotAudited(String),
}

impl ResetError {
    /// For `map_err` where a file was used.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// For want of room, which may come back.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom(_) => true,
            Self::Durable(e) => e.is_full(),
            Self::Store(e) => matches!(e, StoreError::Full { .. }),
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Queue(_)
            | Self::Held(_)
            | Self::Journal { .. }
            | Self::Refused(_)
            | Self::InTheWay { .. }
            | Self::Key { .. }
            | Self::NotAudited(_) => false,
        }
    }

    /// Nothing is wrong: it is refused, and what is to be done is said.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Held(HoldError::InUse { .. })
            | Self::Refused(_)
            | Self::InTheWay { .. }
            | Self::NoRoom(_)
            | Self::NotAudited(_) => true,
            Self::Io { .. }
            | Self::Durable(_)
            | Self::Held(HoldError::Io { .. })
            | Self::Store(_)
            | Self::Queue(_)
            | Self::Journal { .. }
            | Self::Key { .. } => false,
        }
    }
}
