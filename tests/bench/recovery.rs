//! What recovery costs: against SQLite's own replay, at a clean start, and in memory.
//!
//! A write-ahead log of 64 MB, as a gateway leaves it that lost its agent: one commit for each ten
//! readings, none checkpointed. In turns: SQLite opens a copy (it reads the whole log) and checkpoints
//! it with a sync; holdup reads the same log and writes the database out with a sync each
//! MiB; and the same with 512 random bytes at the log's start, of which SQLite would keep nothing. What
//! only holdup does is shown apart: the check of the result by SQLite, and the evidence. Then the
//! look at sound databases of 1 MB and 1 GB, which is all that a clean start adds; and the most
//! memory that `holdup recover` takes when it must read such databases row by row.
#![allow(
    clippy::print_stdout,
    reason = "a benchmark's result is what it prints"
)]

#[allow(dead_code, reason = "shared by the benchmarks")]
mod report;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use holdup::clock::{Clock, SystemClock};
use holdup::durable::{Gate, Medium};
use holdup::recovery::candidates::{Candidate, FromLog, Work, judge};
use holdup::recovery::wal::{Known, Overlay, Wal};
use holdup::recovery::{FileBytes, Request, Site, Verdict, Way, recover};
use report::median;
use rusqlite::Connection;

type Res<T> = Result<T, Box<dyn std::error::Error>>;

const READINGS: &str = "CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL,
    timestamp NOT NULL, value REAL NOT NULL, unit TEXT, metadata TEXT);
    CREATE INDEX by_sensor ON readings(sensor_name, timestamp);";
const LOG: u64 = 64_000_000;
const ROUNDS: usize = 7;
const STARTS: usize = 31;
/// The size of a store's log when the agent was killed.
const KEPT_LOG: u64 = 4_000_000;
const SLOWER_AT_MOST: f64 = 1.5;
const START_MS: f64 = 20.0;
const MEMORY: u64 = 64_000_000;

fn main() -> Res<()> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    report::title("Recovery", dir.path());
    replay(dir.path())?;
    let small = dir.path().join("1 MB.db");
    let large = dir.path().join("1 GB.db");
    let middle = dir.path().join("64 MB.db");
    for (path, bytes) in [(&small, 1_000_000), (&middle, LOG), (&large, 1_000_000_000)] {
        filled(path, bytes)?;
    }
    starts(&small, &large)?;
    memory(&middle, &large)
}

/// Commits `rows` readings behind the last.
fn commit(conn: &mut Connection, rows: i64) -> rusqlite::Result<()> {
    let tx = conn.transaction()?;
    {
        let last: i64 = tx.query_row("SELECT coalesce(max(id), 0) FROM readings", [], |r| {
            r.get(0)
        })?;
        let mut insert =
            tx.prepare_cached("INSERT INTO readings VALUES(?1, ?2, ?3, ?4, 'C', ?5)")?;
        for id in last + 1..=last + rows {
            let sensor = format!("sensor-{:02}", id * 7919 % 40);
            let metadata = (id % 5 == 0).then(|| format!("{{\"batch\":{id},\"line\":\"north\"}}"));
            insert.execute((
                id,
                sensor,
                1_767_225_600_000 + id,
                id as f64 * 0.25,
                metadata,
            ))?;
        }
    }
    tx.commit()
}

fn logged(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0;",
    )?;
    conn.execute_batch(READINGS)?;
    Ok(conn)
}

fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// A database of so many bytes, closed.
fn filled(path: &Path, bytes: u64) -> Res<()> {
    let mut conn = logged(path)?;
    while len(path) < bytes {
        commit(&mut conn, 20_000.min(bytes as i64 / 1000))?;
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    Ok(conn.close().map_err(|(_, e)| e)?)
}

/// A database and its log as a killed process leaves them.
fn killed(from: &Path, to: &Path) -> Res<()> {
    fs::copy(from, to)?;
    fs::copy(log_of(from), log_of(to))?;
    Ok(())
}

/// Times in ms of one way to bring back what the log holds.
#[derive(Default)]
struct Times {
    read: Vec<f64>,
    written: Vec<f64>,
    checked: Vec<f64>,
    evidence: Vec<f64>,
    all: Vec<f64>,
}

impl Times {
    fn both(&self) -> f64 {
        let both: Vec<_> = self
            .read
            .iter()
            .zip(&self.written)
            .map(|(a, b)| a + b)
            .collect();
        median(&both)
    }
}

fn ms(work: impl FnOnce() -> Res<()>) -> Res<f64> {
    let began = SystemClock.mono();
    work()?;
    Ok(SystemClock.mono().since(began).as_secs_f64() * 1000.0)
}

fn replay(dir: &Path) -> Res<()> {
    let source = dir.join("source.db");
    let mut conn = logged(&source)?;
    while len(&log_of(&source)) < LOG {
        commit(&mut conn, 10)?;
    }
    let rows: i64 = conn.query_row("SELECT count(*) FROM readings", [], |r| r.get(0))?;
    let (mut plain, mut sound, mut damaged) = <(Times, Times, Times)>::default();
    for round in 0..=ROUNDS {
        let mut now = <(Times, Times, Times)>::default();
        by_sqlite(&source, &dir.join("plain.db"), rows, &mut now.0)?;
        by_holdup(&source, &dir.join("sound.db"), false, &mut now.1)?;
        by_holdup(&source, &dir.join("damaged.db"), true, &mut now.2)?;
        // The first round brings everything into memory.
        if round > 0 {
            for (all, one) in [
                (&mut plain, now.0),
                (&mut sound, now.1),
                (&mut damaged, now.2),
            ] {
                all.read.extend(one.read);
                all.written.extend(one.written);
                all.checked.extend(one.checked);
                all.evidence.extend(one.evidence);
                all.all.extend(one.all);
            }
        }
    }
    conn.close().map_err(|(_, e)| e)?;
    let show = |figure: f64| format!("{figure:.0} ms");
    let row = |name: &str, of: fn(&Times) -> f64| {
        let ratio = |t: &Times| format!("{} ({:.2}x)", show(of(t)), of(t) / of(&plain));
        vec![
            name.to_owned(),
            show(of(&plain)),
            ratio(&sound),
            ratio(&damaged),
        ]
    };
    let apart = |name: &str, of: fn(&Times) -> &Vec<f64>| {
        let figure = |t: &Times| match of(t).is_empty() {
            true => "-".to_owned(),
            false => show(median(of(t))),
        };
        vec![
            name.to_owned(),
            figure(&plain),
            figure(&sound),
            figure(&damaged),
        ]
    };
    println!(
        "log of {} MB, {rows} readings; medians of {ROUNDS}",
        LOG / 1_000_000
    );
    report::table(
        &[
            "step",
            "SQLite, sound log",
            "holdup, sound log",
            "holdup, damaged log",
        ],
        &[
            row("read the log", |t| median(&t.read)),
            row("write the database, synced", |t| median(&t.written)),
            row("both", Times::both),
            apart("check of the result, rows counted", |t| &t.checked),
            apart("evidence copied, synced", |t| &t.evidence),
            apart("a whole recovery in place", |t| &t.all),
        ],
    );
    for (what, times) in [("sound", &sound), ("damaged", &damaged)] {
        let ratio = times.both() / plain.both();
        report::target(
            &format!("replay of a {what} log"),
            &format!("{ratio:.2}x SQLite's"),
            &format!("at most {SLOWER_AT_MOST}x"),
            ratio <= SLOWER_AT_MOST,
        );
    }
    Ok(())
}

fn by_sqlite(source: &Path, at: &Path, rows: i64, times: &mut Times) -> Res<()> {
    killed(source, at)?;
    let mut conn = Connection::open_in_memory()?;
    // Its first statement reads the whole log.
    times.read.push(ms(|| {
        conn = Connection::open(at)?;
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(conn.execute_batch("PRAGMA synchronous = FULL")?)
    })?);
    times.written.push(ms(|| {
        Ok(conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    })?);
    let there: i64 = conn.query_row("SELECT count(*) FROM readings", [], |r| r.get(0))?;
    assert_eq!(there, rows, "SQLite keeps a sound log");
    conn.close().map_err(|(_, e)| e)?;
    Ok(fs::remove_file(at)?)
}

fn by_holdup(source: &Path, at: &Path, damage: bool, times: &mut Times) -> Res<()> {
    killed(source, at)?;
    if damage {
        let noise: Vec<u8> = (0..512u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 23) as u8)
            .collect();
        File::options()
            .write(true)
            .open(log_of(at))?
            .write_all_at(&noise, 0)?;
    }
    let medium = Medium::open(at.parent().ok_or("no directory")?)?;
    let (gate, stop) = (Arc::new(Gate::new()), Arc::default());
    let work = Work {
        medium: &medium,
        gate: &gate,
        stop: &stop,
        progress: &|_, _| {},
    };
    let out = at.with_extension("out");
    {
        let database = FileBytes::new(File::open(at)?)?;
        let log = FileBytes::new(File::open(log_of(at))?)?;
        let mut wal = Wal::absent();
        times.read.push(ms(|| {
            wal = Wal::read(&log, Known::of(&database));
            Ok(())
        })?);
        times.written.push(ms(|| {
            let overlay = Overlay::new(Some(&database), Some(&log), &wal, None);
            let mut all = FromLog::all(overlay);
            let candidate = all.first_mut().ok_or("the log gives no candidate")?;
            candidate.build(&out, &work)?;
            Ok(candidate.finish(&out, &work)?)
        })?);
    }
    times.checked.push(ms(|| {
        judge(&out, &work)?;
        Ok(())
    })?);
    fs::remove_file(&out)?;
    if damage {
        let report = look(at, &at.with_extension("evidence"))?;
        assert_eq!(report.verdict, Verdict::Salvaged, "{report:?}");
        let copied = report.steps.iter().find(|s| s.what.starts_with("copied"));
        times.all.push(report.took_ms);
        times
            .evidence
            .push(copied.ok_or("no evidence was copied")?.took_ms);
        fs::remove_dir_all(at.with_extension("evidence"))?;
    } else {
        fs::remove_file(log_of(at))?;
    }
    Ok(fs::remove_file(at)?)
}

/// As the agent does it at its start.
fn look(database: &Path, evidence: &Path) -> Res<holdup::recovery::Report> {
    let medium = Medium::open(database.parent().ok_or("no directory")?)?;
    let request = Request {
        database,
        way: Way::InPlace,
        tables: &[],
        suspicion: None,
        thorough: false,
        cut: false,
        may_be_fresh: true,
        set_aside: false,
        acknowledged: None,
        snapshots: None,
        say: &|_| {},
        begins: &|_| {},
    };
    let site = Site {
        medium: &medium,
        gate: &Arc::new(Gate::new()),
        stop: &Arc::default(),
        clock: &SystemClock,
        evidence,
        evidence_max: 1 << 30,
    };
    Ok(recover(&request, &site)?)
}

fn starts(small: &Path, large: &Path) -> Res<()> {
    let with_log = large.with_file_name("1 MB and a log.db");
    let source = large.with_file_name("kept.db");
    let mut conn = logged(&source)?;
    while len(&log_of(&source)) < KEPT_LOG {
        commit(&mut conn, 10)?;
    }
    killed(&source, &with_log)?;
    drop(conn);
    let cases = [
        ("closed, 1 MB", small, Verdict::Clean),
        ("closed, 1 GB", large, Verdict::Clean),
        ("killed, 4 MB of log", &with_log, Verdict::Replayed),
    ];
    let mut took = vec![Vec::new(); cases.len()];
    for _ in 0..STARTS {
        for ((_, path, verdict), took) in cases.iter().zip(&mut took) {
            took.push(ms(|| {
                let report = look(path, &path.with_extension("evidence"))?;
                assert_eq!(report.verdict, *verdict, "{report:?}");
                Ok(())
            })?);
        }
    }
    let rows = cases.iter().zip(&took).map(|((name, path, _), took)| {
        let most = took.iter().copied().fold(0.0, f64::max);
        vec![
            (*name).to_owned(),
            report::grouped(len(path) as f64),
            format!("{:.2} ms", median(took)),
            format!("{most:.2} ms"),
        ]
    });
    let rows: Vec<_> = rows.collect();
    println!("\na start adds, {STARTS} times");
    report::table(&["database", "bytes", "median", "longest"], &rows);
    let worst = took[..2].iter().map(|t| median(t)).fold(0.0, f64::max);
    report::target(
        "clean start",
        &format!("{worst:.2} ms"),
        &format!("at most {START_MS} ms, whatever the size"),
        worst <= START_MS,
    );
    Ok(())
}

fn memory(middle: &Path, large: &Path) -> Res<()> {
    let mut rows = Vec::new();
    let mut most = 0;
    for path in [middle, large] {
        // Its header is lost, so that SQLite cannot read it, and every row is read from its page.
        File::options()
            .write(true)
            .open(path)?
            .write_all_at(&[0; 100], 0)?;
        let out = path.with_extension("out");
        let mut child = Command::new(env!("CARGO_BIN_EXE_holdup"))
            .arg("recover")
            .arg("--output")
            .args([&out, path])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut highest = 0;
        let began = SystemClock.mono();
        let status = loop {
            highest = highest.max(high_water(child.id()));
            if let Some(status) = child.try_wait()? {
                break status;
            }
            pass(Duration::from_millis(2));
        };
        let took = SystemClock.mono().since(began);
        let conn = Connection::open(&out)?;
        let kept: i64 = conn.query_row("SELECT count(*) FROM readings", [], |r| r.get(0))?;
        drop(conn);
        assert!(status.success() && kept > 0, "{status}, {kept} rows");
        fs::remove_file(&out)?;
        most = most.max(highest);
        rows.push(vec![
            format!("{} MB, header lost", len(path) / 1_000_000),
            report::grouped(kept as f64),
            format!("{:.1} MB", highest as f64 / 1e6),
            format!("{:.0} s", took.as_secs_f64()),
        ]);
    }
    println!("\nholdup recover --output");
    report::table(
        &["database", "rows brought back", "highest resident", "took"],
        &rows,
    );
    report::target(
        "memory of a recovery",
        &format!("{:.1} MB", most as f64 / 1e6),
        "at most 64 MB, whatever the size",
        most <= MEMORY,
    );
    Ok(())
}

/// The most that was ever resident, in bytes; 0 where the process has gone.
fn high_water(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[allow(
    clippy::disallowed_methods,
    reason = "a process that works is looked at again and again"
)]
fn pass(time: Duration) {
    std::thread::sleep(time);
}
