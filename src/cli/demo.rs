//! `holdup demo`: the whole thing on this machine, without hardware.

use std::io::Write;

use crate::demo::{self, Timeline};

/// Runs the demo; 0 only if every acknowledged reading is there.
pub(super) fn run(out: &mut dyn Write, json: bool) -> anyhow::Result<u8> {
    // The agent's own log goes to a file; the demo's story is told by the timeline.
    log::set_max_level(log::LevelFilter::Warn);
    let mut timeline = Timeline::new(out, json, super::colour());
    Ok(u8::from(!demo::run(&mut timeline)?))
}
