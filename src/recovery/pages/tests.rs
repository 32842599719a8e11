//! Salvage of files that SQLite made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::Value;

use super::*;

mod foreign;

/// A database in a directory of its own.
pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
}

impl World {
    pub(super) fn new(pragmas: &str, sql: &str) -> Self {
        let world = Self {
            dir: tempfile::tempdir().expect("temp dir"),
        };
        let conn = Connection::open(world.db()).expect("open");
        conn.execute_batch(pragmas).expect("pragmas");
        conn.execute_batch(sql).expect("content");
        conn.close().expect("close");
        world
    }

    pub(super) fn db(&self) -> PathBuf {
        self.dir.path().join("a.db")
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.db()).expect("read")
    }

    pub(super) fn rebuilt(&self, bytes: &[u8], known: &[Expected<'_>]) -> (Connection, Rebuilt) {
        let image = Image::new(bytes).expect("slice");
        self.rebuilt_from(&image, known)
    }

    pub(super) fn rebuilt_from(
        &self,
        pages: &dyn super::super::Pages,
        known: &[Expected<'_>],
    ) -> (Connection, Rebuilt) {
        let into = self.dir.path().join("new.db");
        let _gone = std::fs::remove_file(&into);
        let rebuilt = rebuild(pages, known, &into, &mut ()).expect("rebuild");
        let conn = Connection::open(&into).expect("open");
        let sound: String = conn
            .query_row("PRAGMA integrity_check", [], |r| r.get(0))
            .expect("check");
        assert_eq!(sound, "ok");
        (conn, rebuilt)
    }
}

/// All rows of a query, as SQLite gives them.
pub(super) fn all(conn: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut query = conn.prepare(sql).expect("query");
    let n = query.column_count();
    query
        .query_map([], |r| (0..n).map(|i| r.get(i)).collect())
        .expect("rows")
        .collect::<Result<_, _>>()
        .expect("rows")
}

pub(super) fn open(path: &Path) -> Connection {
    Connection::open(path).expect("open")
}

const EVERYTHING: &str = "
CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL, timestamp NOT NULL,
    value REAL NOT NULL, unit TEXT, metadata TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 700)
    INSERT INTO readings SELECT i, 'sensor ' || (i % 7), 1700000000 + i, i * 0.5, 'm²', NULL FROM n;
DELETE FROM readings WHERE id % 5 = 0;
CREATE TABLE plain(a, b TEXT);
INSERT INTO plain(rowid, a, b) VALUES(-9223372036854775808, x'00ff', 'low'),
    (-5, 2.5, 'neg'), (0, 0, 'zero'), (1, 1, ''), (9223372036854775807, NULL, 'huge');
CREATE TABLE blobs(k INTEGER PRIMARY KEY, b BLOB, t TEXT);
INSERT INTO blobs VALUES(1, randomblob(100000), hex(randomblob(30000))), (2, zeroblob(70000), NULL),
    (3, randomblob(3000), 'x');
CREATE TABLE keyed(k TEXT PRIMARY KEY, v, w REAL) WITHOUT ROWID;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 400)
    INSERT INTO keyed SELECT 'key ' || i, hex(randomblob(i % 50)), i FROM n;
INSERT INTO keyed VALUES('large', randomblob(9000), 0);
CREATE TABLE odd(v INT, k1 TEXT, k2 INT, PRIMARY KEY(k2, k1)) WITHOUT ROWID;
INSERT INTO odd VALUES(1,'a',9),(2,'b',8);
CREATE TABLE added(a INTEGER PRIMARY KEY);
INSERT INTO added VALUES(1),(2);
ALTER TABLE added ADD COLUMN b TEXT DEFAULT 'dflt';
ALTER TABLE added ADD COLUMN c INT;
INSERT INTO added VALUES(3, 'three', 3);
CREATE TABLE computed(a INT, b INT AS (a * 2) VIRTUAL, c INT AS (a + 1) STORED, d TEXT);
INSERT INTO computed(a, d) VALUES(1, 'one'), (2, 'two');
CREATE TABLE strictly(a INTEGER PRIMARY KEY, b TEXT, c ANY, d REAL) STRICT;
INSERT INTO strictly VALUES(1, 'x', 5, 2), (2, NULL, x'00', 1.5);
CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, v);
INSERT INTO counted(v) VALUES(1),(2),(3);
DELETE FROM counted WHERE id = 3;
CREATE TABLE down(id INTEGER PRIMARY KEY DESC, v TEXT);
INSERT INTO down VALUES(10, 'ten'), (3, 'three');
CREATE TABLE named(\"rowid\" TEXT, \"a b\" TEXT, \"q\"\"q\" INT UNIQUE);
INSERT INTO named VALUES('r', 's', 1), ('r2', 's2', 2);
CREATE INDEX by_value ON readings(value);
CREATE UNIQUE INDEX by_time ON readings(timestamp);
CREATE VIEW seen AS SELECT * FROM readings;
CREATE TRIGGER t AFTER INSERT ON plain BEGIN UPDATE plain SET b = 'x' WHERE 0; END;
PRAGMA user_version = 77; PRAGMA application_id = 1234;
";

const TABLES: [&str; 11] = [
    "readings", "plain", "blobs", "keyed", "odd", "added", "computed", "strictly", "counted",
    "down", "named",
];

fn contents(conn: &Connection) -> BTreeMap<&'static str, Vec<Vec<Value>>> {
    let mut all_rows = BTreeMap::new();
    for table in TABLES {
        let key = match table {
            "keyed" | "odd" => "*".to_owned(),
            "named" => "_rowid_, *".to_owned(),
            _ => "rowid, *".to_owned(),
        };
        let mut rows = all(conn, &format!("SELECT {key} FROM {table}"));
        rows.sort_by_key(|r| format!("{r:?}"));
        all_rows.insert(table, rows);
    }
    all_rows
}

#[test]
fn a_sound_database_is_rebuilt_as_it_was_in_every_page_size_and_encoding() {
    for page_size in [512, 1024, 4096, 65_536] {
        for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
            for vacuum in [0, 2] {
                let world = World::new(
                    &format!(
                        "PRAGMA page_size = {page_size}; PRAGMA encoding = '{encoding}';
                         PRAGMA auto_vacuum = {vacuum};"
                    ),
                    EVERYTHING,
                );
                let at = format!("{page_size} {encoding} {vacuum}");
                let (new, rebuilt) = world.rebuilt(&world.bytes(), &[]);
                let old = open(&world.db());
                assert_eq!(contents(&new), contents(&old), "{at}");
                assert!(rebuilt.left_out.is_empty(), "{at}: {:?}", rebuilt.left_out);
                assert_eq!(rebuilt.schema, Found::Read);
                for (name, t) in &rebuilt.tables {
                    let clean = Tally {
                        kept: t.kept,
                        ..Tally::default()
                    };
                    assert_eq!(*t, clean, "{at} {name}");
                }
                for pragma in [
                    "page_size",
                    "encoding",
                    "auto_vacuum",
                    "user_version",
                    "application_id",
                ] {
                    let sql = format!("PRAGMA {pragma}");
                    assert_eq!(all(&new, &sql), all(&old, &sql), "{at}");
                }
                let schema =
                    "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name";
                assert_eq!(all(&new, schema), all(&old, schema), "{at}");
                assert_eq!(
                    all(&new, "SELECT * FROM sqlite_sequence"),
                    all(&old, "SELECT * FROM sqlite_sequence"),
                );
            }
        }
    }
}

/// Pages of the tree of `table`, the interior ones apart, in a database of SQLite's.
fn pages_of(path: &Path, name: &str) -> Vec<(u32, String)> {
    all(
        &open(path),
        &format!("SELECT pageno, pagetype FROM dbstat WHERE name = '{name}'"),
    )
    .into_iter()
    .map(|r| match &r[..] {
        [Value::Integer(n), Value::Text(kind)] => (u32::try_from(*n).expect("page"), kind.clone()),
        other => panic!("{other:?}"),
    })
    .collect()
}

fn page(bytes: &mut [u8], size: usize, number: u32) -> &mut [u8] {
    &mut bytes[(number as usize - 1) * size..][..size]
}

const READINGS: &str = "CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor_name TEXT NOT NULL,
    timestamp NOT NULL, value REAL NOT NULL, unit TEXT, metadata TEXT)";

fn many(rows: u32) -> String {
    format!(
        "{READINGS};
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {rows})
         INSERT INTO readings SELECT i, 'sensor ' || (i % 7), 1700000000 + i, i * 0.25, NULL, NULL FROM n;"
    )
}

fn ids(conn: &Connection) -> Vec<i64> {
    all(conn, "SELECT id FROM readings ORDER BY id")
        .into_iter()
        .map(|r| match r[..] {
            [Value::Integer(n)] => n,
            ref other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_zeroed_root_loses_no_row_of_the_leaves_that_nothing_leads_to_any_more() {
    let world = World::new("PRAGMA page_size = 512", &many(2000));
    let mut bytes = world.bytes();
    for (n, kind) in pages_of(&world.db(), "readings") {
        if kind == "internal" {
            page(&mut bytes, 512, n).fill(0);
        }
    }
    let (new, rebuilt) = world.rebuilt(&bytes, &[]);
    assert_eq!(ids(&new), (1..=2000).collect::<Vec<_>>());
    assert_eq!(rebuilt.tables[0].1.orphaned, 2000);
}

#[test]
fn a_database_without_its_first_page_is_known_by_the_statements_of_its_owner() {
    let other = "CREATE TABLE clients(client INTEGER PRIMARY KEY, name TEXT NOT NULL)";
    let sql = format!(
        "{};{other};INSERT INTO clients VALUES(1,'a'),(2,'b'),(3,'c')",
        many(500)
    );
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        let world = World::new(
            &format!("PRAGMA page_size = 1024; PRAGMA encoding = '{encoding}'"),
            &sql,
        );
        let mut bytes = world.bytes();
        page(&mut bytes, 1024, 1).fill(0);
        let known = [Expected::of(READINGS), Expected::of(other)];
        let (new, rebuilt) = world.rebuilt(&bytes, &known);
        assert_eq!(rebuilt.schema, Found::Known, "{encoding}");
        assert_eq!(
            all(&new, "SELECT * FROM readings"),
            all(&open(&world.db()), "SELECT * FROM readings"),
        );
        assert_eq!(all(&new, "SELECT * FROM clients").len(), 3, "{encoding}");
    }
}

#[test]
fn rows_on_free_pages_and_in_free_blocks_stay_deleted_when_the_root_is_lost() {
    let sql = format!(
        "{}; DELETE FROM readings WHERE id BETWEEN 300 AND 900 OR id % 3 = 0;",
        many(1500)
    );
    let world = World::new("PRAGMA page_size = 1024", &sql);
    let left = ids(&open(&world.db()));
    let free = all(&open(&world.db()), "PRAGMA freelist_count");
    assert_ne!(free, [[Value::Integer(0)]], "no free pages to be mistaken");
    let mut bytes = world.bytes();
    for (n, kind) in pages_of(&world.db(), "readings") {
        if kind == "internal" {
            page(&mut bytes, 1024, n).fill(0xaa);
        }
    }
    let (new, _) = world.rebuilt(&bytes, &[]);
    assert_eq!(ids(&new), left);
}

#[test]
fn a_leaf_whose_pointers_are_lost_still_gives_the_cells_behind_them() {
    let world = World::new("PRAGMA page_size = 4096", &many(600));
    let (leaf, _) = pages_of(&world.db(), "readings")
        .into_iter()
        .find(|(_, kind)| kind == "leaf")
        .expect("a leaf");
    let mut bytes = world.bytes();
    page(&mut bytes, 4096, leaf)[..200].fill(0);
    let (new, rebuilt) = world.rebuilt(&bytes, &[]);
    assert_eq!(ids(&new), (1..=600).collect::<Vec<_>>());
    assert_eq!(rebuilt.damaged_leaves, 1);
}

#[test]
fn a_cell_with_a_broken_record_is_lost_alone() {
    let world = World::new("PRAGMA page_size = 4096", &many(600));
    let mut bytes = world.bytes();
    let (leaf, _) = pages_of(&world.db(), "readings")
        .into_iter()
        .find(|(_, kind)| kind == "leaf")
        .expect("a leaf");
    let at = page(&mut bytes, 4096, leaf)
        .windows(8)
        .position(|w| w == b"sensor 3")
        .expect("a row");
    // No byte of UTF-8.
    page(&mut bytes, 4096, leaf)[at] = 0xff;
    let (new, rebuilt) = world.rebuilt(&bytes, &[Expected::of(READINGS)]);
    assert_eq!(ids(&new).len(), 599);
    assert_eq!(rebuilt.tables[0].1.damaged, 1);
}

#[test]
fn of_an_overflow_chain_that_is_cut_no_row_is_made() {
    let world = World::new(
        "PRAGMA page_size = 1024",
        "CREATE TABLE blobs(k INTEGER PRIMARY KEY, b BLOB);
         INSERT INTO blobs VALUES(1, randomblob(100000)), (2, randomblob(100000)), (3, x'01');",
    );
    let chain: Vec<u32> = pages_of(&world.db(), "blobs")
        .into_iter()
        .filter(|(_, kind)| kind == "overflow")
        .map(|(n, _)| n)
        .collect();
    for (at, fill) in [(40, 0), (40, 0x5a), (chain.len() - 1, 0)] {
        let mut bytes = world.bytes();
        page(&mut bytes, 1024, chain[at]).fill(fill);
        let (new, rebuilt) = world.rebuilt(&bytes, &[]);
        let old = all(&open(&world.db()), "SELECT * FROM blobs");
        let kept = all(&new, "SELECT * FROM blobs");
        assert_eq!(kept.len(), 2, "page {at} of {fill}");
        assert!(kept.iter().all(|r| old.contains(r)), "made up");
        assert_eq!(rebuilt.tables[0].1.damaged, 1);
    }
}

#[test]
fn of_two_rows_that_exclude_each_other_one_is_kept_and_the_other_counted() {
    let queue = "CREATE TABLE q(id INTEGER PRIMARY KEY, message_id TEXT NOT NULL UNIQUE)";
    let world = World::new(
        "",
        &format!("{queue}; INSERT INTO q VALUES(1,'one'),(2,'two')"),
    );
    let mut bytes = world.bytes();
    let root = pages_of(&world.db(), "q")[0].0;
    let leaf = page(&mut bytes, 4096, root);
    let at = leaf.windows(3).position(|w| w == b"two").expect("a row");
    leaf[at..at + 3].copy_from_slice(b"one");
    let (new, rebuilt) = world.rebuilt(&bytes, &[]);
    assert_eq!(all(&new, "SELECT id FROM q").len(), 1);
    assert_eq!(rebuilt.tables[0].1.conflicts, 1);
}

#[test]
fn a_hostile_schema_runs_nothing() {
    let world = World::new("", "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
    let conn = open(&world.db());
    conn.execute_batch(
        "PRAGMA writable_schema = ON;
         INSERT INTO sqlite_schema VALUES('table', 'u', 'u', 2,
           'CREATE TABLE u AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT * FROM n');
         INSERT INTO sqlite_schema VALUES('view', 'v', 'v', 0, 'CREATE TABLE v AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT * FROM n');
         INSERT INTO sqlite_schema VALUES('index', 'w', 't', 0, 'CREATE INDEX w ON t(a); ATTACH ''/tmp/x'' AS y');",
    )
    .expect("schema");
    conn.close().expect("close");
    let (new, rebuilt) = world.rebuilt(&world.bytes(), &[]);
    assert_eq!(all(&new, "SELECT * FROM t").len(), 1);
    assert_eq!(rebuilt.left_out.len(), 3, "{:?}", rebuilt.left_out);
}

#[test]
fn a_virtual_table_whose_statement_is_damaged_costs_no_other_table() {
    let world = World::new(
        "",
        "CREATE TABLE t(a); INSERT INTO t VALUES(1),(2);
         CREATE VIRTUAL TABLE f USING fts5(words); INSERT INTO f VALUES('one two');
         CREATE VIRTUAL TABLE g USING fts5(words); INSERT INTO g VALUES('three');",
    );
    let mut bytes = world.bytes();
    let damaged = b"VIRTUAL TABLE f";
    let at = bytes.windows(damaged.len()).position(|w| w == damaged);
    bytes[at.expect("its statement") + 9] = b'Q';
    let (conn, rebuilt) = world.rebuilt(&bytes, &[]);
    assert_eq!(all(&conn, "SELECT a FROM t").len(), 2);
    assert_eq!(all(&conn, "SELECT * FROM g WHERE g MATCH 'three'").len(), 1);
    let left_out: Vec<_> = rebuilt.left_out.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(left_out, ["f"], "and it is named");
}

#[test]
fn the_page_size_is_found_without_a_header() {
    for size in [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536] {
        let world = World::new(&format!("PRAGMA page_size = {size}"), &many(6000));
        let mut bytes = world.bytes();
        bytes[..100].fill(0);
        assert_eq!(page_size_of(&&bytes[..]).expect("bytes"), size);
    }
}

/// A database in rollback mode, caught in the midst of a transaction that has spilt: its file
/// half written, its journal hot.
fn caught() -> (World, Vec<u8>, Vec<u8>) {
    let world = World::new("PRAGMA page_size = 1024", &many(3000));
    let conn = open(&world.db());
    conn.execute_batch(
        "PRAGMA cache_size = 5; BEGIN; UPDATE readings SET value = -1; DELETE FROM readings WHERE id > 2900;",
    )
    .expect("spill");
    let db = world.bytes();
    let journal = std::fs::read(world.dir.path().join("a.db-journal")).expect("journal");
    conn.execute_batch("ROLLBACK").expect("rollback");
    (world, db, journal)
}

#[test]
fn a_hot_journal_gives_the_state_before_the_transaction() {
    let (world, db, log) = caught();
    assert_ne!(db, world.bytes(), "nothing had spilt");
    let journal = Journal::read(&&log[..]).expect("journal");
    assert_eq!(journal.state(), JournalState::Hot);
    let pages = RolledBack::new(&db[..], &log[..], &journal).expect("pages");
    let (new, _) = world.rebuilt_from(&pages, &[]);
    let wanted = all(&open(&world.db()), "SELECT * FROM readings");
    assert_eq!(all(&new, "SELECT * FROM readings"), wanted);
    let empty = Journal::read(&&[0; 512][..]).expect("journal");
    assert_eq!(empty.state(), JournalState::Idle);
    assert_eq!(
        Journal::read(&&b"nonsense"[..]).expect("journal").state(),
        JournalState::Unreadable
    );
}

#[test]
fn a_torn_journal_names_the_pages_that_may_be_half_written() {
    let (_, db, mut log) = caught();
    let whole = Journal::read(&&log[..]).expect("journal").originals();
    // A byte that the sum covers, in the first record.
    let at = 512 + 4 + (1024 - 200);
    log[at] ^= 1;
    let journal = Journal::read(&&log[..]).expect("journal");
    assert_eq!(journal.state(), JournalState::Torn);
    assert_eq!(journal.originals(), whole - 1);
    assert_eq!(journal.suspect().count(), 1);
    // In the midst of the last record of the first header.
    let records = u32::from_be_bytes(log[8..12].try_into().expect("4 bytes")) as usize;
    let cut = Journal::read(&&log[..512 + records * 1032 - 7]).expect("journal");
    assert_eq!(cut.state(), JournalState::Torn);
    assert!(cut.unknown() > 0, "what is cut off is counted");
    RolledBack::new(&db[..], &log[..], &cut).expect("pages");
}

#[test]
fn the_writing_is_stilled_between_portions_and_given_up_when_told() {
    use crate::recovery::RecoveryError;
    /// Allows so many portions.
    struct Few {
        left: u32,
        open: bool,
    }
    impl Pace for Few {
        fn begin(&mut self) -> Result<(), RecoveryError> {
            assert!(!self.open, "two portions at once");
            self.open = true;
            self.left = self
                .left
                .checked_sub(1)
                .ok_or_else(|| RecoveryError::Stopped {
                    path: "new.db".into(),
                })?;
            Ok(())
        }

        fn end(&mut self) -> Result<(), RecoveryError> {
            assert!(self.open, "nothing was begun");
            self.open = false;
            Ok(())
        }
    }
    let world = World::new("PRAGMA page_size = 512", &many(20_000));
    let bytes = world.bytes();
    let image = Image::new(&bytes[..]).expect("slice");
    for (left, stopped) in [(2, true), (1000, false)] {
        let into = world.dir.path().join(format!("{left}.db"));
        let mut pace = Few { left, open: false };
        let done = rebuild(&image, &[], &into, &mut pace);
        let by_pace = matches!(done, Err(RecoveryError::Stopped { .. }));
        assert_eq!(by_pace, stopped, "{done:?}");
        assert!(stopped || !pace.open, "left within a portion");
        let portions = left - pace.left;
        assert!(
            stopped || portions > 5,
            "{portions} portions for 20,000 rows"
        );
    }
}

/// Takes every row and keeps none.
struct Counter(u64);

impl Keeper for Counter {
    type Error = std::convert::Infallible;

    fn offer(&mut self, row: Row<'_>) -> Result<Offer, Self::Error> {
        self.0 += row.values.len() as u64;
        Ok(Offer::Kept)
    }
}

fn endures(bytes: &[u8]) {
    let known = [Expected {
        sql: READINGS,
        kept_from: Some(1),
    }];
    let image = Image::new(bytes).expect("bytes");
    let schema = Schema::read(&image, &known);
    let mut counter = Counter(0);
    salvage(&image, &schema, &mut counter).expect("infallible");
    let journal = Journal::read(&bytes).expect("bytes");
    let pages = RolledBack::new(bytes, bytes, &journal).expect("bytes");
    salvage(&pages, &Schema::read(&pages, &known), &mut counter).expect("infallible");
}

mod any_bytes {
    use super::*;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    fn sound() -> &'static [u8] {
        static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
        BYTES.get_or_init(|| World::new("PRAGMA page_size = 512", EVERYTHING).bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn never_panic_and_always_end(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            endures(&bytes);
        }

        #[test]
        fn in_the_midst_of_a_database_never_panic_and_always_end(
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..60),
            blocks in prop::collection::vec((any::<prop::sample::Index>(), 1..700usize, any::<u8>()), 0..4),
            swap in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..3),
        ) {
            let mut bytes = sound().to_vec();
            let pages = bytes.len() / 512;
            for (a, b) in swap {
                let (a, b) = (a.index(pages), b.index(pages));
                let page = bytes[a * 512..][..512].to_vec();
                bytes[b * 512..][..512].copy_from_slice(&page);
            }
            for (at, len, with) in blocks {
                let at = at.index(bytes.len());
                let end = bytes.len().min(at + len);
                bytes[at..end].fill(with);
            }
            for (at, with) in hits {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
            endures(&bytes);
        }
    }
}
