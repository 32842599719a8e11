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

/// The laptop's end of a line, and the name of the other.
fn cable() -> (File, String) {
    let main: OwnedFd =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
    grantpt(&main)
        .and_then(|()| unlockpt(&main))
        .expect("unlocked");
    let name = ptsname(&main, Vec::new()).expect("its name");
    let name = name.into_string().expect("text");
    let flags = fcntl_getfl(&main).expect("flags");
    fcntl_setfl(&main, flags | OFlags::NONBLOCK).expect("set");
    (File::from(main), name)
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
        let (main, name) = cable();
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
            line: main,
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
        // A long one goes on in the next row, behind a bar.
        let rows = screen.lines().skip_while(|l| !l.starts_with("echo "));
        let rows: Vec<_> = rows.take_while(|l| !l.trim().is_empty()).collect();
        let line = rows
            .join("\n")
            .replace("KEY", &self.key.display().to_string());
        assert!(line.contains("echo "), "a line to paste: {screen}");
        let out = Command::new("sh")
            .arg("-c")
            .arg(line)
            .output()
            .expect("a shell");
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).expect("text")
    }

    /// Hands the line to the laptop's own `rz`; the file's name and bytes.
    fn receives(&mut self) -> (String, Vec<u8>) {
        let folder = tempfile::tempdir().expect("temp dir");
        let line = |file: &File| Stdio::from(file.try_clone().expect("the line"));
        let mut rz = Command::new("rz")
            .args(["--quiet", "--binary"])
            .current_dir(folder.path())
            .stdin(line(&self.line))
            .stdout(line(&self.line))
            .stderr(Stdio::null())
            .spawn()
            .expect("rz; tests/install installs lrzsz");
        // It waits on its own.
        let flags = fcntl_getfl(&self.line).expect("flags");
        fcntl_setfl(&self.line, flags & !OFlags::NONBLOCK).expect("set");
        let ended = rz.wait().expect("rz");
        fcntl_setfl(&self.line, flags).expect("set");
        assert!(ended.success(), "{ended:?}");
        let mut all = std::fs::read_dir(folder.path()).expect("listed");
        let entry = all.next().expect("a file").expect("an entry");
        let bytes = std::fs::read(entry.path()).expect("read");
        (entry.file_name().to_string_lossy().into_owned(), bytes)
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
    laptop.types("data verify\r");
    laptop.sees("[y/N] ");
    laptop.types("y\r");
    let text = laptop.reads();
    assert!(
        text.contains("== the store") && text.contains("(1: see above)"),
        "{text}"
    );
    assert_eq!(
        std::fs::read(&store).expect("read"),
        bytes,
        "nothing is changed by looking"
    );
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

/// A laptop that is logged in at a gateway which it has claimed.
fn logged_in(home: &Home) -> Laptop {
    let mut laptop = Laptop::new(home);
    laptop.types("\r");
    laptop.sees("> ");
    laptop.claims();
    laptop.logs_in();
    laptop
}

#[test]
fn what_erases_is_begun_by_a_signature_of_its_own_and_by_no_other() {
    let home = home();
    let _agent = home.serving();
    let mut laptop = logged_in(&home);
    let asks = |laptop: &mut Laptop, level: &str| {
        laptop.types(&format!("reset {level}\r"));
        laptop.sees("name: ");
        laptop.types("host-test\r");
        let screen = laptop.sees("Ctrl-C: back.");
        assert!(screen.contains(&format!(":reset/{level}:")), "{screen}");
        laptop.signs(&screen).replace('\n', "\r")
    };
    // Signed for a smaller level, and pasted for a larger one.
    let smaller = asks(&mut laptop, "data");
    laptop.types("\x03");
    laptop.sees("# ");
    let right = asks(&mut laptop, "everything");
    laptop.types(&smaller);
    laptop.sees("Nothing was done: the signature is not of this code");
    laptop.sees("# ");
    // The right one, once that code is used up.
    laptop.types(&right);
    laptop.sees("No such command");
    laptop.types("\x03");
    laptop.sees("# ");
    let right = asks(&mut laptop, "everything");
    laptop.types(&right);
    laptop.sees("Any key stops it.");
    laptop.types("q");
    laptop.sees("Stopped. Nothing was done.");
    let entries = audited(&home);
    let count = |action: &str| entries.iter().filter(|e| e.0 == action).count();
    assert_eq!(
        (count("console.confirmed"), count("console.command")),
        (1, 0),
        "{entries:?}"
    );
    let refused = entries
        .iter()
        .find(|e| e.0 == "console.refused")
        .expect("refused");
    assert!(refused.2.contains("reset/everything") && refused.2.contains("wrong_code"));
}

#[test]
fn a_viewer_sees_and_changes_nothing() {
    let home = home();
    let _agent = home.serving();
    let mut laptop = Laptop::new(&home);
    let line = format!(
        "kim@laptop namespaces=\"holdup-viewer\" {}\n",
        laptop.public()
    );
    home.write("allowed_signers", line.as_bytes());
    laptop.types("\r");
    laptop.sees("> ");
    laptop.types("login\r");
    let screen = laptop.sees("Ctrl-C: back.");
    let answer = laptop.signs(&screen).replace('\n', "\r");
    laptop.types(&answer);
    laptop.sees("Not logged in: this key may look and change nothing here");
    laptop.types("login viewer\r");
    let screen = laptop.sees("Ctrl-C: back.");
    let answer = laptop.signs(&screen).replace('\n', "\r");
    laptop.types(&answer);
    laptop.sees("Welcome, kim@laptop");
    laptop.sees("$ ");
    laptop.types("reboot\r");
    laptop.sees("You may look, not change");
    laptop.types("config show\r");
    laptop.sees("You may look, not change");
}

#[test]
fn a_passphrase_lets_in_wrong_ones_wait_and_a_new_process_waits_too() {
    let home = home();
    let file = home.path("passphrase");
    let config = std::fs::read_to_string(home.config()).expect("config");
    let config = format!(
        "{config}passphrase_file = {:?}\n",
        file.display().to_string()
    );
    home.write("holdup.toml", config.as_bytes());
    // Of "correct horse battery": made by the argon2 tool of Debian, which this must read.
    let kept =
        "$argon2id$v=19$m=4096,t=1,p=1$c2FsdHlzYWx0$PR9+dRjCvd90oUp7wPTLL3YTo9Q/84/WFUl5nV4Te2w";
    home.write("passphrase", kept.as_bytes());
    let _agent = home.serving();
    let mut laptop = Laptop::new(&home);
    laptop.types("\r");
    laptop.sees("> ");
    let guess = |laptop: &mut Laptop, text: &str| {
        laptop.types("login\r");
        laptop.sees("name: ");
        laptop.types("kim\r");
        laptop.sees("passphrase (not shown): ");
        laptop.types(&format!("{text}\r"));
        laptop.sees_one_of(&["Not logged in: ", "Welcome, kim (passphrase)"])
    };
    for wrong in ["correct horse batterz", "", "correct"] {
        let screen = guess(&mut laptop, wrong);
        assert!(screen.contains("Not logged in"), "{screen}");
        assert!(wrong.is_empty() || !screen.contains(wrong), "{screen}");
        laptop.sees("that is not the passphrase");
    }
    guess(&mut laptop, "correct horse battery");
    laptop.sees("too many wrong ones: try again in");
    // The plug is pulled: nothing of it is forgotten.
    drop(laptop);
    let mut laptop = Laptop::new(&home);
    laptop.types("\r");
    laptop.sees("> ");
    guess(&mut laptop, "correct horse battery");
    laptop.sees("too many wrong ones: try again in");
    // With nothing on record it is let in, and only then.
    drop(laptop);
    std::fs::remove_file(home.path("passphrase.guesses")).expect("removed");
    let mut laptop = Laptop::new(&home);
    laptop.types("\r");
    laptop.sees("> ");
    let screen = guess(&mut laptop, "correct horse battery");
    assert!(screen.contains("Welcome"), "{screen}");
    let refused = audited(&home)
        .into_iter()
        .filter(|e| e.0 == "console.refused");
    assert_eq!(refused.count(), 5);
}

#[test]
fn settings_are_changed_and_taken_back_and_a_broken_value_is_refused() {
    let home = home();
    let _agent = home.serving();
    let mut laptop = logged_in(&home);
    let text = laptop.runs("config set power.holdup_ms soon");
    assert!(text.contains("a whole number from"), "{text}");
    let text = laptop.runs("config set power.holdup_ms 6000");
    assert!(
        text.contains("power.holdup_ms = 6000") && text.contains("restart"),
        "{text}"
    );
    laptop.types("config set gateway.id plant-8\r");
    laptop.sees("gateway.id = plant-8");
    laptop.sees("plant-8# ");
    let loaded = holdup::config::load(&home.config()).expect("loads");
    assert_eq!(loaded.settings.gateway.id, "plant-8");
    let holdup = |s: &holdup::config::Settings| s.power.holdup.map(|h| h.as_millis());
    assert_eq!(holdup(&loaded.settings), Some(6000));
    laptop.types("config undo\r");
    laptop.sees("Taken back: gateway.id = plant-8");
    laptop.sees("host-test# ");
    let text = laptop.runs("config undo");
    assert!(
        text.contains("Taken back: power.holdup_ms = 6000"),
        "{text}"
    );
    let loaded = holdup::config::load(&home.config()).expect("loads");
    assert_eq!(loaded.settings.gateway.id, "host-test");
    assert_eq!(holdup(&loaded.settings), Some(5000));
    let text = laptop.runs("config undo");
    assert!(text.contains("no change to take back"), "{text}");
    let changes = audited(&home)
        .into_iter()
        .filter(|e| e.0 == "console.config");
    assert_eq!(changes.count(), 4);
}

#[test]
fn a_file_goes_to_the_laptops_own_rz_and_no_key_does() {
    let home = home();
    let _agent = home.serving();
    std::fs::create_dir_all(home.data("evidence/one")).expect("made");
    let body: Vec<u8> = (0..1_000_000u32)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect();
    home.write("data/evidence/one/edge_store.db", &body);
    home.write("data/evidence/one/holdup-keys.tar.zst.age", b"secret");
    std::os::unix::fs::symlink(home.config(), home.data("evidence/one/link")).expect("linked");
    let mut laptop = logged_in(&home);
    let text = laptop.runs("send");
    assert!(
        text.contains("1000000 evidence/one/edge_store.db"),
        "{text}"
    );
    assert!(
        text.contains("audit.db") && !text.contains("keys") && !text.contains("link"),
        "{text}"
    );
    for no in [
        "evidence/one/link",
        "evidence/one/holdup-keys.tar.zst.age",
        "evidence/../holdup.toml",
        "/etc/passwd",
        "evidence",
        "evidence/one",
        "edge_store.db",
    ] {
        let text = laptop.runs(&format!("send {no}"));
        assert!(
            text.contains("sent") || text.contains("no file"),
            "{no}: {text}"
        );
    }
    // Interrupted, and once more.
    laptop.types("send evidence/one/edge_store.db\r");
    laptop.sees("**\u{18}B0");
    laptop.types("\x03");
    laptop.sees("Given up");
    laptop.sees("# ");
    laptop.types("send evidence/one/edge_store.db\r");
    laptop.sees("give up.");
    let got = laptop.receives();
    assert_eq!(got.0, "edge_store.db");
    assert!(got.1 == body, "{} bytes", got.1.len());
    laptop.sees("Sent: 1000000 bytes.");
    laptop.sees("# ");
}

#[test]
fn a_lab_is_said_and_nobody_is_asked_for_anything() {
    let home = home();
    let config = std::fs::read_to_string(home.config()).expect("config");
    home.write("holdup.toml", format!("{config}lab = true\n").as_bytes());
    let _agent = home.serving();
    let mut laptop = Laptop::new(&home);
    laptop.types("\r");
    let screen = laptop.sees("> ");
    assert!(screen.contains("LAB MODE: ANYBODY"), "{screen}");
    laptop.types("login\r");
    laptop.sees("host-test LAB# ");
    assert_eq!(audited(&home)[0].1, "lab");
}

#[test]
fn what_is_done_while_nobody_can_write_is_in_the_audit_log_afterwards() {
    let home = home();
    let agent = home.serving();
    let mut laptop = logged_in(&home);
    agent.kill();
    // The data partition is gone: nothing can be made where it was mounted.
    rustix::fs::rename(home.data(""), home.path("elsewhere")).expect("moved");
    home.write("data", b"no directory");
    let text = laptop.runs("log");
    // However the row was broken.
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("it waits until the agent runs"), "{text}");
    let text = laptop.runs("look");
    assert!(text.contains("IT DOES NOT ANSWER"), "{text}");
    std::fs::remove_file(home.path("data")).expect("removed");
    rustix::fs::rename(home.path("elsewhere"), home.data("")).expect("moved");
    let _agent = home.serving();
    let entries = poll("the entry", || {
        let entries = audited(&home);
        entries
            .last()
            .is_some_and(|e| e.2.contains("\"log\""))
            .then_some(entries)
    });
    let last = entries.last().expect("entries");
    assert_eq!(
        (last.0.as_str(), last.1.as_str()),
        ("console.command", "kim@laptop")
    );
}

#[test]
fn the_consoles_code_is_in_memory_before_it_is_needed() {
    let home = home();
    let laptop = Laptop::new(&home);
    let maps = std::fs::read_to_string(format!("/proc/{}/smaps", laptop.console.id()));
    let maps = maps.expect("smaps");
    let mut rows = maps
        .lines()
        .skip_while(|l| !(l.contains(" r-xp ") && l.contains("holdup")));
    let kib = |row: &str| -> u64 {
        let number = row.split_ascii_whitespace().nth(1).expect("a number");
        number.parse().expect("KiB")
    };
    let size = kib(rows.find(|l| l.starts_with("Size:")).expect("size"));
    let here = kib(rows.find(|l| l.starts_with("Rss:")).expect("rss"));
    let locked = kib(rows.find(|l| l.starts_with("Locked:")).expect("locked"));
    if locked == 0 {
        eprintln!("SKIPPED: this user may not lock memory");
        return;
    }
    assert_eq!((here, size > 1000), (size, true), "all of the code");
}

#[test]
fn a_cable_that_is_plugged_in_again_is_served_again() {
    let home = home();
    let port = home.path("holdup-console");
    let config = std::fs::read_to_string(home.config()).expect("config");
    let config = format!("{config}port = {:?}\n", port.display().to_string());
    home.write("holdup.toml", config.as_bytes());
    let console = Command::new(env!("CARGO_BIN_EXE_holdup"))
        .arg("--config")
        .arg(home.config())
        .arg("console")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(home.path("console.log")).expect("log"))
        .spawn()
        .expect("the console");
    let mut laptop = Laptop {
        line: File::open("/dev/null").expect("null"),
        seen: String::new(),
        key: home.path("id_ed25519"),
        console,
    };
    for _ in 0..2 {
        // As udev does: the name comes and goes with the cable.
        let (line, name) = cable();
        std::os::unix::fs::symlink(&name, &port).expect("linked");
        laptop.line = line;
        laptop.seen.clear();
        laptop.sees("Please press Enter to activate this console.");
        laptop.types("\r");
        laptop.sees("host-test> ");
        std::fs::remove_file(&port).expect("removed");
    }
}

#[test]
fn a_new_name_of_the_gateway_is_the_one_that_must_be_typed() {
    let home = home();
    let _agent = home.serving();
    let mut laptop = logged_in(&home);
    laptop.types("config set gateway.id plant-8\r");
    laptop.sees("gateway.id = plant-8");
    laptop.sees("plant-8# ");
    laptop.types("reboot\r");
    laptop.sees("type the gateway's name: plant-8");
}

#[test]
fn a_backup_is_restored_with_a_key_that_is_typed_and_never_shown() {
    let home = home();
    let made = home.holdup(&["backup", "keygen"]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let key = String::from_utf8(made.stdout).expect("text");
    let secret = key.lines().find(|l| l.starts_with("AGE-SECRET-KEY-1"));
    let secret = secret.expect("a key").to_owned();
    let agent = home.serving();
    let mut client = home.client();
    for _ in 0..50 {
        client.send();
    }
    client.wait_acked(50);
    // At first the queue is still looked after.
    poll("a backup", || {
        let made = home.holdup(&["backup", "create", "--json"]);
        (made.status.code() == Some(0)).then_some(())
    });
    let list = home.holdup(&["backup", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).expect("json");
    let name = list["backups"][0]["name"]
        .as_str()
        .expect("a backup")
        .to_owned();
    for _ in 0..10 {
        client.send();
    }
    client.wait_acked(60);
    let mut laptop = logged_in(&home);
    agent.stop();
    laptop.types(&format!("restore {name}\r"));
    laptop.sees("name: ");
    laptop.types("host-test\r");
    laptop.sees("key (not shown): ");
    laptop.types(&format!("{secret}\r"));
    let screen = laptop.sees("Ctrl-C: back.");
    assert!(!screen.contains("AGE-SECRET"), "{screen}");
    let rows = screen.lines().find(|l| l.chars().count() > 79);
    assert_eq!(rows, None, "{screen}");
    let answer = laptop.signs(&screen).replace('\n', "\r");
    laptop.types(&answer);
    laptop.sees("Any key stops it.");
    let text = laptop.reads();
    assert_eq!(home.values().len(), 50, "{text}");
    assert!(!text.contains("AGE-SECRET"), "{text}");
    let entries = audited(&home);
    assert!(
        entries.iter().all(|e| !e.2.contains("AGE-SECRET")),
        "{entries:?}"
    );
    assert!(!home_log(&home).contains("AGE-SECRET"));
    let confirmed = entries
        .iter()
        .any(|e| e.0 == "console.confirmed" && e.2.contains(&name));
    assert!(confirmed, "{entries:?}");
}

fn home_log(home: &Home) -> String {
    std::fs::read_to_string(home.path("console.log")).expect("the console's log")
}

#[test]
fn the_network_is_set_for_whoever_manages_it_and_taken_back() {
    let home = home();
    let root = home.path("root");
    let folder = root.join("etc/NetworkManager/system-connections");
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::create_dir_all(root.join("sys/class/net/eth0/device")).expect("made");
    std::fs::create_dir_all(root.join("sys/class/net/wlan0/device")).expect("made");
    std::fs::create_dir_all(root.join("sys/class/net/wlan0/wireless")).expect("made");
    let shown = root.display().to_string();
    let set = |value: &[&str]| {
        let mut args = vec!["config", "set", "--root", shown.as_str(), "network"];
        args.extend(value);
        home.holdup(&args)
    };
    for bad in [
        &["192.168.1.255/24"][..],
        &["10.0.0.1/8", "11.0.0.1"],
        &["never"],
    ] {
        let out = set(bad);
        assert_eq!(out.status.code(), Some(2), "{bad:?}: {out:?}");
    }
    let file = folder.join("holdup.nmconnection");
    assert!(!file.exists(), "what is refused changes nothing");
    for value in [&["192.168.1.20/24", "192.168.1.1"][..], &["dhcp"]] {
        let out = set(value);
        assert_eq!(out.status.code(), Some(0), "{out:?}");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&file).expect("the file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "NetworkManager takes no other");
    let text = |what: &str| {
        let text = std::fs::read_to_string(&file).expect("the file");
        assert!(
            text.contains("interface-name=eth0") && text.contains(what),
            "{text}"
        );
    };
    text("method=auto");
    assert_eq!(home.holdup(&["config", "undo"]).status.code(), Some(0));
    text("address1=192.168.1.20/24,192.168.1.1");
    assert_eq!(home.holdup(&["config", "undo"]).status.code(), Some(0));
    assert!(!file.exists());
    assert_eq!(home.holdup(&["config", "undo"]).status.code(), Some(1));
}
