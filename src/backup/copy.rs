//! One database as one file that holds what was committed at one moment.
//!
//! It promises that the copy is consistent whoever writes the original, and that the original is
//! not written to, nor opened by SQLite while its owner has it closed: the opening alone may
//! delete a log. A copy that power interrupts lets go of the original at once, because a reader
//! keeps the plan from emptying its log, and is begun again.

use std::cell::Cell;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Mode, OFlags};

use crate::durable::{Bulk, CopyError, CopyHow, Heed, HotCopy, PIECE, enter};
use crate::recovery::{Hold, HoldError, RecoveryError, fault_of};
use crate::store::{self, Look, StoreError};

use super::BackupError;
use super::create::in_full;
use super::site::Site;

/// How long a copy waits for a database that its owner has locked.
const BUSY: Duration = Duration::from_secs(10);
/// How often a database that is opened while it is copied is copied again.
const AGAIN: u32 = 5;

/// Who copies a database.
#[derive(Clone, Copy)]
pub enum Copier<'a> {
    /// This thread: nobody in this process has it open.
    Files,
    /// This thread, through a second connection: this process has it open, and may not touch it
    /// with plain file calls.
    Connection,
    /// The thread that writes it.
    Writer(&'a dyn HotCopy),
}

impl std::fmt::Debug for Copier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Files => "Files",
            Self::Connection => "Connection",
            Self::Writer(_) => "Writer",
        })
    }
}

/// Copies `database` to `to`, where there must be nothing; its size. The copy is synced.
///
/// # Errors
/// It cannot be read, is damaged so that SQLite would drop committed data without a word, or the
/// copy cannot be written.
pub(super) fn copy(
    database: &Path,
    copier: Copier<'_>,
    to: &Path,
    site: &Site<'_>,
) -> Result<u64, BackupError> {
    match copier {
        Copier::Writer(hot) => by_writer(hot, database, to, site),
        Copier::Connection => by_connection(database, to, site),
        Copier::Files => by_files(database, to, site),
    }
}

/// Between its commits.
fn by_writer(
    hot: &dyn HotCopy,
    database: &Path,
    to: &Path,
    site: &Site<'_>,
) -> Result<u64, BackupError> {
    let told = Cell::new(0u64);
    let how = CopyHow {
        medium: site.medium,
        gate: site.gate,
        stop: site.stop,
        clock: site.clock,
        heed: &|| Heed::Go,
        progress: &|done, _| (site.progress)(done.saturating_sub(told.replace(done))),
    };
    match hot.copy(to, &how) {
        Ok(receipt) => Ok(receipt.bytes),
        Err(CopyError::Stopped) => Err(BackupError::Stopped),
        Err(source) => Err(BackupError::Copy {
            database: database.to_owned(),
            source,
        }),
    }
}

/// Nobody in this process has it open; others may.
fn by_files(database: &Path, to: &Path, site: &Site<'_>) -> Result<u64, BackupError> {
    for _ in 0..AGAIN {
        match Hold::take(database) {
            // Not held meanwhile: its owner may start.
            Ok(hold) => drop(hold),
            Err(HoldError::InUse { .. }) => return by_connection(database, to, site),
            Err(e @ HoldError::Io { .. }) => return Err(e.into()),
        }
        let before = State::of(database)?;
        if before.database.is_none() {
            return Err(BackupError::NoDatabase(database.to_owned()));
        }
        sound(database)?;
        for suffix in ["", "-wal", "-journal"] {
            copy_file(
                &store::companion(database, suffix),
                &store::companion(to, suffix),
                site,
            )?;
        }
        let quiet = match Hold::take(database) {
            Ok(_hold) => State::of(database)? == before,
            Err(HoldError::InUse { .. }) => false,
            Err(e @ HoldError::Io { .. }) => return Err(e.into()),
        };
        if quiet {
            return settle(to, site);
        }
        remove(to, site)?;
    }
    by_connection(database, to, site)
}

/// What shows that nobody wrote.
#[derive(Debug, PartialEq, Eq)]
struct State {
    database: Option<Seen>,
    log: Option<Seen>,
    journal: Option<Seen>,
}

/// Inode, size, and when it was changed.
type Seen = (u64, u64, i64, i64);

impl State {
    fn of(database: &Path) -> Result<Self, BackupError> {
        let seen = |suffix: &str| {
            let path = store::companion(database, suffix);
            let of = |m: Metadata| (m.ino(), m.len(), m.mtime(), m.mtime_nsec());
            match fs::symlink_metadata(&path) {
                Ok(found) => Ok(Some(of(found))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(BackupError::io("look at", &path)(e)),
            }
        };
        Ok(Self {
            database: seen("")?,
            log: seen("-wal")?,
            journal: seen("-journal")?,
        })
    }
}

/// Is it one that SQLite reads in full? Looked at as bytes.
fn sound(database: &Path) -> Result<(), BackupError> {
    let damaged = |why: &str| BackupError::Damaged {
        database: database.to_owned(),
        why: why.to_owned(),
    };
    let unusable = |e: &dyn std::error::Error| BackupError::Unusable { why: in_full(e) };
    match store::look(database) {
        Ok(Look::Database) => Ok(()),
        Ok(Look::Fresh) => Err(BackupError::NoDatabase(database.to_owned())),
        Ok(Look::DamagedWal(why)) => Err(damaged(&format!("of its log {why}"))),
        Err(StoreError::OrphanWal { state, .. }) => Err(damaged(&format!(
            "it is {state}, and its log lies beside it"
        ))),
        Err(StoreError::NotSqlite { .. }) => match fault_of(database) {
            Err(e @ RecoveryError::Alien(_)) => Err(BackupError::Unusable {
                why: format!("{e}: move it away"),
            }),
            Ok(_) | Err(_) => Err(damaged("its header is damaged")),
        },
        Err(e) => Err(unusable(&e)),
    }
}

/// A file as it is, if it is there.
fn copy_file(from: &Path, to: &Path, site: &Site<'_>) -> Result<(), BackupError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut source = match rustix::fs::open(from, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(e) => return Err(BackupError::io("open", from)(e.into())),
    };
    let mut copy = Bulk::create(to, site.medium, site.gate, site.stop)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = source
            .read(&mut buffer)
            .map_err(BackupError::io("read", from))?;
        if n == 0 {
            break;
        }
        copy.write_all(&buffer[..n])
            .map_err(BackupError::io("write", to))?;
        (site.progress)(n as u64);
    }
    copy.finish()?;
    Ok(())
}

/// The copy's own log or journal goes into it: one file is left.
fn settle(to: &Path, site: &Site<'_>) -> Result<u64, BackupError> {
    let failed = BackupError::sqlite(to, "settle");
    let companions = ["-wal", "-journal"].map(|s| store::companion(to, s));
    if companions.iter().any(|c| c.exists()) {
        // A log is as long as its owner let it grow; it is written under one pass.
        let pass = enter(site.gate, site.stop).map_err(BackupError::io("write", to))?;
        let conn = Connection::open_with_flags(
            to,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(&failed)?;
        // The reading plays a hot journal back.
        conn.execute_batch(
            "PRAGMA synchronous = OFF; PRAGMA cache_size = -2048; SELECT 1 FROM sqlite_schema;",
        )
        .map_err(&failed)?;
        let mode: String = conn
            .query_row("PRAGMA journal_mode = DELETE", [], |r| r.get(0))
            .map_err(&failed)?;
        if mode != "delete" {
            return Err(BackupError::Damaged {
                database: to.to_owned(),
                why: format!("its copy stays in journal mode {mode}"),
            });
        }
        drop(conn);
        drop(pass);
        for left in companions {
            site.medium.remove(&left)?;
        }
        let file = File::open(to).map_err(BackupError::io("open", to))?;
        site.medium.sync_data(&file, to)?;
    }
    Ok(fs::metadata(to)
        .map_err(BackupError::io("look at", to))?
        .len())
}

pub(super) fn remove(to: &Path, site: &Site<'_>) -> Result<(), BackupError> {
    for suffix in ["-wal", "-journal", ""] {
        site.medium.remove(&store::companion(to, suffix))?;
    }
    Ok(())
}

/// Somebody writes it: all that was committed when it began, from one read transaction.
fn by_connection(database: &Path, to: &Path, site: &Site<'_>) -> Result<u64, BackupError> {
    loop {
        match once(database, to, site)? {
            Some(bytes) => return Ok(bytes),
            // Power: nothing of the original is held while it is away.
            None => {
                drop(enter(site.gate, site.stop).map_err(BackupError::io("write", to))?);
                remove(to, site)?;
            }
        }
    }
}

/// `None`: the gate was closed meanwhile.
fn once(database: &Path, to: &Path, site: &Site<'_>) -> Result<Option<u64>, BackupError> {
    let failed = BackupError::sqlite(database, "copy");
    let source = Connection::open_with_flags(
        database,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(&failed)?;
    source.busy_timeout(BUSY).map_err(&failed)?;
    source
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(&failed)?;
    // In one transaction, so that no commit begins the copy again.
    source
        .execute_batch("PRAGMA cache_size = -1024; BEGIN; SELECT 1 FROM sqlite_schema;")
        .map_err(&failed)?;
    let page: usize = source
        .query_row("PRAGMA page_size", [], |r| r.get::<_, u32>(0))
        .map_err(&failed)? as usize;
    let pages = i32::try_from(PIECE / page.max(512)).unwrap_or(16);

    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file: File = rustix::fs::open(to, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| BackupError::io("create", to)(e.into()))?
        .into();
    let mut copy = Connection::open_with_flags(
        to,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(&failed)?;
    copy.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1024;",
    )
    .map_err(&failed)?;
    {
        let backup = Backup::new(&source, &mut copy).map_err(&failed)?;
        loop {
            let Some(pass) = site.gate.try_enter() else {
                return Ok(None);
            };
            if site.stop.load(Ordering::Relaxed) {
                return Err(BackupError::Stopped);
            }
            let step = backup.step(pages).map_err(&failed)?;
            site.medium.sync_data(&file, to)?;
            drop(pass);
            (site.progress)(PIECE as u64);
            if step == StepResult::Done {
                break;
            }
            if step != StepResult::More {
                return Err(BackupError::Busy(database.to_owned()));
            }
        }
    }
    drop(source);
    copy.close().map_err(|(_, e)| failed(e))?;
    let Some(_pass) = site.gate.try_enter() else {
        return Ok(None);
    };
    site.medium.sync_data(&file, to)?;
    let bytes = file
        .metadata()
        .map_err(BackupError::io("look at", to))?
        .len();
    Ok(Some(bytes))
}

/// Where copies are made, for `database` with the name `name` in the archive.
pub(super) fn place(work: &Path, number: usize) -> PathBuf {
    work.join(format!("copy-{number}.db"))
}
