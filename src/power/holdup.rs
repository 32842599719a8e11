//! What a measured hold-up time is worth: the figure to configure, and whether it has worn.
//!
//! Sans-IO. It must never propose more than was seen.

use std::time::Duration;

use crate::clock::Wall;

use super::Reason;

/// Of a measured hold-up time, so much is proposed: capacitors lose a fifth of their capacity over
/// their rated life and more in the cold, and the load is not the same every day.
const WORTH_PERCENT: u32 = 80;
/// Proposals are rounded down to this.
const STEP_MS: u64 = 10;

/// One measurement, as far as judging it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measurement {
    /// From the first lost edge (of a battery: from when it was low) to the last sign of life.
    pub gave: Duration,
    /// Power was back before the supply was empty: it lasts longer than this.
    pub at_least: bool,
    /// When, as far as the wall clock was right.
    pub on: Wall,
}

/// The `power.holdup_ms` to configure after `gave` was measured: 80 %, rounded down to 10 ms.
/// `None`: less than that is no hold-up time.
pub fn proposal(gave: Duration) -> Option<Duration> {
    let ms = u64::try_from((gave * WORTH_PERCENT / 100).as_millis()).unwrap_or(u64::MAX);
    let ms = ms / STEP_MS * STEP_MS;
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// Why the configured hold-up time can no longer be trusted, from the measurements of this supply,
/// newest first. One that only says "at least" proves a long supply and never a short one.
pub fn worn(
    newest_first: impl IntoIterator<Item = Measurement>,
    configured: Duration,
) -> Option<Reason> {
    let telling = newest_first
        .into_iter()
        .find(|m| !m.at_least || m.gave >= configured)?;
    (telling.gave < configured).then_some(Reason::MeasuredShorter {
        measured: telling.gave,
        configured,
        on: telling.on,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn measured(gave: u64, at_least: bool) -> Measurement {
        Measurement {
            gave: ms(gave),
            at_least,
            on: Wall::from_millis(0),
        }
    }

    #[test]
    fn a_fifth_is_kept_back_and_the_rest_rounded_down() {
        assert_eq!(proposal(ms(2345)), Some(ms(1870)));
        assert_eq!(proposal(ms(1000)), Some(ms(800)));
        assert_eq!(proposal(ms(12)), None);
    }

    #[test]
    fn a_supply_that_measured_shorter_than_configured_is_worn() {
        assert_eq!(worn([measured(2000, false)], ms(1600)), None);
        assert!(matches!(
            worn([measured(1500, false), measured(2000, false)], ms(1600)),
            Some(Reason::MeasuredShorter { measured, configured, .. })
                if (measured, configured) == (ms(1500), ms(1600))
        ));
        assert_eq!(
            worn([measured(2000, false), measured(1500, false)], ms(1600)),
            None,
            "the newest counts"
        );
    }

    #[test]
    fn power_that_came_back_early_says_nothing_of_a_short_supply() {
        assert_eq!(worn([measured(300, true)], ms(1600)), None);
        assert!(
            worn([measured(300, true), measured(1500, false)], ms(1600)).is_some(),
            "and hides no older measurement"
        );
        assert_eq!(
            worn([measured(1700, true), measured(1500, false)], ms(1600)),
            None,
            "unless it is longer than what is configured"
        );
    }
}
