//! The agent through good and bad days of the simulated supply.

use std::time::Duration;

use serde_json::Value;

use crate::home::{Home, poll};

fn outcome(status: &Value, step: &str) -> String {
    status["last_outage"]["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|s| s["step"] == step)
        .and_then(|s| s["outcome"].as_str())
        .unwrap_or("absent")
        .to_owned()
}

#[test]
fn an_outage_parks_and_power_back_resumes_and_nothing_acknowledged_is_lost() {
    let home = Home::new();
    let mut agent = home.serving();
    let mut client = home.client();
    for _ in 0..20 {
        client.send();
    }
    client.wait_acked(20);
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    assert_eq!(parked["last_outage"]["ended"], "clean");
    for step in ["commit", "quiet", "checkpoint", "end_mark"] {
        assert_eq!(
            outcome(&parked, step),
            "done",
            "{step}: {}",
            parked["last_outage"]
        );
    }
    assert_eq!(
        outcome(&parked, "freeze"),
        "skipped",
        "a simulated board freezes nothing"
    );
    assert_eq!(client.wait_for("paused")["paused"], "power_failing");
    // Queued lines keep their numbers and are committed when power is back.
    for _ in 0..5 {
        client.send();
    }
    home.power(false);
    assert_eq!(client.wait_for("resumed")["resumed"], true);
    client.wait_acked(25);
    let good = agent.wait_for_supply("Good");
    assert_eq!(good["last_outage"]["resumed"], true);
    agent.stop();
    assert_eq!(home.values(), (0..25).map(f64::from).collect::<Vec<_>>());
}

#[test]
fn no_commit_lands_between_parked_and_resumed() {
    let home = Home::new();
    let mut agent = home.serving();
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    for _ in 0..50 {
        client.send();
    }
    let before = std::fs::read(home.data("edge_store.db-wal")).expect("wal");
    // Several commit windows pass.
    let began = agent.status().expect("status")["uptime_s"].as_u64();
    let later = agent.wait_for("two seconds", |s| {
        s["uptime_s"].as_u64() >= began.map(|b| b + 2)
    });
    assert_eq!(later["commits"], parked["commits"]);
    assert_eq!(later["acked"], parked["acked"]);
    assert_eq!(
        std::fs::read(home.data("edge_store.db-wal")).expect("wal"),
        before
    );
}

#[test]
fn a_flicker_runs_no_plan() {
    let home = Home::with("holdup_ms = 60000\nglitch_ms = 20000\nrestore_ms = 100", "");
    let mut agent = home.serving();
    home.power(true);
    agent.wait_for_supply("Suspect");
    home.power(false);
    let good = agent.wait_for_supply("Good");
    assert!(good["last_outage"].is_null());
    poll("the flicker in the log", || {
        home.log().contains("power flickered").then_some(())
    });
}

#[test]
fn a_line_that_is_lost_at_start_is_power_loss_now_also_in_the_simulation() {
    let home = Home::new();
    let mut agent = home.serving();
    home.power(true);
    agent.wait_for_supply("Parked");
    let mut late = home.client();
    assert_eq!(late.wait_for("paused")["paused"], "power_failing");
}

#[test]
fn a_stop_runs_the_plan_and_leaves_an_empty_wal() {
    let home = Home::new();
    let agent = home.serving();
    let mut client = home.client();
    for _ in 0..10 {
        client.send();
    }
    client.wait_acked(10);
    agent.stop();
    assert_eq!(home.values().len(), 10);
    let wal = std::fs::metadata(home.data("edge_store.db-wal")).map_or(0, |m| m.len());
    assert_eq!(wal, 0);
    // An orderly end is no outage.
    let mut agent = home.serving();
    assert!(agent.wait_for_supply("Good")["last_outage"].is_null());
}

#[test]
fn a_stop_while_parked_ends_in_order() {
    let home = Home::new();
    let mut agent = home.serving();
    home.power(true);
    agent.wait_for_supply("Parked");
    agent.stop();
}

#[test]
fn off_ends_the_process_with_exit_code_10_only_where_it_is_allowed() {
    for (allow, how, code) in [
        (true, "poweroff", Some(10)),
        (true, "stay", None),
        (false, "poweroff", None),
    ] {
        let home = Home::with(
            &format!(
                "holdup_ms = 2000\nglitch_ms = 20\nrestore_ms = 100\npark_max_s = 1\n\
                 on_park_max = \"{how}\"\nallow_poweroff = {allow}"
            ),
            "",
        );
        let mut agent = home.serving();
        home.power(true);
        if let Some(code) = code {
            assert_eq!(agent.ended().code(), Some(code), "{}", home.log());
        } else {
            poll("the refusal in the log", || {
                home.log().contains("stays parked").then_some(())
            });
            assert_eq!(agent.wait_for_supply("Parked")["supply"], "Parked");
        }
    }
}

#[test]
fn a_battery_is_ridden_until_the_gauge_says_low() {
    let home = Home::with(
        "source = \"battery\"\nholdup_ms = 4000\nglitch_ms = 20\nrestore_ms = 100\nlow_percent = 20",
        "",
    );
    let mut agent = home.serving();
    assert_eq!(home.sim("gauge 4.1 95"), "ok");
    home.power(true);
    agent.wait_for_supply("OnBattery");
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    assert_eq!(home.sim("gauge 3.4 12"), "ok");
    let parked = agent.wait_for_supply("Parked");
    assert_eq!(parked["last_outage"]["kind"], "battery_low");
}

#[test]
fn brownout_sheds_and_serves_on() {
    let home = Home::new();
    let mut agent = home.serving();
    assert_eq!(home.sim("brownout low"), "ok");
    agent.wait_for_supply("Brownout");
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    assert_eq!(home.sim("brownout ok"), "ok");
    agent.wait_for_supply("Good");
}

#[test]
fn readiness_says_what_is_missing_before_anything_happens() {
    let home = Home::with("glitch_ms = 20", "");
    let mut agent = home.serving();
    let s = agent.wait_for_supply("Good");
    assert_eq!(s["readiness"], "Unprotected");
    assert_eq!(s["reasons"][0], "holdup_not_measured");
    agent.stop();

    let home = Home::with("holdup_ms = 60000\nglitch_ms = 20", "");
    let mut agent = home.serving();
    let s = agent.wait_for("readiness", |s| s["readiness"] == "Ready");
    assert_eq!(s["reasons"], serde_json::json!([]));
    assert!(
        s["predicted_ms"].as_u64() > Some(19),
        "the glitch time is part of it: {s}"
    );
}

#[test]
fn sighup_takes_over_power_settings_and_a_broken_file_changes_nothing() {
    let home = Home::new();
    let mut agent = home.serving();
    let text = std::fs::read_to_string(home.config()).expect("config");
    home.write(
        "holdup.toml",
        text.replace("holdup_ms = 4000", "holdup_ms = 7000")
            .as_bytes(),
    );
    agent.signal("HUP");
    agent.wait_for("the new hold-up time", |s| s["holdup_ms"] == 7000);
    home.write("holdup.toml", b"[power]\nholdup_ms = \"soon\"\n");
    agent.signal("HUP");
    poll("the refusal in the log", || {
        home.log().contains("the old one stays").then_some(())
    });
    assert_eq!(agent.status().expect("status")["holdup_ms"], 7000);
}

#[test]
fn the_next_start_tells_an_agent_that_died_from_one_that_was_stopped() {
    let home = Home::new();
    home.serving().kill();
    let mut agent = home.serving();
    let s = agent.wait_for_supply("Good");
    assert_eq!(s["last_outage"]["kind"], "agent_died");
    assert_eq!(s["last_outage"]["ended"], "never_announced");
}

#[test]
fn status_answers_while_parked_and_says_so_when_no_agent_runs() {
    let home = Home::new();
    let mut agent = home.serving();
    home.power(true);
    agent.wait_for_supply("Parked");
    let out = home.holdup(&["status"]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("Parked"), "{text}");
    agent.kill();
    let out = home.holdup(&["status", "--json"]);
    assert_eq!(out.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&out.stdout).expect("json");
    assert_eq!(answer["running"], false);
    assert_eq!(answer["last_outage"]["ended"], "clean");
}

#[test]
fn repeats_with_ids_after_a_kill_are_stored_once() {
    use std::io::{BufRead, BufReader, Write};
    let home = Home::new();
    let send = |from: u64, to: u64| {
        let stream =
            std::os::unix::net::UnixStream::connect(home.path("run/ingest.sock")).expect("socket");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("time-out");
        let mut w = stream.try_clone().expect("clone");
        w.write_all(b"{\"client\":\"c\"}\n").expect("send");
        for n in from..to {
            let line = format!(
                "{{\"sensor_name\":\"t\",\"timestamp\":{n},\"value\":{n},\"id\":\"{n}\"}}\n"
            );
            w.write_all(line.as_bytes()).expect("send");
        }
        for line in BufReader::new(stream).lines() {
            let v: Value = serde_json::from_str(&line.expect("line")).expect("json");
            assert!(v.get("error").is_none(), "{v}");
            if v["acked"].as_u64() == Some(to - from + 1) {
                return;
            }
        }
        panic!("not acknowledged");
    };
    let agent = home.serving();
    send(0, 100);
    agent.kill();
    let agent = home.serving();
    send(50, 150);
    agent.stop();
    assert_eq!(home.values(), (0..150).map(f64::from).collect::<Vec<_>>());
}

#[test]
fn the_service_manager_is_told_and_the_watchdog_fed_also_while_parked() {
    use std::os::unix::net::UnixDatagram;
    let home = Home::new();
    let socket = home.path("notify.sock");
    let manager = UnixDatagram::bind(&socket).expect("bind");
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("time-out");
    let heard = |word: &str| {
        let mut buffer = [0u8; 512];
        poll(word, || {
            let n = manager
                .recv(&mut buffer)
                .expect("the agent tells something");
            String::from_utf8_lossy(&buffer[..n])
                .contains(word)
                .then_some(())
        });
    };
    let socket = socket.display().to_string();
    let mut agent = home.start_with(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "3000000")]);
    heard("READY=1");
    heard("STATUS=Good");
    heard("WATCHDOG=1");
    agent.wait_for("service", |s| s["store"] == "running");
    home.power(true);
    agent.wait_for_supply("Parked");
    heard("STATUS=Parked");
    heard("WATCHDOG=1");
    agent.signal("TERM");
    heard("STOPPING=1");
    assert!(agent.ended().success());
}

#[test]
fn parked_with_power_back_status_says_what_it_waits_for_and_how_long() {
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 20\nrestore_ms = 600000\nsettle_after = 0",
        "",
    );
    let mut agent = home.serving();
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    assert!(parked["waits_for"].is_null(), "power is lost");
    home.power(false);
    let s = agent.wait_for("power back", |s| !s["waits_for"].is_null());
    assert!(
        s["waits_for"]
            .as_str()
            .is_some_and(|w| w.contains("power.restore_ms")),
        "{s}"
    );
    let left = s["resumes_in_ms"].as_u64().expect("a time");
    assert!((500_000..=600_000).contains(&left), "{left}");
    let out = home.holdup(&["status"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        text.contains("steady for power.restore_ms: ") && text.contains(" s to go"),
        "{text}"
    );
}

#[test]
fn what_an_agent_timed_outlives_its_death() {
    let home = Home::new();
    let mut agent = home.serving();
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    agent.wait_for("a timed card", |s| {
        !s["reasons"]
            .as_array()
            .is_some_and(|r| r.contains(&"not_calibrated".into()))
    });
    poll("the timings", || {
        home.data("costs.json").exists().then_some(())
    });
    agent.kill();
    let kept = std::fs::read_to_string(home.data("costs.json")).expect("read");
    let kept: Value = serde_json::from_str(&kept).expect("json");
    let card = kept["cards"].as_object().and_then(|c| c.values().next());
    assert!(
        card.is_some_and(|c| c["commit"].as_array().is_some_and(|a| !a.is_empty())),
        "{kept}"
    );
}

#[test]
fn a_guarded_database_that_is_not_there_is_said_once_with_the_remedy() {
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 20",
        "[[database]]\npath = \"/nowhere/app.db\"\n",
    );
    let mut agent = home.serving();
    agent.wait_for_supply("Good");
    let log = home.log();
    let said: Vec<_> = log
        .lines()
        .filter(|l| l.contains("WARN") && l.contains("/nowhere/app.db: No such file"))
        .collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains("correct its path"), "{log}");
    agent.stop();
}

#[test]
fn a_directory_that_cannot_be_made_is_named_with_its_key_and_the_user() {
    let home = Home::new();
    home.write("data", b"a file in its place");
    let out = home.holdup(&["run"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(4), "{said}");
    assert!(
        said.contains("gateway.data_dir") && said.contains("as user "),
        "{said}"
    );
}
