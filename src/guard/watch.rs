//! The guard thread: lines in, orders out.
//!
//! After an edge it allocates nothing, logs nothing, spawns nothing and does no file I/O: it
//! reads lines that are open, turns the state machine, and gives orders that cannot fail.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{Clock, Mono};
use crate::config::{OnParkMax, PowerSettings};
use crate::durable::{Closer, Gate};
use crate::power::{
    Action, Before, Event, GaugeSeen, Levels, Line, Notice, REPEAT_WINDOW, State, Supply,
};

use super::machine::Machine;
use super::orders::{Orders, order};
use super::realtime::{self, Priority};
use super::runner::{PlanOptions, PlanThread};
use super::shared::{Answer, NoticeSender, Notices, Published, Shared, call};

/// Levels are read at least this often: an edge may have been dropped.
const TICK: Duration = Duration::from_secs(1);
/// Lines that could not be opened are looked for again this often.
const REOPEN: Duration = Duration::from_secs(5);
/// The gauge is read this often.
const GAUGE: Duration = Duration::from_secs(1);

/// The lines cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinesLost;

/// Lines that are open. Nothing here allocates or blocks beyond `wait`.
pub trait LineReader: Send {
    /// Waits for an edge, for `wake`, or at most `timeout`.
    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) -> Result<(), LinesLost>;
    /// The next edge that waits, with the kernel's time stamp.
    fn next_edge(&mut self) -> Result<Option<(Line, bool, Mono)>, LinesLost>;
    /// All levels, now.
    fn levels(&mut self) -> Result<Levels, LinesLost>;
    /// What the gauge said last; `None` where there is none, or it cannot be read any more.
    fn gauge(&mut self) -> Option<GaugeSeen>;
}

/// Opens the lines, at start and again after they were lost.
pub trait LineOpener: Send {
    /// `None`: not to be had now; the opener told people why.
    fn open(&mut self) -> Option<Box<dyn LineReader>>;
}

/// The outputs.
pub trait Lamps: Send {
    /// The state lamp: lit while everything acknowledged would survive.
    fn set_status(&mut self, on: bool);
    /// Everything is durable, the supply may be cut.
    fn set_safe_to_cut(&mut self, on: bool);
}

/// What the guard is made of.
#[allow(
    missing_debug_implementations,
    reason = "made once and taken apart at once"
)]
pub struct GuardOptions {
    /// Power settings.
    pub settings: PowerSettings,
    /// Raising `safe_to_cut` makes the supply cut and come back.
    pub can_cut: bool,
    /// What earlier sessions left of the supply's charge.
    pub before: Before,
    /// The gate.
    pub gate: Arc<Gate>,
    /// The clock that stamps edges.
    pub clock: Arc<dyn Clock>,
    /// Freeze and off.
    pub machine: Arc<dyn Machine>,
    /// Where the lines come from.
    pub opener: Box<dyn LineOpener>,
    /// The outputs.
    pub lamps: Box<dyn Lamps>,
    /// Shared state.
    pub shared: Arc<Shared>,
    /// The plan thread's part.
    pub plan: PlanOptions,
    /// Called once, when the guard thread ends after a stop.
    pub ended: Box<dyn FnOnce() + Send>,
}

/// The guard's threads, joined at the end.
#[derive(Debug)]
pub struct Guard {
    thread: Option<JoinHandle<()>>,
    plan: PlanThread,
}

impl Guard {
    /// Starts guarding. The gate is closed by the guard until the first level was read.
    pub fn start(options: GuardOptions) -> io::Result<(Self, Notices)> {
        let (sender, notices) = Notices::channel()?;
        let orders = Arc::new(Orders::default());
        options.gate.close(Closer::Power);
        let (now, wall) = (options.clock.mono(), options.clock.wall());
        let mut supply = Supply::new(options.settings, options.can_cut).after(options.before, now);
        let mut earlier = 0;
        for ago in options.plan.record.recent(wall, REPEAT_WINDOW) {
            supply.remember(now - ago);
            earlier += 1;
        }
        let settle_after = options.settings.settle_after;
        if settle_after > 0 && earlier >= settle_after {
            log::warn!(
                "outages in the last ten minutes: {earlier}; service begins when power has been steady for \
                 power.settle_ms, or the gauge says charged"
            );
        }
        let plan = PlanThread::start(
            options.plan,
            Arc::clone(&orders),
            Arc::clone(&options.shared),
            Arc::clone(&options.gate),
            Arc::clone(&options.machine),
            Arc::clone(&options.clock),
        )?;
        let mut watch = Watch {
            supply,
            settings: options.settings,
            gate: options.gate,
            clock: options.clock,
            machine: options.machine,
            lamps: options.lamps,
            shared: options.shared,
            orders,
            notices: sender,
            gauge_at: Mono::default(),
            ended: false,
        };
        let mut opener = options.opener;
        let ended = options.ended;
        let thread = std::thread::Builder::new()
            .name("holdup-guard".into())
            .spawn(move || {
                if realtime::schedule(Priority::Guard).is_ok() {
                    watch.shared.count_realtime();
                }
                watch.run(&mut *opener);
                watch.shared.set_ended();
                ended();
            })?;
        Ok((
            Self {
                thread: Some(thread),
                plan,
            },
            notices,
        ))
    }

    /// Waits for the end that [`Shared::stop`] asked for.
    pub fn join(mut self) {
        if let Some(t) = self.thread.take() {
            // A panic there aborts the process in release and was printed in any case.
            t.join().ok();
        }
        self.plan.end();
    }
}

/// The lines while they can be had.
type Open = Option<Box<Lines>>;
/// Owned by a box, so without a lifetime of its own.
type Lines = dyn LineReader + 'static;

fn reader(lines: &mut Open) -> Option<&mut Lines> {
    match lines {
        Some(open) => Some(&mut **open),
        None => None,
    }
}

struct Watch {
    supply: Supply,
    settings: PowerSettings,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
    machine: Arc<dyn Machine>,
    lamps: Box<dyn Lamps>,
    shared: Arc<Shared>,
    orders: Arc<Orders>,
    notices: NoticeSender,
    gauge_at: Mono,
    /// The stop's plan is done.
    ended: bool,
}

impl Watch {
    fn run(&mut self, opener: &mut dyn LineOpener) {
        self.lamps.set_safe_to_cut(false);
        let mut lines = opener.open();
        let mut tried = self.clock.mono();
        loop {
            self.heed_calls(&mut lines);
            if lines.is_none() && self.clock.mono().since(tried) >= REOPEN {
                lines = opener.open();
                tried = self.clock.mono();
            }
            match &mut lines {
                Some(open) => {
                    if self.look(&mut **open).is_err() {
                        lines = None;
                        tried = self.clock.mono();
                        self.tell(Event::LinesMissing, tried, None);
                    }
                }
                None => {
                    let now = self.clock.mono();
                    self.tell(Event::LinesMissing, now, None);
                }
            }
            let now = self.clock.mono();
            self.supply.handle_timeout(now);
            self.act(now, reader(&mut lines));
            self.publish(now);
            if self.ended {
                return;
            }
            self.wait(now, &mut lines);
        }
    }

    /// Edges tell when, levels tell what; both go in before time does. What an edge asks for is
    /// done before the next edge is looked at.
    fn look(&mut self, lines: &mut Lines) -> Result<(), LinesLost> {
        while let Some((line, asserted, at)) = lines.next_edge()? {
            self.supply.handle_event(Event::Edge { line, asserted }, at);
            self.act(at, Some(lines));
        }
        let levels = lines.levels()?;
        let now = self.clock.mono();
        self.supply.handle_event(Event::Levels(levels), now);
        self.act(now, Some(lines));
        if now.since(self.gauge_at) >= GAUGE {
            self.gauge_at = now;
            let seen = lines.gauge();
            self.supply.handle_event(Event::Gauge(seen), now);
            self.act(now, Some(lines));
        }
        Ok(())
    }

    fn tell(&mut self, event: Event, now: Mono, lines: Option<&mut Lines>) {
        self.supply.handle_event(event, now);
        self.act(now, lines);
    }

    fn heed_calls(&mut self, lines: &mut Open) {
        let calls = self.shared.take_calls();
        let now = self.clock.mono();
        if calls & call::SETTINGS != 0
            && let Some(settings) = self.shared.take_settings()
        {
            self.settings = settings;
            self.tell(Event::Settings(settings), now, reader(lines));
        }
        for (bit, event) in [
            (call::PLAN_DONE, Event::PlanDone),
            (call::RESUMED, Event::Resumed),
            (call::REHEARSE, Event::Rehearse),
            (call::ARM, Event::Measure(true)),
            (call::DISARM, Event::Measure(false)),
            (call::STOP, Event::Stop),
        ] {
            if calls & bit != 0 {
                self.tell(event, now, reader(lines));
            }
        }
    }

    /// Carries out what the supply asks for.
    fn act(&mut self, now: Mono, mut lines: Option<&mut Lines>) {
        while let Some(action) = self.supply.poll_action() {
            match action {
                Action::CloseGate => {
                    // Closed again at the commit point: what was in flight was settled before.
                    if !self.gate.is_closed_by(Closer::Power) {
                        self.gate.close(Closer::Power);
                        self.orders.give(order::SETTLE);
                    }
                }
                Action::OpenGate => self.gate.open(Closer::Power),
                Action::Ride(on) => self.shared.set_riding(on),
                Action::Shed(on) => self.shared.set_shedding(on),
                Action::EarlyCheckpoint => self.orders.give(order::EARLY),
                Action::RunPlan {
                    cause,
                    lost_at,
                    deadline,
                } => {
                    self.orders.run(cause, lost_at, deadline);
                }
                Action::Measure => self.orders.measure(),
                Action::Measured(at) => self.orders.measured(at),
                Action::Resume => self.orders.give(order::RESUME),
                Action::Off(how) => self.off(how, now, lines.as_deref_mut()),
                Action::Exit => self.ended = true,
                Action::Notice(notice) => {
                    if notice == Notice::Resumed {
                        self.lamps.set_safe_to_cut(false);
                    }
                    if let Some(answer) = Answer::of(notice) {
                        self.shared.answer(answer);
                    }
                    self.notices.send(now, notice);
                }
            }
        }
    }

    /// A last look: power that came back meanwhile resumes instead, and on a line that cannot be
    /// read nothing is powered off.
    fn off(&mut self, how: OnParkMax, now: Mono, lines: Option<&mut Lines>) {
        let levels = lines.and_then(|l| l.levels().ok());
        match levels.and_then(|l| l.power_fail) {
            Some(true) => {
                self.lamps.set_safe_to_cut(true);
                // Returns only where the machine cannot be turned off.
                drop(self.machine.off(how));
                self.lamps.set_safe_to_cut(false);
                self.notices.send(now, Notice::StayingParked);
            }
            Some(false) => {
                let levels = levels.unwrap_or_default();
                self.supply.handle_event(Event::Levels(levels), now);
            }
            None => self.notices.send(now, Notice::StayingParked),
        }
    }

    fn publish(&mut self, now: Mono) {
        let state = self.supply.state();
        self.lamps.set_status(matches!(
            state,
            State::Good | State::Brownout | State::OnBattery { .. }
        ));
        self.shared.publish(
            now,
            Published {
                state,
                health: self.supply.line_health(),
                reads_lost: self.supply.reads_lost(),
                gauge_percent: self.supply.gauge_percent(),
                battery_low: self.supply.battery_is_low(),
                holdup_left: self.supply.holdup_left(now),
                measurable_in: self.supply.measurable_in(now),
                wait: self.supply.wait(now),
                measuring: self.supply.measuring(),
                settings: self.settings,
            },
        );
    }

    fn wait(&mut self, now: Mono, lines: &mut Open) {
        let due = self.supply.next_deadline(now).unwrap_or(Mono::NEVER);
        let timeout = due.since(self.clock.mono()).min(TICK);
        match lines {
            Some(open) => {
                if open.wait(self.shared.wake_fd(), timeout).is_err() {
                    *lines = None;
                }
            }
            None => wait_for(self.shared.wake_fd(), timeout),
        }
    }
}

fn wait_for(wake: BorrowedFd<'_>, timeout: Duration) {
    use rustix::event::{PollFd, PollFlags, poll};
    let timeout = rustix::time::Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // Woken, timed out or interrupted: the loop looks again.
    poll(&mut [PollFd::new(&wake, PollFlags::IN)], Some(&timeout)).ok();
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("supply", &self.supply)
            .finish_non_exhaustive()
    }
}
