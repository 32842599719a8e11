//! A data directory on a medium that turned read-only, as a worn card's file system does.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::disk::Disk;
use crate::home::Home;

/// A read-only tmpfs, unmounted when dropped.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        fs::create_dir_all(at).expect("folder");
        let mount = |options: &str| {
            let mut mount = Command::new("mount");
            mount
                .args(["-t", "tmpfs", "-o", options, "none"])
                .arg(at)
                .output()
        };
        let done = mount("ro").ok().filter(|out| out.status.success());
        if done.is_none() {
            // Not by a print macro: the harness swallows those of tests that pass.
            writeln!(std::io::stderr(), "readonly: SKIPPED: mounting needs root").ok();
        }
        done.map(|_| Self(at))
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0).status().ok();
    }
}

#[test]
fn a_read_only_data_directory_is_named_with_the_reason() {
    let home = Home::new();
    let data = home.path("data");
    let Some(_mounted) = ReadOnly::mount(&data) else {
        return;
    };
    let out = home.holdup(&["run"]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(4), "{text}");
    assert!(
        text.contains("/data") && text.contains("Read-only"),
        "{text}"
    );
    let out = home.holdup(&["doctor"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot be written"), "{text}");
}

#[test]
fn a_file_system_that_turned_read_only_is_told_before_the_first_reading_fails() {
    let disk = match Disk::new(64) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("skipped: no loop device with ext4 on this machine ({why})");
            return;
        }
    };
    let mount = disk.mount();
    let remounted = Command::new("mount")
        .args(["-o", "remount,errors=remount-ro"])
        .arg(&mount)
        .status();
    assert!(remounted.expect("mount").success());
    let home = Home::new();
    std::os::unix::fs::symlink(&mount, home.path("data")).expect("link");
    let mut agent = home.serving();
    agent.wait_for("readiness", |s| s["readiness"] == "Ready");
    fs::File::options()
        .write(true)
        .open(disk.trigger())
        .and_then(|mut f| f.write_all(b"a test of holdup"))
        .expect("an error of the file system's");
    // A write of the agent's own may have failed before.
    let s = agent.wait_for("the reason", |s| {
        let reasons = s["reasons"].as_array();
        reasons.is_some_and(|all| all.contains(&json!("data_read_only")))
    });
    assert_eq!(s["readiness"], "AtRisk");
    assert_eq!(s["store"], "running", "no reading has failed yet");
    let log = home.log();
    assert!(log.contains("is mounted read-only ("), "{log}");
    let said = log.lines().find(|l| l.contains("is mounted read-only"));
    writeln!(std::io::stderr(), "readonly: {}", said.unwrap_or_default()).ok();
    let out = home.holdup(&["doctor"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("is mounted read-only ("), "{text}");
    agent.kill();
}

#[test]
fn a_damaged_database_on_a_read_only_medium_is_recovered_elsewhere() {
    let home = Home::new();
    let data = home.path("data");
    fs::create_dir_all(&data).expect("folder");
    let mount = |options: &[&str]| {
        let mut mount = Command::new("mount");
        let done = mount.args(options).arg(&data).output();
        done.is_ok_and(|out| out.status.success())
    };
    if !mount(&["-t", "tmpfs", "none"]) {
        writeln!(std::io::stderr(), "readonly: SKIPPED: mounting needs root").ok();
        return;
    }
    let _mounted = ReadOnly(&data);
    let agent = home.serving();
    let mut client = home.client();
    for _ in 0..50 {
        client.send();
    }
    client.wait_acked(50);
    agent.kill();
    let log = home.data("edge_store.db-wal");
    let mut bytes = fs::read(&log).expect("read");
    bytes[..32].fill(0xa5);
    #[expect(clippy::disallowed_methods, reason = "the test plants damage")]
    fs::write(&log, bytes).expect("write");
    assert!(mount(&["-o", "remount,ro"]), "remount");
    let db = home.data("edge_store.db").display().to_string();
    let copy = home.path("copy.db").display().to_string();
    let dry = home.holdup(&["recover", &db, "--dry-run"]);
    let out = home.holdup(&["recover", &db, "--output", &copy, "--json"]);
    let text = |out: &std::process::Output| {
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    };
    assert_eq!(dry.status.code(), Some(1), "{}", text(&dry));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(report["verdict"], "salvaged", "{}", text(&out));
    let conn = rusqlite::Connection::open(&copy).expect("open");
    let rows: i64 = conn
        .query_row("SELECT count(*) FROM readings", [], |r| r.get(0))
        .expect("count");
    assert_eq!(rows, 50, "{}", text(&out));
}
