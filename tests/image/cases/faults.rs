//! A slow card, a killed agent, another application's database.

use std::time::Duration;

use crate::card::Card;
use crate::machine::{Job, Machine};
use crate::parts::parts;
use crate::scene::{CARD, POWER_FAIL, Scene, Setting, compare, hold, next_boot, saw};

#[test]
fn a_card_too_slow_for_the_budget_is_said_before_and_the_plan_drops_what_does_not_fit() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let setting = Setting {
        holdup_ms: 1000,
        ..Setting::default()
    };
    let scene = Scene::serving("throttled card", parts, &card, setting);
    let load = scene.load();
    scene.machine.throttle_writes(Some(20 << 10));
    let before = scene.wait_for_status("AtRisk, before any outage", |s| {
        let too_slow = ["step_too_slow", "plan_too_slow"].map(Into::into);
        let reasons = s["reasons"].as_array();
        s["readiness"] == "AtRisk"
            && reasons.is_some_and(|r| r.iter().any(|r| too_slow.contains(r)))
    });
    assert!(before["last_outage"].is_null());
    scene.saw(&format!(
        "before the outage: {} {}",
        before["readiness"], before["advice"]
    ));
    scene.machine.lines.set(POWER_FAIL, true);
    let parked = scene.wait_for_supply("Parked");
    scene.saw_outage(&parked);
    let dropped: Vec<_> = parked["last_outage"]["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .filter(|s| s["outcome"] == "dropped")
        .map(|s| s["step"].as_str().unwrap_or("?").to_owned())
        .collect();
    assert!(
        dropped.contains(&"freeze".to_owned()),
        "a freeze that does not fit was started"
    );
    assert!(dropped.contains(&"syncfs".to_owned()), "{dropped:?}");
    scene.machine.cut_power();
    next_boot("throttled card", parts, &card, &load.close());
}

#[test]
fn an_agent_killed_while_parked_and_frozen_is_thawed_by_the_next_one() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let mut scene = Scene::serving("killed while frozen", parts, &card, Setting::default());
    let load = scene.load();
    scene.machine.lines.set(POWER_FAIL, true);
    let parked = scene.wait_for_supply("Parked");
    scene.saw_outage(&parked);
    let told = load.wait_for("the pause", |a| a.is_paused());
    // Something else that is caught in the freeze, as a careless cron job would be.
    let caught = scene
        .machine
        .spawn("caught", "sh -c 'echo late >/data/late'");
    scene.machine.signal(&scene.agent, "KILL");
    scene.machine.wait_for_end(&scene.agent);
    assert!(
        scene.machine.is_running(&caught),
        "the file system is frozen"
    );
    scene.agent = scene
        .machine
        .spawn("agent2", "holdup run --config /etc/holdup/holdup.toml");
    scene.wait_for_supply("Parked");
    let log = scene.machine.log_of(&scene.agent);
    assert!(log.contains("thawed /data"), "{log}");
    scene.machine.lines.set(POWER_FAIL, false);
    let good = scene.wait_for_supply("Good");
    scene.machine.wait_for_end(&caught);
    scene.saw(&format!(
        "thawed by the next agent; it says {}",
        good["last_outage"]["kind"]
    ));
    let mut account = load.close();
    account.acked = account.acked.max(told.acked);
    scene.machine.power_off();
    compare("killed while frozen", &card, &account);
}

/// What a `foreign_writer` said that it committed.
fn committed(machine: &Machine, writer: &Job) -> Option<u64> {
    machine
        .log_of(writer)
        .lines()
        .rev()
        .find_map(|l| l.strip_prefix("committed ")?.parse().ok())
}

/// Our own rows are durable before the plan; another application's in `synchronous=NORMAL` are
/// not. This is the test that sees the plan's own sync of a WAL.
#[test]
fn a_guarded_database_that_syncs_nothing_itself_is_durable_after_the_plan() {
    let Some(parts) = parts() else { return };
    for announced in [true, false] {
        let card = Card::create(CARD);
        // So short that syncfs, which would write everything back, never fits.
        let setting = Setting {
            holdup_ms: 150,
            glitch_ms: 50,
            power: "freeze = \"never\"",
            tables: "[[database]]\npath = \"/data/app.db\"\n",
        };
        let scene = Scene::serving("guarded database", parts, &card, setting);
        let writer = scene
            .machine
            .spawn("writer", "foreign_writer /data/app.db wal 2 100 NORMAL");
        // Its application stands still with the database open, as between two measurements.
        let committed = |m: &Machine| committed(m, &writer);
        scene
            .machine
            .wait_for("commits", |m| (committed(m) > Some(100)).then_some(()));
        scene.machine.signal(&writer, "STOP");
        let promised = committed(&scene.machine).expect("commits");
        if announced {
            scene.machine.lines.set(POWER_FAIL, true);
            let parked = scene.wait_for_supply("Parked");
            scene.saw_outage(&parked);
            let steps = parked["last_outage"]["steps"]
                .as_array()
                .expect("steps")
                .clone();
            let of = |step: &str| {
                steps
                    .iter()
                    .find(|s| s["step"] == step && s["database"] == "app.db")
                    .cloned()
            };
            assert_eq!(of("commit").expect("a step")["outcome"], "done");
            assert!(
                steps
                    .iter()
                    .any(|s| s["step"] == "syncfs" && s["outcome"] == "dropped")
            );
        }
        scene.machine.cut_power();
        drop(scene);
        card.fsck();
        let folder = tempfile::tempdir().expect("a folder");
        let path = card.extract_database("/app.db", folder.path());
        let kept: u64 = rusqlite::Connection::open(path)
            .and_then(|db| db.query_row("SELECT count(*) FROM items", [], |r| r.get::<_, i64>(0)))
            .map_or(0, |n| n as u64);
        saw(
            "guarded database",
            &format!("announced {announced}: {promised} committed, {kept} kept"),
        );
        if announced {
            assert!(kept >= promised, "{kept} of {promised}");
        } else {
            assert!(
                kept < promised,
                "the control must lose rows, or this test proves nothing"
            );
        }
    }
}

#[test]
fn a_writer_of_a_guarded_database_waits_while_parked_and_goes_on_after() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let setting = Setting {
        power: "freeze = \"never\"",
        tables: "[[database]]\npath = \"/data/app.db\"\n",
        ..Setting::default()
    };
    let scene = Scene::serving("guarded writer", parts, &card, setting);
    let writer = scene
        .machine
        .spawn("writer", "foreign_writer /data/app.db wal 20 100 FULL");
    let committed = |m: &Machine| committed(m, &writer);
    scene
        .machine
        .wait_for("commits", |m| (committed(m) > Some(10)).then_some(()));
    scene.machine.lines.set(POWER_FAIL, true);
    let parked = scene.wait_for_supply("Parked");
    scene.saw_outage(&parked);
    let held = committed(&scene.machine);
    hold(Duration::from_secs(2), || committed(&scene.machine) == held);
    scene.machine.lines.set(POWER_FAIL, false);
    scene.wait_for_supply("Good");
    scene.machine.wait_for("the writer to go on", |m| {
        (committed(m) > held).then_some(())
    });
    scene.saw(&format!(
        "the writer stood at {held:?} while parked and went on after"
    ));
}
