//! The rollback journal of a database that was being written when power went.
//!
//! It promises to give the state before the unfinished transaction, which is the right one: each
//! page as the journal keeps it, and as the file has it where the journal does not speak of it.
//! Where the journal itself is damaged it says so, and which pages may be half written.
//!
//! Source: SQLite's file format, section 3 "The Rollback Journal", and its pager.c.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::super::source::{Bytes, Pages, Version, bytes_before_end};
use super::header::{is_page_size, lock_page, page_size_of, word};

const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// Marks a version's position as one in the journal.
const IN_JOURNAL: u64 = 1 << 63;

/// What a journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalState {
    /// Missing, empty, or ended by its owner: there is nothing to roll back.
    Idle,
    /// Every original that it says it holds is there.
    Hot,
    /// Some originals are damaged or cut off; the database file may hold what came after them.
    Torn,
    /// It does not begin as a journal does, and it is not empty.
    Unreadable,
}

/// A rollback journal, read and judged. Holds some 12 bytes for each page in it.
#[derive(Debug)]
pub struct Journal {
    state: JournalState,
    page_size: usize,
    pages_before: u32,
    originals: BTreeMap<u32, u64>,
    suspect: BTreeSet<u32>,
    unknown: u64,
}

/// One header of the journal.
struct Segment {
    records: Option<u64>,
    nonce: u32,
    pages_before: u32,
    sector: u64,
    page_size: usize,
}

impl Journal {
    /// Reads a journal.
    pub fn read(source: &dyn Bytes) -> io::Result<Self> {
        let mut journal = Self {
            state: JournalState::Idle,
            page_size: 0,
            pages_before: 0,
            originals: BTreeMap::new(),
            suspect: BTreeSet::new(),
            unknown: 0,
        };
        let mut head = [0; 28];
        let got = source.read_at(&mut head, 0)?;
        if head[..got.min(8)].iter().all(|b| *b == 0) {
            return Ok(journal);
        }
        let Some(first) = segment(&head) else {
            journal.state = JournalState::Unreadable;
            return Ok(journal);
        };
        journal.state = JournalState::Hot;
        journal.page_size = first.page_size;
        journal.pages_before = first.pages_before;
        let mut at = 0;
        let mut next = Some(first);
        while let Some(s) = next {
            at = journal.records(source, &s, at + s.sector)?;
            // The next header begins at a sector.
            at = at.div_ceil(s.sector) * s.sector;
            let got = source.read_at(&mut head, at)?;
            next = segment(&head).filter(|s| got == head.len() && s.page_size == journal.page_size);
            // Behind its own end SQLite makes the first byte of an older header zero; a header
            // that is nearly one is damaged.
            let alike = MAGIC.iter().zip(&head).filter(|(a, b)| a == b).count();
            if next.is_none() && got == head.len() && head[0] != 0 && alike > 4 {
                journal.unknown += 1;
            }
        }
        if !journal.suspect.is_empty() || journal.unknown > 0 {
            journal.state = JournalState::Torn;
        }
        Ok(journal)
    }

    /// The records behind a header; returns where they end.
    fn records(&mut self, source: &dyn Bytes, s: &Segment, from: u64) -> io::Result<u64> {
        let size = self.page_size as u64 + 8;
        let there = source.len().saturating_sub(from) / size;
        // A writer that does not sync leaves the count open; what is cut off then never
        // reached the journal, nor the database.
        let count = s.records.unwrap_or(there).min(there);
        self.unknown += s.records.map_or(0, |n| n - count);
        let mut record = vec![0; self.page_size + 8];
        for i in 0..count {
            let at = from + i * size;
            let whole = source.read_at(&mut record, at)? == record.len();
            let page = word(&record, 0);
            let bytes = &record[4..4 + self.page_size];
            let named = page != 0 && page <= self.pages_before && page != lock_page(self.page_size);
            if whole && named && sum(bytes, s.nonce) == word(&record, 4 + self.page_size) {
                self.suspect.remove(&page);
                self.originals.entry(page).or_insert(at + 4);
            } else if s.records.is_none() {
                return Ok(at);
            } else if named && !self.originals.contains_key(&page) {
                self.suspect.insert(page);
            } else {
                self.unknown += 1;
            }
        }
        Ok(from + count * size)
    }

    /// What it is.
    pub fn state(&self) -> JournalState {
        self.state
    }

    /// Pages of the database before the transaction; 0 where nothing is to be rolled back.
    pub fn pages_before(&self) -> u32 {
        self.pages_before
    }

    /// How many pages it holds as they were before.
    pub fn originals(&self) -> usize {
        self.originals.len()
    }

    /// Pages that may be half written, because the journal's record of them is damaged.
    pub fn suspect(&self) -> impl Iterator<Item = u32> {
        self.suspect.iter().copied()
    }

    /// Records of which not even the page is known. If there are any, every page of which there
    /// is no original is suspect.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }
}

fn segment(head: &[u8; 28]) -> Option<Segment> {
    let page_size = word(head, 24) as usize;
    let sector = word(head, 20);
    let fits = (32..=65_536).contains(&sector) && sector.is_power_of_two();
    (head[..8] == MAGIC && fits && is_page_size(page_size)).then(|| Segment {
        records: match word(head, 8) {
            u32::MAX => None,
            n => Some(u64::from(n)),
        },
        nonce: word(head, 12),
        pages_before: word(head, 16),
        sector: u64::from(sector),
        page_size,
    })
}

/// Every 200th byte from the end.
fn sum(page: &[u8], nonce: u32) -> u32 {
    let mut sum = nonce;
    let mut at = page.len().saturating_sub(200);
    while at > 0 {
        sum = sum.wrapping_add(u32::from(page[at]));
        at = at.saturating_sub(200);
    }
    sum
}

/// A database file with what its journal rolls back.
#[derive(Debug)]
pub struct RolledBack<'a, B, J> {
    file: B,
    log: J,
    journal: &'a Journal,
    page_size: usize,
    pages: u32,
}

impl<'a, B: Bytes, J: Bytes> RolledBack<'a, B, J> {
    /// Lays `journal`, which was read from `log`, over the database `file`.
    pub fn new(file: B, log: J, journal: &'a Journal) -> io::Result<Self> {
        let rolls = matches!(journal.state, JournalState::Hot | JournalState::Torn);
        let page_size = if rolls {
            journal.page_size
        } else {
            page_size_of(&file)?
        };
        let there = u32::try_from(file.len().div_ceil(page_size as u64)).unwrap_or(u32::MAX - 1);
        let kept = journal.originals.keys().next_back().copied().unwrap_or(0);
        Ok(Self {
            pages: if rolls {
                there.min(journal.pages_before).max(kept)
            } else {
                there
            },
            file,
            log,
            journal,
            page_size,
        })
    }
}

impl<B: Bytes, J: Bytes> Pages for RolledBack<'_, B, J> {
    fn page_size(&self) -> usize {
        self.page_size
    }

    fn highest(&self) -> u32 {
        self.pages
    }

    /// One version of each page: what the file holds where the journal has an original is of a
    /// transaction that never ended.
    fn versions(&self, page: u32) -> Vec<Version> {
        if page == 0 || page > self.pages {
            return Vec::new();
        }
        let original = self.journal.originals.get(&page);
        let at = original.map_or(u64::from(page - 1) * self.page_size as u64, |at| {
            at | IN_JOURNAL
        });
        if original.is_none() && at >= self.file.len() {
            return Vec::new();
        }
        vec![Version {
            page,
            transaction: None,
            at,
            // The journal's sum is over one byte in 200: too few to vouch for a page.
            proven: false,
        }]
    }

    fn read(&self, v: Version, buf: &mut [u8]) -> io::Result<()> {
        let got = if v.at & IN_JOURNAL == 0 {
            self.file.read_at(buf, v.at)?
        } else {
            self.log.read_at(buf, v.at & !IN_JOURNAL)?
        };
        buf[got..].fill(0);
        Ok(())
    }

    fn present(&self, v: Version) -> usize {
        if v.at & IN_JOURNAL == 0 {
            bytes_before_end(self.file.len(), v.at, self.page_size)
        } else {
            bytes_before_end(self.log.len(), v.at & !IN_JOURNAL, self.page_size)
        }
    }

    fn transaction_torn(&self, _: u32) -> bool {
        false
    }
}
