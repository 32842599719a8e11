//! Recoveries from the first look to the swap, with power cut between any two operations.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::*;
use crate::clock::ManualClock;
use crate::durable::{Gate, Medium};
use crate::recovery::files::companion;
use crate::recovery::{HoldError, How};

const READINGS: &str = "CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL,
    timestamp NOT NULL, value REAL NOT NULL, unit TEXT, metadata TEXT)";

/// A store whose rows from `in_log` on are only in its log, and the time that passes over it.
struct World {
    home: tempfile::TempDir,
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
    clock: ManualClock,
    evidence: PathBuf,
}

impl World {
    fn with_rows(in_database: i64, in_log: i64) -> Self {
        let home = tempfile::tempdir().expect("temp dir");
        let conn = Connection::open(home.path().join("a.db")).expect("open");
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .expect("config");
        conn.execute_batch(&format!(
            "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
             PRAGMA synchronous = OFF; {READINGS}"
        ))
        .expect("tables");
        let put = |from: i64, to: i64| {
            for id in from..to {
                conn.execute(
                    "INSERT INTO readings VALUES(?1, 'boiler-' || (?1 % 7), ?1 * 1000, ?1 / 8.0, 'C', NULL)",
                    [id],
                )
                .expect("insert");
            }
        };
        put(1, in_database + 1);
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .expect("checkpoint");
        put(in_database + 1, in_database + in_log + 1);
        drop(conn);
        let evidence = home.path().join("evidence");
        Self {
            home,
            gate: Arc::new(Gate::new()),
            stop: Arc::default(),
            clock: ManualClock::new(),
            evidence,
        }
    }

    fn db(&self) -> PathBuf {
        self.home.path().join("a.db")
    }

    fn strike(&self, suffix: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let path = companion(&self.db(), suffix);
        let mut bytes = fs::read(&path).expect("read");
        damage(&mut bytes);
        fs::write(&path, bytes).expect("write");
    }

    /// Half of the log's header and the frames behind it: random bytes, always the same.
    fn strike_the_log(&self) {
        self.strike("-wal", |bytes| {
            let mut x = 0x9e37_79b9_7f4a_7c15_u64;
            for byte in &mut bytes[..512] {
                x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                *byte = x.to_be_bytes()[0];
            }
        });
    }

    fn files(&self) -> Vec<(&'static str, Option<Vec<u8>>)> {
        ["", "-wal", "-shm", "-journal"]
            .map(|s| (s, fs::read(companion(&self.db(), s)).ok()))
            .into()
    }

    fn site<'a>(&'a self, medium: &'a Medium) -> Site<'a> {
        Site {
            medium,
            gate: &self.gate,
            stop: &self.stop,
            clock: &self.clock,
            evidence: &self.evidence,
            evidence_max: 1 << 30,
        }
    }

    fn try_recover(&self, medium: &Medium, way: Way) -> Result<Report, RecoveryError> {
        let request = Request {
            database: &self.db(),
            way,
            tables: &[Expected::of(READINGS)],
            suspicion: None,
            thorough: true,
            cut: false,
            may_be_fresh: false,
            set_aside: false,
            acknowledged: None,
            snapshots: None,
            say: &|_| {},
            begins: &|_| {},
        };
        recover(&request, &self.site(medium))
    }

    fn recover(&self, way: Way) -> Report {
        let medium = Medium::open(self.home.path()).expect("medium");
        self.try_recover(&medium, way).expect("recover")
    }
}

fn ids(database: &Path) -> BTreeSet<i64> {
    let conn = Connection::open(database).expect("open");
    let check: String = conn
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .expect("check");
    assert_eq!(check, "ok");
    let mut all = conn
        .prepare("SELECT id FROM readings WHERE value = id / 8.0 AND timestamp = id * 1000")
        .expect("prepare");
    let ids = all.query_map([], |r| r.get(0)).expect("query");
    ids.collect::<Result<_, _>>().expect("rows")
}

/// The pages are of 1 KiB, which is not what SQLite chooses itself.
#[test]
fn a_zeroed_header_without_a_log_costs_no_row() {
    let world = World::with_rows(3000, 0);
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(companion(&world.db(), suffix)).ok();
    }
    world.strike("", |bytes| bytes[..100].fill(0));
    let report = world.recover(Way::InPlace);
    assert_eq!(report.verdict, Verdict::Salvaged, "{report:#?}");
    assert_eq!(ids(&world.db()), (1..=3000).collect());
}

#[test]
fn the_start_of_the_log_is_random_and_nearly_all_rows_come_back() {
    let world = World::with_rows(0, 1000);
    let schema_in_database = ids(&{
        let copy = world.home.path().join("untouched.db");
        for (suffix, bytes) in world.files() {
            if let Some(bytes) = bytes {
                fs::write(companion(&copy, suffix), bytes).expect("copy");
            }
        }
        copy
    });
    assert_eq!(
        schema_in_database.len(),
        1000,
        "SQLite sees all of them before"
    );
    world.strike_the_log();
    let damaged = world.files();
    let report = world.recover(Way::InPlace);
    assert_eq!(report.verdict, Verdict::Salvaged, "{report}");
    let back = ids(&world.db());
    assert!(back.len() >= 990, "{} rows: {report}", back.len());
    assert!(back.iter().all(|id| (1..=1000).contains(id)));
    // Byte for byte as they were found.
    let dir = report.evidence.expect("evidence");
    for (suffix, bytes) in damaged {
        let kept = fs::read(companion(&dir.join("a.db"), suffix)).ok();
        assert_eq!(kept, bytes, "evidence of a.db{suffix}");
    }
    assert!(dir.join("report.json").exists());
    assert!(!companion(&world.db(), "-holdup-new").exists());
}

#[test]
fn a_sound_database_is_not_touched() {
    let world = World::with_rows(300, 100);
    let before = world.files();
    let report = world.recover(Way::InPlace);
    assert_eq!(report.verdict, Verdict::Replayed, "{report:?}");
    assert_eq!(report.kept_rows, Some(400));
    assert_eq!(world.files(), before);
    assert!(!world.evidence.exists());
}

#[test]
fn a_log_without_its_database_gives_its_rows() {
    let world = World::with_rows(0, 200);
    fs::remove_file(world.db()).expect("remove");
    let report = world.recover(Way::InPlace);
    assert_eq!(report.verdict, Verdict::Salvaged, "{report:?}");
    assert_eq!(ids(&world.db()).len(), 200, "{report:?}");
}

#[test]
fn a_database_that_has_lost_its_header_gives_its_rows_though_nothing_states_its_page_size() {
    // Pages of 1 KiB, where most have 4. Erased flash may read as the second.
    for (fill, len) in [(0xa5, 100), (0xff, 1024), (0x00, 1024)] {
        let world = World::with_rows(400, 0);
        world.strike("", |bytes| bytes[..len].fill(fill));
        let report = world.recover(Way::InPlace);
        assert_eq!(report.verdict, Verdict::Salvaged, "{report:?}");
        assert_eq!(ids(&world.db()).len(), 400, "{fill:#x}: {report:?}");
    }
}

#[test]
fn a_cut_in_the_copying_of_evidence_leaves_no_half_of_it_and_what_is_whole_is_used_again() {
    let folders = |w: &World| -> Vec<_> {
        let all = fs::read_dir(&w.evidence).into_iter().flatten().flatten();
        all.map(|e| e.path()).collect()
    };
    let mut halves = 0;
    for cut in 0.. {
        let world = World::with_rows(0, 50);
        world.strike_the_log();
        let medium = Medium::open(world.home.path()).expect("medium");
        medium.cut_after(cut);
        let done = world.try_recover(&medium, Way::InPlace).is_ok();
        let left = folders(&world);
        halves += usize::from(left.iter().any(|d| d.to_string_lossy().ends_with(".part")));
        world.recover(Way::InPlace);
        let kept = folders(&world);
        assert_eq!(kept.len(), 1, "cut {cut}: {kept:?}");
        assert!(kept[0].join("manifest.json").exists(), "cut {cut}");
        assert!(!kept[0].to_string_lossy().ends_with(".part"), "cut {cut}");
        if done {
            break;
        }
    }
    assert!(halves > 2, "{halves}");
}

#[test]
fn a_file_of_a_tebibyte_that_is_nearly_all_a_hole_takes_no_longer_than_its_data() {
    for (long, damaged) in [("", "-wal"), ("-wal", "-wal"), ("-wal", ""), ("", "")] {
        let world = World::with_rows(300, 300);
        if damaged == "-wal" {
            world.strike_the_log();
        } else {
            world.strike("", |bytes| bytes[..100].fill(0));
        }
        let path = companion(&world.db(), long);
        let file = fs::File::options().write(true).open(&path).expect("open");
        let size = file.metadata().expect("stat").len();
        if file.set_len(1 << 40).is_err() {
            println!("SKIPPED: no file of a tebibyte on this file system");
            return;
        }
        drop(file);
        let before = crate::recovery::source::READ.get();
        let report = world.recover(Way::InPlace);
        let read = crate::recovery::source::READ.get() - before;
        assert!(read < 256 << 20, "{read} bytes read");
        assert!(ids(&world.db()).len() >= 590, "{long} {damaged}: {report}");
        let steps: Vec<_> = report.steps.iter().map(|s| s.what.as_str()).collect();
        assert!(steps[0].contains("nobody ever wrote"), "{steps:?}");
        let evidence = report.evidence.expect("evidence");
        let name = path.file_name().expect("name");
        let kept = evidence.join(name);
        assert_eq!(fs::metadata(&kept).expect("kept").len(), 1 << 40);
        let manifest = Evidence::read(&evidence).expect("manifest").manifest;
        let file = manifest.files.iter().find(|f| *f.name == *name);
        let hole = file.map_or(0, |f| f.hole);
        assert!(hole > (1 << 40) - size - (1 << 20), "{hole}");
    }
}

#[test]
fn a_dry_run_and_a_copy_change_nothing() {
    let world = World::with_rows(200, 200);
    world.strike_the_log();
    let before = world.files();
    let scratch = tempfile::tempdir().expect("temp dir");
    let dry = world.recover(Way::Look(scratch.path().to_owned()));
    assert_eq!(dry.verdict, Verdict::Salvaged);
    assert_eq!(fs::read_dir(scratch.path()).expect("list").count(), 0);
    let copy = scratch.path().join("copy.db");
    let report = world.recover(Way::Copy(copy.clone()));
    assert_eq!(report.output.as_ref(), Some(&copy));
    assert!(ids(&copy).len() >= 390, "{report:?}");
    assert_eq!(world.files(), before);
    assert!(!world.evidence.exists());
}

#[test]
fn a_database_that_is_open_is_refused() {
    let world = World::with_rows(10, 10);
    world.strike("-wal", |bytes| bytes[100] ^= 1);
    let conn = Connection::open(world.db()).expect("open");
    conn.query_row("SELECT count(*) FROM readings", [], |r| r.get::<_, i64>(0))
        .expect("read");
    let medium = Medium::open(world.home.path()).expect("medium");
    let e = world.try_recover(&medium, Way::InPlace).expect_err("open");
    assert!(
        matches!(e, RecoveryError::Held(HoldError::InUse { .. })),
        "{e}"
    );
}

#[test]
fn what_was_recovered_is_said_once_whatever_step_a_cut_came_at() {
    let (mut told_later, mut last_step) = (0, 0);
    for cut in 0.. {
        let world = World::with_rows(0, 60);
        world.strike_the_log();
        let medium = Medium::open(world.home.path()).expect("medium");
        medium.cut_after(cut);
        let first = world.try_recover(&medium, Way::InPlace);
        let is_new = !companion(&world.db(), "-wal").exists();
        let second = world.recover(Way::InPlace);
        if let Ok(report) = first {
            assert_eq!(report.verdict, Verdict::Salvaged, "cut {cut}");
            assert_eq!(second.verdict, Verdict::Clean, "cut {cut}: {second}");
            break;
        }
        if second.verdict == Verdict::Clean {
            // The last step of all: the report is there, and the journal had just gone.
            let told = crate::recovery::last_recoveries(&world.evidence);
            assert_eq!(told[0].verdict, Verdict::Salvaged, "cut {cut}");
            last_step += 1;
            continue;
        }
        assert_eq!(second.verdict, Verdict::Salvaged, "cut {cut}: {second}");
        told_later += usize::from(is_new);
        let dir = second.evidence.expect("evidence");
        let report = fs::read(dir.join("report.json")).expect("a report");
        let report: Report = serde_json::from_slice(&report).expect("JSON");
        assert_eq!(report.verdict, Verdict::Salvaged);
        assert_eq!(report.missing, second.missing);
        assert!(!companion(&world.db(), "-recovery").exists(), "cut {cut}");
        assert_eq!(world.recover(Way::InPlace).verdict, Verdict::Clean);
    }
    assert!(told_later >= 3, "{told_later} cuts between swap and report");
    assert!(last_step <= 1, "{last_step}");
}

#[test]
fn what_is_half_kept_of_another_database_in_the_folder_is_left_alone() {
    let (world, other) = (World::with_rows(0, 50), World::with_rows(0, 50));
    for w in [&world, &other] {
        w.strike_the_log();
    }
    let b = world.home.path().join("b.db");
    for (suffix, bytes) in other.files() {
        if let Some(bytes) = bytes {
            fs::write(companion(&b, suffix), bytes).expect("copy");
        }
    }
    // In the midst of keeping b.db.
    let medium = Medium::open(world.home.path()).expect("medium");
    medium.cut_after(8);
    Evidence::copy(&b, "test", &world.site(&medium)).expect_err("cut");
    let parts = || {
        let all = fs::read_dir(&world.evidence)
            .into_iter()
            .flatten()
            .flatten();
        let names = all.map(|e| e.path().display().to_string());
        names.filter(|n| n.ends_with(".part")).count()
    };
    assert_eq!(parts(), 1);
    let report = world.recover(Way::InPlace);
    assert_eq!(report.verdict, Verdict::Salvaged);
    assert_eq!(parts(), 1, "of b.db, by another process");
    let medium = Medium::open(world.home.path()).expect("medium");
    let request = Request {
        database: &b,
        way: Way::InPlace,
        tables: &[Expected::of(READINGS)],
        suspicion: None,
        thorough: true,
        cut: false,
        may_be_fresh: false,
        set_aside: false,
        acknowledged: None,
        snapshots: None,
        say: &|_| {},
        begins: &|_| {},
    };
    recover(&request, &world.site(&medium)).expect("recover");
    assert_eq!(parts(), 0, "its own");
}

#[test]
fn a_cut_at_any_step_and_recovery_again_end_with_the_same_rows() {
    let whole = {
        let world = World::with_rows(150, 150);
        world.strike_the_log();
        world.recover(Way::InPlace);
        ids(&world.db())
    };
    assert!(whole.len() > 280, "{}", whole.len());
    let mut cuts = 0;
    for cut in 0.. {
        let world = World::with_rows(150, 150);
        world.strike_the_log();
        let medium = Medium::open(world.home.path()).expect("medium");
        medium.cut_after(cut);
        let done = world.try_recover(&medium, Way::InPlace).is_ok();
        world.recover(Way::InPlace);
        assert_eq!(ids(&world.db()), whole, "cut {cut}");
        cuts += 1;
        if done {
            break;
        }
    }
    assert!(cuts > 15, "{cuts} steps");
}

#[test]
fn ids_that_were_acknowledged_and_are_gone_are_named() {
    let world = World::with_rows(0, 50);
    let medium = Medium::open(world.home.path()).expect("medium");
    world.strike_the_log();
    let request = Request {
        database: &world.db(),
        way: Way::InPlace,
        tables: &[Expected::of(READINGS)],
        suspicion: None,
        thorough: false,
        cut: false,
        may_be_fresh: true,
        set_aside: false,
        snapshots: None,
        acknowledged: Some(Acknowledged {
            epoch: 7,
            lowest: 1,
            upto: 53,
        }),
        say: &|_| {},
        begins: &|_| {},
    };
    let report = recover(&request, &world.site(&medium)).expect("recover");
    let back = ids(&world.db());
    let lost = 53 - back.len() as u64;
    assert_eq!(report.lost_rows_known, lost, "{report:?}");
    assert_eq!(report.missing.last().map(|m| m.last), Some(53));
    assert!(
        report.to_string().contains("readings are missing"),
        "{report}"
    );
}

#[test]
fn a_store_that_is_gone_with_all_that_was_acknowledged_is_called_fresh_and_its_readings_missing() {
    let world = World::with_rows(10, 10);
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(companion(&world.db(), suffix)).ok();
    }
    let medium = Medium::open(world.home.path()).expect("medium");
    let run = |acknowledged: Option<Acknowledged>| {
        let request = Request {
            database: &world.db(),
            way: Way::InPlace,
            tables: &[Expected::of(READINGS)],
            suspicion: None,
            thorough: false,
            cut: false,
            may_be_fresh: true,
            set_aside: false,
            acknowledged,
            snapshots: None,
            say: &|_| {},
            begins: &|_| {},
        };
        recover(&request, &world.site(&medium))
    };
    let of = |lowest, upto| Acknowledged {
        epoch: 7,
        lowest,
        upto,
    };
    // A new gateway: nothing is missing.
    for nothing in [None, Some(of(1, 0)), Some(of(0, 0))] {
        let e = run(nothing).expect_err("nothing there");
        assert!(matches!(e, RecoveryError::Nothing(_)), "{e}");
        assert!(!world.evidence.exists());
    }
    let report = run(Some(of(3, 20))).expect("a report");
    assert_eq!(report.verdict, Verdict::Fresh, "{report}");
    assert_eq!((report.missing[0].first, report.missing[0].last), (3, 20));
    assert_eq!(report.lost_rows_known, 18);
    assert!(!world.db().exists(), "room for a new one");
    // Told at every later start, too.
    let told = crate::recovery::last_recoveries(&world.evidence);
    assert_eq!(told[0].missing, report.missing);
}

#[test]
fn text_in_a_databases_place_is_set_aside_only_when_it_is_asked_for() {
    const TEXT: &[u8] = b"CREATE TABLE readings(id INTEGER PRIMARY KEY);\n-- a dump, by mistake\n";
    for log in [true, false] {
        let world = World::with_rows(0, 12);
        if !log {
            for suffix in ["-wal", "-shm"] {
                fs::remove_file(companion(&world.db(), suffix)).ok();
            }
        }
        world.strike("", |bytes| *bytes = TEXT.to_vec());
        let medium = Medium::open(world.home.path()).expect("medium");
        let before = world.files();
        let refused = world.try_recover(&medium, Way::InPlace);
        assert!(
            matches!(refused, Err(RecoveryError::Alien(_))),
            "{refused:?}"
        );
        assert_eq!(world.files(), before);
        assert!(!world.evidence.exists());

        let request = Request {
            database: &world.db(),
            way: Way::InPlace,
            tables: &[Expected::of(READINGS)],
            suspicion: None,
            thorough: true,
            cut: false,
            may_be_fresh: true,
            set_aside: true,
            acknowledged: None,
            snapshots: None,
            say: &|_| {},
            begins: &|_| {},
        };
        let report = recover(&request, &world.site(&medium)).expect("set aside");
        let kept = report.evidence.as_ref().expect("evidence").join("a.db");
        assert_eq!(fs::read(kept).expect("kept"), TEXT);
        if log {
            // The log has every page that was written since the file was new.
            assert_eq!(report.verdict, Verdict::Salvaged, "{report}");
            assert_eq!(ids(&world.db()), (1..=12).collect());
        } else {
            assert_eq!(report.verdict, Verdict::Fresh, "{report}");
            assert!(!world.db().exists(), "room for a new one");
        }
    }
}

#[test]
fn where_a_copy_does_not_fit_the_files_are_moved() {
    let world = World::with_rows(50, 50);
    let medium = Medium::open(world.home.path()).expect("medium");
    world.strike_the_log();
    let site = world.site(&medium);
    // What `keep` does when the copy does not fit, and a cut behind it.
    let kept = Evidence::for_moving(&world.db(), "test", &site).expect("evidence");
    swap::move_away(&world.db(), &kept, &site).expect("move");
    assert!(!world.db().exists());
    let report = world.recover(Way::InPlace);
    assert_eq!(report.verdict, Verdict::Salvaged, "{report:?}");
    assert!(ids(&world.db()).len() > 90, "{report:?}");
    let evidence = Evidence::read(&report.evidence.expect("evidence")).expect("read");
    assert_eq!(evidence.manifest.how, How::Moved);
    assert!(evidence.database().exists());
}

#[test]
fn a_log_whose_start_is_filled_with_one_byte_gives_nearly_all_rows() {
    for fill in [0x00, 0xa5, 0xff] {
        for len in [64, 512, 4096] {
            let world = World::with_rows(0, 600);
            world.strike("-wal", |bytes| bytes[..len].fill(fill));
            let report = world.recover(Way::InPlace);
            let back = ids(&world.db()).len();
            assert!(back >= 594, "{fill:#x} over {len}: {back} rows, {report}");
        }
    }
}

/// Recovers a store with a hundred readings in its log, of which the last commit is damaged, after
/// a cut.
fn after_a_cut(world: &World, acknowledged: Option<i64>) -> Report {
    let medium = Medium::open(world.home.path()).expect("medium");
    let request = Request {
        database: &world.db(),
        way: Way::InPlace,
        tables: &[Expected::of(READINGS)],
        suspicion: None,
        thorough: false,
        cut: true,
        may_be_fresh: true,
        set_aside: false,
        acknowledged: acknowledged.map(|upto| Acknowledged {
            epoch: 7,
            lowest: 1,
            upto,
        }),
        snapshots: None,
        say: &|_| {},
        begins: &|_| {},
    };
    recover(&request, &world.site(&medium)).expect("recover")
}

#[test]
fn a_torn_last_commit_of_which_somebody_was_told_is_damage_even_after_a_cut() {
    let torn = || {
        let world = World::with_rows(50, 50);
        // Not the row that was written last, which lies in front of the others.
        world.strike("-wal", |bytes| {
            let end = bytes.len();
            bytes[end - 40..].fill(0xa5);
        });
        world
    };
    for (told, what) in [(None, "nobody knows"), (Some(99), "nobody was told")] {
        let world = torn();
        let report = after_a_cut(&world, told);
        assert_eq!(report.verdict, Verdict::Replayed, "{what}: {report}");
        assert!(!world.evidence.exists(), "{what}");
        assert_eq!(ids(&world.db()).len(), 99, "{what}");
    }
    let world = torn();
    let damaged = world.files();
    let report = after_a_cut(&world, Some(100));
    assert_eq!(report.verdict, Verdict::Salvaged, "{report}");
    assert!(
        report.found.contains("readings 100 to 100"),
        "{}",
        report.found
    );
    let dir = report.evidence.as_ref().expect("evidence");
    for (suffix, bytes) in damaged {
        let kept = fs::read(companion(&dir.join("a.db"), suffix)).ok();
        assert!(kept == bytes, "a.db{suffix}");
    }
    assert!(ids(&world.db()).contains(&100), "{report:?}");
}

#[test]
fn a_last_commit_that_was_cut_off_and_is_told_of_is_named_as_lost() {
    let world = World::with_rows(50, 50);
    world.strike("-wal", |bytes| bytes.truncate(bytes.len() - 900));
    let report = after_a_cut(&world, Some(100));
    assert_eq!(report.verdict, Verdict::Salvaged, "{report}");
    let back = ids(&world.db()).len() as u64;
    assert!(back >= 99, "{report:?}");
    assert_eq!(report.lost_rows_known, 100 - back, "{report:?}");
}

/// How many copies of damaged files there are.
fn copies(world: &World) -> usize {
    fs::read_dir(&world.evidence).map_or(0, Iterator::count)
}

fn assert_kept(dir: &Path, files: &[(&'static str, Option<Vec<u8>>)]) {
    for (suffix, bytes) in files.iter().filter(|(suffix, _)| *suffix != "-shm") {
        let kept = fs::read(companion(&dir.join("a.db"), suffix)).ok();
        assert!(kept == *bytes, "a.db{suffix} in {}", dir.display());
    }
}

#[test]
fn a_damaged_database_in_use_is_copied_at_once_and_only_once() {
    let world = World::with_rows(10, 200);
    world.strike_the_log();
    let damaged = world.files();
    // Not a connection of this process: its locks would go with the first copy.
    let reader = Hold::take(&world.db()).expect("hold");
    let medium = Medium::open(world.home.path()).expect("medium");
    for _ in 0..3 {
        let e = world
            .try_recover(&medium, Way::InPlace)
            .expect_err("in use");
        assert!(e.is_held_up(), "{e}");
        assert_eq!(copies(&world), 1);
    }
    drop(reader);
    let report = world.recover(Way::InPlace);
    assert_eq!(report.verdict, Verdict::Salvaged, "{report}");
    assert!(ids(&world.db()).len() >= 200, "{report}");
    assert_eq!(copies(&world), 1, "the files did not change meanwhile");
    assert_kept(&report.evidence.expect("evidence"), &damaged);
    // It is done with: the next damage is kept anew.
    world.strike("", |bytes| bytes[0] = 0);
    world.recover(Way::InPlace);
    assert_eq!(copies(&world), 2);
}

#[test]
fn what_a_program_made_of_a_damaged_database_is_kept_beside_what_it_was() {
    let world = World::with_rows(10, 200);
    world.strike_the_log();
    let damaged = world.files();
    // Its close deletes the log, as any last connection's does.
    let owner = Connection::open(world.db()).expect("open");
    owner
        .query_row("SELECT count(*) FROM readings", [], |r| r.get::<_, i64>(0))
        .expect("read");
    let medium = Medium::open(world.home.path()).expect("medium");
    world
        .try_recover(&medium, Way::InPlace)
        .expect_err("in use");
    drop(owner);
    assert!(!companion(&world.db(), "-wal").exists());
    let left = world.files();
    let report = world.recover(Way::InPlace);
    assert_eq!(report.verdict, Verdict::Salvaged, "{report}");
    assert_eq!(copies(&world), 2, "{report}");
    assert_kept(report.evidence.as_ref().expect("evidence"), &left);
    let first = fs::read_dir(&world.evidence)
        .expect("list")
        .map(|e| e.expect("entry").path())
        .find(|dir| Some(dir) != report.evidence.as_ref())
        .expect("the first copy");
    assert_kept(&first, &damaged);
    assert!(
        report.found.contains(&first.display().to_string()),
        "{}",
        report.found
    );
    // And that is the end of it.
    let again = world.recover(Way::InPlace);
    assert_eq!(again.verdict, Verdict::Clean, "{again}");
    assert_eq!(copies(&world), 2);
}

#[test]
fn frames_that_were_not_looked_at_are_told_of() {
    let world = World::with_rows(10, 100);
    let request = |way| Request {
        database: Path::new("/none/a.db"),
        way,
        tables: &[],
        suspicion: None,
        thorough: true,
        cut: false,
        may_be_fresh: false,
        set_aside: false,
        acknowledged: None,
        snapshots: None,
        say: &|_| {},
        begins: &|_| {},
    };
    let medium = Medium::open(world.home.path()).expect("medium");
    let site = world.site(&medium);
    let mut looked = look(&world.db(), false, None).expect("look");
    let all = looked.wal.frames().count() as u64;
    let bytes = fs::read(companion(&world.db(), "-wal")).expect("log");
    looked.wal = crate::recovery::wal::Wal::read(
        &bytes,
        crate::recovery::wal::Known {
            most_frames: Some(40),
            ..Default::default()
        },
    );
    let wanted = request(Way::InPlace);
    let mut run = Run {
        request: &wanted,
        site: &site,
        began: site.clock.mono(),
        since: site.clock.mono(),
        steps: Vec::new(),
        earlier: None,
        finished: None,
    };
    let report = run.as_it_is(&looked);
    assert_eq!(report.skipped_frames, all - 40, "{report:?}");
    assert!(
        report.to_string().contains("were not looked at"),
        "{report}"
    );
    // SQLite reads what was not looked at here: it is not built anew without it.
    assert!(!run.builds(&looked));
    let database = looked.database.as_ref().map(|f| f as &dyn Bytes);
    let overlay = Overlay::new(database, Some(&bytes), &looked.wal, None);
    for candidate in FromLog::all(overlay) {
        assert_ne!(candidate.traits().class, Class::Whole);
    }
}

#[test]
fn the_rest_of_a_torn_transaction_behind_newer_commits_is_no_damage() {
    let world = World::with_rows(100, 20);
    let open = || {
        let conn = Connection::open(world.db()).expect("open");
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .expect("config");
        conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0")
            .expect("settings");
        conn
    };
    let end = fs::metadata(companion(&world.db(), "-wal"))
        .expect("log")
        .len();
    let end = usize::try_from(end).expect("small");
    let conn = open();
    conn.execute_batch("BEGIN").expect("begin");
    for id in 121..=180 {
        conn.execute(
            "INSERT INTO readings VALUES(?1, 'never-acknowledged', 1, 1.0, NULL, NULL)",
            [id],
        )
        .expect("insert");
    }
    conn.execute_batch("COMMIT").expect("commit");
    drop(conn);
    // The cut: its first frame did not reach the card, its commit did.
    world.strike("-wal", |bytes| bytes[end + 100..end + 1000].fill(0));
    let torn = after_a_cut(&world, None);
    assert_eq!(torn.verdict, Verdict::Replayed, "{torn}");
    fs::remove_file(companion(&world.db(), "-shm")).expect("memory is lost with power");
    let conn = open();
    for id in 121..=123 {
        conn.execute(
            "INSERT INTO readings VALUES(?1, 'boiler', ?1 * 1000, ?1 / 8.0, 'C', NULL)",
            [id],
        )
        .expect("insert");
    }
    drop(conn);
    // The agent was killed, and nothing was cut.
    let medium = Medium::open(world.home.path()).expect("medium");
    let request = Request {
        database: &world.db(),
        way: Way::InPlace,
        tables: &[Expected::of(READINGS)],
        suspicion: None,
        thorough: false,
        cut: false,
        may_be_fresh: true,
        set_aside: false,
        acknowledged: None,
        snapshots: None,
        say: &|_| {},
        begins: &|_| {},
    };
    let report = recover(&request, &world.site(&medium)).expect("recover");
    assert_eq!(report.verdict, Verdict::Replayed, "{report}");
    assert!(!world.evidence.exists());
    assert_eq!(ids(&world.db()).last(), Some(&123));
}

#[test]
fn a_text_that_is_none_is_given_up_in_a_table_that_is_known() {
    let world = World::with_rows(300, 0);
    // A byte of row 150's name: SQLite gives it, and is content.
    world.strike("", |bytes| {
        let row = b"boiler-3\x02\x49\xf0";
        let at = bytes.windows(row.len()).position(|w| w == row);
        bytes[at.expect("row 150")] ^= 0x80;
    });
    assert_eq!(ids(&world.db()).len(), 300, "SQLite does not see it");
    let report = world.recover(Way::InPlace);
    assert_eq!(report.verdict, Verdict::Salvaged, "{report:?}");
    assert!(report.found.contains("anybody wrote"));
    let back = ids(&world.db());
    assert!(!back.contains(&150) && back.len() == 299, "{report:?}");
    assert_eq!(report.lost_rows_known, 1, "{report:?}");
}

/// Rows whose last stored value is a number of eight bytes, as an agent's mostly are.
fn with_numbers(rows: i64, in_log: bool) -> World {
    let world = World::with_rows(0, 0);
    let conn = Connection::open(world.db()).expect("open");
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .expect("config");
    for first in (1..=rows).step_by(100) {
        // Each page is in few frames: no other one tells what the torn one held.
        conn.execute(
            "WITH RECURSIVE n(id) AS (VALUES(?1) UNION ALL SELECT id + 1 FROM n WHERE id < ?2)
             INSERT INTO readings SELECT id, 's2', id * 1000, id * 0.7310585786300049, NULL, NULL
             FROM n",
            [first, (first + 99).min(rows)],
        )
        .expect("insert");
    }
    if !in_log {
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .expect("checkpoint");
    }
    world
}

/// Rows that nobody wrote, and all rows.
fn made_up(database: &Path) -> (i64, i64) {
    let conn = Connection::open(database).expect("open");
    let sql = "SELECT count(*) FILTER (WHERE NOT (value = id * 0.7310585786300049
                   AND timestamp = id * 1000 AND sensor_name = 's2'
                   AND unit IS NULL AND metadata IS NULL)), count(*) FROM readings";
    conn.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?)))
        .expect("count")
}

/// Bytes that look like chance, always the same ones for `seed`.
fn noise(seed: u64, bytes: &mut [u8]) {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in bytes {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        *byte = x.to_be_bytes()[0];
    }
}

#[test]
fn whatever_lies_in_a_journals_place_costs_nothing_of_the_log() {
    let mut random = vec![0; 9000];
    noise(1, &mut random);
    for bytes in [&b"notes of somebody\n"[..], &random[..100], &random] {
        let world = World::with_rows(50, 100);
        fs::write(companion(&world.db(), "-journal"), bytes).expect("write");
        world.recover(Way::InPlace);
        assert_eq!(ids(&world.db()).len(), 150, "{} bytes", bytes.len());
    }
}

#[test]
fn a_torn_sector_of_the_log_makes_no_value_up() {
    let mut kept = 0;
    for seed in 1..40 {
        let world = with_numbers(2000, true);
        world.strike("-wal", |bytes| {
            let sectors = bytes.len() / 512;
            let at = (seed as usize * 7919 % (sectors - 1) + 1) * 512;
            noise(seed, &mut bytes[at..at + 512]);
        });
        world.recover(Way::InPlace);
        let (made_up, rows) = made_up(&world.db());
        assert_eq!(made_up, 0, "seed {seed}");
        kept += rows;
    }
    assert!(kept > 39 * 1900, "{kept}");
}

#[test]
fn a_file_that_is_cut_in_the_middle_of_a_row_makes_no_value_up() {
    for seed in 1..40 {
        let world = with_numbers(400, false);
        world.strike("", |bytes| {
            let least = bytes.len() / 4;
            bytes.truncate(least + seed * 7919 % (bytes.len() - least));
        });
        world.recover(Way::InPlace);
        assert_eq!(made_up(&world.db()).0, 0, "seed {seed}");
    }
}
