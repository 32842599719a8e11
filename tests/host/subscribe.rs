//! Clients that ask to be told of power.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::home::{Home, PATIENCE, poll};

struct Subscriber {
    reader: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Subscriber {
    fn connect(home: &Home) -> Self {
        let stream = UnixStream::connect(home.path("run/ingest.sock")).expect("ingest socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        let reader = BufReader::new(stream.try_clone().expect("clone"));
        Self { reader, stream }
    }

    fn new(home: &Home) -> Self {
        let mut subscriber = Self::connect(home);
        subscriber.send("{\"subscribe\":\"power\"}");
        subscriber
    }

    fn send(&mut self, line: &str) {
        writeln!(self.stream, "{line}").expect("send");
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }

    /// The next word about power; other answers are passed over.
    fn word(&mut self) -> String {
        loop {
            if let Some(word) = self.answer()["power"].as_str() {
                return word.to_owned();
            }
        }
    }

    fn words<const N: usize>(&mut self) -> [String; N] {
        std::array::from_fn(|_| self.word())
    }
}

#[test]
fn a_subscriber_is_told_the_present_state_at_once_and_each_change() {
    let home = Home::new();
    let mut agent = home.serving();
    let mut s = Subscriber::new(&home);
    let mut first = s.answer();
    while first.get("paused").or(first.get("resumed")).is_some() {
        first = s.answer();
    }
    assert_eq!(first, json!({"power": "offbattery"}), "before its own ack");
    home.power(true);
    assert_eq!(s.words(), ["onbattery", "parked"], "also while paused");
    agent.wait_for_supply("Parked");
    let mut late = Subscriber::new(&home);
    assert_eq!(late.word(), "parked", "a new one while paused");
    home.power(false);
    assert_eq!(s.words(), ["offbattery", "resumed"]);
    assert_eq!(late.words(), ["offbattery", "resumed"]);
    agent.wait_for_supply("Good");
    assert_eq!(home.sim("brownout low"), "ok");
    assert_eq!(s.word(), "brownout");
    assert_eq!(home.sim("brownout ok"), "ok");
    assert_eq!(s.word(), "resumed");
    // It is an ingest client all the same.
    s.send("{\"sensor_name\":\"t\",\"timestamp\":1,\"value\":1}");
    let acked = |v: &Value| v["acked"].as_u64();
    while acked(&s.answer()) != Some(2) {}
    agent.stop();
    assert_eq!(home.values(), [1.0]);
}

#[test]
fn a_flicker_tells_subscribers_nothing() {
    let home = Home::with(
        "holdup_ms = 60000\nglitch_ms = 20000\nrestore_ms = 100\nsettle_after = 0",
        "",
    );
    let mut agent = home.serving();
    let mut s = Subscriber::new(&home);
    assert_eq!(s.word(), "offbattery");
    home.power(true);
    agent.wait_for_supply("Suspect");
    home.power(false);
    agent.wait_for_supply("Good");
    poll("the flicker in the log", || {
        home.log().contains("power flickered").then_some(())
    });
    assert_eq!(home.sim("brownout low"), "ok");
    assert_eq!(s.word(), "brownout", "the next word");
    agent.stop();
}

#[test]
fn unknown_topics_get_an_error_line() {
    let home = Home::new();
    let agent = home.serving();
    let mut s = Subscriber::connect(&home);
    s.send("{\"subscribe\":\"weather\"}");
    let answer = s.answer();
    let why = answer["error"].as_str().expect("an error");
    assert!(
        why.contains("unknown topic \"weather\"") && why.contains("\"power\""),
        "{why}"
    );
    assert_eq!(answer["line"], 1);
    assert_eq!(s.answer(), json!({"acked": 1}));
    agent.stop();
}

#[test]
fn a_subscription_while_paused_is_heard_on_any_line() {
    let home = Home::new();
    let mut agent = home.serving();
    let reading = |n: u64| format!("{{\"sensor_name\":\"t\",\"timestamp\":{n},\"value\":{n}}}");
    let mut after = Subscriber::connect(&home);
    after.send(&reading(1));
    while after.answer() != json!({"acked": 1}) {}
    home.power(true);
    agent.wait_for_supply("Parked");
    let mut told = Subscriber::new(&home);
    while told.word() != "parked" {}
    // On a connection whose readings came before.
    after.send("{\"subscribe\":\"power\"}");
    assert_eq!(after.word(), "parked");
    assert_eq!(after.answer(), json!({"acked": 2}));
    // Behind readings that wait for the end of the pause.
    let mut behind = Subscriber::connect(&home);
    for n in 2..=20 {
        behind.send(&reading(n));
    }
    behind.send("{\"subscribe\":\"power\"}");
    let mut first = behind.answer();
    while first.get("paused").is_some() {
        first = behind.answer();
    }
    assert_eq!(
        first,
        json!({"power": "parked"}),
        "and nothing acknowledged"
    );
    home.power(false);
    let mut seen = Vec::new();
    while seen.last() != Some(&json!({"acked": 20})) {
        seen.push(behind.answer());
    }
    let of = |word: &str| seen.iter().filter(|v| v["power"] == word).count();
    assert_eq!((of("parked"), of("offbattery")), (0, 1), "{seen:?}");
    agent.stop();
    assert_eq!(home.values().len(), 20);
}

#[test]
fn while_paused_nothing_but_a_subscription_is_taken() {
    let home = Home::new();
    let mut agent = home.serving();
    home.power(true);
    agent.wait_for_supply("Parked");
    // Ingest hears of it a moment later.
    let mut other = Subscriber::new(&home);
    while other.word() != "parked" {}
    home.client().wait_for("paused");
    let mut s = Subscriber::new(&home);
    s.send("{\"sensor_name\":\"t\",\"timestamp\":1,\"value\":7}");
    s.send("{\"subscribe\":\"power\"}");
    assert_eq!(s.answer()["paused"], "power_failing");
    assert_eq!(s.answer(), json!({"power": "parked"}));
    assert_eq!(s.answer(), json!({"acked": 1}));
    home.power(false);
    // The reading and what follows it wait for the end of the pause.
    let mut seen = Vec::new();
    while seen.last() != Some(&json!({"acked": 3})) {
        seen.push(s.answer());
    }
    let at = |v: &Value| seen.iter().position(|s| s == v);
    assert!(at(&json!({"resumed": true})).is_some(), "{seen:?}");
    assert!(
        at(&json!({"acked": 3})) > at(&json!({"resumed": true})),
        "{seen:?}"
    );
    agent.stop();
    assert_eq!(home.values(), [7.0]);
}
