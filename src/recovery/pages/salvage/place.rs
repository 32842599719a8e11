//! Where a row stands, or would stand, in a leaf of which some cells are lost.

use std::collections::HashSet;

use super::super::leaf::{Sifted, Slot};

/// Where a key would stand in a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is there.
    Present,
    /// Between two cells that are next to each other: it is not there.
    Between,
    /// Before the first or behind the last.
    Edge,
    /// Where a damaged cell stands.
    Doubtful,
}

pub(super) fn place(sifted: &Sifted, key: i64) -> Place {
    if !sifted.counted {
        let known = sifted.slots.iter().any(|s| s.key() == Some(key));
        return if known {
            Place::Present
        } else {
            Place::Doubtful
        };
    }
    let (mut before, mut doubt) = (false, false);
    for slot in &sifted.slots {
        match slot.key() {
            Some(k) if k == key => return Place::Present,
            Some(k) if k < key => (before, doubt) = (true, false),
            Some(_) => {
                return match (doubt, before) {
                    (true, _) => Place::Doubtful,
                    (false, true) => Place::Between,
                    (false, false) => Place::Edge,
                };
            }
            None => doubt = true,
        }
    }
    if doubt { Place::Doubtful } else { Place::Edge }
}

/// Which of an older state's `keys` stand where a damaged leaf has cells that are lost: all
/// between two known cells when there are no more of them than lost cells, else only those whose
/// number a lost cell still shows.
pub(super) fn fill(now: &Sifted, keys: &[i64]) -> HashSet<i64> {
    if !now.counted {
        return keys.iter().copied().collect();
    }
    let mut kept = HashSet::new();
    let mut above = None;
    let mut lost: Vec<Option<i64>> = Vec::new();
    let mut close = |above: Option<i64>, upto: Option<i64>, lost: &[Option<i64>]| {
        let inside: Vec<i64> = keys
            .iter()
            .copied()
            .filter(|k| above.is_none_or(|a| *k > a) && upto.is_none_or(|u| *k < u))
            .collect();
        if inside.len() <= lost.len() {
            kept.extend(inside);
        } else {
            kept.extend(inside.into_iter().filter(|k| lost.contains(&Some(*k))));
        }
    };
    for slot in &now.slots {
        match slot {
            Slot::Good(cell) => {
                close(above, Some(cell.rowid), &lost);
                above = Some(cell.rowid);
                lost.clear();
            }
            Slot::Bad(key) => lost.push(*key),
        }
    }
    close(above, None, &lost);
    kept
}
