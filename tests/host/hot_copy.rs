//! A copy of the store while it serves: consistent, and no commit waits for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use holdup::clock::SystemClock;
use holdup::durable::{Closer, CopyError, CopyHow, Heed, HotCopy, Medium, Receipt};
use holdup::store::{Mode, Store};
use rusqlite::Connection;

use crate::store_world::{SETTINGS, Told, World, chunk, until};

const SOON: Duration = Duration::from_secs(60);

fn to(world: &World) -> PathBuf {
    world.home.path().join("copy.partial")
}

fn copy(world: &World, store: &Store, heed: &dyn Fn() -> Heed) -> Result<Receipt, CopyError> {
    store.orders().copy(
        &to(world),
        &CopyHow {
            medium: &Medium::open(world.home.path()).expect("medium"),
            gate: &world.gate,
            stop: &AtomicBool::new(false),
            clock: &SystemClock,
            heed,
            progress: &|_, _| {},
        },
    )
}

/// Sends `n` readings and waits for their acknowledgement.
fn send(store: &Store, told: &Arc<Told>, line: &AtomicU64, n: u64) {
    let from = line.fetch_add(n, SeqCst);
    store.intake().submit(chunk(told, from, n, None));
    until("it is acknowledged", || told.upto() == from + n - 1);
}

#[test]
fn readings_are_acknowledged_between_the_steps_of_a_copy_that_holds_the_first_so_many() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let (told, line) = (Arc::new(Told::default()), AtomicU64::new(1));
    for _ in 0..40 {
        send(&store, &told, &line, 500);
    }
    let steps = AtomicU64::new(0);
    let receipt = copy(&world, &store, &|| {
        // Two of them, and now and then the plan's or the governor's checkpoint.
        send(&store, &told, &line, 2);
        let n = steps.fetch_add(1, SeqCst);
        if n % 4 == 1 {
            let mode = if n % 8 == 1 {
                Mode::Truncate
            } else {
                Mode::Passive
            };
            let report = store.orders().checkpoint(mode, SOON).expect("checkpoint");
            assert!(report.complete() && !report.busy, "held back: {report:?}");
        }
        Heed::Go
    })
    .expect("copy");
    assert!(steps.load(SeqCst) > 10, "{steps:?}");
    let conn = Connection::open(to(&world)).expect("open");
    let says: String = conn
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .expect("check");
    assert_eq!(says, "ok");
    let (rows, highest): (i64, i64) = conn
        .query_row("SELECT count(*), max(id) FROM readings", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .expect("count");
    let sent = line.load(SeqCst) as i64 - 1;
    assert_eq!(rows, highest, "the first ones without a gap");
    assert!(rows > 20_000 && sent - rows <= 4, "{rows} of {sent}");
    assert!(receipt.bytes > 500_000 && receipt.took > Duration::ZERO);
    assert_eq!(world.rows(), sent);
}

#[test]
fn power_lost_in_the_middle_of_a_copy_leaves_the_plan_its_checkpoint_and_no_file() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let (told, line) = (Arc::new(Told::default()), AtomicU64::new(1));
    for _ in 0..40 {
        send(&store, &told, &line, 500);
    }
    let steps = AtomicU64::new(0);
    let given_up = copy(&world, &store, &|| {
        let n = steps.fetch_add(1, SeqCst);
        if n < 5 {
            return Heed::Go;
        }
        if n == 5 {
            world.gate.close(Closer::Power);
            // What the plan does, in its order.
            assert!(world.gate.wait_quiet(SOON));
            let orders = store.orders();
            orders.commit_in_flight(SOON).expect("nothing in flight");
            let report = orders.checkpoint(Mode::Truncate, SOON).expect("moved");
            assert!(report.complete(), "{report:?}");
            let bytes = std::fs::metadata(to(&world)).expect("part of it").len();
            assert!(bytes < 400_000, "{bytes}");
            return Heed::Wait;
        }
        if n == 6 {
            return Heed::Wait;
        }
        assert!(world.gate.in_flight() == 0, "nobody writes behind the gate");
        world.gate.open(Closer::Power);
        Heed::GiveUp("power fails")
    });
    assert!(
        matches!(given_up, Err(CopyError::GivenUp(_))),
        "{given_up:?}"
    );
    assert!(!to(&world).exists(), "the part is gone");
    send(&store, &told, &line, 10);
    copy(&world, &store, &|| Heed::Go).expect("the next one");
    store.stop();
    let conn = Connection::open(to(&world)).expect("open");
    let rows: i64 = conn
        .query_row("SELECT count(*) FROM readings", [], |r| r.get(0))
        .expect("count");
    assert_eq!(rows, 20_010);
}

#[test]
fn a_store_that_is_stopped_in_the_middle_ends_the_copy() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let (told, line) = (Arc::new(Told::default()), AtomicU64::new(1));
    for _ in 0..10 {
        send(&store, &told, &line, 500);
    }
    let steps = AtomicU64::new(0);
    let ended = copy(&world, &store, &|| {
        if steps.fetch_add(1, SeqCst) == 2 {
            store.orders().stop();
        }
        Heed::Go
    });
    assert!(matches!(ended, Err(CopyError::NotOpen)), "{ended:?}");
    assert!(!to(&world).exists());
}
