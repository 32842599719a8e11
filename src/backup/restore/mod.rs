//! From a backup to files in their places, or to nothing changed at all.
//!
//! It promises that everything that is to be restored was read, decrypted, unpacked and checked
//! before the first live file is touched, that what lay in its place is renamed and never deleted,
//! that no -wal, -shm or -journal of an old database is left beside a restored one, and that a cut
//! at any instant ends in the old files or the new ones: the next call of [`resume`] finishes or
//! undoes. It must never replace the audit log, a key or a certificate.
//!
//! # The journal
//! `restore.journal` in the data directory: JSON with a version, the step and the files.
//! `requested`: only files of our own were made; a cut is undone. `staged`: every new file is whole
//! beside its place, and the old ones are being moved to `restore-TIME/`; from here a cut is
//! finished. `moved`: the places are empty. `swapped`: the new files are in place. `verified`: they
//! took a write and a query. `undoing`: something failed; the old files go back. Its removal is
//! the end.

mod error;
mod ids;
mod journal;
mod plan;
mod stage;
mod survey;
mod swap;
#[cfg(test)]
mod tests;
mod trial;

use std::path::{Path, PathBuf};

use super::{Identity, Manifest, Site};

pub use error::RestoreError;
pub use plan::{Change, DatabaseNow, Plan, Skipped};
pub use swap::{Resumed, is_unfinished, resume};

/// The gateway that is restored to.
#[derive(Debug, Clone)]
pub struct Home {
    /// Its id.
    pub gateway: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its readings.
    pub store: PathBuf,
    /// Its outbound queue.
    pub queue: PathBuf,
    /// Its ledger of what was acknowledged.
    pub ledger: PathBuf,
    /// Other applications' databases that it guards.
    pub databases: Vec<PathBuf>,
    /// Files and directories that it backs up: what is in no other is restored only by its name.
    pub include: Vec<PathBuf>,
    /// Its configuration: restored only when that is asked for.
    pub config: PathBuf,
    /// Keys and certificates: never restored from an archive of data, nor replaced by one.
    pub keys: Vec<PathBuf>,
}

/// What is to be restored, from what.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The archive.
    pub archive: &'a Path,
    /// What may open it.
    pub identities: &'a [Identity],
    /// Where to.
    pub home: &'a Home,
    /// These alone, by the paths they had; empty: all that this gateway backs up.
    pub only: &'a [PathBuf],
    /// Its configuration too.
    pub with_config: bool,
    /// An archive without a manifest, made with tar, zstd and age, is taken too.
    pub without_manifest: bool,
}

/// A restore that was done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Done {
    /// Where the files lie that were replaced; `None` where there were none.
    #[serde(serialize_with = "shown")]
    pub kept: Vec<PathBuf>,
    /// The files that were put in place.
    #[serde(serialize_with = "shown")]
    pub restored: Vec<PathBuf>,
    /// No id up to this one is given to a new reading; `None` where no store was restored.
    pub ids_above: Option<i64>,
}

/// As people are shown them: a path need not be UTF-8, and JSON must be.
fn shown<S: serde::Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(paths.iter().map(|p| p.display().to_string()))
}

/// Reads all of the archive and says what a restore would do. Nothing is touched.
///
/// # Errors
/// The archive cannot be read, is not what its manifest says, or cannot be restored here.
pub fn look(request: &Request<'_>, site: &Site<'_>) -> Result<Plan, RestoreError> {
    (site.say)("reading the backup");
    let survey = survey::survey(request, site)?;
    plan::plan(request, survey)
}

/// Does what `plan` says. `begins` is called after everything was checked and before the first live
/// file is touched; where it fails nothing is.
///
/// # Errors
/// [`RestoreError::Undone`]: live files were touched and are as they were. Any other: none was
/// touched.
pub fn restore(
    plan: &Plan,
    request: &Request<'_>,
    site: &Site<'_>,
    begins: &dyn Fn() -> Result<(), RestoreError>,
) -> Result<Done, RestoreError> {
    swap::nobody_has(plan)?;
    let (journal, ids_above) = stage::stage(plan, request, site)?;
    let home = request.home;
    let begun = swap::nobody_has(plan).and_then(|()| begins());
    if let Err(e) = begun {
        swap::forget(&journal, &home.data_dir, site.medium)?;
        return Err(e);
    }
    swap::carry_out(journal, &home.data_dir, site, ids_above)
}

/// The manifest that lies beside `archive`, if one does and can be read.
pub fn sidecar(archive: &Path) -> Option<Manifest> {
    survey::sidecar(archive).ok().flatten()
}
