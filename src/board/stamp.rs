//! When an edge of uAPI v1 happened.
//!
//! Kernels before 5.7 stamp such edges with CLOCK_REALTIME, later ones with CLOCK_MONOTONIC, and
//! nothing says which. The stamp itself does: it lies near the one clock or near the other. Where
//! both clocks read about the same (no clock chip, no time server yet) it does not matter.
//!
//! An edge never lies in the future; and one that was stamped by the wall clock never before the
//! kernel's queue was last seen empty, so that setting the clock cannot make an edge of now one of
//! last year.

use crate::clock::Mono;

/// What is known of one line's earlier edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamps {
    /// The queue was empty then.
    empty_at: Mono,
    /// The edge before.
    last: Mono,
}

impl Stamps {
    /// For a line that was requested now.
    pub(super) const fn new(now: Mono) -> Self {
        Self {
            empty_at: now,
            last: now,
        }
    }

    /// The queue was found empty.
    pub(super) const fn seen_empty(&mut self, now: Mono) {
        self.empty_at = now;
    }

    /// The time of an edge with this stamp, read now; `real` is the wall clock now. All in
    /// nanoseconds.
    pub(super) fn place(&mut self, stamp: u64, now: Mono, real: u64) -> Mono {
        let at = if stamp.abs_diff(now.as_nanos()) <= stamp.abs_diff(real) {
            Mono::from_nanos(stamp)
        } else {
            let age = real.saturating_sub(stamp);
            let at = Mono::from_nanos(now.as_nanos().saturating_sub(age));
            // The two clocks are not read at one instant: order is kept here.
            at.max(self.empty_at).max(self.last)
        };
        let at = at.min(now);
        self.last = at;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;
    /// Up for 100 s.
    const NOW: Mono = Mono::from_nanos(100 * S);
    /// 2026.
    const REAL: u64 = 1_767_225_600 * S;

    fn fresh() -> Stamps {
        Stamps::new(Mono::from_nanos(90 * S))
    }

    #[test]
    fn a_monotonic_stamp_is_the_time() {
        let at = fresh().place(99 * S, NOW, REAL);
        assert_eq!(at, Mono::from_nanos(99 * S));
    }

    #[test]
    fn a_wall_clock_stamp_of_an_old_kernel_is_turned_by_its_age() {
        let at = fresh().place(REAL - 7 * MS, NOW, REAL);
        assert_eq!(at, Mono::from_nanos(100 * S - 7 * MS));
    }

    #[test]
    fn no_edge_lies_in_the_future() {
        assert_eq!(fresh().place(101 * S, NOW, REAL), NOW);
        assert_eq!(fresh().place(REAL + S, NOW, REAL), NOW);
    }

    #[test]
    fn a_clock_set_while_an_edge_waits_makes_it_no_older_than_the_empty_queue() {
        let mut stamps = fresh();
        stamps.seen_empty(Mono::from_nanos(99 * S));
        // Stamped in 2024, read after the time server has set 2026.
        let at = stamps.place(1_704_067_200 * S, NOW, REAL);
        assert_eq!(at, Mono::from_nanos(99 * S));
        // And backwards: the age cannot be told, so it happened now.
        assert_eq!(stamps.place(REAL, NOW, 1_704_067_200 * S), NOW);
    }

    #[test]
    fn without_a_clock_chip_both_clocks_agree_and_either_will_do() {
        let real = 100 * S + 3 * MS;
        for stamp in [99 * S, 99 * S + 3 * MS] {
            let at = fresh().place(stamp, NOW, real).as_nanos();
            assert!(at.abs_diff(99 * S) <= 3 * MS, "{at}");
        }
    }

    #[test]
    fn edges_stay_in_order_though_the_clocks_are_read_apart() {
        let mut stamps = fresh();
        let first = stamps.place(REAL - 2 * MS, NOW, REAL);
        // The second edge is 1 ms younger; its wall clock was read 5 ms late.
        let second = stamps.place(REAL - MS, NOW, REAL + 5 * MS);
        assert!(second >= first, "{second:?} {first:?}");
    }
}
