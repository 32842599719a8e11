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

mod archive;
mod error;
mod keys;
mod manifest;
mod name;
pub mod snapshot;

pub use archive::{ArchiveError, Entry, EntryKind, Limits, Reader};
pub use error::BackupError;
pub use keys::{Ask, Identity, KeyError, OneTime, Recipient};
pub use manifest::{
    AfterRun, ArchiveFacts, DatabaseEntry, FileEntry, FileKind, Kind, MANIFEST_FORMAT, Manifest,
    RecipientEntry, Role, Verified,
};
pub use name::{ArchiveName, NameError};
