//! No id is ever given to two readings, across a restore too.
//!
//! A restored store is older than what the gateway acknowledged since. It goes on above the highest
//! id that the replaced store, the ledger or the queue knows; where the replaced store cannot say
//! (it is damaged, or this is another card), it leaves a gap that no gateway fills.

use std::path::Path;

use rusqlite::{Connection, params};

use crate::queue;
use crate::store::{BEHIND, Ledger, UNKNOWN};

use super::plan::{DatabaseNow, holds};
use super::{Home, RestoreError};

/// Above which id the store in `staged` must go on; `None` where it was never the agent's.
pub(super) fn floor(staged: &Path, live: &DatabaseNow, home: &Home) -> Option<i64> {
    let new = holds(staged);
    let epoch = new.epoch?;
    let ledger = match Ledger::read(&home.ledger) {
        Ok(noted) => noted.filter(|n| n.epoch == epoch).map(|n| n.highest),
        Err(e) => {
            log::warn!("what was acknowledged is not known: {e}");
            None
        }
    };
    let queued = match queue::mark(&home.queue) {
        Ok(mark) => mark.filter(|m| m.epoch == epoch).map(|m| m.highest),
        Err(e) => {
            log::warn!("the queue cannot say how far it had come: {e}");
            None
        }
    };
    let same = live.epoch == Some(epoch) && live.unreadable.is_none();
    let of_live = if same {
        [live.last_id, live.floor]
    } else {
        [None; 2]
    };
    let known = [new.last_id, new.floor, ledger, queued]
        .into_iter()
        .chain(of_live)
        .flatten()
        .fold(0, i64::max);
    let gap = if same && !live.has_log {
        0
    } else if ledger.is_some() {
        BEHIND
    } else {
        UNKNOWN
    };
    // The last numbers of all are kept for the readings themselves.
    Some(known.checked_add(gap).unwrap_or(known))
}

/// Writes the floor into the staged store. Only whoever made the file has it open.
pub(super) fn raise(staged: &Path, floor: i64) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::Trial {
        what: "take the mark above which ids go on",
        path: staged.to_owned(),
        source,
    };
    let conn = Connection::open(staged).map_err(failed)?;
    // No shared memory beside it, and no log after it is closed.
    conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL;")
        .map_err(failed)?;
    conn.execute(
        "INSERT INTO holdup_meta(key, value) VALUES('floor', ?1)
         ON CONFLICT(key) DO UPDATE SET value = excluded.value",
        params![floor],
    )
    .map_err(failed)?;
    conn.close().map_err(|(_, e)| failed(e))
}
