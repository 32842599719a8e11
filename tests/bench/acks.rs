//! Durable acknowledgements a second, against Redis with `appendfsync always`.
//!
//! Both answer the same load (`load.rs`, one thread) over a Unix socket, from the same ext4 on
//! a loop device, in turns. Ours is the real agent on the simulated board with
//! `commit_window_ms = 0`; a request is one reading as a JSON line. Redis's request is `SET` of
//! one key to that very line, the cheapest of its commands. Beside them, for orientation:
//! redis-benchmark's own figure, Redis without any persistence, and Python with one commit for
//! each row.
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
mod load;
mod redis;
#[allow(dead_code, reason = "shared by the benchmarks")]
mod report;

use std::process::Command;
use std::time::Duration;

use disk::Disk;
use home::Home;
use load::{Load, Speech};
use redis::Redis;
use report::{grouped, median};

const READING: &str =
    r#"{"sensor_name":"boiler-1","timestamp":1767225600000,"value":71.5,"unit":"C"}"#;
/// Name, clients, readings that each sends at once.
const SHAPES: [(&str, usize, u64); 2] = [
    ("50 clients, one row a request", 50, 1),
    ("1 client, 64 pipelined", 1, 64),
];
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(1000);
const WANTED: f64 = 1.2;

/// One row a commit, as it is usually written.
const PYTHON: &str = r"
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('PRAGMA journal_mode=WAL'); db.execute('PRAGMA synchronous=FULL')
db.execute('CREATE TABLE IF NOT EXISTS r(id INTEGER PRIMARY KEY, sensor_name, timestamp, value, unit)')
n, began = 0, time.monotonic()
while time.monotonic() - began < 2:
    db.execute('INSERT INTO r(sensor_name,timestamp,value,unit) VALUES(?,?,?,?)', ('boiler-1', 1767225600000, 71.5, 'C'))
    n += 1
print(n / (time.monotonic() - began))
";

fn main() -> Result<(), String> {
    let disk = match redis::install().and_then(|()| Disk::new(1024)) {
        Ok(disk) => disk,
        Err(why) => {
            println!("acks: SKIPPED: {why}");
            return Ok(());
        }
    };
    report::title(
        "Durable acknowledgements a second, the same ext4 for both",
        &disk.mount(),
    );
    let home = Home::on(
        &disk.mount().join("holdup"),
        "holdup_ms = 4000",
        "[store]\ncommit_window_ms = 0",
    );
    let agent = home.serving();
    let redis = Redis::start(&disk.mount().join("redis"), &home.path("run"), true)?;
    let memory = Redis::start(&home.path("memory"), &home.path("run"), false)?;
    let ours = format!("{READING}\n").into_bytes();
    let theirs = redis::request(&["SET", "reading", READING]);
    let servers = [
        (home.path("run/ingest.sock"), Speech::Holdup, &ours),
        (redis.socket().to_owned(), Speech::Redis, &theirs),
        (memory.socket().to_owned(), Speech::Redis, &theirs),
    ];

    let mut rows = Vec::new();
    let mut verdicts = Vec::new();
    // An argument chooses by a part of a shape's name.
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let wanted = wanted.unwrap_or_default();
    for (shape, clients, burst) in SHAPES.into_iter().filter(|s| s.0.contains(&wanted)) {
        let mut rates = [const { Vec::new() }; 3];
        let mut ratios = Vec::new();
        for round in 0..=ROUNDS {
            let mut pair = [0.0; 3];
            for (n, (socket, speech, request)) in servers.iter().enumerate() {
                pair[n] = Load::connect(socket, *speech, clients, request, burst)
                    .and_then(|mut load| load.drive(ROUND))
                    .map_err(|e| format!("{}: {e}", socket.display()))?;
            }
            // The first round warms both up.
            if round > 0 {
                pair.iter()
                    .zip(&mut rates)
                    .for_each(|(r, all)| all.push(*r));
                ratios.push(pair[0] / pair[1]);
            }
        }
        let requests = (median(&rates[1]) * 2.0) as u64;
        let clients = u32::try_from(clients).unwrap_or(u32::MAX);
        let own = redis.benchmark(clients, burst, requests, &["SET", "reading", READING])?;
        let ratio = median(&ratios);
        rows.push(vec![
            shape.to_owned(),
            grouped(median(&rates[0])),
            grouped(median(&rates[1])),
            format!("{ratio:.2}"),
            grouped(own),
            grouped(median(&rates[2])),
        ]);
        verdicts.push((shape, ratio));
    }
    report::table(
        &[
            "shape",
            "holdup",
            "Redis always",
            "ratio",
            "by redis-benchmark",
            "Redis, nothing kept",
        ],
        &rows,
    );
    println!(
        "Redis {}; medians of {ROUNDS} rounds of {ROUND:?} in turns",
        Redis::version()
    );
    let python = Command::new("python3")
        .args(["-c", PYTHON])
        .arg(disk.mount().join("python.db"))
        .output()
        .map_err(|e| e.to_string())
        .map(|o| {
            String::from_utf8_lossy(&o.stdout)
                .trim()
                .parse::<f64>()
                .unwrap_or(f64::NAN)
        });
    println!(
        "one commit a row from Python: {}",
        python.map_or_else(|e| e, grouped)
    );
    for (shape, ratio) in verdicts {
        report::target(
            &format!("{shape}, holdup against Redis always"),
            &format!("{ratio:.2}x"),
            "at least 1.2x",
            ratio >= WANTED,
        );
    }
    agent.stop();
    Ok(())
}
