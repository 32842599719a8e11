//! One input line through uAPI v2.
//!
//! No kernel debounce: it would postpone the event for as long as the line chatters.
//!
//! `read` and `level` run on the guard thread: they do not allocate and do not block.

use std::os::fd::{AsFd, BorrowedFd};

use gpiocdev::Request;
use gpiocdev::line::{Bias as LineBias, EdgeDetection, EdgeKind, EventClock, Value};
use gpiocdev::request::Builder;

use super::find::Found;
use super::{BoardError, CONSUMER, Edge, Input, KernelError};
use crate::clock::Mono;
use crate::config::{Bias, LineSpec};

/// Edges that the kernel keeps for us; more are dropped, oldest first.
const KERNEL_EDGES: u32 = 64;
/// Room for sixteen edges of 48 bytes.
const WORDS: usize = 16 * 6;

/// A line, requested with both edges.
#[derive(Debug)]
pub(super) struct NewLine {
    input: Input,
    offset: u32,
    request: Request,
    /// Edges that were read and not yet given out: words `from..to`.
    buffer: [u64; WORDS],
    from: usize,
    to: usize,
}

impl NewLine {
    pub(super) fn open(input: Input, found: &Found, spec: &LineSpec) -> Result<Self, BoardError> {
        let request = request(input.name(), found, |b| {
            input_line(b, found, spec)
                .with_edge_detection(EdgeDetection::BothEdges)
                .with_event_clock(EventClock::Monotonic)
                .with_kernel_event_buffer_size(KERNEL_EDGES);
        })?;
        Ok(Self {
            input,
            offset: found.info.offset,
            request,
            buffer: [0; WORDS],
            from: 0,
            to: 0,
        })
    }

    /// Edges wait here that the kernel no longer keeps.
    pub(super) const fn is_waiting(&self) -> bool {
        self.from < self.to
    }

    /// The next edge; reads the kernel's where none is left here.
    pub(super) fn read(&mut self) -> Result<Option<Edge>, BoardError> {
        let line = self.input.name();
        let failed = |source: gpiocdev::Error| BoardError::Read {
            line,
            source: source.into(),
        };
        if !self.is_waiting() {
            // A read without an event would block.
            if !self.request.has_edge_event().map_err(failed)? {
                return Ok(None);
            }
            (self.from, self.to) = (0, 0);
            self.to = self
                .request
                .read_edge_events_into_slice(&mut self.buffer)
                .map_err(failed)?;
        }
        let waiting = &self.buffer[self.from..self.to];
        let event = match self.request.edge_event_from_slice(waiting) {
            Ok(event) => event,
            Err(source) => {
                self.from = self.to; // half an event: never read it twice
                return Err(failed(source));
            }
        };
        self.from += self.request.edge_event_u64_size();
        Ok(Some(Edge {
            input: self.input,
            asserted: event.kind == EdgeKind::Rising,
            at: Mono::from_nanos(event.timestamp_ns),
            seq: event.line_seqno,
        }))
    }

    /// The level now; true is asserted.
    pub(super) fn level(&self) -> Result<bool, KernelError> {
        Ok(self.request.value(self.offset)? == Value::Active)
    }
}

impl AsFd for NewLine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.request.as_fd()
    }
}

/// Requests one line for us.
pub(super) fn request(
    line: &'static str,
    found: &Found,
    configure: impl FnOnce(&mut Builder),
) -> Result<Request, BoardError> {
    let mut builder = Request::builder();
    builder.on_chip(&found.path).with_consumer(CONSUMER);
    configure(&mut builder);
    builder
        .request()
        .map_err(|source| found.refused(line, source.into()))
}

fn input_line<'a>(builder: &'a mut Builder, found: &Found, spec: &LineSpec) -> &'a mut Builder {
    let bias = match spec.bias {
        Bias::AsIs => None,
        Bias::Disabled => Some(LineBias::Disabled),
        Bias::PullUp => Some(LineBias::PullUp),
        Bias::PullDown => Some(LineBias::PullDown),
    };
    let builder = builder.with_line(found.info.offset).as_input();
    let builder = builder.with_bias(bias);
    if spec.active_high {
        builder.as_active_high()
    } else {
        builder.as_active_low()
    }
}

/// Reads a line once.
pub(super) fn level_once(
    line: &'static str,
    found: &Found,
    spec: &LineSpec,
) -> Result<bool, BoardError> {
    let request = request(line, found, |b| {
        input_line(b, found, spec);
    })?;
    let value = request.value(found.info.offset);
    let value = value.map_err(|source| BoardError::Read {
        line,
        source: source.into(),
    })?;
    Ok(value == Value::Active)
}
