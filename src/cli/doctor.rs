//! `holdup doctor`: what on this gateway would make holdup's promises false.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use crate::config;
use crate::doctor::{Agent, Level, examine};
use crate::media::Tree;

/// Prints every check; 1 if one is bad.
pub(super) fn run(config_path: &Path, out: &mut dyn Write, as_json: bool) -> anyhow::Result<u8> {
    let loaded = config::load(config_path)?;
    // No agent is itself a finding.
    let asked = super::status::ask(&loaded.settings);
    let agent = match &asked {
        Ok(status) => Agent::Runs(status),
        Err(e) if super::status::is_refused(e) => Agent::Hidden,
        Err(e) if super::status::is_slow(e) => Agent::Silent,
        Err(_) => Agent::None,
    };
    let checks = examine(&loaded, agent, Tree::new(Path::new("/")));
    let worst = checks.iter().map(|c| c.level).max().unwrap_or(Level::Ok);
    if as_json {
        let answer = json!({ "worst": worst, "checks": checks });
        writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
    } else {
        for c in &checks {
            writeln!(out, "{:<4}  {:<10}  {}", c.level, c.name, c.found)?;
            if !c.remedy.is_empty() {
                writeln!(out, "{:18}-> {}", "", c.remedy)?;
            }
        }
    }
    Ok(u8::from(worst == Level::Bad))
}
