//! How slow something was lately: a histogram that forgets, and the recent maximum.
//!
//! A card's mean says little (50 ms with stalls of 4 s was seen); what counts against a hold-up
//! time is the tail. Buckets are a quarter of an octave wide, from 16 µs to about five minutes.

use std::time::Duration;

const BUCKETS: usize = 96;
const FIRST_NANOS: f64 = 16_000.0;
const PER_OCTAVE: f64 = 4.0;
/// The recent maximum covers this many to twice this many samples.
const RECENT: u32 = 256;
/// At this many samples all counts are halved.
const HALVE_AT: u32 = 20_000;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Tail {
    counts: [u32; BUCKETS],
    total: u32,
    max_now: Duration,
    max_before: Duration,
    since_turn: u32,
    /// A moving average that forgets half in three samples.
    lately: Duration,
}

impl Default for Tail {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
            total: 0,
            max_now: Duration::ZERO,
            max_before: Duration::ZERO,
            since_turn: 0,
            lately: Duration::ZERO,
        }
    }
}

impl Tail {
    /// Adds one measurement.
    pub fn note(&mut self, took: Duration) {
        self.counts[bucket(took)] += 1;
        self.total += 1;
        if self.total >= HALVE_AT {
            self.counts.iter_mut().for_each(|c| *c /= 2);
            self.total = self.counts.iter().sum();
        }
        self.lately = self.lately - self.lately / 4 + took / 4;
        self.since_turn += 1;
        if self.since_turn > RECENT {
            self.since_turn = 1;
            self.max_before = std::mem::take(&mut self.max_now);
        }
        self.max_now = self.max_now.max(took);
    }

    /// Was anything measured?
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The slower of the 99.9th percentile and the recent maximum; zero without measurements.
    pub fn worst(&self) -> Duration {
        self.quantile(0.999).max(self.max_now).max(self.max_before)
    }

    /// What all but one of a hundred measurements stayed under, rounded up to a bucket.
    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    /// The slowest of the last few hundred measurements since the start.
    pub fn recent_max(&self) -> Duration {
        self.max_now.max(self.max_before)
    }

    /// How many measurements it stands on, old ones counting less.
    pub fn count(&self) -> u32 {
        self.total
    }

    /// What half of the measurements stayed under, rounded up to a bucket.
    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    /// A moving average of the last few measurements.
    pub fn lately(&self) -> Duration {
        self.lately
    }

    /// Non-empty buckets, to be kept across restarts.
    pub fn counts(&self) -> impl Iterator<Item = (u8, u32)> + '_ {
        (0u8..).zip(self.counts).filter(|(_, n)| *n > 0)
    }

    /// Takes back what [`Self::counts`] gave.
    pub fn restore(counts: impl IntoIterator<Item = (u8, u32)>) -> Self {
        let mut tail = Self::default();
        for (at, n) in counts {
            if let Some(c) = tail.counts.get_mut(usize::from(at)) {
                *c = n.min(HALVE_AT);
            }
        }
        tail.total = tail.counts.iter().sum();
        tail
    }

    fn quantile(&self, q: f64) -> Duration {
        let rank = f64::from(self.total) * q;
        let mut seen = 0;
        for (at, n) in self.counts.iter().enumerate() {
            seen += n;
            if *n > 0 && f64::from(seen) >= rank {
                return upper(at);
            }
        }
        Duration::ZERO
    }
}

fn bucket(took: Duration) -> usize {
    let octaves = (took.as_nanos().max(1) as f64 / FIRST_NANOS).log2();
    ((octaves * PER_OCTAVE).ceil().max(0.0) as usize).min(BUCKETS - 1)
}

fn upper(bucket: usize) -> Duration {
    Duration::from_nanos((FIRST_NANOS * (bucket as f64 / PER_OCTAVE).exp2()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stall_among_thousands_is_remembered_for_a_while_and_then_forgotten() {
        let mut t = Tail::default();
        (0..5000).for_each(|_| t.note(Duration::from_millis(10)));
        t.note(Duration::from_secs(4));
        assert_eq!(t.worst(), Duration::from_secs(4));
        (0..2 * RECENT).for_each(|_| t.note(Duration::from_millis(10)));
        assert!(t.worst() < Duration::from_millis(13), "{:?}", t.worst());
    }

    #[test]
    fn a_card_that_turned_slow_is_expected_to_be_slow_after_a_few_samples() {
        let mut t = Tail::default();
        (0..5000).for_each(|_| t.note(Duration::from_millis(10)));
        (0..6).for_each(|_| t.note(Duration::from_secs(2)));
        assert!(t.median() < Duration::from_millis(13));
        assert!(t.lately() > Duration::from_secs(1), "{:?}", t.lately());
    }

    #[test]
    fn it_never_says_less_than_was_measured() {
        for ms in [1u64, 3, 7, 50, 999, 60_000] {
            let mut t = Tail::default();
            t.note(Duration::from_millis(ms));
            assert!(t.worst() >= Duration::from_millis(ms));
            assert!(t.median() >= Duration::from_millis(ms));
            assert!(t.median() < Duration::from_millis(ms) * 5 / 4);
        }
    }

    #[test]
    fn what_was_kept_across_a_restart_gives_the_same_tail() {
        let mut t = Tail::default();
        (1..3000).for_each(|k| t.note(Duration::from_micros(k)));
        let again = Tail::restore(t.counts());
        assert_eq!(again.median(), t.median());
    }
}
