//! Unlinking a tree, by descriptors: what a name turns into meanwhile is never followed.
//!
//! It promises to pass the gate for each entry, so that closing it waits for one unlink at most, and
//! that the names are gone durably when it returns. What the medium still holds is another matter.

use std::ffi::CString;
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use serde::{Deserialize, Serialize};

use crate::durable::{discard, enter};

use super::inventory::DEEPEST;
use super::{ResetError, Site};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Of the medium, for one request.
const PIECE: u64 = 1 << 30;

/// Removes what lies at `path`, whatever it is.
pub(super) fn erase(path: &Path, site: &Site<'_>) -> Result<(), ResetError> {
    let failed = |e: Errno| ResetError::io("erase", path)(e.into());
    site.medium.healthy()?;
    match openat(CWD, path, DIRECTORY, Mode::empty()) {
        Ok(dir) => {
            empty(&dir, path, site, DEEPEST)?;
            let _pass = pass(site, path)?;
            unlinkat(CWD, path, AtFlags::REMOVEDIR).map_err(failed)?;
        }
        Err(Errno::NOENT) => return Ok(()),
        // A file, or a link.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            let _pass = pass(site, path)?;
            unlinkat(CWD, path, AtFlags::empty()).map_err(failed)?;
        }
        Err(e) => return Err(failed(e)),
    }
    let _pass = pass(site, path)?;
    Ok(site.medium.sync_parent(path)?)
}

fn empty(dir: &OwnedFd, path: &Path, site: &Site<'_>, deep: u32) -> Result<(), ResetError> {
    let failed = |e: Errno| ResetError::io("erase what is in", path)(e.into());
    let entries = Dir::read_from(dir).map_err(failed)?;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name: CString = entry.file_name().to_owned();
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        match openat(dir.as_fd(), &name, DIRECTORY, Mode::empty()) {
            Ok(below) => {
                if deep == 0 {
                    return Err(failed(Errno::NAMETOOLONG));
                }
                empty(&below, path, site, deep - 1)?;
                let _pass = pass(site, path)?;
                unlinkat(dir.as_fd(), &name, AtFlags::REMOVEDIR).map_err(failed)?;
            }
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let _pass = pass(site, path)?;
                unlinkat(dir.as_fd(), &name, AtFlags::empty()).map_err(failed)?;
            }
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(())
}

/// What was asked of the medium.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Discarded {
    /// Bytes that no file has, which it was asked to discard; a card may ignore that.
    pub bytes: Option<u64>,
    /// Why it was not asked.
    pub why_not: Option<String>,
}

/// Asks the medium to discard what no file has, piece by piece, so that power never waits long.
pub(super) fn ask_to_discard(dir: &Path, site: &Site<'_>) -> Result<Discarded, ResetError> {
    let statvfs = rustix::fs::statvfs(dir);
    let size = statvfs.map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize));
    let (mut asked, mut at) = (0, 0);
    while at < size {
        let _pass = pass(site, dir)?;
        match discard(site.medium.fd(), at, PIECE) {
            Ok(bytes) => asked += bytes,
            Err(e) => {
                let why = format!("the file system does not do it for this user: {e}");
                return Ok(Discarded {
                    bytes: (at > 0).then_some(asked),
                    why_not: Some(why),
                });
            }
        }
        at += PIECE;
    }
    Ok(Discarded {
        bytes: Some(asked),
        why_not: None,
    })
}

pub(super) fn pass<'g>(
    site: &Site<'g>,
    path: &Path,
) -> Result<crate::durable::Pass<'g>, ResetError> {
    enter(site.gate, site.stop).map_err(ResetError::io("go on with", path))
}
