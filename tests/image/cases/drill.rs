//! Drills of every disaster, held by the gateway itself: its own processor, on its own card,
//! beside the agent that serves.

use std::time::Duration;

use holdup::drill::Scenario;
use rusqlite::Connection;
use serde_json::Value;

use crate::card::Card;
use crate::console::quoted;
use crate::load::Rate;
use crate::machine::{CONFIG, Machine, MachineOptions};
use crate::parts::parts;
use crate::patience::{GENEROUS, Stopwatch, poll};
use crate::scene::{Scene, Setting, saw};

const NAME: &str = "drill";
/// Room for a drill's gateways beside the live one.
const ROOMY: u64 = 512 << 20;
/// Readings before each disaster: an emulated processor is slow.
const ROWS: u64 = 200;

/// The live gateway beneath the card's root: a drill's home may lie beside it, and not in it.
fn config() -> String {
    let setting = Setting {
        tables: "[drill]\nhome = \"/data/drills\"\n",
        ..Setting::default()
    };
    let toml = setting.toml();
    let beneath = toml.replace("data_dir = \"/data\"", "data_dir = \"/data/live\"");
    assert_ne!(beneath, toml);
    beneath
}

/// How the drill ended, once it has; asked in the gateway, where a look is cheap.
fn ended(machine: &Machine) -> Option<i32> {
    let look = "n=0; until [ -s /run/drill.status ] || [ $n -ge 60 ]; do sleep 1; n=$((n+1)); done; \
                cat /run/drill.status";
    machine.sh(look).output.trim().parse().ok()
}

#[test]
fn every_drill_passes_on_the_gateway_itself_beside_the_agent_that_serves() {
    let Some(parts) = parts() else { return };
    let card = Card::create(ROOMY);
    let toml = config();
    let options = MachineOptions {
        config_toml: &toml,
        ..MachineOptions::default()
    };
    let machine = Machine::boot(parts, &card, &options);
    machine.mount("/data");
    machine.run("mkdir /data/live /data/drills");
    let agent = machine.spawn_agent();
    let scene = Scene {
        name: NAME,
        machine,
        agent,
    };
    scene.wait_for_service();
    let load = scene.load_at(Rate::Every(Duration::from_millis(50)));
    load.wait_for("acknowledgements", |a| a.acked > 10);

    let watch = Stopwatch::start();
    let drill = format!(
        "holdup drill --scenario all --rows {ROWS} --seed 1 --home /data/drills --technician maria \
         --json --report /data/drill.html --config {CONFIG} >/run/drill.json; \
         echo $? >/run/drill.status"
    );
    let job = scene
        .machine
        .spawn(NAME, &format!("sh -c {}", quoted(&drill)));
    let status = poll(GENEROUS * 4, || ended(&scene.machine));
    let took = watch.elapsed();
    let said = scene.machine.log_of(&job);
    let evidence = scene.machine.run("cat /run/drill.json");
    assert_eq!(status, Some(0), "{said}{evidence}");
    let evidence: Value = serde_json::from_str(&evidence).expect("evidence");
    tell(&evidence, took);
    all_passed(&evidence);
    assert_eq!(scene.machine.run("ls -A /data/drills"), "", "it cleans up");
    let page = scene.machine.run("head -c 15 /data/drill.html");
    assert!(page.eq_ignore_ascii_case("<!doctype html>"), "{page}");

    // The agent that serves takes it up, without a restart.
    let status = scene.wait_for_status("the drill", |s| s["drill"]["last"].is_object());
    assert_eq!(status["drill"]["last"]["passed"], true, "{status:#}");
    assert_eq!(status["supply"], "Good");
    assert!(
        status["last_outage"].is_null(),
        "a drill's outages are its own"
    );
    scene
        .machine
        .wait_for("its entry in the audit log", |machine| {
            let shown = machine.run(&format!("holdup audit show --json --config {CONFIG}"));
            let entered = |l: &str| l.contains("\"drill\"") && l.contains("maria");
            shown.lines().any(entered).then_some(())
        });

    // What was acknowledged meanwhile is in the live store, and nothing of a drill is.
    let account = load.finish();
    scene.machine.power_off();
    let folder = tempfile::tempdir().expect("a folder");
    let store = card.extract_database("/live/edge_store.db", folder.path());
    let db = Connection::open(store).expect("open");
    let kept: u64 = db
        .query_row("SELECT count(DISTINCT value) FROM readings", [], |r| {
            r.get::<_, i64>(0)
        })
        .expect("count") as u64;
    let foreign: i64 = db
        .query_row(
            "SELECT count(*) FROM readings WHERE sensor_name LIKE 'drill-%'",
            [],
            |r| r.get(0),
        )
        .expect("count");
    saw(
        NAME,
        &format!("beside it {} acknowledged, {kept} kept", account.acked),
    );
    assert!(kept >= account.acked, "{kept} of {}", account.acked);
    assert_eq!(foreign, 0, "readings of a drill in the live store");
}

fn all_passed(evidence: &Value) {
    let held = evidence["scenarios"].as_array().expect("scenarios");
    let names: Vec<_> = held.iter().filter_map(|o| o["scenario"].as_str()).collect();
    let all: Vec<_> = Scenario::ALL.iter().map(|s| s.name()).collect();
    assert_eq!(names, all);
    for outcome in held {
        assert_eq!(outcome["verdict"], "pass", "{outcome:#}");
        assert_eq!(outcome["expected"]["count"], ROWS, "{outcome:#}");
        assert_eq!(outcome["integrity"], "ok", "{outcome:#}");
    }
    assert_eq!(evidence["passed"], true);
    let system = evidence["system"].as_str().unwrap_or_default();
    assert!(system.contains("aarch64"), "{system}");
    assert_eq!(evidence["medium"], "ext4", "it was held on the card");
}

/// The table: scenario, how long all of it and the outage took, rows found and expected.
fn tell(evidence: &Value, took: Duration) {
    let total = evidence["took_ms"].as_f64().unwrap_or(0.0) / 1e3;
    saw(
        NAME,
        &format!(
            "{total:.0} s in the gateway, {:.0} s here",
            took.as_secs_f64()
        ),
    );
    for o in evidence["scenarios"].as_array().into_iter().flatten() {
        let phases = o["phases"].as_array().into_iter().flatten();
        let all: f64 = phases.filter_map(|p| p["took_ms"].as_f64()).sum();
        let (found, expected) = (&o["found"]["count"], &o["expected"]["count"]);
        saw(
            NAME,
            &format!(
                "{:<18} {:<4} {:>6.1} s, recovered in {:>5.1} s, rows {found} of {expected}",
                o["scenario"].as_str().unwrap_or("?"),
                o["verdict"].as_str().unwrap_or("?"),
                all / 1e3,
                o["recovery_ms"].as_f64().unwrap_or(0.0) / 1e3,
            ),
        );
        for failure in o["failures"].as_array().into_iter().flatten() {
            saw(NAME, &format!("  {failure}"));
        }
    }
}
