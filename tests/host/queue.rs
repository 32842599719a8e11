//! The agent with its queue on: fed, killed, damaged, repaired.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Output;

use holdup::clock::{Clock, SystemClock};
use serde_json::Value;

use crate::home::{Home, poll};

const POWER: &str = "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0";
const ON: &str = "[queue]\nenabled = true\n";

fn send(home: &Home, n: u64) {
    let mut client = home.client();
    for _ in 0..n {
        client.send();
    }
    client.wait_acked(n);
}

/// Message id to the value it carries.
fn queued(home: &Home) -> BTreeMap<String, f64> {
    let conn = rusqlite::Connection::open(home.data("sync_queue.db")).expect("open");
    let mut q = conn
        .prepare("SELECT message_id, payload FROM sync_queue")
        .expect("query");
    q.query_map([], |r| Ok((r.get(0)?, r.get::<_, Vec<u8>>(1)?)))
        .expect("rows")
        .map(|row| {
            let (id, payload) = row.expect("row");
            let v: Value = serde_json::from_slice(&payload).expect("a reading as JSON");
            (id, v["value"].as_f64().expect("its value"))
        })
        .collect()
}

/// Reading id to value.
fn stored(home: &Home) -> BTreeMap<i64, f64> {
    let conn = rusqlite::Connection::open(home.data("edge_store.db")).expect("open");
    let mut q = conn
        .prepare("SELECT id, value FROM readings")
        .expect("query");
    q.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
        .expect("rows")
        .map(|row| row.expect("row"))
        .collect()
}

/// Every stored reading is queued under its own id, and nothing else is.
fn agree(home: &Home) {
    let by_id: BTreeMap<i64, f64> = queued(home)
        .into_iter()
        .map(|(id, value)| {
            let (origin, n) = holdup::queue::parse(&id).expect("our kind of id");
            assert_eq!(origin.gateway, "host-test");
            (n, value)
        })
        .collect();
    assert_eq!(by_id, stored(home));
}

#[test]
fn the_queue_is_off_unless_it_is_asked_for_and_says_so() {
    let home = Home::new();
    let mut agent = home.serving();
    send(&home, 5);
    let s = agent.wait_for("status", |_| true);
    assert_eq!(s["queue"]["state"], "off");
    assert_eq!(s["databases"].as_array().map(Vec::len), Some(1));
    agent.stop();
    assert!(queued(&home).is_empty());
    let out = home.holdup(&["queue", "stats"]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("off"), "{text}");
}

#[test]
fn readings_are_queued_once_each_however_often_the_agent_is_killed() {
    let home = Home::with(POWER, ON);
    let mut sent = 0;
    for round in 0..12u64 {
        let mut agent = home.serving();
        send(&home, 40);
        sent += 40;
        // At another point of feeding each time: before it, in it, behind it.
        if round % 3 == 1 {
            agent.wait_for("some of it queued", |s| {
                s["queue"]["fed_upto"].as_u64() > Some(sent - 40)
            });
        }
        agent.kill();
    }
    let mut agent = home.serving();
    agent.wait_for("all of it queued", |s| s["queue"]["fed_upto"] == sent);
    agent.stop();
    assert_eq!(stored(&home).len() as u64, sent);
    agree(&home);
}

#[test]
fn an_outage_moves_the_queues_log_too_and_nothing_is_fed_while_parked() {
    let home = Home::with(POWER, ON);
    let mut agent = home.serving();
    send(&home, 50);
    agent.wait_for("queued", |s| s["queue"]["depth"] == 50);
    let mut client = home.client();
    home.power(true);
    let parked = agent.wait_for_supply("Parked");
    let step = parked["last_outage"]["steps"]
        .as_array()
        .and_then(|all| {
            all.iter()
                .find(|s| s["step"] == "checkpoint" && s["database"] == "sync_queue.db")
        })
        .expect("a checkpoint of the queue");
    assert_eq!(step["outcome"], "done", "{step}");
    let wal = fs::metadata(home.data("sync_queue.db-wal")).map_or(0, |m| m.len());
    assert_eq!(wal, 0);
    let out = home.holdup(&["queue", "list"]);
    assert_eq!(out.status.code(), Some(3), "it may be frozen");
    client.send();
    home.power(false);
    agent.wait_for("the next one queued", |s| s["queue"]["depth"] == 51);
    agent.stop();
    agree(&home);
}

#[test]
fn readings_that_the_queue_has_not_taken_yet_are_left_alone_while_parked() {
    let home = Home::with(POWER, ON);
    let mut agent = home.serving();
    let behind = |s: &Value| s["queue"]["depth"].as_u64() < s["stored"].as_u64();
    // What came is taken at most once a second; a busy machine may be too late for that.
    for _ in 0..20 {
        send(&home, 1);
        agent.wait_for("queued", |s| !behind(s));
        send(&home, 1);
        home.power(true);
        let parked = agent.wait_for_supply("Parked");
        let uptime = |s: &Value| s["uptime_s"].as_u64().unwrap_or(0);
        let later = agent.wait_for("the time to take it", |s| uptime(s) > uptime(&parked) + 2);
        assert_eq!(later["supply"], "Parked");
        assert_eq!(later["queue"]["depth"], parked["queue"]["depth"]);
        home.power(false);
        agent.wait_for("all queued", |s| s["supply"] == "Good" && !behind(s));
        if behind(&parked) {
            agent.stop();
            return agree(&home);
        }
    }
    panic!("nothing was ever left to take");
}

#[test]
fn a_corrupt_queue_never_stops_ingest_or_the_agent() {
    type Damage = fn(&Path);
    let kinds: [(&str, Damage); 5] = [
        ("text", |p| plant(p, b"{\"not\":\"a database\"}\n")),
        ("header", |p| overwrite(p, 0, &[0xa5; 100])),
        ("schema page", |p| overwrite(p, 100, &[0x5a; 3996])),
        ("other tables", |p| {
            fs::remove_file(p).expect("remove");
            let conn = rusqlite::Connection::open(p).expect("open");
            conn.execute_batch("CREATE TABLE sync_queue(id, payload)")
                .expect("create");
        }),
        ("a directory", |p| {
            fs::remove_file(p).expect("remove");
            fs::create_dir(p).expect("make");
        }),
    ];
    let home = Home::with(POWER, ON);
    let mut agent = home.serving();
    send(&home, 3);
    agent.wait_for("queued", |s| s["queue"]["depth"] == 3);
    agent.stop();
    let good = fs::read(home.data("sync_queue.db")).expect("read");
    for (kind, damage) in kinds {
        let path = home.data("sync_queue.db");
        fs::remove_dir(&path).ok();
        plant(&path, &good);
        for suffix in ["-wal", "-shm"] {
            fs::remove_file(home.data(&format!("sync_queue.db{suffix}"))).ok();
        }
        damage(&path);
        let mut agent = home.serving();
        let s = agent.wait_for("the queue's state", |s| {
            s["queue"]["state"] == "failed" || s["queue"]["state"] == "running"
        });
        // What is damaged was recovered at the start; what is something else is named.
        let told = match s["queue"]["state"].as_str() {
            Some("failed") => s["queue"]["problem"]
                .as_str()
                .is_some_and(|p| !p.is_empty()),
            _ => s["recovered"].as_array().is_some_and(|r| !r.is_empty()),
        };
        assert!(told, "{kind}: {s:#}");
        assert_eq!(s["store"], "running", "{kind}");
        send(&home, 10);
        home.power(true);
        let parked = agent.wait_for_supply("Parked");
        assert_eq!(parked["last_outage"]["ended"], "clean", "{kind}");
        home.power(false);
        agent.wait_for_supply("Good");
        send(&home, 10);
        agent.stop();
    }
    assert_eq!(stored(&home).len(), 103);
}

#[test]
fn a_rebuild_needs_the_agent_stopped_and_a_yes_and_then_gives_everything_back() {
    let home = Home::with(POWER, ON);
    let mut agent = home.serving();
    send(&home, 200);
    agent.wait_for("queued", |s| s["queue"]["depth"] == 200);
    for verb in [
        &["queue", "rebuild", "--yes"][..],
        &["queue", "import", "-"],
    ] {
        let out = home.holdup(verb);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(3), "{said}");
        assert!(said.contains(&agent.pid().to_string()), "{said}");
    }
    let exported = home.holdup(&["queue", "export"]);
    assert_eq!(exported.stdout.iter().filter(|b| **b == b'\n').count(), 200);
    agent.stop();
    let size = fs::metadata(home.data("sync_queue.db"))
        .expect("stat")
        .len();
    overwrite(&home.data("sync_queue.db"), 0, &vec![0xa5; size as usize]);
    let out = home.holdup(&["queue", "stats"]);
    assert_eq!(out.status.code(), Some(1));
    let out = home.holdup(&["queue", "rebuild"]);
    assert_eq!(out.status.code(), Some(3), "nobody said yes");
    let out = home.holdup(&["queue", "rebuild", "--yes", "--json"]);
    assert_eq!(out.status.code(), Some(1), "something could not be read");
    let report: Value = serde_json::from_slice(&out.stdout).expect("json");
    assert!(
        report["evidence"].is_string() && report["unreadable"].is_string(),
        "{report}"
    );
    let evidence = Path::new(report["evidence"].as_str().expect("a path"));
    let manifest = fs::read(evidence.join("manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("json");
    let files = manifest["files"].as_array().expect("files");
    let old = files.iter().find(|f| f["name"] == "sync_queue.db");
    let old = old.unwrap_or_else(|| panic!("{manifest:#}"));
    assert_eq!(old["bytes"], size, "{manifest:#}");
    assert_eq!(old["sha256"].as_str().map(str::len), Some(64));
    // What was taken out before goes in again; the store gives the same, under the same ids.
    home.write(
        "export.jsonl",
        &exported.stdout[..exported.stdout.len() / 2],
    );
    let file = home.path("export.jsonl").display().to_string();
    let out = home.holdup(&["queue", "import", &file, "--json"]);
    let done: Value = serde_json::from_slice(&out.stdout).expect("json");
    assert!(
        done["imported"].as_u64() > Some(90) && done["bad"] == 1,
        "{done}"
    );
    let mut agent = home.serving();
    agent.wait_for("all of it queued", |s| s["queue"]["depth"] == 200);
    agent.stop();
    agree(&home);
    let out = home.holdup(&["queue", "stats", "--json"]);
    let stats: Value = serde_json::from_slice(&out.stdout).expect("json");
    assert_eq!(
        (&stats["queue"]["depth"], &stats["queue"]["fed_upto"]),
        (&200.into(), &200.into())
    );
}

#[test]
fn a_store_that_lost_its_last_readings_uses_none_of_their_ids_again() {
    let home = Home::with(POWER, ON);
    let mut agent = home.serving();
    send(&home, 20);
    agent.wait_for("queued", |s| s["queue"]["depth"] == 20);
    agent.stop();
    let conn = rusqlite::Connection::open(home.data("edge_store.db")).expect("open");
    conn.execute("DELETE FROM readings WHERE id > 12", [])
        .expect("lose");
    conn.execute("UPDATE holdup_meta SET value = 0 WHERE key = 'holes'", [])
        .expect("as if never written");
    drop(conn);
    let mut agent = home.serving();
    send(&home, 5);
    let s = agent.wait_for("queued", |s| s["queue"]["depth"] == 25);
    assert_eq!(s["queue"]["conflicts"], 0);
    agent.stop();
    let ids: Vec<_> = stored(&home).into_keys().collect();
    assert_eq!(ids[11..], [12, 21, 22, 23, 24, 25]);
}

/// Message ids of exported lines, in their order.
fn exported(out: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&out.stdout);
    let id = |line: &str| {
        let v: Value = serde_json::from_str(line).expect("a line of JSON");
        v["message_id"].as_str().expect("an id").to_owned()
    };
    text.lines().map(id).collect()
}

#[test]
fn a_queue_that_sqlite_cannot_read_gives_its_messages_by_its_pages() {
    type Damage = fn(&Path);
    let kinds: [(&str, Damage); 4] = [
        ("header", |p| overwrite(p, 0, &[0xa5; 100])),
        ("schema", |p| overwrite(p, 0, &[0xa5; 4096])),
        ("the tree's root", |p| {
            let conn = rusqlite::Connection::open(p).expect("open");
            let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'sync_queue'";
            let root = number(&conn, sql);
            let size = number(&conn, "PRAGMA page_size");
            drop(conn);
            overwrite(p, (root - 1) * size, &vec![0; size]);
        }),
        ("the file, beside its log", |p| {
            fs::remove_file(p).expect("remove")
        }),
    ];
    for (kind, damage) in kinds {
        let home = Home::with(POWER, ON);
        let mut agent = home.serving();
        send(&home, 300);
        agent.wait_for("queued", |s| s["queue"]["depth"] == 300);
        let path = home.data("sync_queue.db");
        if kind.contains("log") {
            agent.kill();
        } else {
            agent.stop();
        }
        let want: Vec<String> = queued_by(&home);
        damage(&path);
        let out = home.holdup(&["queue", "export"]);
        let complaint = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(exported(&out) == want, "{kind}: {complaint}");
        assert_eq!(out.status.code(), Some(1), "{kind}: {complaint}");
        assert!(
            complaint.contains("SQLite cannot read"),
            "{kind}: {complaint}"
        );
        let out = home.holdup(&["queue", "rebuild", "--yes", "--json"]);
        let report: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        assert_eq!(report["kept"], 300, "{kind}: {report:#}");
        assert_eq!(report["from_pages"], 300, "{kind}: {report:#}");
        assert_eq!(out.status.code(), Some(1), "{kind}: {report:#}");
        assert!(report["evidence"].is_string(), "{kind}: {report:#}");
        assert_eq!(queued_by(&home), want, "{kind}: in their places");
        let left = fs::read_dir(home.path("data")).expect("list");
        let left = left.map(|e| e.expect("entry").file_name());
        let copies = left.filter(|n| n.to_string_lossy().contains("-salvaged"));
        assert_eq!(copies.count(), 0, "{kind}");
        agree(&home);
    }
}

fn number(conn: &rusqlite::Connection, sql: &str) -> usize {
    let n: u32 = conn.query_row(sql, [], |r| r.get(0)).expect(sql);
    n as usize
}

/// Message ids in the order in which they go; nothing is changed by looking.
fn queued_by(home: &Home) -> Vec<String> {
    let copy = tempfile::tempdir().expect("temp dir");
    for suffix in ["", "-wal"] {
        let name = format!("sync_queue.db{suffix}");
        if home.data(&name).exists() {
            fs::copy(home.data(&name), copy.path().join(&name)).expect("copy");
        }
    }
    let conn = rusqlite::Connection::open(copy.path().join("sync_queue.db")).expect("open");
    let mut q = conn
        .prepare("SELECT message_id FROM sync_queue ORDER BY id")
        .expect("query");
    let ids = q.query_map([], |r| r.get(0)).expect("rows");
    ids.collect::<Result<_, _>>().expect("ids")
}

/// `HOLDUP_QUEUE_ITEMS=1000000 cargo test --test host a_long_queue -- --nocapture`: minutes.
#[test]
fn a_long_queue_is_rebuilt_around_its_damage_and_what_is_gone_is_named() {
    let asked = std::env::var("HOLDUP_QUEUE_ITEMS").ok();
    let items: i64 = asked.map_or(100_000, |n| n.parse().expect("a number"));
    let home = Home::with(POWER, ON);
    let mut agent = home.serving();
    agent.wait_for("a queue", |s| s["queue"]["state"] == "running");
    agent.stop();
    let path = home.data("sync_queue.db");
    let conn = rusqlite::Connection::open(&path).expect("open");
    conn.execute_batch("PRAGMA synchronous = OFF")
        .expect("pragma");
    conn.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO sync_queue(payload, created_at, retry_count, message_id)
         SELECT CAST('{\"value\":' || i || '}' AS BLOB), 1760000000000 + i, i % 3,
                'host-test/00000000000000aa/' || printf('%019d', i) FROM n",
        [items],
    )
    .expect("fill");
    let size = number(&conn, "PRAGMA page_size");
    // Leaves of the table, each with rows of its own.
    let leaves: Vec<u32> = conn
        .prepare("SELECT pageno FROM dbstat WHERE name = 'sync_queue' AND pagetype = 'leaf'")
        .and_then(|mut q| q.query_map([], |r| r.get(0))?.collect())
        .expect("leaves");
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .expect("checkpoint");
    conn.close().expect("close");
    let want: BTreeSet<String> = queued_by(&home).into_iter().collect();
    assert_eq!(want.len() as i64, items);
    let n = leaves.len();
    let struck = [n / 5, n / 3, n / 2].map(|i| leaves[i] as usize);
    for page in struck {
        overwrite(&path, (page - 1) * size, &vec![0xa5; size]);
    }
    let began = SystemClock.mono();
    let out = home.holdup(&["queue", "rebuild", "--yes", "--json"]);
    let took = SystemClock.mono().since(began);
    let report: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let back = queued_by(&home);
    let ids: BTreeSet<String> = back.iter().cloned().collect();
    assert_eq!(ids.len(), back.len(), "no id twice");
    assert!(ids.is_subset(&want), "no id that was not there");
    let gaps = report["lost"].as_array().expect("gaps");
    for gone in want.difference(&ids) {
        let n = holdup::queue::parse(gone).expect("an id").1;
        let named = gaps.iter().any(|g| {
            g["from"].as_i64().is_some_and(|from| from <= n)
                && g["upto"].as_i64().is_none_or(|upto| n <= upto)
        });
        assert!(named, "{gone} is gone and nobody says so: {gaps:?}");
    }
    let gone = want.len() - ids.len();
    assert!(gone < 1000, "{gone} of {items} are gone");
    println!(
        "{items} messages: {gone} gone, {} gaps, {took:.1?}",
        gaps.len()
    );
}

#[test]
fn an_idle_queue_sleeps_and_writes_nothing() {
    let home = Home::with(POWER, ON);
    let mut agent = home.serving();
    send(&home, 10);
    agent.wait_for("queued", |s| s["queue"]["depth"] == 10);
    let task = poll("the queue's thread", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).ok()?;
        tasks
            .flatten()
            .map(|t| t.path())
            .find(|t| fs::read_to_string(t.join("comm")).is_ok_and(|c| c.trim() == "holdup-queue"))
    });
    let waits = || {
        let status = fs::read_to_string(task.join("status")).expect("its status");
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))
            .expect("the count");
        line.trim().parse::<u64>().expect("a number")
    };
    let uptime = |s: &Value| s["uptime_s"].as_u64().unwrap_or(0);
    // The second after a feeding ends with one look at the bell.
    let began = uptime(&agent.status().expect("status"));
    agent.wait_for("its second to be over", |s| uptime(s) >= began + 3);
    let (before, wal) = (waits(), wal(&home));
    agent.wait_for("three more", |s| uptime(s) >= began + 6);
    assert_eq!(waits(), before, "it woke while nothing came");
    assert_eq!(wal, self::wal(&home));
}

fn wal(home: &Home) -> Vec<u8> {
    fs::read(home.data("sync_queue.db-wal")).unwrap_or_default()
}

fn plant(path: &Path, bytes: &[u8]) {
    File::create(path)
        .and_then(|mut f| f.write_all(bytes))
        .expect("plant");
}

fn overwrite(path: &Path, at: usize, with: &[u8]) {
    let mut bytes = fs::read(path).expect("read");
    let end = (at + with.len()).min(bytes.len());
    bytes[at..end].copy_from_slice(&with[..end - at]);
    plant(path, &bytes);
}
