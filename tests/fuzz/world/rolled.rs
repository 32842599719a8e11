//! The rollback journal a second time: which pages SQLite's own playback would put back.
//!
//! Source: SQLite's file format, section 3, and pager_playback in its pager.c.

use std::collections::BTreeMap;

const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn sum(page: &[u8], nonce: u32) -> u32 {
    let places = (1..).map(|n| page.len().checked_sub(200 * n));
    let places = places.map_while(|at| at.filter(|at| *at > 0));
    places.fold(nonce, |sum, at| sum.wrapping_add(u32::from(page[at])))
}

struct Segment {
    at: usize,
    records: Option<usize>,
    nonce: u32,
    pages_before: u32,
    sector: usize,
    page_size: usize,
}

fn segment(bytes: &[u8], at: usize) -> Option<Segment> {
    let head = bytes.get(at..at.checked_add(28)?)?;
    let sector = usize::try_from(word(head, 20)).ok()?;
    let page_size = usize::try_from(word(head, 24)).ok()?;
    let fits = |n: usize, least| n.is_power_of_two() && (least..=65_536).contains(&n);
    (head[..8] == MAGIC && fits(sector, 32) && fits(page_size, 512)).then(|| Segment {
        at,
        records: (word(head, 8) != u32::MAX).then(|| word(head, 8) as usize),
        nonce: word(head, 12),
        pages_before: word(head, 16),
        sector,
        page_size,
    })
}

/// The pages that playback restores from the first header on, to the first bad record, with where
/// their bytes lie in the journal.
pub fn originals(bytes: &[u8]) -> BTreeMap<u32, usize> {
    let mut found = BTreeMap::new();
    let Some(first) = segment(bytes, 0) else {
        return found;
    };
    let size = first.page_size;
    let lock = u32::try_from((1usize << 30) / size + 1).expect("a page number");
    let mut next = Some(first);
    let mut pages_before = 0;
    while let Some(s) = next {
        if s.at == 0 {
            pages_before = s.pages_before;
        }
        let mut at = s.at + s.sector;
        let there = bytes.len().saturating_sub(at) / (size + 8);
        for _ in 0..s.records.unwrap_or(there).min(there) {
            let page = word(bytes, at);
            let original = &bytes[at + 4..at + 4 + size];
            if page == 0 || page == lock || sum(original, s.nonce) != word(bytes, at + 4 + size) {
                return found;
            }
            if page <= pages_before {
                found.entry(page).or_insert(at + 4);
            }
            at += size + 8;
        }
        if s.records.is_none() || s.records.is_some_and(|n| n > there) {
            return found;
        }
        next = segment(bytes, at.div_ceil(s.sector) * s.sector).filter(|n| n.page_size == size);
    }
    found
}

/// Makes the sums of a journal's records fit; with `gaps` each fourth is left as it is.
pub fn reseal_journal(bytes: &mut [u8], gaps: bool) {
    if let Some(head) = bytes.first_chunk_mut::<8>() {
        *head = MAGIC;
    }
    let mut next = segment(bytes, 0);
    while let Some(s) = next {
        let mut at = s.at + s.sector;
        let there = bytes.len().saturating_sub(at) / (s.page_size + 8);
        for n in 0..s.records.unwrap_or(there).min(there) {
            let end = at + 4 + s.page_size;
            if !(gaps && n % 4 == 3) {
                let sum = sum(&bytes[at + 4..end], s.nonce);
                bytes[end..end + 4].copy_from_slice(&sum.to_be_bytes());
            }
            at = end + 4;
        }
        next = segment(bytes, at.div_ceil(s.sector) * s.sector);
        // Without records it would be found again and again.
        if next.as_ref().is_some_and(|n| n.at <= s.at) {
            return;
        }
    }
}
