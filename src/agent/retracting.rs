//! Retracting readings of a bad source: what the audit log says of it, and how it is done while no
//! agent runs.
//!
//! It promises that the entry is durable before the store is touched: a retraction can wait. It
//! must never open a store that something is off about.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::Settings;
use crate::recovery::{RecoveryError, fault_of};
use crate::store::{
    Found, REMEDY, Retract, RetractError, Span, check_actor, check_reason, retract_alone, suspicion,
};

use super::by_hand::ByHand;
use super::explain;

/// What the entry gets.
const BEFORE: Duration = Duration::from_secs(10);
/// Said where it is not durable by then.
pub(super) const NOT_AUDITED: &str =
    "the audit log cannot be written (`holdup audit verify` says more): nothing was done";

/// A retraction that was asked for, or its undoing.
#[derive(Debug, Clone)]
pub struct Retracting {
    pub(super) what: Retract,
    pub(super) actor: String,
    reason: String,
}

/// Why nothing was retracted by hand.
#[derive(Debug, thiserror::Error)]
pub enum RetractingError {
    /// Its entry in the audit log is not durable.
    #[error("{NOT_AUDITED}")]
    NotAudited,
    /// The store's files are not what they should be.
    #[error("the store is damaged ({0}): {REMEDY}")]
    Damaged(String),
    /// They cannot be looked at.
    #[error(transparent)]
    Look(#[from] RecoveryError),
    /// It was not done.
    #[error(transparent)]
    Retract(#[from] RetractError),
}

impl Retracting {
    /// Readings of `span`, of which `found` are there.
    pub fn mark(span: Span, found: Found, reason: String, actor: String) -> Self {
        let what = Retract::Mark {
            span,
            found,
            reason: reason.clone(),
            actor: actor.clone(),
        };
        Self {
            what,
            actor,
            reason,
        }
    }

    /// Taking back the retraction `seq`.
    pub fn undo(seq: i64, reason: String, actor: String) -> Self {
        Self {
            what: Retract::Undo { seq },
            actor,
            reason,
        }
    }

    pub(super) fn check(&self) -> Result<(), RetractError> {
        check_reason(&self.reason).map_err(RetractError::Invalid)?;
        check_actor(&self.actor).map_err(RetractError::Invalid)?;
        self.what.check()
    }

    pub(super) fn action(&self) -> &'static str {
        match self.what {
            Retract::Mark { .. } => "retract",
            Retract::Undo { .. } => "retract.undo",
        }
    }

    /// For the first entry.
    pub(super) fn details(&self) -> Value {
        match &self.what {
            Retract::Mark { span, found, .. } => json!({
                "sensor": span.sensor_name,
                "since": span.since,
                "until": span.until,
                "rows": found.rows,
                "first_id": found.first_id,
                "last_id": found.last_id,
                "reason": self.reason,
            }),
            Retract::Undo { seq } => json!({ "seq": seq, "reason": self.reason }),
        }
    }

    /// For the last one.
    pub(super) fn outcome(&self, seq: i64) -> Value {
        match &self.what {
            Retract::Mark { found, .. } => json!({ "seq": seq, "rows": found.rows }),
            Retract::Undo { .. } => json!({ "seq": seq }),
        }
    }
}

/// Is there anything off about the store, which no agent has open?
///
/// # Errors
/// [`RetractingError::Damaged`], or it cannot be looked at. A store that is missing is sound.
pub fn store_is_sound(settings: &Settings) -> Result<(), RetractingError> {
    let path = settings.gateway.store_path();
    if suspicion(&path).exists() {
        let why = "the agent found it damaged while it served".to_owned();
        return Err(RetractingError::Damaged(why));
    }
    match fault_of(&path) {
        Ok(None) | Err(RecoveryError::Nothing(_)) => Ok(()),
        Ok(Some(why)) => Err(RetractingError::Damaged(why)),
        Err(e) => Err(e.into()),
    }
}

impl ByHand {
    /// Retracts readings, or takes that back; the retraction's number.
    ///
    /// # Errors
    /// Nothing was done.
    pub fn retract(&self, settings: &Settings, case: &Retracting) -> Result<i64, RetractingError> {
        case.check()?;
        store_is_sound(settings)?;
        let begun = self
            .audit()
            .begin(case.action(), &case.actor, case.details(), BEFORE);
        let entry = match begun {
            Ok(entry) => entry,
            Err(late) => {
                log::warn!("{}", explain(&late));
                self.audit().end(&late.entry, "refused", Value::Null);
                return Err(RetractingError::NotAudited);
            }
        };
        let path = settings.gateway.store_path();
        let done = retract_alone(&path, &self.medium, &self.gate, &*self.clock, &case.what);
        Ok(self.ended(&entry, done, |seq| case.outcome(*seq))?)
    }
}
