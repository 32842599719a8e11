//! Snapshots and backups stand still while the databases are changed for others.
//!
//! It promises that none is being made between [`Quiet::begin`] and the end of what it gives: a copy
//! of the old readings that is put away later would outlive them.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::costs::lock;

#[derive(Debug, Default)]
struct Slots {
    /// Snapshots and backups that are being made.
    busy: u32,
    /// Nobody begins another.
    quiet: bool,
}

/// See the module's text. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Quiet(Arc<(Mutex<Slots>, Condvar)>);

/// A snapshot or a backup is being made.
#[derive(Debug)]
pub(super) struct Busy(Quiet);

/// None is.
#[derive(Debug)]
pub(super) struct Still(Quiet);

impl Quiet {
    /// Before one is made; `None`: not now.
    pub(super) fn enter(&self) -> Option<Busy> {
        let mut slots = lock(&self.0.0);
        if slots.quiet {
            return None;
        }
        slots.busy += 1;
        Some(Busy(self.clone()))
    }

    /// Waits until none is being made, `patience` at most; `None`: one still is, or somebody else
    /// has asked for the same.
    pub(super) fn begin(&self, patience: Duration) -> Option<Still> {
        let mut slots = lock(&self.0.0);
        if std::mem::replace(&mut slots.quiet, true) {
            return None;
        }
        let busy = |s: &mut Slots| s.busy > 0;
        let waited = self.0.1.wait_timeout_while(slots, patience, busy);
        let (slots, late) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(slots);
        let still = Still(self.clone());
        // Dropped, it lets the others go on.
        (!late.timed_out()).then_some(still)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        lock(&self.0.0.0).busy -= 1;
        self.0.0.1.notify_all();
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        lock(&self.0.0.0).quiet = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_begun_while_it_is_quiet_and_it_is_not_quiet_while_something_goes_on() {
        let quiet = Quiet::default();
        let busy = quiet.enter().expect("nobody asked for quiet");
        assert!(quiet.begin(Duration::ZERO).is_none());
        assert!(quiet.enter().is_some(), "given up, so others go on");
        drop(busy);
        let still = quiet.begin(Duration::ZERO).expect("nothing goes on");
        assert!(quiet.enter().is_none());
        assert!(quiet.begin(Duration::ZERO).is_none());
        drop(still);
        assert!(quiet.enter().is_some());
    }
}
