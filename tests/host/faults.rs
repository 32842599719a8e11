//! Broken surroundings: each a clear error or a degraded service that says so; nothing is lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::home::{Home, poll};

fn stderr(out: &std::process::Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn a_broken_config_is_refused_with_file_and_line_and_code_2() {
    let home = Home::new();
    home.write(
        "holdup.toml",
        b"[gateway]\nid = \"a\"\n\n[power]\nholdup_msec = 12\n",
    );
    let out = home.holdup(&["run"]);
    assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
    let text = stderr(&out);
    assert!(
        text.contains("holdup.toml:5") && text.contains("holdup_msec"),
        "{text}"
    );
    assert!(!home.path("data").exists(), "nothing was made");
}

#[test]
fn a_missing_config_is_named() {
    let home = Home::new();
    fs::remove_file(home.config()).expect("remove");
    let out = home.holdup(&["status"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(stderr(&out).contains("holdup.toml"), "{}", stderr(&out));
}

#[test]
fn a_second_instance_is_refused_and_the_first_goes_on() {
    let home = Home::new();
    let mut agent = home.serving();
    let out = home.holdup(&["run"]);
    assert_eq!(out.status.code(), Some(3), "{}", stderr(&out));
    assert!(
        stderr(&out).contains(&agent.pid().to_string()),
        "{}",
        stderr(&out)
    );
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    agent.wait_for_supply("Good");
}

#[test]
fn a_missing_chip_serves_on_unprotected() {
    let home = Home::new();
    let at = home.path("").display().to_string();
    home.write(
        "holdup.toml",
        format!(
            "[gateway]\ndata_dir = \"{at}data\"\nrun_dir = \"{at}run\"\n[power]\nboard = \"rpi5\"\nholdup_ms = 2000\n\
             [board.power_fail]\nchip = \"no-such-chip\"\n"
        )
        .as_bytes(),
    );
    let mut agent = home.start();
    let s = agent.wait_for("service", |s| s["supply"] == "Good");
    assert_eq!(s["readiness"], "Unprotected");
    assert!(
        s["reasons"]
            .as_array()
            .expect("reasons")
            .contains(&"line_missing".into())
    );
    assert!(
        s["gpio"]["error"]
            .as_str()
            .is_some_and(|e| e.contains("no-such-chip")),
        "{s}"
    );
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    poll("the log", || {
        home.log().contains("UNPROTECTED").then_some(())
    });
    agent.stop();
    assert_eq!(home.values().len(), 1);
}

#[test]
fn a_database_that_is_not_sqlite_is_left_alone_and_named() {
    let home = Home::new();
    let precious = b"these are somebody's notes, not a database\n".repeat(50);
    home.write("data/edge_store.db", &precious);
    let out = home.holdup(&["run"]);
    assert_eq!(out.status.code(), Some(4), "{}", stderr(&out));
    assert!(stderr(&out).contains("edge_store.db"), "{}", stderr(&out));
    assert_eq!(
        fs::read(home.data("edge_store.db")).expect("read"),
        precious
    );
}

#[test]
fn an_empty_database_beside_a_wal_gives_its_readings() {
    let home = Home::new();
    let agent = home.serving();
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    agent.kill();
    let wal = fs::read(home.data("edge_store.db-wal")).expect("wal");
    assert!(!wal.is_empty());
    home.write("data/edge_store.db", b"");
    // SQLite would delete the log.
    home.serving().stop();
    assert_eq!(home.values().len(), 1, "{}", home.log());
    let kept = fs::read_dir(home.data("evidence"))
        .expect("evidence")
        .flatten()
        .any(|e| fs::read(e.path().join("edge_store.db-wal")).is_ok_and(|b| b == wal));
    assert!(kept, "the log as it was");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let home = Home::new();
    // A file in its place: root too is refused.
    home.write("data", b"");
    let out = home.holdup(&["run"]);
    assert_eq!(out.status.code(), Some(4), "{}", stderr(&out));
    assert!(stderr(&out).contains("/data"), "{}", stderr(&out));

    let home = Home::new();
    home.serving().stop();
    let files = ["edge_store.db", "outage.rec", "sync_queue.db"];
    for f in files {
        fs::set_permissions(home.data(f), fs::Permissions::from_mode(0o444)).expect("mode");
    }
    if rustix::process::geteuid().is_root() {
        // Modes do not bind root; a read-only mount is tried in tests/kernel.
        return;
    }
    let out = home.holdup(&["run"]);
    assert_eq!(out.status.code(), Some(4), "{}", stderr(&out));
}

#[test]
fn doctor_names_what_is_bad_and_the_remedy() {
    let home = Home::with("glitch_ms = 20", "");
    let out = home.holdup(&["doctor"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(
        text.contains("power.holdup_ms is not set") && text.contains("none runs"),
        "{text}"
    );
    let out = home.holdup(&["doctor", "--json"]);
    let v: serde_json::Value = serde_json::from_slice(&out.stdout).expect("json");
    assert_eq!(v["worst"], "bad");
}

/// Whoever opens the file waits for the lease to be given back, or for 45 s.
struct Lease(std::process::Child);

impl Lease {
    fn on(path: &std::path::Path) -> Option<Self> {
        use std::io::BufRead;
        const HOLD: &str = "import fcntl, signal, sys\n\
            signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
            f = open(sys.argv[1], 'r+b')\n\
            fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
            print('held', flush=True)\n\
            sys.stdin.read()\n";
        let child = std::process::Command::new("python3")
            .args(["-c", HOLD])
            .arg(path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut lease = Self(child.ok()?);
        let mut line = String::new();
        let out = lease.0.stdout.take().expect("piped");
        std::io::BufReader::new(out)
            .read_line(&mut line)
            .expect("read");
        (line == "held\n").then_some(lease)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn an_agent_whose_store_does_not_open_guards_and_ends_when_it_is_told_to() {
    let home = Home::new();
    home.serving().stop();
    let Some(lease) = Lease::on(&home.data("edge_store.db")) else {
        eprintln!("skipped: no python3, or no leases on this file system");
        return;
    };
    let mut agent = home.start();
    agent.wait_for("a guard without a store", |s| {
        s["supply"] == "Good" && s["store"] == "starting"
    });
    agent.signal("TERM");
    let code = agent.ended().code();
    assert_eq!(code, Some(0), "{}", home.log());
    assert!(home.log().contains("was never opened"), "{}", home.log());
    drop(lease);
    home.serving().stop();
}

#[test]
fn doctor_names_a_store_that_is_no_database_or_whose_header_is_damaged() {
    let home = Home::new();
    home.serving().stop();
    let path = home.data("edge_store.db");
    let mut bytes = fs::read(&path).expect("read");
    let doctor = || {
        let out = home.holdup(&["doctor"]);
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(doctor().contains("its header is sound"), "{}", doctor());
    bytes[16] = 0x77;
    home.write("data/edge_store.db", &bytes);
    let said = doctor();
    assert!(
        said.contains("BAD   store")
            && said.contains("page size is wrong")
            && said.contains("-> restart the agent: it keeps a copy"),
        "{said}"
    );
    home.write("data/edge_store.db", b"{\"sensor\":1}\n");
    let said = doctor();
    assert!(
        said.contains("edge_store.db: it is not an SQLite database but text")
            && said.contains("-> `holdup recover --set-aside` keeps it as evidence"),
        "{said}"
    );
    let kept = fs::read(&path).expect("read");
    assert_eq!(kept, b"{\"sensor\":1}\n", "looking changes nothing");
}

#[test]
fn doctor_as_a_stranger_says_that_an_agent_may_run_and_judges_nobodys_rights_by_its_own() {
    use std::os::unix::process::CommandExt;

    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can ask as another user");
        return;
    }
    let home = Home::new();
    let agent = home.serving();
    // The stranger may go to the home, and has a copy of the program there.
    let program = home.path("holdup");
    fs::copy(env!("CARGO_BIN_EXE_holdup"), &program).expect("copy");
    for path in [home.path(""), program.clone()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
    }
    let ask = |args: &[&str]| {
        let config = home.config();
        let mut command = std::process::Command::new(&program);
        command.args(args).arg("--config").arg(config);
        command.uid(65_534).gid(65_534).output().expect("run")
    };
    let out = ask(&["doctor"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("an agent may run"), "{said}");
    assert!(
        said.contains("as root or as a member of the agent's group"),
        "{said}"
    );
    assert!(
        !said.contains("none runs") && !said.contains("cannot be written"),
        "{said}"
    );
    assert!(said.contains("skip  data_dir"), "{said}");
    agent.stop();
}

fn fifo(path: &std::path::Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("fifo");
}

#[test]
fn doctor_names_what_is_in_the_way_of_a_directory_or_a_database_and_waits_for_none_of_it() {
    let home = Home::new();
    let doctor = || {
        let out = home.holdup(&["doctor"]);
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    // Opened like a directory, a pipe would be waited for.
    fifo(&home.path("data"));
    let said = doctor();
    assert!(
        said.contains("BAD   data_dir") && said.contains("data is not a directory"),
        "{said}"
    );
    fs::remove_file(home.path("data")).expect("remove");
    std::os::unix::fs::symlink("/nonexistent", home.path("data")).expect("link");
    let said = doctor();
    assert!(said.contains("BAD   data_dir"), "{said}");
    fs::remove_file(home.path("data")).expect("remove");
    fs::create_dir(home.path("data")).expect("directory");
    fifo(&home.data("edge_store.db"));
    let said = doctor();
    assert!(said.contains("BAD   store"), "{said}");
}

#[test]
fn doctor_does_not_take_an_agent_that_does_not_answer_for_none() {
    let home = Home::new();
    let agent = home.serving();
    agent.signal("STOP");
    let out = home.holdup(&["doctor"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    agent.signal("CONT");
    assert!(
        said.contains("does not answer") && !said.contains("none runs"),
        "{said}"
    );
    agent.stop();
}

#[test]
fn what_has_the_name_of_a_socket_and_is_somebody_elses_is_named_and_left_alone() {
    use std::os::unix::net::{UnixListener, UnixStream};

    for name in ["ingest.sock", "status.sock", "control.sock"] {
        let home = Home::new();
        let path = format!("run/{name}");
        home.write(&path, b"somebody's notes");
        let out = home.holdup(&["run"]);
        assert_eq!(out.status.code(), Some(4), "{}", stderr(&out));
        assert!(stderr(&out).contains(name), "{}", stderr(&out));
        let kept = fs::read(home.path(&path)).expect("read");
        assert_eq!(kept, b"somebody's notes");

        fs::remove_file(home.path(&path)).expect("remove");
        let theirs = UnixListener::bind(home.path(&path)).expect("bind");
        // Who accepts nothing has a queue that fills up: nobody waits for a place in it.
        rustix::net::listen(&theirs, 0).expect("listen");
        let _first = UnixStream::connect(home.path(&path)).expect("the only place");
        let out = home.holdup(&["run"]);
        assert_eq!(out.status.code(), Some(4), "{}", stderr(&out));
        assert!(stderr(&out).contains(name), "{}", stderr(&out));
        assert!(home.path(&path).exists());
    }
}
