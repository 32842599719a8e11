//! Hostile neighbours of the agent's own databases: whatever lies where a recovery puts its files,
//! the agent serves, the recovery is done, and what lay there keeps its bytes under a name that is
//! told.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use crate::home::Home;

const NOTES: &[u8] = b"somebody's notes\n";
const GARBAGE: &[u8] = b"\x93\x00\xff\x17 no note of anybody's";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Garbage,
    Text,
    Directory,
    Fifo,
    Link,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Garbage,
        Self::Text,
        Self::Directory,
        Self::Fifo,
        Self::Link,
    ];

    fn plant(self, home: &Home, at: &Path) {
        fs::remove_file(at).ok();
        match self {
            Self::Garbage | Self::Text => {
                let bytes = if self == Self::Text { NOTES } else { GARBAGE };
                #[expect(clippy::disallowed_methods, reason = "the test plants it")]
                fs::write(at, bytes).expect("write");
            }
            Self::Directory => {
                fs::create_dir(at).expect("directory");
                fs::create_dir(at.join("inner")).expect("directory");
            }
            Self::Fifo => {
                mknodat(CWD, at, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("fifo");
            }
            Self::Link => symlink(home.path("notes"), at).expect("link"),
        }
    }

    fn is_at(self, home: &Home, at: &Path) -> bool {
        let Ok(m) = at.symlink_metadata() else {
            return false;
        };
        match self {
            Self::Garbage => fs::read(at).is_ok_and(|b| b == GARBAGE),
            Self::Text => fs::read(at).is_ok_and(|b| b == NOTES),
            Self::Directory => at.join("inner").is_dir(),
            Self::Fifo => m.file_type().is_fifo(),
            Self::Link => fs::read_link(at).is_ok_and(|to| to == home.path("notes")),
        }
    }
}

/// A store of 200 readings and a queue, both damaged: recovering them needs all of a recovery.
fn damaged() -> Home {
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0",
        "[queue]\nenabled = true\n",
    );
    home.write("notes", NOTES);
    let mut agent = home.serving();
    let mut client = home.client();
    for _ in 0..200 {
        client.send();
    }
    client.wait_acked(200);
    agent.wait_for("a queue with its messages", |s| {
        s["queue"]["depth"].as_u64() >= Some(200)
    });
    agent.kill();
    for name in ["edge_store.db-wal", "sync_queue.db-wal"] {
        let mut log = fs::read(home.data(name)).expect("log");
        log[..64].fill(0x5a);
        home.write(&format!("data/{name}"), &log);
    }
    home
}

/// It serves, both databases were recovered, and a reading is taken.
fn serves(home: &Home, name: &str) -> Value {
    let mut agent = home.start();
    let status = agent.wait_for(name, |s| {
        s["store"] == "running" && s["queue"]["state"] == "running"
    });
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    agent.stop();
    let recovered = status["recovered"].as_array().map_or(0, Vec::len);
    assert_eq!(
        recovered,
        2,
        "{name}: {:#}\n{}",
        status["recovered"],
        home.log()
    );
    assert!(
        home.values().len() >= 196,
        "{name}: {}",
        home.values().len()
    );
    assert_eq!(
        fs::read(home.path("notes")).expect("notes"),
        NOTES,
        "{name}"
    );
    status
}

/// `name` of `kind` was set aside, and status, log and audit log say so.
fn is_told(home: &Home, status: &Value, audit: &str, kind: Kind, name: &str) {
    let at = home.data(name).display().to_string();
    let all = status["set_aside"].as_array().expect("an array");
    let told = all.iter().find(|s| s["from"] == at.as_str());
    let told = told.unwrap_or_else(|| panic!("{name} {kind:?}: {all:#?}\n{}", home.log()));
    let to = told["to"].as_str().expect("a path");
    assert!(kind.is_at(home, Path::new(to)), "{name} {kind:?}: {to}");
    assert!(home.log().contains(to), "{name} {kind:?}: {}", home.log());
    assert!(audit.contains(to), "{name} {kind:?}: {audit}");
}

fn audited(home: &Home) -> String {
    let out = home.holdup(&["audit", "show", "--json"]);
    String::from_utf8(out.stdout).expect("UTF-8")
}

#[test]
fn whatever_lies_where_a_recovery_puts_its_files_is_set_aside_and_the_agent_serves() {
    for kind in Kind::ALL {
        let home = damaged();
        fs::remove_dir_all(home.data("evidence")).ok();
        let is_file = matches!(kind, Kind::Garbage | Kind::Text);
        let mut names = Vec::new();
        // A folder is what it is to be.
        names.extend((kind != Kind::Directory).then(|| "evidence".to_owned()));
        for database in ["edge_store.db", "sync_queue.db"] {
            for suffix in ["-recovery", "-holdup-new", "-holdup-new-wal"] {
                names.push(format!("{database}{suffix}"));
            }
            // As a file each of these may be one of ours.
            for suffix in ["-recovery.new", "-suspect", "-shm"] {
                names.extend((!is_file).then(|| format!("{database}{suffix}")));
            }
        }
        for suffix in ["-swap", "-rebuilt", "-salvaged"] {
            names.extend((!is_file).then(|| format!("sync_queue.db{suffix}")));
        }
        for name in &names {
            kind.plant(&home, &home.data(name));
        }
        let status = serves(&home, &format!("{kind:?}"));
        let audit = audited(&home);
        for name in &names {
            is_told(&home, &status, &audit, kind, name);
        }
    }
}

#[test]
fn whatever_lies_in_the_evidence_stays_there_and_the_recovery_is_done() {
    for kind in Kind::ALL {
        let home = damaged();
        fs::create_dir_all(home.data("evidence/y")).expect("folder");
        // One that would be removed first, with a folder in it that somebody put there.
        fs::create_dir_all(home.data("evidence/2001-01-01T000000Z/inner")).expect("folder");
        let old = r#"{"version":1,"number":18446744073709551615,"kept_at":"x",
            "clock_synchronised":false,"database":"/x","reason":"x","how":"copied",
            "files":[{"name":"../x","bytes":18446744073709551615,"sha256":""}]}"#;
        for file in ["manifest.json", "report.json"] {
            home.write(
                &format!("data/evidence/2001-01-01T000000Z/{file}"),
                old.as_bytes(),
            );
        }
        let names = ["x", "x.part", "y/manifest.json", "y/report.json"];
        let all = names.map(|n| home.data("evidence").join(n));
        for at in &all {
            kind.plant(&home, at);
        }
        serves(&home, &format!("{kind:?}"));
        for at in &all {
            assert!(kind.is_at(&home, at), "{} {kind:?}", at.display());
        }
        assert!(home.data("evidence/2001-01-01T000000Z/inner").is_dir());
    }
}
