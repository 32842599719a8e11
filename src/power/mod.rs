//! What the levels mean: glitch filter, supply state machine, hold-up budget, readiness.
//!
//! Sans-IO: events and the time go in, actions come out of a queue, [`Supply::next_deadline`]
//! says when to call again. The same code therefore runs against a real line, a simulated one
//! and a table of events in a test. It must never touch a file, a line or a clock.

mod announce;
mod budget;
mod charge;
mod glitch;
mod holdup;
mod readiness;
mod supply;
mod tail;

pub use announce::{Announcer, Word, Words};
pub use budget::{Budget, Others, StepCost, StepKind, blocks};
pub use charge::Before;
pub use holdup::{Measurement, proposal, worn};
pub use readiness::{
    Assessment, MOST_REASONS, READ_ONLY_REMEDY, Readiness, Reason, Situation, assess,
};
pub use supply::{REPEAT_WINDOW, Supply};
pub use tail::Tail;

use std::time::Duration;

use crate::clock::Mono;
use crate::config::{OnParkMax, PowerSettings};

/// An input line, by what it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Mains lost.
    PowerFail,
    /// The rail sags.
    Brownout,
    /// The battery is nearly empty.
    BatteryLow,
}

/// All lines at one instant; `true` means what the line is named for, `None` not wired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Levels {
    /// Mains lost.
    pub power_fail: Option<bool>,
    /// The rail sags.
    pub brownout: Option<bool>,
    /// The battery is nearly empty.
    pub battery_low: Option<bool>,
}

/// What the supply is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// All levels, read just now. They are the truth.
    Levels(Levels),
    /// An edge with the kernel's time stamp as `now`. It is a hint: it tells *when*.
    Edge {
        /// Which line.
        line: Line,
        /// The level that it went to.
        asserted: bool,
    },
    /// The lines cannot be read (no chip, no line, gone).
    LinesMissing,
    /// What the battery gauge said last; `None`: it cannot be read any more.
    Gauge(Option<GaugeSeen>),
    /// The plan ended; everything that it could make durable is durable.
    PlanDone,
    /// The file system is thawed and the record closed; service may go on.
    Resumed,
    /// The agent was asked to end.
    Stop,
    /// New settings.
    Settings(PowerSettings),
    /// An operator asks for a rehearsal of the plan.
    Rehearse,
    /// An operator arms the next loss for measuring the hold-up time, or disarms it.
    Measure(bool),
}

/// One reading of the battery gauge. Looked at twice it is still one: `read_at` tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaugeSeen {
    /// Charge, 0 to 100.
    pub percent: f32,
    /// When it was read.
    pub read_at: Mono,
}

/// What the supply asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stop writing, commit what is in flight.
    CloseGate,
    /// Go on writing.
    OpenGate,
    /// Ride on the battery: keep the WAL nearly empty (`true`), or as usual.
    Ride(bool),
    /// Pause what can wait (backup, scrub, uplink), or go on with it.
    Shed(bool),
    /// Checkpoint now, service goes on.
    EarlyCheckpoint,
    /// Run the plan.
    RunPlan {
        /// Why.
        cause: Cause,
        /// The first lost edge (or when the battery was found low).
        lost_at: Mono,
        /// When the hold-up time ends.
        deadline: Mono,
    },
    /// The plan that is ordered next does not freeze and ends in the heartbeat.
    Measure,
    /// Power is back since then: the measurement is over.
    Measured(Mono),
    /// Thaw, close the record, answer with [`Event::Resumed`].
    Resume,
    /// Read the line a last time; still lost: raise `safe_to_cut` and power off or halt.
    Off(OnParkMax),
    /// The stop's plan is done: end the process.
    Exit,
    /// Tell people.
    Notice(Notice),
}

/// Why a plan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Mains lost, behind it a capacitor.
    PowerFail,
    /// The battery behind it is low, or was ridden for long enough.
    BatteryLow,
    /// The agent was asked to end.
    Stop,
    /// An operator asked for a rehearsal; power is good.
    Rehearsal,
}

impl Cause {
    /// As records and status spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PowerFail => "power_fail",
            Self::BatteryLow => "battery_low",
            Self::Stop => "stop",
            Self::Rehearsal => "rehearsal",
        }
    }
}

/// What people are told, in the words of apcupsd where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Lost and back before the commit point; nobody saw anything.
    Flicker {
        /// Lost time inside the sliding window.
        lost: Duration,
    },
    /// The loss is real; service stops.
    Failing,
    /// Serving from the battery.
    OnBattery,
    /// Mains are back, the battery no longer used.
    OffBattery,
    /// The rail sags; load is shed.
    Brownout,
    /// The rail is steady again.
    BrownoutEnded,
    /// Everything is durable and quiet.
    Parked,
    /// Service goes on without a reboot.
    Resumed,
    /// Lost for longer than the supply could have lasted: the line lies.
    LineStuck,
    /// The line that was stuck reads good again.
    LineUnstuck,
    /// The lines cannot be read.
    LinesMissing,
    /// The lines can be read again.
    LinesFound,
    /// `park_max` has passed, but powering off is not allowed or nothing would wake the board.
    StayingParked,
    /// Power stayed lost past `park_max`; the machine goes off.
    GoingOff,
    /// A rehearsal or a measurement was asked for while the supply is not good.
    Refused,
    /// A rehearsal begins; service stops.
    Rehearsing,
    /// The rehearsal is over; service goes on.
    Rehearsed,
    /// Power was lost in the middle of the rehearsal: an outage follows.
    RehearsalOvertaken,
    /// The next loss will be measured.
    MeasureArmed,
    /// The next loss will not be measured.
    MeasureDisarmed,
    /// Nobody pulled the plug in time; the next loss will not be measured.
    MeasureTimedOut,
}

/// How far a rehearsal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rehearsal {
    /// The plan runs.
    Plan,
    /// Everything is durable, nothing is written.
    Parked {
        /// When it is thawed at the latest.
        until: Mono,
    },
    /// Thawing.
    Resuming,
}

/// Whether the hold-up time is being measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measuring {
    /// No.
    Off,
    /// The next loss will be.
    Armed,
    /// This loss is.
    Running,
}

impl Measuring {
    /// As status spells it.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Off => None,
            Self::Armed => Some("armed"),
            Self::Running => Some("running"),
        }
    }
}

/// The state, with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No level was seen yet.
    Starting,
    /// Power is good.
    Good,
    /// The rail sags.
    Brownout,
    /// Lost, perhaps a glitch.
    Suspect {
        /// The first lost edge.
        since: Mono,
    },
    /// Serving from the battery.
    OnBattery {
        /// The first lost edge.
        since: Mono,
    },
    /// The plan runs.
    Failing {
        /// The first lost edge.
        since: Mono,
        /// When the hold-up time ends.
        deadline: Mono,
    },
    /// Everything is durable, nothing is written.
    Parked {
        /// The first lost edge.
        since: Mono,
        /// When the plan was done.
        parked_at: Mono,
    },
    /// Thawing.
    Resuming {
        /// The first lost edge.
        since: Mono,
    },
    /// The plan is rehearsed; power is good.
    Rehearsing {
        /// When power would have been lost.
        since: Mono,
        /// How far it is.
        step: Rehearsal,
    },
    /// The plan runs because the agent ends.
    Stopping,
    /// The machine goes off, or the process ends.
    Off,
}

impl State {
    /// As status spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Good => "Good",
            Self::Brownout => "Brownout",
            Self::Suspect { .. } => "Suspect",
            Self::OnBattery { .. } => "OnBattery",
            Self::Failing { .. } => "Failing",
            Self::Parked { .. } => "Parked",
            Self::Resuming { .. } => "Resuming",
            Self::Rehearsing { .. } => "Rehearsing",
            Self::Stopping => "Stopping",
            Self::Off => "Off",
        }
    }
}

/// Power is back, and service waits until it has been steady.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Then it goes on, if power stays.
    pub until: Mono,
    /// It is longer than `restore_ms`, because outages were repeated: `settle_ms`.
    pub settling: bool,
}

/// Whether the lines can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineHealth {
    /// Read and believed.
    Good,
    /// Cannot be read.
    Missing,
    /// The board has no power-fail line.
    NotWired,
    /// Lost for longer than any supply lasts.
    Stuck,
}
