//! The exchange of a damaged database for what was made of it.
//!
//! It promises that after a cut at any instant either the damaged files are all there (in their
//! place, or in the evidence that the journal names), or the new database stands alone in their
//! place; and that no companion of the old database is ever left beside the new one, where SQLite
//! would replay it. The journal is `NAME-recovery` beside the database. What somebody else wrote
//! after a cut is never overwritten.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chownat};
use serde::{Deserialize, Serialize};

use crate::durable::read_own_if_there;

use super::RecoveryError;
use super::evidence::{Evidence, is_ours};
use super::files::{ALL, Identity, companion, kind_of};
use super::site::Site;

/// Bytes of a journal at most.
const LONGEST: u64 = 1 << 16;
/// Version of the journal.
const VERSION: u32 = 1;

/// The journal's place.
pub(super) fn journal(database: &Path) -> PathBuf {
    companion(database, "-recovery")
}

/// Where the new database is made.
pub(super) fn staged(database: &Path) -> PathBuf {
    companion(database, "-holdup-new")
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "step")]
enum Step {
    /// The files are being renamed into the evidence.
    Moving,
    /// They are there; their place is empty.
    Moved,
    /// The new database is whole and takes the place of `old`.
    Swapping {
        old: Option<Identity>,
        new: Identity,
        /// The old one's logs.
        #[serde(default)]
        logs: Logs,
    },
    /// The files are being removed; they are in the evidence.
    Clearing {
        old: Option<Identity>,
        /// Its logs.
        #[serde(default)]
        logs: Logs,
    },
}

/// What SQLite keeps a database's last transactions in.
const LOGS: [&str; 2] = ["-wal", "-journal"];

/// The logs beside a database, in that order.
type Logs = [Option<Identity>; 2];

fn logs_of(database: &Path) -> Result<Logs, RecoveryError> {
    let mut logs = Logs::default();
    for (suffix, log) in LOGS.iter().zip(&mut logs) {
        let path = companion(database, suffix);
        *log = Identity::of(&path).map_err(|e| cannot("look at", &path, e))?;
    }
    Ok(logs)
}

/// Did somebody write a log there since? One that is gone, or empty, holds nothing.
fn is_written_since(now: Logs, then: Logs) -> bool {
    let mut both = now.into_iter().zip(then);
    both.any(|(now, then)| now.is_some_and(|n| !n.is_empty() && Some(n) != then))
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    version: u32,
    /// From the database's folder on, where it lies under it: a card may be mounted elsewhere.
    evidence: PathBuf,
    #[serde(flatten)]
    step: Step,
}

/// How an unfinished recovery stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resumed {
    /// There was none.
    Nothing,
    /// The swap was finished: the new database is in place. [`end`] is to be called.
    Swapped(PathBuf),
    /// The damaged files lie in this evidence and nothing is in their place.
    InEvidence(PathBuf),
    /// Somebody wrote to the database after the cut, so the swap was called off.
    CalledOff(PathBuf),
}

/// Moves the database and its companions into `evidence`. After a cut [`resume`] goes on.
pub(super) fn move_away(
    database: &Path,
    evidence: &Evidence,
    site: &Site<'_>,
) -> Result<(), RecoveryError> {
    write(database, &evidence.dir, Step::Moving, site)?;
    finish_moving(database, &evidence.dir, site)
}

/// The new file belongs to whom the damaged one belonged, with its rights; where it was missing,
/// its log's.
fn give(new: &Path, database: &Path, evidence: &Evidence) {
    let kept = evidence.database();
    let was = [
        database.to_owned(),
        companion(database, "-wal"),
        kept.clone(),
        companion(&kept, "-wal"),
    ];
    let Some(was) = was.iter().find_map(|p| p.symlink_metadata().ok()) else {
        return;
    };
    if let Err(e) = own_like(new, &was) {
        log::warn!(
            "{} cannot be given to user {} of group {}: {e}; run it as root, or chown it afterwards",
            database.display(),
            was.uid(),
            was.gid()
        );
    }
}

fn own_like(path: &Path, was: &fs::Metadata) -> io::Result<()> {
    let now = path.symlink_metadata()?;
    if (now.uid(), now.gid()) != (was.uid(), was.gid()) {
        let (uid, gid) = (Uid::from_raw(was.uid()), Gid::from_raw(was.gid()));
        chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    rustix::fs::chmod(path, Mode::from_raw_mode(was.mode() & 0o666))?;
    Ok(())
}

/// Puts the staged database in the place of the damaged one. The journal stays until [`end`]: a cut
/// before it was said what became of the database must not make that unknown.
pub(super) fn swap(
    database: &Path,
    evidence: &Evidence,
    site: &Site<'_>,
) -> Result<(), RecoveryError> {
    let new = staged(database);
    give(&new, database, evidence);
    let identity = |path: &Path| Identity::of(path).map_err(|e| cannot("look at", path, e));
    let step = Step::Swapping {
        old: identity(database)?,
        new: identity(&new)?
            .ok_or_else(|| cannot("look at", &new, io::Error::from(io::ErrorKind::NotFound)))?,
        logs: logs_of(database)?,
    };
    write(database, &evidence.dir, step, site)?;
    finish_swap(database, site)
}

/// It was said what became of the database.
pub(super) fn end(database: &Path, site: &Site<'_>) -> Result<(), RecoveryError> {
    site.remove(&journal(database))
}

/// Nothing can be made of the damaged files: their place is emptied for a new database. The journal
/// stays until [`end`].
pub(super) fn clear(
    database: &Path,
    evidence: &Evidence,
    site: &Site<'_>,
) -> Result<(), RecoveryError> {
    let old = Identity::of(database).map_err(|e| cannot("look at", database, e))?;
    let logs = logs_of(database)?;
    let step = Step::Clearing { old, logs };
    write(database, &evidence.dir, step, site)?;
    finish_clearing(database, site)
}

fn finish_clearing(database: &Path, site: &Site<'_>) -> Result<(), RecoveryError> {
    for suffix in ALL {
        site.remove(&companion(database, suffix))?;
    }
    Ok(())
}

/// Did a cut interrupt something?
pub(super) fn is_unfinished(database: &Path) -> bool {
    let there = |path: PathBuf| path.symlink_metadata().is_ok();
    there(journal(database)) || there(staged(database))
}

/// What the journal says: where the evidence is, and how far it had come.
fn noted(database: &Path, site: &Site<'_>) -> Result<Option<(PathBuf, Step)>, RecoveryError> {
    let path = journal(database);
    let found = read_own_if_there(&path, LONGEST).map_err(|e| cannot("read", &path, e))?;
    let Some(text) = found else { return Ok(None) };
    let entry: Entry = serde_json::from_slice(&text)
        .map_err(|e| cannot("understand", &path, io::Error::other(e)))?;
    if entry.version != VERSION {
        let e = io::Error::other("a newer holdup wrote it: finish with that one");
        return Err(cannot("understand", &path, e));
    }
    let evidence = folder(database).join(entry.evidence);
    let climbs = evidence.components().any(|c| c == Component::ParentDir);
    let elsewhere = climbs || evidence.parent() != Some(site.evidence);
    let linked = evidence.symlink_metadata().is_ok_and(|m| !m.is_dir());
    if elsewhere || linked {
        let e = io::Error::other(format!(
            "it names evidence outside {}: whoever wrote it, it was not this recovery; move it away",
            site.evidence.display()
        ));
        return Err(cannot("use", &path, e));
    }
    is_ours(site.evidence)?;
    Ok(Some((evidence, entry.step)))
}

/// Why the journal of `database` says nothing, if so. What may be better at another time (no
/// right to read it, say) is an error.
pub(super) fn why_unusable(
    database: &Path,
    site: &Site<'_>,
) -> Result<Option<String>, RecoveryError> {
    let path = journal(database);
    if let Ok(m) = path.symlink_metadata()
        && !m.is_file()
    {
        return Ok(Some(kind_of(&m).to_owned()));
    }
    match noted(database, site) {
        Ok(_) => Ok(None),
        Err(RecoveryError::Io {
            path: of, source, ..
        }) if of == path && source.raw_os_error().is_none() => {
            Ok(Some(format!("no journal of this recovery: {source}")))
        }
        Err(e) => Err(e),
    }
}

/// The journal is lost. Where the files that it had moved lie in the evidence, and nobody wrote
/// others since, there is one again that says so; tells where they are.
pub(super) fn rejoin(database: &Path, site: &Site<'_>) -> Result<Option<PathBuf>, RecoveryError> {
    let Some(kept) = Evidence::of_moved(database, site.evidence)? else {
        return Ok(None);
    };
    if is_another(database, &kept.dir)? {
        return Ok(None);
    }
    write(database, &kept.dir, Step::Moving, site)?;
    Ok(Some(kept.dir))
}

/// Finishes what a cut interrupted.
pub(super) fn resume(database: &Path, site: &Site<'_>) -> Result<Resumed, RecoveryError> {
    let path = journal(database);
    let Some((evidence, step)) = noted(database, site)? else {
        // A staged file without its journal is half made.
        site.remove(&staged(database))?;
        return Ok(Resumed::Nothing);
    };
    match step {
        Step::Moving => {
            if is_another(database, &evidence)? {
                site.remove(&path)?;
                return Ok(Resumed::CalledOff(evidence));
            }
            finish_moving(database, &evidence, site)?;
            Ok(Resumed::InEvidence(evidence))
        }
        Step::Moved => {
            site.remove(&staged(database))?;
            let name = database.file_name().unwrap_or_default();
            match (database.exists(), evidence.join(name).exists()) {
                // It was on its way back.
                (true, false) => {
                    put_back(database, &evidence, site)?;
                    Ok(Resumed::Nothing)
                }
                (true, true) => {
                    site.remove(&path)?;
                    Ok(Resumed::CalledOff(evidence))
                }
                (false, _) => Ok(Resumed::InEvidence(evidence)),
            }
        }
        // The rename was the last of it: what lies beside the new database is its own.
        Step::Swapping { .. } if staged(database).symlink_metadata().is_err() => {
            Ok(Resumed::Swapped(evidence))
        }
        Step::Swapping { old, new, logs } => {
            let now = Identity::of(database).map_err(|e| cannot("look at", database, e))?;
            let written = is_written_since(logs_of(database)?, logs);
            if written || (now != old && now != Some(new)) {
                site.remove(&staged(database))?;
                site.remove(&path)?;
                return Ok(Resumed::CalledOff(evidence));
            }
            finish_swap(database, site)?;
            Ok(Resumed::Swapped(evidence))
        }
        Step::Clearing { old, logs } => {
            let now = Identity::of(database).map_err(|e| cannot("look at", database, e))?;
            let written = is_written_since(logs_of(database)?, logs);
            if written || (now.is_some() && now != old) {
                site.remove(&path)?;
                return Ok(Resumed::CalledOff(evidence));
            }
            finish_clearing(database, site)?;
            Ok(Resumed::Swapped(evidence))
        }
    }
}

/// Nothing could be made of the files that were moved away: back to their place, the database
/// first, so that no companion ever waits without it.
pub(super) fn put_back(
    database: &Path,
    evidence: &Path,
    site: &Site<'_>,
) -> Result<(), RecoveryError> {
    for suffix in ALL.iter().rev() {
        let to = companion(database, suffix);
        let from = evidence.join(to.file_name().unwrap_or_default());
        if from.exists() && !to.exists() {
            site.rename(&from, &to)?;
        }
    }
    site.remove(&journal(database))
}

/// Are those that still stand there others than the evidence was made for?
fn is_another(database: &Path, evidence: &Path) -> Result<bool, RecoveryError> {
    let kept = Evidence::read(evidence)?;
    for suffix in ALL.iter().filter(|s| **s != "-shm") {
        let path = companion(database, suffix);
        let now = Identity::of(&path).map_err(|e| cannot("look at", &path, e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let then = kept.manifest.files.iter().find(|f| f.name == name);
        let then = then.and_then(|f| f.identity);
        if now.is_some_and(|n| !n.is_empty() && then.is_some_and(|t| t != n)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn finish_moving(database: &Path, evidence: &Path, site: &Site<'_>) -> Result<(), RecoveryError> {
    for suffix in ALL {
        let from = companion(database, suffix);
        let to = evidence.join(from.file_name().unwrap_or_default());
        if from.exists() && !to.exists() {
            site.rename(&from, &to)?;
        }
    }
    write(database, evidence, Step::Moved, site)
}

fn finish_swap(database: &Path, site: &Site<'_>) -> Result<(), RecoveryError> {
    for suffix in ALL {
        if !suffix.is_empty() {
            site.remove(&companion(database, suffix))?;
        }
    }
    site.rename(&staged(database), database)
}

fn folder(database: &Path) -> &Path {
    database.parent().unwrap_or(Path::new("/"))
}

fn write(
    database: &Path,
    evidence: &Path,
    step: Step,
    site: &Site<'_>,
) -> Result<(), RecoveryError> {
    let path = journal(database);
    let near = evidence.strip_prefix(folder(database));
    let entry = Entry {
        version: VERSION,
        evidence: near.unwrap_or(evidence).to_owned(),
        step,
    };
    let text = serde_json::to_vec(&entry).map_err(|e| cannot("write", &path, e.into()))?;
    site.replace(&path, &text)
}

fn cannot(doing: &'static str, path: &Path, source: io::Error) -> RecoveryError {
    RecoveryError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests plant files")]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::durable::{Gate, Medium};
    use crate::recovery::files::free_bytes;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    struct World {
        home: tempfile::TempDir,
        gate: Arc<Gate>,
        stop: Arc<AtomicBool>,
        clock: ManualClock,
        evidence: PathBuf,
    }

    const OLD: [(&str, &[u8]); 3] = [("", b"damaged"), ("-wal", b"old log"), ("-shm", b"index")];

    impl World {
        fn new() -> Self {
            let home = tempfile::tempdir().expect("temp dir");
            let evidence = home.path().join("evidence");
            for (suffix, bytes) in OLD {
                fs::write(companion(&home.path().join("a.db"), suffix), bytes).expect("plant");
            }
            Self {
                home,
                gate: Arc::new(Gate::new()),
                stop: Arc::default(),
                clock: ManualClock::new(),
                evidence,
            }
        }

        fn db(&self) -> PathBuf {
            self.home.path().join("a.db")
        }

        fn medium(&self) -> Medium {
            Medium::open(self.home.path()).expect("medium")
        }

        fn site<'a>(&'a self, medium: &'a Medium) -> Site<'a> {
            Site {
                medium,
                gate: &self.gate,
                stop: &self.stop,
                clock: &self.clock,
                evidence: &self.evidence,
                evidence_max: 1 << 20,
            }
        }

        fn file(&self, suffix: &str) -> Option<Vec<u8>> {
            fs::read(companion(&self.db(), suffix)).ok()
        }

        /// The damaged files, all of them, in one directory.
        fn are_in(&self, dir: &Path) -> bool {
            let db = self.db();
            let name = db.file_name().expect("name");
            OLD.iter().all(|(suffix, bytes)| {
                fs::read(companion(&dir.join(name), suffix)).is_ok_and(|b| b == *bytes)
            })
        }
    }

    #[test]
    fn a_cut_at_any_step_of_the_swap_leaves_the_old_files_or_the_new_one_alone() {
        let mut outcomes = [0, 0];
        for cut in 0.. {
            let world = World::new();
            let medium = world.medium();
            let evidence = Evidence::copy(&world.db(), "test", &world.site(&medium)).expect("copy");
            fs::write(staged(&world.db()), b"new").expect("stage");
            medium.cut_after(cut);
            let done = swap(&world.db(), &evidence, &world.site(&medium)).is_ok();
            let next = world.medium();
            let next = world.site(&next);
            for _ in 0..2 {
                // Until it was said what came of it.
                let resumed = resume(&world.db(), &next).expect("resume");
                assert!(
                    matches!(resumed, Resumed::Nothing | Resumed::Swapped(_)),
                    "{resumed:?}, cut {cut}"
                );
            }
            end(&world.db(), &next).expect("end");
            if world.file("").as_deref() == Some(b"new") {
                for gone in ["-wal", "-shm", "-journal", "-holdup-new", "-recovery"] {
                    assert_eq!(world.file(gone), None, "{gone}, cut {cut}");
                }
                outcomes[1] += 1;
            } else {
                assert!(!done && world.are_in(world.home.path()), "cut {cut}");
                outcomes[0] += 1;
            }
            assert!(world.are_in(&evidence.dir), "evidence, cut {cut}");
            assert_eq!(resume(&world.db(), &next).expect("again"), Resumed::Nothing);
            if done {
                break;
            }
        }
        assert!(outcomes[0] >= 1 && outcomes[1] >= 6, "{outcomes:?}");
    }

    #[test]
    fn a_cut_at_any_step_of_the_move_loses_none_of_the_files() {
        let mut cuts = 0;
        for cut in 0.. {
            let world = World::new();
            let medium = world.medium();
            let evidence =
                Evidence::for_moving(&world.db(), "test", &world.site(&medium)).expect("begin");
            medium.cut_after(cut);
            let done = move_away(&world.db(), &evidence, &world.site(&medium)).is_ok();
            let next = world.medium();
            let next = world.site(&next);
            match resume(&world.db(), &next).expect("resume") {
                Resumed::Nothing => assert!(world.are_in(world.home.path()), "cut {cut}"),
                Resumed::InEvidence(dir) => assert!(world.are_in(&dir), "cut {cut}"),
                other @ (Resumed::Swapped(_) | Resumed::CalledOff(_)) => {
                    panic!("{other:?} after cut {cut}")
                }
            }
            cuts += 1;
            if done {
                break;
            }
        }
        assert!(cuts > 6, "{cuts}");
    }

    #[test]
    fn a_card_that_is_mounted_elsewhere_after_the_cut_is_finished_there() {
        let world = World::new();
        let medium = world.medium();
        let site = world.site(&medium);
        let evidence = Evidence::for_moving(&world.db(), "test", &site).expect("begin");
        // The journal and two of the files.
        medium.cut_after(8);
        move_away(&world.db(), &evidence, &site).expect_err("cut");
        let elsewhere = World::new();
        fs::remove_dir_all(elsewhere.home.path()).expect("make room");
        fs::rename(world.home.path(), elsewhere.home.path()).expect("another mount");
        let medium = elsewhere.medium();
        let resumed = resume(&elsewhere.db(), &elsewhere.site(&medium)).expect("resume");
        let Resumed::InEvidence(dir) = resumed else {
            panic!("{resumed:?}");
        };
        assert!(dir.starts_with(elsewhere.home.path()) && elsewhere.are_in(&dir));
    }

    #[test]
    fn what_was_moved_goes_back_after_a_cut_on_the_way_back_too() {
        for cut in 0.. {
            let world = World::new();
            let medium = world.medium();
            let site = world.site(&medium);
            let evidence = Evidence::for_moving(&world.db(), "test", &site).expect("begin");
            move_away(&world.db(), &evidence, &site).expect("move");
            medium.cut_after(cut);
            let done = put_back(&world.db(), &evidence.dir, &site).is_ok();
            match resume(&world.db(), &world.site(&world.medium())).expect("resume") {
                Resumed::Nothing => assert!(world.are_in(world.home.path()), "cut {cut}"),
                Resumed::InEvidence(dir) => assert!(world.are_in(&dir), "cut {cut}"),
                other @ (Resumed::Swapped(_) | Resumed::CalledOff(_)) => {
                    panic!("{other:?} after cut {cut}")
                }
            }
            if done {
                break;
            }
        }
    }

    #[test]
    fn what_somebody_wrote_after_the_cut_is_not_overwritten() {
        let world = World::new();
        let medium = world.medium();
        let site = world.site(&medium);
        let evidence = Evidence::copy(&world.db(), "test", &site).expect("copy");
        fs::write(staged(&world.db()), b"new").expect("stage");
        // The journal is durable, nothing else.
        medium.cut_after(2);
        swap(&world.db(), &evidence, &site).expect_err("cut");
        assert!(journal(&world.db()).exists());
        fs::write(world.db(), b"written by the application meanwhile").expect("write");
        let resumed = resume(&world.db(), &world.site(&world.medium())).expect("resume");
        assert!(matches!(resumed, Resumed::CalledOff(_)), "{resumed:?}");
        assert_eq!(
            world.file("").as_deref(),
            Some(&b"written by the application meanwhile"[..])
        );
    }

    #[test]
    fn a_transaction_that_only_a_new_log_holds_calls_the_swap_off_too() {
        for clearing in [false, true] {
            let world = World::new();
            let medium = world.medium();
            let site = world.site(&medium);
            let evidence = Evidence::copy(&world.db(), "test", &site).expect("copy");
            fs::write(staged(&world.db()), b"new").expect("stage");
            // The journal, and the old log is removed; the database stands as it was.
            medium.cut_after(4);
            let done = if clearing {
                clear(&world.db(), &evidence, &site)
            } else {
                swap(&world.db(), &evidence, &site)
            };
            done.expect_err("cut");
            let log = companion(&world.db(), "-wal");
            fs::remove_file(&log).ok();
            fs::write(&log, b"committed after the cut").expect("write");
            let resumed = resume(&world.db(), &world.site(&world.medium())).expect("resume");
            assert!(matches!(resumed, Resumed::CalledOff(_)), "{resumed:?}");
            assert_eq!(
                world.file("-wal").as_deref(),
                Some(&b"committed after the cut"[..])
            );
            assert_eq!(world.file("").as_deref(), Some(&b"damaged"[..]));
        }
    }

    #[test]
    fn a_database_written_after_its_log_was_moved_away_is_not_moved_too() {
        let world = World::new();
        let medium = world.medium();
        let site = world.site(&medium);
        let evidence = Evidence::for_moving(&world.db(), "test", &site).expect("make");
        // The journal, and the log is moved.
        medium.cut_after(5);
        move_away(&world.db(), &evidence, &site).expect_err("cut");
        assert!(world.file("-wal").is_none() && world.file("").is_some());
        fs::write(world.db(), b"written by the application meanwhile").expect("write");
        let resumed = resume(&world.db(), &world.site(&world.medium())).expect("resume");
        assert!(matches!(resumed, Resumed::CalledOff(_)), "{resumed:?}");
        assert_eq!(
            world.file("").as_deref(),
            Some(&b"written by the application meanwhile"[..])
        );
    }

    #[test]
    fn a_journal_that_somebody_planted_moves_no_file_elsewhere() {
        let world = World::new();
        let elsewhere = world.home.path().join("victim");
        fs::create_dir(&elsewhere).expect("folder");
        for path in ["victim", "evidence/../victim"] {
            let text = format!(r#"{{"version":1,"evidence":"{path}","step":"moving"}}"#);
            fs::write(journal(&world.db()), text).expect("plant");
            let e = resume(&world.db(), &world.site(&world.medium())).expect_err("refused");
            let why = std::error::Error::source(&e).map(ToString::to_string);
            assert!(why.is_some_and(|w| w.contains("outside")), "{e}");
            assert!(world.file("").is_some(), "it stays");
        }
    }

    #[test]
    fn evidence_of_which_nothing_came_yet_is_never_pruned() {
        let world = World::new();
        let medium = world.medium();
        let site = world.site(&medium);
        let unfinished = Evidence::for_moving(&world.db(), "test", &site).expect("make");
        move_away(&world.db(), &unfinished, &site).expect("move");
        for (suffix, bytes) in OLD {
            fs::write(companion(&world.db(), suffix), bytes).expect("plant");
        }
        Evidence::copy(&world.db(), "another database", &site).expect("copy");
        let removed = super::super::evidence::prune(0, &[], &site).expect("prune");
        assert!(removed.is_empty(), "{removed:?}");
        assert!(world.are_in(&unfinished.dir));
    }

    #[test]
    fn the_oldest_evidence_goes_first_and_the_newest_never() {
        let world = World::new();
        let medium = world.medium();
        let site = world.site(&medium);
        let kept: Vec<_> = (0..4)
            .map(|_| Evidence::copy(&world.db(), "test", &site).expect("copy"))
            .collect();
        for e in &kept {
            fs::write(e.dir.join("report.json"), b"{}").expect("what came of it");
        }
        let numbers: Vec<_> = kept.iter().map(|e| e.manifest.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        let each: u64 = OLD.iter().map(|(_, b)| b.len() as u64).sum();
        let root = &world.evidence;
        let prune = |most| super::super::evidence::prune(most, &[], &site);
        assert_eq!(
            prune(2 * each).expect("prune"),
            [kept[0].dir.clone(), kept[1].dir.clone()]
        );
        assert!(!kept[1].dir.exists(), "all of it");
        assert_eq!(prune(0).expect("prune"), [kept[2].dir.clone()]);
        assert!(world.are_in(&kept[3].dir));
        assert!(free_bytes(root).expect("statvfs") > 0);
    }

    #[test]
    fn the_manifest_tells_what_was_kept_by_size_and_sha256() {
        let world = World::new();
        let medium = world.medium();
        let evidence = Evidence::copy(&world.db(), "the header is zeroed", &world.site(&medium))
            .expect("copy");
        let read = Evidence::read(&evidence.dir).expect("read");
        assert_eq!(read, evidence);
        let db = read
            .manifest
            .files
            .iter()
            .find(|f| f.name == "a.db")
            .expect("listed");
        assert_eq!(db.bytes, 7);
        // printf damaged | sha256sum
        assert_eq!(
            db.sha256,
            "41f0c27c00e8018f7715b5f50f67b5b54c229c1b843a014152785d9005f58fde"
        );
        assert!(read.manifest.reason.contains("zeroed"));
    }
}
