//! Other people's databases, with a real application beside: what is locked, what is never
//! opened, and what is said before an outage. The cgroup is a folder that imitates one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdup::clock::SystemClock;
use holdup::config::DatabaseSettings;
use holdup::guard::{Cgroups, ForeignDatabase, GuardedDatabase};

use crate::application::{self, Application};
use crate::home::Home;

const LONG: Duration = Duration::from_secs(40);

/// Not a check of its own: what [`Application`] runs.
#[test]
fn the_other_application() {
    application::serve();
}

struct World {
    home: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self {
            home: tempfile::tempdir().expect("temp dir"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn application(&self, name: &str) -> Application {
        Application::start("foreign::the_other_application", &self.path(name))
    }

    /// An application whose database has one row; in WAL mode it stays open.
    fn filled(&self, name: &str, mode: &str) -> Application {
        let mut app = self.application(name);
        app.run(&format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t(a); INSERT INTO t VALUES(0)"
        ));
        app
    }

    fn guarded(&self, name: &str, unit: Option<&str>) -> ForeignDatabase {
        let settings = DatabaseSettings {
            path: self.path(name),
            priority: 50,
            unit: unit.map(str::to_owned),
        };
        let cgroups = Cgroups::at(&self.path("cgroup"), self.home.path());
        ForeignDatabase::new(settings, Vec::new(), cgroups, Arc::new(SystemClock))
    }

    /// `app.service`, which stops as soon as it is asked, with these processes.
    fn unit(&self, pids: &[u32]) {
        let folder = self.path("cgroup/system.slice/app.service");
        fs::create_dir_all(&folder).expect("folder");
        let pids: String = pids.iter().map(|p| format!("{p}\n")).collect();
        put(&folder.join("cgroup.procs"), &pids);
        put(&folder.join("cgroup.events"), "populated 1\nfrozen 1\n");
        put(&folder.join("cgroup.freeze"), "0\n");
    }

    fn is_frozen(&self) -> bool {
        let path = self.path("cgroup/system.slice/app.service/cgroup.freeze");
        fs::read_to_string(path).expect("read").trim() == "1"
    }
}

fn put(path: &Path, text: &str) {
    fs::File::create(path)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .expect("write");
}

/// The plan's three steps.
fn plan(db: &mut ForeignDatabase) -> Result<u32, String> {
    db.commit(LONG)?;
    db.still(LONG)?;
    db.checkpoint(LONG)
}

fn look(db: &mut ForeignDatabase) -> (bool, String) {
    db.inspect(&|| false);
    let view = db.view();
    (view.other_writers, view.state)
}

#[test]
fn without_a_unit_the_lock_is_held_until_the_outage_is_over() {
    for mode in ["WAL", "DELETE", "TRUNCATE", "PERSIST"] {
        let w = World::new();
        let mut app = w.filled("app.db", mode);
        let mut db = w.guarded("app.db", None);
        let moved = plan(&mut db).expect(mode);
        assert_eq!(moved > 0, mode == "WAL", "{mode}: {moved} frames");
        assert_eq!(
            app.sql("INSERT INTO t VALUES(1)"),
            "database is locked",
            "{mode}"
        );
        // Asked once more, as by a second plan: no file is closed under the lock.
        plan(&mut db).expect("nothing to do");
        assert_eq!(app.sql("INSERT INTO t VALUES(1)"), "database is locked");
        db.release();
        app.run("INSERT INTO t VALUES(1)");
    }
}

#[test]
fn a_rollback_database_that_nobody_has_open_is_locked_too() {
    let w = World::new();
    drop(w.filled("app.db", "DELETE"));
    let mut db = w.guarded("app.db", None);
    plan(&mut db).expect("plan");
    let mut late = w.application("app.db");
    assert_eq!(late.sql("INSERT INTO t VALUES(1)"), "database is locked");
    db.release();
    late.run("INSERT INTO t VALUES(1)");
}

#[test]
fn a_database_whose_writer_died_in_a_transaction_is_never_opened() {
    let w = World::new();
    let mut app = w.filled("app.db", "DELETE");
    // Spilled pages make the journal hot, with the database half changed.
    app.run("PRAGMA cache_size=5; BEGIN");
    app.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000)
         INSERT INTO t SELECT randomblob(400) FROM n"
            .replace('\n', " ")
            .as_str(),
    );
    app.kill();
    let bytes = |name: &str| fs::read(w.path(name)).expect("read");
    let (database, journal) = (bytes("app.db"), bytes("app.db-journal"));
    assert!(journal.len() > 512, "{} bytes", journal.len());
    let mut db = w.guarded("app.db", None);
    assert_eq!(plan(&mut db), Ok(0));
    assert!(db.view().state.contains("died in a transaction"), "{db:?}");
    assert!(bytes("app.db") == database && bytes("app.db-journal") == journal);
    db.release();
    let (risk, said) = look(&mut db);
    assert!(!risk && said.contains("died in a transaction"), "{said}");
}

#[test]
fn a_writer_that_never_lets_its_lock_go_is_named_before_the_outage() {
    for mode in ["DELETE", "WAL"] {
        let w = World::new();
        let mut app = w.application("app.db");
        app.run("PRAGMA locking_mode=EXCLUSIVE");
        app.run(&format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t(a); INSERT INTO t VALUES(0)"
        ));
        let mut db = w.guarded("app.db", None);
        let (risk, said) = look(&mut db);
        assert!(risk, "{mode}: {said}");
        assert!(
            said.contains(&format!("pid {}", app.pid())) && said.contains("locking_mode"),
            "{said}"
        );
        let e = plan(&mut db).expect_err("no lock to be had");
        assert!(e.contains("app.db"), "{e}");
        db.release();
        app.kill();
        assert!(!look(&mut db).0, "{mode}: {db:?}");
    }
}

#[test]
fn a_lock_that_is_refused_in_the_outage_is_told_at_once() {
    let w = World::new();
    let mut app = w.filled("app.db", "DELETE");
    let mut db = w.guarded("app.db", None);
    assert!(!look(&mut db).0, "not yet");
    app.run("PRAGMA locking_mode=EXCLUSIVE");
    app.run("INSERT INTO t VALUES(1)");
    db.commit(LONG).expect("commit");
    db.still(LONG).expect_err("no lock to be had");
    assert!(db.view().other_writers, "{db:?}");
    db.release();
    app.kill();
    assert!(!look(&mut db).0, "{db:?}");
}

#[test]
fn readiness_names_other_writers_before_the_outage() {
    let home = Home::with(
        "holdup_ms = 4000",
        "[[database]]\npath = \"/nonexistent/app.db\"\n",
    );
    let text = fs::read_to_string(home.config()).expect("config");
    let path = home.path("app.db");
    let text = text.replace("/nonexistent/app.db", &path.display().to_string());
    home.write("holdup.toml", text.as_bytes());
    let mut app = Application::start("foreign::the_other_application", &path);
    app.run("PRAGMA locking_mode=EXCLUSIVE; CREATE TABLE t(a)");
    let mut agent = home.serving();
    let s = agent.wait_for("other_writers", |s| {
        let reasons = s["reasons"].as_array();
        reasons.is_some_and(|r| r.iter().any(|r| r == "other_writers"))
    });
    assert_eq!(s["readiness"], "AtRisk");
    let state = s["databases"][1]["state"].as_str().expect("state");
    assert!(state.contains("never lets its lock go"), "{state}");
    agent.stop();
}

/// Each step's name, database and outcome.
fn steps(status: &serde_json::Value) -> Vec<String> {
    let steps = status["last_outage"]["steps"].as_array().expect("steps");
    let word = |s: &serde_json::Value, key: &str| s[key].as_str().unwrap_or("-").to_owned();
    let of = |s| {
        ["step", "database", "outcome"]
            .map(|key| word(s, key))
            .join(" ")
    };
    steps.iter().map(of).collect()
}

#[test]
fn a_writer_is_stilled_in_an_outage_that_leaves_no_time_for_its_checkpoint() {
    let home = Home::with(
        "holdup_ms = 300\nglitch_ms = 20\nrestore_ms = 100\nrecharge_s = 86400\nsettle_after = 0",
        "[[database]]\npath = \"/nonexistent/app.db\"\n",
    );
    let text = fs::read_to_string(home.config()).expect("config");
    let path = home.path("app.db");
    let text = text.replace("/nonexistent/app.db", &path.display().to_string());
    home.write("holdup.toml", text.as_bytes());
    let mut app = Application::start("foreign::the_other_application", &path);
    app.run("PRAGMA journal_mode=WAL; CREATE TABLE t(a)");
    let mut agent = home.serving();
    home.power(true);
    // The supply is empty then, and stays so.
    agent.wait_for("an empty supply", |s| {
        s["supply"] == "Parked" && s["holdup_left_ms"] == 0
    });
    home.power(false);
    agent.wait_for_supply("Good");
    app.run("INSERT INTO t VALUES(1)");
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    let steps = steps(&parked);
    for expected in ["still app.db done", "checkpoint app.db dropped"] {
        assert!(steps.iter().any(|s| s == expected), "{expected}: {steps:?}");
    }
    assert_eq!(app.sql("INSERT INTO t VALUES(2)"), "database is locked");
    home.power(false);
    agent.wait_for_supply("Good");
    app.run("INSERT INTO t VALUES(2)");
    // Told to stop, the agent locks nobody out.
    agent.stop();
    app.run("INSERT INTO t VALUES(3)");
}

#[test]
fn behind_a_link_the_files_beside_the_real_one_are_meant() {
    let w = World::new();
    fs::create_dir(w.path("real")).expect("folder");
    let mut app = w.filled("real/app.db", "WAL");
    std::os::unix::fs::symlink(w.path("real/app.db"), w.path("link.db")).expect("link");
    let mut db = w.guarded("link.db", None);
    assert!(plan(&mut db).expect("plan") > 0, "its -wal was not found");
    assert_eq!(app.sql("INSERT INTO t VALUES(1)"), "database is locked");
}

#[test]
fn a_unit_is_stopped_instead_of_meeting_the_lock_and_goes_on_after() {
    for mode in ["WAL", "DELETE"] {
        let w = World::new();
        let mut app = w.filled("app.db", mode);
        w.unit(&[app.pid()]);
        let mut db = w.guarded("app.db", Some("app.service"));
        let (risk, said) = look(&mut db);
        assert!(
            !risk && said.contains("unit app.service can be stopped"),
            "{said}"
        );
        plan(&mut db).expect(mode);
        assert!(w.is_frozen(), "{db:?}");
        assert!(db.view().state.contains("is stopped"), "{db:?}");
        // The imitation stops nobody: so it can be seen that the lock was let go. Who cannot see
        // other users' processes keeps it.
        let answer = app.sql("INSERT INTO t VALUES(1)");
        let sees_all = rustix::process::geteuid().is_root();
        assert_eq!(answer == "ok", sees_all, "{answer}");
        db.release();
        assert!(!w.is_frozen(), "still stopped after the outage");
    }
}

#[test]
fn two_databases_of_one_unit_are_both_synced_and_it_goes_on_once() {
    let w = World::new();
    let mut app = w.filled("app.db", "DELETE");
    let mut same = w.filled("second.db", "DELETE");
    // Stopped in the middle of a transaction on its second database.
    same.run("BEGIN IMMEDIATE");
    w.unit(&[app.pid(), same.pid()]);
    let mut first = w.guarded("app.db", Some("app.service"));
    let mut second = w.guarded("second.db", Some("app.service"));
    look(&mut first);
    look(&mut second);
    plan(&mut first).expect("plan");
    plan(&mut second).expect("its lock is not waited for");
    assert!(second.view().state.contains("is stopped"), "{second:?}");
    assert!(w.is_frozen());
    first.release();
    assert!(!w.is_frozen());
    second.release();
    assert!(!w.is_frozen());
    app.run("INSERT INTO t VALUES(1)");
    same.run("COMMIT");
}

#[test]
fn an_agent_that_ends_lets_the_unit_go_on() {
    let w = World::new();
    let app = w.filled("app.db", "WAL");
    w.unit(&[app.pid()]);
    let mut db = w.guarded("app.db", Some("app.service"));
    plan(&mut db).expect("plan");
    assert!(w.is_frozen());
    drop(db);
    assert!(!w.is_frozen());
}

#[test]
fn where_others_than_the_unit_write_too_the_lock_is_kept_and_readiness_says_so() {
    let w = World::new();
    let app = w.filled("app.db", "WAL");
    let mut other = w.application("app.db");
    other.run("SELECT * FROM t");
    w.unit(&[app.pid()]);
    let mut db = w.guarded("app.db", Some("app.service"));
    let (risk, said) = look(&mut db);
    assert!(risk, "{said}");
    assert!(
        said.contains(&format!("pid {}", other.pid())) && said.contains("app.service"),
        "{said}"
    );
    assert!(!said.contains(&format!("pid {} ", app.pid())), "{said}");
    plan(&mut db).expect("plan");
    assert!(w.is_frozen());
    assert_eq!(other.sql("INSERT INTO t VALUES(1)"), "database is locked");
    db.release();
    other.run("INSERT INTO t VALUES(1)");
    assert!(!w.is_frozen());
}

#[test]
fn a_unit_that_never_lets_its_lock_go_is_stopped_without_it() {
    let w = World::new();
    let mut app = w.application("app.db");
    app.run("PRAGMA locking_mode=EXCLUSIVE; CREATE TABLE t(a)");
    w.unit(&[app.pid()]);
    let mut db = w.guarded("app.db", Some("app.service"));
    assert!(!look(&mut db).0, "{db:?}");
    assert_eq!(plan(&mut db), Ok(0));
    assert!(w.is_frozen());
    db.release();
    assert!(!w.is_frozen());
}

#[test]
fn a_unit_that_does_not_stop_in_time_waits_for_the_lock() {
    let w = World::new();
    let mut app = w.filled("app.db", "DELETE");
    w.unit(&[app.pid()]);
    let events = w.path("cgroup/system.slice/app.service/cgroup.events");
    put(&events, "populated 1\nfrozen 0\n");
    let mut db = w.guarded("app.db", Some("app.service"));
    db.commit(LONG).expect("commit");
    let e = db.still(Duration::from_millis(200)).expect_err("late");
    assert!(
        e.contains("did not stop in time") && e.contains("wait"),
        "{e}"
    );
    assert_eq!(app.sql("INSERT INTO t VALUES(1)"), "database is locked");
    db.release();
    assert!(!w.is_frozen());
    app.run("INSERT INTO t VALUES(1)");
}

#[test]
fn a_unit_that_cannot_be_stopped_or_does_not_run_leaves_the_lock() {
    let w = World::new();
    let mut app = w.filled("app.db", "DELETE");
    let mut db = w.guarded("app.db", Some("app.service"));
    fs::create_dir_all(w.path("cgroup")).expect("folder");
    let (risk, said) = look(&mut db);
    assert!(
        !risk && said.contains("app.service is not running"),
        "{said}"
    );
    plan(&mut db).expect("plan");
    assert_eq!(app.sql("INSERT INTO t VALUES(1)"), "database is locked");
    db.release();
    // The unit that holds this very process.
    w.unit(&[app.pid(), std::process::id()]);
    let (risk, said) = look(&mut db);
    assert!(risk && said.contains("the agent itself"), "{said}");
    plan(&mut db).expect_err("said again");
    assert_eq!(app.sql("INSERT INTO t VALUES(1)"), "database is locked");
    assert!(!w.is_frozen());
}

#[test]
fn the_service_file_lets_go_on_what_an_agent_that_died_had_stopped() {
    let w = World::new();
    let app = w.filled("app.db", "DELETE");
    w.unit(&[app.pid()]);
    let mut db = w.guarded("app.db", Some("app.service"));
    plan(&mut db).expect("plan");
    std::mem::forget(db);
    assert!(w.is_frozen());
    let service = Path::new(env!("CARGO_MANIFEST_DIR")).join("image/holdup.service");
    let service = fs::read_to_string(service).expect("service");
    assert!(service.contains("RuntimeDirectoryPreserve=yes"));
    let line = service
        .lines()
        .find_map(|l| l.strip_prefix("ExecStopPost=-+/bin/sh -c '"))
        .and_then(|l| l.strip_suffix('\''))
        .expect("a line that lets go on");
    // As systemd hands it on.
    let run_dir = w.home.path().display().to_string();
    let line = line.replace("$$", "$").replace("/run/holdup", &run_dir);
    std::process::Command::new("sh")
        .args(["-c", &line])
        .status()
        .expect("sh");
    assert!(!w.is_frozen());
}

/// What doctor prints of one database.
fn doctor(home: &Home) -> String {
    let out = home.holdup(&["doctor"]);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn doctor_says_who_has_a_database_open_and_what_an_outage_does_to_them() {
    let home = Home::with("", "[[database]]\npath = \"/nonexistent/app.db\"\n");
    let said = doctor(&home);
    assert!(said.contains("start its application"), "{said}");
    let text = fs::read_to_string(home.config()).expect("config");
    let path = home.path("app.db");
    let text = text.replace("/nonexistent/app.db", &path.display().to_string());
    home.write("holdup.toml", text.as_bytes());
    let mut app = Application::start("foreign::the_other_application", &path);
    app.run("CREATE TABLE t(a)");
    let said = doctor(&home);
    for expected in [
        "rollback journal, open by pid",
        &format!("pid {}", app.pid()),
        "gives up after 5 s with \"database is locked\"",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    app.run("PRAGMA journal_mode=WAL; INSERT INTO t VALUES(1)");
    app.kill();
    let said = doctor(&home);
    assert!(said.contains(": WAL, nobody has it open"), "{said}");
    assert!(!said.contains("WAL-reset"), "{said}");
    // As an older library leaves it.
    let mut bytes = fs::read(&path).expect("read");
    bytes[96..100].copy_from_slice(&3_040_001u32.to_be_bytes());
    home.write("app.db", &bytes);
    let said = doctor(&home);
    assert!(
        said.contains("SQLite 3.40.1") && said.contains("WAL-reset"),
        "{said}"
    );
    bytes[96..100].copy_from_slice(&3_050_007u32.to_be_bytes());
    home.write("app.db", &bytes);
    assert!(!doctor(&home).contains("WAL-reset"));

    home.write(
        "holdup.toml",
        format!("{text}unit = \"no-such-unit.service\"\n").as_bytes(),
    );
    let said = doctor(&home);
    assert!(said.contains("no-such-unit.service"), "{said}");
}

#[test]
fn what_lies_in_a_log_is_known_before_the_outage_and_moved_by_it() {
    for page in [1024, 4096, 65_536] {
        let w = World::new();
        let mut app = w.application("app.db");
        app.run(&format!("PRAGMA page_size={page}; PRAGMA journal_mode=WAL"));
        app.run("PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a)");
        for n in 0..50 {
            app.run(&format!("INSERT INTO t VALUES({n})"));
        }
        let mut db = w.guarded("app.db", None);
        db.inspect(&|| false);
        let view = db.view();
        let log = fs::metadata(w.path("app.db-wal")).expect("its log").len();
        let frames = (log - 32) / (page + 24);
        assert!(frames > 50, "{frames}");
        assert_eq!(view.wal_frames.map(u64::from), Some(frames), "{page}");
        assert_eq!(view.wal_bytes, frames * page);
        assert_eq!(u64::from(db.frames()), (frames * page).div_ceil(4096));
        // More came since that look: the plan knows of it.
        app.run("INSERT INTO t SELECT a FROM t");
        let before = db.frames();
        db.commit(LONG).expect("commit");
        db.still(LONG).expect("still");
        assert!(db.frames() > before || page == 1024, "{page}: {before}");
        db.checkpoint(LONG).expect("checkpoint");
        db.release();
        db.inspect(&|| false);
        assert_eq!((db.view().wal_frames, db.frames()), (Some(0), 0));
        // Nobody's log is moved, so it counts for nothing.
        app.kill();
        db.inspect(&|| false);
        assert_eq!((db.view().wal_frames, db.frames()), (None, 0));
    }
}
