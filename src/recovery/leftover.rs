//! Frames that a torn transaction left behind the commits that were written over its beginning.
//!
//! After a cut SQLite goes on behind the last whole commit, in the same log and with the same
//! salts, over the frames of the transaction that was torn. Where that one was longer, its rest,
//! whose links hold and which may end in a commit, stands behind the new ones and looks like a
//! commit with a damaged beginning. It promises to call it a leftover only on proof: whoever makes
//! a database larger writes page 1, where its size stands, first; a rest without it is not whole.
//! What is only a rest must never be laid over what was committed since.
//!
//! Source: SQLite's btree.c, allocateBtreePage, and pcache.c, which sorts the pages of a commit.

use super::Bytes;
use super::wal::{HeaderState, Overlay, State, Verdict, Wal};

/// Is the last transaction of the log the rest of one that was never committed?
pub(super) fn ends_in_one(
    database: Option<&dyn Bytes>,
    log: Option<&dyn Bytes>,
    wal: &Wal,
) -> bool {
    let looks_so = match wal.verdict() {
        Verdict::Damaged(d) => d.only_last && d.header == HeaderState::Intact,
        Verdict::Absent
        | Verdict::Empty
        | Verdict::Clean { .. }
        | Verdict::TornTail { .. }
        | Verdict::Unreadable => false,
    };
    let last = wal.kept_by_sqlite();
    let Some(after) = wal.size_after(last).filter(|_| looks_so) else {
        return false;
    };
    let before = last.checked_sub(1).and_then(|t| wal.size_after(t));
    let before = before.unwrap_or_else(|| Overlay::new(database, log, wal, None).stated_pages());
    // One that was lost, or whose number is in doubt, may have been page 1.
    let rivals: Vec<u32> = wal.rivals().map(|(slot, _)| slot).collect();
    let mut frames = wal.frames().filter(|f| f.transaction == Some(last));
    let may_be_first =
        |f: super::wal::Frame| f.page == 1 || f.state == State::Lost || rivals.contains(&f.slot);
    after > before && !frames.any(may_be_first)
}
