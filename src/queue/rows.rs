//! The rows of a queue, read as far as they can be.
//!
//! Whoever rebuilds or exports a queue reads [`Met`]s from an iterator and does not care where they
//! come from: here from SQLite, row by row around what is damaged; a reader of bytes gives the same
//! where SQLite reads nothing. It must never change the file it reads, nor stop at the first fault.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row as SqlRow};

use crate::store::{Look, look, without_sql};

use super::error::QueueError;
use super::outbox::{bytes, int};
use super::schema::{Book, CREATED_MS, columns_of};

/// A payload larger than this is none of ours: it is reported, not read.
pub const MAX_PAYLOAD: i64 = 16 << 20;
/// Rows read with one statement, so that a read never pins the log of a running agent for long.
const PAGE: i64 = 256;
/// The table that is read last.
const DEAD: &str = "dead_letters";
/// After so many separate damaged places a table is given up.
const MOST_GAPS: u32 = 100_000;

/// One message, waiting or dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number in its table; for people.
    pub id: i64,
    /// Its id for the other side.
    pub message_id: String,
    /// What is sent.
    pub payload: Vec<u8>,
    /// Higher goes first.
    pub priority: i64,
    /// ms since 1970, where known.
    pub created_at: Option<i64>,
    /// Seconds that it is worth sending.
    pub ttl_seconds: Option<i64>,
    /// Failed attempts.
    pub retry_count: i64,
    /// ms since 1970; `None`: due.
    pub next_retry_at: Option<i64>,
    /// It is a dead letter: why, and since when (ms since 1970).
    pub dead: Option<(String, i64)>,
}

/// What a reader meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Met {
    /// A message.
    Row(Row),
    /// A row that is no message.
    Invalid {
        /// Its table.
        table: &'static str,
        /// Its number there.
        id: i64,
        /// What is wrong with it.
        why: String,
    },
    /// Rows that cannot be read.
    Lost {
        /// Their table.
        table: &'static str,
        /// First number that may be missing.
        from: i64,
        /// Last number that may be missing; `None`: to the end.
        upto: Option<i64>,
        /// Why.
        why: String,
    },
}

/// Rows by SQLite.
#[derive(Debug)]
pub struct SqlRows {
    conn: Connection,
    /// Tables still to read, the present one last.
    tables: Vec<&'static str>,
    after: Option<i64>,
    page: std::vec::IntoIter<Met>,
    gaps: u32,
    /// Why its log is not read.
    damaged_log: Option<&'static str>,
}

impl SqlRows {
    /// Opens the queue at `path` for reading. Not while this process has it open.
    ///
    /// # Errors
    /// [`QueueError`] where SQLite cannot read it at all, or would destroy something by opening it.
    pub fn open(path: &Path) -> Result<Self, QueueError> {
        let damaged_log = match look(path)? {
            Look::Database | Look::Fresh => None,
            Look::DamagedWal(why) => Some(why),
        };
        if let Some(why) = damaged_log {
            log::warn!(
                "{}-wal cannot be read ({why}): the last changes are missing",
                path.display()
            );
        }
        let failed = |e| QueueError::sqlite(path, "read", e);
        let conn = super::feed::read_only(path).map_err(failed)?;
        conn.busy_timeout(std::time::Duration::from_secs(5))
            .map_err(failed)?;
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
            .map_err(failed)?;
        Ok(Self {
            conn,
            tables: vec![DEAD, "sync_queue"],
            after: None,
            page: Vec::new().into_iter(),
            gaps: 0,
            damaged_log,
        })
    }

    /// Why its log is not read, if so.
    pub(super) fn damaged_log(&self) -> Option<&'static str> {
        self.damaged_log
    }

    /// The numbers that go with the tables, where they can be read.
    pub(super) fn book(&self) -> Option<Book> {
        Book::read(&self.conn).ok()
    }

    /// Reads the next page of the present table.
    fn read_page(&mut self) {
        let Some(table) = self.tables.last().copied() else {
            return;
        };
        let mut met = Vec::new();
        match self.rows(table, self.after, PAGE, &mut met) {
            Ok(last) => {
                let whole = met.len() as i64 == PAGE;
                self.after = last.or(self.after);
                // A full page whose last row is the last possible one ends the table too.
                if !whole || self.after == Some(i64::MAX) {
                    self.next_table();
                }
            }
            Err(e) => {
                let last = met.iter().rev().find_map(number);
                self.after = last.or(self.after);
                self.gap(table, e, &mut met);
            }
        }
        self.page = met.into_iter();
    }

    /// A row behind `after` cannot be read: finds the next that can be, first in growing steps, then
    /// exactly.
    fn gap(&mut self, table: &'static str, e: rusqlite::Error, met: &mut Vec<Met>) {
        let e = without_sql(e);
        let from = self.after.map_or(i64::MIN, |a| a.saturating_add(1));
        let mut lost = |upto| {
            met.push(Met::Lost {
                table,
                from,
                upto,
                why: e.to_string(),
            });
        };
        self.gaps += 1;
        if self.gaps > MOST_GAPS {
            lost(None);
            return self.next_table();
        }
        // Row numbers begin at 1: below that only where somebody chose them so.
        let base = self.after.unwrap_or(0);
        let (mut bad, mut step) = (base, 1i64);
        let good = loop {
            let at = base.saturating_add(step);
            if self.reads(table, at) {
                break at;
            }
            if at == i64::MAX {
                lost(None);
                return self.next_table();
            }
            bad = at;
            step = step.saturating_mul(2);
        };
        let (mut bad, mut good) = (bad, good);
        while good - bad > 1 {
            let middle = bad + (good - bad) / 2;
            if self.reads(table, middle) {
                good = middle;
            } else {
                bad = middle;
            }
        }
        lost(Some(good - 1));
        self.after = Some(good - 1);
    }

    /// Can the first row from `id` on be read, or is there none?
    fn reads(&self, table: &'static str, id: i64) -> bool {
        self.rows(table, Some(id.saturating_sub(1)), 1, &mut Vec::new())
            .is_ok()
    }

    fn next_table(&mut self) {
        self.tables.pop();
        self.after = None;
    }

    /// Reads up to `most` rows behind `after`; the last one's number.
    fn rows(
        &self,
        table: &'static str,
        after: Option<i64>,
        most: i64,
        met: &mut Vec<Met>,
    ) -> rusqlite::Result<Option<i64>> {
        let have = columns_of(&self.conn, table)?;
        if have.is_empty() && table == DEAD {
            return Ok(None);
        }
        let column = |name: &str| {
            if have.iter().any(|h| h == name) {
                name.to_owned()
            } else {
                "NULL".to_owned()
            }
        };
        let created = if have.iter().any(|h| h == "created_at") {
            CREATED_MS
        } else {
            "NULL"
        };
        let sql = format!(
            "SELECT id, message_id, iif(octet_length(payload) > {MAX_PAYLOAD}, NULL, payload), {}, {created}, {}, {}, {}, {}, {},
                    octet_length(payload)
             FROM {table} WHERE ?1 IS NULL OR id > ?1 ORDER BY id LIMIT ?2",
            column("priority"),
            column("ttl_seconds"),
            column("retry_count"),
            column("next_retry_at"),
            column("reason"),
            column("died_at"),
        );
        // Two forms, so that the row number is sought and not only compared.
        let sql = if after.is_some() {
            sql.replace("?1 IS NULL OR ", "")
        } else {
            sql
        };
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut rows = statement.query((after, most))?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let one = message(table, row)?;
            last = number(&one);
            met.push(one);
        }
        Ok(last)
    }
}

impl Iterator for SqlRows {
    type Item = Met;

    fn next(&mut self) -> Option<Met> {
        loop {
            if let Some(met) = self.page.next() {
                return Some(met);
            }
            if self.tables.is_empty() {
                return None;
            }
            self.read_page();
        }
    }
}

/// Where in the order of tables and numbers it comes; what is lost from a number on comes before the
/// row of that number.
pub(super) fn place(met: &Met) -> (bool, i64, bool) {
    match met {
        Met::Row(row) => (row.dead.is_some(), row.id, true),
        Met::Invalid { table, id, .. } => (*table == DEAD, *id, true),
        Met::Lost { table, from, .. } => (*table == DEAD, *from, false),
    }
}

fn number(met: &Met) -> Option<i64> {
    match met {
        Met::Row(Row { id, .. }) | Met::Invalid { id, .. } => Some(*id),
        Met::Lost { .. } => None,
    }
}

fn message(table: &'static str, row: &SqlRow<'_>) -> rusqlite::Result<Met> {
    let id = row.get(0)?;
    let invalid = |why: String| Ok(Met::Invalid { table, id, why });
    let Ok(message_id) = String::from_utf8(bytes(row, 1)) else {
        return invalid("its message id is not UTF-8".to_owned());
    };
    if let Some(why) = bad_id(&message_id) {
        return invalid(why.to_owned());
    }
    let size = int(row, 10).unwrap_or(0);
    if size > MAX_PAYLOAD {
        return invalid(format!("its payload has {size} bytes"));
    }
    let dead = (table == DEAD).then(|| {
        let why = String::from_utf8_lossy(&bytes(row, 8)).into_owned();
        (why, int(row, 9).unwrap_or(0))
    });
    Ok(Met::Row(Row {
        id,
        message_id,
        payload: bytes(row, 2),
        priority: int(row, 3).unwrap_or(0),
        created_at: int(row, 4),
        ttl_seconds: int(row, 5),
        retry_count: int(row, 6).unwrap_or(0).max(0),
        next_retry_at: int(row, 7),
        dead,
    }))
}

/// What is wrong with a message id, if anything.
pub(super) fn bad_id(message_id: &str) -> Option<&'static str> {
    if message_id.is_empty() {
        Some("it has no message id")
    } else if message_id.len() > 256 {
        Some("its message id is longer than 256 bytes")
    } else if message_id.chars().any(char::is_control) {
        Some("its message id holds a control character")
    } else {
        None
    }
}

/// Whether the present book could be read; for stats of a queue that nobody has open.
pub(super) fn first<T: rusqlite::types::FromSql>(
    conn: &Connection,
    sql: &str,
) -> rusqlite::Result<Option<T>> {
    conn.query_row(sql, [], |r| r.get::<_, Option<T>>(0))
        .optional()
        .map(Option::flatten)
}
