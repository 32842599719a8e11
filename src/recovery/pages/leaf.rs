//! What a leaf still gives, when it is not sure that all of it was written.
//!
//! It promises to prefer losing a row to making one up. A page with a checksum is believed; one
//! of the database file is believed when its layout is perfect and every record suits its table;
//! of any other page, a cell is believed when another state of the page holds the same bytes, or
//! when the damage was found elsewhere in the page.

use std::collections::{HashMap, HashSet};

use super::node::{Cell, Kind, Node};
use super::record::{begins_a_record, decode};
use super::table::{Fit, Table};
use super::view::{Flaw, View};

/// What media lose at once.
pub(super) const SECTOR: usize = 512;

/// How much the bytes of a page are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// A checksum vouches for them.
    Proven,
    /// Of the database file: nothing speaks for or against them.
    Unsaid,
    /// A checksum speaks against them.
    Refuted,
}

/// How a page's bytes lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lies {
    /// When they were written.
    pub(super) at: u64,
    /// What they are worth.
    pub(super) trust: Trust,
    /// Bytes of the file's sector before the page's first: in a log pages begin between sectors.
    pub(super) shift: usize,
    /// So many of them are there; the file ends before the others.
    pub(super) present: usize,
}

/// A place in the order of the leaf's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Slot {
    /// A cell to be believed.
    Good(Cell),
    /// One that is not, with the key it claims to have, where it has one.
    Bad(Option<i64>),
}

impl Slot {
    /// The key of a cell that is believed.
    pub(super) fn key(&self) -> Option<i64> {
        match self {
            Self::Good(cell) => Some(cell.rowid),
            Self::Bad(_) => None,
        }
    }
}

/// A leaf taken apart.
#[derive(Debug, Default)]
pub(super) struct Sifted {
    /// Its cells in the order of their keys.
    pub(super) slots: Vec<Slot>,
    /// Are these all the cells the page has? Not where its header is lost.
    pub(super) counted: bool,
    /// Nothing in it is in doubt.
    pub(super) whole: bool,
    /// Found without a pointer.
    pub(super) carved: bool,
    /// Rows left out because they are too large.
    pub(super) too_large: u64,
}

/// The records of other states of the page, by rowid, and the highest rowid in a proven one.
#[derive(Debug, Default)]
pub(super) struct Others {
    payloads: HashMap<i64, Vec<Vec<u8>>>,
    highest: Option<i64>,
}

impl Others {
    /// Adds another state of the page.
    pub(super) fn add(&mut self, node: &Node<'_>, proven: bool) {
        if node.kind != Kind::TableLeaf {
            return;
        }
        for cell in (0..node.cells).filter_map(|i| node.cell(i)) {
            let all = self.payloads.entry(cell.rowid).or_default();
            let bytes = node.bytes(cell.place.clone());
            if all.len() < 4 && all.iter().all(|b| b != bytes) {
                all.push(bytes.to_vec());
            }
            if proven {
                self.highest = self.highest.max(Some(cell.rowid));
            }
        }
    }

    fn confirm(&self, node: &Node<'_>, cell: &Cell) -> bool {
        self.payloads
            .get(&cell.rowid)
            .is_some_and(|all| all.iter().any(|b| b == node.bytes(cell.place.clone())))
    }
}

/// Takes apart page `number`, a leaf of `table` as it was written at `at`.
pub(super) fn sift(
    view: &View<'_>,
    table: &Table,
    bytes: &[u8],
    number: u32,
    lies: Lies,
    others: &Others,
) -> Sifted {
    let Lies { at, trust, .. } = lies;
    let node = Node::parse(bytes, number, view.usable()).filter(|n| n.kind == Kind::TableLeaf);
    let Some(node) = node else {
        return carve(view, table, bytes, number, lies, others);
    };
    let mut too_large = 0;
    let mut chained = vec![false; node.cells];
    let mut looked: Vec<(Option<Cell>, Fit)> = (0..node.cells)
        .map(|i| match node.cell(i) {
            Some(cell) if cell.place.end > lies.present => (Some(cell), Fit::Never),
            Some(cell) => match fit_of(view, table, &node, &cell, at, trust) {
                Ok(fit) => (Some(cell), fit),
                Err(Flaw::TooLarge) => {
                    too_large += 1;
                    (Some(cell), Fit::Never)
                }
                Err(Flaw::Chain) => {
                    let local = node.bytes(cell.local.clone());
                    let columns = table.columns.len();
                    chained[i] =
                        cell.overflow != 0 && begins_a_record(local, cell.payload, columns);
                    (Some(cell), Fit::Never)
                }
            },
            None => (None, Fit::Never),
        })
        .collect();
    let orderly = node.is_orderly();
    let all_fit = looked.iter().all(|l| l.1 != Fit::Never);
    let whole = match trust {
        Trust::Proven => true,
        Trust::Unsaid => orderly && all_fit,
        Trust::Refuted => false,
    };
    if whole {
        let slots = looked.into_iter().map(|(cell, fit)| match cell {
            Some(cell) if fit != Fit::Never => Slot::Good(cell),
            cell => Slot::Bad(cell.map(|c| c.rowid)),
        });
        return Sifted {
            slots: slots.collect(),
            counted: true,
            whole: all_fit,
            carved: false,
            too_large,
        };
    }
    let confirmed: Vec<bool> = looked
        .iter()
        .map(|(cell, _)| cell.as_ref().is_some_and(|c| others.confirm(&node, c)))
        .collect();
    for ((_, fit), confirmed) in looked.iter_mut().zip(&confirmed) {
        if *fit == Fit::Odd && !confirmed {
            *fit = Fit::Never;
        }
    }
    drop_overlapping(&mut looked, &confirmed);
    drop_unordered(&mut looked);
    let failed = looked.iter().filter(|l| l.1 == Fit::Never).count();
    // A page whose pointers are mostly lost gives more when its cells are looked for.
    if failed * 2 > looked.len() || (looked.is_empty() && !orderly) {
        let carved = carve(view, table, bytes, number, lies, others);
        if carved.slots.len() > looked.len() - failed {
            return carved;
        }
    }
    let torn = torn_sectors(&node, &looked, &chained, lies.shift);
    let located = failed > 0 || !orderly;
    let slots = looked
        .into_iter()
        .zip(confirmed)
        .map(|((cell, fit), confirmed)| match cell {
            Some(cell) if fit != Fit::Never => {
                let sector = |at: usize| (at + lies.shift) / SECTOR;
                let hit = torn[sector(cell.place.start)..=sector(cell.place.end - 1)]
                    .iter()
                    .any(|t| *t);
                let believed = confirmed || (!hit && (located || trust == Trust::Unsaid));
                if believed {
                    Slot::Good(cell)
                } else {
                    Slot::Bad(Some(cell.rowid))
                }
            }
            cell => Slot::Bad(cell.map(|c| c.rowid)),
        })
        .collect();
    Sifted {
        slots,
        counted: true,
        whole: false,
        carved: false,
        too_large,
    }
}

/// The same, believing a checksum that what an application wrote is what lies there, whatever its
/// columns say.
fn fit_of(
    view: &View<'_>,
    table: &Table,
    node: &Node<'_>,
    cell: &Cell,
    at: u64,
    trust: Trust,
) -> Result<Fit, Flaw> {
    if trust != Trust::Proven || !table.foreign {
        return fit(view, table, node, cell, at);
    }
    let payload = view.payload(node, cell, at)?;
    let values = decode(&payload).filter(|v| v.len() <= table.columns.len());
    Ok(values.map_or(Fit::Never, |_| Fit::Good))
}

fn fit(view: &View<'_>, table: &Table, node: &Node<'_>, cell: &Cell, at: u64) -> Result<Fit, Flaw> {
    let payload = view.payload(node, cell, at)?;
    Ok(decode(&payload).map_or(Fit::Never, |values| {
        table.fit(&values, view.header.encoding)
    }))
}

/// Of two cells that overlap, one is damaged; without a witness it cannot be said which.
fn drop_overlapping(looked: &mut [(Option<Cell>, Fit)], confirmed: &[bool]) {
    let mut order: Vec<usize> = (0..looked.len())
        .filter(|i| looked[*i].1 != Fit::Never)
        .collect();
    let start = |l: &[(Option<Cell>, Fit)], i: usize| l[i].0.as_ref().map_or(0, |c| c.place.start);
    order.sort_by_key(|i| start(looked, *i));
    let mut before: Option<(usize, usize)> = None;
    let mut bad = Vec::new();
    for i in order {
        let Some(place) = looked[i].0.as_ref().map(|c| c.place.clone()) else {
            continue;
        };
        if let Some((j, end)) = before
            && place.start < end
        {
            bad.extend([i, j]);
        }
        if before.is_none_or(|(_, end)| place.end > end) {
            before = Some((i, place.end));
        }
    }
    for i in bad {
        if !confirmed[i] {
            looked[i].1 = Fit::Never;
        }
    }
}

/// Keeps the longest run of ascending keys.
fn drop_unordered(looked: &mut [(Option<Cell>, Fit)]) {
    let keys: Vec<(usize, i64)> = looked
        .iter()
        .enumerate()
        .filter(|(_, l)| l.1 != Fit::Never)
        .filter_map(|(i, l)| Some((i, l.0.as_ref()?.rowid)))
        .collect();
    // Patience: the last of each pile, and for each key the one before it in its run.
    let mut piles: Vec<usize> = Vec::new();
    let mut before = vec![usize::MAX; keys.len()];
    for k in 0..keys.len() {
        let pile = piles.partition_point(|p| keys[*p].1 < keys[k].1);
        if pile > 0 {
            before[k] = piles[pile - 1];
        }
        if pile == piles.len() {
            piles.push(k);
        } else {
            piles[pile] = k;
        }
    }
    let mut kept = vec![false; keys.len()];
    let mut at = piles.last().copied();
    while let Some(k) = at {
        kept[k] = true;
        at = (before[k] != usize::MAX).then(|| before[k]);
    }
    for ((i, _), kept) in keys.iter().zip(kept) {
        if !kept {
            looked[*i].1 = Fit::Never;
        }
    }
}

/// Sectors in which no cell that begins there is sound, so that a cell reaching into one from
/// before may have lost its end. Of a cell that is `chained`, whose record begins as it should and
/// goes on wrongly in other pages, only the end is in doubt: the number of the next page.
fn torn_sectors(
    node: &Node<'_>,
    looked: &[(Option<Cell>, Fit)],
    chained: &[bool],
    shift: usize,
) -> Vec<bool> {
    let sectors = 65_536 / SECTOR + 1;
    let (mut sound, mut failed) = (vec![0u32; sectors], vec![0u32; sectors]);
    for (i, (cell, fit)) in looked.iter().enumerate() {
        let start = cell.as_ref().map_or_else(
            || node.pointer(i),
            |c| match chained.get(i) {
                Some(true) => c.place.end.saturating_sub(4),
                Some(false) | None => c.place.start,
            },
        );
        let count = if *fit == Fit::Never {
            &mut failed
        } else {
            &mut sound
        };
        if let Some(n) = count.get_mut((start + shift) / SECTOR) {
            *n += 1;
        }
    }
    (0..sectors)
        .map(|s| {
            let from = (s * SECTOR).saturating_sub(shift);
            let bytes = node.bytes(from..(s + 1) * SECTOR - shift);
            let blank = bytes.len() == SECTOR && bytes.iter().all(|b| *b == bytes[0]);
            (failed[s] > 0 && sound[s] == 0) || blank
        })
        .collect()
}

/// Looks for cells where no pointer leads: the longest chain of sound cells that ends at the end
/// of the page, each followed by the next, by a free block or by a fragment. What was deleted
/// lies in free blocks, and those are passed over.
fn carve(
    view: &View<'_>,
    table: &Table,
    bytes: &[u8],
    number: u32,
    Lies {
        at, trust, present, ..
    }: Lies,
    others: &Others,
) -> Sifted {
    let mut sifted = Sifted::default();
    if trust == Trust::Proven {
        return sifted;
    }
    let node = Node::headless(bytes, number, view.usable());
    let usable = view.usable();
    // For each start of a chain: how many cells it has, and where the next one begins.
    let mut chains: HashMap<usize, (u32, usize)> = HashMap::from([(usable, (0, usable))]);
    let mut best = (0, usable);
    for start in (node.pointers_end()..usable.saturating_sub(3)).rev() {
        let Some(cell) = node.cell_at(start) else {
            continue;
        };
        let end = cell.place.end;
        let next = [
            Some(end),
            node.behind_free(end),
            Some(end + 1),
            Some(end + 2),
            Some(end + 3),
        ]
        .into_iter()
        .flatten()
        .find(|next| chains.contains_key(next));
        let Some((next, (behind, _))) = next.and_then(|n| Some((n, *chains.get(&n)?))) else {
            continue;
        };
        if end > present || fit(view, table, &node, &cell, at) != Ok(Fit::Good) {
            continue;
        }
        chains.insert(start, (behind + 1, next));
        if behind + 1 > best.0 {
            best = (behind + 1, start);
        }
    }
    let mut cells = Vec::new();
    let mut start = best.1;
    while let Some(cell) = (start < usable).then(|| node.cell_at(start)).flatten() {
        cells.push(cell);
        start = chains.get(&start).map_or(usable, |(_, next)| *next);
    }
    // From the end of the page on, where the oldest cells lie. What repeats a key was left over
    // when the page was tidied up, and so is everything before it.
    let mut seen = HashSet::new();
    for cell in cells.into_iter().rev() {
        if !seen.insert(cell.rowid) {
            break;
        }
        // An older state that can be believed says what was deleted since: nothing can be told
        // of that here, so only what it held, and what came after it, is taken.
        let told = others.confirm(&node, &cell) || others.highest.is_none_or(|h| cell.rowid > h);
        sifted.slots.push(if told {
            Slot::Good(cell)
        } else {
            Slot::Bad(Some(cell.rowid))
        });
    }
    sifted.slots.sort_by_key(|s| match s {
        Slot::Good(cell) => cell.rowid,
        Slot::Bad(key) => key.unwrap_or(i64::MAX),
    });
    sifted.carved = true;
    sifted
}
