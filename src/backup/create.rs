//! Makes a backup: copies, packs, encrypts, reads back, and only then gives it its name.
//!
//! It promises that an archive under its final name is whole and was decrypted again after it was
//! written, with a key that was never anywhere but in memory, and that whatever a cut left is
//! removed or finished by the next run. It must never change what it backs up.

mod trees;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};

use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};

use crate::audit::Head;
use crate::clock::Wall;
use crate::durable::{Bulk, Medium};
use crate::store;

use super::archive::{ArchiveWriter, Attributes};
use super::check::{Checked, check};
use super::copy;
use super::escape::escape;
use super::hex::hex;
use super::part::{PART, own_alone, tidy, tidy_work, with_part};
use super::site::Site;
use super::source::{Source, Unpacked, is_its_own};
use super::space::{device, enough, expected};
use super::trail::{Leaving, Trail};
use super::tree::{Avoid, FoundKind, Met, Walked, attributes};
use super::verify::{ReadBack, read_along};
use super::{
    ArchiveName, BackupError, DatabaseEntry, HOW_TO_OPEN, Kind, MANIFEST, MANIFEST_FORMAT,
    Manifest, OneTime, Passed, Recipient, Role, Verified,
};

/// What the first entry of every archive says.
const HOW_TO: &str = include_str!("HOW-TO-OPEN.txt");
/// Room that is left free beside what is written.
const SPARE: u64 = 1 << 20;
/// Of headers, paddings and the manifest, for each entry and in all.
const OVERHEAD: u64 = 4 << 10;

/// What is to be made.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The gateway's id.
    pub gateway: &'a str,
    /// What it is a backup of.
    pub kind: Kind,
    /// Why it is made: `schedule`, `operator`, `drill`, `reset`, `restore`.
    pub reason: &'a str,
    /// Who asks for it.
    pub actor: &'a str,
    /// In the order in which they are copied: a queue before the store that feeds it, so that it
    /// names no reading that the store's copy lacks.
    pub databases: Vec<Source<'a>>,
    /// Files and directories, by their absolute paths; those that are missing are named.
    pub include: Vec<PathBuf>,
    /// What is left out wherever it is met, and why.
    pub exclude: Vec<(PathBuf, &'static str)>,
    /// To whom it is encrypted; one at least.
    pub recipients: &'a [Recipient],
    /// The audit log's head.
    pub audit_head: Option<Head>,
    /// The directory that it is written to.
    pub to: &'a Path,
}

/// A backup that was made, and verified.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its name.
    pub name: ArchiveName,
    /// The archive.
    pub archive: PathBuf,
    /// The manifest beside it.
    pub sidecar: PathBuf,
    /// What that says.
    pub manifest: Manifest,
    /// Databases that were found damaged and are not in it, and what was seen of each.
    pub damaged: Vec<(PathBuf, String)>,
}

/// Makes one.
///
/// # Errors
/// Nothing is left under a final name then.
pub fn create(request: &Request<'_>, site: &Site<'_>) -> Result<Made, BackupError> {
    if request.recipients.is_empty() {
        return Err(BackupError::NoRecipient);
    }
    site.medium.make_dir(site.work)?;
    let own;
    let medium = if request.to.starts_with(site.medium.dir()) {
        site.medium.make_dir(request.to)?;
        site.medium
    } else {
        own = Medium::open(request.to)?;
        &own
    };
    let made = site.clock.wall();
    let name = ArchiveName::new(request.gateway, made, salt()?);
    tidy(request.to, name.gateway(), medium)?;
    tidy_work(site)?;
    let mut run = Run {
        request,
        site,
        medium,
        made,
        part: request.to.join(format!("{}{PART}", name.archive())),
        name,
        manifest: blank(request, site, made),
        damaged: Vec::new(),
        most: 0,
    };
    let done = run.run();
    if done.is_err() {
        run.clean_up();
    }
    done
}

struct Run<'a> {
    request: &'a Request<'a>,
    site: &'a Site<'a>,
    /// Of the archive.
    medium: &'a Medium,
    made: Wall,
    name: ArchiveName,
    part: PathBuf,
    manifest: Manifest,
    damaged: Vec<(PathBuf, String)>,
    /// Bytes that may come out of it again.
    most: u64,
}

type Writer<'a> = ArchiveWriter<Leaving<'a>>;

/// A copy's check, beside its packing or before it.
enum Checking<'scope> {
    Done(Checked),
    Running(ScopedJoinHandle<'scope, Result<Checked, BackupError>>),
}

impl Run<'_> {
    fn run(&mut self) -> Result<Made, BackupError> {
        let avoid = self.avoid();
        self.look_for_room(&avoid)?;
        let (site, key, trail) = (self.site, OneTime::new(), Trail::new());
        let mut recipients = self.request.recipients.to_vec();
        recipients.push(key.recipient());
        let out = Bulk::create(&self.part, self.medium, site.gate, site.stop)?;
        let out = Leaving::new(out, &trail);
        let (part, most, began) = (self.part.clone(), self.most, site.clock.mono());
        let (packed, found) = thread::scope(|scope| {
            // What is on the medium is read back while the rest is still being made.
            let reading = scope.spawn(|| {
                let identities = [key.identity().clone()];
                read_along(&part, &identities, most, site, &trail)
            });
            let packed = self.pack(out, &recipients, &avoid);
            let found = reading
                .join()
                .unwrap_or_else(|_| Err(self.odd("its reading back panicked".to_owned())));
            (packed, found)
        });
        packed?;
        self.compare(&found?)?;
        let took = site.clock.mono().since(began);
        self.manifest.verified = Some(Verified {
            at: site.clock.wall().to_string(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        self.publish()
    }

    /// Writes all of it to `out`.
    fn pack(
        &mut self,
        out: Leaving<'_>,
        recipients: &[Recipient],
        avoid: &Avoid,
    ) -> Result<(), BackupError> {
        let site = self.site;
        let mut archive =
            ArchiveWriter::new(out, recipients).map_err(BackupError::io("write", &self.part))?;
        self.text(&mut archive, HOW_TO_OPEN, HOW_TO.as_bytes())?;
        let mut names = HashSet::new();
        for (number, source) in self.request.databases.iter().enumerate() {
            site.go_on()?;
            match self.database(&mut archive, source, number, &mut names) {
                Ok(entry) => self.manifest.databases.push(entry),
                Err(Unpacked::Passed(why)) => self.pass_database(source, why),
                Err(Unpacked::Failed(e)) => return Err(e),
            }
        }
        self.trees(&mut archive, avoid)?;
        let manifest = self
            .manifest
            .to_bytes()
            .map_err(|e| self.odd(e.to_string()))?;
        self.text(&mut archive, MANIFEST, &manifest)?;
        let (out, mut facts) = archive
            .finish()
            .map_err(BackupError::io("write", &self.part))?;
        out.finish(|| (site.say)("reading it back"))?;
        facts.manifest_sha256 = hex(&Sha256::digest(&manifest));
        self.manifest.archive = Some(facts);
        Ok(())
    }

    /// The written bytes were decrypted again; what came out is what went in, or there is no
    /// backup.
    fn compare(&self, found: &ReadBack) -> Result<(), BackupError> {
        let no = |why: &str| Err(self.odd(why.to_owned()));
        let Some(facts) = &self.manifest.archive else {
            return no("it was not written");
        };
        if (found.bytes, &found.sha256) != (facts.bytes, &facts.sha256) {
            return no("its bytes on the medium are not those that were written");
        }
        if found.manifest_sha256 != facts.manifest_sha256 {
            return no("its manifest is not the one that was written");
        }
        Ok(())
    }

    /// Gives archive and manifest their names. A cut between the two is finished by [`tidy`].
    fn publish(&mut self) -> Result<Made, BackupError> {
        let (to, site) = (self.request.to, self.site);
        let sidecar = to.join(self.name.manifest());
        let archive = to.join(self.name.archive());
        let bytes = self
            .manifest
            .to_bytes()
            .map_err(|e| self.odd(e.to_string()))?;
        let _pass = crate::durable::enter(site.gate, site.stop)
            .map_err(BackupError::io("write", &sidecar))?;
        let fresh = with_part(&sidecar);
        self.medium.replace(&fresh, &bytes)?;
        own_alone(&fresh)?;
        self.medium.rename(&self.part, &archive)?;
        self.medium.rename(&fresh, &sidecar)?;
        Ok(Made {
            name: self.name.clone(),
            archive,
            sidecar,
            manifest: self.manifest.clone(),
            damaged: std::mem::take(&mut self.damaged),
        })
    }

    /// Copies a database, checks the copy on a thread of its own, and packs it meanwhile.
    fn database(
        &mut self,
        archive: &mut Writer<'_>,
        source: &Source<'_>,
        number: usize,
        names: &mut HashSet<Vec<u8>>,
    ) -> Result<DatabaseEntry, Unpacked> {
        let site = self.site;
        let shown = source.path.display();
        (site.say)(&format!("copying {shown}"));
        let copy = copy::place(site.work, number);
        let bytes = match copy::copy(&source.path, source.copier, &copy, site) {
            Ok(bytes) => bytes,
            Err(e) if source.may_lack() && is_its_own(&e) => return self.leave(source, &e, &copy),
            Err(e) => return Err(source.fails(e).into()),
        };
        let first = match self.first(source, &copy) {
            Err(e) if is_its_own(&e) => return self.leave(source, &e, &copy),
            other => other?,
        };
        (site.say)(&format!("packing {shown}"));
        let name = entry_name(&source.path, names);
        let meta = fs::metadata(&copy).map_err(BackupError::io("look at", &copy))?;
        // The copy's owner is who makes the backup.
        let mut whose = attributes(&meta);
        if let Ok(original) = fs::metadata(&source.path) {
            whose = attributes(&original);
        }
        let file = File::open(&copy).map_err(BackupError::io("open", &copy))?;
        let quit = Arc::new(AtomicBool::new(false));
        let (written, checked) = thread::scope(|scope| {
            let (told, stop) = (Arc::clone(&quit), Arc::clone(site.stop));
            let quit_check = move || told.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed);
            let checking = match first {
                Some(checked) => Checking::Done(checked),
                None => Checking::Running(
                    scope.spawn(|| check(&copy, source.role, Box::new(quit_check))),
                ),
            };
            let mut from = Told { from: file, site };
            let written = archive.file(&name, whose, bytes, &mut from);
            quit.store(written.is_err(), Ordering::Relaxed);
            let checked = match checking {
                Checking::Done(checked) => Ok(checked),
                Checking::Running(thread) => thread
                    .join()
                    .unwrap_or_else(|_| Err(self.odd("the check of a copy panicked".to_owned()))),
            };
            (written, checked)
        });
        let written = written.map_err(BackupError::io("write", &self.part))?;
        let (checked, integrity) = match checked {
            Ok(checked) => (checked, true),
            // Another application's: kept as it is, and no reason to have no backup.
            Err(BackupError::Damaged { why, .. }) if source.may_lack() => {
                self.pass(
                    &source.path,
                    format!("it is backed up as it is, damaged: {why}"),
                );
                (Checked::default(), false)
            }
            Err(e) => return Err(source.fails(e).into()),
        };
        let Checked {
            rows,
            schema_sha256,
            epoch,
            highest,
        } = checked;
        if written.ended_early {
            return Err(self
                .odd(format!("the copy of {shown} became shorter"))
                .into());
        }
        site.medium.remove(&copy)?;
        Ok(DatabaseEntry {
            name: escape(&name),
            source: source.path.clone(),
            role: source.role,
            bytes: written.bytes,
            sha256: written.sha256,
            integrity,
            rows,
            schema_sha256,
            epoch,
            highest,
        })
    }

    /// What is left out is not packed before that shows: the queue's copy is checked first.
    fn first(&self, source: &Source<'_>, copy: &Path) -> Result<Option<Checked>, BackupError> {
        if source.role != Role::Queue {
            return Ok(None);
        }
        let stop = Arc::clone(self.site.stop);
        let quit = move || stop.load(Ordering::Relaxed);
        let checked = check(copy, source.role, Box::new(quit));
        // A check that was told to stop has not found anything.
        self.site.go_on()?;
        checked.map(Some)
    }

    /// There is a backup without it.
    fn leave<T>(
        &mut self,
        source: &Source<'_>,
        e: &BackupError,
        copy: &Path,
    ) -> Result<T, Unpacked> {
        if let BackupError::Damaged { why, .. } = e {
            self.damaged.push((source.path.clone(), why.clone()));
        }
        copy::remove(copy, self.site)?;
        Err(Unpacked::Passed(source.lacks(e)))
    }

    fn pass_database(&mut self, source: &Source<'_>, why: String) {
        self.pass(&source.path, why);
        if let Some(passed) = self.manifest.passed.last_mut() {
            passed.role = Some(source.role);
        }
    }

    fn pass(&mut self, path: &Path, why: String) {
        self.manifest.passed.push(Passed {
            path: escape(path.as_os_str().as_bytes()),
            why,
            role: None,
        });
    }

    fn text(&self, archive: &mut Writer<'_>, name: &str, text: &[u8]) -> Result<(), BackupError> {
        let attributes = Attributes {
            mode: 0o600,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            modified_s: self.made.as_millis() / 1000,
        };
        archive
            .file(name.as_bytes(), attributes, text.len() as u64, &mut &*text)
            .map_err(BackupError::io("write", &self.part))?;
        Ok(())
    }

    fn avoid(&self) -> Avoid {
        let mut avoid = Avoid::default();
        for source in &self.request.databases {
            avoid.database(&source.path);
        }
        for (path, why) in &self.request.exclude {
            avoid.path(path, why);
        }
        avoid.path(self.request.to, "backups are not backed up");
        avoid.path(self.site.work, "copies for this backup");
        avoid
    }

    /// Looks whether copies and archive fit, before anything is written.
    fn look_for_room(&mut self, avoid: &Avoid) -> Result<(), BackupError> {
        let (mut all, mut largest, mut entries) = (0u64, 0u64, 2u64);
        for source in &self.request.databases {
            let bytes: u64 = ["", "-wal", "-journal"]
                .iter()
                .filter_map(|s| fs::metadata(store::companion(&source.path, s)).ok())
                .map(|m| m.len())
                .sum();
            all = all.saturating_add(bytes);
            largest = largest.max(bytes);
            entries += 1;
        }
        let mut walked = Walked::default();
        for root in &self.request.include {
            walked.walk(root, avoid, &mut |met| {
                entries += 1;
                if let Met::Found(found) = met {
                    let bytes = match &found.kind {
                        FoundKind::File(_, bytes) => *bytes,
                        FoundKind::Database => {
                            let bytes = fs::metadata(&found.path).map_or(0, |m| m.len());
                            largest = largest.max(bytes);
                            bytes
                        }
                        FoundKind::Directory | FoundKind::Link(_) => 0,
                    };
                    all = all.saturating_add(bytes);
                }
                self.site.go_on()
            })?;
        }
        let overhead = OVERHEAD.saturating_mul(entries).saturating_add(SPARE);
        // Databases grow while they are copied; nothing else that comes out is larger.
        self.most = all
            .saturating_mul(2)
            .saturating_add(overhead.saturating_mul(2))
            .saturating_add(64 << 20);
        let archive = expected(all, self.request.to, self.name.gateway()).saturating_add(overhead);
        let copies = largest.saturating_add(SPARE);
        let (work, to) = (self.site.work, self.request.to);
        if device(work)? == device(to)? {
            return enough(to, copies.saturating_add(archive));
        }
        enough(work, copies)?;
        enough(to, archive)
    }

    /// After an error: nothing is left. While power is away nothing is touched; the next run does
    /// it then.
    fn clean_up(&self) {
        let Some(_pass) = self.site.gate.try_enter() else {
            return;
        };
        let gateway = self.name.gateway();
        let done = tidy(self.request.to, gateway, self.medium).and_then(|()| tidy_work(self.site));
        if let Err(e) = done {
            log::warn!(
                "what was begun of a backup is left for the next run: {}",
                in_full(&e)
            );
        }
    }

    fn odd(&self, why: String) -> BackupError {
        BackupError::NotVerified {
            path: self.part.clone(),
            why,
        }
    }
}

fn blank(request: &Request<'_>, site: &Site<'_>, made: Wall) -> Manifest {
    Manifest {
        format: MANIFEST_FORMAT,
        kind: request.kind,
        holdup: env!("CARGO_PKG_VERSION").to_owned(),
        sqlite: rusqlite::version().to_owned(),
        gateway: request.gateway.to_owned(),
        made_ms: made.as_millis(),
        made: made.to_string(),
        synchronised: site.clock.is_synchronised(),
        reason: request.reason.to_owned(),
        actor: request.actor.to_owned(),
        databases: Vec::new(),
        files: Vec::new(),
        passed: Vec::new(),
        audit_head: request.audit_head.clone(),
        recipients: request.recipients.iter().map(Recipient::entry).collect(),
        archive: None,
        verified: None,
        after: None,
    }
}

/// `databases/NAME`, which no other has.
fn entry_name(path: &Path, taken: &mut HashSet<Vec<u8>>) -> Vec<u8> {
    let file = path.file_name().unwrap_or_default().as_bytes();
    let mut name = [b"databases/", file].concat();
    let mut number = 2;
    while !taken.insert(name.clone()) {
        name = [b"databases/", format!("{number}-").as_bytes(), file].concat();
        number += 1;
    }
    name
}

fn salt() -> Result<u16, BackupError> {
    let mut bytes = [0u8; 2];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|e| BackupError::io("read", Path::new("/dev/urandom"))(e.into()))?;
    Ok(u16::from_le_bytes(bytes))
}

pub(super) fn in_full(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A file that is read for the archive; says how far it is.
struct Told<'a> {
    from: File,
    site: &'a Site<'a>,
}

impl Read for Told<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf)?;
        (self.site.progress)(n as u64);
        Ok(n)
    }
}
