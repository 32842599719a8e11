//! Power goes during `holdup recover`, at any write to the disk and with what the disk had in its
//! cache lost in part: recovering again ends with the same rows, and the evidence is whole.
//!
//! `HOLDUP_CUTS` says at how many instants, or `all`; without it a sample, always the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use crate::corpus::{self, Dice, Fault, Where, Workload};
use crate::home::holdup;
use crate::logged_disk::{LoggedDisk, Recorded};

/// Instants of each case, unless asked for more.
const SAMPLE: usize = 60;
const MIB: u64 = 24;
const COMPANIONS: [&str; 4] = ["", "-wal", "-shm", "-journal"];

type Sums = BTreeMap<String, String>;

fn say(what: &str) {
    // Not by a print macro: the harness swallows those of tests that pass.
    writeln!(std::io::stderr(), "cuts: {what}").ok();
}

fn sha256(path: &Path) -> Option<String> {
    let sum = Sha256::digest(fs::read(path).ok()?);
    Some(sum.iter().map(|b| format!("{b:02x}")).collect())
}

/// The database and its companions in `dir`, by name.
fn sums(dir: &Path) -> Sums {
    let names = COMPANIONS.map(|suffix| format!("edge_store.db{suffix}"));
    let sum = |name: &String| sha256(&dir.join(name));
    names
        .iter()
        .filter_map(|name| Some((name.clone(), sum(name)?)))
        .collect()
}

/// The rows of the database in `dir`, in words, read from a copy; nothing but itself is there.
fn rows(dir: &Path) -> Vec<String> {
    let copy = tempfile::tempdir().expect("temp dir");
    let path = copy.path().join("a.db");
    fs::copy(dir.join("edge_store.db"), &path).expect("a database in its place");
    let conn = Connection::open(&path).expect("open");
    let check: String = conn
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .expect("check");
    assert_eq!(check, "ok");
    let mut all = conn
        .prepare("SELECT json_array(id, sensor_name, timestamp, value, unit, metadata) FROM readings ORDER BY id")
        .expect("prepare");
    let rows = all.query_map([], |r| r.get(0)).expect("query");
    rows.collect::<Result<_, _>>().expect("rows")
}

/// Folders of evidence that have a manifest, each with what it holds.
fn evidence(dir: &Path) -> Vec<(PathBuf, Sums)> {
    let Ok(all) = fs::read_dir(dir.join("evidence")) else {
        return Vec::new();
    };
    let dirs = all.map(|e| e.expect("entry").path());
    dirs.filter(|d| d.join("manifest.json").exists())
        .map(|d| (d.clone(), sums(&d)))
        .collect()
}

fn recover(dir: &Path) -> String {
    let db = dir.join("edge_store.db").display().to_string();
    let out = holdup(
        &["recover", &db, "--json"],
        Path::new("/nonexistent/holdup.toml"),
    );
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&out.stderr);
    // 1: something is lost.
    assert!(
        matches!(out.status.code(), Some(0 | 1)),
        "{}: {text}{complaint}",
        out.status
    );
    text
}

/// What is the same wherever power went.
struct Want {
    damaged: Sums,
    rows: Vec<String>,
    recovered: String,
}

impl Want {
    /// Straight after a cut: what lies under a final name is whole.
    fn nothing_is_half_done(&self, dir: &Path) {
        if let Some(now) = sums(dir).get("edge_store.db") {
            let whole = *now == self.recovered || *now == self.damaged["edge_store.db"];
            assert!(whole, "the database is neither the old one nor the new one");
        }
        for (at, held) in evidence(dir) {
            let text = fs::read(at.join("manifest.json")).expect("manifest");
            let manifest: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
            if manifest["how"] == "copied" {
                assert_eq!(held, self.damaged, "evidence with a manifest");
            }
        }
        // Until the new one stands in its place, each damaged file is somewhere.
        if sums(dir).get("edge_store.db") != Some(&self.recovered) {
            let mut places = vec![sums(dir)];
            places.extend(evidence(dir).into_iter().map(|(_, held)| held));
            for (name, sum) in &self.damaged {
                let there = places.iter().any(|p| p.get(name) == Some(sum));
                assert!(there, "{name} as it was is nowhere");
            }
        }
    }

    /// After recovering again.
    fn all_is_well(&self, dir: &Path) {
        let rows = rows(dir);
        let count = (rows.len(), self.rows.len());
        // Not as a whole: that would be a thousand lines.
        assert!(rows == self.rows, "other rows: {count:?}");
        let kept = evidence(dir);
        assert!(
            kept.iter().any(|(_, held)| *held == self.damaged),
            "no evidence holds the damaged files: {kept:?}"
        );
        let left: Vec<_> = fs::read_dir(dir)
            .expect("list")
            .map(|e| e.expect("entry").file_name().into_string().expect("UTF-8"))
            .filter(|name| !["edge_store.db", "evidence", "filler"].contains(&name.as_str()))
            .collect();
        assert_eq!(left, ["lost+found"], "nothing is left lying about");
        let halves: Vec<_> = fs::read_dir(dir.join("evidence"))
            .expect("list")
            .map(|e| e.expect("entry").path())
            .filter(|d| !d.join("manifest.json").exists())
            .collect();
        assert!(halves.is_empty(), "half made evidence: {halves:?}");
    }
}

/// A store of which half lies in a log whose start is random, on a disk that is logged.
fn struck(disk: &LoggedDisk) -> Sums {
    let mut dice = Dice::new(7);
    let mut case = corpus::made(&mut dice, Workload::Append, Where::HalfInLog, 4096, 1500);
    Fault::WalHeadRandom.strike(&mut case, &mut dice);
    case.files.shm = None;
    case.files.lay(&disk.mount());
    sums(&disk.mount())
}

/// Leaves as much room as `leave` bytes.
fn fill(mount: &Path, leave: u64) {
    let at = rustix::fs::statvfs(mount).expect("statvfs");
    let free = at.f_bavail * at.f_frsize;
    let filler = mount.join("filler").display().to_string();
    let bytes = free.saturating_sub(leave).to_string();
    let done = Command::new("fallocate")
        .args(["-l", &bytes, &filler])
        .status();
    assert!(done.expect("fallocate").success());
}

/// Recovers once, recorded; then after a cut at each of many instants.
fn cut_everywhere(how: &str, leave: Option<u64>) {
    let disk = match LoggedDisk::new(MIB) {
        Ok(disk) => disk,
        Err(why) => {
            say(&format!("SKIPPED: no logged disk on this machine ({why})"));
            return;
        }
    };
    let mount = disk.mount();
    let damaged = struck(&disk);
    if let Some(leave) = leave {
        fill(&mount, leave);
    }
    let began = disk.begin();
    let report = recover(&mount);
    let recorded = disk.recorded(began);
    assert!(report.contains("\"salvaged\""), "{report}");
    let want = Want {
        rows: rows(&mount),
        recovered: sums(&mount)["edge_store.db"].clone(),
        damaged,
    };
    assert!(
        want.rows.len() > 1_480,
        "{} rows: {report}",
        want.rows.len()
    );
    let evidence = evidence(&mount);
    let manifest = fs::read_to_string(evidence[0].0.join("manifest.json")).expect("manifest");
    assert!(manifest.contains(how), "{manifest}");
    once_it_said_so_it_lasts(&recorded, &want);
    let (all, taken) = at_many(&recorded, &want);
    say(&format!(
        "{how}: recovered after {taken} of {all} cuts, {} writes and flushes",
        recorded.len()
    ));
}

/// The program has ended: only what was flushed until then is left, and it is done.
fn once_it_said_so_it_lasts(recorded: &Recorded, want: &Want) {
    let at = recorded.folder("settled");
    let _left = recorded.after(&recorded.settled(), &at);
    assert_eq!(sums(&at)["edge_store.db"], want.recovered);
    want.all_is_well(&at);
    let kept = &evidence(&at)[0].0;
    assert!(kept.join("report.json").exists());
}

/// How many instants there are, and at how many of them power went.
fn at_many(recorded: &Recorded, want: &Want) -> (usize, usize) {
    let mut dice = Dice::new(11);
    let mut cuts = recorded.cuts(|| dice.roll());
    let all = cuts.len();
    let asked = std::env::var("HOLDUP_CUTS").ok();
    let most = match asked.as_deref() {
        Some("all") => all,
        Some(n) => n.parse().expect("HOLDUP_CUTS is a number or `all`"),
        None => SAMPLE,
    };
    while cuts.len() > most {
        cuts.swap_remove(dice.below(cuts.len()));
    }
    for (n, cut) in cuts.iter().enumerate() {
        let at = recorded.folder(&n.to_string());
        let left = recorded.after(cut, &at);
        let done = std::panic::catch_unwind(|| {
            want.nothing_is_half_done(&at);
            recover(&at);
            want.all_is_well(&at);
        });
        if done.is_err() {
            let listed = Command::new("ls").args(["-lRA"]).arg(&at).output();
            let listed = String::from_utf8_lossy(&listed.expect("ls").stdout).into_owned();
            panic!("{cut:?}\n{listed}");
        }
        drop(left);
    }
    (all, cuts.len())
}

#[test]
fn a_cut_at_any_write_of_a_recovery_with_copied_evidence_loses_nothing() {
    cut_everywhere("copied", None);
}

#[test]
fn a_cut_at_any_write_of_a_recovery_with_moved_evidence_loses_nothing() {
    // For the new database and a little more, not for a copy of the old one.
    cut_everywhere("moved", Some(4 << 20));
}
