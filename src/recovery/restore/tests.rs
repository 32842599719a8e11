//! Snapshots out of memory, under files that lost some rows or all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rusqlite::Connection;

use super::*;
use crate::clock::ManualClock;
use crate::durable::{Bulk, Gate, Medium};
use crate::recovery::pages::Expected;
use crate::recovery::{Report, Request, Site, Verdict, Way, recover};

const READINGS: &str = "CREATE TABLE readings(
    id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL, timestamp NOT NULL, value REAL NOT NULL,
    unit TEXT, metadata TEXT)";
const META: &str = "CREATE TABLE holdup_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID";
const EPOCH: u64 = 0x00f3_a91c_5be2_0d47;

/// Newest first: its name, epoch, highest id, and its bytes or why it is refused.
type Kept = (&'static str, u64, i64, Result<Vec<u8>, &'static str>);

struct Shelf {
    kept: Vec<Kept>,
    unpacked: RefCell<Vec<String>>,
}

impl Snapshots for Shelf {
    fn of(&self, _: &Path, _: &mut dyn FnMut(String)) -> Vec<Snapshot> {
        let one = |(name, epoch, highest, bytes): &Kept| Snapshot {
            name: (*name).to_owned(),
            taken_at: "2026-01-01T00:00:00Z".to_owned(),
            epoch: Some(*epoch),
            highest: Some(*highest),
            bytes: bytes.as_ref().map_or(0, |b| b.len() as u64),
        };
        self.kept.iter().map(one).collect()
    }

    fn unpack(
        &self,
        _: &Path,
        snapshot: &Snapshot,
        out: &Path,
        work: &Work<'_>,
    ) -> Result<Unpacked, RecoveryError> {
        self.unpacked.borrow_mut().push(snapshot.name.clone());
        let kept = self.kept.iter().find(|k| k.0 == snapshot.name);
        match &kept.expect("one of ours").3 {
            Err(why) => Ok(Unpacked::Refused((*why).to_owned())),
            Ok(bytes) => {
                let mut file = Bulk::create(out, work.medium, work.gate, work.stop)?;
                file.write_all(bytes)
                    .map_err(RecoveryError::io("write", out))?;
                file.finish()?;
                Ok(Unpacked::Whole)
            }
        }
    }
}

struct World {
    home: tempfile::TempDir,
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
    clock: ManualClock,
    evidence: PathBuf,
}

/// A store with these ids, each with the value `of` gives it.
fn filled(path: &Path, ids: std::ops::RangeInclusive<i64>, of: impl Fn(i64) -> f64) -> Vec<u8> {
    let conn = Connection::open(path).expect("open");
    conn.execute_batch(&format!(
        "PRAGMA page_size = 1024; PRAGMA synchronous = OFF; BEGIN; {READINGS}; {META};
         INSERT INTO holdup_meta VALUES('epoch', '{EPOCH:016x}'), ('upto', {});",
        ids.end()
    ))
    .expect("tables");
    for id in ids {
        conn.execute(
            "INSERT INTO readings VALUES(?1, 'boiler', ?1, ?2, 'C', NULL)",
            (id, of(id)),
        )
        .expect("insert");
    }
    conn.execute_batch("COMMIT").expect("commit");
    drop(conn);
    fs::read(path).expect("read")
}

impl World {
    /// A store with the ids 1 to 400 whose values are their ids.
    fn new() -> Self {
        let home = tempfile::tempdir().expect("temp dir");
        filled(&home.path().join("a.db"), 1..=400, |id| id as f64);
        let evidence = home.path().join("evidence");
        Self {
            home,
            gate: Arc::default(),
            stop: Arc::default(),
            clock: ManualClock::new(),
            evidence,
        }
    }

    fn db(&self) -> PathBuf {
        self.home.path().join("a.db")
    }

    /// A snapshot up to this id, with values of its own.
    fn snapshot(upto: i64) -> Vec<u8> {
        let dir = tempfile::tempdir().expect("temp dir");
        filled(&dir.path().join("s.db"), 1..=upto, |id| -(id as f64))
    }

    fn try_recover(
        &self,
        shelf: &Shelf,
        medium: &Medium,
        way: Way,
    ) -> Result<Report, RecoveryError> {
        let mut readings = Expected::of(READINGS);
        readings.kept_from = Some(11);
        let site = Site {
            medium,
            gate: &self.gate,
            stop: &self.stop,
            clock: &self.clock,
            evidence: &self.evidence,
            evidence_max: 1 << 30,
        };
        let request = Request {
            database: &self.db(),
            way,
            tables: &[readings, Expected::of(META)],
            suspicion: None,
            thorough: true,
            cut: false,
            may_be_fresh: true,
            set_aside: false,
            acknowledged: Some(Acknowledged {
                epoch: EPOCH,
                lowest: 11,
                upto: 410,
            }),
            snapshots: Some(shelf),
            say: &|_| {},
            begins: &|_| {},
        };
        recover(&request, &site)
    }

    fn recover(&self, shelf: &Shelf) -> Report {
        let medium = Medium::open(self.home.path()).expect("medium");
        self.try_recover(shelf, &medium, Way::InPlace)
            .expect("recover")
    }

    fn rows(&self) -> BTreeMap<i64, f64> {
        let conn = Connection::open(self.db()).expect("open");
        let says: String = conn
            .query_row("PRAGMA integrity_check", [], |r| r.get(0))
            .expect("check");
        assert_eq!(says, "ok");
        let mut all = conn
            .prepare("SELECT id, value FROM readings")
            .expect("prepare");
        let rows = all
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
            .expect("query");
        rows.collect::<Result<_, _>>().expect("rows")
    }

    /// Several pages in the middle are noise: their rows are gone.
    fn strike(&self) {
        let mut bytes = fs::read(self.db()).expect("read");
        let middle = bytes.len() / 2 / 1024 * 1024;
        bytes[middle..middle + 4096].fill(0xa5);
        fs::write(self.db(), bytes).expect("write");
    }
}

fn shelf(kept: Vec<Kept>) -> Shelf {
    Shelf {
        kept,
        unpacked: RefCell::default(),
    }
}

#[test]
fn rows_of_the_files_win_the_snapshot_fills_the_gaps_and_what_expired_stays_gone() {
    let w = World::new();
    w.strike();
    let alone = {
        let copy = World::new();
        fs::copy(w.db(), copy.db()).expect("copy");
        let report = copy.recover(&shelf(vec![]));
        assert_eq!(report.verdict, Verdict::Salvaged, "{report}");
        copy.rows()
    };
    assert!(alone.len() < 395 && alone.len() > 200, "{}", alone.len());
    let report = w.recover(&shelf(vec![("new", EPOCH, 390, Ok(World::snapshot(390)))]));
    assert_eq!(report.verdict, Verdict::Restored, "{report}");
    let back = w.rows();
    assert_eq!(
        back.keys().copied().collect::<Vec<_>>(),
        (11..=400).collect::<Vec<_>>()
    );
    for (id, value) in back {
        let theirs = alone.contains_key(&id);
        assert_eq!(value, if theirs { id as f64 } else { -(id as f64) }, "{id}");
    }
    let missing = (report.missing[0].first, report.missing[0].last);
    assert_eq!(
        (missing, report.lost_rows_known),
        ((401, 410), 10),
        "{report:?}"
    );
    let from = report.restored.expect("from where");
    assert_eq!((from.snapshot.as_str(), from.taken_at.len()), ("new", 20));
    assert!(from.rows_of_files >= alone.len() as u64);
    // What the files say of the store is newer than what the snapshot says.
    let conn = Connection::open(w.db()).expect("open");
    let upto: i64 = conn
        .query_row(
            "SELECT value FROM holdup_meta WHERE key = 'upto'",
            [],
            |r| r.get(0),
        )
        .expect("ask");
    assert_eq!(upto, 400);
    assert!(!companion(&w.db(), "-holdup-new-files").exists());
}

#[test]
fn a_snapshot_that_is_refused_faulty_or_of_another_store_is_passed_over_with_a_word() {
    let w = World::new();
    fs::remove_file(w.db()).expect("remove");
    let mut faulty = World::snapshot(390);
    let middle = faulty.len() / 2 / 1024 * 1024;
    faulty[middle..middle + 1024].fill(0xa5);
    let all = shelf(vec![
        ("flipped", EPOCH, 395, Err("its SHA-256 is another")),
        ("stranger", EPOCH + 1, 394, Ok(World::snapshot(394))),
        ("faulty", EPOCH, 390, Ok(faulty)),
        ("good", EPOCH, 300, Ok(World::snapshot(300))),
        ("older", EPOCH, 200, Ok(World::snapshot(200))),
    ]);
    let report = w.recover(&all);
    assert_eq!(report.verdict, Verdict::Restored, "{report}");
    assert_eq!(report.restored.as_ref().expect("from").snapshot, "good");
    assert_eq!(w.rows().len(), 300);
    assert_eq!(*all.unpacked.borrow(), ["flipped", "faulty", "good"]);
    let steps: Vec<_> = report.steps.iter().map(|s| s.what.as_str()).collect();
    for (name, why) in [
        ("flipped", "SHA-256"),
        ("stranger", "another store"),
        ("faulty", "fault"),
    ] {
        let said = steps.iter().any(|s| s.contains(name) && s.contains(why));
        assert!(said, "{name}: {steps:?}");
    }
    // None that can be used: as before there were snapshots.
    let w = World::new();
    fs::write(w.db(), [0; 8192]).expect("write");
    let none = shelf(vec![("flipped", EPOCH, 395, Err("its SHA-256 is another"))]);
    assert_eq!(w.recover(&none).verdict, Verdict::Fresh);
    assert!(!w.db().exists());
}

#[test]
fn files_that_give_everything_need_no_snapshot() {
    let w = World::new();
    let sound = fs::read(w.db()).expect("read");
    let all = shelf(vec![("new", EPOCH, 390, Ok(World::snapshot(390)))]);
    assert_eq!(w.recover(&all).verdict, Verdict::Clean);
    assert!(all.unpacked.borrow().is_empty());
    assert_eq!(fs::read(w.db()).expect("read"), sound);
}

#[test]
fn a_dry_run_says_what_it_would_restore_and_leaves_nothing() {
    let w = World::new();
    w.strike();
    let before = fs::read(w.db()).expect("read");
    let scratch = tempfile::tempdir().expect("temp dir");
    let medium = Medium::open(w.home.path()).expect("medium");
    let all = shelf(vec![("new", EPOCH, 390, Ok(World::snapshot(390)))]);
    let report = w
        .try_recover(&all, &medium, Way::Look(scratch.path().to_owned()))
        .expect("look");
    assert_eq!(report.verdict, Verdict::Restored, "{report}");
    assert_eq!(fs::read_dir(scratch.path()).expect("list").count(), 0);
    assert_eq!(fs::read(w.db()).expect("read"), before);
}

#[test]
fn a_cut_at_any_step_of_a_restoring_and_recovery_again_end_with_the_same_rows() {
    let all = || shelf(vec![("new", EPOCH, 390, Ok(World::snapshot(390)))]);
    let whole = {
        let w = World::new();
        w.strike();
        w.recover(&all());
        w.rows()
    };
    assert_eq!(whole.len(), 390);
    let mut cuts = 0;
    for cut in 0.. {
        let w = World::new();
        w.strike();
        let medium = Medium::open(w.home.path()).expect("medium");
        medium.cut_after(cut);
        let done = w.try_recover(&all(), &medium, Way::InPlace).is_ok();
        w.recover(&all());
        assert_eq!(w.rows(), whole, "cut {cut}");
        let names = fs::read_dir(w.home.path()).expect("list");
        let left: Vec<_> = names
            .map(|n| n.expect("entry").file_name().to_string_lossy().into_owned())
            .filter(|n| n.starts_with("a.db-"))
            .collect();
        assert!(left.is_empty(), "cut {cut}: {left:?}");
        cuts += 1;
        if done {
            break;
        }
    }
    assert!(cuts > 20, "{cuts} steps");
}
