//! What can be wrong with an archive.

use std::io;
use std::path::{Path, PathBuf};

/// An archive that could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file itself could not be read.
    #[error("cannot read {}", path.display())]
    Source {
        /// The archive.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Something else.
    #[error(
        "{} is not an encrypted backup ({why}): give the file that ends with .tar.zst.age",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What shows it.
        why: String,
    },
    /// It is encrypted to other keys.
    #[error("{}: none of the identities given opens it", .0.display())]
    WrongKey(PathBuf),
    /// Its bytes are not those that were written.
    #[error(
        "{} is damaged or cut off ({why}): copy it again from where it came, or take another backup",
        path.display()
    )]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// What shows it.
        why: String,
    },
    /// It was written to do harm, or by a program that writes what no backup holds.
    #[error("{}: {why}; nothing of it is used", path.display())]
    Refused {
        /// The archive.
        path: PathBuf,
        /// What is refused.
        why: String,
    },
    /// It holds more than there can be room for.
    #[error(
        "{} holds more than {most} bytes, which is all that there is room for: make room, or take \
         another backup",
        path.display()
    )]
    TooLarge {
        /// The archive.
        path: PathBuf,
        /// How much was allowed.
        most: u64,
    },
}

/// The source failed, not what is made of its bytes.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct SourceFault(pub(super) io::Error);

/// More came out than was allowed.
#[derive(Debug, thiserror::Error)]
#[error("it holds more than {0} bytes")]
pub(super) struct Overflow(pub(super) u64);

impl ArchiveError {
    /// What `e`, met while an entry of `path` was read, means.
    pub fn reading(path: &Path, e: io::Error) -> Self {
        let path = path.to_owned();
        if let Some(most) = e.get_ref().and_then(|e| e.downcast_ref::<Overflow>()) {
            return Self::TooLarge { path, most: most.0 };
        }
        match e.downcast::<SourceFault>() {
            Ok(SourceFault(source)) => Self::Source { path, source },
            Err(e) => Self::Damaged {
                path,
                why: e.to_string(),
            },
        }
    }
}
