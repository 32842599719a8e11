//! The write lock of another application's database, and the checkpoint beside it.
//!
//! Taken only where opening the database harms nobody, held until dropped. Never waits without a
//! limit.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::clock::{Clock, Mono};

use super::explain;
use super::look::{
    Header, Journal, cannot_open, companions, is_hot, is_open_in_wal, journal_is_live,
    not_writable, open_plain,
};

/// How often a writer that holds the lock is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// BEGIN IMMEDIATE. The fields go in this order: closing the file drops every lock that this
/// process has on it, so that comes after the connection's own end.
#[derive(Debug)]
pub(super) struct Held {
    _connection: Connection,
    /// The database, for syncs under the lock.
    pub(super) file: File,
}

/// How the attempt went.
pub(super) enum Lock {
    /// Ours: from here on nobody else writes.
    Held(Held),
    /// Not tried, and no harm in that; why.
    Needless(&'static str),
    /// Not to be had.
    Refused(String),
}

impl Lock {
    /// Takes the write lock of the database `real`, unless opening it would harm.
    pub(super) fn take(real: &Path, header: Header, until: Mono, clock: &dyn Clock) -> Self {
        let shown = real.display();
        if let Err(why) = companions(real) {
            return Self::Refused(why);
        }
        let probed = match header.journal {
            Journal::Wal => {
                is_open_in_wal(real).map(|open| (!open).then_some("nobody has it open"))
            }
            Journal::Rollback => {
                is_hot(real).map(|hot| hot.then_some("its last writer died in a transaction"))
            }
        };
        match probed {
            Err(e) => return Self::Refused(format!("cannot probe the locks of {shown}: {e}")),
            Ok(Some(why)) => return Self::Needless(why),
            Ok(None) => {}
        }
        // It belongs to no transaction of this log's: whoever opens it rolls it back in place.
        match journal_is_live(real) {
            Ok(true) if header.journal == Journal::Wal => {
                return Self::Refused(format!("a hot journal lies beside the WAL of {shown}"));
            }
            Err(e) => return Self::Refused(cannot_open(real, &e)),
            Ok(_) => {}
        }
        if let Some(why) = not_writable(real) {
            return Self::Refused(why);
        }
        // Before any connection: see `Held`.
        let file = match open_plain(real) {
            Ok(Some(file)) => file,
            Ok(None) => return Self::Needless("it was removed"),
            Err(e) => return Self::Refused(cannot_open(real, &e)),
        };
        let connection = match begin(real, until, clock) {
            Ok(connection) => connection,
            Err(why) => return Self::Refused(why),
        };
        Self::Held(Held {
            _connection: connection,
            file,
        })
    }
}

fn begin(real: &Path, until: Mono, clock: &dyn Clock) -> Result<Connection, String> {
    let connection = connect(real).map_err(explain)?;
    while let Err(e) = connection.execute_batch("BEGIN IMMEDIATE") {
        if !is_busy(&e) || clock.mono() >= until {
            return Err(format!(
                "cannot take the write lock of {}: {e}",
                real.display()
            ));
        }
        pause(ASK_AGAIN);
    }
    Ok(connection)
}

fn connect(real: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let c = Connection::open_with_flags(real, flags)?;
    c.busy_timeout(Duration::ZERO)?;
    Ok(c)
}

/// Moves the WAL into the database from a connection of its own: one inside a transaction cannot.
/// Somebody must have it open.
pub(super) fn checkpoint(real: &Path) -> Result<u32, String> {
    let (busy, log, moved): (i64, i64, i64) = connect(real)
        .and_then(|c| {
            c.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })
        })
        .map_err(explain)?;
    if log >= 0 && moved < log {
        return Err(format!(
            "a reader holds {} of {log} frames back (busy {busy})",
            log - moved
        ));
    }
    Ok(u32::try_from(moved.max(0)).unwrap_or(u32::MAX))
}

fn is_busy(e: &rusqlite::Error) -> bool {
    e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
}

pub(super) fn pause(d: Duration) {
    let d = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: d.subsec_nanos().into(),
    };
    // Interrupted early means asked early.
    drop(rustix::thread::nanosleep(&d));
}
