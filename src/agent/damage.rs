//! What is known to be damaged while the agent runs, and what to do about it.
//!
//! It promises that damage which was found once is told until the agent is restarted, is noted
//! beside the database for the next start, and has one remedy, in the same words everywhere.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::durable::{DurableError, Gate, Medium};
use crate::power::Reason;
use crate::queue::QueueState;
use crate::store::{StoreState, companion, suspicion};
use crate::{queue, store};

use super::costs::lock;
use super::explain;
use super::status::StatusSource;

pub use crate::power::READ_ONLY_REMEDY;

/// For a queue that is not damaged and cannot be used; its own words say why.
const MEND: &str = "mend that, then restart the agent";

/// Something that keeps a promise from holding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// As in the reasons of readiness.
    pub code: String,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: String,
}

impl Damage {
    /// Of a reason of readiness, with the words of who found it.
    pub(super) fn of(reason: Reason, why: Option<&str>) -> Option<Self> {
        let (mut found, remedy) = reason.damage()?;
        if let Some(why) = why {
            // A word of its own that ends with the remedy does not say it twice.
            let why = why.trim_end_matches(remedy).trim_end_matches(": ");
            found.push_str(&format!(" ({why})"));
        }
        Some(Self {
            code: reason.code().to_owned(),
            found,
            remedy: remedy.to_owned(),
        })
    }
}

/// Found while the agent runs; shared with the status.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    databases: BTreeMap<PathBuf, String>,
    /// Why the store is not open yet.
    opening: Option<String>,
    /// Nothing is done to the queue's files any more but by who has it open.
    queue_looked_after: bool,
    /// The files of the open store, by device and number.
    names: Vec<(PathBuf, Option<(u64, u64)>)>,
    /// What is in it has no name any more: a copy is wanted before anything else.
    nameless: bool,
}

/// Which file lies at `path`; `None`: none does.
fn number(path: &Path) -> std::io::Result<Option<(u64, u64)>> {
    match path.symlink_metadata() {
        Ok(m) => Ok(Some((m.dev(), m.ino()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Known {
    /// `database`, of ours, is damaged although it serves. Its next start is told, unless writing
    /// is stopped: then it is found once more.
    pub(super) fn suspect(&self, database: &Path, why: &str, medium: &Medium, gate: &Gate) {
        lock(&self.0)
            .databases
            .insert(database.to_owned(), why.to_owned());
        let Some(_pass) = gate.try_enter() else {
            return;
        };
        if let Err(e) = note(database, why, medium) {
            log::error!(
                "the next start is not told that {} is damaged: {}",
                database.display(),
                explain(&e)
            );
        }
    }

    /// `database` is another one now.
    pub(super) fn forget(&self, database: &Path) {
        lock(&self.0).databases.remove(database);
    }

    /// What was found of `database`.
    pub(super) fn of(&self, database: &Path) -> Option<String> {
        lock(&self.0).databases.get(database).cloned()
    }

    /// What keeps the store from being opened; `None`: nothing any more.
    pub(super) fn opening(&self, why: Option<String>) {
        lock(&self.0).opening = why;
    }

    /// The store is open: these are its files.
    pub(super) fn opened(&self, store: &Path) {
        let all = [store.to_owned(), companion(store, "-wal")];
        let numbered = all.map(|path| {
            let number = number(&path).ok().flatten();
            (path, number)
        });
        lock(&self.0).names = numbered.into();
    }

    /// Looks whether somebody removed or replaced a file of the open store: SQLite goes on without a
    /// word, and the next start finds nothing of it.
    pub(super) fn look_at_names(&self) {
        let mut seen = lock(&self.0);
        let is_another = |(path, was): &(PathBuf, Option<(u64, u64)>)| {
            was.is_some() && number(path).is_ok_and(|now| now != *was)
        };
        let Some((path, _)) = seen.names.iter().find(|n| is_another(n)).cloned() else {
            return;
        };
        let why = format!(
            "{} was removed or replaced while it is open: what is stored has no name any more; \
             snapshots of it are taken each minute",
            path.display()
        );
        let store = seen.names.first().map(|(store, _)| store.clone());
        log::error!("{why}");
        seen.databases.extend(store.map(|store| (store, why)));
        // Said once.
        seen.names.clear();
        seen.nameless = true;
    }

    /// Is the open store without a name?
    pub(super) fn is_nameless(&self) -> bool {
        lock(&self.0).nameless
    }

    /// The queue was looked after: its files may be read as any others.
    pub(super) fn queue_looked_after(&self) {
        lock(&self.0).queue_looked_after = true;
    }

    pub(super) fn is_queue_looked_after(&self) -> bool {
        lock(&self.0).queue_looked_after
    }

    pub(super) fn why_not_open(&self) -> Option<String> {
        lock(&self.0).opening.clone()
    }
}

/// Notes beside `database` that it is damaged although its files may look well, so that it is
/// recovered before it is opened.
pub(super) fn note(database: &Path, why: &str, medium: &Medium) -> Result<(), DurableError> {
    medium.replace(&suspicion(database), why.as_bytes())
}

impl StatusSource {
    /// Databases of ours that are damaged, or cannot be used.
    pub(super) fn damaged(&self) -> impl Iterator<Item = Reason> {
        let (store, queue) = self.own();
        let store = self.known.of(&store).map(|_| Reason::StoreDamaged {
            remedy: store::REMEDY,
        });
        let queue = match self.queue.stats().state {
            QueueState::Failed(why) => Some(Reason::QueueFailed {
                remedy: if why.contains(queue::REMEDY) {
                    queue::REMEDY
                } else {
                    MEND
                },
            }),
            QueueState::Off
            | QueueState::Starting
            | QueueState::Running
            | QueueState::Full
            | QueueState::DiskFull
            | QueueState::Waiting(_)
            | QueueState::Stopped => self.known.of(&queue).map(|_| Reason::QueueDamaged {
                remedy: queue::REMEDY,
            }),
        };
        [store, queue].into_iter().flatten()
    }

    pub(super) fn own(&self) -> (PathBuf, PathBuf) {
        let settings = lock(&self.settings);
        let gateway = &settings.gateway;
        (gateway.store_path(), gateway.queue_path())
    }

    /// What is said of a reason where it is damage, with the words of who found it.
    pub(super) fn damage(&self, reason: Reason) -> Option<Damage> {
        let (store, queue) = self.own();
        let why = match reason {
            Reason::StoreDamaged { .. } => self.known.of(&store),
            Reason::QueueDamaged { .. } => self.known.of(&queue),
            Reason::QueueFailed { .. } => self.queue.stats().state.problem().map(str::to_owned),
            Reason::StoreFailed => match self.orders.stats().state {
                StoreState::Failed(why) => Some(why.to_string()),
                StoreState::Starting
                | StoreState::Running
                | StoreState::DiskFull
                | StoreState::Stopped => None,
            },
            Reason::MediumFailed
            | Reason::DataReadOnly
            | Reason::AcknowledgedMissing { .. }
            | Reason::HoldupNotMeasured
            | Reason::LineMissing
            | Reason::LineNotWired
            | Reason::LineStuck
            | Reason::NotCalibrated
            | Reason::StepTooSlow { .. }
            | Reason::PlanTooSlow { .. }
            | Reason::NotRecharged { .. }
            | Reason::MeasuredShorter { .. }
            | Reason::OtherWriters
            | Reason::GuardedUnusable
            | Reason::StoreStarting
            | Reason::DiskFull
            | Reason::BatteryLow => None,
        };
        Damage::of(reason, why.as_deref())
    }

    /// A reason in words.
    pub(super) fn advice(&self, reason: Reason) -> String {
        if let Some(d) = self.damage(reason) {
            return format!("{}: {}", d.found, d.remedy);
        }
        match self.known.why_not_open() {
            Some(why) if reason == Reason::StoreStarting => {
                format!("the store is not open and takes no readings: {why}")
            }
            _ => reason.to_string(),
        }
    }
}
