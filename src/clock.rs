//! The only reader of time.
//!
//! Two kinds of time never mix: [`Mono`] is what the kernel stamps GPIO edges with
//! (CLOCK_MONOTONIC) and what every deadline is made of; [`Wall`] is for people and may jump.
//! Rooms that decide take a time as an argument; rooms that act ask a [`Clock`], which tests
//! replace by a [`ManualClock`]. Nothing else may read a clock: clippy refuses it.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// An instant of CLOCK_MONOTONIC, in nanoseconds since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(u64);

impl Mono {
    /// The far future, for "no deadline".
    pub const NEVER: Self = Self(u64::MAX);

    /// From a kernel time stamp in nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero where `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Duration> for Mono {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// An instant of the wall clock, in milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(i64);

impl Wall {
    /// From milliseconds since 1970-01-01 UTC.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub const fn as_millis(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Wall {
    /// RFC 3339 in UTC, to the millisecond.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{} ms since 1970", self.0),
        }
    }
}

/// Where rooms that act get the time from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now, for deadlines and durations.
    fn mono(&self) -> Mono;
    /// Now, for people.
    fn wall(&self) -> Wall;
    /// Does the kernel know that the wall clock is right (a time server set it)? A Pi 5 without
    /// a battery on its clock boots somewhere in the past.
    fn is_synchronised(&self) -> bool;
}

/// The kernel's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn mono(&self) -> Mono {
        let t = clock_gettime(ClockId::Monotonic);
        Mono(t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs())
    }

    fn wall(&self) -> Wall {
        let t = clock_gettime(ClockId::Realtime);
        Wall(t.tv_sec * 1_000 + t.tv_nsec / 1_000_000)
    }

    #[expect(unsafe_code, reason = "rustix has no adjtimex")]
    fn is_synchronised(&self) -> bool {
        // SAFETY: all zeros are a valid `timex`, and with no mode set adjtimex(2) only reads.
        let status = unsafe {
            let mut t: libc::timex = std::mem::zeroed();
            (libc::adjtimex(&raw mut t) >= 0).then_some(t.status)
        };
        status.is_some_and(|s| s & libc::STA_UNSYNC == 0)
    }
}

impl SystemClock {
    /// Now on both of the kernel's clocks, read one right after the other; the second is
    /// CLOCK_REALTIME in nanoseconds since 1970. Only for time stamps that a kernel took on either.
    pub fn mono_and_real_nanos(&self) -> (Mono, u64) {
        let real = clock_gettime(ClockId::Realtime);
        let nanos = real.tv_sec.unsigned_abs() * 1_000_000_000 + real.tv_nsec.unsigned_abs();
        (self.mono(), nanos)
    }
}

/// A clock that stands still until a test turns it.
#[derive(Debug, Default)]
pub struct ManualClock {
    mono: AtomicU64,
    wall: AtomicI64,
    unsure: AtomicBool,
}

impl ManualClock {
    /// Stands at one hour after boot and at 2026-01-01 UTC.
    pub fn new() -> Self {
        Self {
            mono: AtomicU64::new(3_600_000_000_000),
            wall: AtomicI64::new(1_767_225_600_000),
            unsure: AtomicBool::new(false),
        }
    }

    /// Turns both clocks forward.
    pub fn advance(&self, d: Duration) {
        self.mono.fetch_add(
            u64::try_from(d.as_nanos()).unwrap_or(u64::MAX),
            Ordering::SeqCst,
        );
        self.wall.fetch_add(
            i64::try_from(d.as_millis()).unwrap_or(i64::MAX),
            Ordering::SeqCst,
        );
    }

    /// Says whether a time server has set it; it stands synchronised.
    pub fn set_synchronised(&self, on: bool) {
        self.unsure.store(!on, Ordering::SeqCst);
    }

    /// Sets the wall clock alone, as a time server does.
    pub fn set_wall(&self, wall: Wall) {
        self.wall.store(wall.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn mono(&self) -> Mono {
        Mono(self.mono.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Wall {
        Wall(self.wall.load(Ordering::SeqCst))
    }

    fn is_synchronised(&self) -> bool {
        !self.unsure.load(Ordering::SeqCst)
    }
}

/// The kernel's id of this boot, or `None` where /proc does not tell.
///
/// Two records with the same boot id lie on one monotonic time line.
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_prints_as_rfc3339_in_utc() {
        assert_eq!(
            Wall::from_millis(1_767_225_600_123).to_string(),
            "2026-01-01T00:00:00.123Z"
        );
    }

    #[test]
    fn an_earlier_instant_that_lies_in_the_future_is_no_time_ago() {
        let now = Mono::from_nanos(5);
        assert_eq!(now.since(Mono::from_nanos(9)), Duration::ZERO);
    }
}
