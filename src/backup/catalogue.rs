//! The backups in a directory, as they stand there.
//!
//! It promises that every archive and every manifest is listed, also one without the other, and
//! that a manifest which cannot be read is named and believed in nothing. It must never change
//! anything.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::durable::read_own;

use super::part::PART;
use super::{ArchiveName, BackupError, Manifest};

/// The longest manifest that is read.
const LONGEST: u64 = 256 << 20;
/// What a manifest is called while its archive is being removed.
pub(super) const PRUNING: &str = ".pruning";

/// How a backup stands there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum Standing {
    /// Archive and manifest, of the size that the manifest says.
    Whole,
    /// An archive without a manifest: `holdup backup verify` with the key makes it anew.
    NoManifest,
    /// A manifest without an archive.
    NoArchive,
    /// The manifest cannot be understood, or is of another archive; says why.
    Odd(String),
    /// It is being removed; the next `prune` finishes that.
    Pruning,
}

/// One backup.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name.
    pub name: ArchiveName,
    /// The directory.
    pub dir: PathBuf,
    /// How it stands there.
    pub standing: Standing,
    /// Of the archive; 0 where there is none.
    pub bytes: u64,
    /// What its manifest says, where that can be read.
    pub manifest: Option<Manifest>,
}

impl Listed {
    /// The archive.
    pub fn archive(&self) -> PathBuf {
        self.dir.join(self.name.archive())
    }

    /// The manifest.
    pub fn sidecar(&self) -> PathBuf {
        self.dir.join(self.name.manifest())
    }

    /// The gateway's own databases that are not in it, each with the reason.
    pub fn lacks(&self) -> Vec<String> {
        let passed = self.manifest.iter().flat_map(|m| &m.passed);
        passed
            .filter(|p| p.is_own_database())
            .map(ToString::to_string)
            .collect()
    }

    /// Does it count: was it decrypted again after it was written, and is it still there?
    pub fn counts(&self) -> bool {
        self.standing == Standing::Whole
            && self.manifest.as_ref().is_some_and(Manifest::is_verified)
    }
}

/// What is free on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Bytes free for us.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What is free where `dir` lies.
///
/// # Errors
/// It cannot be asked.
pub fn room(dir: &Path) -> Result<Room, BackupError> {
    let s = rustix::fs::statvfs(dir).map_err(|e| BackupError::io("look at", dir)(e.into()))?;
    Ok(Room {
        free: s.f_bavail.saturating_mul(s.f_frsize),
        total: s.f_blocks.saturating_mul(s.f_frsize),
    })
}

#[derive(Default)]
struct Files {
    archive: Option<u64>,
    manifest: bool,
    pruning: bool,
}

/// Every backup in `dir`, oldest first by its name's time; nothing where there is no directory.
///
/// # Errors
/// It cannot be listed.
pub fn list(dir: &Path) -> Result<Vec<Listed>, BackupError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(BackupError::io("list", dir)(e)),
    };
    let mut found: BTreeMap<ArchiveName, Files> = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(BackupError::io("list", dir))?;
        let file = entry.file_name();
        let Some(file) = file.to_str().filter(|f| !f.ends_with(PART)) else {
            continue;
        };
        let stem = file.strip_suffix(PRUNING).unwrap_or(file);
        let Ok(name) = stem.parse::<ArchiveName>() else {
            continue;
        };
        let meta = entry
            .metadata()
            .map_err(BackupError::io("look at", &entry.path()))?;
        if !meta.is_file() {
            continue;
        }
        if file == name.archive() {
            found.entry(name).or_default().archive = Some(meta.len());
        } else if file == name.manifest() {
            found.entry(name).or_default().manifest = true;
        } else if stem != file && stem == name.manifest() {
            found.entry(name).or_default().pruning = true;
        }
    }
    Ok(found
        .into_iter()
        .map(|(name, f)| listed(dir, name, &f))
        .collect())
}

fn listed(dir: &Path, name: ArchiveName, files: &Files) -> Listed {
    let path = dir.join(name.manifest());
    let read = files.manifest.then(|| {
        read_own(&path, LONGEST)
            .map_err(|e| e.to_string())
            .and_then(|b| Manifest::parse(&b, &path).map_err(|e| e.to_string()))
    });
    let (manifest, bad) = match read {
        None => (None, None),
        Some(Ok(manifest)) => (Some(manifest), None),
        Some(Err(why)) => (None, Some(why)),
    };
    let standing = match (files, bad) {
        (Files { pruning: true, .. }, _) => Standing::Pruning,
        (_, Some(why)) => Standing::Odd(why),
        (Files { archive: None, .. }, None) => Standing::NoArchive,
        (
            Files {
                archive: Some(bytes),
                ..
            },
            None,
        ) => match &manifest {
            None => Standing::NoManifest,
            Some(m) => belongs(m, &name, *bytes),
        },
    };
    Listed {
        name,
        dir: dir.to_owned(),
        standing,
        bytes: files.archive.unwrap_or(0),
        manifest,
    }
}

/// Is it the manifest of that archive?
fn belongs(m: &Manifest, name: &ArchiveName, bytes: u64) -> Standing {
    if m.made_ms != name.made().as_millis() {
        return Standing::Odd("its manifest is of another backup".to_owned());
    }
    match &m.archive {
        Some(facts) if facts.bytes != bytes => Standing::Odd(format!(
            "the archive has {bytes} bytes, and had {} when it was made",
            facts.bytes
        )),
        Some(_) | None => Standing::Whole,
    }
}
