//! Power fails while a store with a long log is recovered: the plan runs in time, nothing is
//! written while parked, and recovery ends with the same rows whether power comes back or the
//! agent dies.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde_json::Value;

use crate::home::{Agent, Home, poll};

/// Bytes of log.
const LOG: u64 = 64 << 20;

/// A store whose rows all lie in a log, the start of which is random; how many they are.
fn struck(home: &Home) -> u64 {
    home.serving().stop();
    let path = home.data("edge_store.db");
    let conn = Connection::open(&path).expect("open");
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .expect("config");
    conn.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF")
        .expect("pragmas");
    let log = home.data("edge_store.db-wal");
    let mut rows = 0;
    while fs::metadata(&log).map_or(0, |m| m.len()) < LOG {
        conn.execute(
            "WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1 + 499)
             INSERT INTO readings(id, sensor_name, timestamp, value, metadata)
             SELECT i, 'boiler', i * 1000, i / 8.0, hex(zeroblob(1500)) FROM n",
            [rows + 1],
        )
        .expect("insert");
        rows += 500;
    }
    drop(conn);
    let mut bytes = fs::read(&log).expect("read");
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    for byte in &mut bytes[..512] {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        *byte = x.to_be_bytes()[0];
    }
    home.write("data/edge_store.db-wal", &bytes);
    u64::try_from(rows).expect("a count")
}

/// Everything that a recovery writes: by path its size, its blocks and its time.
fn written(home: &Home) -> BTreeMap<PathBuf, (u64, u64, i64, i64)> {
    fn walk(dir: &Path, into: &mut BTreeMap<PathBuf, (u64, u64, i64, i64)>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let shown = path.display().to_string();
            if !shown.contains("/evidence") && !shown.contains("/edge_store.db") {
                continue;
            }
            let Ok(m) = entry.metadata() else { continue };
            if m.is_dir() {
                walk(&path, into);
            }
            into.insert(path, (m.len(), m.blocks(), m.mtime(), m.mtime_nsec()));
        }
    }
    let mut all = BTreeMap::new();
    walk(&home.path("data"), &mut all);
    all
}

fn half_made(home: &Home) -> bool {
    let entries = fs::read_dir(home.data("evidence")).into_iter().flatten();
    entries
        .flatten()
        .any(|e| e.path().extension().is_some_and(|x| x == "part"))
}

fn staged(home: &Home) -> bool {
    home.data("edge_store.db-holdup-new").exists()
}

/// Power goes as soon as `begun` holds; the agent is parked in the middle, in time.
fn parked(home: &Home, agent: &mut Agent<'_>, begun: impl Fn(&Home) -> bool) -> Value {
    poll("recovery to come so far", || begun(home).then_some(()));
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    assert!(begun(home), "it had ended before: {parked:#}");
    assert_eq!(parked["recovered"].as_array().map(Vec::len), Some(0));
    let outage = &parked["last_outage"];
    assert_eq!(outage["ended"], "clean", "{outage:#}");
    let quiet = outage["edge_to_quiet_ms"].as_f64().expect("quiet");
    assert!(quiet < 4000.0, "{quiet} ms");
    // Not one byte for two seconds.
    let before = written(home);
    let uptime = |s: &Value| s["uptime_s"].as_u64().unwrap_or(0);
    let began = uptime(&parked);
    let later = agent.wait_for("two seconds", |s| uptime(s) >= began + 2);
    assert_eq!(later["supply"], "Parked");
    assert_eq!(written(home), before, "written while parked");
    parked
}

/// It serves, the report is a good one, and all rows are there but those that were struck.
fn all_back(home: &Home, agent: &mut Agent<'_>, rows: u64) {
    let status = agent.wait_for("a recovered store", |s| {
        s["store"] == "running" && s["recovered"].as_array().is_some_and(|r| !r.is_empty())
    });
    let report = &status["recovered"][0];
    assert_eq!(report["verdict"], "salvaged", "{report:#}");
    assert!(!staged(home) && !half_made(home));
    let evidence: Vec<_> = fs::read_dir(home.data("evidence")).expect("list").collect();
    assert_eq!(evidence.len(), 1, "one copy of the damaged files is enough");
    let path = home.data("edge_store.db");
    let conn = Connection::open(path).expect("open");
    let sound: i64 = conn
        .query_row(
            "SELECT count(*) FROM readings WHERE value = id / 8.0 AND timestamp = id * 1000
             AND length(metadata) = 3000",
            [],
            |r| r.get(0),
        )
        .expect("count");
    let table = |t: &&Value| t["name"] == "readings";
    let said = report["tables"]
        .as_array()
        .and_then(|all| all.iter().find(table));
    assert_eq!(
        said.map(|t| &t["rows"]),
        Some(&Value::from(sound)),
        "{report:#}"
    );
    assert!(sound.unsigned_abs() + 10 >= rows, "{sound} of {rows}");
}

#[test]
fn power_that_fails_twice_during_a_long_recovery_is_outlived_and_it_goes_on() {
    let home = Home::new();
    let rows = struck(&home);
    let mut agent = home.start();
    parked(&home, &mut agent, half_made);
    home.power(false);
    parked(&home, &mut agent, staged);
    home.power(false);
    all_back(&home, &mut agent, rows);
    agent.stop();
}

#[test]
fn an_agent_that_dies_parked_in_the_middle_of_a_recovery_finishes_it_at_the_next_start() {
    let home = Home::new();
    let rows = struck(&home);
    for begun in [half_made, staged] {
        let mut agent = home.start();
        parked(&home, &mut agent, begun);
        agent.kill();
    }
    let mut agent = home.start();
    all_back(&home, &mut agent, rows);
    agent.stop();
}

#[test]
fn an_agent_told_to_stop_in_the_middle_of_a_recovery_ends_well_and_the_next_one_finishes_it() {
    let home = Home::new();
    let rows = struck(&home);
    for begun in [half_made, staged] {
        let agent = home.start();
        poll("recovery to come so far", || begun(&home).then_some(()));
        agent.stop();
        assert!(begun(&home), "it had ended before:\n{}", home.log());
    }
    let mut agent = home.start();
    all_back(&home, &mut agent, rows);
    agent.stop();
}
