//! Outbound messages: priority, time to live, backoff, dead letters.
//!
//! It promises that a message is deleted only after the broker confirmed it. So far it makes
//! and checks the database; nothing feeds it yet.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::clock::Clock;
use crate::durable::{Gate, Medium};
use crate::store::{StoreError, open};

const TABLES: [(&str, &str, &[&str]); 2] = [
    (
        "sync_queue",
        "CREATE TABLE sync_queue(
            id INTEGER PRIMARY KEY,
            payload BLOB NOT NULL,
            priority INTEGER NOT NULL DEFAULT 0,
            created_at INTEGER NOT NULL,
            ttl_seconds INTEGER,
            retry_count INTEGER NOT NULL DEFAULT 0,
            next_retry_at INTEGER,
            message_id TEXT NOT NULL UNIQUE)",
        &[
            "id",
            "payload",
            "priority",
            "created_at",
            "ttl_seconds",
            "retry_count",
            "next_retry_at",
            "message_id",
        ],
    ),
    (
        "dead_letters",
        "CREATE TABLE dead_letters(
            id INTEGER PRIMARY KEY,
            payload BLOB NOT NULL,
            priority INTEGER NOT NULL DEFAULT 0,
            created_at INTEGER NOT NULL,
            ttl_seconds INTEGER,
            retry_count INTEGER NOT NULL DEFAULT 0,
            message_id TEXT NOT NULL,
            reason TEXT NOT NULL,
            died_at INTEGER NOT NULL)",
        &["id", "payload", "message_id"],
    ),
];

/// Opens the queue at `path`, makes the tables that are missing, checks those that are there,
/// and closes it with everything in the database file. The gate must be open.
pub fn ensure(
    path: &Path,
    medium: &Medium,
    gate: &Gate,
    clock: &dyn Clock,
) -> Result<(), StoreError> {
    let (mut conn, _pass) = open(path, medium, gate, clock.wall())?;
    let failed = |e| StoreError::sqlite(path, "prepare the tables of", e);
    let tx = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    for (table, sql, columns) in TABLES {
        let have = columns_of(&tx, table).map_err(failed)?;
        if have.is_empty() {
            tx.execute_batch(sql).map_err(failed)?;
        } else if let Some(missing) = columns.iter().find(|c| !have.iter().any(|h| h == *c)) {
            return Err(StoreError::Schema {
                path: path.to_owned(),
                problem: format!(
                    "its table {table} has no column {missing}; add it, or move the file away"
                ),
            });
        }
    }
    tx.commit().map_err(failed)?;
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .map_err(|e| StoreError::sqlite(path, "checkpoint", e))?;
    conn.close()
        .map_err(|(_, e)| StoreError::sqlite(path, "close", e))
}

fn columns_of(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    conn.prepare("SELECT lower(name) FROM pragma_table_info(?1)")?
        .query_map([table], |r| r.get(0))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn ensured(path: &Path) -> Result<(), StoreError> {
        let medium = Medium::open(path.parent().expect("parent")).expect("medium");
        ensure(path, &medium, &Gate::new(), &ManualClock::new())
    }

    #[test]
    fn made_once_and_adopted_again_with_what_it_holds() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = home.path().join("sync_queue.db");
        ensured(&path).expect("make");
        let conn = Connection::open(&path).expect("open");
        conn.execute(
            "INSERT INTO sync_queue(payload, created_at, message_id) VALUES(x'00', 1, 'a')",
            [],
        )
        .expect("insert");
        drop(conn);
        ensured(&path).expect("adopt");
        let conn = Connection::open(&path).expect("open");
        let n: i64 = conn
            .query_row("SELECT count(*) FROM sync_queue", [], |r| r.get(0))
            .expect("count");
        assert_eq!(n, 1);
    }

    #[test]
    fn a_queue_without_message_ids_is_refused_by_name() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = home.path().join("sync_queue.db");
        let conn = Connection::open(&path).expect("open");
        conn.execute_batch("CREATE TABLE sync_queue(id, payload)")
            .expect("create");
        drop(conn);
        let e = ensured(&path).expect_err("refused").to_string();
        assert!(e.contains("sync_queue has no column priority"), "{e}");
    }
}
