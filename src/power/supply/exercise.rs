//! What an operator may ask of a good supply: a rehearsal of the plan, and the measurement of the
//! hold-up time at the next loss.
//!
//! A rehearsal is the real plan with the real gate, freeze and thaw; power-off does not follow
//! from it, the supply's charge is not touched and no outage is counted. A real loss in the middle
//! of it is an outage of its own: its glitch time runs on meanwhile, the gate stays closed, and
//! its plan follows as soon as the rehearsal is thawed. It must never make a loss wait for the
//! rehearsal's own pause.

use std::time::Duration;

use crate::clock::Mono;
use crate::config::Source;

use super::super::{Action, Cause, LineHealth, Measuring, Notice, Rehearsal, State};
use super::{Supply, UNMEASURED};

/// A rehearsal stays parked for `restore_ms`, as an outage would, but not for longer than this.
const PARK: Duration = Duration::from_secs(1);
/// Armed for this long; then the next loss is an ordinary one again.
const ARMED: Duration = Duration::from_secs(30 * 60);
/// A measurement may run for this long before the line counts as stuck, or the machine goes off.
const LONGEST: Duration = Duration::from_secs(600);

/// Whether the next loss, or this one, is measured. Kept nowhere: a restart disarms.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measure {
    armed_at: Option<Mono>,
    /// The plan that ends in the heartbeat began then.
    since: Option<Mono>,
}

impl Measure {
    /// The loss is over.
    pub(super) fn end(&mut self) {
        self.since = None;
    }

    /// `end`, but not before a running measurement had its time.
    pub(super) fn not_before(&self, end: Mono) -> Mono {
        self.since.map_or(end, |t| end.max(t + LONGEST))
    }
}

impl Supply {
    /// Whether the hold-up time is being measured.
    pub fn measuring(&self) -> Measuring {
        match self.measure {
            Measure { since: Some(_), .. } => Measuring::Running,
            Measure {
                armed_at: Some(_), ..
            } => Measuring::Armed,
            Measure { .. } => Measuring::Off,
        }
    }

    fn may_exercise(&self) -> bool {
        self.state == State::Good
            && self.health == LineHealth::Good
            && self.lost_since.is_none()
            && !self.stop_asked
    }

    pub(super) fn rehearse(&mut self, now: Mono) {
        if !self.may_exercise() {
            self.push(Action::Notice(Notice::Refused));
            return;
        }
        let left = self.charge.left(now);
        // As if the loss had begun its glitch time ago: what a real one has left at this point.
        let since = match self.settings.source {
            Source::Capacitor => now - self.settings.glitch,
            Source::Battery => now,
        };
        self.state = State::Rehearsing {
            since,
            step: Rehearsal::Plan,
        };
        self.push(Action::CloseGate);
        self.push(Action::RunPlan {
            cause: Cause::Rehearsal,
            lost_at: since,
            deadline: since + left,
        });
        self.push(Action::Notice(Notice::Rehearsing));
    }

    /// The rehearsal's plan is done.
    pub(super) fn rehearsal_parked(&mut self, since: Mono, now: Mono) {
        let until = now + self.settings.restore.min(PARK);
        self.state = State::Rehearsing {
            since,
            step: Rehearsal::Parked { until },
        };
    }

    /// Thaws when its time is over, at once when power is lost or the agent is to end.
    pub(super) fn rehearsing(&mut self, since: Mono, step: Rehearsal, now: Mono) {
        let Rehearsal::Parked { until } = step else {
            return;
        };
        if now >= until || self.lost_since.is_some() || self.stop_asked {
            self.state = State::Rehearsing {
                since,
                step: Rehearsal::Resuming,
            };
            self.push(Action::Resume);
        }
    }

    /// The rehearsal is thawed.
    pub(super) fn rehearsed(&mut self, now: Mono) {
        let lost = self.lost_since.is_some() && self.health == LineHealth::Good;
        // What was lost meanwhile stays counted: chatter must not hide behind a rehearsal.
        if lost || self.glitch.is_real(now) {
            let since = self.glitch.first_lost(now).unwrap_or(now);
            self.state = State::Suspect { since };
            self.push(Action::Notice(Notice::RehearsalOvertaken));
            return;
        }
        self.serve();
        self.push(Action::Notice(Notice::Rehearsed));
    }

    pub(super) fn arm(&mut self, arm: bool, now: Mono) {
        let notice = match arm {
            // It ends with the loss, or with the supply.
            false if self.measure.since.is_some() => Notice::Refused,
            false => {
                self.measure.armed_at = None;
                Notice::MeasureDisarmed
            }
            true if self.may_exercise() && self.measurable_in(now).is_zero() => {
                self.measure.armed_at = Some(now);
                Notice::MeasureArmed
            }
            true => Notice::Refused,
        };
        self.push(Action::Notice(notice));
    }

    /// Not while power is lost: a battery may be ridden for hours before it is low.
    pub(super) fn measure_timeout(&self) -> Option<Mono> {
        match self.lost_since {
            None => self.measure.armed_at.map(|t| t + ARMED),
            Some(_) => None,
        }
    }

    pub(super) fn time_measure_out(&mut self, now: Mono) {
        if self.measure_timeout().is_some_and(|t| now >= t) {
            self.measure.armed_at = None;
            self.push(Action::Notice(Notice::MeasureTimedOut));
        }
    }

    /// The commit point: an armed measurement begins. For a battery that is when it is low.
    pub(super) fn begin_measuring(&mut self, now: Mono) {
        if self.measure.armed_at.take().is_some() {
            self.measure.since = Some(now);
            self.push(Action::Measure);
        }
    }

    /// Power is back, be it for a moment: what the supply gives after that is no measurement.
    pub(super) fn measured(&mut self, at: Mono) {
        if self.measure.since.take().is_some() {
            self.push(Action::Measured(at));
        }
    }

    /// The configured hold-up time, or what is assumed until it was measured.
    pub(super) fn holdup_or_assumed(&self) -> Duration {
        self.settings.holdup.unwrap_or(UNMEASURED)
    }
}
