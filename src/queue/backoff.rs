//! When a message is tried again, and when it is too old: pure functions of time and chance.
//!
//! Full jitter: the n-th retry comes at a random instant between now and `min * 2^(n-1)`, never
//! later than `max`. Gateways that lost the same broker do not come back all at once.

use std::time::Duration;

/// A small generator (splitmix64): good enough to spread retries, the same for the same seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Throws the same from the same `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded from the kernel; early in a boot, where that would wait, from `fallback`.
    pub fn from_kernel(fallback: u64) -> Self {
        let mut seed = [0u8; 8];
        match rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::NONBLOCK) {
            Ok(8) => Self(u64::from_le_bytes(seed)),
            Ok(_) | Err(_) => Self(fallback),
        }
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 0 and `most`, both included.
    fn upto(&mut self, most: u64) -> u64 {
        // The high half of the product: no division, and a bias far below what anyone could see.
        let wide = u128::from(self.next()) * (u128::from(most) + 1);
        u64::try_from(wide >> 64).unwrap_or(most)
    }
}

/// The latest that the `retry`-th retry may come, from 1: `min` doubled for each one before, at
/// most `max`.
pub fn ceiling(retry: u64, min: Duration, max: Duration) -> Duration {
    let doublings = u32::try_from(retry.saturating_sub(1)).unwrap_or(u32::MAX);
    // 2^63 ms is longer than anybody waits.
    let factor = 1u64.checked_shl(doublings.min(62)).unwrap_or(u64::MAX);
    let ms = millis(min).saturating_mul(factor).min(millis(max));
    Duration::from_millis(ms)
}

/// How long to wait before the `retry`-th retry, from 1.
pub fn delay(retry: u64, min: Duration, max: Duration, dice: &mut Dice) -> Duration {
    Duration::from_millis(dice.upto(millis(ceiling(retry, min, max))))
}

/// When a message of `created` (ms since 1970) and `ttl_s` dies, in ms since 1970; `None`: never.
/// Without a known birth it has no age.
pub fn expires_at(created: Option<i64>, ttl_s: Option<i64>) -> Option<i64> {
    let at = i128::from(created?) + i128::from(ttl_s?.max(0)) * 1000;
    // Beyond the end of time it lives for ever.
    i64::try_from(at).ok()
}

/// Is a message that waits until `next_retry` due at `now` (ms since 1970)? A wait longer than
/// `longest` was not set by this clock: somebody put it back, and the message is due.
pub fn is_due(next_retry: Option<i64>, now: i64, longest: Duration) -> bool {
    let longest = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
    next_retry.is_none_or(|at| at <= now || at > now.saturating_add(longest))
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// What was seen since the last confirmation; all times in ms since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Struggle {
    /// Failed attempts since the last confirmation.
    pub fails: u64,
    /// The first of them.
    pub first_fail: i64,
    /// The last of them.
    pub last_fail: i64,
    /// Items at the first of them.
    pub depth_then: u64,
}

/// This long without a confirmation, while attempts fail and the queue grows, is a retry loop.
pub const LOOP_AFTER: Duration = Duration::from_secs(600);

impl Struggle {
    /// An attempt failed at `now` with `depth` items in the queue.
    #[must_use]
    pub fn failed(self, now: i64, depth: u64) -> Self {
        if self.fails == 0 {
            return Self {
                fails: 1,
                first_fail: now,
                last_fail: now,
                depth_then: depth,
            };
        }
        Self {
            fails: self.fails.saturating_add(1),
            last_fail: now,
            ..self
        }
    }

    /// For how long attempts have failed without one confirmation while the queue grew to `depth`;
    /// `None` when that is no loop.
    pub fn looping(&self, depth: u64) -> Option<Duration> {
        let lasted = self.last_fail.saturating_sub(self.first_fail);
        let lasted = Duration::from_millis(u64::try_from(lasted).unwrap_or(0));
        (self.fails > 1 && depth > self.depth_then && lasted >= LOOP_AFTER).then_some(lasted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_retry_never_comes_later_than_its_ceiling_nor_than_max(
            retry in 0u64..=u64::MAX, min in 1u64..3_600_000, max in 1u64..86_400_000, seed: u64,
        ) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
            let mut dice = Dice::new(seed);
            let top = ceiling(retry, min, max);
            prop_assert!(top <= max);
            for _ in 0..16 {
                prop_assert!(delay(retry, min, max, &mut dice) <= top);
            }
            prop_assert!(ceiling(retry, min, max) <= ceiling(retry.saturating_add(1), min, max));
            if retry == 2 {
                prop_assert_eq!(top, (min * 2).min(max));
            }
        }

        #[test]
        fn the_jitter_is_full(seed: u64) {
            let (min, max) = (Duration::from_secs(1), Duration::from_secs(64));
            let mut dice = Dice::new(seed);
            let all: Vec<_> = (0..400).map(|_| delay(7, min, max, &mut dice)).collect();
            let part = |from: u64, upto: u64| {
                all.iter().filter(|d| (from..upto).contains(&d.as_secs())).count()
            };
            // A quarter each, give or take far more than chance does.
            for quarter in 0..4 {
                let n = part(quarter * 16, quarter * 16 + 16);
                prop_assert!((50..150).contains(&n), "{n} of 400 in quarter {quarter}");
            }
        }

        #[test]
        fn a_message_dies_at_its_age_and_not_before(created: i64, ttl in 0i64..i64::MAX, now: i64) {
            let dead = expires_at(Some(created), Some(ttl)).is_some_and(|at| at <= now);
            let age_ms = i128::from(now) - i128::from(created);
            prop_assert_eq!(dead, age_ms >= i128::from(ttl) * 1000);
            prop_assert_eq!(expires_at(None, Some(ttl)), None);
            prop_assert_eq!(expires_at(Some(created), None), None);
        }

        #[test]
        fn no_clock_hides_a_message_for_longer_than_the_longest_wait(at: i64, now in 0i64..1 << 52) {
            let longest = Duration::from_secs(300);
            let hidden = !is_due(Some(at), now, longest);
            prop_assert_eq!(hidden, at > now && at <= now + 300_000);
            prop_assert!(is_due(None, now, longest));
        }
    }

    #[test]
    fn a_loop_is_failing_for_long_while_the_queue_grows() {
        let mut s = Struggle::default().failed(1_000, 5);
        assert_eq!(s.looping(9), None);
        s = s.failed(1_000 + 600_000, 9);
        assert_eq!(s.looping(9), Some(LOOP_AFTER));
        assert_eq!(s.looping(5), None, "it does not grow");
        assert_eq!(Struggle::default().failed(1, 1).looping(2), None);
    }
}
