//! Recovery within a bound on memory that no database may widen.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use rusqlite::Connection;

/// Kibibytes of heap and other private memory that `holdup recover` may have.
const DATA_KIB: u32 = 62_500;

/// Some 120 MB, half of them an index.
fn large(path: &Path) {
    let conn = Connection::open(path).expect("open");
    conn.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF;
         CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL);
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
         INSERT INTO notes SELECT i, printf('%08x', i * 2654435761 % 4294967296) || printf('%.240c', 'x') FROM n;
         CREATE INDEX by_text ON notes(text);",
    )
    .expect("rows");
    conn.close().expect("close");
    assert!(fs::metadata(path).expect("size").len() > 100 << 20);
}

fn recover_within(kib: u32, database: &Path, out: &Path) -> Output {
    Command::new("sh")
        .args(["-c", "ulimit -d \"$1\" && shift && exec \"$@\"", "sh"])
        .arg(kib.to_string())
        .arg(env!("CARGO_BIN_EXE_holdup"))
        .args(["recover", "--json", "--output"])
        .args([out, database])
        .output()
        .expect("a shell")
}

fn rows(path: &Path, query: &str) -> i64 {
    let conn = Connection::open(path).expect("open");
    conn.query_row(query, [], |r| r.get(0)).expect("rows")
}

#[test]
fn a_database_twice_as_large_as_the_memory_is_recovered_row_by_row_and_by_its_indexes() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (path, out) = (dir.path().join("a.db"), dir.path().join("out.db"));
    large(&path);
    let root = rows(
        &path,
        "SELECT rootpage FROM sqlite_schema WHERE name = 'by_text'",
    );
    // Open no longer than it is used: nobody else may have the database open.
    let file = || {
        let file = File::options().read(true).write(true).open(&path);
        file.expect("open")
    };
    // The bound is one: with a quarter of it nothing can be done.
    let short = recover_within(DATA_KIB / 64, &path, &out);
    assert!(
        !short.status.success(),
        "the shell sets no bound: {short:?}"
    );
    fs::remove_file(&out).ok();

    // An entry of the index is another one: the index is made anew.
    let mut page = [0; 4096];
    let leaf = (u64::try_from(root).expect("a page")..)
        .find(|n| {
            file()
                .read_exact_at(&mut page, n * 4096)
                .expect("a leaf of the index");
            page[0] == 10
        })
        .expect("a leaf");
    file()
        .write_all_at(b"0", leaf * 4096 + 4090 - 200)
        .expect("damage");
    let made = recover_within(DATA_KIB, &path, &out);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    assert!(
        String::from_utf8_lossy(&made.stdout).contains("sound after REINDEX"),
        "{made:?}"
    );
    assert_eq!(
        rows(
            &out,
            "SELECT count(*) FROM notes INDEXED BY by_text WHERE text > ''"
        ),
        200_000
    );
    fs::remove_file(&out).expect("remove");

    // The header is lost: each row is read from its page, and the index made of them.
    file().write_all_at(&[0; 100], 0).expect("damage");
    let made = recover_within(DATA_KIB, &path, &out);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    assert_eq!(
        rows(
            &out,
            "SELECT count(*) FROM notes INDEXED BY by_text WHERE text > ''"
        ),
        200_000
    );
}
