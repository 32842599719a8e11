//! Messages and their ids.
//!
//! A reading's message id is `GATEWAY/EPOCH/ID`: the gateway's name, the store's random epoch in 16
//! hex digits, and the reading's id in 19 decimal digits with leading zeros, such as
//! `plant-7/00f3a91c5be20d47/0000000000000000042`. No other reading ever has it, a repeat has the
//! same, and ids of one store sort as text in the order of its readings.

use std::time::Duration;

use rusqlite::types::ValueRef;
use serde_json::{Map, Value, json};

use crate::clock::Wall;

/// Decimal digits of the largest reading id.
const DIGITS: usize = 19;

/// Names the readings of one store: gateway and epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The gateway as it was named when this store was first fed from.
    pub gateway: String,
    /// The store's epoch.
    pub epoch: u64,
}

impl Origin {
    /// What every id of this store begins with.
    pub fn prefix(&self) -> String {
        format!("{}/{:016x}/", self.gateway, self.epoch)
    }

    /// The message id of reading `id`.
    pub fn message_id(&self, id: i64) -> String {
        format!("{}{:0DIGITS$}", self.prefix(), id.max(0))
    }
}

/// Gateway, epoch and reading id, where a message id is of that form.
pub fn parse(message_id: &str) -> Option<(Origin, i64)> {
    let (front, id) = message_id.rsplit_once('/')?;
    let (gateway, epoch) = front.rsplit_once('/')?;
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_hexdigit());
    if gateway.is_empty() || !digits(epoch, 16) || !digits(id, DIGITS) {
        return None;
    }
    let origin = Origin {
        gateway: gateway.to_owned(),
        epoch: u64::from_str_radix(epoch, 16).ok()?,
    };
    Some((origin, id.parse().ok()?))
}

/// A message to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Its id; a second message under it is not stored.
    pub message_id: String,
    /// What is sent.
    pub payload: Vec<u8>,
    /// Higher goes first.
    pub priority: i64,
    /// When it came into being.
    pub created_at: Wall,
    /// How long it is worth sending; `None`: for ever.
    pub ttl: Option<Duration>,
}

/// What became of a message that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It is in the queue.
    Added,
    /// Its id was there already, waiting or dead.
    Duplicate,
    /// The queue is full and keeps what it has.
    Rejected,
}

/// A message that was leased: it is shown to nobody else until the lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// Its row, for `confirm` and `fail`.
    pub id: i64,
    /// Its id for the other side, the same at every attempt.
    pub message_id: String,
    /// What is sent.
    pub payload: Vec<u8>,
    /// Higher goes first.
    pub priority: i64,
    /// Failed attempts so far.
    pub retry_count: u64,
}

/// A reading as a message: what the sender gave, one JSON object.
pub(super) fn payload(columns: &[(&str, ValueRef<'_>)]) -> Vec<u8> {
    let mut object = Map::new();
    for (name, value) in columns {
        let value = match (*name, value) {
            (_, ValueRef::Null) => continue,
            // Kept as text in the store, sent as what it is.
            ("metadata", ValueRef::Text(t)) => {
                serde_json::from_slice(t).unwrap_or_else(|_| text(t))
            }
            (_, ValueRef::Integer(n)) => json!(n),
            (_, ValueRef::Real(x)) => json!(x),
            (_, ValueRef::Text(t) | ValueRef::Blob(t)) => text(t),
        };
        object.insert((*name).to_owned(), value);
    }
    Value::Object(object).to_string().into_bytes()
}

fn text(bytes: &[u8]) -> Value {
    Value::String(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_names_one_reading_of_one_store_and_sorts_in_its_order(
            gateway in "[a-z0-9 .-]{1,64}", epochs: (u64, u64), a in 1i64.., b in 1i64..,
        ) {
            let origin = |epoch| Origin { gateway: gateway.clone(), epoch };
            let one = origin(epochs.0);
            prop_assert_eq!(parse(&one.message_id(a)), Some((one.clone(), a)));
            prop_assert_eq!(one.message_id(a).cmp(&one.message_id(b)), a.cmp(&b));
            let same = (epochs.0, a) == (epochs.1, b);
            prop_assert_eq!(one.message_id(a) == origin(epochs.1).message_id(b), same);
        }

        #[test]
        fn any_text_is_parsed_or_not_and_never_panics(text: String) {
            prop_assert!(parse(&text).is_none_or(|(o, id)| o.message_id(id).len() == text.len()));
        }
    }

    #[test]
    fn a_reading_is_sent_as_its_sender_wrote_it() {
        let sent = payload(&[
            ("sensor_name", ValueRef::Text(b"boiler")),
            ("timestamp", ValueRef::Integer(7)),
            ("value", ValueRef::Real(2.5)),
            ("unit", ValueRef::Null),
            ("metadata", ValueRef::Text(br#"{"loop":2}"#)),
        ]);
        let sent: Value = serde_json::from_slice(&sent).expect("json");
        assert_eq!(
            sent,
            json!({"sensor_name":"boiler","timestamp":7,"value":2.5,"metadata":{"loop":2}})
        );
    }
}
