//! The log on good and bad days.

#![expect(clippy::disallowed_methods, reason = "the tests plant damaged files")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::file::beside;
use super::*;
use crate::clock::{ManualClock, SystemClock};
use crate::durable::{Closer, CopyError, CopyHow, Heed};
use std::sync::atomic::AtomicBool;

const SOON: Duration = Duration::from_secs(60);

struct World {
    home: tempfile::TempDir,
    gate: Arc<Gate>,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        Self {
            home: tempfile::tempdir().expect("temp dir"),
            gate: Arc::new(Gate::new()),
            clock: Arc::new(ManualClock::new()),
        }
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("audit.db")
    }

    fn spool(&self) -> PathBuf {
        self.home.path().join("audit.spool")
    }

    fn open(&self) -> (Audit, Clerk) {
        // Each agent has its own session.
        self.clock.advance(Duration::from_millis(1));
        Audit::open(AuditOptions {
            path: self.path(),
            spool: self.spool(),
            medium: Arc::new(Medium::open(self.home.path()).expect("medium")),
            gate: Arc::clone(&self.gate),
            clock: Arc::clone(&self.clock) as Arc<_>,
            boot: "boot-1".to_owned(),
        })
        .expect("open")
    }

    /// One agent's life: `n` entries.
    fn live(&self, n: u64) {
        let (audit, clerk) = self.open();
        for n in 0..n {
            audit.note("test", AGENT, json!({ "n": n, "filler": "x".repeat(300) }));
        }
        assert!(audit.flush(SOON), "{:?}", audit.status());
        clerk.stop();
    }

    fn verify(&self) -> Verdict {
        let reader = Reader::open(&self.path()).expect("open");
        reader.verify(1, None).expect("verify")
    }

    fn entries(&self) -> Vec<Record> {
        let reader = Reader::open(&self.path()).expect("open");
        reader.page(1, 10_000).expect("read")
    }

    fn tamper(&self, sql: &str) {
        let conn = Connection::open(self.path()).expect("open");
        assert!(conn.execute(sql, []).expect(sql) > 0);
    }
}

fn details(r: &Record) -> Value {
    serde_json::from_str(&r.details).expect("JSON")
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = SystemClock.mono() + SOON;
    while !done() {
        assert!(SystemClock.mono() < end, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn entries_are_written_while_the_log_is_copied_and_the_copy_is_a_whole_chain() {
    let world = World::new();
    world.live(1500);
    let (audit, clerk) = world.open();
    let to = world.home.path().join("copy.db");
    let stop = AtomicBool::new(false);
    let steps = AtomicU64::new(0);
    let medium = Medium::open(world.home.path()).expect("medium");
    let how = CopyHow {
        medium: &medium,
        gate: &world.gate,
        stop: &stop,
        clock: &SystemClock,
        heed: &|| {
            steps.fetch_add(1, SeqCst);
            audit
                .begin("meanwhile", AGENT, Value::Null, SOON)
                .expect("durable");
            Heed::Go
        },
        progress: &|_, _| {},
    };
    // The clerk opens the log behind us.
    assert!(audit.flush(SOON));
    until("the log is open", || audit.head().is_some());
    let receipt = audit.copy(&to, &how).expect("copy");
    assert!(
        steps.load(SeqCst) > 5 && receipt.bytes > 300_000,
        "{steps:?} {receipt:?}"
    );
    clerk.stop();
    let copy = Reader::open(&to).expect("open");
    let verdict = copy.verify(1, None).expect("verify");
    assert!(verdict.broken.is_none(), "{verdict:?}");
    let entries = copy.page(1, 10_000).expect("read");
    let meanwhile = entries.iter().filter(|e| e.action == "meanwhile").count() as u64;
    let begun = steps.load(SeqCst);
    assert!(
        meanwhile > 0 && begun - meanwhile <= 2,
        "{meanwhile} of {begun}"
    );
    let gone = audit.copy(
        &to.with_extension("2"),
        &CopyHow {
            heed: &|| Heed::Go,
            ..how
        },
    );
    assert!(matches!(gone, Err(CopyError::NotOpen)), "{gone:?}");
}

#[test]
fn what_begins_is_durable_before_it_begins_and_is_closed_by_a_second_entry() {
    let world = World::new();
    let (audit, _clerk) = world.open();
    let entry = audit
        .begin("reset", "technician-7", json!({"why": "sold"}), SOON)
        .expect("durable");
    let seen = world.entries();
    let begun = seen.last().expect("there");
    assert_eq!(Some(begun.sequence), entry.sequence);
    assert_eq!(
        (begun.actor.as_str(), begun.action.as_str()),
        ("technician-7", "reset")
    );
    assert_eq!(details(begun)["phase"], "begin");
    audit.end(&entry, "ok", json!({"rows": 3}));
    assert!(audit.flush(SOON));
    let seen = world.entries();
    let ended = details(seen.last().expect("there"));
    assert_eq!(ended["id"], details(begun)["id"]);
    assert_eq!(
        (&ended["phase"], &ended["result"], &ended["rows"]),
        (&json!("end"), &json!("ok"), &json!(3))
    );
    assert_eq!(world.verify().broken, None);
    assert_eq!(audit.head(), world.verify().head);
}

#[test]
fn entries_made_while_writing_is_stopped_follow_in_order_with_their_own_times() {
    let world = World::new();
    let (audit, _clerk) = world.open();
    assert!(audit.flush(SOON));
    until("it is open", || audit.head().is_some());
    world.gate.close(Closer::Power);
    let before = fs::read(world.path()).expect("read");
    for n in 0..5 {
        world.clock.advance(Duration::from_secs(60));
        audit.note("test", AGENT, json!({ "n": n }));
    }
    until("all are in the spool", || {
        fs::read_to_string(world.spool())
            .is_ok_and(|s| s.matches("\"action\":\"test\"").count() == 5)
    });
    let e = audit
        .begin("reset", "x", Value::Null, Duration::ZERO)
        .expect_err("not durable");
    assert!(e.to_string().contains("reset is not durable"), "{e}");
    assert_eq!(
        fs::read(world.path()).expect("read"),
        before,
        "written past a closed gate"
    );
    until("it is said", || audit.status().waiting == 6);
    assert_eq!(audit.status().state, "waiting");
    world.clock.advance(Duration::from_secs(3600));
    world.gate.open(Closer::Power);
    assert!(audit.flush(SOON));
    let all = world.entries();
    let walls: Vec<_> = all[1..6].iter().map(|r| r.wall.clone()).collect();
    assert_eq!(
        walls,
        (1..=5)
            .map(|m| format!("2026-01-01T00:0{m}:00.001Z"))
            .collect::<Vec<_>>()
    );
    let order: Vec<_> = all[1..6].iter().map(|r| details(r)["n"].clone()).collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
    assert_eq!(world.verify().broken, None);
    assert_eq!(audit.status().state, "writing");
}

#[test]
fn the_next_agent_appends_the_spool_of_one_that_was_killed_and_nothing_twice() {
    let world = World::new();
    world.live(3);
    world.gate.close(Closer::Power);
    let (audit, clerk) = world.open();
    for n in 0..4 {
        audit.note("parked", AGENT, json!({ "n": n }));
    }
    clerk.stop();
    // Killed in the middle of a line.
    let mut left = fs::read(world.spool()).expect("spool");
    left.extend_from_slice(b"{\"version\":1,\"place\":\"7:9\",\"ent");
    fs::write(world.spool(), &left).expect("write");
    world.gate.open(Closer::Power);
    world.live(1);
    let count = |action: &str| {
        world
            .entries()
            .iter()
            .filter(|r| r.action == action)
            .count()
    };
    assert_eq!((count("parked"), count("audit.spool_damaged")), (4, 1));
    // Killed between the commit and the clearing of the spool.
    let before = world.entries().len();
    fs::write(world.spool(), &left[..left.len() - 30]).expect("write");
    world.tamper("UPDATE holdup_meta SET value = (SELECT value FROM holdup_meta WHERE key = 'spool') WHERE key = 'spool'");
    let last = String::from_utf8_lossy(&left);
    let place = last
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .filter_map(|l| l["place"].as_str().map(str::to_owned))
        .next_back()
        .expect("a place");
    world.tamper(&format!(
        "UPDATE holdup_meta SET value = '{place}' WHERE key = 'spool'"
    ));
    world.live(0);
    let added: Vec<_> = world.entries()[before..]
        .iter()
        .map(|r| r.action.clone())
        .collect();
    assert!(!added.contains(&"parked".to_owned()), "{added:?}");
    assert_eq!(world.verify().broken, None);
}

#[test]
fn said_once_until_it_changes() {
    let world = World::new();
    for key in ["a", "a", "b", "b", "a"] {
        let (audit, clerk) = world.open();
        audit.note_once(key, "config", AGENT, json!({ "sha256": key }));
        assert!(audit.flush(SOON));
        clerk.stop();
    }
    let said: Vec<_> = world
        .entries()
        .iter()
        .filter(|r| r.action == "config")
        .map(|r| details(r)["sha256"].clone())
        .collect();
    assert_eq!(said, ["a", "b", "a"]);
}

#[test]
fn every_kind_of_tampering_is_found_at_its_entry() {
    let kinds: [(&str, i64, &str); 6] = [
        (
            "UPDATE audit SET actor = 'nobody' WHERE sequence = 5",
            5,
            "hash",
        ),
        (
            "UPDATE audit SET details = '{}' WHERE sequence = 5",
            5,
            "hash",
        ),
        (
            "UPDATE audit SET wall = '2020-01-01T00:00:00.000Z' WHERE sequence = 5",
            5,
            "hash",
        ),
        ("DELETE FROM audit WHERE sequence = 5", 6, "entries 5 to 5"),
        ("DELETE FROM audit WHERE sequence < 5", 5, "entries 1 to 4"),
        (
            "UPDATE audit SET previous = hash WHERE sequence = 5",
            5,
            "hash",
        ),
    ];
    for (sql, at, why) in kinds {
        let world = World::new();
        world.live(10);
        world.tamper(sql);
        let broken = world.verify().broken.expect(sql);
        assert_eq!(broken.sequence, at, "{sql}");
        assert!(broken.why.contains(why), "{sql}: {}", broken.why);
        assert_eq!(broken.named_by, None, "{sql}");
        // The agent says it and goes on; what it adds is chained to what is there.
        let (audit, clerk) = world.open();
        audit.note("test", AGENT, json!({}));
        assert!(audit.flush(SOON));
        assert!(
            audit.status().problem.is_some() || sql.contains("< 5"),
            "{sql}"
        );
        clerk.stop();
        assert_eq!(world.verify().broken.map(|b| b.sequence), Some(at));
        let reader = Reader::open(&world.path()).expect("open");
        assert_eq!(reader.verify(at + 1, None).expect("verify").broken, None);
    }
    // Recomputed hashes: the next entry's link tells.
    let world = World::new();
    world.live(10);
    let mut forged = world.entries()[4].clone();
    forged.actor = "nobody".to_owned();
    let hash = forged.digest();
    world.tamper(&format!(
        "UPDATE audit SET actor = 'nobody', hash = '{hash}' WHERE sequence = 5"
    ));
    let broken = world.verify().broken.expect("forged");
    assert_eq!(broken.sequence, 6);
    assert!(
        broken.why.contains("not chained to entry 5"),
        "{}",
        broken.why
    );
}

#[test]
fn a_cut_tail_is_seen_by_a_head_that_left_and_by_the_next_agent_of_this_boot() {
    let world = World::new();
    world.live(10);
    let head = world.verify().head.expect("a head");
    world.tamper("DELETE FROM audit WHERE sequence > 7");
    assert_eq!(
        world.verify().broken,
        None,
        "a cut tail alone cannot be seen"
    );
    let reader = Reader::open(&world.path()).expect("open");
    let broken = reader.verify(1, Some(&head)).expect("verify").broken;
    assert_eq!(broken.expect("seen").sequence, head.sequence);
    drop(reader);
    world.live(1);
    let broken = world.verify().broken.expect("seen");
    assert_eq!(broken.sequence, head.sequence + 1);
    let (by, says) = broken.named_by.expect("named");
    assert_eq!(by, head.sequence + 1);
    assert_eq!(says["missing"], json!([[8, head.sequence]]));
    assert_eq!(says["last_good"]["sequence"], 7);
    let named = world.entries().into_iter().find(|r| r.sequence == by);
    assert_eq!(named.expect("there").previous, entry::NOTHING);
}

/// What is wrong, how it is planted, and how many of 41 entries may be lost.
type Damage = (&'static str, fn(&Path), usize);

const DAMAGE: [Damage; 9] = [
    ("a zeroed page", |p| page(p, 3, |b| b.fill(0)), 10),
    ("a zeroed first page", |p| page(p, 0, |b| b.fill(0)), 0),
    ("a random page", |p| page(p, 3, noise), 10),
    (
        "a torn sector",
        |p| page(p, 4, |b| b[512..1024].fill(0)),
        10,
    ),
    (
        "truncated",
        |p| {
            let len = fs::metadata(p).expect("stat").len();
            let file = fs::File::options().write(true).open(p).expect("open");
            file.set_len(len / 2 / 4096 * 4096 + 100).expect("cut");
        },
        35,
    ),
    ("0 bytes", |p| fs::write(p, b"").expect("write"), 41),
    (
        "not a database",
        |p| fs::write(p, b"notes\n".repeat(999)).expect("write"),
        41,
    ),
    (
        "a directory",
        |p| {
            fs::remove_file(p).expect("remove");
            fs::create_dir(p).expect("dir");
        },
        41,
    ),
    (
        "a link",
        |p| {
            fs::remove_file(p).expect("remove");
            std::os::unix::fs::symlink("/dev/zero", p).expect("link");
        },
        41,
    ),
];

fn page(path: &Path, n: usize, change: impl Fn(&mut [u8])) {
    let mut bytes = fs::read(path).expect("read");
    assert!(bytes.len() > (n + 1) * 4096, "{} bytes", bytes.len());
    change(&mut bytes[n * 4096..(n + 1) * 4096]);
    fs::write(path, bytes).expect("write");
}

fn noise(bytes: &mut [u8]) {
    let mut x: u32 = 12345;
    for b in bytes {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *b = (x >> 24) as u8;
    }
}

#[test]
fn a_damaged_log_is_kept_what_is_readable_carried_over_and_the_break_named() {
    for (what, plant, may_lose) in DAMAGE {
        let world = World::new();
        world.live(40);
        let before = world.entries();
        assert_eq!(before.len(), 41);
        plant(&world.path());
        let is_file = fs::symlink_metadata(world.path()).expect("stat").is_file();
        let bytes = |p: &Path| is_file.then(|| fs::read(p).expect("read"));
        let kept = bytes(&world.path());
        // A new boot: nobody knows where the log ended.
        fs::remove_file(world.spool()).expect("remove");
        world.live(2);
        let after = world.entries();
        let broken = world.verify().broken.expect(what);
        let (by, says) = broken.named_by.expect(what);
        assert_eq!(
            says["why"].as_str().map(str::is_empty),
            Some(false),
            "{what}"
        );
        let carried: Vec<_> = after.iter().filter(|r| r.sequence < by).cloned().collect();
        assert!(
            carried.len() + may_lose >= 41,
            "{what}: {} carried",
            carried.len()
        );
        assert!(
            carried.iter().all(|r| before.contains(r)),
            "{what}: not as they were"
        );
        assert!(carried.is_sorted_by_key(|r| r.sequence), "{what}");
        assert_eq!(says["carried"], carried.len(), "{what}");
        if let Some(gap) = says["missing"].as_array().and_then(|m| m.first()) {
            let from = gap[0].as_i64().expect("from");
            assert_eq!(
                says["last_good"]["sequence"].as_i64().unwrap_or(0),
                from - 1,
                "{what}"
            );
            assert_eq!(broken.sequence, gap[1].as_i64().expect("to") + 1, "{what}");
        }
        let name = says["kept_as"].as_str().expect("a name");
        let aside = world.home.path().join(name);
        assert_eq!(bytes(&aside), kept, "{what}: kept as it was");
        assert!(fs::symlink_metadata(aside).is_ok(), "{what}");
        let named = after.iter().find(|r| r.sequence == by).expect(what);
        assert_eq!(named.previous, entry::NOTHING, "{what}");
        // From the break on the chain is whole, and the next start finds nothing new.
        let reader = Reader::open(&world.path()).expect("open");
        assert_eq!(
            reader.verify(by.max(2), None).expect("verify").broken,
            None,
            "{what}"
        );
        world.live(1);
        let breaks = world
            .entries()
            .iter()
            .filter(|r| r.action == entry::BREAK)
            .count();
        assert_eq!(breaks, 1, "{what}");
    }
}

#[test]
fn damage_that_shows_while_the_agent_runs_is_mended_and_no_entry_is_lost() {
    let world = World::new();
    world.live(40);
    let (audit, clerk) = world.open();
    audit.note("test", AGENT, json!({}));
    assert!(audit.flush(SOON));
    let before = world.entries().len();
    // Everything, under the open connection.
    let len = fs::metadata(world.path()).expect("stat").len();
    let zeros = vec![0u8; usize::try_from(len).expect("len")];
    let file = fs::File::options()
        .write(true)
        .open(world.path())
        .expect("open");
    std::os::unix::fs::FileExt::write_all_at(&file, &zeros, 0).expect("write");
    for n in 0..3 {
        audit.note("after", AGENT, json!({ "n": n }));
    }
    assert!(audit.flush(SOON), "{:?}", audit.status());
    clerk.stop();
    let after = world.entries();
    assert_eq!(after.iter().filter(|r| r.action == "after").count(), 3);
    let (by, says) = world
        .verify()
        .broken
        .expect("broken")
        .named_by
        .expect("named");
    // The end was known: no number is used twice.
    assert_eq!(by, before as i64 + 1);
    assert_eq!(says["missing"], json!([[1, before]]));
}

#[test]
fn a_mending_that_was_cut_between_the_renames_is_finished() {
    let world = World::new();
    world.live(10);
    let before = world.entries();
    fs::rename(world.path(), beside(&world.path(), ".new")).expect("rename");
    fs::write(beside(&world.path(), "-journal"), b"stale").expect("write");
    world.live(1);
    assert_eq!(world.entries()[..before.len()], before);
    assert_eq!(world.verify().broken, None);
    // One that was cut before is made again.
    fs::write(beside(&world.path(), ".new"), b"half").expect("write");
    page(&world.path(), 2, |b| b.fill(0));
    world.live(1);
    assert!(world.verify().broken.expect("named").named_by.is_some());
}

#[test]
fn a_log_of_a_newer_version_is_left_alone_and_entries_wait() {
    let world = World::new();
    world.live(3);
    let conn = Connection::open(world.path()).expect("open");
    conn.execute_batch("PRAGMA user_version = 2")
        .expect("newer");
    drop(conn);
    let bytes = fs::read(world.path()).expect("read");
    let (audit, clerk) = world.open();
    audit.note("test", AGENT, json!({}));
    until("it is said", || audit.status().state == "unusable");
    until("it waits", || audit.status().waiting == 1);
    clerk.stop();
    assert_eq!(fs::read(world.path()).expect("read"), bytes);
    let e = Reader::open(&world.path()).expect_err("newer");
    assert!(e.to_string().contains("version 2"), "{e}");
}

/// The log and its journal as an agent leaves them that dies in the middle of a transaction.
fn crash(world: &World) -> tempfile::TempDir {
    let conn = Connection::open(world.path()).expect("open");
    conn.execute_batch(
        "PRAGMA cache_size = 1; BEGIN; UPDATE audit SET actor = 'never' || randomblob(0);",
    )
    .expect("spills");
    let crash = tempfile::tempdir().expect("temp dir");
    for suffix in ["", "-journal"] {
        let name = format!("audit.db{suffix}");
        fs::copy(beside(&world.path(), suffix), crash.path().join(name)).expect("copy");
    }
    crash
}

#[test]
fn a_hot_journal_beside_a_damaged_log_is_not_played_into_the_mended_one() {
    let world = World::new();
    world.live(10);
    let crash = crash(&world);
    fs::write(world.path(), b"").expect("write");
    let journal = beside(&world.path(), "-journal");
    fs::copy(crash.path().join("audit.db-journal"), &journal).expect("copy");
    world.live(1);
    let named = world.verify().broken.expect("broken").named_by;
    let (_, says) = named.expect("the mended log lost its entry");
    let kept = format!("{}-journal", says["kept_as"].as_str().expect("kept"));
    assert!(world.home.path().join(kept).exists());
}

#[test]
fn a_log_left_in_the_middle_of_a_transaction_is_read_as_it_was_before_and_not_touched() {
    let world = World::new();
    world.live(10);
    let crash = crash(&world);
    let at = crash.path().join("audit.db");
    let files = || {
        let read = |s| fs::read(beside(&at, s)).expect("read");
        (read(""), read("-journal"))
    };
    let before = files();
    assert!(
        String::from_utf8_lossy(&before.0).contains("never"),
        "the crash left nothing behind"
    );
    let reader = Reader::open(&at).expect("open");
    let verdict = reader.verify(1, None).expect("verify");
    assert_eq!((verdict.entries, verdict.broken), (11, None));
    drop(reader);
    assert_eq!(files(), before);
}

#[test]
fn what_cannot_wait_is_counted_and_entered_later() {
    let world = World::new();
    world.gate.close(Closer::Agent);
    let (audit, _clerk) = world.open();
    let long = "x".repeat(2900);
    for n in 0..2000 {
        audit.note("test", AGENT, json!({ "n": n, "filler": long }));
        until("it is taken", || {
            audit.status().waiting + audit.status().dropped as usize > n
        });
    }
    let spool = fs::metadata(world.spool()).expect("stat").len();
    assert!(spool <= 4 << 20, "{spool} bytes");
    world.gate.open(Closer::Agent);
    assert!(audit.flush(SOON));
    let dropped = audit.status().dropped;
    assert!(dropped > 0 && dropped < 1000, "{dropped}");
    let all = world.entries();
    let lost = all.iter().find(|r| r.action == "audit.dropped");
    assert_eq!(details(lost.expect("entered"))["entries"], dropped);
    assert_eq!(world.verify().broken, None);
}

#[test]
fn what_was_laid_aside_while_nobody_could_write_is_appended_by_the_next_once() {
    let world = World::new();
    world.live(1);
    for n in 0..3 {
        let entry = ("console.command", "kim", json!({ "n": n }));
        lay_aside(&world.spool(), &*world.clock, "boot-1", entry).expect("kept");
    }
    let aside = world.home.path().join("audit.spool.aside");
    let mut bytes = fs::read(&aside).expect("read");
    bytes.extend(b"half a li");
    fs::write(&aside, bytes).expect("write");
    for _ in 0..2 {
        let (audit, clerk) = world.open();
        assert!(audit.flush(SOON));
        clerk.stop();
    }
    assert!(!aside.exists());
    let log = Reader::open(&world.path()).expect("open");
    let all = log.page(1, 100).expect("read");
    let told: Vec<_> = all
        .iter()
        .filter(|r| r.actor == "kim")
        .map(|r| (r.action.as_str(), r.details.as_str()))
        .collect();
    let wanted: Vec<_> = ["{\"n\":0}", "{\"n\":1}", "{\"n\":2}"]
        .map(|d| ("console.command", d))
        .into();
    assert_eq!(told, wanted);
    let damaged = all.iter().filter(|r| r.action == "audit.spool_damaged");
    assert_eq!(damaged.count(), 1);
}
