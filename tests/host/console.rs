//! The technician's console on a pseudo-terminal, with the real agent and the laptop's own
//! OpenSSH.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::home::{Home, poll};

/// A laptop with a terminal program and a key, at the other end of the cable.
struct Laptop {
    line: File,
    seen: String,
    key: PathBuf,
    console: Child,
}

impl Laptop {
    fn new(home: &Home) -> Self {
        let key = home.path("id_ed25519");
        if !key.exists() {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "kim@laptop", "-f"])
                .arg(&key)
                .status()
                .expect("ssh-keygen; tests/install installs it");
            assert!(made.success());
        }
        let main: OwnedFd =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&main)
            .and_then(|()| unlockpt(&main))
            .expect("unlocked");
        let name = ptsname(&main, Vec::new()).expect("its name");
        let name = name.into_string().expect("text");
        let flags = fcntl_getfl(&main).expect("flags");
        fcntl_setfl(&main, flags | OFlags::NONBLOCK).expect("set");
        let console = Command::new(env!("CARGO_BIN_EXE_holdup"))
            .arg("--config")
            .arg(home.config())
            .args(["console", "--port", &name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(home.path("console.log")).expect("log"))
            .spawn()
            .expect("the console");
        let mut laptop = Self {
            line: File::from(main),
            seen: String::new(),
            key,
            console,
        };
        laptop.sees("Please press Enter to activate this console.");
        laptop
    }

    fn types(&mut self, text: &str) {
        self.line.write_all(text.as_bytes()).expect("the line");
    }

    /// Waits until `what` is on the screen; all that came until then.
    fn sees(&mut self, what: &str) -> String {
        self.sees_one_of(&[what])
    }

    /// The same of the first of several.
    fn sees_one_of(&mut self, what: &[&str]) -> String {
        let mut buffer = [0; 4096];
        let Self { line, seen, .. } = self;
        let end = poll(&what.join(" or "), || {
            // Nothing is there yet, or the console is not.
            if let Ok(n) = line.read(&mut buffer) {
                seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
            let ends = what.iter().filter_map(|w| Some(seen.find(w)? + w.len()));
            ends.min()
        });
        self.seen.drain(..end).collect()
    }

    /// What the laptop's shell prints for the line that the console shows.
    fn signs(&self, screen: &str) -> String {
        let line = screen
            .lines()
            .find(|l| l.starts_with("echo "))
            .expect("a line to paste");
        let line = line.replace("KEY", &self.key.display().to_string());
        let out = Command::new("sh")
            .arg("-c")
            .arg(line)
            .output()
            .expect("a shell");
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).expect("text")
    }

    fn public(&self) -> String {
        let text = std::fs::read_to_string(self.key.with_extension("pub"));
        text.expect("public key").trim().to_owned()
    }

    fn claims(&mut self) {
        self.types("claim\r");
        self.sees("key: ");
        let key = self.public();
        self.types(&format!("{key}\r"));
        self.sees("Enrolled: SHA256:");
    }

    fn logs_in(&mut self) {
        self.types("login\r");
        let screen = self.sees("Ctrl-C: back.");
        let answer = self.signs(&screen);
        self.types(&answer.replace('\n', "\r"));
        self.sees("Welcome, kim@laptop");
        self.sees("# ");
    }

    /// Types a command and gives what it printed, page by page.
    fn runs(&mut self, command: &str) -> String {
        self.types(&format!("{command}\r"));
        self.reads()
    }

    /// What is printed until the next prompt, page by page.
    fn reads(&mut self) -> String {
        let mut all = String::new();
        loop {
            all.push_str(&self.sees_one_of(&["-- Space: more", "\rhost-test# "]));
            if all.ends_with("# ") {
                return all;
            }
            self.types(" ");
        }
    }
}

impl Drop for Laptop {
    fn drop(&mut self) {
        // It may have ended.
        self.console.kill().ok();
        self.console.wait().ok();
    }
}

fn home() -> Home {
    let home = Home::with("holdup_ms = 5000", "");
    let mut config = std::fs::read_to_string(home.config()).expect("config");
    let list = |name: &str| home.path(name).display().to_string();
    config.push_str(&format!(
        "\n[console]\nallowed_signers = {:?}\nrevoked_signers = {:?}\n",
        list("allowed_signers"),
        list("revoked_signers")
    ));
    home.write("holdup.toml", config.as_bytes());
    home
}

/// What the audit log has of the console, in order: action, actor, details.
fn audited(home: &Home) -> Vec<(String, String, String)> {
    let conn = rusqlite::Connection::open(home.data("audit.db")).expect("open");
    let mut q = conn
        .prepare("SELECT action, actor, details FROM audit WHERE action LIKE 'console.%' ORDER BY sequence")
        .expect("query");
    q.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .expect("rows")
        .map(|r| r.expect("a row"))
        .collect()
}

#[test]
fn a_technician_claims_a_gateway_logs_in_and_everything_is_audited() {
    let home = home();
    let _agent = home.serving();
    let mut laptop = Laptop::new(&home);
    laptop.types("\r");
    let screen = laptop.sees("> ");
    assert!(screen.contains("readings are taken and stored"), "{screen}");
    assert!(screen.contains("`claim` enrols the first one"), "{screen}");
    assert!(
        !screen.contains(&home.data("").display().to_string()),
        "{screen}"
    );
    laptop.types("status\r");
    laptop.sees("That needs a technician");
    laptop.claims();
    laptop.logs_in();
    let text = laptop.runs("status");
    assert!(text.contains("supply") && text.contains("Good"), "{text}");
    let text = laptop.runs("audit");
    assert!(text.contains("console.login"), "{text}");
    laptop.types("logout\r");
    laptop.sees("Logged out.");
    let entries = audited(&home);
    let what: Vec<_> = entries
        .iter()
        .map(|(a, by, _)| (a.as_str(), by.as_str()))
        .collect();
    assert_eq!(
        what,
        [
            ("console.claim", "kim@laptop"),
            ("console.login", "kim@laptop"),
            ("console.command", "kim@laptop"),
            ("console.command", "kim@laptop"),
            ("console.logout", "kim@laptop"),
        ]
    );
    assert!(entries[2].2.contains("status"), "{entries:?}");
}

#[test]
fn a_stranger_and_a_replayed_answer_are_not_let_in_and_that_is_audited() {
    let home = home();
    let _agent = home.serving();
    let mut laptop = Laptop::new(&home);
    laptop.types("\r");
    laptop.sees("> ");
    laptop.claims();
    laptop.types("login\r");
    let screen = laptop.sees("Ctrl-C: back.");
    let answer = laptop.signs(&screen).replace('\n', "\r");
    laptop.types(&answer);
    laptop.sees("Welcome");
    laptop.types("logout\r\r");
    laptop.sees("> ");
    laptop.types("login\r");
    laptop.sees("Ctrl-C: back.");
    laptop.types(&answer);
    laptop.sees("Not logged in: the signature is not of this code");
    // A key that was revoked meanwhile.
    home.write("revoked_signers", laptop.public().as_bytes());
    laptop.types("login\r");
    let screen = laptop.sees("Ctrl-C: back.");
    let answer = laptop.signs(&screen).replace('\n', "\r");
    laptop.types(&answer);
    laptop.sees("Not logged in: this key has been revoked");
    // Nobody can claim a gateway whose list is damaged.
    home.write("allowed_signers", b"kim@laptop ssh-ed25519 AAAA\n");
    laptop.types("claim\r");
    laptop.sees("has its keys already");
    let refused: Vec<_> = audited(&home)
        .into_iter()
        .filter(|(action, _, _)| action == "console.refused")
        .map(|(_, _, details)| details)
        .collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].contains("wrong_code") && refused[1].contains("revoked"));
}

#[test]
fn the_console_answers_while_no_agent_does_and_a_damaged_store_is_recovered() {
    let home = home();
    let agent = home.serving();
    let mut client = home.client();
    for _ in 0..200 {
        client.send();
    }
    client.wait_acked(200);
    let mut laptop = Laptop::new(&home);
    laptop.types("\r");
    laptop.sees("> ");
    laptop.claims();
    laptop.logs_in();
    agent.kill();
    let text = laptop.runs("look");
    assert!(text.contains("IT DOES NOT ANSWER"), "{text}");
    let text = laptop.runs("why");
    assert!(text.contains("`log` says why it ended"), "{text}");
    let store = home.data("edge_store.db");
    let mut bytes = std::fs::read(&store).expect("read");
    bytes[..100].fill(0);
    home.write("data/edge_store.db", &bytes);
    laptop.types("data recover\r");
    laptop.sees("[y/N] ");
    laptop.types("y\r");
    let text = laptop.reads();
    assert!(
        text.contains("== the store") && text.contains("salvaged"),
        "{text}"
    );
    let entries = audited(&home);
    let last = entries.last().expect("entries");
    assert_eq!(
        (last.0.as_str(), last.1.as_str()),
        ("console.command", "kim@laptop")
    );
    assert!(last.2.contains("data recover"), "{entries:?}");
    let mut agent = home.start();
    let status = agent.wait_for("service", |s| s["store"] == "running");
    assert_eq!(status["stored"], 200);
}

#[test]
fn a_cable_that_is_pulled_logs_out() {
    let home = home();
    let _agent = home.serving();
    let mut laptop = Laptop::new(&home);
    laptop.types("\r");
    laptop.sees("> ");
    laptop.claims();
    laptop.logs_in();
    // The other end of a pseudo-terminal closes: a hang-up.
    let null = File::open("/dev/null").expect("null");
    drop(std::mem::replace(&mut laptop.line, null));
    poll("the logout in the audit log", || {
        let entries = audited(&home);
        let last = entries
            .last()
            .map(|(a, _, d)| (a.clone(), d.contains("hang-up")));
        (last == Some(("console.logout".to_owned(), true))).then_some(())
    });
}

#[test]
fn nobody_claims_a_gateway_whose_configuration_cannot_be_read() {
    let home = home();
    let config = std::fs::read_to_string(home.config()).expect("config");
    home.write("holdup.toml", format!("{config}\nnonsense\n").as_bytes());
    let mut laptop = Laptop::new(&home);
    laptop.types("\r");
    let screen = laptop.sees("> ");
    assert!(
        screen.contains("THE CONFIGURATION CANNOT BE READ"),
        "{screen}"
    );
    laptop.types("claim\r");
    laptop.sees("nobody can claim a gateway whose configuration cannot be read");
}
