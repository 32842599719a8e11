//! Restores of a small gateway, whole, refused, and cut at every durable operation.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rusqlite::Connection;

use super::*;
use crate::backup::{ArchiveName, BackupError, Copier, Kind, Role, Source};
use crate::clock::ManualClock;
use crate::durable::{Gate, Medium};

const EPOCH: &str = "00000000000000aa";
/// A name that nothing may trip over.
const ODD: &str = "a b'\";--\n\u{fc}.db";

/// A gateway: `data` with store and queue, `app` with another's database and a file, `etc`.
struct World {
    root: tempfile::TempDir,
    gate: Gate,
    stop: Arc<AtomicBool>,
    clock: ManualClock,
    key: Identity,
}

fn store(path: &Path, rows: i64, epoch: &str) {
    let conn = Connection::open(path).expect("open");
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL, timestamp NOT NULL,
                               value REAL NOT NULL, unit TEXT, metadata TEXT);
         CREATE TABLE holdup_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
         INSERT INTO holdup_meta VALUES('schema', 1), ('epoch', '{epoch}');
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO readings SELECT i, 's' || i, i, i, NULL, hex(randomblob(40)) FROM n;"
    ))
    .expect("rows");
}

fn queue(path: &Path) {
    let conn = Connection::open(path).expect("open");
    conn.execute_batch(
        "CREATE TABLE sync_queue(id INTEGER PRIMARY KEY, payload, priority, created_at, ttl_seconds,
                                 retry_count, next_retry_at, message_id UNIQUE)",
    )
    .expect("queue");
}

fn app(path: &Path, rows: u32) {
    let conn = Connection::open(path).expect("open");
    conn.execute_batch("CREATE TABLE t(a)").expect("table");
    for n in 0..rows {
        conn.execute("INSERT INTO t VALUES(?1)", [n]).expect("row");
    }
}

fn count(path: &Path, table: &str) -> i64 {
    let conn = Connection::open(path).expect("open");
    let ok: String = conn
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .expect("check");
    assert_eq!(ok, "ok", "{}", path.display());
    conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0))
        .expect("count")
}

impl World {
    /// As it was when it was backed up: 20 readings, 3 rows of the application.
    fn new() -> Self {
        let world = Self {
            root: tempfile::tempdir().expect("temp dir"),
            gate: Gate::new(),
            stop: Arc::default(),
            clock: ManualClock::new(),
            key: Identity::generate(),
        };
        for dir in ["data", "app", "etc", "usb", "work"] {
            fs::create_dir(world.at(dir)).expect("directory");
        }
        store(&world.at("data/edge_store.db"), 20, EPOCH);
        queue(&world.at("data/sync_queue.db"));
        app(&world.app(), 3);
        put(&world.at("app/settings.txt"), b"old settings");
        put(&world.at("app/key.pem"), b"secret");
        put(&world.at("etc/holdup.toml"), b"# old");
        symlink("settings.txt", world.at("app/link")).expect("link");
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.at("data/edge_store.db")
    }

    fn app(&self) -> PathBuf {
        self.at("app").join(ODD)
    }

    fn home(&self) -> Home {
        Home {
            gateway: "plant-7".to_owned(),
            data_dir: self.at("data"),
            store: self.store(),
            queue: self.at("data/sync_queue.db"),
            ledger: self.at("data/ledger"),
            databases: vec![self.app()],
            include: vec![self.at("app")],
            config: self.at("etc"),
            keys: vec![self.at("app/key.pem")],
        }
    }

    fn medium(&self) -> Medium {
        Medium::open(&self.at("data")).expect("medium")
    }

    fn site<'a>(&'a self, medium: &'a Medium, work: &'a Path) -> Site<'a> {
        Site {
            medium,
            gate: &self.gate,
            stop: &self.stop,
            clock: &self.clock,
            work,
            progress: &|_| {},
            say: &|_| {},
        }
    }

    /// Backs it up onto the stick.
    fn back_up(&self) -> PathBuf {
        let medium = Medium::open(&self.at("work")).expect("medium");
        let work = self.at("work/w");
        let to = self.at("usb");
        let of = |path: PathBuf, role| Source {
            path,
            role,
            copier: Copier::Files,
        };
        let recipients = [self.key.recipient()];
        let request = crate::backup::Request {
            gateway: "plant-7",
            kind: Kind::Data,
            reason: "operator",
            actor: "uid:0",
            databases: vec![
                of(self.at("data/sync_queue.db"), Role::Queue),
                of(self.store(), Role::Store),
                of(self.app(), Role::Guarded),
            ],
            include: vec![self.at("app"), self.at("etc")],
            exclude: vec![(self.app(), "it is backed up as a database")],
            recipients: &recipients,
            audit_head: None,
            to: &to,
        };
        crate::backup::create(&request, &self.site(&medium, &work))
            .expect("backup")
            .archive
    }

    /// What happened since: 30 readings, the last of them in a log that a killed writer left.
    fn live_on(&self) {
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(companion(&self.store(), suffix)).ok();
        }
        let other = self.at("work/other.db");
        store(&other, 25, EPOCH);
        let conn = Connection::open(&other).expect("open");
        conn.execute_batch(
            "PRAGMA wal_autocheckpoint = 0;
             INSERT INTO readings SELECT id + 25, 'later', 1, 1, NULL, NULL FROM readings
             WHERE id <= 5;",
        )
        .expect("rows");
        fs::copy(&other, self.store()).expect("copy");
        fs::copy(companion(&other, "-wal"), companion(&self.store(), "-wal")).expect("copy");
        drop(conn);
        put(&companion(&self.store(), "-shm"), &[7; 32 << 10]);
        fs::remove_file(&other).expect("remove");
        fs::remove_file(self.app()).ok();
        app(&self.app(), 9);
        put(&self.at("app/settings.txt"), b"new settings");
        put(&self.at("etc/holdup.toml"), b"# new");
        let mode = fs::Permissions::from_mode(0o604);
        fs::set_permissions(self.store(), mode).expect("mode");
    }

    fn request<'a>(&'a self, archive: &'a Path, home: &'a Home) -> Request<'a> {
        Request {
            archive,
            identities: std::slice::from_ref(&self.key),
            home,
            only: &[],
            with_config: false,
            without_manifest: false,
        }
    }

    fn restore(&self, archive: &Path) -> Result<Done, RestoreError> {
        let home = self.home();
        self.restore_as(&self.request(archive, &home), &self.medium())
    }

    fn restore_as(&self, request: &Request<'_>, medium: &Medium) -> Result<Done, RestoreError> {
        let work = self.at("work");
        let site = self.site(medium, &work);
        let plan = look(request, &site)?;
        restore(&plan, request, &site, &|| Ok(()))
    }

    fn resume(&self, medium: &Medium) -> Result<Resumed, RestoreError> {
        resume(&self.at("data"), &self.site(medium, &self.at("work")))
    }

    /// Every file below `data`, `app` and `etc`, with its bytes; a link with its target.
    fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut dirs = ["data", "app", "etc"].map(|d| self.at(d)).to_vec();
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).expect("list") {
                let path = entry.expect("entry").path();
                let meta = path.symlink_metadata().expect("stat");
                if meta.is_dir() {
                    dirs.push(path);
                } else if meta.is_symlink() {
                    let to = fs::read_link(&path).expect("link");
                    all.insert(path, to.into_os_string().into_encoded_bytes());
                } else {
                    let bytes = fs::read(&path).expect("read");
                    all.insert(path, bytes);
                }
            }
        }
        all
    }

    /// Nothing of a restore is left but what replaced files were kept.
    fn is_tidy(&self) -> bool {
        !is_unfinished(&self.at("data"))
            && !self.bytes().keys().any(|p| {
                let name = p.file_name().expect("name").to_string_lossy().into_owned();
                name.starts_with(".holdup-") || name.ends_with(".new")
            })
    }

    /// All is as it was backed up, and no companion of an old database is near.
    fn is_restored(&self) -> bool {
        let companions = ["-wal", "-shm", "-journal"];
        let clean = companions
            .iter()
            .all(|s| !companion(&self.store(), s).exists() && !companion(&self.app(), s).exists());
        clean
            && count(&self.store(), "readings") == 20
            && count(&self.app(), "t") == 3
            && fs::read(self.at("app/settings.txt")).expect("read") == b"old settings"
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests plant files")]
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("plant");
}

fn companion(path: &Path, suffix: &str) -> PathBuf {
    crate::store::companion(path, suffix)
}

#[test]
fn what_was_backed_up_comes_back_and_what_it_replaces_is_kept() {
    let world = World::new();
    let archive = world.back_up();
    world.live_on();
    let before = world.bytes();
    let done = world.restore(&archive).expect("restore");
    assert!(world.is_restored() && world.is_tidy());
    assert_eq!(done.restored.len(), 5, "{:?}", done.restored);
    // Neither configuration nor keys.
    assert_eq!(
        fs::read(world.at("etc/holdup.toml")).expect("read"),
        b"# new"
    );
    assert_eq!(fs::read(world.at("app/key.pem")).expect("read"), b"secret");
    let mode = fs::metadata(world.store()).expect("stat").mode() & 0o777;
    assert_eq!(mode, 0o604, "as it was");
    // Every byte that was replaced is in the directory that is named.
    let kept: Vec<Vec<u8>> = world
        .bytes()
        .into_iter()
        .filter(|(p, _)| p.starts_with(&done.kept[0]))
        .map(|(_, bytes)| bytes)
        .collect();
    for suffix in ["", "-wal", "-shm"] {
        let old = &before[&companion(&world.store(), suffix)];
        assert!(kept.contains(old), "edge_store.db{suffix}");
    }
    assert!(kept.contains(&before[&world.app()]));
    assert_eq!(
        world.resume(&world.medium()).expect("resume"),
        Resumed::Nothing
    );
}

#[test]
fn a_stale_log_and_journal_are_never_left_beside_a_restored_database() {
    let world = World::new();
    let archive = world.back_up();
    world.live_on();
    put(&companion(&world.app(), "-journal"), &[0xd9; 4096]);
    // Without the exchange of companions this log would be replayed into the old pages.
    assert!(
        companion(&world.store(), "-wal")
            .metadata()
            .expect("log")
            .len()
            > 4096
    );
    world.restore(&archive).expect("restore");
    assert!(world.is_restored());
}

#[test]
fn a_cut_at_any_durable_operation_ends_in_the_old_files_or_the_new_ones() {
    let world = World::new();
    let archive = world.back_up();
    let home = world.home();
    let (mut old, mut new) = (0, 0);
    for cut in 0..1000 {
        world.live_on();
        let before = world.bytes();
        let medium = world.medium();
        medium.cut_after(cut);
        let done = world.restore_as(&world.request(&archive, &home), &medium);
        // Power fails again while it is resumed.
        let again = world.medium();
        again.cut_after(cut % 11);
        let first = world.resume(&again);
        let last = world.resume(&world.medium()).expect("resume");
        assert!(world.is_tidy(), "cut {cut}: {first:?} {last:?}");
        if world.bytes() == before {
            assert!(done.is_err(), "cut {cut}");
            old += 1;
        } else {
            assert!(
                world.is_restored(),
                "cut {cut}: {done:?} {first:?} {last:?}"
            );
            new += 1;
        }
        if done.is_ok() {
            assert!(old > 10 && new > 10, "{old} old, {new} new");
            return;
        }
        for entry in fs::read_dir(world.at("data")).expect("list") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                fs::remove_dir_all(path).expect("remove");
            }
        }
    }
    panic!("never done");
}

#[test]
fn what_fails_when_it_is_tried_out_is_undone() {
    let world = World::new();
    let conn = Connection::open(world.app()).expect("open");
    conn.execute_batch("CREATE TABLE holdup_trial(a)")
        .expect("a table in the way of the trial");
    drop(conn);
    let archive = world.back_up();
    world.live_on();
    let before = world.bytes();
    let e = world.restore(&archive).expect_err("undone");
    assert!(matches!(e, RestoreError::Undone(_)), "{e:?}");
    assert_eq!(world.bytes(), before);
    assert_eq!(
        world.resume(&world.medium()).expect("resume"),
        Resumed::Nothing
    );
}

#[test]
fn a_damaged_swapped_or_foreign_backup_touches_nothing() {
    let world = World::new();
    let archive = world.back_up();
    let good = fs::read(&archive).expect("read");
    let name: ArchiveName = archive
        .file_name()
        .and_then(|n| n.to_str())
        .expect("name")
        .parse()
        .expect("name");
    let sidecar = archive.with_file_name(name.manifest());
    let beside = fs::read(&sidecar).expect("manifest");
    world.live_on();
    let before = world.bytes();
    let mut tries: Vec<(String, Vec<u8>)> = vec![
        ("foreign".to_owned(), b"SQLite format 3\0".to_vec()),
        ("empty".to_owned(), Vec::new()),
        ("longer".to_owned(), [&good[..], b"x"].concat()),
    ];
    for part in 1..8 {
        let at = good.len() * part / 8;
        tries.push((format!("cut at {at}"), good[..at].to_vec()));
        let mut flipped = good.clone();
        flipped[at] ^= 4;
        tries.push((format!("flipped at {at}"), flipped));
    }
    for (what, bytes) in &tries {
        for with_sidecar in [true, false] {
            put(&archive, bytes);
            if with_sidecar {
                put(&sidecar, &beside);
            } else {
                fs::remove_file(&sidecar).expect("remove");
            }
            let e = world.restore(&archive).expect_err(what);
            assert!(!matches!(e, RestoreError::Undone(_)), "{what}: {e:?}");
            assert!(e.to_string().contains("usb/holdup-"), "{what}: {e}");
            assert_eq!(world.bytes(), before, "{what}");
        }
    }
    // A good archive under another's manifest.
    put(&sidecar, &beside);
    let other = world.back_up();
    fs::copy(&other, &archive).expect("swap");
    let e = world.restore(&archive).expect_err("swapped").to_string();
    assert!(e.contains("not the archive that the manifest"), "{e}");
    assert_eq!(world.bytes(), before);
    put(&archive, &good);
    world.restore(&archive).expect("the good one");
}

#[test]
fn another_key_is_told_which_is_needed() {
    let world = World::new();
    let archive = world.back_up();
    let before = world.bytes();
    let wrong = [Identity::generate()];
    let home = world.home();
    let request = Request {
        identities: &wrong,
        ..world.request(&archive, &home)
    };
    let e = world
        .restore_as(&request, &world.medium())
        .expect_err("key");
    let needed = world.key.recipient();
    let text = e.to_string();
    assert!(text.contains(&needed.fingerprint()), "{text}");
    assert!(text.contains(needed.text()), "{text}");
    for entry in fs::read_dir(world.at("usb")).expect("list") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|e| e == "json") {
            fs::remove_file(path).expect("remove");
        }
    }
    let e = world
        .restore_as(&request, &world.medium())
        .expect_err("key");
    assert!(e.to_string().contains("not beside it"), "{e}");
    assert_eq!(world.bytes(), before);
}

#[test]
fn a_process_that_has_a_guarded_database_open_is_named() {
    let world = World::new();
    let archive = world.back_up();
    world.live_on();
    let before = world.bytes();
    // Without a lock, as an idle application with a rollback journal.
    let mut child = Command::new("sh")
        .arg("-c")
        .arg("exec 3<\"$1\"; echo open; read -r _")
        .arg("app")
        .arg(world.app())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh");
    let mut said = [0; 5];
    let out = child.stdout.as_mut().expect("stdout");
    out.read_exact(&mut said).expect("open");
    let e = world.restore(&archive).expect_err("held");
    drop(child.stdin.take());
    child.wait().expect("end");
    assert!(matches!(e, RestoreError::Held(_)), "{e:?}");
    assert!(
        e.to_string().contains(&format!("{} (sh)", child.id())),
        "{e}"
    );
    assert_eq!(world.bytes(), before);
    world.restore(&archive).expect("after it ended");
}

#[test]
fn ids_go_on_above_what_was_given_out_since() {
    let floor = |path: &Path| {
        Connection::open(path)
            .and_then(|c| {
                c.query_row(
                    "SELECT value FROM holdup_meta WHERE key = 'floor'",
                    [],
                    |r| r.get::<_, i64>(0),
                )
            })
            .expect("floor")
    };
    let world = World::new();
    let archive = world.back_up();
    let set = |rows: i64, epoch: &str| {
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(companion(&world.store(), suffix)).ok();
        }
        store(&world.store(), rows, epoch);
    };
    set(33, EPOCH);
    let done = world.restore(&archive).expect("restore");
    assert_eq!((floor(&world.store()), done.ids_above), (33, Some(33)));
    // A restored store that is replaced again before a reading came.
    world.restore(&archive).expect("again");
    assert_eq!(floor(&world.store()), 33);
    // Of another card nothing is known.
    set(7, "00000000000000bb");
    world.restore(&archive).expect("restore");
    assert!(floor(&world.store()) >= 20 + (1 << 40));
    put(&world.store(), b"not a database any more, but still there");
    world.restore(&archive).expect("restore");
    assert!(floor(&world.store()) >= 20 + (1 << 40));
}

#[test]
fn only_what_is_named_is_restored_and_what_is_not_ours_never_unasked() {
    let world = World::new();
    let archive = world.back_up();
    world.live_on();
    let mut home = world.home();
    home.databases.clear();
    home.include.clear();
    let medium = world.medium();
    let work = world.at("work");
    let plan = look(&world.request(&archive, &home), &world.site(&medium, &work)).expect("look");
    let targets: Vec<_> = plan.changes.iter().map(|c| c.target.clone()).collect();
    assert_eq!(targets, [home.queue.clone(), home.store.clone()]);
    let only = [world.at("app/settings.txt")];
    let request = Request {
        only: &only,
        ..world.request(&archive, &home)
    };
    let done = world.restore_as(&request, &medium).expect("one file");
    assert_eq!(done.restored, only);
    assert_eq!(fs::read(&only[0]).expect("read"), b"old settings");
    assert_eq!(count(&world.app(), "t"), 9);
    let nowhere = [world.at("nowhere")];
    let request = Request {
        only: &nowhere,
        ..world.request(&archive, &home)
    };
    let e = world.restore_as(&request, &medium).expect_err("nothing");
    assert!(e.to_string().contains("nowhere is not in it"), "{e}");
    let home = world.home();
    let request = Request {
        with_config: true,
        ..world.request(&archive, &home)
    };
    world.restore_as(&request, &medium).expect("configuration");
    assert_eq!(
        fs::read(world.at("etc/holdup.toml")).expect("read"),
        b"# old"
    );
    assert!(world.is_restored());
}

#[test]
fn another_gateways_backup_and_a_missing_place_are_said_and_filled() {
    let world = World::new();
    let archive = world.back_up();
    for path in [world.store(), world.home().queue, world.app()] {
        fs::remove_file(path).expect("a fresh card");
    }
    fs::remove_dir_all(world.at("app")).expect("remove");
    let home = Home {
        gateway: "plant-8".to_owned(),
        ..world.home()
    };
    let medium = world.medium();
    let work = world.at("work");
    let request = world.request(&archive, &home);
    let plan = look(&request, &world.site(&medium, &work)).expect("look");
    assert_eq!(plan.other_gateway.as_deref(), Some("plant-7"));
    let done = world.restore_as(&request, &medium).expect("restore");
    assert!(done.kept.is_empty(), "{:?}", done.kept);
    assert!(world.is_restored());
    let link = fs::read_link(world.at("app/link")).expect("link");
    assert_eq!(link, Path::new("settings.txt"));
}

/// `tar | zstd | age` as Debian's tools write it, with these databases.
fn by_hand(world: &World, files: &[(&str, PathBuf)]) -> PathBuf {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, path) in files {
        tar.append_path_with_name(path, name).expect("tar");
    }
    let tar = tar.into_inner().expect("tar");
    let packed = zstd::encode_all(&tar[..], 3).expect("zstd");
    let to = world.key.recipient();
    let mut out = Vec::new();
    let seal = age::Encryptor::with_recipients(std::iter::once(to.key())).expect("age");
    let mut seal = seal.wrap_output(&mut out).expect("age");
    seal.write_all(&packed).expect("age");
    seal.finish().expect("age");
    let path = world.at("usb/by-hand.tar.zst.age");
    put(&path, &out);
    path
}

#[test]
fn an_archive_made_by_hand_is_restored_when_that_is_said() {
    let world = World::new();
    let archive = by_hand(
        &world,
        &[
            ("./databases/edge_store.db", world.store()),
            ("./databases/stranger.db", world.app()),
        ],
    );
    world.live_on();
    let before = world.bytes();
    let e = world.restore(&archive).expect_err("no manifest");
    assert!(e.to_string().contains("--without-manifest"), "{e}");
    assert_eq!(world.bytes(), before);
    let home = world.home();
    let request = Request {
        without_manifest: true,
        ..world.request(&archive, &home)
    };
    let done = world
        .restore_as(&request, &world.medium())
        .expect("restore");
    assert_eq!(done.restored, [world.store()]);
    assert_eq!(count(&world.store(), "readings"), 20);
}

#[test]
fn no_file_that_is_not_a_sound_database_takes_the_place_of_one() {
    let world = World::new();
    let bad = world.at("work/bad.db");
    let home = world.home();
    let sound = fs::read(world.store()).expect("read");
    let mut half = sound.clone();
    half[..4].fill(0);
    let mut page = sound.clone();
    let end = page.len() - 4096;
    page[end..].fill(0x5a);
    app(&world.at("work/alien.db"), 1);
    let alien = fs::read(world.at("work/alien.db")).expect("read");
    let before = world.bytes();
    for (what, bytes) in [
        ("does not begin as one", half),
        ("malformed", page),
        ("too short", b"SQLite".to_vec()),
        ("cannot be used", alien),
    ] {
        put(&bad, &bytes);
        let archive = by_hand(&world, &[("databases/edge_store.db", bad.clone())]);
        let request = Request {
            without_manifest: true,
            ..world.request(&archive, &home)
        };
        let e = world.restore_as(&request, &world.medium()).expect_err(what);
        assert!(e.to_string().contains(what), "{what}: {e}");
        assert_eq!(world.bytes(), before, "{what}");
    }
}

#[test]
fn what_the_audit_log_refuses_is_not_begun() {
    let world = World::new();
    let archive = world.back_up();
    world.live_on();
    let before = world.bytes();
    let home = world.home();
    let request = world.request(&archive, &home);
    let (medium, work) = (world.medium(), world.at("work"));
    let site = world.site(&medium, &work);
    let plan = look(&request, &site).expect("look");
    let refuse = || Err(RestoreError::Backup(BackupError::Stopped));
    restore(&plan, &request, &site, &refuse).expect_err("refused");
    assert_eq!(world.bytes(), before);
}

#[test]
fn a_file_that_somebody_made_while_its_place_was_empty_is_kept() {
    let world = World::new();
    let archive = world.back_up();
    let home = world.home();
    let mut met = 0;
    for cut in 0..200 {
        world.live_on();
        let medium = world.medium();
        medium.cut_after(cut);
        let done = world.restore_as(&world.request(&archive, &home), &medium);
        let came = !world.app().exists();
        if came {
            app(&world.app(), 77);
            met += 1;
        }
        world.resume(&world.medium()).expect("resume");
        if came {
            assert_eq!(count(&world.app(), "t"), 3, "cut {cut}");
            let (path, _) = (world.bytes().into_iter())
                .find(|(p, _)| p.to_string_lossy().contains(".since-"))
                .expect("kept");
            assert_eq!(count(&path, "t"), 77);
        }
        for entry in fs::read_dir(world.at("data")).expect("list") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                fs::remove_dir_all(path).expect("remove");
            }
        }
        if done.is_ok() {
            break;
        }
    }
    assert!(met > 2, "{met}");
}

#[test]
fn no_file_is_put_where_a_databases_log_would_lie() {
    let world = World::new();
    let inside = |path: PathBuf| format!("files{}", path.display());
    let log = companion(&world.app(), "-wal");
    put(&world.at("work/log"), &[0x5a; 8192]);
    let archive = by_hand(
        &world,
        &[
            (&format!("databases/{ODD}"), world.app()),
            (&inside(log.clone()), world.at("work/log")),
            (&inside(world.app()), world.at("work/log")),
        ],
    );
    let home = world.home();
    let request = Request {
        without_manifest: true,
        ..world.request(&archive, &home)
    };
    let done = world
        .restore_as(&request, &world.medium())
        .expect("restore");
    assert_eq!(done.restored, [world.app()]);
    assert!(!log.exists());
    assert_eq!(count(&world.app(), "t"), 3);
}

#[test]
fn keys_come_back_from_an_archive_of_keys_alone() {
    let world = World::new();
    let data = world.back_up();
    let (medium, work) = (world.medium(), world.at("work/w"));
    let recipients = [world.key.recipient()];
    fs::create_dir(world.at("vault")).expect("directory");
    let made = crate::backup::create(
        &crate::backup::Request {
            gateway: "plant-7",
            kind: Kind::Keys,
            reason: "operator",
            actor: "uid:0",
            databases: Vec::new(),
            include: vec![world.at("app/key.pem")],
            exclude: Vec::new(),
            recipients: &recipients,
            audit_head: None,
            to: &world.at("vault"),
        },
        &world.site(&medium, &work),
    )
    .expect("keys");
    put(&world.at("app/key.pem"), b"another");
    world.restore(&data).expect("data");
    assert_eq!(fs::read(world.at("app/key.pem")).expect("read"), b"another");
    world.restore(&made.archive).expect("keys");
    assert_eq!(fs::read(world.at("app/key.pem")).expect("read"), b"secret");
}

#[test]
fn what_was_restored_can_be_told_whatever_its_name() {
    use std::os::unix::ffi::OsStrExt;
    let odd = PathBuf::from(std::ffi::OsStr::from_bytes(b"/data/raw\xff\x80"));
    let done = Done {
        kept: vec![odd.clone()],
        restored: vec![odd],
        ids_above: None,
    };
    let told = serde_json::to_value(&done).expect("any path");
    assert!(
        told["restored"][0]
            .as_str()
            .is_some_and(|p| p.starts_with("/data/raw"))
    );
}
