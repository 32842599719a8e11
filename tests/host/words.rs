//! What verbs say to wrong arguments: the object, and what to do.

use std::fs;
use std::process::Output;

use crate::home::Home;

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// Exit code and words of a verb.
#[track_caller]
fn says(home: &Home, args: &[&str], code: i32, words: &[&str]) {
    let out = home.holdup(args);
    let said = text(&out);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?}: {word:?} is not in {said}");
    }
}

#[test]
fn what_cannot_be_meant_is_named_with_what_to_do() {
    let home = Home::new();
    let dir = home.path("").display().to_string();
    says(
        &home,
        &["recover", &dir],
        2,
        &[
            &dir[..dir.len() - 1],
            "is a directory",
            "name the database file",
        ],
    );
    says(
        &home,
        &["backup", "show", "x"],
        2,
        &[
            "x is neither a file nor the name of a backup",
            "`holdup backup list`",
        ],
    );
    says(
        &home,
        &["backup", "restore", "x"],
        2,
        &[
            "x is neither a file nor the name of a backup",
            "`holdup backup list`",
        ],
    );
    says(
        &home,
        &["backup", "show", &dir],
        2,
        &["is a directory: name a backup in it"],
    );
    says(
        &home,
        &["backup", "restore", "--at", "yesterday"],
        2,
        &["\"yesterday\" is no time: write 2026-11-21"],
    );
    says(&home, &["queue", "list"], 0, &["no message waits"]);
    says(
        &home,
        &["queue", "export", "--from", &dir],
        2,
        &["is a directory: name the queue's database in it"],
    );
    home.write("notes.txt", b"hello, this is no database\n");
    let notes = home.path("notes.txt").display().to_string();
    let out = home.holdup(&["queue", "export", "--from", &notes]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
    assert!(!text(&out).contains("move it"), "{}", text(&out));
    says(
        &home,
        &["drill", "--report", &dir],
        2,
        &["is a directory: name a file"],
    );
    says(
        &home,
        &["backup", "restore", "x", "--only", "config"],
        2,
        &["config", "the whole path", "--with-config"],
    );
}

#[test]
fn the_first_digits_of_a_head_are_enough_and_fewer_are_no_alarm() {
    let home = Home::new();
    home.serving().stop();
    let head = text(&home.holdup(&["audit", "head"])).trim().to_owned();
    let (sequence, hash) = head.split_once(':').expect("a head");
    let verify = |head: &str, code: i32, words: &[&str]| {
        says(&home, &["audit", "verify", "--head", head], code, words);
    };
    verify(&head, 0, &["unbroken"]);
    verify(&format!("{sequence}:{}", &hash[..8]), 0, &["unbroken"]);
    let short = format!("{sequence}:{}", &hash[..7]);
    verify(&short, 2, &["too short", "at least 8"]);
    verify(&format!("{sequence}:not-a-hash"), 2, &["is no hash"]);
    verify(&format!("0:{hash}"), 2, &["count from 1"]);
    let other = if hash.starts_with('0') { "1" } else { "0" };
    let wrong = format!("{sequence}:{other}{}", &hash[1..12]);
    verify(&wrong, 1, &["BROKEN", "does not hold the entry"]);
    // A log that ends before the entry that is trusted is not whole.
    says(
        &home,
        &["audit", "verify", "--since", "999"],
        1,
        &["BROKEN at entry 999", "the log ends with entry"],
    );
}

#[test]
fn a_long_queue_is_listed_in_part_and_the_rest_is_counted() {
    let tables = "[queue]\nenabled = true\n";
    let power = "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0";
    let home = Home::with(power, tables);
    let mut agent = home.serving();
    let mut client = home.client();
    for _ in 0..130 {
        client.send();
    }
    client.wait_acked(130);
    agent.wait_for("queued", |s| s["queue"]["depth"] == 130);
    agent.stop();
    let out = home.holdup(&["queue", "list"]);
    assert_eq!(out.stdout.iter().filter(|b| **b == b'\n').count(), 100);
    assert!(
        text(&out).ends_with("30 more: --limit N shows N of them, `holdup queue export` all\n")
    );
    let out = home.holdup(&["queue", "list", "--limit", "130"]);
    assert_eq!(out.stdout.iter().filter(|b| **b == b'\n').count(), 130);
    assert!(!text(&out).contains(" more: "), "{}", text(&out));
}

#[test]
fn what_status_counts_are_readings_and_not_the_agents_own_books() {
    let home = Home::new();
    let mut agent = home.serving();
    let mut client = home.client();
    for _ in 0..50 {
        client.send();
    }
    client.wait_acked(50);
    agent.signal("KILL");
    agent.ended();
    let wal = home.data("edge_store.db-wal");
    let mut bytes = fs::read(&wal).expect("read");
    bytes[..32].fill(0xa5);
    home.write("data/edge_store.db-wal", &bytes);
    let mut agent = home.serving();
    agent.wait_for("a recovery", |s| s["recovered"][0]["kept_rows"].is_u64());
    let said = text(&home.holdup(&["status"]));
    assert!(said.contains("; 50 rows are there"), "{said}");
    agent.stop();
}
