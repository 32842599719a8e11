//! The tables: made fresh, or adopted as they are.
//!
//! It promises that an existing `readings` table is never rewritten, and that a table the
//! agent could not fill is refused at once, with the column named.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::error::StoreError;
use super::retraction;

/// Version of the agent's own tables.
const VERSION: i64 = 1;

/// No AUTOINCREMENT: it would rewrite one more page in each commit. The writer numbers the
/// rows itself and never removes the newest, so no id is used twice. `timestamp` has no type,
/// so that a number or a text is kept as it was sent.
const READINGS: &str = "CREATE TABLE readings(
    id INTEGER PRIMARY KEY,
    sensor_name TEXT NOT NULL,
    timestamp NOT NULL,
    value REAL NOT NULL,
    unit TEXT,
    metadata TEXT)";

const META: &str = "CREATE TABLE holdup_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID";
const CLIENT: &str =
    "CREATE TABLE holdup_client(client INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)";
const SEEN: &str = "CREATE TABLE holdup_seen(
    seq INTEGER PRIMARY KEY,
    client INTEGER NOT NULL,
    id NOT NULL,
    UNIQUE(client, id))";
const ARRIVAL: &str =
    "CREATE TABLE holdup_arrival(day INTEGER PRIMARY KEY, first_id INTEGER NOT NULL)";

/// The tables of a store, by name: what they look like where a damaged file cannot tell.
pub const TABLES: &[(&str, &str)] = &[
    ("readings", READINGS),
    ("holdup_meta", META),
    ("holdup_client", CLIENT),
    ("holdup_seen", SEEN),
    ("holdup_arrival", ARRIVAL),
    ("holdup_retracted", retraction::TABLE),
];

const COLUMNS: [&str; 6] = [
    "id",
    "sensor_name",
    "timestamp",
    "value",
    "unit",
    "metadata",
];

/// What the writer must know of the tables; it keeps this current.
#[derive(Debug, Clone)]
pub(super) struct Book {
    /// Drawn once for a fresh store: ids of two stores never mean the same reading.
    pub(super) epoch: u64,
    /// The next reading's id.
    pub(super) next_id: i64,
    /// The lowest id kept; `next_id` when there is none.
    pub(super) lowest_id: i64,
    /// Ids between the two that no row has.
    pub(super) holes: i64,
    /// Ids up to this one were given out, also where their rows are missing now.
    pub(super) floor: i64,
    /// Day of the newest arrival mark.
    pub(super) newest_day: Option<i64>,
    /// Rows from this one on arrived while the clock was not known to be right; they count from
    /// the day on which it was next known.
    pub(super) undated_from: Option<i64>,
    /// Highest id that the other side has; `None` while nothing is delivered anywhere.
    pub(super) delivered_upto: Option<i64>,
    /// The same as the table says; it goes along with the next commit.
    pub(super) delivered_kept: Option<i64>,
    /// Rows removed by retention, ever.
    pub(super) expired: u64,
    /// Oldest remembered client id's number.
    pub(super) oldest_seen: i64,
    /// Newest remembered client id's number.
    pub(super) newest_seen: i64,
}

impl Book {
    pub(super) fn stored(&self) -> u64 {
        u64::try_from(self.next_id - self.lowest_id - self.holes).unwrap_or(0)
    }
}

/// Makes or adopts the tables and reads the book. `today` marks adopted rows' arrival; `salvaged`:
/// rows may be missing since it was last open.
pub(super) fn prepare(
    conn: &mut Connection,
    path: &Path,
    index: bool,
    today: Option<i64>,
    salvaged: bool,
) -> Result<Book, StoreError> {
    let failed = |e| StoreError::sqlite(path, "prepare the tables of", e);
    let tx = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    match kind(&tx, "readings").map_err(failed)?.as_deref() {
        None => tx.execute_batch(READINGS).map_err(failed)?,
        Some("table") => check(&tx, path)?,
        Some(other) => {
            return Err(schema(
                path,
                format!("readings is a {other}, not a table; rename it"),
            ));
        }
    }
    for (name, sql) in &TABLES[1..] {
        if kind(&tx, name).map_err(failed)?.is_none() {
            tx.execute_batch(sql).map_err(failed)?;
        }
    }
    retraction::prepare(&tx).map_err(failed)?;
    // Not ours yet, or salvaged without what was noted in it.
    let ours = meta::<i64>(&tx, "schema").map_err(failed)?.is_some();
    if !ours {
        set_meta(&tx, "schema", VERSION).map_err(failed)?;
    }
    if meta::<String>(&tx, "epoch").map_err(failed)?.is_none() {
        let mut seed = [0u8; 8];
        draw(&mut seed);
        set_meta(&tx, "epoch", format!("{:016x}", u64::from_le_bytes(seed))).map_err(failed)?;
    }
    if salvaged {
        // What was counted before is not what is there now.
        tx.execute("DELETE FROM holdup_meta WHERE key = 'holes'", [])
            .map_err(failed)?;
    }
    let version: i64 = meta(&tx, "schema").map_err(failed)?.unwrap_or(0);
    if version != VERSION {
        return Err(schema(
            path,
            format!(
                "its holdup tables are version {version}, this agent knows {VERSION}; run the agent that wrote it"
            ),
        ));
    }
    set_index(&tx, index).map_err(failed)?;
    let book = read(&tx, path, ours, today)?;
    tx.commit().map_err(failed)?;
    Ok(book)
}

fn read(
    tx: &Transaction<'_>,
    path: &Path,
    ours: bool,
    today: Option<i64>,
) -> Result<Book, StoreError> {
    let failed = |e| StoreError::sqlite(path, "read the tables of", e);
    // Two subqueries: with both in one SELECT, SQLite would read the whole table.
    let ends: (Value, Value) = tx
        .query_row(
            "SELECT (SELECT min(id) FROM readings), (SELECT max(id) FROM readings)",
            [],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .map_err(failed)?;
    let (lowest, newest) = match ends {
        (Value::Integer(lowest), Value::Integer(newest)) => (Some(lowest), newest),
        (Value::Null, Value::Null) => (None, 0),
        _ => {
            return Err(schema(
                path,
                "readings.id holds something else than whole numbers".to_owned(),
            ));
        }
    };
    let Some(next_id) = newest.max(0).checked_add(1) else {
        return Err(schema(
            path,
            "readings.id has used its last number".to_owned(),
        ));
    };
    let lowest_id = lowest.unwrap_or(next_id);
    let holes = match meta::<i64>(tx, "holes").map_err(failed)? {
        Some(_) if lowest.is_none() => 0,
        Some(n) => n,
        None => {
            // Once in a store's life; later commits keep it.
            let rows: i64 = tx
                .query_row("SELECT count(*) FROM readings", [], |r| r.get(0))
                .map_err(failed)?;
            let holes = next_id - lowest_id - rows;
            set_meta(tx, "holes", holes).map_err(failed)?;
            holes
        }
    };
    if !ours && lowest.is_some() {
        match today {
            Some(today) => tx
                .execute(
                    "INSERT OR IGNORE INTO holdup_arrival(day, first_id) VALUES(?1, ?2)",
                    params![today, lowest_id],
                )
                .map(drop),
            None => set_meta(tx, "undated_from", lowest_id),
        }
        .map_err(failed)?;
    }
    // Clients of whom nothing is remembered.
    tx.execute(
        "DELETE FROM holdup_client
         WHERE NOT EXISTS (SELECT 1 FROM holdup_seen s WHERE s.client = holdup_client.client)",
        [],
    )
    .map_err(failed)?;
    let (oldest_seen, newest_seen) = tx
        .query_row(
            "SELECT (SELECT min(seq) FROM holdup_seen), (SELECT max(seq) FROM holdup_seen)",
            [],
            |r| {
                Ok((
                    r.get::<_, Option<i64>>(0)?.unwrap_or(1),
                    r.get::<_, Option<i64>>(1)?.unwrap_or(0),
                ))
            },
        )
        .map_err(failed)?;
    let epoch: Option<String> = meta(tx, "epoch").map_err(failed)?;
    let delivered_upto = meta(tx, "delivered_upto").map_err(failed)?;
    let epoch = epoch
        .and_then(|e| u64::from_str_radix(&e, 16).ok())
        .ok_or_else(|| schema(path, "holdup_meta has no epoch".to_owned()))?;
    Ok(Book {
        epoch,
        next_id,
        lowest_id,
        holes,
        // A restore knows of ids that were given out after the backup.
        floor: meta(tx, "floor").map_err(failed)?.unwrap_or(0),
        newest_day: tx
            .query_row("SELECT max(day) FROM holdup_arrival", [], |r| r.get(0))
            .map_err(failed)?,
        undated_from: meta(tx, "undated_from").map_err(failed)?,
        delivered_upto,
        delivered_kept: delivered_upto,
        expired: meta::<i64>(tx, "expired")
            .map_err(failed)?
            .unwrap_or(0)
            .unsigned_abs(),
        oldest_seen,
        newest_seen,
    })
}

/// Refuses a table that the writer's INSERT could not fill.
fn check(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |e| StoreError::sqlite(path, "read the columns of", e);
    let mut columns = conn
        .prepare("SELECT lower(name), \"notnull\", dflt_value IS NOT NULL, pk, hidden FROM pragma_table_xinfo('readings')")
        .map_err(failed)?;
    let columns: Vec<(String, bool, bool, i64, i64)> = columns
        .query_map([], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?))
        })
        .and_then(Iterator::collect)
        .map_err(failed)?;
    for wanted in COLUMNS {
        match columns.iter().find(|c| c.0 == wanted) {
            None => {
                return Err(schema(
                    path,
                    format!(
                        "its table readings has no column {wanted}; add it, or move the file away"
                    ),
                ));
            }
            Some(c) if c.4 != 0 => {
                return Err(schema(
                    path,
                    format!(
                        "its column readings.{wanted} is computed; the agent must be able to write it"
                    ),
                ));
            }
            Some(_) => {}
        }
    }
    for (name, not_null, has_default, pk, hidden) in &columns {
        let ours = COLUMNS.contains(&name.as_str());
        if !ours && *not_null && !*has_default && *pk == 0 && *hidden == 0 {
            return Err(schema(
                path,
                format!(
                    "its column readings.{name} must not be null and has no default, and readings do not carry it; give it a default"
                ),
            ));
        }
    }
    let numbered: bool = conn
        .query_row(
            "SELECT EXISTS(SELECT 1 FROM pragma_table_xinfo('readings')
                           WHERE lower(name) = 'id' AND pk = 1)",
            [],
            |r| r.get(0),
        )
        .map_err(failed)?;
    if !numbered {
        log::warn!(
            "{}: readings.id is not the primary key: starting and retention read the whole table",
            path.display()
        );
    }
    Ok(())
}

fn set_index(conn: &Connection, index: bool) -> rusqlite::Result<()> {
    conn.execute_batch(if index {
        "CREATE INDEX IF NOT EXISTS holdup_readings_sensor ON readings(sensor_name, timestamp)"
    } else {
        "DROP INDEX IF EXISTS holdup_readings_sensor"
    })
}

pub(super) fn kind(conn: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    conn.query_row(
        "SELECT type FROM sqlite_schema WHERE lower(name) = ?1",
        [name],
        |r| r.get(0),
    )
    .optional()
}

/// A value of `holdup_meta`.
pub(super) fn meta<T: rusqlite::types::FromSql>(
    conn: &Connection,
    key: &str,
) -> rusqlite::Result<Option<T>> {
    conn.prepare_cached("SELECT value FROM holdup_meta WHERE key = ?1")?
        .query_row([key], |r| r.get(0))
        .optional()
}

/// Sets a value of `holdup_meta`.
pub(super) fn set_meta(
    conn: &Connection,
    key: &str,
    value: impl rusqlite::ToSql,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO holdup_meta(key, value) VALUES(?1, ?2)
         ON CONFLICT(key) DO UPDATE SET value = excluded.value",
    )?
    .execute(params![key, value])
    .map(drop)
}

/// Fills `seed` from the kernel; at early boot it waits for the entropy it needs.
fn draw(seed: &mut [u8]) {
    let mut at = 0;
    while at < seed.len() {
        if let Ok(n) =
            rustix::rand::getrandom(&mut seed[at..], rustix::rand::GetRandomFlags::empty())
        {
            at += n;
        }
    }
}

fn schema(path: &Path, problem: String) -> StoreError {
    StoreError::Schema {
        path: path.to_owned(),
        problem,
    }
}
