//! A snapshot in the place of what the files do not give any more, and on top of it what they do.
//!
//! It promises that a snapshot is used only where the files alone hold less, that rows of the files
//! win over rows of the snapshot, and that a snapshot which is not what it was is passed over with
//! a word. It must never mix pages of the two.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use super::RecoveryError;
use super::acknowledged::Acknowledged;
use super::candidates::{Judged, Opinion, Work, judge};
use super::files::{companion, free_bytes};
use super::missing::missing;

/// Rows that are taken over under one pass.
const PORTION: i64 = 2000;
/// Room that is left beside what is written.
const SPARE: u64 = 1 << 20;

/// A verified copy of the database, as recovery needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name, for reports.
    pub name: String,
    /// When it was taken, by the wall clock of then.
    pub taken_at: String,
    /// Of which store it is, where it can tell.
    pub epoch: Option<u64>,
    /// The highest id of its readings.
    pub highest: Option<i64>,
    /// Bytes of the database in it.
    pub bytes: u64,
}

/// What became of a snapshot that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unpacked {
    /// It is there, byte for byte what was verified, and on the medium.
    Whole,
    /// It is not what it was; says why.
    Refused(String),
}

/// Where snapshots come from.
pub trait Snapshots {
    /// Those of `database`, newest first; what is there and cannot be one is told to `refused`.
    fn of(&self, database: &Path, refused: &mut dyn FnMut(String)) -> Vec<Snapshot>;

    /// Writes the database of `snapshot` to `out`, where there is nothing.
    ///
    /// # Errors
    /// It was told to stop, or the medium failed; not that the snapshot is damaged.
    fn unpack(
        &self,
        database: &Path,
        snapshot: &Snapshot,
        out: &Path,
        work: &Work<'_>,
    ) -> Result<Unpacked, RecoveryError>;
}

/// From where a restored database came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredFrom {
    /// The snapshot.
    pub snapshot: String,
    /// When it was taken.
    pub taken_at: String,
    /// Rows that the damaged files added to it, or had as well.
    pub rows_of_files: u64,
}

/// A restored database at the output path.
pub(super) struct Restored {
    pub(super) from: RestoredFrom,
    pub(super) opinion: Opinion,
}

/// What a restoring is about.
pub(super) struct Restoring<'a> {
    pub(super) snapshots: Option<&'a dyn Snapshots>,
    pub(super) database: &'a Path,
    /// The database file itself is missing or empty.
    pub(super) gone: bool,
    pub(super) acknowledged: Option<Acknowledged>,
    pub(super) out: &'a Path,
    pub(super) work: Work<'a>,
}

impl Restoring<'_> {
    /// Makes a database at `out` from a snapshot where that is more than `files`, which is there
    /// now; `None`: `out` is as it was, or there is nothing where that has no faultless row.
    pub(super) fn attempt(
        &self,
        files: Option<&Judged>,
        step: &mut dyn FnMut(&str),
    ) -> Result<Option<Restored>, RecoveryError> {
        let aside = companion(self.out, "-files");
        // Of an attempt that was cut: it is made again.
        self.work.medium.remove(&aside)?;
        let Some(snapshots) = self.snapshots else {
            return Ok(None);
        };
        let all = snapshots.of(self.database, &mut |why| step(&why));
        if all.is_empty() {
            return Ok(None);
        }
        let files = files.filter(|f| f.is_sound() && f.opinion.rows() > 0);
        let highest = match files {
            Some(_) => highest(self.out)?,
            None => None,
        };
        let torn = files.is_some_and(|f| f.traits.pages_behind > 0 || f.traits.holes > 0);
        if files.is_some() && !self.is_lacking(highest, torn, &all)? {
            return Ok(None);
        }
        match files {
            Some(_) => self.work.medium.rename(self.out, &aside)?,
            None => self.work.medium.remove(self.out)?,
        }
        for snapshot in &all {
            match self.restore(snapshots, snapshot, files, highest, &aside)? {
                Ok(restored) => {
                    self.work.medium.remove(&aside)?;
                    step(&format!("took the snapshot {}", snapshot.name));
                    return Ok(Some(restored));
                }
                Err(why) => {
                    step(&format!(
                        "passed over the snapshot {}: {why}",
                        snapshot.name
                    ));
                    self.work.medium.remove(self.out)?;
                }
            }
        }
        if files.is_some() {
            self.work.medium.rename(&aside, self.out)?;
        }
        Ok(None)
    }

    /// Would a snapshot add to what the files give, of which `torn` is some page that was not read
    /// in full?
    fn is_lacking(
        &self,
        highest: Option<i64>,
        torn: bool,
        all: &[Snapshot],
    ) -> Result<bool, RecoveryError> {
        let behind = all.iter().any(|s| s.highest > highest);
        // Of what only ever grows each missing row is a loss; from anything else rows are also
        // removed, and only where the whole file is gone is nothing known of that.
        let gaps = highest.is_some() && !missing(self.out, self.acknowledged)?.is_empty();
        // Beside readings a store has rows of which no number tells that they are gone: which of the
        // readings were retracted, which ids of clients were seen.
        let others = torn && self.acknowledged.is_some();
        Ok(self.gone || behind || gaps || others)
    }

    /// One snapshot with the rows of the files; why it is of no use.
    fn restore(
        &self,
        snapshots: &dyn Snapshots,
        snapshot: &Snapshot,
        files: Option<&Judged>,
        highest: Option<i64>,
        aside: &Path,
    ) -> Result<Result<Restored, String>, RecoveryError> {
        if let (Some(epoch), Some(a)) = (snapshot.epoch, self.acknowledged)
            && epoch != a.epoch
        {
            return Ok(Err("it is of another store".to_owned()));
        }
        let folder = self.out.parent().unwrap_or(Path::new("/"));
        let free = free_bytes(folder).map_err(RecoveryError::io("ask for free room in", folder))?;
        let needed = snapshot.bytes.saturating_add(SPARE);
        if free < needed {
            return Ok(Err(format!("it needs {needed} bytes and {free} are free")));
        }
        if let Unpacked::Refused(why) =
            snapshots.unpack(self.database, snapshot, self.out, &self.work)?
        {
            return Ok(Err(why));
        }
        let mut rows_of_files = 0;
        if files.is_some() {
            let newer = highest >= snapshot.highest;
            match self.add(aside, newer)? {
                Ok(rows) => rows_of_files = rows,
                Err(why) => return Ok(Err(why)),
            }
        }
        let opinion = judge(self.out, &self.work)?;
        if let Some(fault) = opinion.faults.first() {
            return Ok(Err(format!("SQLite finds a fault in it: {fault}")));
        }
        let file = File::open(self.out).map_err(RecoveryError::io("open", self.out))?;
        self.work.sync(&file, self.out)?;
        self.work.medium.sync_parent(self.out)?;
        let from = RestoredFrom {
            snapshot: snapshot.name.clone(),
            taken_at: snapshot.taken_at.clone(),
            rows_of_files,
        };
        Ok(Ok(Restored { from, opinion }))
    }

    /// Lays the rows of the copy at `aside` over the snapshot at `out`, by their keys; where that is
    /// `newer`, a row of the files replaces the snapshot's. How many there were.
    fn add(&self, aside: &Path, newer: bool) -> Result<Result<u64, String>, RecoveryError> {
        let failed = |source| RecoveryError::Sqlite {
            doing: "add rows to",
            path: self.out.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .open(self.out)
            .map_err(RecoveryError::io("open", self.out))?;
        let conn = open(self.out, aside).map_err(failed)?;
        if let (Some(theirs), Some(ours)) = (epoch(&conn, "files"), epoch(&conn, "main"))
            && theirs != ours
        {
            return Ok(Err("it is of another store than the files".to_owned()));
        }
        let verb = if newer { "REPLACE" } else { "IGNORE" };
        let mut rows = 0;
        for table in shared(&conn).map_err(failed)? {
            let mut after = None;
            loop {
                let pass = self.work.enter(self.out)?;
                let done = table.portion(&conn, verb, after).map_err(failed)?;
                self.work.sync(&file, self.out)?;
                drop(pass);
                rows += done.rows;
                after = done.upto;
                if after.is_none() {
                    break;
                }
            }
        }
        if let Some(a) = self.acknowledged
            && has(&conn, "readings").map_err(failed)?
        {
            // What retention removed since stays removed.
            let _pass = self.work.enter(self.out)?;
            conn.execute("DELETE FROM main.readings WHERE rowid < ?1", [a.lowest])
                .map_err(failed)?;
        }
        conn.close().map_err(|(_, e)| failed(e))?;
        Ok(Ok(rows))
    }
}

/// Nobody else has either; a cut begins it all again.
fn open(out: &Path, aside: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(out, flags)?;
    conn.execute_batch(
        "PRAGMA trusted_schema = OFF; PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;
         PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8192; PRAGMA foreign_keys = OFF;",
    )?;
    conn.execute(
        "ATTACH ?1 AS files",
        [PathBuf::from(aside).to_string_lossy()],
    )?;
    Ok(conn)
}

/// The highest id of the readings in the copy at `path`; `None` where it has no such table.
fn highest(path: &Path) -> Result<Option<i64>, RecoveryError> {
    let asked = || -> rusqlite::Result<Option<i64>> {
        let conn = super::missing::read(path)?;
        if !has(&conn, "readings")? {
            return Ok(None);
        }
        conn.query_row("SELECT max(rowid) FROM readings", [], |r| r.get(0))
    };
    asked().map_err(|source| RecoveryError::Sqlite {
        doing: "look for the last reading in",
        path: path.to_owned(),
        source,
    })
}

fn has(conn: &Connection, table: &str) -> rusqlite::Result<bool> {
    conn.query_row(
        "SELECT EXISTS(SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1)",
        [table],
        |r| r.get(0),
    )
}

fn epoch(conn: &Connection, schema: &str) -> Option<String> {
    let sql = format!("SELECT CAST(value AS TEXT) FROM {schema}.holdup_meta WHERE key = 'epoch'");
    conn.query_row(&sql, [], |r| r.get(0)).ok()
}

/// A table that both have, with the same columns.
struct Shared {
    name: String,
    columns: String,
    rowid: bool,
}

struct Portion {
    rows: u64,
    /// More may follow behind this row.
    upto: Option<i64>,
}

fn shared(conn: &Connection) -> rusqlite::Result<Vec<Shared>> {
    let columns = |schema: &str, table: &str| -> rusqlite::Result<Vec<String>> {
        conn.prepare("SELECT name FROM pragma_table_info(?1, ?2) ORDER BY cid")?
            .query_map([table, schema], |r| r.get(0))?
            .collect()
    };
    let tables: Vec<(String, bool)> = conn
        .prepare(
            "SELECT m.name, m.wr FROM pragma_table_list m
             JOIN pragma_table_list f ON f.name = m.name AND f.schema = 'files' AND f.wr = m.wr
             WHERE m.schema = 'main' AND m.type = 'table' AND f.type = 'table'
               AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY m.name",
        )?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut all = Vec::new();
    for (name, without) in tables {
        let ours = columns("main", &name)?;
        if ours == columns("files", &name)? {
            let quoted: Vec<_> = ours.iter().map(|c| quote(c)).collect();
            all.push(Shared {
                columns: quoted.join(", "),
                rowid: !without,
                name: quote(&name),
            });
        }
    }
    Ok(all)
}

impl Shared {
    fn portion(
        &self,
        conn: &Connection,
        verb: &str,
        after: Option<i64>,
    ) -> rusqlite::Result<Portion> {
        let Self { name, columns, .. } = self;
        if !self.rowid {
            let sql = format!(
                "INSERT OR {verb} INTO main.{name}({columns}) SELECT {columns} FROM files.{name}"
            );
            conn.execute(&sql, [])?;
            let sql = format!("SELECT count(*) FROM files.{name}");
            let rows: i64 = conn.query_row(&sql, [], |r| r.get(0))?;
            let rows = rows.unsigned_abs();
            return Ok(Portion { rows, upto: None });
        }
        let from = after.map_or(i64::MIN, |a| a.saturating_add(1));
        let sql = format!(
            "SELECT count(*), max(id) FROM
             (SELECT rowid AS id FROM files.{name} WHERE rowid >= ?1 ORDER BY rowid LIMIT ?2)"
        );
        let (rows, upto): (i64, Option<i64>) =
            conn.query_row(&sql, [from, PORTION], |r| Ok((r.get(0)?, r.get(1)?)))?;
        if let Some(upto) = upto {
            // The rowid is one of the columns where it is a key.
            let sql = format!(
                "INSERT OR {verb} INTO main.{name}(rowid, {columns})
                 SELECT rowid, {columns} FROM files.{name} WHERE rowid BETWEEN ?1 AND ?2"
            );
            conn.execute(&sql, [from, upto])?;
        }
        let more = rows == PORTION && upto.is_some_and(|u| u < i64::MAX);
        Ok(Portion {
            rows: rows.unsigned_abs(),
            upto: upto.filter(|_| more),
        })
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests plant damaged files")]
mod tests;
