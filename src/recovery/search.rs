//! Full-text indexes, which are made anew from what they index.
//!
//! It promises to write only what SQLite's own full-text modules write, and to read only tables: an
//! index over a view, which may be any query, is left as it is. It must never touch the texts.

use rusqlite::{Connection, OptionalExtension};

/// What SQLite finds wrong with the virtual table `name`, if anything. One of a module that is not
/// here is its application's to judge.
pub(super) fn fault(conn: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    let check = format!("PRAGMA integrity_check({})", quoted(name));
    let first = conn
        .query_row(&check, [], |r| r.get::<_, String>(0))
        .optional();
    match first {
        Ok(said) => Ok(said.filter(|s| s != "ok")),
        Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) => {
            Err(e)
        }
        Err(e) if e.to_string().contains("no such module") => Ok(None),
        Err(e) => Ok(Some(e.to_string())),
    }
}

/// Makes the index of the full-text table `name` anew, which `sql` made.
///
/// # Errors
/// It is no full-text table, has no texts of its own or of a table, or SQLite refuses.
pub(super) fn rebuild(conn: &Connection, name: &str, sql: &str) -> rusqlite::Result<()> {
    let words = sql.to_ascii_lowercase();
    let is_one = ["fts5", "fts4", "fts3"].iter().any(|m| words.contains(m));
    if !is_one || !indexes_a_table(conn, name, &words)? {
        return Err(rusqlite::Error::InvalidQuery);
    }
    let name = quoted(name);
    conn.execute_batch(&format!("INSERT INTO {name}({name}) VALUES('rebuild')"))
}

/// Makes all of them anew that can be.
pub(super) fn rebuild_all(conn: &Connection) -> rusqlite::Result<()> {
    let all: Vec<(String, String)> = conn
        .prepare(
            "SELECT name, sql FROM sqlite_schema
             WHERE type = 'table' AND rootpage = 0 AND sql LIKE '%fts%'",
        )?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (name, sql) in all {
        if fault(conn, &name)?.is_some() {
            rebuild(conn, &name, &sql)?;
        }
    }
    Ok(())
}

/// SQLite's words for an index that its texts contradict.
pub(super) fn is_fault_of_one(fault: &str) -> bool {
    fault.starts_with("malformed inverted index for FTS")
        || fault.starts_with("unable to validate the inverted index for FTS")
}

/// Are its texts in a table of its own, or in one that its statement names?
fn indexes_a_table(conn: &Connection, name: &str, sql: &str) -> rusqlite::Result<bool> {
    let is_table = |name: &str| {
        conn.query_row(
            "SELECT EXISTS(SELECT 1 FROM sqlite_schema
             WHERE type = 'table' AND rootpage > 0 AND lower(name) = lower(?1))",
            [name],
            |r| r.get::<_, bool>(0),
        )
    };
    let Some((_, after)) = sql.split_once("content") else {
        return is_table(&format!("{name}_content"));
    };
    let Some(value) = after.trim_start().strip_prefix('=') else {
        return is_table(&format!("{name}_content"));
    };
    let is_quote = |c: char| matches!(c, '\'' | '"' | '`' | '[' | ']');
    let value = value.trim_start().trim_start_matches(is_quote);
    let end = value.find(|c: char| is_quote(c) || matches!(c, ',' | ')') || c.is_whitespace());
    is_table(&value[..end.unwrap_or(value.len())])
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
