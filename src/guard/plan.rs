//! The plan as a list of steps, and which of them are started in the time that is left.
//!
//! Sans-IO. What makes acknowledged rows durable is never dropped, and neither is the stilling of
//! other applications' writers: a parked gateway has nobody who goes on writing. What we
//! acknowledged ourselves comes first. A checkpoint whose expected cost does not fit is dropped:
//! the rows are safe in the WAL, and the time is better spent on the end mark. Write-back and
//! freeze cannot be interrupted, so their worst case must fit.

use heapless::Vec;

use crate::clock::Mono;
use crate::config::MOST_DATABASES;
use crate::power::{Cause, StepCost};

/// Databases at most, the agent's own included: the store and its queue.
pub(super) const DATABASES: usize = MOST_DATABASES + 2;
/// Steps at most: each database is committed, stilled, checkpointed and, where that was too
/// short, stilled once more.
pub(super) const STEPS: usize = 4 * DATABASES + 4;

/// One step. Databases are named by their place in the plan's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Commit what is in flight, or sync another application's WAL.
    Commit(u8),
    /// Wait until nobody in the agent holds the right to write.
    Quiet,
    /// Keep another application from writing until the outage is over, and sync what it committed
    /// meanwhile.
    Still(u8),
    /// Checkpoint and sync.
    Checkpoint(u8),
    /// Write the end mark: everything acknowledged is durable.
    EndMark,
    /// Write back what is dirty on the data file system.
    SyncFs,
    /// Freeze the data file system.
    Freeze,
}

impl Step {
    /// As records and status spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Commit(_) => "commit",
            Self::Quiet => "quiet",
            Self::Still(_) => "still",
            Self::Checkpoint(_) => "checkpoint",
            Self::EndMark => "end_mark",
            Self::SyncFs => "syncfs",
            Self::Freeze => "freeze",
        }
    }

    /// The database it is about.
    pub const fn database(self) -> Option<usize> {
        match self {
            Self::Commit(n) | Self::Still(n) | Self::Checkpoint(n) => Some(n as usize),
            Self::Quiet | Self::EndMark | Self::SyncFs | Self::Freeze => None,
        }
    }
}

/// What to do with the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Do it.
    Run(Step),
    /// Leave it out: it does not fit the time left.
    Drop(Step, StepCost),
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Plan {
    steps: Vec<Step, STEPS>,
    next: usize,
}

impl Plan {
    /// The steps for the databases, highest priority first; of each, whether it is another
    /// application's. A stop neither stills others, nor checkpoints what is theirs, nor writes
    /// back what they dirtied, nor freezes.
    pub fn new(cause: Cause, guarded: &[bool], may_freeze: bool) -> Self {
        let mut steps = Vec::new();
        let all = || (0u8..=u8::MAX).zip(guarded.iter().copied());
        let mine = guarded.iter().filter(|theirs| !*theirs).count();
        let of = |whose| all().filter(move |(_, g)| *g == whose).map(|(n, _)| n);
        let own = || of(false).take(DATABASES);
        // Too many of theirs never cost one of ours its place.
        let theirs = || of(true).take(DATABASES.saturating_sub(mine));
        let outage = cause != Cause::Stop;
        let tail: &[Step] = match (cause, may_freeze) {
            (Cause::Stop, _) => &[Step::EndMark],
            (Cause::PowerFail | Cause::BatteryLow | Cause::Rehearsal, false) => {
                &[Step::EndMark, Step::SyncFs]
            }
            (Cause::PowerFail | Cause::BatteryLow | Cause::Rehearsal, true) => {
                &[Step::EndMark, Step::SyncFs, Step::Freeze]
            }
        };
        steps.extend(own().chain(theirs()).map(Step::Commit));
        steps.extend([Step::Quiet]);
        let stilled: Vec<u8, DATABASES> = theirs().filter(|_| outage).collect();
        steps.extend(stilled.iter().copied().map(Step::Still));
        let mut checkpointed: Vec<u8, DATABASES> = own().chain(stilled).collect();
        checkpointed.sort_unstable();
        steps.extend(checkpointed.into_iter().map(Step::Checkpoint));
        steps.extend(tail.iter().copied());
        Self { steps, next: 0 }
    }

    /// The next decision, given the time and what a step costs.
    pub fn next(
        &mut self,
        now: Mono,
        deadline: Mono,
        cost: impl Fn(Step) -> StepCost,
    ) -> Option<Decision> {
        let step = *self.steps.get(self.next)?;
        self.next += 1;
        let left = deadline.since(now);
        let cost_of_step = cost(step);
        let fits = match step {
            Step::Commit(_) | Step::Quiet | Step::Still(_) | Step::EndMark => true,
            Step::Checkpoint(_) => cost_of_step.expected + cost(Step::EndMark).expected <= left,
            Step::SyncFs | Step::Freeze => cost_of_step.worst <= left,
        };
        Some(if fits {
            Decision::Run(step)
        } else {
            Decision::Drop(step, cost_of_step)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const T0: Mono = Mono::from_nanos(1_000_000_000);

    fn run(
        plan: &mut Plan,
        left_ms: u64,
        cost_ms: impl Fn(Step) -> (u64, u64),
    ) -> std::vec::Vec<Decision> {
        let mut now = T0;
        let deadline = T0 + Duration::from_millis(left_ms);
        let cost = |s| {
            let (expected, worst) = cost_ms(s);
            StepCost {
                expected: Duration::from_millis(expected),
                worst: Duration::from_millis(worst),
            }
        };
        let mut all = std::vec::Vec::new();
        while let Some(d) = plan.next(now, deadline, cost) {
            if let Decision::Run(s) = d {
                now = now + cost(s).expected;
            }
            all.push(d);
        }
        all
    }

    #[test]
    fn everything_is_durable_before_anything_is_checkpointed() {
        let all = run(
            &mut Plan::new(Cause::PowerFail, &[false; 2], true),
            2000,
            |_| (1, 1),
        );
        let steps: std::vec::Vec<_> = all
            .iter()
            .map(|d| matches!(d, Decision::Run(_)).then_some(d))
            .collect();
        assert_eq!(steps.len(), 8);
        assert_eq!(
            all,
            [
                Step::Commit(0),
                Step::Commit(1),
                Step::Quiet,
                Step::Checkpoint(0),
                Step::Checkpoint(1),
                Step::EndMark,
                Step::SyncFs,
                Step::Freeze
            ]
            .map(Decision::Run)
        );
    }

    #[test]
    fn what_does_not_fit_is_dropped_but_never_a_commit_or_the_end_mark() {
        let all = run(&mut Plan::new(Cause::PowerFail, &[false], true), 0, |_| {
            (400, 900)
        });
        let ran: std::vec::Vec<_> = all
            .iter()
            .filter(|d| matches!(d, Decision::Run(_)))
            .collect();
        assert_eq!(
            ran,
            [
                &Decision::Run(Step::Commit(0)),
                &Decision::Run(Step::Quiet),
                &Decision::Run(Step::EndMark)
            ]
        );
    }

    #[test]
    fn others_are_stilled_after_what_is_ours_is_durable_and_before_any_checkpoint() {
        let plan = &mut Plan::new(Cause::PowerFail, &[true, false, true], false);
        assert_eq!(
            run(plan, 2000, |_| (1, 1)),
            [
                Step::Commit(1),
                Step::Commit(0),
                Step::Commit(2),
                Step::Quiet,
                Step::Still(0),
                Step::Still(2),
                Step::Checkpoint(0),
                Step::Checkpoint(1),
                Step::Checkpoint(2),
                Step::EndMark,
                Step::SyncFs,
            ]
            .map(Decision::Run)
        );
    }

    #[test]
    fn without_time_others_are_stilled_all_the_same() {
        let plan = &mut Plan::new(Cause::PowerFail, &[false, true], true);
        let all = run(plan, 0, |_| (400, 900));
        assert!(all.contains(&Decision::Run(Step::Still(1))), "{all:?}");
        let dropped = |d: &Decision| matches!(d, Decision::Drop(Step::Checkpoint(_), _));
        assert_eq!(all.iter().filter(|d| dropped(d)).count(), 2, "{all:?}");
    }

    #[test]
    fn a_stop_leaves_other_peoples_writers_alone() {
        let all = run(
            &mut Plan::new(Cause::Stop, &[false, true], true),
            9000,
            |_| (1, 1),
        );
        let steps = [
            Step::Commit(0),
            Step::Commit(1),
            Step::Quiet,
            Step::Checkpoint(0),
            Step::EndMark,
        ];
        assert_eq!(all, steps.map(Decision::Run));
    }

    #[test]
    fn every_step_of_the_most_databases_has_room() {
        for guarded in [[true; DATABASES], [false; DATABASES]] {
            let plan = Plan::new(Cause::PowerFail, &guarded, true);
            assert_eq!(plan.steps.last(), Some(&Step::Freeze));
            let again = guarded.iter().filter(|g| **g).count();
            assert!(plan.steps.len() + again <= STEPS);
        }
    }

    #[test]
    fn too_many_of_theirs_never_cost_ours_its_place() {
        let mut guarded = [true; 2 * DATABASES];
        guarded[2 * DATABASES - 1] = false;
        let plan = Plan::new(Cause::PowerFail, &guarded, true);
        let own = 2 * DATABASES as u8 - 1;
        assert_eq!(plan.steps[0], Step::Commit(own));
        assert!(plan.steps.contains(&Step::Checkpoint(own)));
    }

    #[test]
    fn a_freeze_is_not_started_unless_its_worst_case_fits() {
        let all = run(
            &mut Plan::new(Cause::PowerFail, &[false], true),
            500,
            |s| match s {
                Step::Freeze => (10, 600),
                Step::Commit(_)
                | Step::Quiet
                | Step::Still(_)
                | Step::Checkpoint(_)
                | Step::EndMark
                | Step::SyncFs => (5, 5),
            },
        );
        assert!(
            matches!(all.last(), Some(Decision::Drop(Step::Freeze, _))),
            "{all:?}"
        );
    }

    #[test]
    fn a_stop_does_not_freeze() {
        let all = run(&mut Plan::new(Cause::Stop, &[false], true), 9000, |_| {
            (1, 1)
        });
        assert_eq!(all.last(), Some(&Decision::Run(Step::EndMark)));
    }
}
