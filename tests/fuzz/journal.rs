//! A rollback journal of any bytes beside a database of any bytes.
#![no_main]

use holdup::recovery::Pages;
use holdup::recovery::pages::{Journal, JournalState, RolledBack};
use holdup_fuzz::{Counted, Input, Strict, bounded, originals, reseal_journal};
use libfuzzer_sys::fuzz_target;

const MEMORY: usize = 48 << 20;
const TIMES: u64 = 4000;
/// Once through, and once more.
const ONCE: u64 = 8;

fuzz_target!(|bytes: &[u8]| {
    let Some(input) = Input::of(bytes) else {
        return;
    };
    let mut journal = input.beside.to_vec();
    if input.option(0) {
        reseal_journal(&mut journal, input.option(1));
    }
    bounded(MEMORY, || {
        let source = Counted::new(&journal, ONCE);
        let read = Journal::read(&source).expect("bytes can be read");
        let plain = originals(&journal);
        if read.state() == JournalState::Hot {
            assert_eq!(read.suspect().count(), 0);
            assert_eq!(read.unknown(), 0);
        }
        assert!(
            read.originals() >= plain.len(),
            "SQLite would put back more"
        );
        source.again(TIMES);
        let database = Counted::new(input.database, TIMES);
        let back = RolledBack::new(&database, &source, &read).expect("bytes can be read");
        put_back(&back, &read, &journal, input.database);
        if input.option(2) {
            Strict::salvage(&back, &[]);
        }
    });

    /// Every page is one of the database or of the journal, and where SQLite would put an
    /// original back it is that one.
    fn put_back(back: &dyn Pages, read: &Journal, journal: &[u8], database: &[u8]) {
        let size = back.page_size();
        let mut page = vec![0; size];
        let plain = originals(journal);
        let rolls = matches!(read.state(), JournalState::Hot | JournalState::Torn);
        for number in 1..=back.highest() {
            let versions = back.versions(number);
            assert!(versions.len() <= 1, "one time only");
            for v in versions {
                back.read(v, &mut page).expect("bytes can be read");
                match plain.get(&number).filter(|_| rolls) {
                    Some(at) => assert_eq!(page, journal[*at..*at + size], "page {number}"),
                    None => {
                        let from = (number as usize - 1) * size;
                        let below = database.get(from..).unwrap_or_default();
                        let below = &below[..below.len().min(size)];
                        let there =
                            page.starts_with(below) && page[below.len()..].iter().all(|b| *b == 0);
                        let kept = journal.windows(size).any(|w| w == page);
                        assert!(there || kept, "page {number} is made up");
                    }
                }
            }
        }
        // A page that SQLite would put back is there.
        for number in plain.keys().filter(|_| rolls) {
            assert_eq!(back.versions(*number).len(), 1, "page {number}");
        }
    }
});
