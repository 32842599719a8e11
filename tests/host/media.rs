//! `holdup media` on copied trees, and the agent that looks by itself.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::Value;

use crate::home::{Home, poll};

fn write(path: &Path, text: &str) {
    let file = fs::File::create(path);
    file.and_then(|mut f| f.write_all(text.as_bytes()))
        .expect("write");
}

/// A copied tree with an eMMC whose first partition holds `/data`.
fn emmc(root: &Path, life_time: &str) {
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        write(&path, text);
    };
    let card = "sys/devices/mmc0:0001";
    put(&format!("{card}/type"), "MMC\n");
    put(&format!("{card}/rev"), "0x8\n");
    put(&format!("{card}/cid"), "150100424a5444345207d2f3b1c75a00\n");
    put(&format!("{card}/life_time"), life_time);
    put(&format!("{card}/block/mmcblk0/size"), "61079552\n");
    put(&format!("{card}/block/mmcblk0/mmcblk0p1/partition"), "1\n");
    put("dev/kmsg", "6,1,0,-;Booting Linux\n");
    put(
        "proc/self/mountinfo",
        "29 1 179:1 / / rw,noatime - ext4 /dev/mmcblk0p1 rw\n",
    );
    let dev = root.join("sys/dev/block");
    fs::create_dir_all(&dev).expect("folders");
    let (device, number) = (
        root.join(card).join("block/mmcblk0/device"),
        dev.join("179:1"),
    );
    if !number.exists() {
        symlink("../..", device).expect("link");
        let disk = "../../devices/mmc0:0001/block/mmcblk0/mmcblk0p1";
        symlink(disk, number).expect("link");
    }
}

/// What the verb says of the tree, and its exit code.
fn says(home: &Home, json: bool) -> (String, Option<i32>) {
    let root = home.path("tree").display().to_string();
    let mut args = vec!["media", "--root", &root, "--dir", "/data"];
    if json {
        args.push("--json");
    }
    let out = home.holdup(&args);
    (
        String::from_utf8_lossy(&out.stdout).into_owned(),
        out.status.code(),
    )
}

#[test]
fn the_verdict_is_told_in_words_as_json_and_by_the_exit_code() {
    let home = Home::new();
    for (life, verdict, words, code) in [
        ("0x01 0x01\n", "good", "GOOD (confidence: high)", 0),
        ("0x00 0x00\n", "unknown", "UNKNOWN (confidence: none)", 0),
        ("0x08 0x01\n", "watch", "WATCH", 0),
        ("0x0a 0x01\n", "replace_soon", "REPLACE SOON", 1),
        ("0x0b 0x01\n", "replace_now", "REPLACE NOW", 1),
    ] {
        emmc(&home.path("tree"), life);
        let (text, exit) = says(&home, false);
        assert_eq!(exit, Some(code), "{text}");
        assert!(text.contains(&format!("verdict     {words}")), "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        let (json, exit) = says(&home, true);
        assert_eq!(exit, Some(code));
        let v: Value = serde_json::from_str(&json).expect("json");
        assert_eq!(v["verdict"], verdict);
        assert_eq!(v["identity"]["likely_maker"], "Samsung");
        assert!(v["evidence"].as_array().is_some_and(|all| !all.is_empty()));
    }
}

#[test]
fn another_medium_than_before_is_audited_and_told_to_scripts() {
    let home = Home::new();
    let dir = home.path("events.d");
    fs::create_dir(&dir).expect("events.d");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("rights");
    let journal = home.path("journal");
    let script = format!(
        "#!/bin/sh\necho \"$1 $HOLDUP_MEDIA_VERDICT\" >> {}\n",
        journal.display()
    );
    home.write("events.d/media-1", script.as_bytes());
    let path = home.path("events.d/media-1");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("rights");
    let text = fs::read_to_string(home.config()).expect("config");
    let events = format!("{text}\n[events]\ndir = \"{}\"\n", dir.display());
    home.write("holdup.toml", events.as_bytes());

    // An agent that has never seen another one tells nothing.
    let mut agent = home.serving();
    let status = agent.wait_for("a look", |s| !s["media"]["looked"].is_null());
    assert_ne!(
        status["media"]["verdict"], "good",
        "no card of a machine that tests tells that"
    );
    agent.stop();
    if !home.data("media.json").exists() {
        eprintln!("skipped: the tests' directory lies on no single disk");
        return;
    }
    assert!(!journal.exists(), "{}", home.log());

    let before = r#"{"version":1,"media":[{"id":"0102","name":"SD card \"OLD\""}]}"#;
    write(&home.data("media.json"), before);
    let mut agent = home.serving();
    let status = agent.wait_for("a look", |s| !s["media"]["swapped_from"].is_null());
    assert_eq!(status["media"]["swapped_from"], "SD card \"OLD\"");
    let told = poll("the script", || fs::read_to_string(&journal).ok());
    assert!(told.starts_with("media "), "{told}");
    agent.stop();
    let out = home.holdup(&["audit", "show", "--json"]);
    let log = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(log.contains("medium_changed"), "{log}");
    // It is known now.
    let text = fs::read_to_string(home.data("media.json")).expect("read");
    assert!(text.contains("0102"), "the old one is remembered: {text}");
    home.serving().stop();
    let told = fs::read_to_string(&journal).expect("read");
    assert_eq!(told.lines().count(), 1, "told once: {told}");
}

#[test]
fn doctor_does_not_call_a_medium_ok_of_which_nothing_is_known() {
    let home = Home::new();
    let out = home.holdup(&["doctor", "--json"]);
    let v: Value = serde_json::from_slice(&out.stdout).expect("json");
    let checks = v["checks"].as_array().expect("checks");
    let medium = checks.iter().find(|c| c["name"] == "medium");
    let medium = medium.expect("a check of the medium");
    assert_ne!(medium["level"], "ok", "{medium}");
    assert_ne!(medium["remedy"], "", "{medium}");
}
