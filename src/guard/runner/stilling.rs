//! How long the plan waits for other applications' writers.
//!
//! Before the end mark they get a share of the time that is left and never what the mark and the
//! other databases' syncs need. A writer that was not stilled for want of that time is tried once
//! more when nothing is endangered any more: a supply that lasts longer than it was trusted to
//! must not leave somebody writing on a gateway that is parked.

use std::time::Duration;

use crate::clock::Mono;
use crate::guard::plan::Step;
use crate::power::{Cause, StepKind};

use super::{GRACE, LEAST, Outage, Outcome, Runner, Trace, lock};

impl Runner {
    /// What a step that was done teaches.
    pub(super) fn learn(&self, step: Step, took: Duration, outage: &mut Outage) {
        match step {
            Step::Freeze => {
                outage.frozen = true;
                lock(&self.budget).write_back.note(took);
            }
            Step::Commit(n) | Step::Still(n) if self.is_guarded(n) => {
                lock(&self.budget).still.note(took);
            }
            Step::Checkpoint(n) if self.is_guarded(n) => {
                let moved = self.databases.get(usize::from(n)).map_or(0, |d| d.frames());
                // With nothing to move it costs nothing, which teaches nothing.
                if moved > 0 {
                    lock(&self.budget).note_other(took, moved);
                }
            }
            Step::Commit(_)
            | Step::Still(_)
            | Step::Quiet
            | Step::Checkpoint(_)
            | Step::EndMark
            | Step::SyncFs => {}
        }
    }

    /// How long the next stilling may wait for writers.
    pub(super) fn patience(&self, deadline: Mono, outage: &Outage) -> Duration {
        let all = self.databases.iter().filter(|d| d.is_guarded()).count();
        let tried = |t: &&Trace| matches!(t.step, Step::Still(_));
        let tried = outage.traces.iter().filter(tried).count();
        let waiting = u32::try_from(all.saturating_sub(tried)).unwrap_or(u32::MAX);
        let (mark, still) = {
            let budget = lock(&self.budget);
            let expected = |kind| budget.cost(kind, 0).expected;
            (expected(StepKind::Mark), expected(StepKind::Still))
        };
        let left = deadline.since(self.clock.mono());
        share(left, mark, still, waiting)
    }

    /// Stills those that were not, for want of time, unless the file system stands anyway. Ends
    /// when power is back.
    pub(super) fn still_again(&mut self, outage: &mut Outage) {
        if outage.cause == Cause::Stop || outage.frozen {
            return;
        }
        let until = self.clock.mono() + GRACE;
        let failed: Vec<u8> = outage
            .traces
            .iter()
            .filter_map(|t| match (t.step, &t.outcome) {
                (Step::Still(n), Outcome::Failed(_)) => Some(n),
                _ => None,
            })
            .collect();
        for n in failed {
            let began = self.clock.mono();
            let left = until.since(began);
            if left.is_zero() || self.orders.waiting() {
                return;
            }
            let step = Step::Still(n);
            let cost = self.cost(step);
            let outcome = match self.database(n).still(left) {
                Ok(()) => Outcome::Done,
                Err(why) => Outcome::Failed(why),
            };
            let took = self.clock.mono().since(began);
            let trace = Trace {
                step,
                began,
                took,
                cost,
                outcome,
            };
            outage.traces.push(trace).ok();
        }
    }
}

/// Half of what is left when the mark and a sync for each of `waiting` databases are paid, in
/// equal parts.
fn share(left: Duration, mark: Duration, still: Duration, waiting: u32) -> Duration {
    let waiting = waiting.max(1);
    let spare = left.saturating_sub(mark).saturating_sub(still * waiting);
    (spare / 2 / waiting).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn waiting_for_writers_never_takes_what_the_mark_and_the_syncs_need() {
        for waiting in 1..16 {
            let mut left = ms(1000);
            for n in (1..=waiting).rev() {
                left -= share(left, ms(20), ms(30), n) + ms(30);
            }
            assert!(left >= ms(20), "{waiting} databases leave {left:?}");
        }
    }

    #[test]
    fn without_time_a_writer_is_still_asked() {
        assert_eq!(share(ms(0), ms(20), ms(30), 3), LEAST);
    }
}
