//! Backups on a stick: a loop device with a label, mounted only while it is used.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdup::backup::Identity;
use holdup::backup::catalogue::{Listed, list};
use serde_json::Value;

use crate::disk::Mounted;
use crate::home::Home;

fn skipped(why: &str) {
    // Not by a print macro: the harness swallows those of tests that pass.
    writeln!(std::io::stderr(), "usb: SKIPPED: {why}").ok();
}

fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let done = Command::new(program).args(args).output();
    let done = done.map_err(|e| format!("{program}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() {
        Ok(text(&done.stdout))
    } else {
        Err(format!("{program}: {}", text(&done.stderr)))
    }
}

/// A labelled file system on a loop device; unplugged when dropped.
pub(crate) struct Stick {
    home: tempfile::TempDir,
    pub(crate) label: String,
    device: String,
    link: PathBuf,
}

impl Stick {
    pub(crate) fn plug(mib: u64, name: &str) -> Result<Self, String> {
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        // With a blank, which udev writes in its own way.
        let label = format!("H {name} {}", std::process::id() % 100_000);
        let image = home.path().join("stick.img");
        let at = image.display().to_string();
        run("truncate", &["-s", &format!("{mib}M"), &at])?;
        run("mkfs.ext4", &["-q", "-F", "-L", &label, &at])?;
        let device = run("losetup", &["--find", "--show", &at])?;
        let by_label = Path::new("/dev/disk/by-label");
        fs::create_dir_all(by_label).map_err(|e| e.to_string())?;
        let link = by_label.join(label.replace(' ', "\\x20"));
        // What udev does, where it runs; it may have been there first.
        if !link.exists() {
            std::os::unix::fs::symlink(&device, &link).map_err(|e| e.to_string())?;
        }
        Ok(Self {
            home,
            label,
            device,
            link,
        })
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.home.path().join("stick.img")
    }
}

impl Drop for Stick {
    fn drop(&mut self) {
        fs::remove_file(&self.link).ok();
        if let Err(e) = run("losetup", &["-d", &self.device]) {
            eprintln!("{e}");
        }
    }
}

fn gateway(more: &str) -> (Home, Identity) {
    let key = Identity::generate();
    let tables = format!(
        "[backup]\nevery_s = 0\nrecipients = [\"{}\"]\n{more}",
        key.recipient().text()
    );
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0",
        &tables,
    );
    let agent = home.serving();
    let mut client = home.client();
    for n in 1..=50 {
        client.send();
        client.wait_acked(n);
    }
    agent.stop();
    (home, key)
}

pub(crate) fn mounted(label: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    mounts.contains(&label.replace(' ', "\\\\x20"))
        || mounts.contains(&label.replace(' ', "\\134x20"))
}

#[test]
fn a_stick_gets_a_copy_that_is_read_back_and_is_mounted_only_meanwhile() {
    let stick = match Stick::plug(64, "a") {
        Ok(stick) => stick,
        Err(why) => return skipped(&why),
    };
    let (home, _key) = gateway(&format!("usb_labels = [\"{}\"]", stick.label));
    let made = home.holdup(&["backup", "create", "--json"]);
    let made: Value = serde_json::from_slice(&made.stdout).expect("json");
    assert_eq!(made["targets"][0][1], Value::Null, "{made}");
    assert!(!mounted(&stick.label), "it is unmounted again");
    let listed = home.holdup(&["backup", "list", "--usb", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("json");
    let there = listed["backups"].as_array().expect("list").iter();
    let there = there.filter(|b| b["target"].as_str().is_some_and(|t| t.starts_with("usb:")));
    assert_eq!(there.filter(|b| b["counts"] == true).count(), 1, "{listed}");
    assert!(!mounted(&stick.label));
    let look = home.path("look");
    let _mounted = Mounted::new(&stick.image(), &look).expect("mount");
    assert!(list(&look).expect("list").iter().all(Listed::counts));
}

#[test]
fn a_stick_that_vanishes_while_it_is_written_costs_only_its_own_copy() {
    let stick = match Stick::plug(64, "v") {
        Ok(stick) => stick,
        Err(why) => return skipped(&why),
    };
    // Between the backup and its copy most of the stick goes away: its file system still mounts.
    let more = format!(
        "usb_labels = [\"{}\"]\nafter = 'truncate -s 1M {}'",
        stick.label,
        stick.image().display()
    );
    let (home, _key) = gateway(&more);
    // More than the 1 MiB that is left.
    let noise = home.path("noise");
    let done = run(
        "dd",
        &[
            "if=/dev/urandom",
            "bs=1M",
            "count=4",
            &format!("of={}", noise.display()),
        ],
    );
    done.expect("noise");
    let config = fs::read_to_string(home.config()).expect("config");
    let include = format!("every_s = 0\ninclude = [\"{}\"]", noise.display());
    home.write(
        "holdup.toml",
        config.replace("every_s = 0", &include).as_bytes(),
    );
    let made = home.holdup(&["backup", "create", "--json"]);
    assert_eq!(made.status.code(), Some(1));
    let made: Value = serde_json::from_slice(&made.stdout).expect("json");
    assert!(made["targets"][0][1].is_string(), "said why: {made}");
    assert!(!mounted(&stick.label));
    let here = list(&home.data("backup")).expect("list");
    assert!(
        here.len() == 1 && here[0].counts(),
        "the backup itself is whole"
    );
    let targets = home.holdup(&["backup", "targets"]);
    assert_eq!(targets.status.code(), Some(1), "and status says so later");
}
