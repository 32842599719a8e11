//! The pins the agent drives.
//!
//! A pin is driven only where the board's description names it; where it does not, or where the
//! line is not to be had, setting it does nothing. Dropping [`Outputs`] gives the lines back to
//! the kernel and leaves their levels undefined.

use std::sync::atomic::{AtomicBool, Ordering};

use gpiocdev::Request;
use gpiocdev::line::Value;

use super::find::find;
use super::gpio::{request, with_sources};
use super::{BoardError, MissingLine};
use crate::config::{BoardSettings, LineSpec};

/// See the module's text.
#[derive(Debug)]
pub struct Outputs {
    status: Option<Output>,
    safe_to_cut: Option<Output>,
    missing: Vec<MissingLine>,
}

#[derive(Debug)]
struct Output {
    line: &'static str,
    /// `None` on the simulated board.
    pin: Option<(Request, u32)>,
    last: AtomicBool,
}

/// Requests the board's output lines, not asserted.
pub fn open_outputs(board: &BoardSettings) -> Outputs {
    let mut missing = Vec::new();
    let mut open = |line, spec: &Option<LineSpec>| {
        let spec = spec.as_ref()?;
        match Output::open(line, spec, board.is_sim()) {
            Ok(output) => Some(output),
            Err(error) => {
                let why = with_sources(&error);
                missing.push(MissingLine { line, why });
                None
            }
        }
    };
    let status = open("status", &board.status);
    let safe_to_cut = open("safe_to_cut", &board.safe_to_cut);
    Outputs {
        status,
        safe_to_cut,
        missing,
    }
}

impl Outputs {
    /// Wired, but not to be had.
    pub fn missing(&self) -> &[MissingLine] {
        &self.missing
    }

    /// Can the supply be told that it may cut?
    pub const fn has_safe_to_cut(&self) -> bool {
        self.safe_to_cut.is_some()
    }

    /// The agent's lamp. Does not allocate.
    ///
    /// # Errors
    /// The line can no longer be driven.
    pub fn set_status(&self, on: bool) -> Result<(), BoardError> {
        self.status.as_ref().map_or(Ok(()), |o| o.set(on))
    }

    /// Everything is durable, the supply may be cut. Does not allocate.
    ///
    /// # Errors
    /// The line can no longer be driven.
    pub fn set_safe_to_cut(&self, on: bool) -> Result<(), BoardError> {
        self.safe_to_cut.as_ref().map_or(Ok(()), |o| o.set(on))
    }

    /// What the lamp was last set to; `None` without one.
    pub fn status(&self) -> Option<bool> {
        let lamp = self.status.as_ref()?;
        Some(lamp.last.load(Ordering::SeqCst))
    }

    /// What `safe_to_cut` was last set to; `None` without it.
    pub fn safe_to_cut(&self) -> Option<bool> {
        let pin = self.safe_to_cut.as_ref()?;
        Some(pin.last.load(Ordering::SeqCst))
    }
}

impl Output {
    fn open(line: &'static str, spec: &LineSpec, sim: bool) -> Result<Self, BoardError> {
        let last = AtomicBool::new(false);
        if sim {
            let pin = None;
            return Ok(Self { line, pin, last });
        }
        let found = find(line, spec)?;
        let offset = found.info.offset;
        let request = request(line, &found, |b| {
            let pin = b.with_line(offset);
            // The level first: a pin must not blink while it becomes an output.
            if spec.active_high {
                pin.as_active_high();
            } else {
                pin.as_active_low();
            }
            pin.as_output(Value::Inactive);
        })?;
        let pin = Some((request, offset));
        Ok(Self { line, pin, last })
    }

    fn set(&self, on: bool) -> Result<(), BoardError> {
        if let Some((request, offset)) = &self.pin {
            let value = if on { Value::Active } else { Value::Inactive };
            let line = self.line;
            let done = request.set_value(*offset, value);
            done.map_err(|source| BoardError::Write { line, source })?;
        }
        self.last.store(on, Ordering::SeqCst);
        Ok(())
    }
}
