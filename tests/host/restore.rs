//! Backups restored by the real binary: refused, done, killed at any moment, finished by the agent.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::home::{Agent, Home};

const BACKED_UP: usize = 100;
const SINCE: usize = 20;

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn send(home: &Home, readings: usize) {
    let mut client = home.client();
    for _ in 0..readings {
        client.send();
    }
    client.wait_acked(readings as u64);
}

/// A gateway with a key, a backup of 100 readings, and 20 readings since; its agent serves.
fn backed_up(home: &Home) -> (Agent<'_>, String) {
    let made = home.holdup(&["backup", "keygen"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
    home.write("key.txt", &made.stdout);
    let agent = home.serving();
    send(home, BACKED_UP);
    let made = home.holdup(&["backup", "create", "--json"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
    let list = home.holdup(&["backup", "list", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).expect("json");
    let name = list["backups"][0]["name"]
        .as_str()
        .expect("a backup")
        .to_owned();
    send(home, SINCE);
    (agent, name)
}

fn key(home: &Home) -> String {
    home.path("key.txt").display().to_string()
}

fn bytes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        let audit = path
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("audit.db"));
        if path.is_file() && !audit {
            all.insert(path.clone(), fs::read(path).expect("read"));
        }
    }
    all
}

#[test]
fn a_backup_is_restored_under_the_technicians_name_and_no_id_is_used_again() {
    let home = Home::new();
    let (agent, name) = backed_up(&home);
    let again = home.holdup(&["backup", "keygen"]);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
    let key = key(&home);
    let with_key = |more: &[&str]| {
        let mut args = vec!["backup", "restore", "--identity", &key];
        args.extend(more);
        home.holdup(&args)
    };
    let running = with_key(&[&name, "--yes"]);
    assert_eq!(running.status.code(), Some(3), "{}", text(&running));
    assert!(
        text(&running).contains("systemctl stop holdup"),
        "{}",
        text(&running)
    );
    agent.stop();
    let before = bytes(&home.path("data"));
    let unasked = with_key(&[&name]);
    assert_eq!(unasked.status.code(), Some(3), "{}", text(&unasked));
    let words = text(&unasked);
    for part in [
        "120 readings, the last 120",
        "100 readings, the last 100",
        "--yes",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(bytes(&home.path("data")), before);
    // The newest one before a moment in the future.
    let done = with_key(&[
        "--at",
        "2999-01-01",
        "--yes",
        "--json",
        "--technician",
        "T. 7",
    ]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    let report: Value = serde_json::from_slice(&done.stdout).expect("json");
    assert_eq!(home.values().len(), BACKED_UP);
    let kept = PathBuf::from(report["kept"][0].as_str().expect("kept"));
    assert!(kept.join("restored.json").exists());
    let audit = home.holdup(&["audit", "show", "--json"]);
    let audit = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(
        audit.contains("T. 7") && audit.contains("\"restore\""),
        "{audit}"
    );
    let verified = home.holdup(&["audit", "verify"]);
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified));
    let agent = home.serving();
    send(&home, 1);
    agent.stop();
    let db = rusqlite::Connection::open(home.data("edge_store.db")).expect("open");
    let last: i64 = db
        .query_row("SELECT max(id) FROM readings", [], |r| r.get(0))
        .expect("id");
    assert!(last > (BACKED_UP + SINCE) as i64, "{last}");
}

#[test]
fn another_key_is_refused_with_the_name_of_the_right_one() {
    let home = Home::new();
    let (agent, name) = backed_up(&home);
    agent.stop();
    let before = bytes(&home.path("data"));
    let other = home.holdup(&["backup", "keygen", "--only-show"]);
    assert_eq!(other.status.code(), Some(0), "{}", text(&other));
    home.write("other.txt", &other.stdout);
    let other = home.path("other.txt").display().to_string();
    let wrong = home.holdup(&["backup", "restore", &name, "--yes", "--identity", &other]);
    assert_eq!(wrong.status.code(), Some(1), "{}", text(&wrong));
    assert!(
        text(&wrong).contains("needs the identity of SHA256:"),
        "{}",
        text(&wrong)
    );
    assert_eq!(bytes(&home.path("data")), before);
}

/// The last byte of `path` becomes another one.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    #[expect(clippy::disallowed_methods, reason = "the test plants damage")]
    fs::write(path, bytes).expect("write");
}

#[test]
fn a_damaged_copy_is_passed_over_for_a_sound_one_and_named() {
    let shm = tempfile::tempdir_in("/dev/shm").expect("another file system");
    let copies = format!("[backup]\ncopies = [\"{}\"]\n", shm.path().display());
    let power = "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0";
    let home = Home::with(power, &copies);
    let (agent, first) = backed_up(&home);
    let made = home.holdup(&["backup", "create", "--json"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
    let made: Value = serde_json::from_slice(&made.stdout).expect("json");
    let local = PathBuf::from(made["archive"].as_str().expect("path"));
    agent.stop();
    flip(&local);
    let key = key(&home);
    let late = [
        "backup",
        "restore",
        "--at",
        "2100-01-01",
        "--identity",
        &key,
    ];
    let asked = home.holdup(&late);
    assert_eq!(asked.status.code(), Some(3), "{}", text(&asked));
    let said = text(&asked);
    let passed = format!("passed over {}: ", local.display());
    assert!(
        said.contains(&passed) && said.contains(": is damaged or cut off"),
        "{said}"
    );
    let there = shm.path().join(local.file_name().expect("name"));
    assert!(
        said.contains(&format!("backup     {}", there.display())),
        "{said}"
    );
    let done = home.holdup(&[&late[..], &["--yes", "--json"]].concat());
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    let done: Value = serde_json::from_slice(&done.stdout).expect("json");
    assert_eq!(done["archive"], there.display().to_string(), "{done}");
    assert_eq!(
        done["passed_over"][0]["archive"],
        local.display().to_string()
    );
    assert_eq!(home.values().len(), BACKED_UP + SINCE);
    // By its name it is the same; and where no copy is sound, nothing is taken instead.
    let name = made["name"].as_str().expect("name");
    let named = home.holdup(&["backup", "restore", name, "--identity", &key]);
    assert!(text(&named).contains(&passed), "{}", text(&named));
    flip(&there);
    let none = home.holdup(&[&late[..], &["--yes"]].concat());
    assert_eq!(none.status.code(), Some(1), "{}", text(&none));
    let said = text(&none);
    assert!(
        said.contains(&format!("holdup backup restore {first}")),
        "{said}"
    );
    assert!(said.matches("passed over").count() == 2, "{said}");
    assert_eq!(home.values().len(), BACKED_UP + SINCE);
}

/// Where the journal of a running restore stands.
fn step(home: &Home) -> Option<String> {
    let text = fs::read(home.data("restore.journal")).ok()?;
    let journal: Value = serde_json::from_slice(&text).ok()?;
    journal["step"].as_str().map(str::to_owned)
}

/// Starts a restore and kills it a moment after its journal says `until`.
fn killed_at(home: &Home, name: &str, until: &str, moment: u32) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args([
            "backup",
            "restore",
            name,
            "--yes",
            "--identity",
            &key(home),
            "--config",
        ])
        .arg(home.config())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start");
    while child.try_wait().expect("wait").is_none() && step(home).as_deref() != Some(until) {
        std::thread::yield_now();
    }
    for _ in 0..moment {
        std::thread::yield_now();
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
}

/// All files of the data directory as they were.
fn put_back(home: &Home, saved: &BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(home.path("data")).expect("list") {
        let path = entry.expect("entry").path();
        let name = path
            .file_name()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        if name.starts_with("restore-") {
            fs::remove_dir_all(path).expect("remove");
        } else if name.starts_with("edge_store") || name.starts_with("sync_queue") {
            fs::remove_file(path).expect("remove");
        }
    }
    for (path, bytes) in saved {
        let name = path.strip_prefix(home.path("")).expect("in the home");
        home.write(&name.display().to_string(), bytes);
    }
}

const STEPS: [&str; 5] = ["requested", "staged", "moved", "swapped", "verified"];

#[test]
fn a_restore_that_is_killed_at_any_moment_is_finished_or_undone_by_the_next_one() {
    let home = Home::new();
    let (agent, name) = backed_up(&home);
    agent.stop();
    let saved = bytes(&home.path("data"));
    let (mut old, mut new) = (0, 0);
    for round in 0..20 {
        put_back(&home, &saved);
        killed_at(
            &home,
            &name,
            STEPS[round % STEPS.len()],
            (round as u32 / 5) * 40,
        );
        let out = home.holdup(&["backup", "restore", "--resume"]);
        assert_eq!(out.status.code(), Some(0), "round {round}: {}", text(&out));
        assert!(!home.data("restore.journal").exists(), "round {round}");
        for entry in fs::read_dir(home.path("data")).expect("list") {
            let name = entry.expect("entry").file_name();
            assert!(
                !name.to_string_lossy().starts_with(".holdup-"),
                "round {round}: {name:?}"
            );
        }
        match home.values().len() {
            n if n == BACKED_UP => new += 1,
            n if n == BACKED_UP + SINCE => old += 1,
            n => panic!("round {round}: {n} readings"),
        }
    }
    assert!(old > 0 && new > 0, "{old} old, {new} new");
}

#[test]
fn a_restore_that_power_cut_is_ended_by_the_agent_before_it_serves() {
    let home = Home::new();
    let (agent, name) = backed_up(&home);
    agent.stop();
    for until in ["requested", "staged", "moved", "swapped"] {
        killed_at(&home, &name, until, 0);
        let unfinished = home.data("restore.journal").exists();
        let agent = home.serving();
        assert!(!home.data("restore.journal").exists(), "{until}");
        agent.stop();
        let rows = home.values().len();
        assert!(
            [BACKED_UP, BACKED_UP + SINCE].contains(&rows),
            "{until}: {rows}"
        );
        if unfinished {
            let audit = home.holdup(&["audit", "show", "--json"]);
            let audit = String::from_utf8_lossy(&audit.stdout).into_owned();
            assert!(audit.contains("restore.resumed"), "{until}: {audit}");
        }
    }
}
