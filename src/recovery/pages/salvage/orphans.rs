//! Leaves that nothing leads to: whose they are, and which of their rows still count.

use std::collections::HashSet;

use super::super::super::source::Version;
use super::super::leaf::{Slot, Trust};
use super::super::node::{Kind, Node};
use super::super::table::Table;
use super::super::tree::Bounds;
use super::super::unnamed::ends_in_rowids;
use super::super::view::when;
use super::suit::{fills, score};
use super::{Keeper, Origin, Orphan, Work, bad, trust};

impl<K: Keeper> Work<'_, '_, K> {
    /// Leaves that nothing leads to, of times that `wanted` says.
    pub(super) fn orphans(&mut self, wanted: impl Fn(u64) -> bool) -> Result<(), K::Error> {
        let all: Vec<Orphan> = self
            .orphans
            .iter()
            .filter(|o| wanted(when(o.version)))
            .copied()
            .collect();
        for orphan in all {
            self.keeper.page_done()?;
            let v = orphan.version;
            let Some(bytes) = self.view.load(v) else {
                continue;
            };
            let Some(table) = self.owner(v, &bytes) else {
                continue;
            };
            if self.schema.tables[table].without_rowid {
                self.wide(table, v, Origin::Orphaned)?;
                continue;
            }
            let sifted = self.sift(table, v, &bytes);
            let mut keys: Vec<i64> = sifted.slots.iter().filter_map(Slot::key).collect();
            if sifted.carved {
                // Some of what was found may be left over from before.
                keys.retain(|k| !self.covered(table, *k, *k));
            }
            let (Some(low), Some(high)) = (keys.first().copied(), keys.last().copied()) else {
                continue;
            };
            // Of two leaves for the same keys one is out of date; the better came first.
            if !sifted.carved && self.covered(table, low, high) {
                self.out.tables[table].deleted += keys.len() as u64;
                continue;
            }
            let kept: HashSet<i64> = keys
                .iter()
                .copied()
                .filter(|k| self.judge(table, *k, v, None))
                .collect();
            if kept.len() * 2 <= keys.len() && !self.newer_than_tree(table, v, low) {
                self.out.tables[table].deleted += keys.len() as u64;
                continue;
            }
            if v.page > 0 {
                self.claims.take(v.page, table);
            }
            if sifted.carved {
                for key in &keys {
                    self.cover(table, *key, *key);
                }
            } else {
                self.cover(table, low, high);
            }
            let tally = &mut self.out.tables[table];
            tally.damaged += bad(&sifted);
            if !sifted.whole {
                self.out.damaged_leaves += 1;
                let bounds = Bounds::default();
                self.damaged.push((v.page, table, bounds));
            }
            self.emit(table, v, &bytes, &sifted, Origin::Orphaned, |k| {
                kept.contains(&k)
            })?;
        }
        Ok(())
    }

    pub(super) fn newer_than_tree(&self, table: usize, v: Version, key: i64) -> bool {
        self.claims
            .find(self.view, table, key)
            .is_none_or(|stop| when(stop.version) < when(v))
    }

    /// Do leaves that were taken already cover any of these keys?
    pub(super) fn covered(&self, table: usize, low: i64, high: i64) -> bool {
        self.ranges[table]
            .range(..=high)
            .next_back()
            .is_some_and(|(_, end)| *end >= low)
    }

    pub(super) fn cover(&mut self, table: usize, mut low: i64, mut high: i64) {
        let ranges = &mut self.ranges[table];
        // Ranges that touch become one, so that their number stays small.
        if let Some((start, end)) = ranges.range(..low).next_back().map(|(a, b)| (*a, *b))
            && end.checked_add(1) == Some(low)
        {
            ranges.remove(&start);
            low = start;
        }
        if let Some(next) = high.checked_add(1)
            && let Some(end) = ranges.remove(&next)
        {
            high = end;
        }
        ranges.insert(low, high);
    }

    /// Is this state of a leaf, to which the tree of `table` leads, of a table that lacks one? Where
    /// the page was given to another table, and the page that no longer names it is lost.
    pub(super) fn is_anothers(&self, table: usize, v: Version) -> bool {
        let Some(shape) = self.schema.tables.get(table) else {
            return false;
        };
        let Some(bytes) = self.view.load(v) else {
            return false;
        };
        let node = Node::parse(&bytes, v.page, self.view.usable());
        let Some(node) = node.filter(|n| n.kind == Kind::TableLeaf && n.cells > 0) else {
            return false;
        };
        let suits = |table: &Table| score(self.view, table, &node, when(v)).is_some();
        let lacks_one = |(other, shape): (usize, &Table)| {
            other != table
                && !shape.without_rowid
                && self.claims.holes.get(other).is_some_and(|h| *h > 0)
                && suits(shape)
        };
        !suits(shape) && self.schema.tables.iter().enumerate().any(lacks_one)
    }

    /// Was this state of a page a leaf of `table`? Before that it may have been another's.
    pub(super) fn was_of(&self, table: usize, v: Version, bytes: &[u8]) -> bool {
        let shape = &self.schema.tables[table];
        Node::parse(bytes, v.page, self.view.usable())
            .filter(|node| node.kind == Kind::TableLeaf)
            .is_some_and(|node| !shape.foreign || score(self.view, shape, &node, when(v)).is_some())
    }

    /// The table that an orphaned page belongs to; none unless there is one place for it.
    pub(super) fn owner(&self, v: Version, bytes: &[u8]) -> Option<usize> {
        let has_place = |table: usize| {
            self.claims.holes.get(table).is_some_and(|h| *h > 0)
                || self.torn.iter().any(|t| *t <= when(v))
        };
        let Some(node) = Node::parse(bytes, v.page, self.view.usable()) else {
            return self.headless_owner(v, bytes, has_place);
        };
        let may = |table: &usize| self.schema.tables[*table].without_rowid == node.kind.is_index();
        let hint = self.claims.hints.get(&v.page).map(|t| usize::from(*t));
        let mut scores: Vec<(usize, usize)> = (0..self.schema.tables.len())
            .filter(may)
            .filter_map(|t| {
                let score = score(self.view, &self.schema.tables[t], &node, when(v))?;
                Some((score + usize::from(hint == Some(t)) * node.cells, t))
            })
            .collect();
        // An entry of an index ends with a rowid; a table that looks like one cannot be told
        // from it, but where a row has more columns than such an entry.
        if node.kind.is_index() && ends_in_rowids(&node) {
            hint?;
            scores.retain(|(_, t)| fills(self.view, &self.schema.tables[*t], &node, when(v)));
        }
        // What suits a whole table best is what that one has freed or moved, whoever else would do.
        let best = scores.iter().map(|(score, _)| *score).max()?;
        scores.retain(|(_, table)| has_place(*table));
        scores.sort_unstable();
        match scores[..] {
            [.., (a, _), (b, _)] if a == b => None,
            [.., (score, table)] if score == best => Some(table),
            _ => None,
        }
    }

    /// The same for a page that may be a leaf without its header: the table of which the most
    /// cells are found in it.
    pub(super) fn headless_owner(
        &self,
        v: Version,
        bytes: &[u8],
        has_place: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        /// Fewer may be there by chance.
        const FEWEST: usize = 3;
        // The start of the log was struck: header of the frame and of the page went together. Only a
        // table that the caller knows is looked for in what is left of such a page.
        let nameless = v.page == 0;
        if trust(v) != Trust::Unsaid && !nameless {
            return None;
        }
        let mut found: Vec<(usize, usize)> = (0..self.schema.tables.len())
            .filter(|t| !self.schema.tables[*t].without_rowid && has_place(*t))
            .filter(|t| !nameless || !self.schema.tables[*t].foreign)
            .map(|t| (self.sift(t, v, bytes).slots.len(), t))
            .filter(|(n, _)| *n >= FEWEST)
            .collect();
        found.sort_unstable();
        match found[..] {
            [] => None,
            [.., (a, _), (b, _)] if a == b => None,
            [.., (_, table)] => Some(table),
        }
    }
}
