//! How far a file is on the medium, for who reads it while it is still being written.
//!
//! It promises that what it lets be read was synced, and that the file ends only where its writer
//! said so. A writer that gives up ends the reading with an error.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::durable::{Bulk, DurableError};

#[derive(Debug, Clone, Copy)]
enum State {
    /// So many bytes are on the medium; more come.
    Growing(u64),
    /// All of them are.
    Whole(u64),
    /// It is never finished.
    GivenUp,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Trail {
    state: Mutex<State>,
    news: Condvar,
}

impl Trail {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::Growing(0)),
            news: Condvar::new(),
        }
    }

    /// Waits until there are bytes behind the first `at`; how many there are in all then, `at`
    /// itself where the file ends there.
    ///
    /// # Errors
    /// The writer gave up.
    pub(super) fn beyond(&self, at: u64) -> io::Result<u64> {
        let growing = |s: &mut State| matches!(*s, State::Growing(upto) if upto <= at);
        let state = self.news.wait_while(self.lock(), growing);
        match *state.unwrap_or_else(PoisonError::into_inner) {
            State::Growing(upto) | State::Whole(upto) => Ok(upto),
            State::GivenUp => Err(io::Error::other("it was not written to its end")),
        }
    }

    fn set(&self, state: State) {
        *self.lock() = state;
        self.news.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that is written, and says how far it is. Dropped before it is finished, it was given up.
#[derive(Debug)]
pub(super) struct Leaving<'a> {
    /// `None`: finished.
    out: Option<Bulk<'a>>,
    trail: &'a Trail,
    synced: u64,
}

impl<'a> Leaving<'a> {
    pub(super) fn new(out: Bulk<'a>, trail: &'a Trail) -> Self {
        Self {
            out: Some(out),
            trail,
            synced: 0,
        }
    }

    /// Everything is on the medium; `before` is called before the last of it may be read.
    pub(super) fn finish(mut self, before: impl FnOnce()) -> Result<(), DurableError> {
        if let Some(out) = self.out.take() {
            let bytes = out
                .finish()
                .inspect_err(|_| self.trail.set(State::GivenUp))?;
            before();
            self.trail.set(State::Whole(bytes));
        }
        Ok(())
    }
}

impl Write for Leaving<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let out = self.out.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let n = out.write(bytes)?;
        if out.synced() > self.synced {
            self.synced = out.synced();
            self.trail.set(State::Growing(self.synced));
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self.out.is_some() {
            self.trail.set(State::GivenUp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::{Gate, Medium, PIECE};
    use std::sync::atomic::AtomicBool;
    use std::thread;

    #[test]
    fn only_what_was_synced_may_be_read_and_the_end_is_where_it_was_finished() {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("open");
        let (gate, stop) = (Gate::new(), AtomicBool::new(false));
        let bulk = Bulk::create(&home.path().join("a"), &medium, &gate, &stop).expect("create");
        let trail = Trail::new();
        let mut out = Leaving::new(bulk, &trail);
        out.write_all(&vec![1; PIECE + 9]).expect("write");
        assert_eq!(trail.beyond(0).expect("a piece"), PIECE as u64);
        thread::scope(|scope| {
            // Nine bytes are written and not synced: who wants them waits for the end.
            let waits = scope.spawn(|| trail.beyond(PIECE as u64));
            let mut told = false;
            out.finish(|| told = true).expect("finish");
            assert!(told);
            let whole = PIECE as u64 + 9;
            assert_eq!(waits.join().expect("thread").expect("whole"), whole);
            assert_eq!(trail.beyond(whole).expect("its end"), whole);
        });
    }

    #[test]
    fn who_reads_along_is_told_when_the_writer_gives_up() {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("open");
        let (gate, stop) = (Gate::new(), AtomicBool::new(false));
        let bulk = Bulk::create(&home.path().join("a"), &medium, &gate, &stop).expect("create");
        let trail = Trail::new();
        thread::scope(|scope| {
            let waits = scope.spawn(|| trail.beyond(0));
            drop(Leaving::new(bulk, &trail));
            waits.join().expect("thread").expect_err("given up");
        });
    }
}
