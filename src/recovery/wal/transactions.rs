//! The transactions of a log, and which part of it a power cut explains.
//!
//! A transaction ends with the frame that says how large the database is after it. What follows
//! the last such frame was never committed: that is the mark of a cut, and clean. So is a bad
//! frame with nothing committed behind it. A bad frame in front of a *proven* commit is damage.

use super::scan::{Judged, State};

/// The frames from one commit to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Its first slot.
    pub first: u32,
    /// Its last slot, which holds the commit.
    pub last: u32,
    /// Frames whose page is damaged, or of which nothing is known. In the latter case the bounds
    /// are doubtful: a lost frame may have been a commit, so that here are two transactions.
    pub damaged: u32,
    /// Frames that nothing vouches for.
    pub unproven: u32,
}

/// What the frames add up to.
#[derive(Debug)]
pub(super) struct Transactions {
    /// Those that were committed, in order.
    pub(super) all: Vec<Transaction>,
    /// How many of them SQLite's own recovery keeps.
    pub(super) kept_by_sqlite: u32,
    /// Frames behind the last commit.
    pub(super) unfinished: u32,
    /// One of those is damaged and bears a commit mark: the last commit may have been whole
    /// once.
    pub(super) commit_in_doubt: bool,
}

/// Groups `frames`. With a header that SQLite refuses it keeps none of them.
pub(super) fn group(frames: &[Judged], header_is_sound: bool) -> Transactions {
    let sound = frames
        .iter()
        .position(|f| f.state != State::Intact)
        .unwrap_or(frames.len());
    let for_sqlite = if header_is_sound { sound } else { 0 };
    // Behind a damaged header nothing is explained by a cut, so an unproven commit counts.
    let commits = |f: &Judged| {
        f.size_after != 0 && (f.written || (!header_is_sound && f.state == State::Unproven))
    };
    let finished = frames.iter().rposition(commits).map_or(0, |last| last + 1);
    let mut all = Vec::new();
    let mut kept_by_sqlite = 0;
    let mut open: Option<Transaction> = None;
    for (slot, f) in (0u32..).zip(&frames[..finished]) {
        let t = open.get_or_insert(Transaction {
            first: slot,
            last: slot,
            damaged: 0,
            unproven: 0,
        });
        t.last = slot;
        t.damaged += u32::from(f.state.is_damaged());
        t.unproven += u32::from(f.state == State::Unproven);
        if f.size_after != 0 && f.state != State::Lost {
            all.push(*t);
            open = None;
            kept_by_sqlite += u32::from((slot as usize) < for_sqlite);
        }
    }
    let behind = &frames[finished..];
    Transactions {
        all,
        kept_by_sqlite,
        unfinished: u32::try_from(behind.len()).unwrap_or(u32::MAX),
        commit_in_doubt: behind
            .iter()
            .any(|f| f.size_after != 0 && f.state != State::Lost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(state: State, size_after: u32) -> Judged {
        Judged {
            page: 1,
            size_after,
            state,
            written: state.is_proven(),
        }
    }

    #[test]
    fn a_bad_frame_behind_the_last_commit_is_no_damage() {
        use State::{DamagedPage, Intact};
        let frames = [(Intact, 2), (Intact, 0), (DamagedPage, 0), (Intact, 0)];
        let t = group(&frames.map(|(s, n)| frame(s, n)), true);
        assert_eq!((t.all.len(), t.kept_by_sqlite, t.unfinished), (1, 1, 3));
        assert!(!t.commit_in_doubt);
    }

    #[test]
    fn a_bad_last_commit_is_a_tail_that_says_so() {
        use State::{DamagedPage, Intact};
        let frames = [(Intact, 2), (Intact, 0), (DamagedPage, 2)];
        let t = group(&frames.map(|(s, n)| frame(s, n)), true);
        assert_eq!((t.all.len(), t.unfinished), (1, 2));
        assert!(t.commit_in_doubt);
    }

    #[test]
    fn a_proven_commit_behind_a_bad_frame_makes_it_damage() {
        use State::{DamagedPage, Intact, Lost, Unproven};
        let frames = [
            (Intact, 2),
            (DamagedPage, 0),
            (Intact, 2),
            (Lost, 7),
            (Unproven, 0),
            (Intact, 3),
        ];
        let t = group(&frames.map(|(s, n)| frame(s, n)), true);
        let bounds: Vec<_> = t.all.iter().map(|t| (t.first, t.last, t.damaged)).collect();
        assert_eq!(bounds, [(0, 0, 0), (1, 2, 1), (3, 5, 1)]);
        assert_eq!((t.kept_by_sqlite, t.unfinished), (1, 0));
        let refused = group(&frames.map(|(s, n)| frame(s, n)), false);
        assert_eq!((refused.all.len(), refused.kept_by_sqlite), (3, 0));
    }
}
