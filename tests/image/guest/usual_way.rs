//! Runs in the emulated gateway, for tests/bench/outage.rs: the programs that the usual script
//! calls, each as small as it can be.
//!
//! `usual_way write DATABASE`: the application: 20 rows a commit, each 100 ms, WAL, FULL.
//! `usual_way get CHIP_LABEL OFFSET`: prints a line's level and ends, as gpioget does.
//! `usual_way checkpoint DATABASE`: `PRAGMA wal_checkpoint(TRUNCATE)`, as the sqlite3 shell does.
//! `usual_way sync FILE BYTES TIMES`: writes BYTES over a file that has its size, and syncs its
//! data; prints `synced US` for each.
#![expect(clippy::print_stdout, reason = "printing is half of its task")]
#![expect(
    clippy::disallowed_methods,
    reason = "stands for programs that know nothing of holdup's rules"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rusqlite::Connection;

const WINDOW: Duration = Duration::from_millis(100);
const ROWS: i64 = 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["write", database] => write(database),
        ["get", label, offset] => get(label, offset.parse()?),
        ["checkpoint", database] => Ok(Connection::open(database)?.query_row(
            "PRAGMA wal_checkpoint(TRUNCATE)",
            [],
            |_| Ok(()),
        )?),
        ["sync", file, bytes, times] => sync(file, bytes.parse()?, times.parse()?),
        _ => bail!(
            "usage: usual_way write DB | get LABEL OFFSET | checkpoint DB | sync FILE BYTES TIMES"
        ),
    }
}

fn write(database: &str) -> Result<()> {
    let connection = Connection::open(database)?;
    connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    connection.execute_batch(
        "PRAGMA synchronous=FULL;
         CREATE TABLE IF NOT EXISTS readings(
            id INTEGER PRIMARY KEY, sensor_name, timestamp, value, unit)",
    )?;
    let mut insert = connection.prepare(
        "INSERT INTO readings(sensor_name, timestamp, value, unit) VALUES('s1', ?1, ?2, 'C')",
    )?;
    let mut next = Instant::now();
    for n in (0..).map(|batch| batch * ROWS) {
        next += WINDOW;
        thread::sleep(next.saturating_duration_since(Instant::now()));
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for row in n..n + ROWS {
            insert.execute((1_767_225_600 + row, row as f64))?;
        }
        connection.execute_batch("COMMIT")?;
    }
    Ok(())
}

fn get(label: &str, offset: u32) -> Result<()> {
    let chip = gpiocdev::chip::chips()?
        .into_iter()
        .find(|path| {
            gpiocdev::Chip::from_path(path)
                .and_then(|chip| chip.info())
                .is_ok_and(|info| info.label == label)
        })
        .with_context(|| format!("no gpiochip has the label {label}"))?;
    let request = gpiocdev::Request::builder()
        .on_chip(chip)
        .with_line(offset)
        .as_input()
        .request()?;
    println!("{}", u8::from(bool::from(request.value(offset)?)));
    Ok(())
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
