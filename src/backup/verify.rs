//! Reads a written archive back and compares it with its manifest.
//!
//! It promises to read what is on the medium, as far as the kernel lets that be told: the page
//! cache is dropped first. What it calls whole was decrypted, unpacked, and had in every entry
//! the SHA-256 that its manifest says, nothing missing and nothing more.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};

use crate::durable::enter;

use super::archive::{EntryKind, Limits, Reader};
use super::escape::escape;
use super::hashing::Hashing;
use super::hex::hex;
use super::site::Site;
use super::trail::Trail;
use super::{BackupError, FileKind, HOW_TO_OPEN, Identity, MANIFEST, Manifest};

/// Read at once.
const READ: usize = 256 << 10;
/// The longest manifest that is read from an archive.
const LONGEST_MANIFEST: u64 = 256 << 20;

/// What an archive turned out to be.
#[derive(Debug)]
pub struct ReadBack {
    /// Bytes of the ciphertext.
    pub bytes: u64,
    /// Of the ciphertext, in lower-case hex.
    pub sha256: String,
    /// Of `manifest.json` in it, in lower-case hex.
    pub manifest_sha256: String,
    /// The manifest in it.
    pub manifest: Manifest,
}

/// Reads `archive` to its end with one of `identities`, and compares everything in it with the
/// manifest in it. `most`: bytes that may come out of it.
///
/// # Errors
/// It cannot be read or opened, or something in it is not what its manifest says.
pub fn read_back(
    archive: &Path,
    identities: &[Identity],
    most: u64,
    site: &Site<'_>,
) -> Result<ReadBack, BackupError> {
    read(archive, identities, most, site, None)
}

/// The same of an archive that is still being written: each piece as soon as it is on the medium.
///
/// # Errors
/// The same, or its writer gave up.
pub(super) fn read_along(
    archive: &Path,
    identities: &[Identity],
    most: u64,
    site: &Site<'_>,
    trail: &Trail,
) -> Result<ReadBack, BackupError> {
    read(archive, identities, most, site, Some(trail))
}

fn read(
    archive: &Path,
    identities: &[Identity],
    most: u64,
    site: &Site<'_>,
    trail: Option<&Trail>,
) -> Result<ReadBack, BackupError> {
    let file = File::open(archive).map_err(BackupError::io("open", archive))?;
    let no = |why: String| BackupError::NotVerified {
        path: archive.to_owned(),
        why,
    };
    let mut source = Gated {
        from: file,
        hash: Hashing::of(u64::MAX),
        bytes: 0,
        upto: 0,
        trail,
        site,
    };
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let mut manifest = None;
    let mut reader = Reader::open(archive, &mut source, identities, Limits::of_bytes(most))?;
    while let Some(mut entry) = reader.next()? {
        if manifest.is_some() {
            return Err(no("something comes after its manifest".to_owned()));
        }
        let name = escape(&entry.name);
        if name == MANIFEST {
            let mut bytes = Vec::new();
            let read = (&mut entry).take(LONGEST_MANIFEST).read_to_end(&mut bytes);
            read.map_err(|e| entry.explain(e))?;
            manifest = Some(bytes);
            continue;
        }
        let kind = match &entry.kind {
            EntryKind::File => {
                let size = entry.size;
                let sha256 = hash(&mut entry, size, site).map_err(|e| entry.explain(e))?;
                Seen::File(size, sha256)
            }
            EntryKind::Directory => Seen::Directory,
            EntryKind::Link(to) => Seen::Link(escape(to)),
        };
        if name != HOW_TO_OPEN {
            seen.insert(name, kind);
        }
    }
    drop(reader);
    let bytes = manifest.ok_or_else(|| no("there is no manifest in it".to_owned()))?;
    let manifest = Manifest::parse(&bytes, Path::new(MANIFEST))?;
    compare(&manifest, seen).map_err(no)?;
    // What may follow the last chunk would have been refused above.
    io::copy(&mut source, &mut io::sink()).map_err(BackupError::io("read", archive))?;
    Ok(ReadBack {
        bytes: source.bytes,
        sha256: source.hash.finish(),
        manifest_sha256: hex(&Sha256::digest(&bytes)),
        manifest,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    File(u64, String),
    Directory,
    Link(String),
}

/// What is not as the manifest says.
fn compare(manifest: &Manifest, mut seen: HashMap<String, Seen>) -> Result<(), String> {
    let databases = manifest.databases.iter().map(|d| {
        let kind = Seen::File(d.bytes, d.sha256.clone());
        (&d.name, kind)
    });
    let files = manifest.files.iter().map(|f| {
        let kind = match &f.kind {
            FileKind::File { bytes, sha256 } => Seen::File(*bytes, sha256.clone()),
            FileKind::Directory => Seen::Directory,
            FileKind::Link { to } => Seen::Link(to.clone()),
        };
        (&f.name, kind)
    });
    for (name, said) in databases.chain(files) {
        match seen.remove(name) {
            None => return Err(format!("{name} is not in it")),
            Some(found) if found == said => {}
            Some(found) => return Err(format!("{name} is {found:?} in it, and was {said:?}")),
        }
    }
    match seen.into_keys().next() {
        Some(name) => Err(format!("{name} is in it and not in its manifest")),
        None => Ok(()),
    }
}

fn hash(from: &mut impl Read, size: u64, site: &Site<'_>) -> io::Result<String> {
    let mut hash = Hashing::of(size);
    let mut buffer = vec![0; READ];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(hash.finish());
        }
        hash.update(&buffer[..n]);
        (site.progress)(n as u64);
    }
}

/// The file, which is not read while power fails, nor further than it is on the medium.
struct Gated<'a> {
    from: File,
    hash: Hashing,
    bytes: u64,
    /// So many may be read before it is asked again how many there are.
    upto: u64,
    trail: Option<&'a Trail>,
    site: &'a Site<'a>,
}

impl Gated<'_> {
    /// Waits for more; only what is on the medium counts.
    fn ask(&mut self) -> io::Result<()> {
        let from = self.bytes;
        self.upto = match self.trail {
            Some(trail) => trail.beyond(from)?,
            None => u64::MAX,
        };
        // To the end, also of a page that is not full. Where that cannot be asked for, the cache
        // is read.
        if let Err(e) = fadvise(&self.from, from, None, Advice::DontNeed) {
            log::debug!("the cache of an archive is not dropped: {e}");
        }
        Ok(())
    }
}

impl Read for Gated<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.bytes == self.upto {
            self.ask()?;
        }
        let left = usize::try_from(self.upto - self.bytes).unwrap_or(usize::MAX);
        let most = left.min(buf.len());
        let pass = enter(self.site.gate, self.site.stop)?;
        let n = self.from.read(&mut buf[..most])?;
        drop(pass);
        self.hash.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}
