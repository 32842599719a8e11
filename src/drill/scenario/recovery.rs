//! Damage that the gateway heals by itself, from what its files still hold.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::super::DrillError;
use super::super::census::Census;
use super::super::damage;
use super::super::evidence::PhaseName;
use super::Stage;

/// A header, and what the classic drill damages.
const HEADER: usize = 100;
const START: usize = 512;
/// One row in so many may be lost to a damaged log, if it is named.
const ONE_IN: u64 = 100;

/// The classic: the readings are in the write-ahead log, and its start is noise.
pub(super) fn wal_random(stage: &mut Stage<'_>) -> Result<(), DrillError> {
    let mut gateway = stage.gateway("drill", "")?;
    let before = stage.baseline(&mut gateway)?;
    stage.expect(&before);
    stage.enter(PhaseName::Damage);
    gateway.kill()?;
    let log = gateway.log_of_store();
    let bytes = std::fs::metadata(&log).map_err(DrillError::io("look at", &log))?;
    stage.note(format!("the log had {} bytes", bytes.len()));
    damage::noise(&log, 0, START, &mut stage.dice)?;
    stage.enter(PhaseName::Recover);
    let status = gateway.serve()?;
    if stage.recovered(&status, "edge_store.db").is_none() {
        stage.fail("the agent's status does not tell of the damaged log");
    }
    stage.compare(&mut gateway, &before, before.count() / ONE_IN)?;
    gateway.stop()
}

/// SQLite refuses the file; its pages are still there.
pub(super) fn header_zeroed(stage: &mut Stage<'_>) -> Result<(), DrillError> {
    let mut gateway = stage.gateway("drill", "")?;
    let before = stage.baseline(&mut gateway)?;
    stage.expect(&before);
    stage.enter(PhaseName::Damage);
    gateway.stop()?;
    let store = gateway.store();
    damage::zero(&store, 0, HEADER)?;
    let damaged = damage::sha256(&store)?;
    match refused(&store, &gateway.dir().join("looked-at.db"))? {
        Some(why) => stage.note(format!("SQLite refuses it: {why}")),
        None => stage.fail("SQLite opens the damaged file: the damage did nothing"),
    }
    stage.enter(PhaseName::Recover);
    let status = gateway.serve()?;
    let report = stage.recovered(&status, "edge_store.db");
    let kept = report.as_ref().and_then(|r| r["evidence"].as_str());
    match kept.map(|dir| Path::new(dir).join("edge_store.db")) {
        Some(kept) if damage::sha256(&kept)? == damaged => {
            stage.note("the damaged file is kept as evidence, byte for byte");
        }
        Some(kept) => {
            let kept = kept.display();
            stage.fail(format!("the evidence in {kept} is not the damaged file"));
        }
        None => stage.fail("the damaged file was not kept as evidence"),
    }
    stage.compare(&mut gateway, &before, 0)?;
    gateway.stop()
}

/// What SQLite says of a copy of `database`; `None` if it can be read.
fn refused(database: &Path, copy: &Path) -> Result<Option<String>, DrillError> {
    std::fs::copy(database, copy).map_err(DrillError::io("copy", database))?;
    let read = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|db| db.query_row("SELECT count(*) FROM readings", [], |r| r.get::<_, i64>(0)));
    Ok(read.err().map(|e| e.to_string()))
}

/// The queue is rebuilt, and what it lost is queued again from the store.
pub(super) fn queue_corrupt(stage: &mut Stage<'_>) -> Result<(), DrillError> {
    let mut gateway = stage.gateway("drill", "")?;
    let readings = stage.baseline(&mut gateway)?;
    let rows = readings.count();
    gateway.wait_until("every reading to be queued", |s| {
        s["queue"]["depth"] == rows
    })?;
    let before = Census::of_queue(&gateway.queue())?;
    stage.expect(&before);
    stage.enter(PhaseName::Damage);
    gateway.stop()?;
    let queue = gateway.queue();
    let size = std::fs::metadata(&queue)
        .map_err(DrillError::io("look at", &queue))?
        .len();
    // Behind the first page, which alone says what the file is.
    let (from, room) = (4096.min(size / 2), size.saturating_sub(8192));
    for _ in 0..3 {
        let at = from + stage.dice.below(room);
        damage::noise(&queue, at, 4096, &mut stage.dice)?;
    }
    stage.note(format!("3 times 4 KiB of noise in {size} bytes"));
    stage.enter(PhaseName::Recover);
    let done = gateway.verb(&["queue", "rebuild", "--yes", "--json"])?;
    let told: serde_json::Value = serde_json::from_str(&done.stdout).unwrap_or_default();
    match told["kept"].as_u64() {
        Some(kept) => stage.note(format!(
            "rebuilt: {kept} messages kept, {} named as unreadable or invalid; the rest queued again from the store",
            told["lost"].as_array().map_or(0, Vec::len) as u64 + told["invalid"].as_u64().unwrap_or(0)
        )),
        None => stage.fail(format!("`holdup queue rebuild` failed: {}", done.why())),
    }
    gateway.serve()?;
    gateway.wait_until("the queue to be filled again", |s| {
        s["queue"]["depth"].as_u64() >= Some(rows)
    })?;
    stage.sabotage(&queue, "sync_queue")?;
    stage.enter(PhaseName::Compare);
    let found = Census::of_queue(&queue)?;
    stage.judge(&before, &found, 0);
    stage.check_file(&queue)?;
    gateway.write(1)?;
    gateway.wait_until("a test reading to be queued", |s| {
        s["queue"]["fed_upto"].as_i64() > Some(readings.last_id())
    })?;
    gateway.stop()
}
