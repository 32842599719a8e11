//! `holdup power` against the real agent on the simulated board.

use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::{Value, json};

use crate::home::{Home, poll};

fn answer(home: &Home, args: &[&str]) -> (Option<i32>, Value) {
    let out = home.holdup(args);
    let text = String::from_utf8_lossy(&out.stdout);
    let value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text} {}", String::from_utf8_lossy(&out.stderr)));
    (out.status.code(), value)
}

#[test]
fn a_rehearsal_reports_each_step_and_clients_are_paused_and_resumed() {
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 1000\nsettle_after = 0",
        "",
    );
    let mut agent = home.serving();
    let mut client = home.client();
    for _ in 0..10 {
        client.send();
    }
    client.wait_acked(10);
    let (code, report) = answer(&home, &["power", "rehearse", "--json"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["made_it"], true);
    assert_eq!(report["holdup_ms"], 4000);
    assert_eq!(report["plan"]["kind"], "rehearsal");
    let steps = report["plan"]["steps"].as_array().expect("steps");
    for step in ["commit", "quiet", "checkpoint", "end_mark"] {
        let of = steps.iter().find(|s| s["step"] == step).expect(step);
        assert_eq!(of["outcome"], "done", "{step}");
        assert!(of["worst_us"].is_u64(), "{step}: {of}");
    }
    let used = report["used_ms"].as_f64().expect("used");
    assert!(used >= 50.0, "the glitch time is part of it: {used}");
    let percent = report["used_percent"].as_f64().expect("percent");
    assert!((percent - used / 40.0).abs() < 0.1, "{percent} of {used}");
    assert_eq!(client.wait_for("paused")["paused"], "power_failing");
    assert_eq!(client.wait_for("resumed")["resumed"], true);
    let s = agent.wait_for_supply("Good");
    assert!(s["last_outage"].is_null(), "a rehearsal is no outage: {s}");
    assert_eq!(s["last_rehearsal"]["resumed"], true);
    client.send();
    client.wait_acked(11);

    let text = home.holdup(&["power", "rehearse"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("would have been survived"), "{text}");
    agent.stop();
    assert_eq!(home.values().len(), 11);
}

#[test]
fn a_rehearsal_is_refused_while_parked_and_without_an_agent_it_fails() {
    let home = Home::new();
    let mut agent = home.serving();
    home.power(true);
    agent.wait_for_supply("Parked");
    let (code, refused) = answer(&home, &["power", "rehearse", "--json"]);
    assert_eq!(code, Some(3));
    assert!(
        refused["refused"]
            .as_str()
            .is_some_and(|w| w.contains("Parked")),
        "{refused}"
    );
    let (code, _) = answer(&home, &["power", "measure", "--yes", "--json"]);
    assert_eq!(code, Some(3));
    agent.kill();
    assert_eq!(home.holdup(&["power", "rehearse"]).status.code(), Some(4));
}

#[test]
fn without_a_measured_hold_up_time_nobody_can_say_that_the_plan_fits() {
    let home = Home::with("glitch_ms = 20\nrestore_ms = 100", "");
    let _agent = home.serving();
    let (code, report) = answer(&home, &["power", "rehearse", "--json"]);
    assert_eq!(code, Some(1));
    assert_eq!(report["made_it"], Value::Null);
    let text = home.holdup(&["status"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("hold-up     not measured; the plan"),
        "{text}"
    );
}

#[test]
fn the_control_socket_is_for_its_owner_alone_and_answers_nonsense_with_a_refusal() {
    use std::io::{BufRead, BufReader, Write};
    let home = Home::new();
    let _agent = home.serving();
    let path = home.path("run/control.sock");
    let mode = std::fs::metadata(&path).expect("socket").mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let mut stream = std::os::unix::net::UnixStream::connect(path).expect("connect");
    stream.write_all(b"{\"do\":\"poweroff\"}\n").expect("send");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("answer");
    assert!(line.starts_with("{\"refused\":\"not understood"), "{line}");
}

#[test]
fn bytes_that_are_no_text_or_too_many_for_a_request_are_told_so() {
    use std::io::{BufRead, BufReader, Write};
    let home = Home::new();
    let _agent = home.serving();
    let long = vec![b'x'; 1 << 20];
    for (sent, says) in [
        (&b"\xff\xfe{\"do\":\"measure\"}\n"[..], "not understood"),
        (&long[..], "longer than 4096 bytes"),
    ] {
        let path = home.path("run/control.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(path).expect("connect");
        // Cut short where the agent has closed already.
        stream.write_all(sent).ok();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("answer");
        let answer: Value = serde_json::from_str(&line).expect("json");
        let why = answer["refused"].as_str().expect("refused");
        assert!(why.contains(says), "{why}");
    }
}

#[test]
fn a_measurement_that_runs_is_not_said_to_be_cancelled() {
    let home = Home::with("glitch_ms = 20\nrestore_ms = 100", "");
    let mut agent = home.serving();
    let (code, _) = answer(&home, &["power", "measure", "--yes", "--json"]);
    assert_eq!(code, Some(0));
    home.power(true);
    agent.wait_for("a running measurement", |s| {
        s["supply"] == "Parked" && s["measuring"] == "running"
    });
    let (code, said) = answer(&home, &["power", "measure", "--cancel", "--json"]);
    assert_eq!(code, Some(3), "{said}");
    let why = said["refused"].as_str().expect("refused");
    assert!(why.contains("a measurement runs"), "{why}");
    assert_eq!(agent.status().expect("status")["measuring"], "running");
    // Told to end, it does not say that power was back.
    agent.stop();
    let mut agent = home.serving();
    let s = agent.wait_for("the measurement", |s| !s["measurement"].is_null());
    assert_eq!(s["measurement"]["at_least"], true);
    assert_eq!(s["measurement"]["ended_by"], "agent_ended");
    assert_eq!(s["measurement"]["proposed_ms"], Value::Null);
    assert!(!home.log().contains("power was back"), "{}", home.log());
    assert!(!home.log().contains("power.holdup_ms ="), "{}", home.log());
}

#[test]
fn measuring_needs_a_yes_and_can_be_taken_back_and_a_restart_disarms() {
    let home = Home::new();
    let mut agent = home.serving();
    let (code, _) = answer(&home, &["power", "measure", "--json"]);
    assert_eq!(code, Some(3), "no terminal, no --yes");
    assert!(agent.status().expect("status")["measuring"].is_null());
    let (code, armed) = answer(&home, &["power", "measure", "--yes", "--json"]);
    assert_eq!((code, &armed["armed"]), (Some(0), &json!(true)));
    agent.wait_for("armed", |s| s["measuring"] == "armed");
    let (code, armed) = answer(&home, &["power", "measure", "--cancel", "--json"]);
    assert_eq!((code, armed), (Some(0), json!({ "armed": false })));
    agent.wait_for("disarmed", |s| s["measuring"].is_null());
    let (code, _) = answer(&home, &["power", "measure", "--yes", "--json"]);
    assert_eq!(code, Some(0));
    agent.stop();
    let mut agent = home.serving();
    assert!(agent.wait_for_supply("Good")["measuring"].is_null());
}

#[test]
fn a_supply_that_is_recharging_is_not_measured_and_the_refusal_says_for_how_long() {
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 20\nrestore_ms = 100\nsettle_after = 0\nrecharge_s = 3000",
        "",
    );
    let mut agent = home.serving();
    home.power(true);
    agent.wait_for("half of it drawn", |s| {
        s["supply"] == "Parked" && s["holdup_left_ms"].as_u64() < Some(2000)
    });
    home.power(false);
    agent.wait_for_supply("Good");
    let (code, said) = answer(&home, &["power", "measure", "--yes", "--json"]);
    assert_eq!(code, Some(3), "{said}");
    let why = said["refused"].as_str().expect("refused");
    assert!(why.contains("it is recharging, about"), "{why}");
    assert!(agent.status().expect("status")["measuring"].is_null());
}

#[test]
fn errors_are_json_too_where_json_was_asked_for() {
    let home = Home::new();
    for args in [
        &["power", "rehearse", "--json"][..],
        &["power", "measure", "--cancel", "--json"],
    ] {
        let (code, said) = answer(&home, args);
        assert_eq!(code, Some(4), "{said}");
        let why = said["error"].as_str().expect("error");
        assert!(why.contains("start the agent"), "{why}");
    }
    home.write("holdup.toml", b"[power]\nno_such_key = 1\n");
    for args in [
        &["config", "check", "--json"][..],
        &["doctor", "--json"],
        &["status", "--json"],
        &["ingest", "--json"],
    ] {
        let (code, said) = answer(&home, args);
        assert_eq!(code, Some(2), "{said}");
        let why = said["error"].as_str().expect("error");
        assert!(why.contains("no_such_key"), "{why}");
        let out = home.holdup(args);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(err.contains("no_such_key"), "said to people as well: {err}");
    }
}

#[test]
fn power_back_before_the_supply_is_empty_is_kept_as_a_lower_bound() {
    let home = Home::with("glitch_ms = 20\nrestore_ms = 100", "");
    let mut agent = home.serving();
    let (code, _) = answer(&home, &["power", "measure", "--yes", "--json"]);
    assert_eq!(code, Some(0));
    home.power(true);
    agent.wait_for("a running measurement", |s| {
        s["supply"] == "Parked" && s["measuring"] == "running"
    });
    home.power(false);
    let good = agent.wait_for("the measurement", |s| !s["measurement"].is_null());
    assert_eq!(good["measurement"]["at_least"], true);
    agent.wait_for_supply("Good");
    let kept = poll("the history", || {
        let (code, history) = answer(&home, &["power", "history", "--json"]);
        assert_eq!(code, Some(0));
        history["measurements"].get(0).cloned()
    });
    assert_eq!(kept["at_least"], true);
    assert_eq!(kept["configured_ms"], Value::Null);
    assert_eq!(kept["board"], "sim");
    // The agent that starts next reads the same heartbeat and adds nothing.
    agent.stop();
    let mut agent = home.serving();
    let s = agent.wait_for_supply("Good");
    assert_eq!(s["measurement"], kept);
    let (_, history) = answer(&home, &["power", "history", "--json"]);
    assert_eq!(history["measurements"].as_array().map(Vec::len), Some(1));
    let text = home.holdup(&["power", "history"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("at least"), "{text}");
}

#[test]
fn a_supply_that_measured_shorter_than_configured_puts_the_gateway_at_risk() {
    let home = Home::with("holdup_ms = 4000\nglitch_ms = 20\nrestore_ms = 100", "");
    let entry = |gave: f64, n: u64| {
        json!({
            "at": "2026-03-01T10:00:00.000Z", "wall_ms": 1_772_359_200_000u64, "synchronised": true,
            "card": "c", "board": "sim", "source": "capacitor", "gave_ms": gave,
            "resolution_ms": 5.0, "at_least": false, "configured_ms": 4000, "proposed_ms": null,
            "stamps": 9, "write_mean_ms": 1.0, "write_worst_ms": 2.0, "boot": "b", "lost_at_ns": n
        })
    };
    let history = |entries: &[Value]| {
        let file = json!({ "version": 1, "measurements": entries });
        home.write("data/holdup_history.json", file.to_string().as_bytes());
    };
    history(&[entry(5000.0, 1), entry(3500.0, 2)]);
    let mut agent = home.serving();
    let s = agent.wait_for("a calibrated card", |s| {
        s["reasons"] == json!(["measured_shorter"])
    });
    assert_eq!(s["readiness"], "AtRisk");
    let advice = s["advice"][0].as_str().expect("advice");
    for part in ["3500 ms", "power.holdup_ms = 4000", "2026-03-01", "2800"] {
        assert!(advice.contains(part), "{part} in {advice}");
    }
    let text = home.holdup(&["power", "history"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("-30 % since 2026-03-01"), "{text}");
    agent.stop();
    history(&[entry(5000.0, 1)]);
    let mut agent = home.serving();
    agent.wait_for("readiness", |s| s["readiness"] == "Ready");
}

#[test]
fn an_agent_killed_in_a_rehearsal_is_told_from_one_that_was_cut() {
    let home = Home::with("holdup_ms = 4000\nglitch_ms = 20\nrestore_ms = 1000", "");
    // It is parked for a second; on a busy machine the kill may come after that.
    let told = poll("a kill in the middle", || {
        let last = killed_in_a_rehearsal(&home);
        assert_eq!(last["ended"], "never_announced", "{last}");
        (last["kind"] != "agent_died").then_some(last)
    });
    assert_eq!(told["kind"], "rehearsal");
}

/// What the next start says.
fn killed_in_a_rehearsal(home: &Home) -> Value {
    let mut agent = home.serving();
    let mut stream =
        std::os::unix::net::UnixStream::connect(home.path("run/control.sock")).expect("connect");
    std::io::Write::write_all(&mut stream, b"{\"do\":\"rehearse\"}\n").expect("send");
    agent.wait_for_supply("Rehearsing");
    // Its begin mark is on the medium when the plan's report is there.
    agent.wait_for("the plan's end", |s| !s["last_rehearsal"].is_null());
    agent.kill();
    let mut agent = home.serving();
    agent.wait_for_supply("Good")["last_outage"].clone()
}

/// A verb that runs beside the test; not left behind where it waits for ever.
struct Verb(Child);

impl Verb {
    fn start(home: &Home, args: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_holdup"))
            .args(args)
            .arg("--config")
            .arg(home.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        Self(child)
    }

    /// Its end, and what it said.
    fn ended(mut self) -> (ExitStatus, String) {
        let ended = poll("the verb's end", || self.0.try_wait().expect("wait"));
        let mut said = String::new();
        let mut stderr = self.0.stderr.take().expect("piped");
        std::io::Read::read_to_string(&mut stderr, &mut said).expect("text");
        (ended, said)
    }
}

impl Drop for Verb {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn an_agent_that_does_not_answer_is_given_up() {
    let home = Home::new();
    let agent = home.serving();
    agent.signal("STOP");
    let verbs: Vec<_> = [
        &["power", "rehearse"][..],
        &["power", "measure", "--yes"],
        &["power", "measure", "--cancel"],
    ]
    .into_iter()
    .map(|args| Verb::start(&home, args))
    .collect();
    for verb in verbs {
        let (ended, said) = verb.ended();
        assert_eq!(ended.code(), Some(4), "{said}");
        assert!(said.contains("the agent does not answer"), "{said}");
    }
    agent.signal("CONT");
    agent.stop();
}

#[test]
fn an_agent_stopped_in_a_rehearsal_is_said_to_have_stopped_in_the_middle() {
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 20\nrestore_ms = 60000\nsettle_after = 0",
        "",
    );
    let mut agent = home.serving();
    let verb = Verb::start(&home, &["power", "rehearse"]);
    agent.wait_for_supply("Rehearsing");
    agent.wait_for("the plan's end", |s| !s["last_rehearsal"].is_null());
    agent.stop();
    let (ended, said) = verb.ended();
    assert_eq!(ended.code(), Some(4), "{said}");
    assert!(said.contains("the agent stopped in the middle"), "{said}");
}
