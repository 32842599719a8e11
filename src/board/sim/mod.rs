//! The simulated board: levels set through a Unix socket, for tests and the demo.
//!
//! When a line of the protocol is answered with `ok`, its level is there for
//! [`Inputs::levels`] already. The socket's thread and the guard's share atomics only, so that
//! no client can hold up the guard.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::{
    BoardError, Edge, GaugeReading, Input, Inputs, Levels, LineDescription, LinesDescription, Wake,
    gone, readable, wait_for,
};
use crate::clock::{Clock, SystemClock};
use crate::config::{BoardSettings, LineAt};

mod lines;
mod protocol;
mod server;

use lines::SimLines;
use server::Server;

/// See the module's text.
#[derive(Debug)]
pub(super) struct SimInputs {
    lines: Arc<SimLines>,
    description: LinesDescription,
    /// Ends with us.
    _server: Server,
}

impl SimInputs {
    pub(super) fn open(board: &BoardSettings, control: &Path) -> Result<Self, BoardError> {
        if board.power_fail.is_none() {
            return Err(BoardError::NotWired {
                board: board.name.clone(),
                line: Input::PowerFail.name(),
            });
        }
        let failed = |source: rustix::io::Errno| BoardError::SimSocket {
            path: control.to_owned(),
            doing: "served",
            source: source.into(),
        };
        let wired = Input::ALL.map(|input| input.spec(board).is_some());
        let lines = Arc::new(SimLines::new(wired).map_err(failed)?);
        let described = Input::ALL.into_iter().filter_map(|input| {
            let spec = input.spec(board)?;
            let (offset, name) = match &spec.at {
                LineAt::Offset(offset) => (*offset, String::new()),
                LineAt::Name(name) => (0, name.clone()),
            };
            Some(LineDescription {
                line: input.name(),
                chip: spec.chip.clone().unwrap_or_default(),
                path: control.display().to_string(),
                offset,
                name,
                active_high: spec.active_high,
            })
        });
        let description = LinesDescription {
            abi: "sim",
            lines: described.collect(),
            missing: Vec::new(),
            forced: false,
            notes: Vec::new(),
        };
        Ok(Self {
            _server: Server::start(control, Arc::clone(&lines))?,
            lines,
            description,
        })
    }
}

impl Inputs for SimInputs {
    fn describe(&self) -> LinesDescription {
        self.description.clone()
    }

    fn wait(
        &mut self,
        wake: BorrowedFd<'_>,
        timeout: Option<Duration>,
    ) -> Result<Wake, BoardError> {
        let mut fds = [
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
            PollFd::from_borrowed_fd(self.lines.news.as_fd(), PollFlags::IN),
        ];
        wait_for(&mut fds, timeout)?;
        let [woken, lines] = fds.each_ref().map(readable);
        if gone(&fds[1]) {
            let line = Input::PowerFail.name();
            return Err(BoardError::Gone { line });
        }
        if lines {
            self.lines.hush();
        }
        Ok(Wake { lines, woken })
    }

    fn next_edge(&mut self) -> Result<Option<Edge>, BoardError> {
        Ok(self.lines.next_edge())
    }

    fn levels(&mut self) -> Result<Levels, BoardError> {
        Ok(self.lines.levels())
    }

    fn gauge(&mut self) -> Option<GaugeReading> {
        let (volts, percent) = self.lines.gauge()?;
        // It measures whenever it is asked.
        let at = SystemClock.mono();
        let charging = None;
        Some(GaugeReading {
            volts,
            percent,
            charging,
            at,
        })
    }
}
