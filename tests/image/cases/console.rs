//! The technician's port, the gateway's second UART: the sessions that README shows, typed again.

use std::path::PathBuf;
use std::process::Command;

use crate::card::Card;
use crate::machine::{CONFIG, Machine, MachineOptions};
use crate::parts::{Parts, parts};
use crate::scene::{CARD, Scene, Setting, saw};
use crate::transcript::{Terminal, recorded};

const GATEWAY: &str = "plant-7";
/// In the place of systemd's: the gateway's root here is busybox. What it does is the same.
const SYSTEMCTL: &[u8] = br#"#!/bin/sh
run() { setsid holdup run --config /etc/holdup/holdup.toml </dev/null >>/run/jobs/agent.log 2>&1 & echo $! >/run/agent.pid; }
serves() { holdup status --json --config /etc/holdup/holdup.toml 2>/dev/null | grep -q '"store": *"running"'; }
end() { kill -TERM "$(cat /run/agent.pid)" 2>/dev/null; while kill -0 "$(cat /run/agent.pid)" 2>/dev/null; do sleep 0.1; done; }
# A start waits until readings are taken, or the agent has ended.
begin() { run; while kill -0 "$(cat /run/agent.pid)" 2>/dev/null && ! serves; do sleep 0.1; done; serves; }
case $1 in
    start) begin ;;
    stop) end ;;
    restart) end; begin ;;
    *) echo "systemctl: no $1 here" >&2; exit 1 ;;
esac
"#;

/// A laptop's key, and the list that lets it in.
struct Laptop {
    _home: tempfile::TempDir,
    key: PathBuf,
    signers: String,
}

impl Laptop {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let key = home.path().join("id_ed25519");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "kim@laptop", "-f"])
            .arg(&key)
            .status()
            .expect("ssh-keygen; tests/install installs it");
        assert!(made.success());
        let public = std::fs::read_to_string(key.with_extension("pub")).expect("public key");
        let words: Vec<&str> = public.split_whitespace().collect();
        let signers = format!("{} {} {}\n", words[2], words[0], words[1]);
        Self {
            _home: home,
            key,
            signers,
        }
    }
}

/// With a snapshot soon after the start.
fn toml(further: &str) -> String {
    let setting = Setting {
        tables: "[snapshot]\nevery_s = 60\n",
        ..Setting::default()
    };
    setting.toml().replace("qemu-1", GATEWAY) + further
}

/// Switches the gateway on; its service begins by itself.
fn boot_for(parts: &Parts, card: &Card, laptop: &Laptop, toml: &str) -> Machine {
    let options = MachineOptions {
        config_toml: toml,
        files: &[("/etc/holdup/allowed_signers", laptop.signers.as_bytes())],
        ..MachineOptions::default()
    };
    let machine = Machine::boot(parts, card, &options);
    let script = String::from_utf8_lossy(SYSTEMCTL);
    let script = crate::console::quoted(&script);
    machine.run(&format!(
        "printf %s {script} >/bin/systemctl; chmod +x /bin/systemctl; mkdir -p /run/systemd/system"
    ));
    machine.mount("/data");
    machine.sh("systemctl start");
    machine
}

/// The laptop is at the cable before the console begins: what it says first is seen.
fn at_the_cable<'a>(machine: &Machine, laptop: &'a Laptop) -> Terminal<'a> {
    let terminal = Terminal::new(machine.serial_port(), &laptop.key);
    machine.spawn(
        "console",
        &format!("holdup --config {CONFIG} console --port /dev/ttyAMA1"),
    );
    terminal
}

#[test]
fn a_technician_gets_a_gateway_with_a_destroyed_store_to_serve_again() {
    let Some(parts) = parts() else { return };
    let laptop = Laptop::new();
    let card = Card::create(CARD);
    let toml = toml("");
    let options = MachineOptions {
        config_toml: &toml,
        ..MachineOptions::default()
    };
    let scene = Scene::boot("console", parts, &card, &options);
    scene.wait_for_service();
    let load = scene.load();
    load.wait_for("acknowledgements", |a| a.acked > 300);
    scene.wait_for_status("a snapshot", |s| {
        let newest = s["snapshots"]["newest"].as_array();
        newest.is_some_and(|n| n.iter().any(|n| n["database"] == "edge_store.db"))
    });
    load.finish();
    // A colleague's mistake: the store's dump written over the store.
    scene.machine.signal(&scene.agent, "TERM");
    scene.machine.wait_for_end(&scene.agent);
    scene.machine.run(
        "echo 'PRAGMA foreign_keys=OFF; BEGIN TRANSACTION; CREATE TABLE readings(' \
         >/data/edge_store.db; rm -f /data/edge_store.db-wal; sync",
    );
    scene.machine.cut_power();

    let machine = boot_for(parts, &card, &laptop, &toml);
    machine.wait_for("the agent's end", |m| {
        (m.sh("kill -0 $(cat /run/agent.pid)").status != 0).then_some(())
    });
    let mut terminal = at_the_cable(&machine, &laptop);
    let screen = terminal.replay(&recorded("a destroyed store"), GATEWAY);
    saw("console", &format!("replayed:\n{screen}"));
    let told = machine.run(&format!(
        "echo '{{\"sensor_name\":\"after\",\"timestamp\":1,\"value\":-1}}' | \
         holdup ingest --config {CONFIG} 2>&1"
    ));
    assert!(told.contains("acknowledged 1"), "{told}");
    let shown = machine.run(&format!("holdup audit show --json --config {CONFIG}"));
    for what in ["console.login", "data set-aside", "\"recovery\""] {
        assert!(
            shown
                .lines()
                .any(|l| l.contains(what) && l.contains("kim@laptop")),
            "{what} by kim: {shown}"
        );
    }
}

#[test]
fn a_technician_resets_a_gateway_and_nothing_that_it_held_is_left() {
    const MARK: &str = "press-in-hall-4";
    let Some(parts) = parts() else { return };
    let laptop = Laptop::new();
    let card = Card::create(CARD);
    let keygen = Command::new("age-keygen")
        .output()
        .expect("age-keygen; tests/install brings it");
    let secret = String::from_utf8(keygen.stdout).expect("text");
    let recipient = secret
        .lines()
        .find_map(|l| l.strip_prefix("# public key: "))
        .expect("a public key");
    let toml = toml(&format!(
        "[backup]\nrecipients = [{recipient:?}]\nevery_s = 0\n[queue]\nenabled = false\n"
    ));
    let machine = boot_for(parts, &card, &laptop, &toml);
    let ingest = |sensor: &str, n: u64| {
        let told = machine.run(&format!(
            "i=0; while [ $i -lt {n} ]; do i=$((i+1)); \
             echo '{{\"sensor_name\":\"{sensor}\",\"timestamp\":'$i',\"value\":1}}'; done | \
             holdup ingest --config {CONFIG} 2>&1"
        ));
        assert!(told.contains(&format!("acknowledged {n}")), "{told}");
    };
    ingest(MARK, 300);
    machine.wait_for("a snapshot", |m| {
        (m.sh("ls /data/snapshots/edge_store.db-*").status == 0).then_some(())
    });

    let mut terminal = at_the_cable(&machine, &laptop);
    let screen = terminal.replay(&recorded("a factory reset"), GATEWAY);
    saw("console", &format!("replayed:\n{screen}"));

    ingest("after", 20);
    let receipt = machine.run("cat /data/receipts/*.json");
    assert!(receipt.contains("kim@laptop"), "{receipt}");
    let shown = machine.run(&format!("holdup audit show --json --config {CONFIG}"));
    for what in ["console.command", "reset"] {
        assert!(
            shown
                .lines()
                .any(|l| l.contains(what) && l.contains("kim@laptop")),
            "{what} by kim: {shown}"
        );
    }
    // The backup made first is encrypted; everything else is searched for what the store held.
    let left = machine.sh(&format!("grep -rlF {MARK} /data"));
    assert_eq!(left.output, "", "readings are left");
    machine.cut_power();

    // The next morning it serves what came since.
    let machine = boot_for(parts, &card, &laptop, &toml);
    let status = machine.run(&format!("holdup reset status --config {CONFIG}"));
    assert!(status.contains("no reset is unfinished"), "{status}");
    machine.sh("systemctl stop");
    machine.power_off();
    let folder = tempfile::tempdir().expect("a folder");
    let db = card.extract_database("/edge_store.db", folder.path());
    let db = rusqlite::Connection::open(db).expect("open");
    let of = |sensor: &str| -> i64 {
        let sql = "SELECT count(*) FROM readings WHERE sensor_name = ?1";
        db.query_row(sql, [sensor], |r| r.get(0)).expect("count")
    };
    assert_eq!((of(MARK), of("after")), (0, 20));
}
