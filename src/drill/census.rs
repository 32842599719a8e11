//! What a database holds, row by row, so that nothing can be missing, changed or made up unseen.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::DrillError;
use super::evidence::Rows;

/// A reader that meets a checkpoint waits this long.
const BUSY: Duration = Duration::from_secs(10);

/// Ids that follow one another, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first.
    pub first: i64,
    /// The last.
    pub last: i64,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{} to {}", self.first, self.last)
        }
    }
}

/// Every row's hash under its id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    rows: BTreeMap<i64, [u8; 16]>,
}

/// What is not as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rows that are gone, in ranges of ids that were given to rows one after the other.
    pub missing: Vec<Range>,
    /// How many they are.
    pub missing_rows: u64,
    /// Rows whose contents are others now.
    pub altered: u64,
    /// Rows that nobody wrote.
    pub made_up: u64,
}

impl Difference {
    /// Is everything as it was?
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Census {
    /// Of the readings of a store that an agent has open, or that nobody has.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn of_store(path: &Path) -> Result<Self, DrillError> {
        let sql = "SELECT id, sensor_name, timestamp, value, unit, metadata FROM readings";
        Self::of(path, sql, |row| row.get(0))
    }

    /// Of the messages of a queue; their ids are those of the readings they carry.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub fn of_queue(path: &Path) -> Result<Self, DrillError> {
        let sql = "SELECT message_id, payload, priority FROM sync_queue";
        Self::of(path, sql, |row| {
            let id: String = row.get(0)?;
            // One that is not of this form is nobody's reading: 0 is no reading's id.
            Ok(crate::queue::parse(&id).map_or(0, |(_, reading)| reading))
        })
    }

    /// Rows that differ in nothing but their ids.
    #[cfg(test)]
    pub(super) fn of_ids(ids: impl IntoIterator<Item = i64>) -> Self {
        Self {
            rows: ids.into_iter().map(|id| (id, [0; 16])).collect(),
        }
    }

    fn of(
        path: &Path,
        sql: &str,
        id: impl Fn(&Row<'_>) -> rusqlite::Result<i64>,
    ) -> Result<Self, DrillError> {
        let read = || -> rusqlite::Result<BTreeMap<i64, [u8; 16]>> {
            let db = open(path)?;
            let mut query = db.prepare(sql)?;
            let columns = query.column_count();
            let mut found = query.query([])?;
            let mut rows = BTreeMap::new();
            let mut doubles = 0;
            while let Some(row) = found.next()? {
                let (mut id, hash) = (id(row)?, hash(row, columns)?);
                if rows.contains_key(&id) {
                    // A second row under one id is one that nobody wrote.
                    doubles += 1;
                    id = -doubles;
                }
                rows.insert(id, hash);
            }
            Ok(rows)
        };
        Ok(Self {
            rows: read().map_err(DrillError::db(path))?,
        })
    }

    /// For the report.
    pub fn summary(&self) -> Rows {
        let mut all = Sha256::new();
        for (id, hash) in &self.rows {
            all.update(id.to_be_bytes());
            all.update(hash);
        }
        Rows {
            count: self.rows.len() as u64,
            last_id: self.rows.last_key_value().map(|(id, _)| *id),
            sha256: hex(&all.finalize()),
        }
    }

    /// Rows.
    pub fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The highest id; 0 where there is none.
    pub fn last_id(&self) -> i64 {
        self.rows.last_key_value().map_or(0, |(id, _)| *id)
    }

    /// What `found` lacks of this, and has that this has not.
    pub fn difference(&self, found: &Self) -> Difference {
        let mut d = Difference::default();
        let mut gap: Option<Range> = None;
        for (id, hash) in &self.rows {
            match found.rows.get(id) {
                None => {
                    d.missing_rows += 1;
                    gap = Some(Range {
                        first: gap.map_or(*id, |g| g.first),
                        last: *id,
                    });
                    continue;
                }
                Some(other) => d.altered += u64::from(other != hash),
            }
            d.missing.extend(gap.take());
        }
        d.missing.extend(gap);
        let strange = |id: &&i64| !self.rows.contains_key(id);
        d.made_up = found.rows.keys().filter(strange).count() as u64;
        d
    }

    /// Is every missing row of `d` in one of these ranges, and every row of those ranges missing?
    pub fn is_told(&self, d: &Difference, told: &[Range]) -> bool {
        let inside = |ranges: &[Range]| {
            let each = ranges.iter();
            let rows = each.flat_map(|r| self.rows.range(r.first..=r.last.max(r.first)));
            rows.map(|(id, _)| *id).collect::<Vec<_>>()
        };
        inside(&d.missing) == inside(told)
    }
}

/// What SQLite's integrity check says; `ok` when nothing is wrong.
pub(super) fn integrity(path: &Path) -> Result<String, DrillError> {
    open(path)
        .and_then(|db| db.query_row("PRAGMA integrity_check(1)", [], |r| r.get(0)))
        .map_err(DrillError::db(path))
}

/// The store's epoch: ids of two epochs never mean the same reading.
pub(super) fn epoch(path: &Path) -> Result<String, DrillError> {
    let sql = "SELECT value FROM holdup_meta WHERE key = 'epoch'";
    open(path)
        .and_then(|db| db.query_row(sql, [], |r| r.get(0)))
        .map_err(DrillError::db(path))
}

/// For reading alone: a connection that may write would, as the last one, delete the log.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    Ok(db)
}

/// Over the type and bytes of each column: 1 and 1.0 and '1' are three contents.
fn hash(row: &Row<'_>, columns: usize) -> rusqlite::Result<[u8; 16]> {
    let mut hash = Sha256::new();
    let mut field = |kind: u8, bytes: &[u8]| {
        hash.update([kind]);
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for column in 0..columns {
        match row.get_ref(column)? {
            ValueRef::Null => field(0, &[]),
            ValueRef::Integer(n) => field(1, &n.to_be_bytes()),
            ValueRef::Real(x) => field(2, &x.to_bits().to_be_bytes()),
            ValueRef::Text(t) => field(3, t),
            ValueRef::Blob(b) => field(4, b),
        }
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hash.finalize()[..16]);
    Ok(short)
}

/// In lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, last: i64) -> Range {
        Range { first, last }
    }

    #[test]
    fn missing_altered_and_made_up_rows_are_told_apart() {
        let before = Census::of_ids(1..=10);
        let mut after = Census::of_ids([1, 2, 6, 7, 8, 9, 11]);
        after.rows.insert(7, [1; 16]);
        let d = before.difference(&after);
        assert_eq!(d.missing, [range(3, 5), range(10, 10)]);
        assert_eq!((d.missing_rows, d.altered, d.made_up), (4, 1, 1));
        assert!(before.difference(&before).is_none());
    }

    #[test]
    fn a_loss_is_told_only_by_its_exact_rows() {
        // Ids 5 and 6 were never given to rows.
        let before = Census::of_ids((1..=4).chain(7..=10));
        let after = Census::of_ids([1, 2, 9, 10]);
        let d = before.difference(&after);
        assert!(before.is_told(&d, &[range(3, 8)]));
        assert!(before.is_told(&d, &[range(3, 4), range(7, 8)]));
        assert!(!before.is_told(&d, &[range(3, 4)]), "too little");
        assert!(!before.is_told(&d, &[range(3, 9)]), "a row that is there");
        assert!(!before.is_told(&d, &[]));
    }

    #[test]
    fn the_contents_hash_knows_the_type_of_a_value() {
        let home = tempfile::tempdir().expect("temp dir");
        let store = |name: &str, value: &str| {
            let path = home.path().join(name);
            let db = Connection::open(&path).expect("open");
            db.execute_batch(&format!(
                "CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name, timestamp, value, unit, metadata);
                 INSERT INTO readings VALUES(1, 's', {value}, 1.5, NULL, NULL)"
            ))
            .expect("fill");
            Census::of_store(&path).expect("census")
        };
        let whole = store("a", "1");
        assert_eq!(whole.difference(&store("b", "'1'")).altered, 1);
        assert_eq!(whole.summary(), store("c", "1").summary());
        assert_ne!(whole.summary().sha256, store("d", "1.0").summary().sha256);
    }
}
