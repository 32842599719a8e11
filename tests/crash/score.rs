//! What came back, as a share of what could.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::Value;

use crate::corpus::{Case, Files, Reading};

/// Counts of one kind of damage over several cases.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Score {
    /// Acknowledged rows whose bytes are still whole somewhere in the files.
    pub(crate) there: usize,
    /// Of these, those that came back.
    pub(crate) back: usize,
    /// Rows that nobody ever wrote.
    pub(crate) invented: usize,
    /// Rows that had been deleted.
    pub(crate) deleted: usize,
    /// Rows in an older state, where the newer one is still there.
    pub(crate) older: usize,
}

impl Score {
    /// Percent of what could come back.
    pub(crate) fn percent(self) -> f64 {
        if self.there == 0 {
            return 100.0;
        }
        let n = |n: usize| f64::from(u32::try_from(n).expect("small"));
        100.0 * n(self.back) / n(self.there)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.there += other.there;
        self.back += other.back;
        self.invented += other.invented;
        self.deleted += other.deleted;
        self.older += other.older;
    }
}

/// Rows as a way of recovery gives them: an id may come twice.
pub(crate) type Got = Vec<(i64, Reading)>;

/// Holds `got` against what was acknowledged in `case` and what its files still hold.
pub(crate) fn score(case: &Case, there: &[i64], got: &Got) -> Score {
    let mut score = Score {
        there: there.len(),
        ..Score::default()
    };
    let mut best: BTreeMap<i64, bool> = BTreeMap::new();
    for (id, reading) in got {
        match case.rows.get(id) {
            Some(now) if now == reading => {
                best.insert(*id, true);
            }
            _ if !case.ever.contains(&(*id, reading.clone())) => score.invented += 1,
            Some(_) => {
                best.entry(*id).or_insert(false);
            }
            None => score.deleted += 1,
        }
    }
    for id in there {
        match best.get(id) {
            Some(true) => score.back += 1,
            Some(false) => score.older += 1,
            None => {}
        }
    }
    score
}

/// Ids of the rows of which every byte still lies somewhere in the files.
pub(crate) fn still_there(case: &Case) -> Vec<i64> {
    let mut by_head: HashMap<[u8; 8], Vec<(i64, Vec<u8>)>> = HashMap::new();
    for (id, reading) in &case.rows {
        for compact in [false, true] {
            let cell = cell(*id, reading, compact);
            let head = cell[..8].try_into().expect("8 bytes");
            by_head.entry(head).or_default().push((*id, cell));
        }
    }
    // Nearly all places are ruled out by their first two bytes, without a hash.
    let mut begins = vec![false; 1 << 16];
    for head in by_head.keys() {
        begins[usize::from(head[0]) << 8 | usize::from(head[1])] = true;
    }
    let mut found: Vec<i64> = Vec::new();
    let Files {
        db, wal, journal, ..
    } = &case.files;
    for bytes in [db, wal, journal].into_iter().flatten() {
        for (at, head) in bytes.windows(8).enumerate() {
            if !begins[usize::from(head[0]) << 8 | usize::from(head[1])] {
                continue;
            }
            let head: [u8; 8] = head.try_into().expect("8 bytes");
            for (id, cell) in by_head.get(&head).into_iter().flatten() {
                if bytes[at..].starts_with(cell) {
                    found.push(*id);
                }
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// A row as it lies in a leaf: size, rowid, record. A whole number in a column of REAL may be
/// stored as an integer, which is more compact.
fn cell(id: i64, r: &Reading, compact: bool) -> Vec<u8> {
    let (mut head, mut body) = (vec![0], Vec::new());
    let text = |s: &str, head: &mut Vec<u8>, body: &mut Vec<u8>| {
        varint(13 + 2 * s.len() as u64, head);
        body.extend(s.as_bytes());
    };
    text(&r.sensor, &mut head, &mut body);
    // Milliseconds since 1970 take six bytes until the year 6429.
    head.push(5);
    body.extend(&r.timestamp.to_be_bytes()[2..]);
    let value = f64::from_bits(r.value);
    #[expect(clippy::cast_possible_truncation, reason = "compared afterwards")]
    let whole = value as i64;
    #[expect(clippy::cast_precision_loss, reason = "that is what is compared")]
    if compact && whole as f64 == value && whole.abs() < 1 << 47 {
        match whole {
            0 => head.push(8),
            1 => head.push(9),
            -128..=127 => {
                head.push(1);
                body.extend(&whole.to_be_bytes()[7..]);
            }
            _ => {
                head.push(2);
                body.extend(&whole.to_be_bytes()[6..]);
            }
        }
    } else {
        head.push(7);
        body.extend(value.to_be_bytes());
    }
    for s in [&r.unit, &r.metadata] {
        match s {
            Some(s) => text(s, &mut head, &mut body),
            None => head.push(0),
        }
    }
    let mut cell = Vec::new();
    varint((head.len() + 1 + body.len()) as u64, &mut cell);
    varint(id.unsigned_abs(), &mut cell);
    varint(head.len() as u64 + 1, &mut cell);
    cell.extend(head);
    cell.extend(body);
    cell
}

fn varint(n: u64, to: &mut Vec<u8>) {
    assert!(n < 1 << 21, "three bytes at most here");
    for shift in [14, 7] {
        if n >> shift != 0 {
            to.push(u8::try_from(n >> shift & 0x7f).expect("7 bits") | 0x80);
        }
    }
    to.push(u8::try_from(n & 0x7f).expect("7 bits"));
}

/// What a SELECT gives before it fails.
pub(crate) fn readable(path: &Path) -> Got {
    selected(
        path,
        "SELECT id, sensor_name, timestamp, value, unit, metadata FROM readings",
    )
}

/// The same with the rows for which `.recover` found no table.
pub(crate) fn readable_or_found(path: &Path) -> Got {
    let mut got = readable(path);
    got.extend(selected(
        path,
        "SELECT id, c1, c2, CAST(c3 AS REAL), c4, c5 FROM lost_and_found
         WHERE nfield = 6 AND id IS NOT NULL",
    ));
    got
}

fn selected(path: &Path, sql: &str) -> Got {
    let mut got = Vec::new();
    let Ok(conn) = Connection::open(path) else {
        return got;
    };
    let Ok(mut query) = conn.prepare(sql) else {
        return got;
    };
    let Ok(mut rows) = query.query([]) else {
        return got;
    };
    let text = |v: Option<Value>| match v {
        Some(Value::Text(s)) => Some(s),
        _ => None,
    };
    while let Ok(Some(row)) = rows.next() {
        let mut row = (0..6).map(|i| row.get::<_, Value>(i).unwrap_or(Value::Null));
        let (id, sensor, at, value) = (row.next(), row.next(), row.next(), row.next());
        let (unit, metadata) = (text(row.next()), text(row.next()));
        if let (Some(Value::Integer(id)), Some(Value::Integer(timestamp)), Some(Value::Real(v))) =
            (id, at, value)
        {
            let reading = Reading {
                sensor: text(sensor).unwrap_or_default(),
                timestamp,
                value: v.to_bits(),
                unit,
                metadata,
            };
            got.push((id, reading));
        } else {
            // No row of these tests has such values.
            got.push((i64::MIN, nobodys()));
        }
    }
    got
}

fn nobodys() -> Reading {
    Reading {
        sensor: String::new(),
        timestamp: 0,
        value: 0,
        unit: None,
        metadata: None,
    }
}
