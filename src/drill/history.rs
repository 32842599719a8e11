//! The evidence of past drills, kept on the gateway in `data_dir/drill`: a JSON file and a page
//! each, a bounded number of them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::Wall;
use crate::durable::{Medium, read_own};

use super::DrillError;
use super::evidence::{EVIDENCE_FORMAT, Evidence, Verdict};

/// Drills that are kept; the oldest go first.
pub const KEPT: usize = 24;
const PREFIX: &str = "drill-";
const JSON: &str = ".json";
const HTML: &str = ".html";
/// Evidence is a few KiB; more is none.
const MOST: u64 = 4 << 20;

/// A drill that was held, as status tells of the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastDrill {
    /// When it began, RFC 3339 in UTC.
    pub began: String,
    /// The same, in milliseconds since 1970-01-01 UTC.
    pub began_ms: i64,
    /// Who held it.
    pub operator: String,
    /// `operator` or `schedule`.
    pub reason: String,
    /// A row was taken away on purpose.
    #[serde(default)]
    pub sabotage: bool,
    /// Every scenario passed.
    pub passed: bool,
    /// How many scenarios were held.
    pub scenarios: usize,
    /// The names of those that failed.
    pub failed: Vec<String>,
    /// The slowest recovery, in milliseconds.
    pub slowest_ms: f64,
    /// The evidence.
    pub evidence: PathBuf,
}

impl LastDrill {
    fn of(e: &Evidence, path: &Path) -> Self {
        let failed = |o: &&super::evidence::Outcome| o.verdict == Verdict::Fail;
        let each = e.scenarios.iter();
        Self {
            began: e.began.clone(),
            began_ms: e.began_ms,
            operator: e.operator.clone(),
            reason: e.reason.clone(),
            sabotage: e.sabotage,
            passed: e.passed,
            scenarios: e.scenarios.len(),
            failed: (each.clone().filter(failed))
                .map(|o| o.scenario.clone())
                .collect(),
            slowest_ms: each.map(|o| o.recovery_ms).fold(0.0, f64::max),
            evidence: path.to_owned(),
        }
    }
}

/// Keeps `evidence` in `dir`, which is made, and lets the oldest go.
///
/// # Errors
/// It cannot be written.
pub fn keep(dir: &Path, evidence: &Evidence) -> Result<PathBuf, DrillError> {
    let above = dir.parent().unwrap_or(Path::new("/"));
    let medium = Medium::open(above)?;
    medium.make_dir(dir)?;
    let stem = stem(Wall::from_millis(evidence.began_ms));
    let json =
        serde_json::to_vec_pretty(evidence).map_err(|e| DrillError::io("write", dir)(e.into()))?;
    // The page first: what has a JSON file is whole.
    let page = super::html(evidence);
    medium.replace(&dir.join(format!("{stem}{HTML}")), page.as_bytes())?;
    let path = dir.join(format!("{stem}{JSON}"));
    medium.replace(&path, &json)?;
    let names = names(dir)?;
    for old in names.iter().rev().skip(KEPT) {
        let json = dir.join(old);
        medium.remove(&json)?;
        medium.remove(&json.with_extension("html"))?;
    }
    Ok(path)
}

/// The drills of which there is evidence in `dir` that can be read, oldest first, at most [`KEPT`].
///
/// # Errors
/// The directory cannot be read.
pub fn held(dir: &Path) -> Result<Vec<LastDrill>, DrillError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let names = names(dir)?;
    let mut held = Vec::new();
    for name in &names[names.len().saturating_sub(KEPT)..] {
        let path = dir.join(name);
        match read(&path) {
            Ok(e) => held.push(LastDrill::of(&e, &path)),
            Err(why) => log::warn!("{} is no evidence: {why}", path.display()),
        }
    }
    Ok(held)
}

/// The newest that says how the gateway would fare: one that was sabotaged does not.
pub fn last(held: &[LastDrill]) -> Option<&LastDrill> {
    held.iter().rfind(|drill| !drill.sabotage)
}

fn read(path: &Path) -> Result<Evidence, String> {
    let bytes = read_own(path, MOST).map_err(|e| e.to_string())?;
    let e: Evidence = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if e.format != EVIDENCE_FORMAT {
        return Err(format!(
            "its format is {}, this holdup reads {EVIDENCE_FORMAT}",
            e.format
        ));
    }
    Ok(e)
}

/// Of the JSON files, oldest first: their names are their times.
fn names(dir: &Path) -> Result<Vec<OsString>, DrillError> {
    let failed = |e| DrillError::io("list", dir)(e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with(PREFIX) && text.ends_with(JSON) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// `drill-20261121T154532.690Z`
fn stem(began: Wall) -> String {
    let plain: String = (began.to_string().chars())
        .filter(|c| *c != '-' && *c != ':')
        .collect();
    format!("{PREFIX}{plain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(began_ms: i64, passed: bool) -> Evidence {
        Evidence {
            format: EVIDENCE_FORMAT,
            holdup: "0.1.0".to_owned(),
            gateway: "plant-7".to_owned(),
            operator: "maria".to_owned(),
            reason: "operator".to_owned(),
            sabotage: false,
            began: Wall::from_millis(began_ms).to_string(),
            began_ms,
            synchronised: true,
            system: String::new(),
            medium: String::new(),
            rto_s: 300,
            rows: 10,
            took_ms: 1.0,
            passed,
            scenarios: Vec::new(),
        }
    }

    #[test]
    fn the_newest_is_the_last_and_the_oldest_go() {
        let home = tempfile::tempdir().expect("temp dir");
        let dir = home.path().join("drill");
        assert_eq!(held(&dir).expect("nothing"), Vec::new());
        let day = 86_400_000;
        for n in 0..KEPT as i64 + 3 {
            keep(&dir, &evidence(1_767_225_600_000 + n * day, n % 2 == 0)).expect("keep");
        }
        let found = std::fs::read_dir(&dir).expect("list").count();
        assert_eq!(found, KEPT * 2, "a page beside each");
        let all = held(&dir).expect("read");
        assert_eq!(all.len(), KEPT);
        let newest = last(&all).expect("one");
        assert_eq!(newest.began_ms, 1_767_225_600_000 + (KEPT as i64 + 2) * day);
        assert!(newest.evidence.exists());
    }

    #[test]
    fn damaged_evidence_is_passed_over() {
        let home = tempfile::tempdir().expect("temp dir");
        let dir = home.path().join("drill");
        keep(&dir, &evidence(1_767_225_600_000, true)).expect("keep");
        let later = dir.join("drill-20270101T000000.000Z.json");
        let medium = Medium::open(&dir).expect("medium");
        for bytes in [&b"{"[..], b"[1]", b"{\"format\":9}", b""] {
            medium.replace(&later, bytes).expect("write");
            let all = held(&dir).expect("read");
            let found = last(&all).expect("the one before");
            assert_eq!(found.began_ms, 1_767_225_600_000);
        }
    }

    #[test]
    fn a_drill_that_was_sabotaged_is_kept_and_is_not_the_last_one() {
        let home = tempfile::tempdir().expect("temp dir");
        let dir = home.path().join("drill");
        keep(&dir, &evidence(1_767_225_600_000, true)).expect("keep");
        let sabotaged = Evidence {
            sabotage: true,
            ..evidence(1_767_312_000_000, false)
        };
        keep(&dir, &sabotaged).expect("keep");
        let all = held(&dir).expect("read");
        assert_eq!(all.len(), 2);
        assert!(last(&all).expect("the one before").passed);
    }

    #[test]
    fn evidence_of_an_earlier_version_is_read() {
        let home = tempfile::tempdir().expect("temp dir");
        let dir = home.path().join("drill");
        let path = keep(&dir, &evidence(1_767_225_600_000, true)).expect("keep");
        let text = std::fs::read_to_string(&path).expect("text");
        let before = text.replace("\"sabotage\": false,", "");
        assert_ne!(text, before);
        let medium = Medium::open(&dir).expect("medium");
        medium.replace(&path, before.as_bytes()).expect("write");
        assert_eq!(held(&dir).expect("read").len(), 1);
    }
}
