//! What a snapshot is: the JSON beside its archive.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the format. A newer one is not used.
pub const SNAPSHOT_FORMAT: u32 = 1;

/// A snapshot that was verified; there are no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotManifest {
    /// [`SNAPSHOT_FORMAT`].
    pub format: u32,
    /// Counts up: the wall clock of a gateway may stand in the past.
    pub number: u64,
    /// The database's file name.
    pub database: String,
    /// The file name of the archive: the database, compressed with zstd.
    pub archive: String,
    /// Wall time when the copy was complete, RFC 3339 in UTC.
    pub taken_at: String,
    /// The same in milliseconds since 1970.
    pub taken_ms: i64,
    /// Had a time server set the clock?
    pub clock_synchronised: bool,
    /// Which store it is of, as 16 hexadecimal digits; `null`: the database has no epoch.
    pub epoch: Option<String>,
    /// The highest id of a reading; `null`: it holds none.
    pub highest_id: Option<i64>,
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// Size of the database in bytes.
    pub plain_bytes: u64,
    /// SHA-256 of the database, in hex.
    pub plain_sha256: String,
    /// Size of the archive in bytes.
    pub bytes: u64,
    /// SHA-256 of the archive, in hex.
    pub sha256: String,
    /// How long it took, copying, checking and compressing, in milliseconds.
    pub took_ms: u64,
}

impl SnapshotManifest {
    /// Rows of all tables but those of the agent's own books.
    pub fn rows_sent(&self) -> u64 {
        crate::backup::rows_sent(&self.rows)
    }
}
