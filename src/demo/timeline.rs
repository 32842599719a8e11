//! The demo's output: a timeline for people, in colour on a terminal, or JSON lines.

use std::io::Write;

use serde_json::json;

use crate::clock::{Clock, Mono, SystemClock};

use super::DemoError;

/// How a line is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// As it should be.
    Good,
    /// Something is wrong outside, and handled.
    Warn,
    /// Power is gone.
    Bad,
    /// A detail.
    Plain,
}

/// See the module's text.
pub struct Timeline<'a> {
    out: &'a mut dyn Write,
    json: bool,
    colour: bool,
    began: Mono,
    proof: (u64, u64, u64, i64),
}

impl std::fmt::Debug for Timeline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timeline")
            .field("json", &self.json)
            .finish_non_exhaustive()
    }
}

const NOT_SHOWN: &str = "Not shown here: SIGKILL ends the agent but keeps the kernel's memory. \
That nothing is lost when memory is lost too is shown on the emulated gateway (tests/run).";

impl<'a> Timeline<'a> {
    /// Starts the clock.
    pub fn new(out: &'a mut dyn Write, json: bool, colour: bool) -> Self {
        Self {
            out,
            json,
            colour,
            began: SystemClock.mono(),
            proof: (0, 0, 0, 0),
        }
    }

    pub(super) fn head(&mut self, text: &str) -> Result<(), DemoError> {
        if self.json {
            return self.line(&json!({ "event": "demo", "text": text }).to_string());
        }
        self.line(text)?;
        self.line("")
    }

    pub(super) fn say(&mut self, mood: Mood, event: &str, text: &str) -> Result<(), DemoError> {
        let at = SystemClock.mono().since(self.began).as_secs_f64();
        if self.json {
            let at_ms = (at * 1000.0).round();
            return self.line(&json!({ "at_ms": at_ms, "event": event, "text": text }).to_string());
        }
        let (on, off) = match (self.colour, mood) {
            (false, _) | (true, Mood::Plain) => ("", ""),
            (true, Mood::Good) => ("\x1b[32m", "\x1b[0m"),
            (true, Mood::Warn) => ("\x1b[33m", "\x1b[0m"),
            (true, Mood::Bad) => ("\x1b[1;31m", "\x1b[0m"),
        };
        self.line(&format!("{at:6.2} s  {on}{event:<8}{off}  {text}"))
    }

    pub(super) fn proof(&mut self, acked: u64, missing: u64, twice: u64, stored: i64) {
        self.proof = (acked, missing, twice, stored);
    }

    pub(super) fn end(&mut self, kept: bool) -> Result<(), DemoError> {
        let (acked, missing, twice, stored) = self.proof;
        if self.json {
            return self.line(
                &json!({
                    "event": "end", "ok": kept, "acknowledged": acked, "missing": missing,
                    "stored_twice": twice, "stored": stored, "not_shown": NOT_SHOWN,
                })
                .to_string(),
            );
        }
        self.line("")?;
        self.line(if kept {
            "Every acknowledged reading is there."
        } else {
            "FAILED: an acknowledged reading is missing or was stored twice."
        })?;
        self.line(NOT_SHOWN)
    }

    fn line(&mut self, text: &str) -> Result<(), DemoError> {
        writeln!(self.out, "{text}")
            .and_then(|()| self.out.flush())
            .map_err(DemoError::Out)
    }
}
