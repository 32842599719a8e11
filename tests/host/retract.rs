//! Readings of a bad source: marked by the real agent and by hand, kept by recovery.

use std::fs;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use holdup::durable::Closer;
use holdup::store::{Found, Retract, RetractError, Span};
use serde_json::Value;

use crate::home::{Home, poll};
use crate::store_world::{SETTINGS, Told, World, chunk, until};

fn send(home: &Home, n: u64) {
    let mut client = home.client();
    for _ in 0..n {
        client.send();
    }
    client.wait_acked(n);
}

/// Readings, and those of them that count.
fn rows(home: &Home) -> (i64, i64) {
    let conn = rusqlite::Connection::open(home.data("edge_store.db")).expect("open");
    let count = |from: &str| {
        conn.query_row(&format!("SELECT count(*) FROM {from}"), [], |r| r.get(0))
            .expect("count")
    };
    (count("readings"), count("readings_valid"))
}

fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(out)))
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn retract(home: &Home, more: &[&str]) -> Output {
    let mut args = vec!["retract"];
    args.extend(more);
    home.holdup(&args)
}

const BAD: [&str; 8] = [
    "t",
    "--since",
    "5",
    "--until",
    "9",
    "--reason",
    "wet probe",
    "--yes",
];

fn retractions(home: &Home) -> Vec<Value> {
    let listed = json(&retract(home, &["--list", "--json"]));
    listed["retractions"].as_array().expect("a list").clone()
}

/// The entries of an action, in order: `begin` or the result, and the details.
fn audited(home: &Home, action: &str) -> Vec<Value> {
    let conn = rusqlite::Connection::open(home.data("audit.db")).expect("open");
    let mut q = conn
        .prepare("SELECT details FROM audit WHERE action = ?1 ORDER BY sequence")
        .expect("query");
    q.query_map([action], |r| r.get::<_, String>(0))
        .expect("rows")
        .map(|d| serde_json::from_str(&d.expect("details")).expect("JSON"))
        .collect()
}

#[test]
fn a_running_agent_marks_readings_and_takes_it_back_and_serves_on() {
    let home = Home::new();
    let agent = home.serving();
    send(&home, 20);
    let out = retract(
        &home,
        &[&BAD[..], &["--technician", "ann", "--json"]].concat(),
    );
    let said = json(&out);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(
        (&said["rows"], &said["first_id"], &said["last_id"]),
        (&5.into(), &6.into(), &10.into()),
        "{said}"
    );
    assert_eq!(rows(&home), (20, 15));
    send(&home, 10);
    // The same timestamps once more, later: they were not meant.
    assert_eq!(rows(&home), (30, 25));
    let listed = retractions(&home);
    assert_eq!(listed[0]["actor"], "ann");
    assert_eq!(listed[0]["reason"], "wet probe");
    assert_eq!(listed[0]["undone"], Value::Null);
    let seq = said["seq"].to_string();
    let undo = ["--undo", &seq, "--reason", "it was dry"];
    let out = retract(&home, &undo);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(rows(&home), (30, 30));
    assert_eq!(retract(&home, &undo).status.code(), Some(3), "once");
    agent.stop();
    let entries = audited(&home, "retract");
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert_eq!(entries[0]["rows"], 5, "known before it began");
    assert_eq!(entries[0]["reason"], "wet probe");
    assert_eq!(
        (&entries[1]["result"], &entries[1]["rows"]),
        (&"done".into(), &5.into())
    );
    let undone = audited(&home, "retract.undo");
    assert_eq!(undone[0]["reason"], "it was dry");
    assert_eq!(undone[1]["result"], "done");
    assert_eq!(undone.last().expect("entries")["result"], "failed");
}

#[test]
fn nothing_is_marked_unasked_and_nothing_where_no_reading_is_meant() {
    let home = Home::new();
    let agent = home.serving();
    send(&home, 10);
    let unconfirmed = retract(&home, &["t", "--reason", "x"]);
    assert_eq!(unconfirmed.status.code(), Some(3), "{}", text(&unconfirmed));
    assert!(text(&unconfirmed).contains("10 readings"));
    let dry = retract(&home, &["t", "--dry-run", "--json"]);
    assert_eq!(
        (dry.status.code(), &json(&dry)["rows"]),
        (Some(0), &10.into())
    );
    let other = retract(&home, &["boiler", "--reason", "x", "--yes"]);
    assert_eq!(other.status.code(), Some(1), "{}", text(&other));
    let usage = retract(&home, &["t", "--yes"]);
    assert_eq!(usage.status.code(), Some(2), "no reason was given");
    assert_eq!(rows(&home), (10, 10));
    agent.stop();
    assert!(audited(&home, "retract").is_empty());
    assert!(retractions(&home).is_empty());
}

#[test]
fn nothing_is_marked_while_parked_nor_afterwards() {
    let home = Home::new();
    let mut agent = home.serving();
    send(&home, 10);
    home.power(true);
    agent.wait_for_supply("Parked");
    let out = retract(&home, &["t", "--reason", "x", "--yes"]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    // Whoever asks the agent itself is refused too.
    let asked = control(
        &home,
        r#"{"do":"retract","span":{"sensor_name":"t","since":null,"until":null},"found":{"rows":10,"first_id":1,"last_id":10},"reason":"x","by":null}"#,
    );
    assert!(
        asked["refused"]
            .as_str()
            .is_some_and(|w| w.contains("Parked")),
        "{asked}"
    );
    home.power(false);
    agent.wait_for("service", |s| s["supply"] == "Good");
    send(&home, 1);
    assert_eq!(rows(&home), (11, 11));
    // The same question now.
    let asked = control(
        &home,
        r#"{"do":"retract","span":{"sensor_name":"t","since":null,"until":null},"found":{"rows":10,"first_id":1,"last_id":10},"reason":"x","by":null}"#,
    );
    assert!(asked["retracted"].is_i64(), "{asked}");
    assert_eq!(rows(&home), (11, 1));
    let asked = control(
        &home,
        r#"{"do":"retract","span":{"sensor_name":"t","since":null,"until":null},"found":{"rows":0,"first_id":0,"last_id":0},"reason":"","by":null}"#,
    );
    assert!(asked["refused"].is_string(), "{asked}");
}

fn control(home: &Home, line: &str) -> Value {
    use std::io::{Read, Write};
    let path = home.path("run/control.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(path).expect("control socket");
    stream
        .write_all(format!("{line}\n").as_bytes())
        .expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

#[test]
fn without_an_agent_it_is_done_by_hand_and_audited() {
    let home = Home::new();
    let agent = home.serving();
    send(&home, 20);
    agent.kill();
    let out = retract(&home, &BAD);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(rows(&home), (20, 15));
    assert_eq!(audited(&home, "retract")[1]["rows"], 5);
    let agent = home.serving();
    assert_eq!(retractions(&home).len(), 1);
    agent.stop();
    let out = retract(&home, &["--undo", "1", "--reason", "it was dry"]);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(rows(&home), (20, 20));
    let again = retract(&home, &["--undo", "1", "--reason", "it was dry"]);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
}

#[test]
fn what_another_retraction_covers_does_not_count_again_and_that_is_said() {
    let home = Home::new();
    let agent = home.serving();
    send(&home, 20);
    for span in [["--since", "2"], ["--until", "5"], ["--since", "12"]] {
        let out = retract(
            &home,
            &[&["t", "--reason", "x", "--yes"], &span[..]].concat(),
        );
        assert!(out.status.success(), "{}", text(&out));
    }
    let out = retract(&home, &["--undo", "1", "--reason", "y", "--json"]);
    let said = json(&out);
    assert_eq!(
        said["still_covered_by"],
        serde_json::json!([2, 3]),
        "{said}"
    );
    assert_eq!(rows(&home), (20, 6), "those of neither");
    let out = retract(&home, &["--undo", "2", "--reason", "y"]);
    assert!(
        text(&out).ends_with("is undone: its readings count again\n"),
        "the first is undone, the third names later ones: {}",
        text(&out)
    );
    agent.stop();
}

#[test]
fn a_damaged_store_is_not_touched_by_hand_and_recovery_keeps_the_retractions() {
    let home = Home::new();
    let agent = home.serving();
    send(&home, 400);
    let out = retract(&home, &BAD);
    assert!(out.status.success(), "{}", text(&out));
    agent.kill();
    let path = home.data("edge_store.db-wal");
    let mut bytes = fs::read(&path).expect("log");
    bytes[..32].fill(0xa5);
    #[expect(clippy::disallowed_methods, reason = "the test plants damage")]
    fs::write(&path, &bytes).expect("write");
    let out = retract(&home, &["t", "--reason", "x", "--yes"]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    assert!(text(&out).contains("damaged"), "{}", text(&out));
    assert_eq!(fs::read(&path).expect("log"), bytes, "byte for byte");
    let mut agent = home.start();
    let status = agent.wait_for("a store", |s| s["store"] == "running");
    assert_eq!(status["recovered"][0]["verdict"], "salvaged", "{status:#}");
    assert_eq!(retractions(&home)[0]["reason"], "wet probe");
    assert_eq!(rows(&home), (400, 395));
}

#[test]
fn a_store_that_lost_its_schema_keeps_its_retractions() {
    let home = Home::new();
    let agent = home.serving();
    send(&home, 400);
    assert!(retract(&home, &BAD).status.success());
    agent.stop();
    let path = home.data("edge_store.db");
    let mut bytes = fs::read(&path).expect("store");
    // Which tables there were is not in the file any more.
    for (n, page) in bytes.chunks_mut(1024).enumerate() {
        if n == 0 || page.windows(7).any(|w| w == b"CREATE ") {
            page[if n == 0 { 100 } else { 0 }..].fill(0xa5);
        }
    }
    #[expect(clippy::disallowed_methods, reason = "the test plants damage")]
    fs::write(&path, &bytes).expect("write");
    let mut agent = home.start();
    let status = agent.wait_for("a store", |s| s["store"] == "running");
    assert_eq!(status["recovered"][0]["verdict"], "salvaged", "{status:#}");
    assert_eq!(retractions(&home).len(), 1);
    assert_eq!(rows(&home), (400, 395));
}

fn all_of(rows: u64) -> Retract {
    Retract::Mark {
        span: Span {
            sensor_name: "boiler".to_owned(),
            since: None,
            until: None,
        },
        found: Found {
            rows,
            first_id: 1,
            last_id: rows.cast_signed(),
        },
        reason: "loose wire".to_owned(),
        actor: "uid:0".to_owned(),
    }
}

const SOON: Duration = Duration::from_secs(30);

#[test]
fn the_writer_does_not_retract_while_the_gate_is_closed_nor_when_it_opens() {
    let world = World::new();
    let store = world.start(SETTINGS);
    world.gate.close(Closer::Power);
    let refused = store.orders().retract(all_of(5), SOON);
    assert!(
        matches!(refused, Err(RetractError::GateClosed)),
        "{refused:?}"
    );
    world.gate.open(Closer::Power);
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 5, None));
    until("they are committed", || told.upto() == 5);
    assert_eq!(world.ask("SELECT count(*) FROM holdup_retracted"), 0);
    assert!(store.orders().retract(all_of(5), SOON).is_ok());
    assert_eq!(world.ask("SELECT count(*) FROM readings_valid"), 0);
    let orders = store.orders();
    store.stop();
    let late = orders.retract(all_of(5), SOON);
    assert!(matches!(late, Err(RetractError::NotRunning)), "{late:?}");
}

#[test]
fn a_retraction_costs_the_writer_one_row_however_many_readings_it_names() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    for first in (1..=20_000).step_by(500) {
        store.intake().submit(chunk(&told, first, 500, None));
    }
    until("they are committed", || told.upto() == 20_000);
    let before = store.stats().wal_frames;
    let commits = world.seen.commits.lock().expect("lock").len();
    store.orders().retract(all_of(20_000), SOON).expect("done");
    let frames = store.stats().wal_frames - before;
    assert!((1..=4).contains(&frames), "{frames} frames");
    let seen = world.seen.commits.lock().expect("lock");
    assert_eq!(
        seen[commits..],
        [0],
        "one commit, which the budget hears of"
    );
    drop(seen);
    poll("both counts", || {
        (world.ask("SELECT count(*) FROM readings_valid") == 0 && world.rows() == 20_000)
            .then_some(())
    });
}
