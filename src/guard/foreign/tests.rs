//! What is looked at, locked and synced of a database that is somebody else's.

use super::*;
use crate::clock::SystemClock;
use rusqlite::Connection;
use rustix::fs::Mode;
use std::os::unix::fs::FileExt;

fn guarded(path: &Path) -> ForeignDatabase {
    let settings = DatabaseSettings {
        path: path.to_owned(),
        priority: 50,
        unit: None,
    };
    ForeignDatabase::new(
        settings,
        vec![path.with_file_name("own.db")],
        Cgroups::refused("a test", Path::new("/nonexistent")),
        Arc::new(SystemClock),
    )
}

#[test]
fn a_database_that_nobody_has_open_is_synced_and_never_opened() {
    let home = tempfile::tempdir().expect("temp dir");
    let path = home.path().join("app.db");
    let c = Connection::open(&path).expect("open");
    c.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)")
        .expect("fill");
    drop(c);
    let mut db = guarded(&path);
    db.commit(Duration::from_secs(1)).expect("commit");
    assert_eq!(db.still(Duration::from_secs(1)), Ok(()));
    assert_eq!(db.checkpoint(Duration::from_secs(1)), Ok(0));
    assert!(db.held.is_none());
    assert!(
        !home.path().join("app.db-shm").exists(),
        "we would own its -shm"
    );
}

#[test]
fn the_agents_own_database_under_another_name_is_never_opened() {
    let home = tempfile::tempdir().expect("temp dir");
    let own = home.path().join("own.db");
    Connection::open(&own)
        .and_then(|c| c.execute_batch("CREATE TABLE t(a)"))
        .expect("fill");
    for (name, link) in [("soft.db", true), ("hard.db", false)] {
        let path = home.path().join(name);
        if link {
            std::os::unix::fs::symlink(&own, &path).expect("link");
        } else {
            fs::hard_link(&own, &path).expect("link");
        }
        let mut db = guarded(&path);
        let e = db.commit(Duration::from_secs(1)).expect_err("refused");
        assert!(e.contains("own.db under another name"), "{e}");
        assert!(db.still(Duration::from_secs(1)).is_err());
        assert_eq!(db.checkpoint(Duration::from_secs(1)), Ok(0));
        db.inspect(&|| false);
        assert!(db.view().problem);
    }
}

#[test]
fn a_fifo_or_junk_in_its_place_is_named_and_never_waited_for() {
    let home = tempfile::tempdir().expect("temp dir");
    let path = home.path().join("app.db");
    let fifo = home.path().join("app.db-journal");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .expect("fifo");
    let e = guarded(&path)
        .commit(Duration::from_secs(1))
        .expect_err("a fifo");
    assert!(e.contains("app.db-journal") && e.contains("regular"), "{e}");
    let junk = home.path().join("junk.db");
    File::create(&junk)
        .and_then(|f| f.write_all_at(b"these are notes, not rows", 0))
        .expect("junk");
    let e = guarded(&junk)
        .commit(Duration::from_secs(1))
        .expect_err("junk");
    assert!(e.contains("not an SQLite database"), "{e}");
}

#[test]
fn a_missing_database_is_no_failure() {
    let home = tempfile::tempdir().expect("temp dir");
    let mut db = guarded(&home.path().join("no/such/later.db"));
    db.commit(Duration::from_secs(1)).expect("commit");
    assert_eq!(db.still(Duration::from_secs(1)), Ok(()));
    assert_eq!(db.checkpoint(Duration::from_secs(1)), Ok(0));
}

#[test]
fn a_log_that_could_not_be_synced_is_never_checkpointed() {
    let home = tempfile::tempdir().expect("temp dir");
    let path = real(home.path()).join("app.db");
    let c = Connection::open(&path).expect("open");
    c.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)")
        .expect("fill");
    let before = fs::read(&path).expect("read");
    let mut db = guarded(&path);
    let medium = Medium::open(path.parent().expect("parent")).expect("open");
    medium.latch("fdatasync app.db-wal: Input/output error");
    db.medium = Some(Arc::new(medium));
    // Another process would have it open; of this one's locks its own probe sees nothing.
    let header = Header {
        journal: Journal::Rollback,
        sqlite: 0,
    };
    let Lock::Held(held) = Lock::take(&path, header, SystemClock.mono(), &SystemClock) else {
        panic!("not locked");
    };
    db.held = Some(held);
    db.still(Duration::from_secs(1)).expect_err("not synced");
    db.checkpoint(Duration::from_secs(1)).expect_err("refused");
    assert!(fs::read(&path).expect("read") == before, "pages were moved");
}

#[test]
fn what_lies_beside_an_open_wal_database_is_looked_at_before_it_is_opened() {
    let home = tempfile::tempdir().expect("temp dir");
    let path = real(home.path()).join("app.db");
    let c = Connection::open(&path).expect("open");
    c.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a)")
        .expect("fill");
    let take = || {
        let header = header(&path).expect("look").expect("header");
        match Lock::take(&path, header, SystemClock.mono(), &SystemClock) {
            Lock::Refused(why) => why,
            Lock::Held(_) | Lock::Needless(_) => "not refused".to_owned(),
        }
    };
    let journal = beside(&path, "-journal");
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &journal,
        rustix::fs::FileType::Fifo,
        mode,
        0,
    )
    .expect("fifo");
    assert!(take().contains("regular"), "{}", take());
    let mut db = guarded(&path);
    db.inspect(&|| false);
    assert!(db.view().problem, "{}", db.view().state);
    fs::remove_file(&journal).expect("remove");
    db.inspect(&|| false);
    assert!(!db.view().problem, "{}", db.view().state);
    File::create(&journal)
        .and_then(|f| f.write_all_at(&[0xd9; 512], 0))
        .expect("journal");
    db.inspect(&|| false);
    assert!(db.view().other_writers, "{}", db.view().state);
}

#[test]
fn a_failed_sync_is_told_before_the_next_outage() {
    let home = tempfile::tempdir().expect("temp dir");
    let path = real(home.path()).join("app.db");
    let mut db = guarded(&path);
    let medium = Medium::open(path.parent().expect("parent")).expect("open");
    medium.latch("fdatasync app.db: Input/output error");
    db.medium = Some(Arc::new(medium));
    db.inspect(&|| false);
    let view = db.view();
    assert!(
        view.problem && view.state.contains("restart"),
        "{}",
        view.state
    );
}
