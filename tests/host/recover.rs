//! Damaged databases under the real agent and the real command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::home::{Agent, Home};

/// Readings of one client, all acknowledged; the agent is killed, so that its log stays.
fn filled(home: &Home, readings: u64) {
    let agent = home.serving();
    let mut client = home.client();
    for n in 1..=readings {
        client.send();
        if n % 50 == 0 && n < readings {
            client.wait_acked(n);
        }
    }
    client.wait_acked(readings);
    agent.kill();
}

fn strike(path: &Path, damage: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("read");
    damage(&mut bytes);
    #[expect(clippy::disallowed_methods, reason = "the test plants damage")]
    fs::write(path, bytes).expect("write");
}

/// Random bytes, always the same.
fn noise(bytes: &mut [u8]) {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    for byte in bytes {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        *byte = x.to_be_bytes()[0];
    }
}

fn store(home: &Home) -> PathBuf {
    home.data("edge_store.db")
}

fn log_of(home: &Home) -> PathBuf {
    home.data("edge_store.db-wal")
}

fn recovered<'a>(status: &'a Value, file: &str) -> Option<&'a Value> {
    let all = status["recovered"].as_array()?;
    all.iter()
        .find(|r| r["database"].as_str().is_some_and(|d| d.ends_with(file)))
}

/// Serving, with a report of that verdict on the store.
fn serves_after(agent: &mut Agent<'_>, home: &Home, verdict: &str) -> Value {
    let status = agent.wait_for("a recovered store", |s| {
        s["store"] == "running" && recovered(s, "edge_store.db").is_some()
    });
    let report = recovered(&status, "edge_store.db")
        .expect("a report")
        .clone();
    assert_eq!(report["verdict"], verdict, "{report:#}");
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    report
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn a_log_whose_start_is_random_is_salvaged_at_the_next_start_and_nobody_is_asked() {
    let home = Home::new();
    filled(&home, 1000);
    strike(&log_of(&home), |bytes| noise(&mut bytes[..512]));
    let damaged = fs::read(log_of(&home)).expect("read");
    let mut agent = home.start();
    let report = serves_after(&mut agent, &home, "salvaged");
    let evidence = PathBuf::from(report["evidence"].as_str().expect("a path"));
    let kept = fs::read(evidence.join("edge_store.db-wal")).expect("evidence");
    assert_eq!(kept, damaged, "byte for byte");
    assert!(evidence.join("manifest.json").exists());
    let words = home.holdup(&["status"]);
    assert!(text(&words).contains("salvaged"), "{}", text(&words));
    agent.stop();
    let back = home.values().len();
    assert!(back > 990, "{back} of 1001 readings: {report:#}");
    // What was put right is sound: the next start finds nothing.
    let mut agent = home.start();
    let status = agent.wait_for("a store", |s| s["store"] == "running");
    assert_eq!(status["recovered"].as_array().map(Vec::len), Some(0));
    // But what was done is still told, with its time.
    let last = &status["last_recovered"][0];
    assert_eq!(last["verdict"], "salvaged", "{last:#}");
    let at = last["at"].as_str().expect("a time");
    assert!(at.starts_with("20"), "{at}");
    let words = text(&home.holdup(&["status"]));
    assert!(words.contains(&format!("recovered   {at}")), "{words}");
}

#[test]
fn a_missing_database_beside_its_log_gives_its_readings() {
    let home = Home::new();
    filled(&home, 200);
    fs::remove_file(store(&home)).expect("remove");
    let mut agent = home.start();
    serves_after(&mut agent, &home, "salvaged");
    agent.stop();
    assert_eq!(home.values().len(), 201);
}

#[test]
fn a_file_of_which_nothing_can_be_read_is_put_aside_and_the_gateway_serves() {
    let home = Home::new();
    filled(&home, 5);
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(home.data(&format!("edge_store.db{suffix}"))).expect("remove");
    }
    strike(&store(&home), |bytes| noise(bytes));
    let damaged = fs::read(store(&home)).expect("read");
    let mut agent = home.start();
    let report = serves_after(&mut agent, &home, "fresh");
    let evidence = PathBuf::from(report["evidence"].as_str().expect("a path"));
    let kept = fs::read(evidence.join("edge_store.db")).expect("evidence");
    assert_eq!(kept, damaged, "byte for byte");
}

#[test]
fn a_table_that_only_sqlite_finds_damaged_is_recovered_too() {
    let home = Home::new();
    filled(&home, 600);
    home.serving().stop();
    // Pages 2 and up of a store of 1 KiB pages; the header stays as it is.
    strike(&store(&home), |bytes| noise(&mut bytes[1024..3072]));
    let mut agent = home.start();
    let report = serves_after(&mut agent, &home, "salvaged");
    assert!(report["evidence"].is_string(), "{report:#}");
}

#[test]
fn a_database_that_fails_while_it_serves_is_recovered_by_the_next_start() {
    let home = Home::new();
    filled(&home, 300);
    // As the writer leaves it when SQLite says "malformed" in the middle of service.
    strike_note(&home);
    let mut agent = home.start();
    serves_after(&mut agent, &home, "salvaged");
    assert!(!home.data("edge_store.db-suspect").exists());
    agent.stop();
    assert_eq!(home.values().len(), 301);
}

fn strike_note(home: &Home) {
    let mut why = Vec::new();
    why.extend_from_slice(b"cannot commit to edge_store.db: it is malformed");
    #[expect(
        clippy::disallowed_methods,
        reason = "the test plants the writer's note"
    )]
    fs::write(home.data("edge_store.db-suspect"), why).expect("write");
}

#[test]
fn an_orderly_start_keeps_no_evidence_and_reports_nothing() {
    let home = Home::new();
    filled(&home, 100);
    for _ in 0..2 {
        let mut agent = home.start();
        let status = agent.wait_for("a store", |s| s["store"] == "running");
        assert_eq!(status["recovered"].as_array().map(Vec::len), Some(0));
        agent.stop();
    }
    assert!(!home.data("evidence").exists());
    assert_eq!(home.values().len(), 100);
}

#[test]
fn a_damaged_queue_does_not_keep_readings_from_being_taken() {
    let home = Home::new();
    let queue = home.data("sync_queue.db");
    let mut agent = home.serving();
    agent.wait_for("a queue that has pages", |_| {
        fs::metadata(&queue).is_ok_and(|m| m.len() > 0)
    });
    agent.kill();
    strike(&queue, |bytes| noise(bytes));
    let mut agent = home.start();
    // Behind the store.
    let status = agent.wait_for("a recovered queue", |s| {
        s["store"] == "running" && recovered(s, "sync_queue.db").is_some()
    });
    let report = recovered(&status, "sync_queue.db").unwrap_or_else(|| panic!("{}", home.log()));
    // Its log may still give what the database cannot.
    let verdict = report["verdict"].as_str().unwrap_or_default();
    assert!(["fresh", "salvaged"].contains(&verdict), "{report:#}");
}

#[test]
fn the_verb_refuses_a_database_that_the_agent_has_open() {
    let home = Home::new();
    let agent = home.serving();
    let db = store(&home).display().to_string();
    let out = home.holdup(&["recover", &db]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    assert!(
        text(&out).contains(&agent.pid().to_string()),
        "{}",
        text(&out)
    );
    assert!(!home.data("evidence").exists());
}

#[test]
fn the_verb_says_what_it_would_do_and_then_does_it() {
    let home = Home::new();
    filled(&home, 400);
    let db = store(&home).display().to_string();
    let sound = home.holdup(&["recover", &db, "--json"]);
    assert_eq!(sound.status.code(), Some(0), "{}", text(&sound));
    strike(&log_of(&home), |bytes| noise(&mut bytes[..64]));
    let before = (
        fs::read(store(&home)).expect("read"),
        fs::read(log_of(&home)).expect("read"),
    );
    let dry = home.holdup(&["recover", &db, "--dry-run"]);
    assert_eq!(dry.status.code(), Some(1), "{}", text(&dry));
    assert!(text(&dry).contains("nothing was changed"), "{}", text(&dry));
    let copy = home.path("copy.db").display().to_string();
    let out = home.holdup(&["recover", &db, "--output", &copy]);
    assert!(Path::new(&copy).exists(), "{}", text(&out));
    let again = home.holdup(&["recover", &db, "--output", &copy]);
    assert!(text(&again).contains("exists"), "never over a file");
    let now = (
        fs::read(store(&home)).expect("read"),
        fs::read(log_of(&home)).expect("read"),
    );
    assert_eq!(now, before, "neither changes the damaged files");
    let done = home.holdup(&["recover", &db, "--json"]);
    let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(report["verdict"], "salvaged", "{report:#}");
    for member in [
        "kept_transactions",
        "lost_transactions",
        "kept_rows",
        "lost_rows_known",
        "missing",
        "evidence",
        "steps",
    ] {
        assert!(!report[member].is_null(), "{member} in {report:#}");
    }
    assert!(home.values().len() >= 396, "{report:#}");
    let clean = home.holdup(&["recover", &db]);
    assert_eq!(clean.status.code(), Some(0), "{}", text(&clean));
}

/// The entries of the audit log with this action.
fn audited(home: &Home, action: &str) -> Vec<Value> {
    let out = home.holdup(&["audit", "show", "--json"]);
    let lines = String::from_utf8(out.stdout).expect("UTF-8");
    lines
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON"))
        .filter(|e| e["action"] == action)
        .collect()
}

#[test]
fn a_recovery_by_hand_is_audited_with_the_technicians_name_and_asks_the_ledger() {
    let home = Home::new();
    filled(&home, 400);
    // All that the log held is gone, and SQLite sees nothing wrong.
    fs::remove_file(log_of(&home)).expect("remove");
    let db = store(&home).display().to_string();
    strike(&store(&home), |bytes| noise(&mut bytes[1024..1500]));
    let out = home.holdup(&["recover", &db, "--technician", "Ada L.", "--json"]);
    let report: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let entries = audited(&home, "recovery");
    assert_eq!(entries.len(), 2, "its begin and its end: {entries:#?}");
    for entry in &entries {
        assert_eq!(entry["actor"], "Ada L.", "{entry:#}");
    }
    let details = |e: &Value| match e["details"].as_str() {
        Some(text) => serde_json::from_str(text).expect("JSON"),
        None => e["details"].clone(),
    };
    assert_eq!(details(&entries[0])["phase"], "begin");
    assert_eq!(details(&entries[1])["result"], report["verdict"]);
    assert!(
        report["lost_rows_known"].as_u64() > Some(0),
        "the ledger knows what was acknowledged: {report:#}"
    );
}

#[test]
fn a_queue_that_is_rebuilt_or_filled_by_hand_is_in_the_audit_log() {
    let home = Home::with("holdup_ms = 2000", "[queue]\nenabled = true\n");
    let agent = home.serving();
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    agent.stop();
    let out = home.holdup(&["queue", "rebuild", "--yes", "--technician", "Ada L."]);
    assert!(out.status.success(), "{}", text(&out));
    let lines = home.path("lines");
    home.holdup(&["queue", "export", "--output", &lines.display().to_string()]);
    let out = home.holdup(&["queue", "import", &lines.display().to_string()]);
    assert!(out.status.success(), "{}", text(&out));
    let rebuilt = audited(&home, "queue.rebuild");
    assert_eq!(rebuilt.len(), 2, "{rebuilt:#?}");
    assert_eq!(rebuilt[0]["actor"], "Ada L.");
    let imported = audited(&home, "queue.import");
    assert_eq!(imported.len(), 2, "{imported:#?}");
    let user = imported[0]["actor"].as_str().expect("an actor");
    assert!(user.starts_with("uid:"), "{user}");
}

#[test]
fn the_audit_log_is_never_replaced_by_the_verb() {
    let home = Home::new();
    home.serving().stop();
    let log = home.data("audit.db");
    strike(&log, |bytes| noise(&mut bytes[1200..1400]));
    let before = fs::read(&log).expect("read");
    let out = home.holdup(&["recover", &log.display().to_string()]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    assert_eq!(fs::read(&log).expect("read"), before);
}

#[test]
fn what_root_recovers_still_belongs_to_the_agents_user() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can give files away");
        return;
    }
    let home = Home::new();
    filled(&home, 400);
    strike(&log_of(&home), |bytes| noise(&mut bytes[..64]));
    let folder = home.data("");
    let (user, group) = (4321, 4322);
    for entry in fs::read_dir(&folder).expect("list") {
        chown(entry.expect("entry").path(), Some(user), Some(group)).expect("chown");
    }
    chown(&folder, Some(user), Some(group)).expect("chown");
    fs::set_permissions(store(&home), PermissionsExt::from_mode(0o640)).expect("chmod");
    let db = store(&home).display().to_string();
    let out = home.holdup(&["recover", &db]);
    assert!(text(&out).contains("salvaged"), "{}", text(&out));
    let mode = fs::metadata(store(&home)).expect("stat").mode();
    assert_eq!(mode & 0o777, 0o640);
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("list") {
            let path = entry.expect("entry").path();
            let meta = path.symlink_metadata().expect("stat");
            assert_eq!(
                (meta.uid(), meta.gid()),
                (user, group),
                "{}",
                path.display()
            );
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
}

#[test]
fn a_foreign_database_gets_no_table_of_ours_and_unread_pages_are_no_success() {
    let home = Home::new();
    let path = home.path("app.db");
    let conn = rusqlite::Connection::open(&path).expect("open");
    conn.execute_batch(
        "CREATE TABLE m(id INTEGER PRIMARY KEY, text TEXT);
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO m SELECT i, printf('%050d', i) FROM n;",
    )
    .expect("rows");
    conn.close().expect("close");
    strike(&path, |bytes| noise(&mut bytes[20 * 4096..21 * 4096]));
    let out = home.holdup(&["recover", &path.display().to_string(), "--json"]);
    let report: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(out.status.code(), Some(1), "rows are lost: {report:#}");
    assert!(report["damaged_places"].as_u64() >= Some(1), "{report:#}");
    let conn = rusqlite::Connection::open(&path).expect("open");
    let names: String = conn
        .query_row("SELECT group_concat(name) FROM sqlite_schema", [], |r| {
            r.get(0)
        })
        .expect("schema");
    assert_eq!(names, "m");
}

#[test]
fn what_only_the_application_can_judge_is_no_damage() {
    let home = Home::new();
    let path = home.path("app.db");
    let conn = rusqlite::Connection::open(&path).expect("open");
    conn.execute_batch(
        "CREATE TABLE person(id INTEGER PRIMARY KEY, first TEXT COLLATE BINARY, born INTEGER);
         CREATE INDEX i ON person(first);
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
         INSERT INTO person SELECT i, 'x' || i, NULL FROM n;
         PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = replace(replace(sql, 'born INTEGER',
             'born INTEGER NOT NULL'), 'BINARY', 'OF_THE_APPLICATION') WHERE name = 'person';",
    )
    .expect("rows");
    conn.close().expect("close");
    let before = fs::read(&path).expect("read");
    let out = home.holdup(&["recover", &path.display().to_string()]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    assert!(text(&out).contains("clean"), "{}", text(&out));
    assert!(fs::read(&path).expect("read") == before, "left alone");
}

#[test]
fn a_damaged_queue_of_which_no_evidence_can_be_kept_is_not_opened_and_ingest_goes_on() {
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0",
        "[queue]\nenabled = true\n",
    );
    filled(&home, 100);
    let queue = home.data("sync_queue.db");
    strike(&queue, |bytes| noise(bytes));
    fs::remove_dir_all(home.data("evidence")).ok();
    home.write("data/evidence", b"in the way");
    // Nor is there a name left under which it could be set aside.
    for n in 1..=32 {
        let n = if n == 1 {
            String::new()
        } else {
            format!("-{n}")
        };
        home.write(&format!("data/evidence.damaged{n}"), b"in the way");
    }
    let before = fs::read(&queue).expect("read");
    let mut agent = home.serving();
    agent.wait_for("a queue that failed", |s| s["queue"]["state"] == "failed");
    let mut client = home.client();
    client.send();
    client.wait_acked(1);
    agent.kill();
    assert!(fs::read(&queue).expect("read") == before, "untouched");
}

#[test]
fn an_idle_connection_to_a_database_with_a_rollback_journal_is_named() {
    let home = Home::new();
    let path = home.path("app.db");
    let conn = rusqlite::Connection::open(&path).expect("open");
    conn.execute_batch("CREATE TABLE m(id INTEGER PRIMARY KEY); INSERT INTO m VALUES (1), (2);")
        .expect("rows");
    strike(&path, |bytes| noise(&mut bytes[4096 + 3000..]));
    let out = home.holdup(&["recover", &path.display().to_string()]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    let own = std::process::id().to_string();
    assert!(text(&out).contains(&own), "{}", text(&out));
    drop(conn);
}

#[test]
fn each_recovery_has_evidence_of_its_own_also_of_a_store_that_is_gone() {
    let home = Home::new();
    let queue = home.data("sync_queue.db");
    for _ in 0..2 {
        filled(&home, 5);
        // It is made behind the store.
        let mut agent = home.serving();
        agent.wait_for("a queue that has pages", |_| {
            fs::metadata(&queue).is_ok_and(|m| m.len() > 0)
        });
        agent.kill();
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(home.data(&format!("edge_store.db{suffix}"))).ok();
        }
    }
    strike(&queue, |bytes| noise(bytes));
    let mut agent = home.start();
    agent.wait_for("a recovered queue", |s| {
        s["store"] == "running" && recovered(s, "sync_queue.db").is_some()
    });
    agent.stop();
    for entry in fs::read_dir(home.data("evidence")).expect("list").flatten() {
        let report = fs::read(entry.path().join("report.json")).expect("a report");
        let report: Value = serde_json::from_slice(&report).expect("JSON");
        assert_eq!(
            report["evidence"].as_str().map(PathBuf::from),
            Some(entry.path()),
            "{report:#}"
        );
    }
}

#[test]
fn the_verb_says_of_an_empty_file_that_nothing_is_in_it_and_leaves_it() {
    let home = Home::new();
    home.write("app.db", b"");
    let db = home.path("app.db").display().to_string();
    for args in [&["recover", &db][..], &["recover", &db, "--json"]] {
        let out = home.holdup(args);
        assert_eq!(out.status.code(), Some(1), "{}", text(&out));
        assert!(text(&out).contains("is empty"), "{}", text(&out));
    }
    assert_eq!(fs::read(home.path("app.db")).expect("left"), b"");
}

#[test]
fn the_verb_names_a_database_that_is_not_there() {
    let home = Home::new();
    let out = home.holdup(&["recover", "/nonexistent/app.db"]);
    assert_eq!(out.status.code(), Some(4), "{}", text(&out));
    assert!(text(&out).contains("/nonexistent"), "{}", text(&out));
}

#[test]
fn a_reader_of_a_sound_store_is_left_alone_and_one_of_a_damaged_store_is_waited_for() {
    let home = Home::new();
    filled(&home, 100);
    let reader = || {
        // One that may write would delete the damaged log when it closes.
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = rusqlite::Connection::open_with_flags(store(&home), flags).expect("open");
        db.query_row("SELECT count(*) FROM readings", [], |r| r.get::<_, i64>(0))
            .expect("read");
        db
    };
    let reading = reader();
    let agent = home.serving();
    agent.kill();
    strike(&log_of(&home), |bytes| noise(&mut bytes[..64]));
    let mut agent = home.start();
    crate::home::poll("the agent to say whom it waits for", || {
        home.log().contains("stop that first").then_some(())
    });
    drop(reading);
    serves_after(&mut agent, &home, "salvaged");
}

/// An application's database of 5,000 rows with a page of noise.
fn damaged_app(home: &Home) -> PathBuf {
    let path = home.path("app/app.db");
    fs::create_dir_all(home.path("app")).expect("folder");
    let conn = rusqlite::Connection::open(&path).expect("open");
    conn.execute_batch(
        "CREATE TABLE m(id INTEGER PRIMARY KEY, text TEXT);
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO m SELECT i, printf('%050d', i) FROM n;",
    )
    .expect("rows");
    conn.close().expect("close");
    strike(&path, |bytes| noise(&mut bytes[20 * 4096..21 * 4096]));
    path
}

#[test]
fn a_log_beside_the_output_is_named_and_not_laid_over_it() {
    let home = Home::new();
    let path = damaged_app(&home).display().to_string();
    for suffix in ["-wal", "-journal", "-shm"] {
        let copy = home.path("copy.db");
        let beside = home.path(&format!("copy.db{suffix}"));
        home.write(
            &format!("copy.db{suffix}"),
            b"of a database that was here once",
        );
        let out = home.holdup(&["recover", &path, "--output", &copy.display().to_string()]);
        assert_eq!(out.status.code(), Some(4), "{}", text(&out));
        let named = format!("copy.db{suffix}");
        assert!(text(&out).contains(&named), "{}", text(&out));
        assert!(!copy.exists(), "{suffix}");
        let kept = fs::read(&beside).expect("kept");
        assert_eq!(kept, b"of a database that was here once");
        fs::remove_file(&beside).expect("make room");
    }
}

#[test]
fn evidence_is_not_kept_behind_a_link_in_somebody_elses_folder() {
    let home = Home::new();
    let path = damaged_app(&home);
    let before = fs::read(&path).expect("read");
    let elsewhere = home.path("elsewhere");
    // As it looks to whoever follows the link: half a copy, and one that is old.
    for name in ["2001-01-01T000000Z", "2001-01-01T000000Z.part"] {
        fs::create_dir_all(elsewhere.join(name)).expect("folder");
        home.write(&format!("elsewhere/{name}/precious"), b"x");
    }
    std::os::unix::fs::symlink(&elsewhere, home.path("app/evidence")).expect("link");
    let out = home.holdup(&["recover", &path.display().to_string()]);
    assert_eq!(out.status.code(), Some(4), "{}", text(&out));
    let said = text(&out);
    assert!(
        said.contains("app/evidence") && said.contains("a link"),
        "{said}"
    );
    assert!(fs::read(&path).expect("read") == before, "untouched");
    assert_eq!(fs::read_dir(&elsewhere).expect("list").count(), 2);
    for name in ["2001-01-01T000000Z", "2001-01-01T000000Z.part"] {
        assert!(elsewhere.join(name).join("precious").exists(), "{name}");
    }
}

#[test]
fn what_was_lost_is_named_at_every_later_start_though_newer_ids_climb_above_it() {
    let home = Home::new();
    filled(&home, 400);
    // All of the store goes, and no snapshot was made of it.
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(home.data(&format!("edge_store.db{suffix}"))).ok();
    }
    let mut agent = home.start();
    let report = serves_after(&mut agent, &home, "fresh");
    assert!(report["lost_rows_known"].as_u64() >= Some(1), "{report:#}");
    agent.stop();
    for _ in 0..2 {
        let mut agent = home.serving();
        let mut client = home.client();
        for _ in 0..50 {
            client.send();
        }
        client.wait_acked(50);
        let status = agent.wait_for("status", |s| s["store"] == "running");
        let last = status["last_recovered"].as_array().expect("an array");
        assert_eq!(last[0]["missing"], report["missing"], "{status:#}");
        let said = home.holdup(&["status"]);
        assert!(text(&said).contains("are missing"), "{}", text(&said));
        agent.stop();
    }
    let ended = audited(&home, "recovery");
    assert!(
        ended.iter().any(|e| e.to_string().contains("fresh")),
        "{ended:#?}"
    );
}
