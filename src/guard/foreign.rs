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

mod lock;
mod look;
mod prospects;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::DatabaseSettings;
use crate::durable::Medium;

use super::databases::{DatabaseView, GuardedDatabase};
use super::unit::{Cgroups, Unit};

use lock::{Held, Lock};
pub use look::{
    Header, Holders, Journal, header, holders, is_read_only, not_writable, process_in_words,
    writer_now,
};
use look::{beside, cannot_open, is_hot, journal_is_live, open_plain, real};
use prospects::Prospects;

/// A writer in the middle of its transaction, and a unit that is to stop, are waited for this
/// long at most, each: a transaction in a rollback journal takes four syncs, on a slow card most
/// of a second.
const LOCK_WAIT: Duration = Duration::from_secs(1);

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

    /// Stills the writers and makes what they committed durable.
    fn still(&mut self, header: Header, left: Duration) -> Result<u32, String> {
        let wait = (left / 4).min(LOCK_WAIT);
        // Stopped for another of its databases: a lock that it holds will not be let go.
        let stands = self.unit.as_ref().is_some_and(Unit::is_stopped);
        let until = self.clock.mono() + if stands { Duration::ZERO } else { wait };
        let lock = Lock::take(&real(&self.settings.path), header, until, &*self.clock);
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
                    Ok(true) => {
                        self.state = format!("{}; unit {unit} is stopped", self.state);
                        done
                    }
                    Ok(false) => done,
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
            Err(why) => Prospects::problem(why),
            Ok(None) => Prospects::well(std::mem::take(&mut self.state)),
            Ok(Some(header)) => {
                let path = &self.settings.path;
                let Some(found) = Prospects::of(path, self.unit.as_mut(), hurry) else {
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
        self.outsiders = found.outsiders;
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

fn told(done: &Result<u32, String>, header: Header) -> String {
    match (done, header.journal) {
        (Ok(_), Journal::Wal) => "checkpointed".to_owned(),
        (Ok(_), Journal::Rollback) => "synced".to_owned(),
        (Err(e), _) => format!("synced; not checkpointed: {e}"),
    }
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
