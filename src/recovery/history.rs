//! What became of each database the last time it was recovered, told by its evidence.
//!
//! It promises to outlive the agent that recovered: the report lies beside what was kept. What
//! cannot be read is passed over: it must never keep an agent from starting.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::evidence::{REPORT, all};
use super::report::Report;

/// No report is longer.
const LONGEST: u64 = 1 << 20;

/// The newest report of each database of which evidence lies under `root`, by its path.
pub fn last_recoveries(root: &Path) -> Vec<Report> {
    let kept = all(root).unwrap_or_else(|e| {
        log::warn!("earlier recoveries are not known: {e}");
        Vec::new()
    });
    let told = kept.iter().filter_map(|e| told(&e.dir));
    // Oldest first, so that the newest stays.
    let last: BTreeMap<PathBuf, Report> = told.map(|r| (r.database.clone(), r)).collect();
    last.into_values().collect()
}

/// What the evidence in `dir` says became of its database.
pub(super) fn told(dir: &Path) -> Option<Report> {
    let path = &dir.join(REPORT);
    if !fs::symlink_metadata(path).is_ok_and(|m| m.is_file()) {
        return None;
    }
    let mut text = Vec::new();
    let read = File::open(path).and_then(|f| f.take(LONGEST).read_to_end(&mut text));
    let report = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
    if report.is_none() {
        log::warn!("{} cannot be read", path.display());
    }
    report
}
