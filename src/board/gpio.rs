//! Input lines through the kernel's GPIO character device, uAPI v2.
//!
//! The kernel inverts: a line that is active low is requested so, and from there on values and
//! edges are logical. No kernel debounce: it would postpone the event for as long as the line
//! chatters. One request for each line, so that one that cannot be had costs no other.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use gpiocdev::Request;
use gpiocdev::line::{Bias as LineBias, EdgeDetection, EdgeKind, EventClock, Value};
use gpiocdev::request::Builder;
use rustix::event::{PollFd, PollFlags};

use super::find::{Found, find};
use super::{
    BoardError, CONSUMER, Edge, GaugeReading, Input, Inputs, Levels, LineDescription,
    LinesDescription, MissingLine, Wake, gone, readable, wait_for,
};
use crate::clock::Mono;
use crate::config::{Bias, BoardSettings, LineSpec};

/// Edges that the kernel keeps for us; more are dropped, oldest first.
const KERNEL_EDGES: u32 = 64;
/// Room for sixteen edges of 48 bytes.
const WORDS: usize = 16 * 6;

/// See the module's text.
#[derive(Debug)]
pub(super) struct GpioInputs {
    /// At most one for each of [`Input::ALL`].
    lines: Vec<Line>,
    missing: Vec<MissingLine>,
}

#[derive(Debug)]
struct Line {
    input: Input,
    offset: u32,
    request: Request,
    /// Edges that were read and not yet given out: words `from..to`.
    buffer: [u64; WORDS],
    from: usize,
    to: usize,
    description: LineDescription,
}

impl GpioInputs {
    pub(super) fn open(board: &BoardSettings) -> Result<Self, BoardError> {
        let mut lines = Vec::with_capacity(Input::ALL.len());
        let mut missing = Vec::new();
        for input in Input::ALL {
            let (line, vital) = (input.name(), input == Input::PowerFail);
            match input.spec(board) {
                Some(spec) => match Line::open(input, spec) {
                    Ok(open) => lines.push(open),
                    Err(error) if vital => return Err(error),
                    Err(error) => missing.push(MissingLine {
                        line,
                        why: with_sources(&error),
                    }),
                },
                None if vital => {
                    return Err(BoardError::NotWired {
                        board: board.name.clone(),
                        line,
                    });
                }
                None => {}
            }
        }
        Ok(Self { lines, missing })
    }
}

/// The error and what caused it, in one line.
pub(super) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

impl Line {
    fn open(input: Input, spec: &LineSpec) -> Result<Self, BoardError> {
        let found = find(input.name(), spec)?;
        let request = request(input.name(), &found, |b| {
            input_line(b, &found, spec)
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
            description: found.describe(input.name(), spec),
        })
    }

    /// When the oldest edge that waits here happened. Reads the kernel's where none is left.
    fn oldest(&mut self) -> Result<Option<Edge>, BoardError> {
        let line = self.input.name();
        let failed = |source| BoardError::Read { line, source };
        if self.from >= self.to {
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
        Ok(Some(Edge {
            input: self.input,
            asserted: event.kind == EdgeKind::Rising,
            at: Mono::from_nanos(event.timestamp_ns),
            seq: event.line_seqno,
        }))
    }
}

/// Requests one line for us.
pub(super) fn request(
    line: &'static str,
    found: &Found,
    configure: impl FnOnce(&mut Builder),
) -> Result<Request, BoardError> {
    let (chip, offset) = (found.label.clone(), found.info.offset);
    if found.info.used {
        return Err(BoardError::Busy {
            line,
            chip,
            offset,
            consumer: found.info.consumer.clone(),
        });
    }
    let mut builder = Request::builder();
    builder.on_chip(&found.path).with_consumer(CONSUMER);
    configure(&mut builder);
    builder.request().map_err(|source| BoardError::Request {
        line,
        chip,
        offset,
        path: found.path.clone(),
        source,
    })
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

impl Inputs for GpioInputs {
    fn describe(&self) -> LinesDescription {
        LinesDescription {
            abi: "v2",
            lines: self.lines.iter().map(|l| l.description.clone()).collect(),
            missing: self.missing.clone(),
        }
    }

    fn wait(
        &mut self,
        wake: BorrowedFd<'_>,
        timeout: Option<Duration>,
    ) -> Result<Wake, BoardError> {
        if self.lines.iter().any(|l| l.from < l.to) {
            return Ok(Wake {
                lines: true,
                woken: false,
            });
        }
        let mut fds: heapless::Vec<PollFd<'_>, 4> = heapless::Vec::new();
        let ours = self.lines.iter().map(|l| l.request.as_fd());
        for fd in std::iter::once(wake).chain(ours) {
            // Four places: the wake descriptor and one for each of Input::ALL.
            let _full = fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        wait_for(&mut fds, timeout)?;
        let lines = fds.iter().skip(1).any(readable);
        if !lines {
            let dead = self.lines.iter().zip(fds.iter().skip(1));
            for (line, fd) in dead {
                if gone(fd) {
                    let line = line.input.name();
                    return Err(BoardError::Gone { line });
                }
            }
        }
        let woken = fds.first().is_some_and(readable);
        Ok(Wake { lines, woken })
    }

    fn next_edge(&mut self) -> Result<Option<Edge>, BoardError> {
        let mut oldest: Option<(usize, Edge)> = None;
        for (nth, line) in self.lines.iter_mut().enumerate() {
            if let Some(edge) = line.oldest()?
                && oldest.is_none_or(|(_, other)| edge.at < other.at)
            {
                oldest = Some((nth, edge));
            }
        }
        let Some((nth, edge)) = oldest else {
            return Ok(None);
        };
        let line = &mut self.lines[nth];
        line.from += line.request.edge_event_u64_size();
        Ok(Some(edge))
    }

    fn levels(&mut self) -> Result<Levels, BoardError> {
        let mut levels = Levels::default();
        for line in &self.lines {
            let value = line.request.value(line.offset);
            let value = value.map_err(|source| BoardError::Read {
                line: line.input.name(),
                source,
            })?;
            levels.set(line.input, Some(value == Value::Active));
        }
        Ok(levels)
    }

    fn gauge(&mut self) -> Option<GaugeReading> {
        None
    }
}

/// Reads a line once and lets go of it: for doctor, not beside a running agent, which holds its
/// own lines. True is asserted.
///
/// # Errors
/// The line is not to be had, or the board is simulated.
pub fn read_once(board: &BoardSettings, spec: &LineSpec) -> Result<bool, BoardError> {
    if board.is_sim() {
        return Err(BoardError::Simulated {
            board: board.name.clone(),
        });
    }
    let line = super::find::purpose(board, spec);
    let found = find(line, spec)?;
    let request = request(line, &found, |b| {
        input_line(b, &found, spec);
    })?;
    let value = request.value(found.info.offset);
    let value = value.map_err(|source| BoardError::Read { line, source })?;
    Ok(value == Value::Active)
}
