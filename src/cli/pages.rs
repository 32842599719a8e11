//! Where SQLite cannot read a database of ours: a sound copy of what lies in its pages.

use std::path::Path;
use std::sync::Arc;

use crate::agent::{explain, known_tables};
use crate::clock::SystemClock;
use crate::durable::{Gate, Medium};
use crate::recovery::{self, RecoveryError, Report, Request, Site, Way};

/// Makes it at `to` from the database at `from`, which stays as it is.
pub(super) fn salvage(from: &Path, to: &Path) -> Result<(), String> {
    let folder = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
    let recover = || -> Result<Report, RecoveryError> {
        let medium = Medium::open(&folder(from))?;
        let site = Site {
            medium: &medium,
            gate: &Arc::new(Gate::new()),
            stop: &Arc::default(),
            clock: &SystemClock,
            // A copy needs none.
            evidence: &folder(to),
            evidence_max: 0,
        };
        let request = Request {
            database: from,
            way: Way::Copy(to.to_owned()),
            tables: &known_tables(),
            suspicion: None,
            thorough: true,
            cut: false,
            may_be_fresh: false,
            set_aside: false,
            acknowledged: None,
            // Only what the files themselves hold.
            snapshots: None,
            say: &|_| {},
            begins: &|_| {},
        };
        recovery::recover(&request, &site)
    };
    match recover() {
        Ok(report) if report.output.is_some() => Ok(()),
        Ok(report) => Err(report.found),
        Err(e) => Err(explain(&e)),
    }
}
