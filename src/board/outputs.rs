//! The pins the agent drives.
//!
//! A pin is driven only where the board's description names it; where it does not, or where the
//! line is not to be had, setting it does nothing. Dropping [`Outputs`] gives the lines back to
//! the kernel and leaves their levels undefined.

use embedded_hal::digital::{OutputPin, PinState};

use super::find::find;
use super::lines::with_sources;
use super::pins::Pin;
use super::{BoardError, KernelError, MissingLine};
use crate::config::{BoardSettings, LineSpec};

/// See the module's text.
#[derive(Debug)]
pub struct Outputs {
    status: Option<Output>,
    safe_to_cut: Option<Output>,
    missing: Vec<MissingLine>,
}

#[derive(Debug)]
struct Output<P = Pin> {
    line: &'static str,
    /// `None` on the simulated board.
    pin: Option<P>,
    active_high: bool,
    last: bool,
}

/// Requests the board's output lines, not asserted.
pub fn open_outputs(board: &BoardSettings) -> Outputs {
    let mut missing = Vec::new();
    let mut open = |line, spec: &Option<LineSpec>| {
        let spec = spec.as_ref()?;
        match Output::open(line, spec, board) {
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
    pub fn set_status(&mut self, on: bool) -> Result<(), BoardError> {
        self.status.as_mut().map_or(Ok(()), |o| o.set(on))
    }

    /// Everything is durable, the supply may be cut. Does not allocate.
    ///
    /// # Errors
    /// The line can no longer be driven.
    pub fn set_safe_to_cut(&mut self, on: bool) -> Result<(), BoardError> {
        self.safe_to_cut.as_mut().map_or(Ok(()), |o| o.set(on))
    }

    /// What the lamp was last set to; `None` without one.
    pub fn status(&self) -> Option<bool> {
        Some(self.status.as_ref()?.last)
    }

    /// What `safe_to_cut` was last set to; `None` without it.
    pub fn safe_to_cut(&self) -> Option<bool> {
        Some(self.safe_to_cut.as_ref()?.last)
    }
}

impl Output {
    fn open(
        line: &'static str,
        spec: &LineSpec,
        board: &BoardSettings,
    ) -> Result<Self, BoardError> {
        let pin = if board.is_sim() {
            None
        } else {
            let found = find(line, spec, board.abi)?;
            found.free(line)?;
            Some(Pin::open(line, &found, spec)?)
        };
        Ok(Self {
            line,
            pin,
            active_high: spec.active_high,
            last: false,
        })
    }
}

impl<P: OutputPin> Output<P>
where
    KernelError: From<P::Error>,
{
    fn set(&mut self, on: bool) -> Result<(), BoardError> {
        if let Some(pin) = &mut self.pin {
            let state = PinState::from(on == self.active_high);
            pin.set_state(state).map_err(|e| BoardError::Write {
                line: self.line,
                source: e.into(),
            })?;
        }
        self.last = on;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal::digital::ErrorType;

    use super::*;

    /// A wire: its level, and how often it was set.
    #[derive(Debug, Default)]
    struct Wire {
        high: bool,
        sets: u32,
    }

    #[derive(Debug)]
    struct NoError;

    impl embedded_hal::digital::Error for NoError {
        fn kind(&self) -> embedded_hal::digital::ErrorKind {
            embedded_hal::digital::ErrorKind::Other
        }
    }

    impl From<NoError> for KernelError {
        fn from(_: NoError) -> Self {
            Self::V1(std::io::Error::from_raw_os_error(libc::EIO).into())
        }
    }

    impl ErrorType for Wire {
        type Error = NoError;
    }

    impl OutputPin for Wire {
        fn set_low(&mut self) -> Result<(), NoError> {
            (self.high, self.sets) = (false, self.sets + 1);
            Ok(())
        }

        fn set_high(&mut self) -> Result<(), NoError> {
            (self.high, self.sets) = (true, self.sets + 1);
            Ok(())
        }
    }

    #[test]
    fn asserted_is_the_level_that_the_board_says_on_any_hal_pin() {
        for active_high in [true, false] {
            let mut output = Output {
                line: "safe_to_cut",
                pin: Some(Wire::default()),
                active_high,
                last: false,
            };
            for on in [true, false, true] {
                output.set(on).expect("set");
                let level = output.pin.as_ref().expect("a pin").high;
                assert_eq!((level, output.last), (on == active_high, on));
            }
            assert_eq!(output.pin.expect("a pin").sets, 3);
        }
    }
}
