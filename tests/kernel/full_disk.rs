//! A full disk, on an ext4 file system of its own: nothing acknowledged is lost, what was taken
//! goes in by the room kept back, the plan still fits, service resumes when there is room.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use holdup::clock::{Clock, SystemClock};
use holdup::config::StoreSettings;
use holdup::durable::Closer;
use holdup::store::{Mode, Store, StoreState};
use serde_json::{Value, json};

use crate::disk::Disk;
use crate::flushes::start;
use crate::flushes::store_world::{SETTINGS, Told, chunk, until};
use crate::home::{Client, Home, PATIENCE};

const RESERVE: u64 = 4 << 20;
const RESERVED: StoreSettings = StoreSettings {
    reserve: RESERVE,
    ..SETTINGS
};

fn disk() -> Option<Disk> {
    match Disk::new(128) {
        Ok(disk) => Some(disk),
        Err(why) => {
            eprintln!("skipped: no loop device with ext4 on this machine ({why})");
            None
        }
    }
}

/// Another program takes all that is left.
fn fill(disk: &Disk) -> PathBuf {
    let filler = disk.mount().join("filler");
    for size in ["bs=64k", "bs=1k"] {
        let full = Command::new("dd")
            .args(["if=/dev/zero", size, "oflag=append", "conv=notrunc"])
            .arg(format!("of={}", filler.display()))
            .output()
            .expect("dd");
        assert!(!full.status.success(), "the disk was not filled");
    }
    filler
}

/// Readings in chunks of 400 until the store says that the disk is full; the last line.
fn feed_until_full(store: &Store, told: &Arc<Told>) -> u64 {
    let mut line = told.upto();
    until("the store says that the disk is full", || {
        line += 400;
        store.intake().submit(chunk(told, line - 399, 400, None));
        until("it is stored or kept", || {
            told.upto() == line || store.stats().state == StoreState::DiskFull
        });
        store.stats().state == StoreState::DiskFull
    });
    line
}

#[test]
fn without_a_reserve_the_rows_are_kept_in_memory_and_service_resumes_by_itself() {
    let Some(disk) = disk() else { return };
    let store = start(&disk, SETTINGS);
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 1, None));
    until("it is stored", || told.upto() == 1);
    let filler = fill(&disk);
    let line = feed_until_full(&store, &told);
    assert!(told.upto() < line, "acknowledged what did not fit");
    assert!(store.stats().waiting_bytes > 0, "the rows were dropped");
    std::fs::remove_file(&filler).expect("make room");
    until("the kept rows are stored", || told.upto() == line);
    until("it runs again", || {
        store.stats().state == StoreState::Running
    });
    assert_eq!(store.stats().stored, line);
}

#[test]
fn by_the_reserve_what_was_taken_goes_in_and_service_waits_for_real_room() {
    let Some(disk) = disk() else { return };
    let store = start(&disk, RESERVED);
    assert_eq!(store.stats().reserve_bytes, RESERVE);
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 1, None));
    until("it is stored", || told.upto() == 1);
    let filler = fill(&disk);
    let line = feed_until_full(&store, &told);
    until("what was taken is stored on the full disk", || {
        told.upto() == line
    });
    assert_eq!(store.stats().state, StoreState::DiskFull);
    assert_eq!(store.stats().reserve_bytes, 0);
    until("nothing is left for the plan to move", || {
        store.stats().wal_frames == 0
    });
    let room = std::fs::metadata(&filler).expect("stat").len();
    std::fs::File::options()
        .write(true)
        .open(&filler)
        .and_then(|f| f.set_len(room - RESERVE / 2))
        .expect("make a little room");
    store.intake().submit(chunk(&told, line + 1, 1, None));
    until("a late one goes in too", || told.upto() == line + 1);
    assert_eq!(store.stats().state, StoreState::DiskFull, "too little room");
    std::fs::remove_file(&filler).expect("make room");
    until("it runs again", || {
        store.stats().state == StoreState::Running
    });
    assert_eq!(store.stats().reserve_bytes, RESERVE);
    assert_eq!(store.stats().stored, line + 1);
}

#[test]
fn the_plans_checkpoint_frees_the_reserve_when_it_is_the_first_to_meet_the_full_disk() {
    let Some(disk) = disk() else { return };
    let store = start(&disk, RESERVED);
    let told = Arc::new(Told::default());
    for n in 0..5 {
        store.intake().submit(chunk(&told, n * 400 + 1, 400, None));
    }
    until("they are stored", || told.upto() == 2000);
    assert!(store.stats().wal_frames > 10, "they are in the log only");
    fill(&disk);
    let report = store
        .orders()
        .checkpoint(Mode::Truncate, PATIENCE)
        .expect("the plan's checkpoint");
    assert!(report.complete() && !report.busy, "{report:?}");
    assert_eq!(store.stats().wal_frames, 0);
    assert_eq!(store.stats().reserve_bytes, 0);
}

/// The agent's data on `disk`.
fn home_on(disk: &Disk) -> Home {
    let home = Home::with(
        "holdup_ms = 20000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0",
        "[store]\nreserve_mb = 4\n",
    );
    std::os::unix::fs::symlink(disk.mount(), home.path("data")).expect("link");
    home
}

fn step<'a>(status: &'a Value, name: &str) -> &'a str {
    status["last_outage"]["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|s| s["step"] == name)
        .and_then(|s| s["outcome"].as_str())
        .unwrap_or("absent")
}

#[test]
fn a_gateway_with_a_full_disk_pauses_parks_in_time_and_resumes() {
    let Some(disk) = disk() else { return };
    let home = home_on(&disk);
    let mut agent = home.serving();
    let mut client = home.client();
    client.send();
    let filler = fill(&disk);
    let (mut sent, mut acked, mut paused) = (1, 0, false);
    // Reads answers until everything is acknowledged or what `paused` is has changed.
    let mut hear = |client: &mut Client, sent: u64, until_paused: bool| loop {
        let answer = client.answer();
        assert!(answer.get("error").is_none(), "{answer}");
        acked = answer["acked"].as_u64().unwrap_or(acked);
        paused |= answer == json!({"paused": "disk_full"});
        paused &= answer != json!({"resumed": true});
        if paused == until_paused || (until_paused && acked == sent) {
            return (paused, acked);
        }
    };
    while !hear(&mut client, sent, true).0 {
        for _ in 0..200 {
            client.send();
        }
        sent += 200;
    }
    let full = agent.wait_for("the reason", |s| {
        s["store"] == "disk_full" && s["reserve_bytes"] == 0 && s["wal_frames"] == 0
    });
    assert!(
        full["reasons"]
            .as_array()
            .expect("reasons")
            .contains(&json!("disk_full")),
        "{full}"
    );
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    eprintln!(
        "full disk: parked, ended {}, checkpoint {}, end mark {}",
        parked["last_outage"]["ended"],
        step(&parked, "checkpoint"),
        step(&parked, "end_mark")
    );
    assert_eq!(parked["last_outage"]["ended"], "clean");
    assert_eq!(step(&parked, "checkpoint"), "done");
    home.power(false);
    agent.wait_for_supply("Good");
    std::fs::remove_file(&filler).expect("make room");
    agent.wait_for("service", |s| s["store"] == "running");
    let (_, acked) = hear(&mut client, sent, false);
    if acked < sent {
        client.wait_acked(sent);
    }
    agent.stop();
    let values = home.values();
    assert_eq!(values.len() as u64, sent);
    assert!(values.iter().enumerate().all(|(n, v)| *v == n as f64));
}

#[test]
fn an_agent_that_starts_on_a_full_disk_guards_and_serves_when_there_is_room() {
    let Some(disk) = disk() else { return };
    let home = home_on(&disk);
    let agent = home.serving();
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    agent.stop();
    // Nothing was kept back: it was given up, and used up, before the restart.
    std::fs::remove_file(disk.mount().join("reserve")).expect("the reserve");
    let filler = fill(&disk);
    let mut agent = home.start();
    agent.wait_for("the reason", |s| s["store"] == "disk_full");
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    assert_eq!(parked["last_outage"]["ended"], "clean");
    home.power(false);
    agent.wait_for_supply("Good");
    std::fs::remove_file(&filler).expect("make room");
    agent.wait_for("service", |s| {
        s["store"] == "running" && s["reserve_bytes"] == RESERVE
    });
    agent.stop();
    assert_eq!(home.values(), [0.0]);
}

/// All but `left` bytes are taken.
fn fill_but(disk: &Disk, left: u64) -> PathBuf {
    let filler = fill(disk);
    let len = std::fs::metadata(&filler).expect("stat").len();
    std::fs::File::options()
        .write(true)
        .open(&filler)
        .and_then(|f| f.set_len(len - left))
        .expect("a little room");
    filler
}

#[test]
fn an_agent_that_starts_with_a_few_blocks_left_is_not_killed_by_its_shared_memory() {
    let Some(disk) = disk() else { return };
    let home = home_on(&disk);
    let agent = home.serving();
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    agent.stop();
    // The last one to close a database removes its -wal and -shm.
    assert_eq!(home.values(), [0.0]);
    let queue = rusqlite::Connection::open(home.data("sync_queue.db")).expect("open");
    queue
        .query_row("SELECT count(*) FROM sync_queue", [], |_| Ok(()))
        .expect("read");
    drop(queue);
    assert!(!home.data("edge_store.db-shm").exists());
    std::fs::remove_file(home.data("reserve")).expect("the reserve was used up before");
    let filler = fill_but(&disk, 32 * 1024);
    let mut agent = home.start();
    agent.wait_for("the reason", |s| s["store"] == "disk_full");
    std::fs::remove_file(&filler).expect("make room");
    agent.wait_for("service", |s| s["store"] == "running");
    agent.stop();
}

#[test]
fn a_gateway_whose_record_is_missing_starts_on_a_full_disk_by_its_reserve() {
    let Some(disk) = disk() else { return };
    let home = home_on(&disk);
    home.serving().stop();
    std::fs::remove_file(home.data("outage.rec")).expect("remove");
    std::fs::remove_file(home.data("holdup.beat")).expect("remove");
    fill(&disk);
    let mut agent = home.start();
    agent.wait_for("a guard", |s| s["supply"] == "Good");
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    assert_eq!(parked["last_outage"]["ended"], "clean");
    home.power(false);
    agent.wait_for_supply("Good");
    assert!(
        home.log()
            .contains("the room kept back for this was given up")
    );
    agent.stop();
}

#[test]
fn a_log_that_does_not_fit_the_full_disk_is_not_tried_every_second() {
    let Some(disk) = disk() else { return };
    disk.without_roots_share();
    let gate = Arc::new(holdup::durable::Gate::new());
    let begin = || crate::flushes::start_with(&disk, RESERVED, Arc::clone(&gate));
    let store = begin();
    store.orders().set_wal_limit(u32::MAX);
    let told = Arc::new(Told::default());
    for n in 0..50 {
        store.intake().submit(chunk(&told, n * 400 + 1, 400, None));
    }
    until("they are stored", || told.upto() == 20_000);
    // Its end must not move the log.
    gate.close(Closer::Agent);
    drop(store);
    gate.open(Closer::Agent);
    std::fs::remove_file(disk.mount().join("reserve")).expect("the reserve was used up before");
    fill_but(&disk, 320 * 1024);
    let store = begin();
    assert_eq!(store.stats().state, StoreState::DiskFull);
    assert!(store.stats().wal_frames > 100, "{:?}", store.stats());
    let synced = || {
        let done = Command::new("sync").arg("-f").arg(disk.mount()).status();
        assert!(done.expect("sync").success());
        disk.written().0
    };
    // Each attempt writes the pages that are there already.
    let end = SystemClock.mono() + Duration::from_secs(10);
    let (mut before, mut attempts) = (synced(), 0);
    while SystemClock.mono() < end {
        let now = synced();
        attempts += u32::from(now > before);
        before = now;
    }
    assert_eq!(store.stats().state, StoreState::DiskFull);
    eprintln!("full disk: written to {attempts} times in 10 s");
    assert!(attempts <= 3, "{attempts} times in 10 s");
}
