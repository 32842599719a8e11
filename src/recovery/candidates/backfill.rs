//! How much of a log a checkpoint had already moved into the database file.
//!
//! A checkpoint writes the last version of every page up to some frame. So a page of the file
//! that is the same as a frame shows that at least all before that frame was moved: then an
//! older state of the log must not be laid over the file, and where a damaged frame lies before
//! it the file has what that frame held.

use std::collections::BTreeSet;

use crate::recovery::wal::Overlay;
use crate::recovery::{Pages, Version};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Backfill {
    /// The last frame that is known to be in the file.
    level: Option<u32>,
    /// Pages of the file that are none of the proven versions in the log.
    others: BTreeSet<u32>,
    complete: bool,
    inferred: u32,
}

impl Backfill {
    /// Compares the file with the log, page by page.
    pub(super) fn of(overlay: &Overlay<'_>) -> Self {
        let wal = overlay.wal();
        let end = wal.transactions().last().map_or(0, |t| t.last + 1);
        let size = overlay.page_size();
        let (mut below, mut above) = (vec![0; size], vec![0; size]);
        let mut found = Self {
            complete: end > 0,
            ..Self::default()
        };
        let lost = wal.lost_slots().last().copied();
        let mut last = None;
        for (page, slots) in wal.pages() {
            let slots = &slots[..slots.partition_point(|s| *s < end)];
            let Some(newest) = slots.last() else {
                continue;
            };
            let read = |v: Option<Version>, buf: &mut [u8]| {
                v.is_some_and(|v| overlay.read(v, buf).is_ok())
            };
            let proven = |s: &&u32| wal.state(**s).is_proven();
            let there = read(overlay.below(page), &mut below);
            let same = slots.iter().rev().filter(proven).find(|slot| {
                there && read(overlay.frame(page, **slot), &mut above) && below == above
            });
            found.level = found.level.max(same.copied());
            last = last.max(proven(&newest).then_some(*newest));
            if proven(&newest) && same != Some(newest) {
                // The file may have what a lost frame held, but not what an older one did.
                if same.is_none() && lost.is_some_and(|lost| lost > *newest) {
                    found.inferred += 1;
                } else {
                    found.complete = false;
                }
            }
            if there && same.is_none() {
                found.others.insert(page);
            }
        }
        found.complete &= found.level.is_some() && found.level == last;
        found
    }

    /// Pages of which the file alone knows the last version, if [`Backfill::is_complete`].
    pub(super) fn inferred(&self) -> u32 {
        self.inferred
    }

    /// Everything that was committed is in the file.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Is what the damaged frame at `slot` held of `page` in the file?
    pub(super) fn has(&self, page: u32, slot: u32) -> bool {
        self.others.contains(&page) && self.level.is_some_and(|level| level >= slot)
    }

    /// Does the file show what comes behind the first `end` frames?
    pub(super) fn is_past(&self, end: u32) -> bool {
        self.level.is_some_and(|level| level >= end)
    }
}
