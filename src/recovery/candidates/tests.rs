//! Candidates from logs that real SQLite wrote and that were damaged since.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;
use rusqlite::Connection;

use super::backfill::Backfill;
use super::choice::Choice;
use super::*;
use crate::clock::{Clock, SystemClock};
use crate::durable::Closer;
use crate::recovery::Bytes;
use crate::recovery::wal::tests::world::{Files, Gateway, ids_in, log_of, noise, written};
use crate::recovery::wal::{Known, Overlay, Wal};

struct Bench {
    dir: tempfile::TempDir,
    medium: Medium,
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        Self {
            medium: Medium::open(dir.path()).expect("medium"),
            gate: Arc::new(Gate::new()),
            stop: Arc::default(),
            dir,
        }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("copy.db")
    }

    fn recover(&self, files: &Files, progress: &dyn Fn(u64, u64)) -> Result<Chosen, RecoveryError> {
        let wal = Wal::read(&files.wal, Known::of(&files.db));
        let (db, log): (&dyn Bytes, &dyn Bytes) = (&files.db, &files.wal);
        let overlay = Overlay::new(Some(db), Some(log), &wal, Known::of(&files.db).page_size);
        let mut all: Vec<Box<dyn Candidate + '_>> = Vec::new();
        for candidate in FromLog::all(overlay) {
            all.push(Box::new(candidate));
        }
        choose(&self.out(), &mut all, &[], &self.work(progress))
    }

    fn work<'a>(&'a self, progress: &'a dyn Fn(u64, u64)) -> Work<'a> {
        Work {
            medium: &self.medium,
            gate: &self.gate,
            stop: &self.stop,
            progress,
        }
    }
}

/// The best candidate of these files: what was judged, and its rows.
fn recovered(files: &Files) -> (Judged, Rows) {
    let bench = Bench::new();
    let chosen = bench.recover(files, &|_, _| {}).expect("recover");
    let best = chosen.judged[chosen.best.expect("a candidate")].clone();
    (best, rows_in(&bench.out()))
}

type Rows = BTreeMap<i64, (String, i64, f64, Option<String>)>;

fn rows(conn: &Connection) -> rusqlite::Result<Rows> {
    conn.prepare("SELECT id, sensor_name, timestamp, value, metadata FROM readings NOT INDEXED")?
        .query_map([], |r| {
            Ok((r.get(0)?, (r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))
        })?
        .collect()
}

fn rows_in(path: &Path) -> Rows {
    rows(&Connection::open(path).expect("open")).expect("rows")
}

fn rows_of(files: &Files) -> Rows {
    rows_in(&files.put().1)
}

/// No row but those that were written, each as it was.
#[track_caller]
fn assert_none_invented(found: &Rows, written: &Rows) {
    for (id, row) in found {
        assert_eq!(Some(row), written.get(id), "row {id} was never written");
    }
}

#[test]
fn after_noise_over_the_start_of_the_log_990_of_1000_readings_come_back() {
    for page_size in [512, 1024, 4096, 65_536] {
        let was = written(page_size, 1000);
        let all = rows_of(&was);
        assert_eq!(all.len(), 1000);
        for seed in 1..4 {
            let mut now = was.clone();
            now.wal[..512].copy_from_slice(&noise(seed, 512));
            let (best, found) = recovered(&now);
            assert!(best.is_sound(), "{best:?}");
            assert!(found.len() >= 990, "{page_size}: {} of 1000", found.len());
            assert_none_invented(&found, &all);
            // Without this room they would be gone, and nobody would say so.
            assert!(now.sqlite().0.is_empty());
        }
    }
}

#[test]
fn a_damaged_header_costs_nothing() {
    let was = written(1024, 200);
    let all = rows_of(&was);
    for at in [0, 9, 17, 25] {
        let mut now = was.clone();
        now.wal[at] ^= 0x40;
        let (best, found) = recovered(&now);
        assert_eq!(best.traits.class, Class::Whole);
        assert_eq!(found, all);
    }
}

#[test]
fn a_damaged_page_that_was_written_again_costs_nothing_and_else_its_last_rows() {
    let was = written(1024, 300);
    let all = rows_of(&was);
    let mut least = usize::MAX;
    let mut whole = 0;
    for slot in (0..was.frames() - 3).step_by(7) {
        let mut now = was.clone();
        let at = was.at(slot) + 24 + 700;
        now.wal[at..at + 200].copy_from_slice(&noise(slot as u64 + 1, 200));
        let (best, found) = recovered(&now);
        assert!(best.is_sound() && !best.traits.mixed, "{best:?}");
        assert_none_invented(&found, &all);
        if best.traits.class == Class::Whole {
            assert_eq!(found.len(), 300);
            whole += 1;
        }
        least = least.min(found.len());
    }
    assert!(whole > 20, "{whole} came back whole");
    assert!(least >= 280, "{least} of 300");
}

#[test]
fn rows_that_were_deleted_behind_the_damage_stay_deleted() {
    let mut gateway = Gateway::new(1024);
    gateway.readings(200);
    gateway
        .conn
        .execute_batch("DELETE FROM readings WHERE id % 3 = 0")
        .expect("delete");
    gateway.readings(20);
    let was = gateway.files();
    let all = rows_of(&was);
    for slot in (0..120).step_by(10) {
        let mut now = was.clone();
        let at = was.at(slot) + 24 + 600;
        now.wal[at..at + 100].copy_from_slice(&noise(slot as u64 + 1, 100));
        let (best, found) = recovered(&now);
        assert!(best.is_sound(), "{best:?}");
        let back: Vec<_> = found.keys().filter(|id| !all.contains_key(id)).collect();
        // A leaf whose last version is damaged shows what it held before, at most.
        assert!(back.len() <= 8, "slot {slot}: {back:?} {best:?}");
        assert!(
            found.len() * 100 >= all.len() * 90,
            "{} of {}",
            found.len(),
            all.len()
        );
    }
}

/// 100 readings in the log that a checkpoint has moved, and `more` behind them in the same log.
fn checkpointed(more: u32) -> Files {
    let mut gateway = Gateway::new(1024);
    gateway.readings(100);
    let reader = Connection::open(gateway.dir.path().join("a.db")).expect("open");
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM readings;")
        .expect("a reader keeps the log from being restarted");
    gateway
        .conn
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        .expect("checkpoint");
    gateway.readings(more).files()
}

#[test]
fn what_a_checkpoint_has_moved_is_not_lost_with_the_log() {
    let was = checkpointed(0);
    let all = rows_of(&was);
    assert_eq!(all.len(), 100);
    let mut whole = 0;
    for (n, at) in (0..was.wal.len() - 9000).step_by(2500).enumerate() {
        let mut now = was.clone();
        now.wal[at..at + 5000].copy_from_slice(&noise(n as u64 + 1, 5000));
        let (best, found) = recovered(&now);
        assert!(best.is_sound(), "{best:?}");
        assert_eq!(found.len(), 100, "noise at {at}: {best:?}");
        assert_none_invented(&found, &all);
        if at > 0 {
            // Nothing is missing, and it is known that nothing is.
            assert!(
                best.traits.class <= Class::Newest,
                "noise at {at}: {best:?}"
            );
            let left = Wal::read(&now.wal, Known::of(&now.db)).transactions().len();
            assert_eq!(best.traits.through as usize, left, "{best:?}");
            whole += u32::from(best.traits.class == Class::Whole);
        }
    }
    assert!(whole > 10, "{whole}");
}

#[test]
fn an_older_state_of_the_log_is_not_laid_over_a_newer_file() {
    let was = checkpointed(40);
    let all = rows_of(&was);
    assert_eq!(all.len(), 140);
    for slot in (0..was.frames() - 5).step_by(3) {
        let mut now = was.clone();
        let at = was.at(slot) + 24 + 300;
        now.wal[at..at + 500].copy_from_slice(&noise(slot as u64 + 1, 500));
        let (best, found) = recovered(&now);
        assert!(best.is_sound(), "{best:?}");
        assert_none_invented(&found, &all);
        assert!(found.len() >= 125, "slot {slot}: {} {best:?}", found.len());
        if slot < 80 {
            assert_eq!(found.len(), 140, "slot {slot}: {best:?}");
        }
    }
}

#[test]
fn what_sqlite_would_keep_is_called_mixed_where_the_file_is_ahead_of_it() {
    let mut plain = Gateway::new(1024);
    let plain = plain.readings(140).files();
    for (was, ahead) in [(checkpointed(40), true), (plain, false)] {
        let mut now = was.clone();
        let at = was.at(50) + 24 + 300;
        now.wal[at..at + 500].copy_from_slice(&noise(9, 500));
        let wal = Wal::read(&now.wal, Known::default());
        let overlay = Overlay::new(Some(&now.db), Some(&now.wal), &wal, None);
        let bench = Bench::new();
        let work = bench.work(&|_, _| {});
        let mut seen = 0;
        for mut candidate in FromLog::all(overlay) {
            candidate.build(&bench.out(), &work).expect("build");
            std::fs::remove_file(bench.out()).expect("remove");
            if candidate.traits().class == Class::Earlier && candidate.traits().through > 0 {
                seen += 1;
                assert_eq!(candidate.traits().mixed, ahead, "{}", candidate.name());
            }
        }
        assert!(seen > 0);
    }
}

#[test]
fn an_index_that_fell_behind_its_table_is_rebuilt() {
    let mut gateway = Gateway::new(1024);
    gateway
        .conn
        .execute_batch("CREATE INDEX by_sensor ON readings(sensor_name, timestamp)")
        .expect("index");
    gateway.readings(150);
    let was = gateway.files();
    let all = rows_of(&was);
    let mut reindexed = 0;
    for slot in (5..was.frames() - 3).step_by(3) {
        let mut now = was.clone();
        let at = was.at(slot) + 24 + 700;
        now.wal[at..at + 200].copy_from_slice(&noise(slot as u64 + 1, 200));
        let (best, found) = recovered(&now);
        assert_none_invented(&found, &all);
        reindexed += u32::from(best.opinion.reindexed);
    }
    assert!(reindexed > 0);
}

/// A database of these bytes, as it is.
struct Plain(Vec<u8>, Arc<AtomicU32>);

impl Candidate for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn traits(&self) -> Traits {
        Traits {
            class: Class::Newest,
            through: 0,
            pages_behind: 0,
            pages_unproven: 0,
            holes: 0,
            mixed: false,
        }
    }

    fn build(&mut self, out: &Path, _: &Work<'_>) -> Result<(), RecoveryError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        std::fs::write(out, &self.0).map_err(RecoveryError::io("write", out))
    }

    fn finish(&mut self, _: &Path, _: &Work<'_>) -> Result<(), RecoveryError> {
        Ok(())
    }
}

/// A database of which one text in the table, and not in its index, is another.
fn contradicted(rows: u32, index: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    let bench = Bench::new();
    let path = bench.out();
    let conn = Connection::open(&path).expect("open");
    conn.execute_batch(&format!(
        "PRAGMA synchronous = OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT);
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t SELECT i, printf('%08d%.150c', i, 'x') FROM n; {index}"
    ))
    .expect("rows");
    conn.close().expect("close");
    let mut bytes = std::fs::read(&path).expect("read");
    // The table's pages come before the index's.
    let at = bytes.windows(from.len()).position(|w| w == from);
    let at = at.expect("the text");
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn an_index_that_cannot_be_made_anew_leaves_the_copy_as_it_was() {
    // The last two are alike: by then most of the index is written.
    let bytes = contradicted(
        100_000,
        "CREATE UNIQUE INDEX i ON t(a)",
        b"00099999",
        b"00100000",
    );
    let bench = Bench::new();
    let work = bench.work(&|_, _| {});
    let mut all: [Box<dyn Candidate>; 1] = [Box::new(Plain(bytes.clone(), Arc::default()))];
    let chosen = choose(&bench.out(), &mut all, &[], &work).expect("choose");
    let opinion = &chosen.judged[0].opinion;
    assert!(opinion.spoiled && !opinion.reindexed, "{opinion:?}");
    assert_eq!(chosen.best, Some(0), "for want of a sound one");
    let left = std::fs::read(bench.out()).expect("read");
    assert!(left == bytes, "the half made index is left");
}

#[test]
fn indexes_that_were_being_made_when_power_failed_are_gone_on_with_when_it_is_back() {
    let bytes = contradicted(100_000, "CREATE INDEX i ON t(a)", b"00000003", b"0000000x");
    let bench = Bench::new();
    let made = Arc::new(AtomicU32::new(0));
    let chosen = std::thread::scope(|s| {
        let chosen = s.spawn(|| {
            let mut all: [Box<dyn Candidate>; 1] = [Box::new(Plain(bytes, Arc::clone(&made)))];
            choose(&bench.out(), &mut all, &[], &bench.work(&|_, _| {}))
        });
        // Power fails a little later each time, in the check, in the midst of a REINDEX, behind it.
        let mut after = Duration::from_millis(1);
        while !chosen.is_finished() {
            while bench.gate.in_flight() == 0 && !chosen.is_finished() {
                std::thread::yield_now();
            }
            let began = SystemClock.mono();
            while SystemClock.mono().since(began) < after && !chosen.is_finished() {
                std::thread::yield_now();
            }
            bench.gate.close(Closer::Power);
            bench.gate.wait_quiet(Duration::from_secs(60));
            bench.gate.open(Closer::Power);
            after = after.mul_f64(1.1);
        }
        chosen.join().expect("no panic").expect("choose")
    });
    assert_eq!(made.load(Ordering::SeqCst), 1, "{chosen:?}");
    assert!(chosen.judged[0].opinion.reindexed, "{chosen:?}");
    let conn = Connection::open(bench.out()).expect("open");
    let sound: String = conn
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .expect("check");
    assert_eq!(sound, "ok");
}

#[test]
fn a_row_is_not_put_together_from_pages_of_different_times() {
    let gateway = Gateway::new(512);
    let blob = |i: u32| {
        format!(
            "'{}'",
            char::from(b'a' + (i % 26) as u8).to_string().repeat(1500)
        )
    };
    for i in 0..60 {
        gateway
            .conn
            .execute_batch(&format!(
                "INSERT OR REPLACE INTO readings VALUES({}, 'x', {i}, 1.5, 'u', {})",
                i % 8,
                blob(i)
            ))
            .expect("insert");
    }
    let was = gateway.files();
    let legal = |row: &(String, i64, f64, Option<String>)| {
        let i = u32::try_from(row.1).expect("small");
        row.3.as_deref() == Some(blob(i).trim_matches('\''))
    };
    assert!(rows_of(&was).values().all(legal));
    for slot in 0..was.frames() - 4 {
        let mut now = was.clone();
        let at = was.at(slot) + 24 + 100;
        now.wal[at..at + 200].copy_from_slice(&noise(slot as u64 + 1, 200));
        let (best, found) = recovered(&now);
        let mixed = found.iter().find(|(_, row)| !legal(row));
        assert!(mixed.is_none(), "slot {slot}: {mixed:?} {best:?}");
    }
}

#[test]
fn the_chosen_copy_stands_alone_in_the_journal_mode_it_had_and_the_originals_are_untouched() {
    let was = written(1024, 50);
    let mut now = was.clone();
    now.wal[3] ^= 0xff;
    let bench = Bench::new();
    let before = now.clone();
    bench.recover(&now, &|_, _| {}).expect("recover");
    let copy = std::fs::read(bench.out()).expect("copy");
    assert_eq!(&copy[18..20], &[2, 2]);
    let names: Vec<_> = std::fs::read_dir(bench.dir.path())
        .expect("list")
        .map(|e| e.expect("entry").file_name())
        .collect();
    assert_eq!(names, ["copy.db"]);
    assert_eq!((&now.db, &now.wal), (&before.db, &before.wal));
    assert!(!log_of(&bench.out()).exists());
    assert_eq!(ids_in(&bench.out()).len(), 50);
}

#[test]
fn the_exact_state_has_no_page_in_doubt() {
    let was = written(1024, 120);
    let mut earlier = 0;
    for slot in 0..was.frames() - 2 {
        let mut now = was.clone();
        let at = was.at(slot) + 24 + 700;
        now.wal[at..at + 200].copy_from_slice(&noise(slot as u64 + 1, 200));
        let wal = Wal::read(&now.wal, Known::of(&now.db));
        let overlay = Overlay::new(Some(&now.db), Some(&now.wal), &wal, None);
        let exact = Choice::of(Rule::Exact, &overlay, &Backfill::default());
        assert!(
            exact.behind.is_empty() && exact.unproven == 0,
            "slot {slot}"
        );
        earlier += u32::from(!exact.is_all_of(&overlay));
    }
    assert!(earlier > 5, "{earlier}");
}

#[test]
fn soundness_comes_before_truth_and_that_before_the_newest_state_and_that_before_rows() {
    let judged = |sound: bool, mixed, class, rows| Judged {
        name: "x",
        traits: Traits {
            class,
            through: 1,
            pages_behind: 0,
            pages_unproven: 0,
            holes: 0,
            mixed,
        },
        opinion: Opinion {
            faults: if sound {
                vec![]
            } else {
                vec!["bad".to_owned()]
            },
            reindexed: false,
            spoiled: false,
            tables: vec![("t".to_owned(), rows)],
        },
        unwritten: 0,
        left_out: Vec::new(),
    };
    let best_first = [
        judged(true, false, Class::Newest, 9),
        judged(true, false, Class::Newest, 8),
        // What was deleted since is back here: more rows are no merit.
        judged(true, false, Class::Earlier, 50),
        judged(true, true, Class::Newest, 60),
        judged(false, false, Class::Whole, 70),
    ];
    assert!(best_first.is_sorted_by(|a, b| a.rank() < b.rank()));
}

#[test]
fn a_copy_that_is_there_already_is_not_written_over() {
    let bench = Bench::new();
    std::fs::write(bench.out(), b"precious").expect("write");
    bench
        .recover(&written(1024, 5), &|_, _| {})
        .expect_err("in the way");
    assert_eq!(std::fs::read(bench.out()).expect("read"), b"precious");
}

#[test]
fn while_the_gate_is_closed_nothing_is_written_and_then_the_work_goes_on() {
    let mut gateway = Gateway::new(4096);
    gateway
        .readings(5)
        .conn
        .execute_batch("INSERT INTO readings SELECT 99,'x',1,1.0,'u',hex(randomblob(2500000))")
        .expect("a large row");
    let mut now = gateway.files();
    now.wal[3] ^= 0xff;
    let bench = Bench::new();
    let gate = Arc::clone(&bench.gate);
    let (told, portions) = std::sync::mpsc::channel();
    let portions = std::cell::Cell::new(Some(portions));
    let stilled = Arc::new(AtomicBool::new(false));
    let progress = |at: u64, _: u64| {
        told.send(at).expect("somebody listens");
        if at >= 2 << 20
            && let Some(portions) = portions.take()
        {
            gate.close(Closer::Power);
            let (gate, stilled) = (Arc::clone(&gate), Arc::clone(&stilled));
            std::thread::spawn(move || {
                while portions.try_recv().is_ok() {}
                // A portion that passes a closed gate is there at once.
                let next = portions.recv_timeout(Duration::from_millis(300));
                stilled.store(next.is_err(), Ordering::SeqCst);
                gate.open(Closer::Power);
                // Kept until the work is done, so that it can go on telling.
                portions.iter().for_each(drop);
            });
        }
    };
    let chosen = bench.recover(&now, &progress).expect("recover");
    assert!(
        stilled.load(Ordering::SeqCst),
        "written behind a closed gate"
    );
    assert!(chosen.best.is_some());
}

#[test]
fn told_to_stop_behind_a_closed_gate_it_stops() {
    let bench = Bench::new();
    bench.gate.close(Closer::Power);
    bench.stop.store(true, Ordering::SeqCst);
    let stopped = bench.recover(&written(1024, 5), &|_, _| {});
    assert!(
        matches!(stopped, Err(RecoveryError::Stopped { .. })),
        "{stopped:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_is_damaged_no_row_is_invented_and_never_fewer_come_back_than_from_sqlite(
        places in proptest::collection::vec((any::<prop::sample::Index>(), 1usize..3000, any::<u64>()), 1..5),
        small: bool,
    ) {
        let was = written(if small { 512 } else { 4096 }, 120);
        let all = rows_of(&was);
        let mut now = was.clone();
        for (at, len, seed) in &places {
            let at = at.index(now.wal.len());
            let n = (*len).min(now.wal.len() - at);
            now.wal[at..at + n].copy_from_slice(&noise(*seed, n));
        }
        let (best, found) = recovered(&now);
        prop_assert!(best.is_sound());
        // The noise may have hit a page that nothing vouches for, which its class says.
        if best.traits.class != Class::Unvouched {
            assert_none_invented(&found, &all);
        }
        prop_assert!(found.len() >= now.sqlite().0.len(), "{best:?}");
    }
}
