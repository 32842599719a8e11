//! Writes the inputs that fuzzing begins with: what real SQLite wrote, whole and damaged.
//!
//! `HOLDUP_FUZZ_SEEDS=DIR seeds -runs=0` makes `DIR/TARGET/` for each target. It is built like a
//! target, so that nothing is built twice.
#![no_main]

#[path = "../crash/corpus.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod corpus;

use std::fs;
use std::path::PathBuf;

use corpus::{Case, Dice, Fault, Where, Workload, made};
use holdup_fuzz::Input;
use libfuzzer_sys::fuzz_target;
use rusqlite::Connection;
use sha2::{Digest, Sha256};

fuzz_target!(init: make(), |_bytes: &[u8]| {});

fn make() {
    let root = PathBuf::from(std::env::var_os("HOLDUP_FUZZ_SEEDS").expect("a directory"));
    let put = |target: &str, all: Vec<Vec<u8>>| {
        let dir = root.join(target);
        fs::create_dir_all(&dir).expect("a directory");
        for (n, bytes) in all.into_iter().enumerate() {
            fs::write(dir.join(format!("seed-{n:03}")), bytes).expect("room for it");
        }
    };
    put("wal", logs());
    put("pages", pages());
    put("journal", journals());
    put("ledger", notes());
    put("queue", lines());
    put("audit", entries());
    put("console", sessions());
    put("media", pages_and_texts());
}

/// What cards, controllers and kernels say.
fn pages_and_texts() -> Vec<Vec<u8>> {
    let signatures: [&[u8]; 9] = [
        b"DS200710\x0c",
        b"\x70\x58",
        b"LX",
        b"\x09\x41",
        b"Tr",
        b"ME",
        b"Sw",
        b"\x98\x3e\xa8",
        b"\x98\x3e\xa8",
    ];
    let mut all = Vec::new();
    for (choice, signature) in (0u8..).zip(signatures) {
        let mut page = vec![choice];
        page.extend(signature);
        page.resize(513, 1);
        all.push(page);
    }
    let mut log = vec![9, 0, 0x36, 1, 100, 10, 3];
    log.resize(513, 0);
    all.push(log);
    let mut registers = vec![10];
    registers.extend(b"\x03SDSC32G\x80\xb1\xa2\xc3\xd4\x01\x37\x00");
    registers.resize(513, 0x40);
    all.push(registers);
    for text in [
        "0x01 0x0a\n0x02\n",
        "3,1,9,-;I/O error, dev mmcblk0, sector 9 op 0x0:(READ)\n4,2,9,-;mmc0: running CQE recovery\n",
        "# Data CRC Errors Occurred:\t 9\n",
        "1 2 3 4 5 6 7 8 9 10 11 12\n",
        "{\"version\":1,\"media\":[{\"id\":\"a\",\"wear\":[[1,{\"low\":1,\"high\":2}]]}]}",
    ] {
        let mut bytes = vec![11];
        bytes.extend(text.as_bytes());
        all.push(bytes);
    }
    all
}

/// What is typed and pasted at a console.
fn sessions() -> Vec<Vec<u8>> {
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFsq0EOa7iLWdb9h3zCa++ToSzQJOR7FiKcfRl2fStAD";
    let signature = "-----BEGIN SSH SIGNATURE-----\rU1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkA\r\
                     -----END SSH SIGNATURE-----\r";
    let typed = [
        "\rhelp\rstatus\rdata rec\t\r".to_owned(),
        format!("\rlogin\r\x1b[200~{signature}\x1b[201~\x03\rlogout\r"),
        "\rlo\x1b[Dx\x7f\x1b[A\x1b[B\x15\x17\x0cclaim\r\x04".to_owned(),
    ];
    let read = [
        format!("# keys\nkim namespaces=\"holdup\",valid-before=\"20300101Z\" {KEY} laptop\n"),
        signature.replace('\r', "\n"),
    ];
    let mut all = Vec::new();
    for (options, texts) in [(0x20, &typed[..]), (1, &read[..])] {
        all.extend(texts.iter().map(|t| {
            let mut bytes = vec![options];
            bytes.extend(t.as_bytes());
            bytes
        }));
    }
    all
}

/// A case and one of it for each fault.
fn cases(place: Where, faults: &[Fault], seed: u64) -> Vec<Case> {
    let mut all = Vec::new();
    let mut dice = Dice::new(seed);
    for (workload, page_size, rows) in [
        (Workload::Append, 512, 60),
        (Workload::Mixed, 512, 40),
        (Workload::Mixed, 1024, 30),
        (Workload::Append, 4096, 12),
    ] {
        let case = made(&mut dice, workload, place, page_size, rows);
        all.push(case.clone());
        if page_size == 512 {
            all.extend(faults.iter().map(|fault| {
                let mut struck = case.clone();
                fault.strike(&mut struck, &mut dice);
                struck
            }));
        }
    }
    all
}

fn logs() -> Vec<Vec<u8>> {
    let all = cases(Where::HalfInLog, &Fault::LOG, 1);
    let each = all.iter().enumerate().map(|(n, case)| {
        let options = [0, 1, 8, 3, 9, 12][n % 6];
        bytes(options, case)
    });
    each.collect()
}

fn pages() -> Vec<Vec<u8>> {
    let mut all = cases(Where::Database, &Fault::DATABASE, 2);
    all.extend(cases(Where::HalfInLog, &[Fault::DbMissing], 3));
    let each = all.iter().enumerate().map(|(n, case)| {
        let options = [0x18, 0x10, 0x0c, 0x1c][n % 4];
        bytes(options, case)
    });
    let mut each: Vec<_> = each.collect();
    each.extend(schemas().iter().map(|db| Input::bytes(0x10, db, &[])));
    each
}

fn bytes(options: u8, case: &Case) -> Vec<u8> {
    let part = |p: &Option<Vec<u8>>| p.clone().unwrap_or_default();
    Input::bytes(options, &part(&case.files.db), &part(&case.files.wal))
}

fn database(sql: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.db");
    let conn = Connection::open(&path).expect("open");
    conn.execute_batch(sql).expect("SQL");
    drop(conn);
    fs::read(&path).expect("read")
}

/// What a schema can hold.
fn schemas() -> Vec<Vec<u8>> {
    [
        "PRAGMA page_size=512; CREATE TABLE t(a PRIMARY KEY, b DEFAULT 7, c AS (a || b) STORED,
         d AS (b) VIRTUAL) WITHOUT ROWID; INSERT INTO t(a) VALUES(1),('x'),(2.5),(x'00ff');",
        "PRAGMA page_size=512; PRAGMA encoding='UTF-16le'; CREATE TABLE t(a TEXT UNIQUE, b BLOB);
         INSERT INTO t VALUES('eins', zeroblob(3000)), ('zwei', randomblob(1500));
         CREATE VIEW v AS SELECT * FROM t; CREATE INDEX i ON t(upper(a)) WHERE b IS NOT NULL;",
        "PRAGMA page_size=512; PRAGMA auto_vacuum=1; CREATE TABLE t(id INTEGER PRIMARY KEY
         AUTOINCREMENT, a CHECK(a <> 3)); INSERT INTO t(a) VALUES(1),(2),(4);
         CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t WHERE id = 1; END;
         CREATE TABLE u(x INT REFERENCES t, y INT NOT NULL, UNIQUE(x, y)) STRICT;",
        "PRAGMA page_size=512; CREATE VIRTUAL TABLE f USING fts5(words);
         INSERT INTO f VALUES('the quick brown fox'), ('jumps over');",
    ]
    .map(database)
    .to_vec()
}

/// A transaction that spills its cache leaves a journal behind a copied, half written database.
fn journals() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (mode, options) in [
        ("PERSIST", 4),
        ("DELETE", 0),
        ("TRUNCATE", 5),
        ("DELETE", 3),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.db");
        let conn = Connection::open(&path).expect("open");
        conn.execute_batch(&format!(
            "PRAGMA page_size = 512; PRAGMA cache_size = 5; PRAGMA journal_mode = {mode};
             CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT);
             WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 80)
             INSERT INTO t SELECT i, 'row ' || i || hex(randomblob(20)) FROM n;
             BEGIN; UPDATE t SET a = 'changed ' || a; DELETE FROM t WHERE id % 3 = 0;"
        ))
        .expect("SQL");
        let journal = fs::read(dir.path().join("a.db-journal")).expect("a journal");
        let db = fs::read(&path).expect("read");
        for cut in [journal.len(), journal.len() / 2] {
            all.push(Input::bytes(options, &db, &journal[..cut]));
        }
    }
    all
}

fn hex(text: &str) -> String {
    let hash = Sha256::digest(text);
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

fn notes() -> Vec<Vec<u8>> {
    let note = |counter: u64, highest: i64| {
        let (epoch, previous) = ("00000000000000ff", "0".repeat(64));
        let hash = hex(&format!(
            "holdup-ledger-1\n{counter}\n{epoch}\n{highest}\n1\n1767225600000\n{previous}\n"
        ));
        format!(
            "{{\"version\":1,\"counter\":{counter},\"epoch\":\"{epoch}\",\"highest\":{highest},\
             \"lowest\":1,\"at\":\"2026-01-01T00:00:00.000Z\",\"wall_ms\":1767225600000,\
             \"previous\":\"{previous}\",\"hash\":\"{hash}\"}}"
        )
    };
    let all = [(3, 10, 4, 20), (9, 99, 8, 98), (0, 0, 1, i64::MAX)];
    let both = |(a, b, c, d)| (note(a, b), note(c, d));
    let each = all.into_iter().map(both).flat_map(|(a, b)| {
        [3u8, 15, 1, 19].map(|options| {
            let mut bytes = vec![options];
            let half = a.len().max(b.len());
            bytes.extend(format!("{a:<half$}{b:<half$}").into_bytes());
            bytes
        })
    });
    each.collect()
}

fn lines() -> Vec<Vec<u8>> {
    let one = "{\"message_id\":\"plant-7/00f3/42\",\"payload\":\"{\\\"v\\\":1.5}\",\"priority\":0,\
         \"created_at\":1767225600000,\"ttl_seconds\":null,\"retry_count\":0,\
         \"next_retry_at\":null}\n";
    let dead = "{\"message_id\":\"a\",\"payload_hex\":\"00ff\",\"priority\":-3,\
         \"created_at\":null,\"ttl_seconds\":60,\"retry_count\":5,\"next_retry_at\":1,\
         \"reason\":\"expired\",\"died_at\":7}\n";
    let mut row = vec![31u8];
    row.extend([1u8; 40]);
    row.extend("plant-7/00f3/42 and a payload of its own".bytes());
    vec![
        format!("\0{one}{dead}\n{one}").into_bytes(),
        format!("\u{14}{dead}{{}}\r\n  \n").into_bytes(),
        row,
    ]
}

fn entries() -> Vec<Vec<u8>> {
    let draft = |details: &str| {
        format!(
            "{{\"version\":1,\"place\":\"a:1\",\"entry\":{{\"wall\":\"2026-01-01T00:00:00.000Z\",\
             \"mono_ms\":5,\"boot\":\"b\",\"synchronised\":true,\"actor\":\"agent\",\
             \"action\":\"test\",\"details\":{details:?},\"key\":\"k\"}}}}\n"
        )
    };
    let head = "{\"version\":1,\"head\":{\"sequence\":3,\"hash\":\"00\"}}\n";
    let long = "x\\u0007".repeat(1000);
    vec![
        format!("\u{1}{head}{}{}", draft("{}"), draft(&long)).into_bytes(),
        format!("\u{1}{}{{\"version\":2}}\nno JSON", draft("{\"a\":1}")).into_bytes(),
        [vec![0], last_page()].concat(),
    ]
}

/// The leaf of a log that SQLite wrote.
fn last_page() -> Vec<u8> {
    let fields = ["1", "2026", "5", "b", "1", "agent", "test", "{}"];
    let previous = "0".repeat(64);
    let all = ["holdup-audit-1"].iter().chain(&fields).copied();
    let all = all.chain([previous.as_str()]);
    let form: String = all.map(|f| format!("{}:{f},", f.len())).collect();
    let db = database(&format!(
        "CREATE TABLE audit(sequence INTEGER PRIMARY KEY, wall TEXT, mono_ms INTEGER, boot TEXT,
         synchronised INTEGER, actor TEXT, action TEXT, details TEXT, previous TEXT, hash TEXT);
         INSERT INTO audit VALUES(1,'2026',5,'b',1,'agent','test','{{}}','{previous}','{}');",
        hex(&form)
    ));
    db[db.len() - 4096..].to_vec()
}
