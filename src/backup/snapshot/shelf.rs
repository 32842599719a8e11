//! The snapshots that are there: found, listed, and removed when they are too many.
//!
//! It promises that the newest one of a database is never removed, and that what has no manifest is
//! no snapshot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Wall;
use crate::durable::{Medium, read_own};

use super::error::SnapshotError;
use super::manifest::{SNAPSHOT_FORMAT, SnapshotManifest};

/// A manifest has a line for each table.
const LONGEST_MANIFEST: u64 = 1 << 20;
pub(super) const ARCHIVE: &str = ".zst";
const MANIFEST: &str = ".json";
/// Ends the name of what is not finished.
pub(super) const PARTIAL: &str = ".partial";
/// What [`Medium::replace`] leaves of a manifest when it is cut.
const NEW: &str = ".json.new";

/// The directory of the snapshots.
#[derive(Debug, Clone, Copy)]
pub struct Shelf<'a> {
    /// It.
    pub dir: &'a Path,
    /// Its file system.
    pub medium: &'a Medium,
}

/// How many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// So many of each database at most; at least one is.
    pub count: usize,
    /// None older than this but the newest; `None`: whatever their age.
    pub age: Option<Duration>,
}

impl Shelf<'_> {
    /// The snapshots of the database with this file name, newest first. Manifests that cannot be
    /// used are told to `refused`.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(
        &self,
        database: &str,
        refused: &mut dyn FnMut(SnapshotError),
    ) -> Result<Vec<SnapshotManifest>, SnapshotError> {
        let mut found = Vec::new();
        for name in self.names()? {
            if !name.ends_with(MANIFEST) || !is_of(&name, database) {
                continue;
            }
            match self.read(&name, database) {
                Ok(manifest) => found.push(manifest),
                Err(e) => refused(e),
            }
        }
        found.sort_by_key(|m| std::cmp::Reverse(m.number));
        Ok(found)
    }

    fn read(&self, name: &str, database: &str) -> Result<SnapshotManifest, SnapshotError> {
        let path = self.dir.join(name);
        let text = read_own(&path, LONGEST_MANIFEST).map_err(SnapshotError::io("read", &path))?;
        let m: SnapshotManifest = serde_json::from_slice(&text)
            .map_err(|e| SnapshotError::damaged(&path, format!("no manifest: {e}")))?;
        if m.format > SNAPSHOT_FORMAT {
            let why = format!("a newer holdup wrote it (format {})", m.format);
            return Err(SnapshotError::damaged(&path, why));
        }
        // A name in it must not lead elsewhere.
        if m.database != database || name != manifest_of(&m.archive) {
            return Err(SnapshotError::damaged(
                &path,
                "it is another one's manifest",
            ));
        }
        if !self.path(&m).is_file() {
            return Err(SnapshotError::damaged(&path, "its archive is missing"));
        }
        Ok(m)
    }

    /// The archive of a snapshot.
    pub fn path(&self, m: &SnapshotManifest) -> PathBuf {
        self.dir.join(&m.archive)
    }

    pub(super) fn manifest_path(&self, archive: &str) -> PathBuf {
        self.dir.join(manifest_of(archive))
    }

    /// A number above those that any file of this database bears.
    pub(super) fn next_number(&self, database: &str) -> Result<u64, SnapshotError> {
        let number = |name: &String| {
            let rest = name.strip_prefix(database)?.strip_prefix('-')?;
            rest.split('-').next()?.parse::<u64>().ok()
        };
        let highest = self.names()?.iter().filter_map(number).max();
        Ok(highest.map_or(1, |n| n.saturating_add(1)))
    }

    /// Bytes of all files here.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn bytes(&self) -> Result<u64, SnapshotError> {
        let mut sum = 0;
        for name in self.names()? {
            let path = self.dir.join(name);
            match fs::symlink_metadata(&path) {
                Ok(m) => sum += m.len(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(SnapshotError::io("look at", &path)(e)),
            }
        }
        Ok(sum)
    }

    /// Removes what was begun for this database and never finished. Nobody may be taking one; the
    /// caller holds a pass.
    ///
    /// # Errors
    /// [`SnapshotError`]: some of it is left, and is no snapshot.
    pub fn sweep(&self, database: &str) -> Result<(), SnapshotError> {
        let names = self.names()?;
        for name in names.iter().filter(|n| is_of(n, database)) {
            let orphan = name.ends_with(ARCHIVE) && !names.contains(&manifest_of(name));
            if orphan || name.contains(PARTIAL) || name.ends_with(NEW) {
                self.medium.remove(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes what is too much by count and age; how many. Never the newest.
    ///
    /// # Errors
    /// [`SnapshotError`]: some may be left.
    pub fn prune(&self, database: &str, keep: Keep, now: Wall) -> Result<usize, SnapshotError> {
        let all = self.list(database, &mut |_| ())?;
        let mut removed = 0;
        for (place, m) in all.iter().enumerate().skip(1) {
            let age = now.as_millis().saturating_sub(m.taken_ms);
            let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
            if place >= keep.count.max(1) || keep.age.is_some_and(|most| age > most) {
                self.remove(m)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes a snapshot: first what makes it one.
    fn remove(&self, m: &SnapshotManifest) -> Result<(), SnapshotError> {
        self.medium.remove(&self.manifest_path(&m.archive))?;
        Ok(self.medium.remove(&self.path(m))?)
    }

    /// Removes the oldest one of `database` but for the newest; false where there is no other.
    pub(super) fn drop_oldest(&self, database: &str) -> Result<bool, SnapshotError> {
        let all = self.list(database, &mut |_| ())?;
        match all.as_slice() {
            [] | [_] => Ok(false),
            [.., oldest] => self.remove(oldest).map(|()| true),
        }
    }

    /// Files here; none where there is no directory.
    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        let failed = |e| SnapshotError::io("list", self.dir)(e);
        let entries = match fs::read_dir(self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            // What is no text is none of ours.
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }
}

/// `edge_store.db-000007-20261121T153000Z.zst`
pub(super) fn archive_name(database: &str, number: u64, taken: Wall) -> String {
    let compact: String = (taken.to_string().chars())
        .take_while(|c| *c != '.')
        .filter(char::is_ascii_alphanumeric)
        .collect();
    format!("{database}-{number:06}-{compact}Z{ARCHIVE}")
}

fn manifest_of(archive: &str) -> String {
    format!(
        "{}{MANIFEST}",
        archive.strip_suffix(ARCHIVE).unwrap_or(archive)
    )
}

fn is_of(name: &str, database: &str) -> bool {
    name.strip_prefix(database)
        .is_some_and(|rest| rest.starts_with('-'))
}
