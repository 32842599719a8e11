//! How long our own commits take on this card, against how long they took when it was new to us.
//!
//! The agent times every commit anyway; nothing is read for it. A slow card is not a dying card:
//! drift asks for a closer look, no more.

use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, Says};

const SOURCE: &str = "commit latency (own writes)";
/// Fewer commits say nothing of a tail.
const ENOUGH: u64 = 200;
/// Slower by this factor in the middle and at the tail is drift.
const DRIFT: u64 = 3;
/// A commit longer than this stalled.
const STALL_US: u64 = 2_000_000;

/// What commits took, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Half took less.
    pub p50_us: u64,
    /// All but one of a hundred took less.
    pub p99_us: u64,
    /// The slowest of the last few hundred.
    pub max_us: u64,
    /// How many were timed.
    pub commits: u64,
}

impl Latency {
    /// Is it enough to be compared with, or to compare?
    pub const fn is_enough(&self) -> bool {
        self.commits >= ENOUGH
    }
}

/// What it bears; `now`: of the running agent, `base`: of this card when it was first known well.
pub(super) fn evidence(now: Option<Latency>, base: Option<Latency>) -> Evidence {
    let Some(now) = now else {
        return Evidence::unknown(SOURCE, "no agent runs that would know");
    };
    if !now.is_enough() {
        let why = format!("{} commits were timed, {ENOUGH} are needed", now.commits);
        return Evidence::unknown(SOURCE, why);
    }
    let ms = |us: u64| us as f64 / 1000.0;
    let mut value = format!(
        "p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms of late",
        ms(now.p50_us),
        ms(now.p99_us),
        ms(now.max_us)
    );
    let remedy = "look at `holdup power` for what that does to the plan; have a spare card";
    let drifted = base.is_some_and(|b| {
        let slower = |now: u64, then: u64| then > 0 && now >= then.saturating_mul(DRIFT);
        b.is_enough() && slower(now.p50_us, b.p50_us) && slower(now.p99_us, b.p99_us)
    });
    if let Some(b) = base.filter(Latency::is_enough) {
        value.push_str(&format!(
            "; at first p50 {:.1} ms, p99 {:.1} ms",
            ms(b.p50_us),
            ms(b.p99_us)
        ));
    }
    if drifted || now.max_us >= STALL_US {
        let mut told = Evidence::card(SOURCE, Says::Watch, value).remedy(remedy);
        told.doubtful = true;
        return told;
    }
    Evidence::card(SOURCE, Says::Note, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(p50_us: u64, p99_us: u64) -> Latency {
        Latency {
            p50_us,
            p99_us,
            max_us: p99_us,
            commits: 1000,
        }
    }

    #[test]
    fn a_card_that_got_slower_throughout_is_watched_and_one_slow_commit_is_not() {
        let base = Some(took(5_000, 20_000));
        let says = |now| evidence(Some(now), base).says;
        assert_eq!(says(took(6_000, 25_000)), Says::Note);
        assert_eq!(says(took(6_000, 80_000)), Says::Note, "the tail alone");
        assert_eq!(says(took(16_000, 80_000)), Says::Watch);
        assert_eq!(says(took(5_000, 3_000_000)), Says::Watch, "a stall of 3 s");
    }

    #[test]
    fn without_an_agent_or_with_few_commits_it_says_nothing() {
        let few = Latency {
            commits: 10,
            ..took(1, 1)
        };
        for now in [None, Some(few)] {
            assert_eq!(evidence(now, Some(took(1, 1))).says, Says::Unknown);
        }
        assert_eq!(
            evidence(Some(took(9_000, 90_000)), Some(few)).says,
            Says::Note
        );
    }
}
