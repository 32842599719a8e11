//! Drills, held by the real binary: what passes, what must fail, and what they never touch.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::home::{Home, poll};

/// Small, so that a busy machine holds it soon.
const ROWS: &str = "100";

/// A live gateway, stopped, with some readings; and a place for drills.
struct World {
    live: Home,
    place: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let live = Home::new();
        let mut agent = live.serving();
        let mut client = live.client();
        for _ in 0..20 {
            client.send();
        }
        client.wait_acked(20);
        agent.wait_for("an idle store", |s| s["stored"] == 20);
        agent.stop();
        let place = tempfile::tempdir().expect("temp dir");
        Self { live, place }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdup"));
        command
            .args(["drill", "--rows", ROWS])
            .args(args)
            .arg("--config")
            .arg(self.live.config())
            .env("TMPDIR", self.place.path())
            .env("SUDO_USER", "maria")
            .stdin(Stdio::null());
        command
    }

    fn drill(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("run")
    }

    /// One scenario, as evidence.
    fn evidence(&self, scenario: &str, more: &[&str]) -> (Option<i32>, Value) {
        let args = [&["--json", "--scenario", scenario], more].concat();
        let out = self.drill(&args);
        let text = String::from_utf8_lossy(&out.stdout);
        let said = String::from_utf8_lossy(&out.stderr);
        let evidence = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{said}"));
        (out.status.code(), evidence)
    }

    fn passes(&self, scenario: &str) -> Value {
        let (code, evidence) = self.evidence(scenario, &[]);
        assert_eq!(code, Some(0), "{evidence:#}");
        assert_eq!(evidence["passed"], true);
        assert_eq!(evidence["operator"], "maria");
        let outcome = evidence["scenarios"][0].clone();
        assert_eq!(outcome["verdict"], "pass", "{outcome:#}");
        assert_eq!(outcome["expected"], outcome["found"]);
        assert_eq!(outcome["integrity"], "ok");
        let phases: Vec<_> = (outcome["phases"].as_array().expect("phases").iter())
            .filter_map(|p| p["name"].as_str())
            .collect();
        for phase in ["baseline", "damage", "recover", "compare", "clean_up"] {
            assert!(phases.contains(&phase), "{phases:?}");
        }
        self.is_empty();
        outcome
    }

    /// Nothing is left where drills are held.
    fn is_empty(&self) {
        let left: Vec<_> = fs::read_dir(self.place.path()).expect("list").collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Nobody works there.
    fn is_quiet(&self) -> bool {
        let place = self.place.path().as_os_str().as_encoded_bytes();
        let mut processes = fs::read_dir("/proc").expect("processes");
        !processes.any(|p| {
            let lines = p.ok().map(|p| p.path().join("cmdline")).map(fs::read);
            lines.is_some_and(|l| l.is_ok_and(|l| l.windows(place.len()).any(|w| w == place)))
        })
    }
}

/// Every file of the live gateway, but for the evidence of drills.
fn contents(live: &Home) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(dir: &Path, all: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).expect("list") {
            let path = entry.expect("entry").path();
            if path.is_dir() && path.file_name().is_some_and(|n| n != "drill") {
                walk(&path, all);
            } else if path.is_file() {
                let bytes = fs::read(&path).expect("read");
                all.insert(path, Sha256::digest(bytes).to_vec());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(&live.path(""), &mut all);
    all
}

#[test]
fn a_random_start_of_the_log_costs_nothing_and_the_live_gateway_is_not_touched() {
    let world = World::new();
    let before = contents(&world.live);
    assert!(before.len() > 3, "{before:?}");
    let outcome = world.passes("wal-random");
    assert_eq!(outcome["found"]["count"], 100);
    assert_eq!(contents(&world.live), before);
}

#[test]
fn a_zeroed_header_is_refused_by_sqlite_kept_and_healed() {
    let world = World::new();
    let outcome = world.passes("header-zeroed");
    let notes = outcome["notes"].to_string();
    for seen in ["SQLite refuses it", "byte for byte", "salvaged"] {
        assert!(notes.contains(seen), "{notes}");
    }
}

#[test]
fn a_corrupt_queue_is_whole_again() {
    let world = World::new();
    let outcome = world.passes("queue-corrupt");
    assert_eq!(outcome["what"], "messages");
    assert_eq!(outcome["found"]["count"], 100);
}

/// It went through a backup that was verified, for a key that was the drill's alone.
fn from_a_backup(outcome: &Value) {
    assert_eq!(outcome["found"]["count"], 100);
    let backup = &outcome["backup"];
    assert_eq!(backup["verified"], true, "{outcome:#}");
    assert!(backup["bytes"].as_u64() > Some(100), "{outcome:#}");
    let phases = outcome["phases"].to_string();
    assert!(phases.contains("backup"), "{phases}");
}

#[test]
fn a_deleted_database_comes_back_from_the_backup() {
    from_a_backup(&World::new().passes("database-deleted"));
}

#[test]
fn a_destructive_query_is_undone_by_the_backup_before_it() {
    let outcome = World::new().passes("destructive-query");
    from_a_backup(&outcome);
    let notes = outcome["notes"].to_string();
    assert!(notes.contains("DELETE FROM readings: 100 rows"), "{notes}");
}

#[test]
fn another_gateway_takes_over_from_a_dead_card() {
    let outcome = World::new().passes("fresh-card");
    from_a_backup(&outcome);
    let notes = outcome["notes"].to_string();
    assert!(
        notes.contains("host-test-drill") && notes.contains("host-test-spare"),
        "{notes}"
    );
}

#[test]
fn the_backup_alone_brings_back_readings_and_messages() {
    let outcome = World::new().passes("backup-only");
    from_a_backup(&outcome);
    assert!(
        outcome["notes"].to_string().contains("100 messages"),
        "{outcome:#}"
    );
}

#[test]
fn a_full_disk_stops_a_restore_and_changes_nothing() {
    let outcome = World::new().passes("disk-full");
    from_a_backup(&outcome);
    let notes = outcome["notes"].to_string();
    assert!(notes.contains("refused, and told why"), "{notes}");
}

#[test]
fn a_restore_that_is_killed_again_and_again_is_whole_in_the_end() {
    let outcome = World::new().passes("power-cut");
    from_a_backup(&outcome);
    assert!(
        outcome["notes"]
            .to_string()
            .contains("restores were killed"),
        "{outcome:#}"
    );
}

#[test]
fn a_drill_that_finds_fewer_rows_fails_and_says_so() {
    let world = World::new();
    // The last row; in which order a rebuilt queue has its messages is its own affair.
    for (scenario, rows) in [("wal-random", "ids 100"), ("queue-corrupt", "ids ")] {
        let (code, evidence) = world.evidence(scenario, &["--sabotage"]);
        assert_eq!(code, Some(1), "{evidence:#}");
        let outcome = &evidence["scenarios"][0];
        assert_eq!(outcome["verdict"], "fail");
        let failures = outcome["failures"].to_string();
        assert!(failures.contains("1 rows are missing"), "{failures}");
        assert!(failures.contains(rows), "{failures}");
        world.is_empty();
    }
}

#[test]
fn a_drill_in_the_live_directories_is_refused() {
    let world = World::new();
    let before = contents(&world.live);
    let link = world.place.path().join("link");
    std::os::unix::fs::symlink(world.live.path("data"), &link).expect("link");
    for place in [world.live.path("data"), world.live.path("run"), link] {
        let place = place.display().to_string();
        let out = world.drill(&["--home", &place, "--scenario", "wal-random"]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(3), "{said}");
        assert!(said.contains("the live gateway's"), "{said}");
    }
    let home = world.live.path("").display().to_string();
    let out = world.drill(&["--home", &home]);
    assert_eq!(out.status.code(), Some(3), "it holds holdup.toml");
    assert_eq!(contents(&world.live), before);
}

#[test]
fn the_report_is_one_page_that_asks_nobody_and_status_and_audit_know_of_the_drill() {
    let world = World::new();
    let page = world.place.path().join("r.html");
    let path = page.display().to_string();
    let out = world.drill(&["--scenario", "wal-random", "--report", &path]);
    assert!(out.status.success());
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("PASSED: 1 of 1 scenarios"), "{text}");
    assert!(!text.contains('\x1b'), "a pipe has no colour");
    assert!(out.stderr.is_empty(), "a pipe has no progress");
    let html = fs::read_to_string(&page).expect("the report");
    for needed in [
        "<svg",
        "wal-random",
        "maria",
        "host-test",
        "Passed",
        "prefers-color-scheme",
    ] {
        assert!(html.contains(needed), "no {needed}");
    }
    for foreign in [
        "http:", "https:", "src=", "<link", "<script", "url(", "@import",
    ] {
        assert!(!html.contains(foreign), "{foreign} in the page");
    }
    fs::remove_file(&page).expect("remove");
    world.is_empty();
    let mut agent = world.live.serving();
    let status = agent.wait_for("the last drill", |s| s["drill"]["last"].is_object());
    let drill = &status["drill"];
    assert_eq!(drill["last"]["passed"], true);
    assert_eq!(drill["last"]["operator"], "maria");
    assert_eq!(drill["stale"], false);
    let words = world.live.holdup(&["status"]);
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert!(words.contains("drill       passed, 1 scenarios"), "{words}");
    let entry = poll("the entry in the audit log", || {
        let shown = world.live.holdup(&["audit", "show", "--json"]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let mut lines = shown.lines().filter(|l| l.contains("\"drill\""));
        lines.next().map(str::to_owned)
    });
    assert!(entry.contains("maria"), "{entry}");
    agent.stop();
}

#[test]
fn a_running_agent_takes_up_every_drill_and_a_sabotaged_one_is_not_the_last() {
    let world = World::new();
    let mut agent = world.live.serving();
    // It has looked, and found none.
    agent.wait_for("a look", |s| {
        s["supply"] == "Good" && s["uptime_s"].as_u64() > Some(0)
    });
    let (code, good) = world.evidence("wal-random", &[]);
    assert_eq!(code, Some(0), "{good:#}");
    let (code, bad) = world.evidence("wal-random", &["--sabotage"]);
    assert_eq!(code, Some(1), "{bad:#}");
    assert_eq!(bad["sabotage"], true);
    let entries = poll("both in the audit log", || {
        let shown = world.live.holdup(&["audit", "show", "--json"]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let drills = shown.lines().filter(|l| l.contains("\"drill\""));
        let drills: Vec<_> = drills.map(str::to_owned).collect();
        (drills.len() == 2).then_some(drills)
    });
    assert!(entries[1].contains("\"sabotage\":true"), "{entries:?}");
    let status = agent.wait_for("the last drill", |s| s["drill"]["last"].is_object());
    let last = &status["drill"]["last"];
    assert_eq!(
        (&last["began"], &last["passed"]),
        (&good["began"], &Value::Bool(true))
    );
    agent.stop();
}

/// A drill that has got as far as its gateway's agent.
fn under_way(world: &World) -> Child {
    let child = world
        .command(&["--scenario", "all"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    poll("the drill's agent", || (!world.is_quiet()).then_some(()));
    child
}

#[test]
fn a_drill_that_is_interrupted_leaves_nothing_behind() {
    let world = World::new();
    let mut drill = under_way(&world);
    kill_process(Pid::from_child(&drill), Signal::INT).expect("signal");
    let ended = poll("its end", || drill.try_wait().expect("wait"));
    assert_eq!(ended.code(), Some(4));
    let said = BufReader::new(drill.stderr.take().expect("piped")).lines();
    let said: Vec<_> = said.map_while(Result::ok).collect();
    assert!(said.iter().any(|l| l.contains("interrupted")), "{said:?}");
    world.is_empty();
    assert!(world.is_quiet());
    assert!(!world.live.data("drill").exists(), "it proved nothing");
}

#[test]
fn what_a_killed_drill_left_is_removed_by_the_next() {
    let world = World::new();
    let mut drill = under_way(&world);
    drill.kill().expect("kill");
    drill.wait().expect("wait");
    let left = || fs::read_dir(world.place.path()).expect("list").count();
    assert_eq!(left(), 1, "its home");
    poll("its agent's end", || world.is_quiet().then_some(()));
    world.passes("wal-random");
}

#[test]
fn a_drill_waits_while_the_live_gateway_has_no_power() {
    let world = World::new();
    let mut agent = world.live.serving();
    world.live.power(true);
    agent.wait_for_supply("Parked");
    let out = world.drill(&["--json"]);
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("the supply is Parked"), "{said}");
    world.is_empty();
    world.live.power(false);
    agent.wait_for_supply("Good");
    agent.stop();
}

#[test]
fn a_scenario_that_is_none_is_named_with_those_that_are() {
    let world = World::new();
    let out = world.drill(&["--scenario", "flood"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(
        said.contains("\"flood\"") && said.contains("wal-random"),
        "{said}"
    );
}
