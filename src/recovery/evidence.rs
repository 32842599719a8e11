//! Evidence: the damaged files as they were found, before anything repairs them.
//!
//! It promises that what it kept is on the medium, with a manifest that says when, why, how many
//! bytes and which SHA-256, before it returns; that a part of a file which the medium cannot give
//! any more is named, never passed off as zeros; and that the newest evidence is never removed.
//! It gets its name when it is whole: what a cut leaves half made is known by its own ending, and
//! goes. It must never change a byte of what it keeps.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable::{Bulk, read_own};

use super::RecoveryError;
use super::files::{ALL, Identity, companion, open_existing};
use super::site::Site;

/// Version of the manifest.
const VERSION: u32 = 1;
const MANIFEST: &str = "manifest.json";
/// What became of the database, beside its evidence.
pub(super) const REPORT: &str = "report.json";
/// How the name of a folder ends that is not whole yet.
const PART: &str = ".part";
/// Bytes of a manifest at most.
const LONGEST: u64 = 1 << 24;
/// Read at once; where that fails, block by block.
const READ: usize = 256 * 1024;
const BLOCK: usize = 4096;

/// How the files came there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Copied; the originals were still in their place.
    Copied,
    /// Moved by rename, because a copy did not fit.
    Moved,
}

/// One file of the evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Its name, as it was beside the database.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes in hex; unreadable parts count as zeros.
    pub sha256: String,
    /// Parts that the medium did not give: offset and length in bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<(u64, u64)>,
    /// Which file it was, and when it was last changed; before it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<Identity>,
}

/// What the evidence is, and why it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this format.
    pub version: u32,
    /// Counts up: the wall clock of a gateway may stand in the past.
    pub number: u64,
    /// Wall time, RFC 3339 in UTC.
    pub kept_at: String,
    /// Had a time server set the clock?
    pub clock_synchronised: bool,
    /// Where the files belong.
    pub database: PathBuf,
    /// What was seen.
    pub reason: String,
    /// How they came here.
    pub how: How,
    /// Another program had the database open: what it writes meanwhile, and the moment at which
    /// each file was copied, may differ.
    #[serde(default)]
    pub in_use: bool,
    /// The files.
    pub files: Vec<KeptFile>,
}

/// Evidence that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Its directory.
    pub dir: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
}

impl Evidence {
    /// The database's place in the evidence; its companions lie beside it.
    pub fn database(&self) -> PathBuf {
        self.dir
            .join(self.manifest.database.file_name().unwrap_or_default())
    }

    /// Copies `database` and its companions. Room must have been looked at before.
    pub(super) fn copy(
        database: &Path,
        reason: &str,
        site: &Site<'_>,
    ) -> Result<Self, RecoveryError> {
        Self::begin(database, reason, How::Copied, site)?.fill(database, site)
    }

    /// The same while another program has `database` open.
    pub(super) fn copy_in_use(
        database: &Path,
        reason: &str,
        site: &Site<'_>,
    ) -> Result<Self, RecoveryError> {
        let mut kept = Self::begin(database, reason, How::Copied, site)?;
        kept.manifest.in_use = true;
        kept.fill(database, site)
    }

    fn fill(mut self, database: &Path, site: &Site<'_>) -> Result<Self, RecoveryError> {
        if let Err(e) = self.copy_files(database, site) {
            // It is tried again, perhaps often: half a copy is of no use to anybody.
            if remove_whole(&self.dir, site).is_err() {
                log::warn!("half a copy is left in {}", self.dir.display());
            }
            return Err(e);
        }
        self.end(site)
    }

    fn copy_files(&mut self, database: &Path, site: &Site<'_>) -> Result<(), RecoveryError> {
        for suffix in ALL {
            let from = companion(database, suffix);
            let Some(source) = open_existing(&from, false).map_err(|e| cannot("read", &from, e))?
            else {
                continue;
            };
            let to = self.dir.join(from.file_name().unwrap_or_default());
            let mut copy = Bulk::create(&to, site.medium, site.gate, site.stop)?;
            let file = read_through(&from, &source, &mut |bytes| copy.write_all(bytes))
                .map_err(|e| cannot("copy", &from, e))?;
            copy.finish()?;
            self.manifest.files.push(file);
        }
        Ok(())
    }

    /// What was kept of `database` while another program had it open, if nothing came of it yet.
    pub(super) fn of_one_in_use(
        database: &Path,
        root: &Path,
    ) -> Result<Option<Self>, RecoveryError> {
        let mut all = all(root)?;
        all.retain(|e| e.manifest.in_use && e.manifest.database == database);
        Ok(all.pop().filter(|e| !e.dir.join(REPORT).exists()))
    }

    /// Are the database and its logs still those that were copied, unchanged?
    pub(super) fn is_still_true(&self) -> Result<bool, RecoveryError> {
        for suffix in ALL.iter().filter(|s| **s != "-shm") {
            let path = companion(&self.manifest.database, suffix);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let now = Identity::of(&path).map_err(|e| cannot("look at", &path, e))?;
            let kept = self.manifest.files.iter().find(|f| f.name == name);
            if now != kept.and_then(|f| f.identity) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the directory and the manifest for files that are moved there next.
    pub(super) fn for_moving(
        database: &Path,
        reason: &str,
        site: &Site<'_>,
    ) -> Result<Self, RecoveryError> {
        let mut kept = Self::begin(database, reason, How::Moved, site)?;
        kept.manifest.files = as_they_are(database)?;
        kept.end(site)
    }

    /// The newest evidence, where it is a copy of these very files of which nothing came yet: then a
    /// cut interrupted what came behind it, and a second copy would only wear the card.
    pub(super) fn of_these_files(
        database: &Path,
        site: &Site<'_>,
    ) -> Result<Option<Self>, RecoveryError> {
        let newest = all(site.evidence)?.pop().filter(|e| {
            let m = &e.manifest;
            let ended = e.dir.join(REPORT).exists();
            let copied = m.how == How::Copied && !m.files.is_empty();
            copied && !ended && m.database == database && e.is_there()
        });
        let Some(kept) = newest else { return Ok(None) };
        let whole = kept.manifest.files.iter().all(|f| f.unreadable.is_empty());
        let same = whole && as_they_are(database)? == kept.manifest.files;
        Ok(same.then_some(kept))
    }

    /// Are the files there, in their sizes?
    fn is_there(&self) -> bool {
        let there = |f: &KeptFile| {
            fs::symlink_metadata(self.dir.join(&f.name))
                .is_ok_and(|m| m.is_file() && m.len() == f.bytes)
        };
        self.manifest.files.iter().all(there)
    }

    /// The evidence in `dir`.
    pub fn read(dir: &Path) -> Result<Self, RecoveryError> {
        let path = dir.join(MANIFEST);
        let text = read_own(&path, LONGEST).map_err(|e| cannot("read", &path, e))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|e| cannot("understand", &path, io::Error::other(e)))?;
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
        })
    }

    fn begin(
        database: &Path,
        reason: &str,
        how: How,
        site: &Site<'_>,
    ) -> Result<Self, RecoveryError> {
        let root = site.evidence;
        site.make_dir(root)?;
        let now = site.clock.wall();
        let number = all(root)?.last().map_or(1, |e| e.manifest.number + 1);
        let stamp = now.to_string().replace(':', "");
        // Two in one millisecond, or a clock that was set back.
        let dir = (1..)
            .map(|n: u32| match n {
                1 => root.join(&stamp),
                n => root.join(format!("{stamp}-{n}")),
            })
            .find(|dir| !dir.exists())
            .unwrap_or_else(|| root.join(&stamp));
        let dir = companion(&dir, PART);
        site.make_dir(&dir)?;
        Ok(Self {
            dir,
            manifest: Manifest {
                version: VERSION,
                number,
                kept_at: now.to_string(),
                clock_synchronised: site.clock.is_synchronised(),
                database: database.to_owned(),
                reason: reason.to_owned(),
                how,
                in_use: false,
                files: Vec::new(),
            },
        })
    }

    /// Everything in it is on the medium: it gets its manifest, then its name.
    fn end(self, site: &Site<'_>) -> Result<Self, RecoveryError> {
        let text = serde_json::to_vec_pretty(&self.manifest)
            .map_err(|e| cannot("write", &self.dir, io::Error::other(e)))?;
        site.replace(&self.dir.join(MANIFEST), &text)?;
        let dir = self.dir.with_extension("");
        site.rename(&self.dir, &dir)?;
        Ok(Self { dir, ..self })
    }

    fn bytes(&self) -> u64 {
        self.manifest.files.iter().map(|f| f.bytes).sum()
    }
}

fn is_part(dir: &Path) -> bool {
    dir.as_os_str()
        .as_encoded_bytes()
        .ends_with(PART.as_bytes())
}

/// `database` and its companions as a manifest lists them.
fn as_they_are(database: &Path) -> Result<Vec<KeptFile>, RecoveryError> {
    let mut files = Vec::new();
    for suffix in ALL {
        let from = companion(database, suffix);
        if let Some(source) = open_existing(&from, false).map_err(|e| cannot("read", &from, e))? {
            let file = read_through(&from, &source, &mut |_| Ok(()))
                .map_err(|e| cannot("read", &from, e))?;
            files.push(file);
        }
    }
    Ok(files)
}

/// Removes what cuts left half made under the folder of the evidence: the files that it was to be
/// of are still in their place.
pub(super) fn clear_parts(site: &Site<'_>) -> Result<(), RecoveryError> {
    let root = site.evidence;
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(cannot("list", root, e)),
    };
    let parts = entries.flatten().map(|e| e.path());
    for dir in parts.filter(|d| is_part(d)) {
        remove_whole(&dir, site)?;
    }
    Ok(())
}

/// Removes the folder `dir` with what lies in it: beside the files there is a report, or what a cut
/// left of one. The manifest goes last: evidence without one would never be removed.
fn remove_whole(dir: &Path, site: &Site<'_>) -> Result<(), RecoveryError> {
    let entries = fs::read_dir(dir).map_err(|e| cannot("list", dir, e))?;
    let others = entries.flatten().map(|e| e.path());
    for file in others.filter(|f| f.file_name().is_some_and(|n| n != MANIFEST)) {
        site.remove(&file)?;
    }
    site.remove(&dir.join(MANIFEST))?;
    site.remove_dir(dir)
}

/// Every evidence under `root` that has a manifest, oldest first.
pub(super) fn all(root: &Path) -> Result<Vec<Evidence>, RecoveryError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(cannot("list", root, e)),
    };
    // What has no manifest that can be read is not ours to count, or to remove.
    let mut found: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|dir| !is_part(dir))
        .filter_map(|dir| Evidence::read(&dir).ok())
        .collect();
    found.sort_by_key(|e| e.manifest.number);
    Ok(found)
}

/// Removes the oldest evidence until the rest fits `most` bytes; the newest always stays, and so
/// does what an unfinished recovery still needs. Returns what was removed.
pub(super) fn prune(
    most: u64,
    needed: &[&Path],
    site: &Site<'_>,
) -> Result<Vec<PathBuf>, RecoveryError> {
    let root = site.evidence;
    let mut kept = all(root)?;
    kept.pop();
    // Of what has no report yet nothing came so far: it may be all that there is.
    kept.retain(|e| !needed.contains(&e.dir.as_path()) && e.dir.join(REPORT).exists());
    let newest = all(root)?.last().map_or(0, Evidence::bytes);
    let mut total: u64 = kept.iter().map(Evidence::bytes).sum::<u64>() + newest;
    let mut removed = Vec::new();
    for old in kept {
        if total <= most {
            break;
        }
        total -= old.bytes();
        remove_whole(&old.dir, site)?;
        removed.push(old.dir);
    }
    Ok(removed)
}

/// Reads all of `file` into `take`; parts that cannot be read are given as zeros and named.
fn read_through(
    path: &Path,
    file: &File,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<KeptFile> {
    let identity = Some(Identity::from(&file.metadata()?));
    let bytes = file.metadata()?.len();
    let mut hash = Sha256::new();
    let mut unreadable: Vec<(u64, u64)> = Vec::new();
    let mut buffer = vec![0u8; READ];
    let mut at = 0;
    while at < bytes {
        let want = usize::try_from((bytes - at).min(READ as u64)).unwrap_or(READ);
        let part = &mut buffer[..want];
        if file.read_exact_at(part, at).is_err() {
            for (n, block) in part.chunks_mut(BLOCK).enumerate() {
                let offset = at + (n * BLOCK) as u64;
                if file.read_exact_at(block, offset).is_err() {
                    block.fill(0);
                    let length = block.len() as u64;
                    match unreadable.last_mut() {
                        Some((start, len)) if *start + *len == offset => *len += length,
                        Some(_) | None => unreadable.push((offset, length)),
                    }
                }
            }
        }
        hash.update(&*part);
        take(part)?;
        at += want as u64;
    }
    let name = path.file_name().unwrap_or_default();
    Ok(KeptFile {
        name: name.to_string_lossy().into_owned(),
        bytes,
        sha256: hex(&hash.finalize()),
        unreadable,
        identity,
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, b| {
        // Writing to a string cannot fail.
        write!(text, "{b:02x}").ok();
        text
    })
}

fn cannot(doing: &'static str, path: &Path, source: io::Error) -> RecoveryError {
    RecoveryError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}
