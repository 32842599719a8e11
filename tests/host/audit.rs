//! The audit log of a running agent: what it says, that it is whole, and what damage does.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use holdup::clock::{Clock, SystemClock};
use serde_json::Value;

use crate::home::{Home, poll};

/// The entries, or why they cannot be read.
fn try_entries(home: &Home) -> Result<Vec<Value>, String> {
    let out = home.holdup(&[
        "audit", "show", "--json", "--since", "1", "--limit", "100000",
    ]);
    if !out.status.success() {
        return Err(errors(&out));
    }
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let parse = |l: &str| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"));
    Ok(text.lines().map(parse).collect())
}

fn entries(home: &Home) -> Vec<Value> {
    try_entries(home).expect("entries")
}

fn actions(home: &Home) -> Vec<String> {
    let name = |e: &Value| e["action"].as_str().map(str::to_owned);
    entries(home).iter().filter_map(name).collect()
}

fn errors(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Waits until an entry of this action is in the log.
fn wait_entry(home: &Home, action: &str, count: usize) -> Vec<Value> {
    poll(action, || {
        // An agent that mends a damaged log has not done so yet.
        let mut all = try_entries(home).unwrap_or_default();
        all.retain(|e| e["action"] == action);
        (all.len() >= count).then_some(all)
    })
}

fn verify(home: &Home, more: &[&str]) -> (Option<i32>, Value) {
    let out = home.holdup(&[&["audit", "verify", "--json"], more].concat());
    let verdict = serde_json::from_slice(&out.stdout);
    (
        out.status.code(),
        verdict.unwrap_or_else(|e| panic!("{e}: {}", errors(&out))),
    )
}

/// The script that an auditor runs.
fn script(log: &Path, heads: &[&str]) -> Output {
    Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("image/audit-verify.py"))
        .arg(log)
        .args(heads)
        .output()
        .expect("python3")
}

fn head(home: &Home) -> String {
    let out = home.holdup(&["audit", "head"]);
    assert!(out.status.success(), "{}", errors(&out));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn configure(home: &Home, agent: &mut crate::home::Agent<'_>, holdup_ms: u32) {
    let text = fs::read_to_string(home.config()).expect("config");
    let line = text
        .lines()
        .find(|l| l.starts_with("holdup_ms"))
        .expect("a line");
    let text = text.replace(line, &format!("holdup_ms = {holdup_ms}"));
    home.write("holdup.toml", text.as_bytes());
    agent.signal("HUP");
    agent.wait_for("the new settings", |s| s["holdup_ms"] == holdup_ms);
}

#[test]
fn the_log_tells_an_agents_life_in_order_and_every_reader_finds_it_whole() {
    let home = Home::new();
    let mut agent = home.serving();
    wait_entry(&home, "config", 1);
    wait_entry(&home, "identity.made", 1);
    home.power(true);
    agent.wait_for_supply("Parked");
    home.power(false);
    agent.wait_for_supply("Good");
    wait_entry(&home, "outage", 1);
    let out = home.holdup(&["power", "rehearse"]);
    assert_eq!(out.status.code(), Some(0), "{}", errors(&out));
    configure(&home, &mut agent, 7000);
    agent.signal("HUP");
    wait_entry(&home, "config", 2);
    assert!(home.holdup(&["power", "measure", "--yes"]).status.success());
    agent.stop();
    let agent = home.serving();
    wait_entry(&home, "start", 2);
    agent.stop();
    // Behind the others, when it is ready.
    let is_other = |action: &str| action != "identity.made";
    let mut all = actions(&home);
    all.retain(|a| is_other(a));
    let wanted = [
        "audit.first",
        "start",
        "config",
        "outage",
        "rehearsal",
        "rehearsal",
        "config",
        "measurement.arm",
        "measurement.arm",
        "stop",
        "start",
        "stop",
    ];
    assert_eq!(
        all, wanted,
        "the same outage and the same configuration are said once"
    );
    let mut all = entries(&home);
    all.retain(|e| e["action"].as_str().is_some_and(is_other));
    let outage = &all[3]["details"];
    assert_eq!(
        (&outage["ended"], &outage["resumed"]),
        (&"clean".into(), &true.into())
    );
    assert_eq!(
        (&all[4]["details"]["phase"], &all[5]["details"]["phase"]),
        (&"begin".into(), &"end".into())
    );
    assert_eq!(all[4]["details"]["id"], all[5]["details"]["id"]);
    let actor = all[4]["actor"].as_str().expect("an actor");
    assert!(actor.starts_with("uid:"), "who rehearsed: {actor}");
    assert_ne!(all[2]["details"]["sha256"], all[6]["details"]["sha256"]);
    // Three readers, no agent.
    let (code, verdict) = verify(&home, &[]);
    assert_eq!(
        (code, &verdict["entries"]),
        (Some(0), &13.into()),
        "{verdict}"
    );
    let log = home.data("audit.db");
    let head = head(&home);
    let out = script(&log, &[&head]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success() && text.contains(&head),
        "{text}{}",
        errors(&out)
    );
}

#[test]
fn the_script_and_the_verb_find_the_same_tampering() {
    let kinds = [
        (
            "UPDATE audit SET details = '{\"pid\":1}' WHERE action = 'start'",
            "BROKEN at entry 2",
        ),
        ("DELETE FROM audit WHERE sequence = 2", "BROKEN at entry 3"),
        ("DELETE FROM audit WHERE sequence >= 4", "CUT"),
    ];
    for (sql, says) in kinds {
        let home = Home::new();
        let agent = home.serving();
        wait_entry(&home, "config", 1);
        agent.stop();
        let head = head(&home);
        let log = home.data("audit.db");
        let out = script(&log, &[&head]);
        assert!(out.status.success(), "{}", errors(&out));
        assert_eq!(verify(&home, &["--head", &head]).0, Some(0));
        let conn = rusqlite::Connection::open(&log).expect("open");
        assert!(conn.execute(sql, []).expect(sql) > 0, "{sql}");
        drop(conn);
        let out = script(&log, &[&head]);
        assert_eq!(out.status.code(), Some(1), "{sql}");
        assert!(errors(&out).contains(says), "{sql}: {}", errors(&out));
        let (code, verdict) = verify(&home, &["--head", &head]);
        assert_eq!(code, Some(1), "{sql}: {verdict}");
        let at = format!("entry {}", verdict["broken"]["sequence"]);
        assert!(says == "CUT" || says.ends_with(&at), "{sql}: {verdict}");
    }
}

#[test]
fn entries_made_while_parked_are_appended_after_the_resume_and_reading_is_refused_meanwhile() {
    let home = Home::new();
    let mut agent = home.serving();
    wait_entry(&home, "config", 1);
    wait_entry(&home, "identity.made", 1);
    home.power(true);
    agent.wait_for_supply("Parked");
    let before = fs::read(home.data("audit.db")).expect("read");
    configure(&home, &mut agent, 7000);
    poll("the entry in the spool", || {
        fs::read_to_string(home.path("run/audit.spool"))
            .ok()
            .filter(|s| s.contains("\"action\":\"config\""))
    });
    agent.wait_for("the entry that waits", |s| s["audit"]["waiting"] == 1);
    for verb in ["show", "verify", "head"] {
        let out = home.holdup(&["audit", verb]);
        assert_eq!(out.status.code(), Some(3), "{verb}");
        assert!(
            errors(&out).contains("the supply is Parked"),
            "{}",
            errors(&out)
        );
    }
    assert_eq!(fs::read(home.data("audit.db")).expect("read"), before);
    home.power(false);
    agent.wait_for_supply("Good");
    wait_entry(&home, "config", 2);
    let all = wait_entry(&home, "outage", 1);
    assert_eq!(all[0]["details"]["resumed"], true);
    assert_eq!(verify(&home, &[]).0, Some(0));
}

#[test]
fn the_spool_of_an_agent_killed_while_parked_is_appended_by_the_next() {
    let home = Home::new();
    let mut agent = home.serving();
    wait_entry(&home, "config", 1);
    wait_entry(&home, "identity.made", 1);
    home.power(true);
    agent.wait_for_supply("Parked");
    configure(&home, &mut agent, 7000);
    // Counted as soon as it is handed over; it outlives the agent once it is in the spool.
    let spool = home.path("run/audit.spool");
    agent.wait_for("the entry that waits", |s| {
        let spooled = fs::read(&spool).unwrap_or_default();
        s["audit"]["waiting"] == 1 && spooled.windows(6).any(|w| w == b"config")
    });
    let parked = agent.status().expect("status")["uptime_s"].clone();
    agent.kill();
    let agent = home.serving();
    let configs = wait_entry(&home, "config", 2);
    wait_entry(&home, "start", 2);
    agent.stop();
    let all = actions(&home);
    let config = all.iter().rposition(|a| a == "config");
    let start = all.iter().rposition(|a| a == "start");
    assert!(config < start, "in order: {all:?} (up {parked} s)");
    assert_eq!(configs.len(), 2, "and once");
    assert_eq!(verify(&home, &[]).0, Some(0));
}

/// One request on the control socket; false when nobody is there.
fn asked(home: &Home, request: &str) -> bool {
    let Ok(mut stream) = UnixStream::connect(home.path("run/control.sock")) else {
        return false;
    };
    let mut answer = String::new();
    writeln!(stream, "{request}").is_ok()
        && BufReader::new(stream)
            .read_line(&mut answer)
            .is_ok_and(|n| n > 0)
}

#[test]
fn killed_at_any_moment_the_chain_is_whole_and_what_was_begun_is_in_it() {
    let home = Home::new();
    let mut seed = 0x9e37_79b9_u64;
    let mut answered = 0;
    for round in 0..12 {
        let agent = home.serving();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let end = SystemClock.mono() + std::time::Duration::from_micros((seed >> 33) % 60_000);
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let mut n = 0;
                while asked(&home, "{\"do\":\"disarm\"}") {
                    n += 1;
                }
                n
            });
            while SystemClock.mono() < end {
                std::thread::yield_now();
            }
            agent.kill();
            answered += load.join().expect("load");
        });
        let (code, verdict) = verify(&home, &[]);
        assert_eq!(code, Some(0), "round {round}: {verdict}");
    }
    // What was answered had begun, and what begins is durable before.
    let begun = entries(&home)
        .iter()
        .filter(|e| e["details"]["phase"] == "begin")
        .count();
    assert!(
        answered > 0 && begun >= answered,
        "{begun} begun, {answered} answered"
    );
    // The last one may have died in the middle of a transaction: the script does not undo that.
    home.serving().stop();
    let out = script(&home.data("audit.db"), &[]);
    assert!(out.status.success(), "{}", errors(&out));
}

#[test]
fn a_damaged_log_never_stops_the_agent_and_the_break_is_named_by_every_reader() {
    type Plant = fn(&Path);
    let plants: [(&str, Plant); 4] = [
        ("zeroed page", |p| {
            let mut bytes = fs::read(p).expect("read");
            bytes[4096..8192].fill(0);
            write(p, &bytes);
        }),
        ("truncated", |p| {
            let bytes = fs::read(p).expect("read");
            write(p, &bytes[..bytes.len() / 2]);
        }),
        ("0 bytes", |p| write(p, b"")),
        ("not a database", |p| {
            write(p, &b"somebody's notes\n".repeat(600))
        }),
    ];
    for (what, plant) in plants {
        let home = Home::new();
        let mut agent = home.serving();
        for ms in 0..5 {
            configure(&home, &mut agent, 5000 + ms);
        }
        wait_entry(&home, "config", 6);
        agent.stop();
        plant(&home.data("audit.db"));
        assert_eq!(
            home.holdup(&["audit", "verify"]).status.code(),
            Some(1),
            "{what}"
        );
        let agent = home.serving();
        let mut client = home.client();
        client.send();
        client.wait_acked(1);
        let says = &wait_entry(&home, "audit.break", 1)[0];
        wait_entry(&home, "start", 1);
        agent.stop();
        let kept = says["details"]["kept_as"].as_str().expect("kept");
        assert!(home.data(kept).exists(), "{what}: {kept}");
        let (code, verdict) = verify(&home, &[]);
        assert_eq!(code, Some(1), "{what}");
        assert_eq!(
            verdict["broken"]["named_by"][0], says["sequence"],
            "{what}: {verdict}"
        );
        let out = script(&home.data("audit.db"), &[]);
        assert!(errors(&out).contains("BROKEN at entry"), "{what}");
        let after = (says["sequence"].as_i64().expect("sequence") + 1).to_string();
        assert_eq!(verify(&home, &["--since", &after]).0, Some(0), "{what}");
        assert!(home.log().contains("an entry names the break"), "{what}");
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::File::create(path)
        .and_then(|mut f| f.write_all(bytes))
        .expect("write");
}

#[test]
fn without_a_log_the_verbs_say_so() {
    let home = Home::new();
    let out = home.holdup(&["audit", "head"]);
    assert_eq!(out.status.code(), Some(4));
    assert!(
        errors(&out).contains("there is no audit log"),
        "{}",
        errors(&out)
    );
    let out = home.holdup(&["audit", "verify", "--head", "12"]);
    assert_eq!(out.status.code(), Some(2));
}
