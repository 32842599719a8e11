//! Finding, marking and taking back, against a real database.

use std::ops::ControlFlow;

use rusqlite::{Connection, StatementStatus};

use super::seek::look_for;
use super::*;

/// A store of which `timestamp` is declared as `kind`, with these timestamps of one sensor.
fn store(kind: &str, stamps: &[&str]) -> Connection {
    let conn = Connection::open_in_memory().expect("open");
    conn.execute_batch(&format!(
        "CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL,
            timestamp {kind} NOT NULL, value REAL NOT NULL, unit TEXT, metadata TEXT)"
    ))
    .expect("table");
    for stamp in stamps {
        add(&conn, "bad", stamp);
    }
    prepare(&conn).expect("prepare");
    conn
}

fn add(conn: &Connection, sensor: &str, stamp: &str) {
    let sql =
        format!("INSERT INTO readings(sensor_name, timestamp, value) VALUES(?1, {stamp}, 1.5)");
    conn.execute(&sql, [sensor]).expect("insert");
}

fn span(since: Option<Stamp<String>>, until: Option<Stamp<String>>) -> Span {
    Span {
        sensor_name: "bad".to_owned(),
        since,
        until,
    }
}

fn found(conn: &Connection, span: &Span, portion: i64) -> Found {
    look_for(conn, span, portion, &mut |_| ControlFlow::Continue(()))
        .expect("look")
        .expect("to the end")
}

fn mark(conn: &Connection, span: &Span) -> i64 {
    let what = Retract::Mark {
        span: span.clone(),
        found: found(conn, span, 1000),
        reason: "loose wire".to_owned(),
        actor: "uid:0".to_owned(),
    };
    what.check().expect("sensible");
    write(conn, &what, 7).expect("write").expect("a number")
}

fn one(conn: &Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |r| r.get(0)).expect(sql)
}

fn valid(conn: &Connection) -> i64 {
    one(conn, "SELECT count(*) FROM readings_valid")
}

#[test]
fn the_view_leaves_out_what_is_retracted_until_it_is_undone_and_no_reading_changes() {
    let conn = store("", &["1", "2", "3", "4", "5"]);
    add(&conn, "good", "3");
    let before = everything(&conn);
    let seq = mark(&conn, &span(Some(Stamp::Int(2)), Some(Stamp::Real(4.0))));
    assert_eq!(valid(&conn), 3);
    let left = "SELECT group_concat(id) = '1,5,6' FROM (SELECT id FROM readings_valid ORDER BY id)";
    assert_eq!(one(&conn, left), 1);
    let listed = seek::read(&conn).expect("list");
    assert_eq!(
        (listed[0].seq, listed[0].first_id, listed[0].last_id),
        (seq, 2, 4)
    );
    assert_eq!(listed[0].until, Some(Stamp::Real(4.0)), "as it was given");
    let undo = Retract::Undo { seq };
    assert_eq!(write(&conn, &undo, 8).expect("undo"), Some(seq));
    assert_eq!(valid(&conn), 6);
    assert_eq!(write(&conn, &undo, 9).expect("again"), None);
    assert_eq!(seek::read(&conn).expect("list")[0].undone, Some(8));
    assert_eq!(everything(&conn), before);
}

fn everything(conn: &Connection) -> Vec<String> {
    let sql = "SELECT quote(id) || quote(sensor_name) || quote(timestamp) || quote(value)
                   || quote(unit) || quote(metadata) FROM readings ORDER BY id";
    conn.prepare(sql)
        .and_then(|mut q| q.query_map([], |r| r.get(0))?.collect())
        .expect("rows")
}

#[test]
fn a_reading_that_comes_later_is_not_retracted() {
    let conn = store("", &["1", "2"]);
    mark(&conn, &span(None, None));
    add(&conn, "bad", "1");
    assert_eq!(valid(&conn), 1);
}

#[test]
fn what_was_counted_is_what_the_view_leaves_out_whatever_types_meet() {
    let stamps = [
        "1",
        "9",
        "10",
        "10.5",
        "'9'",
        "'10'",
        "'2026-11-21T10:00:00Z'",
        "'2026-11-22'",
        "x'00'",
    ];
    let text = |t: &str| Stamp::Text(t.to_owned());
    let bounds = [
        None,
        Some(Stamp::Int(9)),
        Some(Stamp::Int(10)),
        Some(Stamp::Real(10.25)),
        Some(text("2026-11-22")),
        Some(text("10")),
    ];
    let mut left_out = 0;
    for kind in ["", "TEXT", "INTEGER", "REAL", "DATETIME"] {
        for since in &bounds {
            for until in &bounds {
                let conn = store(kind, &stamps);
                let span = span(since.clone(), until.clone());
                let found = found(&conn, &span, 1000);
                if found.rows > 0 {
                    mark(&conn, &span);
                }
                let rows = found.rows.cast_signed();
                assert_eq!(valid(&conn), 9 - rows, "{kind}: {since:?} {until:?}");
                left_out += rows;
            }
        }
    }
    assert!(left_out > 100, "{left_out}: nothing was compared");
}

#[test]
fn readings_are_looked_for_in_portions_and_the_looking_can_be_broken_off() {
    let conn = store("", &["1"; 50]);
    conn.execute("DELETE FROM readings WHERE id % 3 = 0", [])
        .expect("delete");
    let all = span(None, None);
    let whole = found(&conn, &all, -1);
    assert_eq!((whole.rows, whole.first_id, whole.last_id), (34, 1, 50));
    for portion in [1, 7, 33, 34, 35] {
        assert_eq!(found(&conn, &all, portion), whole, "{portion} at a time");
    }
    let mut told = Vec::new();
    let broken_off = look_for(&conn, &all, 10, &mut |seen| {
        told.push(seen);
        // What comes meanwhile is not meant.
        add(&conn, "bad", "1");
        if seen == 20 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!((broken_off.expect("look"), told), (None, vec![10, 20]));
    let mut grown = 0;
    let while_growing = look_for(&conn, &all, 10, &mut |_| {
        grown += 1;
        assert!(grown < 100, "it runs after what comes");
        (0..20).for_each(|_| add(&conn, "bad", "1"));
        ControlFlow::Continue(())
    });
    assert_eq!(while_growing.expect("look").expect("an end").last_id, 52);
}

#[test]
fn the_view_costs_little_where_nothing_is_retracted() {
    let conn = store("", &["1"; 500]);
    let steps = |table: &str| {
        let mut q = conn
            .prepare(&format!("SELECT total(value) FROM {table}"))
            .expect("query");
        q.query_row([], |_| Ok(())).expect("row");
        q.get_status(StatementStatus::VmStep)
    };
    let plain = steps("readings");
    let undone = mark(&conn, &span(None, None));
    let marked = steps("readings_valid");
    write(&conn, &Retract::Undo { seq: undone }, 1).expect("undo");
    let view = steps("readings_valid");
    assert!(view < plain * 2, "{view} steps against {plain}");
    assert!(marked > plain * 2, "{marked}: the measure sees nothing");
    // One row by its id is still found by its id.
    let plan: String = conn
        .query_row(
            "EXPLAIN QUERY PLAN SELECT * FROM readings_valid WHERE id = 5",
            [],
            |r| r.get(3),
        )
        .expect("plan");
    assert!(plan.contains("PRIMARY KEY"), "{plan}");
}

#[test]
fn what_others_made_under_the_views_name_stays() {
    let conn = Connection::open_in_memory().expect("open");
    conn.execute_batch(
        "CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name, timestamp, value);
         CREATE TABLE readings_valid(mine); INSERT INTO readings_valid VALUES(5);",
    )
    .expect("tables");
    prepare(&conn).expect("prepare");
    prepare(&conn).expect("twice");
    assert_eq!(one(&conn, "SELECT mine FROM readings_valid"), 5);
}

#[test]
fn a_retraction_without_a_reason_a_reading_or_a_name_is_refused() {
    let good = (
        Found {
            rows: 1,
            first_id: 1,
            last_id: 1,
        },
        "why",
        "uid:0",
    );
    let long = "x".repeat(600);
    let none = Found::default();
    let turned = Found {
        rows: 1,
        first_id: 2,
        last_id: 1,
    };
    let check = |(found, reason, actor): (Found, &str, &str)| {
        let what = Retract::Mark {
            span: span(None, None),
            found,
            reason: reason.to_owned(),
            actor: actor.to_owned(),
        };
        what.check()
    };
    check(good).expect("good");
    for bad in [
        (none, "why", "uid:0"),
        (turned, "why", "uid:0"),
        (good.0, " ", "uid:0"),
        (good.0, "a\nb", "uid:0"),
        (good.0, &long, "uid:0"),
        (good.0, "why", ""),
        (good.0, "why", &long),
    ] {
        assert!(
            matches!(check(bad), Err(RetractError::Invalid(_))),
            "{bad:?}"
        );
    }
}
