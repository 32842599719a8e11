//! Where backups go beside the gateway's own directory.
//!
//! It promises that what it calls copied was read back from the target, with the page cache
//! dropped, and had the hash of the archive that was decrypted here. It must never leave a stick
//! mounted.

mod directory;
mod usb;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::BackupSettings;

use super::BackupError;

pub use directory::{copy_to, hash_of};
pub use usb::Stick;

/// A place for backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The gateway's own directory.
    Local(PathBuf),
    /// A directory of another medium.
    Directory(PathBuf),
    /// A USB stick, by its file system's label.
    Usb(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(dir) | Self::Directory(dir) => dir.display().fmt(f),
            Self::Usb(label) => write!(f, "usb:{label}"),
        }
    }
}

impl Target {
    /// All that are configured, the local one first.
    pub fn all(settings: &BackupSettings) -> Vec<Self> {
        let copies = settings.copies.iter().cloned().map(Self::Directory);
        let sticks = settings.usb_labels.iter().cloned().map(Self::Usb);
        std::iter::once(Self::Local(settings.dir.clone()))
            .chain(copies)
            .chain(sticks)
            .collect()
    }

    /// Makes it usable; a stick stays mounted as long as the answer is held.
    ///
    /// # Errors
    /// It is not there, or cannot be used.
    pub fn open(&self, data_dir: &Path, run_dir: &Path) -> Result<Opened, BackupError> {
        match self {
            Self::Local(dir) => Ok(Opened {
                dir: dir.clone(),
                stick: None,
            }),
            Self::Directory(dir) => {
                directory::on_another_medium(dir, data_dir)?;
                Ok(Opened {
                    dir: dir.clone(),
                    stick: None,
                })
            }
            Self::Usb(label) => {
                let stick = Stick::mount(label, run_dir)?;
                Ok(Opened {
                    dir: stick.dir().to_owned(),
                    stick: Some(stick),
                })
            }
        }
    }
}

/// A target that can be used now.
#[derive(Debug)]
pub struct Opened {
    dir: PathBuf,
    stick: Option<Stick>,
}

impl Opened {
    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Done with it.
    ///
    /// # Errors
    /// A stick could not be unmounted: what was written may not be on it.
    pub fn close(mut self) -> Result<(), BackupError> {
        self.stick.take().map_or(Ok(()), Stick::unmount)
    }
}
