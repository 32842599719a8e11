//! One snapshot: copied, checked, compressed, read back, and only then named.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::clock::Clock;
use crate::durable::{CopyHow, Gate, Heed, HotCopy, Medium, enter};
use crate::recovery::candidates::{Work, judge};

use super::archive::{Packed, Place, pack, unpack};
use super::error::SnapshotError;
use super::manifest::{SNAPSHOT_FORMAT, SnapshotManifest};
use super::shelf::{Keep, PARTIAL, Shelf, archive_name};

/// Room that is left beside what is written.
const SPARE: u64 = 4 << 20;

/// Where a snapshot is taken, and what it may cost.
#[derive(Clone, Copy)]
pub struct SnapshotSite<'a> {
    /// Where snapshots are.
    pub dir: &'a Path,
    /// Their file system.
    pub medium: &'a Medium,
    /// Passed piece by piece; closed while power fails.
    pub gate: &'a Arc<Gate>,
    /// Set from elsewhere to give up.
    pub stop: &'a Arc<AtomicBool>,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Asked while the database is copied.
    pub heed: &'a dyn Fn() -> Heed,
    /// How many are kept.
    pub keep: Keep,
    /// All of them, and what is written for one more, take this part of the free space at most.
    pub share_percent: u8,
}

impl std::fmt::Debug for SnapshotSite<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotSite")
            .field("dir", &self.dir)
            .field("keep", &self.keep)
            .field("share_percent", &self.share_percent)
            .finish_non_exhaustive()
    }
}

impl<'a> SnapshotSite<'a> {
    /// The snapshots that are there.
    pub fn shelf(&self) -> Shelf<'a> {
        Shelf {
            dir: self.dir,
            medium: self.medium,
        }
    }
}

/// Takes a snapshot of `database`, which `source` writes, and removes what is too much then.
///
/// # Errors
/// [`SnapshotError`]: then there is no more than there was, and nothing under a final name.
pub fn take(
    database: &Path,
    source: &dyn HotCopy,
    site: &SnapshotSite<'_>,
) -> Result<SnapshotManifest, SnapshotError> {
    let name = database.file_name().unwrap_or_default().to_string_lossy();
    let shelf = site.shelf();
    {
        let _pass = pass(site)?;
        site.medium.make_dir(site.dir)?;
        shelf.sweep(&name)?;
        make_room(database, &name, site)?;
    }
    let work = site.dir.join(format!("{name}-copy{PARTIAL}"));
    let taken = attempt(database, &name, &work, source, site);
    let _pass = pass(site)?;
    if taken.is_err() {
        shelf.sweep(&name)?;
    } else {
        site.medium.remove(&work)?;
    }
    let taken = taken?;
    shelf.prune(&name, site.keep, site.clock.wall())?;
    Ok(taken)
}

fn attempt(
    database: &Path,
    name: &str,
    work: &Path,
    source: &dyn HotCopy,
    site: &SnapshotSite<'_>,
) -> Result<SnapshotManifest, SnapshotError> {
    let began = site.clock.mono();
    let how = CopyHow {
        medium: site.medium,
        gate: site.gate,
        stop: site.stop,
        clock: site.clock,
        heed: site.heed,
        progress: &|_, _| {},
    };
    source.copy(work, &how)?;
    let taken = site.clock.wall();
    // Against the copy, never against the live database: that has gone on.
    let rows = check(database, work, site)?;
    let (epoch, highest_id) = ask(work)?;
    let shelf = site.shelf();
    let number = shelf.next_number(name)?;
    let archive = archive_name(name, number, taken);
    let partial = site.dir.join(format!("{archive}{PARTIAL}"));
    let place = Place {
        medium: site.medium,
        gate: site.gate,
        stop: site.stop,
    };
    let Packed {
        plain_bytes,
        plain_sha256,
        bytes,
        sha256,
    } = pack(work, &partial, place)?;
    let mut manifest = SnapshotManifest {
        format: SNAPSHOT_FORMAT,
        number,
        database: name.to_owned(),
        archive,
        taken_at: taken.to_string(),
        taken_ms: taken.as_millis(),
        clock_synchronised: site.clock.is_synchronised(),
        epoch,
        highest_id,
        rows,
        plain_bytes,
        plain_sha256,
        bytes,
        sha256,
        took_ms: 0,
    };
    // What was written, not what was meant to be.
    unpack(&partial, &manifest, &mut io::sink())?;
    let took = site.clock.mono().since(began).as_millis();
    manifest.took_ms = u64::try_from(took).unwrap_or(u64::MAX);
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|e| SnapshotError::io("write", &partial)(e.into()))?;
    let _pass = pass(site)?;
    site.medium.rename(&partial, &shelf.path(&manifest))?;
    // From here on it is one.
    site.medium
        .replace(&shelf.manifest_path(&manifest.archive), &text)?;
    Ok(manifest)
}

/// Rows of each table of a copy in which SQLite finds no fault.
fn check(
    database: &Path,
    copy: &Path,
    site: &SnapshotSite<'_>,
) -> Result<BTreeMap<String, u64>, SnapshotError> {
    let work = Work {
        medium: site.medium,
        gate: site.gate,
        stop: site.stop,
        progress: &|_, _| {},
    };
    let faulty = |fault| SnapshotError::Faulty {
        database: database.to_owned(),
        fault,
    };
    // Made anew or not, the copy's indexes are not those of the database.
    let of_index = || faulty("its indexes disagree with their tables".to_owned());
    let opinion = judge(copy, &work)?;
    match opinion.faults.into_iter().next() {
        Some(fault) => Err(faulty(fault)),
        None if opinion.reindexed => Err(of_index()),
        None => Ok(opinion.tables.into_iter().collect()),
    }
}

/// Which store the copy is of, and how far its readings go.
fn ask(copy: &Path) -> Result<(Option<String>, Option<i64>), SnapshotError> {
    let failed = |source| SnapshotError::Sqlite {
        path: copy.to_owned(),
        source,
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(copy, flags).map_err(failed)?;
    let has = |table: &str| -> rusqlite::Result<bool> {
        conn.query_row(
            "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)",
            [table],
            |r| r.get(0),
        )
    };
    let epoch = if has("holdup_meta").map_err(failed)? {
        conn.query_row(
            "SELECT CAST(value AS TEXT) FROM holdup_meta WHERE key = 'epoch'",
            [],
            |r| r.get::<_, Option<String>>(0),
        )
        .optional()
        .map_err(failed)?
        .flatten()
    } else {
        None
    };
    let highest = if has("readings").map_err(failed)? {
        conn.query_row("SELECT max(rowid) FROM readings", [], |r| r.get(0))
            .map_err(failed)?
    } else {
        None
    };
    Ok((epoch, highest))
}

/// Older ones go where the new one would take too much.
fn make_room(database: &Path, name: &str, site: &SnapshotSite<'_>) -> Result<(), SnapshotError> {
    let size = [database.to_owned(), with(database, "-wal")]
        .iter()
        .map(|p| fs::metadata(p).map_or(0, |m| m.len()))
        .sum::<u64>();
    // The copy, and an archive that does not get smaller.
    let needed = size.saturating_mul(2).saturating_add(SPARE);
    let shelf = site.shelf();
    loop {
        let stat = rustix::fs::statvfs(site.dir)
            .map_err(|e| SnapshotError::io("ask for free room in", site.dir)(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let kept = shelf.bytes()?;
        let share = free.saturating_add(kept) / 100 * u64::from(site.share_percent);
        let room = share.saturating_sub(kept).min(free);
        if needed <= room {
            return Ok(());
        }
        if !shelf.drop_oldest(name)? {
            return Err(SnapshotError::NoRoom {
                database: database.to_owned(),
                needed,
                room,
            });
        }
    }
}

fn with(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn pass<'a>(site: &SnapshotSite<'a>) -> Result<crate::durable::Pass<'a>, SnapshotError> {
    enter(site.gate, site.stop).map_err(SnapshotError::io("write to", site.dir))
}
