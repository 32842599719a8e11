//! Reading the log from outside: while the agent runs, when it is down, on a read-only medium.
//!
//! It never writes beside the log. A log that an agent left in the middle of a transaction is read
//! from a copy, in which SQLite undoes that.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use serde::Serialize;

use super::entry::{BREAK, Head, NOTHING, Record};
use super::error::AuditError;
use super::file::{self, beside};

/// Entries read at once when all are verified.
const PAGE: i64 = 256;

/// A copy that is removed again.
#[derive(Debug)]
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        // In a directory for what is left behind.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The log, open for reading.
#[derive(Debug)]
pub struct Reader {
    conn: Connection,
    path: PathBuf,
    _copy: Option<Copy>,
}

/// The first link of the chain that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// The entry at which it shows.
    pub sequence: i64,
    /// What is wrong there.
    pub why: String,
    /// The entry that names a break there or later, and what it says; `null`: nobody has named it.
    pub named_by: Option<(i64, serde_json::Value)>,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Entries that were looked at.
    pub entries: u64,
    /// The last one.
    pub head: Option<Head>,
    /// The first broken link; `null`: the chain is whole.
    pub broken: Option<Broken>,
}

impl Reader {
    /// Opens the log at `path`.
    ///
    /// # Errors
    /// There is none, it is damaged beyond reading, or of a newer version.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        if !file::look(path)? {
            return Err(AuditError::Missing(path.to_owned()));
        }
        let plain = Self::try_open(path, path, OpenFlags::SQLITE_OPEN_READ_ONLY, None);
        match plain {
            Err(AuditError::Sqlite { source, .. }) if is_hot(&source) => {
                let copy = copy(path).map_err(|e| AuditError::io(path, "copy", e))?;
                let name = path.file_name().unwrap_or_default();
                let at = copy.0.join(name);
                Self::try_open(path, &at, OpenFlags::SQLITE_OPEN_READ_WRITE, Some(copy))
            }
            other => other,
        }
    }

    fn try_open(
        path: &Path,
        at: &Path,
        flags: OpenFlags,
        copy: Option<Copy>,
    ) -> Result<Self, AuditError> {
        let conn = file::connect(at, flags)?;
        file::check(&conn, path)?;
        Ok(Self {
            conn,
            path: path.to_owned(),
            _copy: copy,
        })
    }

    /// The last entry.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn head(&self) -> Result<Option<Head>, AuditError> {
        file::head(&self.conn, &self.path)
    }

    /// At most `limit` entries from sequence `since` on, in order.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn page(&self, since: i64, limit: u32) -> Result<Vec<Record>, AuditError> {
        let rows = file::page(&self.conn, &self.path, since, i64::from(limit))?;
        Ok(rows.into_iter().map(|r| r.record).collect())
    }

    /// Checks every entry from `since` on (from 1: the whole chain): its hash, its place, its link
    /// to the entry before. With `head`, an earlier head that left the gateway, the log must still
    /// hold that entry; the beginning of its hash stands for all of it.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn verify(&self, since: i64, head: Option<&Head>) -> Result<Verdict, AuditError> {
        let mut verdict = Verdict {
            entries: 0,
            head: None,
            broken: None,
        };
        let mut before: Option<Head> = (since <= 1).then(|| Head {
            sequence: 0,
            hash: NOTHING.to_owned(),
        });
        let mut next = since.max(1);
        let mut seen = head.is_none_or(|h| h.sequence < next);
        loop {
            let rows = match file::page(&self.conn, &self.path, next, PAGE) {
                // Damage in the middle: what it hides is broken, what came before was checked.
                Err(AuditError::Damaged { why, .. }) => {
                    verdict.broken.get_or_insert(Broken {
                        sequence: next,
                        why,
                        named_by: None,
                    });
                    return Ok(verdict);
                }
                other => other?,
            };
            for row in &rows {
                let r = &row.record;
                let fault = fault(before.as_ref(), r, row.intact);
                if let (None, Some(why)) = (&verdict.broken, fault) {
                    verdict.broken = Some(Broken {
                        sequence: r.sequence,
                        why,
                        named_by: None,
                    });
                }
                if let Some(broken) = &mut verdict.broken
                    && broken.named_by.is_none()
                    && r.action == BREAK
                    && row.intact
                {
                    let says = serde_json::from_str(&r.details).unwrap_or_default();
                    broken.named_by = Some((r.sequence, says));
                }
                if let Some(h) = head
                    && h.sequence == r.sequence
                {
                    seen = r.hash.starts_with(&h.hash);
                }
                verdict.entries += 1;
                before = Some(Head {
                    sequence: r.sequence,
                    hash: r.hash.clone(),
                });
            }
            let Some(last) = rows.last() else { break };
            let Some(following) = last.record.sequence.checked_add(1) else {
                break;
            };
            next = following;
        }
        verdict.head = before.filter(|b| b.sequence > 0);
        if verdict.entries == 0 && since > 1 {
            let last = self.head()?.map_or(0, |h| h.sequence);
            verdict.broken.get_or_insert(Broken {
                sequence: since,
                why: format!("there is no such entry: the log ends with entry {last}"),
                named_by: None,
            });
        }
        if let (None, false, Some(h)) = (&verdict.broken, seen, head) {
            verdict.broken = Some(Broken {
                sequence: h.sequence,
                why: format!(
                    "the log does not hold the entry {}:{} any more: its end was cut, or it was exchanged",
                    h.sequence, h.hash
                ),
                named_by: None,
            });
        }
        Ok(verdict)
    }
}

/// What is wrong with an entry behind `before`.
fn fault(before: Option<&Head>, r: &Record, intact: bool) -> Option<String> {
    if !intact {
        return Some("its fields do not have its hash: it was changed or damaged".to_owned());
    }
    let before = before?;
    if r.sequence != before.sequence + 1 {
        let (from, upto) = (before.sequence + 1, r.sequence - 1);
        return Some(format!("entries {from} to {upto} before it are missing"));
    }
    if r.action == BREAK {
        return Some("it names a break: what came before it is not whole".to_owned());
    }
    if r.previous != before.hash {
        return Some(format!(
            "it is not chained to entry {}, whose hash is {}",
            before.sequence, before.hash
        ));
    }
    None
}

/// Left in the middle of a transaction, and not to be rolled back by a reader.
fn is_hot(e: &rusqlite::Error) -> bool {
    matches!(
        e.sqlite_error_code(),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen)
    )
}

fn copy(path: &Path) -> io::Result<Copy> {
    let root = std::env::temp_dir();
    let made = (0..1000).find_map(|n| {
        let dir = root.join(format!("holdup-audit-{}-{n}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        match made {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => None,
            other => Some(other.map(|()| Copy(dir))),
        }
    });
    let copy = made.unwrap_or_else(|| Err(io::Error::other("no name is free there")))?;
    let name = path.file_name().unwrap_or_default();
    for suffix in ["", "-journal"] {
        let to = copy.0.join(beside(Path::new(name), suffix));
        match fs::copy(beside(path, suffix), to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
            other => {
                other?;
            }
        }
    }
    Ok(copy)
}
