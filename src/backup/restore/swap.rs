//! The exchange: old files out, new files in, or all of it back.
//!
//! It promises what the room's text says of cuts, and that a file which somebody made at a place
//! that was being emptied is kept beside the old one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, unlinkat};
use rustix::io::Errno;

use crate::backup::Site;
use crate::durable::{Medium, enter};
use crate::guard::{holders, process_in_words};
use crate::recovery::{Hold, HoldError};
use crate::store::companion;

use super::journal::{Identity, Item, Journal, Step, place};
use super::plan::Plan;
use super::stage::give;
use super::trial::try_out;
use super::{Done, RestoreError};

/// What may lie beside a database, in the order in which it goes: the file itself last, since SQLite
/// deletes a log that waits without its database. Of ours: an unfinished recovery, and the note
/// that it is suspected.
const COMPANIONS: [&str; 6] = [
    "-wal",
    "-journal",
    "-shm",
    "-recovery",
    "-holdup-new",
    "-suspect",
];
/// So many files that came between are kept of one name.
const MOST_SINCE: u32 = 1000;
/// What was restored, beside the old files.
const LIST: &str = "restored.json";

/// How an unfinished restore was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    /// There was none.
    Nothing,
    /// The new files are in place.
    Finished {
        /// The archive they came from.
        archive: String,
        /// What was done.
        done: Done,
    },
    /// The old files are in place.
    Undone {
        /// The archive that was being restored.
        archive: String,
        /// Why it was not finished.
        why: String,
    },
}

/// Which file lies at `path`; a link is not followed.
pub(super) fn identity(path: &Path) -> Result<Option<Identity>, RestoreError> {
    match fs::symlink_metadata(path) {
        Ok(m) => Ok(Some(Identity {
            device: m.dev(),
            inode: m.ino(),
        })),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(RestoreError::io("look at", path)(e)),
    }
}

fn there(path: &Path) -> Result<bool, RestoreError> {
    Ok(identity(path)?.is_some())
}

/// Refuses while a database that is to be replaced is open somewhere, by the process's name.
pub(super) fn nobody_has(plan: &Plan) -> Result<(), RestoreError> {
    for change in plan.changes.iter().filter(|c| c.is_database && c.exists) {
        unheld(&change.target)?;
        drop(Hold::take(&change.target)?);
    }
    Ok(())
}

/// A program that has a rollback journal holds no lock between its transactions; it has the file
/// open all the same.
fn unheld(database: &Path) -> Result<(), RestoreError> {
    let found = holders(database, &|| false)
        .map_err(RestoreError::io("ask who has open", database))?
        .unwrap_or_default();
    if found.pids.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = found.pids.iter().map(|p| process_in_words(*p)).collect();
    Err(RestoreError::Held(HoldError::InUse {
        path: database.to_owned(),
        by: names.join(" and "),
    }))
}

/// Removes what was staged, and the journal: nothing else was touched.
pub(super) fn forget(
    journal: &Journal,
    data_dir: &Path,
    medium: &Medium,
) -> Result<(), RestoreError> {
    for item in &journal.items {
        remove_staged(item, medium)?;
    }
    Ok(medium.remove(&place(data_dir))?)
}

fn remove_staged(item: &Item, medium: &Medium) -> Result<(), RestoreError> {
    medium.remove(&item.staged)?;
    if item.database {
        for suffix in ["-wal", "-shm", "-journal"] {
            let path = companion(&item.staged, suffix);
            if there(&path)? {
                medium.remove(&path)?;
            }
        }
    }
    Ok(())
}

/// Exchanges the files; everything is staged, checked and in the audit log.
pub(super) fn carry_out(
    mut journal: Journal,
    data_dir: &Path,
    site: &Site<'_>,
    ids_above: Option<i64>,
) -> Result<Done, RestoreError> {
    let begun = journal.write(Step::Staged, data_dir, site.medium);
    let done = begun.and_then(|()| forward(&mut journal, data_dir, site));
    match done {
        Ok(kept) => Ok(Done {
            kept,
            restored: journal.items.into_iter().map(|i| i.target).collect(),
            ids_above,
        }),
        Err(why) => match undo(&mut journal, data_dir, site) {
            Ok(()) => Err(RestoreError::Undone(Box::new(why))),
            Err(source) => Err(RestoreError::HalfWay {
                journal: place(data_dir),
                why: in_full(&why),
                source: Box::new(source),
            }),
        },
    }
}

/// Is there a restore that a cut interrupted?
pub fn is_unfinished(data_dir: &Path) -> bool {
    place(data_dir).symlink_metadata().is_ok()
}

/// Ends what a cut interrupted: with the new files where all of them were staged, else with the old
/// ones.
///
/// # Errors
/// Somebody has one of its databases open, or the medium fails: then nothing is given up, and it is
/// called again.
pub fn resume(data_dir: &Path, site: &Site<'_>) -> Result<Resumed, RestoreError> {
    let Some(mut journal) = Journal::read(data_dir)? else {
        return Ok(Resumed::Nothing);
    };
    let archive = journal.archive.clone();
    let why = match journal.step {
        Step::Requested => {
            forget(&journal, data_dir, site.medium)?;
            "power was cut, or it was stopped, before everything was unpacked".to_owned()
        }
        Step::Undoing => {
            undo(&mut journal, data_dir, site)?;
            "it had failed before".to_owned()
        }
        Step::Staged | Step::Moved | Step::Swapped | Step::Verified => {
            match forward(&mut journal, data_dir, site) {
                Ok(kept) => {
                    let done = Done {
                        kept,
                        restored: journal.items.into_iter().map(|i| i.target).collect(),
                        ids_above: None,
                    };
                    return Ok(Resumed::Finished { archive, done });
                }
                // It goes on when that ends.
                Err(e @ (RestoreError::Held(_) | RestoreError::Durable(_))) => return Err(e),
                Err(e) => {
                    undo(&mut journal, data_dir, site)?;
                    in_full(&e)
                }
            }
        }
    };
    Ok(Resumed::Undone { archive, why })
}

/// From the journal's step to the end; the directories that hold old files.
fn forward(
    journal: &mut Journal,
    data_dir: &Path,
    site: &Site<'_>,
) -> Result<Vec<PathBuf>, RestoreError> {
    let medium = site.medium;
    if journal.step == Step::Staged {
        (site.say)("moving the old files away");
        let held = hold(journal)?;
        for item in &journal.items {
            empty(item, data_dir, site)?;
        }
        journal.write(Step::Moved, data_dir, medium)?;
        drop(held);
    }
    if journal.step == Step::Moved {
        (site.say)("putting the new files in place");
        folders(journal, site)?;
        for item in &journal.items {
            exchange(item, data_dir, site)?;
        }
        journal.write(Step::Swapped, data_dir, medium)?;
    }
    if journal.step == Step::Swapped {
        (site.say)("trying them out");
        for item in journal.items.iter().filter(|i| i.database) {
            try_out(item, &journal.archive, site)?;
        }
        journal.write(Step::Verified, data_dir, medium)?;
    }
    let kept = kept(journal);
    if let Some(dir) = kept.first() {
        let text = serde_json::to_vec_pretty(journal)
            .map_err(|e| RestoreError::io("write", &dir.join(LIST))(e.into()))?;
        medium.replace(&dir.join(LIST), &text)?;
    }
    medium.remove(&place(data_dir))?;
    Ok(kept)
}

/// Every database that is still in its place, held against all others until it is moved.
fn hold(journal: &Journal) -> Result<Vec<Hold>, RestoreError> {
    let mut held = Vec::new();
    for item in journal.items.iter().filter(|i| i.database) {
        if there(&item.target)? {
            unheld(&item.target)?;
            held.push(Hold::take(&item.target)?);
        }
    }
    Ok(held)
}

/// Moves what lies at the item's place, companions first.
fn empty(item: &Item, data_dir: &Path, site: &Site<'_>) -> Result<(), RestoreError> {
    let companions: &[&str] = if item.database { &COMPANIONS } else { &[] };
    for suffix in companions.iter().chain(&[""]) {
        let from = companion(&item.target, suffix);
        if !there(&from)? {
            continue;
        }
        let _pass = pass(site, &from)?;
        dir_of(&item.aside, data_dir, site.medium)?;
        let to = free_name(&companion(&item.aside, suffix))?;
        site.medium.rename(&from, &to)?;
    }
    Ok(())
}

/// `path`, or where that is taken (somebody made another file meanwhile) a name beside it.
fn free_name(path: &Path) -> Result<PathBuf, RestoreError> {
    if !there(path)? {
        return Ok(path.to_owned());
    }
    for n in 1..=MOST_SINCE {
        let to = companion(path, &format!(".since-{n}"));
        if !there(&to)? {
            return Ok(to);
        }
    }
    let e = io::Error::other("too many files came in its place: stop what makes them");
    Err(RestoreError::io("keep another", path)(e))
}

/// The directory for an old file, which the agent's user may use after a cut.
fn dir_of(aside: &Path, data_dir: &Path, medium: &Medium) -> Result<(), RestoreError> {
    let dir = aside.parent().unwrap_or(Path::new("/"));
    if dir.is_dir() {
        return Ok(());
    }
    medium.make_dir(dir)?;
    if let Ok(owner) = fs::metadata(data_dir) {
        for made in [dir.parent().unwrap_or(dir), dir] {
            give(made, owner.uid(), owner.gid(), None)
                .map_err(RestoreError::io("give to the agent's user", made))?;
        }
    }
    Ok(())
}

fn folders(journal: &Journal, site: &Site<'_>) -> Result<(), RestoreError> {
    for folder in &journal.folders {
        let _pass = pass(site, &folder.path)?;
        site.medium.make_dir(&folder.path)?;
        give(&folder.path, folder.uid, folder.gid, Some(folder.mode))
            .map_err(RestoreError::io("make", &folder.path))?;
    }
    Ok(())
}

fn exchange(item: &Item, data_dir: &Path, site: &Site<'_>) -> Result<(), RestoreError> {
    if item.new.is_some() && identity(&item.target)? == item.new {
        return Ok(());
    }
    if identity(&item.staged)? != item.new || item.new.is_none() {
        let e = io::Error::other("it is not the file that was checked");
        return Err(RestoreError::io("use", &item.staged)(e));
    }
    // Whatever came since: under an old companion the new file would be another.
    empty(item, data_dir, site)?;
    let _pass = pass(site, &item.target)?;
    if let Some(dir) = item.target.parent() {
        site.medium.make_dir(dir)?;
    }
    Ok(site.medium.rename(&item.staged, &item.target)?)
}

/// Where old files lie.
fn kept(journal: &Journal) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for item in &journal.items {
        let dir = item.aside.parent().and_then(Path::parent);
        if let Some(dir) = dir
            && dir.is_dir()
            && !dirs.iter().any(|d| d == dir)
        {
            dirs.push(dir.to_owned());
        }
    }
    dirs
}

/// The old files back to their places, the database first, so that no companion waits without it.
fn undo(journal: &mut Journal, data_dir: &Path, site: &Site<'_>) -> Result<(), RestoreError> {
    (site.say)("putting the old files back");
    let medium = site.medium;
    journal.write(Step::Undoing, data_dir, medium)?;
    for item in journal.items.iter().rev() {
        let _pass = pass(site, &item.target)?;
        let new = item.new.is_some() && identity(&item.target)? == item.new;
        if new {
            for suffix in ["-wal", "-shm", "-journal"] {
                let path = companion(&item.target, suffix);
                if item.database && there(&path)? {
                    medium.remove(&path)?;
                }
            }
            medium.remove(&item.target)?;
        }
        let companions: &[&str] = if item.database { &COMPANIONS } else { &[] };
        for suffix in [""].iter().chain(companions.iter().rev()) {
            let (old, to) = (
                companion(&item.aside, suffix),
                companion(&item.target, suffix),
            );
            if !there(&old)? {
                continue;
            }
            if there(&to)? {
                medium.rename(&to, &free_name(&companion(&old, ".new"))?)?;
            }
            medium.rename(&old, &to)?;
        }
        remove_staged(item, medium)?;
    }
    for folder in journal.folders.iter().rev() {
        remove_empty(&folder.path, medium)?;
    }
    for item in &journal.items {
        if let Some(dir) = item.aside.parent() {
            remove_empty(dir, medium)?;
        }
    }
    for dir in kept(journal) {
        remove_empty(&dir, medium)?;
    }
    Ok(medium.remove(&place(data_dir))?)
}

/// Removes a directory that nothing is in.
fn remove_empty(dir: &Path, medium: &Medium) -> Result<(), RestoreError> {
    match unlinkat(CWD, dir, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(medium.sync_parent(dir)?),
        Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(()),
        Err(e) => Err(RestoreError::io("remove", dir)(e.into())),
    }
}

fn pass<'g>(site: &Site<'g>, path: &Path) -> Result<crate::durable::Pass<'g>, RestoreError> {
    enter(site.gate, site.stop).map_err(RestoreError::io("go on with", path))
}

/// An error and all that caused it.
fn in_full(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}
