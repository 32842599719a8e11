//! One flush a commit, counted on a block device of its own.
//!
//! SQLite built without HAVE_FDATASYNC calls fsync: on ext4 that is two flushes a commit. This
//! turns red when a build path forgets LIBSQLITE3_FLAGS.

#[path = "../host/store_world.rs"]
#[expect(dead_code, reason = "shared with the host tests, which use all of it")]
pub(crate) mod store_world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdup::clock::{Clock, Mono, SystemClock};
use holdup::config::StoreSettings;
use holdup::durable::{Gate, Medium, Reserve};
use holdup::store::{Acks, Chunk, Desk, Mode, Rows, Store, StoreOptions};

use crate::disk::Disk;
use store_world::{SETTINGS, Seen, Told, chunk, reading, until};

pub(crate) fn start(disk: &Disk, settings: StoreSettings) -> Store {
    start_with(disk, settings, Arc::new(Gate::new()))
}

pub(crate) fn start_with(disk: &Disk, settings: StoreSettings, gate: Arc<Gate>) -> Store {
    Store::start(StoreOptions {
        desk: Desk::new(),
        settings,
        path: disk.mount().join("edge_store.db"),
        ledger: disk.mount().join("ledger"),
        medium: Arc::new(Medium::open(&disk.mount()).expect("medium")),
        gate,
        reserve: Arc::new(Reserve::new(
            &disk.mount().join("reserve"),
            settings.reserve,
        )),
        clock: Arc::new(SystemClock),
        observer: Arc::new(Seen::default()),
        salvaged: false,
    })
    .expect("start")
}

#[test]
fn a_commit_costs_one_flush() {
    let disk = match Disk::new(128) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("skipped: no loop device with ext4 on this machine ({why})");
            return;
        }
    };
    let store = start(&disk, SETTINGS);
    // The log grows once to its size; what comes after overwrites it.
    store.orders().set_wal_limit(50);
    let told = Arc::new(Told::default());
    let mut line = 0;
    let mut one = || {
        line += 1;
        store.intake().submit(chunk(&told, line, 1, None));
        until("it is stored", || told.upto() == line);
    };
    (0..120).for_each(|_| one());
    store.orders().set_wal_limit(u32::MAX);
    store
        .orders()
        .checkpoint(Mode::Passive, Duration::from_secs(60))
        .expect("checkpoint");
    let began = SystemClock.mono();
    let (commits, before) = (store.stats().commits, disk.written());
    for _ in 0..40 {
        // Apart by more than the grain of a file's time: only then does fsync cost its second
        // flush, for the inode.
        let next = SystemClock.mono() + Duration::from_millis(12);
        until("the next tick", || SystemClock.mono() >= next);
        one();
    }
    let (commits, after) = (store.stats().commits - commits, disk.written());
    let (flushes, bytes) = (after.1 - before.1, (after.0 - before.0) * 512);
    println!(
        "{commits} commits: {flushes} flushes, {} bytes a commit",
        bytes / commits
    );
    assert_eq!(commits, 40);
    // The restarted log's header is synced once more, and the ledger once a second.
    let ledger = SystemClock.mono().since(began).as_secs() + 1;
    assert!(
        (40..=42 + ledger).contains(&flushes),
        "{flushes} flushes for 40 commits"
    );
}

/// Notes when each line was acknowledged.
#[derive(Debug, Default)]
struct Times(Mutex<Vec<(u64, Mono)>>);

impl Acks for Times {
    fn refused(&self, _: u64, why: String) {
        panic!("{why}");
    }
    fn committed(&self, upto: u64) {
        self.0
            .lock()
            .expect("lock")
            .push((upto, SystemClock.mono()));
    }
    fn stopped(&self, _: &str) {}
}

/// What the default of `commit_window_ms` was chosen by: 100 readings a second for each
/// window, each on a disk of its own. Run with `--ignored --nocapture measure`.
#[test]
#[ignore = "a measurement of a minute"]
#[expect(clippy::disallowed_methods, reason = "readings come at a real rate")]
fn measure_wear_against_latency() {
    const RATE: u64 = 100;
    const SECONDS: u64 = 60;
    let runs = [0, 10, 25, 50, 75, 100].map(|ms| (ms, false)).into_iter();
    let runs: Vec<_> = runs.chain([(0, true), (100, true)]).collect();
    let threads: Vec<_> = runs
        .into_iter()
        .map(|(window, index)| {
            std::thread::spawn(move || {
                let disk = Disk::new(128).expect("loop device");
                let store = start(
                    &disk,
                    StoreSettings {
                        commit_window: Duration::from_millis(window),
                        index,
                        ..SETTINGS
                    },
                );
                store.orders().set_wal_limit(250);
                let acks = Arc::new(Times::default());
                let send = |line: u64| {
                    let mut rows = Rows::default();
                    let mut r = reading(line);
                    r.sensor_name = format!("boiler-{}", line % 10).into();
                    rows.push(line, &r);
                    let acks = Arc::clone(&acks) as Arc<_>;
                    store.intake().submit(Chunk {
                        rows,
                        client: None,
                        upto: line,
                        acks,
                    });
                };
                let began = SystemClock.mono();
                let mut sent = Vec::new();
                let mut before = (0, 0);
                for line in 1..=RATE * SECONDS {
                    let due = began + Duration::from_micros(line * 1_000_000 / RATE);
                    std::thread::sleep(due.since(SystemClock.mono()));
                    if line == RATE * 10 {
                        before = disk.written();
                    }
                    sent.push(SystemClock.mono());
                    send(line);
                }
                let after = disk.written();
                until("the last one", || {
                    acks.0
                        .lock()
                        .expect("lock")
                        .last()
                        .is_some_and(|a| a.0 == RATE * SECONDS)
                });
                let acked = acks.0.lock().expect("lock").clone();
                let mut latencies: Vec<_> = sent
                    .iter()
                    .enumerate()
                    .map(|(n, at)| {
                        let k = acked.partition_point(|a| a.0 < n as u64 + 1);
                        acked[k].1.since(*at)
                    })
                    .collect();
                latencies.sort();
                let rows = RATE * (SECONDS - 10);
                let ms = |q: usize| latencies[latencies.len() * q / 1000].as_secs_f64() * 1e3;
                format!(
                    "{window:>6} {:>5} {:>12} {:>12.2} {:>8.1} {:>8.1}",
                    if index { "yes" } else { "no" },
                    (after.0 - before.0) * 512 / rows,
                    (after.1 - before.1) as f64 / rows as f64,
                    ms(500),
                    ms(990),
                )
            })
        })
        .collect();
    println!("window index bytes/reading flushes/rdg   p50 ms   p99 ms");
    for thread in threads {
        println!("{}", thread.join().expect("run"));
    }
}
