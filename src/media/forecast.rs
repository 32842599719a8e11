//! When the medium should be replaced: a range, with what it assumes.
//!
//! It promises a range and never a date, and none at all without enough to go by.

use serde::{Deserialize, Serialize};

use super::wear::Wear;

const DAY_S: f64 = 86_400.0;
/// Observed for less, a rate says nothing.
const SHORTEST_S: u64 = 6 * 3600;
/// Between two counts of wear.
const SHORTEST_WEAR_DAYS: f64 = 14.0;
/// How often a cell may be written: the worst consumer cards, and good TLC.
const CYCLES: (f64, f64) = (300.0, 1500.0);
/// What the card writes for each byte it is given: small random writes, and large ones.
const AMPLIFIED: (f64, f64) = (10.0, 2.0);
/// No medium is planned for longer.
const LONGEST_DAYS: f64 = 20.0 * 365.0;

/// The range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Days from now, at the earliest.
    pub from_days: u32,
    /// Days from now, at the latest; 7,300 stands for 20 years or more.
    pub to_days: u32,
    /// What it goes by.
    pub by: String,
    /// What it assumes.
    pub assumes: String,
}

/// What is known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// The disk's size in bytes.
    pub(super) bytes: Option<u64>,
    /// Bytes written to it and over how many seconds.
    pub(super) rate: Option<(u64, u64)>,
    /// Bytes written to it ever, as far as is known: at least.
    pub(super) written: Option<u64>,
    /// Wear now, and earlier with the days between.
    pub(super) wear: Option<Wear>,
    /// See `wear`.
    pub(super) wear_before: Option<(Wear, f64)>,
}

/// The best that can be said.
pub(super) fn forecast(known: Known) -> Option<Forecast> {
    by_wear(known).or_else(|| by_writes(known))
}

/// By the device's own count of wear.
fn by_wear(known: Known) -> Option<Forecast> {
    let now = known.wear?;
    let (before, days) = known.wear_before?;
    if days < SHORTEST_WEAR_DAYS {
        return None;
    }
    // The counts are steps: between two of them wear grew by at least and at most.
    let least = f64::from(now.low.saturating_sub(before.high));
    let most = f64::from(now.high.saturating_sub(before.low));
    let left = |used: u16| 100.0 - f64::from(used.min(100));
    let range = |left: f64, grown: f64| {
        if grown <= 0.0 {
            LONGEST_DAYS
        } else {
            left / grown * days
        }
    };
    Some(Forecast {
        from_days: whole(range(left(now.high), most)),
        to_days: whole(range(left(now.low), least)),
        by: format!(
            "its own count of wear, {}-{} % now and {}-{} % {days:.0} days ago",
            now.low, now.high, before.low, before.high
        ),
        assumes: "that it goes on being written as before".to_owned(),
    })
}

/// By what is written to it, against what cells of that sort bear.
fn by_writes(known: Known) -> Option<Forecast> {
    let (bytes, seconds) = known.rate?;
    let capacity = known.bytes? as f64;
    if seconds < SHORTEST_S || bytes == 0 || capacity <= 0.0 {
        return None;
    }
    let a_day = bytes as f64 / seconds as f64 * DAY_S;
    let before = known.written.unwrap_or(0) as f64;
    let days =
        |cycles: f64, amplified: f64| (capacity * cycles / amplified - before).max(0.0) / a_day;
    Some(Forecast {
        from_days: whole(days(CYCLES.0, AMPLIFIED.0)),
        to_days: whole(days(CYCLES.1, AMPLIFIED.1)),
        by: format!(
            "{:.2} GB a day over {:.1} h, {:.1} GB written before as far as is known",
            a_day / 1e9,
            seconds as f64 / 3600.0,
            before / 1e9
        ),
        assumes: format!(
            "{:.0} to {:.0} cycles a cell and {:.0} to {:.0} bytes written inside for each one; \
             this card's are not known",
            CYCLES.0, CYCLES.1, AMPLIFIED.1, AMPLIFIED.0
        ),
    })
}

fn whole(days: f64) -> u32 {
    days.clamp(0.0, LONGEST_DAYS) as u32
}

/// `2 years`, `5 months`, `12 days`.
pub fn in_words(days: u32) -> String {
    match days {
        0 => "today".to_owned(),
        7300.. => "20 years or more".to_owned(),
        730.. => format!("{} years", days / 365),
        60.. => format!("{} months", days / 30),
        1 => "1 day".to_owned(),
        _ => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_look_forecasts_nothing() {
        let known = Known {
            bytes: Some(32 << 30),
            rate: Some((1 << 30, 600)),
            ..Known::default()
        };
        assert_eq!(forecast(known), None);
        assert_eq!(forecast(Known::default()), None);
    }

    #[test]
    fn writes_give_a_range_that_what_was_written_before_shortens() {
        let known = |written| Known {
            bytes: Some(32_000_000_000),
            rate: Some((10_000_000_000, 86_400)),
            written,
            ..Known::default()
        };
        let f = forecast(known(None)).expect("a range");
        // 32 GB x 300 / 10 / 10 GB a day, and 32 GB x 1500 / 2 / 10 GB a day.
        assert_eq!((f.from_days, f.to_days), (96, 2400));
        let f = forecast(known(Some(960_000_000_000))).expect("a range");
        assert_eq!((f.from_days, f.to_days), (0, 2304));
        assert!(f.assumes.contains("not known"));
    }

    #[test]
    fn a_devices_own_count_goes_before_a_guess() {
        let known = Known {
            bytes: Some(1 << 35),
            rate: Some((1 << 30, 86_400)),
            written: None,
            wear: Some(Wear::percent(20)),
            wear_before: Some((Wear::percent(10), 100.0)),
        };
        let f = forecast(known).expect("a range");
        // 79 % left at up to 11 % in 100 days; 80 % at 9 % or more.
        assert_eq!((f.from_days, f.to_days), (718, 888));
        assert!(f.by.contains("own count"));
    }

    proptest::proptest! {
        #[test]
        fn any_numbers_give_a_range_in_order(
            bytes: u64, written: u64, rate: (u64, u64), now: (u8, u8), days in 0.0..1e6f64
        ) {
            let known = Known {
                bytes: Some(bytes),
                rate: Some(rate),
                written: Some(written),
                wear: Some(Wear::percent(now.0)),
                wear_before: Some((Wear::percent(now.1), days)),
            };
            if let Some(f) = forecast(known) {
                assert!(f.from_days <= f.to_days, "{f:?}");
            }
            if let Some(f) = by_writes(known) {
                assert!(f.from_days <= f.to_days, "{f:?}");
            }
        }
    }
}
