//! What belongs to a backup until it is whole, and what becomes of it after a cut.
//!
//! It promises that a file under a final name is whole, and that the next run finishes or removes
//! what a cut left. It must never touch what another gateway is writing.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::durable::Medium;

use super::site::Site;
use super::{ArchiveName, BackupError, Manifest};

/// What a file is called until it is whole.
pub(super) const PART: &str = ".part";

/// Writes `manifest` in place of the one at `sidecar`.
pub(super) fn rewrite(
    sidecar: &Path,
    manifest: &Manifest,
    medium: &Medium,
    site: &Site<'_>,
) -> Result<(), BackupError> {
    let odd = |e: serde_json::Error| BackupError::io("write", sidecar)(io::Error::other(e));
    let bytes = manifest.to_bytes().map_err(odd)?;
    let fresh = with_part(sidecar);
    let _pass =
        crate::durable::enter(site.gate, site.stop).map_err(BackupError::io("write", sidecar))?;
    medium.replace(&fresh, &bytes)?;
    own_alone(&fresh)?;
    Ok(medium.rename(&fresh, sidecar)?)
}

/// Finishes or removes what a cut left in `dir` of backups of `gateway`.
///
/// # Errors
/// The directory cannot be listed or changed.
pub(super) fn tidy(dir: &Path, gateway: &str, medium: &Medium) -> Result<(), BackupError> {
    for entry in fs::read_dir(dir).map_err(BackupError::io("list", dir))? {
        let path = entry.map_err(BackupError::io("list", dir))?.path();
        let Some(file) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        let stem = file.strip_suffix(".new").unwrap_or(file);
        let Some(stem) = stem.strip_suffix(PART) else {
            continue;
        };
        // Another gateway may be writing here at this moment.
        let Ok(name) = stem.parse::<ArchiveName>() else {
            continue;
        };
        if name.gateway() != gateway {
            continue;
        }
        let published = dir.join(name.archive()).exists();
        if published && file == format!("{}{PART}", name.manifest()) {
            medium.rename(&path, &dir.join(name.manifest()))?;
        } else {
            medium.remove(&path)?;
        }
    }
    Ok(())
}

/// Removes the copies that a cut left.
pub(super) fn tidy_work(site: &Site<'_>) -> Result<(), BackupError> {
    let list = fs::read_dir(site.work).map_err(BackupError::io("list", site.work))?;
    for entry in list {
        let path = entry.map_err(BackupError::io("list", site.work))?.path();
        site.medium.remove(&path)?;
    }
    Ok(())
}

/// What `path` is called until it is whole.
pub(super) fn with_part(path: &Path) -> PathBuf {
    let mut name: Vec<u8> = path.as_os_str().as_bytes().to_vec();
    name.extend(PART.as_bytes());
    OsString::from_vec(name).into()
}

/// Readable for its owner alone: a manifest names what a gateway holds.
pub(super) fn own_alone(path: &Path) -> Result<(), BackupError> {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::chmod(path, mode).map_err(|e| BackupError::io("change mode of", path)(e.into()))
}
