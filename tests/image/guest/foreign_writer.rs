//! Runs in the emulated gateway: another program's SQLite database, written by that program.
//!
//! `foreign_writer DATABASE wal|delete PAUSE_MS [FILL [SYNCHRONOUS]]`: creates `items(n, body)` and
//! inserts rows, one transaction each, for ever, printing `committed N` after each; a lock that
//! somebody else holds is waited for. FILL bytes a row, 100 unless given. SYNCHRONOUS is FULL
//! unless given: then what it printed was durable.
#![expect(clippy::print_stdout, reason = "printing is half of its task")]
#![expect(
    clippy::disallowed_methods,
    reason = "stands for a program that knows nothing of holdup's rules"
)]

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;

pub(super) fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [database, mode, pause_ms, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!(
            "usage: foreign_writer DATABASE wal|delete PAUSE_MS [FILL_BYTES [SYNCHRONOUS]]"
        );
    };
    let pause = Duration::from_millis(pause_ms.parse().context("PAUSE_MS")?);
    let fill: usize = rest
        .first()
        .map_or(Ok(100), |fill| fill.parse())
        .context("FILL_BYTES")?;
    let connection = Connection::open(database).with_context(|| database.clone())?;
    let set: String =
        connection.query_row(&format!("PRAGMA journal_mode={mode}"), [], |row| row.get(0))?;
    ensure!(set == *mode, "{database} is in mode {set}");
    let synchronous = rest.get(1).map_or("FULL", String::as_str);
    connection.busy_timeout(Duration::from_secs(600))?;
    connection.execute_batch(&format!(
        "PRAGMA synchronous={synchronous};
         CREATE TABLE IF NOT EXISTS items(n INTEGER PRIMARY KEY, body)"
    ))?;
    loop {
        connection.execute(
            "INSERT INTO items(body) VALUES (zeroblob(?1))",
            [fill as i64],
        )?;
        println!("committed {}", connection.last_insert_rowid());
        sleep(pause);
    }
}
