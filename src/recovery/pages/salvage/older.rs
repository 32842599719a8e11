//! Rows of older states: of damaged leaves, of leaves that lost rows to pages that are missing,
//! and of what lies in gaps.

use std::collections::HashSet;

use super::super::super::source::Version;
use super::super::leaf::{Sifted, Slot, Trust};
use super::super::node::{Kind, Node};
use super::super::record::decode;
use super::super::table::Fit;
use super::super::tree::{Bounds, Claim};
use super::super::view::when;
use super::place::{Place, fill, place};
use super::{Keeper, Origin, Work, trust};

impl<K: Keeper> Work<'_, '_, K> {
    /// Older states of damaged leaves, and of leaves that lost rows to pages that are missing.
    pub(super) fn older(&mut self) -> Result<(), K::Error> {
        self.torn_moves()?;
        let damaged = std::mem::take(&mut self.damaged);
        for (page, table, bounds) in damaged {
            self.keeper.page_done()?;
            self.refill(page, table, bounds)?;
        }
        for page in std::mem::take(&mut self.lost) {
            self.keeper.page_done()?;
            let versions = self.view.pages.versions(page);
            for v in versions.into_iter().rev().skip(1) {
                let Some(bytes) = self.view.load(v) else {
                    continue;
                };
                let Some(table) = self.owner(v, &bytes) else {
                    continue;
                };
                if self.schema.tables[table].without_rowid {
                    self.wide(table, v, Origin::Older)?;
                } else {
                    let sifted = self.sift(table, v, &bytes);
                    let kept: HashSet<i64> = sifted
                        .slots
                        .iter()
                        .filter_map(Slot::key)
                        .filter(|k| self.judge(table, *k, v, None))
                        .collect();
                    self.emit(table, v, &bytes, &sifted, Origin::Older, |k| {
                        kept.contains(&k)
                    })?;
                }
                break;
            }
        }
        Ok(())
    }

    /// Rows that left a page in a transaction of which other pages are missing, so that nobody
    /// can say whether they were deleted or moved there.
    pub(super) fn torn_moves(&mut self) -> Result<(), K::Error> {
        if self.torn.is_empty() {
            return Ok(());
        }
        let torn: HashSet<u64> = self.torn.iter().copied().collect();
        for page in 2..=self.view.pages.highest() {
            self.keeper.page_done()?;
            let versions = self.view.pages.versions(page);
            if !versions.iter().any(|v| torn.contains(&when(*v))) {
                continue;
            }
            for pair in versions.windows(2).rev() {
                let (old, new) = (pair[0], pair[1]);
                if when(new) == 0 || !torn.contains(&when(new)) || trust(old) == Trust::Refuted {
                    continue;
                }
                let (Some(before), Some(after)) = (self.view.load(old), self.view.load(new)) else {
                    continue;
                };
                let table = match self.claims.of(page) {
                    Claim::Tree(t) if usize::from(t) < self.schema.tables.len() => {
                        Some(usize::from(t))
                    }
                    Claim::Tree(_) => None,
                    Claim::Free | Claim::None => self.owner(old, &before),
                };
                let Some(table) = table.filter(|t| !self.schema.tables[*t].without_rowid) else {
                    continue;
                };
                let leaf = |bytes: &[u8]| {
                    Node::parse(bytes, page, self.view.usable())
                        .is_some_and(|n| n.kind == Kind::TableLeaf)
                };
                if !self.was_of(table, old, &before) {
                    continue;
                }
                let now = leaf(&after).then(|| self.sift(table, new, &after));
                let sifted = self.sift(table, old, &before);
                let left: Vec<i64> = sifted
                    .slots
                    .iter()
                    .filter_map(Slot::key)
                    .filter(|k| now.as_ref().is_none_or(|now| place(now, *k) == Place::Edge))
                    .collect();
                let kept: HashSet<i64> = left
                    .into_iter()
                    .filter(|k| self.judge(table, *k, old, Some(when(new))))
                    .collect();
                self.emit(table, old, &before, &sifted, Origin::Older, |k| {
                    kept.contains(&k)
                })?;
            }
        }
        Ok(())
    }

    /// Puts rows of an older state in the places of the cells that a damaged leaf lost.
    pub(super) fn refill(
        &mut self,
        page: u32,
        table: usize,
        bounds: Bounds,
    ) -> Result<(), K::Error> {
        let mut versions = self.view.pages.versions(page);
        let Some(newest) = versions.pop() else {
            return Ok(());
        };
        let now = self
            .view
            .load(newest)
            .map(|bytes| self.sift(table, newest, &bytes))
            .unwrap_or_default();
        let have: HashSet<i64> = now.slots.iter().filter_map(Slot::key).collect();
        // The state most like the damaged one. The database file may be newer than the log's
        // first states of a page: a checkpoint may have written it.
        let mut best: Option<(usize, usize, Version, Vec<u8>, Sifted)> = None;
        for (age, v) in versions.into_iter().enumerate() {
            let Some(bytes) = self.view.load(v) else {
                continue;
            };
            if trust(v) == Trust::Refuted || !self.was_of(table, v, &bytes) {
                continue;
            }
            let sifted = self.sift(table, v, &bytes);
            let alike = sifted
                .slots
                .iter()
                .filter_map(Slot::key)
                .filter(|k| have.contains(k))
                .count();
            if best
                .as_ref()
                .is_none_or(|(a, b, ..)| (*a, *b) <= (alike, age))
            {
                best = Some((alike, age, v, bytes, sifted));
            }
        }
        let Some((_, _, v, bytes, old)) = best else {
            return Ok(());
        };
        let keys: Vec<i64> = old
            .slots
            .iter()
            .filter_map(Slot::key)
            .filter(|k| bounds.hold(*k) && !have.contains(k))
            .collect();
        let kept = fill(&now, &keys);
        self.out.tables[table].deleted += (keys.len() - kept.len()) as u64;
        self.emit(table, v, &bytes, &old, Origin::Older, |k| kept.contains(&k))
    }

    /// Rows left over in the gaps of pages. Only for tables to which rows are only added, and
    /// only where the leaf that held them last is lost: what was ever there is still valid.
    pub(super) fn remains(&mut self) -> Result<(), K::Error> {
        for table in 0..self.schema.tables.len() {
            let shape = &self.schema.tables[table];
            let Some(from) = shape.kept_from else {
                continue;
            };
            let damaged =
                self.claims.holes.get(table).is_some_and(|h| *h > 0) || self.out.damaged_leaves > 0;
            if shape.without_rowid || !damaged {
                continue;
            }
            for page in 2..=self.view.pages.highest() {
                self.keeper.page_done()?;
                let Some(v) = self
                    .view
                    .newest(page)
                    .filter(|v| trust(*v) != Trust::Refuted)
                else {
                    continue;
                };
                let Some(bytes) = self.view.load(v) else {
                    continue;
                };
                let gap = match Node::parse(&bytes, page, self.view.usable()) {
                    Some(node) => node.gap(),
                    None => continue,
                };
                let node = Node::headless(&bytes, page, self.view.usable());
                let mut at = gap.start;
                while at + 4 < gap.end {
                    let shape = &self.schema.tables[table];
                    let cell = node.cell_at(at).filter(|cell| {
                        cell.place.end <= gap.end
                            && cell.overflow == 0
                            && cell.rowid >= from
                            && decode(node.bytes(cell.local.clone())).is_some_and(|values| {
                                values.len() == shape.columns.len()
                                    && shape.fit(&values, self.view.header.encoding) == Fit::Good
                            })
                    });
                    let Some(cell) = cell else {
                        at += 1;
                        continue;
                    };
                    at = cell.place.end;
                    let key = cell.rowid;
                    if !self.covered(table, key, key) && self.is_lost(table, key) {
                        self.offer(table, &node, &cell, when(v), Some(key), Origin::Remains)?;
                    }
                }
            }
        }
        Ok(())
    }
}
