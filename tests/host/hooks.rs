//! Scripts for power events: the real agent on the simulated board, and scripts that misbehave.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use holdup::clock::SystemClock;
use holdup::config::EventSettings;
use holdup::hooks::{Happened, Hooks};
use holdup::power::Word;

use crate::home::{Agent, Home, poll};

const POWER: &str = "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0";
const BATTERY: &str =
    "source = \"battery\"\nholdup_ms = 4000\nglitch_ms = 20\nrestore_ms = 100\nsettle_after = 0";

/// A home whose scripts write down what happened.
struct Scripts {
    home: Home,
}

impl Scripts {
    fn new(power: &str, timeout_s: u32) -> Self {
        let home = Home::with(power, "");
        let dir = home.path("events.d");
        fs::create_dir(&dir).expect("events.d");
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("rights");
        let text = fs::read_to_string(home.config()).expect("config");
        let events = format!(
            "[events]\ndir = \"{}\"\ntimeout_s = {timeout_s}\n",
            dir.display()
        );
        home.write("holdup.toml", format!("{text}\n{events}").as_bytes());
        Self { home }
    }

    fn journal(&self) -> PathBuf {
        self.home.path("journal")
    }

    /// `body` may use $journal.
    fn script(&self, name: &str, body: &str) -> PathBuf {
        let text = format!("#!/bin/sh\njournal={}\n{body}\n", self.journal().display());
        self.home
            .write(&format!("events.d/{name}"), text.as_bytes());
        let path = self.home.path(&format!("events.d/{name}"));
        chmod(&path, 0o755);
        path
    }

    /// One that writes its name and event.
    fn notes(&self, name: &str) {
        self.script(name, &format!("echo \"{name} $1\" >> $journal"));
    }

    fn written(&self) -> Vec<String> {
        let text = fs::read_to_string(self.journal()).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    fn wait_written(&self, last: &str) -> Vec<String> {
        poll(last, || {
            Some(self.written()).filter(|w| w.last().is_some_and(|l| l == last))
        })
    }

    fn wait_log(&self, words: &str) -> String {
        poll(words, || {
            Some(self.home.log()).filter(|log| log.contains(words))
        })
    }

    fn outage(&self, agent: &mut Agent<'_>) {
        self.home.power(true);
        agent.wait_for_supply("Parked");
        self.home.power(false);
        agent.wait_for_supply("Good");
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("rights");
}

/// Is any process of this command line alive?
fn alive(pid: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = state.rsplit(')').next().unwrap_or_default().trim_start();
    !after.is_empty() && !after.starts_with('Z')
}

#[test]
fn every_script_of_an_event_runs_in_order_with_what_it_needs_to_know() {
    let s = Scripts::new(POWER, 10);
    for name in [
        "onbattery",
        "onbattery-20-b",
        "onbattery-10-a",
        "onbattery.sh",
        "onbatterylike",
        "parked-x",
        "offbattery-x",
        "resumed.d",
        "brownout-x",
    ] {
        s.notes(name);
    }
    let quiet = s.home.path("events.d/parked-not-executable");
    s.home
        .write("events.d/parked-not-executable", b"#!/bin/sh\nexit 9\n");
    chmod(&quiet, 0o644);
    s.script(
        "parked-y",
        "echo \"$HOLDUP_EVENT $HOLDUP_GATEWAY $HOLDUP_SOURCE $HOLDUP_READINESS ${NOTIFY_SOCKET-none}\" >> $journal",
    );
    let mut agent = s.home.start_with(&[("NOTIFY_SOCKET", "/nowhere")]);
    agent.wait_for_supply("Good");
    agent.wait_for("service", |s| s["store"] == "running");
    s.outage(&mut agent);
    let mut written = s.wait_written("resumed.d resumed");
    // Readiness is what it was then; it may be either, but it is told.
    for known in ["Ready", "AtRisk"] {
        written[5] = written[5].replace(&format!(" {known} "), " known ");
    }
    assert_eq!(
        written,
        [
            "onbattery onbattery",
            "onbattery-10-a onbattery",
            "onbattery-20-b onbattery",
            "onbattery.sh onbattery",
            "parked-x parked",
            "parked host-test capacitor known none",
            "offbattery-x offbattery",
            "resumed.d resumed",
        ],
        "{}",
        s.home.log()
    );
    assert_eq!(s.home.sim("brownout low"), "ok");
    s.wait_written("brownout-x brownout");
    assert_eq!(s.home.sim("brownout ok"), "ok");
    s.wait_written("resumed.d resumed");
    agent.stop();
}

#[test]
fn a_flicker_runs_nothing() {
    let s = Scripts::new(
        "holdup_ms = 60000\nglitch_ms = 20000\nrestore_ms = 100\nsettle_after = 0",
        10,
    );
    for word in ["onbattery", "offbattery", "parked", "resumed"] {
        s.notes(word);
    }
    s.notes("brownout");
    let mut agent = s.home.serving();
    s.home.power(true);
    agent.wait_for_supply("Suspect");
    s.home.power(false);
    agent.wait_for_supply("Good");
    s.wait_log("power flickered");
    // Events keep their order: one that comes later would find the flicker's before it.
    assert_eq!(s.home.sim("brownout low"), "ok");
    assert_eq!(s.wait_written("brownout brownout").len(), 1);
    agent.stop();
}

#[test]
fn no_script_is_started_before_the_plan_is_done() {
    let s = Scripts::new(
        "holdup_ms = 60000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0",
        10,
    );
    // An application's WAL that takes the plan far longer than a script takes to start.
    let path = s.home.path("app.db");
    let app = rusqlite::Connection::open(&path).expect("open");
    app.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0;
         CREATE TABLE t(x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
         INSERT INTO t SELECT zeroblob(8000) FROM n;",
    )
    .expect("fill");
    let text = fs::read_to_string(s.home.config()).expect("config");
    let text = format!("{text}\n[[database]]\npath = \"{}\"\n", path.display());
    s.home.write("holdup.toml", text.as_bytes());
    // What the agent says of itself when the script has started.
    s.script(
        "onbattery",
        &format!(
            "{} --config {} status --json | grep supply >> $journal",
            env!("CARGO_BIN_EXE_holdup"),
            s.home.config().display()
        ),
    );
    let mut agent = s.home.serving();
    s.home.power(true);
    agent.wait_for_supply("Parked");
    let said = poll("the script", || s.written().pop());
    assert!(said.contains("\"Parked\""), "{said}");
    agent.stop();
}

/// The room alone, with a say in whether it is calm.
struct Room {
    scripts: Scripts,
    hooks: Hooks,
    calm: Arc<AtomicBool>,
}

impl Room {
    fn new() -> Self {
        let scripts = Scripts::new(POWER, 1);
        let calm = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&calm);
        let settings = EventSettings {
            dir: scripts.home.path("events.d"),
            timeout: Duration::from_secs(1),
        };
        let asked = Box::new(move || asked.load(SeqCst));
        let hooks = Hooks::start(settings, Arc::new(SystemClock), asked).expect("thread");
        Self {
            scripts,
            hooks,
            calm,
        }
    }

    fn happened(&self, word: Word, fact: usize) {
        let facts = vec![("HOLDUP_FACT", fact.to_string())];
        self.hooks.happened(Happened { word, facts });
    }
}

#[test]
fn of_too_many_events_the_newest_are_kept_in_order() {
    let room = Room::new();
    for word in ["onbattery", "offbattery"] {
        room.scripts
            .script(word, "echo \"$HOLDUP_FACT $1\" >> $journal");
    }
    for n in 0..40 {
        let word = [Word::OnBattery, Word::OffBattery][n % 2];
        room.happened(word, n);
    }
    room.calm.store(true, SeqCst);
    let written = room.scripts.wait_written("39 offbattery");
    let kept: Vec<_> = (32..40)
        .map(|n| format!("{n} {}", ["onbattery", "offbattery"][n % 2]))
        .collect();
    assert_eq!(written, kept);
    assert!(room.hooks.end());
}

#[test]
fn events_that_wait_for_the_plan_are_not_acted_on_when_the_agent_ends() {
    let room = Room::new();
    room.scripts.notes("onbattery");
    room.happened(Word::OnBattery, 1);
    assert!(room.hooks.end(), "it waits for the plan for ever");
    room.calm.store(true, SeqCst);
    assert!(room.scripts.written().is_empty());
}

#[test]
fn a_thread_that_hangs_in_the_kernel_is_not_waited_for() {
    // What a start from a card that does not answer looks like.
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let (entered, inside) = std::sync::mpsc::channel::<()>();
    let settings = EventSettings {
        dir: PathBuf::from("/nowhere"),
        timeout: Duration::from_secs(1),
    };
    let hang = Box::new(move || {
        entered.send(()).ok();
        held.recv().is_ok()
    });
    let hooks = Hooks::start(settings, Arc::new(SystemClock), hang).expect("thread");
    let happened = |word| {
        let facts = Vec::new();
        hooks.happened(Happened { word, facts });
    };
    happened(Word::OnBattery);
    inside.recv().expect("it asks");
    for _ in 0..100 {
        happened(Word::Parked);
    }
    assert!(!hooks.end(), "it hangs");
    drop(hold);
}

#[test]
fn on_a_battery_scripts_run_while_the_gateway_serves() {
    let s = Scripts::new(BATTERY, 10);
    for word in ["onbattery", "offbattery", "parked", "resumed"] {
        s.notes(word);
    }
    let mut agent = s.home.serving();
    s.home.power(true);
    agent.wait_for_supply("OnBattery");
    s.wait_written("onbattery onbattery");
    assert_eq!(agent.status().expect("status")["supply"], "OnBattery");
    s.home.power(false);
    agent.wait_for_supply("Good");
    assert_eq!(
        s.wait_written("offbattery offbattery"),
        ["onbattery onbattery", "offbattery offbattery"]
    );
    agent.stop();
}

#[test]
fn a_script_that_hangs_and_ignores_sigterm_is_killed_with_its_children() {
    let s = Scripts::new(BATTERY, 1);
    s.script(
        "onbattery-1-hangs",
        "trap '' TERM\n(trap '' TERM; echo $$ >> $journal; while :; do sleep 100; done) &\n\
         echo $! >> $journal\nwhile :; do sleep 100; done",
    );
    s.notes("onbattery-2-next");
    let mut agent = s.home.serving();
    s.home.power(true);
    let written = s.wait_written("onbattery-2-next onbattery");
    let log = s.wait_log("was killed: it ran for longer than events.timeout_s");
    assert!(log.contains("onbattery-1-hangs"), "{log}");
    for pid in &written[..written.len() - 1] {
        poll("the end of the script and its child", || {
            (!alive(pid)).then_some(())
        });
    }
    assert_eq!(agent.wait_for_supply("OnBattery")["supply"], "OnBattery");
    agent.stop();
}

#[test]
fn a_script_that_hangs_holds_up_neither_the_guard_nor_ingest_nor_the_end() {
    let s = Scripts::new(POWER, 2);
    for word in ["onbattery", "parked", "offbattery", "resumed"] {
        s.script(
            &format!("{word}-hangs"),
            "echo started >> $journal\ntrap '' TERM\nsleep 100 & wait\nsleep 100",
        );
    }
    let mut agent = s.home.serving();
    let mut client = s.home.client();
    s.outage(&mut agent);
    for n in 1..=3 {
        client.send();
        client.wait_acked(n);
    }
    // A second outage while the scripts of the first one still hang.
    s.home.power(true);
    agent.wait_for_supply("Parked");
    poll("a script that runs", || {
        (!s.written().is_empty()).then_some(())
    });
    agent.stop();
    assert!(!s.home.log().contains("left behind"), "{}", s.home.log());
}

#[test]
fn megabytes_of_output_reach_the_log_as_a_few_lines() {
    let s = Scripts::new(BATTERY, 30);
    s.script(
        "onbattery-1-loud",
        "echo first words\ni=0\nwhile [ $i -lt 3 ]; do head -c 1000000 /dev/zero | tr '\\000' x; \
         i=$((i+1)); done\nprintf '\\033[31mred'\nexit 3",
    );
    s.notes("onbattery-2");
    let mut agent = s.home.serving();
    s.home.power(true);
    s.wait_written("onbattery-2 onbattery");
    let log = s.wait_log("onbattery-1-loud for onbattery: exit status: 3");
    assert!(log.contains("onbattery-1-loud: first words"), "{log}");
    assert!(log.contains("bytes more"), "{log}");
    assert!(log.len() < 20_000, "the log has {} bytes", log.len());
    assert!(agent.wait_for_supply("OnBattery")["pid"].is_u64());
    agent.stop();
}

#[test]
fn a_script_that_leaves_a_child_behind_is_done_when_it_ends_itself() {
    let s = Scripts::new(BATTERY, 60);
    // The child keeps the script's output open.
    s.script("onbattery-1-forks", "sleep 50 &\necho $! >> $journal");
    s.notes("onbattery-2");
    let agent = s.home.serving();
    s.home.power(true);
    let written = s.wait_written("onbattery-2 onbattery");
    assert!(alive(&written[0]), "the child was waited for, or killed");
    let killed = Command::new("kill").arg(&written[0]).status();
    assert!(killed.expect("kill").success());
    agent.stop();
}

#[test]
fn a_script_that_vanishes_or_cannot_be_run_costs_only_itself() {
    let s = Scripts::new(BATTERY, 10);
    let gone = s.home.path("events.d/onbattery-2-gone");
    s.script(
        "onbattery-1-removes",
        &format!("rm {}; echo removed >> $journal", gone.display()),
    );
    s.notes("onbattery-2-gone");
    let nonsense = s.script("onbattery-3-nonsense", "");
    s.home
        .write("events.d/onbattery-3-nonsense", b"\x7fELF no program");
    chmod(&nonsense, 0o755);
    let orphan = s.script("onbattery-3-orphan", "");
    s.home
        .write("events.d/onbattery-3-orphan", b"#!/no/such/shell\n");
    chmod(&orphan, 0o755);
    s.notes("onbattery-4-last");
    let agent = s.home.serving();
    s.home.power(true);
    let written = s.wait_written("onbattery-4-last onbattery");
    assert_eq!(written, ["removed", "onbattery-4-last onbattery"]);
    let log = s.home.log();
    for name in ["onbattery-2-gone", "onbattery-3-nonsense"] {
        let line = log
            .lines()
            .find(|l| l.contains(name) && l.contains("cannot be started"));
        assert!(line.is_some(), "{name}: {log}");
        assert!(!line.is_some_and(|l| l.contains("interpreter")), "{log}");
    }
    let line = log.lines().find(|l| l.contains("onbattery-3-orphan"));
    assert!(line.is_some_and(|l| l.contains("interpreter")), "{log}");
    agent.stop();
}

#[test]
fn what_others_could_have_written_is_refused_with_the_reason() {
    let s = Scripts::new(BATTERY, 10);
    s.notes("onbattery-1-group");
    chmod(&s.home.path("events.d/onbattery-1-group"), 0o775);
    s.notes("onbattery-2-world");
    chmod(&s.home.path("events.d/onbattery-2-world"), 0o757);
    s.home.write("elsewhere/script", b"#!/bin/sh\nexit 0\n");
    chmod(&s.home.path("elsewhere/script"), 0o755);
    chmod(&s.home.path("elsewhere"), 0o777);
    std::os::unix::fs::symlink(
        s.home.path("elsewhere/script"),
        s.home.path("events.d/onbattery-3-link"),
    )
    .expect("link");
    s.notes("onbattery-4-good");
    let doctor = || {
        let out = s.home.holdup(&["doctor", "--json"]);
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let said = doctor();
    assert!(said.contains("onbattery-4-good"), "{said}");
    for name in ["onbattery-1-group", "onbattery-2-world", "onbattery-3-link"] {
        assert!(said.contains(&format!("{name} is not run")), "{said}");
    }
    assert!(said.contains("may be written by others"), "{said}");

    let mut agent = s.home.serving();
    s.home.power(true);
    let written = s.wait_written("onbattery-4-good onbattery");
    assert_eq!(written, ["onbattery-4-good onbattery"]);
    let log = s.home.log();
    for name in ["onbattery-1-group", "onbattery-2-world", "onbattery-3-link"] {
        assert!(log.contains(&format!("{name} is not run: ")), "{log}");
    }
    // The directory itself.
    s.home.power(false);
    agent.wait_for_supply("Good");
    chmod(&s.home.path("events.d"), 0o775);
    s.home.power(true);
    s.wait_log("events.d is not run: may be written by others");
    assert_eq!(s.written().len(), 1, "nothing in it was run");
    agent.stop();
}

#[test]
fn a_name_that_would_write_to_the_terminal_is_shown_escaped() {
    let s = Scripts::new(BATTERY, 10);
    let bad = "onbattery-\u{1b}[2J\nforged line: all is well";
    s.notes("onbattery-0");
    s.script(bad, "echo done >> $journal");
    let refused = "onbattery-\u{1b}[3J\nrefused";
    s.script(refused, "exit 0");
    chmod(&s.home.path(&format!("events.d/{refused}")), 0o777);
    let doctor = s.home.holdup(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let agent = s.home.serving();
    s.home.power(true);
    s.wait_written("onbattery-0 onbattery");
    let log = s.wait_log("forged line: all is well for onbattery: ok");
    for text in [&doctor, &log] {
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.contains("\\u{1b}[2J\\nforged"), "{text}");
        assert!(text.contains("\\u{1b}[3J\\nrefused is not run"), "{text}");
        assert!(!text.lines().any(|l| l.starts_with("forged")), "{text}");
    }
    agent.stop();
}

#[test]
fn the_shipped_example_signals_the_unit_that_it_names() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("image/events.d/onbattery-sigpwr");
    let mode = fs::metadata(&example)
        .expect("the example")
        .permissions()
        .mode();
    assert_eq!(mode & 0o111, 0o111, "executable");
    let home = Home::new();
    home.write("bin/systemctl", b"#!/bin/sh\necho \"$@\"\n");
    chmod(&home.path("bin/systemctl"), 0o755);
    let path = format!("{}:/usr/bin:/bin", home.path("bin").display());
    let out = Command::new(example)
        .arg("onbattery")
        .env("PATH", path)
        .output()
        .expect("run");
    assert!(out.status.success());
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "--quiet is-active app.service\nkill --signal=SIGPWR app.service\n"
    );
}
