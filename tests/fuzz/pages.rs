//! Page salvage of any bytes as a database, with and without a log, and what is made of it.
#![no_main]

use holdup::recovery::Pages;
use holdup::recovery::candidates::Candidate;
use holdup::recovery::pages::{Expected, FromPages, Image, page_size_of};
use holdup::recovery::wal::{Known, Overlay, Wal};
use holdup_fuzz::{Counted, Desk, Input, Strict, bounded, reseal};
use libfuzzer_sys::fuzz_target;
use rusqlite::Connection;

/// A row of the largest size is held a few times over.
const MEMORY: usize = 48 << 20;
/// Each page is read in each pass in each of its states.
const TIMES: u64 = 4000;
const READINGS: &str = "CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL,
    timestamp NOT NULL, value REAL NOT NULL, unit TEXT, metadata TEXT)";
const META: &str = "CREATE TABLE holdup_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID";

thread_local! {
    static DESK: Desk = Desk::new();
}

fuzz_target!(|bytes: &[u8]| {
    let Some(input) = Input::of(bytes) else {
        return;
    };
    let mut log = input.beside.to_vec();
    if input.option(0) {
        reseal(&mut log, input.option(1));
    }
    let readings = Expected {
        sql: READINGS,
        kept_from: input.option(2).then_some(1),
    };
    let known = [readings, Expected::of(META)];
    let known = if input.option(3) { &known[..] } else { &[] };
    bounded(MEMORY, || {
        let database = Counted::new(input.database, TIMES);
        if log.is_empty() {
            let image = Image::new(&database).expect("bytes can be read");
            salvaged(&image, known, input.option(4));
        } else {
            let source = Counted::new(&log, TIMES);
            let wal = Wal::read(&source, Known::of(&database));
            let stated = (!input.database.is_empty())
                .then(|| page_size_of(&database).expect("bytes can be read"));
            let stated = stated.and_then(|n| u32::try_from(n).ok());
            let overlay = Overlay::new(Some(&database), Some(&source), &wal, stated);
            salvaged(&overlay, known, input.option(4));
        }
    });
});

fn salvaged(pages: &dyn Pages, known: &[Expected<'_>], write: bool) {
    Strict::salvage(pages, known);
    if write {
        DESK.with(|desk| written(pages, known, desk));
    }
}

/// What is made of it is a sound database with as many rows as it says.
fn written(pages: &dyn Pages, known: &[Expected<'_>], desk: &Desk) {
    let out = desk.free("rows");
    let mut candidate = FromPages::new(pages, known, 0);
    candidate.build(&out, &desk.work()).expect("a database");
    let conn = Connection::open(&out).expect("open");
    let rebuilt = candidate.rebuilt().expect("it was built");
    for (table, tally) in &rebuilt.tables {
        let left_out = rebuilt.left_out.iter().any(|(name, _)| name == table);
        // A table that was only looked for and of which nothing was found is not made.
        let unfound = tally.kept == 0
            && ["readings", "holdup_meta"].contains(&table.as_str())
            && !conn.table_exists(None, table.as_str()).expect("a schema");
        if left_out || unfound || table.starts_with("sqlite_") {
            continue;
        }
        let name = table.replace('"', "\"\"");
        let sound: String = conn
            .query_row(&format!("PRAGMA integrity_check(\"{name}\")"), [], |r| {
                r.get(0)
            })
            .expect("a check");
        // A row that breaks a CHECK was written once; it is kept.
        assert!(
            sound == "ok" || sound.starts_with("CHECK constraint"),
            "{table} is not sound: {sound}"
        );
        let rows: i64 = conn
            .query_row(&format!("SELECT count(*) FROM \"{name}\""), [], |r| {
                r.get(0)
            })
            .expect("a count");
        assert_eq!(
            u64::try_from(rows).ok(),
            Some(tally.kept),
            "rows of {table}"
        );
    }
}
