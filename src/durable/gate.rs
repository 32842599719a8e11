//! The gate that every writer of the agent passes.
//!
//! A writer holds a [`Pass`] while it writes. Closing the gate is "stop writing": one atomic
//! operation, safe on the guard thread, undone as fast. It never takes a pass away: whoever
//! holds one finishes its transaction, and [`Gate::wait_quiet`] tells when the last one has.
//!
//! The whole state is one word, the futex that waiters sleep on: three bits say who closed the
//! gate, the rest counts the passes. So there is no moment between "the gate is closed" and
//! "nobody new can enter".

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::futex;

use crate::clock::{Clock, Mono, SystemClock};

/// Who holds the gate closed. Each opens only what it closed itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closer {
    /// The guard: power is suspect, failing, or gone.
    Power,
    /// The agent has not finished starting, or is stopping.
    Agent,
    /// The medium is full, or a sync failed.
    Medium,
}

impl Closer {
    const fn bit(self) -> u32 {
        match self {
            Self::Power => 1 << 31,
            Self::Agent => 1 << 30,
            Self::Medium => 1 << 29,
        }
    }
}

const CLOSED: u32 = 0b111 << 29;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Gate {
    word: AtomicU32,
}

/// The right to write, until dropped.
#[derive(Debug)]
#[must_use = "the pass is the right to write; dropped at once it guards nothing"]
pub struct Pass<'a> {
    gate: &'a Gate,
}

/// The same for one who outlives every borrow.
#[derive(Debug)]
pub(super) struct OwnPass(Arc<Gate>);

impl Gate {
    /// An open gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Closes the gate. Does not block, allocate or fail.
    pub fn close(&self, who: Closer) {
        self.word.fetch_or(who.bit(), Ordering::SeqCst);
    }

    /// Takes back one's own closing and wakes those who wait to enter. Does not block,
    /// allocate or fail.
    pub fn open(&self, who: Closer) {
        self.word.fetch_and(!who.bit(), Ordering::SeqCst);
        self.wake_all();
    }

    /// Is it closed, by anyone?
    pub fn is_closed(&self) -> bool {
        self.word.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// Is it closed by `who`?
    pub fn is_closed_by(&self, who: Closer) -> bool {
        self.word.load(Ordering::SeqCst) & who.bit() != 0
    }

    /// A pass, if the gate is open.
    pub fn try_enter(&self) -> Option<Pass<'_>> {
        self.word
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |w| {
                (w & CLOSED == 0).then_some(w + 1)
            })
            .ok()
            .map(|_| Pass { gate: self })
    }

    /// Waits for the gate to open, at most `timeout`.
    pub fn enter_timeout(&self, timeout: Duration) -> Option<Pass<'_>> {
        let end = SystemClock.mono() + timeout;
        loop {
            let open = self.wait_while(end, |w| w & CLOSED != 0);
            // It may have closed again since.
            match self.try_enter() {
                None if open => {}
                pass => return pass,
            }
        }
    }

    /// [`Gate::enter_timeout`] for one who outlives every borrow.
    pub(super) fn enter_own(this: &Arc<Self>, timeout: Duration) -> Option<OwnPass> {
        let pass = this.enter_timeout(timeout)?;
        std::mem::forget(pass);
        Some(OwnPass(Arc::clone(this)))
    }

    /// A pass is given back.
    fn leave(&self) {
        let before = self.word.fetch_sub(1, Ordering::SeqCst);
        if before & CLOSED != 0 {
            self.wake_all();
        }
    }

    /// Waits until nobody holds a pass, at most `timeout`; true when it is so.
    ///
    /// Meaningful while the gate is closed: else the next writer may enter at once.
    pub fn wait_quiet(&self, timeout: Duration) -> bool {
        self.wait_while(SystemClock.mono() + timeout, |w| w & !CLOSED != 0)
    }

    /// How many hold a pass now.
    pub fn in_flight(&self) -> u32 {
        self.word.load(Ordering::SeqCst) & !CLOSED
    }

    /// Sleeps while `busy` holds; true when it ended, false when `end` came first.
    fn wait_while(&self, end: Mono, busy: impl Fn(u32) -> bool) -> bool {
        loop {
            let word = self.word.load(Ordering::SeqCst);
            if !busy(word) {
                return true;
            }
            let left = end.since(SystemClock.mono());
            if left.is_zero() {
                return false;
            }
            let left = futex::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            // Any return means "look again": woken, changed under us, interrupted, timed out.
            futex::wait(&self.word, futex::Flags::PRIVATE, word, Some(&left)).ok();
        }
    }

    fn wake_all(&self) {
        // Waking cannot fail on a valid address; with nobody asleep it wakes none.
        futex::wake(&self.word, futex::Flags::PRIVATE, i32::MAX as u32).ok();
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.leave();
    }
}

impl Drop for OwnPass {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_nobody_new_in_and_waits_for_those_inside() {
        let gate = Gate::new();
        let inside = gate.try_enter().expect("open");
        gate.close(Closer::Power);
        assert!(gate.try_enter().is_none());
        assert!(!gate.wait_quiet(Duration::from_millis(1)));
        drop(inside);
        assert!(gate.wait_quiet(Duration::ZERO));
    }

    #[test]
    fn one_closer_cannot_open_what_another_closed() {
        let gate = Gate::new();
        gate.close(Closer::Power);
        gate.close(Closer::Agent);
        gate.open(Closer::Agent);
        assert!(gate.is_closed());
        gate.open(Closer::Power);
        assert!(gate.try_enter().is_some());
    }

    #[test]
    fn no_pass_is_handed_out_after_close_returned() {
        let gate = Arc::new(Gate::new());
        let seen = Arc::new(AtomicU32::new(0));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (gate, seen) = (Arc::clone(&gate), Arc::clone(&seen));
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        if let Some(pass) = gate.enter_timeout(Duration::from_secs(5)) {
                            seen.fetch_add(1, Ordering::SeqCst);
                            drop(pass);
                        }
                    }
                })
            })
            .collect();
        for _ in 0..200 {
            gate.close(Closer::Power);
            assert!(gate.wait_quiet(Duration::from_secs(5)));
            let quiet = seen.load(Ordering::SeqCst);
            std::thread::yield_now();
            assert_eq!(
                seen.load(Ordering::SeqCst),
                quiet,
                "someone wrote past a closed gate"
            );
            gate.open(Closer::Power);
        }
        for w in workers {
            w.join().expect("worker");
        }
        assert_eq!(seen.load(Ordering::SeqCst), 80_000);
    }
}
