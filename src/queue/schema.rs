//! The tables: made fresh, or adopted as they are.
//!
//! It promises that an existing `sync_queue` table is never rewritten, and that one the agent
//! could not use is refused at once, with the column named. Times are milliseconds since 1970;
//! adopted rows may have seconds or an ISO date, and are read as what they are.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::store::StoreError;

use super::message::Origin;

/// Version of the agent's own table beside the two.
const VERSION: i64 = 1;

const QUEUE: &str = "CREATE TABLE sync_queue(
    id INTEGER PRIMARY KEY,
    payload BLOB NOT NULL,
    priority INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    ttl_seconds INTEGER,
    retry_count INTEGER NOT NULL DEFAULT 0,
    next_retry_at INTEGER,
    message_id TEXT NOT NULL UNIQUE)";
const DEAD: &str = "CREATE TABLE dead_letters(
    id INTEGER PRIMARY KEY,
    payload BLOB NOT NULL,
    priority INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    ttl_seconds INTEGER,
    retry_count INTEGER NOT NULL DEFAULT 0,
    message_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    died_at INTEGER NOT NULL)";
const META: &str = "CREATE TABLE holdup_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID";

/// The tables of a queue, by name: what they look like where a damaged file cannot tell.
pub const TABLES: &[(&str, &str)] = &[
    ("sync_queue", QUEUE),
    ("dead_letters", DEAD),
    ("holdup_meta", META),
];

const QUEUE_COLUMNS: &[&str] = &[
    "id",
    "payload",
    "priority",
    "created_at",
    "ttl_seconds",
    "retry_count",
    "next_retry_at",
    "message_id",
];
const DEAD_COLUMNS: &[&str] = &["id", "payload", "message_id"];

/// The order in which messages go: the row's number, which SQLite appends, stands for its age.
const ORDER: &str = "CREATE INDEX IF NOT EXISTS holdup_queue_order ON sync_queue(priority DESC)";
const UNIQUE: &str =
    "CREATE UNIQUE INDEX IF NOT EXISTS holdup_queue_message ON sync_queue(message_id)";
const DEAD_IDS: &str = "CREATE INDEX IF NOT EXISTS holdup_dead_message ON dead_letters(message_id)";

/// `created_at` in milliseconds since 1970, whatever an adopted row has there; NULL: unknown. What
/// is below 10^11 counts as seconds: as milliseconds that would be before 1973.
pub(super) const CREATED_MS: &str = "CASE typeof(created_at)
    WHEN 'integer' THEN iif(abs(created_at / 2) < 50000000000, created_at * 1000, created_at)
    WHEN 'real' THEN iif(abs(created_at) < 1e11, CAST(created_at * 1000 AS INTEGER), CAST(created_at AS INTEGER))
    WHEN 'text' THEN CASE
        WHEN created_at GLOB '*[^0-9]*' OR length(created_at) > 18 THEN unixepoch(created_at) * 1000
        WHEN length(created_at) < 12 THEN CAST(created_at AS INTEGER) * 1000
        ELSE CAST(created_at AS INTEGER) END
    ELSE NULL END";

/// The numbers that go with the tables, changed in the same transactions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Book {
    /// The store that is fed from.
    pub(super) origin: Option<Origin>,
    /// The cursor: readings up to this id have been queued.
    pub(super) fed_upto: i64,
    /// The highest the cursor has ever been.
    pub(super) highest: i64,
    /// Every reading up to this id has left the queue.
    pub(super) delivered_upto: i64,
    /// Messages confirmed, ever.
    pub(super) confirmed: u64,
    /// Messages dropped because the queue was full, ever.
    pub(super) dropped: u64,
    /// Messages that died, ever: too old, or tried too often.
    pub(super) died: u64,
    /// Dead letters that made room for newer ones, ever.
    pub(super) dead_dropped: u64,
    /// Failed attempts, ever.
    pub(super) retries: u64,
    /// When the last message was confirmed, ms since 1970; 0: never.
    pub(super) last_confirmed_at: i64,
    /// What was seen since.
    pub(super) struggle: super::backoff::Struggle,
}

impl Book {
    fn fields(&self) -> [(&'static str, i64); 13] {
        let n = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        [
            ("fed_upto", self.fed_upto),
            ("highest", self.highest),
            ("delivered_upto", self.delivered_upto),
            ("confirmed", n(self.confirmed)),
            ("dropped", n(self.dropped)),
            ("died", n(self.died)),
            ("dead_dropped", n(self.dead_dropped)),
            ("retries", n(self.retries)),
            ("last_confirmed_at", self.last_confirmed_at),
            ("fails", n(self.struggle.fails)),
            ("first_fail", self.struggle.first_fail),
            ("last_fail", self.struggle.last_fail),
            ("depth_then", n(self.struggle.depth_then)),
        ]
    }

    /// Writes what differs from `before`, in the caller's transaction.
    pub(super) fn keep(&self, conn: &Connection, before: &Self) -> rusqlite::Result<()> {
        if self.origin != before.origin
            && let Some(origin) = &self.origin
        {
            set_meta(conn, "epoch", format!("{:016x}", origin.epoch))?;
            set_meta(conn, "gateway", &origin.gateway)?;
        }
        for ((name, value), (_, old)) in self.fields().into_iter().zip(before.fields()) {
            if value != old {
                set_meta(conn, name, value)?;
            }
        }
        Ok(())
    }

    /// Reads it; what is not there, or not a number, counts as nothing.
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let int = |key| -> rusqlite::Result<i64> {
            Ok(match meta(conn, key)? {
                Some(rusqlite::types::Value::Integer(n)) => n.max(0),
                _ => 0,
            })
        };
        let text = |key| -> rusqlite::Result<Option<String>> {
            Ok(match meta(conn, key)? {
                Some(rusqlite::types::Value::Text(t)) => Some(t),
                _ => None,
            })
        };
        let count = |key| int(key).map(i64::unsigned_abs);
        let epoch = text("epoch")?.and_then(|e| u64::from_str_radix(&e, 16).ok());
        let origin = epoch
            .zip(text("gateway")?)
            .map(|(epoch, gateway)| Origin { gateway, epoch });
        Ok(Self {
            origin,
            fed_upto: int("fed_upto")?,
            highest: int("highest")?,
            delivered_upto: int("delivered_upto")?,
            confirmed: count("confirmed")?,
            dropped: count("dropped")?,
            died: count("died")?,
            dead_dropped: count("dead_dropped")?,
            retries: count("retries")?,
            last_confirmed_at: int("last_confirmed_at")?,
            struggle: super::backoff::Struggle {
                fails: count("fails")?,
                first_fail: int("first_fail")?,
                last_fail: int("last_fail")?,
                depth_then: count("depth_then")?,
            },
        })
    }
}

/// Makes or adopts the tables and reads the book.
pub(super) fn prepare(conn: &mut Connection, path: &Path) -> Result<Book, StoreError> {
    let failed = |e| StoreError::sqlite(path, "prepare the tables of", e);
    let tx = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    for (table, sql, columns) in [
        ("sync_queue", QUEUE, QUEUE_COLUMNS),
        ("dead_letters", DEAD, DEAD_COLUMNS),
    ] {
        let have = columns_of(&tx, table).map_err(failed)?;
        if have.is_empty() {
            tx.execute_batch(sql).map_err(failed)?;
        } else if let Some(missing) = columns.iter().find(|c| !have.iter().any(|h| h == *c)) {
            return Err(schema(
                path,
                format!("its table {table} has no column {missing}; add it, or move the file away"),
            ));
        }
        numbered(&tx, path, table)?;
    }
    if !unique(&tx).map_err(failed)? {
        tx.execute_batch(UNIQUE).map_err(|e| {
            if e.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) {
                schema(
                    path,
                    "it holds messages with the same message_id; `holdup queue rebuild` keeps one of each".to_owned(),
                )
            } else {
                failed(e)
            }
        })?;
    }
    tx.execute_batch(ORDER).map_err(failed)?;
    tx.execute_batch(DEAD_IDS).map_err(failed)?;
    if columns_of(&tx, "holdup_meta").map_err(failed)?.is_empty() {
        tx.execute_batch(META).map_err(failed)?;
        set_meta(&tx, "schema", VERSION).map_err(failed)?;
    }
    let version = match meta(&tx, "schema").map_err(failed)? {
        Some(rusqlite::types::Value::Integer(n)) => n,
        // Salvaged without what was noted in it.
        None => {
            set_meta(&tx, "schema", VERSION).map_err(failed)?;
            VERSION
        }
        Some(_) => 0,
    };
    if version != VERSION {
        return Err(schema(
            path,
            format!(
                "its holdup table is version {version}, this agent knows {VERSION}; run the agent that wrote it"
            ),
        ));
    }
    let book = Book::read(&tx).map_err(failed)?;
    tx.commit().map_err(failed)?;
    Ok(book)
}

/// Its `id` must be SQLite's own row number: order and cursor are made of it.
fn numbered(conn: &Connection, path: &Path, table: &str) -> Result<(), StoreError> {
    let numbered: bool = conn
        .query_row(
            "SELECT EXISTS(SELECT 1 FROM pragma_table_xinfo(?1)
                WHERE lower(name) = 'id' AND pk = 1 AND upper(type) = 'INTEGER')
              AND (SELECT count(*) FROM pragma_table_xinfo(?1) WHERE pk > 0) = 1",
            [table],
            |r| r.get(0),
        )
        .map_err(|e| StoreError::sqlite(path, "read the columns of", e))?;
    if numbered {
        return Ok(());
    }
    Err(schema(
        path,
        format!("{table}.id is not INTEGER PRIMARY KEY; export it and move the file away"),
    ))
}

fn unique(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row(
        "SELECT EXISTS(SELECT 1 FROM pragma_index_list('sync_queue') l
            WHERE l.\"unique\" = 1 AND l.partial = 0
              AND (SELECT group_concat(lower(name)) FROM pragma_index_info(l.name)) = 'message_id')",
        [],
        |r| r.get(0),
    )
}

/// The columns of a table in lower case; empty where there is no such table.
pub(super) fn columns_of(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    conn.prepare("SELECT lower(name) FROM pragma_table_info(?1)")?
        .query_map([table], |r| r.get(0))?
        .collect()
}

fn meta(conn: &Connection, key: &str) -> rusqlite::Result<Option<rusqlite::types::Value>> {
    conn.prepare_cached("SELECT value FROM holdup_meta WHERE key = ?1")?
        .query_row([key], |r| r.get(0))
        .optional()
}

fn set_meta(conn: &Connection, key: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO holdup_meta(key, value) VALUES(?1, ?2)
         ON CONFLICT(key) DO UPDATE SET value = excluded.value",
    )?
    .execute(params![key, value])
    .map(drop)
}

fn schema(path: &Path, problem: String) -> StoreError {
    StoreError::Schema {
        path: path.to_owned(),
        problem,
    }
}
