//! How often the passphrase was guessed wrong, and how long the next guess waits for that.
//!
//! It promises that a guess is counted before it is looked at, that waiting is done on the monotonic
//! clock alone, and that a new boot or a new process waits all of it again: neither a step of the
//! wall clock nor a pulled plug makes guessing faster. Three guesses are free; then the next waits
//! [`FIRST`], and twice as long each time, up to [`LONGEST`]. 10,000 guesses take over a hundred
//! days. It must never forget for want of a file that can be read.
//!
//! The file is one line: `holdup-guesses 1 COUNT CRC`, the CRC-32 of what stands before it in hex.

use std::time::Duration;

use crate::clock::Mono;

/// So many wrong guesses cost nothing: a person mistypes.
pub const FREE: u32 = 3;

/// The first pause.
pub const FIRST: Duration = Duration::from_secs(5);

/// The longest pause.
pub const LONGEST: Duration = Duration::from_secs(900);

/// Where a count that cannot be read begins: at the longest pause.
const UNKNOWN: u32 = FREE + 8;

/// Bytes of the file at most.
pub const FILE: u64 = 64;

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guesses {
    wrong: u32,
    free_at: Mono,
}

/// What the next guess waits after `wrong` wrong ones.
pub fn pause(wrong: u32) -> Duration {
    match wrong.checked_sub(FREE) {
        None => Duration::ZERO,
        Some(n) => FIRST
            .checked_mul(1 << n.min(16))
            .map_or(LONGEST, |p| p.min(LONGEST)),
    }
}

impl Guesses {
    /// As a process finds them: `file` is what is kept of them, `None` where there is none; the
    /// pause begins now.
    pub fn found(file: Option<&[u8]>, now: Mono) -> Self {
        let wrong = file.map_or(0, |bytes| read(bytes).unwrap_or(UNKNOWN));
        Self {
            wrong,
            free_at: now + pause(wrong),
        }
    }

    /// The same where nothing can be kept: each boot and each process waits the longest.
    pub fn unkept(now: Mono) -> Self {
        Self {
            wrong: UNKNOWN,
            free_at: now + LONGEST,
        }
    }

    /// Another process may have counted meanwhile.
    pub fn heed(&mut self, file: Option<&[u8]>, now: Mono) {
        let theirs = Self::found(file, now);
        if theirs.wrong > self.wrong {
            *self = theirs;
        }
    }

    /// Takes a guess: it counts as wrong until [`Guesses::right`]. Whoever calls it writes
    /// [`Guesses::text`] down before looking at what was guessed.
    ///
    /// # Errors
    /// It comes too early: how long it has to wait.
    pub fn take(&mut self, now: Mono) -> Result<(), Duration> {
        if now < self.free_at {
            return Err(self.free_at.since(now));
        }
        self.wrong = self.wrong.saturating_add(1);
        self.free_at = now + pause(self.wrong);
        Ok(())
    }

    /// The last guess was right.
    pub fn right(&mut self) {
        *self = Self {
            wrong: 0,
            free_at: Mono::default(),
        };
    }

    /// For the file.
    pub fn text(&self) -> String {
        let head = format!("holdup-guesses 1 {}", self.wrong);
        format!("{head} {:08x}\n", crc32fast::hash(head.as_bytes()))
    }
}

fn read(bytes: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, crc) = text.strip_suffix('\n')?.rsplit_once(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(head.as_bytes()) {
        return None;
    }
    head.strip_prefix("holdup-guesses 1 ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use proptest::prelude::*;

    #[test]
    fn ten_thousand_guesses_take_over_a_hundred_days_also_with_a_boot_after_each() {
        for reboots in [false, true] {
            let clock = ManualClock::new();
            let mut g = Guesses::found(None, clock.mono());
            let mut waited = Duration::ZERO;
            for n in 0..10_000 {
                while let Err(wait) = g.take(clock.mono()) {
                    clock.advance(wait);
                    waited += wait;
                }
                let kept = g.text();
                if reboots {
                    // Monotonic time starts anew; what was waited already counts for nothing.
                    g = Guesses::found(Some(kept.as_bytes()), clock.mono());
                }
                assert!(n < 3 || g.take(clock.mono()).is_err(), "guess {n}");
            }
            let days = waited.as_secs() / 86_400;
            assert!((100..=105).contains(&days), "{days} days");
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_shortens_nothing() {
        let clock = ManualClock::new();
        let mut g = Guesses::found(None, clock.mono());
        for _ in 0..=FREE {
            g.take(clock.mono()).ok();
        }
        let wait = g.take(clock.mono()).expect_err("too early");
        clock.set_wall(crate::clock::Wall::from_millis(i64::MAX / 2));
        assert_eq!(g.take(clock.mono()), Err(wait));
        clock.advance(wait);
        assert_eq!(g.take(clock.mono()), Ok(()));
    }

    #[test]
    fn the_pauses_are_the_documented_ones() {
        let pauses: Vec<_> = (0..12).map(|n| pause(n).as_secs()).collect();
        assert_eq!(
            pauses,
            [0, 0, 0, 5, 10, 20, 40, 80, 160, 320, 640, 900],
            "{pauses:?}"
        );
        assert_eq!(pause(u32::MAX), LONGEST);
    }

    #[test]
    fn a_right_one_forgets_the_wrong_ones() {
        let now = Mono::from_nanos(1);
        let mut g = Guesses::found(Some(b"junk"), now);
        assert_eq!(g.take(now), Err(LONGEST), "what is damaged is no new start");
        g.take(now + LONGEST).expect("waited");
        g.right();
        assert_eq!(g.take(now), Ok(()));
        assert_eq!(Guesses::unkept(now).take(now), Err(LONGEST));
    }

    #[test]
    fn what_another_process_counted_counts() {
        let now = Mono::from_nanos(1);
        let mut mine = Guesses::found(None, now);
        let mut other = Guesses::found(None, now);
        for _ in 0..3 {
            other.take(now).expect("free");
        }
        mine.heed(Some(other.text().as_bytes()), now);
        assert_eq!(mine.take(now), Err(FIRST));
    }

    proptest! {
        #[test]
        fn any_file_is_read_and_only_a_whole_one_lowers_the_pause(bytes: Vec<u8>, n: u32) {
            let now = Mono::from_nanos(1);
            if read(&bytes).is_none() {
                prop_assert!(Guesses::found(Some(&bytes), now).take(now).is_err());
            }
            let g = Guesses { wrong: n, free_at: now };
            prop_assert_eq!(read(g.text().as_bytes()), Some(n));
            prop_assert!(g.text().len() < FILE as usize);
        }
    }
}
