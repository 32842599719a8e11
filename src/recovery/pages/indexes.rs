//! Indexes that disagree with their tables: the one damage that SQLite itself puts right.
//!
//! It promises to touch copies only, and to call a database put right only when its check says
//! so afterwards and no table has another number of rows than before.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::super::error::RecoveryError;

/// Lines of a check that are read; a database with more faults is not one with bad indexes only.
const MOST_LINES: i64 = 10_000;

/// Does SQLite's check find fault with indexes only? False for a sound database. `copy` must be
/// a copy with nobody else's hands on it: opening it may change it.
pub fn only_indexes_disagree(copy: &Path) -> Result<bool, RecoveryError> {
    let conn = open(copy)?;
    let Ok(lines) = check(&conn) else {
        return Ok(false);
    };
    Ok(!lines.is_empty() && lines.iter().all(|l| is_of_index(&conn, l)))
}

/// Makes the indexes of `copy` anew. True when the check is content afterwards and no row was
/// gained or lost.
pub fn reindex(copy: &Path) -> Result<bool, RecoveryError> {
    let conn = open(copy)?;
    let (Ok(tables), failed) = (tables(&conn), |source| sqlite(copy, "reindex", source)) else {
        return Ok(false);
    };
    let Ok(before) = counts(&conn, &tables) else {
        return Ok(false);
    };
    match conn.execute_batch("REINDEX") {
        Ok(()) => {}
        // The rows themselves exclude each other, or cannot be read.
        Err(e) if is_of_content(&e) => return Ok(false),
        Err(e) => return Err(failed(e)),
    }
    let after = counts(&conn, &tables).map_err(failed)?;
    let lines = check(&conn).map_err(failed)?;
    conn.close().map_err(|(_, e)| failed(e))?;
    Ok(before == after && lines.is_empty())
}

fn open(copy: &Path) -> Result<Connection, RecoveryError> {
    Connection::open_with_flags(
        copy,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|e| sqlite(copy, "open", e))
}

/// What the check finds fault with.
fn check(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut query = conn.prepare(&format!("PRAGMA integrity_check({MOST_LINES})"))?;
    let lines: Vec<String> = query
        .query_map([], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(lines
        .iter()
        .flat_map(|l| l.lines())
        .filter(|l| *l != "ok" && !l.starts_with("*** in database"))
        .map(str::to_owned)
        .collect())
}

/// SQLite's own words for a fault of an index.
fn is_of_index(conn: &Connection, line: &str) -> bool {
    if line.starts_with("row ") && line.contains(" missing from index ")
        || line.starts_with("wrong # of entries in index ")
        || line.starts_with("non-unique entry in index ")
        || (line.starts_with("row ") && line.contains(" values differ from index "))
        || line.starts_with("rowid not at end-of-record for row ")
        // Below a page of the index that is lost; were it a table's, its tree were named too.
        || (line.starts_with("Page ") && line.ends_with(": never used"))
    {
        return true;
    }
    // "Tree 3 page 9 cell 2: ...", of the tree with that root.
    let root = line
        .strip_prefix("Tree ")
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|n| n.trim_end_matches(':').parse::<i64>().ok());
    root.is_some_and(|root| {
        conn.query_row(
            "SELECT type = 'index' AND EXISTS(SELECT 1 FROM pragma_table_list l
                 WHERE l.schema = 'main' AND l.name = s.tbl_name AND NOT l.wr)
             FROM sqlite_schema s WHERE rootpage = ?1",
            [root],
            |r| r.get(0),
        )
        .unwrap_or(false)
    })
}

fn tables(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0")?
        .query_map([], |r| r.get(0))?
        .collect()
}

/// Rows of each table, counted in the table itself.
fn counts(conn: &Connection, tables: &[String]) -> rusqlite::Result<Vec<i64>> {
    let count = |t: &String| {
        let name = t.replace('"', "\"\"");
        let sql = format!("SELECT count(*) FROM \"{name}\" NOT INDEXED");
        conn.query_row(&sql, [], |r| r.get(0))
    };
    tables.iter().map(count).collect()
}

fn is_of_content(e: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as C;
    matches!(
        e.sqlite_error_code(),
        Some(C::DatabaseCorrupt | C::ConstraintViolation | C::NotADatabase)
    )
}

fn sqlite(copy: &Path, doing: &'static str, source: rusqlite::Error) -> RecoveryError {
    RecoveryError::Sqlite {
        doing,
        path: copy.to_owned(),
        source,
    }
}
