//! Opening: the look at the bytes, the evidence, then SQLite with the settings that make a
//! commit durable.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::clock::Wall;
use crate::durable::{Gate, Medium, Pass};

use super::error::StoreError;
use super::look::{Look, keep_evidence, look};

/// SQLite's own waiting for a lock; the writer's thread tries again by itself and answers
/// orders between.
const BUSY: Duration = Duration::from_millis(20);
/// Page size of a new database. A commit of small rows touches one page for each place that it
/// changes, so a quarter of SQLite's 4096 bytes is about half of what reaches the card, and with
/// an index less (the benchmark `bytes`). An existing database keeps its own.
const PAGE_BYTES: u32 = 1024;

/// Opens the database at `path` for one writer: WAL, synced at each commit, checkpointed only
/// when asked. The gate must be open; the pass is given back with the connection, to hold
/// while the tables are made.
pub fn open<'a>(
    path: &Path,
    medium: &Medium,
    gate: &'a Gate,
    now: Wall,
) -> Result<(Connection, Pass<'a>), StoreError> {
    let pass = gate.try_enter().ok_or_else(|| StoreError::GateClosed {
        path: path.to_owned(),
    })?;
    medium.healthy().map_err(|source| StoreError::Durable {
        path: path.to_owned(),
        source,
    })?;
    if let Look::DamagedWal(why) = look(path)? {
        let kept = keep_evidence(path, medium, now)?;
        log::error!(
            "{}-wal cannot be read: {why}. SQLite ignores it, so the last commits may be missing; \
             it was copied, with the database, to {}",
            path.display(),
            kept.display()
        );
    }
    if !has_room_for_shm(path) {
        return Err(StoreError::sqlite(path, "open", no_room()));
    }
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|e| StoreError::sqlite(path, "open", e))?;
    configure(&conn).map_err(|e| StoreError::sqlite(path, "set up", e))?;
    let mode: String = conn
        .query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))
        .map_err(|e| StoreError::sqlite(path, "switch to a write-ahead log", e))?;
    if mode != "wal" {
        return Err(StoreError::Schema {
            path: path.to_owned(),
            problem: format!(
                "it stays in journal mode {mode}; its file system must support shared memory"
            ),
        });
    }
    medium
        .sync_parent(path)
        .map_err(|source| StoreError::Durable {
            path: path.to_owned(),
            source,
        })?;
    Ok((conn, pass))
}

/// SQLite makes the -shm longer by one byte in each of its pages. Where the file system's blocks
/// are smaller than those, the rest of a page is a hole, and on a full disk the first store into
/// it kills the process with SIGBUS.
fn has_room_for_shm(path: &Path) -> bool {
    const SHM_PAGE: u64 = 4096;
    /// Two regions of the -shm, and as much again for what the opening itself writes.
    const ROOM: u64 = 256 * 1024;
    let dir = path.parent().unwrap_or(Path::new("/"));
    // What cannot be asked is met by the opening itself.
    rustix::fs::statvfs(dir).map_or(true, |s| {
        s.f_bsize >= SHM_PAGE || s.f_bavail * s.f_frsize >= ROOM
    })
}

fn no_room() -> rusqlite::Error {
    let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
    rusqlite::Error::SqliteFailure(full, Some("no room for its shared memory".to_owned()))
}

fn configure(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY)?;
    // Closing must not write: it may happen while the gate is closed.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.execute_batch(&format!(
        "PRAGMA page_size = {PAGE_BYTES};
         PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -2048;"
    ))
}
