//! Damage that is known is told by readiness, doctor and every verb, with one remedy.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Output;

use serde_json::Value;

use crate::home::Home;

const POWER: &str = "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0";
const QUEUE: &str = "stop the agent, run `holdup queue rebuild`, start the agent again";
const STORE: &str = "restart the agent: it keeps a copy of the damaged files and recovers the store \
                     before it serves again";

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn send(home: &Home, readings: u64) {
    let mut client = home.client();
    for _ in 0..readings {
        client.send();
    }
    client.wait_acked(readings);
}

/// Pages in the middle become noise; the header stays as it is.
fn strike(home: &Home, name: &str) {
    let mut bytes = fs::read(home.data(name)).expect("read");
    let middle = bytes.len() / 2048 * 1024;
    bytes[middle..middle + 1024].fill(0xa5);
    home.write(&format!("data/{name}"), &bytes);
}

/// The lines of `holdup doctor` that say BAD, each with its remedy.
fn bad(home: &Home) -> Vec<(String, String)> {
    let out = home.holdup(&["doctor", "--json"]);
    let found: Value = serde_json::from_slice(&out.stdout).expect("json");
    let all = found["checks"].as_array().expect("checks").iter();
    let bad: Vec<_> = all.filter(|c| c["level"] == "bad").collect();
    assert_eq!(out.status.code(), Some(i32::from(!bad.is_empty())));
    let word = |v: &Value| v.as_str().expect("text").to_owned();
    bad.iter()
        .map(|c| (word(&c["found"]), word(&c["remedy"])))
        .collect()
}

#[test]
fn a_queue_that_failed_is_a_risk_and_rebuilding_it_is_the_one_remedy_until_it_is_mended() {
    let home = Home::with(POWER, "[queue]\nenabled = true\n");
    let mut agent = home.serving();
    send(&home, 200);
    agent.wait_for("queued", |s| s["queue"]["depth"] == 200);
    agent.stop();
    strike(&home, "sync_queue.db");
    let mut agent = home.serving();
    let status = agent.wait_for("a queue that failed", |s| s["queue"]["state"] == "failed");
    assert_eq!(status["readiness"], "AtRisk", "{status:#}");
    assert!(status["reasons"].to_string().contains("queue_failed"));
    let told = &status["damage"][0];
    assert_eq!(
        (&told["code"], &told["remedy"]),
        (&"queue_failed".into(), &QUEUE.into())
    );
    let problem = status["queue"]["problem"].as_str().expect("why");
    assert!(problem.ends_with(QUEUE), "{problem}");
    let told = bad(&home);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1, QUEUE);
    assert!(!told[0].0.contains("rebuild"), "said once: {told:?}");
    let status = text(&home.holdup(&["status"]));
    assert!(status.contains(&format!("): {QUEUE}")), "{status}");
    let stats = text(&home.holdup(&["queue", "stats"]));
    assert!(stats.contains(QUEUE), "{stats}");
    agent.stop();
    let out = home.holdup(&["queue", "rebuild", "--yes"]);
    assert!(out.status.code().is_some_and(|c| c < 2), "{}", text(&out));
    let mut agent = home.serving();
    let status = agent.wait_for("all of it again", |s| s["queue"]["depth"] == 200);
    assert_eq!(status["damage"], serde_json::json!([]));
    assert!(bad(&home).is_empty());
    agent.stop();
}

#[test]
fn damage_that_a_snapshot_met_is_a_risk_until_the_restart_that_is_its_remedy() {
    let home = Home::with(POWER, "[snapshot]\nevery_s = 1\n");
    let agent = home.serving();
    send(&home, 2000);
    agent.stop();
    fs::remove_dir_all(home.data("snapshots")).ok();
    strike(&home, "edge_store.db");
    let mut agent = home.serving();
    let status = agent.wait_for("a snapshot that finds it", |s| {
        s["reasons"].to_string().contains("store_damaged") && s["snapshots"]["problem"].is_string()
    });
    assert_eq!(status["readiness"], "AtRisk");
    assert_eq!(status["damage"][0]["remedy"], STORE, "{status:#}");
    let problem = status["snapshots"]["problem"].as_str().unwrap_or_default();
    assert!(problem.ends_with(STORE), "{problem}");
    let told = bad(&home);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1, STORE);
    let seq = ["retract", "t", "--reason", "x", "--yes"];
    agent.signal("KILL");
    agent.ended();
    // Without the agent it is the same that is said.
    let out = home.holdup(&seq);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    assert!(text(&out).contains(STORE), "{}", text(&out));
    let damage = bad(&home).into_iter().find(|(_, r)| r == STORE);
    assert!(damage.is_some_and(|(found, _)| found.contains("edge_store.db")));
    let mut agent = home.start();
    let status = agent.wait_for("a store", |s| s["store"] == "running");
    assert_eq!(status["damage"], serde_json::json!([]));
    agent.stop();
}

#[test]
fn a_store_that_was_recovered_by_hand_is_not_suspected_any_more() {
    let home = Home::with(POWER, "");
    let agent = home.serving();
    send(&home, 2000);
    agent.stop();
    strike(&home, "edge_store.db");
    home.write("data/edge_store.db-suspect", b"a snapshot met it");
    assert!(bad(&home).iter().any(|(_, remedy)| remedy == STORE));
    let path = home.data("edge_store.db").display().to_string();
    let out = home.holdup(&["recover", &path]);
    assert!(out.status.code().is_some_and(|c| c < 2), "{}", text(&out));
    assert!(!home.data("edge_store.db-suspect").exists());
    assert!(bad(&home).iter().all(|(_, remedy)| remedy != STORE));
}

#[test]
fn readings_are_taken_while_a_damaged_queue_is_still_looked_at() {
    let home = Home::with(POWER, "[queue]\nenabled = true\n");
    let mut agent = home.serving();
    send(&home, 50);
    agent.wait_for("queued", |s| s["queue"]["depth"] == 50);
    agent.stop();
    // No frame of it means anything; each is looked at.
    let mut x = 1_u64;
    let noise = std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    });
    let noise: Vec<u8> = noise.take(4 << 20).flatten().collect();
    home.write("data/sync_queue.db-wal", &noise);
    let mut agent = home.serving();
    send(&home, 20);
    let status = agent.status().expect("status");
    assert_eq!(status["queue"]["state"], "starting", "{status:#}");
    assert_eq!(status["recovered"], serde_json::json!([]), "{status:#}");
    let status = agent.wait_for("all of it queued", |s| s["queue"]["depth"] == 70);
    assert_eq!(status["recovered"][0]["verdict"], "salvaged", "{status:#}");
    agent.stop();
}

#[test]
fn a_store_that_lost_rows_before_a_damaged_queue_was_heard_uses_no_id_that_it_had_given_out() {
    let home = Home::with(POWER, "[queue]\nenabled = true\n");
    let mut agent = home.serving();
    send(&home, 40);
    agent.wait_for("queued", |s| s["queue"]["depth"] == 40);
    agent.stop();
    let conn = rusqlite::Connection::open(home.data("edge_store.db")).expect("open");
    conn.execute("DELETE FROM readings WHERE id > 10", [])
        .expect("lose some");
    drop(conn);
    // Nobody but the queue knows of them, and it cannot be asked at once.
    fs::remove_file(home.data("ledger")).expect("remove");
    fs::remove_dir_all(home.data("snapshots")).ok();
    strike_header(&home, "edge_store.db");
    strike_header(&home, "sync_queue.db");
    let mut agent = home.serving();
    send(&home, 1);
    agent.wait_for("the queue", |s| s["queue"]["state"] == "running");
    agent.stop();
    let conn = rusqlite::Connection::open(home.data("edge_store.db")).expect("open");
    let ids = "SELECT max(id) FROM readings";
    let last: i64 = conn.query_row(ids, [], |r| r.get(0)).expect("id");
    assert!(last > 40, "{last}");
}

/// SQLite refuses the file.
fn strike_header(home: &Home, name: &str) {
    let mut bytes = fs::read(home.data(name)).expect("read");
    bytes[..16].fill(0);
    home.write(&format!("data/{name}"), &bytes);
}

/// All readings lie in one leaf, in the first frame of the log: its name and its header are gone.
#[test]
fn of_a_young_store_whose_log_lost_its_first_512_bytes_every_reading_comes_back() {
    let home = Home::with(POWER, "");
    let agent = home.serving();
    let mut stream = UnixStream::connect(home.path("run/ingest.sock")).expect("socket");
    let line = |n| format!("{{\"sensor_name\":\"t\",\"timestamp\":{n},\"value\":{n}}}\n");
    let all: String = (0..20).map(line).collect();
    stream.write_all(all.as_bytes()).expect("send");
    let mut answers = BufReader::new(&stream).lines();
    let acked = answers.find(|a| a.as_ref().is_ok_and(|a| a.contains("20")));
    assert!(acked.is_some(), "they are acknowledged");
    agent.kill();
    let mut log = fs::read(home.data("edge_store.db-wal")).expect("log");
    let mut x = 88_172_645_463_325_252_u64;
    for byte in &mut log[..512] {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *byte = x.to_le_bytes()[0];
    }
    home.write("data/edge_store.db-wal", &log);
    home.serving().stop();
    let want: Vec<f64> = (0..20).map(f64::from).collect();
    assert_eq!(home.values(), want);
}

#[test]
fn a_store_whose_files_are_removed_under_it_says_so_and_what_was_acknowledged_is_kept() {
    let home = Home::with(POWER, "");
    let mut agent = home.serving();
    send(&home, 50);
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(home.data(&format!("edge_store.db{suffix}"))).expect("remove");
    }
    send(&home, 50);
    let status = agent.wait_for("a snapshot of it", |s| {
        let newest = s["snapshots"]["newest"].as_array();
        newest.is_some_and(|n| n.iter().any(|n| n["rows"].as_u64() >= Some(100)))
    });
    assert!(status["reasons"].to_string().contains("store_damaged"));
    let told = status["damage"][0]["found"].as_str().unwrap_or_default();
    assert!(told.contains("removed or replaced"), "{status:#}");
    agent.kill();
    home.serving().stop();
    assert_eq!(home.values().len(), 100);
}
