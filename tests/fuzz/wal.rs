//! The write-ahead log: what is read from any bytes, and what candidates are made of it.
#![no_main]

use std::fs::File;
use std::io::Read;

use holdup::recovery::candidates::{Candidate, FromLog};
use holdup::recovery::wal::{HeaderState, Known, Overlay, State, Verdict, Wal};
use holdup::recovery::{Bytes, Pages};
use holdup_fuzz::{Counted, Desk, Input, Log, bounded, reseal};
use libfuzzer_sys::fuzz_target;

/// For notes about slots, however few bytes claim there are many.
const MEMORY: usize = 32 << 20;
/// A log of which the page size is lost is read once for each that it could be, in both orders.
const TIMES: u64 = 200;

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
    bounded(MEMORY, || read(&input, &log));
});

fn read(input: &Input<'_>, log: &[u8]) {
    let source = Counted::new(log, TIMES);
    let database = Counted::new(input.database, TIMES);
    let known = if input.option(2) {
        Known::default()
    } else {
        Known::of(&database)
    };
    let page_size = known.page_size;
    let wal = Wal::read(&source, known);
    holds(&wal, log);
    let overlay = Overlay::new(Some(&database), Some(&source), &wal, page_size);
    gives_what_is_there(&overlay, &wal, log, input.database);
    if input.option(3) {
        database.again(TIMES);
        source.again(TIMES);
        candidates(overlay);
    }
}

/// What it says of the log, held to a second reader.
fn holds(wal: &Wal, log: &[u8]) {
    let plain = Log::of(log);
    let commits = plain.map_or(0, |l| l.commits());
    let kept = wal.kept_by_sqlite() as usize;
    assert!(kept <= commits, "{kept} kept, SQLite finds {commits}");
    if wal.header() == Some(HeaderState::Intact) {
        assert_eq!(kept, commits, "{:?}", wal.verdict());
    }
    let clean = matches!(
        wal.verdict(),
        Verdict::Clean { .. } | Verdict::TornTail { .. }
    );
    assert!(!clean || wal.transactions().len() == commits);
    let frames: Vec<_> = wal.frames().collect();
    let mut before = wal.header() == Some(HeaderState::Intact);
    for f in &frames {
        let intact = f.state == State::Intact;
        if let (true, true, Some(plain)) = (intact, before, plain)
            && plain.page_size == wal.page_size().expect("a log has pages")
            && wal.header() == Some(HeaderState::Intact)
        {
            assert!(
                plain.links(f.slot as usize),
                "frame {} does not link",
                f.slot
            );
        }
        before = intact;
    }
    let mut next = 0;
    for (n, t) in wal.transactions().iter().enumerate() {
        assert_eq!(t.first, next, "transactions follow each other");
        assert!(t.last >= t.first && (t.last as usize) < frames.len());
        assert_ne!(
            frames[t.last as usize].size_after, 0,
            "it ends with a commit"
        );
        assert_eq!(frames[t.last as usize].transaction, u32::try_from(n).ok());
        let damaged = &frames[t.first as usize..=t.last as usize];
        let damaged = damaged.iter().filter(|f| f.state.is_damaged()).count();
        assert_eq!(damaged, t.damaged as usize);
        next = t.last + 1;
    }
}

/// Every version of a page is bytes of the files, but for the one byte that a checksum put right.
fn gives_what_is_there(overlay: &Overlay<'_>, wal: &Wal, log: &[u8], database: &[u8]) {
    let size = overlay.page_size();
    let mut page = vec![0; size];
    let mut there = vec![0; size];
    let mut pages: Vec<u32> = wal.frames().map(|f| f.page).collect();
    pages.extend(1..=overlay.database_pages());
    pages.push(0);
    pages.sort_unstable();
    pages.dedup();
    for number in pages {
        let mut last = None;
        for v in overlay.versions(number) {
            assert!(last <= Some(v.transaction), "oldest first");
            last = Some(v.transaction);
            if overlay.read(v, &mut page).is_err() {
                continue;
            }
            let source = if v.transaction.is_some() {
                log
            } else {
                database
            };
            let differ = difference(&page, source, v.at, &mut there);
            let below = u64::from(v.page.saturating_sub(1)) * size as u64;
            assert!(
                differ == 0
                    || v.proven
                        && (differ == 1 || difference(&page, database, below, &mut there) == 0),
                "page {number} at {} differs in {differ} bytes",
                v.at
            );
        }
    }
}

/// In how many bytes `page` differs from what lies at `at`; zeros lie behind the end.
fn difference(page: &[u8], source: &[u8], at: u64, there: &mut [u8]) -> usize {
    let n = source.read_at(there, at).expect("a slice");
    there[n..].fill(0);
    page.iter().zip(there).filter(|(a, b)| a != b).count()
}

/// Every candidate is made of versions of its pages.
fn candidates(overlay: Overlay<'_>) {
    let size = overlay.page_size();
    let (mut page, mut got) = (vec![0; size], vec![0; size]);
    for mut candidate in FromLog::all(overlay) {
        DESK.with(|desk| {
            let out = desk.free("candidate");
            candidate.build(&out, &desk.work()).expect("room for it");
            let mut written = File::open(&out).expect("open");
            let len = written.metadata().expect("length").len();
            assert_eq!(len % size as u64, 0);
            for number in 1..=u32::try_from(len / size as u64).expect("a page number") {
                written.read_exact(&mut got).expect("read");
                // Page 1 says how many pages there are, and that there is no log.
                let skip = if number == 1 { 32 } else { 0 };
                let fits = got[skip..].iter().all(|b| *b == 0)
                    || overlay
                        .versions(number)
                        .into_iter()
                        .any(|v| overlay.read(v, &mut page).is_ok() && page[skip..] == got[skip..]);
                assert!(fits, "{}: page {number} is made up", candidate.name());
            }
            candidate.finish(&out, &desk.work()).expect("room for it");
        });
    }
}
