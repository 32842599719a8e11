//! `holdup run`: the agent.

use std::path::Path;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::{agent, config};

/// Runs the agent until it is told to stop.
pub(super) fn run(config_path: &Path) -> anyhow::Result<u8> {
    if std::env::var_os(crate::demo::CHILD).is_some() {
        // Whatever ends the demo ends its agent.
        set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    let loaded = config::load(config_path)?;
    agent::run(loaded, config_path)?;
    Ok(0)
}
