//! The journal of a restore.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backup::escape::escape;
use crate::durable::{Medium, read_own_if_there};

use super::RestoreError;

/// Version of the journal.
const VERSION: u32 = 1;
/// Bytes that are read.
const LONGEST: u64 = 64 << 20;

/// How far it has come; see the room's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    Requested,
    Staged,
    Moved,
    Swapped,
    Verified,
    Undoing,
}

/// A file as the kernel tells it from others, until it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    #[serde(with = "path")]
    pub(super) target: PathBuf,
    /// The new file until the swap, beside the target.
    #[serde(with = "path")]
    pub(super) staged: PathBuf,
    /// The old file from the move on.
    #[serde(with = "path")]
    pub(super) aside: PathBuf,
    /// It has companions, and is tried out.
    pub(super) database: bool,
    /// Was there an old one?
    pub(super) existed: bool,
    /// The new one.
    pub(super) new: Option<Identity>,
    /// Readings in the new one, and the highest id.
    pub(super) readings: Option<(u64, Option<i64>)>,
}

/// A directory that the archive has and this gateway had not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Folder {
    #[serde(with = "path")]
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) version: u32,
    pub(super) step: Step,
    /// The time that names the places of the old files.
    pub(super) id: String,
    /// The archive, for those who read this.
    pub(super) archive: String,
    pub(super) items: Vec<Item>,
    /// Outermost first.
    pub(super) folders: Vec<Folder>,
}

/// Its place.
pub(super) fn place(data_dir: &Path) -> PathBuf {
    data_dir.join("restore.journal")
}

impl Journal {
    pub(super) fn new(id: String, archive: &Path) -> Self {
        Self {
            version: VERSION,
            step: Step::Requested,
            id,
            archive: archive.display().to_string(),
            items: Vec::new(),
            folders: Vec::new(),
        }
    }

    /// The journal that a cut left, if one did.
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>, RestoreError> {
        let path = place(data_dir);
        let bytes = read_own_if_there(&path, LONGEST).map_err(RestoreError::io("read", &path))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let odd = |why: String| RestoreError::Journal {
            path: path.clone(),
            why,
        };
        let journal: Self = serde_json::from_slice(&bytes).map_err(|e| {
            odd(format!(
                "it cannot be understood ({e}): finish by hand what it names"
            ))
        })?;
        if journal.version != VERSION {
            return Err(odd(
                "another holdup wrote it: finish with that one".to_owned()
            ));
        }
        Ok(Some(journal))
    }

    /// Makes `step` durable.
    pub(super) fn write(
        &mut self,
        step: Step,
        data_dir: &Path,
        medium: &Medium,
    ) -> Result<(), RestoreError> {
        self.step = step;
        let path = place(data_dir);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| RestoreError::io("write", &path)(e.into()))?;
        if text.len() as u64 > LONGEST {
            let why =
                "there are too many files for one restore: restore them in parts, with --only";
            return Err(RestoreError::Journal {
                path,
                why: why.to_owned(),
            });
        }
        Ok(medium.replace(&path, &text)?)
    }
}

/// Paths of any bytes in JSON.
mod path {
    use super::{OsStrExt, OsString, OsStringExt, Path, PathBuf, escape};
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&escape(path.as_os_str().as_bytes()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(from)?;
        let bytes =
            unescape(&text).ok_or_else(|| de::Error::custom("a path is not escaped well"))?;
        Ok(OsString::from_vec(bytes).into())
    }

    fn unescape(text: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut parts = text.split('%');
        bytes.extend(parts.next()?.as_bytes());
        for part in parts {
            let hex = part.get(..2)?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            bytes.extend(&part.as_bytes()[2..]);
        }
        Some(bytes)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_path_of_any_bytes_comes_back() {
            for bytes in [
                &b"/a b/\"'\n%41"[..],
                b"/\xff\xfe%",
                "/gr\u{fc}n".as_bytes(),
            ] {
                assert_eq!(unescape(&escape(bytes)).as_deref(), Some(bytes));
            }
            assert_eq!(unescape("%4"), None);
            assert_eq!(unescape("%\u{fc}"), None);
        }
    }
}
