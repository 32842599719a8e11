//! Runs in the emulated gateway: prints the level of a GPIO line, then every edge, one a line.
//!
//! `line_watch CHIP_LABEL OFFSET`. An independent witness of what the tests do to the lines from
//! outside. Prints `level 0|1` first, then `rising TIME_NS` or `falling TIME_NS`.
#![expect(clippy::print_stdout, reason = "printing is its whole task")]

use anyhow::{Context, Result};
use gpiocdev::line::{EdgeDetection, EdgeKind};

pub(super) fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let label = arguments
        .next()
        .context("usage: line_watch CHIP_LABEL OFFSET")?;
    let offset = arguments.next().context("no OFFSET")?.parse()?;
    let chip = gpiocdev::chip::chips()?
        .into_iter()
        .find(|path| {
            gpiocdev::Chip::from_path(path)
                .and_then(|chip| chip.info())
                .is_ok_and(|info| info.label == label)
        })
        .with_context(|| format!("no gpiochip has the label {label}"))?;
    let request = gpiocdev::Request::builder()
        .on_chip(chip)
        .with_line(offset)
        .as_input()
        .with_edge_detection(EdgeDetection::BothEdges)
        .request()?;
    println!("level {}", u8::from(bool::from(request.value(offset)?)));
    for event in request.edge_events() {
        let event = event?;
        let kind = match event.kind {
            EdgeKind::Rising => "rising",
            EdgeKind::Falling => "falling",
        };
        println!("{kind} {}", event.timestamp_ns);
    }
    Ok(())
}
