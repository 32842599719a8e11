//! The demo, as a new user runs it.

use std::process::Command;

use serde_json::Value;

#[test]
fn the_demo_proves_every_acknowledged_reading() {
    let out = Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args(["demo", "--json"])
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let events: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("a JSON object a line"))
        .collect();
    let names: Vec<_> = events.iter().filter_map(|e| e["event"].as_str()).collect();
    for event in [
        "start", "ingest", "flicker", "brownout", "power", "parked", "dark", "again", "proof",
    ] {
        assert!(names.contains(&event), "no {event} in {names:?}");
    }
    let end = events.last().expect("an end");
    assert_eq!(end["ok"], true);
    assert_eq!(end["missing"], 0);
    assert!(end["acknowledged"].as_u64() > Some(100), "{end}");
}

#[test]
fn the_demo_in_a_pipe_has_no_colour_and_says_what_it_does_not_show() {
    let out = Command::new(env!("CARGO_BIN_EXE_holdup"))
        .arg("demo")
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}");
    assert!(!text.contains('\x1b'));
    assert!(text.contains("Not shown here"), "{text}");
}
