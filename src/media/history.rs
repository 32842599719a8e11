//! What is remembered of each medium: since when it is known, its wear, its latency when new, its
//! last verdict.
//!
//! It is told which file to read and what to add; it never writes. A file that cannot be read is
//! nothing remembered.

use serde::{Deserialize, Serialize};

use super::latency::Latency;
use super::verdict::Verdict;
use super::wear::Wear;

const VERSION: u32 = 1;
/// Media that are remembered, and counts of wear of each.
const MEDIA: usize = 8;
const WEARS: usize = 48;
const DAY_MS: i64 = 86_400_000;

/// What is remembered of one medium.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Medium {
    /// What tells it from every other.
    pub id: String,
    /// As people know it.
    pub name: String,
    /// When it was seen first, in milliseconds since 1970.
    pub first_ms: i64,
    /// When it was judged last.
    pub last_ms: i64,
    /// Its last verdict.
    pub verdict: Verdict,
    /// Commit latency when enough commits had been timed for the first time.
    pub base: Option<Latency>,
    /// When what was counted, the oldest first.
    pub wear: Vec<(i64, Wear)>,
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    version: u32,
    /// The one in use is the last.
    media: Vec<Medium>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            version: VERSION,
            media: Vec::new(),
        }
    }
}

/// What a look brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// Another medium than the last time: which, in words.
    pub swapped_from: Option<String>,
    /// The verdict is worse than the last one was.
    pub worse_than: Option<Verdict>,
    /// Something is worth being kept.
    pub changed: bool,
}

/// What a look saw.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// What tells the medium from every other.
    pub id: &'a str,
    /// As people know it.
    pub name: &'a str,
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// The verdict.
    pub verdict: Verdict,
    /// Its count of wear.
    pub wear: Option<Wear>,
    /// What commits took.
    pub latency: Option<Latency>,
}

impl History {
    /// Reads what was kept; nothing remembered where that is not understood.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut history = serde_json::from_slice::<Self>(bytes)
            .ok()
            .filter(|h| h.version == VERSION)
            .unwrap_or_default();
        history.trim();
        history
    }

    /// What is to be kept.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What is known of the medium `id`.
    pub fn of(&self, id: &str) -> Option<&Medium> {
        self.media.iter().find(|m| m.id == id)
    }

    /// The medium that was in use last.
    pub fn last(&self) -> Option<&Medium> {
        self.media.last()
    }

    /// Another medium than `id` was in use last: which, in words.
    pub fn swapped_from(&self, id: &str) -> Option<String> {
        self.last().filter(|m| m.id != id).map(|m| m.name.clone())
    }

    /// Adds what was seen.
    pub fn note(&mut self, seen: Seen<'_>) -> News {
        let mut news = News {
            swapped_from: self.swapped_from(seen.id),
            ..News::default()
        };
        let known = self.media.iter().position(|m| m.id == seen.id);
        let mut medium = known.map_or_else(
            || Medium {
                id: seen.id.to_owned(),
                name: seen.name.to_owned(),
                first_ms: seen.now_ms,
                ..Medium::default()
            },
            |at| self.media.remove(at),
        );
        if known.is_none() || news.swapped_from.is_some() {
            news.changed = true;
        }
        if medium.verdict != seen.verdict {
            news.changed = true;
            let before = medium.verdict;
            news.worse_than = seen.verdict.is_worse_than(before).then_some(before);
        }
        medium.verdict = seen.verdict;
        medium.last_ms = seen.now_ms;
        if let (None, Some(latency)) = (medium.base, seen.latency.filter(Latency::is_enough)) {
            medium.base = Some(latency);
            news.changed = true;
        }
        if let Some(wear) = seen.wear {
            let last = medium.wear.last();
            let due =
                last.is_none_or(|(at, w)| *w != wear && seen.now_ms.saturating_sub(*at) >= DAY_MS);
            if due {
                medium.wear.push((seen.now_ms, wear));
                news.changed = true;
            }
        }
        self.media.push(medium);
        self.trim();
        news
    }

    fn trim(&mut self) {
        if self.media.len() > MEDIA {
            self.media.drain(..self.media.len() - MEDIA);
        }
        for m in &mut self.media {
            if m.wear.len() > WEARS {
                // The first stays: it is the longest look back.
                m.wear.drain(1..=m.wear.len() - WEARS);
            }
        }
    }
}

impl Medium {
    /// The oldest count of wear and how many days ago it was taken.
    pub fn wear_before(&self, now_ms: i64) -> Option<(Wear, f64)> {
        let (at, wear) = self.wear.first()?;
        let days = now_ms.saturating_sub(*at) as f64 / DAY_MS as f64;
        (days > 0.0).then_some((*wear, days))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: &'static str, verdict: Verdict) -> Seen<'static> {
        Seen {
            id,
            name: id,
            now_ms: 1_767_225_600_000,
            verdict,
            wear: None,
            latency: None,
        }
    }

    #[test]
    fn another_card_than_the_last_time_is_noticed_also_after_a_restart() {
        let mut history = History::default();
        assert_eq!(
            history.note(seen("card-a", Verdict::Unknown)).swapped_from,
            None
        );
        let mut history = History::parse(&history.to_json());
        assert!(
            !history.note(seen("card-a", Verdict::Unknown)).changed,
            "nothing to write"
        );
        let news = history.note(seen("card-b", Verdict::Unknown));
        assert_eq!(news.swapped_from.as_deref(), Some("card-a"));
        let news = history.note(seen("card-a", Verdict::Unknown));
        assert_eq!(news.swapped_from.as_deref(), Some("card-b"), "put back");
    }

    #[test]
    fn a_verdict_is_compared_with_the_same_cards_last_one_only() {
        let mut history = History::default();
        history.note(seen("card-a", Verdict::ReplaceSoon));
        let news = history.note(seen("card-b", Verdict::Unknown));
        assert_eq!(news.worse_than, None);
        let news = history.note(seen("card-b", Verdict::Watch));
        assert_eq!(news.worse_than, Some(Verdict::Unknown));
        assert_eq!(
            history.note(seen("card-b", Verdict::Watch)).worse_than,
            None,
            "told once"
        );
        let news = history.note(seen("card-a", Verdict::ReplaceSoon));
        assert_eq!(news.worse_than, None, "known of it");
    }

    #[test]
    fn what_is_remembered_stays_small() {
        let mut history = History::default();
        for n in 0..200i64 {
            let id = format!("card-{}", n % 20);
            history.note(Seen {
                id: &id,
                now_ms: n * 2 * DAY_MS,
                wear: Some(Wear::percent(u8::try_from(n / 2).expect("small"))),
                ..seen("", Verdict::Unknown)
            });
        }
        assert_eq!(history.media.len(), MEDIA);
        for n in 0..200i64 {
            history.note(Seen {
                now_ms: n * 2 * DAY_MS,
                wear: Some(Wear::percent(u8::try_from(n / 2).expect("small"))),
                ..seen("one", Verdict::Unknown)
            });
        }
        let one = history.of("one").expect("known");
        assert_eq!(one.wear.len(), WEARS);
        assert_eq!(one.wear[0].1, Wear::percent(0), "the longest look back");
    }

    #[test]
    fn a_file_that_is_not_understood_is_nothing_remembered() {
        for bytes in [
            &b""[..],
            b"{",
            b"[]",
            br#"{"version":9,"media":[]}"#,
            &[0xff; 64],
        ] {
            assert_eq!(History::parse(bytes), History::default());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_read_without_a_panic(bytes: Vec<u8>, ms: i64, first: i64) {
            let mut history = History::parse(&bytes);
            history.note(Seen { now_ms: first, wear: Some(Wear::percent(1)), ..seen("a", Verdict::Good) });
            let other = seen("a", Verdict::Watch);
            if first.checked_sub(ms).is_some() {
                history.note(Seen { now_ms: ms, wear: Some(Wear::percent(2)), ..other });
            }
            if let Some(m) = history.of("a") {
                m.wear_before(ms);
            }
        }
    }
}
