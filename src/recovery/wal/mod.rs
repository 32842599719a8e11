//! The write-ahead log as bytes: what it holds, what of that is proven, and what SQLite would
//! silently drop.
//!
//! It promises to find every committed frame whose bytes still exist, past damage at which
//! SQLite stops, and to say of each how well it is proven. It reads any bytes without panic, in
//! time linear in their number and in bounded memory. It must never write, and never take a
//! frame of an older generation for a current one.

mod checksum;
mod generation;
mod header;
mod overlay;
mod scan;
mod slot;
mod transactions;

use std::collections::BTreeMap;

use super::Bytes;
pub use checksum::{Order, Sum};
pub use header::{Header, HeaderFault, Salts};
pub use overlay::Overlay;
pub use scan::{State, Tail};
pub use transactions::Transaction;

use scan::{Judged, Mend};
use slot::Geometry;

/// More pages than this (1 TiB at 4 KiB) no log is believed to have.
const MOST_PAGES: u32 = 1 << 28;

/// What is known of a database before its log is read.
#[derive(Clone, Copy, Default)]
pub struct Known<'a> {
    /// The page size its header states.
    pub page_size: Option<u32>,
    /// How many pages its file has; 0 where the page size is unknown.
    pub pages: u32,
    /// The file, which after a checkpoint holds what damaged frames held.
    pub database: Option<&'a dyn Bytes>,
    /// Frames that are looked at, if fewer than the usual 2,097,152.
    pub most_frames: Option<u32>,
}

impl<'a> Known<'a> {
    /// Looks at the header of the database file; nothing in it need be true.
    pub fn of(database: &'a dyn Bytes) -> Self {
        let mut head = [0; 18];
        let (got, _) = slot::read_what_can_be(database, &mut head, 0);
        let size = match u32::from(head[16]) << 8 | u32::from(head[17]) {
            1 => 65_536,
            size => size,
        };
        let page_size = (got == head.len() && header::is_page_size(size)).then_some(size);
        let pages = page_size.map_or(0, |size| database.len().div_ceil(u64::from(size)));
        Self {
            page_size,
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
            database: Some(database),
            most_frames: None,
        }
    }
}

impl std::fmt::Debug for Known<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known")
            .field("page_size", &self.page_size)
            .field("pages", &self.pages)
            .finish_non_exhaustive()
    }
}

/// How the header of a log was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderState {
    /// As SQLite reads it.
    Intact,
    /// Damaged; what it said is known again and a checksum proves it.
    Mended(HeaderFault),
    /// Damaged; what it said was concluded from the frames.
    Rebuilt(HeaderFault),
}

/// What a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is no file.
    Absent,
    /// No frame of a current generation, and no sign that there was one.
    Empty,
    /// SQLite keeps all of it.
    Clean {
        /// Frames of the current generation.
        frames: u32,
        /// Transactions in them.
        transactions: u32,
    },
    /// SQLite keeps every commit that can be proven; behind the last one are frames without.
    /// This is how a power cut leaves a log.
    TornTail {
        /// Frames that are kept.
        frames: u32,
        /// Transactions that are kept.
        transactions: u32,
        /// Frames behind the last commit, and slots that hold neither such nor older ones.
        unfinished: u32,
        /// One of these is damaged and bears a commit mark, or shows nothing at all. A cut does
        /// that, but so does damage to the last commits; only who was told of them can know.
        commit_in_doubt: bool,
    },
    /// SQLite would drop commits that are still there.
    Damaged(Damage),
    /// Bytes that are no log, or of which no frame could be proven.
    Unreadable,
}

/// What is wrong with a log, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Its header.
    pub header: HeaderState,
    /// Frames of the current generation, up to the last commit.
    pub frames: u32,
    /// Of these, those that are damaged and were put right.
    pub frames_mended: u32,
    /// Of these, those that nothing vouches for.
    pub frames_unproven: u32,
    /// Of these, those whose page is damaged or which are lost.
    pub frames_damaged: u32,
    /// Transactions in them; one with a lost frame may in truth be several.
    pub transactions: u32,
    /// Of these, those with a damaged frame.
    pub transactions_damaged: u32,
    /// Of these, those that SQLite keeps.
    pub kept_by_sqlite: u32,
    /// Only the last transaction is concerned, and the header is sound. A cut that reordered the
    /// writes of an unsynced commit looks the same; only who was told of it can know.
    pub only_last: bool,
}

/// One frame of the current generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its place in the log, from 0.
    pub slot: u32,
    /// The page it holds; to be believed unless its state is `Lost`.
    pub page: u32,
    /// The size of the database in pages after the commit that it ends; 0: it ends none.
    pub size_after: u32,
    /// What is known of it.
    pub state: State,
    /// The transaction it belongs to, from 0; `None`: behind the last commit.
    pub transaction: Option<u32>,
}

/// A log, read and judged. Holds about 30 bytes a frame and none of the pages.
#[derive(Debug)]
pub struct Wal {
    verdict: Verdict,
    header: Option<HeaderState>,
    geometry: Option<Geometry>,
    salts: Salts,
    certain: bool,
    frames: Vec<Judged>,
    mends: BTreeMap<u32, Mend>,
    tail: Tail,
    unreadable: u64,
    skipped: u64,
    /// What follows the last commit may have been one.
    suspected: bool,
    transactions: Vec<Transaction>,
    /// Slots that are versions of a known page, by page and then by slot.
    by_page: Vec<u32>,
    /// Slots whose page number is lost.
    lost: Vec<u32>,
}

impl Wal {
    /// The log of a database that has none.
    pub fn absent() -> Self {
        Self::nothing(Verdict::Absent)
    }

    /// Reads a log beside a database of which `known` is known.
    pub fn read(source: &dyn Bytes, known: Known<'_>) -> Self {
        if is_blank(source) {
            return Self::nothing(Verdict::Empty);
        }
        let Some(found) = generation::find(source, known) else {
            return Self::nothing(Verdict::Unreadable);
        };
        let scan = scan::scan(source, &found, known);
        let sound = found.state == HeaderState::Intact;
        let grouped = transactions::group(&scan.frames, sound);
        let verdict = verdict(&found, &scan, &grouped);
        let mut wal = Self {
            verdict,
            header: Some(found.state),
            geometry: Some(found.geometry),
            salts: found.salts,
            certain: found.certain,
            frames: scan.frames,
            mends: scan.mends,
            tail: scan.tail,
            unreadable: scan.unreadable,
            skipped: scan.skipped,
            suspected: false,
            transactions: grouped.all,
            by_page: Vec::new(),
            lost: Vec::new(),
        };
        wal.index(grouped.commit_in_doubt);
        wal
    }

    /// What the log is.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// How its header was read; `None` where there is no log.
    pub fn header(&self) -> Option<HeaderState> {
        self.header
    }

    /// Bytes in a page; `None` where there is no log.
    pub fn page_size(&self) -> Option<usize> {
        self.geometry.map(|g| g.page_size)
    }

    /// The byte order of its checksums; `None` where there is no log.
    pub fn order(&self) -> Option<Order> {
        self.geometry.map(|g| g.order)
    }

    /// The salts of its current generation.
    pub fn salts(&self) -> Salts {
        self.salts
    }

    /// Is it sure which generation is the current one? Not so where the header and the first
    /// frame are lost: a newer one, of a frame only, may have stood there.
    pub fn is_generation_certain(&self) -> bool {
        self.certain
    }

    /// What lies behind the frames of the current generation.
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// Bytes that the medium failed to give; they count as damaged.
    pub fn unreadable_bytes(&self) -> u64 {
        self.unreadable
    }

    /// Frames behind the last one that was looked at: memory is bounded, and logs that long are
    /// none that anybody wants.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Somebody knows that what follows the last commit was committed too: its pages count as
    /// versions of a transaction that is torn.
    pub(super) fn suspect_tail(&mut self) {
        if !self.suspected {
            self.suspected = true;
            self.index(true);
        }
    }

    /// The last transaction was never committed: what is left of it is the torn end of the log.
    pub(super) fn leave_out_last(&mut self) {
        if self.transactions.pop().is_none() {
            return;
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let frames = self.transactions.last().map_or(0, |t| t.last + 1);
        self.verdict = Verdict::TornTail {
            frames,
            transactions: count(self.transactions.len()),
            unfinished: count(self.frames.len()) - frames,
            commit_in_doubt: false,
        };
        self.index(false);
    }

    /// Is it known that commits were behind the last one that is left?
    pub(super) fn is_tail_suspected(&self) -> bool {
        self.suspected
    }

    /// The committed transactions, in order.
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// How many of them SQLite's own recovery keeps; always a prefix.
    pub fn kept_by_sqlite(&self) -> u32 {
        match self.verdict {
            Verdict::Absent | Verdict::Empty | Verdict::Unreadable => 0,
            Verdict::Clean { transactions, .. } | Verdict::TornTail { transactions, .. } => {
                transactions
            }
            Verdict::Damaged(d) => d.kept_by_sqlite,
        }
    }

    /// The frames of the current generation, in order.
    pub fn frames(&self) -> impl Iterator<Item = Frame> {
        (0u32..).zip(&self.frames).map(|(slot, f)| Frame {
            slot,
            page: f.page,
            size_after: f.size_after,
            state: f.state,
            transaction: self.transaction_of(slot),
        })
    }

    /// The size of the database in pages after transaction `t`.
    pub fn size_after(&self, t: u32) -> Option<u32> {
        let last = self.transactions.get(t as usize)?.last;
        self.frames.get(last as usize).map(|f| f.size_after)
    }

    /// What is known of the frame at `slot`.
    pub(super) fn state(&self, slot: u32) -> State {
        self.frames
            .get(slot as usize)
            .map_or(State::Lost, |f| f.state)
    }

    /// The transaction of a slot up to the last commit.
    pub(super) fn transaction_of(&self, slot: u32) -> Option<u32> {
        let t = self.transactions.partition_point(|t| t.last < slot);
        let there = self.transactions.get(t).is_some_and(|t| t.first <= slot);
        there.then_some(u32::try_from(t).unwrap_or(u32::MAX))
    }

    /// Slots that hold `page` in a committed transaction, oldest first; for page 0 those whose
    /// page number is lost.
    pub(super) fn slots_of(&self, page: u32) -> &[u32] {
        if page == 0 {
            return &self.lost;
        }
        let key = |slot: &u32| self.frames[*slot as usize].page;
        let from = self.by_page.partition_point(|s| key(s) < page);
        let to = self.by_page.partition_point(|s| key(s) <= page);
        &self.by_page[from..to]
    }

    /// Slots up to the last commit whose page number is lost.
    pub(super) fn lost_slots(&self) -> &[u32] {
        &self.lost
    }

    /// Every page in the log with its slots up to the last commit, in order.
    pub(super) fn pages(&self) -> impl Iterator<Item = (u32, &[u32])> {
        let key = |slot: &u32| self.frames[*slot as usize].page;
        self.by_page
            .chunk_by(move |a, b| key(a) == key(b))
            .map(move |slots| (key(&slots[0]), slots))
    }

    /// Damaged frames whose page number may just as well be another, with that other.
    pub(super) fn rivals(&self) -> impl Iterator<Item = (u32, u32)> {
        self.mends.iter().filter_map(|(slot, mend)| match mend {
            Mend::Rival { page } => Some((*slot, *page)),
            Mend::Byte { .. } | Mend::Database => None,
        })
    }

    fn index(&mut self, with_tail: bool) {
        let committed = self.transactions.last().map_or(0, |t| t.last + 1);
        let all = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        let end = if with_tail { all } else { committed };
        self.by_page.clear();
        self.lost.clear();
        for slot in 0..end {
            let f = &self.frames[slot as usize];
            if f.state != State::Lost && f.page <= MOST_PAGES {
                self.by_page.push(slot);
            } else if slot < committed {
                self.lost.push(slot);
            }
        }
        let frames = &self.frames;
        self.by_page
            .sort_unstable_by_key(|s| (frames[*s as usize].page, *s));
    }

    fn nothing(verdict: Verdict) -> Self {
        Self {
            verdict,
            header: None,
            geometry: None,
            salts: Salts(0, 0),
            certain: true,
            frames: Vec::new(),
            mends: BTreeMap::new(),
            tail: Tail::default(),
            unreadable: 0,
            skipped: 0,
            suspected: false,
            transactions: Vec::new(),
            by_page: Vec::new(),
            lost: Vec::new(),
        }
    }
}

fn verdict(
    found: &generation::Found,
    scan: &scan::Scan,
    grouped: &transactions::Transactions,
) -> Verdict {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let transactions = count(grouped.all.len());
    let committed = grouped.all.last().map_or(0, |t| t.last + 1);
    let sound = found.state == HeaderState::Intact;
    let garbage = scan.tail.garbage;
    if scan.frames.is_empty() && garbage == 0 && sound {
        return Verdict::Empty;
    }
    if sound && transactions == grouped.kept_by_sqlite {
        let unfinished = grouped.unfinished.saturating_add(garbage);
        return if unfinished == 0 {
            Verdict::Clean {
                frames: committed,
                transactions,
            }
        } else {
            Verdict::TornTail {
                frames: committed,
                transactions,
                unfinished,
                commit_in_doubt: grouped.commit_in_doubt || garbage > 0,
            }
        };
    }
    let frames = &scan.frames[..committed as usize];
    let are = |want: fn(State) -> bool| count(frames.iter().filter(|f| want(f.state)).count());
    Verdict::Damaged(Damage {
        header: found.state,
        frames: committed,
        frames_mended: are(|s| s == State::Mended),
        frames_unproven: are(|s| s == State::Unproven),
        frames_damaged: are(State::is_damaged),
        transactions,
        transactions_damaged: count(grouped.all.iter().filter(|t| t.damaged > 0).count()),
        kept_by_sqlite: grouped.kept_by_sqlite,
        only_last: sound && transactions == grouped.kept_by_sqlite + 1,
    })
}

/// Nothing but zeros, or nothing at all: room kept for a log.
fn is_blank(source: &dyn Bytes) -> bool {
    let mut block = vec![0; 1 << 16];
    let mut at = 0;
    while at < source.len() {
        let (got, unreadable) = slot::read_what_can_be(source, &mut block, at);
        if unreadable > 0 || block[..got].iter().any(|b| *b != 0) {
            return false;
        }
        if got == 0 {
            break;
        }
        at += got as u64;
    }
    true
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests plant damaged files")]
pub(crate) mod tests;
