//! One database as its pages' versions show it.
//!
//! It promises that a page that cannot be read is a damaged page and not the end, that a record
//! is put together from pages of its own time, and that its size is bounded.

use std::borrow::Cow;
use std::cell::Cell as Count;

use super::super::source::{Pages, Version};
use super::header::{Header, is_pointer_map, lock_page, pointer_map_of, word};
use super::node::{Cell, Node};

/// As a pointer map calls the first page of an overflow chain, whose parent is its cell's page.
const FIRST_OF_CHAIN: u8 = 3;
/// And those behind it, whose parent is the one before.
const REST_OF_CHAIN: u8 = 4;

/// So many entries of a pointer map on either side must be ones for it to be believed.
const NEIGHBOURS: usize = 3;

/// Larger rows are left out, and counted: memory is bounded.
pub const LARGEST_ROW: u64 = 8 << 20;

/// The time of a version: 0 is the database file, later ones are transactions of the log.
pub(super) fn when(v: Version) -> u64 {
    v.transaction.map_or(0, |t| u64::from(t) + 1)
}

/// Why a record could not be put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// A page of its overflow chain is missing, damaged or another's.
    Chain,
    /// Larger than [`LARGEST_ROW`].
    TooLarge,
}

/// The pages, read with what the header says.
pub(super) struct View<'a> {
    pub(super) pages: &'a dyn Pages,
    pub(super) header: Header,
    /// Reads that failed.
    pub(super) unreadable: Count<u64>,
    /// Overflow pages that may still be read: in a sound database each is of one row, so that
    /// what reads far more often than there are pages runs in circles.
    links: Count<u64>,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl<'a> View<'a> {
    pub(super) fn new(pages: &'a dyn Pages, header: Header) -> Self {
        Self {
            pages,
            header,
            unreadable: Count::new(0),
            links: Count::new(u64::from(pages.highest()) * 64 + 100_000),
        }
    }

    pub(super) fn usable(&self) -> usize {
        self.header.usable()
    }

    /// The last state of `page`, damaged or not.
    pub(super) fn newest(&self, page: u32) -> Option<Version> {
        self.pages.versions(page).pop()
    }

    /// The bytes of a version; none where the medium does not give them.
    pub(super) fn load(&self, v: Version) -> Option<Vec<u8>> {
        let mut buf = vec![0; self.header.page_size];
        match self.pages.read(v, &mut buf) {
            Ok(()) => Some(buf),
            Err(e) => {
                log::debug!("page {} at {} cannot be read: {e}", v.page, v.at);
                self.unreadable.set(self.unreadable.get() + 1);
                None
            }
        }
    }

    /// Can `page` be of a b-tree or an overflow chain?
    pub(super) fn may_hold_data(&self, page: u32) -> bool {
        (1..=self.pages.highest()).contains(&page)
            && page != lock_page(self.header.page_size)
            && !(self.header.auto_vacuum
                && is_pointer_map(page, self.usable(), self.header.page_size))
    }

    /// The whole record of a cell of a page written at `at`.
    pub(super) fn payload<'b>(
        &self,
        node: &Node<'b>,
        cell: &Cell,
        at: u64,
    ) -> Result<Cow<'b, [u8]>, Flaw> {
        let local = node.bytes(cell.local.clone());
        if cell.overflow == 0 {
            return if cell.payload == local.len() as u64 {
                Ok(Cow::Borrowed(local))
            } else {
                Err(Flaw::Chain)
            };
        }
        if cell.payload > LARGEST_ROW {
            return Err(Flaw::TooLarge);
        }
        let whole = usize::try_from(cell.payload).map_err(|_| Flaw::TooLarge)?;
        let room = self.usable() - 4;
        let mut bytes = local.to_vec();
        let mut next = cell.overflow;
        let mut links = (whole - local.len()).div_ceil(room);
        let mut from = (FIRST_OF_CHAIN, node.number);
        // A chain longer than the file is none; checked before anything is read or kept.
        if links > self.pages.highest() as usize {
            return Err(Flaw::Chain);
        }
        while links > 0 {
            if !self.may_hold_data(next) || next == 1 {
                return Err(Flaw::Chain);
            }
            let Some(left) = self.links.get().checked_sub(1) else {
                return Err(Flaw::Chain);
            };
            self.links.set(left);
            if self.hangs_elsewhere(next, from, at) {
                return Err(Flaw::Chain);
            }
            from = (REST_OF_CHAIN, next);
            let v = self.as_of(next, at).ok_or(Flaw::Chain)?;
            // In the log a checksum would vouch for it.
            if v.transaction.is_some() && !v.proven {
                return Err(Flaw::Chain);
            }
            let page = self.load(v).ok_or(Flaw::Chain)?;
            let want = (whole - bytes.len()).min(room);
            let part = page.get(4..4 + want).ok_or(Flaw::Chain)?;
            if 4 + want > self.pages.present(v) {
                return Err(Flaw::Chain);
            }
            // A page of zeros in the midst of something else was written by nobody; a long blob
            // of zeros has them before it too.
            let tail = &bytes[bytes.len().saturating_sub(16)..];
            if page.iter().all(|b| *b == 0) && tail.iter().any(|b| *b != 0) {
                return Err(Flaw::Chain);
            }
            bytes.extend_from_slice(part);
            next = word(&page, 0);
            links -= 1;
        }
        if next == 0 {
            Ok(Cow::Owned(bytes))
        } else {
            Err(Flaw::Chain)
        }
    }

    /// Does the pointer map say that `page` is no part of the chain it is reached by, `from` this kind
    /// of page with this number? Where there is none, or it says nothing that can be, it does not.
    fn hangs_elsewhere(&self, page: u32, (kind, parent): (u8, u32), at: u64) -> bool {
        if !self.header.auto_vacuum || parent == 0 {
            return false;
        }
        let map = pointer_map_of(page, self.usable(), self.header.page_size);
        let Some(bytes) = self.as_of(map, at).and_then(|v| self.load(v)) else {
            return false;
        };
        let Some(place) = page.checked_sub(map + 1).map(|n| n as usize * 5) else {
            return false;
        };
        let Some(said) = bytes.get(place).filter(|k| **k != 0) else {
            return false;
        };
        // A map that was damaged itself says nothing: its neighbours must be entries, too.
        let around = place.saturating_sub(NEIGHBOURS * 5)..=place + NEIGHBOURS * 5;
        let mut around = around.step_by(5).filter(|at| at + 5 <= self.usable());
        around.all(|at| is_map_entry(&bytes, at))
            && (*said != kind || word(&bytes, place + 1) != parent)
    }

    /// The state of `page` at a time.
    pub(super) fn as_of(&self, page: u32, at: u64) -> Option<Version> {
        self.pages
            .versions(page)
            .into_iter()
            .rev()
            .find(|v| when(*v) <= at)
    }
}

/// Is what stands at `at` of a pointer map an entry, or none yet? A root and a free page have no
/// parent; all others have one.
fn is_map_entry(map: &[u8], at: usize) -> bool {
    let Some(kind) = map.get(at).filter(|_| at + 5 <= map.len()) else {
        return false;
    };
    let parent = word(map, at + 1);
    match kind {
        0..=2 => parent == 0,
        3..=5 => parent != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_a_pointer_map_is_told_from_what_is_none() {
        for (entry, is) in [
            ([0, 0, 0, 0, 0], true),
            ([1, 0, 0, 0, 0], true),
            ([2, 0, 0, 0, 0], true),
            ([5, 0, 0, 0, 9], true),
            ([3, 0, 0, 1, 0], true),
            ([1, 0, 0, 0, 9], false),
            ([4, 0, 0, 0, 0], false),
            ([6, 0, 0, 0, 9], false),
        ] {
            assert_eq!(is_map_entry(&entry, 0), is, "{entry:?}");
        }
        assert!(!is_map_entry(&[1, 0, 0, 0], 0), "no whole entry");
    }
}
