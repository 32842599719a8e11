//! What of an archive goes where, and what lies there now.
//!
//! It promises that an archive alone decides about no path: what this gateway does not back up is
//! restored only when somebody names it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use crate::backup::check::open_still;
use crate::backup::escape::escape;
use crate::backup::{DatabaseEntry, EntryKind, Kind, Manifest, Role};
use crate::store::companion;

use super::survey::{Survey, Surveyed};
use super::{Home, Request, RestoreError};

/// What a restore does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The archive.
    pub archive: PathBuf,
    /// What it says of itself.
    pub manifest: Option<Manifest>,
    /// The gateway that it is of, where that is another one than this.
    pub other_gateway: Option<String>,
    /// The files that are put in place.
    pub changes: Vec<Change>,
    /// What is in the archive and stays there.
    pub skipped: Vec<Skipped>,
}

/// One file, link or directory that is put in place.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its place.
    pub target: PathBuf,
    /// What it is, if it is a database of the gateway's.
    pub role: Option<Role>,
    /// Is it a database, so that its companions go with what lies there?
    pub is_database: bool,
    /// Of the file.
    pub bytes: u64,
    /// Rows of each table, as the manifest says.
    pub rows: Option<BTreeMap<String, u64>>,
    /// What lies there, if it is a database.
    pub now: Option<DatabaseNow>,
    /// Is anything there?
    pub exists: bool,
    pub(super) entry: Surveyed,
    pub(super) expected: Option<DatabaseEntry>,
}

/// What a database holds, as far as its file alone says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DatabaseNow {
    /// Rows of the table `readings`, else of all tables.
    pub rows: Option<u64>,
    /// Highest id of a reading.
    pub last_id: Option<i64>,
    /// Its timestamp.
    pub last_at: Option<String>,
    /// The store's epoch.
    #[serde(skip)]
    pub epoch: Option<u64>,
    /// Ids up to this one were given out.
    #[serde(skip)]
    pub floor: Option<i64>,
    /// Its log holds more.
    pub has_log: bool,
    /// Why it cannot be read.
    pub unreadable: Option<String>,
}

/// Something that is not restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Where it was.
    pub path: String,
    /// Why.
    pub why: &'static str,
}

impl Change {
    /// The highest id of a reading in it, as the manifest says.
    pub fn highest(&self) -> Option<i64> {
        self.expected.as_ref().and_then(|e| e.highest)
    }
}

const AUDIT: &str = "the audit log is never replaced: it gets an entry";
const NOT_HERE: &str = "this gateway does not back it up: name it with --only to restore it";
const CONFIG: &str = "configuration is restored only with --with-config";
const KEYS: &str = "keys and certificates come from an archive of keys alone";
const DATABASE: &str = "it belongs to a database that is restored as such";
const OWN: &str = "it belongs to the agent";
const NOT_ASKED: &str = "not asked for";
const WHICH: &str = "without a manifest nothing says which database it is";

pub(super) fn plan(request: &Request<'_>, survey: Survey) -> Result<Plan, RestoreError> {
    let Survey { entries, manifest } = survey;
    let archive = request.archive.to_owned();
    if manifest.is_none() && !request.without_manifest {
        return Err(RestoreError::NoManifest(archive));
    }
    let mut plan = Plan {
        other_gateway: manifest
            .as_ref()
            .map(|m| m.gateway.clone())
            .filter(|g| *g != request.home.gateway),
        archive,
        manifest,
        changes: Vec::new(),
        skipped: Vec::new(),
    };
    let mut wanted = Wanted {
        request,
        keys: plan.manifest.as_ref().is_some_and(|m| m.kind == Kind::Keys),
        met: vec![false; request.only.len()],
    };
    for entry in entries {
        let expected = plan.manifest.as_ref().and_then(|m| {
            let name = escape(&entry.name);
            m.databases.iter().find(|d| d.name == name).cloned()
        });
        match wanted.place(&entry, expected.as_ref()) {
            Ok(None) => {}
            // It is there already, with what else is in it.
            Ok(Some((target, _))) if entry.kind == EntryKind::Directory && target.is_dir() => {}
            Ok(Some((target, role))) => plan.changes.push(change(target, role, entry, expected)?),
            Err(why) => plan.skipped.push(Skipped {
                path: expected
                    .map_or_else(|| escape(&entry.name), |d| d.source.display().to_string()),
                why,
            }),
        }
    }
    once(&mut plan);
    let missing = wanted.met.iter().position(|met| !met);
    let why = match missing {
        Some(at) => format!(
            "{} is not in it (`holdup backup show NAME --json` names what is)",
            request.only[at].display()
        ),
        None if plan.changes.is_empty() => {
            let why = plan.skipped.first().map_or("it is empty", |s| s.why);
            why.to_owned()
        }
        None => return Ok(plan),
    };
    Err(RestoreError::Nothing {
        path: plan.archive,
        why,
    })
}

/// A database is restored as one alone, and no file is put where its companions would lie: SQLite
/// would take it for the database's own log.
fn once(plan: &mut Plan) {
    let databases: Vec<PathBuf> = (plan.changes.iter())
        .filter(|c| c.role.is_some())
        .map(|c| c.target.clone())
        .collect();
    let suffixes = ["", "-wal", "-shm", "-journal"];
    let is_near = |target: &Path| {
        let real = target.parent().and_then(|p| p.canonicalize().ok());
        let real = real.map_or_else(
            || target.to_owned(),
            |p| p.join(target.file_name().unwrap_or_default()),
        );
        databases
            .iter()
            .any(|d| suffixes.iter().any(|s| companion(d, s) == real))
    };
    let (taken, kept) = std::mem::take(&mut plan.changes)
        .into_iter()
        .partition(|c| c.role.is_none() && is_near(&c.target));
    plan.changes = kept;
    let taken: Vec<Change> = taken;
    plan.skipped.extend(taken.into_iter().map(|c| Skipped {
        path: escape(&c.entry.name),
        why: DATABASE,
    }));
}

struct Wanted<'a> {
    request: &'a Request<'a>,
    keys: bool,
    /// Which of `only` were found.
    met: Vec<bool>,
}

impl Wanted<'_> {
    /// Where an entry goes; `None`: it is no file of the gateway's.
    fn place(
        &mut self,
        entry: &Surveyed,
        expected: Option<&DatabaseEntry>,
    ) -> Result<Option<(PathBuf, Option<Role>)>, &'static str> {
        let home = self.request.home;
        if let Some(name) = entry.name.strip_prefix(b"databases/") {
            let (target, role) = match expected {
                Some(entry) => ours(entry, home)?,
                None => by_name(name, home)?,
            };
            let source = expected.map(|e| e.source.as_path());
            let named = self.is_named(&target, source);
            if !named && !self.request.only.is_empty() {
                return Err(NOT_ASKED);
            }
            if role == Role::Guarded && !named && !home.databases.contains(&target) {
                return Err(NOT_HERE);
            }
            let real = target.canonicalize().unwrap_or(target);
            return Ok(Some((real, Some(role))));
        }
        let Some(path) = entry.name.strip_prefix(b"files/") else {
            return Ok(None);
        };
        let target = Path::new("/").join(Path::new(OsStr::from_bytes(path)));
        if target.starts_with(&home.data_dir) {
            return Err(OWN);
        }
        let is_key = home.keys.iter().any(|k| target.starts_with(k));
        if is_key && !self.keys {
            return Err(KEYS);
        }
        let named = self.is_named(&target, None);
        if !named && !self.request.only.is_empty() {
            return Err(NOT_ASKED);
        }
        if target.starts_with(&home.config) && !is_key {
            return if self.request.with_config {
                Ok(Some((target, None)))
            } else {
                Err(CONFIG)
            };
        }
        let backed_up = home.include.iter().any(|i| target.starts_with(i));
        if backed_up || named || is_key {
            Ok(Some((target, None)))
        } else {
            Err(NOT_HERE)
        }
    }

    fn is_named(&mut self, target: &Path, source: Option<&Path>) -> bool {
        let mut named = false;
        for (only, met) in self.request.only.iter().zip(&mut self.met) {
            if target.starts_with(only) || source.is_some_and(|s| s.starts_with(only)) {
                *met = true;
                named = true;
            }
        }
        named
    }
}

/// The place of a database on this gateway.
fn ours(entry: &DatabaseEntry, home: &Home) -> Result<(PathBuf, Role), &'static str> {
    match entry.role {
        Role::Store => Ok((home.store.clone(), Role::Store)),
        Role::Queue => Ok((home.queue.clone(), Role::Queue)),
        Role::Audit => Err(AUDIT),
        Role::Guarded => {
            let mut parts = entry.source.components();
            let plain = entry.source.is_absolute()
                && parts.all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
            if !plain || entry.source.starts_with(&home.data_dir) {
                return Err(OWN);
            }
            Ok((entry.source.clone(), Role::Guarded))
        }
    }
}

fn by_name(name: &[u8], home: &Home) -> Result<(PathBuf, Role), &'static str> {
    let is = |path: &&Path| path.file_name().is_some_and(|n| n.as_bytes() == name);
    if is(&home.store.as_path()) {
        return Ok((home.store.clone(), Role::Store));
    }
    if is(&home.queue.as_path()) {
        return Ok((home.queue.clone(), Role::Queue));
    }
    let guarded = || home.databases.iter().map(PathBuf::as_path);
    match (guarded().find(is), guarded().filter(is).count()) {
        (Some(path), 1) => Ok((path.to_owned(), Role::Guarded)),
        _ => Err(WHICH),
    }
}

fn change(
    target: PathBuf,
    role: Option<Role>,
    entry: Surveyed,
    expected: Option<DatabaseEntry>,
) -> Result<Change, RestoreError> {
    let there = match fs::symlink_metadata(&target) {
        Ok(meta) => Some(meta),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(RestoreError::io("look at", &target)(e)),
    };
    if let Some(meta) = &there
        && meta.is_dir() != (entry.kind == EntryKind::Directory)
    {
        let e = std::io::Error::other("a directory cannot be exchanged for a file: move it away");
        return Err(RestoreError::io("restore", &target)(e));
    }
    let is_database = role.is_some() || entry.database;
    let now = (is_database && there.is_some()).then(|| holds(&target));
    Ok(Change {
        exists: there.is_some(),
        bytes: entry.bytes,
        rows: expected.as_ref().map(|e| e.rows.clone()),
        is_database,
        now,
        target,
        role,
        entry,
        expected,
    })
}

/// What the file `path` holds. Its log is not looked into, and nothing is made beside it: it may be
/// damaged.
pub(super) fn holds(path: &Path) -> DatabaseNow {
    let log = fs::metadata(companion(path, "-wal")).is_ok_and(|m| m.len() > 0);
    let mut now = DatabaseNow {
        has_log: log,
        ..DatabaseNow::default()
    };
    let read = open_still(path)
        .map_err(|e| e.to_string())
        .and_then(|conn| read(&conn, &mut now).map_err(|e| e.to_string()));
    now.unreadable = read.err();
    now
}

fn read(conn: &Connection, now: &mut DatabaseNow) -> rusqlite::Result<()> {
    let has = |name: &str| {
        conn.query_row(
            "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE type = 'table' AND lower(name) = ?1)",
            [name],
            |r| r.get::<_, bool>(0),
        )
    };
    if has("readings")? {
        let (rows, last): (i64, Option<i64>) =
            conn.query_row("SELECT count(*), max(id) FROM readings", [], |r| {
                Ok((r.get(0)?, r.get(1)?))
            })?;
        now.rows = Some(rows.unsigned_abs());
        now.last_id = last;
        now.last_at = conn
            .query_row(
                "SELECT CAST(timestamp AS TEXT) FROM readings WHERE id = ?1",
                [last],
                |r| r.get(0),
            )
            .optional()?
            .flatten();
    }
    if has("holdup_meta")? {
        let meta = |key: &str| {
            conn.query_row("SELECT value FROM holdup_meta WHERE key = ?1", [key], |r| {
                r.get::<_, rusqlite::types::Value>(0)
            })
            .optional()
        };
        if let Some(rusqlite::types::Value::Text(epoch)) = meta("epoch")? {
            now.epoch = u64::from_str_radix(&epoch, 16).ok();
        }
        if let Some(rusqlite::types::Value::Integer(floor)) = meta("floor")? {
            now.floor = Some(floor);
        }
    }
    Ok(())
}
