//! Holds a drill: a home, one scenario after the other, each against the clock, and the evidence.

use std::path::{Path, PathBuf};

use crate::clock::{Clock, SystemClock};
use crate::config::Settings;

use super::DrillError;
use super::child::Verbs;
use super::evidence::{EVIDENCE_FORMAT, Evidence, Outcome, PhaseName, Verdict};
use super::home::{Home, Live};
use super::scenario::{Scenario, Stage};

/// Room for a home: gateways, archives, what is staged; and each row in all of them.
const ROOM: u64 = 96 << 20;
const ROOM_FOR_ROW: u64 = 8 << 10;

/// What a drill takes over from the live settings. No recipient, target, script or path is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub(super) commit_window_ms: u128,
    pub(super) batch_rows: usize,
    pub(super) index: bool,
    pub(super) evidence_max_mb: u64,
    pub(super) queue_items: u64,
}

impl Limits {
    fn of(settings: &Settings, rows: u64) -> Self {
        Self {
            commit_window_ms: settings.store.commit_window.as_millis(),
            batch_rows: settings.store.batch_rows,
            index: settings.store.index,
            evidence_max_mb: settings.recovery.evidence_max >> 20,
            queue_items: settings.queue.max_items.max(rows * 2),
        }
    }
}

/// Tells what is being done; silent where nobody looks.
pub type Say<'a> = dyn Fn(&str) + 'a;

/// When a drill must end before its time.
pub struct Stop<'a> {
    why: &'a dyn Fn() -> Option<String>,
}

impl<'a> Stop<'a> {
    /// `why` answers why the drill must end, or `None`; it is asked every few milliseconds.
    pub fn when(why: &'a dyn Fn() -> Option<String>) -> Self {
        Self { why }
    }

    pub(super) fn check(&self) -> Result<(), DrillError> {
        (self.why)().map_or(Ok(()), |why| Err(DrillError::Interrupted(why)))
    }
}

impl std::fmt::Debug for Stop<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").finish_non_exhaustive()
    }
}

/// How a drill is held.
#[derive(Debug)]
pub struct Options<'a> {
    /// The live settings, for limits and for what must not be touched.
    pub settings: &'a Settings,
    /// Which scenarios, in order.
    pub scenarios: &'a [Scenario],
    /// Where the home is made.
    pub parent: &'a Path,
    /// Readings before each disaster, at least 10.
    pub rows: u64,
    /// The `holdup` that is rehearsed.
    pub exe: PathBuf,
    /// Who holds it.
    pub operator: String,
    /// `operator` or `schedule`.
    pub reason: String,
    /// Take a row away before the comparison: a drill that does not fail then is worth nothing.
    pub sabotage: bool,
    /// Of what is random.
    pub seed: u64,
}

/// Holds the drill.
///
/// # Errors
/// It could not be held at all, or was told to end. A scenario that went wrong is no error but a
/// failure in the evidence.
pub fn run(options: &Options<'_>, stop: &Stop<'_>, say: &Say<'_>) -> Result<Evidence, DrillError> {
    let clock = SystemClock;
    let (began, began_at) = (clock.mono(), clock.wall());
    let gateway = &options.settings.gateway;
    let live = Live {
        data_dir: gateway.data_dir.clone(),
        run_dir: gateway.run_dir.clone(),
    };
    let need = ROOM + options.rows.saturating_mul(ROOM_FOR_ROW);
    let home = Home::make(options.parent, &live, need)?;
    let verbs = Verbs {
        exe: &options.exe,
        stop,
    };
    let limits = Limits::of(options.settings, options.rows);
    let medium = home.medium();
    let mut outcomes = Vec::new();
    for (number, scenario) in options.scenarios.iter().enumerate() {
        let of = options.scenarios.len();
        let told = |step: &str| say(&format!("{}/{of} {}: {step}", number + 1, scenario.name()));
        let dir = home.path().join((number + 1).to_string());
        let mut stage = Stage::new(options, &verbs, limits, dir, *scenario, &told)?;
        let held = scenario.hold(&mut stage);
        let outcome = stage.end(held)?;
        outcomes.push(outcome);
    }
    drop(home);
    let system = rustix::system::uname();
    let words = [system.sysname(), system.release(), system.machine()];
    Ok(Evidence {
        format: EVIDENCE_FORMAT,
        holdup: env!("CARGO_PKG_VERSION").to_owned(),
        gateway: gateway.id.clone(),
        operator: options.operator.clone(),
        reason: options.reason.clone(),
        sabotage: options.sabotage,
        began: began_at.to_string(),
        began_ms: began_at.as_millis(),
        synchronised: clock.is_synchronised(),
        system: words.map(|w| w.to_string_lossy().into_owned()).join(" "),
        medium,
        rto_s: options.settings.drill.rto.as_secs(),
        rows: options.rows,
        took_ms: clock.mono().since(began).as_secs_f64() * 1000.0,
        passed: !outcomes.is_empty() && outcomes.iter().all(|o| o.verdict == Verdict::Pass),
        scenarios: outcomes,
    })
}

/// The phases a site waits for, in milliseconds.
pub(super) fn outage_ms(outcome: &Outcome) -> f64 {
    let waited = |name: &PhaseName| name.is_outage();
    let phases = PhaseName::ALL.into_iter().filter(waited);
    phases.filter_map(|name| outcome.phase_ms(name)).sum()
}
