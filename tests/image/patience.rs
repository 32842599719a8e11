//! Waiting for a slow machine: the only place in these tests that reads the time or sleeps.
//!
//! An emulated gateway is slow and noisy, so a deadline here only says when to give up; no test
//! concludes anything from how long something took.
#![expect(
    clippy::disallowed_methods,
    reason = "the emulator runs in real time; src/clock.rs is the product's, not the tests'"
)]

use std::thread;
use std::time::{Duration, Instant};

/// How long anything in an emulated gateway may take before the test gives up.
pub(crate) const GENEROUS: Duration = Duration::from_secs(180);

/// An instant after which waiting is given up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(patience: Duration) -> Self {
        Self(Instant::now() + patience)
    }

    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub(crate) fn expired(self) -> bool {
        self.left().is_zero()
    }
}

/// Time since it was made; for reports and for the host's own pacing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Asks `condition` again and again until it answers; `None` when `patience` ran out first.
pub(crate) fn poll<T>(patience: Duration, condition: impl FnMut() -> Option<T>) -> Option<T> {
    poll_each(Duration::from_millis(20), patience, condition)
}

/// The same, asking every `interval`.
pub(crate) fn poll_each<T>(
    interval: Duration,
    patience: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Option<T> {
    let deadline = Deadline::after(patience);
    loop {
        if let Some(answer) = condition() {
            return Some(answer);
        }
        if deadline.expired() {
            return None;
        }
        pace(interval);
    }
}

/// Lets host time pass: between polls, between readings of a paced load, between two levels of a
/// chattering line. Never a substitute for waiting on a condition.
pub(crate) fn pace(time: Duration) {
    thread::sleep(time);
}
