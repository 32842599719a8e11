//! The board's lines and outputs, as the guard wants them.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::board::gauge::{GaugeTap, GaugeView};
use crate::board::{self, Input, Inputs, LinesDescription};
use crate::clock::{Clock, Mono};
use crate::config::BoardSettings;
use crate::guard::{Lamps, LineOpener, LineReader, LinesLost};
use crate::power::{GaugeSeen, Levels, Line};

/// What is known about the lines, for status.
#[derive(Debug, Clone, Default)]
pub(super) struct LinesSeen {
    /// The lines that are open.
    pub(super) open: Option<LinesDescription>,
    /// Why they are not.
    pub(super) why_not: Option<String>,
}

/// Opens the board's lines for the guard.
#[derive(Debug)]
pub(super) struct BoardLines {
    pub(super) board: BoardSettings,
    pub(super) seen: Arc<Mutex<LinesSeen>>,
    /// The gauge is no line: it is read whether the lines can be had or not.
    pub(super) gauge: Option<GaugeView>,
    pub(super) clock: Arc<dyn Clock>,
}

impl LineOpener for BoardLines {
    fn open(&mut self) -> Option<Box<dyn LineReader>> {
        let opened = board::open_inputs(&self.board);
        let mut seen = self
            .seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match opened {
            Ok(inputs) => {
                let open = inputs.describe();
                for m in &open.missing {
                    log::warn!("input {}: {}", m.line, m.why);
                }
                for n in &open.notes {
                    log::warn!("input {}: {}", n.line, n.why);
                }
                *seen = LinesSeen {
                    open: Some(open),
                    why_not: None,
                };
                Some(Box::new(Reader {
                    inputs,
                    seen: Arc::clone(&self.seen),
                    gauge: self.gauge.as_ref().map(GaugeView::tap),
                    clock: Arc::clone(&self.clock),
                }))
            }
            Err(e) => {
                let why = super::explain(&e);
                if seen.why_not.as_ref() != Some(&why) {
                    log::error!("UNPROTECTED: {why}");
                }
                *seen = LinesSeen {
                    open: None,
                    why_not: Some(why),
                };
                None
            }
        }
    }
}

struct Reader {
    inputs: Box<dyn Inputs>,
    seen: Arc<Mutex<LinesSeen>>,
    gauge: Option<GaugeTap>,
    clock: Arc<dyn Clock>,
}

impl Reader {
    /// The one place on the guard thread that allocates: the lines are gone, there is no edge.
    fn lost(&self, e: &board::BoardError) -> LinesLost {
        let mut seen = self
            .seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *seen = LinesSeen {
            open: None,
            why_not: Some(super::explain(e)),
        };
        LinesLost
    }
}

impl LineReader for Reader {
    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) -> Result<(), LinesLost> {
        match self.inputs.wait(wake, Some(timeout)) {
            Ok(_) => Ok(()),
            Err(e) => Err(self.lost(&e)),
        }
    }

    fn next_edge(&mut self) -> Result<Option<(Line, bool, Mono)>, LinesLost> {
        let edge = self.inputs.next_edge().map_err(|e| self.lost(&e))?;
        Ok(edge.map(|e| {
            let line = match e.input {
                Input::PowerFail => Line::PowerFail,
                Input::Brownout => Line::Brownout,
                Input::BatteryLow => Line::BatteryLow,
            };
            (line, e.asserted, e.at)
        }))
    }

    fn levels(&mut self) -> Result<Levels, LinesLost> {
        let l = self.inputs.levels().map_err(|e| self.lost(&e))?;
        Ok(Levels {
            power_fail: l.power_fail,
            brownout: l.brownout,
            battery_low: l.battery_low,
        })
    }

    fn gauge(&mut self) -> Option<GaugeSeen> {
        let reading = match &mut self.gauge {
            Some(tap) => tap.look(self.clock.mono()),
            None => self.inputs.gauge(),
        };
        reading.map(|g| GaugeSeen {
            percent: g.percent,
            read_at: g.at,
        })
    }
}

/// The board's outputs; one that cannot be set is told once.
#[derive(Debug)]
pub(super) struct BoardLamps {
    pub(super) outputs: board::Outputs,
    pub(super) status: Option<bool>,
}

impl BoardLamps {
    /// Opens them. An output that cannot be had costs a lamp, not the guard.
    pub(super) fn open(board: &BoardSettings) -> Self {
        let outputs = board::open_outputs(board);
        for m in outputs.missing() {
            log::warn!("output {}: {}", m.line, m.why);
        }
        Self {
            outputs,
            status: None,
        }
    }
}

impl Lamps for BoardLamps {
    fn set_status(&mut self, on: bool) {
        if self.status != Some(on) && self.outputs.set_status(on).is_ok() {
            self.status = Some(on);
        }
    }

    fn set_safe_to_cut(&mut self, on: bool) {
        // Without it the supply is not cut: the gateway stays parked, which status tells.
        self.outputs.set_safe_to_cut(on).ok();
    }
}
