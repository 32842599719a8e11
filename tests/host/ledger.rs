//! The ledger outside SQLite holds the store to what it acknowledged, and never stops it.

use std::fs;
use std::sync::Arc;

use holdup::durable::Closer;
use holdup::store::{Desk, Ledger, Mode};

use crate::home::{Home, poll};
use crate::store_world::{SETTINGS, Told, World, chunk, until};

/// A store of `n` acknowledged readings, stopped.
fn stored(world: &World, n: u64) {
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, n, None));
    until("they are acknowledged", || told.upto() == n);
    store.stop();
}

fn noted(world: &World) -> i64 {
    let noted = Ledger::read(&world.ledger()).expect("read");
    noted.expect("something was noted").highest
}

#[test]
fn the_plans_checkpoint_brings_the_ledger_up_to_date_before_it_answers() {
    let world = World::new();
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    for n in 1..=20 {
        store.intake().submit(chunk(&told, n, 1, None));
        until("it is acknowledged", || told.upto() == n);
    }
    world.gate.close(Closer::Power);
    store
        .orders()
        .checkpoint(Mode::Truncate, std::time::Duration::from_secs(60))
        .expect("checkpoint");
    assert_eq!(noted(&world), 20);
    assert_eq!(store.stats().ledger.upto, Some(20));
}

#[test]
fn a_store_that_ends_before_its_ledger_is_opened_and_names_the_ids_and_uses_none_twice() {
    let world = World::new();
    stored(&world, 50);
    assert_eq!(noted(&world), 50);
    let conn = rusqlite::Connection::open(world.path()).expect("open");
    conn.execute("DELETE FROM readings WHERE id > 30", [])
        .expect("lose some");
    drop(conn);
    let store = world.start(SETTINGS);
    assert_eq!(store.stats().ledger.missing, Some((31, 50)));
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 5, None));
    until("they are acknowledged", || told.upto() == 5);
    let stats = store.stats();
    assert_eq!((stats.stored, stats.next_id), (35, 56));
    store.stop();
    assert_eq!(
        world.ask("SELECT count(*) FROM readings WHERE id BETWEEN 31 AND 50"),
        0
    );
    assert_eq!(noted(&world), 55);
    // What is missing was named; now the two agree again, and the count is right.
    let store = world.start(SETTINGS);
    assert_eq!(store.stats().ledger.missing, None);
    assert_eq!(store.stats().stored, 35);
}

#[test]
fn a_ledger_that_a_killed_agent_left_behind_follows_the_store_at_the_next_start() {
    let world = World::new();
    stored(&world, 20);
    let behind = fs::read(world.ledger()).expect("ledger");
    let store = world.start(SETTINGS);
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 30, None));
    until("they are acknowledged", || told.upto() == 30);
    store.stop();
    assert_eq!(noted(&world), 50);
    // The note of its last second was never written.
    #[expect(clippy::disallowed_methods, reason = "the test plants it")]
    fs::write(world.ledger(), behind).expect("ledger");
    assert_eq!(noted(&world), 20);
    // Nothing new comes; what is there must not be lost unnamed all the same.
    world.start(SETTINGS).stop();
    assert_eq!(noted(&world), 50);
}

#[test]
fn an_emptied_store_starts_above_what_was_acknowledged() {
    let world = World::new();
    stored(&world, 9);
    let conn = rusqlite::Connection::open(world.path()).expect("open");
    conn.execute("DELETE FROM readings", []).expect("lose all");
    drop(conn);
    let store = world.start(SETTINGS);
    assert_eq!(store.stats().ledger.missing, Some((1, 9)));
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 2, None));
    until("they are acknowledged", || told.upto() == 2);
    let stats = store.stats();
    assert_eq!((stats.stored, stats.lowest_id, stats.next_id), (2, 10, 12));
}

#[test]
fn a_ledger_of_another_store_is_said_and_then_written_over() {
    let world = World::new();
    stored(&world, 9);
    fs::remove_file(world.path()).expect("remove");
    fs::remove_file(world.home.path().join("edge_store.db-wal")).ok();
    let store = world.start(SETTINGS);
    let view = store.stats().ledger;
    assert_eq!(view.missing, None);
    let problem = view.problem.expect("said");
    assert!(
        problem.contains("another store") && problem.contains("id 9"),
        "{problem}"
    );
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 2, None));
    until("they are acknowledged", || told.upto() == 2);
    store.stop();
    assert_eq!(noted(&world), 2);
    assert_eq!(world.start(SETTINGS).stats().ledger.problem, None);
}

#[test]
fn a_store_that_lost_rows_leaves_a_gap_while_the_queue_cannot_say_which_ids_it_gave_out() {
    let world = World::new();
    stored(&world, 30);
    let conn = rusqlite::Connection::open(world.path()).expect("open");
    conn.execute("DELETE FROM readings WHERE id > 20", [])
        .expect("lose some");
    drop(conn);
    let desk = Desk::new();
    desk.orders().unheard(true);
    let store = world.try_start_at(desk, SETTINGS).expect("start");
    let told = Arc::new(Told::default());
    store.intake().submit(chunk(&told, 1, 1, None));
    until("it is acknowledged", || told.upto() == 1);
    store.stop();
    assert_eq!(
        world.ask("SELECT max(id) FROM readings"),
        30 + (1 << 30) + 1
    );
}

#[test]
fn whatever_stands_in_the_ledgers_place_the_store_serves() {
    type Plant = fn(&std::path::Path);
    let plants: [(&str, Plant); 5] = [
        ("damaged", |p| {
            fs::File::create(p)
                .and_then(|mut f| std::io::Write::write_all(&mut f, &[7; 8192]))
                .expect("write");
        }),
        ("a directory", |p| fs::create_dir(p).expect("dir")),
        ("a link", |p| {
            std::os::unix::fs::symlink("/dev/zero", p).expect("link");
        }),
        ("a FIFO", |p| {
            let made = std::process::Command::new("mkfifo").arg(p).status();
            assert!(made.expect("mkfifo").success());
        }),
        ("nothing", |_| {}),
    ];
    for (what, plant) in plants {
        let world = World::new();
        stored(&world, 3);
        fs::remove_file(world.ledger()).expect("remove");
        plant(&world.ledger());
        let store = world.start(SETTINGS);
        assert_eq!(
            store.stats().ledger.problem.is_some(),
            what != "nothing",
            "{what}"
        );
        let told = Arc::new(Told::default());
        store.intake().submit(chunk(&told, 1, 2, None));
        until("they are acknowledged", || told.upto() == 2);
        store.stop();
        assert_eq!(world.rows(), 5, "{what}");
        let written = matches!(what, "damaged" | "nothing");
        assert_eq!(
            Ledger::read(&world.ledger()).is_ok_and(|n| n.is_some()),
            written,
            "{what}"
        );
    }
}

#[test]
fn the_agent_says_which_acknowledged_readings_are_missing() {
    let home = Home::new();
    let agent = home.serving();
    let mut client = home.client();
    for _ in 0..30 {
        client.send();
    }
    client.wait_acked(30);
    agent.stop();
    let conn = rusqlite::Connection::open(home.data("edge_store.db")).expect("open");
    conn.execute("DELETE FROM readings WHERE id > 20", [])
        .expect("lose some");
    drop(conn);
    let mut agent = home.serving();
    let s = agent.wait_for("the missing ids", |s| !s["ledger"]["missing"].is_null());
    assert_eq!(s["ledger"]["missing"], serde_json::json!([21, 30]));
    assert_eq!(s["readiness"], "AtRisk");
    let reasons = s["reasons"].as_array().expect("reasons");
    assert!(reasons.contains(&"acknowledged_missing".into()), "{s}");
    poll("the error in the log", || {
        home.log()
            .contains("ids 21 to 30 were acknowledged")
            .then_some(())
    });
}
