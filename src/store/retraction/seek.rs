//! What is in the store, read by whoever asks: the readings that a retraction would name, and the
//! retractions that were made.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Row, params};

use crate::store::error::StoreError;
use crate::store::rows::Stamp;
use crate::store::schema;

use super::{Found, Retraction, Span, value};

/// Rows that are looked at in one read transaction: a longer one would keep the log from being
/// moved into the database.
const PORTION: i64 = 20_000;
/// How long a reader waits for a lock.
const READER_BUSY: Duration = Duration::from_secs(5);
/// Looks for the readings of `span` that are there now, in portions; `between` is told how many
/// were looked at and may break off, which gives `None`. Reads only.
///
/// # Errors
/// The database cannot be read.
pub fn find(
    path: &Path,
    span: &Span,
    between: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Found>, StoreError> {
    let failed = |e| StoreError::sqlite(path, "look for readings in", e);
    let Some(conn) = read_only(path)? else {
        return Ok(Some(Found::default()));
    };
    look_for(&conn, span, PORTION, between).map_err(failed)
}

pub(super) fn look_for(
    conn: &Connection,
    span: &Span,
    portion: i64,
    between: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> rusqlite::Result<Option<Found>> {
    if schema::kind(conn, "readings")?.is_none() {
        return Ok(Some(Found::default()));
    }
    let numbered: bool = conn.query_row(
        "SELECT EXISTS(SELECT 1 FROM pragma_table_xinfo('readings')
                       WHERE lower(name) = 'id' AND pk = 1)",
        [],
        |r| r.get(0),
    )?;
    // Without a key each portion would read the whole table.
    let portion = if numbered { portion } else { -1 };
    let newest: Option<i64> = conn.query_row("SELECT max(id) FROM readings", [], |r| r.get(0))?;
    let Some(newest) = newest else {
        return Ok(Some(Found::default()));
    };
    let mut q = conn.prepare(
        "SELECT count(*), coalesce(sum(hit), 0), min(CASE WHEN hit THEN id END),
                max(CASE WHEN hit THEN id END), max(id)
         FROM (SELECT id, (sensor_name = CAST(?3 AS TEXT)
                           AND (?4 IS NULL OR timestamp >= ?4)
                           AND (?5 IS NULL OR timestamp <= ?5)) IS TRUE AS hit
               FROM readings WHERE id >= ?1 AND id <= ?2 ORDER BY id LIMIT ?6)",
    )?;
    let (since, until) = (value(span.since.as_ref()), value(span.until.as_ref()));
    let mut found = Found::default();
    let (mut from, mut seen) = (i64::MIN, 0u64);
    loop {
        let (rows, hits, first, last, end) = q.query_row(
            params![from, newest, span.sensor_name, since, until, portion],
            |r| {
                Ok((
                    r.get::<_, i64>(0)?,
                    r.get::<_, i64>(1)?,
                    r.get::<_, Option<i64>>(2)?,
                    r.get::<_, Option<i64>>(3)?,
                    r.get::<_, Option<i64>>(4)?,
                ))
            },
        )?;
        seen += rows.unsigned_abs();
        if let (Some(first), Some(last)) = (first, last) {
            if found.rows == 0 {
                found.first_id = first;
            }
            found.last_id = last;
            found.rows += hits.unsigned_abs();
        }
        let next = end
            .filter(|_| rows == portion)
            .and_then(|e| e.checked_add(1));
        match next {
            Some(next) => from = next,
            None => return Ok(Some(found)),
        }
        if between(seen).is_break() {
            return Ok(None);
        }
    }
}

/// All retractions, oldest first. Reads only.
///
/// # Errors
/// The database cannot be read.
pub fn retractions(path: &Path) -> Result<Vec<Retraction>, StoreError> {
    let failed = |e| StoreError::sqlite(path, "read the retractions in", e);
    let Some(conn) = read_only(path)? else {
        return Ok(Vec::new());
    };
    read(&conn).map_err(failed)
}

pub(super) fn read(conn: &Connection) -> rusqlite::Result<Vec<Retraction>> {
    if schema::kind(conn, "holdup_retracted")?.is_none() {
        return Ok(Vec::new());
    }
    conn.prepare(
        "SELECT seq, sensor_name, first_id, last_id, since, until, reason, actor, at, undone
         FROM holdup_retracted ORDER BY seq",
    )?
    .query_map([], |r| {
        Ok(Retraction {
            seq: r.get(0)?,
            sensor_name: r.get(1)?,
            first_id: r.get(2)?,
            last_id: r.get(3)?,
            since: stamp(r, 4)?,
            until: stamp(r, 5)?,
            reason: r.get(6)?,
            actor: r.get(7)?,
            at: r.get(8)?,
            undone: r.get(9)?,
        })
    })?
    .collect()
}

/// `None`: there is nothing to read.
fn read_only(path: &Path) -> Result<Option<Connection>, StoreError> {
    let failed = |e| StoreError::sqlite(path, "open", e);
    if !path.exists() {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .and_then(|_| conn.busy_timeout(READER_BUSY))
        .map_err(failed)?;
    Ok(Some(conn))
}

fn stamp(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Stamp<String>>> {
    Ok(match row.get(at)? {
        Value::Null => None,
        Value::Integer(n) => Some(Stamp::Int(n)),
        Value::Real(x) => Some(Stamp::Real(x)),
        Value::Text(text) => Some(Stamp::Text(text)),
        Value::Blob(bytes) => Some(Stamp::Text(String::from_utf8_lossy(&bytes).into_owned())),
    })
}
