//! One input line through uAPI v1, for kernels that have no v2.
//!
//! What v1 lacks: edges have no numbers (they are counted here, so no gap is ever seen), the
//! kernel keeps sixteen and drops the newest, and time stamps are on either clock (see
//! [`super::stamp`]). Levels are read again after every edge and on a timer in any case.
//!
//! `read` and `level` run on the guard thread: they do not allocate and do not block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use gpio_cdev::{EventRequestFlags, EventType, LineEventHandle, LineRequestFlags};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::abi::old_line;
use super::find::Found;
use super::stamp::Stamps;
use super::{BoardError, CONSUMER, Edge, Input, KernelError};
use crate::clock::{Clock, SystemClock};
use crate::config::{Bias, LineSpec};

/// GPIOHANDLE_REQUEST_BIAS_* of <linux/gpio.h>, since Linux 5.5; the crate does not name them.
const PULL_UP: LineRequestFlags = LineRequestFlags::from_bits_retain(1 << 5);
const PULL_DOWN: LineRequestFlags = LineRequestFlags::from_bits_retain(1 << 6);
const BIAS_DISABLED: LineRequestFlags = LineRequestFlags::from_bits_retain(1 << 7);

/// A line, requested with both edges.
#[derive(Debug)]
pub(super) struct OldLine {
    input: Input,
    handle: LineEventHandle,
    stamps: Stamps,
    read: u32,
}

impl OldLine {
    /// Requests the line; beside it, why its bias is not as it was asked for.
    pub(super) fn open(
        input: Input,
        chip: &gpio_cdev::Chip,
        found: &Found,
        spec: &LineSpec,
    ) -> Result<(Self, Option<String>), BoardError> {
        let line = input.name();
        let refused = |source| found.refused(line, source);
        let wire = old_line(chip, found.info.offset).map_err(refused)?;
        let (handle, note) = with_bias(spec, found.info.offset, |flags| {
            wire.events(flags, EventRequestFlags::BOTH_EDGES, CONSUMER)
        })
        .map_err(|e| refused(e.into()))?;
        // An edge may be taken back by the kernel between poll and read: never wait in read.
        fcntl_getfl(handle.as_fd())
            .and_then(|flags| fcntl_setfl(handle.as_fd(), flags | OFlags::NONBLOCK))
            .map_err(|e| refused(gpio_cdev::Error::from(io::Error::from(e)).into()))?;
        let opened = Self {
            input,
            handle,
            stamps: Stamps::new(SystemClock.mono()),
            read: 0,
        };
        Ok((opened, note))
    }

    /// The next edge that the kernel keeps.
    pub(super) fn read(&mut self) -> Result<Option<Edge>, BoardError> {
        let event = match self.handle.get_event() {
            Ok(event) => event,
            Err(error) if nothing_there(&error) => {
                self.stamps.seen_empty(SystemClock.mono());
                return Ok(None);
            }
            Err(error) => {
                return Err(BoardError::Read {
                    line: self.input.name(),
                    source: error.into(),
                });
            }
        };
        let (now, real) = SystemClock.mono_and_real_nanos();
        self.read = self.read.wrapping_add(1);
        Ok(Some(Edge {
            input: self.input,
            asserted: event.event_type() == EventType::RisingEdge,
            at: self.stamps.place(event.timestamp(), now, real),
            seq: self.read,
        }))
    }

    /// The level now; true is asserted.
    pub(super) fn level(&self) -> Result<bool, KernelError> {
        Ok(self.handle.get_value()? == 1)
    }
}

impl AsFd for OldLine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Reads a line once.
pub(super) fn level_once(
    line: &'static str,
    chip: &gpio_cdev::Chip,
    found: &Found,
    spec: &LineSpec,
) -> Result<bool, BoardError> {
    let refused = |source| found.refused(line, source);
    let wire = old_line(chip, found.info.offset).map_err(refused)?;
    let (handle, _told_by_the_agent) = with_bias(spec, found.info.offset, |flags| {
        wire.request(flags, 0, CONSUMER)
    })
    .map_err(|e| refused(e.into()))?;
    let value = handle.get_value().map_err(|e| BoardError::Read {
        line,
        source: e.into(),
    })?;
    Ok(value == 1)
}

/// Requests with the bias, and where the kernel does not know it (before 5.5) without: then what
/// the firmware set stays, and the answer says so.
fn with_bias<T>(
    spec: &LineSpec,
    offset: u32,
    mut request: impl FnMut(LineRequestFlags) -> Result<T, gpio_cdev::Error>,
) -> Result<(T, Option<String>), gpio_cdev::Error> {
    let mut plain = LineRequestFlags::INPUT;
    if !spec.active_high {
        plain |= LineRequestFlags::ACTIVE_LOW;
    }
    let (bias, name, firmware) = match spec.bias {
        Bias::AsIs => return Ok((request(plain)?, None)),
        Bias::Disabled => (BIAS_DISABLED, "disabled", "pn"),
        Bias::PullUp => (PULL_UP, "pull-up", "pu"),
        Bias::PullDown => (PULL_DOWN, "pull-down", "pd"),
    };
    let error = match request(plain.clone() | bias) {
        Ok(done) => return Ok((done, None)),
        Err(error) => error,
    };
    // Whatever else is wrong is wrong without the bias, too, and told then.
    let without = request(plain)?;
    let note = format!(
        "the bias {name} cannot be set through v1 here ({error}); \
         set it in config.txt: gpio={offset}={firmware}"
    );
    Ok((without, Some(note)))
}

fn nothing_there(error: &gpio_cdev::Error) -> bool {
    let source = std::error::Error::source(error);
    let io = source.and_then(|s| s.downcast_ref::<io::Error>());
    io.is_some_and(|e| {
        matches!(
            e.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LineAt;

    fn spec(bias: Bias) -> LineSpec {
        LineSpec {
            chip: None,
            at: LineAt::Offset(6),
            active_high: false,
            bias,
        }
    }

    #[test]
    fn a_kernel_that_knows_the_bias_is_asked_once() {
        let mut asked = Vec::new();
        let (_, note) = with_bias(&spec(Bias::PullUp), 6, |flags| {
            asked.push(flags.bits());
            Ok(())
        })
        .expect("granted");
        // GPIOHANDLE_REQUEST_INPUT, _ACTIVE_LOW, _BIAS_PULL_UP of <linux/gpio.h>.
        assert_eq!((asked, note), (vec![0b10_0101], None));
    }

    #[test]
    fn a_kernel_that_knows_no_bias_still_gives_the_line_and_the_remedy_is_named() {
        let mut asked = Vec::new();
        let (_, note) = with_bias(&spec(Bias::PullDown), 6, |flags| {
            asked.push(flags.bits());
            match asked.len() {
                1 => Err(io::Error::from_raw_os_error(libc::EINVAL).into()),
                _ => Ok(()),
            }
        })
        .expect("granted");
        assert_eq!(asked, [0b100_0101, 0b101]);
        let note = note.expect("a note");
        assert!(note.ends_with("set it in config.txt: gpio=6=pd"), "{note}");
    }

    #[test]
    fn a_line_that_is_refused_anyway_is_refused() {
        let busy = || gpio_cdev::Error::from(io::Error::from_raw_os_error(libc::EBUSY));
        let refused = with_bias::<()>(&spec(Bias::PullUp), 6, |_| Err(busy()));
        let text = refused.expect_err("refused").to_string();
        assert!(text.contains("busy"), "{text}");
    }
}
