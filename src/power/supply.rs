//! The supply's states, and what each change asks for.
//!
//! `Starting -> Good <-> Brownout`, `Good|Brownout -> Suspect -> (OnBattery ->) Failing ->
//! Parked -> Resuming -> Good`, or `Parked -> Off`. Any event may come in any state; one that
//! means nothing there changes nothing. What an operator asks of a good supply is in
//! [`exercise`]: `Good -> Rehearsing -> Good`, and the measurement of the next loss.

mod exercise;

use std::time::Duration;

use heapless::Deque;

use crate::clock::Mono;
use crate::config::{OnParkMax, PowerSettings, Source};

use super::charge::{Before, Charge, Flow};
use super::glitch::GlitchFilter;
use super::{
    Action, Cause, Event, GaugeSeen, Levels, Line, LineHealth, Notice, Rehearsal, State, Wait,
};

use exercise::Measure;

/// Hold-up time that is assumed until it was measured.
const UNMEASURED: Duration = Duration::from_millis(500);
/// A capacitor that still carries after this many hold-up times does not exist ...
const STUCK_FACTOR: u32 = 5;
/// ... and not after less than this.
const STUCK_MIN: Duration = Duration::from_secs(30);
/// Outages are counted over this time for `settle_after`.
pub const REPEAT_WINDOW: Duration = Duration::from_secs(600);
/// A gauge at this percentage says "charged".
const CHARGED_PERCENT: f32 = 90.0;
/// Low gauge readings in a row that are believed: one misread 0.0 is common.
const GAUGE_AGREE: u8 = 2;
/// Time that a stop's plan is given.
const STOP_BUDGET: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Supply {
    settings: PowerSettings,
    /// Raising `safe_to_cut` makes the supply cut and come back with the mains.
    can_cut: bool,
    state: State,
    health: LineHealth,
    glitch: GlitchFilter,
    charge: Charge,
    /// Power reads good since then; `None` while it is lost.
    good_since: Option<Mono>,
    /// Power reads lost since then; `None` while it is good.
    lost_since: Option<Mono>,
    sagging: bool,
    steady_since: Option<Mono>,
    battery_low: bool,
    low_readings: u8,
    gauge: Option<GaugeSeen>,
    outages: Deque<Mono, 16>,
    /// Service has begun once.
    settled: bool,
    park_max_handled: bool,
    stop_asked: bool,
    measure: Measure,
    actions: Deque<Action, 32>,
}

impl Supply {
    /// A supply of which nothing was seen yet. `can_cut`: see [`crate::config::BoardSettings`].
    pub fn new(settings: PowerSettings, can_cut: bool) -> Self {
        let full = settings.holdup.unwrap_or(UNMEASURED);
        Self {
            settings,
            can_cut,
            state: State::Starting,
            health: LineHealth::Good,
            glitch: GlitchFilter::new(settings.glitch),
            charge: Charge::new(full, settings.recharge),
            good_since: None,
            lost_since: None,
            sagging: false,
            steady_since: None,
            battery_low: false,
            low_readings: 0,
            gauge: None,
            outages: Deque::new(),
            settled: false,
            park_max_handled: false,
            stop_asked: false,
            measure: Measure::default(),
            actions: Deque::new(),
        }
    }

    /// An outage of an earlier session, which began at this time.
    pub fn remember(&mut self, began: Mono) {
        if self.outages.is_full() {
            self.outages.pop_front();
        }
        self.outages.push_back(began).ok();
    }

    /// The same after what the sessions before this one left; `now` is this one's start.
    #[must_use]
    pub fn after(mut self, before: Before, now: Mono) -> Self {
        self.charge.carry(before, now);
        self
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the lines can be believed.
    pub fn line_health(&self) -> LineHealth {
        self.health
    }

    /// What the power-fail line reads, believed or not: lost (`true`) or good.
    pub fn reads_lost(&self) -> Option<bool> {
        match self.health {
            LineHealth::Good | LineHealth::Stuck => Some(self.lost_since.is_some()),
            LineHealth::Missing | LineHealth::NotWired => None,
        }
    }

    /// The gauge's last reading, in percent.
    pub fn gauge_percent(&self) -> Option<f32> {
        self.gauge.map(|g| g.percent)
    }

    /// Does the gauge say, or the battery's own line, that the battery is nearly empty?
    pub fn battery_is_low(&self) -> bool {
        self.battery_low || self.low_readings >= GAUGE_AGREE
    }

    /// Hold-up time left if power were lost at `now`.
    pub fn holdup_left(&self, now: Mono) -> Duration {
        self.charge.left(now)
    }

    /// Good power that the supply needs from `now` on before its hold-up time can be measured: one
    /// that is nearly empty would measure far too short. Zero: it can be now.
    pub fn measurable_in(&self, now: Mono) -> Duration {
        let enough = self.holdup_or_assumed() * 9 / 10;
        if self.charge.left(now) >= enough {
            Duration::ZERO
        } else {
            self.charge.full_in(now)
        }
    }

    /// What power that is back waits for, seen from `now`.
    pub fn wait(&self, now: Mono) -> Option<Wait> {
        let good = self.good_since?;
        let (restore, settle) = (self.settings.restore, self.settle_needed(now));
        let (takes, settling) = match self.state {
            State::Parked { .. } => (restore.max(settle), settle > restore),
            State::OnBattery { .. } => (restore, false),
            State::Starting => (settle, true),
            State::Good
            | State::Brownout
            | State::Suspect { .. }
            | State::Failing { .. }
            | State::Resuming { .. }
            | State::Rehearsing { .. }
            | State::Stopping
            | State::Off => return None,
        };
        Some(Wait {
            until: good + takes,
            settling,
        })
    }

    /// The next thing to do; call until it is `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do, seen from `now`.
    pub fn next_deadline(&self, now: Mono) -> Option<Mono> {
        let restore = self.settings.restore;
        let by_state = match self.state {
            State::Suspect { .. } => self.glitch.commit_point(now),
            State::OnBattery { since } => Some(
                self.good_since
                    .map_or(since + self.settings.ride_max, |t| t + restore),
            ),
            State::Parked { parked_at, .. } => match self.good_since {
                Some(t) => Some(t + self.restore_needed(now)),
                None => self
                    .park_end(parked_at)
                    .into_iter()
                    .chain(self.stuck_at())
                    .min(),
            },
            State::Starting => self.good_since.map(|t| t + self.settle_needed(now)),
            State::Rehearsing {
                step: Rehearsal::Parked { until },
                ..
            } => Some(until),
            State::Good
            | State::Brownout
            | State::Failing { .. }
            | State::Resuming { .. }
            | State::Rehearsing { .. }
            | State::Stopping
            | State::Off => None,
        };
        by_state
            .into_iter()
            .chain(self.steady_since.map(|t| t + restore))
            .chain(self.measure_timeout())
            .min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Mono) {
        self.advance(now);
    }

    /// Something happened at `now`.
    pub fn handle_event(&mut self, event: Event, now: Mono) {
        match event {
            Event::Levels(levels) => self.levels(levels, now),
            Event::Edge { line, asserted } => match line {
                Line::PowerFail => self.power(asserted, now),
                Line::Brownout => self.brownout(asserted, now),
                Line::BatteryLow => self.battery_low = asserted,
            },
            Event::LinesMissing => {
                if self.health != LineHealth::Missing {
                    self.health = LineHealth::Missing;
                    self.push(Action::Notice(Notice::LinesMissing));
                }
                if self.state == State::Starting {
                    self.serve();
                }
            }
            Event::Gauge(seen) => {
                self.gauge(seen);
                if seen.is_some_and(|g| g.percent >= CHARGED_PERCENT) {
                    self.charge.refill(now);
                }
            }
            Event::PlanDone => self.plan_done(now),
            Event::Resumed => self.resumed(now),
            Event::Stop => self.stop(now),
            Event::Rehearse => self.rehearse(now),
            Event::Measure(arm) => self.arm(arm, now),
            Event::Settings(settings) => {
                self.settings = settings;
                self.glitch.set_glitch(settings.glitch);
                self.charge
                    .set(settings.holdup.unwrap_or(UNMEASURED), settings.recharge);
                if self.lost_since.is_some() {
                    self.charge.note(self.draws(), now);
                }
            }
        }
        self.advance(now);
    }

    fn levels(&mut self, levels: Levels, now: Mono) {
        match (levels.power_fail, self.health) {
            (None, _) => self.health = LineHealth::NotWired,
            (Some(_), LineHealth::Missing | LineHealth::NotWired) => {
                self.health = LineHealth::Good;
                self.push(Action::Notice(Notice::LinesFound));
            }
            (Some(_), LineHealth::Good | LineHealth::Stuck) => {}
        }
        self.power(levels.power_fail.unwrap_or(false), now);
        self.brownout(levels.brownout.unwrap_or(false), now);
        self.battery_low = levels.battery_low.unwrap_or(false);
    }

    fn power(&mut self, lost: bool, at: Mono) {
        if !lost {
            self.lost_since = None;
            if self.good_since.is_none() {
                self.good_since = Some(at);
                self.measured(at);
                self.charge.note(Flow::Recharging, at);
            }
            self.glitch.back(at);
            if self.health == LineHealth::Stuck {
                self.health = LineHealth::Good;
                self.push(Action::Notice(Notice::LineUnstuck));
            }
            return;
        }
        self.good_since = None;
        if self.lost_since.is_none() {
            self.lost_since = Some(at);
            self.park_max_handled = false;
            self.charge.note(self.draws(), at);
        }
        if self.health == LineHealth::Stuck {
            return;
        }
        self.glitch.lost(at);
        if matches!(self.state, State::Starting | State::Good | State::Brownout) {
            self.state = State::Suspect { since: at };
            self.push(Action::CloseGate);
        }
    }

    fn brownout(&mut self, low: bool, now: Mono) {
        if !low {
            if self.sagging && self.steady_since.is_none() {
                self.steady_since = Some(now);
            }
            return;
        }
        self.steady_since = None;
        if !self.sagging {
            self.sagging = true;
            if self.state == State::Good {
                self.state = State::Brownout;
            }
            self.push(Action::Shed(true));
            self.push(Action::EarlyCheckpoint);
            self.push(Action::Notice(Notice::Brownout));
        }
    }

    fn gauge(&mut self, seen: Option<GaugeSeen>) {
        let before = std::mem::replace(&mut self.gauge, seen);
        match seen {
            None => self.low_readings = 0,
            // The same reading again agrees with itself, which proves nothing.
            Some(g) if before.is_some_and(|b| b.read_at == g.read_at) => {}
            Some(g) if g.percent <= f32::from(self.settings.low_percent) => {
                self.low_readings = self.low_readings.saturating_add(1);
            }
            Some(_) => self.low_readings = 0,
        }
    }

    /// Takes every step that is due at `now`.
    fn advance(&mut self, now: Mono) {
        if self
            .steady_since
            .is_some_and(|t| now >= t + self.settings.restore)
        {
            self.steady_since = None;
            self.sagging = false;
            if self.state == State::Brownout {
                self.state = State::Good;
            }
            if !matches!(self.state, State::OnBattery { .. }) {
                self.push(Action::Shed(false));
            }
            self.push(Action::Notice(Notice::BrownoutEnded));
        }
        self.time_measure_out(now);
        match self.state {
            State::Starting => self.starting(now),
            State::Suspect { since } => self.suspect(since, now),
            State::OnBattery { since } => self.on_battery(since, now),
            State::Parked { since, parked_at } => self.parked(since, parked_at, now),
            State::Rehearsing { since, step } => self.rehearsing(since, step, now),
            State::Good
            | State::Brownout
            | State::Failing { .. }
            | State::Resuming { .. }
            | State::Stopping
            | State::Off => {}
        }
    }

    /// After repeated outages a gateway that boots waits like one that resumes: power that comes
    /// for a moment only is no time to begin to write.
    fn starting(&mut self, now: Mono) {
        if (self.good_since).is_some_and(|good| now >= good + self.settle_needed(now)) {
            self.serve();
        }
    }

    fn suspect(&mut self, since: Mono, now: Mono) {
        if self.glitch.is_real(now) {
            let since = self.glitch.first_lost(now).map_or(since, |t| t.min(since));
            if self.settings.source == Source::Battery && !self.battery_is_low() {
                self.settled = true;
                self.state = State::OnBattery { since };
                self.push(Action::Ride(true));
                self.push(Action::Shed(true));
                self.push(Action::OpenGate);
                self.push(Action::Notice(Notice::OnBattery));
            } else {
                self.fail(since, now);
            }
        } else if self.good_since.is_some() {
            if self.settled {
                self.serve();
            } else {
                self.state = State::Starting;
            }
            self.push(Action::Notice(Notice::Flicker {
                lost: self.glitch.lost_time(now),
            }));
        }
    }

    fn on_battery(&mut self, since: Mono, now: Mono) {
        if let Some(good) = self.good_since {
            if now >= good + self.settings.restore {
                self.glitch.clear();
                self.state = self.rest();
                self.push(Action::Ride(false));
                self.push(Action::Shed(self.sagging));
                self.push(Action::Notice(Notice::OffBattery));
            }
        } else if self.battery_is_low() || now >= since + self.settings.ride_max {
            self.fail(now, now);
        }
    }

    /// What a loss does to the hold-up time: that of a battery begins when it is low.
    fn draws(&self) -> Flow {
        match (self.settings.source, self.state) {
            (Source::Capacitor, _)
            | (Source::Battery, State::Failing { .. } | State::Parked { .. }) => Flow::Drawing,
            (
                Source::Battery,
                State::Starting
                | State::Good
                | State::Brownout
                | State::Suspect { .. }
                | State::OnBattery { .. }
                | State::Resuming { .. }
                | State::Rehearsing { .. }
                | State::Stopping
                | State::Off,
            ) => Flow::Kept,
        }
    }

    /// The commit point: from here on the plan runs to its end.
    fn fail(&mut self, since: Mono, now: Mono) {
        let (cause, deadline) = match self.settings.source {
            Source::Capacitor => (
                Cause::PowerFail,
                (since + self.holdup_or_assumed()).min(now + self.charge.left(now)),
            ),
            Source::Battery => {
                self.charge.note(Flow::Drawing, now);
                (Cause::BatteryLow, now + self.charge.left(now))
            }
        };
        self.remember(now);
        self.state = State::Failing { since, deadline };
        self.push(Action::CloseGate);
        self.begin_measuring(now);
        self.push(Action::RunPlan {
            cause,
            lost_at: since,
            deadline,
        });
        self.push(Action::Notice(Notice::Failing));
    }

    fn plan_done(&mut self, now: Mono) {
        match self.state {
            State::Failing { since, .. } => {
                self.state = State::Parked {
                    since,
                    parked_at: now,
                };
                self.push(Action::Notice(Notice::Parked));
            }
            State::Stopping => {
                self.state = State::Off;
                self.push(Action::Exit);
            }
            State::Rehearsing { since, .. } => self.rehearsal_parked(since, now),
            State::Starting
            | State::Good
            | State::Brownout
            | State::Suspect { .. }
            | State::OnBattery { .. }
            | State::Parked { .. }
            | State::Resuming { .. }
            | State::Off => {}
        }
    }

    fn parked(&mut self, since: Mono, parked_at: Mono, now: Mono) {
        if self.stop_asked {
            self.resume(since);
            return;
        }
        if let Some(good) = self.good_since {
            if now >= good + self.restore_needed(now) {
                self.resume(since);
            }
            return;
        }
        if self.stuck_at().is_some_and(|t| now >= t) {
            if self.health == LineHealth::Good {
                self.health = LineHealth::Stuck;
                self.push(Action::Notice(Notice::LineStuck));
            }
            self.resume(since);
        } else if self.park_end(parked_at).is_some_and(|t| now >= t) {
            self.park_max_handled = true;
            let how = self.settings.on_park_max;
            if self.settings.allow_poweroff && self.can_cut && how != OnParkMax::Stay {
                self.push(Action::Notice(Notice::GoingOff));
                self.push(Action::Off(how));
            } else {
                self.push(Action::Notice(Notice::StayingParked));
            }
        }
    }

    fn resume(&mut self, since: Mono) {
        self.measure.end();
        self.state = State::Resuming { since };
        self.push(Action::Resume);
    }

    fn resumed(&mut self, now: Mono) {
        if !matches!(
            self.state,
            State::Resuming { .. }
                | State::Rehearsing {
                    step: Rehearsal::Resuming,
                    ..
                }
        ) {
            return;
        }
        if self.stop_asked {
            self.run_stop_plan(now);
            return;
        }
        if let State::Rehearsing { .. } = self.state {
            self.rehearsed(now);
            return;
        }
        if let (Some(lost), LineHealth::Good) = (self.lost_since, self.health) {
            // Lost again while thawing: the gate never opened. A new outage with its own glitch
            // time and deadline.
            self.glitch.clear();
            self.glitch.lost(lost);
            self.state = State::Suspect { since: lost };
            return;
        }
        self.glitch.clear();
        self.push(Action::Ride(false));
        self.push(Action::Shed(self.sagging));
        self.serve();
        self.push(Action::Notice(Notice::Resumed));
    }

    fn stop(&mut self, now: Mono) {
        if self.stop_asked {
            return;
        }
        self.stop_asked = true;
        match self.state {
            State::Starting
            | State::Good
            | State::Brownout
            | State::Suspect { .. }
            | State::OnBattery { .. } => self.run_stop_plan(now),
            // These end, and then see that a stop was asked.
            State::Failing { .. }
            | State::Parked { .. }
            | State::Resuming { .. }
            | State::Rehearsing { .. }
            | State::Stopping
            | State::Off => {}
        }
    }

    fn run_stop_plan(&mut self, now: Mono) {
        self.state = State::Stopping;
        self.push(Action::CloseGate);
        self.push(Action::RunPlan {
            cause: Cause::Stop,
            lost_at: now,
            deadline: now + STOP_BUDGET,
        });
    }

    fn serve(&mut self) {
        self.settled = true;
        self.state = self.rest();
        self.push(Action::OpenGate);
    }

    fn rest(&self) -> State {
        if self.sagging {
            State::Brownout
        } else {
            State::Good
        }
    }

    /// Lost for longer than this, and the line lies. A battery lasts for hours; there only a
    /// line that can no longer be read counts.
    fn stuck_at(&self) -> Option<Mono> {
        if self.settings.source == Source::Battery && self.health != LineHealth::Missing {
            return None;
        }
        let full = self.holdup_or_assumed();
        self.lost_since
            .map(|t| t + (full * STUCK_FACTOR).max(STUCK_MIN))
            .map(|t| self.measure.not_before(t))
    }

    fn park_end(&self, parked_at: Mono) -> Option<Mono> {
        let from = self.lost_since.map_or(parked_at, |t| t.max(parked_at));
        (!self.park_max_handled).then(|| self.measure.not_before(from + self.settings.park_max))
    }

    fn restore_needed(&self, now: Mono) -> Duration {
        self.settings.restore.max(self.settle_needed(now))
    }

    /// What repeated outages ask for, unless the gauge says charged.
    fn settle_needed(&self, now: Mono) -> Duration {
        let PowerSettings {
            settle,
            settle_after,
            ..
        } = self.settings;
        let recent = self
            .outages
            .iter()
            .filter(|t| now.since(**t) < REPEAT_WINDOW)
            .count();
        let charged = self.gauge.is_some_and(|g| g.percent >= CHARGED_PERCENT);
        if settle_after > 0 && recent >= settle_after as usize && !charged {
            settle
        } else {
            Duration::ZERO
        }
    }

    fn push(&mut self, action: Action) {
        // The caller drains after each event; an event asks for less than a quarter of this.
        let full = self.actions.push_back(action).is_err();
        debug_assert!(!full, "actions were not drained");
    }
}

#[cfg(test)]
mod tests;
