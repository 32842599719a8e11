//! The look at a database's files as bytes, before anything opens them.
//!
//! It promises to find what would make SQLite drop committed data without a word: a log whose
//! header or frames are damaged, a log beside a missing or empty database (which it deletes), a
//! database that ends early. What a power cut explains is clean. It reads the log once and of the
//! database only its first page, so that a clean start costs the same whatever the size. It must
//! never write, nor look while this process holds an SQLite connection to the file.

use std::path::Path;

use super::RecoveryError;
use super::acknowledged::Acknowledged;
use super::files::{companion, open_existing};
use super::leftover;
use super::pages::{Header, Journal, JournalState, page_size_of};
use super::source::{Bytes, FileBytes};
use super::swap;
use super::wal::{HeaderState, Known, Verdict as LogVerdict, Wal};

/// What stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// Nothing: no database, and nothing beside it that holds anything.
    Nothing,
    /// Nothing is off, and SQLite has nothing to replay.
    Clean,
    /// SQLite itself brings the last commits in; says what.
    Replayable(String),
    /// Says what is off.
    Off(String),
    /// Somebody's text, and no database ever.
    Alien,
}

/// The files, opened for reading, and what was seen.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) database: Option<FileBytes>,
    pub(super) log: Option<FileBytes>,
    pub(super) journal: Option<(FileBytes, Journal)>,
    pub(super) wal: Wal,
    /// As the database's header states it; where that is lost, as its pages show it.
    pub(super) page_size: Option<u32>,
    pub(super) condition: Condition,
    /// Bytes of the database and all its companions.
    pub(super) bytes: u64,
    /// Bytes at their ends that nobody ever wrote: a file may be said to be far longer than it is.
    /// They are looked at by nobody.
    pub(super) hole: u64,
}

impl Looked {
    /// Was it written through a log?
    pub(super) fn is_logged(&self) -> bool {
        let mut modes = [0u8; 2];
        let stated = self
            .database
            .as_ref()
            .is_some_and(|f| f.read_at(&mut modes, 18).is_ok_and(|n| n == 2) && modes == [2, 2]);
        stated || self.wal.frames().next().is_some()
    }
}

/// What is off about `database`, which nobody has open; `None`: it may be opened in its place.
///
/// # Errors
/// [`RecoveryError::Nothing`] and [`RecoveryError::Alien`]: it is no database; else it cannot be
/// read.
pub fn fault_of(database: &Path) -> Result<Option<String>, RecoveryError> {
    fault_after(database, false)
}

/// The same. `cut`: power was cut since it was written.
///
/// # Errors
/// As [`fault_of`].
pub fn fault_after(database: &Path, cut: bool) -> Result<Option<String>, RecoveryError> {
    if swap::is_unfinished(database) {
        return Ok(Some("its recovery was cut short".to_owned()));
    }
    match look(database, cut, None)?.condition {
        Condition::Nothing => Err(RecoveryError::Nothing(database.to_owned())),
        Condition::Alien => Err(RecoveryError::Alien(database.to_owned())),
        Condition::Off(why) => Ok(Some(why)),
        Condition::Clean | Condition::Replayable(_) => Ok(None),
    }
}

/// Looks at `database` (or its copy in the evidence). `cut`: power was cut since it was written, so
/// that a last commit which is not whole is no damage, unless what is `acknowledged` says that
/// somebody was told of it.
pub(super) fn look(
    database: &Path,
    cut: bool,
    acknowledged: Option<Acknowledged>,
) -> Result<Looked, RecoveryError> {
    let open = |suffix: &str| -> Result<Option<FileBytes>, RecoveryError> {
        let path = companion(database, suffix);
        let cannot = |source| RecoveryError::Io {
            doing: "look at",
            path: path.clone(),
            source,
        };
        let file = open_existing(&path, false).map_err(cannot)?;
        file.map(FileBytes::new).transpose().map_err(cannot)
    };
    let (mut file, mut log) = (open("")?, open("-wal")?);
    let mut hole = 0;
    if let Some(file) = &mut file {
        let mut first = [0; 100];
        let read = file.read_at(&mut first, 0).ok();
        let header = read.and_then(|_| Header::parse(&first));
        let stated = header.map_or(0, |h| u64::from(h.pages) * h.page_size as u64);
        hole += file.leave_out_hole(stated);
    }
    hole += log.as_mut().map_or(0, |log| log.leave_out_hole(0));
    let journal = match open("-journal")? {
        Some(mut log) => {
            hole += log.leave_out_hole(0);
            let cannot = RecoveryError::io("read", &companion(database, "-journal"));
            let read = Journal::read(&log).map_err(cannot)?;
            Some((log, read))
        }
        None => None,
    };
    let shm = open("-shm")?;
    let known = file.as_ref().map_or_else(Known::default, |f| Known::of(f));
    let mut wal = log
        .as_ref()
        .map_or_else(Wal::absent, |log| Wal::read(log, known));
    let told = log.as_ref().map(|log| log as &dyn Bytes);
    if leftover::ends_in_one(known.database, told, &wal) {
        wal.leave_out_last();
    }
    let dropped = acknowledged.and_then(|a| a.dropped(known.database, told, &wal));
    if dropped.is_some() || (is_in_doubt(&wal) && !cut) {
        wal.suspect_tail();
    }
    let state = journal
        .as_ref()
        .map_or(JournalState::Idle, |(_, j)| j.state());
    let rollback = journal.as_ref().map(|(log, _)| log);
    let all = [file.as_ref(), log.as_ref(), shm.as_ref(), rollback];
    let bytes = all.into_iter().flatten().map(Bytes::len).sum();
    // A log knows it better than the pages of a file without a header.
    let shown = file.as_ref().filter(|_| wal.page_size().is_none());
    let shown = shown.and_then(|f| u32::try_from(page_size_of(f).ok()?).ok());
    let page_size = shown.or(known.page_size);
    let condition = judge(file.as_ref(), &wal, state, cut, dropped);
    Ok(Looked {
        database: file,
        log,
        journal,
        wal,
        page_size,
        condition,
        bytes,
        hole,
    })
}

/// Does the last commit bear damage of which the log alone cannot say what it is?
fn is_in_doubt(wal: &Wal) -> bool {
    matches!(
        wal.verdict(),
        LogVerdict::TornTail {
            commit_in_doubt: true,
            ..
        }
    )
}

fn judge(
    file: Option<&FileBytes>,
    wal: &Wal,
    journal: JournalState,
    cut: bool,
    dropped: Option<(i64, i64)>,
) -> Condition {
    let hot = journal != JournalState::Idle;
    let Some(file) = file.filter(|f| !f.is_empty()) else {
        return match (wal.verdict(), hot) {
            (LogVerdict::Absent | LogVerdict::Empty, false) => Condition::Nothing,
            (LogVerdict::Absent | LogVerdict::Empty, true) => Condition::Off(
                "the database is missing or empty, but a rollback journal lies beside it"
                    .to_owned(),
            ),
            _ => Condition::Off(
                "the database is missing or empty, but a write-ahead log lies beside it, which \
                 SQLite would delete"
                    .to_owned(),
            ),
        };
    };
    let mut first = [0u8; 100];
    let header = match file.read_at(&mut first, 0) {
        Ok(100) => Header::parse(&first),
        Ok(_) => None,
        Err(e) => return Condition::Off(format!("its first page cannot be read: {e}")),
    };
    let Some(header) = header else {
        return if is_text(file) {
            Condition::Alien
        } else {
            Condition::Off("its header is damaged".to_owned())
        };
    };
    if let Some(why) = log_fault(wal, header.page_size, cut) {
        return Condition::Off(why);
    }
    if let Some((first, last)) = dropped {
        return Condition::Off(format!(
            "the end of its log is damaged: SQLite would drop readings {first} to {last}, which \
             were acknowledged"
        ));
    }
    match journal {
        JournalState::Idle | JournalState::Hot => {}
        JournalState::Torn => {
            return Condition::Off("its rollback journal is damaged".to_owned());
        }
        JournalState::Unreadable => {
            return Condition::Off("its rollback journal cannot be read".to_owned());
        }
    }
    if !hot && let Some(why) = ends_early(file, &header, &first, wal) {
        return Condition::Off(why);
    }
    let replayed = match wal.verdict() {
        LogVerdict::Clean { frames, .. } | LogVerdict::TornTail { frames, .. } => frames,
        // Only its last transaction is damaged, and a cut explains that.
        LogVerdict::Damaged(d) => d.frames,
        LogVerdict::Absent | LogVerdict::Empty | LogVerdict::Unreadable => 0,
    };
    if replayed > 0 {
        Condition::Replayable(format!("{replayed} frames of its log are to be replayed"))
    } else if hot {
        Condition::Replayable("a transaction is to be rolled back".to_owned())
    } else {
        Condition::Clean
    }
}

/// Does it begin as text does? No page of a database is without a control byte, and what erased
/// flash reads as is no text.
fn is_text(file: &FileBytes) -> bool {
    let mut start = [0u8; 512];
    let Ok(n) = file.read_at(&mut start, 0) else {
        return false;
    };
    let whole = match std::str::from_utf8(&start[..n]) {
        Ok(_) => n,
        // The last character may go on behind what was read.
        Err(e) if e.error_len().is_none() => e.valid_up_to(),
        Err(_) => return false,
    };
    let text = std::str::from_utf8(&start[..whole]).unwrap_or_default();
    let is_text = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    text.chars().all(is_text)
}

/// What is wrong with the log that a cut does not explain.
fn log_fault(wal: &Wal, page_size: usize, cut: bool) -> Option<String> {
    if wal.page_size().is_some_and(|size| size != page_size) {
        return Some("its log has pages of another size".to_owned());
    }
    match wal.verdict() {
        LogVerdict::Absent | LogVerdict::Empty | LogVerdict::Clean { .. } => None,
        LogVerdict::TornTail {
            commit_in_doubt, ..
        } => (commit_in_doubt && !cut).then(|| {
            "the last commit of its log is damaged, and no power cut explains that".to_owned()
        }),
        LogVerdict::Damaged(d) if d.only_last && cut => None,
        LogVerdict::Damaged(d) => {
            let header = match d.header {
                HeaderState::Intact => "",
                HeaderState::Mended(_) | HeaderState::Rebuilt(_) => "the header of its log and ",
            };
            let bad = d.frames_damaged + d.frames_unproven + d.frames_mended;
            Some(format!(
                "{header}{bad} of the log's {} frames are damaged; SQLite would keep {} of {} \
                 transactions",
                d.frames, d.kept_by_sqlite, d.transactions
            ))
        }
        LogVerdict::Unreadable => Some("its log cannot be read".to_owned()),
    }
}

/// Are pages missing at its end that the log does not hold?
fn ends_early(file: &FileBytes, header: &Header, first: &[u8; 100], wal: &Wal) -> Option<String> {
    let whole = u32::try_from(file.len() / header.page_size as u64).unwrap_or(u32::MAX);
    // The header's count is true only where the change counter says so; see the file format, 1.3.7.
    let counted = first[24..28] == first[92..96];
    let kept = wal.kept_by_sqlite();
    let needed = match kept.checked_sub(1).and_then(|t| wal.size_after(t)) {
        Some(pages) => pages,
        None if counted => header.pages,
        None => return None,
    };
    if needed <= whole {
        return None;
    }
    let mut held: Vec<u32> = wal
        .frames()
        .filter(|f| f.transaction.is_some_and(|t| t < kept))
        .map(|f| f.page)
        .filter(|page| (whole + 1..=needed).contains(page))
        .collect();
    held.sort_unstable();
    held.dedup();
    let missing = u64::from(needed - whole) - held.len() as u64;
    (missing > 0).then(|| format!("it ends early: {missing} of its {needed} pages are missing"))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::source::READ;
    use super::*;

    /// Bytes that the look at a sound, closed database of so many rows reads; and its size.
    fn read_of(rows: u32, journal: &str) -> (u64, u64) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.db");
        let conn = Connection::open(&path).expect("open");
        conn.execute_batch(&format!(
            "PRAGMA synchronous = OFF; PRAGMA journal_mode = {journal};
             CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT);
             WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO t SELECT i, printf('%.200c', 'x') FROM n;"
        ))
        .expect("rows");
        conn.close().expect("close");
        let before = READ.get();
        let looked = look(&path, false, None).expect("look");
        assert_eq!(looked.condition, Condition::Clean);
        (READ.get() - before, looked.bytes)
    }

    #[test]
    fn a_clean_look_reads_as_much_of_a_large_database_as_of_a_small_one() {
        for journal in ["WAL", "DELETE", "TRUNCATE"] {
            let (little, small) = read_of(10, journal);
            let (much, large) = read_of(60_000, journal);
            assert!(large > 8 << 20 && large > 500 * small, "{small}, {large}");
            assert!(
                little > 0 && little == much,
                "{little} and {much} bytes read"
            );
            assert!(much <= 4096, "{much} bytes read");
        }
    }
}
