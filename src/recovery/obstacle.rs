//! What stands where a recovery's own files belong: set aside by rename, and named.
//!
//! It promises that nothing there is followed, read as if it were ours, overwritten or deleted, and
//! that whatever somebody put there keeps no agent from starting. A log or a database that is no
//! regular file is left to who opens it: it may be somebody's way of keeping it elsewhere. It must
//! never touch a file that a recovery of ours left there.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{companion, kind_of, open_existing};
use super::source::{Bytes, FileBytes};
use super::swap;
use super::{RecoveryError, Site};

/// Files beside a database that are ours alone, and remade.
const OURS: [&str; 3] = ["-recovery", "-recovery.new", "-holdup-new"];
/// What is made is made without these; SQLite would lay them over it.
const NEVER: [&str; 3] = ["-holdup-new-wal", "-holdup-new-shm", "-holdup-new-journal"];
/// What a database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Where it stood.
    pub from: PathBuf,
    /// Where it is now.
    pub to: PathBuf,
    /// What it is, or why it is of no use.
    pub why: String,
    /// Evidence to which the files of a lost journal led.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<PathBuf>,
}

impl std::fmt::Display for SetAside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} was {}: it was set aside as {}",
            self.from.display(),
            self.why,
            self.to.display()
        )?;
        if let Some(evidence) = &self.evidence {
            write!(f, "; its database lies in {}", evidence.display())?;
        }
        Ok(())
    }
}

/// Sets aside what stands in the way of recovering `database`, one of ours that nobody has open:
/// beside it, under our own names and those in `also`, what is no regular file; a journal that is
/// none; and a folder for evidence that is none. `told` hears of each, also where a later one fails.
///
/// # Errors
/// [`RecoveryError`]: something still stands there.
pub fn clear_the_way(
    database: &Path,
    also: &[&str],
    site: &Site<'_>,
    told: &mut dyn FnMut(SetAside),
) -> Result<(), RecoveryError> {
    let mut aside = |path: PathBuf, why: String, lost: bool| -> Result<(), RecoveryError> {
        let to = site.set_aside(&path)?;
        let evidence = if lost {
            swap::rejoin(database, site)
        } else {
            Ok(None)
        };
        told(SetAside {
            from: path,
            to,
            why,
            evidence: evidence.as_ref().ok().cloned().flatten(),
        });
        evidence.map(|_| ())
    };
    // First, so that a lost journal's evidence can be looked for.
    if let Some(why) = not_a(fs::Metadata::is_dir, site.evidence)? {
        aside(site.evidence.to_owned(), why.to_owned(), false)?;
    }
    for suffix in OURS.iter().chain(also) {
        let path = companion(database, suffix);
        if let Some(why) = not_a(fs::Metadata::is_file, &path)? {
            aside(path, why.to_owned(), *suffix == "-recovery")?;
        }
    }
    for suffix in NEVER {
        let path = companion(database, suffix);
        if let Some(why) = not_a(|_| false, &path)? {
            aside(path, why.to_owned(), false)?;
        }
    }
    if let Some(why) = swap::why_unusable(database, site)? {
        aside(swap::journal(database), why, true)?;
    }
    let staged = swap::staged(database);
    if swap::journal(database).symlink_metadata().is_err() && is_somebodys(&staged)? {
        aside(staged, "no database of this recovery".to_owned(), false)?;
    }
    Ok(())
}

/// What stands at `path`, where it is something else than it should be.
fn not_a(
    wanted: fn(&fs::Metadata) -> bool,
    path: &Path,
) -> Result<Option<&'static str>, RecoveryError> {
    match fs::symlink_metadata(path) {
        Ok(m) if wanted(&m) => Ok(None),
        Ok(m) => Ok(Some(kind_of(&m))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(RecoveryError::io("look at", path)(e)),
    }
}

/// What a cut left of a database that was being made begins as one, or with nothing yet.
fn is_somebodys(staged: &Path) -> Result<bool, RecoveryError> {
    let cannot = |e| RecoveryError::io("look at", staged)(e);
    let Some(file) = open_existing(staged, false).map_err(cannot)? else {
        return Ok(false);
    };
    let file = FileBytes::new(file).map_err(cannot)?;
    let mut first = [0u8; 16];
    let n = file.read_at(&mut first, 0).map_err(cannot)?;
    let begun = first[..n].iter().all(|b| *b == 0) || first[..n] == MAGIC[..n];
    Ok(!begun)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests plant files")]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::durable::{Gate, Medium};
    use crate::recovery::evidence::Evidence;
    use crate::recovery::swap::{Resumed, move_away, resume};
    use std::sync::Arc;

    #[test]
    fn files_that_a_lost_journal_had_moved_are_found_in_the_evidence() {
        // Of all cuts in the move: the journal and one, two or all of the files.
        for cut in [5, 8, 20] {
            let home = tempfile::tempdir().expect("temp dir");
            let db = home.path().join("a.db");
            for (suffix, bytes) in [("", "damaged"), ("-wal", "log"), ("-shm", "index")] {
                fs::write(companion(&db, suffix), bytes).expect("plant");
            }
            let medium = Medium::open(home.path()).expect("medium");
            let site = Site {
                medium: &medium,
                gate: &Arc::new(Gate::new()),
                stop: &Arc::default(),
                clock: &ManualClock::new(),
                evidence: &home.path().join("evidence"),
                evidence_max: 1 << 20,
            };
            let kept = Evidence::for_moving(&db, "test", &site).expect("begin");
            medium.cut_after(cut);
            move_away(&db, &kept, &site).ok();
            let medium = Medium::open(home.path()).expect("medium");
            let site = Site {
                medium: &medium,
                ..site
            };
            fs::write(swap::journal(&db), b"\x07 what is left of it").expect("spoil");
            let mut seen = Vec::new();
            clear_the_way(&db, &[], &site, &mut |s| seen.push(s)).expect("clear");
            assert_eq!(seen.len(), 1, "{seen:?}");
            assert_eq!(seen[0].evidence.as_ref(), Some(&kept.dir), "cut {cut}");
            let resumed = resume(&db, &site).expect("resume");
            assert_eq!(resumed, Resumed::InEvidence(kept.dir.clone()), "cut {cut}");
            for name in ["a.db", "a.db-wal", "a.db-shm"] {
                assert!(kept.dir.join(name).exists(), "{name}, cut {cut}");
            }
        }
    }
}
