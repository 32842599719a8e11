//! Looks at a backup again, long after it was made.
//!
//! It promises to tell apart what the hash shows (the bytes are those that were verified once) from
//! what only the owner's key shows (they can be opened today). Where the manifest beside it is
//! missing and the key is given, the one inside is put beside it again.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::durable::Medium;

use super::catalogue::{Listed, Standing};
use super::create::in_full;
use super::part::rewrite;
use super::target::hash_of;
use super::{ArchiveFacts, BackupError, Identity, Manifest, Site, Verified, read_back};

/// Looks at `one`: with `keys` everything in it is decrypted and compared, else its hash is.
///
/// # Errors
/// It cannot be read or opened, or is not what its manifest says.
pub fn verify(
    one: &Listed,
    keys: Option<&[Identity]>,
    site: &Site<'_>,
) -> Result<Manifest, BackupError> {
    let done = look(one, keys, site);
    if done.is_err() {
        disprove(one, site)?;
    }
    done
}

/// What is not any more what was verified does not count from now on.
fn disprove(one: &Listed, site: &Site<'_>) -> Result<(), BackupError> {
    let counted = one.manifest.as_ref().filter(|m| m.is_verified());
    let (Some(manifest), true) = (counted, one.archive().exists()) else {
        return Ok(());
    };
    let said = manifest.archive.as_ref().map(|a| a.sha256.as_str());
    if said == Some(hash_of(&one.archive(), site)?.as_str()) {
        return Ok(());
    }
    let mut manifest = manifest.clone();
    manifest.verified = None;
    rewrite(&one.sidecar(), &manifest, &Medium::open(&one.dir)?, site)
}

fn look(one: &Listed, keys: Option<&[Identity]>, site: &Site<'_>) -> Result<Manifest, BackupError> {
    let path = one.archive();
    let no = |why: String| BackupError::NotVerified {
        path: path.clone(),
        why,
    };
    if one.standing == Standing::NoArchive {
        return Err(no("the archive is missing".to_owned()));
    }
    let Some(keys) = keys else {
        let manifest = one.manifest.clone().ok_or_else(|| {
            no("it has no manifest that can be read: give --identity, and it is made anew".into())
        })?;
        let facts = manifest.archive.as_ref();
        let said = facts.ok_or_else(|| no("its manifest does not say its hash".to_owned()))?;
        let found = hash_of(&path, site)?;
        if found != said.sha256 {
            return Err(no("its bytes are not those that were written".to_owned()));
        }
        if !manifest.is_verified() {
            return Err(no("it was never verified: give --identity".to_owned()));
        }
        return Ok(manifest);
    };
    // Nothing is written of what comes out: only time is spent on a bomb.
    let found = read_back(&path, keys, u64::MAX, site)?;
    if let Some(manifest) = &one.manifest {
        let said = manifest.archive.as_ref();
        if said.is_some_and(|a| a.sha256 != found.sha256) {
            return Err(no("its bytes are not those that were written".to_owned()));
        }
        if said.is_some_and(|a| a.manifest_sha256 != found.manifest_sha256) {
            return Err(no("the manifest in it is not the one beside it".to_owned()));
        }
        if manifest.is_verified() {
            return Ok(manifest.clone());
        }
    }
    let mut manifest = found.manifest;
    if manifest.made_ms != one.name.made().as_millis() {
        return Err(no("it is another backup than its name says".to_owned()));
    }
    manifest.archive = Some(ArchiveFacts {
        bytes: found.bytes,
        sha256: found.sha256,
        manifest_sha256: found.manifest_sha256,
    });
    manifest.verified = Some(Verified {
        at: site.clock.wall().to_string(),
        took_ms: 0,
    });
    let medium = Medium::open(&one.dir)?;
    rewrite(&one.sidecar(), &manifest, &medium, site)?;
    Ok(manifest)
}

/// What was seen of one backup.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Its name.
    pub name: String,
    /// The file.
    pub archive: PathBuf,
    /// Is it what it was?
    pub good: bool,
    /// Was it opened with the owner's key?
    pub with_key: bool,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// Whose keys open it.
    pub opens_with: Vec<String>,
}

impl VerifyReport {
    /// Of what [`verify`] answered.
    pub fn new(one: &Listed, found: &Result<Manifest, BackupError>, with_key: bool) -> Self {
        let manifest = found.as_ref().ok().or(one.manifest.as_ref());
        let recipients = manifest
            .map(|m| m.recipients.as_slice())
            .unwrap_or_default();
        Self {
            name: one.name.to_string(),
            archive: one.archive(),
            good: found.is_ok(),
            with_key,
            problem: found.as_ref().err().map(|e| in_full(e)),
            opens_with: recipients.iter().map(|r| r.fingerprint.clone()).collect(),
        }
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match (&self.problem, self.with_key) {
            (None, true) => write!(f, "{name}: opened with the key, everything in it is whole"),
            (None, false) => write!(f, "{name}: its bytes are those that were verified"),
            (Some(why), _) => {
                write!(f, "{name}: BAD: {why}")?;
                if self.with_key && !self.opens_with.is_empty() {
                    write!(f, " (it is encrypted to {})", self.opens_with.join(", "))?;
                }
                Ok(())
            }
        }
    }
}
