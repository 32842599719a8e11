//! Another application's database, made durable by the plan.
//!
//! First its WAL is synced with a plain fdatasync: that alone makes what it committed durable,
//! also with `synchronous=NORMAL` or `OFF`, and asks nothing of the application. Then, only where
//! its owner has it open, the write lock is taken and a second connection checkpoints (one inside
//! a transaction cannot). The lock is kept until the outage is over. A database that nobody has
//! open is never opened: the agent would own its -wal and -shm and lock the owner out.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};

use crate::clock::{Clock, Mono};
use crate::config::DatabaseSettings;
use crate::durable::Medium;

use super::databases::{DatabaseView, GuardedDatabase};

/// SQLite's lock bytes, see os.h and wal.c: pending, reserved and shared bytes of the database,
/// and the lock slots of the -shm.
const DB_LOCKS: (u64, u64) = (0x4000_0000, 512);
const SHM_LOCKS: (u64, u64) = (120, 9);
/// How often a writer that holds the lock is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// See the module's text.
#[derive(Debug)]
pub struct ForeignDatabase {
    settings: DatabaseSettings,
    name: String,
    medium: Option<Arc<Medium>>,
    clock: Arc<dyn Clock>,
    /// Holds BEGIN IMMEDIATE from the checkpoint to the release.
    held: Option<Connection>,
    state: String,
}

impl ForeignDatabase {
    /// The database of a `[[database]]` entry. It may not exist yet.
    pub fn new(settings: DatabaseSettings, clock: Arc<dyn Clock>) -> Self {
        let name = settings
            .path
            .file_name()
            .unwrap_or(settings.path.as_os_str());
        let name = name.to_string_lossy().into_owned();
        Self {
            settings,
            name,
            medium: None,
            clock,
            held: None,
            state: "not looked at".to_owned(),
        }
    }

    fn sync(&mut self) -> Result<(), String> {
        // Its directory may have appeared since the start, or lie on another file system; the
        // latch is therefore its own.
        let dir = self.settings.path.parent().unwrap_or(Path::new("/"));
        let medium = match &self.medium {
            Some(m) => Arc::clone(m),
            None => {
                let opened = Arc::new(Medium::open(dir).map_err(explain)?);
                self.medium = Some(Arc::clone(&opened));
                opened
            }
        };
        for path in [
            self.beside("-journal"),
            self.beside("-wal"),
            self.settings.path.clone(),
        ] {
            match File::open(&path) {
                // No connection of ours is open, so closing this drops nobody's lock.
                Ok(file) => medium.sync_data(&file, &path).map_err(explain)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(format!("cannot open {}: {e}", path.display())),
            }
        }
        Ok(())
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.settings.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    fn owner_has_it_open(&self) -> io::Result<bool> {
        Ok(
            is_locked(&self.settings.path, DB_LOCKS)?
                || is_locked(&self.beside("-shm"), SHM_LOCKS)?,
        )
    }

    fn lock_and_checkpoint(&mut self, until: Mono) -> Result<u32, String> {
        let open = || -> rusqlite::Result<Connection> {
            let c = Connection::open_with_flags(
                &self.settings.path,
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?;
            c.busy_timeout(Duration::ZERO)?;
            Ok(c)
        };
        let holder = open().map_err(explain)?;
        while let Err(e) = holder.execute_batch("BEGIN IMMEDIATE") {
            if !is_busy(&e) || self.clock.mono() >= until {
                return Err(format!("cannot take the write lock of {}: {e}", self.name));
            }
            pause(ASK_AGAIN);
        }
        // From here on nobody else writes, whatever becomes of the checkpoint.
        let checkpointer = open();
        self.held = Some(holder);
        let (busy, log, moved): (i64, i64, i64) = checkpointer
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
}

impl GuardedDatabase for ForeignDatabase {
    fn name(&self) -> &str {
        &self.name
    }

    fn priority(&self) -> i32 {
        self.settings.priority
    }

    fn frames(&self) -> u32 {
        0
    }

    fn settle(&mut self) {}

    fn commit(&mut self, _left: Duration) -> Result<(), String> {
        if self.held.is_some() {
            return Ok(());
        }
        self.sync()
    }

    fn checkpoint(&mut self, left: Duration) -> Result<u32, String> {
        if self.held.is_some() {
            return Ok(0);
        }
        let until = self.clock.mono() + left / 2;
        let open = self
            .owner_has_it_open()
            .map_err(|e| format!("cannot probe the locks of {}: {e}", self.name))?;
        if !open {
            "synced; nobody has it open".clone_into(&mut self.state);
            return Ok(0);
        }
        let done = self.lock_and_checkpoint(until);
        self.state = match &done {
            Ok(_) => "checkpointed; its writers wait".to_owned(),
            Err(e) => format!("synced; not checkpointed: {e}"),
        };
        done
    }

    fn is_quiet(&mut self, _patience: Duration) -> bool {
        // Everything was done on the calling thread.
        true
    }

    fn checkpoint_early(&mut self) {}

    fn release(&mut self) {
        if let Some(holder) = self.held.take() {
            // Closing rolls back what the lock began; nothing was written in it.
            drop(holder);
            "its writers go on".clone_into(&mut self.state);
        }
    }

    fn view(&self) -> DatabaseView {
        DatabaseView {
            path: self.settings.path.display().to_string(),
            role: "guarded",
            priority: self.settings.priority,
            wal_frames: None,
            state: self.state.clone(),
        }
    }
}

/// Does another process hold a lock in that range? A missing file has none.
fn is_locked(path: &Path, (start, length): (u64, u64)) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let probe = Flock {
        start,
        length,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    Ok(fcntl_getlk(&file, &probe)?.is_some())
}

fn is_busy(e: &rusqlite::Error) -> bool {
    e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
}

fn pause(d: Duration) {
    let d = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: d.subsec_nanos().into(),
    };
    // Interrupted early means asked early.
    drop(rustix::thread::nanosleep(&d));
}

fn explain(e: impl std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        text.push_str(": ");
        text.push_str(&s.to_string());
        source = s.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn guarded(path: &Path) -> ForeignDatabase {
        let settings = DatabaseSettings {
            path: path.to_owned(),
            priority: 50,
            unit: None,
        };
        ForeignDatabase::new(settings, Arc::new(SystemClock))
    }

    #[test]
    fn a_database_that_nobody_has_open_is_synced_and_never_opened() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = home.path().join("app.db");
        let c = Connection::open(&path).expect("open");
        c.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)")
            .expect("fill");
        drop(c);
        let mut db = guarded(&path);
        db.commit(Duration::from_secs(1)).expect("commit");
        assert_eq!(db.checkpoint(Duration::from_secs(1)), Ok(0));
        assert!(db.held.is_none());
        assert!(
            !home.path().join("app.db-shm").exists(),
            "we would own its -shm"
        );
    }

    #[test]
    fn a_missing_database_is_no_failure() {
        let home = tempfile::tempdir().expect("temp dir");
        let mut db = guarded(&home.path().join("later.db"));
        db.commit(Duration::from_secs(1)).expect("commit");
        assert_eq!(db.checkpoint(Duration::from_secs(1)), Ok(0));
    }
}
