//! Backups of files at rest, and of databases that others write.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rusqlite::Connection;

use super::catalogue::{Standing, list};
use super::part::with_part;
use super::*;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::durable::{Closer, Gate, Medium};

/// A gateway's data directory, and what a backup of it needs.
struct World {
    home: tempfile::TempDir,
    medium: Medium,
    gate: Gate,
    stop: Arc<AtomicBool>,
    clock: ManualClock,
    key: OneTime,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("medium");
        Self {
            medium,
            home,
            gate: Gate::new(),
            stop: Arc::default(),
            clock: ManualClock::new(),
            key: OneTime::new(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn to(&self) -> PathBuf {
        self.at("backup")
    }

    /// A database of `rows` rows, the last ten only in its log, as a killed writer leaves it.
    fn store(&self, name: &str, rows: u32) -> PathBuf {
        let live = self.at("live.db");
        let conn = Connection::open(&live).expect("open");
        conn.execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL, timestamp NOT \
             NULL, value REAL NOT NULL, unit TEXT, metadata TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
             INSERT INTO readings SELECT i, 's', i, i, NULL, hex(randomblob(20)) FROM n;
             PRAGMA wal_checkpoint(TRUNCATE);",
            rows - 10
        ))
        .expect("rows");
        for i in rows - 9..=rows {
            conn.execute(
                "INSERT INTO readings VALUES (?1, 's', 1, 1, NULL, NULL)",
                [i],
            )
            .expect("row");
        }
        let path = self.at(name);
        fs::copy(&live, &path).expect("copy");
        fs::copy(self.at("live.db-wal"), self.at(&format!("{name}-wal"))).expect("copy");
        drop(conn);
        fs::remove_file(&live).expect("remove");
        path
    }

    fn site(&self) -> WithWork<'_> {
        WithWork(self, self.at("backup.work"))
    }

    fn create(&self, databases: &[Source<'_>], include: &[PathBuf]) -> Result<Made, BackupError> {
        let to = self.to();
        let recipients = [self.key.recipient()];
        let site = self.site();
        create(
            &Request {
                gateway: "plant-7",
                kind: Kind::Data,
                reason: "operator",
                actor: "uid:0",
                databases: databases.to_vec(),
                include: include.to_vec(),
                exclude: Vec::new(),
                recipients: &recipients,
                audit_head: None,
                to: &to,
            },
            &site.site(),
        )
    }

    /// Name and bytes of every file in `archive`, opened with the owner's key.
    fn unpack(&self, archive: &Path) -> Vec<(String, Vec<u8>)> {
        let file = fs::File::open(archive).expect("open");
        let identities = [self.key.identity().clone()];
        let limits = Limits::of_bytes(1 << 30);
        let mut reader = Reader::open(archive, file, &identities, limits).expect("reader");
        let mut all = Vec::new();
        while let Some(mut entry) = reader.next().expect("next") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("read");
            all.push((escape(&entry.name), bytes));
        }
        all
    }
}

struct WithWork<'a>(&'a World, PathBuf);

impl WithWork<'_> {
    fn site(&self) -> Site<'_> {
        Site {
            medium: &self.0.medium,
            gate: &self.0.gate,
            stop: &self.0.stop,
            clock: &self.0.clock,
            work: &self.1,
            progress: &|_| {},
            say: &|_| {},
        }
    }
}

fn source(path: &Path) -> Source<'static> {
    Source {
        path: path.to_owned(),
        role: Role::Store,
        copier: Copier::Files,
    }
}

#[test]
fn a_store_at_rest_is_backed_up_with_what_lies_in_its_log_and_is_not_touched() {
    let w = World::new();
    let db = w.store("edge store's \"1\".db", 100);
    let wal = crate::store::companion(&db, "-wal");
    let before = (fs::read(&db).expect("db"), fs::read(&wal).expect("wal"));
    let made = w.create(&[source(&db)], &[]).expect("create");
    assert_eq!(
        before,
        (fs::read(&db).expect("db"), fs::read(&wal).expect("wal"))
    );
    let entry = &made.manifest.databases[0];
    assert_eq!((entry.rows["readings"], entry.highest), (100, Some(100)));
    assert!(made.manifest.is_verified());
    let all = w.unpack(&made.archive);
    let names: Vec<_> = all.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, [HOW_TO_OPEN, &*entry.name, MANIFEST]);
    let out = w.at("out.db");
    fs::File::create(&out)
        .and_then(|mut f| std::io::Write::write_all(&mut f, &all[1].1))
        .expect("write");
    let count: i64 = Connection::open(&out)
        .and_then(|c| c.query_row("SELECT count(*) FROM readings", [], |r| r.get(0)))
        .expect("count");
    assert_eq!(count, 100);
    // Nothing else is left, and nobody else may read it.
    let left: Vec<_> = fs::read_dir(w.at("backup.work")).expect("list").collect();
    assert!(left.is_empty(), "{left:?}");
    for (path, mode) in [
        (w.to(), 0o700),
        (made.archive.clone(), 0o600),
        (made.sidecar, 0o600),
    ] {
        let found = fs::metadata(&path).expect("stat").permissions().mode() & 0o777;
        assert_eq!(found, mode, "{}", path.display());
    }
    let listed = list(&w.to()).expect("list");
    assert_eq!(listed.len(), 1);
    assert!(listed[0].counts());
}

#[test]
fn a_database_that_is_being_written_is_copied_at_one_moment() {
    let w = World::new();
    let path = w.at("app.db");
    let conn = Connection::open(&path).expect("open");
    conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a(x); CREATE TABLE b(x);")
        .expect("tables");
    let done = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // Each commit adds to both: a copy of one moment has as many rows in one as in the other.
        let (done, rounds) = (&done, &rounds);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                conn.execute_batch(
                    "BEGIN; INSERT INTO a VALUES (randomblob(2000)); INSERT INTO b VALUES (1); COMMIT;",
                )
                .expect("commit");
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        while rounds.load(Ordering::Relaxed) < 50 {
            std::thread::yield_now();
        }
        for copier in [Copier::Connection, Copier::Connection] {
            let source = Source {
                path: path.clone(),
                role: Role::Guarded,
                copier,
            };
            let made = w.create(&[source], &[]).expect("create");
            let rows = &made.manifest.databases[0].rows;
            assert!(rows["a"] >= 50);
            assert_eq!(rows["a"], rows["b"]);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(list(&w.to()).expect("list").len(), 2);
}

#[test]
fn two_backups_of_one_millisecond_are_two() {
    let w = World::new();
    let db = w.store("edge_store.db", 20);
    let first = w.create(&[source(&db)], &[]).expect("create");
    let second = w.create(&[source(&db)], &[]).expect("create");
    assert_eq!(first.manifest.made_ms, second.manifest.made_ms);
    assert_ne!(first.archive, second.archive);
    assert!(
        list(&w.to())
            .expect("list")
            .iter()
            .all(catalogue::Listed::counts)
    );
}

#[test]
fn a_damaged_database_is_no_backup() {
    let w = World::new();
    let db = w.store("edge_store.db", 400);
    let mut bytes = fs::read(&db).expect("read");
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xff);
    crate::durable::write_own(&db, &bytes).expect("damage");
    let e = w
        .create(&[source(&db)], &[])
        .expect_err("damaged")
        .to_string();
    assert!(
        e.contains("is damaged") && e.contains("restart the agent: it keeps a copy"),
        "{e}"
    );
    assert!(
        e.contains("edge_store.db"),
        "names the database itself: {e}"
    );
    assert_eq!(fs::read_dir(w.to()).expect("list").count(), 0);
    assert_eq!(fs::read_dir(w.at("backup.work")).expect("list").count(), 0);
}

#[test]
fn a_log_that_sqlite_would_ignore_is_no_backup_either() {
    let w = World::new();
    let db = w.store("edge_store.db", 100);
    let wal = crate::store::companion(&db, "-wal");
    let mut bytes = fs::read(&wal).expect("read");
    bytes[..32].fill(0x55);
    crate::durable::write_own(&wal, &bytes).expect("damage");
    let e = w
        .create(&[source(&db)], &[])
        .expect_err("damaged")
        .to_string();
    assert!(e.contains("is damaged"), "{e}");
}

#[test]
fn ciphertext_that_was_damaged_after_writing_is_never_called_verified() {
    let w = World::new();
    let db = w.store("edge_store.db", 2000);
    let hit = AtomicU64::new(0);
    // Told before it is read back: then the medium has changed its mind.
    let spoil = |step: &str| {
        if step != "reading it back" {
            return;
        }
        for entry in fs::read_dir(w.to()).expect("list") {
            let path = entry.expect("entry").path();
            if path.to_string_lossy().ends_with(".part") {
                let bytes = fs::read(&path).expect("read");
                let at = bytes.len() / 2;
                // In the very file, which is open: it is read back while it is being made.
                fs::File::options()
                    .write(true)
                    .open(&path)
                    .and_then(|f| f.write_all_at(&[bytes[at] ^ 1], at as u64))
                    .expect("flip");
                hit.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let (to, recipients, site) = (w.to(), [w.key.recipient()], w.site());
    let request = Request {
        gateway: "plant-7",
        kind: Kind::Data,
        reason: "operator",
        actor: "uid:0",
        databases: vec![source(&db)],
        include: Vec::new(),
        exclude: Vec::new(),
        recipients: &recipients,
        audit_head: None,
        to: &to,
    };
    let site = Site {
        say: &spoil,
        ..site.site()
    };
    let done = create(&request, &site);
    assert_eq!(hit.load(Ordering::Relaxed), 1, "one bit was flipped");
    let e = done.expect_err("damaged").to_string();
    assert!(e.contains("damaged"), "{e}");
    assert_eq!(list(&to).expect("list").len(), 0);
    assert_eq!(
        fs::read_dir(&to).expect("list").count(),
        0,
        "it was thrown away"
    );
}

#[test]
fn trees_keep_their_odd_names_and_say_what_is_left_out() {
    let w = World::new();
    let tree = w.at("etc");
    let odd = "it's \"odd\"\n\u{fc}ber";
    fs::create_dir(&tree).expect("directory");
    let config = tree.join(odd);
    crate::durable::write_own(&config, b"key = 1\n").expect("write");
    let long = tree.join("n".repeat(200));
    fs::create_dir(&long).expect("directory");
    let long = long.join("m".repeat(200));
    crate::durable::write_own(&long, b"long").expect("write");
    let nested = Connection::open(tree.join("nested.db")).expect("open");
    nested
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a(x); INSERT INTO a VALUES (1);")
        .expect("rows");
    // Last changed long ago: of its copy that is not so.
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options()
        .write(true)
        .open(tree.join("nested.db"))
        .and_then(|f| f.set_modified(old))
        .expect("time");
    std::os::unix::fs::symlink("../secret", tree.join("link")).expect("link");
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("sock")).expect("socket");
    let include = [tree.clone(), w.at("missing"), config.clone()];
    let made = w.create(&[], &include).expect("create");
    let all = w.unpack(&made.archive);
    let bytes = |path: &Path| {
        let name = format!("files{}", path.display());
        let hit = all.iter().find(|(n, _)| *n == name);
        hit.map(|(_, b)| b.clone()).expect(&name)
    };
    assert_eq!(bytes(&config), b"key = 1\n");
    assert_eq!(bytes(&long), b"long");
    let copy = w.at("copy.db");
    crate::durable::write_own(&copy, &bytes(&tree.join("nested.db"))).expect("write");
    let rows: i64 = Connection::open(&copy)
        .and_then(|c| c.query_row("SELECT count(*) FROM a", [], |r| r.get(0)))
        .expect("a whole database");
    assert_eq!(rows, 1);
    let passed = &made.manifest.passed;
    let why = |name: &str| {
        let hit = passed.iter().find(|p| p.path.ends_with(name));
        hit.map(|p| p.why.clone()).expect(name)
    };
    assert!(why("/sock").contains("a socket"));
    assert!(why("/missing").contains("it is gone"));
    assert_eq!(passed.len(), 2, "{passed:?}");
    let link = made
        .manifest
        .files
        .iter()
        .find(|f| f.name.ends_with("/link"));
    let link = link.map(|f| f.kind.clone()).expect("link");
    assert_eq!(
        link,
        FileKind::Link {
            to: "../secret".to_owned()
        }
    );
}

#[test]
fn a_cut_at_any_operation_leaves_no_half_backup_and_the_next_run_tidies_up() {
    let mut cuts = 0;
    for after in 0.. {
        let mut w = World::new();
        let db = w.store("edge_store.db", 50);
        let first = w.create(&[source(&db)], &[]).expect("the backup before");
        w.medium.cut_after(after);
        let cut = w.create(&[source(&db)], &[]);
        for one in list(&w.to()).expect("list") {
            let whole = one.counts();
            // A cut between the two names leaves the archive alone for the next run to finish.
            let unnamed = one.standing == Standing::NoManifest
                && with_part(&one.sidecar()).exists()
                && cut.is_err();
            assert!(whole || unnamed, "cut {after}: {:?}", one.standing);
        }
        w.medium = Medium::open(w.home.path()).expect("medium");
        w.create(&[source(&db)], &[]).expect("the next run");
        let all = list(&w.to()).expect("list");
        assert!(all.iter().all(catalogue::Listed::counts), "cut {after}");
        assert!(all.iter().any(|l| l.name == first.name), "cut {after}");
        let files = fs::read_dir(w.to()).expect("list").count();
        assert_eq!(files, all.len() * 2, "cut {after}: nothing else is left");
        assert_eq!(fs::read_dir(w.at("backup.work")).expect("list").count(), 0);
        if cut.is_ok() {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 10, "{cuts}");
}

/// As `holdup backup prune` and the agent do it: all but the newest go.
fn prune_all(w: &World, medium: &Medium) -> Result<(), BackupError> {
    let cause = prune::Cause::Rule(retention::Rule { last: 1, days: 0 });
    for one in prune::candidates(&w.to(), "plant-7", cause, w.clock.wall())? {
        prune::remove(&one, medium)?;
    }
    Ok(())
}

#[test]
fn a_cut_at_any_operation_of_a_prune_leaves_no_half_backup_and_the_next_run_finishes() {
    let w = World::new();
    let db = w.store("edge_store.db", 20);
    let mut last = None;
    for _ in 0..3 {
        last = Some(w.create(&[source(&db)], &[]).expect("create").name);
        w.clock.advance(std::time::Duration::from_secs(60));
    }
    let last = last.expect("three");
    let before: Vec<_> = fs::read_dir(w.to())
        .expect("list")
        .map(|e| e.expect("entry").path())
        .map(|path| (fs::read(&path).expect("read"), path))
        .collect();
    for cut in 0.. {
        for (bytes, path) in &before {
            crate::durable::write_own(path, bytes).expect("as it was");
        }
        let medium = Medium::open(&w.to()).expect("medium");
        medium.cut_after(cut);
        let done = prune_all(&w, &medium);
        let left = list(&w.to()).expect("list");
        for one in &left {
            let told = one.counts() || one.standing == Standing::Pruning;
            assert!(told, "cut {cut}: {} is {:?}", one.name, one.standing);
        }
        let last_counts =
            |all: &[catalogue::Listed]| all.iter().any(|l| l.name == last && l.counts());
        assert!(last_counts(&left), "cut {cut}");
        let medium = Medium::open(&w.to()).expect("medium");
        prune_all(&w, &medium).expect("the next run");
        let left = list(&w.to()).expect("list");
        assert!(left.len() == 1 && last_counts(&left), "cut {cut}");
        let files = fs::read_dir(w.to()).expect("list").count();
        assert_eq!(files, 2, "cut {cut}: nothing else is left");
        if done.is_ok() {
            assert!(cut > 10, "{cut}");
            return;
        }
    }
}

#[test]
fn power_that_fails_in_the_middle_lets_go_of_the_original_and_the_copy_begins_again() {
    let w = World::new();
    let path = w.at("app.db");
    let conn = Connection::open(&path).expect("open");
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE a(x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO a SELECT randomblob(1000) FROM n;",
    )
    .expect("rows");
    let (closed, emptied) = (AtomicBool::new(false), AtomicBool::new(false));
    let progress = |_: u64| {
        if !closed.swap(true, Ordering::Relaxed) {
            w.gate.close(Closer::Power);
        }
    };
    std::thread::scope(|scope| {
        let (w, closed, emptied) = (&w, &closed, &emptied);
        scope.spawn(move || {
            while !closed.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            // What the plan asks for: the log empties, because no reader holds it.
            let end = SystemClock.mono() + std::time::Duration::from_secs(20);
            while SystemClock.mono() < end {
                let busy: i64 = conn
                    .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))
                    .expect("checkpoint");
                if busy == 0 {
                    emptied.store(true, Ordering::Relaxed);
                    break;
                }
                std::thread::yield_now();
            }
            w.gate.open(Closer::Power);
        });
        let copy = w.at("copy.db");
        let site = w.site();
        let site = Site {
            progress: &progress,
            ..site.site()
        };
        copy::copy(&path, Copier::Connection, &copy, &site).expect("copied in the end");
        let rows = check(&copy, Role::Guarded, Box::new(|| false))
            .expect("whole")
            .rows;
        assert_eq!(rows["a"], 3000);
    });
    assert!(
        emptied.load(Ordering::Relaxed),
        "the copy let go of its reader"
    );
}

#[test]
fn too_little_room_is_said_before_anything_is_written() {
    let w = World::new();
    let db = w.store("edge_store.db", 20);
    // A hole: as large as no disk of a test is.
    let huge = w.at("huge");
    fs::File::create(&huge)
        .and_then(|f| f.set_len(1 << 43))
        .expect("a hole");
    let e = w.create(&[source(&db)], &[huge]).expect_err("no room");
    assert!(matches!(e, BackupError::NoRoom { .. }), "{e}");
    assert_eq!(fs::read_dir(w.to()).expect("list").count(), 0);
    assert_eq!(fs::metadata(&db).expect("stat").nlink(), 1);
}
