//! Backups of a drill's gateway: for a key of the drill alone, with a copy that is not on its card.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;

use crate::backup::{ArchiveName, Identity, Manifest};
use crate::clock::{Clock, SystemClock};
use crate::durable::{Medium, read_own};

use super::DrillError;
use super::child::{Done, Process};
use super::evidence::BackupUsed;
use super::gateway::Gateway;

/// The longest manifest that is read.
const MOST: u64 = 16 << 20;

/// A key that lives as long as the scenario, and where copies are kept.
#[derive(Debug)]
pub(super) struct Vault {
    dir: PathBuf,
    recipient: String,
}

/// A backup, off the gateway's card.
#[derive(Debug)]
pub(super) struct Archive {
    /// The copy.
    pub(super) path: PathBuf,
    pub(super) manifest: Manifest,
}

impl Vault {
    /// Makes `dir` and a key in it.
    pub(super) fn make(dir: PathBuf) -> Result<Self, DrillError> {
        let above = dir.parent().unwrap_or(Path::new("/"));
        let medium = Medium::open(above)?;
        medium.make_dir(&dir)?;
        let key = Identity::generate();
        let secret = key.secret_text();
        let text = format!("{}\n", secret.expose_secret());
        medium.replace(&dir.join("key.txt"), text.as_bytes())?;
        Ok(Self {
            recipient: key.recipient().text().to_owned(),
            dir,
        })
    }

    /// What the gateway's configuration says of backups: the recipient, not the key.
    pub(super) fn config(&self) -> String {
        format!("[backup]\nrecipients = [\"{}\"]\n", self.recipient)
    }

    /// Makes a backup of `gateway`, by its agent if that runs, and copies it off the card.
    pub(super) fn take(&self, gateway: &Gateway<'_>) -> Result<Archive, DrillError> {
        let done = gateway.verb(&["backup", "create", "--json"])?;
        if !done.status.success() {
            let why = done.why();
            return Err(DrillError::Stuck(format!("no backup was made: {why}")));
        }
        let dir = gateway.data().join("backup");
        let name = newest(&dir)?;
        let path = self.dir.join(name.archive());
        for file in [name.archive(), name.manifest()] {
            let from = dir.join(&file);
            let to = self.dir.join(&file);
            std::fs::copy(&from, to).map_err(DrillError::io("copy", &from))?;
        }
        let beside = dir.join(name.manifest());
        let bytes = read_own(&beside, MOST).map_err(DrillError::io("read", &beside))?;
        let manifest = Manifest::parse(&bytes, &beside)
            .map_err(|e| DrillError::Stuck(super::error::explain(&e)))?;
        Ok(Archive { path, manifest })
    }

    /// `holdup backup restore WHAT`, with the key.
    fn restoring(&self, what: &[OsString]) -> Vec<OsString> {
        let mut args: Vec<OsString> = ["backup", "restore"].map(OsString::from).into();
        args.extend(what.iter().cloned());
        args.push("--identity".into());
        args.push(self.dir.join("key.txt").into());
        args.extend(["--yes", "--json"].map(OsString::from));
        args
    }

    /// Restores, to the end.
    pub(super) fn restore(&self, to: &Gateway<'_>, what: &[OsString]) -> Result<(), DrillError> {
        let done = to.verb(&self.restoring(what))?;
        if done.status.success() {
            return Ok(());
        }
        Err(DrillError::Stuck(format!(
            "the restore failed: {}",
            done.why()
        )))
    }

    /// Restores where no file can have more than `bytes`.
    pub(super) fn restore_within(
        &self,
        to: &Gateway<'_>,
        what: &[OsString],
        bytes: u64,
    ) -> Result<Done, DrillError> {
        to.verb_within(&self.restoring(what), Some(bytes))
    }

    /// Begins to restore.
    pub(super) fn begin(&self, to: &Gateway<'_>, what: &[OsString]) -> Result<Process, DrillError> {
        to.begin(&self.restoring(what))
    }
}

impl Archive {
    /// As evidence, at this moment.
    pub(super) fn used(&self) -> BackupUsed {
        let name = self.path.file_name().unwrap_or_default();
        let age = SystemClock
            .wall()
            .as_millis()
            .saturating_sub(self.manifest.made_ms);
        BackupUsed {
            name: name.to_string_lossy().into_owned(),
            bytes: self.manifest.archive.as_ref().map_or(0, |a| a.bytes),
            verified: self.manifest.is_verified(),
            age_ms: u64::try_from(age).unwrap_or(0),
        }
    }

    /// As the restoring verb is given it.
    pub(super) fn named(&self) -> Vec<OsString> {
        vec![self.path.clone().into()]
    }
}

fn newest(dir: &Path) -> Result<ArchiveName, DrillError> {
    let failed = |e| DrillError::io("list", dir)(e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".json") {
            names.extend(name.parse::<ArchiveName>().ok());
        }
    }
    names.into_iter().max().ok_or_else(|| {
        let dir = dir.display();
        DrillError::Stuck(format!("the backup that was made is not in {dir}"))
    })
}
