//! The queue's database against a manual clock: order, leases, limits, crashes, damage.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::Connection;

use crate::clock::{Clock, ManualClock, Wall};
use crate::config::{QueueSettings, WhenFull};
use crate::durable::{Closer, CopyError, CopyHow, Gate, Heed, HotCopy, Medium};
use crate::store::companion;

use super::backoff::expires_at;
use super::error::QueueError;
use super::feed::{Batch, Readings};
use super::message::{Enqueued, NewMessage, Origin, parse};
use super::outbox::Outbox;
use super::rebuild::{self, Site};
use super::rows::{Met, Row, SqlRows};
use super::{
    DEAD_KEPT, Outgoing, Queue, QueueDesk, QueueOptions, QueueState, ensure, mark, survey,
    write_line,
};

const SETTINGS: QueueSettings = QueueSettings {
    enabled: true,
    max_items: 1_000_000_000,
    max_bytes: 1 << 40,
    ttl: None,
    when_full: WhenFull::Reject,
    retry_min: Duration::from_secs(1),
    retry_max: Duration::from_secs(60),
    max_retries: 5,
};
const EPOCH: u64 = 0x00f3_a91c_5be2_0d47;
const LEASE: Duration = Duration::from_secs(30);

struct World {
    home: tempfile::TempDir,
    medium: Medium,
    gate: Gate,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("temp dir");
        let medium = Medium::open(home.path()).expect("medium");
        Self {
            home,
            medium,
            gate: Gate::new(),
            clock: Arc::new(ManualClock::new()),
        }
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("sync_queue.db")
    }

    fn store(&self) -> PathBuf {
        self.home.path().join("edge_store.db")
    }

    fn try_open(&self, settings: QueueSettings) -> Result<Outbox, QueueError> {
        Outbox::open(
            &self.path(),
            settings,
            &self.medium,
            &self.gate,
            &*self.clock,
        )
    }

    fn open(&self, settings: QueueSettings) -> Outbox {
        self.try_open(settings).expect("open the queue")
    }

    fn site(&self) -> Site<'_> {
        Site {
            medium: &self.medium,
            gate: &self.gate,
            clock: &*self.clock,
        }
    }

    fn lease(&self, outbox: &mut Outbox, most: usize) -> Vec<super::Leased> {
        outbox
            .lease(most, LEASE, self.clock.mono(), self.clock.wall(), true)
            .expect("lease")
    }

    fn plain(&self) -> Connection {
        Connection::open(self.path()).expect("open")
    }

    fn message(&self, id: &str, priority: i64) -> NewMessage {
        NewMessage {
            message_id: id.to_owned(),
            payload: format!("payload of {id}").into_bytes(),
            priority,
            created_at: self.clock.wall(),
            ttl: None,
        }
    }

    /// A store with so many readings, as the agent makes it.
    fn readings(&self, n: i64) {
        let conn = Connection::open(self.store()).expect("open");
        conn.execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL, timestamp NOT NULL,
                                   value REAL NOT NULL, unit TEXT, metadata TEXT);
             CREATE TABLE holdup_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
             INSERT INTO holdup_meta VALUES('epoch', '{EPOCH:016x}');
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})
             INSERT INTO readings SELECT i, 'boiler', i, i * 0.5, 'C', NULL FROM n;"
        ))
        .expect("fill");
    }

    fn feed(&self, outbox: &mut Outbox) -> Result<super::feed::Fed, QueueError> {
        outbox.meet("plant-7", EPOCH)?;
        let batch = Readings::open(&self.store())?.after(outbox.book.fed_upto)?;
        outbox.feed(&batch, &SETTINGS, self.clock.wall())
    }
}

fn batch(from: i64, upto: i64) -> Batch {
    Batch {
        readings: (from..=upto)
            .map(|id| (id, format!("{{\"value\":{id}}}").into_bytes()))
            .collect(),
        full: false,
    }
}

fn ids(outbox: &Outbox) -> Vec<String> {
    outbox
        .conn
        .prepare("SELECT message_id FROM sync_queue ORDER BY message_id")
        .expect("prepare")
        .query_map([], |r| r.get(0))
        .expect("query")
        .map(|r| r.expect("row"))
        .collect()
}

fn letters(path: &Path) -> Vec<(String, String)> {
    let conn = Connection::open(path).expect("open");
    conn.prepare("SELECT message_id, reason FROM dead_letters ORDER BY id")
        .expect("prepare")
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
        .expect("query")
        .map(|r| r.expect("row"))
        .collect()
}

fn rows(path: &Path) -> (Vec<Row>, Vec<Met>) {
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for met in SqlRows::open(path).expect("open") {
        match met {
            Met::Row(row) => rows.push(row),
            other @ (Met::Invalid { .. } | Met::Lost { .. }) => faults.push(other),
        }
    }
    (rows, faults)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn messages_go_by_priority_then_age_and_to_one_taker_only(
        priorities in proptest::collection::vec(-3i64..4, 1..60), most in 1usize..9,
    ) {
        let w = World::new();
        let mut outbox = w.open(SETTINGS);
        let new: Vec<_> = (0..).zip(&priorities).map(|(n, p)| w.message(&format!("m{n:03}"), *p)).collect();
        outbox.enqueue(&new).expect("enqueue");
        let mut got = Vec::new();
        loop {
            let some = w.lease(&mut outbox, most);
            prop_assert!(some.len() <= most);
            if some.is_empty() {
                break;
            }
            got.extend(some.into_iter().map(|m| (m.priority, m.message_id)));
            prop_assert!(got.len() <= priorities.len(), "handed out twice");
        }
        let mut want: Vec<_> = new.iter().map(|m| (m.priority, m.message_id.clone())).collect();
        want.sort_by_key(|(p, id)| (-p, id.clone()));
        prop_assert_eq!(got, want);
        // When the leases end they are all there again.
        w.clock.advance(LEASE);
        prop_assert_eq!(w.lease(&mut outbox, 1000).len(), priorities.len());
    }

    #[test]
    fn no_reading_has_two_ids_and_none_is_left_out_whatever_happens(
        steps in proptest::collection::vec((0u8..6, 1i64..9), 1..40),
    ) {
        let w = World::new();
        let mut outbox = w.open(SETTINGS);
        outbox.meet("plant-7", EPOCH).expect("meet");
        let mut confirmed = BTreeSet::new();
        let mut stored = 0;
        for (what, n) in steps {
            match what {
                0 | 1 => {
                    stored += n;
                    let from = outbox.book.fed_upto + 1;
                    outbox.feed(&batch(from, stored), &SETTINGS, w.clock.wall()).expect("feed");
                }
                2 => {
                    let some = w.lease(&mut outbox, n as usize);
                    let rows: Vec<_> = some.iter().map(|m| m.id).collect();
                    confirmed.extend(some.into_iter().map(|m| m.message_id));
                    outbox.confirm(&rows, w.clock.wall()).expect("confirm");
                }
                3 => {
                    let rows: Vec<_> = w.lease(&mut outbox, n as usize).iter().map(|m| m.id).collect();
                    outbox.fail(&rows, "no route", w.clock.wall()).expect("fail");
                }
                4 => w.clock.advance(Duration::from_secs(n.unsigned_abs() * 20)),
                _ => {
                    drop(outbox);
                    outbox = w.open(SETTINGS);
                    // A gateway that was renamed keeps the name in a store's ids.
                    outbox.meet("renamed", EPOCH).expect("meet");
                    prop_assert!(outbox.leased().is_empty());
                }
            }
        }
        let waiting = ids(&outbox);
        let dead: Vec<_> = letters(&w.path()).into_iter().map(|(id, _)| id).collect();
        let origin = Origin { gateway: "plant-7".to_owned(), epoch: EPOCH };
        let mut all: Vec<_> = waiting.iter().chain(&dead).chain(&confirmed).cloned().collect();
        all.sort();
        let want: Vec<_> = (1..=outbox.book.fed_upto).map(|id| origin.message_id(id)).collect();
        prop_assert_eq!(all, want);
        let lowest = waiting.first().and_then(|id| parse(id)).map(|(_, id)| id);
        let mark = lowest.map_or(outbox.book.fed_upto, |id| id - 1);
        prop_assert_eq!(outbox.book.delivered_upto, mark);
    }

    #[test]
    fn what_is_too_old_is_never_handed_out_and_what_is_not_is(
        ages in proptest::collection::vec((0u64..200, proptest::option::of(1u64..100)), 1..30),
    ) {
        let w = World::new();
        let mut outbox = w.open(SETTINGS);
        let now = w.clock.wall().as_millis() + 200_000;
        let new: Vec<_> = (0..).zip(&ages).map(|(n, (at, ttl))| NewMessage {
            created_at: Wall::from_millis(w.clock.wall().as_millis() + *at as i64 * 1000),
            ttl: ttl.map(Duration::from_secs),
            ..w.message(&format!("m{n:03}"), 0)
        }).collect();
        outbox.enqueue(&new).expect("enqueue");
        w.clock.advance(Duration::from_secs(200));
        let dies = |m: &NewMessage| {
            expires_at(Some(m.created_at.as_millis()), m.ttl.map(|t| t.as_secs() as i64))
                .is_some_and(|at| at <= now)
        };
        let swept = outbox.sweep(w.clock.mono(), w.clock.wall(), false).expect("sweep");
        prop_assert_eq!(swept, 0, "nobody knows what time it is");
        let got: Vec<_> = w.lease(&mut outbox, 1000).into_iter().map(|m| m.message_id).collect();
        let want: Vec<_> = new.iter().filter(|m| !dies(m)).map(|m| m.message_id.clone()).collect();
        prop_assert_eq!(got, want);
        let dead: BTreeSet<_> = letters(&w.path()).into_iter().map(|(id, _)| id).collect();
        let want: BTreeSet<_> = new.iter().filter(|m| dies(m)).map(|m| m.message_id.clone()).collect();
        prop_assert_eq!(dead, want);
    }
}

#[test]
fn a_message_leaves_only_when_it_is_confirmed_and_a_crash_shows_it_again_under_its_id() {
    let w = World::new();
    let mut outbox = w.open(SETTINGS);
    let new = [w.message("a", 0), w.message("b", 0)];
    assert_eq!(
        outbox.enqueue(&new).expect("enqueue"),
        [Enqueued::Added, Enqueued::Added]
    );
    assert_eq!(
        outbox.enqueue(&new[..1]).expect("again"),
        [Enqueued::Duplicate]
    );
    assert_eq!(w.lease(&mut outbox, 10).len(), 2);
    assert!(w.lease(&mut outbox, 10).is_empty());
    // As after a crash: nothing is closed in order but the file.
    drop(outbox);
    let mut outbox = w.open(SETTINGS);
    let again = w.lease(&mut outbox, 10);
    assert_eq!(again[0].message_id, "a");
    assert_eq!(
        outbox
            .confirm(&[again[0].id], w.clock.wall())
            .expect("confirm"),
        1
    );
    assert_eq!(
        outbox
            .confirm(&[again[0].id], w.clock.wall())
            .expect("twice"),
        0
    );
    assert_eq!(ids(&outbox), ["b"]);
    assert_eq!((outbox.tally.items, outbox.book.confirmed), (1, 1));
}

#[test]
fn a_failed_message_waits_counts_and_dies_with_its_reason_when_it_was_tried_too_often() {
    let w = World::new();
    let mut outbox = w.open(SETTINGS);
    outbox.enqueue(&[w.message("a", 0)]).expect("enqueue");
    for tried in 1..=6 {
        let mut some = w.lease(&mut outbox, 1);
        let m = some.pop().expect("due");
        assert_eq!(m.retry_count, tried - 1);
        let died = outbox.fail(&[m.id], "refused by the broker", w.clock.wall());
        assert_eq!(died.expect("fail"), usize::from(tried == 6));
        w.clock.advance(SETTINGS.retry_max);
    }
    assert_eq!(
        letters(&w.path()),
        [(
            "a".to_owned(),
            "tried 6 times; last: refused by the broker".to_owned()
        )]
    );
    assert_eq!((outbox.tally.items, outbox.tally.dead), (0, 1));
    // Its id is taken for good.
    let again = outbox.enqueue(&[w.message("a", 0)]).expect("enqueue");
    assert_eq!(again, [Enqueued::Duplicate]);
}

#[test]
fn a_clock_that_is_put_back_does_not_hide_a_message() {
    let w = World::new();
    let mut outbox = w.open(SETTINGS);
    outbox.enqueue(&[w.message("a", 0)]).expect("enqueue");
    let m = w.lease(&mut outbox, 1).pop().expect("due");
    outbox
        .fail(&[m.id], "no route", w.clock.wall())
        .expect("fail");
    w.clock.set_wall(Wall::from_millis(0));
    assert_eq!(w.lease(&mut outbox, 1).len(), 1);
}

#[test]
fn a_full_queue_rejects_or_drops_the_oldest_of_the_lowest_priority_and_counts() {
    let w = World::new();
    let limits = QueueSettings {
        max_items: 3,
        ..SETTINGS
    };
    let mut outbox = w.open(limits);
    let new: Vec<_> = ["a", "b", "c", "d"].map(|id| w.message(id, 1)).into();
    let done = outbox.enqueue(&new).expect("enqueue");
    assert_eq!(done[2..], [Enqueued::Added, Enqueued::Rejected]);
    assert_eq!((outbox.rejected, outbox.book.dropped), (1, 0));
    drop(outbox);

    let mut outbox = w.open(QueueSettings {
        when_full: WhenFull::DropOldestLowPriority,
        ..limits
    });
    let new = [
        w.message("high", 9),
        w.message("low", 0),
        w.message("same", 1),
    ];
    let done = outbox.enqueue(&new).expect("enqueue");
    assert_eq!(done, [Enqueued::Added, Enqueued::Rejected, Enqueued::Added]);
    assert_eq!(ids(&outbox), ["c", "high", "same"]);
    assert_eq!((outbox.rejected, outbox.book.dropped), (1, 2));
    // What is being sent is not dropped for what comes.
    assert_eq!(w.lease(&mut outbox, 2).len(), 2);
    outbox.enqueue(&[w.message("next", 1)]).expect("enqueue");
    assert_eq!(ids(&outbox), ["c", "high", "next"]);
    drop(outbox);

    let mut outbox = w.open(QueueSettings {
        max_bytes: 64,
        when_full: WhenFull::DropOldestLowPriority,
        ..SETTINGS
    });
    let large = NewMessage {
        payload: vec![0; 65],
        ..w.message("large", 9)
    };
    let done = outbox.enqueue(&[large]).expect("enqueue");
    assert_eq!(
        done,
        [Enqueued::Rejected],
        "it must not empty the queue first"
    );
    assert_eq!(outbox.tally.items, 3);
}

#[test]
fn a_full_queue_leaves_readings_in_the_store_and_takes_them_when_there_is_room() {
    let w = World::new();
    w.readings(10);
    let mut outbox = w.open(QueueSettings {
        max_items: 4,
        ..SETTINGS
    });
    let fed = w.feed(&mut outbox).expect("feed");
    assert!(fed.full && fed.added == 4, "{fed:?}");
    assert_eq!((outbox.book.fed_upto, outbox.book.delivered_upto), (4, 0));
    for upto in [8, 10] {
        let rows: Vec<_> = w.lease(&mut outbox, 9).iter().map(|m| m.id).collect();
        outbox.confirm(&rows, w.clock.wall()).expect("confirm");
        w.feed(&mut outbox).expect("feed");
        assert_eq!(outbox.book.fed_upto, upto);
    }
}

#[test]
fn a_crash_at_any_instruction_of_feeding_leaves_out_no_reading_and_queues_none_twice() {
    let w = World::new();
    w.readings(4);
    let origin = Origin {
        gateway: "plant-7".to_owned(),
        epoch: EPOCH,
    };
    let (mut at, mut torn) = (1, 0);
    loop {
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(companion(&w.path(), suffix)).ok();
        }
        let mut outbox = w.open(SETTINGS);
        outbox.meet("plant-7", EPOCH).expect("meet");
        let left = Arc::new(AtomicU32::new(at));
        std::rc::Rc::get_mut(&mut outbox.conn)
            .expect("nobody copies")
            .progress_handler(
                1,
                Some(move || {
                    left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1))
                        .is_err()
                }),
            )
            .expect("handler");
        let fed = w.feed(&mut outbox);
        drop(outbox);
        let mut outbox = w.open(SETTINGS);
        let upto = outbox.book.fed_upto;
        let want = |upto| {
            (1..=upto)
                .map(|id| origin.message_id(id))
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(&outbox), want(upto), "cut at {at}");
        w.feed(&mut outbox).expect("feed again");
        assert_eq!(ids(&outbox), want(4), "cut at {at}");
        if fed.is_ok() {
            break;
        }
        torn += 1;
        at += 5;
    }
    assert!(torn > 20, "only {torn} cuts");
}

#[test]
fn another_store_is_fed_from_its_beginning_and_its_ids_are_others() {
    let w = World::new();
    w.readings(3);
    let mut outbox = w.open(SETTINGS);
    w.feed(&mut outbox).expect("feed");
    outbox.meet("plant-7", EPOCH + 1).expect("meet");
    assert_eq!(outbox.book.fed_upto, 0);
    outbox
        .feed(&batch(1, 3), &SETTINGS, w.clock.wall())
        .expect("feed");
    assert_eq!(ids(&outbox).len(), 6);
    let mark = {
        drop(outbox);
        mark(&w.path()).expect("read").expect("a mark")
    };
    assert_eq!((mark.epoch, mark.highest), (EPOCH + 1, 3));
}

#[test]
fn a_reading_that_finds_another_message_under_its_id_is_counted() {
    let w = World::new();
    let mut outbox = w.open(SETTINGS);
    outbox.meet("plant-7", EPOCH).expect("meet");
    outbox
        .feed(&batch(1, 2), &SETTINGS, w.clock.wall())
        .expect("feed");
    outbox.book.fed_upto = 0;
    let mut other = batch(1, 2);
    other.readings[1].1 = b"{\"value\":9}".to_vec();
    let fed = outbox
        .feed(&other, &SETTINGS, w.clock.wall())
        .expect("feed");
    assert_eq!((fed.added, fed.repeats, fed.conflicts), (0, 1, 1));
}

#[test]
fn dead_letters_stay_bounded() {
    let w = World::new();
    let mut outbox = w.open(QueueSettings {
        max_retries: 0,
        ..SETTINGS
    });
    let over = 7;
    let n = DEAD_KEPT + over;
    let new: Vec<_> = (0..n).map(|n| w.message(&format!("m{n:05}"), 0)).collect();
    outbox.enqueue(&new).expect("enqueue");
    let rows: Vec<_> = w
        .lease(&mut outbox, usize::MAX)
        .iter()
        .map(|m| m.id)
        .collect();
    outbox.fail(&rows, "no", w.clock.wall()).expect("fail");
    assert_eq!(
        (outbox.tally.dead, outbox.book.dead_dropped),
        (DEAD_KEPT, over)
    );
    assert_eq!(letters(&w.path())[0].0, "m00007");
}

#[test]
fn an_existing_queue_is_adopted_with_what_it_holds() {
    let w = World::new();
    let conn = w.plain();
    conn.execute_batch(
        "CREATE TABLE sync_queue(id INTEGER PRIMARY KEY AUTOINCREMENT, payload TEXT, priority INTEGER,
            created_at TEXT, ttl_seconds INTEGER, retry_count INTEGER, next_retry_at TEXT,
            message_id TEXT, theirs TEXT DEFAULT 'x');
         CREATE TABLE dead_letters(id INTEGER PRIMARY KEY, payload, message_id);
         INSERT INTO sync_queue(payload, priority, created_at, ttl_seconds, message_id) VALUES
           ('text', 1, '2026-01-01 00:00:00', 60, 'iso'), ('x', 5, 1767225600, 60, 'seconds'),
           (x'ff', 3, 1767225600000, NULL, 'ms'), ('y', NULL, NULL, 1, 'unborn');
         UPDATE sync_queue SET next_retry_at = '2026-01-01' WHERE message_id = 'iso'",
    )
    .expect("their table");
    drop(conn);
    ensure(&w.path(), &w.medium, &w.gate, &*w.clock).expect("ensure");
    let mut outbox = w.open(SETTINGS);
    assert_eq!((outbox.tally.items, outbox.tally.bytes), (4, 7));
    let order: Vec<_> = w
        .lease(&mut outbox, 9)
        .into_iter()
        .map(|m| m.message_id)
        .collect();
    assert_eq!(order, ["seconds", "ms", "iso", "unborn"]);
    w.clock.advance(Duration::from_secs(61));
    assert_eq!(
        outbox
            .sweep(w.clock.mono(), w.clock.wall(), true)
            .expect("sweep"),
        2
    );
    drop(outbox);
    let conn = w.plain();
    let theirs: String = conn
        .query_row(
            "SELECT theirs FROM sync_queue WHERE message_id = 'ms'",
            [],
            |r| r.get(0),
        )
        .expect("their column");
    assert_eq!(theirs, "x");
    let dead: i64 = conn
        .query_row("SELECT count(*) FROM dead_letters", [], |r| r.get(0))
        .expect("count");
    assert_eq!(dead, 2);
}

#[test]
fn a_queue_that_cannot_be_adopted_is_refused_by_name_and_left_alone() {
    for (sql, words) in [
        ("CREATE TABLE sync_queue(id, payload)", "sync_queue has no column priority"),
        (
            "CREATE TABLE sync_queue(id TEXT PRIMARY KEY, payload, priority, created_at, ttl_seconds,
                retry_count, next_retry_at, message_id UNIQUE)",
            "sync_queue.id is not INTEGER PRIMARY KEY",
        ),
        (
            "CREATE TABLE sync_queue(id INTEGER PRIMARY KEY, payload, priority, created_at, ttl_seconds,
                retry_count, next_retry_at, message_id);
             INSERT INTO sync_queue(message_id) VALUES('a'), ('a')",
            "holdup queue rebuild",
        ),
    ] {
        let w = World::new();
        w.plain().execute_batch(sql).expect("create");
        let e = w.try_open(SETTINGS).expect_err("refused");
        let e = format!("{e} {:?}", std::error::Error::source(&e));
        assert!(e.contains(words), "{e}");
        let tables: i64 = w
            .plain()
            .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |r| r.get(0))
            .expect("count");
        assert_eq!(tables, 1);
    }
}

/// The queue on its own thread, open; its store takes no readings.
fn running(w: &World, gate: &Arc<Gate>) -> (Queue, QueueDesk, Outgoing) {
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&w.clock);
    let desk = QueueDesk::new(true);
    let queue = Queue::start(QueueOptions {
        desk: desk.clone(),
        settings: SETTINGS,
        gateway: "plant-7".to_owned(),
        path: w.path(),
        store: w.store(),
        orders: crate::store::Desk::new().orders(),
        medium: Arc::new(Medium::open(w.home.path()).expect("medium")),
        gate: Arc::clone(gate),
        clock: Arc::clone(&clock),
    })
    .expect("start");
    while desk.stats().state != QueueState::Running {
        std::thread::yield_now();
    }
    let outgoing = Outgoing::new(desk.clone(), Arc::clone(gate), clock);
    (queue, desk, outgoing)
}

#[test]
fn nothing_is_read_or_written_behind_a_closed_gate() {
    let w = World::new();
    let gate = Arc::new(Gate::new());
    let (queue, desk, outgoing) = running(&w, &gate);
    outgoing.enqueue(&[w.message("a", 0)]).expect("open");
    gate.close(Closer::Power);
    let e = outgoing.lease(1, LEASE).expect_err("closed");
    assert!(matches!(e, QueueError::GateClosed), "{e}");
    outgoing.enqueue(&[w.message("b", 0)]).expect_err("closed");
    gate.open(Closer::Power);
    assert_eq!(outgoing.lease(9, LEASE).expect("open").len(), 1);
    queue.stop();
    let e = outgoing.lease(1, LEASE).expect_err("stopped");
    assert!(matches!(e, QueueError::NotOpen(_)), "{e}");
    let e = Outgoing::new(QueueDesk::new(false), gate, Arc::new(ManualClock::new()))
        .lease(1, LEASE)
        .expect_err("never started");
    assert!(matches!(e, QueueError::NotOpen(_)), "{e}");
    drop(desk);
}

#[test]
fn messages_come_and_go_while_the_queue_is_copied_and_the_copy_is_of_one_moment() {
    let w = World::new();
    let gate = Arc::new(Gate::new());
    let (queue, desk, outgoing) = running(&w, &gate);
    let many: Vec<_> = (0..4000)
        .map(|n| w.message(&format!("m{n:05}"), 0))
        .collect();
    outgoing.enqueue(&many).expect("enqueue");
    let to = w.home.path().join("copy");
    let stop = AtomicBool::new(false);
    let turns = AtomicU32::new(0);
    let receipt = desk
        .copy(
            &to,
            &CopyHow {
                medium: &w.medium,
                gate: &gate,
                stop: &stop,
                clock: &*w.clock,
                heed: &|| {
                    // Two that exclude each other: in the copy is one of them, always.
                    let n = turns.fetch_add(1, SeqCst);
                    let leased = outgoing.lease(1, LEASE).expect("lease");
                    outgoing
                        .enqueue(&[w.message(&format!("new{n}"), 0)])
                        .expect("enqueue");
                    outgoing.confirm(&[leased[0].id]).expect("confirm");
                    Heed::Go
                },
                progress: &|_, _| {},
            },
        )
        .expect("copy");
    assert!(turns.load(SeqCst) > 5, "{turns:?} steps");
    assert_eq!(receipt.bytes, fs::metadata(&to).expect("copy").len());
    let copy = Connection::open(&to).expect("open");
    let ask = |sql: &str| {
        copy.query_row(sql, [], |r| r.get::<_, String>(0))
            .expect("ask")
    };
    assert_eq!(ask("PRAGMA integrity_check"), "ok");
    assert_eq!(ask("PRAGMA journal_mode"), "delete");
    let held = ask("SELECT count(*) || '' FROM sync_queue")
        .parse::<u64>()
        .expect("a number");
    // Between the enqueueing of one and the confirming of another there is one more.
    assert!((4000..=4001).contains(&held), "{held}");
    queue.stop();
    let e = desk.copy(
        &to.with_extension("2"),
        &CopyHow {
            medium: &w.medium,
            gate: &gate,
            stop: &stop,
            clock: &*w.clock,
            heed: &|| Heed::Go,
            progress: &|_, _| {},
        },
    );
    assert!(matches!(e, Err(CopyError::NotOpen)), "{e:?}");
}

#[test]
fn a_retry_loop_is_named_and_one_confirmation_ends_it() {
    let w = World::new();
    let mut outbox = w.open(QueueSettings {
        max_retries: 1_000,
        ..SETTINGS
    });
    for minute in 0..12 {
        outbox
            .enqueue(&[w.message(&format!("m{minute}"), 0)])
            .expect("enqueue");
        let rows: Vec<_> = w.lease(&mut outbox, 99).iter().map(|m| m.id).collect();
        outbox
            .fail(&rows, "no route", w.clock.wall())
            .expect("fail");
        w.clock.advance(Duration::from_secs(60));
    }
    let read = || survey(&w.path()).expect("read").expect("a queue");
    let s = read();
    assert_eq!(s.retry_loop_s, Some(660));
    assert_eq!((s.depth, s.retrying), (12, 12));
    assert!(s.loop_in_words().expect("words").contains("for 11 minutes"));
    w.clock.advance(SETTINGS.retry_max);
    let m = w.lease(&mut outbox, 1).pop().expect("due");
    outbox.confirm(&[m.id], w.clock.wall()).expect("confirm");
    assert_eq!(read().retry_loop_s, None);
}

#[test]
fn export_and_import_keep_everything_and_store_nothing_twice() {
    let w = World::new();
    let mut outbox = w.open(QueueSettings {
        max_retries: 1,
        ..SETTINGS
    });
    let mut new: Vec<_> = (0..40)
        .map(|n| w.message(&format!("m{n:02}"), n % 3))
        .collect();
    new[7].payload = vec![0xff, 0, 10, 13];
    new[8].ttl = Some(Duration::from_secs(9));
    outbox.enqueue(&new).expect("enqueue");
    for _ in 0..2 {
        let rows: Vec<_> = w.lease(&mut outbox, 3).iter().map(|m| m.id).collect();
        outbox
            .fail(&rows, "no\nroute", w.clock.wall())
            .expect("fail");
        w.clock.advance(Duration::from_secs(60));
    }
    drop(outbox);
    let (before, faults) = rows(&w.path());
    assert!(faults.is_empty() && before.len() == 40);
    assert!(before.iter().any(|r| r.dead.is_some()));
    let text: String = before.iter().map(write_line).collect();

    let fresh = World::new();
    let import = || rebuild::import(&fresh.path(), SETTINGS, fresh.site(), text.as_bytes());
    let done = import().expect("import");
    assert_eq!((done.imported, done.duplicates, done.bad), (40, 0, 0));
    let done = import().expect("again");
    assert_eq!((done.imported, done.duplicates), (0, 40));
    let (after, _) = rows(&fresh.path());
    let plain =
        |rows: &[Row]| -> Vec<Row> { rows.iter().map(|r| Row { id: 0, ..r.clone() }).collect() };
    assert_eq!(plain(&after), plain(&before));

    let small = World::new();
    let limits = QueueSettings {
        max_items: 5,
        ..SETTINGS
    };
    let input = format!("nonsense\n{text}");
    let done = rebuild::import(&small.path(), limits, small.site(), input.as_bytes());
    let done = done.expect("import");
    assert_eq!((done.bad, done.bad_lines[0].0), (1, 1));
    assert!(
        done.rejected > 0 && done.imported + done.rejected == 40,
        "{done:?}"
    );
}

/// A fed queue of `n` readings whose files are then closed.
fn fed(n: i64) -> World {
    let w = World::new();
    w.readings(n);
    let mut outbox = w.open(SETTINGS);
    while outbox.book.fed_upto < n {
        w.feed(&mut outbox).expect("feed");
    }
    outbox
        .checkpoint(crate::store::Mode::Truncate, &*w.clock)
        .expect("checkpoint");
    w
}

fn damage(path: &Path, at: usize, bytes: usize) {
    let mut file = fs::read(path).expect("read");
    let end = (at + bytes).min(file.len());
    for (n, b) in file[at..end].iter_mut().enumerate() {
        *b = (n as u8).wrapping_mul(151) ^ 0xa5;
    }
    replace(path, &file);
}

#[expect(clippy::disallowed_methods, reason = "the tests plant damaged files")]
fn replace(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("write");
}

/// The queue's files, copied.
fn kept(w: &World, path: &Path) -> Result<PathBuf, String> {
    let dir = (1..).map(|n: u32| w.home.path().join(format!("kept-{n}")));
    let dir = dir.into_iter().find(|d| !d.exists()).expect("a name");
    fs::create_dir(&dir).expect("folder");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let from = companion(path, suffix);
        if from.exists() {
            fs::copy(&from, dir.join(from.file_name().expect("name"))).expect("copy");
        }
    }
    Ok(dir)
}

#[test]
fn without_evidence_of_it_a_queue_is_not_rebuilt() {
    let w = fed(20);
    drop(w.open(SETTINGS));
    let before = fs::read(w.path()).expect("read");
    let (store, no_pages) = (w.store(), |_: &Path, _: &Path| Err(String::new()));
    let no_room = |_: &Path| Err("no room".to_owned());
    let hands: (super::Keep<'_>, super::Salvage<'_>) = (&no_room, &no_pages);
    let e = rebuild::rebuild(&w.path(), &store, "plant-7", SETTINGS, w.site(), hands)
        .expect_err("refused");
    assert!(e.to_string().contains("no room"), "{e}");
    assert_eq!(fs::read(w.path()).expect("read"), before);
    assert!(!companion(&w.path(), "-rebuilt").exists());
}

fn rebuilt(w: &World) -> rebuild::Rebuilt {
    let no_pages = |_: &Path, _: &Path| Err("no pages here".to_owned());
    rebuild::rebuild(
        &w.path(),
        &w.store(),
        "plant-7",
        SETTINGS,
        w.site(),
        (&|path| kept(w, path), &no_pages),
    )
    .expect("rebuild")
}

/// After the agent has fed it again: every reading once, under its id.
fn complete(w: &World, n: i64) {
    let mut outbox = w.open(SETTINGS);
    while outbox.book.fed_upto < n {
        w.feed(&mut outbox).expect("feed");
    }
    let origin = Origin {
        gateway: "plant-7".to_owned(),
        epoch: EPOCH,
    };
    let want: Vec<_> = (1..=n).map(|id| origin.message_id(id)).collect();
    assert_eq!(ids(&outbox), want);
    let ok: String = outbox
        .conn
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .expect("check");
    assert_eq!(ok, "ok");
}

#[test]
fn a_damaged_page_costs_its_rows_only_and_the_store_gives_them_back() {
    let w = fed(5_000);
    let size = fs::metadata(w.path()).expect("stat").len() as usize;
    let before = fs::read(w.path()).expect("read");
    let mut seen_lost = false;
    for page in [6, size / 4096 / 3, size / 4096 / 2] {
        replace(&w.path(), &before);
        damage(&w.path(), page * 4096, 4096);
        let damaged = fs::read(w.path()).expect("read");
        let (kept, faults) = rows(&w.path());
        assert!(
            kept.len() > 4_000,
            "page {page}: {} rows, {faults:?}",
            kept.len()
        );
        seen_lost |= faults
            .iter()
            .any(|f| matches!(f, Met::Lost { upto: Some(_), .. }));
        let report = rebuilt(&w);
        assert_eq!(report.kept, kept.len() as u64);
        assert_eq!(report.lost.is_empty(), kept.len() == 5_000);
        let copy = report.evidence.expect("evidence").join("sync_queue.db");
        assert_eq!(fs::read(copy).expect("copy"), damaged);
        complete(&w, 5_000);
        for suffix in ["-wal", "-shm"] {
            fs::remove_file(companion(&w.path(), suffix)).ok();
        }
    }
    assert!(seen_lost, "no page of rows was hit");
}

#[test]
fn a_queue_of_which_nothing_can_be_read_is_made_anew_from_the_store() {
    type Damage = fn(&Path);
    let kinds: [(&str, Damage); 5] = [
        ("header", |p| damage(p, 0, 100)),
        ("first page", |p| damage(p, 0, 4096)),
        ("text", |p| replace(p, b"{\"not\":\"a database\"}\n")),
        ("empty", |p| replace(p, b"")),
        ("missing", |p| fs::remove_file(p).expect("remove")),
    ];
    for (kind, act) in kinds {
        let w = fed(300);
        for suffix in ["-wal", "-shm"] {
            fs::remove_file(companion(&w.path(), suffix)).ok();
        }
        act(&w.path());
        let report = rebuilt(&w);
        assert_eq!((report.kept, report.fed_from), (0, Some(0)), "{kind}");
        complete(&w, 300);
    }
}

#[test]
fn what_was_delivered_is_not_queued_again_by_a_rebuild() {
    let w = fed(300);
    let mut outbox = w.open(SETTINGS);
    let some: Vec<_> = w.lease(&mut outbox, 100).iter().map(|m| m.id).collect();
    outbox.confirm(&some, w.clock.wall()).expect("confirm");
    assert_eq!(outbox.book.delivered_upto, 100);
    drop(outbox);
    // The agent tells the store; here the queue has lost everything it knew.
    Connection::open(w.store())
        .expect("open")
        .execute("INSERT INTO holdup_meta VALUES('delivered_upto', 100)", [])
        .expect("the mark");
    fs::remove_file(companion(&w.path(), "-wal")).expect("remove");
    damage(&w.path(), 0, 100);
    let report = rebuilt(&w);
    assert_eq!(report.fed_from, Some(100));
    let mut outbox = w.open(SETTINGS);
    w.feed(&mut outbox).expect("feed");
    let all = ids(&outbox);
    assert_eq!(all.len(), 200);
    assert_eq!(parse(&all[0]).map(|(_, id)| id), Some(101));
}

#[test]
fn what_a_rebuild_has_lost_is_queued_again_also_after_a_second_rebuild() {
    let w = fed(300);
    // The first messages and the book are gone; nothing was ever delivered.
    Connection::open(w.path())
        .expect("open")
        .execute_batch(
            "DELETE FROM holdup_meta WHERE key IN ('fed_upto', 'delivered_upto', 'highest');
             DELETE FROM sync_queue WHERE id <= 54;",
        )
        .expect("the loss");
    for _ in 0..2 {
        let report = rebuilt(&w);
        assert_eq!((report.kept, report.fed_from), (246, Some(0)));
    }
    complete(&w, 300);
}

#[test]
fn a_cut_in_the_swap_leaves_the_new_queue_and_no_log_of_the_old_one() {
    let w = fed(20);
    let mut outbox = w.open(SETTINGS);
    outbox
        .enqueue(&[w.message("in the old log", 0)])
        .expect("enqueue");
    drop(outbox);
    // As a cut after the journal leaves it: the new one is whole, the old one in its place.
    let report = rebuilt(&w);
    assert_eq!(report.kept, 21);
    let new = fs::read(w.path()).expect("read");
    let evidence = report.evidence.expect("evidence");
    for suffix in ["", "-wal"] {
        let name = companion(&w.path(), suffix);
        fs::copy(evidence.join(name.file_name().expect("name")), &name).expect("copy");
    }
    replace(&companion(&w.path(), "-rebuilt"), &new);
    replace(&companion(&w.path(), "-swap"), b"holdup queue swap 1\n");
    rebuild::finish_swap(&w.path(), &w.medium).expect("finish");
    assert_eq!(fs::read(w.path()).expect("read"), new);
    for suffix in ["-wal", "-journal", "-rebuilt", "-swap"] {
        assert!(!companion(&w.path(), suffix).exists(), "{suffix}");
    }
    // After the rename only the journal is left.
    replace(&companion(&w.path(), "-swap"), b"holdup queue swap 1\n");
    rebuild::finish_swap(&w.path(), &w.medium).expect("finish");
    assert_eq!(fs::read(w.path()).expect("read"), new);
    assert_eq!(rows(&w.path()).0.len(), 21);
}

#[test]
fn rows_that_are_no_messages_are_named_and_the_others_kept_once() {
    let w = World::new();
    w.plain()
        .execute_batch(
            "CREATE TABLE sync_queue(id INTEGER PRIMARY KEY, payload, priority, created_at, ttl_seconds,
                retry_count, next_retry_at, message_id);
             INSERT INTO sync_queue(payload, retry_count, message_id) VALUES
               ('1', 3, 'a'), ('2', 0, 'a'), ('3', 0, NULL), ('4', 0, CAST(x'ff' AS TEXT)), ('5', -4, 'b')",
        )
        .expect("fill");
    let report = rebuilt(&w);
    assert_eq!((report.kept, report.duplicates, report.invalid), (2, 1, 2));
    let named: Vec<_> = report.invalid_rows.iter().map(|(_, id, _)| *id).collect();
    assert_eq!(named, [3, 4]);
    let (kept, _) = rows(&w.path());
    assert_eq!((kept[0].message_id.as_str(), kept[0].retry_count), ("a", 3));
}

#[test]
fn a_salvaged_queue_that_has_lost_the_version_of_its_table_serves() {
    let w = fed(20);
    w.plain()
        .execute("DELETE FROM holdup_meta WHERE key = 'schema'", [])
        .expect("lose it");
    assert_eq!(w.open(SETTINGS).tally.items, 20);
    let version = || {
        let sql = "SELECT value FROM holdup_meta WHERE key = 'schema'";
        w.plain().query_row(sql, [], |r| r.get::<_, i64>(0))
    };
    assert_eq!(version(), Ok(1), "it is noted again");
    // What an agent of tomorrow wrote is another thing than what was lost.
    w.plain()
        .execute("UPDATE holdup_meta SET value = 2 WHERE key = 'schema'", [])
        .expect("newer");
    w.try_open(SETTINGS).expect_err("a newer one");
}

#[test]
fn a_note_of_a_swap_that_nobody_wrote_replaces_no_queue() {
    let w = fed(20);
    drop(w.open(SETTINGS));
    let before = fs::read(w.path()).expect("read");
    replace(&companion(&w.path(), "-rebuilt"), b"somebody's notes");
    replace(&companion(&w.path(), "-swap"), b"somebody's notes");
    rebuild::finish_swap(&w.path(), &w.medium).expect("nothing to finish");
    assert_eq!(fs::read(w.path()).expect("read"), before);
    let aside = companion(&w.path(), "-swap.damaged");
    assert_eq!(fs::read(aside).expect("kept"), b"somebody's notes");
}

/// Takes minutes: `cargo test --release --lib a_million -- --ignored --nocapture`.
#[test]
#[ignore = "a million messages"]
fn a_million_messages_are_rebuilt_around_their_damage() {
    const N: i64 = 1_000_000;
    let clock = crate::clock::SystemClock;
    let w = fed(N);
    let size = fs::metadata(w.path()).expect("stat").len() as usize;
    for page in [size / 4096 / 5, size / 4096 / 2] {
        damage(&w.path(), page * 4096, 4096);
    }
    let began = clock.mono();
    let report = rebuilt(&w);
    let took = clock.mono().since(began);
    println!(
        "{size} bytes: kept {} of {N} in {took:.1?}, {} places lost",
        report.kept,
        report.lost.len()
    );
    assert!(report.kept > N as u64 - 1_000);
    complete(&w, N);
}
