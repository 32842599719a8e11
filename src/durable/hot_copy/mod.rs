//! A consistent copy of a database that is being written, made by the thread that writes it.
//!
//! It promises that commits go on meanwhile: the writer copies a few pages between two of them, on
//! its own connection, because from a second one every commit would begin the copy again. Nothing
//! is written while the gate is closed. The copy is a database file alone, in rollback mode, and on
//! the medium when it is called done; one that was not finished is removed.

mod pages;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::clock::Clock;

pub use pages::{Copying, Target};

use super::bulk::enter;
use super::gate::Gate;
use super::medium::{DurableError, Medium, fault};

/// Bytes that the writer copies between two commits.
const STEP: u64 = 64 << 10;
/// Bytes between two syncs of the copy: less than elsewhere, because commits share the card.
const SYNC_EVERY: u64 = 256 << 10;
/// Between two steps at least, so that the writer's thread is not kept busy by the copy.
const REST: Duration = Duration::from_millis(1);
/// After a sync it rests as long as that took, at most this.
const REST_MAX: Duration = Duration::from_millis(500);
/// How often a copy that waits looks whether it shall go on.
const LOOK: Duration = Duration::from_millis(100);
/// The first page says here by which journal the file is written; 1 is a rollback journal.
const JOURNAL: u64 = 18;

/// What is asked of a copy between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heed {
    /// Go on.
    Go,
    /// Others need the card now; it is asked again.
    Wait,
    /// Give up; says why.
    GiveUp(&'static str),
}

/// How a copy is made.
#[derive(Clone, Copy)]
pub struct CopyHow<'a> {
    /// The file system of the copy.
    pub medium: &'a Medium,
    /// Passed for each step and each sync.
    pub gate: &'a Gate,
    /// Set from elsewhere to give up.
    pub stop: &'a AtomicBool,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Asked before each step.
    pub heed: &'a dyn Fn() -> Heed,
    /// Told after each step: bytes done, bytes in all. The second may grow.
    pub progress: &'a dyn Fn(u64, u64),
}

impl std::fmt::Debug for CopyHow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyHow")
            .field("medium", self.medium)
            .finish_non_exhaustive()
    }
}

/// A finished copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its size in bytes.
    pub bytes: u64,
    /// How long it took, waiting included.
    pub took: Duration,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Somebody asked for the end.
    #[error("the copy was told to stop")]
    Stopped,
    /// What it was told between two steps.
    #[error("the copy was given up: {0}")]
    GivenUp(&'static str),
    /// Nobody writes the database now.
    #[error("the database is not open in its writer: copy it when its state is running")]
    NotOpen,
    /// One at a time.
    #[error("another copy of this database is being made: try again when it is done")]
    Busy,
    /// SQLite could not read the one or write the other.
    #[error("cannot copy to {}", path.display())]
    Sqlite {
        /// The copy.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The copy cannot be made durable.
    #[error(transparent)]
    Durable(#[from] DurableError),
}

impl CopyError {
    /// For want of room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Durable(e) => e.is_full(),
            Self::Sqlite { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            Self::Stopped | Self::GivenUp(_) | Self::NotOpen | Self::Busy => false,
        }
    }
}

/// What the writer is asked to do.
#[derive(Debug)]
enum What {
    Begin(PathBuf),
    Step,
    End,
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
enum State {
    Begun,
    /// The gate is closed.
    Closed,
    More {
        done: u64,
        all: u64,
    },
    Done,
    Ended,
}

/// One thing for the writer to do between two commits.
#[derive(Debug)]
pub struct CopyOrder {
    what: What,
    answer: SyncSender<Result<State, CopyError>>,
}

impl CopyOrder {
    /// A copy is to be begun.
    pub fn begins(&self) -> bool {
        matches!(self.what, What::Begin(_))
    }

    /// Answers an order that comes while no copy is being made.
    pub fn idle(self) {
        let state = match self.what {
            What::End => Ok(State::Ended),
            What::Begin(_) | What::Step => Err(CopyError::NotOpen),
        };
        self.reply(state);
    }

    fn reply(self, state: Result<State, CopyError>) {
        // Who asked may have gone.
        self.answer.try_send(state).ok();
    }
}

/// A database that can be copied while it is written.
pub trait HotCopy: Send + Sync {
    /// Hands an order to the thread that writes. Must not wait. An order that nobody will carry out
    /// is dropped, which its sender sees.
    fn hand_over(&self, order: CopyOrder);

    /// Copies it to `to`, where there must be nothing. Blocks until that is done.
    ///
    /// # Errors
    /// [`CopyError`]: then nothing is left at `to`, unless the gate stayed closed until it was told
    /// to stop.
    fn copy(&self, to: &Path, how: &CopyHow<'_>) -> Result<Receipt, CopyError> {
        let began = how.clock.mono();
        let bytes = Asking {
            hand: &|order| self.hand_over(order),
            to,
            how,
        }
        .copy()?;
        let took = how.clock.mono().since(began);
        Ok(Receipt { bytes, took })
    }
}

/// The side that asks.
struct Asking<'a> {
    hand: &'a dyn Fn(CopyOrder),
    to: &'a Path,
    how: &'a CopyHow<'a>,
}

impl Asking<'_> {
    fn copy(&self) -> Result<u64, CopyError> {
        let file = self.create()?;
        let copied = self
            .ask(What::Begin(self.to.to_owned()))
            .and_then(|_| self.steps(&file));
        // It is told so that it closes the copy; where it has ended it has done that.
        let ended = self.tell(What::End);
        let done = copied.and(ended).and_then(|_| self.seal(&file));
        if done.is_err() {
            self.remove();
        }
        done
    }

    fn create(&self) -> Result<File, CopyError> {
        let to = self.to;
        self.how.medium.healthy()?;
        let _pass = self.enter()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(to, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| fault("create", to, e.into()))?;
        Ok(File::from(file))
    }

    fn steps(&self, file: &File) -> Result<(), CopyError> {
        let mut unsynced = 0;
        loop {
            self.heed()?;
            match self.ask(What::Step)? {
                State::Closed => drop(self.enter()?),
                State::More { done, all } => {
                    (self.how.progress)(done, all);
                    unsynced += STEP;
                    rest(REST);
                }
                State::Done => return Ok(()),
                State::Begun | State::Ended => return Err(CopyError::NotOpen),
            }
            if unsynced >= SYNC_EVERY {
                unsynced = 0;
                let began = self.how.clock.mono();
                self.sync(file)?;
                rest(self.how.clock.mono().since(began).min(REST_MAX));
            }
        }
    }

    /// The last of it is on the medium, and it needs no log.
    fn seal(&self, file: &File) -> Result<u64, CopyError> {
        let to = self.to;
        let pass = self.enter()?;
        file.write_all_at(&[1, 1], JOURNAL)
            .map_err(|e| fault("write", to, e))?;
        let bytes = file.metadata().map_err(|e| fault("look at", to, e))?.len();
        self.how.medium.sync_data(file, to)?;
        self.how.medium.sync_parent(to)?;
        drop(pass);
        Ok(bytes)
    }

    fn sync(&self, file: &File) -> Result<(), CopyError> {
        let _pass = self.enter()?;
        Ok(self.how.medium.sync_data(file, self.to)?)
    }

    /// Where the gate stays closed until the end, whoever makes the next copy removes it.
    fn remove(&self) {
        if let Ok(_pass) = enter(self.how.gate, self.how.stop)
            && let Err(e) = self.how.medium.remove(self.to)
        {
            log::warn!("an unfinished copy is left: {e}");
        }
    }

    fn heed(&self) -> Result<(), CopyError> {
        loop {
            if self.how.stop.load(Ordering::Relaxed) {
                return Err(CopyError::Stopped);
            }
            match (self.how.heed)() {
                Heed::Go => return Ok(()),
                Heed::Wait => rest(LOOK),
                Heed::GiveUp(why) => return Err(CopyError::GivenUp(why)),
            }
        }
    }

    /// Waits for the gate, and heeds meanwhile.
    fn enter(&self) -> Result<super::Pass<'_>, CopyError> {
        loop {
            self.heed()?;
            if let Some(pass) = self.how.gate.enter_timeout(LOOK) {
                return Ok(pass);
            }
        }
    }

    fn ask(&self, what: What) -> Result<State, CopyError> {
        self.put(what, &|| self.heed())
    }

    fn tell(&self, what: What) -> Result<State, CopyError> {
        self.put(what, &|| Ok(()))
    }

    /// The writer may be busy for long: with a checkpoint, or with a card that does not answer.
    fn put(
        &self,
        what: What,
        patient: &dyn Fn() -> Result<(), CopyError>,
    ) -> Result<State, CopyError> {
        let (answer, wait) = sync_channel(1);
        (self.hand)(CopyOrder { what, answer });
        loop {
            match wait.recv_timeout(LOOK) {
                Ok(state) => return state,
                Err(RecvTimeoutError::Timeout) => patient()?,
                Err(RecvTimeoutError::Disconnected) => return Err(CopyError::NotOpen),
            }
        }
    }
}

/// Nobody waits for this thread, and nobody wakes it.
fn rest(time: Duration) {
    std::thread::park_timeout(time);
}

#[cfg(test)]
mod tests;
