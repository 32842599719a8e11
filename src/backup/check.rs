//! Is a copy whole, and what is in it?
//!
//! It promises to read all of it, and never to write: the copy is opened as a file that nobody
//! changes, so that its hash stays what it was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use sha2::{Digest, Sha256};

use super::hex::hex;
use super::{BackupError, Role};

/// Steps of SQLite's machine between two looks at `stop`: some milliseconds.
const LOOK: i32 = 20_000;
/// Problems that an error lists.
const MOST_PROBLEMS: u32 = 3;

/// What a copy holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// SHA-256 over the schema's SQL, in its order.
    pub schema_sha256: String,
    /// The store's epoch.
    pub epoch: Option<u64>,
    /// The highest id of a reading.
    pub highest: Option<i64>,
}

/// Asked now and then whether to end early.
pub type Quit = Box<dyn FnMut() -> bool + Send>;

/// Checks `copy`, a database in one file that nobody has open.
///
/// # Errors
/// It is not whole (says what SQLite said), or cannot be read.
pub fn check(copy: &Path, role: Role, quit: Quit) -> Result<Checked, BackupError> {
    let failed = BackupError::sqlite(copy, "check");
    let mut conn = open_still(copy)?;
    conn.progress_handler(LOOK, Some(quit)).map_err(&failed)?;
    let problems: Vec<String> = conn
        .prepare(&format!("PRAGMA integrity_check({MOST_PROBLEMS})"))
        .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect())
        .map_err(&failed)?;
    if problems != ["ok"] {
        // One line, without its heading.
        let all = problems.iter().flat_map(|p| p.lines());
        let all: Vec<_> = all.filter(|l| !l.starts_with("***")).collect();
        return Err(BackupError::Damaged {
            database: copy.to_owned(),
            why: format!("PRAGMA integrity_check says {}", all.join("; ")),
        });
    }
    let (tables, schema_sha256) = schema(&conn).map_err(&failed)?;
    let mut rows = BTreeMap::new();
    for table in tables {
        let sql = format!("SELECT count(*) FROM {}", quoted(&table));
        let count: i64 = conn.query_row(&sql, [], |r| r.get(0)).map_err(&failed)?;
        rows.insert(table, count.unsigned_abs());
    }
    let (mut epoch, mut highest) = (None, None);
    if role == Role::Store {
        highest = conn
            .query_row("SELECT max(id) FROM readings", [], |r| r.get(0))
            .map_err(&failed)?;
        // A database that was adopted and never opened by the agent has none yet.
        if rows.contains_key("holdup_meta") {
            let text: Option<String> = conn
                .query_row(
                    "SELECT value FROM holdup_meta WHERE key = 'epoch'",
                    [],
                    |r| r.get(0),
                )
                .optional()
                .map_err(&failed)?;
            epoch = text.and_then(|t| u64::from_str_radix(&t, 16).ok());
        }
    }
    Ok(Checked {
        rows,
        schema_sha256,
        epoch,
        highest,
    })
}

/// A connection that takes no lock and makes no file.
pub(super) fn open_still(copy: &Path) -> Result<Connection, BackupError> {
    let mut uri = "file:".to_owned();
    for byte in copy.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                uri.push(char::from(*byte));
            }
            other => {
                // Writing to a string cannot fail.
                write!(uri, "%{other:02X}").ok();
            }
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let failed = BackupError::sqlite(copy, "open");
    let conn = Connection::open_with_flags(&uri, flags).map_err(&failed)?;
    conn.execute_batch("PRAGMA cache_size = -4096; PRAGMA temp_store = MEMORY;")
        .map_err(&failed)?;
    Ok(conn)
}

/// The tables whose rows can be counted, and the hash of all SQL.
fn schema(conn: &Connection) -> rusqlite::Result<(Vec<String>, String)> {
    let mut tables = Vec::new();
    let mut hash = Sha256::new();
    let mut statement =
        conn.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
        let sql: Option<String> = row.get(2)?;
        for part in [&kind, &name, sql.as_deref().unwrap_or("")] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        // A virtual table's module may be missing here; its rows lie in tables of their own.
        let virtual_table = sql
            .as_deref()
            .is_some_and(|s| s.to_ascii_uppercase().starts_with("CREATE VIRTUAL"));
        if kind == "table" && !virtual_table {
            tables.push(name);
        }
    }
    Ok((tables, hex(&hash.finalize())))
}

/// A name as SQL has it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_whatever_a_table_is_called_and_damage_is_no_backup() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = home.path().join("a b'\"?#%.db");
        let conn = Connection::open(&path).expect("open");
        conn.execute_batch(
            "CREATE TABLE \"it's \"\"odd\"(a); INSERT INTO \"it's \"\"odd\" VALUES (1), (2);
             CREATE TABLE b(x TEXT); CREATE INDEX i ON b(x);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
             INSERT INTO b SELECT hex(randomblob(40)) FROM n;",
        )
        .expect("rows");
        drop(conn);
        let found = check(&path, Role::Guarded, Box::new(|| false)).expect("whole");
        assert_eq!(found.rows["it's \"odd"], 2);
        assert_eq!(found.rows["b"], 5000);
        assert_eq!(found.schema_sha256.len(), 64);
        assert_eq!(std::fs::read_dir(home.path()).expect("list").count(), 1);
        let e = check(&path, Role::Guarded, Box::new(|| true)).expect_err("told to stop");
        assert!(!e.to_string().contains("is damaged"), "{e}");
        let mut bytes = std::fs::read(&path).expect("read");
        let end = bytes.len() - 4096;
        bytes[end..].fill(0xa5);
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut f| std::io::Write::write_all(&mut f, &bytes))
            .expect("damage");
        let e = check(&path, Role::Guarded, Box::new(|| false)).expect_err("damaged");
        assert!(e.to_string().contains("is damaged"), "{e}");
    }
}
