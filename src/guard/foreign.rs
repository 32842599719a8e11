//! Another application's database, made durable by the plan, its writers stilled for the outage.
//!
//! First its files and their directory are synced: that alone makes what it committed durable,
//! also with `synchronous=NORMAL` or `OFF`, and asks nothing of the application. A commit in a
//! rollback journal *is* the removal of the journal, so without the directory's sync a cut could
//! undo it. Then the write lock is taken, so that no transaction is under way, and what was
//! committed meanwhile is synced too. With a unit its processes are stopped while the lock is
//! held, and the lock is let go; without one, or where others write too, the lock is kept for the
//! outage. Only then, and only if there is time, a WAL is checkpointed, by a second connection
//! (one inside a transaction cannot).
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
use crate::power::blocks;

use super::databases::{DatabaseView, GuardedDatabase};
use super::unit::{Cgroups, Unit};

use lock::{Held, Lock};
pub use look::{
    Header, Holders, Journal, header, holders, is_read_only, not_writable, process_in_words,
    writer_now,
};
use look::{
    Log, beside, cannot_open, companions, is_hot, is_open_in_wal, journal_is_live, log_of,
    open_plain, real,
};
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
    /// What lay in its WAL when it was looked at last.
    log: Log,
    /// Our write lock, from the stilling to the release.
    held: Option<Held>,
    /// The plan has stilled it, or has tried to, and it was not let go yet.
    parked: Option<Parked>,
    state: String,
}

/// What the plan knows of a database until the release.
#[derive(Debug)]
struct Parked {
    header: Header,
    stilled: Stilled,
}

/// How stilling the writers went.
#[derive(Debug)]
struct Stilled {
    done: Result<(), String>,
    /// What becomes of the writers.
    words: String,
    /// What was committed before is durable.
    synced: bool,
    /// The lock was had, so that it may be checkpointed.
    locked: bool,
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
            log: Log::default(),
            held: None,
            parked: None,
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

    /// Stills the writers and makes what they committed durable, in about `patience`. What an
    /// earlier attempt holds is kept: no file is closed under our lock.
    fn still_writers(&mut self, header: Header, patience: Duration) -> Stilled {
        let wait = (patience / 2).min(LOCK_WAIT);
        // Stopped for another of its databases: a lock that it holds will not be let go.
        let stands = self.unit.as_ref().is_some_and(Unit::is_stopped);
        let lock = match self.held.take() {
            Some(held) => Lock::Held(held),
            None => {
                let until = self.clock.mono() + if stands { Duration::ZERO } else { wait };
                Lock::take(&real(&self.settings.path), header, until, &*self.clock)
            }
        };
        // A failed sync lets nobody write on: that would only be more to lose.
        let synced = match &lock {
            Lock::Held(held) => self.sync(Some(&held.file)),
            Lock::Needless(_) | Lock::Refused(_) => Ok(()),
        };
        let stopped = match &mut self.unit {
            Some(unit) => unit.stop(self.clock.mono() + wait, &*self.clock),
            None => Ok(false),
        };
        let unit = self.settings.unit.clone().unwrap_or_default();
        let is_stopped = format!("unit {unit} is stopped");
        let locked = matches!(lock, Lock::Held(_));
        let refused = matches!(lock, Lock::Refused(_));
        let (synced, done, words) = match (lock, stopped) {
            (Lock::Held(held), Ok(true)) if !self.outsiders => {
                drop(held);
                (synced, Ok(()), is_stopped)
            }
            (Lock::Held(held), stopped) => {
                self.held = Some(held);
                let words = "its writers wait";
                match stopped {
                    Ok(true) => (synced, Ok(()), format!("{words}; {is_stopped}")),
                    Ok(false) => (synced, Ok(()), words.to_owned()),
                    Err(why) => {
                        let told = format!("{words}: {why}");
                        (
                            synced,
                            Err(format!("{why}; {words} for the lock instead")),
                            told,
                        )
                    }
                }
            }
            (Lock::Needless(why), Ok(false)) => (synced, Ok(()), why.to_owned()),
            (Lock::Needless(why), Ok(true)) => {
                (self.sync(None), Ok(()), format!("{why}; {is_stopped}"))
            }
            // Stopped in the middle of a transaction, perhaps: nothing of that was committed.
            (Lock::Refused(why), Ok(true)) => {
                let words = format!("{is_stopped}; not locked: {why}");
                let done = if self.outsiders { Err(why) } else { Ok(()) };
                (self.sync(None), done, words)
            }
            (Lock::Refused(why), Ok(false)) | (Lock::Needless(_), Err(why)) => {
                let words = format!("its writers go on: {why}");
                (synced, Err(why), words)
            }
            (Lock::Refused(why), Err(also)) => {
                let why = format!("{why}; {also}");
                let words = format!("its writers go on: {why}");
                (synced, Err(why), words)
            }
        };
        // At once, not only at the next look: they write on behind everybody's back.
        self.other_writers |= refused && done.is_err();
        Stilled {
            synced: synced.is_ok(),
            done: synced.and(done),
            words,
            locked,
        }
    }

    /// The lock goes first: the unit's writers must not meet it.
    fn let_go(&mut self) {
        // Closing rolls back what the lock began; nothing was written in it.
        self.held = None;
        self.parked = None;
        if let Some(Err(e)) = self.unit.as_mut().map(Unit::go_on) {
            log::error!("{e}");
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

    fn is_guarded(&self) -> bool {
        true
    }

    fn frames(&self) -> u32 {
        blocks(self.log.bytes)
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

    fn still(&mut self, patience: Duration) -> Result<(), String> {
        let header = match &self.parked {
            Some(parked) if parked.stilled.done.is_ok() => return Ok(()),
            // Not looked at again: that would close the file under our lock.
            Some(parked) => parked.header,
            None => match self.check()? {
                Some(header) => header,
                None => return Ok(()),
            },
        };
        // Before the lock, while the files may still be opened and closed.
        if self.parked.is_none() {
            self.log = log_of(&real(&self.settings.path), header);
        }
        let stilled = self.still_writers(header, patience);
        if !stilled.locked {
            // Nobody moves it.
            self.log = Log::default();
        }
        let how = if stilled.synced {
            "synced"
        } else {
            "not synced"
        };
        self.state = format!("{how}; {}", stilled.words);
        let done = stilled.done.clone();
        self.parked = Some(Parked { header, stilled });
        done
    }

    fn checkpoint(&mut self, _left: Duration) -> Result<u32, String> {
        let Some(Parked { header, stilled }) = &self.parked else {
            return Ok(0);
        };
        if header.journal == Journal::Rollback || !stilled.locked {
            return Ok(0);
        }
        // What is not known to be on the medium may be all there is: the log must stay whole.
        if !stilled.synced || self.medium.as_ref().is_none_or(|m| m.healthy().is_err()) {
            return Err("its log could not be synced".to_owned());
        }
        let real = real(&self.settings.path);
        // With the lock let go, its owner may have been killed since: never ours to own.
        if self.held.is_none() && !matches!(is_open_in_wal(&real), Ok(true)) {
            self.log = Log::default();
            return Ok(0);
        }
        let done = lock::checkpoint(&real);
        let words = &stilled.words;
        self.state = match &done {
            Ok(_) => format!("checkpointed; {words}"),
            Err(e) => format!("synced; not checkpointed: {e}; {words}"),
        };
        done
    }

    fn is_quiet(&mut self, _patience: Duration) -> bool {
        // Everything was done on the calling thread.
        true
    }

    fn checkpoint_early(&mut self) {}

    fn inspect(&mut self, hurry: &dyn Fn() -> bool) {
        if self.parked.is_some() {
            return;
        }
        let before = std::mem::take(&mut self.state);
        // A latched medium and a companion that is no file would fail the plan: say so before.
        let latched = self.medium.as_ref().map_or(Ok(()), |m| m.healthy());
        let checked = latched
            .map_err(|e| format!("{}: {}", self.settings.path.display(), explain(e)))
            .and_then(|()| companions(&real(&self.settings.path)))
            .and_then(|()| self.check());
        let mut log = Log::default();
        let found = match checked {
            Err(why) => Prospects::problem(why),
            Ok(None) => Prospects::well(std::mem::take(&mut self.state)),
            Ok(Some(header)) => {
                let path = &self.settings.path;
                let Some(found) = Prospects::of(path, self.unit.as_mut(), hurry) else {
                    self.state = before;
                    return;
                };
                let real = real(&self.settings.path);
                log = log_of(&real, header);
                let stray =
                    header.journal == Journal::Wal && matches!(journal_is_live(&real), Ok(true));
                let words = match is_hot(&real) {
                    Ok(_) if stray => "a hot journal lies beside its WAL, so that it is only \
                                       synced: stop its application and look at both"
                        .to_owned(),
                    Ok(true) => "its last writer died in a transaction; it is only synced until \
                                 its application has opened it again"
                        .to_owned(),
                    Ok(false) | Err(_) => found.words,
                };
                Prospects {
                    words: format!("watched ({}); {words}", header.journal.name()),
                    other_writers: found.other_writers || stray,
                    ..found
                }
            }
        };
        self.log = log;
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
        if self.parked.is_some() {
            self.let_go();
            "its writers go on".clone_into(&mut self.state);
        }
    }

    fn view(&self) -> DatabaseView {
        DatabaseView {
            path: self.settings.path.display().to_string(),
            role: "guarded",
            priority: self.settings.priority,
            wal_frames: self.log.frames,
            wal_bytes: self.log.bytes,
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
