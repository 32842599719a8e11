//! Something else in the place of one of the agent's files: a FIFO, a directory, a link. Each is a
//! service that says so or an end that names it; never a wait without an end, never a file of
//! somebody else's written to.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::home::{Home, poll};

const PRECIOUS: &[u8] = b"somebody's notes";

#[derive(Debug, Clone, Copy)]
enum Instead {
    Fifo,
    Directory,
    Link,
}

const ALL: [Instead; 3] = [Instead::Fifo, Instead::Directory, Instead::Link];

fn fifo(at: &Path) {
    mknodat(CWD, at, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("fifo");
}

/// A home where `name` in data_dir is something else; a link leads to somebody's notes.
fn home_with(name: &str, instead: Instead) -> Home {
    let home = Home::new();
    home.write("notes", PRECIOUS);
    let at = home.data(name);
    fs::create_dir_all(home.path("data")).expect("folder");
    match instead {
        Instead::Fifo => fifo(&at),
        Instead::Directory => fs::create_dir(&at).expect("directory"),
        Instead::Link => symlink(home.path("notes"), &at).expect("link"),
    }
    home
}

fn unharmed(home: &Home) {
    assert_eq!(fs::read(home.path("notes")).expect("notes"), PRECIOUS);
}

#[test]
fn what_stands_in_place_of_the_agents_records_is_set_aside_by_name_and_readings_are_taken() {
    for name in ["outage.rec", "ledger"] {
        for instead in ALL {
            let home = home_with(name, instead);
            let agent = home.serving();
            let mut client = home.client();
            client.send();
            client.wait_acked(1);
            let told = agent.status().expect("status")["set_aside"].clone();
            let to = home.data(&format!("{name}.damaged"));
            assert_eq!(told[0]["to"], to.display().to_string(), "{instead:?}");
            let doctor = home.holdup(&["doctor"]);
            let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
            assert!(doctor.contains("was set aside as"), "{doctor}");
            let audit = home.holdup(&["audit", "show", "--json"]);
            let audit = String::from_utf8_lossy(&audit.stdout).into_owned();
            assert!(audit.contains("recovery.set_aside"), "{audit}");
            // In its place is one of its own, which works.
            home.power(true);
            let mut agent = agent;
            let parked = agent.wait_for_supply("Parked");
            assert_eq!(parked["last_outage"]["ended"], "clean");
            home.power(false);
            agent.wait_for_supply("Good");
            agent.stop();
            assert!(home.data(name).symlink_metadata().expect(name).is_file());
            assert!(!to.symlink_metadata().expect("set aside").is_file());
            unharmed(&home);
        }
    }
}

#[test]
fn a_store_that_cannot_be_looked_at_is_named_and_the_guard_serves() {
    for name in [
        "edge_store.db",
        "edge_store.db-wal",
        "edge_store.db-journal",
    ] {
        for instead in ALL {
            let home = home_with(name, instead);
            let mut agent = home.start();
            agent.wait_for("a guard without a store", |s| {
                let log = home.log();
                let told = log.contains(&format!("/data/{name}")) && log.contains("it is ");
                told && s["supply"] == "Good" && s["store"] == "starting"
            });
            agent.stop();
            unharmed(&home);
        }
    }
}

#[test]
fn what_it_can_do_without_keeps_no_reading_from_being_stored() {
    for name in [
        "reserve",
        "holdup.beat",
        "costs.json",
        "costs.json.new",
        "holdup_history.json",
        "holdup_history.json.new",
        "sync_queue.db",
        "sync_queue.db-journal",
    ] {
        for instead in ALL {
            let home = home_with(name, instead);
            let agent = home.serving();
            let mut client = home.client();
            client.send();
            client.wait_acked(1);
            agent.stop();
            let log = home.log();
            let told = log.contains(&format!("/data/{name}"));
            // What is only learned again, or made anew, is no news.
            let replaced = match instead {
                Instead::Directory => name == "holdup_history.json.new",
                Instead::Fifo | Instead::Link => {
                    ["costs.json", "costs.json.new", "holdup_history.json.new"].contains(&name)
                }
            };
            assert!(told || replaced, "{name} {instead:?}: {log}");
            assert_eq!(home.values(), [0.0], "{name} {instead:?}");
            unharmed(&home);
        }
    }
}

/// Not left behind where it waits for ever.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_status_without_an_agent_does_not_wait_for_a_fifo_in_place_of_the_record() {
    let home = home_with("outage.rec", Instead::Fifo);
    let asked = std::process::Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args(["status", "--config"])
        .arg(home.config())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("start");
    let mut asked = Killed(asked);
    let ended = poll("an answer", || asked.0.try_wait().expect("wait"));
    assert_eq!(ended.code(), Some(4));
}

#[test]
fn without_a_heartbeat_the_agent_guards_and_only_measuring_is_refused() {
    for instead in ALL {
        let home = home_with("holdup.beat", instead);
        let mut agent = home.serving();
        let out = home.holdup(&["power", "measure", "--yes", "--json"]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(out.status.code(), Some(3), "{text}");
        for part in ["holdup.beat", "move it out of the way", "restart"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(home.log().contains("cannot be measured"), "{}", home.log());
        home.power(true);
        let parked = agent.wait_for_supply("Parked");
        assert_eq!(parked["last_outage"]["ended"], "clean");
        home.power(false);
        agent.wait_for_supply("Good");
        agent.stop();
    }
}

#[test]
fn a_fifo_or_a_device_as_configuration_is_refused_and_the_agent_hears_its_signals_still() {
    let home = Home::new();
    let config = home.config();
    let agent = home.serving();
    fs::remove_file(&config).expect("remove");
    fifo(&config);
    agent.signal("HUP");
    poll("a refusal", || {
        home.log().contains("not a regular file").then_some(())
    });
    agent.stop();
    fs::remove_file(&config).expect("remove");
    symlink("/dev/zero", &config).expect("link");
    let out = home.holdup(&["config", "check"]);
    assert_eq!(out.status.code(), Some(2));
    let told = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(told.contains("not a regular file"), "{told}");
}
