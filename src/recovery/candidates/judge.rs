//! A candidate before SQLite: is it whole, and how many rows does it hold?

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Work;
use crate::durable::Stride;
use crate::recovery::RecoveryError;
use crate::recovery::files::sort_beside;
use crate::recovery::search;

/// Faults that are listed; more say nothing more.
const MOST_FAULTS: usize = 100;
/// SQLite's own steps between two looks at the gate.
const STEPS: i32 = 10_000;

/// What SQLite says of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opinion {
    /// The faults that `integrity_check` names, or the error that stopped it; at most 100.
    pub faults: Vec<String>,
    /// Indexes were rebuilt from their tables, after which there were no faults.
    pub reindexed: bool,
    /// That was tried in vain, and the copy is not what it was.
    pub spoiled: bool,
    /// Rows of each table, by name; a table that cannot be read has none.
    pub tables: Vec<(String, u64)>,
}

impl Opinion {
    /// All rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|(_, n)| n).sum()
    }
}

/// Opens the copy at `path`, which nobody else has, and looks at all of it.
pub fn judge(path: &Path, work: &Work<'_>) -> Result<Opinion, RecoveryError> {
    let mut opinion = work.paced(path, |conn| {
        Ok(Opinion {
            faults: faults(conn)?,
            reindexed: false,
            spoiled: false,
            tables: Vec::new(),
        })
    })?;
    if !opinion.faults.is_empty() && opinion.faults.iter().all(|f| is_of_an_index(f)) {
        match work.reindex(path)? {
            Reindexed::Failed => opinion.spoiled = true,
            Reindexed::Done if work.paced(path, faults)?.is_empty() => {
                opinion.reindexed = true;
                opinion.faults.clear();
            }
            Reindexed::Done => opinion.spoiled = true,
        }
    }
    opinion.tables = work.paced(path, tables)?;
    Ok(opinion)
}

enum Reindexed {
    Done,
    Failed,
}

/// The lines of `integrity_check`; none is what it calls ok. An error is a line too.
fn faults(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let lines = |check: &str| -> rusqlite::Result<Vec<String>> {
        let mut statement = conn.prepare(check)?;
        let lines = statement.query_map([], |r| r.get::<_, String>(0))?;
        let faults = lines.filter(|l| !l.as_ref().is_ok_and(|l| l == "ok" || is_a_rule(l)));
        faults.take(MOST_FAULTS).collect()
    };
    let mut done = lines("PRAGMA integrity_check(1000000)");
    if done.as_ref().is_err_and(needs_its_application) {
        done = lines("PRAGMA quick_check(1000000)");
    }
    match done {
        Ok(lines) => Ok(lines),
        Err(e) if is_interrupt(&e) => Err(e),
        // Nothing here can tell more of it.
        Err(e) if needs_its_application(&e) => Ok(Vec::new()),
        Err(e) => Ok(vec![e.to_string()]),
    }
}

/// A row that breaks a rule of its table, which may be younger than the row: no damage.
fn is_a_rule(fault: &str) -> bool {
    fault.starts_with("NULL value in ") || fault.starts_with("CHECK constraint failed in ")
}

/// A collation or a function that only the application has.
fn needs_its_application(e: &rusqlite::Error) -> bool {
    let why = e.to_string();
    why.contains("no such collation sequence")
        || why.contains("no such function")
        || why.contains("unknown function")
}

/// SQLite's words for an index that its table contradicts.
fn is_of_an_index(fault: &str) -> bool {
    search::is_fault_of_one(fault)
        || fault.starts_with("wrong # of entries in index ")
        || (fault.starts_with("row ") && fault.contains(" missing from index "))
        || fault.starts_with("non-unique entry in index ")
}

fn tables(conn: &Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    let named = || -> rusqlite::Result<Vec<String>> {
        conn.prepare(
            "SELECT name FROM pragma_table_list
             WHERE schema = 'main' AND type IN ('table', 'shadow') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
             ORDER BY name",
        )?
        .query_map([], |r| r.get(0))?
        .collect()
    };
    let mut counted = Vec::new();
    for name in unless_interrupted(named())?.unwrap_or_default() {
        let quoted = name.replace('"', "\"\"");
        let rows = conn.query_row(
            &format!("SELECT count(*) FROM \"{quoted}\" NOT INDEXED"),
            [],
            |r| r.get::<_, i64>(0),
        );
        let rows = unless_interrupted(rows)?.unwrap_or(0);
        counted.push((name, u64::try_from(rows).unwrap_or(0)));
    }
    Ok(counted)
}

fn unless_interrupted<T>(result: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if is_interrupt(&e) => Err(e),
        Err(_) => Ok(None),
    }
}

fn is_interrupt(e: &rusqlite::Error) -> bool {
    e.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

impl Work<'_> {
    /// Does `what` on the copy; it rests in its middle while the gate is closed.
    fn paced<T>(
        &self,
        path: &Path,
        what: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, RecoveryError> {
        let stride = Stride::new(path, self.gate, self.stop);
        if !stride.enter() {
            return Err(RecoveryError::stopped(path));
        }
        let done = open(path, &stride).and_then(|conn| what(&conn));
        stride.leave(self.medium)?;
        done.map_err(|source| RecoveryError::sqlite("check", path, source))
    }

    /// Makes all indexes anew. Nothing is kept to undo it with, which would take as much memory
    /// as the indexes; what fits the cache is written at once at the end, so that is small.
    fn reindex(&self, path: &Path) -> Result<Reindexed, RecoveryError> {
        self.paced(path, |conn| {
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
            let anew = "PRAGMA cache_size = -2048; PRAGMA journal_mode = OFF; REINDEX";
            match conn
                .execute_batch(anew)
                .and_then(|()| search::rebuild_all(conn))
            {
                Ok(()) => Ok(Reindexed::Done),
                Err(e) if is_interrupt(&e) => Err(e),
                Err(_) => Ok(Reindexed::Failed),
            }
        })
    }
}

fn open(path: &Path, stride: &Stride) -> rusqlite::Result<Connection> {
    let mut conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    // The schema may be anybody's: nothing in it is run with more rights than a query.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.progress_handler(STEPS, Some(stride.rest()))?;
    // The copy is made anew after a cut, so it needs no journal on the medium.
    conn.execute_batch(
        "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA cache_size = -8192;",
    )
    .and_then(|()| sort_beside(&conn, path))
    .or_else(|e| if is_interrupt(&e) { Err(e) } else { Ok(()) })?;
    Ok(conn)
}
