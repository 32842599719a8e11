//! The hold-up time is measured by pulling the plug, and the plan is rehearsed under load.

use std::time::Duration;

use serde_json::Value;

use crate::card::Card;
use crate::machine::{CONFIG, Machine, MachineOptions};
use crate::parts::parts;
use crate::patience::Stopwatch;
use crate::scene::{CARD, POWER_FAIL, Scene, Setting, compare, compare_from, hold};

/// What the supply of this gateway lasts: then QEMU is killed.
const LASTS: Duration = Duration::from_secs(6);

/// What a verb of `holdup power` prints as JSON, with its exit code.
fn power(machine: &Machine, verb: &str) -> (i32, Value) {
    let answer = machine.sh(&format!("holdup power {verb} --json --config {CONFIG}"));
    let value = serde_json::from_str(&answer.output)
        .unwrap_or_else(|e| panic!("{verb}: {e}: {}", answer.output));
    (answer.status, value)
}

#[test]
fn a_pulled_plug_measures_the_supply_and_a_shorter_one_puts_the_gateway_at_risk() {
    let name = "measured hold-up";
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let unmeasured = Setting {
        holdup_ms: 0,
        // So slow that a busy host cannot recharge it before the second boot is looked at.
        power: "recharge_s = 3600",
        ..Setting::default()
    };
    let scene = Scene::serving(name, parts, &card, unmeasured);
    let load = scene.load();
    assert_eq!(scene.status()["readiness"], "Unprotected");
    let (code, armed) = power(&scene.machine, "measure --yes");
    assert_eq!(code, 0, "{armed}");
    scene.wait_for_status("armed", |s| s["measuring"] == "armed");

    scene.machine.lines.set(POWER_FAIL, true);
    let watch = Stopwatch::start();
    let parked = scene.wait_for_supply("Parked");
    assert_eq!(parked["measuring"], "running");
    scene.saw_outage(&parked);
    // On a busy host it takes its time to park: some stamps must follow in any case.
    hold(
        LASTS
            .saturating_sub(watch.elapsed())
            .max(Duration::from_secs(2)),
        || true,
    );
    scene.machine.cut_power();
    let lasted = watch.elapsed().as_secs_f64() * 1000.0;
    let account = load.close();
    drop(scene);

    let scene = Scene::serving(name, parts, &card, unmeasured);
    let status = scene.status();
    // Late is as good here: unmeasured, half a second is assumed, and an emulated machine has it
    // only on a quiet host.
    assert_ne!(status["last_outage"]["ended"], "cut", "{status}");
    assert_eq!(status["last_outage"]["kind"], "power_fail", "{status}");
    let left = status["holdup_left_ms"].as_u64();
    assert!(
        left < Some(250),
        "the supply was emptied and is full: {left:?}"
    );
    scene.saw(&format!(
        "the boot after it counts {} ms of 500 ms assumed: the supply is recharging",
        status["holdup_left_ms"]
    ));
    let (code, history) = scene.machine.wait_for("the history", |m| {
        let (code, history) = power(m, "history");
        history["measurements"].get(0)?;
        Some((code, history))
    });
    assert_eq!(code, 0);
    let entry = &history["measurements"][0];
    let gave = entry["gave_ms"].as_f64().expect("gave_ms");
    scene.saw(&format!(
        "QEMU killed {lasted:.0} ms after the edge; reported {gave:.0} ms ({:+.1} %), to {} ms, \
         {} stamps of {} ms, the slowest {} ms; proposed {} ms",
        (gave / lasted - 1.0) * 100.0,
        entry["resolution_ms"],
        entry["stamps"],
        entry["write_mean_ms"],
        entry["write_worst_ms"],
        entry["proposed_ms"],
    ));
    assert!(
        (gave - lasted).abs() <= lasted * 0.2,
        "{gave} ms reported, {lasted} ms measured from outside"
    );
    assert_eq!(entry["at_least"], false);
    assert_eq!(entry["configured_ms"], Value::Null);
    let proposed = entry["proposed_ms"].as_u64().expect("a proposal");
    assert_eq!(proposed, (gave * 0.8) as u64 / 10 * 10);
    let text = scene
        .machine
        .run(&format!("holdup power history --config {CONFIG}"));
    scene.saw(text.trim());
    let log = scene.machine.log_of(&scene.agent);
    let said = log.lines().find(|l| l.contains("hold-up time measured"));
    scene.saw(said.expect("the log says it"));
    scene.machine.power_off();
    compare(name, &card, &account);

    // Configured longer than what was measured: said before the next loss.
    let hopeful = Setting {
        holdup_ms: 12_000,
        ..Setting::default()
    };
    let scene = Scene::serving(name, parts, &card, hopeful);
    let status = scene.wait_for_status("the risk", |s| {
        let reasons = s["reasons"].as_array();
        reasons.is_some_and(|r| r.contains(&"measured_shorter".into()))
    });
    assert_eq!(status["readiness"], "AtRisk");
    scene.saw(&format!("{}: {}", status["readiness"], status["advice"]));
    scene.machine.power_off();
}

#[test]
fn a_rehearsal_under_load_freezes_and_thaws_and_reports_each_step() {
    let name = "rehearsal";
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let scene = Scene::serving(name, parts, &card, Setting::default());
    let load = scene.load();
    scene.wait_for_status("readiness", |s| s["readiness"] == "Ready");
    let (code, report) = power(&scene.machine, "rehearse");
    let text = scene.status();
    for s in report["plan"]["steps"].as_array().into_iter().flatten() {
        let ms = |v: &Value| {
            v.as_u64()
                .map_or_else(|| "-".to_owned(), |us| format!("{:.1}", us as f64 / 1000.0))
        };
        scene.saw(&format!(
            "  {} {} in {} ms (expected {}, worst {})",
            s["step"],
            s["outcome"],
            ms(&s["took_us"]),
            ms(&s["expected_us"]),
            ms(&s["worst_us"]),
        ));
    }
    scene.saw(&format!(
        "used {} ms, {} % of {} ms; made it: {}",
        report["used_ms"], report["used_percent"], report["holdup_ms"], report["made_it"]
    ));
    for step in [
        "commit",
        "quiet",
        "checkpoint",
        "end_mark",
        "syncfs",
        "freeze",
        "thaw",
    ] {
        let steps = report["plan"]["steps"].as_array().expect("steps");
        let of = steps.iter().find(|s| s["step"] == step);
        assert_eq!(of.expect(step)["outcome"], "done", "{step}");
    }
    assert_eq!((code, &report["made_it"]), (0, &true.into()));
    assert!(text["last_outage"].is_null(), "a rehearsal is no outage");
    let held = load.account().acked;
    let account = load.wait_for("more acknowledgements", |a| {
        !a.is_paused() && a.acked > held + 50
    });
    assert!(account.pauses.iter().all(|(why, _)| why == "power_failing"));
    scene.saw(&format!(
        "{} paused, {} resumed, thawed and serving",
        account.pauses.len(),
        account.resumed
    ));
    let account = load.finish();
    scene.machine.power_off();
    compare(name, &card, &account);
}

/// Killed while the rehearsal holds the file system frozen: the window is short, so it is tried
/// until the next agent says that it thawed.
#[test]
fn an_agent_killed_in_a_rehearsal_is_thawed_by_the_next_one() {
    let name = "killed in rehearsal";
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let mut scene = Scene::serving(name, parts, &card, Setting::default());
    let thawed = (1..=20).find(|n| {
        let rehearse = scene.machine.spawn(
            &format!("rehearse{n}"),
            &format!("holdup power rehearse --json --config {CONFIG}"),
        );
        scene.machine.sh(&format!(
            "until holdup status --json --config {CONFIG} | grep -q '\"step\": \"freeze\"'; do \
             [ -d /proc/{} ] || break; done",
            rehearse.pid()
        ));
        scene.machine.kill(&scene.agent);
        scene.machine.kill(&rehearse);
        scene.agent = scene.machine.spawn(
            &format!("agent{n}"),
            &format!("holdup run --config {CONFIG}"),
        );
        scene.wait_for_service();
        let last = scene.status()["last_outage"].clone();
        assert_eq!(last["ended"], "never_announced", "{last}");
        let log = scene.machine.log_of(&scene.agent);
        let thawed = log.contains("thawed /data");
        scene.saw(&format!(
            "try {n}: frozen when killed: {thawed}; the next agent says {}",
            last["kind"]
        ));
        if thawed {
            assert_eq!(last["kind"], "rehearsal");
        }
        thawed
    });
    assert!(thawed.is_some(), "never killed while frozen");
    let load = scene.load();
    let account = load.finish();
    scene.machine.power_off();
    compare(name, &card, &account);
}

/// The plug is pulled while the rehearsal's plan runs (a slow card keeps it there) and while it is
/// parked; the line tells of it or not.
#[test]
fn a_plug_pulled_in_the_middle_of_a_rehearsal_loses_nothing_acknowledged() {
    let name = "plug in rehearsal";
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let mut base = 0;
    for announced in [false, true] {
        let setting = Setting {
            power: "recharge_s = 0",
            ..Setting::default()
        };
        let toml = setting.toml();
        let options = MachineOptions {
            config_toml: &toml,
            ..MachineOptions::default()
        };
        let scene = Scene::boot(name, parts, &card, &options);
        scene.wait_for_service();
        let load = crate::load::Load::start(
            &scene.machine,
            "feed0",
            crate::load::Rate::FlatOut,
            move |n| crate::scene::reading(n + base),
        )
        .0;
        load.wait_for("acknowledgements", |a| a.acked > 300);
        scene.machine.throttle_writes(Some(64 << 10));
        scene.machine.spawn(
            "rehearse",
            &format!("holdup power rehearse --config {CONFIG}"),
        );
        scene.wait_for_supply("Rehearsing");
        if announced {
            scene.machine.lines.set(POWER_FAIL, true);
            scene.wait_for_status("the real plan", |s| {
                matches!(s["supply"].as_str(), Some("Failing" | "Parked"))
            });
        }
        scene.machine.cut_power();
        let account = load.close();
        scene.saw(&format!(
            "plug pulled in a rehearsal, announced: {announced}, {} acknowledged",
            account.acked
        ));
        drop(scene);
        let begins = base;
        base += account.sent;
        let scene = Scene::serving(name, parts, &card, setting);
        let last = scene.status()["last_outage"].clone();
        scene.saw(&format!(
            "the next boot says: {} {}",
            last["kind"], last["ended"]
        ));
        scene.machine.power_off();
        compare_from(name, &card, begins, &account);
        if announced {
            // Its begin mark may not have reached the slow card, either.
            assert!(
                last["kind"] == "power_fail" || last["ended"] == "never_announced",
                "{last}"
            );
        } else {
            // Its begin mark may not have reached the slow card.
            assert!(
                last["kind"] == "rehearsal" || last["kind"] == "power_cut",
                "{last}"
            );
            assert_eq!(last["ended"], "never_announced");
        }
    }
}
