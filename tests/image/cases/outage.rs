//! Power fails, flickers, chatters and comes back.

use std::collections::VecDeque;
use std::time::Duration;

use crate::blocklog::Follower;
use crate::card::Card;
use crate::load::Rate;
use crate::machine::MachineOptions;
use crate::parts::parts;
use crate::patience::{GENEROUS, poll_each};
use crate::scene::{CARD, POWER_FAIL, Scene, Setting, hold, next_boot, outcome};

/// Longer than ext4's commit interval: whatever the agent left dirty would be written by then.
const LONG_ENOUGH: Duration = Duration::from_secs(8);

/// Bytes of a mark in the outage record.
const MARK: u64 = 4096;

#[test]
fn a_clean_outage_parks_writes_nothing_more_and_loses_nothing() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let toml = Setting::default().toml();
    let options = MachineOptions {
        config_toml: &toml,
        block_log: true,
        ..MachineOptions::default()
    };
    let scene = Scene::boot("clean outage", parts, &card, &options);
    scene.wait_for_service();
    let load = scene.load();
    scene.wait_for_status("readiness", |s| s["readiness"] == "Ready");

    scene.machine.lines.set(POWER_FAIL, true);
    let parked = scene.wait_for_supply("Parked");
    let log = scene.machine.block_log().clone();
    let mark = log.mark();
    scene.saw_outage(&parked);
    assert_eq!(parked["last_outage"]["ended"], "clean");
    for step in [
        "commit",
        "quiet",
        "checkpoint",
        "end_mark",
        "syncfs",
        "freeze",
    ] {
        assert_eq!(outcome(&parked, step), "done", "{step}");
    }
    assert_eq!(parked["wal_frames"], 0, "the WAL was checkpointed");
    let told = load.wait_for("the pause", crate::load::Account::is_paused);
    assert_eq!(told.pauses[0].0, "power_failing");

    hold(LONG_ENOUGH, || log.since(mark).is_empty());
    assert_eq!(
        load.account().acked,
        told.acked,
        "acknowledged while parked"
    );
    scene.saw(&format!(
        "no block written in {} s after parked",
        LONG_ENOUGH.as_secs()
    ));
    scene.machine.cut_power();
    let account = load.close();

    let status = next_boot("clean outage", parts, &card, &account);
    assert_eq!(status["last_outage"]["ended"], "clean", "{status}");
    assert_eq!(status["last_outage"]["kind"], "power_fail");
}

#[test]
fn parked_without_a_freeze_no_writer_of_the_agent_goes_on() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let setting = Setting {
        power: "freeze = \"never\"",
        ..Setting::default()
    };
    let toml = setting.toml();
    let options = MachineOptions {
        config_toml: &toml,
        block_log: true,
        ..MachineOptions::default()
    };
    let scene = Scene::boot("parked, not frozen", parts, &card, &options);
    scene.wait_for_service();
    let load = scene.load();
    scene.machine.lines.set(POWER_FAIL, true);
    let parked = scene.wait_for_supply("Parked");
    scene.saw_outage(&parked);
    assert_eq!(outcome(&parked, "freeze"), "skipped");
    assert_eq!(outcome(&parked, "syncfs"), "done");
    let told = load.wait_for("the pause", crate::load::Account::is_paused);
    // What syncfs left to the file system itself (a superblock) may still come; readings may not.
    let log = scene.machine.block_log().clone();
    let mark = log.mark();
    hold(LONG_ENOUGH, || true);
    let after = log.since(mark);
    let readings = after
        .iter()
        .filter(|e| log.data(e).windows(3).any(|w| w == b"WAL"))
        .count();
    let bytes: u64 = after.iter().map(|e| e.sectors * 512).sum();
    scene.saw(&format!("{bytes} bytes written after parked"));
    assert_eq!(readings, 0);
    assert!(bytes < 64 << 10, "{bytes} bytes written after parked");
    assert_eq!(load.account().acked, told.acked);
    assert_eq!(scene.status()["wal_frames"], 0);
    scene.machine.cut_power();
    next_boot("parked, not frozen", parts, &card, &load.close());
}

#[test]
fn a_flicker_shorter_than_the_glitch_time_changes_nothing() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let setting = Setting {
        glitch_ms: 2000,
        ..Setting::default()
    };
    let scene = Scene::serving("flicker", parts, &card, setting);
    let load = scene.load();
    scene
        .machine
        .lines
        .pulse(POWER_FAIL, Duration::from_millis(30));
    scene.machine.wait_for("the flicker in the log", |m| {
        m.log_of(&scene.agent)
            .contains("power flickered")
            .then_some(())
    });
    let before = load.account().acked;
    load.wait_for("more acknowledgements", |a| a.acked > before + 50);
    let status = scene.status();
    assert_eq!(status["supply"], "Good");
    assert!(
        status["last_outage"].is_null(),
        "a plan ran: {}",
        status["last_outage"]
    );
    let account = load.account();
    assert!(
        account.pauses.is_empty(),
        "clients see nothing of a flicker: {:?}",
        account.pauses
    );
    scene.saw(&format!(
        "no plan, no pause, {} acknowledged",
        account.acked
    ));
    let account = load.finish();
    scene.machine.power_off();
    crate::scene::compare("flicker", &card, &account);
}

#[test]
fn power_back_before_the_commit_point_resumes_ingest() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let setting = Setting {
        holdup_ms: 120_000,
        glitch_ms: 60_000,
        ..Setting::default()
    };
    let scene = Scene::serving("back before commit", parts, &card, setting);
    let load = scene.load();
    scene.machine.lines.set(POWER_FAIL, true);
    scene.wait_for_supply("Suspect");
    // What was in flight is acknowledged; then the gate holds.
    let held = crate::patience::poll(Duration::from_secs(30), || {
        let first = load.account().acked;
        hold(Duration::from_secs(1), || true);
        (load.account().acked == first).then_some(first)
    })
    .expect("the gate closes at the first edge");
    scene.machine.lines.set(POWER_FAIL, false);
    scene.wait_for_supply("Good");
    load.wait_for("more acknowledgements", |a| a.acked > held + 50);
    let status = scene.status();
    assert!(
        status["last_outage"].is_null(),
        "a plan ran: {}",
        status["last_outage"]
    );
    assert!(load.account().pauses.is_empty());
    scene.saw(&format!(
        "gate closed at {held}, opened again, {} acknowledged",
        load.account().acked
    ));
    let account = load.finish();
    scene.machine.power_off();
    crate::scene::compare("back before commit", &card, &account);
}

#[test]
fn chatter_for_seconds_cannot_postpone_the_plan() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let setting = Setting {
        glitch_ms: 300,
        ..Setting::default()
    };
    let scene = Scene::serving("chatter", parts, &card, setting);
    let load = scene.load();
    let ms = Duration::from_millis;
    let chatter = scene
        .machine
        .lines
        .chatter(POWER_FAIL, ms(40), ms(20), Duration::from_secs(20));
    let status = scene.wait_for_status("the plan", |s| {
        matches!(s["supply"].as_str(), Some("Failing" | "Parked"))
    });
    assert!(
        !chatter.is_finished(),
        "the plan ran only when the chatter was over"
    );
    scene.saw(&format!(
        "{} while the line still chatters",
        status["supply"]
    ));
    let parked = scene.wait_for_supply("Parked");
    scene.saw_outage(&parked);
    let pulses = chatter.join().expect("chatter");
    scene.wait_for_supply("Good");
    let status = scene.status();
    assert_eq!(status["last_outage"]["resumed"], true);
    let held = load.account().acked;
    load.wait_for("more acknowledgements", |a| {
        a.resumed == 1 && a.acked > held + 50
    });
    scene.saw(&format!(
        "{pulses} pulses, one outage, resumed without a reboot"
    ));
    let account = load.finish();
    scene.machine.power_off();
    crate::scene::compare("chatter", &card, &account);
}

#[test]
fn power_back_while_parked_resumes_without_a_reboot() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let scene = Scene::serving("back while parked", parts, &card, Setting::default());
    let load = scene.load();
    for round in 1..=3 {
        scene.machine.lines.set(POWER_FAIL, true);
        let parked = scene.wait_for_supply("Parked");
        scene.saw_outage(&parked);
        let held = load.wait_for("the pause", |a| a.is_paused());
        scene.machine.lines.set(POWER_FAIL, false);
        scene.wait_for_supply("Good");
        load.wait_for("more acknowledgements", |a| {
            a.resumed == round && a.acked > held.acked + 50
        });
        let status = scene.status();
        assert_eq!(status["last_outage"]["ended"], "clean");
        assert_eq!(status["last_outage"]["resumed"], true);
    }
    let account = load.finish();
    scene.saw(&format!(
        "3 outages, {} pauses, {} resumed, same boot",
        account.pauses.len(),
        account.resumed
    ));
    scene.machine.power_off();
    crate::scene::compare("back while parked", &card, &account);
}

#[test]
fn cut_in_mid_plan_loses_nothing_acknowledged() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let (mut base, mut round) = (0, 0);
    let mut rounds = VecDeque::from(["Suspect", "Failing", "Good"]);
    while let Some(cut_at) = rounds.pop_front() {
        round += 1;
        assert!(round < 12, "the gateway was never met {cut_at}");
        // The glitch time keeps it Suspect for long enough to be cut there; Good is cut without any
        // announcement.
        let setting = Setting {
            glitch_ms: 1500,
            ..Setting::default()
        };
        let toml = setting.toml();
        let options = MachineOptions {
            config_toml: &toml,
            block_log: true,
            ..MachineOptions::default()
        };
        let scene = Scene::boot("cut in mid-plan", parts, &card, &options);
        scene.wait_for_service();
        // The emulated card holds the processor while it writes: what is in flight on the slowed
        // one must be little, or the machine stands still until long after the plan.
        let rate = match cut_at {
            "Failing" => Rate::Every(Duration::from_millis(5)),
            _ => Rate::FlatOut,
        };
        // Values go on where the round before stopped: the comparison is over all of them.
        let load = crate::load::Load::start(&scene.machine, "feed0", rate, move |n| {
            crate::scene::reading(n + base)
        })
        .0;
        load.wait_for("acknowledgements", |a| a.acked > 300);
        match cut_at {
            "Failing" => {
                // The plan takes long enough not to be over before the plug is out.
                scene.machine.throttle_writes(Some(64 << 10));
                let follower = scene.machine.block_log().follow();
                scene.machine.lines.set(POWER_FAIL, true);
                wait_for_begin_mark(follower);
            }
            "Suspect" => {
                scene.machine.lines.set(POWER_FAIL, true);
                // A busy host may look too late.
                scene.wait_for_status(cut_at, |s| s["supply"] == cut_at || s["supply"] == "Parked");
            }
            _ => {}
        }
        scene.machine.cut_power();
        let account = load.close();
        scene.saw(&format!(
            "round {round}: cut while {cut_at}, {} acknowledged",
            account.acked
        ));
        drop(scene);
        let begins = base;
        base += account.sent;
        let status = {
            let scene = Scene::serving("cut in mid-plan", parts, &card, Setting::default());
            let status = scene.status();
            scene.machine.power_off();
            status
        };
        let last = &status["last_outage"];
        let ended = last["ended"].as_str().unwrap_or("none");
        crate::scene::saw("cut in mid-plan", &format!("the next boot says: {ended}"));
        crate::scene::compare_from("cut in mid-plan", &card, begins, &account);
        match (cut_at, ended) {
            ("Failing", "cut") | ("Suspect" | "Good", "never_announced") => {}
            // It had gone on when the plug was pulled.
            ("Suspect", "cut" | "clean" | "late" | "unfinished")
            | ("Failing", "clean" | "late" | "unfinished") => {
                rounds.push_front(cut_at);
            }
            _ => panic!("cut while {cut_at}: {last}"),
        }
    }
}

/// Until the mark that begins the plan is on the card, all of it: what the guest says of itself
/// comes too late.
fn wait_for_begin_mark(mut card: Follower<'_>) {
    const BEGINS: &[u8] = b"{\"kind\":\"begin\"";
    let mut left = None;
    poll_each(Duration::from_millis(1), GENEROUS, || {
        while let Some(data) = card.next() {
            let bytes = u64::try_from(data.len()).expect("a write fits");
            let begins = data.windows(BEGINS.len()).any(|w| w == BEGINS);
            let of_mark: Option<u64> = left.or(begins.then_some(MARK));
            left = of_mark.map(|n| n.saturating_sub(bytes));
            if left == Some(0) {
                return Some(());
            }
        }
        None
    })
    .expect("the plan begins");
}
