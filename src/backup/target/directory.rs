//! A directory of another medium.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};

use crate::backup::hex::hex;
use crate::backup::part::{PART, tidy, with_part};
use crate::backup::{BackupError, Made, Site, catalogue};
use crate::durable::{Bulk, Medium};

/// Read at once.
const READ: usize = 256 << 10;
/// Room that is left free.
const SPARE: u64 = 1 << 20;

/// Refuses a directory on the gateway's own medium: its file system is not mounted there.
pub(super) fn on_another_medium(dir: &Path, data_dir: &Path) -> Result<(), BackupError> {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev());
    let there = device(dir).map_err(BackupError::io("use", dir))?;
    let here = device(data_dir).map_err(BackupError::io("look at", data_dir))?;
    if there == here {
        return Err(BackupError::SameMedium(dir.to_owned()));
    }
    Ok(())
}

/// Copies `made` to `dir` and reads it back; nothing is left there under a final name otherwise.
///
/// # Errors
/// There is no room, the target fails, or gives back other bytes.
pub fn copy_to(dir: &Path, made: &Made, site: &Site<'_>) -> Result<(), BackupError> {
    let medium = Medium::open(dir)?;
    tidy(dir, made.name.gateway(), &medium)?;
    let to = dir.join(made.name.archive());
    let part = dir.join(format!("{}{PART}", made.name.archive()));
    let sidecar = dir.join(made.name.manifest());
    let Some(facts) = &made.manifest.archive else {
        return Err(BackupError::NotVerified {
            path: made.archive.clone(),
            why: "its manifest does not say what it is".to_owned(),
        });
    };
    let free = catalogue::room(dir)?.free;
    let needed = facts.bytes.saturating_add(SPARE);
    if free < needed {
        return Err(BackupError::NoRoom {
            path: dir.to_owned(),
            free,
            needed,
        });
    }
    let done = copy(made, &part, &medium, site).and_then(|()| {
        let found = hash_of(&part, site)?;
        if found != facts.sha256 {
            return Err(BackupError::NotVerified {
                path: part.clone(),
                why: "what the target gives back is not what was written to it".to_owned(),
            });
        }
        let manifest = made
            .manifest
            .to_bytes()
            .map_err(|e| BackupError::Manifest {
                path: sidecar.clone(),
                why: e.to_string(),
            })?;
        let fresh = with_part(&sidecar);
        medium.replace(&fresh, &manifest)?;
        medium.rename(&part, &to)?;
        Ok(medium.rename(&fresh, &sidecar)?)
    });
    if done.is_err()
        && let Some(_pass) = site.gate.try_enter()
        && let Err(e) = tidy(dir, made.name.gateway(), &medium)
    {
        log::info!("what was begun in {} is left there: {e}", dir.display());
    }
    done
}

fn copy(made: &Made, part: &Path, medium: &Medium, site: &Site<'_>) -> Result<(), BackupError> {
    let mut from = File::open(&made.archive).map_err(BackupError::io("open", &made.archive))?;
    let mut out = Bulk::create(part, medium, site.gate, site.stop)?;
    let mut buffer = vec![0; READ];
    loop {
        let n = from
            .read(&mut buffer)
            .map_err(BackupError::io("read", &made.archive))?;
        if n == 0 {
            break;
        }
        out.write_all(&buffer[..n])
            .map_err(BackupError::io("write", part))?;
        (site.progress)(n as u64);
    }
    out.finish()?;
    Ok(())
}

/// SHA-256, in lower-case hex, of what is on the medium.
///
/// # Errors
/// It cannot be read.
pub fn hash_of(path: &Path, site: &Site<'_>) -> Result<String, BackupError> {
    let mut file = File::open(path).map_err(BackupError::io("open", path))?;
    if let Err(e) = fadvise(&file, 0, None, Advice::DontNeed) {
        log::debug!("the cache of {} is not dropped: {e}", path.display());
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ];
    loop {
        site.go_on()?;
        let n = file
            .read(&mut buffer)
            .map_err(BackupError::io("read", path))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
        (site.progress)(n as u64);
    }
}
