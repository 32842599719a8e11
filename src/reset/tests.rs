//! Resets cut at every durable operation, and what lies where it should not.

#![expect(clippy::disallowed_methods, reason = "the tests plant files")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rusqlite::Connection;

use crate::audit::{Audit, AuditOptions, Clerk};
use crate::clock::{Clock, ManualClock};
use crate::durable::{Gate, Medium, Reserve};
use crate::{config, queue, store};

use super::*;

/// In every reading of before.
const MARK: &[u8] = b"boiler-7-marker";
/// What holds readings of before and no level keeps.
const COPIES: [&str; 11] = [
    "edge_store.db-holdup-new",
    "edge_store.db.damaged-2",
    "edge_store.db-recovery",
    "sync_queue.db-salvaged",
    "ledger",
    "snapshots/edge_store.db-1.zst",
    "snapshots/deep/er/part",
    "backup.work/store",
    "restore-20260101T000000/1/edge_store.db",
    ".holdup-20260101-3",
    "reset-older.erased/edge_store.db",
];
const KEPT: [&str; 5] = [
    "evidence/1/edge_store.db",
    "backup/holdup-a.tar.zst.age",
    "outage.rec",
    "costs.json",
    "theirs.txt",
];

struct World {
    dir: tempfile::TempDir,
    audit: Audit,
    _clerk: Clerk,
    gate: Arc<Gate>,
    stop: AtomicBool,
    clock: Arc<ManualClock>,
    epoch: u64,
    home: Home,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let data = dir.path().join("data");
        fs::create_dir_all(dir.path().join("etc/conf.d")).expect("etc");
        fs::create_dir(&data).expect("data");
        let main = dir.path().join("etc/holdup.toml");
        let at = dir.path().display();
        let text = format!(
            "[gateway]\nid = \"gw \\\" 7\"\ndata_dir = \"{at}/data\"\nrun_dir = \"{at}/run\"\n\
             [power]\nboard = \"sim\"\n[console]\nallowed_signers = \"{at}/etc/signers\"\n\
             revoked_signers = \"{at}/etc/revoked\"\n"
        );
        fs::write(&main, text).expect("config");
        fs::write(
            dir.path().join("etc/conf.d/1.toml"),
            "[store]\nkeep_days = 3\n",
        )
        .expect("more");
        fs::write(dir.path().join("etc/signers"), "t@x ssh-ed25519 AAAA\n").expect("signers");
        let loaded = config::load(&main).expect("config");
        let clock = Arc::new(ManualClock::new());
        let medium = Arc::new(Medium::open(&data).expect("medium"));
        let gate = Arc::new(Gate::new());
        for name in COPIES.iter().chain(&KEPT) {
            let path = data.join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, MARK).expect("plant");
        }
        let path = data.join("edge_store.db");
        let epoch = store::found(&path, &medium, &gate, &*clock, false).expect("store");
        let conn = Connection::open(&path).expect("open");
        let sql = "INSERT INTO readings VALUES(?1, ?2, 1, 1.0, NULL, NULL)";
        for id in 1..=20 {
            let name = String::from_utf8_lossy(MARK);
            conn.execute(sql, (id, name)).expect("reading");
        }
        drop(conn);
        queue::ensure(&data.join("sync_queue.db"), &medium, &gate, &*clock).expect("queue");
        // Its own medium, so that a cut of the reset's is not one of the log's.
        let (audit, clerk) = Audit::open(AuditOptions {
            path: data.join("audit.db"),
            spool: dir.path().join("audit.spool"),
            medium,
            gate: Arc::clone(&gate),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            boot: "b".to_owned(),
        })
        .expect("audit");
        audit.note("start", "test", serde_json::Value::Null);
        assert!(
            audit.flush(std::time::Duration::from_secs(60)),
            "first entry"
        );
        Self {
            audit,
            _clerk: clerk,
            gate,
            stop: AtomicBool::new(false),
            clock,
            epoch,
            home: Home::of(&loaded),
            dir,
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn medium(&self) -> Medium {
        Medium::open(&self.data()).expect("medium")
    }

    fn with<T>(&self, medium: &Medium, act: impl FnOnce(&Site<'_>) -> T) -> T {
        let reserve = Reserve::new(&self.data().join("reserve"), 0);
        act(&Site {
            medium,
            gate: &self.gate,
            stop: &self.stop,
            clock: &*self.clock,
            audit: &self.audit,
            reserve: &reserve,
            discard: false,
            say: &|_| {},
        })
    }

    fn order(&self, level: Level) -> Order {
        Order {
            level,
            with_evidence: false,
            actor: "test".to_owned(),
            backup_waived: true,
            undelivered_waived: None,
            damaged: Vec::new(),
            epoch: Some(self.epoch),
        }
    }

    fn reset(&self, order: &Order, medium: &Medium) -> Result<Signed, ResetError> {
        self.with(medium, |site| {
            Begun::request(&self.home, order, site)?.carry_out(site)
        })
    }

    fn resume(&self, medium: &Medium) -> Result<Resumed, ResetError> {
        self.with(medium, |site| resume(&self.home, site))
    }

    fn readings(&self) -> (i64, u64) {
        let path = self.data().join("edge_store.db");
        let conn = Connection::open(path).expect("open");
        let rows = conn.query_row("SELECT count(*) FROM readings", [], |r| r.get(0));
        let epoch: String = conn
            .query_row(
                "SELECT value FROM holdup_meta WHERE key = 'epoch'",
                [],
                |r| r.get(0),
            )
            .expect("epoch");
        let epoch = u64::from_str_radix(&epoch, 16).expect("hex");
        (rows.expect("readings"), epoch)
    }

    /// Files below the data directory in which a reading of before is, but for what is kept.
    fn remains(&self) -> Vec<String> {
        let data = self.data();
        let mut found = Vec::new();
        walk(&data, &mut |path| {
            let bytes = fs::read(path).expect("read");
            if bytes.windows(MARK.len()).any(|w| w == MARK) {
                let name = path.strip_prefix(&data).expect("below");
                found.push(name.display().to_string());
            }
        });
        found.retain(|name| !KEPT.contains(&&**name));
        found.sort();
        found
    }

    /// All of before, or nothing of it; true: nothing.
    fn is_whole(&self, what: &str) -> bool {
        let (rows, epoch) = self.readings();
        let remains = self.remains();
        for kept in KEPT {
            assert!(self.data().join(kept).exists(), "{what}: {kept}");
        }
        if rows == 0 {
            assert_ne!(epoch, self.epoch, "{what}");
            assert_eq!(remains, Vec::<String>::new(), "{what}");
            true
        } else {
            assert_eq!((rows, epoch), (20, self.epoch), "{what}");
            // What an earlier reset had moved is nobody's data any more.
            for copy in COPIES.iter().filter(|c| !c.starts_with("reset-")) {
                assert!(
                    self.data().join(copy).exists(),
                    "{what}: {copy}: {remains:?}"
                );
            }
            false
        }
    }
}

fn walk(dir: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).expect("list") {
        let entry = entry.expect("entry");
        let kind = entry.file_type().expect("kind");
        if kind.is_dir() {
            walk(&entry.path(), each);
        } else if kind.is_file() {
            each(&entry.path());
        }
    }
}

#[test]
fn a_reset_leaves_no_reading_of_before_but_in_what_its_level_keeps_and_says_so_signed() {
    let w = World::new();
    let medium = w.medium();
    let before = w.audit.head().expect("head");
    let done = w.reset(&w.order(Level::Data), &medium).expect("reset");
    assert!(w.is_whole("once"));
    assert!(!is_unfinished(&w.data()));
    let r = &done.receipt;
    assert_eq!(r.epoch_before, Some(format!("{:016x}", w.epoch)));
    assert_eq!(r.epoch_after, Some(format!("{:016x}", w.readings().1)));
    assert_eq!(r.audit_before, Some(before.clone()));
    assert!(r.audit_genesis.as_ref().expect("genesis").sequence > before.sequence);
    let fate = |name: &str| {
        let path = w.data().join(name).display().to_string();
        r.items.iter().find(|i| i.path == path).map(|i| i.fate)
    };
    assert_eq!(fate("snapshots"), Some(Fate::Erased));
    assert_eq!(fate("evidence"), Some(Fate::Kept));
    assert_eq!(fate("theirs.txt"), Some(Fate::Left));
    let seen = newest(&w.data()).expect("list").expect("one");
    assert!(seen.signature_holds);
    assert_eq!(seen.receipt, done.receipt);
    let text = fs::read_to_string(&done.path).expect("receipt");
    fs::write(&done.path, text.replace("\"data\"", "\"settings\"")).expect("forge");
    let forged = newest(&w.data()).expect("list").expect("one");
    assert!(!forged.signature_holds);
    // Twice in a row.
    w.reset(&w.order(Level::Data), &medium).expect("again");
    assert!(w.is_whole("twice"));
    assert_eq!(receipts(&w.data()).expect("list").len(), 2);
}

#[test]
fn cut_at_any_operation_the_next_start_ends_with_all_of_before_or_nothing_of_it() {
    let (mut old, mut new) = (0, 0);
    for cut in 0.. {
        let w = World::new();
        let medium = w.medium();
        medium.cut_after(cut);
        let done = w.reset(&w.order(Level::Data), &medium);
        if done.is_ok() {
            assert!(w.is_whole("uncut"));
            break;
        }
        let resumed = w.resume(&w.medium()).expect("resume");
        let erased = w.is_whole(&format!("cut {cut}: {resumed:?}"));
        assert!(!is_unfinished(&w.data()), "cut {cut}");
        if erased {
            new += 1;
            assert!(
                newest(&w.data())
                    .expect("list")
                    .expect("receipt")
                    .signature_holds
            );
        } else {
            old += 1;
        }
        if cut % 8 == 0 {
            // It serves, and takes the next reset.
            w.reset(&w.order(Level::Data), &w.medium())
                .expect("the next");
            assert!(w.is_whole("the next"));
        }
    }
    assert!(old > 3 && new > 20, "{old} old, {new} new");
}

#[test]
fn a_start_that_goes_on_may_be_cut_as_often_as_power_likes() {
    for cut in [14, 40] {
        for again in (0..).step_by(3) {
            let w = World::new();
            let medium = w.medium();
            medium.cut_after(cut);
            w.reset(&w.order(Level::Data), &medium).expect_err("cut");
            let medium = w.medium();
            medium.cut_after(again);
            let whole = w.resume(&medium).is_ok();
            w.resume(&w.medium()).expect("the last start");
            w.is_whole(&format!("cut {cut}, then {again}"));
            if whole {
                break;
            }
        }
    }
}

#[test]
fn with_its_journal_spoilt_it_is_still_all_or_nothing() {
    for cut in (1..).step_by(2) {
        let w = World::new();
        let medium = w.medium();
        medium.cut_after(cut);
        if w.reset(&w.order(Level::Data), &medium).is_ok() {
            break;
        }
        let journal = journal::place(&w.data());
        let Ok(mut bytes) = fs::read(&journal) else {
            continue;
        };
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(&journal, bytes).expect("spoil");
        assert!(state(&w.data()).is_err(), "cut {cut}");
        w.resume(&w.medium()).expect("resume");
        let data = w.data();
        // Where the old files were gone, the agent makes new ones.
        store::found(
            &data.join("edge_store.db"),
            &w.medium(),
            &w.gate,
            &*w.clock,
            false,
        )
        .expect("store");
        w.is_whole(&format!("cut {cut}"));
    }
}

#[test]
fn settings_ships_the_configuration_and_keeps_who_may_log_in() {
    let w = World::new();
    w.reset(&w.order(Level::Settings), &w.medium())
        .expect("reset");
    let main = w.dir.path().join("etc/holdup.toml");
    let loaded = config::load(&main).expect("the shipped one is valid");
    assert_eq!(loaded.settings.gateway, w.home.settings.gateway);
    assert_eq!(loaded.settings.console, w.home.settings.console);
    assert_ne!(loaded.settings.store, w.home.settings.store);
    assert!(!w.dir.path().join("etc/conf.d/1.toml").exists());
    assert!(w.dir.path().join("etc/signers").exists());
    assert!(w.data().join(IDENTITY).exists());
    assert!(w.is_whole("settings"));
}

#[test]
fn everything_takes_evidence_keys_and_identity_and_the_receipt_still_holds() {
    let w = World::new();
    let done = w
        .reset(&w.order(Level::Everything), &w.medium())
        .expect("reset");
    for gone in [
        "data/evidence",
        "data/identity.key",
        "data/identity.key.pub",
        "etc/signers",
    ] {
        assert!(!w.dir.path().join(gone).exists(), "{gone}");
    }
    assert!(done.receipt.identity_removed);
    assert!(
        newest(&w.data())
            .expect("list")
            .expect("one")
            .signature_holds
    );
    assert!(w.data().join("backup/holdup-a.tar.zst.age").exists());
    assert!(w.data().join("audit.db").exists());
}

#[test]
fn a_damaged_database_becomes_evidence_unless_that_goes_too() {
    for with_evidence in [false, true] {
        let w = World::new();
        let mut order = w.order(Level::Data);
        order.damaged = vec!["edge_store.db".to_owned()];
        order.with_evidence = with_evidence;
        let done = w.reset(&order, &w.medium()).expect("reset");
        let kept = w.data().join(format!("evidence/reset-{}", done.receipt.id));
        assert_eq!(kept.join("edge_store.db").exists(), !with_evidence);
        assert_eq!(w.data().join("evidence").exists(), !with_evidence);
        assert_eq!(w.readings().0, 0);
    }
}

#[test]
fn links_pipes_and_directories_go_and_what_a_link_names_stays() {
    let w = World::new();
    let outside = w.dir.path().join("outside");
    fs::create_dir(&outside).expect("outside");
    fs::write(outside.join("precious"), b"theirs").expect("plant");
    let data = w.data();
    fs::remove_dir_all(data.join("snapshots")).expect("make way");
    symlink(&outside, data.join("snapshots")).expect("link");
    symlink(&outside, data.join("backup.work/in")).expect("link");
    fs::remove_file(data.join("edge_store.db")).expect("make way");
    fs::create_dir_all(data.join("edge_store.db/in/it")).expect("directory");
    fs::remove_file(data.join("ledger")).expect("make way");
    let fifo = rustix::fs::FileType::Fifo;
    let rights = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, data.join("ledger"), fifo, rights, 0).expect("pipe");
    let done = w.reset(&w.order(Level::Data), &w.medium()).expect("reset");
    assert_eq!(
        fs::read(outside.join("precious")).expect("stays"),
        b"theirs"
    );
    assert!(data.join("snapshots").symlink_metadata().is_err());
    assert!(data.join("ledger").symlink_metadata().is_err());
    assert_eq!(w.readings().0, 0);
    let links = done.receipt.items.iter().filter(|i| i.link.is_some());
    assert_eq!(links.count(), 1);
}

#[test]
fn what_must_stay_stops_it_before_anything_is_touched() {
    let mut w = World::new();
    w.home.settings.backup.dir = w.data().join("snapshots/backup");
    let e = w
        .reset(&w.order(Level::Data), &w.medium())
        .expect_err("in the way");
    assert!(matches!(e, ResetError::InTheWay { .. }), "{e}");
    assert!(!w.is_whole("in the way"));
    assert!(!is_unfinished(&w.data()));
    let w = World::new();
    let open = Connection::open(w.data().join("edge_store.db")).expect("open");
    open.query_row("SELECT count(*) FROM readings", [], |_| Ok(()))
        .expect("read");
    let e = w
        .reset(&w.order(Level::Data), &w.medium())
        .expect_err("open");
    assert!(matches!(e, ResetError::Held(_)), "{e}");
    assert!(!is_unfinished(&w.data()), "taken back");
    drop(open);
    assert!(!w.is_whole("open elsewhere"));
}

#[test]
fn an_unfinished_restore_comes_first() {
    let w = World::new();
    fs::write(w.data().join("restore.journal"), b"{}").expect("plant");
    let e = w
        .reset(&w.order(Level::Data), &w.medium())
        .expect_err("first");
    assert!(e.to_string().contains("--resume"), "{e}");
    assert!(!w.is_whole("refused"));
}
