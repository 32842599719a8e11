//! What is in an archive, and what is known of it: `manifest.json` in it, `...json` beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::audit::Head;
use crate::recovery::is_bookkeeping;

use super::BackupError;

/// The version of this format that is written.
pub const MANIFEST_FORMAT: u32 = 1;

/// A backup's manifest. Unknown fields of a later version are passed over; a later `format` is
/// refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// What it is a backup of.
    pub kind: Kind,
    /// The version of holdup that made it.
    pub holdup: String,
    /// The version of SQLite that copied its databases.
    pub sqlite: String,
    /// The gateway's id, as configured.
    pub gateway: String,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub made_ms: i64,
    /// The same, RFC 3339 in UTC.
    pub made: String,
    /// Had a time server set the clock?
    pub synchronised: bool,
    /// Why it was made: `schedule`, `operator`, `drill`, `reset`, `restore`.
    pub reason: String,
    /// Who asked for it, as in the audit log.
    pub actor: String,
    /// The databases in it.
    pub databases: Vec<DatabaseEntry>,
    /// Everything else in it.
    pub files: Vec<FileEntry>,
    /// What was to be in it and is not, or not as it was at one moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<Passed>,
    /// The audit log's head when it was made.
    pub audit_head: Option<Head>,
    /// To whom it is encrypted.
    pub recipients: Vec<RecipientEntry>,
    /// The written archive; only beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveFacts>,
    /// How it was verified; only beside it. `None`: it does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// What `backup.after` did with it; only beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<AfterRun>,
}

/// What an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Databases, configuration, the audit log, included files.
    Data,
    /// Certificates and the identity, for a recipient of their own.
    Keys,
}

/// What a database is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The readings.
    Store,
    /// The outbound queue.
    Queue,
    /// The audit log.
    Audit,
    /// Another application's.
    Guarded,
}

/// One database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseEntry {
    /// Its path in the archive: `databases/NAME`.
    pub name: String,
    /// Where it lay.
    pub source: PathBuf,
    /// What it is.
    pub role: Role,
    /// Of the copy.
    pub bytes: u64,
    /// Of the copy whose integrity was checked, in lower-case hex.
    pub sha256: String,
    /// `PRAGMA integrity_check` said `ok` of that copy.
    pub integrity: bool,
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// SHA-256 over the schema's SQL, in its order.
    pub schema_sha256: String,
    /// The store's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The highest id of a reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest: Option<i64>,
}

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path in the archive; bytes that are not UTF-8 as `%XX`, and `%` as `%25`.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FileKind {
    /// A file.
    File {
        /// Its size.
        bytes: u64,
        /// Of its bytes as they were written into the archive, in lower-case hex.
        sha256: String,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Link {
        /// Its target, escaped like a name.
        to: String,
    },
}

/// Something that was met and left out, or changed while it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Where it was, escaped like a name.
    pub path: String,
    /// Why.
    pub why: String,
    /// What it is, where it is a database that was to be backed up as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// Rows of tables, without those of the agent's own books.
pub fn rows_sent(tables: &BTreeMap<String, u64>) -> u64 {
    let sent = tables.iter().filter(|(name, _)| !is_bookkeeping(name));
    sent.fold(0, |sum, (_, n)| sum.saturating_add(*n))
}

impl std::fmt::Display for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

impl Passed {
    /// Is it one of the gateway's own databases? Then the backup is not whole.
    pub fn is_own_database(&self) -> bool {
        match self.role {
            Some(Role::Store | Role::Queue | Role::Audit) => true,
            Some(Role::Guarded) | None => false,
        }
    }
}

/// A recipient: the public half of a key whose other half is kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientEntry {
    /// `SHA256:` and the first 16 hex digits of the recipient's text's SHA-256.
    pub fingerprint: String,
    /// The recipient, `age1...`.
    pub recipient: String,
}

/// The archive as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveFacts {
    /// Its size.
    pub bytes: u64,
    /// Of the ciphertext, in lower-case hex.
    pub sha256: String,
    /// Of `manifest.json` in it, in lower-case hex.
    pub manifest_sha256: String,
}

/// The written ciphertext was read back, decrypted with a one-time key, and everything in it had
/// the hash that its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// A run of `backup.after`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterRun {
    /// The command.
    pub command: String,
    /// Its exit status; `None`: killed, see `why`.
    pub exit: Option<i32>,
    /// What killed it, or why it could not be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl Manifest {
    /// From the bytes of `path`, which is for errors.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, BackupError> {
        let no = |why: String| BackupError::Manifest {
            path: path.to_owned(),
            why,
        };
        /// The version alone, which decides how the rest is read.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|e| no(e.to_string()))?;
        if version.format != MANIFEST_FORMAT {
            return Err(no(format!(
                "its format is {}, this holdup reads {MANIFEST_FORMAT}: use the version that made it",
                version.format
            )));
        }
        serde_json::from_slice(bytes).map_err(|e| no(e.to_string()))
    }

    /// As it is written: JSON for people, with a newline at its end.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Bytes of everything in it, unpacked.
    pub fn plain_bytes(&self) -> u64 {
        let files = self.files.iter().map(|f| match &f.kind {
            FileKind::File { bytes, .. } => *bytes,
            FileKind::Directory | FileKind::Link { .. } => 0,
        });
        let databases = self.databases.iter().map(|d| d.bytes);
        files.chain(databases).fold(0, u64::saturating_add)
    }

    /// Rows of all its databases, without those of the agent's own books.
    pub fn rows_sent(&self) -> u64 {
        self.databases.iter().map(|d| rows_sent(&d.rows)).sum()
    }

    /// Was the written archive decrypted again and found the same?
    pub fn is_verified(&self) -> bool {
        self.archive.is_some() && self.verified.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: MANIFEST_FORMAT,
            kind: Kind::Data,
            holdup: "0.1.0".to_owned(),
            sqlite: "3.54.1".to_owned(),
            gateway: "plant-7".to_owned(),
            made_ms: 1,
            made: "1970-01-01T00:00:00.001Z".to_owned(),
            synchronised: true,
            reason: "operator".to_owned(),
            actor: "uid:0".to_owned(),
            databases: Vec::new(),
            files: vec![FileEntry {
                name: "files/etc/hosts".to_owned(),
                kind: FileKind::Link {
                    to: "elsewhere".to_owned(),
                },
                mode: 0o644,
                uid: 0,
                gid: 0,
            }],
            passed: Vec::new(),
            audit_head: None,
            recipients: Vec::new(),
            archive: None,
            verified: None,
            after: None,
        }
    }

    #[test]
    fn a_manifest_is_read_back_and_counts_only_with_archive_and_verification() {
        let path = Path::new("x.json");
        let mut one = manifest();
        let back = Manifest::parse(&one.to_bytes().expect("bytes"), path).expect("parse");
        assert_eq!(back, one);
        one.verified = Some(Verified {
            at: String::new(),
            took_ms: 1,
        });
        assert!(!one.is_verified(), "of which archive?");
    }

    #[test]
    fn a_later_format_is_refused_by_its_number() {
        let path = Path::new("x.json");
        let e = Manifest::parse(br#"{"format":2,"kind":"tape"}"#, path).expect_err("later");
        assert!(e.to_string().contains("its format is 2"), "{e}");
        Manifest::parse(b"[]", path).expect_err("no manifest");
    }
}
