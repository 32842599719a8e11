//! The store: what is acknowledged is in the database, and what must not happen does not.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use holdup::clock::{ManualClock, Wall};
use holdup::config::StoreSettings;
use holdup::durable::Closer;
use holdup::store::{Mode, OrderError, Retract, RetractError, StoreError, StoreState};

use crate::store_world::{SETTINGS, Told, World, chunk, until};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn what_is_acknowledged_is_seen_by_another_connection() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    for n in 0..50 {
        store.intake().submit(chunk(&told, n * 7 + 1, 7, None));
        until("it is acknowledged", || told.upto() == n * 7 + 7);
        assert!(world.rows() >= n as i64 * 7 + 7);
    }
    let stats = store.stats();
    assert_eq!((stats.acked, stats.stored, stats.repeats), (350, 350, 0));
    assert_eq!((stats.next_id, stats.lowest_id), (351, 1));
}

#[test]
fn rows_wait_for_the_window_and_the_first_one_does_not() {
    let clock = Arc::new(ManualClock::new());
    let world = World::with_clock(Arc::clone(&clock) as Arc<_>);
    let window = Duration::from_millis(100);
    let store = world.start(StoreSettings {
        commit_window: window,
        ..SETTINGS
    });
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 1, None));
    until("the lone row is committed at once", || told.upto() == 1);
    for line in 2..=10 {
        store.intake().submit(chunk(&told, line, 1, None));
    }
    store
        .orders()
        .checkpoint(Mode::Passive, SOON)
        .expect("the writer answers while rows wait");
    assert_eq!(told.upto(), 1, "committed before the window ended");
    clock.advance(window);
    until("the window ends", || told.upto() == 10);
    let sizes = world.seen.commits.lock().expect("lock").clone();
    assert_eq!(
        sizes.iter().filter(|n| **n > 0).collect::<Vec<_>>(),
        [&1, &9]
    );
}

#[test]
fn a_full_batch_a_flush_and_settle_do_not_wait_for_the_window() {
    let world = World::with_clock(Arc::new(ManualClock::new()));
    let store = world.start(StoreSettings {
        commit_window: Duration::from_millis(100),
        batch_rows: 10,
        ..SETTINGS
    });
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 1, None));
    until("first", || told.upto() == 1);
    store.intake().submit(chunk(&told, 2, 10, None));
    until("a full batch is committed", || told.upto() == 11);
    store.intake().submit(chunk(&told, 12, 1, None));
    store.intake().flush();
    until("a flush is obeyed", || told.upto() == 12);
    store.intake().submit(chunk(&told, 13, 1, None));
    store.orders().settle();
    until("settle is obeyed", || told.upto() == 13);
}

#[test]
fn nothing_is_written_while_the_gate_is_closed_but_the_plans_checkpoint() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 5, None));
    until("first", || told.upto() == 5);
    world.gate.close(Closer::Power);
    assert!(world.gate.wait_quiet(SOON));
    let report = store.orders().commit_in_flight(SOON).expect("quiet");
    assert_eq!(report.rows, 5);
    let wal = world.home.path().join("edge_store.db-wal");
    let look = || {
        let db = std::fs::metadata(world.path()).expect("stat");
        (
            std::fs::read(&wal).expect("read"),
            db.mtime_nsec(),
            db.mtime(),
            db.len(),
        )
    };
    let before = look();
    store.intake().submit(chunk(&told, 6, 5, None));
    store.orders().settle();
    let done = store
        .orders()
        .checkpoint(Mode::Passive, SOON)
        .expect("plan's checkpoint");
    assert!(done.complete(), "{done:?}");
    let after_plan = look();
    assert_eq!(
        before.0, after_plan.0,
        "a commit landed behind the closed gate"
    );
    until("the writer has tried and kept the rows", || {
        store.stats().waiting_bytes > 0
    });
    let done = store
        .orders()
        .checkpoint(Mode::Truncate, SOON)
        .expect("truncate");
    assert_eq!((done.busy, done.wal_frames, done.backfilled), (false, 0, 0));
    assert_eq!(std::fs::metadata(&wal).expect("stat").len(), 0);
    assert_eq!(told.upto(), 5);
    world.gate.open(Closer::Power);
    store.orders().retry_now();
    until("resumed", || told.upto() == 10);
    assert_eq!(world.rows(), 10);
}

#[test]
fn neither_a_routine_checkpoint_nor_retention_passes_a_closed_gate() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    for n in 0..8 {
        store.intake().submit(chunk(&told, n * 500 + 1, 500, None));
    }
    until("stored", || told.upto() == 4000);
    world.gate.close(Closer::Power);
    assert!(world.gate.wait_quiet(SOON));
    let look = || {
        let wal = world.home.path().join("edge_store.db-wal");
        let db = std::fs::metadata(world.path()).expect("stat");
        let wal = std::fs::read(wal).expect("read");
        (wal, db.mtime_nsec(), db.mtime(), db.len())
    };
    let before = look();
    // Both are due now.
    store.orders().set_wal_limit(1);
    store.orders().reconfigure(StoreSettings {
        max_bytes: Some(1),
        ..SETTINGS
    });
    // Each answer is a turn of the writer's; what is due comes between two of them.
    for _ in 0..50 {
        let asked = store.orders().retract(Retract::Undo { seq: 1 }, SOON);
        assert!(matches!(asked, Err(RetractError::GateClosed)), "{asked:?}");
        std::thread::yield_now();
    }
    assert!(look() == before, "written behind the closed gate");
    world.gate.open(Closer::Power);
    until("retention did its work", || store.stats().stored == 1);
}

#[test]
fn a_repeat_is_acknowledged_and_not_stored_again_even_after_a_restart() {
    let world = World::new();
    let told = Arc::new(Told::default());
    let store = world.start(SETTINGS);
    store.intake().submit(chunk(&told, 1, 20, Some("plc")));
    until("first", || told.upto() == 20);
    store.stop();
    let store = world.start(SETTINGS);
    let again = Arc::new(Told::default());
    store.intake().submit(chunk(&again, 1, 25, Some("plc")));
    store.intake().submit(chunk(&again, 1, 20, Some("another")));
    until("again", || again.committed.lock().expect("lock").len() == 2);
    assert_eq!(world.rows(), 45);
    let stats = store.stats();
    assert_eq!((stats.acked, stats.repeats, stats.stored), (45, 20, 45));
}

#[test]
fn no_more_ids_are_remembered_than_configured() {
    let world = World::new();
    let store = world.start(StoreSettings {
        remember_ids: 100,
        ..SETTINGS
    });
    let told = Arc::new(Told::default());
    for n in 0..10 {
        store
            .intake()
            .submit(chunk(&told, n * 50 + 1, 50, Some("plc")));
        until("stored", || told.upto() == n * 50 + 50);
    }
    assert_eq!(world.ask("SELECT count(*) FROM holdup_seen"), 100);
    assert_eq!(world.ask("SELECT min(id) FROM holdup_seen"), 401);
}

#[test]
fn a_database_of_another_shape_is_adopted_as_it_is() {
    let world = World::new();
    let conn = rusqlite::Connection::open(world.path()).expect("open");
    conn.execute_batch(
        "CREATE TABLE readings(note TEXT, value NUMERIC, metadata, unit VARCHAR(8),
            Timestamp DATETIME, sensor_name, site TEXT NOT NULL DEFAULT 'here',
            id INTEGER PRIMARY KEY AUTOINCREMENT);
         INSERT INTO readings(id, value, timestamp, sensor_name) VALUES(5, 1, 1, 'a'), (9, 2, 2, 'b');
         CREATE TABLE others(x);",
    )
    .expect("fill");
    let sql: String = conn
        .query_row(
            "SELECT sql FROM sqlite_schema WHERE name = 'readings'",
            [],
            |r| r.get(0),
        )
        .expect("sql");
    drop(conn);
    for start in 0..2 {
        let store = world.start(SETTINGS);
        let stats = store.stats();
        assert_eq!(
            (stats.stored, stats.lowest_id, stats.next_id),
            (2 + start, 5, 10 + start as i64)
        );
        let told = Arc::new(Told::default());
        store.intake().submit(chunk(&told, 1, 1, None));
        until("stored", || told.upto() == 1);
        assert_eq!(store.stats().stored, 3 + start);
    }
    let conn = rusqlite::Connection::open(world.path()).expect("open");
    let now: String = conn
        .query_row(
            "SELECT sql FROM sqlite_schema WHERE name = 'readings'",
            [],
            |r| r.get(0),
        )
        .expect("sql");
    assert_eq!(sql, now);
    assert_eq!(
        world.ask("SELECT count(*) FROM readings WHERE site = 'here'"),
        4
    );
}

#[test]
fn a_table_that_could_not_be_filled_is_refused_by_column() {
    for (sql, part) in [
        (
            "CREATE TABLE readings(id INTEGER PRIMARY KEY, value)",
            "no column sensor_name",
        ),
        (
            "CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name, timestamp, value, unit, metadata, site TEXT NOT NULL)",
            "readings.site must not be null",
        ),
        (
            "CREATE TABLE t(id, sensor_name, timestamp, value, unit, metadata); CREATE VIEW readings AS SELECT * FROM t",
            "readings is a view",
        ),
    ] {
        let world = World::new();
        rusqlite::Connection::open(world.path())
            .and_then(|c| c.execute_batch(sql))
            .expect("fill");
        let e = world.try_start(SETTINGS).expect_err(sql).to_string();
        assert!(e.contains(part) && e.contains("edge_store.db"), "{e}");
    }
}

#[test]
fn one_refused_row_takes_no_other_down_with_it() {
    for clause in ["ABORT", "ROLLBACK", "FAIL"] {
        let world = World::new();
        rusqlite::Connection::open(world.path())
            .and_then(|c| {
                c.execute_batch(&format!(
                    "CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name, timestamp UNIQUE ON CONFLICT {clause}, value, unit, metadata)"
                ))
            })
            .expect("fill");
        let store = world.start(SETTINGS);
        let told = Arc::new(Told::default());
        store.intake().submit(chunk(&told, 1, 3, Some("plc")));
        until("stored", || told.upto() == 3);
        // The same times again, from a client whose ids are new.
        store.intake().submit(chunk(&told, 2, 4, Some("other")));
        until("answered", || told.upto() == 5);
        let refused: Vec<u64> = told
            .refused
            .lock()
            .expect("lock")
            .iter()
            .map(|r| r.0)
            .collect();
        assert_eq!(refused, [2, 3], "{clause}");
        assert_eq!(world.rows(), 5, "{clause}");
        assert_eq!(store.stats().next_id, 6, "{clause}");
        assert_eq!(world.ask("SELECT count(*) FROM holdup_seen"), 5, "{clause}");
    }
}

#[test]
fn rows_that_another_program_adds_are_counted_and_not_collided_with() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 3, None));
    until("stored", || told.upto() == 3);
    rusqlite::Connection::open(world.path())
        .and_then(|c| {
            c.execute_batch("INSERT INTO readings(id, sensor_name, timestamp, value) VALUES(4,'x',1,1),(100,'x',1,1)")
        })
        .expect("insert");
    store.intake().submit(chunk(&told, 4, 3, None));
    until("stored", || told.upto() == 6);
    let stats = store.stats();
    assert_eq!((stats.stored, stats.next_id), (8, 104));
    assert_eq!(world.rows(), 8);
}

#[test]
fn another_programs_lock_delays_and_loses_nothing() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let conn = rusqlite::Connection::open(world.path()).expect("open");
    conn.execute_batch("BEGIN IMMEDIATE").expect("lock");
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 3, None));
    let report = store
        .orders()
        .checkpoint(Mode::Passive, SOON)
        .expect("orders are served meanwhile");
    assert!(report.complete());
    assert_eq!(told.upto(), 0);
    conn.execute_batch("COMMIT").expect("unlock");
    until("stored", || told.upto() == 3);
    assert_eq!(store.stats().state, StoreState::Running);
}

#[test]
fn retention_by_size_keeps_the_newest_and_counts_what_it_removed() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    for n in 0..20 {
        store.intake().submit(chunk(&told, n * 500 + 1, 500, None));
    }
    until("stored", || told.upto() == 10_000);
    store.orders().reconfigure(StoreSettings {
        max_bytes: Some(100_000),
        ..SETTINGS
    });
    // Asked of the file: the store's own number may still be from when it was small.
    let in_use = "SELECT (page_count - freelist_count) * page_size
        FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
    until("it is small enough", || world.ask(in_use) <= 100_000);
    until("the numbers agree", || {
        let s = store.stats();
        s.bytes <= 100_000
            && s.stored + s.expired == 10_000
            && s.stored == 10_001 - s.lowest_id as u64
    });
    let stats = store.stats();
    assert_eq!(world.rows() as u64, stats.stored);
    assert_eq!(world.ask("SELECT max(id) FROM readings"), 10_000);
    // Down to nothing: the newest stays.
    store.orders().reconfigure(StoreSettings {
        max_bytes: Some(1),
        ..SETTINGS
    });
    until("only the newest is left", || store.stats().stored == 1);
    assert_eq!(world.ask("SELECT min(id) FROM readings"), 10_000);
    store.stop();
    let store = world.start(SETTINGS);
    let stats = store.stats();
    assert_eq!(
        (stats.stored, stats.expired, stats.next_id),
        (1, 9_999, 10_001)
    );
}

#[test]
fn retention_by_days_counts_from_arrival_and_spares_what_is_not_delivered() {
    let clock = Arc::new(ManualClock::new());
    let world = World::with_clock(Arc::clone(&clock) as Arc<_>);
    let keep = StoreSettings {
        keep_days: Some(2),
        ..SETTINGS
    };
    let store = world.start(keep);
    let told = Arc::new(Told::default());
    let day = Duration::from_secs(86_400);
    for n in 0..5u64 {
        store.intake().submit(chunk(&told, n * 10 + 1, 10, None));
        until("stored", || told.upto() == n * 10 + 10);
        if n == 0 {
            // As if an uplink had delivered the first five.
            store.orders().set_delivered_upto(5);
        }
        clock.advance(day);
        store.orders().settle();
    }
    store.orders().reconfigure(keep);
    until("the delivered ones are gone", || {
        store.stats().lowest_id == 6
    });
    store.orders().set_delivered_upto(1000);
    // Day 5 now: days 0 to 2 are older than two days.
    until("the old ones are gone", || store.stats().lowest_id == 31);
    assert_eq!(store.stats().expired, 30);
    assert_eq!(world.rows(), 20);
    assert!(world.ask("SELECT count(*) FROM holdup_arrival") <= 3);
}

#[test]
fn a_clock_that_nobody_set_expires_nothing_and_its_readings_count_from_the_day_it_is_set() {
    let clock = Arc::new(ManualClock::new());
    clock.set_synchronised(false);
    clock.set_wall(Wall::from_millis(0));
    let world = World::with_clock(Arc::clone(&clock) as Arc<_>);
    let keep = StoreSettings {
        keep_days: Some(2),
        ..SETTINGS
    };
    let store = world.start(keep);
    let told = Arc::new(Told::default());
    let day = Duration::from_secs(86_400);
    let mut line = 0;
    let mut ten = || {
        store.intake().submit(chunk(&told, line + 1, 10, None));
        line += 10;
        store.orders().settle();
        until("stored", || told.upto() == line);
    };
    ten();
    // Forty years ahead by a wrong clock: nothing goes.
    clock.advance(day * 15_000);
    ten();
    store.orders().reconfigure(keep);
    ten();
    assert_eq!(store.stats().expired, 0);
    // The right time at last; all of them count from today.
    clock.set_synchronised(true);
    ten();
    store.orders().reconfigure(keep);
    ten();
    assert_eq!(store.stats().expired, 0);
    clock.advance(day * 3);
    ten();
    store.orders().reconfigure(keep);
    until("the old ones are gone", || store.stats().lowest_id == 51);
    assert_eq!(store.stats().expired, 50);
}

#[test]
fn the_log_is_checkpointed_at_the_governors_limit_and_keeps_its_size() {
    let world = World::new();
    let store = world.start(SETTINGS);
    store.orders().set_wal_limit(8);
    let told = Arc::new(Told::default());
    let before = world.seen.checkpoints.lock().expect("lock").len();
    for n in 0..40 {
        store.intake().submit(chunk(&told, n + 1, 1, None));
        until("stored", || told.upto() == n + 1);
    }
    until("checkpointed", || {
        world.seen.checkpoints.lock().expect("lock").len() >= before + 3
    });
    let wal = std::fs::metadata(world.home.path().join("edge_store.db-wal")).expect("stat");
    assert!(wal.len() > 0 && wal.len() < 40 * 4120, "{}", wal.len());
}

#[test]
fn a_reader_keeps_truncate_busy_and_the_rows_are_copied_all_the_same() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 3, None));
    until("stored", || told.upto() == 3);
    let reader = rusqlite::Connection::open(world.path()).expect("open");
    reader.execute_batch("BEGIN").expect("begin");
    let n: i64 = reader
        .query_row("SELECT count(*) FROM readings", [], |r| r.get(0))
        .expect("read");
    assert_eq!(n, 3);
    let report = store
        .orders()
        .checkpoint(Mode::Truncate, SOON)
        .expect("checkpoint");
    assert!(report.busy && report.complete(), "{report:?}");
}

#[test]
fn after_a_failed_medium_the_store_does_not_open_and_after_a_stop_orders_fail() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let orders = store.orders();
    let intake = store.intake();
    store.stop();
    assert_eq!(
        orders.checkpoint(Mode::Passive, SOON),
        Err(OrderError::Failed)
    );
    let told = Arc::new(Told::default());
    intake.submit(chunk(&told, 1, 1, None));
    assert!(told.stopped.lock().expect("lock").is_some());
    assert_eq!(orders.stats().state, StoreState::Stopped);
    world.gate.close(Closer::Power);
    assert!(matches!(
        world.try_start(SETTINGS),
        Err(StoreError::GateClosed { .. })
    ));
}

#[test]
fn a_damaged_log_is_copied_before_sqlite_forgets_it() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 3, None));
    until("stored", || told.upto() == 3);
    // As after a cut: no checkpoint.
    world.gate.close(Closer::Power);
    store.stop();
    world.gate.open(Closer::Power);
    let wal = world.home.path().join("edge_store.db-wal");
    let mut bytes = std::fs::read(&wal).expect("read");
    assert!(bytes.len() > 4096);
    bytes[1] ^= 0xff;
    #[expect(clippy::disallowed_methods, reason = "plants the damage")]
    std::fs::write(&wal, &bytes).expect("write");
    drop(world.start(SETTINGS));
    let kept: Vec<_> = std::fs::read_dir(world.home.path().join("evidence"))
        .expect("evidence")
        .map(|e| e.expect("entry").path())
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(
        std::fs::read(kept[0].join("edge_store.db-wal")).expect("copy"),
        bytes
    );
}

#[test]
fn what_is_not_a_database_is_left_untouched_and_an_orphaned_log_is_kept() {
    #![expect(clippy::disallowed_methods, reason = "plants the files")]
    let world = World::new();
    std::fs::write(world.path(), "hello, I am a text file").expect("write");
    let e = world.try_start(SETTINGS).expect_err("text").to_string();
    assert!(e.contains("hello, I am"), "{e}");
    assert_eq!(
        std::fs::read(world.path()).expect("read"),
        b"hello, I am a text file"
    );
    std::fs::remove_file(world.path()).expect("remove");
    let wal = world.home.path().join("edge_store.db-wal");
    std::fs::write(&wal, [7; 100]).expect("write");
    assert!(matches!(
        world.try_start(SETTINGS),
        Err(StoreError::OrphanWal { .. })
    ));
    assert_eq!(std::fs::metadata(&wal).expect("kept").len(), 100);
}

#[test]
fn the_delivered_mark_is_kept_with_the_next_commit_and_costs_none_of_its_own() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 10, None));
    until("stored", || told.upto() == 10);
    let commits = store.stats().commits;
    store.orders().set_delivered_upto(7);
    store.intake().submit(chunk(&told, 11, 1, None));
    until("stored", || told.upto() == 11);
    assert_eq!(store.stats().commits, commits + 1);
    let kept = "SELECT value FROM holdup_meta WHERE key = 'delivered_upto'";
    assert_eq!(world.ask(kept), 7);
    store.stop();
    // With the queue turned off again retention is free, and the mark stays.
    let store = world.start(StoreSettings {
        max_bytes: Some(1),
        ..SETTINGS
    });
    until("what was delivered is gone", || {
        store.stats().lowest_id == 8
    });
    store.orders().deliver_nothing();
    until("the rest is gone too", || store.stats().lowest_id == 11);
    assert_eq!(world.ask(kept), 7);
}
