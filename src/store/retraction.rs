//! Readings of a bad source, marked as not to be believed.
//!
//! It promises that a reading is never changed or removed for it: a row in a table of its own says
//! which readings are meant, and the view `readings_valid` leaves them out. Looking for them is
//! done by whoever asks, on a connection of his own and in portions, so that neither the writer
//! nor a checkpoint waits for it; the writer adds one row. It must never retract a reading that
//! was not there when it was looked for.

mod seek;
mod table;

use rusqlite::types::Value;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::rows::Stamp;

pub use seek::{find, retractions};
pub use table::retract_alone;
pub(super) use table::{TABLE, answer, prepare, write};

/// Bytes of a reason.
const LONGEST_REASON: usize = 512;
/// Bytes of a name in the audit log.
const LONGEST_ACTOR: usize = 64;

/// Which readings are meant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Their sensor, as they name it.
    pub sensor_name: String,
    /// From this timestamp on; `None`: from the first.
    pub since: Option<Stamp<String>>,
    /// Up to this timestamp, itself included; `None`: to the last.
    pub until: Option<Stamp<String>>,
}

/// Readings of a span that are in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// How many.
    pub rows: u64,
    /// The lowest id of them; 0 where there is none.
    pub first_id: i64,
    /// The highest; 0 where there is none.
    pub last_id: i64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Retract {
    /// Retract readings.
    Mark {
        /// Which.
        span: Span,
        /// Those that were found.
        found: Found,
        /// Why.
        reason: String,
        /// Who asked for it.
        actor: String,
    },
    /// Take a retraction back.
    Undo {
        /// Its number.
        seq: i64,
    },
}

/// A retraction, as the store has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retraction {
    /// Its number.
    pub seq: i64,
    /// The sensor.
    pub sensor_name: String,
    /// No reading below this id is meant.
    pub first_id: i64,
    /// And none above this one.
    pub last_id: i64,
    /// From this timestamp on.
    pub since: Option<Stamp<String>>,
    /// Up to this timestamp, itself included.
    pub until: Option<Stamp<String>>,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub actor: String,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// When it was taken back; `null`: it stands.
    pub undone: Option<i64>,
}

/// Why readings were not retracted.
#[derive(Debug, thiserror::Error)]
pub enum RetractError {
    /// The gate is closed.
    #[error(
        "writing is stopped (power is failing, or the agent is starting): ask again when the supply is Good"
    )]
    GateClosed,
    /// The store is not in service.
    #[error("the store is not running: `holdup status` says why")]
    NotRunning,
    /// Another one is being carried out.
    #[error("another retraction is being carried out")]
    Another,
    /// The writer was asked and did not begin; it will not.
    #[error("the store's writer is busy; nothing was done, ask again")]
    NotBegun,
    /// The writer began and did not answer.
    #[error("the store's writer did not answer; `holdup retract --list` shows whether it was done")]
    NotAnswered,
    /// There is nothing to take back.
    #[error(
        "retraction {0} does not stand: it was undone before or never made; `holdup retract --list` shows them"
    )]
    Unknown(i64),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Retraction {
    /// Does it stand, and may readings that `other` names be among its own?
    pub fn covers_some_of(&self, other: &Self) -> bool {
        let ids = self.first_id <= other.last_id && other.first_id <= self.last_id;
        self.undone.is_none()
            && self.seq != other.seq
            && self.sensor_name == other.sensor_name
            && ids
            && !is_before(self.until.as_ref(), other.since.as_ref())
            && !is_before(other.until.as_ref(), self.since.as_ref())
    }
}

/// Surely before? Stamps of different kinds are not compared.
fn is_before(end: Option<&Stamp<String>>, start: Option<&Stamp<String>>) -> bool {
    match (end, start) {
        (Some(Stamp::Int(a)), Some(Stamp::Int(b))) => a < b,
        (Some(Stamp::Real(a)), Some(Stamp::Real(b))) => a < b,
        (Some(Stamp::Text(a)), Some(Stamp::Text(b))) => a < b,
        (Some(Stamp::Int(_) | Stamp::Real(_) | Stamp::Text(_)) | None, _) => false,
    }
}

impl Retract {
    /// Is it something that may be written?
    ///
    /// # Errors
    /// [`RetractError::Invalid`] says what is wrong with it.
    pub fn check(&self) -> Result<(), RetractError> {
        let Self::Mark {
            span,
            found,
            reason,
            actor,
        } = self
        else {
            return Ok(());
        };
        check_reason(reason).map_err(RetractError::Invalid)?;
        check_actor(actor).map_err(RetractError::Invalid)?;
        if found.rows == 0 || found.first_id > found.last_id || span.sensor_name.is_empty() {
            let why = "no reading is meant: name a sensor that has some".to_owned();
            return Err(RetractError::Invalid(why));
        }
        Ok(())
    }
}

/// Is it a reason that may be kept?
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_reason(reason: &str) -> Result<(), String> {
    check_text("a reason", reason, LONGEST_REASON)
}

/// Is it a name that may stand for who asked?
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_actor(name: &str) -> Result<(), String> {
    check_text("a name", name, LONGEST_ACTOR)
}

fn check_text(what: &str, text: &str, longest: usize) -> Result<(), String> {
    let control = text.chars().any(char::is_control);
    if text.trim().is_empty() || text.len() > longest || control {
        return Err(format!(
            "{what} has 1 to {longest} bytes and no control characters"
        ));
    }
    Ok(())
}

fn value(stamp: Option<&Stamp<String>>) -> Value {
    match stamp {
        None => Value::Null,
        Some(Stamp::Int(n)) => Value::Integer(*n),
        Some(Stamp::Real(x)) => Value::Real(*x),
        Some(Stamp::Text(text)) => Value::Text(text.clone()),
    }
}

#[cfg(test)]
mod tests;
