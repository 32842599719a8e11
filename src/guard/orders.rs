//! Orders from the guard thread to the plan thread: one atomic word that is also the futex.
//!
//! Giving an order is two or three stores and one wake-up: no lock that a slower thread could
//! hold, no allocation, no failure.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::thread::futex;

use crate::clock::Mono;
use crate::power::Cause;

/// Orders, as bits; several may wait and are carried out in this sequence.
pub(super) mod order {
    /// Close the record and thaw.
    pub(crate) const RESUME: u32 = 1;
    /// Let the writers commit what they took.
    pub(crate) const SETTLE: u32 = 2;
    /// Checkpoint the agent's own databases, service goes on.
    pub(crate) const EARLY: u32 = 4;
    /// Run the plan.
    pub(crate) const RUN: u32 = 8;
    /// End the thread.
    pub(crate) const EXIT: u32 = 16;
    /// Power is back: what is measured is over.
    pub(crate) const MEASURED: u32 = 32;
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Orders {
    word: AtomicU32,
    cause: AtomicU32,
    lost_at: AtomicU64,
    deadline: AtomicU64,
    measure: AtomicBool,
    back_at: AtomicU64,
}

impl Orders {
    /// Gives orders.
    pub(super) fn give(&self, bits: u32) {
        self.word.fetch_or(bits, Ordering::SeqCst);
        // Waking cannot fail on a valid address.
        futex::wake(&self.word, futex::Flags::PRIVATE, 1).ok();
    }

    /// Orders the plan.
    pub(super) fn run(&self, cause: Cause, lost_at: Mono, deadline: Mono) {
        self.cause.store(cause as u32, Ordering::SeqCst);
        self.lost_at.store(lost_at.as_nanos(), Ordering::SeqCst);
        self.deadline.store(deadline.as_nanos(), Ordering::SeqCst);
        self.give(order::RUN);
    }

    /// The plan that is ordered next ends in the heartbeat.
    pub(super) fn measure(&self) {
        self.back_at.store(u64::MAX, Ordering::SeqCst);
        self.measure.store(true, Ordering::SeqCst);
    }

    /// Ends the heartbeat: power is back since `at`.
    pub(super) fn measured(&self, at: Mono) {
        self.back_at.store(at.as_nanos(), Ordering::SeqCst);
        self.give(order::MEASURED);
    }

    /// When power was back in the loss that is measured; [`Mono::NEVER`] while it is not.
    pub(super) fn back_at(&self) -> Mono {
        Mono::from_nanos(self.back_at.load(Ordering::SeqCst))
    }

    /// Whether the plan that was ordered last ends in the heartbeat; asked once a plan.
    pub(super) fn take_measure(&self) -> bool {
        self.measure.swap(false, Ordering::SeqCst)
    }

    /// The plan that was ordered last.
    pub(super) fn ordered(&self) -> (Cause, Mono, Mono) {
        let cause = match self.cause.load(Ordering::SeqCst) {
            c if c == Cause::BatteryLow as u32 => Cause::BatteryLow,
            c if c == Cause::Stop as u32 => Cause::Stop,
            c if c == Cause::Rehearsal as u32 => Cause::Rehearsal,
            _ => Cause::PowerFail,
        };
        (
            cause,
            Mono::from_nanos(self.lost_at.load(Ordering::SeqCst)),
            Mono::from_nanos(self.deadline.load(Ordering::SeqCst)),
        )
    }

    /// Does an order wait?
    pub(super) fn waiting(&self) -> bool {
        self.word.load(Ordering::SeqCst) != 0
    }

    /// Takes all waiting orders, or waits at most `timeout` for one; 0 when none came.
    pub(super) fn take(&self, timeout: Duration) -> u32 {
        let bits = self.word.swap(0, Ordering::SeqCst);
        if bits != 0 {
            return bits;
        }
        let timeout = futex::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // Woken, timed out or interrupted: the word tells.
        futex::wait(&self.word, futex::Flags::PRIVATE, 0, Some(&timeout)).ok();
        self.word.swap(0, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_given_before_anyone_waits_is_not_lost() {
        let o = Orders::default();
        o.run(Cause::BatteryLow, Mono::from_nanos(1), Mono::from_nanos(2));
        o.give(order::SETTLE);
        assert_eq!(o.take(Duration::from_secs(5)), order::RUN | order::SETTLE);
        assert_eq!(
            o.ordered(),
            (Cause::BatteryLow, Mono::from_nanos(1), Mono::from_nanos(2))
        );
        assert_eq!(o.take(Duration::from_millis(1)), 0);
    }
}
