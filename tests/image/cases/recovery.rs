//! A card whose write-ahead log was damaged between two boots: the gateway puts itself right.

use serde_json::Value;

use crate::card::Card;
use crate::machine::MachineOptions;
use crate::parts::parts;
use crate::scene::{CARD, Scene, Setting, compare_ranges, saw};

const NAME: &str = "recovery";

#[test]
fn a_log_damaged_between_two_boots_is_recovered_and_nobody_is_asked() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let toml = Setting::default().toml();
    let options = MachineOptions {
        config_toml: &toml,
        ..MachineOptions::default()
    };
    let scene = Scene::boot(NAME, parts, &card, &options);
    scene.wait_for_service();
    let load = scene.load();
    load.wait_for("acknowledgements", |a| a.acked > 600);
    scene.machine.cut_power();
    let account = load.close();

    // What a card does that forgets a sector.
    card.fsck();
    card.overwrite("/edge_store.db-wal", &[0xa5; 512]);

    let scene = Scene::serving(NAME, parts, &card, Setting::default());
    let status = scene.status();
    let report = status["recovered"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|r| r["verdict"] == "salvaged")
        .unwrap_or_else(|| panic!("no report of a salvaged store: {status:#}"));
    let evidence = report["evidence"].as_str().expect("evidence").to_owned();
    let words = scene
        .machine
        .run("holdup status --config /etc/holdup/holdup.toml");
    assert!(words.contains("salvaged"), "{words}");
    let audit = scene
        .machine
        .run("holdup audit show --json --config /etc/holdup/holdup.toml");
    let entry = audit
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .find(|e| e["action"] == "recovery" && e["details"]["result"] == "salvaged");
    assert!(entry.is_some(), "no entry of the recovery: {audit}");
    let listed = scene.machine.run(&format!("ls {evidence}"));
    for name in ["edge_store.db", "edge_store.db-wal", "manifest.json"] {
        assert!(listed.contains(name), "{name} in {listed}");
    }
    let told = scene.machine.run(
        "echo '{\"sensor_name\":\"after\",\"timestamp\":1,\"value\":-1}' | \
         holdup ingest --config /etc/holdup/holdup.toml 2>&1",
    );
    assert!(told.contains('1'), "{told}");
    scene.machine.power_off();

    let (acked, missing, twice) = compare_ranges(&card, &[(0, account.acked)]);
    let lost = missing.len() as u64;
    saw(
        NAME,
        &format!(
            "{}: {acked} acknowledged, {lost} missing, evidence {evidence}",
            report["found"]
        ),
    );
    assert!(lost * 100 <= acked, "{missing:?}");
    assert!(twice.is_empty(), "{twice:?}");
}
