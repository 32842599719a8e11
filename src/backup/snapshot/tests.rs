//! Snapshots of a small database, by a writer that has nothing else to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rusqlite::Connection;

use super::archive::unpack;
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::durable::{CopyError, CopyHow, CopyOrder, Gate, Heed, HotCopy, Medium, Receipt};
use crate::recovery::candidates::Work;
use crate::recovery::{Snapshots, Unpacked};

const NAME: &str = "edge_store.db";
const EPOCH: &str = "00f3a91c5be20d47";

struct World {
    home: tempfile::TempDir,
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
    clock: ManualClock,
}

/// Copies a file that nobody writes; `damage` is what the card does to the copy.
struct Still<'a> {
    database: PathBuf,
    damage: &'a (dyn Fn(&mut Vec<u8>) + Sync),
}

impl HotCopy for Still<'_> {
    fn hand_over(&self, order: CopyOrder) {
        order.idle();
    }

    fn copy(&self, to: &Path, how: &CopyHow<'_>) -> Result<Receipt, CopyError> {
        how.medium.healthy()?;
        let mut bytes = fs::read(&self.database).expect("read");
        (self.damage)(&mut bytes);
        fs::write(to, &bytes).expect("write");
        how.medium.sync_parent(to)?;
        Ok(Receipt {
            bytes: bytes.len() as u64,
            took: Duration::ZERO,
        })
    }
}

impl World {
    fn new(readings: i64) -> Self {
        let home = tempfile::tempdir().expect("temp dir");
        let world = Self {
            home,
            gate: Arc::new(Gate::new()),
            stop: Arc::default(),
            clock: ManualClock::new(),
        };
        let conn = Connection::open(world.database()).expect("open");
        conn.execute_batch(&format!(
            "PRAGMA page_size = 1024;
             CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT, value REAL);
             CREATE TABLE holdup_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
             INSERT INTO holdup_meta VALUES('epoch', '{EPOCH}');"
        ))
        .expect("create");
        drop(conn);
        world.add(readings);
        world
    }

    fn database(&self) -> PathBuf {
        self.home.path().join(NAME)
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("snapshots")
    }

    fn medium(&self) -> Medium {
        Medium::open(self.home.path()).expect("medium")
    }

    fn add(&self, readings: i64) {
        let conn = Connection::open(self.database()).expect("open");
        conn.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO readings(sensor_name, value) SELECT 'boiler', i * 0.5 FROM n",
            [readings],
        )
        .expect("insert");
    }

    fn site<'a>(&'a self, dir: &'a Path, medium: &'a Medium, keep: usize) -> SnapshotSite<'a> {
        SnapshotSite {
            dir,
            medium,
            gate: &self.gate,
            stop: &self.stop,
            clock: &self.clock,
            heed: &|| Heed::Go,
            keep: Keep {
                count: keep,
                age: None,
            },
            share_percent: 90,
        }
    }

    fn take_with(
        &self,
        medium: &Medium,
        damage: &(dyn Fn(&mut Vec<u8>) + Sync),
    ) -> Result<SnapshotManifest, SnapshotError> {
        self.clock.advance(Duration::from_secs(1));
        let source = Still {
            database: self.database(),
            damage,
        };
        take(
            &self.database(),
            &source,
            &self.site(&self.dir(), medium, 3),
        )
    }

    fn take(&self) -> SnapshotManifest {
        self.take_with(&self.medium(), &|_| ()).expect("a snapshot")
    }

    fn list(&self) -> Vec<SnapshotManifest> {
        let medium = self.medium();
        let shelf = Shelf {
            dir: &self.dir(),
            medium: &medium,
        };
        shelf.list(NAME, &mut |_| ()).expect("list")
    }

    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir()) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|e| e.expect("entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    /// What recovery gets of `snapshot`: its bytes, or why it is not used.
    fn recall(&self, m: &SnapshotManifest) -> Result<Vec<u8>, String> {
        let medium = self.medium();
        let recall = Recall::new(self.dir(), &medium);
        let all = recall.of(&self.database(), &mut |_| ());
        let Some(s) = all.iter().find(|s| s.name == m.archive) else {
            return Err("not listed".to_owned());
        };
        let out = self.home.path().join("out");
        fs::remove_file(&out).ok();
        let work = Work {
            medium: &medium,
            gate: &self.gate,
            stop: &self.stop,
            progress: &|_, _| {},
        };
        match recall
            .unpack(&self.database(), s, &out, &work)
            .expect("no fault of the medium")
        {
            Unpacked::Whole => Ok(fs::read(&out).expect("read")),
            Unpacked::Refused(why) => Err(why),
        }
    }
}

#[test]
fn a_snapshot_says_what_it_holds_and_gives_it_back_byte_for_byte() {
    let w = World::new(500);
    let was = fs::read(w.database()).expect("read");
    let m = w.take();
    assert_eq!(
        (m.number, m.highest_id, m.epoch.as_deref()),
        (1, Some(500), Some(EPOCH))
    );
    assert_eq!(
        (m.rows["readings"], m.rows["holdup_meta"], m.rows_sent()),
        (500, 1, 500)
    );
    assert_eq!(m.plain_bytes, was.len() as u64);
    assert!(m.bytes < m.plain_bytes, "{m:?}");
    assert_eq!(w.list(), std::slice::from_ref(&m));
    let json = m.archive.replace(".zst", ".json");
    assert_eq!(
        w.names(),
        [json.clone(), m.archive.clone()],
        "nothing else is left"
    );
    assert!(
        m.archive.starts_with("edge_store.db-000001-20260101T"),
        "{}",
        m.archive
    );
    assert_eq!(w.recall(&m).expect("whole"), was);
    let mode = |path: PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(
        (mode(w.dir()), mode(w.dir().join(&m.archive))),
        (0o700, 0o600)
    );
    // Anybody's zstd opens it.
    let plain = zstd::decode_all(&fs::read(w.dir().join(&m.archive)).expect("read")[..]);
    assert_eq!(plain.expect("decode"), was);
}

#[test]
fn a_copy_in_which_sqlite_finds_a_fault_becomes_no_snapshot() {
    let w = World::new(500);
    w.take();
    let before = w.names();
    // A page of the table: the file still opens, and most of it reads.
    let e = w
        .take_with(&w.medium(), &|bytes| {
            bytes[3 * 1024..3 * 1024 + 300].fill(0xa5)
        })
        .expect_err("faulty");
    assert!(matches!(e, SnapshotError::Faulty { .. }), "{e}");
    assert_eq!(w.names(), before);
}

/// A card that stores something else than it was given: told by the time at which the archive is
/// written and not yet read back.
#[derive(Debug)]
struct BadCard {
    dir: PathBuf,
    clock: ManualClock,
}

impl Clock for BadCard {
    fn mono(&self) -> crate::clock::Mono {
        self.clock.mono()
    }

    fn wall(&self) -> crate::clock::Wall {
        self.clock.wall()
    }

    fn is_synchronised(&self) -> bool {
        let entries = fs::read_dir(&self.dir).expect("list");
        let archive = entries
            .map(|e| e.expect("entry").path())
            .find(|p| p.to_string_lossy().ends_with(".zst.partial"))
            .expect("written, without its final name");
        let mut bytes = fs::read(&archive).expect("read");
        let last = bytes.len() - 1;
        bytes[last / 2] ^= 1;
        fs::write(&archive, bytes).expect("write");
        true
    }
}

#[test]
fn what_the_card_does_not_give_back_as_it_was_becomes_no_snapshot() {
    let w = World::new(500);
    w.take();
    let before = w.names();
    let (medium, dir) = (w.medium(), w.dir());
    let card = BadCard {
        dir: w.dir(),
        clock: ManualClock::new(),
    };
    let source = Still {
        database: w.database(),
        damage: &|_| (),
    };
    let site = SnapshotSite {
        clock: &card,
        ..w.site(&dir, &medium, 3)
    };
    let e = take(&w.database(), &source, &site).expect_err("not what was written");
    assert!(matches!(e, SnapshotError::Damaged { .. }), "{e}");
    assert_eq!(w.names(), before);
}

#[test]
fn the_oldest_go_by_count_and_age_and_the_newest_never() {
    let w = World::new(50);
    let numbers = |w: &World| w.list().iter().map(|m| m.number).collect::<Vec<_>>();
    for _ in 0..5 {
        w.take();
    }
    assert_eq!(numbers(&w), [5, 4, 3]);
    let (medium, dir) = (w.medium(), w.dir());
    let shelf = Shelf {
        dir: &dir,
        medium: &medium,
    };
    let old = Keep {
        count: 9,
        age: Some(Duration::from_millis(1500)),
    };
    assert_eq!(shelf.prune(NAME, old, w.clock.wall()).expect("prune"), 1);
    assert_eq!(numbers(&w), [5, 4]);
    let none = Keep {
        count: 0,
        age: Some(Duration::ZERO),
    };
    w.clock.advance(Duration::from_secs(3600));
    shelf.prune(NAME, none, w.clock.wall()).expect("prune");
    assert_eq!(numbers(&w), [5]);
    // What is gone gives its number to nobody; another database's are none of these.
    fs::write(w.dir().join("edge_store.db.bak-000009-x.json"), b"{}").expect("write");
    assert_eq!(w.take().number, 6);
}

#[test]
fn what_would_take_too_much_is_not_taken_and_older_ones_go_first() {
    let w = World::new(50);
    w.take();
    w.take();
    let (medium, dir) = (w.medium(), w.dir());
    let source = Still {
        database: w.database(),
        damage: &|_| (),
    };
    let site = SnapshotSite {
        share_percent: 0,
        ..w.site(&dir, &medium, 3)
    };
    let e = take(&w.database(), &source, &site).expect_err("no room");
    assert!(matches!(e, SnapshotError::NoRoom { room: 0, .. }), "{e}");
    assert!(e.to_string().contains("share_percent"), "{e}");
    assert_eq!(w.list().len(), 1, "the newest stays");
}

#[test]
fn a_clock_that_is_put_back_orders_nothing_anew() {
    let w = World::new(50);
    w.take();
    w.add(5);
    w.clock.set_wall(crate::clock::Wall::from_millis(0));
    let m = w.take();
    assert_eq!((m.number, w.list()[0].number), (2, 2));
    assert_eq!(w.list()[0].highest_id, Some(55));
    assert_eq!(w.list().len(), 2, "one of the future is not too old");
}

#[test]
fn power_cut_at_any_operation_leaves_whole_snapshots_only_and_the_next_one_works() {
    let mut cuts = 0;
    for n in 0.. {
        let w = World::new(120);
        let first = w.take();
        w.add(30);
        let medium = w.medium();
        medium.cut_after(n);
        let done = w.take_with(&medium, &|_| ());
        for m in w.list() {
            let plain = w.recall(&m).expect("each one that is listed is whole");
            assert_eq!(plain.len() as u64, m.plain_bytes);
        }
        let numbers: Vec<_> = w.list().iter().map(|m| m.number).collect();
        assert!(numbers.contains(&first.number), "cut {n}: {numbers:?}");
        let next = w.take();
        assert_eq!(next.highest_id, Some(150));
        assert!(
            w.names().iter().all(|n| !n.contains(".partial")),
            "{:?}",
            w.names()
        );
        assert_eq!(w.names().len(), 2 * w.list().len(), "{:?}", w.names());
        match done {
            Ok(_) => break,
            Err(_) => cuts += 1,
        }
    }
    assert!(cuts > 8, "{cuts}");
}

#[test]
fn an_archive_that_is_not_what_was_verified_is_refused_whatever_was_done_to_it() {
    let w = World::new(300);
    let m = w.take();
    let archive = w.dir().join(&m.archive);
    let was = fs::read(&archive).expect("read");
    let mut other = World::new(299).take();
    let forged = |bytes: &[u8]| zstd::encode_all(bytes, 3).expect("encode");
    let plain = w.recall(&m).expect("whole");
    let mut changed = plain.clone();
    changed[2000] ^= 1;
    let mut kinds: Vec<(&str, Vec<u8>)> = vec![
        ("cut short", was[..was.len() - 7].to_vec()),
        ("empty", Vec::new()),
        ("longer", [&was[..], b"x"].concat()),
        ("another frame", [&was[..], &forged(b"more")[..]].concat()),
        ("another database", forged(&changed)),
        ("a bomb", forged(&vec![0; 64 << 20])),
        ("no zstd", plain.clone()),
    ];
    for at in [0, 5, was.len() / 2, was.len() - 1] {
        let mut flipped = was.clone();
        flipped[at] ^= 0x10;
        kinds.push(("a flipped bit", flipped));
    }
    for (kind, bytes) in kinds {
        fs::write(&archive, bytes).expect("write");
        let why = w.recall(&m).expect_err(kind);
        assert!(why.contains(&m.archive), "{kind}: {why}");
    }
    fs::write(&archive, &was).expect("write");
    assert_eq!(w.recall(&m).expect("whole again"), plain);

    // A manifest that names something else, or was written by somebody newer.
    let manifest = w.dir().join(m.archive.replace(".zst", ".json"));
    other.archive = format!("../{}", m.archive);
    for m in [
        other,
        SnapshotManifest {
            format: 2,
            ..m.clone()
        },
        SnapshotManifest {
            database: "x".to_owned(),
            ..m.clone()
        },
    ] {
        fs::write(&manifest, serde_json::to_vec(&m).expect("json")).expect("write");
        assert!(w.list().is_empty());
    }
    fs::write(&manifest, b"{").expect("write");
    assert!(w.list().is_empty());
}

#[test]
fn two_archives_that_were_exchanged_are_both_refused() {
    let w = World::new(100);
    let a = w.take();
    w.add(100);
    let b = w.take();
    let (pa, pb) = (w.dir().join(&a.archive), w.dir().join(&b.archive));
    let (ba, bb) = (fs::read(&pa).expect("read"), fs::read(&pb).expect("read"));
    fs::write(&pa, bb).expect("write");
    fs::write(&pb, ba).expect("write");
    w.recall(&a).expect_err("exchanged");
    w.recall(&b).expect_err("exchanged");
    let none = unpack(&pa, &b, &mut std::io::sink());
    none.expect("by its own manifest it is whole");
}
