//! One entry, its canonical form and its hash. See the room's text.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::clock::Clock;

/// The canonical form's name and version: its first field.
const FORM: &str = "holdup-audit-1";
/// What the first entry, and one that names a break, is chained to.
pub(super) const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The action of an entry that names a break.
pub(super) const BREAK: &str = "audit.break";
/// Bytes of actor and of action.
const NAME: usize = 64;
/// Bytes of the details. With them an entry fits one page of the file, so that each page can be
/// salvaged alone.
const DETAILS: usize = 3000;

/// Sequence and hash of an entry: all that somebody outside needs to see a cut tail later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The entry's place, from 1.
    pub sequence: i64,
    /// Its hash, in hex.
    pub hash: String,
}

/// One entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place, from 1.
    pub sequence: i64,
    /// When, RFC 3339 in UTC.
    pub wall: String,
    /// Milliseconds since boot.
    pub mono_ms: i64,
    /// Which boot.
    pub boot: String,
    /// A time server had set the wall clock.
    pub synchronised: bool,
    /// Who did it.
    pub actor: String,
    /// What.
    pub action: String,
    /// More, as a JSON text.
    pub details: String,
    /// The hash of the entry before.
    pub previous: String,
    /// Its own hash.
    pub hash: String,
}

impl Record {
    /// The hash that its fields have.
    pub(super) fn digest(&self) -> String {
        digest(&[
            &self.sequence.to_string(),
            &self.wall,
            &self.mono_ms.to_string(),
            &self.boot,
            if self.synchronised { "1" } else { "0" },
            &self.actor,
            &self.action,
            &self.details,
            &self.previous,
        ])
    }

    /// For programs; the details as JSON where they are.
    pub fn to_json(&self) -> Value {
        let details: Value =
            serde_json::from_str(&self.details).unwrap_or_else(|_| self.details.clone().into());
        json!({
            "sequence": self.sequence,
            "wall": self.wall,
            "mono_ms": self.mono_ms,
            "boot": self.boot,
            "synchronised": self.synchronised,
            "actor": self.actor,
            "action": self.action,
            "details": details,
            "previous": self.previous,
            "hash": self.hash,
        })
    }
}

/// SHA-256, in hex, over the canonical form of the fields from sequence to previous.
pub(super) fn digest(fields: &[&str; 9]) -> String {
    let mut form = Sha256::new();
    for field in [FORM].iter().chain(fields) {
        form.update(format!("{}:", field.len()));
        form.update(field);
        form.update(",");
    }
    let mut text = String::with_capacity(64);
    for byte in form.finalize() {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

/// An entry that has no place yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Draft {
    pub(super) wall: String,
    pub(super) mono_ms: i64,
    pub(super) boot: String,
    pub(super) synchronised: bool,
    pub(super) actor: String,
    pub(super) action: String,
    pub(super) details: String,
    /// Not entered where the last entry of this action had the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
}

impl Draft {
    pub(super) fn new(
        clock: &dyn Clock,
        boot: &str,
        actor: &str,
        action: &str,
        details: Value,
        key: Option<String>,
    ) -> Self {
        let details = match details {
            Value::Null => json!({}),
            other @ (Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_)) => other,
        };
        Self {
            wall: clock.wall().to_string(),
            mono_ms: i64::try_from(clock.mono().as_nanos() / 1_000_000).unwrap_or(i64::MAX),
            boot: boot.to_owned(),
            synchronised: clock.is_synchronised(),
            actor: actor.to_owned(),
            action: action.to_owned(),
            details: details.to_string(),
            key,
        }
        .bounded()
    }

    /// The same, no longer than an entry may be. What comes from the spool is bounded again.
    pub(super) fn bounded(mut self) -> Self {
        for name in [
            &mut self.wall,
            &mut self.boot,
            &mut self.actor,
            &mut self.action,
        ] {
            *name = name.replace(char::is_control, "?");
            cut(name, NAME);
        }
        if let Some(key) = &mut self.key {
            cut(key, NAME * 2);
        }
        if self.details.len() > DETAILS {
            let bytes = self.details.len();
            // A character may take six bytes as JSON.
            cut(&mut self.details, DETAILS / 8);
            self.details = json!({ "too_long": bytes, "starts": self.details }).to_string();
        }
        self
    }

    /// With its place in the chain.
    pub(super) fn at(&self, sequence: i64, previous: &str) -> Record {
        let draft = self.clone();
        let mut record = Record {
            sequence,
            wall: draft.wall,
            mono_ms: draft.mono_ms,
            boot: draft.boot,
            synchronised: draft.synchronised,
            actor: draft.actor,
            action: draft.action,
            details: draft.details,
            previous: previous.to_owned(),
            hash: String::new(),
        };
        record.hash = record.digest();
        record
    }
}

fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|n| text.is_char_boundary(*n));
        text.truncate(end.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn draft(actor: &str, details: Value) -> Draft {
        Draft::new(&ManualClock::new(), "boot", actor, "test", details, None)
    }

    #[test]
    fn the_form_is_what_the_text_says() {
        let record = draft("ä", json!({"a": 1})).at(7, NOTHING);
        let form = format!(
            "14:holdup-audit-1,1:7,24:2026-01-01T00:00:00.000Z,7:3600000,4:boot,1:1,2:ä,4:test,7:{{\"a\":1}},64:{NOTHING},"
        );
        let hash = Sha256::digest(form);
        let hex: String = hash.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(record.hash, hex);
    }

    #[test]
    fn no_field_can_take_a_byte_from_its_neighbour() {
        let one = digest(&["1", "w", "2", "b", "1", "ab", "c", "{}", NOTHING]);
        let other = digest(&["1", "w", "2", "b", "1", "a", "bc", "{}", NOTHING]);
        assert_ne!(one, other);
    }

    #[test]
    fn an_entry_never_outgrows_its_page() {
        let long = draft(
            &"\u{1F600}\n".repeat(500),
            json!({ "t": "\u{7}".repeat(90_000) }),
        );
        assert!(long.actor.len() <= NAME && !long.actor.contains('\n'));
        assert!(long.details.len() <= DETAILS, "{}", long.details.len());
        let details: Value = serde_json::from_str(&long.details).expect("still JSON");
        assert!(details["too_long"].as_u64() > Some(90_000));
    }
}
