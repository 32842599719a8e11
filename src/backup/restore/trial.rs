//! A restored database is used once before it is called restored: a query and a write.

use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};

use crate::backup::Site;

use super::RestoreError;
use super::journal::Item;

/// Opens the database as its users will, counts, writes a table and takes it back, and, where it is
/// the agent's own, leaves a durable mark of where it came from.
pub(super) fn try_out(item: &Item, archive: &str, site: &Site<'_>) -> Result<(), RestoreError> {
    let path = item.target.as_path();
    let failed = |what: &'static str| {
        move |source| RestoreError::Trial {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(failed("be opened"))?;
    conn.execute_batch("PRAGMA synchronous = FULL;")
        .map_err(failed("be opened"))?;
    if let Some(expected) = item.readings {
        let (rows, highest): (i64, Option<i64>) = conn
            .query_row("SELECT count(*), max(id) FROM readings", [], |r| {
                Ok((r.get(0)?, r.get(1)?))
            })
            .map_err(failed("be queried"))?;
        let found = (rows.unsigned_abs(), highest);
        if found != expected {
            let shown = |(rows, highest): (u64, Option<i64>)| {
                let highest = highest.map_or_else(|| "none".to_owned(), |id| id.to_string());
                format!("{rows} readings, the last {highest}")
            };
            return Err(RestoreError::Miscounted {
                path: path.to_owned(),
                found: shown(found),
                expected: shown(expected),
            });
        }
    }
    let test = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed("be written"))?;
    let value: i64 = test
        .execute_batch("CREATE TABLE holdup_trial(a); INSERT INTO holdup_trial VALUES(7);")
        .and_then(|()| test.query_row("SELECT a FROM holdup_trial", [], |r| r.get(0)))
        .map_err(failed("be written"))?;
    test.rollback().map_err(failed("be written"))?;
    if value != 7 {
        return Err(RestoreError::Miscounted {
            path: path.to_owned(),
            found: value.to_string(),
            expected: "7 in the row that was written".to_owned(),
        });
    }
    if item.readings.is_some() && has_meta(&conn).map_err(failed("be queried"))? {
        let from = format!("{archive} at {}", site.clock.wall());
        conn.execute(
            "INSERT INTO holdup_meta(key, value) VALUES('restored_from', ?1)
             ON CONFLICT(key) DO UPDATE SET value = excluded.value",
            params![from],
        )
        .map_err(failed("be written"))?;
    }
    conn.close().map_err(|(_, e)| failed("be closed")(e))
}

fn has_meta(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row(
        "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE name = 'holdup_meta')",
        [],
        |r| r.get(0),
    )
}
