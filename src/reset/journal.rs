//! The journal of a reset.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::audit::Head;
use crate::durable::{DurableError, read_own_if_there};

use super::erase::Discarded;
use super::inventory::{Choice, Item};
use super::{BackedUp, Level, Order, ResetError, Site, Undelivered};

/// The first line; the SHA-256 of the rest follows on it.
const MAGIC: &str = "holdup-reset-1";
/// Bytes that are read.
const LONGEST: u64 = 4 << 20;
/// Items that a receipt lists one by one.
const MOST_ITEMS: usize = 2000;

/// How far it has come; see the room's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    Requested,
    BackedUp,
    Staged,
    Swapped,
    Erased,
    Genesis,
}

impl Step {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::BackedUp => "backed_up",
            Self::Staged => "staged",
            Self::Swapped => "swapped",
            Self::Erased => "erased",
            Self::Genesis => "genesis",
        }
    }
}

/// A moment, and whether the clock was known to be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// RFC 3339, UTC.
    pub at: String,
    /// The clock was synchronised then.
    pub synchronised: bool,
}

impl Moment {
    pub(super) fn now(site: &Site<'_>) -> Self {
        Self {
            at: site.clock.wall().to_string(),
            synchronised: site.clock.is_synchronised(),
        }
    }
}

/// What the configuration becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plain {
    /// The main file.
    pub(super) path: PathBuf,
    /// What goes from `conf.d`.
    pub(super) drop_ins: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) step: Step,
    /// Names the directory, the receipt, and the entries in the audit log.
    pub(super) id: String,
    pub(super) gateway: String,
    pub(super) level: Level,
    pub(super) with_evidence: bool,
    pub(super) actor: String,
    pub(super) backup_waived: bool,
    pub(super) undelivered_waived: Option<Undelivered>,
    pub(super) damaged: Vec<String>,
    pub(super) requested: Moment,
    pub(super) backup: Option<BackedUp>,
    /// What was there, with its fate.
    pub(super) items: Vec<Item>,
    /// More than are listed.
    pub(super) unlisted: u64,
    pub(super) epoch_before: Option<String>,
    pub(super) epoch_after: Option<String>,
    pub(super) head_before: Option<Head>,
    pub(super) genesis: Option<Head>,
    pub(super) config: Option<Plain>,
    /// Files outside what is moved that go too: the technicians' keys.
    pub(super) keys: Vec<PathBuf>,
    /// Starts that had to go on with it.
    pub(super) cuts: u32,
    /// What was asked of the medium after the unlinking.
    #[serde(default)]
    pub(super) discard: Discarded,
}

/// Its place.
pub(super) fn place(data_dir: &Path) -> PathBuf {
    data_dir.join("reset.journal")
}

/// Is a reset to be finished, or undone?
pub fn is_unfinished(data_dir: &Path) -> bool {
    place(data_dir).symlink_metadata().is_ok()
}

/// How far an unfinished one has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct State {
    /// Its id.
    pub id: String,
    /// How much goes.
    pub level: Level,
    /// `requested`, `backed_up`, `staged`, `swapped`, `erased` or `genesis`.
    pub step: String,
    /// Who asked, and when.
    pub actor: String,
    /// RFC 3339, UTC.
    pub requested: String,
    /// It will be finished; else undone.
    pub goes_on: bool,
}

/// Of the one that is unfinished, if one is.
///
/// # Errors
/// Its journal cannot be read.
pub fn state(data_dir: &Path) -> Result<Option<State>, ResetError> {
    Ok(Journal::read(data_dir)?.map(|j| State {
        level: j.level,
        step: j.step.name().to_owned(),
        actor: j.actor,
        requested: j.requested.at,
        goes_on: j.step >= Step::Staged,
        id: j.id,
    }))
}

impl Journal {
    pub(super) fn new(order: &Order, id: String, gateway: &str, site: &Site<'_>) -> Self {
        Self {
            step: Step::Requested,
            id,
            gateway: gateway.to_owned(),
            level: order.level,
            with_evidence: order.with_evidence,
            actor: order.actor.clone(),
            backup_waived: order.backup_waived,
            undelivered_waived: order.undelivered_waived,
            damaged: order.damaged.clone(),
            requested: Moment::now(site),
            backup: None,
            items: Vec::new(),
            unlisted: 0,
            epoch_before: None,
            epoch_after: None,
            head_before: None,
            genesis: None,
            config: None,
            keys: Vec::new(),
            cuts: 0,
            discard: Discarded::default(),
        }
    }

    pub(super) fn choice(&self) -> Choice<'_> {
        Choice {
            level: self.level,
            with_evidence: self.with_evidence,
            damaged: &self.damaged,
        }
    }

    pub(super) fn list(&mut self, mut items: Vec<Item>) {
        self.unlisted = items.len().saturating_sub(MOST_ITEMS) as u64;
        items.truncate(MOST_ITEMS);
        self.items = items;
    }

    /// Where what goes is moved to, and its name from the instant on at which it is gone.
    pub(super) fn graves(&self, data_dir: &Path) -> (PathBuf, PathBuf) {
        let name = format!("reset-{}", self.id);
        (
            data_dir.join(&name),
            data_dir.join(format!("{name}{ERASED}")),
        )
    }

    /// The journal that a cut left, if one did.
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>, ResetError> {
        let path = place(data_dir);
        let odd = |why: String| ResetError::Journal {
            path: path.clone(),
            why,
        };
        let bytes = read_own_if_there(&path, LONGEST)
            .map_err(|e| odd(format!("it cannot be read: {e}")))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let end = bytes.iter().position(|b| *b == b'\n');
        let (line, rest) = bytes.split_at(end.map_or(bytes.len(), |n| n + 1));
        let sum = line.strip_prefix(MAGIC.as_bytes()).map(<[u8]>::trim_ascii);
        let Some(sum) = sum else {
            let word: Vec<u8> = line.iter().copied().take(40).collect();
            return Err(odd(format!(
                "another holdup wrote it, or it is damaged (it starts with \"{}\")",
                word.escape_ascii()
            )));
        };
        if sum != digest(rest).as_bytes() {
            return Err(odd("it is damaged: its sum is wrong".to_owned()));
        }
        let journal: Self = serde_json::from_slice(rest)
            .map_err(|e| odd(format!("it cannot be understood ({e})")))?;
        // It becomes part of a path.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
        if journal.id.is_empty() || journal.id.len() > 64 || !journal.id.bytes().all(plain) {
            return Err(odd("its id is none".to_owned()));
        }
        Ok(Some(journal))
    }

    /// Makes `step` durable.
    pub(super) fn write(
        &mut self,
        step: Step,
        data_dir: &Path,
        site: &Site<'_>,
    ) -> Result<(), ResetError> {
        self.step = step;
        let path = place(data_dir);
        let mut body = serde_json::to_vec_pretty(self)
            .map_err(|e| ResetError::io("write", &path)(e.into()))?;
        body.push(b'\n');
        let mut text = format!("{MAGIC} {}\n", digest(&body)).into_bytes();
        text.extend(body);
        with_room(site, data_dir, || site.medium.replace(&path, &text))
    }
}

/// What the name ends with once nothing can be taken back.
pub(super) const ERASED: &str = ".erased";

/// `act`, once more on the room kept back where there was none.
pub(super) fn with_room(
    site: &Site<'_>,
    data_dir: &Path,
    act: impl Fn() -> Result<(), DurableError>,
) -> Result<(), ResetError> {
    match act() {
        Err(e) if e.is_full() => {
            site.reserve.release(site.medium)?;
            act().map_err(|e| {
                if e.is_full() {
                    ResetError::NoRoom(data_dir.to_owned())
                } else {
                    e.into()
                }
            })
        }
        done => Ok(done?),
    }
}

pub(super) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|b| format!("{b:02x}")).collect()
}
