//! Another application's database, made durable by the plan.
//!
//! First its WAL is synced with a plain fdatasync: that alone makes what it committed durable,
//! also with `synchronous=NORMAL` or `OFF`, and asks nothing of the application. Then, only where
//! its owner has it open, the write lock is taken and a second connection checkpoints (one inside
//! a transaction cannot). The lock is kept until the outage is over. A database that nobody has
//! open is never opened: the agent would own its -wal and -shm and lock the owner out.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};

use crate::clock::{Clock, Mono};
use crate::config::DatabaseSettings;
use crate::durable::Medium;

use super::databases::{DatabaseView, GuardedDatabase};

/// SQLite's lock bytes, see os.h and wal.c: pending, reserved and shared bytes of the database,
/// and the lock slots of the -shm.
const DB_LOCKS: (u64, u64) = (0x4000_0000, 512);
const SHM_LOCKS: (u64, u64) = (120, 9);
/// The first bytes of every SQLite database.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// A writer in the middle of its transaction is waited for this long at most.
const LOCK_WAIT: Duration = Duration::from_millis(250);
/// How often a writer that holds the lock is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// See the module's text.
#[derive(Debug)]
pub struct ForeignDatabase {
    settings: DatabaseSettings,
    name: String,
    medium: Option<Arc<Medium>>,
    clock: Arc<dyn Clock>,
    /// The agent's own databases: opening and closing one of them here would drop its locks.
    own: Vec<PathBuf>,
    problem: bool,
    /// Holds BEGIN IMMEDIATE from the checkpoint to the release.
    held: Option<Connection>,
    state: String,
}

impl ForeignDatabase {
    /// The database of a `[[database]]` entry. It may not exist yet. `own` are the agent's, which
    /// it must not be under whatever name.
    pub fn new(settings: DatabaseSettings, own: Vec<PathBuf>, clock: Arc<dyn Clock>) -> Self {
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
            own,
            problem: false,
            held: None,
            state: "not looked at".to_owned(),
        }
    }

    fn sync(&mut self) -> Result<(), String> {
        self.check()?;
        // Its directory may have appeared since the start, or lie on another file system; the
        // latch is therefore its own.
        let dir = self.settings.path.parent().unwrap_or(Path::new("/"));
        let medium = match &self.medium {
            Some(m) => Arc::clone(m),
            None if !dir.exists() => return Ok(()),
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
            // No connection of ours is open, so closing this drops nobody's lock.
            if let Some(file) = open_plain(&path).map_err(|e| cannot_open(&path, &e))? {
                medium.sync_data(&file, &path).map_err(explain)?;
            }
        }
        Ok(())
    }

    /// Is it something that may be guarded? Looks at the file by its name before it opens it.
    fn check(&self) -> Result<(), String> {
        let path = &self.settings.path;
        let Ok(it) = fs::metadata(path) else {
            return Ok(());
        };
        let same = |own: &PathBuf| {
            fs::metadata(own).is_ok_and(|m| (m.dev(), m.ino()) == (it.dev(), it.ino()))
        };
        if self.own.iter().any(same) {
            return Err(format!(
                "{} is the agent's own database under another name; remove it from [[database]]",
                path.display()
            ));
        }
        let mut head = [0u8; 16];
        let file = open_plain(path).map_err(|e| cannot_open(path, &e))?;
        let read = file.map_or(Ok(0), |f| f.read_at(&mut head, 0));
        match read.map_err(|e| cannot_open(path, &e))? {
            // Empty is a database that its application has not written yet.
            0 => Ok(()),
            16 if &head == SQLITE_MAGIC => Ok(()),
            _ => Err(format!("{} is not an SQLite database", path.display())),
        }
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
        self.check()?;
        let until = self.clock.mono() + (left / 4).min(LOCK_WAIT);
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

    fn inspect(&mut self) {
        if self.held.is_some() {
            return;
        }
        let checked = self.check();
        self.problem = checked.is_err();
        self.state = match checked {
            Err(why) => {
                if self.state != why {
                    log::error!("guarded database: {why}");
                }
                why
            }
            Ok(()) if !self.settings.path.exists() => "does not exist yet".to_owned(),
            Ok(()) => "watched".to_owned(),
        };
    }

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
            problem: self.problem,
            state: self.state.clone(),
        }
    }
}

/// Opens a regular file for reading; `None` where there is nothing. Never blocks: whoever owns the
/// directory could have put a FIFO there.
fn open_plain(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => {
            let file = File::from(fd);
            if file.metadata()?.is_file() {
                Ok(Some(file))
            } else {
                Err(io::Error::other("it is not a regular file"))
            }
        }
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn cannot_open(path: &Path, e: &io::Error) -> String {
    format!("cannot open {}: {e}", path.display())
}

/// Does another process hold a lock in that range? A missing file has none.
fn is_locked(path: &Path, (start, length): (u64, u64)) -> io::Result<bool> {
    let Some(file) = open_plain(path)? else {
        return Ok(false);
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
        ForeignDatabase::new(
            settings,
            vec![path.with_file_name("own.db")],
            Arc::new(SystemClock),
        )
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
    fn the_agents_own_database_under_another_name_is_never_opened() {
        let home = tempfile::tempdir().expect("temp dir");
        let own = home.path().join("own.db");
        Connection::open(&own)
            .and_then(|c| c.execute_batch("CREATE TABLE t(a)"))
            .expect("fill");
        for (name, link) in [("soft.db", true), ("hard.db", false)] {
            let path = home.path().join(name);
            if link {
                std::os::unix::fs::symlink(&own, &path).expect("link");
            } else {
                fs::hard_link(&own, &path).expect("link");
            }
            let mut db = guarded(&path);
            let e = db.commit(Duration::from_secs(1)).expect_err("refused");
            assert!(e.contains("own database under another name"), "{e}");
            assert!(db.checkpoint(Duration::from_secs(1)).is_err());
            db.inspect();
            assert!(db.view().problem);
        }
    }

    #[test]
    fn a_fifo_or_junk_in_its_place_is_named_and_never_waited_for() {
        let home = tempfile::tempdir().expect("temp dir");
        let path = home.path().join("app.db");
        let fifo = home.path().join("app.db-journal");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .expect("fifo");
        let e = guarded(&path)
            .commit(Duration::from_secs(1))
            .expect_err("a fifo");
        assert!(e.contains("app.db-journal") && e.contains("regular"), "{e}");
        let junk = home.path().join("junk.db");
        File::create(&junk)
            .and_then(|f| f.write_all_at(b"these are notes, not rows", 0))
            .expect("junk");
        let e = guarded(&junk)
            .commit(Duration::from_secs(1))
            .expect_err("junk");
        assert!(e.contains("not an SQLite database"), "{e}");
    }

    #[test]
    fn a_missing_database_is_no_failure() {
        let home = tempfile::tempdir().expect("temp dir");
        let mut db = guarded(&home.path().join("no/such/later.db"));
        db.commit(Duration::from_secs(1)).expect("commit");
        assert_eq!(db.checkpoint(Duration::from_secs(1)), Ok(0));
    }
}
