//! A factory reset on a full disk, on an ext4 file system of its own: it needs no room that it does
//! not have, or touches nothing.

use std::process::{Command, Output};

use crate::disk::Disk;
use crate::home::Home;

const POWER: &str = "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0";
const GO: [&str; 6] = [
    "reset",
    "data",
    "--yes-erase",
    "host-test",
    "--no-backup",
    "without-backup",
];

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn fill(disk: &Disk) {
    let filler = disk.mount().join("filler");
    for size in ["bs=64k", "bs=1k"] {
        let full = Command::new("dd")
            .args(["if=/dev/zero", size, "oflag=append", "conv=notrunc"])
            .arg(format!("of={}", filler.display()))
            .output()
            .expect("dd");
        assert!(!full.status.success(), "the disk was not filled");
    }
}

fn send(home: &Home, readings: u64) {
    let mut client = home.client();
    for _ in 0..readings {
        client.send();
    }
    client.wait_acked(readings);
}

#[test]
fn on_a_full_disk_the_room_kept_back_carries_it_and_without_that_nothing_is_touched() {
    for (reserve, running) in [(4, false), (4, true), (0, false)] {
        let disk = match Disk::new(128) {
            Ok(disk) => disk,
            Err(why) => {
                eprintln!("skipped: no loop device with ext4 on this machine ({why})");
                return;
            }
        };
        disk.without_roots_share();
        let tables = format!("[store]\nreserve_mb = {reserve}");
        let home = Home::on(&disk.mount().join("data"), POWER, &tables);
        let agent = home.serving();
        send(&home, 500);
        let agent = if running {
            Some(agent)
        } else {
            agent.stop();
            None
        };
        fill(&disk);
        let out = home.holdup(&GO);
        let store = disk.mount().join("data/edge_store.db");
        let rows = || -> i64 {
            let db = rusqlite::Connection::open(&store).expect("open");
            let sql = "SELECT count(*) FROM readings";
            db.query_row(sql, [], |r| r.get(0)).expect("count")
        };
        eprintln!("reserve {reserve} MiB, running {running}: {}", text(&out));
        match out.status.code() {
            Some(0) => assert_eq!(rows(), 0),
            Some(3) if reserve == 0 => assert_eq!(rows(), 500),
            other => panic!("{other:?}: {}", text(&out)),
        }
        assert!(!disk.mount().join("data/reset.journal").exists());
        drop(agent);
        let mut agent = home.start();
        agent.wait_for("service", |s| {
            s["store"] == "running" || s["store"] == "disk_full"
        });
        agent.stop();
    }
}
