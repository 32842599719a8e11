//! Which readings are missing, told by their ids: the store numbers them without a gap.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::RecoveryError;
use super::acknowledged::Acknowledged;
use super::report::Missing;

/// Ranges that are listed; the last one then reaches to the end of what is missing.
const MOST_RANGES: usize = 1000;

/// The gaps in the ids of the table `readings` of the copy at `path`, up to what was acknowledged.
/// A database without such a table has none.
pub(super) fn missing(
    path: &Path,
    acknowledged: Option<Acknowledged>,
) -> Result<Vec<Missing>, RecoveryError> {
    let sqlite = |source| RecoveryError::Sqlite {
        doing: "look for missing readings in",
        path: path.to_owned(),
        source,
    };
    let conn = read(path).map_err(sqlite)?;
    let ours: i64 = conn
        .query_row(
            "SELECT count(*) FROM pragma_table_info('readings')
             WHERE name IN ('id', 'sensor_name', 'timestamp', 'value')",
            [],
            |r| r.get(0),
        )
        .map_err(sqlite)?;
    if ours != 4 {
        return Ok(Vec::new());
    }
    let acknowledged = acknowledged.filter(|a| epoch(&conn).is_none_or(|e| e == a.epoch));
    gaps(&conn, acknowledged).map_err(sqlite)
}

/// Opens a copy that is nobody else's, and may bear the mark of a log that it does not need.
pub(super) fn read(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let uri = format!("file:{}?immutable=1", escaped(path));
    Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
}

/// Which store it is; `None` where it cannot tell any more.
fn epoch(conn: &Connection) -> Option<u64> {
    let sql = "SELECT value FROM holdup_meta WHERE key = 'epoch'";
    let epoch: String = conn.query_row(sql, [], |r| r.get(0)).ok()?;
    u64::from_str_radix(&epoch, 16).ok()
}

fn gaps(conn: &Connection, acknowledged: Option<Acknowledged>) -> rusqlite::Result<Vec<Missing>> {
    let mut found: Vec<Missing> = Vec::new();
    let mut add = |first: i64, last: i64| {
        if first > last {
            return;
        }
        match found.last_mut() {
            Some(end) if found_enough(end, first) => end.last = last,
            Some(_) | None => found.push(Missing { first, last }),
        }
    };
    let mut statement = conn.prepare("SELECT id FROM readings ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut next = acknowledged.map(|a| a.lowest);
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        if let Some(next) = next
            && id > next
        {
            add(next, id - 1);
        }
        next = Some(next.map_or(id, |n| n.max(id)).max(id).saturating_add(1));
    }
    if let (Some(next), Some(a)) = (next, acknowledged) {
        add(next, a.upto);
    }
    found.truncate(MOST_RANGES);
    Ok(found)
}

/// Adjoining ranges are one.
fn found_enough(end: &Missing, first: i64) -> bool {
    end.last.checked_add(1) == Some(first)
}

/// A path in a URI.
fn escaped(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str()
        .as_bytes()
        .iter()
        .fold(String::new(), |mut text, b| {
            match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                    text.push(char::from(*b));
                }
                // Writing to a string cannot fail.
                _ => write!(text, "%{b:02X}").unwrap_or_default(),
            }
            text
        })
}
