//! Output pins as embedded-hal sees them: `set_high` and `set_low` are the levels on the wire,
//! whatever they mean.
//!
//! A pin is requested with its meaning (active high or low) and not asserted, and the kernel sets
//! that level in the same call in which it makes the pin an output: it does not blink. Setting a
//! pin does not allocate.

use embedded_hal::digital::{ErrorKind, ErrorType, OutputPin};
use gpio_cdev::LineRequestFlags;
use gpiocdev::Request;
use gpiocdev::line::Value;
use linux_embedded_hal::CdevPin;

use super::abi::{Chip, old_line};
use super::find::Found;
use super::gpio::request;
use super::{BoardError, CONSUMER, KernelError};
use crate::config::LineSpec;

/// A pin through uAPI v2; linux-embedded-hal's speaks v1 only.
#[derive(Debug)]
pub(super) struct RequestPin {
    request: Request,
    offset: u32,
    active_high: bool,
}

impl embedded_hal::digital::Error for KernelError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

impl ErrorType for RequestPin {
    type Error = KernelError;
}

impl OutputPin for RequestPin {
    fn set_low(&mut self) -> Result<(), KernelError> {
        self.set(!self.active_high)
    }

    fn set_high(&mut self) -> Result<(), KernelError> {
        self.set(self.active_high)
    }
}

impl RequestPin {
    fn set(&self, asserted: bool) -> Result<(), KernelError> {
        let value = if asserted {
            Value::Active
        } else {
            Value::Inactive
        };
        Ok(self.request.set_value(self.offset, value)?)
    }
}

/// A pin of the board's.
pub(super) enum Pin {
    V1(CdevPin),
    V2(RequestPin),
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // CdevPin has none of its own.
            Self::V1(pin) => f.debug_tuple("V1").field(&pin.0).finish(),
            Self::V2(pin) => f.debug_tuple("V2").field(pin).finish(),
        }
    }
}

impl Pin {
    /// Requests the pin, not asserted.
    pub(super) fn open(
        line: &'static str,
        found: &Found,
        spec: &LineSpec,
    ) -> Result<Self, BoardError> {
        match &found.chip {
            Chip::V1(chip) => {
                let refused = |source: KernelError| found.refused(line, source);
                let mut flags = LineRequestFlags::OUTPUT;
                if !spec.active_high {
                    flags |= LineRequestFlags::ACTIVE_LOW;
                }
                // The default value is logical: 0 is not asserted, in either polarity.
                let handle = old_line(chip, found.info.offset)
                    .and_then(|wire| Ok(wire.request(flags, 0, CONSUMER)?))
                    .map_err(refused)?;
                let pin = CdevPin::new(handle).map_err(|e| refused(e.into()))?;
                Ok(Self::V1(pin))
            }
            Chip::V2(_) => {
                let offset = found.info.offset;
                let request = request(line, found, |b| {
                    let pin = b.with_line(offset);
                    if spec.active_high {
                        pin.as_active_high();
                    } else {
                        pin.as_active_low();
                    }
                    pin.as_output(Value::Inactive);
                })?;
                Ok(Self::V2(RequestPin {
                    request,
                    offset,
                    active_high: spec.active_high,
                }))
            }
        }
    }
}

impl ErrorType for Pin {
    type Error = KernelError;
}

impl OutputPin for Pin {
    fn set_low(&mut self) -> Result<(), KernelError> {
        match self {
            Self::V1(pin) => pin.set_low().map_err(Into::into),
            Self::V2(pin) => pin.set_low(),
        }
    }

    fn set_high(&mut self) -> Result<(), KernelError> {
        match self {
            Self::V1(pin) => pin.set_high().map_err(Into::into),
            Self::V2(pin) => pin.set_high(),
        }
    }
}
