//! What lies in the data directory, by who made it, and what becomes of it.
//!
//! It promises that whatever holdup made that can hold a reading is found by the beginning of its
//! name, whatever came behind it, that what holdup did not make is left and named, and that no link
//! is followed: a link goes, what it points to stays, and both are said.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::home::Home;
use super::{Level, ResetError};

/// Directories below one another that are walked.
pub(super) const DEEPEST: u32 = 64;

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Moved out of its place, then unlinked.
    Erased,
    /// A damaged database: moved into the evidence.
    Evidence,
    /// Stays, since the level keeps it.
    Kept,
    /// Stays, since holdup did not make it.
    Left,
}

/// One file or directory in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its path, as people read it.
    pub path: String,
    /// What it is to holdup.
    pub what: String,
    /// What becomes of it.
    pub fate: Fate,
    /// Files in it, itself counted.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// It is a link to this; what that names stays in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// Everything there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// By name.
    pub items: Vec<Item>,
    /// Of those, the names of what leaves its place, companions before their database.
    #[serde(skip)]
    pub(super) moves: Vec<(OsString, Fate)>,
}

impl Inventory {
    /// Those with this fate.
    pub fn of(&self, fate: Fate) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(move |i| i.fate == fate)
    }

    /// Bytes of those that are erased.
    pub fn bytes_erased(&self) -> u64 {
        self.of(Fate::Erased).map(|i| i.bytes).sum()
    }
}

/// A part of the level's choice that the journal keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) level: Level,
    pub(super) with_evidence: bool,
    /// Names of databases that are damaged.
    pub(super) damaged: &'a [String],
}

/// What a reset of `level` would do here. Nothing is touched.
///
/// # Errors
/// The directory cannot be read, or something that must stay lies in what would go.
pub fn take(
    home: &Home,
    level: Level,
    with_evidence: bool,
    damaged: &[String],
) -> Result<Inventory, ResetError> {
    let choice = Choice {
        level,
        with_evidence,
        damaged,
    };
    let found = list(home, choice)?;
    unhindered(home, choice, &found)?;
    Ok(found)
}

/// The same without asking what is in the way.
pub(super) fn list(home: &Home, choice: Choice<'_>) -> Result<Inventory, ResetError> {
    let dir = home.data_dir();
    let read = |e| ResetError::io("list", dir)(e);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(read)? {
        names.push(entry.map_err(read)?.file_name());
    }
    // The longer name first: companions before their database.
    names.sort_by(|a, b| a.len().cmp(&b.len()).reverse().then(a.cmp(b)));
    let mut found = Inventory::default();
    for name in names {
        // Its end removes it.
        if name == "reset.journal" {
            continue;
        }
        let path = dir.join(&name);
        let (fate, what) = fate(home, choice, &name);
        let (files, bytes) = size(&path, DEEPEST);
        let link = fs::read_link(&path).ok();
        found.items.push(Item {
            path: path.display().to_string(),
            what: what.to_owned(),
            fate,
            files,
            bytes,
            link: link.map(|to| to.display().to_string()),
        });
        // The identity signs the receipt, and goes behind it.
        let signs = name.as_bytes().starts_with(super::IDENTITY.as_bytes());
        if matches!(fate, Fate::Erased | Fate::Evidence) && !signs {
            found.moves.push((name, fate));
        }
    }
    found.items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Of the family: its name, or that with something behind it.
fn is_of(name: &OsStr, family: &str) -> bool {
    let Some(rest) = name.as_bytes().strip_prefix(family.as_bytes()) else {
        return false;
    };
    rest.first().is_none_or(|b| b"-.~".contains(b))
}

fn fate(home: &Home, choice: Choice<'_>, name: &OsStr) -> (Fate, &'static str) {
    let gateway = &home.settings.gateway;
    let named = |path: PathBuf| {
        is_of(
            name,
            &path.file_name().unwrap_or_default().to_string_lossy(),
        )
    };
    let begins = |with: &str| name.as_bytes().starts_with(with.as_bytes());
    let path = gateway.data_dir.join(name);
    let all = choice.level == Level::Everything;
    let databases = [
        (gateway.store_path(), "readings"),
        (gateway.queue_path(), "messages that wait to be sent"),
    ];
    for (database, what) in databases {
        let file = database.file_name().unwrap_or_default().to_string_lossy();
        if is_of(name, &file) {
            let kept = choice.damaged.iter().any(|d| *d == file) && !all && !choice.with_evidence;
            return (if kept { Fate::Evidence } else { Fate::Erased }, what);
        }
    }
    if named(gateway.ledger_path()) {
        return (Fate::Erased, "the ledger of what was acknowledged");
    }
    if named(gateway.snapshots_path()) {
        return (Fate::Erased, "snapshots of the databases");
    }
    if named(gateway.backup_work()) {
        return (Fate::Erased, "copies for a backup");
    }
    if begins("restore-") || begins(".holdup-") {
        return (Fate::Erased, "files of a restore");
    }
    if begins("reset-") {
        return (Fate::Erased, "what an earlier reset had moved");
    }
    if named(gateway.evidence_path()) {
        let goes = all || choice.with_evidence;
        let what = "evidence: copies of damaged databases, with readings in them";
        return (if goes { Fate::Erased } else { Fate::Kept }, what);
    }
    if named(gateway.drill_path()) {
        let fate = if all { Fate::Erased } else { Fate::Kept };
        return (
            fate,
            "evidence of drills; no reading of this gateway is in it",
        );
    }
    if home.keys().any(|key| key == path) {
        let fate = if all { Fate::Erased } else { Fate::Kept };
        return (fate, "a certificate or key (backup.keys)");
    }
    if home.settings.backup.dir == path {
        return (
            Fate::Kept,
            "backups, encrypted: only who has the key reads them",
        );
    }
    if home.technicians().contains(&path) {
        let fate = if all { Fate::Erased } else { Fate::Kept };
        return (fate, "the technicians' keys");
    }
    if begins(super::IDENTITY) {
        let fate = if all { Fate::Erased } else { Fate::Kept };
        return (fate, "the gateway's identity");
    }
    (
        Fate::Kept,
        match () {
            () if named(gateway.audit_path()) => "the audit log",
            () if begins("receipts") => "receipts of resets",
            () if begins("reset.journal") => "the journal of a reset",
            () if named(gateway.record_path())
                || named(gateway.heartbeat_path())
                || begins("holdup_history.json")
                || begins("costs.json")
                || named(gateway.media_path()) =>
            {
                "what is known of the supply and of the storage"
            }
            () if named(gateway.backup_state()) => "what is remembered of backups",
            () if named(gateway.reserve_path()) => "room kept back; nothing is in it",
            () => return (Fate::Left, "not holdup's"),
        },
    )
}

/// Files and bytes at `path`, as far as they can be read; links count as themselves.
fn size(path: &Path, deep: u32) -> (u64, u64) {
    let Ok(meta) = path.symlink_metadata() else {
        return (0, 0);
    };
    if !meta.is_dir() || deep == 0 {
        return (1, meta.len());
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let all = entries.map(|e| size(&e.path(), deep - 1));
    all.fold((0, 0), |(n, b), (files, bytes)| (n + files, b + bytes))
}

/// Refuses where something that must stay would go along.
pub(super) fn unhindered(
    home: &Home,
    choice: Choice<'_>,
    found: &Inventory,
) -> Result<(), ResetError> {
    let evidence = home.settings.gateway.evidence_path();
    let moves_there = found.moves.iter().any(|(_, fate)| *fate == Fate::Evidence);
    if moves_there
        && let Ok(meta) = evidence.symlink_metadata()
        && !meta.is_dir()
    {
        return Err(ResetError::Refused(format!(
            "{} is no directory, and a damaged database is to be kept there: move it away, or start \
             the agent, which sets it aside; nothing was touched",
            evidence.display()
        )));
    }
    let backup = &home.settings.backup;
    let mut stay: Vec<PathBuf> = home.others().map(Path::to_owned).collect();
    stay.push(backup.dir.clone());
    stay.extend(backup.copies.iter().cloned());
    stay.extend(home.config.iter().cloned());
    if choice.level < Level::Everything {
        stay.extend(home.keys().map(Path::to_owned));
        stay.extend(home.technicians());
    }
    // As they are named, and as they are.
    let real: Vec<_> = stay
        .iter()
        .filter_map(|p| fs::canonicalize(p).ok())
        .collect();
    let dir = home.data_dir();
    let real_dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let device = fs::metadata(dir)
        .map_err(ResetError::io("look at", dir))?
        .dev();
    for (name, _) in &found.moves {
        let (path, real_path) = (dir.join(name), real_dir.join(name));
        let hit = stay.iter().find(|p| p.starts_with(&path));
        if let Some(what) = hit.or_else(|| real.iter().find(|p| p.starts_with(&real_path))) {
            return Err(ResetError::InTheWay {
                what: what.clone(),
                within: path,
                remedy: "move it elsewhere, and name its new place in the configuration",
            });
        }
        if let Some(what) = of_another_device(&path, device, DEEPEST) {
            return Err(ResetError::InTheWay {
                what,
                within: path,
                remedy: "it is a file system of its own: unmount it first",
            });
        }
    }
    Ok(())
}

fn of_another_device(path: &Path, device: u64, deep: u32) -> Option<PathBuf> {
    let meta = path.symlink_metadata().ok()?;
    if meta.dev() != device {
        return Some(path.to_owned());
    }
    if !meta.is_dir() || deep == 0 {
        return None;
    }
    let mut entries = fs::read_dir(path).ok()?.flatten();
    entries.find_map(|e| of_another_device(&e.path(), device, deep - 1))
}
