//! Inputs that a test sets, with times of its own choosing.
//!
//! Shipped in the library so that every room that listens to lines is tested against the same
//! ones. Works beside a [`crate::clock::ManualClock`]: `wait` never sleeps longer than a few
//! milliseconds, so a clock that was turned is noticed without being told.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use super::{
    BoardError, Edge, GaugeReading, Input, Inputs, Levels, LinesDescription, Wake, readable,
    wait_for,
};
use crate::clock::Mono;

const LONGEST_NAP: Duration = Duration::from_millis(5);
const DEPTH: usize = 1_024;

/// The handle by which a test sets the lines. Clones set the same lines.
#[derive(Debug, Clone)]
pub struct FakeBoard {
    shared: Arc<Shared>,
}

/// The inputs to hand to the room under test.
#[derive(Debug)]
pub struct FakeInputs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    news: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    levels: Levels,
    edges: VecDeque<Edge>,
    seq: [u32; 3],
    gauge: Option<GaugeReading>,
    gone: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeBoard {
    /// Every input wired and not asserted.
    ///
    /// # Errors
    /// The kernel has no eventfd left.
    pub fn new() -> Result<(Self, FakeInputs), BoardError> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let news = eventfd(0, flags).map_err(|source| BoardError::Wait { source })?;
        let mut state = State {
            edges: VecDeque::with_capacity(DEPTH),
            ..State::default()
        };
        for input in Input::ALL {
            state.levels.set(input, Some(false));
        }
        let state = Mutex::new(state);
        let shared = Arc::new(Shared { state, news });
        let inputs = FakeInputs {
            shared: Arc::clone(&shared),
        };
        Ok((Self { shared }, inputs))
    }

    /// The line changes at `at`: level and edge.
    pub fn set(&self, input: Input, asserted: bool, at: Mono) {
        let mut state = self.shared.state();
        state.levels.set(input, Some(asserted));
        state.seq[input as usize] += 1;
        let seq = state.seq[input as usize];
        if state.edges.len() < DEPTH {
            state.edges.push_back(Edge {
                input,
                asserted,
                at,
                seq,
            });
        }
        drop(state);
        self.nudge();
    }

    /// The level alone, as when its edge was dropped; `None` is not wired. Wakes nobody.
    pub fn set_level(&self, input: Input, asserted: Option<bool>) {
        self.shared.state().levels.set(input, asserted);
    }

    /// An edge alone: what a line says that has changed back since.
    pub fn push_edge(&self, edge: Edge) {
        self.shared.state().edges.push_back(edge);
        self.nudge();
    }

    /// What the gauge says.
    pub fn set_gauge(&self, reading: Option<GaugeReading>) {
        self.shared.state().gauge = reading;
        self.nudge();
    }

    /// From now on the chip is gone: every call fails.
    pub fn vanish(&self) {
        self.shared.state().gone = true;
        self.nudge();
    }

    /// Edges that were not taken yet.
    pub fn edges_left(&self) -> usize {
        self.shared.state().edges.len()
    }

    /// Makes `wait` return.
    pub fn nudge(&self) {
        // Fails only when it is readable anyway.
        let _already = rustix::io::write(&self.shared.news, &1_u64.to_ne_bytes());
    }
}

impl FakeInputs {
    fn state(&self) -> Result<MutexGuard<'_, State>, BoardError> {
        let state = self.shared.state();
        if state.gone {
            let line = Input::PowerFail.name();
            return Err(BoardError::Gone { line });
        }
        Ok(state)
    }
}

impl Inputs for FakeInputs {
    fn describe(&self) -> LinesDescription {
        LinesDescription {
            abi: "fake",
            lines: Vec::new(),
            missing: Vec::new(),
            forced: false,
            notes: Vec::new(),
        }
    }

    fn wait(
        &mut self,
        wake: BorrowedFd<'_>,
        timeout: Option<Duration>,
    ) -> Result<Wake, BoardError> {
        let waiting = !self.state()?.edges.is_empty();
        let nap = if waiting { Duration::ZERO } else { LONGEST_NAP };
        let mut fds = [
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
            PollFd::from_borrowed_fd(self.shared.news.as_fd(), PollFlags::IN),
        ];
        wait_for(&mut fds, Some(timeout.unwrap_or(nap).min(nap)))?;
        let [woken, news] = fds.each_ref().map(readable);
        if news {
            let mut count = [0; 8];
            let _nothing = rustix::io::read(&self.shared.news, &mut count);
        }
        drop(self.state()?);
        Ok(Wake {
            lines: news || waiting,
            woken,
        })
    }

    fn next_edge(&mut self) -> Result<Option<Edge>, BoardError> {
        Ok(self.state()?.edges.pop_front())
    }

    fn levels(&mut self) -> Result<Levels, BoardError> {
        Ok(self.state()?.levels)
    }

    fn gauge(&mut self) -> Option<GaugeReading> {
        self.state().ok()?.gauge
    }
}
