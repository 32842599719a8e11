//! The ways of recovery that are compared: the whole way a gateway takes, page salvage alone, plain
//! SQLite, and its shell's `.recover`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use holdup::clock::SystemClock;
use holdup::durable::{Gate, Medium};
use holdup::recovery::pages::{Expected, Image, page_size_of, rebuild};
use holdup::recovery::wal::{Known, Overlay, Wal};
use holdup::recovery::{Acknowledged, RecoveryError, Report, Request, Site, Verdict, Way, recover};
use rusqlite::Connection;

use crate::corpus::{Case, EPOCH, Files, READINGS, Workload};
use crate::score::{Got, readable, readable_or_found};

const META: &str = "CREATE TABLE holdup_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID";

/// What a gateway knows of its tables beforehand.
fn known(workload: Workload) -> [Expected<'static>; 2] {
    let readings = Expected {
        sql: READINGS,
        kept_from: (workload == Workload::Append).then_some(1),
    };
    [readings, Expected::of(META)]
}

/// The files of a case, laid down once for each way.
pub(crate) fn laid(case: &Case) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temp dir");
    let db = case.files.lay(dir.path());
    (dir, db)
}

/// The whole way that a gateway takes: the look, evidence, candidates, choice, SQLite's check and
/// the swap. What is told afterwards is what a service would read.
pub(crate) fn by_gateway(case: &Case) -> (Got, Option<Report>) {
    let (dir, db) = laid(case);
    let report = recovered(case, &db, Way::InPlace);
    if let Some(report) = &report {
        holds_what_was_damaged(case, report);
        hides_nothing(case, report, &readable(&db));
    }
    let got = readable(&db);
    drop(dir);
    (got, report)
}

/// The same into another file; the damaged ones must stay as they are.
pub(crate) fn by_copy(case: &Case) -> Got {
    let (dir, db) = laid(case);
    let copy = dir.path().join("copy.db");
    recovered(case, &db, Way::Copy(copy.clone()));
    let untouched = Files::read(&db);
    assert!(untouched == case.files, "a copy changes nothing");
    readable(&copy)
}

/// `holdup recover DB --json`; its rows and its verdict.
pub(crate) fn by_verb(case: &Case) -> (Got, serde_json::Value) {
    let (_dir, db) = laid(case);
    let out = Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args(["recover", "--json"])
        .arg(&db)
        .stderr(Stdio::null())
        .output()
        .expect("the binary runs");
    let said = serde_json::from_slice(&out.stdout).unwrap_or_default();
    (readable(&db), said)
}

/// `None`: there was nothing at all, neither a database nor a log.
fn recovered(case: &Case, db: &Path, way: Way) -> Option<Report> {
    let home = db.parent().expect("a directory");
    let medium = Medium::open(home).expect("medium");
    let upto = case.rows.keys().last().copied();
    // The ledger counts readings, which nobody deletes one by one.
    let acknowledged = upto.filter(|_| case.workload == Workload::Append);
    let request = Request {
        database: db,
        way,
        tables: &known(case.workload),
        suspicion: None,
        thorough: true,
        cut: false,
        may_be_fresh: false,
        set_aside: false,
        acknowledged: acknowledged.map(|upto| Acknowledged {
            epoch: EPOCH,
            lowest: 1,
            upto,
        }),
        snapshots: None,
        say: &|_| {},
        begins: &|_| {},
    };
    let site = Site {
        medium: &medium,
        gate: &Arc::new(Gate::new()),
        stop: &Arc::default(),
        clock: &SystemClock,
        evidence: &home.join("evidence"),
        evidence_max: 1 << 30,
    };
    match recover(&request, &site) {
        Ok(report) => Some(report),
        Err(RecoveryError::Nothing(_)) => None,
        Err(e) => panic!("{}: {e}", db.display()),
    }
}

/// What was repaired lies in the evidence, byte for byte.
pub(crate) fn holds_what_was_damaged(case: &Case, report: &Report) {
    match report.verdict {
        Verdict::Clean | Verdict::Replayed => return,
        Verdict::Salvaged | Verdict::Restored | Verdict::Fresh | Verdict::Unrecoverable => {}
    }
    let evidence = report.evidence.as_ref().expect("evidence");
    let kept = Files::read(&evidence.join("edge_store.db"));
    assert!(kept == case.files, "evidence: {report}");
}

/// Every reading that is not there any more is named.
fn hides_nothing(case: &Case, report: &Report, got: &Got) {
    let judged = matches!(report.verdict, Verdict::Salvaged | Verdict::Restored);
    if !judged || case.workload != Workload::Append {
        return;
    }
    let named = |id: i64| {
        let mut all = report.missing.iter();
        all.any(|m| (m.first..=m.last).contains(&id))
    };
    for id in case.rows.keys() {
        let there = got.iter().any(|(g, _)| g == id);
        assert!(
            there != named(*id),
            "reading {id}, there: {there}: {report:?}"
        );
    }
}

/// Page salvage of the database file with its log: one of the candidates, alone.
pub(crate) fn by_pages(case: &Case) -> Got {
    let dir = tempfile::tempdir().expect("temp dir");
    let new = dir.path().join("new.db");
    let Files { db, wal, .. } = &case.files;
    let db: &[u8] = db.as_deref().unwrap_or_default();
    let log: &[u8] = wal.as_deref().unwrap_or_default();
    let known = known(case.workload);
    if log.is_empty() {
        let image = Image::new(db).expect("bytes");
        rebuild(&image, &known, &new, &mut ()).expect("rebuild");
    } else {
        let read = Wal::read(&log, Known::of(&db));
        let stated = (!db.is_empty()).then(|| page_size_of(&db).expect("bytes"));
        let stated = stated.and_then(|n| u32::try_from(n).ok());
        let pages = Overlay::new(Some(&db), Some(&log), &read, stated);
        rebuild(&pages, &known, &new, &mut ()).expect("rebuild");
    }
    readable(&new)
}

/// Plain SQLite on a copy of the files.
pub(crate) fn by_sqlite(case: &Case) -> Got {
    let (_dir, db) = laid(case);
    readable(&db)
}

/// The `sqlite3` shell that can `.recover`, where there is one: `$HOLDUP_SQLITE3`, else the one on
/// the path. Debian bookworm's cannot.
pub(crate) fn recovering_shell() -> Option<PathBuf> {
    let shell = std::env::var_os("HOLDUP_SQLITE3").map_or_else(|| "sqlite3".into(), PathBuf::from);
    let dir = tempfile::tempdir().ok()?;
    let path = dir.path().join("a.db");
    Connection::open(&path)
        .and_then(|c| c.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES(42)"))
        .ok()?;
    let out = Command::new(&shell)
        .arg(&path)
        .arg(".recover")
        .output()
        .ok()?;
    String::from_utf8_lossy(&out.stdout)
        .contains("(1, 42)")
        .then_some(shell)
}

/// `.recover` on a copy of the files.
pub(crate) fn by_shell(shell: &Path, case: &Case) -> Got {
    let (_dir, new) = shelled(shell, case);
    readable_or_found(&new)
}

/// What `.recover` makes of the files.
pub(crate) fn shelled(shell: &Path, case: &Case) -> (tempfile::TempDir, PathBuf) {
    let (dir, db) = laid(case);
    let new = dir.path().join("new.db");
    let mut recover = Command::new(shell)
        .arg(&db)
        .arg(".recover")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the shell ran before");
    let sql = recover.stdout.take().expect("piped");
    let load = Command::new(shell)
        .arg(&new)
        .stdin(sql)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    recover.wait().expect("ended");
    load.expect("the shell ran before");
    (dir, new)
}
