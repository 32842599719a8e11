//! Runs in the emulated gateway, for tests/bench/outage.rs: what a gateway without holdup does.
//!
//! `usual_way watch CHIP_LABEL OFFSET DATABASE`: an application that commits 20 rows each 100 ms
//! (WAL, synchronous FULL), and the script beside it that looks at the power-fail line every
//! 200 ms; on a loss it stops the writer, runs `PRAGMA wal_checkpoint(TRUNCATE)` and `sync`. One
//! program instead of gpioget, sqlite3, sync and a shell: what starting those would cost is
//! given to it. Prints `writing`, and for each loss `lost QUIET_US DURABLE_US`, counted from the
//! kernel's time of the edge.
//!
//! `usual_way sync FILE BYTES TIMES`: writes BYTES over a file that has its size, and syncs its
//! data; prints `synced US` for each.
#![expect(clippy::print_stdout, reason = "printing is half of its task")]
#![expect(
    clippy::disallowed_methods,
    reason = "stands for programs that know nothing of holdup's rules"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gpiocdev::line::{EdgeDetection, EdgeKind};
use rusqlite::Connection;
use rustix::time::{ClockId, clock_gettime};

const LOOK: Duration = Duration::from_millis(200);
const WINDOW: Duration = Duration::from_millis(100);
const ROWS: i64 = 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["watch", label, offset, database] => watch(label, offset.parse()?, database),
        ["sync", file, bytes, times] => sync(file, bytes.parse()?, times.parse()?),
        _ => bail!("usage: usual_way watch CHIP_LABEL OFFSET DATABASE | sync FILE BYTES TIMES"),
    }
}

fn watch(label: &str, offset: u32, database: &str) -> Result<()> {
    let chip = gpiocdev::chip::chips()?
        .into_iter()
        .find(|path| {
            gpiocdev::Chip::from_path(path)
                .and_then(|chip| chip.info())
                .is_ok_and(|info| info.label == label)
        })
        .with_context(|| format!("no gpiochip has the label {label}"))?;
    // Edges are asked for only to know afterwards when they were.
    let request = gpiocdev::Request::builder()
        .on_chip(chip)
        .with_line(offset)
        .as_input()
        .with_edge_detection(EdgeDetection::BothEdges)
        .request()?;
    let mut edges = request.new_edge_event_buffer(64);
    let mut writer = Some(Writer::start(database)?);
    loop {
        thread::sleep(LOOK);
        let lost = bool::from(request.value(offset)?);
        match writer.take() {
            Some(running) if lost => {
                let connection = running.stop()?;
                let quiet = now_ns();
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
                rustix::fs::sync();
                let durable = now_ns();
                let mut edge = None;
                while edges.has_event()? {
                    let event = edges.read_event()?;
                    if event.kind == EdgeKind::Rising {
                        edge = Some(event.timestamp_ns);
                    }
                }
                let edge = edge.context("no edge was seen")?;
                let us = |at: u64| at.saturating_sub(edge) / 1000;
                println!("lost {} {}", us(quiet), us(durable));
            }
            None if !lost => writer = Some(Writer::start(database)?),
            kept => writer = kept,
        }
    }
}

/// The application.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Connection>>,
}

impl Writer {
    fn start(database: &str) -> Result<Self> {
        let connection = Connection::open(database)?;
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
        connection.execute_batch(
            "PRAGMA synchronous=FULL;
             CREATE TABLE IF NOT EXISTS readings(
                id INTEGER PRIMARY KEY, sensor_name, timestamp, value, unit)",
        )?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut next = Instant::now();
            for n in (0..).map(|batch| batch * ROWS) {
                next += WINDOW;
                while !told.load(SeqCst) && Instant::now() < next {
                    thread::park_timeout(next.saturating_duration_since(Instant::now()));
                }
                if told.load(SeqCst) {
                    break;
                }
                let mut insert = connection.prepare_cached(
                    "INSERT INTO readings(sensor_name, timestamp, value, unit) VALUES('s1', ?1, ?2, 'C')",
                )?;
                connection.execute_batch("BEGIN IMMEDIATE")?;
                for row in n..n + ROWS {
                    insert.execute((1_767_225_600 + row, row as f64))?;
                }
                connection.execute_batch("COMMIT")?;
            }
            Ok(connection)
        });
        println!("writing");
        Ok(Self { stop, thread })
    }

    /// As a signal would: its sleep ends at once, its commit goes on to its end.
    fn stop(self) -> Result<Connection> {
        self.stop.store(true, SeqCst);
        self.thread.thread().unpark();
        self.thread.join().ok().context("the writer panicked")?
    }
}

fn sync(file: &str, bytes: usize, times: u32) -> Result<()> {
    let data = vec![0x5a; bytes];
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)?;
    file.write_all_at(&data, 0)?;
    file.sync_all()?;
    for _ in 0..times {
        let began = Instant::now();
        file.write_all_at(&data, 0)?;
        file.sync_data()?;
        println!("synced {}", began.elapsed().as_micros());
    }
    Ok(())
}

/// The clock that the kernel stamps edges with.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (s, ns) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    s * 1_000_000_000 + ns
}
