//! What is soldered where: input lines, output pins, the simulated board.
//!
//! It promises the lines' logical levels (asserted: what the line is named for holds) and their
//! edges with the kernel's own time. It must never interpret a level: what a loss means, and for
//! how long, is the power room's business.
//!
//! Edges are hints, levels are the truth: a full queue drops edges, never levels.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::clock::Mono;
use crate::config::{BoardKind, BoardSettings, LineSpec};

mod abi;
mod error;
pub mod fake;
mod find;
pub mod gauge;
mod gpio;
mod gpio_v1;
mod lines;
mod outputs;
mod pins;
mod sim;
mod stamp;

pub use error::{BoardError, KernelError};
pub use find::{Finding, survey};
pub use lines::read_once;
pub use outputs::{Outputs, open_outputs};

/// Who requests the lines, as other programs see it.
pub const CONSUMER: &str = "holdup";

/// Which input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Asserted: the supply's input is lost.
    PowerFail,
    /// Asserted: the rail is sagging.
    Brownout,
    /// Asserted: the battery is nearly empty.
    BatteryLow,
}

impl Input {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::PowerFail, Self::Brownout, Self::BatteryLow];

    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PowerFail => "power_fail",
            Self::Brownout => "brownout",
            Self::BatteryLow => "battery_low",
        }
    }

    /// Its line on this board, if it is wired.
    pub const fn spec(self, board: &BoardSettings) -> Option<&LineSpec> {
        match self {
            Self::PowerFail => board.power_fail.as_ref(),
            Self::Brownout => board.brownout.as_ref(),
            Self::BatteryLow => board.battery_low.as_ref(),
        }
    }
}

/// The levels now: `Some(true)` is asserted (lost, low), `None` is not wired or not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Levels {
    /// See [`Input::PowerFail`].
    pub power_fail: Option<bool>,
    /// See [`Input::Brownout`].
    pub brownout: Option<bool>,
    /// See [`Input::BatteryLow`].
    pub battery_low: Option<bool>,
}

impl Levels {
    /// The level of one input.
    pub const fn get(&self, input: Input) -> Option<bool> {
        match input {
            Input::PowerFail => self.power_fail,
            Input::Brownout => self.brownout,
            Input::BatteryLow => self.battery_low,
        }
    }

    /// Sets the level of one input.
    pub const fn set(&mut self, input: Input, asserted: Option<bool>) {
        match input {
            Input::PowerFail => self.power_fail = asserted,
            Input::Brownout => self.brownout = asserted,
            Input::BatteryLow => self.battery_low = asserted,
        }
    }
}

/// A change of level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Whose.
    pub input: Input,
    /// To which level.
    pub asserted: bool,
    /// When, by the kernel's interrupt.
    pub at: Mono,
    /// Counts the edges of this input from 1; a gap means that edges were dropped. Through uAPI v1
    /// only those that were kept are counted, so there is none.
    pub seq: u32,
}

/// What a UPS gauge says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaugeReading {
    /// Of the battery.
    pub volts: f32,
    /// Charge, 0 to 100.
    pub percent: f32,
    /// Charging (`true`) or discharging; `None` where the chip does not tell.
    pub charging: Option<bool>,
    /// When it was read.
    pub at: Mono,
}

/// Why [`Inputs::wait`] returned; neither is a time-out or a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wake {
    /// There may be edges.
    pub lines: bool,
    /// The wake descriptor is readable. Whoever owns it empties it.
    pub woken: bool,
}

/// One line, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineDescription {
    /// What it is for, as in the configuration: `power_fail`.
    pub line: &'static str,
    /// The chip's label.
    pub chip: String,
    /// The chip's device.
    pub path: String,
    /// The line's number on the chip.
    pub offset: u32,
    /// The line's name, empty where the device tree gives none.
    pub name: String,
    /// A high level means what the line is named for.
    pub active_high: bool,
}

/// A line that is wired but could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingLine {
    /// What it is for, as in the configuration.
    pub line: &'static str,
    /// What is wrong and what to do.
    pub why: String,
}

/// Where the inputs come from, for status and doctor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinesDescription {
    /// `v2` or `v1` (the kernel's character device), `sim` or `fake`.
    pub abi: &'static str,
    /// The ABI is what the settings say, not what the kernel answered.
    pub forced: bool,
    /// The lines in use, `power_fail` first.
    pub lines: Vec<LineDescription>,
    /// Wired, but not to be had.
    pub missing: Vec<MissingLine>,
    /// In use, but not quite as the settings want it.
    pub notes: Vec<MissingLine>,
}

/// The input lines.
///
/// `wait`, `next_edge`, `levels` and `gauge` run on the guard thread: they do not allocate, log
/// or touch any file but the line requests.
pub trait Inputs: Send + fmt::Debug {
    /// What is read and from where.
    fn describe(&self) -> LinesDescription;

    /// Sleeps until a line or `wake` has something, or until `timeout` has passed. May return
    /// early with neither.
    ///
    /// # Errors
    /// The kernel refuses, or a chip has gone.
    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Option<Duration>)
    -> Result<Wake, BoardError>;

    /// The next edge that was seen, without waiting for one; oldest first.
    ///
    /// # Errors
    /// The line can no longer be read.
    fn next_edge(&mut self) -> Result<Option<Edge>, BoardError>;

    /// The levels now.
    ///
    /// # Errors
    /// A line can no longer be read.
    fn levels(&mut self) -> Result<Levels, BoardError>;

    /// What the gauge says, where the lines' own source has one: the simulated board. One on an
    /// I2C bus is read elsewhere, see [`gauge`].
    fn gauge(&mut self) -> Option<GaugeReading>;
}

/// Requests the board's input lines.
///
/// A wired brownout or battery line that cannot be had is listed in
/// [`LinesDescription::missing`]; the rest works without it.
///
/// # Errors
/// `power_fail` is not wired or cannot be had, or the simulated board's socket cannot be opened.
pub fn open_inputs(board: &BoardSettings) -> Result<Box<dyn Inputs>, BoardError> {
    match &board.kind {
        BoardKind::Gpio => Ok(Box::new(lines::GpioInputs::open(board)?)),
        BoardKind::Sim { control } => Ok(Box::new(sim::SimInputs::open(board, control)?)),
    }
}

/// ppoll(2) with nanoseconds; a signal is a wake-up without a reason.
fn wait_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<(), BoardError> {
    // A time too long for the kernel is no time-out.
    let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::INTR) => {
            for fd in fds {
                fd.clear_revents();
            }
            Ok(())
        }
        Err(source) => Err(BoardError::Wait { source }),
    }
}

fn readable(fd: &PollFd<'_>) -> bool {
    fd.revents().contains(PollFlags::IN)
}

fn gone(fd: &PollFd<'_>) -> bool {
    let bad = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    fd.revents().intersects(bad)
}
