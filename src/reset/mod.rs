//! Factory reset: readings, queue and what holds copies of them are erased, as a journal that a cut
//! at any instant leaves to be finished or undone.
//!
//! It promises that nothing is touched before the journal says so, that after a cut the next start
//! of the agent, or `holdup reset resume`, ends with all of the old data or none of it before a
//! database is opened, that what is erased is moved out of the way by rename first (which needs no
//! room), that no link is followed, and that a signed receipt says what was erased, what stayed and
//! what unlinking on flash is worth. The audit log is appended to and never replaced. It must never
//! leave a half-reset gateway, and never call an erasure more than it is.
//!
//! # The journal
//! `reset.journal` in the data directory: a line with a version and the SHA-256 of the rest, then
//! JSON. `requested`: nothing was touched; a cut is undone. `backed_up`: the same, and the last
//! backup was verified. `staged`: what goes is being moved to `reset-ID/`; from here a cut is
//! finished. Then that directory's name becomes `reset-ID.erased`, in one rename: that is the
//! instant at which the old data is gone, also where the journal itself can no longer be read.
//! `swapped`: nothing old is in its place. `erased`: nothing old is there. `genesis`: empty databases
//! with a new epoch are there, and the audit log says so. Then comes the receipt; the journal's
//! removal is the end.

mod erase;
mod error;
mod home;
mod identity;
mod inventory;
mod journal;
mod plain;
mod receipt;
mod run;
#[cfg(test)]
mod tests;
mod undelivered;

use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::durable::{Gate, Medium, Reserve};

pub use erase::Discarded;
pub use error::ResetError;
pub use home::Home;
pub use identity::{IDENTITY, Identity, NAMESPACE};
pub use inventory::{Fate, Inventory, Item, take};
pub use journal::{Moment, State, is_unfinished, state};
pub use receipt::{ABOUT_FLASH, Receipt, Signed, newest, receipts};
pub use run::{Begun, Resumed, resume};
pub use undelivered::{Found, Undelivered, look};

/// How much goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Readings, queue, ledger, snapshots, and every copy of them that holdup made.
    Data,
    /// That, and the configuration, which becomes the shipped one.
    Settings,
    /// That, the evidence, the technicians' keys and the gateway's identity: for disposal.
    Everything,
}

impl Level {
    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Settings => "settings",
            Self::Everything => "everything",
        }
    }
}

/// The backup that was made first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUp {
    /// Its name.
    pub name: String,
    /// Where it lies.
    pub archive: String,
    /// SHA-256 of the archive, in hex.
    pub sha256: String,
}

/// What was asked for; everything that must be confirmed was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// How much.
    pub level: Level,
    /// The evidence of recoveries goes too, although the level would keep it.
    pub with_evidence: bool,
    /// Who asked.
    pub actor: String,
    /// No backup is made first: that was typed.
    pub backup_waived: bool,
    /// What was not delivered, and goes all the same; `None`: nothing waited.
    pub undelivered_waived: Option<Undelivered>,
    /// File names of databases that are damaged; what is left of them stays as evidence.
    pub damaged: Vec<String>,
    /// Of the store as it is; `None` where it cannot tell.
    pub epoch: Option<u64>,
}

/// What a reset works with.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The file system of the data directory.
    pub medium: &'a Medium,
    /// Passed before each step.
    pub gate: &'a Gate,
    /// Set to give up; a start goes on.
    pub stop: &'a AtomicBool,
    /// The time.
    pub clock: &'a dyn Clock,
    /// The log.
    pub audit: &'a Audit,
    /// Room for the worst day, given up for the journal.
    pub reserve: &'a Reserve,
    /// Ask the medium to discard what no file has, at the end.
    pub discard: bool,
    /// Told what is done next.
    pub say: &'a dyn Fn(&str),
}

impl std::fmt::Debug for Site<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site")
            .field("medium", &self.medium)
            .finish_non_exhaustive()
    }
}
