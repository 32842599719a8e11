//! Another application's database under a real writer: Debian's Python, its defaults, with and
//! without a unit of its own; and a gateway whose card is its root.

use std::time::Duration;

use rusqlite::Connection;

use crate::card::Card;
use crate::machine::{Job, Machine, MachineOptions};
use crate::parts::{Parts, parts, python};
use crate::scene::{CARD, POWER_FAIL, Scene, Setting, hold, outcome, saw};

/// Says what it committed after the commit, and what went wrong. `with db` is a transaction; five
/// seconds of patience and a rollback journal are Python's defaults.
const WRITER: &str = r#"
import sqlite3, sys, time
path, mode = sys.argv[1:]
db = sqlite3.connect(path)
if mode != "default":
    db.execute("PRAGMA journal_mode=" + mode)
with db:
    db.execute("CREATE TABLE IF NOT EXISTS items(n INTEGER PRIMARY KEY, body)")
print("mode", db.execute("PRAGMA journal_mode").fetchone()[0], sqlite3.sqlite_version, flush=True)
while True:
    try:
        with db:
            n = db.execute("INSERT INTO items(body) VALUES (zeroblob(100))").lastrowid
        print("committed", n, flush=True)
    except sqlite3.Error as e:
        print("error", e, flush=True)
    time.sleep(0.02)
"#;

const UNIT: &str = "/sys/fs/cgroup/system.slice/app.service";
const WITH_UNIT: &str = "[[database]]\npath = \"/data/app.db\"\nunit = \"app.service\"\n";
/// Longer than a Python writer waits for a lock.
const LONGER: Duration = Duration::from_secs(7);

/// A gateway with Python on a second disk, and a writer that runs in `app.service` where the
/// configuration names it.
fn python_writer(
    name: &'static str,
    parts: &Parts,
    card: &Card,
    setting: Setting,
    mode: &str,
) -> Option<(Scene, Job)> {
    let image = python()?;
    let drive = format!(
        "id=python,if=none,format=raw,readonly=on,file={}",
        image.display()
    );
    let toml = setting.toml();
    let options = MachineOptions {
        config_toml: &toml,
        modules: &["virtio_blk"],
        qemu_args: &[
            "-drive",
            &drive,
            "-device",
            "virtio-blk-pci,drive=python,romfile=",
        ],
        files: &[("/root/writer.py", WRITER.as_bytes())],
        ..MachineOptions::default()
    };
    let machine = Machine::boot(parts, card, &options);
    machine.mount("/data");
    // As the service manager has done long before an agent starts.
    machine.run("mount -t cgroup2 none /sys/fs/cgroup");
    machine.run(&format!("mkdir -p {UNIT}"));
    let agent = machine.spawn_agent();
    let scene = Scene {
        name,
        machine,
        agent,
    };
    let machine = &scene.machine;
    machine.wait_for("the disk with Python", |m| {
        (m.sh("[ -b /dev/vda ]").status == 0).then_some(())
    });
    machine.run("mkdir -p /py && mount -t ext4 -o ro,noload /dev/vda /py");
    machine.run("ln -s /py/usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1 /lib/");
    let join = if setting.tables.contains("unit") {
        format!("echo $$ >{UNIT}/cgroup.procs && ")
    } else {
        String::new()
    };
    let python = "LD_LIBRARY_PATH=/py/usr/lib/aarch64-linux-gnu PYTHONHOME=/py/usr \
                  exec /py/usr/bin/python /root/writer.py /data/app.db";
    let writer = machine.spawn("writer", &format!("sh -c '{join}{python} {mode}'"));
    scene.wait_for_service();
    wait_for_rows(machine, &writer, 10);
    let log = machine.log_of(&writer);
    scene.saw(log.lines().next().unwrap_or("nothing"));
    Some((scene, writer))
}

/// The last row that the writer reported.
fn committed(machine: &Machine, writer: &Job) -> u64 {
    machine
        .log_of(writer)
        .lines()
        .rev()
        .find_map(|l| l.strip_prefix("committed ")?.parse().ok())
        .unwrap_or(0)
}

fn wait_for_rows(machine: &Machine, writer: &Job, more_than: u64) {
    machine.wait_for("the writer's rows", |m| {
        assert!(m.is_running(writer), "{}", m.log_of(writer));
        (committed(m, writer) > more_than).then_some(())
    });
}

fn complaints(machine: &Machine, writer: &Job) -> Vec<String> {
    let log = machine.log_of(writer);
    let mut found = Vec::new();
    for line in log.lines().filter(|l| !l.starts_with("committed ")).skip(1) {
        found.push(line.to_owned());
    }
    found
}

fn guarded_state(status: &serde_json::Value) -> String {
    status["databases"][1]["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Power fails once more, on what the first outage left of the charge, and the plug is pulled.
fn compare_after_a_second_outage(scene: Scene, writer: &Job, card: &Card) {
    let left = scene.status();
    scene.saw(&format!(
        "{} of {} ms are left for a second outage",
        left["holdup_left_ms"], left["holdup_ms"]
    ));
    scene.machine.lines.set(POWER_FAIL, true);
    let parked = scene.wait_for_supply("Parked");
    scene.saw(&format!("parked again: {}", guarded_state(&parked)));
    let steps = parked["last_outage"]["steps"].as_array().expect("steps");
    scene.saw_outage(&parked);
    // Where time was short the first attempt may have failed, never the last one.
    let stilled = |s: &&serde_json::Value| s["step"] == "still" && s["database"] == "app.db";
    let stilled = steps.iter().rfind(stilled).expect("a step");
    assert_eq!(stilled["outcome"], "done", "{stilled}");
    let promised = committed(&scene.machine, writer);
    scene.machine.cut_power();
    let name = scene.name;
    drop(scene);
    compare(name, card, promised);
}

/// After the cut: every row that was reported is there, and the database is sound.
fn compare(name: &str, card: &Card, promised: u64) {
    card.fsck();
    let folder = tempfile::tempdir().expect("a folder");
    let path = card.extract_database("/app.db", folder.path());
    let journal = folder.path().join("app.db-journal").exists();
    let db = Connection::open(path).expect("open");
    let sound: String = db
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .expect("check");
    let (rows, last): (u64, u64) = db
        .query_row("SELECT count(*), max(n) FROM items", [], |r| {
            Ok((r.get::<_, i64>(0)? as u64, r.get::<_, i64>(1)? as u64))
        })
        .expect("rows");
    saw(
        name,
        &format!(
            "the writer reported {promised} rows, {rows} are on the card (journal there: \
             {journal}), integrity {sound}"
        ),
    );
    assert_eq!(sound, "ok");
    assert!(rows >= promised && rows == last, "{rows} of {promised}");
}

fn a_stilled_unit_loses_nothing_and_notices_nothing(name: &'static str, mode: &str) {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let setting = Setting {
        tables: WITH_UNIT,
        ..Setting::default()
    };
    let Some((scene, writer)) = python_writer(name, parts, &card, setting, mode) else {
        return;
    };
    let machine = &scene.machine;
    let watched = scene.wait_for_status("the unit to be found", |s| {
        guarded_state(s).contains("unit app.service can be stopped")
    });
    scene.saw(&format!("before: {}", guarded_state(&watched)));

    machine.lines.set(POWER_FAIL, true);
    let parked = scene.wait_for_supply("Parked");
    scene.saw_outage(&parked);
    scene.saw(&format!("parked: {}", guarded_state(&parked)));
    assert!(guarded_state(&parked).contains("unit app.service is stopped"));
    assert!(
        machine
            .run(&format!("cat {UNIT}/cgroup.events"))
            .contains("frozen 1")
    );
    let held = committed(machine, &writer);
    hold(LONGER, || committed(machine, &writer) == held);
    machine.lines.set(POWER_FAIL, false);
    scene.wait_for_supply("Good");
    wait_for_rows(machine, &writer, held + 10);
    assert_eq!(complaints(machine, &writer), Vec::<String>::new());
    scene.saw(&format!(
        "stood at {held}, then went on without an error: {}",
        committed(machine, &writer)
    ));

    compare_after_a_second_outage(scene, &writer, &card);
}

#[test]
fn a_python_writer_in_its_unit_loses_no_row_and_sees_no_error() {
    a_stilled_unit_loses_nothing_and_notices_nothing("python, rollback", "default");
}

#[test]
fn a_python_writer_with_a_wal_in_its_unit_loses_no_row_and_sees_no_error() {
    a_stilled_unit_loses_nothing_and_notices_nothing("python, WAL", "wal");
}

#[test]
fn a_python_writer_without_a_unit_meets_the_lock_and_goes_on_after() {
    let Some(parts) = parts() else { return };
    let name = "python, no unit";
    let card = Card::create(CARD);
    let setting = Setting {
        power: "freeze = \"never\"",
        tables: "[[database]]\npath = \"/data/app.db\"\n",
        ..Setting::default()
    };
    let Some((scene, writer)) = python_writer(name, parts, &card, setting, "default") else {
        return;
    };
    let machine = &scene.machine;
    machine.lines.set(POWER_FAIL, true);
    let parked = scene.wait_for_supply("Parked");
    scene.saw(&format!("parked: {}", guarded_state(&parked)));
    assert!(guarded_state(&parked).contains("its writers wait"));
    let held = committed(machine, &writer);
    let error = machine.wait_for("Python to give up", |m| complaints(m, &writer).pop());
    assert_eq!(error, "error database is locked");
    assert_eq!(committed(machine, &writer), held, "it wrote while parked");
    machine.lines.set(POWER_FAIL, false);
    scene.wait_for_supply("Good");
    wait_for_rows(machine, &writer, held + 10);
    scene.saw(&format!(
        "stood at {held}, said {error:?}, and went on after: {}",
        committed(machine, &writer)
    ));
    compare_after_a_second_outage(scene, &writer, &card);
}

#[test]
fn a_unit_left_stopped_by_an_agent_that_was_killed_goes_on_with_the_next() {
    let Some(parts) = parts() else { return };
    let name = "killed with a unit stopped";
    let card = Card::create(CARD);
    let setting = Setting {
        tables: WITH_UNIT,
        ..Setting::default()
    };
    let Some((mut scene, writer)) = python_writer(name, parts, &card, setting, "default") else {
        return;
    };
    scene.machine.lines.set(POWER_FAIL, true);
    let parked = scene.wait_for_supply("Parked");
    assert!(guarded_state(&parked).contains("unit app.service is stopped"));
    let held = committed(&scene.machine, &writer);
    scene.machine.signal(&scene.agent, "KILL");
    scene.machine.wait_for_end(&scene.agent);
    // Power is back before the next agent looks: nothing but its start can let the unit go.
    scene.machine.lines.set(POWER_FAIL, false);
    hold(Duration::from_secs(2), || {
        committed(&scene.machine, &writer) == held
    });
    scene.agent = scene
        .machine
        .spawn("agent2", "holdup run --config /etc/holdup/holdup.toml");
    scene.wait_for_service();
    let log = scene.machine.log_of(&scene.agent);
    assert!(log.contains("let unit app.service go on"), "{log}");
    wait_for_rows(&scene.machine, &writer, held + 10);
    assert_eq!(complaints(&scene.machine, &writer), Vec::<String>::new());

    // Told to stop while parked, an agent lets it go itself.
    scene.machine.lines.set(POWER_FAIL, true);
    scene.wait_for_supply("Parked");
    let held = committed(&scene.machine, &writer);
    scene.machine.signal(&scene.agent, "TERM");
    scene.machine.wait_for_end(&scene.agent);
    wait_for_rows(&scene.machine, &writer, held + 10);
    scene.saw(&format!(
        "went on after a killed agent's successor started, and after one was told to stop: {}",
        committed(&scene.machine, &writer)
    ));
}

#[test]
fn a_gateway_whose_card_is_its_root_is_never_frozen_and_keeps_everything_else() {
    let Some(parts) = parts() else { return };
    let name = "card as root";
    let card = Card::create(CARD);
    let toml = Setting::default().toml();
    let options = MachineOptions {
        config_toml: &toml,
        kernel_args: "holdup.root=card",
        ..MachineOptions::default()
    };
    let boot = || {
        let machine = Machine::boot(parts, &card, &options);
        assert!(
            machine
                .run("cat /proc/mounts")
                .contains("/dev/mmcblk0p1 / ext4")
        );
        let agent = machine.spawn_agent();
        let scene = Scene {
            name,
            machine,
            agent,
        };
        scene.wait_for_service();
        scene
    };
    let scene = boot();
    let refused = scene.status()["freeze_refused"].clone();
    scene.saw(&format!("status says: {refused}"));
    assert!(
        refused
            .as_str()
            .is_some_and(|r| r.contains("root file system"))
    );
    let load = scene.load();
    scene.machine.lines.set(POWER_FAIL, true);
    let parked = scene.wait_for_supply("Parked");
    scene.saw_outage(&parked);
    assert_eq!(outcome(&parked, "freeze"), "skipped");
    assert_eq!(outcome(&parked, "end_mark"), "done");
    // Everybody else lives on: the root is not frozen.
    scene.machine.run("echo alive >/alive && sync");
    let told = load.wait_for("the pause", |a| a.is_paused());
    scene.machine.lines.set(POWER_FAIL, false);
    scene.wait_for_supply("Good");
    load.wait_for("more readings", |a| a.acked > told.acked + 50);
    scene.machine.lines.set(POWER_FAIL, true);
    scene.wait_for_supply("Parked");
    scene.machine.cut_power();
    let account = load.close();
    drop(scene);

    let scene = boot();
    let status = scene.status();
    scene.saw(&format!(
        "the next boot says {}",
        status["last_outage"]["ended"]
    ));
    assert_eq!(status["last_outage"]["ended"], "clean");
    scene.machine.signal(&scene.agent, "TERM");
    scene.machine.wait_for_end(&scene.agent);
    scene.machine.run("sync");
    scene.machine.cut_power();
    drop(scene);
    card.fsck();
    let folder = tempfile::tempdir().expect("a folder");
    let path = card.extract_database("/data/edge_store.db", folder.path());
    let db = Connection::open(path).expect("open");
    // Reading n has the value n.
    let (all, kept): (i64, i64) = db
        .query_row(
            "SELECT count(*), count(DISTINCT CASE WHEN value < ?1 THEN value END) FROM readings",
            [account.acked as i64],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .expect("rows");
    saw(
        name,
        &format!(
            "acknowledged {}, kept of them {kept}, stored {all}",
            account.acked
        ),
    );
    assert!(account.errors.is_empty(), "{:?}", account.errors);
    assert_eq!(kept as u64, account.acked);
}
