//! The second reading: every file is made whole beside its place.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chmod, chownat};
use sha2::{Digest, Sha256};

use crate::backup::check::{check, open_still};
use crate::backup::hex::hex;
use crate::backup::{BackupError, DatabaseEntry, EntryKind, Limits, Reader, Role, Site};
use crate::durable::Bulk;

use super::journal::{Folder, Item, Journal};
use super::plan::{Change, DatabaseNow, Plan};
use super::survey::MAGIC;
use super::swap::{forget, identity};
use super::{Request, RestoreError, ids};

/// Room that is left free beside what is written.
const SPARE: u64 = 1 << 20;
/// Read at once.
const READ: usize = 256 << 10;
/// Headers and paddings of the archive, for each entry and in all.
const OVERHEAD: u64 = 64 << 10;
/// Rights of a database where there was none and nobody says.
const RIGHTS: u32 = 0o644;

/// What the agent could not do without.
const STORE: &str =
    "SELECT id, sensor_name, timestamp, value, unit, metadata FROM readings LIMIT 0";
const QUEUE: &str = "SELECT id, payload, priority, created_at, ttl_seconds, retry_count, next_retry_at, \
                     message_id FROM sync_queue LIMIT 0";

/// Makes and checks every new file; where anything is wrong, none of them is left.
pub(super) fn stage(
    plan: &Plan,
    request: &Request<'_>,
    site: &Site<'_>,
) -> Result<(Journal, Option<i64>), RestoreError> {
    let data_dir = &request.home.data_dir;
    let mut journal = begin(plan, data_dir, site)?;
    room(plan, &journal)?;
    journal.write(super::journal::Step::Requested, data_dir, site.medium)?;
    let mut staging = Staging {
        plan,
        request,
        site,
        ids_above: None,
    };
    match staging.fill(&mut journal) {
        Ok(()) => Ok((journal, staging.ids_above)),
        Err(e) => {
            // What cannot be removed now is removed by the next restore, or when the agent starts.
            if let Err(left) = forget(&journal, data_dir, site.medium) {
                log::warn!("what was staged is still there: {left}");
            }
            Err(e)
        }
    }
}

/// The journal, with a place for everything.
fn begin(plan: &Plan, data_dir: &Path, site: &Site<'_>) -> Result<Journal, RestoreError> {
    let id = fresh_id(data_dir, site)?;
    let home = device(data_dir)?;
    let mut journal = Journal::new(id.clone(), &plan.archive);
    for (number, change) in plan.changes.iter().enumerate() {
        if change.entry.kind == EntryKind::Directory {
            if !change.exists {
                journal.folders.push(Folder {
                    path: change.target.clone(),
                    mode: change.entry.mode,
                    uid: change.entry.uid,
                    gid: change.entry.gid,
                });
            }
            continue;
        }
        let near = nearest(&change.target);
        let mut aside = if device(near)? == home {
            data_dir.join(&id)
        } else {
            near.join(&id)
        };
        aside.push(number.to_string());
        aside.push(change.target.file_name().unwrap_or(OsStr::new("file")));
        journal.items.push(Item {
            target: change.target.clone(),
            staged: near.join(format!(".holdup-{id}-{number}")),
            aside,
            database: change.is_database,
            existed: change.exists,
            new: None,
            readings: None,
        });
    }
    Ok(journal)
}

/// A name of this restore's own, also where the clock was set back.
fn fresh_id(data_dir: &Path, site: &Site<'_>) -> Result<String, RestoreError> {
    let now = site.clock.wall().to_string();
    let time: String = now.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    for n in 1..1000 {
        let id = match n {
            1 => format!("restore-{time}"),
            n => format!("restore-{time}-{n}"),
        };
        if data_dir.join(&id).symlink_metadata().is_err() {
            return Ok(id);
        }
    }
    let e = io::Error::other("there are a thousand restores of this moment: move them away");
    Err(RestoreError::io("keep the old files in", data_dir)(e))
}

/// The directory that is there, closest above `path`.
fn nearest(path: &Path) -> &Path {
    path.ancestors()
        .skip(1)
        .find(|a| a.is_dir())
        .unwrap_or(Path::new("/"))
}

fn device(dir: &Path) -> Result<u64, RestoreError> {
    let meta = fs::metadata(dir).map_err(RestoreError::io("look at", dir))?;
    Ok(meta.dev())
}

/// The new files must fit beside the old ones, which stay.
fn room(plan: &Plan, journal: &Journal) -> Result<(), RestoreError> {
    let bytes: HashMap<&Path, u64> = (plan.changes.iter())
        .map(|c| (c.target.as_path(), c.bytes))
        .collect();
    let mut needed: HashMap<u64, (u64, PathBuf)> = HashMap::new();
    for item in &journal.items {
        let dir = item.staged.parent().unwrap_or(Path::new("/"));
        let of = needed
            .entry(device(dir)?)
            .or_insert_with(|| (SPARE, dir.to_owned()));
        of.0 = of.0.saturating_add(bytes[item.target.as_path()]);
    }
    for (needed, path) in needed.into_values() {
        let s = rustix::fs::statvfs(&path)
            .map_err(|e| RestoreError::io("ask for free room in", &path)(e.into()))?;
        let free = s.f_bavail.saturating_mul(s.f_frsize);
        if free < needed {
            return Err(RestoreError::NoRoom { path, needed, free });
        }
    }
    Ok(())
}

struct Staging<'a> {
    plan: &'a Plan,
    request: &'a Request<'a>,
    site: &'a Site<'a>,
    ids_above: Option<i64>,
}

impl Staging<'_> {
    fn fill(&mut self, journal: &mut Journal) -> Result<(), RestoreError> {
        let (site, archive) = (self.site, &self.plan.archive);
        (site.say)("unpacking beside the live files");
        let wanted: HashMap<&[u8], (&Change, &Item)> = {
            let files = (self.plan.changes.iter())
                .filter(|c| c.entry.kind != EntryKind::Directory)
                .zip(&journal.items);
            files
                .map(|(c, i)| (c.entry.name.as_slice(), (c, i)))
                .collect()
        };
        let file = File::open(archive).map_err(RestoreError::io("open", archive))?;
        let limits = Limits::of_bytes(self.most());
        let mut reader = Reader::open(archive, file, self.request.identities, limits)?;
        let mut made = 0;
        while let Some(mut entry) = reader.next()? {
            let Some((change, item)) = wanted.get(entry.name.as_slice()) else {
                continue;
            };
            let sha256 = match &change.entry.kind {
                EntryKind::Link(to) => {
                    std::os::unix::fs::symlink(OsStr::from_bytes(to), &item.staged)
                        .map_err(RestoreError::io("make", &item.staged))?;
                    site.medium.sync_parent(&item.staged)?;
                    change.entry.sha256.clone()
                }
                EntryKind::File | EntryKind::Directory => self.unpack(&mut entry, &item.staged)?,
            };
            // The archive may have been exchanged since it was read first.
            if entry.kind != change.entry.kind || sha256 != change.entry.sha256 {
                return Err(RestoreError::NotAsWritten {
                    path: archive.clone(),
                    why: "it was exchanged while it was restored".to_owned(),
                });
            }
            made += 1;
        }
        if made != wanted.len() {
            return Err(RestoreError::NotAsWritten {
                path: archive.clone(),
                why: "it was exchanged while it was restored".to_owned(),
            });
        }
        let files = (self.plan.changes.iter()).filter(|c| c.entry.kind != EntryKind::Directory);
        for (change, item) in files.zip(&mut journal.items) {
            if change.is_database {
                (site.say)(&format!("checking what will be {}", item.target.display()));
                self.judge(change, item)?;
            }
            own(change, &item.staged)?;
            if change.entry.kind == EntryKind::File {
                let file =
                    File::open(&item.staged).map_err(RestoreError::io("open", &item.staged))?;
                site.medium.sync_data(&file, &item.staged)?;
                site.medium.sync_parent(&item.staged)?;
            }
            item.new = identity(&item.staged)?;
        }
        Ok(())
    }

    /// Bytes that may come out of the archive, as the first reading found.
    fn most(&self) -> u64 {
        let manifest = self.plan.manifest.as_ref();
        match manifest {
            None => 4 << 40,
            Some(m) => {
                let entries = (m.files.len() + m.databases.len()) as u64;
                // The manifest lies in it too.
                let own = m.to_bytes().map_or(0, |b| b.len() as u64 * 2);
                (m.plain_bytes() + own).saturating_add(OVERHEAD * (entries + 8))
            }
        }
    }

    fn unpack(&self, from: &mut impl Read, to: &Path) -> Result<String, RestoreError> {
        let site = self.site;
        let mut out = Bulk::create(to, site.medium, site.gate, site.stop)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; READ];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => {
                    return Err(crate::backup::ArchiveError::reading(&self.plan.archive, e).into());
                }
            };
            hash.update(&buffer[..n]);
            out.write_all(&buffer[..n])
                .map_err(RestoreError::io("write", to))?;
            (site.progress)(n as u64);
        }
        out.finish()?;
        Ok(hex(&hash.finalize()))
    }

    /// Is the staged database whole, and the one that the manifest speaks of?
    fn judge(&mut self, change: &Change, item: &mut Item) -> Result<(), RestoreError> {
        let staged = item.staged.as_path();
        let no = |why: String| RestoreError::NotAsWritten {
            path: self.plan.archive.clone(),
            why: format!("{} in it {why}", crate::backup::escape(&change.entry.name)),
        };
        let mut start = [0; MAGIC.len()];
        File::open(staged)
            .and_then(|mut f| f.read_exact(&mut start))
            .map_err(|_| no("is no database: it is too short".to_owned()))?;
        if start != *MAGIC {
            return Err(no("is no database: it does not begin as one".to_owned()));
        }
        let role = change.role.unwrap_or(Role::Guarded);
        let stop = Arc::clone(self.site.stop);
        let found = check(staged, role, Box::new(move || stop.load(Ordering::Relaxed)));
        let found = found.map_err(|e| {
            if let BackupError::Damaged { why, .. } = e {
                no(format!("is damaged: {why}"))
            } else if let BackupError::Sqlite { source, .. } = e {
                no(format!("cannot be used: {source}"))
            } else {
                e.into()
            }
        })?;
        sane(staged, role).map_err(|why| no(format!("lacks what the agent needs: {why}")))?;
        if let Some(said) = &change.expected {
            let DatabaseEntry {
                rows,
                schema_sha256,
                highest,
                ..
            } = said;
            if found.rows != *rows || found.schema_sha256 != *schema_sha256 {
                return Err(no(
                    "has other tables or rows than its manifest says".to_owned()
                ));
            }
            if role == Role::Store && found.highest != *highest {
                return Err(no(
                    "ends at another reading than its manifest says".to_owned()
                ));
            }
        }
        if role == Role::Store {
            item.readings = found.rows.get("readings").map(|n| (*n, found.highest));
            let nothing = DatabaseNow::default();
            let live = change.now.as_ref().unwrap_or(&nothing);
            self.ids_above = ids::floor(staged, live, self.request.home);
            if let Some(floor) = self.ids_above {
                ids::raise(staged, floor)?;
            }
        }
        Ok(())
    }
}

fn sane(staged: &Path, role: Role) -> Result<(), String> {
    let sql = match role {
        Role::Store => STORE,
        Role::Queue => QUEUE,
        Role::Audit | Role::Guarded => return Ok(()),
    };
    let conn: Connection = open_still(staged).map_err(|e| e.to_string())?;
    conn.prepare(sql).map(drop).map_err(|e| e.to_string())
}

/// The new file belongs to whom the old one belonged, with its rights; where there was none, as the
/// archive says, and a database to whom its directory belongs.
fn own(change: &Change, staged: &Path) -> Result<(), RestoreError> {
    let failed = RestoreError::io("give back the owner of", &change.target);
    let link = matches!(change.entry.kind, EntryKind::Link(_));
    let (uid, gid, mode) = match fs::symlink_metadata(&change.target) {
        Ok(old) => (old.uid(), old.gid(), old.mode()),
        Err(_) if change.role.is_some() => {
            let dir = nearest(&change.target);
            let dir = fs::metadata(dir).map_err(RestoreError::io("look at", dir))?;
            (dir.uid(), dir.gid(), RIGHTS)
        }
        Err(_) => (change.entry.uid, change.entry.gid, change.entry.mode),
    };
    give(staged, uid, gid, (!link).then_some(mode & 0o7777)).map_err(failed)
}

/// Sets owner and rights; a link has no rights of its own.
pub(super) fn give(path: &Path, uid: u32, gid: u32, mode: Option<u32>) -> io::Result<()> {
    let now = path.symlink_metadata()?;
    if (now.uid(), now.gid()) != (uid, gid) {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| {
            let why = format!("{e}: run this as root (sudo)");
            io::Error::new(io::Error::from(e).kind(), why)
        })?;
    }
    if let Some(mode) = mode {
        chmod(path, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}
