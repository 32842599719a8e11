//! Bytes that reach the block device for each acknowledged reading, against one commit each.
//!
//! 100 readings a second of ten sensors, in turn, into the real agent: with the default
//! `commit_window_ms` and with 0, each with and without `store.index`; beside them what an
//! application does today, the same table in plain SQLite (write-ahead log, synchronous=FULL,
//! everything else its default) with one commit for each reading. Each of the six has an ext4 on
//! a loop device of its own, and all run at the same time. Ten sensors that
//! send once in each window are the index's worst case: a commit rewrites a page for each. The kernel's
//! count of the device's sectors is what counts: data, journal and checkpoints; from a routine
//! checkpoint, when the log has the size that it keeps, to the one of an orderly stop.
#![allow(
    clippy::print_stdout,
    reason = "a benchmark's result is what it prints"
)]

#[path = "../support/disk.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod disk;
#[path = "../support/home.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod home;
#[allow(dead_code, reason = "shared by the benchmarks")]
mod report;

use std::time::Duration;

use disk::Disk;
use holdup::clock::{Clock, Mono, SystemClock};
use home::{Agent, Client, Home};
use report::grouped;
use rusqlite::Connection;

const RATE: u32 = 100;
const COUNTED_S: u32 = 150;
/// Three routine checkpoints come long before so many lines.
const WARM_UP_MOST: u64 = 40_000;

/// Name, further lines of `[store]`, the plain SQLite that it is compared with, one commit each.
const CASES: [(&str, &str, usize, bool); 4] = [
    ("holdup, default window", "", 0, false),
    ("holdup, one commit each", "commit_window_ms = 0", 0, true),
    ("holdup, default window, index", "index = true", 1, false),
    (
        "holdup, one commit each, index",
        "index = true\ncommit_window_ms = 0",
        1,
        true,
    ),
];
const PLAIN: [&str; 2] = [
    "plain SQLite, one commit each",
    "plain SQLite, one commit each, index",
];
/// SQLite checkpoints after so many pages by itself; three times that have gone by before the
/// counting begins.
const PLAIN_WARM_UP: u64 = 3_000;

struct Case<'a> {
    agent: Agent<'a>,
    client: Client,
    disk: &'a Disk,
    /// Sent while it warmed up.
    lines: u64,
}

impl Case<'_> {
    /// Readings acknowledged, and commits.
    fn status(&mut self) -> (u64, u64) {
        let status = self.agent.wait_for("a status", |_| true);
        let number = |key: &str| status[key].as_u64().unwrap_or(0);
        (number("acked"), number("commits"))
    }
}

fn main() {
    let all = CASES.len() + PLAIN.len();
    let disks: Result<Vec<_>, _> = (0..all).map(|_| Disk::new(192)).collect();
    let disks = match disks {
        Ok(disks) => disks,
        Err(why) => {
            println!("bytes: SKIPPED: no loop device with ext4 on this machine ({why})");
            return;
        }
    };
    let (disks, plain_disks) = disks.split_at(CASES.len());
    report::title(
        "Bytes to the block device for each acknowledged reading, 100 readings/s",
        &disks[0].mount(),
    );
    let homes: Vec<_> = CASES
        .iter()
        .zip(disks)
        .map(|((_, store, ..), disk)| {
            let data = disk.mount().join("holdup");
            Home::on(&data, "holdup_ms = 4000", &format!("[store]\n{store}"))
        })
        .collect();
    let cases: Vec<_> = homes
        .iter()
        .zip(disks)
        .map(|(home, disk)| Case {
            agent: home.serving(),
            client: home.client(),
            disk,
            lines: 0,
        })
        .collect();
    let (rows, plain): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
        let threads: Vec<_> = cases
            .into_iter()
            .zip(CASES)
            .map(|(case, (.., each))| scope.spawn(move || measure(case, each)))
            .collect();
        let plain: Vec<_> = plain_disks
            .iter()
            .enumerate()
            .map(|(n, disk)| scope.spawn(move || plain_sqlite(disk, n == 1)))
            .collect();
        let rows = threads.into_iter().map(|t| t.join().expect("a case"));
        let rows = rows.collect();
        let plain = plain.into_iter().map(|t| t.join().expect("plain SQLite"));
        (rows, plain.collect())
    });
    print(&rows, &plain);
}

/// Commits until the log was checkpointed three times: the governor lets it grow as it learns
/// what checkpoints take, and a log that grows costs a journal write for each commit.
fn warm_up(case: &mut Case<'_>) {
    let (mut frames, mut checkpoints) = (0, 0);
    for line in (1..=WARM_UP_MOST).step_by(2) {
        case.client.put(&reading(line));
        case.client.put("{\"flush\":true}");
        case.client.wait_acked(line + 1);
        let status = case.agent.wait_for("a status", |_| true);
        let now = status["wal_frames"].as_u64().unwrap_or(0);
        checkpoints += u32::from(now < frames);
        if checkpoints == 3 {
            case.lines = line + 1;
            return;
        }
        frames = now;
    }
    panic!("no three routine checkpoints in {WARM_UP_MOST} lines");
}

/// Bytes, flushes and commits a reading.
fn measure(mut case: Case<'_>, each: bool) -> [f64; 3] {
    warm_up(&mut case);
    let before = (case.disk.written(), case.status());
    let began = SystemClock.mono();
    for n in 1..=u64::from(COUNTED_S * RATE) {
        wait_for_turn(began, n);
        case.client.put(&reading(n));
        // On a machine that falls behind, two would share a commit.
        if each {
            case.client.wait_acked(case.lines + n);
        }
    }
    if !each {
        case.client
            .wait_acked(case.lines + u64::from(COUNTED_S * RATE));
    }
    let status = case.status();
    case.agent.stop();
    let (now, before) = ((case.disk.written(), status), before);
    let readings = now.1.0 - before.1.0;
    let each = |n: u64| n as f64 / readings as f64;
    [
        each((now.0.0 - before.0.0) * 512),
        each(now.0.1 - before.0.1),
        each(now.1.1 - before.1.1),
    ]
}

/// The usual application: every reading in a commit of its own.
fn plain_sqlite(disk: &Disk, index: bool) -> [f64; 3] {
    let connection = Connection::open(disk.mount().join("plain.db")).expect("open");
    let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()));
    mode.expect("a write-ahead log");
    let table = "PRAGMA synchronous = FULL;
        CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL,
            timestamp NOT NULL, value REAL NOT NULL, unit TEXT, metadata TEXT)";
    connection.execute_batch(table).expect("a table");
    if index {
        let index = "CREATE INDEX by_sensor ON readings(sensor_name, timestamp)";
        connection.execute_batch(index).expect("an index");
    }
    let mut insert = connection
        .prepare(
            "INSERT INTO readings(sensor_name, timestamp, value, unit) VALUES(?1, ?2, ?3, 'C')",
        )
        .expect("prepare");
    let mut put = |n: u64| {
        let (sensor, stamp, value) = sample(n);
        insert
            .execute((sensor, stamp as i64, value))
            .expect("insert");
    };
    (1..=PLAIN_WARM_UP).for_each(&mut put);
    let before = disk.written();
    let began = SystemClock.mono();
    let readings = u64::from(COUNTED_S * RATE);
    for n in 1..=readings {
        wait_for_turn(began, n);
        put(PLAIN_WARM_UP + n);
    }
    drop(insert);
    // As the agent's orderly stop does.
    connection.close().expect("close");
    let now = disk.written();
    let each = |n: u64| n as f64 / readings as f64;
    [each((now.0 - before.0) * 512), each(now.1 - before.1), 1.0]
}

#[allow(clippy::disallowed_methods, reason = "readings come at a real rate")]
fn wait_for_turn(began: Mono, n: u64) {
    let due = began + Duration::from_micros(n * 1_000_000 / u64::from(RATE));
    std::thread::sleep(due.since(SystemClock.mono()));
}

/// Sensor, time stamp and value of the nth.
fn sample(n: u64) -> (String, u64, f64) {
    let stamp = 1_767_225_600_000 + n * 10;
    (format!("boiler-{}", n % 10), stamp, (n % 700) as f64 / 10.0)
}

fn reading(n: u64) -> String {
    let (sensor, stamp, value) = sample(n);
    format!(
        "{{\"sensor_name\":\"{sensor}\",\"timestamp\":{stamp},\"value\":{value},\"unit\":\"C\"}}"
    )
}

fn print(rows: &[[f64; 3]], plain: &[[f64; 3]]) {
    let line = |name: &str, row: &[f64; 3], single: usize| {
        vec![
            name.to_owned(),
            grouped(row[0]),
            format!("{:.1} %", 100.0 * row[0] / plain[single][0]),
            format!("{:.2}", row[1]),
            format!("{:.3}", row[2]),
        ]
    };
    let ours = (CASES.iter().zip(rows)).map(|((name, _, single, _), row)| line(name, row, *single));
    let plains = (PLAIN.iter().zip(plain).enumerate()).map(|(n, (name, row))| line(name, row, n));
    let table: Vec<_> = ours.chain(plains).collect();
    report::table(
        &[
            "commits",
            "bytes a reading",
            "of plain SQLite",
            "flushes a reading",
            "commits a reading",
        ],
        &table,
    );
    println!("{COUNTED_S} s, all at the same time");
    for (what, n, wanted) in [("default schema", 0, 15.0), ("with the index", 2, 30.0)] {
        let part = 100.0 * rows[n][0] / plain[CASES[n].2][0];
        report::target(
            &format!("{what}, default window against plain SQLite with one commit each"),
            &format!("{part:.1} %"),
            &format!("at most {wanted} %"),
            part <= wanted,
        );
        let own = 100.0 * rows[n][0] / rows[n + 1][0];
        println!("{what}, default window against holdup's own with one commit each: {own:.1} %");
    }
}
