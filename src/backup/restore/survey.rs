//! The first reading of an archive: all of it, with nothing written.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use crate::backup::escape::escape;
use crate::backup::hex::hex;
use crate::backup::{
    ArchiveError, ArchiveName, EntryKind, FileKind, HOW_TO_OPEN, Limits, MANIFEST, Manifest,
    Reader, RecipientEntry, Site,
};
use crate::durable::read_own_if_there;

use super::{Request, RestoreError};

/// Read at once.
const READ: usize = 256 << 10;
/// The longest manifest that is read.
const LONGEST_MANIFEST: u64 = 256 << 20;
/// Bytes that may come out of an archive where nobody says how many: as many as any card holds.
const MOST: u64 = 4 << 40;
/// What every database begins with.
pub(super) const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What an entry turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Surveyed {
    pub(super) name: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) bytes: u64,
    /// Of a file, in lower-case hex.
    pub(super) sha256: String,
    /// Does it begin as a database?
    pub(super) database: bool,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What an archive holds.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) entries: Vec<Surveyed>,
    pub(super) manifest: Option<Manifest>,
}

/// Reads all of it and holds it to its manifests, the one in it and the one beside it.
pub(super) fn survey(request: &Request<'_>, site: &Site<'_>) -> Result<Survey, RestoreError> {
    let path = request.archive;
    let beside = sidecar(path)?;
    let file = File::open(path).map_err(RestoreError::io("open", path))?;
    let no = |why: String| RestoreError::NotAsWritten {
        path: path.to_owned(),
        why,
    };
    let mut source = Hashed {
        from: file,
        hash: Sha256::new(),
        bytes: 0,
        stop: site.stop,
    };
    let read = read(request, site, &mut source);
    let (entries, manifest) = match read {
        Err(RestoreError::Backup(crate::backup::BackupError::Archive(e))) => {
            return Err(explained(e, path, beside.as_ref(), source));
        }
        other => other?,
    };
    // Nothing follows the last chunk, or the reader would have refused it.
    io::copy(&mut source, &mut io::sink()).map_err(RestoreError::io("read", path))?;
    let sha256 = hex(&source.hash.finalize());
    let facts = beside.as_ref().and_then(|m| m.archive.as_ref());
    if let Some(facts) = facts
        && (facts.bytes, &facts.sha256) != (source.bytes, &sha256)
    {
        return Err(no(
            "it is not the archive that the manifest beside it was made with".into(),
        ));
    }
    let Some(bytes) = manifest else {
        return Ok(Survey {
            entries,
            manifest: None,
        });
    };
    if let Some(facts) = facts
        && facts.manifest_sha256 != hex(&Sha256::digest(&bytes))
    {
        return Err(no("the manifest in it is not the one beside it".to_owned()));
    }
    let manifest = Manifest::parse(&bytes, Path::new(MANIFEST))?;
    compare(&manifest, &entries).map_err(no)?;
    Ok(Survey {
        entries,
        manifest: Some(manifest),
    })
}

type Read1 = (Vec<Surveyed>, Option<Vec<u8>>);

fn read(
    request: &Request<'_>,
    site: &Site<'_>,
    source: &mut Hashed<'_>,
) -> Result<Read1, RestoreError> {
    let mut reader = Reader::open(
        request.archive,
        source,
        request.identities,
        Limits::of_bytes(MOST),
    )?;
    let (mut entries, mut manifest) = (Vec::new(), None);
    while let Some(mut entry) = reader.next()? {
        if entry.name == MANIFEST.as_bytes() {
            let mut bytes = Vec::new();
            let read = (&mut entry).take(LONGEST_MANIFEST).read_to_end(&mut bytes);
            read.map_err(|e| entry.explain(e))?;
            manifest = Some(bytes);
            continue;
        }
        if entry.name.is_empty() || entry.name == HOW_TO_OPEN.as_bytes() {
            continue;
        }
        let mut start: Vec<u8> = Vec::new();
        let mut hash = Sha256::new();
        let mut buffer = vec![0; READ];
        loop {
            let n = entry.read(&mut buffer).map_err(|e| entry.explain(e))?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            let more = MAGIC.len().saturating_sub(start.len()).min(n);
            start.extend(&buffer[..more]);
            (site.progress)(n as u64);
        }
        entries.push(Surveyed {
            name: entry.name.clone(),
            bytes: entry.size,
            sha256: hex(&hash.finalize()),
            database: start == MAGIC,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            kind: entry.kind.clone(),
        });
    }
    Ok((entries, manifest))
}

/// Which identities are needed, where none of those given fits; where its own bytes show that the
/// archive is damaged, that is what is said.
fn explained(
    e: ArchiveError,
    path: &Path,
    beside: Option<&Manifest>,
    mut rest: Hashed<'_>,
) -> RestoreError {
    if !matches!(e, ArchiveError::WrongKey(_)) {
        return e.into();
    }
    let Some(manifest) = beside else {
        let which = "the identity of a key that it was encrypted to; which one that is stands in \
                     the .json manifest, which is not beside it"
            .to_owned();
        return RestoreError::NeedsKey {
            path: path.to_owned(),
            which,
        };
    };
    if let Err(e) = io::copy(&mut rest, &mut io::sink()) {
        return RestoreError::io("read", path)(e);
    }
    let sha256 = hex(&rest.hash.finalize());
    if manifest
        .archive
        .as_ref()
        .is_some_and(|f| f.sha256 != sha256)
    {
        return RestoreError::NotAsWritten {
            path: path.to_owned(),
            why:
                "its bytes are not those that the manifest beside it was made with: copy it again \
                  from where it came, or take another backup"
                    .to_owned(),
        };
    }
    let named = |r: &RecipientEntry| format!("{} ({})", r.fingerprint, r.recipient);
    let all: Vec<_> = manifest.recipients.iter().map(named).collect();
    RestoreError::NeedsKey {
        path: path.to_owned(),
        which: format!("the identity of {}", all.join(" or of ")),
    }
}

/// What is not as the manifest says.
fn compare(manifest: &Manifest, entries: &[Surveyed]) -> Result<(), String> {
    let mut seen: HashMap<String, &Surveyed> =
        entries.iter().map(|e| (escape(&e.name), e)).collect();
    let as_said = |found: Option<&Surveyed>, kind: &FileKind| match (found, kind) {
        (None, _) => false,
        (Some(e), FileKind::File { bytes, sha256 }) => {
            e.kind == EntryKind::File && (e.bytes, &e.sha256) == (*bytes, sha256)
        }
        (Some(e), FileKind::Directory) => e.kind == EntryKind::Directory,
        (Some(e), FileKind::Link { to }) => match &e.kind {
            EntryKind::Link(found) => escape(found) == *to,
            EntryKind::File | EntryKind::Directory => false,
        },
    };
    let databases = manifest.databases.iter().map(|d| {
        let kind = FileKind::File {
            bytes: d.bytes,
            sha256: d.sha256.clone(),
        };
        (&d.name, kind)
    });
    let files = manifest.files.iter().map(|f| (&f.name, f.kind.clone()));
    for (name, kind) in databases.chain(files) {
        if !as_said(seen.remove(name), &kind) {
            return Err(format!("{name} in it is not what its manifest says"));
        }
    }
    match seen.into_keys().next() {
        Some(name) => Err(format!("{name} is in it and not in its manifest")),
        None => Ok(()),
    }
}

/// The manifest beside the archive, by the archive's name.
pub(super) fn sidecar(archive: &Path) -> Result<Option<Manifest>, RestoreError> {
    let named = archive.file_name().and_then(|n| n.to_str());
    let Some(name) = named.and_then(|n| n.parse::<ArchiveName>().ok()) else {
        return Ok(None);
    };
    let path: PathBuf = archive.with_file_name(name.manifest());
    let bytes =
        read_own_if_there(&path, LONGEST_MANIFEST).map_err(RestoreError::io("read", &path))?;
    Ok(bytes.map(|b| Manifest::parse(&b, &path)).transpose()?)
}

/// The archive's bytes, hashed as they are read.
struct Hashed<'a> {
    from: File,
    hash: Sha256,
    bytes: u64,
    stop: &'a AtomicBool,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("told to stop"));
        }
        let n = self.from.read(buf)?;
        self.hash.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}
