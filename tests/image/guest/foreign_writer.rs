//! Runs in the emulated gateway: another program's SQLite database, written by that program.
//!
//! `foreign_writer DATABASE wal|delete PAUSE_MS [fill]`: creates `items(n, body)` and inserts rows
//! one transaction each for ever, printing `committed N` after each. `fill` bytes a row, 100
//! unless given. `synchronous` is FULL, so what it printed was durable.
#![expect(clippy::print_stdout, reason = "printing is half of its task")]
#![expect(
    clippy::disallowed_methods,
    reason = "stands for a program that knows nothing of holdup's rules"
)]

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [database, mode, pause_ms, fill @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: foreign_writer DATABASE wal|delete PAUSE_MS [FILL_BYTES]");
    };
    let pause = Duration::from_millis(pause_ms.parse().context("PAUSE_MS")?);
    let fill: usize = fill
        .first()
        .map_or(Ok(100), |fill| fill.parse())
        .context("FILL_BYTES")?;
    let connection = Connection::open(database).with_context(|| database.clone())?;
    let set: String =
        connection.query_row(&format!("PRAGMA journal_mode={mode}"), [], |row| row.get(0))?;
    ensure!(set == *mode, "{database} is in mode {set}");
    connection.execute_batch(
        "PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS items(n INTEGER PRIMARY KEY, body)",
    )?;
    loop {
        connection.execute(
            "INSERT INTO items(body) VALUES (zeroblob(?1))",
            [fill as i64],
        )?;
        println!("committed {}", connection.last_insert_rowid());
        sleep(pause);
    }
}
