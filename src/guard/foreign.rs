//! Another application's database, made durable by the plan, its writers stilled for the outage.
//!
//! First its files and their directory are synced: that alone makes what it committed durable,
//! also with `synchronous=NORMAL` or `OFF`, and asks nothing of the application. A commit in a
//! rollback journal *is* the removal of the journal, so without the directory's sync a cut could
//! undo it. Then the write lock is taken, so that no transaction is under way, and what was
//! committed meanwhile is synced too; a WAL is checkpointed by a second connection (one inside a
//! transaction cannot). With a unit its processes are stopped while the lock is held, and the
//! lock is let go; without one, or where others write too, the lock is kept for the outage.
//!
//! A WAL that nobody has open is never opened: the agent would own its -wal and -shm and lock the
//! owner out. Nor is a database whose writer died in a transaction: opening it would undo that in
//! place.

mod look;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::clock::{Clock, Mono};
use crate::config::DatabaseSettings;
use crate::durable::Medium;

use super::databases::{DatabaseView, GuardedDatabase};
use super::unit::{Cgroups, Unit, UnitState};

pub use look::{
    Header, Holders, Journal, header, holders, is_read_only, not_writable, process_in_words,
    writer_now,
};
use look::{beside, cannot_open, is_hot, is_open_in_wal, journal_is_live, open_plain, real};

/// A writer in the middle of its transaction, and a unit that is to stop, are waited for this
/// long at most, each: a transaction in a rollback journal takes four syncs, on a slow card most
/// of a second.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// How often a writer that holds the lock is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(1);
/// The same while service goes on.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// See the module's text.
#[derive(Debug)]
pub struct ForeignDatabase {
    settings: DatabaseSettings,
    name: String,
    medium: Option<Arc<Medium>>,
    clock: Arc<dyn Clock>,
    /// The agent's own databases, and those that others of these guard: opening and closing one
    /// of them here would drop its locks.
    taken: Vec<PathBuf>,
    unit: Option<Unit>,
    /// Others than the unit's processes have it open, or may have, as of the last look.
    outsiders: bool,
    problem: bool,
    other_writers: bool,
    /// Our write lock, from the checkpoint to the release.
    held: Option<Held>,
    /// The plan has done with it, and it was not let go yet.
    parked: bool,
    state: String,
}

/// BEGIN IMMEDIATE. The fields go in this order: closing the file drops every lock that this
/// process has on it, so that comes after the connection's own end.
#[derive(Debug)]
struct Held {
    _connection: Connection,
    file: File,
}

/// How the attempt at the write lock went.
enum Lock {
    /// Ours. A checkpoint that did not move everything says why.
    Held(Held, Result<u32, String>),
    /// Not tried, and no harm in that; why.
    Needless(&'static str),
    /// Not to be had.
    Refused(String),
}

impl ForeignDatabase {
    /// The database of a `[[database]]` entry. It may not exist yet. `taken` are databases that it
    /// must not be under whatever name: the agent's own and those of entries before it.
    pub fn new(
        settings: DatabaseSettings,
        taken: Vec<PathBuf>,
        cgroups: Cgroups,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let name = settings
            .path
            .file_name()
            .unwrap_or(settings.path.as_os_str());
        let name = name.to_string_lossy().into_owned();
        let unit = settings.unit.as_deref().map(|u| Unit::new(u, cgroups));
        Self {
            settings,
            name,
            medium: None,
            clock,
            taken,
            unit,
            outsiders: false,
            problem: false,
            other_writers: false,
            held: None,
            parked: false,
            state: "not looked at".to_owned(),
        }
    }

    /// Syncs the files and their directory. `file` is the database where a connection of ours is
    /// open: opening and closing it again would drop that one's locks.
    fn sync(&mut self, file: Option<&File>) -> Result<(), String> {
        let real = real(&self.settings.path);
        let dir = real.parent().unwrap_or(Path::new("/"));
        // Its directory may have appeared since the start, or lie on another file system; the
        // latch is therefore its own.
        let medium = match &self.medium {
            Some(m) if m.dir() == dir => Arc::clone(m),
            _ if !dir.exists() => return Ok(()),
            _ => {
                let opened = Arc::new(Medium::open(dir).map_err(explain)?);
                self.medium = Some(Arc::clone(&opened));
                opened
            }
        };
        let one = |path: &Path| -> Result<(), String> {
            match open_plain(path).map_err(|e| cannot_open(path, &e))? {
                Some(f) => medium.sync_data(&f, path).map_err(explain),
                None => Ok(()),
            }
        };
        let journal = beside(&real, "-journal");
        // While a transaction is under way its journal must be on the medium before the pages
        // that it can undo; once it was committed (emptied, its header zeroed, removed) the pages
        // before that is.
        if journal_is_live(&real).map_err(|e| cannot_open(&journal, &e))? {
            one(&journal)?;
        }
        one(&beside(&real, "-wal"))?;
        match file {
            Some(f) => medium.sync_data(f, &real).map_err(explain)?,
            None => one(&real)?,
        }
        one(&journal)?;
        medium.sync_parent(&real).map_err(explain)
    }

    /// Is it something that may be guarded? Looks at the file by its name before it opens it.
    /// `None` where there is nothing to guard yet, or nothing that could change.
    fn check(&mut self) -> Result<Option<Header>, String> {
        let path = &self.settings.path;
        let Ok(it) = fs::metadata(path) else {
            "does not exist yet".clone_into(&mut self.state);
            return Ok(None);
        };
        let same = |other: &&PathBuf| {
            fs::metadata(other).is_ok_and(|m| (m.dev(), m.ino()) == (it.dev(), it.ino()))
        };
        if let Some(other) = self.taken.iter().find(same) {
            return Err(format!(
                "{} is {} under another name; remove it from [[database]]",
                path.display(),
                other.display()
            ));
        }
        let header = header(path)?;
        if header.is_none() {
            "is empty".clone_into(&mut self.state);
        } else if is_read_only(path) {
            "lies on a read-only file system: there is nothing to make durable"
                .clone_into(&mut self.state);
            return Ok(None);
        }
        Ok(header)
    }

    /// Takes the write lock and checkpoints, unless opening it would harm.
    fn lock(&self, header: Header, until: Mono) -> Lock {
        let real = real(&self.settings.path);
        let probed = match header.journal {
            Journal::Wal => {
                is_open_in_wal(&real).map(|open| (!open).then_some("nobody has it open"))
            }
            Journal::Rollback => {
                is_hot(&real).map(|hot| hot.then_some("its last writer died in a transaction"))
            }
        };
        match probed {
            Err(e) => {
                return Lock::Refused(format!("cannot probe the locks of {}: {e}", self.name));
            }
            Ok(Some(why)) => return Lock::Needless(why),
            Ok(None) => {}
        }
        if let Some(why) = not_writable(&real) {
            return Lock::Refused(why);
        }
        // Before any connection: see `Held`.
        let file = match open_plain(&real) {
            Ok(Some(file)) => file,
            Ok(None) => return Lock::Needless("it was removed"),
            Err(e) => return Lock::Refused(cannot_open(&real, &e)),
        };
        let holder = match self.begin(&real, until) {
            Ok(holder) => holder,
            Err(why) => return Lock::Refused(why),
        };
        // From here on nobody else writes, whatever becomes of the checkpoint.
        let done = match header.journal {
            Journal::Wal => checkpoint(&real),
            Journal::Rollback => Ok(0),
        };
        let held = Held {
            _connection: holder,
            file,
        };
        Lock::Held(held, done)
    }

    fn begin(&self, real: &Path, until: Mono) -> Result<Connection, String> {
        let holder = connect(real).map_err(explain)?;
        while let Err(e) = holder.execute_batch("BEGIN IMMEDIATE") {
            if !is_busy(&e) || self.clock.mono() >= until {
                return Err(format!("cannot take the write lock of {}: {e}", self.name));
            }
            pause(ASK_AGAIN);
        }
        Ok(holder)
    }

    /// Stills the writers and makes what they committed durable.
    fn still(&mut self, header: Header, left: Duration) -> Result<u32, String> {
        let wait = (left / 4).min(LOCK_WAIT);
        let lock = self.lock(header, self.clock.mono() + wait);
        if let Lock::Held(held, _) = &lock {
            self.sync(Some(&held.file))?;
        }
        let stopped = match &mut self.unit {
            Some(unit) => unit.stop(self.clock.mono() + wait, &*self.clock),
            None => Ok(false),
        };
        let unit = self.settings.unit.clone().unwrap_or_default();
        match (lock, stopped) {
            (Lock::Held(held, done), Ok(true)) if !self.outsiders => {
                self.state = format!("{}; unit {unit} is stopped", told(&done, header));
                drop(held);
                done
            }
            (Lock::Held(held, done), stopped) => {
                self.held = Some(held);
                self.state = format!("{}; its writers wait", told(&done, header));
                match stopped {
                    Ok(_) => done,
                    Err(why) => {
                        self.state = format!("{}: {why}", self.state);
                        Err(format!("{why}; its writers wait for the lock instead"))
                    }
                }
            }
            (Lock::Needless(why), Ok(false)) => {
                self.state = format!("synced; {why}");
                Ok(0)
            }
            (Lock::Needless(why), Ok(true)) => {
                self.sync(None)?;
                self.state = format!("synced; {why}; unit {unit} is stopped");
                Ok(0)
            }
            // Stopped in the middle of a transaction, perhaps: nothing of that was committed.
            (Lock::Refused(why), Ok(true)) => {
                self.sync(None)?;
                self.state = format!("synced; unit {unit} is stopped; not locked: {why}");
                if self.outsiders { Err(why) } else { Ok(0) }
            }
            (Lock::Refused(why), Ok(false)) | (Lock::Needless(_), Err(why)) => {
                self.state = format!("synced; its writers go on: {why}");
                Err(why)
            }
            (Lock::Refused(why), Err(also)) => {
                self.state = format!("synced; its writers go on: {why}; {also}");
                Err(format!("{why}; {also}"))
            }
        }
    }

    /// Could its writers be stilled now? `None` when `hurry` ended the look.
    fn prospects(&mut self, hurry: &dyn Fn() -> bool) -> Option<Prospects> {
        let path = self.settings.path.clone();
        let unit = self.unit.as_mut().map(|u| (u.name().to_owned(), u.look()));
        match &unit {
            None => {}
            Some((unit, UnitState::NotRunning)) => {
                let mut p = self.prospects_of_the_lock(hurry)?;
                p.words = format!("{}; unit {unit} is not running", p.words);
                return Some(p);
            }
            Some((unit, UnitState::Refused(why))) => {
                return Some(Prospects::risk(format!(
                    "unit {unit} cannot be stopped: {why}"
                )));
            }
            Some((unit, UnitState::Ready)) => {
                let found = match holders(&path, hurry) {
                    Ok(found) => found?,
                    Err(e) => {
                        return Some(Prospects::risk(format!("cannot see who has it open: {e}")));
                    }
                };
                let outside: Vec<_> = found
                    .pids
                    .iter()
                    .filter(|pid| !self.unit.as_ref().is_some_and(|u| u.holds(**pid)))
                    .map(|pid| process_in_words(*pid))
                    .collect();
                self.outsiders = found.unseen || !outside.is_empty();
                if !outside.is_empty() {
                    return Some(Prospects::risk(format!(
                        "{} has it open too and is not of unit {unit}: end it, or start it in the unit",
                        outside.join(", ")
                    )));
                }
                return Some(Prospects::well(format!("unit {unit} can be stopped")));
            }
        }
        self.prospects_of_the_lock(hurry)
    }

    /// A writer that never lets the lock go has `locking_mode=EXCLUSIVE`, or one long transaction.
    fn prospects_of_the_lock(&mut self, hurry: &dyn Fn() -> bool) -> Option<Prospects> {
        self.outsiders = false;
        let path = &self.settings.path;
        if let Some(why) = not_writable(path) {
            return Some(Prospects {
                problem: true,
                ..Prospects::well(why)
            });
        }
        let mut left = LOCK_WAIT;
        loop {
            if hurry() {
                return None;
            }
            match writer_now(path) {
                Ok(None) => return Some(Prospects::well("its writers will wait".to_owned())),
                Ok(Some(pid)) if left.is_zero() => {
                    return Some(Prospects::risk(format!(
                        "{} never lets its lock go (locking_mode=EXCLUSIVE, or one long \
                         transaction): name the unit that writes it, or give that NORMAL",
                        process_in_words(pid)
                    )));
                }
                Ok(Some(_)) => pause(LOOK_AGAIN),
                Err(e) => return Some(Prospects::risk(format!("cannot probe its locks: {e}"))),
            }
            left = left.saturating_sub(LOOK_AGAIN);
        }
    }

    /// Lets the unit go on first: its writers must not meet our lock.
    fn let_go(&mut self) {
        if let Some(Err(e)) = self.unit.as_mut().map(Unit::go_on) {
            log::error!("{e}");
        }
        // Closing rolls back what the lock began; nothing was written in it.
        self.held = None;
        self.parked = false;
    }
}

/// What a look while service goes on has found.
struct Prospects {
    problem: bool,
    other_writers: bool,
    words: String,
}

impl Prospects {
    fn well(words: String) -> Self {
        Self {
            problem: false,
            other_writers: false,
            words,
        }
    }

    fn risk(words: String) -> Self {
        Self {
            other_writers: true,
            ..Self::well(words)
        }
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
        self.check()?;
        if is_read_only(&self.settings.path) {
            return Ok(());
        }
        self.sync(None)
    }

    fn checkpoint(&mut self, left: Duration) -> Result<u32, String> {
        if self.parked {
            return Ok(0);
        }
        let Some(header) = self.check()? else {
            return Ok(0);
        };
        self.parked = true;
        self.still(header, left)
    }

    fn is_quiet(&mut self, _patience: Duration) -> bool {
        // Everything was done on the calling thread.
        true
    }

    fn checkpoint_early(&mut self) {}

    fn inspect(&mut self, hurry: &dyn Fn() -> bool) {
        if self.parked {
            return;
        }
        let before = std::mem::take(&mut self.state);
        let checked = self.check();
        let found = match checked {
            Err(why) => Prospects {
                problem: true,
                ..Prospects::well(why)
            },
            Ok(None) => Prospects::well(std::mem::take(&mut self.state)),
            Ok(Some(header)) => {
                let Some(found) = self.prospects(hurry) else {
                    self.state = before;
                    return;
                };
                let words = match is_hot(&real(&self.settings.path)) {
                    Ok(true) => "its last writer died in a transaction; it is only synced until \
                                 its application has opened it again"
                        .to_owned(),
                    Ok(false) | Err(_) => found.words,
                };
                Prospects {
                    words: format!("watched ({}); {words}", header.journal.name()),
                    ..found
                }
            }
        };
        self.problem = found.problem;
        self.other_writers = found.other_writers;
        self.state = found.words;
        if self.state != before {
            if self.problem {
                log::error!("guarded database: {}", self.state);
            } else if self.other_writers {
                log::warn!("guarded database {}: {}", self.name, self.state);
            }
        }
    }

    fn release(&mut self) {
        if self.parked {
            self.let_go();
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
            other_writers: self.other_writers,
            state: self.state.clone(),
        }
    }
}

impl Drop for ForeignDatabase {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn connect(real: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let c = Connection::open_with_flags(real, flags)?;
    c.busy_timeout(Duration::ZERO)?;
    Ok(c)
}

/// Moves the WAL into the database from a connection of its own.
fn checkpoint(real: &Path) -> Result<u32, String> {
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

fn told(done: &Result<u32, String>, header: Header) -> String {
    match (done, header.journal) {
        (Ok(_), Journal::Wal) => "checkpointed".to_owned(),
        (Ok(_), Journal::Rollback) => "synced".to_owned(),
        (Err(e), _) => format!("synced; not checkpointed: {e}"),
    }
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
mod tests;
