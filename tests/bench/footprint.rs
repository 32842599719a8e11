//! What the agent takes: size of the gateway's binary, memory under load, the card and the
//! processor while idle.
//!
//! The size is that of `target/gateway/holdup`, which image/build-aarch64 makes. The rest is the
//! agent built for this machine, on the simulated board, on an ext4 on a loop device of its own:
//! resident memory while 50 clients pipeline 100 readings each (memory is locked where the rights are there,
//! as in the gateway), then the device's writes and all threads' voluntary context switches in
//! 60 s without clients.
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
#[allow(dead_code, reason = "shared by the benchmarks")]
mod load;
#[allow(dead_code, reason = "shared by the benchmarks")]
mod report;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use disk::Disk;
use holdup::clock::{Clock, SystemClock};
use home::Home;
use load::{Load, Speech};

const READING: &[u8] =
    b"{\"sensor_name\":\"boiler-1\",\"timestamp\":1767225600000,\"value\":71.5,\"unit\":\"C\"}\n";
const LOADED: Duration = Duration::from_secs(9);
const IDLE_S: u64 = 60;
/// The kernel writes what is left dirty 30 s later, and ext4 its superblock after that.
const SETTLED: Duration = Duration::from_secs(40);
const SETTLES_WITHIN: Duration = Duration::from_secs(150);

fn main() -> Result<(), String> {
    let disk = match Disk::new(1024) {
        Ok(disk) => disk,
        Err(why) => {
            println!("footprint: SKIPPED: no loop device with ext4 on this machine ({why})");
            return Ok(());
        }
    };
    report::title("Footprint", &disk.mount());
    let home = Home::on(&disk.mount().join("holdup"), "holdup_ms = 4000", "");
    let agent = home.serving();
    let proc = format!("/proc/{}", agent.pid());
    let rest = memory(&proc)?;
    let rate = Load::connect(
        &home.path("run/ingest.sock"),
        Speech::Holdup,
        50,
        READING,
        100,
    )
    .and_then(|mut load| {
        // Another connection pipelines deeply, so that buffers grow as they may.
        let mut deep = Load::connect(
            &home.path("run/ingest.sock"),
            Speech::Holdup,
            4,
            READING,
            1000,
        )?;
        deep.drive(LOADED / 3)?;
        load.drive(LOADED)
    })
    .map_err(|e| e.to_string())?;
    let loaded = memory(&proc)?;

    settle(&disk);
    let (sectors, woken) = (disk.written().0, switches(&proc));
    pass(Duration::from_secs(IDLE_S));
    let written = (disk.written().0 - sectors) * 512;
    let mut woken_by: Vec<_> = switches(&proc)
        .into_iter()
        .map(|(name, n)| {
            let before = woken.get(&name).copied().unwrap_or(0);
            ((n - before) as f64 / IDLE_S as f64, name)
        })
        .filter(|(n, _)| *n > 0.0)
        .collect();
    woken_by.sort_by(|a, b| b.0.total_cmp(&a.0));
    let wakes: f64 = woken_by.iter().map(|(n, _)| n).sum();

    let mb = |kib: u64| format!("{:.1} MB", kib as f64 * 1024.0 / 1e6);
    let gateway = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/gateway/holdup");
    let size = fs::metadata(&gateway).ok().map(|m| m.len());
    let size_text = size.map_or("not built: image/build-aarch64".to_owned(), |n| {
        format!("{:.2} MB", n as f64 / 1e6)
    });
    report::table(
        &["what", "figure"],
        &[
            vec![
                "static aarch64 binary, stripped".to_owned(),
                size_text.clone(),
            ],
            vec!["resident, at rest".to_owned(), mb(rest["VmRSS"])],
            vec![
                "resident, 50 clients, 100 pipelined each".to_owned(),
                mb(loaded["VmRSS"]),
            ],
            vec!["resident, highest".to_owned(), mb(loaded["VmHWM"])],
            vec!["of it locked, may grow to".to_owned(), mb(loaded["VmLck"])],
            vec![
                format!("written in {IDLE_S} s idle"),
                format!("{written} B"),
            ],
            vec!["wake-ups a second, idle".to_owned(), format!("{wakes:.2}")],
        ],
    );
    let each: Vec<_> = woken_by
        .iter()
        .map(|(n, name)| format!("{name} {n:.2}"))
        .collect();
    println!(
        "woken: {}; under load {rate:.0} readings/s",
        each.join(", ")
    );
    if let Some(size) = size {
        report::target("binary", &size_text, "at most 8 MB", size <= 8_000_000);
    }
    let highest = loaded["VmHWM"];
    report::target(
        "resident under load",
        &mb(highest),
        "at most 16 MB",
        highest * 1024 <= 16_000_000,
    );
    report::target(
        "written when idle",
        &format!("{written} B"),
        "0 B",
        written == 0,
    );
    report::target(
        "wake-ups",
        &format!("{wakes:.2}/s"),
        "at most 2/s",
        wakes <= 2.0,
    );
    agent.stop();
    Ok(())
}

/// The kernel's account of a process, in KiB.
fn memory(proc: &str) -> Result<BTreeMap<String, u64>, String> {
    let text = fs::read_to_string(format!("{proc}/status")).map_err(|e| e.to_string())?;
    let fields: BTreeMap<_, _> = text
        .lines()
        .filter_map(|l| {
            let (key, value) = l.split_once(':')?;
            let kib = value.trim().strip_suffix(" kB")?.parse().ok()?;
            Some((key.to_owned(), kib))
        })
        .collect();
    let missing = ["VmRSS", "VmHWM", "VmLck"]
        .into_iter()
        .find(|k| !fields.contains_key(*k));
    missing.map_or(Ok(fields), |k| Err(format!("{proc}/status has no {k}")))
}

/// Voluntary context switches of each thread: how often it went to sleep, and so woke.
fn switches(proc: &str) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("{proc}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| {
            let text = fs::read_to_string(task.path().join("status")).ok()?;
            let field = |key: &str| {
                let line = text.lines().find_map(|l| l.strip_prefix(key))?;
                Some(line.trim().to_owned())
            };
            let id = task.file_name().to_string_lossy().into_owned();
            let name = format!("{} {id}", field("Name:")?);
            Some((name, field("voluntary_ctxt_switches:")?.parse().ok()?))
        })
        .collect()
}

/// Waits until nothing was written for a while.
fn settle(disk: &Disk) {
    let began = SystemClock.mono();
    let (mut last, mut since) = (disk.written().0, began);
    while SystemClock.mono().since(since) < SETTLED {
        pass(Duration::from_secs(1));
        let now = disk.written().0;
        if now != last {
            (last, since) = (now, SystemClock.mono());
        }
        // Whatever still writes then is what is measured.
        if SystemClock.mono().since(began) > SETTLES_WITHIN {
            return;
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "what happens while time passes is measured"
)]
fn pass(time: Duration) {
    std::thread::sleep(time);
}
