//! The table of retractions, and the view without the readings that they name.

use std::path::Path;

use rusqlite::{Connection, params};

use crate::clock::Clock;
use crate::durable::{Gate, Medium};
use crate::store::error::StoreError;
use crate::store::open;
use crate::store::schema;

use super::{Retract, RetractError, value};

/// `since` and `until` have no type, as `readings.timestamp` has none: they compare as it does.
/// `at` and `undone`: milliseconds since 1970.
pub(in crate::store) const TABLE: &str = "CREATE TABLE holdup_retracted(
    seq INTEGER PRIMARY KEY,
    sensor_name TEXT NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    since,
    until,
    reason TEXT NOT NULL,
    actor TEXT NOT NULL,
    at INTEGER NOT NULL,
    undone INTEGER)";

/// So that many retractions do not slow down every row of the view.
const INDEX: &str = "CREATE INDEX IF NOT EXISTS holdup_retracted_sensor
    ON holdup_retracted(sensor_name, first_id) WHERE undone IS NULL";

/// The first condition does not depend on the reading: SQLite answers it once, so that a table of
/// which nothing is retracted is read at its own speed. The plus signs make the bounds compare as
/// the same values do in a query: beside a column without a type, a TEXT column converts nothing.
const VIEW: &str = "CREATE VIEW readings_valid AS
    SELECT * FROM readings
    WHERE NOT EXISTS (SELECT 1 FROM holdup_retracted WHERE undone IS NULL)
       OR NOT EXISTS (
        SELECT 1 FROM holdup_retracted AS bad
        WHERE bad.undone IS NULL
          AND readings.sensor_name = bad.sensor_name
          AND readings.id BETWEEN bad.first_id AND bad.last_id
          AND (bad.since IS NULL OR readings.timestamp >= +bad.since)
          AND (bad.until IS NULL OR readings.timestamp <= +bad.until))";

/// Makes table, index and view where they are missing. What others made under these names stays.
pub(in crate::store) fn prepare(conn: &Connection) -> rusqlite::Result<()> {
    if schema::kind(conn, "holdup_retracted")?.is_none() {
        conn.execute_batch(TABLE)?;
    }
    if schema::kind(conn, "holdup_retracted")?.as_deref() == Some("table") {
        conn.execute_batch(INDEX)?;
    }
    match schema::kind(conn, "readings_valid")?.as_deref() {
        None => conn.execute_batch(VIEW)?,
        Some("view") => {}
        Some(other) => log::warn!(
            "readings_valid is a {other}, not the view without retracted readings; rename it"
        ),
    }
    Ok(())
}

/// Carries it out in one transaction; the retraction's number, `None` where there was none to take
/// back. After an error nothing of it is in the database.
pub(in crate::store) fn write(
    conn: &Connection,
    what: &Retract,
    at: i64,
) -> rusqlite::Result<Option<i64>> {
    let done = attempt(conn, what, at);
    if done.is_err()
        && !conn.is_autocommit()
        && let Err(also) = conn.execute_batch("ROLLBACK")
    {
        log::warn!("rollback of a retraction: {also}");
    }
    done
}

fn attempt(conn: &Connection, what: &Retract, at: i64) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("BEGIN IMMEDIATE")?.raw_execute()?;
    let seq = match what {
        Retract::Mark {
            span,
            found,
            reason,
            actor,
        } => {
            conn.execute(
                "INSERT INTO holdup_retracted
                    (sensor_name, first_id, last_id, since, until, reason, actor, at)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    span.sensor_name,
                    found.first_id,
                    found.last_id,
                    value(span.since.as_ref()),
                    value(span.until.as_ref()),
                    reason,
                    actor,
                    at
                ],
            )?;
            Some(conn.last_insert_rowid())
        }
        Retract::Undo { seq } => {
            let undone = conn.execute(
                "UPDATE holdup_retracted SET undone = ?2 WHERE seq = ?1 AND undone IS NULL",
                [*seq, at],
            )?;
            (undone > 0).then_some(*seq)
        }
    };
    conn.prepare_cached("COMMIT")?.raw_execute()?;
    Ok(seq)
}

/// Carries it out on a store that nobody has open, and that was found sound. The gate must be open.
///
/// # Errors
/// As [`crate::store::Orders::retract`].
pub fn retract_alone(
    path: &Path,
    medium: &Medium,
    gate: &Gate,
    clock: &dyn Clock,
    what: &Retract,
) -> Result<i64, RetractError> {
    what.check()?;
    let failed = |e| StoreError::sqlite(path, "retract readings in", e);
    let (conn, _pass) = open(path, medium, gate, clock.wall())?;
    if schema::kind(&conn, "readings").map_err(failed)?.is_none() {
        return Err(RetractError::Invalid(format!(
            "{} has no readings",
            path.display()
        )));
    }
    prepare(&conn).map_err(failed)?;
    let done = write(&conn, what, clock.wall().as_millis()).map_err(failed)?;
    answer(what, done)
}

/// What [`write`] said, for who asked.
pub(in crate::store) fn answer(what: &Retract, done: Option<i64>) -> Result<i64, RetractError> {
    match (done, what) {
        (Some(seq), _) => Ok(seq),
        (None, Retract::Undo { seq }) => Err(RetractError::Unknown(*seq)),
        (None, Retract::Mark { .. }) => Err(RetractError::NotRunning),
    }
}
