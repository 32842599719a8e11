//! Brownout, battery, and lines that lie or are missing.

use std::time::Duration;

use crate::card::Card;
use crate::machine::MachineOptions;
use crate::parts::parts;
use crate::scene::{BROWNOUT, CARD, POWER_FAIL, Scene, Setting, compare, next_boot};

const BATTERY_LOW: u8 = 7;

#[test]
fn brownout_checkpoints_early_and_never_stops_service() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let scene = Scene::serving("brownout", parts, &card, Setting::default());
    let load = scene.load();
    let before = scene.wait_for_status("a WAL to checkpoint", |s| {
        s["wal_frames"].as_u64() > Some(30)
    });
    scene.machine.lines.set(BROWNOUT, true);
    let low = scene.wait_for_supply("Brownout");
    let early = scene.wait_for_status("the early checkpoint", |s| {
        s["wal_frames"].as_u64() < before["wal_frames"].as_u64()
    });
    scene.saw(&format!(
        "WAL frames before {}, after {}, supply {}",
        before["wal_frames"], early["wal_frames"], low["supply"]
    ));
    let held = load.account().acked;
    load.wait_for("more acknowledgements", |a| a.acked > held + 50);
    scene.machine.lines.set(BROWNOUT, false);
    let good = scene.wait_for_supply("Good");
    assert!(good["last_outage"].is_null());
    assert!(load.account().pauses.is_empty());
    let account = load.finish();
    scene.machine.power_off();
    compare("brownout", &card, &account);
}

#[test]
fn a_battery_is_ridden_until_it_is_low() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let setting = Setting {
        power: "source = \"battery\"",
        tables: "[board.battery_low]\nchip = \"9030000.pl061\"\noffset = 7\nactive = \"high\"\n",
        ..Setting::default()
    };
    let scene = Scene::serving("battery", parts, &card, setting);
    let load = scene.load();
    scene.machine.lines.set(POWER_FAIL, true);
    scene.wait_for_supply("OnBattery");
    let held = load.account().acked;
    load.wait_for("acknowledgements on the battery", |a| a.acked > held + 100);
    let riding = scene.wait_for_status("a nearly empty WAL", |s| {
        s["wal_frames"].as_u64() < Some(64)
    });
    assert!(load.account().pauses.is_empty());
    scene.saw(&format!(
        "on battery: {} acknowledged, {} WAL frames",
        load.account().acked,
        riding["wal_frames"]
    ));
    scene.machine.lines.set(BATTERY_LOW, true);
    let parked = scene.wait_for_supply("Parked");
    scene.saw_outage(&parked);
    assert_eq!(parked["last_outage"]["kind"], "battery_low");
    assert_eq!(parked["last_outage"]["ended"], "clean");
    scene.machine.cut_power();
    let status = next_boot("battery", parts, &card, &load.close());
    assert_eq!(status["last_outage"]["kind"], "battery_low");
    assert_eq!(status["last_outage"]["ended"], "clean");
}

#[test]
fn an_agent_started_with_the_line_low_parks_and_serves_when_power_is_back() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let toml = Setting::default().toml();
    let options = MachineOptions {
        config_toml: &toml,
        high_lines: &[POWER_FAIL],
        ..MachineOptions::default()
    };
    let scene = Scene::boot("started with the line low", parts, &card, &options);
    let parked = scene.wait_for_supply("Parked");
    scene.saw_outage(&parked);
    let load = scene.load_at(crate::load::Rate::Every(Duration::from_millis(5)));
    let told = load.wait_for("the pause", |a| a.is_paused());
    assert_eq!(
        (told.pauses[0].0.as_str(), told.acked),
        ("power_failing", 0)
    );
    scene.machine.lines.set(POWER_FAIL, false);
    scene.wait_for_supply("Good");
    load.wait_for("acknowledgements", |a| a.acked > 50);
    let account = load.finish();
    scene.machine.power_off();
    compare("started with the line low", &card, &account);
}

#[test]
fn a_line_that_says_lost_for_ever_is_not_believed_for_ever() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    // Five hold-up times are less than the least of 30 s.
    let setting = Setting {
        holdup_ms: 5000,
        ..Setting::default()
    };
    let scene = Scene::serving("stuck line", parts, &card, setting);
    let load = scene.load();
    scene.machine.lines.set(POWER_FAIL, true);
    scene.wait_for_supply("Parked");
    let stuck = scene.wait_for_supply("Good");
    assert_eq!(stuck["readiness"], "Unprotected");
    assert!(
        stuck["reasons"]
            .as_array()
            .expect("reasons")
            .contains(&"line_stuck".into())
    );
    scene.saw(&format!(
        "resumed as {} {}",
        stuck["readiness"], stuck["reasons"]
    ));
    let log = scene.machine.log_of(&scene.agent);
    assert!(!log.contains("power is back: service"), "{log}");
    let held = load.account().acked;
    load.wait_for("more acknowledgements", |a| a.acked > held + 50);
    scene.machine.lines.set(POWER_FAIL, false);
    scene.wait_for_status("the line to be believed again", |s| {
        s["readiness"] != "Unprotected"
    });
    let account = load.finish();
    scene.machine.power_off();
    compare("stuck line", &card, &account);
}

#[test]
fn a_missing_chip_or_line_is_said_loudly_and_the_agent_serves_on() {
    let Some(parts) = parts() else { return };
    for (what, line) in [
        (
            "missing chip",
            "[board.power_fail]\nchip = \"no-such-chip\"\n",
        ),
        ("missing line", "[board.power_fail]\noffset = 77\n"),
    ] {
        let card = Card::create(CARD);
        let setting = Setting {
            tables: line,
            ..Setting::default()
        };
        let scene = Scene::serving(what, parts, &card, setting);
        let status = scene.status();
        assert_eq!(status["readiness"], "Unprotected");
        assert!(
            status["reasons"]
                .as_array()
                .expect("reasons")
                .contains(&"line_missing".into())
        );
        let log = scene.machine.log_of(&scene.agent);
        assert!(log.contains("UNPROTECTED"), "{log}");
        scene.saw(&format!(
            "{}: {}",
            status["readiness"], status["gpio"]["error"]
        ));
        let load = scene.load();
        let account = load.finish();
        scene.machine.power_off();
        compare(what, &card, &account);
    }
}
