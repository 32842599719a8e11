//! Acknowledgements a second, in the two shapes that Redis is measured in. Not a test:
//! `cargo test --release --test host -- --ignored --nocapture measure`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use holdup::clock::{Clock, SystemClock};
use holdup::store::StoreStats;

use crate::ingest::{Server, line};

/// One thread plays `clients` senders, as redis-benchmark does: each sends `batch` lines,
/// waits for their acknowledgement, and again, for `time`. Returns readings a second.
fn drive(server: &Server, clients: usize, batch: u64, time: Duration) -> f64 {
    let lines: String = (0..batch).map(line).collect();
    let mut all: Vec<_> = (0..clients)
        .map(|_| (UnixStream::connect(server.socket()).expect("connect"), 0u64))
        .collect();
    let began = SystemClock.mono();
    for (stream, _) in &mut all {
        stream.write_all(lines.as_bytes()).expect("send");
    }
    let mut total = 0;
    let mut answers = [0u8; 4096];
    while SystemClock.mono().since(began) < time {
        let mut fds: Vec<_> = all
            .iter()
            .map(|(s, _)| PollFd::new(s, PollFlags::IN))
            .collect();
        rustix::event::poll(&mut fds, None).expect("poll");
        let ready: Vec<bool> = fds.iter().map(|f| !f.revents().is_empty()).collect();
        for ((stream, sent), _) in all.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            let n = stream.read(&mut answers).expect("answer");
            let text = std::str::from_utf8(&answers[..n]).expect("text");
            let last = text.lines().last().expect("line");
            let acked = last.trim_start_matches("{\"acked\":").trim_end_matches('}');
            if acked.parse::<u64>().expect("acked") == *sent + batch {
                *sent += batch;
                total += batch;
                stream.write_all(lines.as_bytes()).expect("send");
            }
        }
    }
    total as f64 / SystemClock.mono().since(began).as_secs_f64()
}

/// Ticks of processor time that this process has used, its threads included.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("stat");
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

fn table_line(shape: &str, rate: f64, cpu: u64, before: &StoreStats, after: &StoreStats) -> String {
    let commits = after.commits - before.commits;
    let rows = after.acked - before.acked;
    format!(
        "{shape}: {rate:.0} acks/s, {commits} commits, {:.1} rows a commit, {:.1} us of processor each",
        rows as f64 / commits as f64,
        cpu as f64 * 10_000.0 / rows as f64
    )
}

#[test]
#[ignore = "a measurement"]
fn measure_throughput() {
    let time = Duration::from_secs(5);
    for (shape, clients, batch) in [
        ("1 client, 64 pipelined", 1, 64),
        ("50 clients, one row a request", 50, 1),
        ("1 client, 1000 pipelined", 1, 1000),
        ("1 client, one row a request", 1, 1),
    ] {
        if std::env::var("SHAPE").is_ok_and(|only| only != shape) {
            continue;
        }
        let server = Server::start();
        let stats = || server.store.as_ref().expect("store").stats();
        let before = stats();
        let used = ticks();
        let rate = drive(&server, clients, batch, time);
        let line = table_line(shape, rate, ticks() - used, &before, &stats());
        println!("{line}");
    }
}
