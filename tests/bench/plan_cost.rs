//! What the plan costs against the size of the database, at equal write-ahead log.
//!
//! The real agent on the simulated board, on an ext4 on a loop device: stores of 1 MB to 2 GB,
//! each with its own agent, all on one file system. Before each outage every store is given the
//! same readings, one commit each, so that the log holds the same; then power fails, and the
//! plan's commit and checkpoint are read from its record. The sizes take turns.
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
mod report;

use disk::Disk;
use home::{Agent, Client, Home};
use report::{median, quantile};
use serde_json::Value;

/// Name, MiB.
const SIZES: [(&str, u64); 4] = [("1 MB", 1), ("32 MB", 32), ("256 MB", 256), ("2 GB", 2048)];
const DISK_MIB: u64 = 3072;
/// Filled at once.
const PART_MIB: u64 = 64;
/// Commits before each outage.
const COMMITS: u64 = 40;
const OUTAGES: usize = 31;
/// Two medians of so few figures differ by less than this on a quiet machine.
const FLAT: f64 = 1.5;

fn main() -> rusqlite::Result<()> {
    let disk = match Disk::new(DISK_MIB) {
        Ok(disk) => disk,
        Err(why) => {
            println!("plan_cost: SKIPPED: no loop device with ext4 on this machine ({why})");
            return Ok(());
        }
    };
    report::title(
        "The plan's cost against the size of the database, equal write-ahead log",
        &disk.mount(),
    );
    let mut homes = Vec::new();
    for (_, mib) in SIZES {
        let data = disk.mount().join(format!("holdup-{mib}"));
        let home = Home::on(
            &data,
            "holdup_ms = 8000\nrestore_ms = 100\nsettle_after = 0",
            "",
        );
        // The agent makes its tables; the bulk of the rows is put in while it is away.
        home.serving().stop();
        fill(&data.join("edge_store.db"), mib)?;
        homes.push(home);
    }
    let mut running: Vec<_> = homes
        .iter()
        .map(|home| {
            let agent = home.serving();
            (home, agent, home.client())
        })
        .collect();
    let mut costs = vec![(Vec::new(), Vec::new(), Vec::new()); SIZES.len()];
    for round in 0..=OUTAGES {
        for ((home, agent, client), cost) in running.iter_mut().zip(&mut costs) {
            let (frames, commit, checkpoint) = outage(home, agent, client);
            // The first one brings each store's last pages into memory.
            if round > 0 {
                cost.0.push(frames);
                cost.1.push(commit + checkpoint);
                cost.2.push(checkpoint);
            }
        }
    }
    let rows: Vec<_> = SIZES
        .iter()
        .zip(&costs)
        .map(|((name, _), (frames, plan, checkpoint))| {
            vec![
                (*name).to_owned(),
                format!("{:.0}", median(frames)),
                format!("{:.2} ms", median(checkpoint)),
                format!("{:.2} ms", median(plan)),
                format!("{:.2} ms", quantile(plan, 1.0)),
            ]
        })
        .collect();
    report::table(
        &[
            "database",
            "frames in the log",
            "checkpoint p50",
            "plan p50",
            "plan worst",
        ],
        &rows,
    );
    println!("plan: commit in flight and checkpoint, synced; {OUTAGES} outages each, in turns");
    let ratio = median(&costs[SIZES.len() - 1].1) / median(&costs[0].1);
    report::target(
        "plan at 2 GB against 1 MB",
        &format!("{ratio:.2}x"),
        &format!("flat: at most {FLAT}x"),
        ratio <= FLAT,
    );
    for (_, agent, client) in running {
        drop(client);
        agent.stop();
    }
    Ok(())
}

/// Adds rows until the file has so many MiB.
fn fill(path: &std::path::Path, mib: u64) -> rusqlite::Result<()> {
    let db = rusqlite::Connection::open(path)?;
    db.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -65536")?;
    // In parts, so that the log does not grow as large as the database.
    let mut left = mib;
    while left > 0 {
        let part = left.min(PART_MIB);
        left -= part;
        // About 1,000 bytes a row: four to a page of 4,096, with some left over.
        let rows = i64::try_from((part << 20) / 1024).unwrap_or(i64::MAX);
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO readings(sensor_name, timestamp, value, unit, metadata)
             SELECT 'boiler-' || (i % 10), i, i, 'C',
                    '{\"note\":\"' || hex(zeroblob(475)) || '\"}' FROM n",
            [rows],
        )?;
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    Ok(())
}

/// Frames in the log when power failed, and what commit and checkpoint took, in milliseconds.
fn outage(home: &Home, agent: &mut Agent<'_>, client: &mut Client) -> (f64, f64, f64) {
    for _ in 0..COMMITS {
        let sent = client.send();
        client.put("{\"flush\":true}");
        client.wait_acked(sent + 2);
    }
    let before = agent.wait_for("a status", |_| true);
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    let took = |step: &str| -> f64 {
        let of = |s: &&Value| s["step"] == step && s["outcome"] == "done";
        let steps = parked["last_outage"]["steps"].as_array();
        let steps = steps.into_iter().flatten().filter(of);
        steps
            .map(|s| s["took_us"].as_f64().unwrap_or(f64::NAN))
            .sum::<f64>()
            / 1000.0
    };
    let cost = (
        before["wal_frames"].as_f64().unwrap_or(f64::NAN),
        took("commit"),
        took("checkpoint"),
    );
    home.power(false);
    agent.wait_for_supply("Good");
    client.wait_for("resumed");
    cost
}
