//! What is remembered of backups between two runs of the agent.
//!
//! It must never decide whether a backup counts: the manifests do.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable::{Medium, read_own_if_there};

use super::BackupError;

/// The version that is written.
const FORMAT: u32 = 1;
const LONGEST: u64 = 1 << 20;

/// See the module's text. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupState {
    format: u32,
    /// The newest backup that was made and verified here.
    pub last: Option<LastBackup>,
    /// The newest that failed, unless one was made after it.
    pub failed: Option<LastFailure>,
    /// When a backup was opened with the owner's own key the last time.
    pub last_key_rehearsal: Option<String>,
    /// What came of the last copy to each target, by its name.
    pub targets: BTreeMap<String, TargetState>,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    /// Its name.
    pub name: String,
    /// When.
    pub at: String,
    /// The same in milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// Its size.
    pub bytes: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// A backup that was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    /// When.
    pub at: String,
    /// Why.
    pub why: String,
}

/// A target's last copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetState {
    /// When.
    pub at: String,
    /// The archive.
    pub name: String,
    /// Why it is not there; `None`: it was copied and read back.
    pub problem: Option<String>,
}

impl BackupState {
    /// As it stands in `path`; what cannot be understood is as good as nothing, and said.
    pub fn read(path: &Path) -> Self {
        let read = read_own_if_there(path, LONGEST).map_err(|e| e.to_string());
        let parsed = read.and_then(|bytes| match bytes {
            None => Ok(Self::default()),
            Some(b) => serde_json::from_slice::<Self>(&b).map_err(|e| e.to_string()),
        });
        match parsed {
            Ok(state) if state.format <= FORMAT => state,
            Ok(state) => {
                log::warn!(
                    "{} is of a later version ({})",
                    path.display(),
                    state.format
                );
                Self::default()
            }
            Err(why) => {
                log::warn!("{} is of no use: {why}", path.display());
                Self::default()
            }
        }
    }

    /// Writes it to `path`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path, medium: &Medium) -> Result<(), BackupError> {
        let state = Self {
            format: FORMAT,
            ..self.clone()
        };
        let text = serde_json::to_vec_pretty(&state)
            .map_err(|e| BackupError::io("write", path)(std::io::Error::other(e)))?;
        Ok(medium.replace(path, &text)?)
    }
}
