//! Could the writers of a database be stilled if power failed now? Asked while service goes on,
//! so that readiness says it before the outage.
//!
//! Only looks, and gives up at once when the plan has something to do.

use std::path::Path;
use std::time::Duration;

use crate::guard::unit::{Unit, UnitState};

use super::LOCK_WAIT;
use super::lock::pause;
use super::look::{holders, not_writable, process_in_words, writer_now};

/// How often a writer that holds the lock is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What was found.
pub(super) struct Prospects {
    /// It cannot be guarded as it is.
    pub(super) problem: bool,
    /// Its writers cannot be stilled.
    pub(super) other_writers: bool,
    /// Others than the unit's processes have it open, or may have.
    pub(super) outsiders: bool,
    pub(super) words: String,
}

impl Prospects {
    pub(super) fn well(words: impl Into<String>) -> Self {
        Self {
            problem: false,
            other_writers: false,
            outsiders: false,
            words: words.into(),
        }
    }

    pub(super) fn problem(words: impl Into<String>) -> Self {
        Self {
            problem: true,
            ..Self::well(words)
        }
    }

    fn risk(words: impl Into<String>) -> Self {
        Self {
            other_writers: true,
            ..Self::well(words)
        }
    }

    /// Of the database at `path`; `None` when `hurry` ended the look.
    pub(super) fn of(
        path: &Path,
        unit: Option<&mut Unit>,
        hurry: &dyn Fn() -> bool,
    ) -> Option<Self> {
        let Some(unit) = unit else {
            return Self::of_the_lock(path, hurry);
        };
        match unit.look() {
            UnitState::Ready => Self::of_the_unit(path, unit, hurry),
            UnitState::NotRunning => {
                let mut p = Self::of_the_lock(path, hurry)?;
                p.words = format!("{}; unit {} is not running", p.words, unit.name());
                Some(p)
            }
            UnitState::Refused(why) => Some(Self::risk(format!(
                "unit {} cannot be stopped: {why}",
                unit.name()
            ))),
        }
    }

    fn of_the_unit(path: &Path, unit: &Unit, hurry: &dyn Fn() -> bool) -> Option<Self> {
        let found = match holders(path, hurry) {
            Ok(found) => found?,
            Err(e) => return Some(Self::risk(format!("cannot see who has it open: {e}"))),
        };
        let name = unit.name();
        let outside: Vec<_> = found
            .pids
            .iter()
            .filter(|pid| !unit.holds(**pid))
            .map(|pid| process_in_words(*pid))
            .collect();
        let it = if outside.is_empty() {
            Self::well(format!("unit {name} can be stopped"))
        } else {
            Self::risk(format!(
                "{} has it open too and is not of unit {name}: end it, or start it in the unit",
                outside.join(", ")
            ))
        };
        Some(Self {
            outsiders: found.unseen || it.other_writers,
            ..it
        })
    }

    /// A writer that never lets the lock go has `locking_mode=EXCLUSIVE`, or one long transaction.
    fn of_the_lock(path: &Path, hurry: &dyn Fn() -> bool) -> Option<Self> {
        if let Some(why) = not_writable(path) {
            return Some(Self::problem(why));
        }
        let mut left = LOCK_WAIT;
        loop {
            if hurry() {
                return None;
            }
            match writer_now(path) {
                Ok(None) => return Some(Self::well("its writers will wait")),
                Ok(Some(pid)) if left.is_zero() => {
                    return Some(Self::risk(format!(
                        "{} never lets its lock go (locking_mode=EXCLUSIVE, or one long \
                         transaction): name the unit that writes it, or give that NORMAL",
                        process_in_words(pid)
                    )));
                }
                Ok(Some(_)) => pause(LOOK_AGAIN),
                Err(e) => return Some(Self::risk(format!("cannot probe its locks: {e}"))),
            }
            left = left.saturating_sub(LOOK_AGAIN);
        }
    }
}
