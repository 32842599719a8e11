//! The reader against logs that real SQLite wrote, whole and damaged.

mod faults;
pub(crate) mod world;

use proptest::prelude::*;

use super::*;
use crate::recovery::Pages;
use world::{Files, Gateway, noise, written};

/// Reads a log the way recovery does.
fn read(files: &Files) -> Wal {
    Wal::read(&files.wal, Known::of(&files.db))
}

/// Whatever the reader calls proven is what was written, bit for bit.
#[track_caller]
fn assert_truthful(was: &Files, now: &Files, wal: &Wal) {
    let overlay = Overlay::new(Some(&now.db), Some(&now.wal), wal, None);
    let mut page = vec![0; was.page_size];
    for f in wal.frames().filter(|f| f.state.is_proven()) {
        let at = was.at(f.slot as usize);
        let frame = &was.wal[at..at + was.frame()];
        let fields = (checksum::big(frame, 0), checksum::big(frame, 4));
        assert_eq!((f.page, f.size_after), fields, "{f:?}");
        let v = overlay.frame(f.page, f.slot).expect("a version");
        overlay.read(v, &mut page).expect("read");
        assert!(page == frame[24..], "{f:?} has other bytes");
    }
}

fn states(wal: &Wal) -> Vec<State> {
    wal.frames().map(|f| f.state).collect()
}

#[test]
fn an_undamaged_log_is_read_as_sqlite_reads_it() {
    for page_size in [512, 1024, 4096, 65_536] {
        let little = written(page_size, 60);
        let big = little.clone().big_endian();
        for (files, order) in [(little, Order::Little), (big, Order::Big)] {
            let wal = read(&files);
            let (ids, frames) = files.sqlite();
            assert_eq!(ids.len(), 60, "SQLite refuses the {order:?} log");
            let transactions = 60;
            assert_eq!(
                wal.verdict(),
                Verdict::Clean {
                    frames,
                    transactions
                },
                "{page_size} {order:?}"
            );
            assert_eq!(wal.order(), Some(order));
            assert_eq!(wal.page_size(), Some(page_size as usize));
            assert_truthful(&files, &files, &wal);
        }
    }
}

#[test]
fn no_log_an_empty_one_and_room_kept_for_one_are_no_damage() {
    let known = Known::default();
    assert_eq!(Wal::absent().verdict(), Verdict::Absent);
    assert_eq!(Wal::read(&vec![], known).verdict(), Verdict::Empty);
    assert_eq!(
        Wal::read(&vec![0; 100_000], known).verdict(),
        Verdict::Empty
    );
    let files = written(4096, 3);
    let header = files.wal[..32].to_vec();
    assert_eq!(Wal::read(&header, known).verdict(), Verdict::Empty);
    let noise = noise(1, 50_000);
    assert_eq!(Wal::read(&noise, known).verdict(), Verdict::Unreadable);
}

#[test]
fn versions_come_oldest_first_and_the_database_before_the_log() {
    let files = written(512, 30);
    let wal = read(&files);
    let overlay = Overlay::new(Some(&files.db), Some(&files.wal), &wal, None);
    assert!(overlay.highest() > overlay.database_pages());
    let mut seen = 0;
    for page in 1..=overlay.highest() {
        let versions = overlay.versions(page);
        let order: Vec<_> = versions.iter().map(|v| v.transaction).collect();
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!(
            versions[0].transaction.is_none(),
            page <= overlay.database_pages()
        );
        seen += versions.iter().filter(|v| v.transaction.is_some()).count();
    }
    assert_eq!(seen, files.frames());
    assert!(overlay.versions(0).is_empty() && overlay.versions(u32::MAX).is_empty());
}

#[test]
fn frames_of_older_generations_are_told_apart() {
    let mut gateway = Gateway::new(1024);
    gateway
        .readings(40)
        .restart()
        .readings(25)
        .restart()
        .readings(4);
    let files = gateway.files();
    let wal = read(&files);
    let (_, frames) = files.sqlite();
    let Verdict::Clean {
        frames: kept,
        transactions: 4,
    } = wal.verdict()
    else {
        panic!("{:?}", wal.verdict());
    };
    assert_eq!(kept, frames);
    assert_eq!(wal.tail().stale as usize, files.frames() - kept as usize);
}

#[test]
fn frames_from_long_ago_are_stale_and_no_sign_of_damage() {
    let mut gateway = Gateway::new(512);
    gateway.readings(60).restart();
    for _ in 0..40 {
        gateway.readings(1).restart();
    }
    let files = gateway.readings(2).files();
    let wal = read(&files);
    let Verdict::Clean {
        transactions: 2, ..
    } = wal.verdict()
    else {
        panic!("{:?} {:?}", wal.verdict(), wal.tail());
    };
    assert!(wal.tail().stale > 50, "{:?}", wal.tail());
}

#[test]
fn a_restarted_log_whose_header_is_lost_is_not_taken_for_its_predecessor() {
    let mut gateway = Gateway::new(1024);
    gateway.readings(40).restart().readings(4);
    let whole = gateway.files();
    let salts = read(&whole).salts();
    for kept in [1, 4] {
        // One commit only, or several that vouch for each other.
        let mut files = whole.clone();
        if kept == 1 {
            let older = Gateway::new(1024)
                .readings(40)
                .restart()
                .readings(1)
                .files();
            files = older;
        }
        let expected = read(&files).salts();
        for seed in 0..20 {
            files.wal[..32].copy_from_slice(&noise(seed, 32));
            let wal = read(&files);
            assert_eq!(wal.salts(), expected, "{kept}: {:?}", wal.verdict());
            let transactions = u32::try_from(wal.transactions().len()).expect("few");
            assert_eq!(transactions, kept);
        }
    }
    assert_eq!(read(&whole).salts(), salts);
}

#[test]
fn without_header_and_first_frame_the_log_is_still_not_taken_for_its_predecessor() {
    for kept in [1, 4] {
        let mut gateway = Gateway::new(1024);
        gateway.readings(40).restart().readings(kept);
        let mut files = gateway.files();
        let expected = read(&files).salts();
        files.wal[..32].copy_from_slice(&noise(5, 32));
        // Its page only, so that the salts are left; and all of it.
        for from in [32 + 24, 32] {
            files.wal[from..32 + 24 + 300].copy_from_slice(&noise(6, 324 + 32 - from));
            if kept > 1 || from > 32 {
                let wal = read(&files);
                assert_eq!(wal.salts(), expected, "{kept} {from}");
            }
        }
    }
}

#[test]
fn a_header_whose_write_was_lost_does_not_hide_its_frames() {
    let mut gateway = Gateway::new(1024);
    gateway.readings(5);
    let older = gateway.files();
    let newer = gateway.restart().readings(9).files();
    let mut files = newer.clone();
    files.wal[..32].copy_from_slice(&older.wal[..32]);
    let wal = read(&files);
    let Verdict::Damaged(d) = wal.verdict() else {
        panic!("{:?}", wal.verdict());
    };
    assert_eq!((d.transactions, d.kept_by_sqlite), (9, 0));
    assert_truthful(&newer, &files, &wal);
}

#[test]
fn a_rolled_back_transaction_behind_the_last_commit_is_a_torn_tail() {
    let mut gateway = Gateway::new(512);
    gateway.readings(10);
    gateway
        .conn
        .execute_batch(
            "PRAGMA cache_size=2; BEGIN;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<400)
             INSERT INTO readings SELECT 1000+i,'x',i,i,'u','spilled into the log' FROM n;
             ROLLBACK;",
        )
        .expect("roll back");
    gateway.readings(1);
    let files = gateway.files();
    let (ids, frames) = files.sqlite();
    let wal = read(&files);
    let Verdict::TornTail {
        frames: kept,
        transactions: 11,
        unfinished,
        ..
    } = wal.verdict()
    else {
        panic!("{:?}", wal.verdict());
    };
    assert_eq!((ids.len(), kept), (11, frames));
    assert!(unfinished > 5, "the cache did not spill: {unfinished}");
    let overlay = Overlay::new(Some(&files.db), Some(&files.wal), &wal, None);
    for page in 1..=overlay.highest() {
        for v in overlay.versions(page) {
            assert!(
                v.transaction.is_none_or(|t| t < 11),
                "{v:?} was never committed"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_read_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..20_000),
        page_size in prop_oneof![Just(None), Just(Some(512)), any::<Option<u32>>()],
        pages: u32, with_header: bool,
    ) {
        let mut bytes = bytes;
        if with_header && bytes.len() >= 32 {
            let header = Header {
                order: Order::Big, page_size: 512, checkpoint: 1, salts: Salts(1, 2),
            };
            bytes[..32].copy_from_slice(&header.encode());
        }
        let wal = Wal::read(&bytes, Known { page_size, pages, database: Some(&bytes), ..Known::default() });
        let overlay = Overlay::new(Some(&bytes), Some(&bytes), &wal, page_size);
        let mut page = vec![0; overlay.page_size()];
        for v in overlay.versions(1) {
            overlay.read(v, &mut page).expect("read");
        }
    }

    #[test]
    fn what_is_kept_of_an_undamaged_log_is_what_sqlite_keeps(
        readings in 1u32..40, restarts in 0u32..3, cut in 0usize..3000,
    ) {
        let mut gateway = Gateway::new(512);
        for _ in 0..restarts {
            gateway.readings(readings).restart();
        }
        let mut files = gateway.readings(readings).files();
        let keep = files.wal.len().saturating_sub(cut).max(32);
        files.wal.truncate(keep);
        let wal = read(&files);
        let committed = wal.transactions().last().map_or(0, |t| t.last + 1);
        let (_, frames) = files.sqlite();
        prop_assert_eq!(committed, frames);
        prop_assert_eq!(wal.kept_by_sqlite() as usize, wal.transactions().len());
    }
}
