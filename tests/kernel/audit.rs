//! The audit log on a file system of its own: full, read-only, frozen.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use holdup::durable::{freeze, thaw};

use crate::disk::Disk;
use crate::home::{Home, poll};

fn home(disk: &Disk) -> Home {
    Home::on(
        &disk.mount().join("data"),
        "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0",
        "[store]\nreserve_mb = 1\n",
    )
}

fn disk() -> Option<Disk> {
    match Disk::new(32) {
        Ok(disk) => Some(disk),
        Err(why) => {
            // Not by a print macro: the harness swallows those of tests that pass.
            writeln!(
                std::io::stderr(),
                "audit: SKIPPED: no loop device with ext4 on this machine ({why})"
            )
            .ok();
            None
        }
    }
}

fn words(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

fn disarm(home: &Home) {
    let mut stream = UnixStream::connect(home.path("run/control.sock")).expect("control socket");
    writeln!(stream, "{{\"do\":\"disarm\"}}").expect("ask");
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .expect("an answer");
    assert!(answer.contains("armed"), "{answer}");
}

#[test]
fn on_a_full_disk_entries_wait_and_are_written_when_there_is_room() {
    let Some(disk) = disk() else { return };
    let home = home(&disk);
    let mut agent = home.serving();
    let filler = disk.mount().join("filler");
    for size in ["bs=64k", "bs=1k"] {
        let full = Command::new("dd")
            .args(["if=/dev/zero", size, "oflag=append", "conv=notrunc"])
            .arg(format!("of={}", filler.display()))
            .output()
            .expect("dd");
        assert!(!full.status.success(), "the disk was not filled");
    }
    // What is left of the last page goes first.
    let full = poll("the log to be full", || {
        disarm(&home);
        agent.status().filter(|s| s["audit"]["state"] == "waiting")
    });
    assert!(full["audit"]["waiting"].as_u64() > Some(0), "{full}");
    let why = full["audit"]["problem"].as_str().expect("a reason");
    assert!(why.contains("no room for the audit log"), "{why}");
    fs::remove_file(&filler).expect("make room");
    agent.wait_for("all entries", |s| {
        s["audit"]["state"] == "writing" && s["audit"]["waiting"] == 0
    });
    agent.stop();
    let out = home.holdup(&["audit", "verify"]);
    assert!(out.status.success(), "{}", words(&out));
}

#[test]
fn it_is_read_on_a_read_only_medium_and_on_a_frozen_one_without_hanging() {
    let Some(disk) = disk() else { return };
    let home = home(&disk);
    home.serving().stop();
    let read = |how: &str| {
        for verb in ["show", "verify", "head"] {
            let mut child = Command::new(env!("CARGO_BIN_EXE_holdup"))
                .args(["audit", verb, "--config"])
                .arg(home.config())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("run holdup");
            // One that sleeps on a frozen file system cannot be killed: the caller thaws.
            poll(verb, || child.try_wait().expect("wait"));
            let out = child.wait_with_output().expect("output");
            assert!(out.status.success(), "{how}: {verb}: {}", words(&out));
            assert!(!out.stdout.is_empty());
        }
    };
    let dir = fs::File::open(disk.mount()).expect("open");
    freeze(dir.as_fd()).expect("freeze");
    let read_frozen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read("frozen")));
    thaw(dir.as_fd()).expect("thaw");
    drop(dir);
    read_frozen.expect("frozen");
    let remounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(disk.mount())
        .status();
    assert!(remounted.expect("mount").success());
    read("read-only");
}
