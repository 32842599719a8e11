//! A backup that was read back and checked, against those that were not.
//!
//! One store, in one run: `holdup backup create` (copy, integrity check, encryption, the written
//! archive decrypted again and everything in it hashed); `sqlite3 .backup` and `zstd -3 | age`,
//! which checks nothing; and `.backup` and restic, where it is installed. Each ends with its output
//! synced. Then what a backup costs those who send readings meanwhile. `HOLDUP_BENCH_MB` is the
//! store's size (default 128).
#![allow(
    clippy::print_stdout,
    reason = "a benchmark's result is what it prints"
)]

#[path = "../support/home.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod home;
#[allow(dead_code, reason = "shared by the benchmarks")]
mod report;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdup::backup::Identity;
use holdup::clock::{Clock, SystemClock};

use home::Home;
use report::{median, quantile};

const ROUNDS: usize = 3;
/// Of each of the two measurements of acknowledgements.
const LOAD: Duration = Duration::from_secs(8);
/// Between two readings.
const PACE: Duration = Duration::from_millis(10);

fn main() -> Result<(), String> {
    let mib: u64 = std::env::var("HOLDUP_BENCH_MB")
        .ok()
        .and_then(|t| t.parse().ok())
        .unwrap_or(128);
    let key = Identity::generate().recipient();
    let tables = format!(
        "[backup]\nevery_s = 0\nkeep_last = 1\nkeep_days = 0\nrecipients = [\"{}\"]",
        key.text()
    );
    let home = Home::with(
        "holdup_ms = 60000\nglitch_ms = 50\nrestore_ms = 100",
        &tables,
    );
    report::title(&format!("backup of a store of {mib} MiB"), &home.path(""));
    fill(&home, mib << 20)?;
    let store = home.data("edge_store.db");
    let size = fs::metadata(&store).map_err(|e| e.to_string())?.len();
    println!("store: {} bytes", report::grouped(size as f64));

    let (mut ours, mut plain, mut restic) = (Vec::new(), Vec::new(), Vec::new());
    let (mut peak, mut archive, mut with_restic) = (0, 0, true);
    let repository = home.path("restic");
    if with_restic {
        with_restic = shell(
            &home,
            &format!("restic init -q -r {} >/dev/null 2>&1", repository.display()),
        )
        .is_ok();
    }
    for _ in 0..ROUNDS {
        let (took, kib) = create(&home)?;
        ours.push(took);
        peak = peak.max(kib);
        archive = newest(&home.data("backup"))?;
        plain.push(timed(|| {
            shell(
                &home,
                &format!(
                    "set -e; rm -f copy.db out.age; sqlite3 {} '.backup copy.db'; sync copy.db; \
                 zstd -q -3 -c copy.db | age -r {} -o out.age; sync out.age; rm copy.db",
                    store.display(),
                    key.text()
                ),
            )
        })?);
        if with_restic {
            restic.push(timed(|| {
                shell(&home, &format!(
                    "set -e; rm -f copy.db; sqlite3 {} '.backup copy.db'; sync copy.db; \
                     restic -q -r {r} backup --force copy.db; restic -q -r {r} forget --prune --keep-last 1 >/dev/null; rm copy.db",
                    store.display(),
                    r = repository.display()
                ))
            })?);
        }
    }
    let rate = |s: f64| size as f64 / s / 1e6;
    println!("archive: {} bytes", report::grouped(archive as f64));
    let (a, b) = (median(&ours), median(&plain));
    println!(
        "{:<44} {a:>7.2} s  {:>6.0} MB/s",
        "holdup backup create, verified",
        rate(a)
    );
    println!(
        "{:<44} {b:>7.2} s  {:>6.0} MB/s",
        ".backup + zstd -3 | age, not verified",
        rate(b)
    );
    println!(
        "ratio {:.2} (wanted: at most 2.00): {}",
        a / b,
        met(a / b <= 2.0)
    );
    if restic.is_empty() {
        println!("restic: not installed, not compared");
    } else {
        let c = median(&restic);
        println!(
            "{:<44} {c:>7.2} s  {:>6.0} MB/s",
            ".backup + restic, not verified",
            rate(c)
        );
        println!("not slower than restic: {}", met(a <= c));
    }
    println!(
        "peak memory {:.1} MiB (wanted: at most 48): {}",
        peak as f64 / 1024.0,
        met(peak <= 48 * 1024)
    );

    acknowledgements(&home)
}

fn met(yes: bool) -> &'static str {
    if yes { "met" } else { "MISSED" }
}

/// A store as the agent makes it, with readings as a plant has them.
fn fill(home: &Home, bytes: u64) -> Result<(), String> {
    home.serving().stop();
    let conn = rusqlite::Connection::open(home.data("edge_store.db")).map_err(|e| e.to_string())?;
    let rows = bytes / 62;
    conn.execute_batch(&format!(
        "PRAGMA synchronous = OFF; PRAGMA cache_size = -65536; BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO readings(id, sensor_name, timestamp, value, unit)
         SELECT i, 'plant/boiler-' || (i % 40), 1767225600000 + i * 100,
                round(60 + (random() % 100000) / 10000.0, 3), 'C' FROM n;
         COMMIT; PRAGMA wal_checkpoint(TRUNCATE);"
    ))
    .map_err(|e| e.to_string())
}

fn timed(act: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    let began = SystemClock.mono();
    act()?;
    Ok(SystemClock.mono().since(began).as_secs_f64())
}

fn shell(home: &Home, line: &str) -> Result<(), String> {
    let done = Command::new("bash")
        .args(["-o", "pipefail", "-c", line])
        .current_dir(home.path(""))
        .env("RESTIC_PASSWORD", "bench")
        .env("RESTIC_CACHE_DIR", home.path("restic-cache"))
        .output()
        .map_err(|e| e.to_string())?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&done.stderr)))
}

/// Seconds, and the peak of its resident memory in KiB.
fn create(home: &Home) -> Result<(f64, u64), String> {
    let began = SystemClock.mono();
    let mut child = verb(home)?;
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let status = loop {
        if let Ok(text) = fs::read_to_string(&path) {
            let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
            let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
            peak = peak.max(kib.unwrap_or(0));
        }
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
        pause(Duration::from_millis(5));
    };
    if !status.success() {
        return Err(format!("holdup backup create: {status}"));
    }
    Ok((SystemClock.mono().since(began).as_secs_f64(), peak))
}

fn verb(home: &Home) -> Result<Child, String> {
    Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args(["backup", "create", "--json", "--config"])
        .arg(home.config())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())
}

fn newest(dir: &Path) -> Result<u64, String> {
    let all = holdup::backup::catalogue::list(dir).map_err(|e| e.to_string())?;
    all.last()
        .map(|l| l.bytes)
        .ok_or_else(|| "no backup".to_owned())
}

#[expect(clippy::disallowed_methods, reason = "a pace is a matter of time")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// How long a reading waits for its acknowledgement, without a backup and while one is made.
fn acknowledgements(home: &Home) -> Result<(), String> {
    let agent = home.serving();
    let mut client = home.client();
    let mut sent = 0;
    let mut one = |waits: &mut Vec<f64>| {
        let began = SystemClock.mono();
        client.send();
        sent += 1;
        client.wait_acked(sent);
        waits.push(SystemClock.mono().since(began).as_secs_f64() * 1e3);
        pause(PACE);
    };
    let (mut without, mut during) = (Vec::new(), Vec::new());
    let end = SystemClock.mono() + LOAD;
    while SystemClock.mono() < end {
        one(&mut without);
    }
    let mut making = verb(home)?;
    let began = SystemClock.mono();
    let ended = loop {
        one(&mut during);
        if let Some(status) = making.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
    };
    if !ended.success() {
        return Err(format!("the backup beside ingest: {ended}"));
    }
    let took = SystemClock.mono().since(began).as_secs_f64();
    let p99 = |waits: &[f64]| quantile(waits, 0.99);
    let (a, b) = (p99(&without), p99(&during));
    println!(
        "acknowledgements, p99: {a:.1} ms without ({} readings), {b:.1} ms while a backup is made \
         ({} readings, {took:.1} s); ratio {:.2} (wanted: at most 3.00): {}",
        without.len(),
        during.len(),
        b / a,
        met(b <= 3.0 * a)
    );
    agent.stop();
    Ok(())
}
