//! Which version of each page a candidate holds.

use super::backfill::Backfill;
use crate::recovery::wal::{Overlay, Wal};
use crate::recovery::{Pages, Version};

/// Versions behind a damaged one that are asked whether they are sound.
const MOST_LATER: usize = 64;

/// How a candidate chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Every page as it was after the last transaction behind which no page is in doubt.
    Exact,
    /// The newest version of every page that a checksum vouches for.
    Proven,
    /// The newest version of every page that is not known to be damaged.
    Plausible,
    /// The newest version of every page that a transaction without damage wrote.
    Complete,
    /// The database file alone: after a checkpoint nothing in the log is missing from it.
    Database,
    /// What SQLite's own recovery keeps: the transactions in front of the first bad frame.
    Sqlite,
}

/// The pages of one candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// Pages in the database.
    pub(super) size: u32,
    /// Transactions that are reflected, counted from the first.
    pub(super) through: u32,
    /// Pages of the log that are used, by page, with their slot.
    pub(super) used: Vec<(u32, u32)>,
    /// Pages of which an older version is used than the last one written; `None` as slot: the
    /// database file's.
    pub(super) behind: Vec<(u32, Option<u32>)>,
    /// Pages used that nothing vouches for.
    pub(super) unproven: u32,
    /// The last page number was lost with a frame: which page is behind, nobody knows.
    pub(super) blind: bool,
}

impl Choice {
    /// What `rule` chooses from the log of `overlay`, of which `moved` is in the database file.
    pub(super) fn of(rule: Rule, overlay: &Overlay<'_>, moved: &Backfill) -> Self {
        let wal = overlay.wal();
        let all = count(wal.transactions().len());
        let through = match rule {
            Rule::Database if moved.is_complete() => all,
            Rule::Database => 0,
            Rule::Exact => exact(wal),
            Rule::Sqlite => wal.kept_by_sqlite(),
            Rule::Proven | Rule::Plausible | Rule::Complete => all,
        };
        let end = slots_through(wal, through);
        let allowed = |slot: u32| {
            let whole = |t: u32| {
                wal.transactions()
                    .get(t as usize)
                    .is_some_and(|t| t.damaged + t.unproven == 0)
            };
            let state = wal.state(slot);
            match rule {
                // Nothing in doubt lies in front of the end that they chose.
                Rule::Exact | Rule::Sqlite | Rule::Proven => state.is_proven(),
                Rule::Plausible => !state.is_damaged(),
                Rule::Database => false,
                Rule::Complete => state.is_proven() && wal.transaction_of(slot).is_some_and(whole),
            }
        };
        // The size stands in the commit's header, which can be believed where its page cannot.
        let sized = if rule == Rule::Database { 0 } else { through };
        let size = (0..sized)
            .rev()
            .filter(|t| {
                let last = wal.transactions().get(*t as usize).map(|t| t.last);
                rule != Rule::Complete || last.is_some_and(allowed)
            })
            .find_map(|t| wal.size_after(t))
            .unwrap_or_else(|| overlay.stated_pages());
        let mut choice = Self {
            size,
            through,
            used: Vec::new(),
            behind: Vec::new(),
            unproven: 0,
            blind: wal.lost_slots().iter().any(|s| *s < end),
        };
        if rule == Rule::Database {
            // What a complete checkpoint moved is not blind to what the log has lost since.
            choice.blind = false;
            choice.unproven = moved.inferred();
            return choice;
        }
        for (page, slots) in wal.pages() {
            let in_time = &slots[..slots.partition_point(|s| *s < end)];
            let Some(newest) = in_time.last() else {
                continue;
            };
            let used = in_time.iter().rev().find(|s| allowed(**s)).copied();
            if page > size {
                continue;
            }
            if used != Some(*newest) {
                if matches!(rule, Rule::Proven | Rule::Plausible) && moved.has(page, *newest) {
                    choice.unproven += 1;
                    continue;
                }
                choice.behind.push((page, used));
            }
            if let Some(slot) = used {
                choice.unproven += u32::from(!wal.state(slot).is_proven());
                choice.used.push((page, slot));
            }
        }
        for (slot, rival) in wal.rivals().filter(|(slot, _)| *slot < end) {
            let used = choice.used.binary_search_by_key(&rival, |(p, _)| *p);
            let used = used.ok().map(|i| choice.used[i].1);
            if used.is_none_or(|u| u < slot) && rival <= size {
                choice.behind.push((rival, used));
            }
        }
        choice
    }

    /// All that was committed, with nothing missing or in doubt.
    pub(super) fn is_all_of(&self, overlay: &Overlay<'_>) -> bool {
        let sure = self.behind.is_empty() && self.unproven == 0 && !self.blind;
        sure && overlay.wal().transactions().len() == self.through as usize
    }

    /// How many slots the transactions take that are reflected.
    pub(super) fn end(&self, overlay: &Overlay<'_>) -> u32 {
        slots_through(overlay.wal(), self.through)
    }

    /// The version of `page` that is used; `None`: no file has one.
    pub(super) fn version(&self, page: u32, overlay: &Overlay<'_>) -> Option<Version> {
        match self.used.binary_search_by_key(&page, |(p, _)| *p) {
            Ok(i) => overlay.frame(page, self.used[i].1),
            Err(_) => overlay.below(page),
        }
    }

    /// The pages that are behind, as they are used.
    pub(super) fn behind<'a>(
        &'a self,
        overlay: &'a Overlay<'_>,
    ) -> impl Iterator<Item = Option<Version>> + 'a {
        self.behind.iter().map(|(page, slot)| match slot {
            Some(slot) => overlay.frame(*page, *slot),
            None => overlay.below(*page),
        })
    }
}

/// After how many transactions, at most, every page is proven.
///
/// A damaged frame leaves its page in doubt until a proven one writes it again; a lost one may
/// have been any page, so that from there on nothing is certain.
fn exact(wal: &Wal) -> u32 {
    let all = wal.transactions().len();
    // Pages that fall into doubt with a transaction, less those that come out of it.
    let mut doubt = vec![0i64; all + 1];
    let mut note = |slot: u32, page: u32| {
        let from = wal.transaction_of(slot);
        let slots = wal.slots_of(page);
        let later = &slots[slots.partition_point(|s| *s <= slot)..];
        // A bound on the work; past it the page stays in doubt.
        let mut near = later.iter().take(MOST_LATER);
        let again = near.find(|s| wal.state(**s).is_proven());
        let to = again.and_then(|s| wal.transaction_of(*s));
        if let Some(from) = from {
            let to = to.map_or(all, |t| t as usize);
            doubt[from as usize] += 1;
            doubt[to] -= 1;
        }
    };
    for (page, slots) in wal.pages() {
        for slot in slots.iter().filter(|s| !wal.state(**s).is_proven()) {
            note(*slot, page);
        }
    }
    for (slot, page) in wal.rivals() {
        note(slot, page);
    }
    let lost = wal.lost_slots().first();
    let end = lost
        .and_then(|slot| wal.transaction_of(*slot))
        .map_or(all, |t| t as usize);
    let mut open = 0;
    let mut last = 0;
    for (t, change) in doubt.iter().enumerate().take(end) {
        open += change;
        if open == 0 {
            last = t + 1;
        }
    }
    count(last)
}

/// How many slots the first `through` transactions take.
fn slots_through(wal: &Wal, through: u32) -> u32 {
    let last = through.checked_sub(1);
    last.and_then(|t| wal.transactions().get(t as usize))
        .map_or(0, |t| t.last + 1)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Could rows of this page be joined with bytes of another time? Not if it is a b-tree page all
/// of whose rows lie in it: a row that goes on in overflow pages may go on in one that was
/// written for something else since.
///
/// Source: SQLite's file format, section 1.6 "B-tree Pages".
pub(super) fn may_mix(page: &[u8], is_first: bool, usable: usize) -> bool {
    let begin = if is_first { 100 } else { 0 };
    let word = |at: usize| Some(usize::from(*page.get(at)?) << 8 | usize::from(*page.get(at + 1)?));
    let most = usable.saturating_sub(12) * 64 / 255;
    let (cells, skip, most) = match page.get(begin) {
        // Interior pages of tables hold no rows.
        Some(5) => return false,
        Some(13) => (begin + 8, 0, usable.saturating_sub(35)),
        Some(10) => (begin + 8, 0, most.saturating_sub(23)),
        Some(2) => (begin + 12, 4, most.saturating_sub(23)),
        Some(_) | None => return true,
    };
    let count = word(begin + 3).unwrap_or(0);
    (0..count).any(|i| {
        let payload = word(cells + i * 2).and_then(|cell| varint(page.get(cell + skip..)?));
        payload.is_none_or(|n| n > most as u64)
    })
}

fn varint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(9).enumerate() {
        if i == 8 {
            return Some(value << 8 | u64::from(*byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Bytes at the end of each page that the database's first page keeps for others.
pub(super) fn reserved(first: &[u8]) -> usize {
    first.get(20).map_or(0, |n| usize::from(*n))
}

impl Rule {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Proven => "newest-proven",
            Self::Plausible => "newest-plausible",
            Self::Complete => "complete-transactions",
            Self::Database => "database-alone",
            Self::Sqlite => "sqlite-prefix",
        }
    }
}

/// The page size of what is laid together, as a length.
pub(super) fn usable(overlay: &Overlay<'_>, first: &[u8]) -> usize {
    overlay.page_size().saturating_sub(reserved(first))
}
