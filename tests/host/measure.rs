//! Acknowledgements a second, in the two shapes that Redis is measured in. Not a test:
//! `cargo test --release --test host -- --ignored --nocapture measure`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use holdup::clock::{Clock, SystemClock};
use holdup::store::StoreStats;

use crate::ingest::{Server, line};

/// Runs `clients` on two threads; each sends `batch` lines, waits for their acknowledgement,
/// and again, for `time`. Returns readings a second.
fn drive(server: &Server, clients: usize, batch: u64, time: Duration) -> f64 {
    let began = SystemClock.mono();
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let socket: PathBuf = server.socket();
            std::thread::spawn(move || {
                let mut stream = UnixStream::connect(socket).expect("connect");
                let mut answers = BufReader::new(stream.try_clone().expect("clone"));
                let lines: String = (0..batch).map(line).collect();
                let (mut sent, mut acked) = (0u64, 0u64);
                let mut answer = String::new();
                while SystemClock.mono().since(began) < time {
                    stream.write_all(lines.as_bytes()).expect("send");
                    sent += batch;
                    while acked < sent {
                        answer.clear();
                        answers.read_line(&mut answer).expect("answer");
                        let n = answer.trim_end().trim_start_matches("{\"acked\":");
                        acked = n.trim_end_matches('}').parse().expect("acked");
                    }
                }
                acked
            })
        })
        .collect();
    let total: u64 = threads.into_iter().map(|t| t.join().expect("client")).sum();
    total as f64 / SystemClock.mono().since(began).as_secs_f64()
}

fn report(shape: &str, rate: f64, before: &StoreStats, after: &StoreStats) {
    let commits = after.commits - before.commits;
    let rows = after.acked - before.acked;
    println!(
        "{shape}: {rate:.0} acks/s, {commits} commits, {:.1} rows a commit",
        rows as f64 / commits as f64
    );
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
        let server = Server::start();
        let stats = || server.store.as_ref().expect("store").stats();
        let before = stats();
        let rate = drive(&server, clients, batch, time);
        report(shape, rate, &before, &stats());
    }
}
