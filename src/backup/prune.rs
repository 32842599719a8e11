//! Removes backups, by the rule or to make room.
//!
//! It promises that a backup is either listed whole, listed as being removed, or gone: its manifest
//! is first renamed, then the archive goes, then the manifest, and the next run finishes what a cut
//! left. It must never touch another gateway's backups, nor archives of keys.

use std::path::{Path, PathBuf};

use crate::clock::Wall;
use crate::durable::Medium;

use super::catalogue::{self, Listed, PRUNING, Standing};
use super::retention::{Kept, Rule, due, squeezed};
use super::{ArchiveName, BackupError, Kind};

/// Why backups go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The rule lets them go.
    Rule(Rule),
    /// So many bytes are wanted.
    Room(u64),
}

/// The backups of `gateway` in `dir` that would go, oldest first.
///
/// # Errors
/// The directory cannot be listed.
pub fn candidates(
    dir: &Path,
    gateway: &str,
    cause: Cause,
    now: Wall,
) -> Result<Vec<Listed>, BackupError> {
    // As it stands in names.
    let name = ArchiveName::new(gateway, Wall::default(), 0);
    let mut own: Vec<_> = catalogue::list(dir)?
        .into_iter()
        .filter(|l| l.name.gateway() == name.gateway())
        .filter(|l| l.manifest.as_ref().is_none_or(|m| m.kind == Kind::Data))
        .collect();
    let kept: Vec<_> = own.iter().map(kept).collect();
    let mut go = match cause {
        Cause::Rule(rule) => due(&kept, rule, now),
        Cause::Room(wanted) => squeezed(&kept, wanted),
    };
    // What was begun is finished whatever the rule says now.
    for (i, one) in own.iter().enumerate() {
        if one.standing == Standing::Pruning && !go.contains(&i) {
            go.push(i);
        }
    }
    let mut place = 0;
    own.retain(|_| {
        place += 1;
        go.contains(&(place - 1))
    });
    Ok(own)
}

fn kept(one: &Listed) -> Kept {
    let head = one.manifest.as_ref().and_then(|m| m.audit_head.as_ref());
    Kept {
        made: one.name.made(),
        sequence: head.map(|h| h.sequence),
        verified: one.counts(),
        bytes: one.bytes,
    }
}

/// Removes one. A cut leaves it whole or [`Standing::Pruning`].
///
/// # Errors
/// It cannot be removed.
pub fn remove(one: &Listed, medium: &Medium) -> Result<(), BackupError> {
    let sidecar = one.sidecar();
    let going = pruning(&sidecar);
    if sidecar.exists() {
        medium.rename(&sidecar, &going)?;
    }
    medium.remove(&one.archive())?;
    Ok(medium.remove(&going)?)
}

fn pruning(sidecar: &Path) -> PathBuf {
    let mut name = sidecar.as_os_str().to_owned();
    name.push(PRUNING);
    name.into()
}
