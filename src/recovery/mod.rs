//! Brings back what a database's files still hold, and says what they do not.
//!
//! It promises that nothing recoverable is destroyed and nothing lost is hidden: files are read
//! as bytes, repairs are made on copies, and a row that was never written is never made up. It
//! must never open a suspect database in place.

mod acknowledged;
pub mod candidates;
mod error;
mod evidence;
mod files;
mod history;
mod hold;
mod leftover;
mod look;
mod missing;
mod obstacle;
pub mod pages;
mod recover;
mod report;
mod restore;
mod rows;
mod search;
mod site;
mod source;
mod swap;
pub mod wal;

pub use acknowledged::Acknowledged;
pub use error::RecoveryError;
pub use evidence::{Evidence, How, KeptFile, Manifest};
pub use files::kind_of;
pub use history::last_recoveries;
pub use hold::{Hold, HoldError};
pub use look::{fault_after, fault_of};
pub use obstacle::{SetAside, clear_the_way};
pub use recover::{Request, Way, recover};
pub use report::{LeftOut, Missing, Report, StepTaken, TableKept, Verdict, is_bookkeeping};
pub use restore::{RestoredFrom, Snapshot, Snapshots, Unpacked};
pub use site::Site;
pub use source::{Bytes, FileBytes, Pages, Version};
