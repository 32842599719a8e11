//! The log's file: made whole or not at all, checked when it is opened, appended in transactions.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::durable::{Gate, Medium};

use super::entry::{BREAK, Draft, Head, NOTHING, Record, digest};
use super::error::AuditError;

/// The file's version, in its header.
const VERSION: i64 = 1;
const TABLE: &str = "CREATE TABLE audit(
    sequence INTEGER PRIMARY KEY,
    wall TEXT NOT NULL,
    mono_ms INTEGER NOT NULL,
    boot TEXT NOT NULL,
    synchronised INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    details TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL) STRICT";
/// What the clerk must find again: how far the spool was taken, and what was entered last under
/// a key. Not part of the chain.
const META: &str = "CREATE TABLE holdup_meta(
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL) STRICT, WITHOUT ROWID";
/// SQLite's own waiting for a reader; the clerk tries again.
const BUSY: Duration = Duration::from_millis(100);
/// No field is longer; larger ones are not allocated.
const LONGEST: i32 = 64 * 1024;
/// Entries looked at when the log is opened.
const TAIL: i64 = 512;
/// Up to this size the whole file is checked then.
const CHECKED: u64 = 16 << 20;
/// A batch that fits a page many times over.
const CACHE_KIB: i64 = 256;

/// An entry as it was read, and whether its hash is that of its fields.
pub(super) struct Row {
    pub(super) record: Record,
    pub(super) intact: bool,
}

/// A connection that a damaged or hostile file cannot make allocate without bound. Never follows a
/// link and never waits for a FIFO.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, AuditError> {
    let failed = |e| AuditError::sqlite(path, "open", e);
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    // SQLite refuses a link in any part of the path; only the last part is not ours to trust.
    let conn = match path.parent().map(fs::canonicalize) {
        Some(Ok(dir)) => {
            let name = path.file_name().unwrap_or_default();
            Connection::open_with_flags(dir.join(name), flags).map_err(failed)?
        }
        Some(Err(e)) => return Err(AuditError::io(path, "find the directory of", e)),
        None => return Err(AuditError::Missing(path.to_owned())),
    };
    conn.busy_timeout(BUSY).map_err(failed)?;
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST)
        .map_err(failed)?;
    conn.execute_batch(&format!(
        "PRAGMA trusted_schema = OFF; PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY"
    ))
    .map_err(failed)?;
    Ok(conn)
}

/// Is there a regular file, and is it not empty? Says what else there is.
pub(super) fn look(path: &Path) -> Result<bool, AuditError> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(AuditError::io(path, "look at", e)),
        Ok(m) if !m.is_file() => Err(AuditError::damaged(path, "it is not a regular file")),
        Ok(m) if m.len() == 0 => Err(AuditError::damaged(path, "it is empty")),
        Ok(_) => Ok(true),
    }
}

/// Is it a log of this version?
pub(super) fn check(conn: &Connection, path: &Path) -> Result<(), AuditError> {
    let failed = |e| AuditError::sqlite(path, "read", e);
    let version: i64 = conn
        .query_row("PRAGMA user_version", [], |r| r.get(0))
        .map_err(failed)?;
    if version > VERSION {
        return Err(AuditError::Newer {
            path: path.to_owned(),
            version,
        });
    }
    let sql: Option<String> = conn
        .query_row(
            "SELECT sql FROM sqlite_schema WHERE name = 'audit' AND type = 'table'",
            [],
            |r| r.get(0),
        )
        .optional()
        .map_err(failed)?;
    if version != VERSION || sql.as_deref() != Some(TABLE) {
        return Err(AuditError::damaged(path, "it is no audit log of holdup"));
    }
    Ok(())
}

/// Entries from `since` on, at most `limit`, in order.
pub(super) fn page(
    conn: &Connection,
    path: &Path,
    since: i64,
    limit: i64,
) -> Result<Vec<Row>, AuditError> {
    let failed = |e| AuditError::sqlite(path, "read", e);
    let mut select = conn
        .prepare_cached(
            "SELECT sequence, wall, mono_ms, boot, synchronised, actor, action, details, previous,
                    hash
             FROM audit WHERE sequence >= ?1 ORDER BY sequence LIMIT ?2",
        )
        .map_err(failed)?;
    select
        .query_map(params![since, limit], |r| {
            let mut texts = Vec::with_capacity(10);
            for n in 0..10 {
                texts.push(text(r.get_ref(n)?));
            }
            Ok(row(texts))
        })
        .and_then(Iterator::collect)
        .map_err(failed)
}

/// What the canonical form has for a value; for what does not belong there, what never fits.
fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Null => "null".to_owned(),
        ValueRef::Real(n) => format!("real {n}"),
        ValueRef::Blob(_) => "blob".to_owned(),
    }
}

fn row(texts: Vec<String>) -> Row {
    let [
        sequence,
        wall,
        mono,
        boot,
        set,
        actor,
        action,
        details,
        previous,
        hash,
    ] = <[String; 10]>::try_from(texts).unwrap_or_default();
    let fields = [
        &*sequence, &*wall, &*mono, &*boot, &*set, &*actor, &*action, &*details, &*previous,
    ];
    let intact = digest(&fields) == hash;
    let record = Record {
        sequence: sequence.parse().unwrap_or(0),
        mono_ms: mono.parse().unwrap_or(0),
        synchronised: set == "1",
        wall,
        boot,
        actor,
        action,
        details,
        previous,
        hash,
    };
    Row { record, intact }
}

/// The last entry.
pub(super) fn head(conn: &Connection, path: &Path) -> Result<Option<Head>, AuditError> {
    conn.prepare_cached("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1")
        .and_then(|mut s| {
            s.query_row([], |r| {
                Ok(Head {
                    sequence: r.get(0)?,
                    hash: r.get(1)?,
                })
            })
            .optional()
        })
        .map_err(|e| AuditError::sqlite(path, "read", e))
}

/// The log, open for appending.
#[derive(Debug)]
pub(super) struct LogFile {
    /// A hot copy holds it too, on this thread.
    conn: Rc<Connection>,
    path: PathBuf,
}

impl LogFile {
    /// Opens a log that is there, and checks it: the whole structure of a small one, the chain of
    /// the last entries. Answers what is wrong with the chain beside it.
    pub(super) fn open(
        path: &Path,
        gate: &Arc<Gate>,
    ) -> Result<(Self, Option<String>), AuditError> {
        let bytes = fs::symlink_metadata(path).map_or(0, |m| m.len());
        let mut conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let failed = |e| AuditError::sqlite(path, "set up", e);
        let mode: String = conn
            .query_row("PRAGMA journal_mode = TRUNCATE", [], |r| r.get(0))
            .map_err(failed)?;
        if mode != "truncate" {
            let why = format!("its journal mode is {mode}, and no audit log's is");
            return Err(AuditError::damaged(path, why));
        }
        conn.execute_batch("PRAGMA synchronous = EXTRA")
            .map_err(failed)?;
        check(&conn, path)?;
        if bytes <= CHECKED {
            // Power goes first: what is not checked now is checked when the gate is open.
            let gate = Arc::clone(gate);
            conn.progress_handler(1000, Some(move || gate.is_closed()))
                .map_err(failed)?;
            let says: String = conn
                .query_row("PRAGMA quick_check(1)", [], |r| r.get(0))
                .map_err(failed)?;
            conn.progress_handler(0, None::<fn() -> bool>)
                .map_err(failed)?;
            if says != "ok" {
                return Err(AuditError::damaged(path, says));
            }
        }
        let problem = tail(&conn, path)?;
        let (path, conn) = (path.to_owned(), Rc::new(conn));
        Ok((Self { conn, path }, problem))
    }

    /// What it is written by.
    pub(super) fn connection(&self) -> &Rc<Connection> {
        &self.conn
    }

    /// The last entry.
    pub(super) fn head(&self) -> Result<Option<Head>, AuditError> {
        head(&self.conn, &self.path)
    }

    /// The hash of one entry.
    pub(super) fn hash_of(&self, sequence: i64) -> Result<Option<String>, AuditError> {
        let rows = page(&self.conn, &self.path, sequence, 1)?;
        let row = rows.into_iter().find(|r| r.record.sequence == sequence);
        Ok(row.map(|r| r.record.hash))
    }

    /// The first entry from `sequence` on that names a break.
    pub(super) fn first_break_from(&self, sequence: i64) -> Result<Option<i64>, AuditError> {
        self.conn
            .query_row(
                "SELECT min(sequence) FROM audit WHERE sequence >= ?1 AND action = ?2",
                params![sequence, BREAK],
                |r| r.get(0),
            )
            .map_err(|e| AuditError::sqlite(&self.path, "read", e))
    }

    /// What is kept beside the chain.
    pub(super) fn meta(&self, key: &str) -> Result<Option<String>, AuditError> {
        self.conn
            .prepare_cached("SELECT value FROM holdup_meta WHERE key = ?1")
            .and_then(|mut s| s.query_row([key], |r| r.get(0)).optional())
            .map_err(|e| AuditError::sqlite(&self.path, "read", e))
    }

    /// Appends entries in one transaction and keeps how far the spool was taken; of each, its
    /// sequence, or `None` where its key says that it was entered already. They are durable when
    /// this returns.
    pub(super) fn append(
        &mut self,
        drafts: &[&Draft],
        taken: Option<&str>,
    ) -> Result<(Vec<Option<i64>>, Option<Head>), AuditError> {
        let path = self.path.clone();
        let failed = |e| AuditError::sqlite(&path, "append to", e);
        self.conn
            .prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut s| s.raw_execute())
            .map_err(failed)?;
        let done = self.insert(drafts, taken).and_then(|done| {
            self.conn
                .prepare_cached("COMMIT")
                .and_then(|mut s| s.raw_execute())
                .map_err(failed)?;
            Ok(done)
        });
        if done.is_err() && !self.conn.is_autocommit() {
            // The first error is the one to tell.
            self.conn.execute_batch("ROLLBACK").ok();
        }
        done
    }

    fn insert(
        &self,
        drafts: &[&Draft],
        taken: Option<&str>,
    ) -> Result<(Vec<Option<i64>>, Option<Head>), AuditError> {
        let mut last = self.head()?;
        let mut places = Vec::with_capacity(drafts.len());
        for draft in drafts {
            if let Some(key) = &draft.key {
                let said = format!("said:{}", draft.action);
                if self.meta(&said)?.as_ref() == Some(key) {
                    places.push(None);
                    continue;
                }
                set_meta(&self.conn, &self.path, &said, key)?;
            }
            let (sequence, previous) = match &last {
                Some(head) => (head.sequence + 1, head.hash.as_str()),
                None => (1, NOTHING),
            };
            let record = draft.at(sequence, previous);
            put(&self.conn, &self.path, &record)?;
            places.push(Some(sequence));
            last = Some(Head {
                sequence,
                hash: record.hash,
            });
        }
        if let Some(taken) = taken {
            set_meta(&self.conn, &self.path, "spool", taken)?;
        }
        Ok((places, last))
    }

    /// Appends the entry that names a break: chained to nothing, above everything known.
    pub(super) fn name_break(&mut self, draft: &Draft, above: i64) -> Result<Head, AuditError> {
        debug_assert_eq!(draft.action, BREAK);
        let record = draft.at(above + 1, NOTHING);
        put(&self.conn, &self.path, &record)?;
        Ok(Head {
            sequence: record.sequence,
            hash: record.hash,
        })
    }
}

fn put(conn: &Connection, path: &Path, r: &Record) -> Result<(), AuditError> {
    conn.prepare_cached("INSERT INTO audit VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")
        .and_then(|mut s| {
            s.execute(params![
                r.sequence,
                r.wall,
                r.mono_ms,
                r.boot,
                r.synchronised,
                r.actor,
                r.action,
                r.details,
                r.previous,
                r.hash
            ])
        })
        .map(drop)
        .map_err(|e| AuditError::sqlite(path, "append to", e))
}

fn set_meta(conn: &Connection, path: &Path, key: &str, value: &str) -> Result<(), AuditError> {
    conn.prepare_cached(
        "INSERT INTO holdup_meta(key, value) VALUES(?1, ?2)
         ON CONFLICT(key) DO UPDATE SET value = excluded.value",
    )
    .and_then(|mut s| s.execute([key, value]))
    .map(drop)
    .map_err(|e| AuditError::sqlite(path, "append to", e))
}

/// What is wrong with the chain of the last entries; an error where they cannot be read.
fn tail(conn: &Connection, path: &Path) -> Result<Option<String>, AuditError> {
    let Some(head) = head(conn, path)? else {
        return Ok(None);
    };
    let from = head.sequence.saturating_sub(TAIL).max(1);
    let rows = page(conn, path, from, TAIL + 1)?;
    let mut before: Option<&Record> = None;
    for row in &rows {
        let r = &row.record;
        let linked = before.is_none_or(|b| r.sequence == b.sequence + 1 && r.previous == b.hash);
        if !row.intact || (!linked && r.action != BREAK) {
            return Ok(Some(format!(
                "entry {} does not fit its hash or the entry before it: run `holdup audit verify`",
                r.sequence
            )));
        }
        before = Some(r);
    }
    Ok(None)
}

/// Where a new log is made before it takes its place.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes a log beside `path` that holds what `fill` puts in; it is on the medium, and not yet in
/// its place. Nothing is synced on the way: until it is whole it is nothing.
pub(super) fn make(
    path: &Path,
    medium: &Medium,
    fill: impl FnOnce(&mut dyn FnMut(&Record) -> Result<(), AuditError>) -> Result<(), AuditError>,
) -> Result<PathBuf, AuditError> {
    let new = beside(path, ".new");
    for stale in [beside(&new, "-journal"), new.clone()] {
        match fs::remove_file(&stale) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(AuditError::io(&stale, "remove", e));
            }
            Ok(()) | Err(_) => {}
        }
    }
    let conn = connect(
        &new,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    )?;
    let failed = |e| AuditError::sqlite(&new, "make", e);
    conn.execute_batch(&format!(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;
         BEGIN; {TABLE}; {META}; PRAGMA user_version = {VERSION};"
    ))
    .map_err(failed)?;
    fill(&mut |record| put(&conn, &new, record))?;
    conn.execute_batch("COMMIT").map_err(failed)?;
    // Statements that are cached would keep it open.
    conn.flush_prepared_statement_cache();
    conn.close().map_err(|(_, e)| failed(e))?;
    let file = File::open(&new).map_err(|e| AuditError::io(&new, "open", e))?;
    medium.sync_data(&file, &new)?;
    medium.sync_parent(&new)?;
    Ok(new)
}

/// Moves what is in the way aside under the name `aside`, and the new log into its place. The
/// journal goes first: beside another file it would be rolled back into that.
pub(super) fn install(path: &Path, aside: &Path, medium: &Medium) -> Result<(), AuditError> {
    for suffix in ["-journal", ""] {
        let from = beside(path, suffix);
        if fs::symlink_metadata(&from).is_ok() {
            medium.rename(&from, &beside(aside, suffix))?;
        }
    }
    medium.rename(&beside(path, ".new"), path)?;
    Ok(())
}
