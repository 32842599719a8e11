//! What was acknowledged, held against what SQLite would show of a log whose end is torn.
//!
//! It promises that a commit of which somebody was told is never taken for the mark of a cut. It
//! must never say so for want of knowledge: where the files do not tell, they are left to the
//! rules for a log alone.

use super::pages::AsOf;
use super::source::Bytes;
use super::wal::{Overlay, Verdict, Wal};

/// Ids that were acknowledged, as noted outside the database: at least these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// Of which store that is; what is noted of another one says nothing.
    pub epoch: u64,
    /// The lowest id that is still kept.
    pub lowest: i64,
    /// The highest id that was acknowledged.
    pub upto: i64,
}

impl Acknowledged {
    /// Would SQLite, which stops at the torn end of the log, drop readings that were acknowledged?
    /// Says which; `None` too where the end of the log is whole or the files do not tell.
    pub(super) fn dropped(
        self,
        database: Option<&dyn Bytes>,
        log: Option<&dyn Bytes>,
        wal: &Wal,
    ) -> Option<(i64, i64)> {
        let torn = match wal.verdict() {
            Verdict::TornTail { .. } => true,
            Verdict::Damaged(d) => d.only_last,
            Verdict::Absent | Verdict::Empty | Verdict::Clean { .. } | Verdict::Unreadable => false,
        };
        if !torn {
            return None;
        }
        let overlay = Overlay::new(database, log, wal, None);
        let kept = AsOf::new(&overlay, wal.kept_by_sqlite());
        let epoch = kept.setting("holdup_meta", "epoch").ok();
        if epoch.is_some_and(|e| u64::from_str_radix(&e, 16) != Ok(self.epoch)) {
            return None;
        }
        let highest = kept.highest("readings").ok()?;
        let first = highest.map_or(self.lowest, |h| h.saturating_add(1).max(self.lowest));
        (first <= self.upto).then_some((first, self.upto))
    }
}
