//! What became of a database, for people, programs and the audit log.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::restore::RestoredFrom;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing was off; nothing was touched.
    Clean,
    /// A write-ahead log or rollback journal that SQLite itself reads in full.
    Replayed,
    /// Something was damaged; what could be read stands in the new database.
    Salvaged,
    /// A snapshot took its place.
    Restored,
    /// Nothing could be read, or nothing was there: a new, empty database.
    Fresh,
    /// Nothing could be made of it; the files were left as they are.
    Unrecoverable,
}

impl Verdict {
    /// The word of the JSON report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Replayed => "replayed",
            Self::Salvaged => "salvaged",
            Self::Restored => "restored",
            Self::Fresh => "fresh",
            Self::Unrecoverable => "unrecoverable",
        }
    }
}

/// One step of a recovery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepTaken {
    /// What was done, and what it gave.
    pub what: String,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

/// A table of the recovered database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableKept {
    /// Its name.
    pub name: String,
    /// Rows in it now.
    pub rows: u64,
}

/// Is it a table of the agent's own books, or of SQLite's? Its rows are none that anybody sent.
pub fn is_bookkeeping(table: &str) -> bool {
    ["holdup_", "sqlite_"]
        .iter()
        .any(|own| table.starts_with(own))
}

/// Ids that were given to readings and that no row has, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The first.
    pub first: i64,
    /// The last.
    pub last: i64,
}

impl Missing {
    /// How many.
    pub fn rows(self) -> u64 {
        u64::try_from(self.last.saturating_sub(self.first).saturating_add(1)).unwrap_or(0)
    }
}

/// The whole story.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which database.
    pub database: PathBuf,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen in the files.
    pub found: String,
    /// Frames of the write-ahead log in what stands now.
    pub kept_frames: u64,
    /// Frames that were damaged.
    pub lost_frames: u64,
    /// Transactions of the write-ahead log in what stands now.
    pub kept_transactions: u64,
    /// Transactions of which at least one page was lost.
    pub lost_transactions: u64,
    /// Rows in all tables; `None` where nothing was counted (a clean database).
    pub kept_rows: Option<u64>,
    /// Rows that are known to be lost: the sum of `missing`.
    pub lost_rows_known: u64,
    /// Ids of readings that are lost.
    pub missing: Vec<Missing>,
    /// The tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableKept>,
    /// The snapshot under the rows that stand now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoredFrom>,
    /// Where the damaged files are kept.
    pub evidence: Option<PathBuf>,
    /// The copy that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<PathBuf>,
    /// What was done.
    pub steps: Vec<StepTaken>,
    /// How long all of it took, in milliseconds.
    pub took_ms: f64,
    /// When it ended: wall time, RFC 3339 in UTC.
    #[serde(default)]
    pub at: String,
    /// Frames of the write-ahead log behind those that were looked at: of a longer log than
    /// 2,097,152 frames only the first are read.
    #[serde(default, skip_serializing_if = "is_none_of_them")]
    pub skipped_frames: u64,
    /// Pages of tables of which the last state, or any, could not be read in full: rows of them may
    /// be lost, or be older ones, of which nobody can say the ids.
    #[serde(default, skip_serializing_if = "is_none_of_them")]
    pub damaged_places: u64,
    /// Tables, indexes, views and triggers that are not in the new database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// Something of the old schema that could not be made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why, as SQLite puts it.
    pub why: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
fn is_none_of_them(n: &u64) -> bool {
    *n == 0
}

impl Report {
    /// Rows without those of the agent's own books; `None` where nothing was counted.
    fn rows_sent(&self) -> Option<u64> {
        if self.tables.is_empty() {
            return self.kept_rows;
        }
        let sent = self.tables.iter().filter(|t| !is_bookkeeping(&t.name));
        Some(sent.map(|t| t.rows).sum())
    }
}

impl fmt::Display for Report {
    /// One line for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.database.display(), self.verdict.name())?;
        if self.verdict == Verdict::Clean && self.skipped_frames == 0 {
            return Ok(());
        }
        write!(f, " ({})", self.found)?;
        if let Some(rows) = self.rows_sent() {
            write!(f, "; {rows} rows are there")?;
        }
        if let Some(from) = &self.restored {
            write!(
                f,
                "; from the snapshot {} of {}, and {} rows of the damaged files",
                from.snapshot, from.taken_at, from.rows_of_files
            )?;
        }
        if self.kept_transactions + self.lost_transactions > 0 {
            write!(
                f,
                "; {} transactions of the log kept, {} lost",
                self.kept_transactions, self.lost_transactions
            )?;
        }
        if self.skipped_frames > 0 {
            write!(
                f,
                "; {} frames at the end of the log were not looked at",
                self.skipped_frames
            )?;
        }
        if self.damaged_places > 0 {
            write!(
                f,
                "; {} pages of its tables could not be read in full",
                self.damaged_places
            )?;
        }
        for LeftOut { name, why } in &self.left_out {
            write!(f, "; {name} was left out: {why}")?;
        }
        match self.missing.as_slice() {
            [] => {}
            [one] => write!(
                f,
                "; {} readings are missing, ids {} to {}",
                self.lost_rows_known, one.first, one.last
            )?,
            [first, .., last] => write!(
                f,
                "; {} readings are missing in {} ranges of ids from {} to {}",
                self.lost_rows_known,
                self.missing.len(),
                first.first,
                last.last
            )?,
        }
        if let Some(evidence) = &self.evidence {
            write!(f, "; the damaged files are kept in {}", evidence.display())?;
        }
        Ok(())
    }
}
