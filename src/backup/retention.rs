//! Which backups may go: a pure rule.
//!
//! It promises that the last verified backup never goes, whatever the rule, the clock and the
//! pressure say, and that one which was never verified counts for nothing. It must never judge by
//! the wall clock alone: that of a gateway may stand in the past.

use crate::clock::Wall;

/// A day in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// One backup, as the rule sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// When it was made, by the clock of then.
    pub made: Wall,
    /// Which entry the audit log stood at: this only counts up. `None`: not known.
    pub sequence: Option<i64>,
    /// Was it decrypted again after it was written?
    pub verified: bool,
    /// Its size.
    pub bytes: u64,
}

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// So many verified ones.
    pub last: usize,
    /// All that are younger, in days.
    pub days: u32,
}

/// The backups that the rule lets go, as places in `all`, oldest first.
pub fn due(all: &[Kept], rule: Rule, now: Wall) -> Vec<usize> {
    let order = oldest_first(all);
    let verified: Vec<_> = order.iter().filter(|i| all[**i].verified).collect();
    // What was never verified is all there may be.
    if verified.is_empty() {
        return Vec::new();
    }
    let by_number = verified.len().saturating_sub(rule.last.max(1));
    let beyond = &verified[..by_number];
    let age = i64::from(rule.days).saturating_mul(DAY_MS);
    order
        .iter()
        .filter(|i| {
            let one = &all[**i];
            // One that was made in the future is young: the clock was set back.
            let old = now.as_millis().saturating_sub(one.made.as_millis()) > age;
            let beyond = !one.verified || beyond.contains(i);
            old && beyond && !is_last(all, **i)
        })
        .copied()
        .collect()
}

/// The backups that go to make `wanted` bytes of room, as places in `all`: first those that do not
/// count, then the oldest. May come to less than is wanted.
pub fn squeezed(all: &[Kept], wanted: u64) -> Vec<usize> {
    if !all.iter().any(|k| k.verified) {
        return Vec::new();
    }
    let mut order = oldest_first(all);
    order.sort_by_key(|i| all[*i].verified);
    let mut freed = 0u64;
    let mut go = Vec::new();
    for i in order {
        if freed >= wanted {
            break;
        }
        if !is_last(all, i) {
            freed = freed.saturating_add(all[i].bytes);
            go.push(i);
        }
    }
    go
}

/// Is it the last verified one, by any way to tell?
fn is_last(all: &[Kept], i: usize) -> bool {
    let verified = || (0..all.len()).filter(|i| all[*i].verified);
    let by_time = verified().max_by_key(|i| (all[*i].made, *i));
    let by_sequence = verified()
        .filter(|i| all[*i].sequence.is_some())
        .max_by_key(|i| (all[*i].sequence, *i));
    let by_order = oldest_first(all).into_iter().rfind(|i| all[*i].verified);
    [by_time, by_sequence, by_order].contains(&Some(i))
}

/// By the audit log where all know their place in it, else by time.
fn oldest_first(all: &[Kept]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    if all.iter().all(|k| k.sequence.is_some()) {
        order.sort_by_key(|i| (all[*i].sequence, all[*i].made));
    } else {
        order.sort_by_key(|i| (all[*i].made, all[*i].sequence));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(day: i64, verified: bool) -> Kept {
        Kept {
            made: Wall::from_millis(day * DAY_MS),
            sequence: Some(day),
            verified,
            bytes: 100,
        }
    }

    const RULE: Rule = Rule { last: 2, days: 30 };

    #[test]
    fn the_old_go_but_for_the_last_few_verified_ones() {
        let all: Vec<_> = (0..6).map(|n| kept(n * 10, n != 3 && n != 5)).collect();
        // On day 100: 50 is not verified, so 40 and 20 are the last two.
        let now = Wall::from_millis(100 * DAY_MS);
        assert_eq!(due(&all, RULE, now), [0, 1, 3, 5]);
        // On day 35 only what is older than day 5.
        assert_eq!(due(&all, RULE, Wall::from_millis(35 * DAY_MS)), [0]);
    }

    #[test]
    fn a_clock_that_was_set_back_costs_no_backup() {
        let all: Vec<_> = (0..4).map(|n| kept(1000 + n, true)).collect();
        assert!(due(&all, RULE, Wall::from_millis(0)).is_empty());
        // Made when the clock stood in 1970, and last by the log: it stays.
        let mut all = all;
        all.push(Kept {
            made: Wall::from_millis(5),
            sequence: Some(2000),
            ..kept(0, true)
        });
        let gone = due(
            &all,
            Rule { last: 1, days: 0 },
            Wall::from_millis(1001 * DAY_MS),
        );
        assert!(!gone.contains(&4), "{gone:?}");
    }

    #[test]
    fn on_a_full_disk_what_does_not_count_goes_first() {
        let all = [kept(1, true), kept(2, false), kept(3, true), kept(4, false)];
        assert_eq!(squeezed(&all, 150), [1, 3]);
        assert_eq!(squeezed(&all, 250), [1, 3, 0]);
        assert_eq!(
            squeezed(&all, 10_000),
            [1, 3, 0],
            "the last verified one stays"
        );
    }

    fn any_kept() -> impl Strategy<Value = Kept> {
        (
            -5i64..40,
            proptest::option::of(0i64..40),
            any::<bool>(),
            0u64..1000,
        )
            .prop_map(|(day, sequence, verified, bytes)| Kept {
                made: Wall::from_millis(day * DAY_MS),
                sequence,
                verified,
                bytes,
            })
    }

    proptest! {
        #[test]
        fn the_last_verified_backup_is_never_pruned(
            all in proptest::collection::vec(any_kept(), 0..12),
            last in 0usize..5,
            days in 0u32..40,
            now in -50i64..100,
            wanted in 0u64..20_000,
        ) {
            let now = Wall::from_millis(now * DAY_MS);
            for gone in [due(&all, Rule { last, days }, now), squeezed(&all, wanted)] {
                let stays = |i: &usize| !gone.contains(i);
                let verified: Vec<_> = (0..all.len()).filter(|i| all[*i].verified).collect();
                if verified.is_empty() {
                    prop_assert!(gone.is_empty());
                } else {
                    let newest = verified.iter().map(|i| all[*i].made).max();
                    prop_assert!(verified.iter().any(|i| Some(all[*i].made) == newest && stays(i)));
                    let highest = verified.iter().filter_map(|i| all[*i].sequence).max();
                    let kept = verified.iter().any(|i| all[*i].sequence == highest && stays(i));
                    prop_assert!(highest.is_none() || kept);
                }
                let mut once = gone.clone();
                once.dedup();
                prop_assert_eq!(once.len(), gone.len());
            }
        }

        #[test]
        fn the_young_and_the_last_few_stay(
            all in proptest::collection::vec(any_kept(), 0..12),
            last in 1usize..5,
            days in 0u32..40,
        ) {
            let now = Wall::from_millis(20 * DAY_MS);
            let gone = due(&all, Rule { last, days }, now);
            for i in &gone {
                let age = now.as_millis() - all[*i].made.as_millis();
                prop_assert!(age > i64::from(days) * DAY_MS);
            }
            let verified = all.iter().filter(|k| k.verified).count();
            let left = (0..all.len()).filter(|i| all[*i].verified && !gone.contains(i)).count();
            prop_assert!(left >= verified.min(last));
        }
    }
}
