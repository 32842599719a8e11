//! `holdup run`: the agent.

use std::path::Path;

use crate::{agent, config};

/// Runs the agent until it is told to stop.
pub(super) fn run(config_path: &Path) -> anyhow::Result<u8> {
    let loaded = config::load(config_path)?;
    agent::run(loaded, config_path)?;
    Ok(0)
}
