//! Connects other people's databases to the guard: which machine's units may be stopped for them,
//! and the letting go of what an agent that died had stopped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Settings;
use crate::guard::{self, Cgroups, ForeignDatabase, GuardedDatabase};

/// The `[[database]]` entries; `taken` are the agent's own.
pub(super) fn databases(
    settings: &Settings,
    mut taken: Vec<PathBuf>,
    clock: &Arc<dyn Clock>,
) -> Vec<Box<dyn GuardedDatabase>> {
    let run_dir = &settings.gateway.run_dir;
    // What must never happen on a developer's machine.
    let cgroups = if settings.board.is_sim() {
        Cgroups::refused("the board is simulated", run_dir)
    } else {
        Cgroups::of_this_machine(run_dir)
    };
    let mut all: Vec<Box<dyn GuardedDatabase>> = Vec::new();
    for d in &settings.databases {
        if let Err(e) = std::fs::metadata(&d.path) {
            log::warn!(
                "[[database]] {}: {e}; it is guarded once it is there: correct its path, or start \
                 its application",
                d.path.display()
            );
        }
        all.push(Box::new(ForeignDatabase::new(
            d.clone(),
            taken.clone(),
            cgroups.clone(),
            Arc::clone(clock),
        )));
        taken.push(d.path.clone());
    }
    all
}

/// After the instance lock was taken, before anything else.
pub(super) fn let_go_on(run_dir: &Path) {
    for (unit, done) in guard::let_go_on(run_dir) {
        match done {
            Ok(()) => log::warn!("let unit {unit} go on, which an earlier holdup left stopped"),
            Err(e) => log::error!("cannot let unit {unit} go on, which holdup had stopped: {e}"),
        }
    }
}
