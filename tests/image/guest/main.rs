//! Runs in the emulated gateway: the programs of its tests, one file each, called by their names.
//! One binary, because each takes as long to link as the agent.

mod board_watch;
mod foreign_writer;
mod line_watch;

use std::path::Path;

use anyhow::{Result, bail};

#[path = "../../support/allocations.rs"]
mod allocations;

#[global_allocator]
static COUNTED: allocations::Counted = allocations::Counted;

fn main() -> Result<()> {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    match name.to_str() {
        Some("line_watch") => line_watch::run(),
        Some("foreign_writer") => foreign_writer::run(),
        Some("board_watch") => board_watch::run(),
        Some(_) | None => bail!("no program {}", name.display()),
    }
}
