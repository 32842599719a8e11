//! Evidence: the damaged files as they were found, before anything repairs them.
//!
//! It promises that what it kept is on the medium, with a manifest that says when, why, how many
//! bytes and which SHA-256, before it returns; that a part of a file which the medium cannot give
//! any more is named, never passed off as zeros; and that the newest evidence is never removed.
//! It gets its name when it is whole: what a cut leaves half made is known by its own ending, and
//! goes. It must never change a byte of what it keeps.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable::{Bulk, read_own};

use super::RecoveryError;
use super::files::{ALL, Identity, companion, free_bytes, kind_of, open_existing};
use super::recover::SPARE;
use super::site::Site;
use super::source::data_end;

/// Version of the manifest.
const VERSION: u32 = 1;
const MANIFEST: &str = "manifest.json";
/// What became of the database, beside its evidence.
pub(super) const REPORT: &str = "report.json";
/// How the name of a folder ends that is not whole yet.
const PART: &str = ".part";
/// Folders of one moment at most.
const MOST_OF_ONE_TIME: u32 = 10_000;
/// So often a name that somebody else took is looked for anew.
const MOST_TRIES: u32 = 100;
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
    /// Bytes at its end that nobody ever wrote, and that the SHA-256 leaves out.
    #[serde(default, skip_serializing_if = "is_none")]
    pub hole: u64,
    /// Parts that the medium did not give: offset and length in bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<(u64, u64)>,
    /// Which file it was, and when it was last changed; before it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<Identity>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
fn is_none(n: &u64) -> bool {
    *n == 0
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

    /// Keeps `database` and its companions, which nobody has open, where somebody else repairs them;
    /// what was kept of these very files already is used again.
    ///
    /// # Errors
    /// [`RecoveryError::NoRoom`], or they cannot be copied: then nothing must be changed.
    pub fn keep(database: &Path, reason: &str, site: &Site<'_>) -> Result<Self, RecoveryError> {
        clear_parts(database, site)?;
        if let Some(kept) = Self::of_these_files(database, site)? {
            return Ok(kept);
        }
        let sizes = ALL.iter().filter_map(|suffix| {
            let path = companion(database, suffix);
            fs::symlink_metadata(path).ok().map(|m| taken(&m))
        });
        let needed = sizes.fold(SPARE, u64::saturating_add);
        let folder = database.parent().unwrap_or(Path::new("/"));
        let free = free_bytes(folder).map_err(|e| cannot("ask for free room in", folder, e))?;
        if free < needed {
            return Err(RecoveryError::NoRoom {
                path: database.to_owned(),
                needed,
                free,
            });
        }
        Self::copy(database, reason, site)
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
            if file.hole > 0 {
                lengthen(&to, file.bytes, site)?;
            }
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
        Ok(all.pop().filter(|e| !e.has_report()))
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
        let mut of_it = all(site.evidence)?;
        of_it.retain(|e| e.manifest.database == database);
        let newest = of_it.pop().filter(|e| {
            let copied = e.manifest.how == How::Copied && !e.manifest.files.is_empty();
            copied && !e.has_report() && e.is_there()
        });
        let Some(kept) = newest else { return Ok(None) };
        let whole = kept.manifest.files.iter().all(|f| f.unreadable.is_empty());
        let same = whole && as_they_are(database)? == kept.manifest.files;
        Ok(same.then_some(kept))
    }

    /// Where files of `database` were moved of which nothing came yet.
    pub(super) fn of_moved(database: &Path, root: &Path) -> Result<Option<Self>, RecoveryError> {
        let mut of_it = all(root)?;
        of_it.retain(|e| e.manifest.database == database);
        let moved = |e: &Self| e.manifest.how == How::Moved && !e.has_report();
        Ok(of_it.pop().filter(moved))
    }

    /// Was it said what became of it?
    pub(super) fn has_report(&self) -> bool {
        self.dir.join(REPORT).symlink_metadata().is_ok()
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
        is_ours(root)?;
        site.make_dir(root)?;
        let now = site.clock.wall();
        let last = all(root)?.pop();
        let number = last.map_or(1, |e| e.manifest.number.saturating_add(1));
        let stamp = now.to_string().replace(':', "");
        let part = free(root, &stamp, &part_of(database))?;
        let dir = root.join(part);
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
        let stamp = self.manifest.kept_at.replace(':', "");
        // Another recovery in this folder may take the same name at this moment.
        let mut tries = 0;
        let dir = loop {
            let dir = site.evidence.join(free(site.evidence, &stamp, "")?);
            match site.rename(&self.dir, &dir) {
                Ok(()) => break dir,
                Err(e) if tries == MOST_TRIES || dir.symlink_metadata().is_err() => return Err(e),
                Err(_) => tries += 1,
            }
        };
        Ok(Self { dir, ..self })
    }

    /// What its files take, whatever the manifest says of that.
    fn bytes(&self) -> u64 {
        let own = self.manifest.files.iter().filter(|f| !f.name.contains('/'));
        let sizes = own.filter_map(|f| fs::symlink_metadata(self.dir.join(&f.name)).ok());
        sizes.map(|m| taken(&m)).fold(0, u64::saturating_add)
    }
}

/// How the name of a folder ends that is not whole yet and is to be of `database`: another
/// recovery, of another database in the same folder, leaves it alone.
fn part_of(database: &Path) -> String {
    let name = database.file_name().unwrap_or_default();
    let hash = hex(&Sha256::digest(name.as_encoded_bytes()));
    format!("-{}{PART}", &hash[..8])
}

/// A name under `root` that nothing has: two may come in one millisecond, and a clock may be set
/// back.
fn free(root: &Path, stamp: &str, ending: &str) -> Result<String, RecoveryError> {
    let names = (1..=MOST_OF_ONE_TIME).map(|n| match n {
        1 => format!("{stamp}{ending}"),
        n => format!("{stamp}-{n}{ending}"),
    });
    let mut free = names.filter(|name| root.join(name).symlink_metadata().is_err());
    free.next().ok_or_else(|| {
        let e = io::Error::from(io::ErrorKind::AlreadyExists);
        cannot("find a name in", root, e)
    })
}

/// Room that a file takes, without its holes.
fn taken(m: &fs::Metadata) -> u64 {
    m.len().min(m.blocks().saturating_mul(512))
}

fn is_part(dir: &Path) -> bool {
    dir.as_os_str()
        .as_encoded_bytes()
        .ends_with(PART.as_bytes())
}

/// What is kept elsewhere than it seems, or removed there, is somebody else's: a link in the place
/// of the folder is refused.
pub(super) fn is_ours(root: &Path) -> Result<(), RecoveryError> {
    match fs::symlink_metadata(root) {
        Ok(m) if m.is_dir() => Ok(()),
        Ok(m) => {
            let e = format!("it is {}: move it out of the way", kind_of(&m));
            Err(cannot("keep evidence in", root, io::Error::other(e)))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(cannot("keep evidence in", root, e)),
    }
}

/// The folders under `root`, none of them behind a link.
fn folders(root: &Path) -> Result<Vec<PathBuf>, RecoveryError> {
    is_ours(root)?;
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(cannot("list", root, e)),
    };
    let is_folder = |e: &fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
    let folders = entries.flatten().filter(is_folder);
    Ok(folders.map(|e| e.path()).collect())
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

/// Removes what cuts left half made of `database` under the folder of the evidence: the files that
/// it was to be of are still in their place. What cannot be removed is in nobody's way.
pub(super) fn clear_parts(database: &Path, site: &Site<'_>) -> Result<(), RecoveryError> {
    let own = part_of(database);
    let is_own = |dir: &PathBuf| dir.as_os_str().as_encoded_bytes().ends_with(own.as_bytes());
    for dir in folders(site.evidence)?.into_iter().filter(is_own) {
        match remove_whole(&dir, site) {
            Err(e @ RecoveryError::Stopped { .. }) => return Err(e),
            Err(e) => log::warn!("{} is left half made: {e}", dir.display()),
            Ok(()) => {}
        }
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
    // What has no manifest that can be read is not ours to count, or to remove.
    let mut found: Vec<_> = folders(root)?
        .into_iter()
        .filter(|dir| !is_part(dir))
        .filter_map(|dir| Evidence::read(&dir).ok())
        .collect();
    found.sort_by(|a, b| (a.manifest.number, &a.dir).cmp(&(b.manifest.number, &b.dir)));
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
    kept.retain(|e| !needed.contains(&e.dir.as_path()) && e.has_report());
    let newest = all(root)?.last().map_or(0, Evidence::bytes);
    let all_bytes = kept.iter().map(Evidence::bytes);
    let mut total = all_bytes.fold(newest, u64::saturating_add);
    let mut removed = Vec::new();
    for old in kept {
        if total <= most {
            break;
        }
        let bytes = old.bytes();
        match remove_whole(&old.dir, site) {
            Err(e @ RecoveryError::Stopped { .. }) => return Err(e),
            // Somebody put something into it: that is for them to remove.
            Err(e) => log::warn!("old evidence in {} stays: {e}", old.dir.display()),
            Ok(()) => {
                total = total.saturating_sub(bytes);
                removed.push(old.dir);
            }
        }
    }
    Ok(removed)
}

/// Gives the copy at `to` its hole back, which takes no room.
fn lengthen(to: &Path, bytes: u64, site: &Site<'_>) -> Result<(), RecoveryError> {
    let _pass = site.enter(to)?;
    let failed = |e| cannot("lengthen", to, e);
    let file = File::options().write(true).open(to).map_err(failed)?;
    file.set_len(bytes).map_err(failed)?;
    site.medium
        .sync_data(&file, to)
        .map_err(|source| RecoveryError::Durable {
            path: to.to_owned(),
            source,
        })
}

/// Reads all of `file` into `take`, but for a hole at its end; parts that cannot be read are given as zeros and named.
fn read_through(
    path: &Path,
    file: &File,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<KeptFile> {
    let identity = Some(Identity::from(&file.metadata()?));
    let size = file.metadata()?.len();
    let bytes = data_end(file, size);
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
        bytes: size,
        sha256: hex(&hash.finalize()),
        hole: size - bytes,
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
