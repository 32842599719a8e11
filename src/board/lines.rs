//! The board's input lines through the kernel's GPIO character device, in either ABI.
//!
//! The kernel inverts: a line that is active low is requested so, and from there on values and
//! edges are logical. One request for each line, so that one that cannot be had costs no other.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::abi::{Abi, Chip};
use super::find::{find, purpose};
use super::gpio::{self, NewLine};
use super::gpio_v1::{self, OldLine};
use super::{
    BoardError, Edge, GaugeReading, Input, Inputs, KernelError, Levels, LineDescription,
    LinesDescription, MissingLine, Wake, gone, readable, wait_for,
};
use crate::config::{BoardSettings, GpioAbi, LineSpec};

/// See the module's text.
#[derive(Debug)]
pub(super) struct GpioInputs {
    /// At most one for each of [`Input::ALL`], `power_fail` first.
    lines: Vec<Line>,
    missing: Vec<MissingLine>,
    notes: Vec<MissingLine>,
    forced: bool,
}

#[derive(Debug)]
struct Line {
    input: Input,
    wire: Wire,
    /// Its oldest edge, read and not yet given out.
    next: Option<Edge>,
    description: LineDescription,
}

/// A requested line.
#[derive(Debug)]
enum Wire {
    V1(OldLine),
    V2(Box<NewLine>),
}

impl GpioInputs {
    pub(super) fn open(board: &BoardSettings) -> Result<Self, BoardError> {
        let mut lines = Vec::with_capacity(Input::ALL.len());
        let (mut missing, mut notes) = (Vec::new(), Vec::new());
        for input in Input::ALL {
            let (line, vital) = (input.name(), input == Input::PowerFail);
            match input.spec(board) {
                Some(spec) => match Line::open(input, spec, board.abi) {
                    Ok((open, note)) => {
                        lines.push(open);
                        notes.extend(note.map(|why| MissingLine { line, why }));
                    }
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
        Ok(Self {
            lines,
            missing,
            notes,
            forced: board.abi != GpioAbi::Auto,
        })
    }

    fn abi(&self) -> Abi {
        match self.lines.first().map(|l| &l.wire) {
            Some(Wire::V1(_)) => Abi::V1,
            Some(Wire::V2(_)) | None => Abi::V2,
        }
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
    /// The line, and what about it is not as it was asked for.
    fn open(
        input: Input,
        spec: &LineSpec,
        choice: GpioAbi,
    ) -> Result<(Self, Option<String>), BoardError> {
        let found = find(input.name(), spec, choice)?;
        found.free(input.name())?;
        let (wire, note) = match &found.chip {
            Chip::V2(_) => (
                Wire::V2(Box::new(NewLine::open(input, &found, spec)?)),
                None,
            ),
            Chip::V1(chip) => {
                let (line, note) = OldLine::open(input, chip, &found, spec)?;
                (Wire::V1(line), note)
            }
        };
        let line = Self {
            input,
            wire,
            next: None,
            description: found.describe(input.name(), spec),
        };
        Ok((line, note))
    }

    fn is_waiting(&self) -> bool {
        self.next.is_some()
            || match &self.wire {
                Wire::V1(_) => false,
                Wire::V2(line) => line.is_waiting(),
            }
    }
}

impl Wire {
    fn read(&mut self) -> Result<Option<Edge>, BoardError> {
        match self {
            Self::V1(line) => line.read(),
            Self::V2(line) => line.read(),
        }
    }

    fn level(&self) -> Result<bool, KernelError> {
        match self {
            Self::V1(line) => line.level(),
            Self::V2(line) => line.level(),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::V1(line) => line.as_fd(),
            Self::V2(line) => line.as_fd(),
        }
    }
}

impl Inputs for GpioInputs {
    fn describe(&self) -> LinesDescription {
        LinesDescription {
            abi: self.abi().name(),
            forced: self.forced,
            lines: self.lines.iter().map(|l| l.description.clone()).collect(),
            missing: self.missing.clone(),
            notes: self.notes.clone(),
        }
    }

    fn wait(
        &mut self,
        wake: BorrowedFd<'_>,
        timeout: Option<Duration>,
    ) -> Result<Wake, BoardError> {
        if self.lines.iter().any(Line::is_waiting) {
            return Ok(Wake {
                lines: true,
                woken: false,
            });
        }
        let mut fds: heapless::Vec<PollFd<'_>, 4> = heapless::Vec::new();
        let ours = self.lines.iter().map(|l| l.wire.as_fd());
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
            if line.next.is_none() {
                line.next = line.wire.read()?;
            }
            if let Some(edge) = line.next
                && oldest.is_none_or(|(_, other)| edge.at < other.at)
            {
                oldest = Some((nth, edge));
            }
        }
        let Some((nth, edge)) = oldest else {
            return Ok(None);
        };
        self.lines[nth].next = None;
        Ok(Some(edge))
    }

    fn levels(&mut self) -> Result<Levels, BoardError> {
        let mut levels = Levels::default();
        for line in &self.lines {
            let level = line.wire.level().map_err(|source| BoardError::Read {
                line: line.input.name(),
                source,
            })?;
            levels.set(line.input, Some(level));
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
    let line = purpose(board, spec);
    let found = find(line, spec, board.abi)?;
    found.free(line)?;
    match &found.chip {
        Chip::V1(chip) => gpio_v1::level_once(line, chip, &found, spec),
        Chip::V2(_) => gpio::level_once(line, &found, spec),
    }
}
