//! Snapshots by the real agent, and what recovery makes of them.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::home::{Agent, Client, Home, poll};

const POWER: &str = "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0";

fn home() -> Home {
    Home::with(
        POWER,
        "[snapshot]\nevery_s = 1\nkeep = 3\n[queue]\nenabled = true",
    )
}

/// From the next start on none is taken.
fn no_more(home: &Home) {
    let text = fs::read_to_string(home.config()).expect("configuration");
    home.write(
        "holdup.toml",
        text.replace("every_s = 1", "every_s = 0").as_bytes(),
    );
}

fn send(client: &mut Client, readings: u64) {
    for _ in 1..readings {
        client.send();
    }
    let last = client.send();
    client.wait_acked(last);
}

fn newest<'a>(status: &'a Value, database: &str) -> Option<&'a Value> {
    let all = status["snapshots"]["newest"].as_array()?;
    all.iter().find(|n| n["database"] == database)
}

/// The newest one holds at least these readings.
fn wait_for_snapshot(agent: &mut Agent<'_>, readings: i64) -> Value {
    agent.wait_for("a snapshot", |s| {
        newest(s, "edge_store.db").is_some_and(|n| n["highest_id"].as_i64() >= Some(readings))
    })
}

fn archives(home: &Home) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(home.data("snapshots"))
        .expect("snapshots")
        .map(|e| e.expect("entry").path())
        .filter(|p| {
            p.to_string_lossy().contains("edge_store.db")
                && p.extension().is_some_and(|e| e == "zst")
        })
        .collect();
    all.sort();
    all
}

fn lose_the_store(home: &Home) {
    for suffix in ["", "-wal", "-shm"] {
        let path = home.data(&format!("edge_store.db{suffix}"));
        if path.exists() {
            fs::remove_file(path).expect("remove");
        }
    }
}

fn flip(path: &PathBuf) {
    let mut bytes = fs::read(path).expect("read");
    let at = bytes.len() / 2;
    bytes[at] ^= 0x40;
    #[expect(clippy::disallowed_methods, reason = "the test plants damage")]
    fs::write(path, bytes).expect("write");
}

/// Serving, with this verdict on the store.
fn serves_after(agent: &mut Agent<'_>, verdict: &str) -> Value {
    let report = |s: &Value| {
        let all = s["recovered"].as_array()?.clone();
        all.into_iter().find(|r| {
            r["database"]
                .as_str()
                .is_some_and(|d| d.ends_with("edge_store.db"))
        })
    };
    let status = agent.wait_for("a recovered store", |s| {
        s["store"] == "running" && report(s).is_some()
    });
    let report = report(&status).expect("a report");
    assert_eq!(report["verdict"], verdict, "{report:#}");
    report
}

/// 300 readings with at least three snapshots, the last one of all of them, and 40 more.
fn with_three(home: &Home) {
    let mut agent = home.serving();
    let mut client = home.client();
    for n in 1..=3 {
        send(&mut client, 100);
        wait_for_snapshot(&mut agent, n * 100);
    }
    agent.wait_for("three of them", |s| {
        newest(s, "edge_store.db").is_some_and(|n| n["kept"] == 3)
    });
    drop(client);
    agent.stop();
    no_more(home);
    let agent = home.serving();
    let mut client = home.client();
    send(&mut client, 40);
    drop(client);
    agent.stop();
}

#[test]
fn snapshots_are_taken_while_readings_come_and_are_all_a_first_part_of_them() {
    let home = home();
    let agent = home.serving();
    let mut client = home.client();
    let mut sent = 0;
    let status = loop {
        send(&mut client, 50);
        sent += 50;
        let status = agent.status().expect("status");
        let kept = newest(&status, "edge_store.db").map(|n| n["kept"].as_u64());
        if kept == Some(Some(3)) && newest(&status, "sync_queue.db").is_some() {
            break status;
        }
    };
    assert!(
        status["snapshots"]["problem"].is_null(),
        "{}",
        status["snapshots"]
    );
    assert!(status["snapshots"]["bytes"].as_u64() > Some(0));
    let words = home.holdup(&["status"]);
    let words = String::from_utf8_lossy(&words.stdout);
    assert!(
        words.contains("snapshots") && words.contains("3 kept"),
        "{words}"
    );
    agent.stop();
    for archive in archives(&home) {
        let manifest = archive.with_extension("json");
        let m: Value =
            serde_json::from_slice(&fs::read(manifest).expect("manifest")).expect("JSON");
        let (rows, highest) = (&m["rows"]["readings"], &m["highest_id"]);
        if rows != 0 {
            assert_eq!(rows, highest, "without a gap: {m:#}");
        }
        assert!(rows.as_u64() <= Some(sent), "{m:#}");
    }
}

#[test]
fn a_store_that_is_gone_comes_back_from_its_snapshot_and_the_gap_is_named() {
    let home = home();
    with_three(&home);
    lose_the_store(&home);
    let mut agent = home.start();
    let report = serves_after(&mut agent, "restored");
    assert!(
        report["restored"]["snapshot"]
            .as_str()
            .is_some_and(|s| s.starts_with("edge_store.db-"))
    );
    assert_eq!(report["lost_rows_known"], 40, "{report:#}");
    assert_eq!(report["missing"][0]["first"], 301, "{report:#}");
    assert_eq!(report["missing"][0]["last"], 340, "{report:#}");
    // What comes next gets none of the lost ids.
    let mut client = home.client();
    send(&mut client, 1);
    agent.stop();
    let conn = rusqlite::Connection::open(home.data("edge_store.db")).expect("open");
    let ids = |sql: &str| {
        conn.query_row(sql, [], |r| r.get::<_, i64>(0))
            .expect("ask")
    };
    assert_eq!(ids("SELECT count(*) FROM readings WHERE id <= 300"), 300);
    assert_eq!(ids("SELECT count(*) FROM readings"), 301);
    assert!(ids("SELECT max(id) FROM readings") > 340);
    let log = home.holdup(&["audit", "show", "--json"]);
    let log = String::from_utf8_lossy(&log.stdout);
    assert!(
        log.contains("restored") && log.contains("recovery"),
        "{log}"
    );
}

#[test]
fn what_is_left_of_the_log_is_laid_over_the_snapshot() {
    let home = home();
    {
        let mut agent = home.serving();
        let mut client = home.client();
        send(&mut client, 300);
        wait_for_snapshot(&mut agent, 300);
        drop(client);
        agent.stop();
    }
    no_more(&home);
    let agent = home.serving();
    let mut client = home.client();
    send(&mut client, 40);
    // Its log is there, and holds the last 40.
    agent.kill();
    fs::remove_file(home.data("edge_store.db")).expect("remove");
    let mut agent = home.start();
    let report = serves_after(&mut agent, "restored");
    assert_eq!(report["lost_rows_known"], 0, "{report:#}");
    assert!(
        report["restored"]["rows_of_files"].as_u64() >= Some(40),
        "{report:#}"
    );
    agent.stop();
    let conn = rusqlite::Connection::open(home.data("edge_store.db")).expect("open");
    let rows: i64 = conn
        .query_row("SELECT count(*) FROM readings", [], |r| r.get(0))
        .expect("count");
    assert_eq!(rows, 340);
}

#[test]
fn a_damaged_snapshot_is_passed_over_for_the_one_before_and_where_none_is_left_the_store_is_fresh()
{
    let home = home();
    with_three(&home);
    lose_the_store(&home);
    let all = archives(&home);
    assert_eq!(all.len(), 3);
    flip(&all[2]);
    let mut agent = home.start();
    let report = serves_after(&mut agent, "restored");
    let name = |p: &PathBuf| {
        p.file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    };
    assert_eq!(report["restored"]["snapshot"], name(&all[1]), "{report:#}");
    let steps = report["steps"].to_string();
    assert!(
        steps.contains(&format!("passed over the snapshot {}", name(&all[2]))),
        "{steps}"
    );
    agent.stop();
    lose_the_store(&home);
    flip(&all[0]);
    flip(&all[1]);
    let mut agent = home.start();
    let report = serves_after(&mut agent, "fresh");
    assert_eq!(
        report["steps"].to_string().matches("passed over").count(),
        3,
        "{report:#}"
    );
    agent.stop();
}

#[test]
fn damage_that_only_a_snapshot_meets_is_recovered_at_the_next_start() {
    let home = home();
    let agent = home.serving();
    send(&mut home.client(), 2000);
    agent.stop();
    // A leaf in the middle, which neither the start nor the writer reads.
    let store = home.data("edge_store.db");
    let mut bytes = fs::read(&store).expect("read");
    let middle = bytes.len() / 2048 * 1024;
    for (n, byte) in bytes[middle..middle + 1024].iter_mut().enumerate() {
        *byte = (n * 37 + 11) as u8;
    }
    #[expect(clippy::disallowed_methods, reason = "the test plants damage")]
    fs::write(&store, bytes).expect("write");
    let mut agent = home.serving();
    agent.wait_for("a snapshot that finds it", |s| {
        let problem = s["snapshots"]["problem"].as_str().unwrap_or_default();
        problem.contains("edge_store.db is faulty")
    });
    agent.stop();
    let mut agent = home.start();
    let status = agent.wait_for("a report", |s| {
        s["store"] == "running" && !s["recovered"].to_string().is_empty()
    });
    let all = status["recovered"].to_string();
    assert!(all.contains("edge_store.db"), "{all}");
    agent.stop();
}

#[test]
fn killed_while_it_takes_snapshots_an_agent_leaves_none_under_a_final_name_that_is_not_whole() {
    let home = home();
    let mut whole = 0;
    for n in 0..8 {
        let agent = home.serving();
        let mut client = home.client();
        send(&mut client, 400);
        // Somewhere in one.
        poll("a snapshot that is being taken", || {
            let names = fs::read_dir(home.data("snapshots")).ok()?;
            let partial = names
                .flatten()
                .any(|e| e.file_name().to_string_lossy().contains("partial"));
            (partial || n % 4 == 3).then_some(())
        });
        agent.kill();
        for archive in archives(&home) {
            let manifest = archive.with_extension("json");
            let Ok(text) = fs::read(manifest) else {
                continue;
            };
            let m: Value = serde_json::from_slice(&text).expect("a whole manifest");
            let plain = zstd_of(&archive);
            assert_eq!(
                plain.len() as u64,
                m["plain_bytes"].as_u64().expect("bytes")
            );
            let copy = home.path("check.db");
            home.write("check.db", &plain);
            let conn = rusqlite::Connection::open(&copy).expect("open");
            let says: String = conn
                .query_row("PRAGMA integrity_check", [], |r| r.get(0))
                .expect("check");
            assert_eq!(says, "ok");
            whole += 1;
        }
    }
    let mut agent = home.serving();
    wait_for_snapshot(&mut agent, 3200);
    agent.stop();
    let left = fs::read_dir(home.data("snapshots")).expect("list");
    let left: Vec<_> = left
        .flatten()
        .map(|e| e.file_name())
        .filter(|n| n.to_string_lossy().contains("edge_store.db-copy"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    println!("{whole} whole ones");
}

fn zstd_of(path: &PathBuf) -> Vec<u8> {
    zstd::decode_all(fs::File::open(path).expect("open")).expect("decode")
}

#[test]
fn power_lost_in_the_middle_of_a_snapshot_parks_in_time_and_the_next_one_is_whole() {
    let home = home();
    let mut agent = home.serving();
    let mut client = home.client();
    send(&mut client, 20_000);
    let copy = home.data("snapshots/edge_store.db-copy.partial");
    for _ in 0..3 {
        send(&mut client, 10);
        poll("a copy that is being made", || copy.exists().then_some(()));
        home.power(true);
        let parked = agent.wait_for_supply("Parked");
        assert_eq!(parked["last_outage"]["ended"], "clean", "{parked:#}");
        home.power(false);
        agent.wait_for_supply("Good");
    }
    // A part that were left would be in its way.
    wait_for_snapshot(&mut agent, 20_030);
    poll("the part is gone", || (!copy.exists()).then_some(()));
    agent.stop();
}

#[test]
fn none_is_taken_while_power_is_lost_and_the_plan_is_not_late_for_it() {
    let home = home();
    let mut agent = home.serving();
    let mut client = home.client();
    send(&mut client, 500);
    wait_for_snapshot(&mut agent, 500);
    send(&mut client, 100);
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    assert_eq!(parked["last_outage"]["ended"], "clean", "{parked:#}");
    let seen = |s: &Value| (archives(&home), s["snapshots"]["newest"].clone());
    let before = seen(&parked);
    let held = agent.wait_for("it is due and held off", |s| {
        s["snapshots"]["state"] == "held_off"
    });
    assert_eq!(seen(&held), before);
    home.power(false);
    wait_for_snapshot(&mut agent, 600);
    agent.stop();
}

#[test]
fn what_was_retracted_stays_so_where_only_a_snapshot_still_knows_of_it() {
    let home = home();
    let mut agent = home.serving();
    let mut client = home.client();
    send(&mut client, 300);
    let args = ["--since", "5", "--until", "9", "--reason", "wet", "--yes"];
    let done = home.holdup(&[&["retract", "t"], &args[..]].concat());
    assert!(done.status.success(), "{done:?}");
    client.send();
    client.wait_acked(301);
    wait_for_snapshot(&mut agent, 301);
    agent.stop();
    no_more(&home);
    let store = home.data("edge_store.db");
    let root: u32 = rusqlite::Connection::open(&store)
        .expect("open")
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'holdup_retracted'",
            [],
            |r| r.get(0),
        )
        .expect("its root");
    let root = root as usize;
    let mut bytes = fs::read(&store).expect("read");
    for (n, byte) in bytes[(root - 1) * 1024..root * 1024].iter_mut().enumerate() {
        *byte = (n * 37 + 11) as u8;
    }
    #[expect(clippy::disallowed_methods, reason = "the test plants damage")]
    fs::write(&store, bytes).expect("write");
    let name = store.to_str().expect("text");
    let done = home.holdup(&["recover", name, "--json"]);
    let report: Value = serde_json::from_slice(&done.stdout).expect("a report");
    assert_eq!(report["verdict"], "restored", "{report:#}");
    assert_eq!(report["missing"].as_array().map(Vec::len), Some(0));
    let conn = rusqlite::Connection::open(&store).expect("open");
    let count = |table: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        conn.query_row(&sql, [], |r| r.get(0)).expect("count")
    };
    assert_eq!((count("readings"), count("readings_valid")), (301, 296));
}
