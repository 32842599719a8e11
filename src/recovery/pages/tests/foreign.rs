//! What only the schemas of applications have.

use super::*;

#[test]
fn what_an_application_wrote_in_another_encoding_is_kept_byte_for_byte() {
    // Latin-1 in one row of many; then in each; bytes that are no text at all; UTF-16 that is none.
    let latin = "CAST(x'67726fdf' AS TEXT)";
    for (encoding, value, every) in [
        ("UTF-8", latin, 40),
        ("UTF-8", latin, 1),
        ("UTF-8", "CAST(x'0007ff00' AS TEXT)", 1),
        ("UTF-16le", "CAST(x'00d84100' AS TEXT)", 1),
        ("UTF-16be", "CAST(x'd800004141' AS TEXT)", 1),
    ] {
        let world = World::new(
            &format!("PRAGMA encoding = '{encoding}'"),
            &format!(
                "CREATE TABLE word(id INTEGER PRIMARY KEY, text TEXT, n INTEGER);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 400)
                 INSERT INTO word SELECT i, iif(i % {every} = 0, {value}, 'word'), i FROM n;"
            ),
        );
        let (new, _) = world.rebuilt(&world.bytes(), &[]);
        let sql = "SELECT id, CAST(text AS BLOB), typeof(text), n FROM word";
        let (old, new) = (all(&open(&world.db()), sql), all(&new, sql));
        assert_eq!(new.len(), 400, "{encoding} {value} {every}");
        assert_eq!(new, old, "{encoding} {value} {every}");
    }
}

fn one(conn: &Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |r| r.get(0)).expect("a number")
}

#[test]
fn a_full_text_index_that_is_damaged_is_made_anew_and_what_cannot_be_is_left_out_by_name() {
    let world = World::new(
        "PRAGMA page_size = 1024",
        "CREATE TABLE plain(id INTEGER PRIMARY KEY, text TEXT);
         CREATE VIRTUAL TABLE note USING fts5(title, body);
         CREATE VIRTUAL TABLE beside USING fts5(text, content = 'plain', content_rowid = 'id');
         CREATE VIRTUAL TABLE bare USING fts5(text, content = '');
         CREATE VIRTUAL TABLE place USING rtree(id, x0, x1);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 500)
         INSERT INTO plain SELECT i, 'word' || (i % 10) || ' number' || i FROM n;
         INSERT INTO note(rowid, title, body) SELECT id, 'title', text FROM plain;
         INSERT INTO beside(beside) VALUES('rebuild');
         INSERT INTO bare(rowid, text) SELECT id, text FROM plain;
         INSERT INTO place SELECT id, id, id + 1 FROM plain;",
    );
    let mut bytes = world.bytes();
    for table in ["note_data", "beside_data", "bare_data", "place_node"] {
        let all = pages_of(&world.db(), table);
        let leaves = all.iter().filter(|(_, kind)| kind == "leaf");
        let last = leaves.map(|(n, _)| *n).next_back().expect("a leaf");
        page(&mut bytes, 1024, last).fill(0);
    }
    let (new, rebuilt) = world.rebuilt(&bytes, &[]);
    assert_eq!(one(&new, "SELECT count(*) FROM plain"), 500);
    for search in ["note", "beside"] {
        let sql = format!("SELECT count(*) FROM {search} WHERE {search} MATCH 'word3'");
        assert_eq!(one(&new, &sql), 50, "{search}: {:?}", rebuilt.left_out);
    }
    let names: Vec<_> = rebuilt.left_out.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["bare", "place"], "{:?}", rebuilt.left_out);
    // What was in them is there under its own name.
    assert!(one(&new, "SELECT count(*) FROM place_rowid") > 0);
    assert!(one(&new, "SELECT count(*) FROM bare_docsize") > 0);
}

#[test]
fn rows_of_tables_that_have_lost_their_name_are_kept_under_the_page_of_their_tree() {
    let world = World::new(
        "PRAGMA page_size = 4096",
        "CREATE TABLE a(id INTEGER PRIMARY KEY, text TEXT, n INTEGER);
         CREATE TABLE b(name TEXT, n REAL, x INTEGER);
         CREATE TABLE key(code TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID;
         CREATE INDEX by_text ON a(text);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 900)
         INSERT INTO a SELECT i, 'a' || i, i * 3 FROM n;
         INSERT INTO b SELECT 'b' || id, id / 8.0, id FROM a;
         INSERT INTO key SELECT 'k' || id, 'text ' || id FROM a;
         DELETE FROM a WHERE id > 800;",
    );
    let root = |name: &str| {
        let sql = format!("SELECT rootpage FROM sqlite_schema WHERE name = '{name}'");
        one(&open(&world.db()), &sql)
    };
    let mut bytes = world.bytes();
    page(&mut bytes, 4096, 1).fill(0);
    let (new, _) = world.rebuilt(&bytes, &[]);
    let (a, b, key) = (root("a"), root("b"), root("key"));
    let old = open(&world.db());
    for (was, is) in [
        (
            "SELECT id, text, n FROM a".to_owned(),
            format!("SELECT _rowid_, c1, c2 FROM lost_and_found_{a}"),
        ),
        (
            "SELECT _rowid_, name, n, x FROM b".to_owned(),
            format!("SELECT _rowid_, c0, CAST(c1 AS REAL), c2 FROM lost_and_found_{b}"),
        ),
        (
            "SELECT code, text FROM key".to_owned(),
            format!("SELECT c0, c1 FROM lost_and_found_{key} ORDER BY c0"),
        ),
    ] {
        assert_eq!(all(&new, &is), all(&old, &was), "{was}");
    }
    let tables = one(&new, "SELECT count(*) FROM sqlite_schema");
    assert_eq!(tables, 3, "the index is no table");
}

#[test]
fn what_an_application_has_beside_its_rows_is_there_again_and_no_trigger_runs_meanwhile() {
    let world = World::new(
        "PRAGMA page_size = 1024",
        "CREATE TABLE event(id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER, body TEXT,
             day INTEGER GENERATED ALWAYS AS (at / 10) STORED, head TEXT AS (substr(body, 1, 2)));
         CREATE TABLE trail(event INTEGER);
         CREATE TRIGGER noted AFTER INSERT ON event BEGIN INSERT INTO trail VALUES(new.id); END;
         CREATE VIEW late AS SELECT * FROM event WHERE at > 300;
         CREATE INDEX by_day ON event(day, body);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 400)
         INSERT INTO event(at, body) SELECT i, 'body ' || i FROM n;
         DELETE FROM event WHERE id > 390;",
    );
    let (new, rebuilt) = world.rebuilt(&world.bytes(), &[]);
    assert!(rebuilt.left_out.is_empty(), "{:?}", rebuilt.left_out);
    let old = open(&world.db());
    for sql in [
        "SELECT * FROM event",
        "SELECT * FROM trail",
        "SELECT * FROM late",
        "SELECT day, head FROM event INDEXED BY by_day ORDER BY day, body",
        "SELECT type, name, sql FROM sqlite_schema ORDER BY name",
        "SELECT * FROM sqlite_sequence ORDER BY name",
    ] {
        assert_eq!(all(&new, sql), all(&old, sql), "{sql}");
    }
    new.execute("INSERT INTO event(at, body) VALUES(1, 'x')", [])
        .expect("insert");
    assert_eq!(
        one(&new, "SELECT max(id) FROM event"),
        401,
        "no number twice"
    );
}
