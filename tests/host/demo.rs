//! The demo, as a new user runs it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::home::poll;

#[test]
fn the_demo_proves_every_acknowledged_reading() {
    let out = Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args(["demo", "--json"])
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let events: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("a JSON object a line"))
        .collect();
    let names: Vec<_> = events.iter().filter_map(|e| e["event"].as_str()).collect();
    for event in [
        "start", "ingest", "flicker", "brownout", "power", "parked", "dark", "again", "proof",
    ] {
        assert!(names.contains(&event), "no {event} in {names:?}");
    }
    let end = events.last().expect("an end");
    assert_eq!(end["ok"], true);
    assert_eq!(end["missing"], 0);
    assert!(end["acknowledged"].as_u64() > Some(100), "{end}");
}

#[test]
fn the_demo_in_a_pipe_has_no_colour_and_says_what_it_does_not_show() {
    let out = Command::new(env!("CARGO_BIN_EXE_holdup"))
        .arg("demo")
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}");
    assert!(!text.contains('\x1b'));
    assert!(text.contains("Not shown here"), "{text}");
    // Nobody knows the plan's steps by their names.
    let plan: Vec<_> = text.lines().filter(|l| l.contains("  plan  ")).collect();
    assert!(plan.len() > 4, "{text}");
    assert!(plan.iter().all(|l| l.contains(" - ")), "{text}");
}

/// A demo whose home lies in a folder of its own.
struct Demo {
    child: std::process::Child,
    folder: tempfile::TempDir,
}

impl Demo {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let child = Command::new(env!("CARGO_BIN_EXE_holdup"))
            .args(["demo", "--json"])
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run");
        Self { child, folder }
    }

    /// Its exit code, when it has ended, nothing is left of its home and nobody works there.
    fn ended(mut self) -> Option<i32> {
        let ended = poll("the demo's end", || self.child.try_wait().expect("wait"));
        let left: Vec<_> = std::fs::read_dir(self.folder.path())
            .expect("list")
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let home = self.folder.path().as_os_str().as_encoded_bytes();
        let works_there = std::fs::read_dir("/proc")
            .expect("processes")
            .filter_map(|p| std::fs::read(p.ok()?.path().join("cmdline")).ok())
            .any(|line| line.windows(home.len()).any(|w| w == home));
        assert!(!works_there, "its agent lives on");
        ended.code()
    }
}

#[test]
fn a_demo_whose_reader_goes_away_leaves_nothing_behind() {
    let mut demo = Demo::start();
    let mut line = String::new();
    BufReader::new(demo.child.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("a line");
    assert!(line.contains("demo"), "{line}");
    assert_eq!(demo.ended(), Some(0));
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    let mut demo = Demo::start();
    let mut told = BufReader::new(demo.child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("\"ingest\"") {
        line.clear();
        assert_ne!(told.read_line(&mut line).expect("a line"), 0, "it ended");
    }
    let pid = rustix::process::Pid::from_child(&demo.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signal");
    // It may say more until it heeds the signal.
    std::io::copy(&mut told, &mut std::io::sink()).expect("drain");
    assert_eq!(demo.ended(), Some(4));
}
