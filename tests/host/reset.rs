//! Factory resets by the real binary: asked of a running agent, by hand, cut, and while power fails.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::home::{Home, poll};

/// In every reading of before.
const MARK: &str = "boiler-7-marker";
const GO: [&str; 4] = ["reset", "data", "--yes-erase", "host-test"];
const BARE: [&str; 2] = ["--no-backup", "without-backup"];

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn reset(home: &Home, more: &[&str]) -> Output {
    home.holdup(&[&GO[..], more].concat())
}

fn done(home: &Home, more: &[&str]) -> Value {
    let out = reset(home, &[more, &["--json"]].concat());
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    serde_json::from_slice(&out.stdout).expect("json")
}

fn send(home: &Home, readings: u64) {
    let mut client = home.client();
    for n in 0..readings {
        client.put(&format!(
            "{{\"sensor_name\":\"{MARK}\",\"timestamp\":{n},\"value\":{n}}}"
        ));
    }
    client.wait_acked(readings);
}

fn epoch(home: &Home) -> String {
    let db = rusqlite::Connection::open(home.data("edge_store.db")).expect("open");
    let sql = "SELECT value FROM holdup_meta WHERE key = 'epoch'";
    db.query_row(sql, [], |r| r.get(0)).expect("epoch")
}

/// Files below `dir` in which a reading of before is.
fn remains(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            remains(&path, found);
        } else if let Ok(bytes) = fs::read(&path)
            && bytes.windows(MARK.len()).any(|w| w == MARK.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
}

fn nothing_remains(home: &Home) {
    let mut found = Vec::new();
    remains(&home.path("data"), &mut found);
    assert_eq!(found, Vec::<String>::new());
}

fn keygen(home: &Home) {
    let made = home.holdup(&["backup", "keygen"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
}

#[test]
fn a_running_agent_backs_up_erases_and_serves_on_under_a_new_epoch() {
    let home = Home::new();
    keygen(&home);
    let mut agent = home.serving();
    send(&home, 50);
    let before = epoch(&home);
    let shown = home.holdup(&["reset", "--dry-run"]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown));
    for part in [
        "edge_store.db: readings",
        "ids 1 to 50",
        "nothing was touched",
        "flash keeps",
    ] {
        assert!(text(&shown).contains(part), "{part}: {}", text(&shown));
    }
    for (args, why) in [
        (&["reset", "data"][..], "--yes-erase host-test"),
        (&["reset", "data", "--yes-erase", "another"], "host-test"),
        (
            &[
                "reset",
                "data",
                "--yes-erase",
                "host-test",
                "--no-backup",
                "yes",
            ],
            "without-backup",
        ),
    ] {
        let refused = home.holdup(args);
        assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
        assert!(text(&refused).contains(why), "{}", text(&refused));
    }
    assert_eq!(home.values().len(), 50);
    let told = done(&home, &["--technician", "T. 7"]);
    let receipt = &told["receipt"];
    assert_eq!(receipt["actor"], "T. 7");
    assert_eq!(receipt["epoch_before"], *before);
    assert_eq!(receipt["epoch_after"], *epoch(&home));
    assert_ne!(receipt["epoch_before"], receipt["epoch_after"]);
    let archive = receipt["backup"]["archive"].as_str().expect("a backup");
    assert!(Path::new(archive).exists());
    nothing_remains(&home);
    agent.wait_for("service", |s| s["store"] == "running");
    send(&home, 5);
    assert_eq!(home.values().len(), 5);
    // The log goes on: what was done is in it, and its chain is whole.
    let log = home.holdup(&["audit", "show", "--json"]);
    for part in ["reset.genesis", "T. 7", "\"start\""] {
        assert!(text(&log).contains(part), "{part}: {}", text(&log));
    }
    let whole = home.holdup(&["audit", "verify"]);
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole));
    let again = done(&home, &BARE);
    assert_eq!(again["receipt"]["backup"], Value::Null);
    assert_eq!(again["receipt"]["epoch_before"], receipt["epoch_after"]);
    agent.wait_for("service", |s| s["store"] == "running");
    agent.stop();
    let mut agent = home.serving();
    agent.wait_for("an empty store", |s| s["stored"] == 0);
}

#[test]
fn the_receipt_is_checked_by_openssh_alone() {
    let home = Home::new();
    let told = done(&home, &BARE);
    let path = told["path"].as_str().expect("path");
    let shown = home.holdup(&["reset", "receipt"]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown));
    let check = |file: &str| {
        let receipt = fs::File::open(file).expect("receipt");
        Command::new("ssh-keygen")
            .args(["-Y", "check-novalidate", "-n", "holdup-receipt", "-s"])
            .arg(format!("{path}.sig"))
            .stdin(receipt)
            .output()
    };
    match check(path) {
        Err(e) => println!("skipped: no ssh-keygen here ({e})"),
        Ok(out) => {
            assert!(out.status.success(), "{}", text(&out));
            let other = home.path("other.json");
            home.write("other.json", b"{}");
            let out = check(&other.display().to_string()).expect("ssh-keygen");
            assert!(!out.status.success(), "{}", text(&out));
        }
    }
    let mut bytes = fs::read(path).expect("receipt");
    let at = bytes
        .windows(9)
        .position(|w| w == b"host-test")
        .expect("id");
    bytes[at] = b'H';
    home.write("data/receipts/forged", &bytes);
    fs::copy(home.data("receipts/forged"), path).expect("forge");
    let forged = home.holdup(&["reset", "receipt"]);
    assert_eq!(forged.status.code(), Some(1), "{}", text(&forged));
}

#[test]
fn undelivered_messages_and_a_backup_that_nobody_could_open_stop_it() {
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0",
        "[queue]\nenabled = true\n",
    );
    let mut agent = home.serving();
    send(&home, 30);
    agent.wait_for("the queue", |s| s["queue"]["depth"] == 30);
    let refused = reset(&home, &BARE);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    for part in ["30 messages", "--waive-undelivered", "holdup queue export"] {
        assert!(text(&refused).contains(part), "{}", text(&refused));
    }
    let refused = reset(&home, &["--waive-undelivered"]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(
        text(&refused).contains("backup keygen"),
        "{}",
        text(&refused)
    );
    assert_eq!(home.values().len(), 30);
    let told = done(&home, &[&BARE[..], &["--waive-undelivered"]].concat());
    assert_eq!(told["receipt"]["undelivered_waived"]["queued"], 30);
    nothing_remains(&home);
    // The queue begins anew, from the new readings.
    agent.wait_for("service", |s| {
        s["store"] == "running" && s["queue"]["state"] == "running" && s["queue"]["depth"] == 0
    });
    send(&home, 3);
    agent.wait_for("the new ones", |s| s["queue"]["depth"] == 3);
    agent.stop();
    // The same without an agent.
    let refused = reset(&home, &BARE);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("3 messages"), "{}", text(&refused));
}

#[test]
fn killed_at_any_moment_the_agent_starts_with_all_or_nothing() {
    let (mut old, mut new) = (0, 0);
    for patience in [0, 1, 2, 3, 5, 8, 12] {
        let home = Home::new();
        let agent = home.serving();
        send(&home, 20);
        let before = epoch(&home);
        let mut verb = Command::new(env!("CARGO_BIN_EXE_holdup"))
            .args(GO)
            .args(BARE)
            .arg("--config")
            .arg(home.config())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("verb");
        // From the journal's first appearance on, so many looks at it.
        let mut seen = 0;
        poll("the journal, or the end", || {
            seen += i32::from(seen > 0 || home.data("reset.journal").exists());
            let ended = verb.try_wait().expect("wait").is_some();
            (seen > patience || ended).then_some(())
        });
        agent.kill();
        verb.wait().expect("wait");
        let mut agent = home.start();
        agent.wait_for("service", |s| s["store"] == "running");
        assert!(!home.data("reset.journal").exists());
        if home.values().is_empty() {
            nothing_remains(&home);
            assert_ne!(epoch(&home), before);
            new += 1;
        } else {
            assert_eq!((home.values().len(), epoch(&home)), (20, before));
            old += 1;
        }
        send(&home, 2);
        agent.stop();
    }
    println!("{old} old, {new} new");
}

#[test]
fn power_that_fails_in_the_middle_comes_first_and_the_reset_goes_on_afterwards() {
    let home = Home::new();
    let mut agent = home.serving();
    send(&home, 20);
    let mut verb = Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args(GO)
        .args(BARE)
        .arg("--config")
        .arg(home.config())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("verb");
    poll("a step that touches something, or the end", || {
        let ended = verb.try_wait().expect("wait").is_some();
        let journal = fs::read_to_string(home.data("reset.journal")).unwrap_or_default();
        let touched = ["staged", "swapped", "erased", "genesis"];
        let touched = touched
            .iter()
            .any(|s| journal.contains(&format!("\"step\": \"{s}\"")));
        (ended || touched).then_some(())
    });
    home.power(true);
    agent.wait_for_supply("Parked");
    home.power(false);
    agent.wait_for("service", |s| {
        s["supply"] == "Good" && s["store"] == "running"
    });
    assert_eq!(verb.wait().expect("wait").code(), Some(0), "{}", home.log());
    nothing_remains(&home);
    send(&home, 2);
    assert_eq!(home.values().len(), 2);
    agent.stop();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test plants half of a reset")]
fn an_interrupted_one_is_told_and_no_verb_works_on_half_of_it() {
    let home = Home::new();
    let agent = home.serving();
    send(&home, 20);
    agent.stop();
    // As a cut leaves it in the middle of the moving: the store is away, its log is not.
    let body = "{\"step\":\"staged\",\"id\":\"20261121T000000.000Z-ab12\",\"gateway\":\"host-test\",\
        \"level\":\"data\",\"with_evidence\":false,\"actor\":\"T\",\"backup_waived\":true,\
        \"undelivered_waived\":null,\"damaged\":[],\"requested\":{\"at\":\"then\",\
        \"synchronised\":true},\"backup\":null,\"items\":[],\"unlisted\":0,\"epoch_before\":null,\
        \"epoch_after\":null,\"head_before\":null,\"genesis\":null,\"config\":null,\"keys\":[],\
        \"cuts\":0}\n";
    let sum: String = Sha256::digest(body)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let journal = format!("holdup-reset-1 {sum}\n{body}");
    home.write("data/reset.journal", journal.as_bytes());
    let grave = "data/reset-20261121T000000.000Z-ab12";
    fs::create_dir(home.path(grave)).expect("directory");
    let moved = home.path(&format!("{grave}/edge_store.db"));
    fs::rename(home.data("edge_store.db"), moved).expect("move");
    let told = home.holdup(&["reset", "status"]);
    assert_eq!(told.status.code(), Some(1), "{}", text(&told));
    assert!(text(&told).contains("`staged`"), "{}", text(&told));
    for verb in [
        &["backup", "create"][..],
        &["queue", "rebuild"],
        &[
            "reset",
            "data",
            "--yes-erase",
            "host-test",
            "--no-backup",
            "without-backup",
        ],
    ] {
        let refused = home.holdup(verb);
        assert_eq!(
            refused.status.code(),
            Some(3),
            "{verb:?}: {}",
            text(&refused)
        );
        assert!(
            text(&refused).contains("holdup reset resume"),
            "{}",
            text(&refused)
        );
    }
    let ended = home.holdup(&["reset", "resume", "--json"]);
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended));
    nothing_remains(&home);
    assert_eq!(home.values().len(), 0);
    let told = home.holdup(&["reset", "status"]);
    assert_eq!(told.status.code(), Some(0), "{}", text(&told));
    let agent = home.serving();
    send(&home, 3);
    agent.stop();
}

#[test]
fn settings_and_everything_by_hand_leave_a_gateway_that_starts() {
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0",
        "[store]\nkeep_days = 9\n",
    );
    let agent = home.serving();
    send(&home, 20);
    agent.stop();
    for level in ["settings", "everything"] {
        // As `config set` leaves them, whether or not an agent has read them.
        fs::create_dir_all(home.path("conf.d")).expect("conf.d");
        home.write("conf.d/20-late.toml", b"[store]\nkeep_days = 30\n");
        home.write("conf.d/.console-undo.json", b"{}");
        let mut args = vec!["reset", level, "--yes-erase", "host-test"];
        args.extend(BARE);
        let out = home.holdup(&args);
        assert_eq!(out.status.code(), Some(0), "{level}: {}", text(&out));
        nothing_remains(&home);
        let config = fs::read_to_string(home.config()).expect("config");
        assert!(!config.contains("keep_days"), "{config}");
        assert!(config.contains("sim.sock"), "the wiring stays: {config}");
        let left = fs::read_dir(home.path("conf.d")).expect("conf.d").count();
        assert_eq!(left, 0, "{level}: what the site had set is there");
        let checked = home.holdup(&["config", "check"]);
        assert_eq!(checked.status.code(), Some(0), "{}", text(&checked));
        assert_eq!(home.data("identity.key").exists(), level == "settings");
        let mut agent = home.start();
        agent.wait_for("service", |s| s["store"] == "running");
        send(&home, 2);
        agent.stop();
    }
}
