//! Backups that leave the gateway, encrypted, and were restored before they count.
//!
//! It promises that a backup is called verified only after the written ciphertext was decrypted
//! again and what came out had the hash of what went in, that a partial file never carries a final
//! name, and that the last verified one is never pruned. It must never write into a live database
//! except by a restore that was verified before and can be undone after.
//!
//! # The archive
//! `holdup-GATEWAY-TIME-XXXX.tar.zst.age`, beside it `...json`, its [`Manifest`]. `age -d | zstd -d |
//! tar x` opens one without holdup. In it, in this order: `HOW-TO-OPEN.txt`; `databases/NAME`, each
//! a database in one file; `files/` and the absolute paths of what is included; last
//! `manifest.json`, the manifest as far as it was known then (no `archive`, no `verified`).

mod after;
mod archive;
pub mod catalogue;
mod check;
mod copy;
mod create;
mod error;
mod escape;
mod hashing;
pub mod health;
mod hex;
mod job;
mod keys;
mod manifest;
mod name;
mod part;
pub mod prune;
mod rehearse;
pub mod restore;
pub mod retention;
mod site;
pub mod snapshot;
mod source;
mod space;
pub mod state;
pub mod target;
#[cfg(test)]
mod tests;
mod trail;
mod tree;
mod verify;

pub use archive::{
    ArchiveError, ArchiveWriter, Attributes, Entry, EntryKind, Limits, Reader, Written,
};
pub use check::{Checked, Quit, check};
pub use copy::Copier;
pub use create::{Made, Request, create};
pub use error::BackupError;
pub use escape::escape;
pub use job::{Hands, Job, Outcome, recipients, rule};
pub use keys::{Ask, Identity, KeyError, OneTime, Recipient};
pub use manifest::{
    AfterRun, ArchiveFacts, DatabaseEntry, FileEntry, FileKind, Kind, MANIFEST_FORMAT, Manifest,
    Passed, RecipientEntry, Role, Verified, rows_sent,
};
pub use name::{ArchiveName, NameError};
pub use rehearse::{VerifyReport, verify};
pub use site::Site;
pub use source::Source;
pub use state::BackupState;
pub use target::Target;
pub use verify::{ReadBack, read_back};

/// The archive's first entry.
pub const HOW_TO_OPEN: &str = "HOW-TO-OPEN.txt";
/// The archive's last entry.
pub const MANIFEST: &str = "manifest.json";
