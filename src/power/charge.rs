//! What is left of the hold-up time after earlier losses.
//!
//! A capacitor that carried the gateway through one loss is not full at the next. Lost time is
//! drawn from the hold-up time and comes back linearly over `recharge` of good power. Of a battery
//! the hold-up time is what is left when it is low: riding on it draws nothing of that.
//!
//! A loss that ended in darkness leaves an empty supply: the next boot begins when the mains come
//! back, and what was drawn comes back from then on. The wall clock proves nothing here: however
//! long ago the loss was, the mains may have been off until this boot. A gauge that says charged
//! does.

use std::time::Duration;

use crate::clock::Mono;

/// What the sessions before this one left of the charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Before {
    /// A full supply, as far as anybody knows.
    #[default]
    Full,
    /// This boot followed a loss that the gateway did not outlive: empty when it began.
    Drained,
    /// The agent was gone in the middle of a loss and the gateway was not: lost since then.
    LostSince(Mono),
}

/// Where the charge goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// Power is good.
    Recharging,
    /// Power is lost, and something else than the hold-up time carries the gateway.
    Kept,
    /// Power is lost, and the hold-up time runs.
    Drawing,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) struct Charge {
    full: Duration,
    recharge: Duration,
    drawn: Duration,
    at: Option<Mono>,
    flow: Flow,
}

impl Charge {
    /// A full supply.
    pub(super) fn new(full: Duration, recharge: Duration) -> Self {
        Self {
            full,
            recharge,
            drawn: Duration::ZERO,
            at: None,
            flow: Flow::Recharging,
        }
    }

    /// New measurements; what was drawn stays drawn.
    pub(super) fn set(&mut self, full: Duration, recharge: Duration) {
        self.full = full;
        self.recharge = recharge;
        self.drawn = self.drawn.min(full);
    }

    /// What was drawn before `now`, when nothing was noted yet.
    pub(super) fn carry(&mut self, before: Before, now: Mono) {
        (self.drawn, self.at) = match before {
            Before::Full => return,
            // CLOCK_MONOTONIC begins with the boot.
            Before::Drained => (self.full, Some(Mono::default())),
            Before::LostSince(lost_at) => (now.since(lost_at).min(self.full), Some(now)),
        };
    }

    /// Something that knows says that it is full.
    pub(super) fn refill(&mut self, now: Mono) {
        if self.flow != Flow::Drawing {
            self.drawn = Duration::ZERO;
            self.at = Some(self.at.map_or(now, |t| t.max(now)));
        }
    }

    /// From `at` on.
    pub(super) fn note(&mut self, flow: Flow, at: Mono) {
        self.drawn = self.drawn_at(at);
        self.at = Some(self.at.map_or(at, |t| t.max(at)));
        self.flow = flow;
    }

    /// Hold-up time left at `now`.
    pub(super) fn left(&self, now: Mono) -> Duration {
        self.full.saturating_sub(self.drawn_at(now))
    }

    /// Good power from `now` on until it is full again.
    pub(super) fn full_in(&self, now: Mono) -> Duration {
        if self.full.is_zero() {
            return Duration::ZERO;
        }
        let share = self.drawn_at(now).as_secs_f64() / self.full.as_secs_f64();
        self.recharge.mul_f64(share)
    }

    fn drawn_at(&self, now: Mono) -> Duration {
        let passed = self.at.map_or(Duration::ZERO, |t| now.since(t));
        match self.flow {
            Flow::Drawing => (self.drawn + passed).min(self.full),
            Flow::Kept => self.drawn,
            Flow::Recharging if self.recharge.is_zero() => Duration::ZERO,
            Flow::Recharging => {
                let share = passed.as_secs_f64() / self.recharge.as_secs_f64();
                self.drawn.saturating_sub(self.full.mul_f64(share.min(1.0)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_outage_has_what_the_first_one_left_and_recharged() {
        let t = Mono::from_nanos(0);
        let mut c = Charge::new(Duration::from_secs(2), Duration::from_secs(60));
        c.note(Flow::Drawing, t);
        c.note(Flow::Recharging, t + Duration::from_secs(1));
        assert_eq!(c.left(t + Duration::from_secs(1)), Duration::from_secs(1));
        // 15 s of 60 s bring back a quarter of 2 s.
        assert_eq!(
            c.left(t + Duration::from_secs(16)),
            Duration::from_millis(1500)
        );
        assert_eq!(c.left(t + Duration::from_secs(600)), Duration::from_secs(2));
    }

    #[test]
    fn a_boot_after_a_loss_that_nobody_outlived_begins_empty_and_recharges_from_the_boot() {
        let boot = Mono::default();
        let mut c = Charge::new(Duration::from_secs(2), Duration::from_secs(60));
        c.carry(Before::Drained, boot + Duration::from_secs(6));
        c.note(Flow::Recharging, boot + Duration::from_secs(6));
        assert_eq!(
            c.left(boot + Duration::from_secs(6)),
            Duration::from_millis(200)
        );
        assert_eq!(
            c.left(boot + Duration::from_secs(30)),
            Duration::from_secs(1)
        );
        assert_eq!(
            c.left(boot + Duration::from_secs(60)),
            Duration::from_secs(2)
        );
        c.carry(Before::Drained, boot);
        c.refill(boot + Duration::from_secs(1));
        assert_eq!(
            c.left(boot + Duration::from_secs(1)),
            Duration::from_secs(2),
            "the gauge says charged"
        );
    }

    #[test]
    fn an_agent_that_starts_again_in_the_middle_of_a_loss_has_what_is_left_of_it() {
        let t = Mono::from_nanos(5_000_000_000);
        let mut c = Charge::new(Duration::from_secs(2), Duration::from_secs(60));
        let now = t + Duration::from_millis(1500);
        c.carry(Before::LostSince(t), now);
        c.note(Flow::Drawing, now);
        assert_eq!(
            c.left(now + Duration::from_millis(100)),
            Duration::from_millis(400)
        );
    }

    #[test]
    fn it_never_owes_more_than_it_holds() {
        let t = Mono::from_nanos(0);
        let mut c = Charge::new(Duration::from_secs(2), Duration::from_secs(60));
        c.note(Flow::Drawing, t);
        assert_eq!(c.left(t + Duration::from_secs(500)), Duration::ZERO);
        c.note(Flow::Recharging, t + Duration::from_secs(500));
        assert_eq!(c.left(t + Duration::from_secs(560)), Duration::from_secs(2));
    }
}
