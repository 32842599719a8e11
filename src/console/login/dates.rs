//! Dates as `allowed_signers` writes them.
//!
//! Without `Z` they are local time for OpenSSH; a gateway's local time is UTC here.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Seconds since 1970, UTC.
pub type Moment = i64;

/// `YYYYMMDD[HHMM[SS]][Z]`.
pub(super) fn moment(text: &str) -> Option<Moment> {
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let is_number = digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number || !matches!(digits.len(), 8 | 12 | 14) {
        return None;
    }
    let two = |at: usize| {
        let part = digits.get(at..at + 2);
        part.map_or(Some(0), |d| d.parse::<i8>().ok())
    };
    let year = digits[..4].parse().ok()?;
    let when = DateTime::new(year, two(4)?, two(6)?, two(8)?, two(10)?, two(12)?, 0).ok()?;
    let utc = when.to_zoned(TimeZone::UTC).ok()?;
    Some(utc.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_every_length_are_utc() {
        assert_eq!(moment("19700102"), Some(86_400));
        assert_eq!(moment("197001020001Z"), Some(86_460));
        assert_eq!(moment("19700102000102"), Some(86_462));
        for bad in [
            "",
            "1970",
            "19701302",
            "19700102T",
            "1970-01-02",
            "19700102250000",
            "99999999",
        ] {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }
}
