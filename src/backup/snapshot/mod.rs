//! Snapshots: plain copies of the agent's own databases that stay on the device, for recovery.
//!
//! It promises that a snapshot was verified before it has its name: SQLite found no fault in the
//! copy, its rows were counted, and the compressed file was read back and gave the same SHA-256.
//! The newest one is never removed to make room. It must never compare with the live database,
//! which has gone on, and never write behind a closed gate.

mod archive;
mod error;
mod manifest;
mod recall;
mod shelf;
mod take;

pub use error::SnapshotError;
pub use manifest::{SNAPSHOT_FORMAT, SnapshotManifest};
pub use recall::Recall;
pub use shelf::{Keep, Shelf};
pub use take::{SnapshotSite, take};

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests plant damaged files")]
mod tests;
