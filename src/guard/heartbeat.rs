//! The heartbeat: the last instant at which the supply still carried the gateway.
//!
//! When a measured loss is parked, a time stamp is written every few milliseconds until the
//! supply dies; the next boot reads the last one. Two preallocated blocks take turns, so that a
//! torn write costs one stamp and never the last good one. Each write is on the medium when it
//! returns. It must never run while the data file system is frozen, and never outlive the loss:
//! the order to resume ends it between two stamps.
//!
//! The writes load the card and the card loads the supply: what is measured is a worst case, and
//! what the writes cost is told with it.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Mono, Wall};
use crate::durable::{Block, BlockFile, DurableError, Medium, seal, unseal};

use super::orders::{Orders, order};

const MAGIC: &[u8; 8] = b"HOLDUPB1";
/// Stamps are this far apart where the card is fast enough.
const INTERVAL: Duration = Duration::from_millis(5);
/// A write that took longer than the interval is followed by a pause of this.
const BREATH: Duration = Duration::from_millis(1);
/// The heartbeat ends by itself after this; no capacitor lasts as long.
const LONGEST: Duration = Duration::from_secs(600);
const SLOTS: u32 = 2;
/// Orders that end it. Others mean nothing while parked.
const ENDING: u32 = order::MEASURED | order::RESUME | order::RUN | order::EXIT;

/// What a measurement is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Subject<'a> {
    /// The boot it happened in.
    pub(super) boot: Cow<'a, str>,
    /// `capacitor` or `battery`.
    pub(super) source: Cow<'a, str>,
    /// `power.holdup_ms` then.
    pub(super) configured_ms: Option<u64>,
    /// When it began.
    pub(super) wall_ms: i64,
    /// A time server had set the clock.
    pub(super) synchronised: bool,
    /// The first lost edge; of a battery, when it was low.
    pub(super) lost_at_ns: u64,
}

/// What ended a measurement that the supply outlived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlived {
    /// Power was back.
    PowerBack,
    /// The agent was stopped, or killed.
    AgentEnded,
    /// It ran for as long as one may.
    LongEnough,
}

/// One stamp.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Beat<'a> {
    subject: Subject<'a>,
    /// Counted from 0.
    n: u64,
    at_ns: u64,
    /// Since the stamp before this one.
    interval_us: u64,
    /// What the writes before this one took together, and the slowest.
    writes_us: u64,
    slowest_us: u64,
    /// The last: the supply outlived the measurement.
    outlived: bool,
    /// Files of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_by: Option<Outlived>,
}

/// A hold-up time that was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The boot it happened in, and when on its monotonic clock: no two are the same.
    pub boot: String,
    /// The first lost edge, in nanoseconds after that boot; of a battery, when it was low.
    pub lost_at_ns: u64,
    /// When it began.
    pub on: Wall,
    /// A time server had set the clock.
    pub synchronised: bool,
    /// `capacitor` or `battery`.
    pub source: String,
    /// `power.holdup_ms` then.
    pub configured_ms: Option<u64>,
    /// From the first lost edge to the last stamp.
    pub gave: Duration,
    /// How far apart the last stamps were: it lasted at most about that much longer.
    pub resolution: Duration,
    /// The supply outlived the measurement: it lasts longer than this.
    pub at_least: bool,
    /// What ended it then, where that is known.
    pub ended_by: Option<Outlived>,
    /// Stamps written.
    pub stamps: u64,
    /// What one write took on average.
    pub write_mean: Duration,
    /// What the slowest write took.
    pub write_worst: Duration,
}

/// See the module's text.
#[derive(Debug)]
pub struct Heartbeat {
    file: BlockFile,
}

impl Heartbeat {
    /// Opens or makes the file at `path`; what an earlier measurement left in it.
    pub fn open(
        medium: &Medium,
        path: &Path,
        boot: &str,
    ) -> Result<(Self, Option<Measured>), DurableError> {
        let file = BlockFile::open(medium, path, SLOTS)?;
        let mut newest: Option<Beat<'static>> = None;
        for slot in 0..SLOTS {
            let beat: Option<Beat<'static>> = unseal(MAGIC, &file.read(slot)?);
            let order = |b: &Beat<'_>| (b.subject.wall_ms, b.subject.lost_at_ns, b.n);
            if let Some(beat) = beat
                && newest.as_ref().is_none_or(|n| order(&beat) > order(n))
            {
                newest = Some(beat);
            }
        }
        Ok((Self { file }, newest.map(|b| b.told(boot))))
    }

    /// Writes stamps until an order ends it, or the supply. What was measured, and the orders.
    pub(super) fn run(
        &self,
        subject: &Subject<'_>,
        medium: &Medium,
        clock: &dyn Clock,
        orders: &Orders,
    ) -> Result<(Measured, u32), DurableError> {
        let mut block: Box<Block> = Box::new([0; BlockFile::BLOCK]);
        let mut beat = Beat {
            subject: subject.clone(),
            n: 0,
            at_ns: clock.mono().as_nanos(),
            interval_us: 0,
            writes_us: 0,
            slowest_us: 0,
            outlived: false,
            ended_by: None,
        };
        loop {
            let began = Mono::from_nanos(beat.at_ns);
            seal(MAGIC, &beat, &mut block);
            self.file
                .write(medium, (beat.n % u64::from(SLOTS)) as u32, &block)?;
            let took = clock.mono().since(began);
            if beat.outlived {
                return Ok((beat.told(&subject.boot), 0));
            }
            let bits = orders.take(INTERVAL.saturating_sub(took).max(BREATH));
            let now = clock.mono();
            beat.n += 1;
            beat.interval_us = micros(now.since(began));
            beat.writes_us += micros(took);
            beat.slowest_us = beat.slowest_us.max(micros(took));
            beat.at_ns = now.as_nanos();
            let lasted = now.since(Mono::from_nanos(subject.lost_at_ns));
            if bits & ENDING != 0 {
                // The plan may have been busy when power came back.
                beat.at_ns = now.min(orders.back_at()).as_nanos();
                beat.outlived = true;
                // Told to end or to resume, with power still away: nobody brought it back.
                let back = bits & order::MEASURED != 0 || orders.back_at() != Mono::NEVER;
                beat.ended_by = Some(if back {
                    Outlived::PowerBack
                } else {
                    Outlived::AgentEnded
                });
                seal(MAGIC, &beat, &mut block);
                self.file
                    .write(medium, (beat.n % u64::from(SLOTS)) as u32, &block)?;
                return Ok((beat.told(&subject.boot), bits));
            }
            beat.outlived = lasted >= LONGEST;
            beat.ended_by = beat.outlived.then_some(Outlived::LongEnough);
        }
    }
}

impl Beat<'_> {
    /// What the last stamp tells in boot `now`.
    fn told(&self, now: &str) -> Measured {
        let s = &self.subject;
        let interval = match self.interval_us {
            0 => INTERVAL,
            us => Duration::from_micros(us),
        };
        Measured {
            boot: s.boot.clone().into_owned(),
            lost_at_ns: s.lost_at_ns,
            on: Wall::from_millis(s.wall_ms),
            synchronised: s.synchronised,
            source: s.source.clone().into_owned(),
            configured_ms: s.configured_ms,
            gave: Mono::from_nanos(self.at_ns).since(Mono::from_nanos(s.lost_at_ns)),
            resolution: interval,
            // The same boot: the agent died, the gateway did not.
            at_least: self.outlived || s.boot == now,
            ended_by: match self.outlived {
                true => self.ended_by,
                false => (s.boot == now).then_some(Outlived::AgentEnded),
            },
            stamps: self.n.saturating_add(1),
            write_mean: Duration::from_micros(self.writes_us / self.n.max(1)),
            write_worst: Duration::from_micros(self.slowest_us),
        }
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        home: tempfile::TempDir,
        medium: Medium,
    }

    impl World {
        fn new() -> Self {
            let home = tempfile::tempdir().expect("temp dir");
            let medium = Medium::open(home.path()).expect("medium");
            Self { home, medium }
        }

        fn open(&self, boot: &str) -> (Heartbeat, Option<Measured>) {
            Heartbeat::open(&self.medium, &self.home.path().join("beat"), boot).expect("open")
        }

        /// Stamp `n` of a loss in boot a, `at_ms` after its edge.
        fn stamp(&self, n: u64, at_ms: u64, outlived: bool) {
            let beat = Beat {
                subject: Subject {
                    boot: "a".into(),
                    source: "capacitor".into(),
                    configured_ms: None,
                    wall_ms: 7,
                    synchronised: true,
                    lost_at_ns: 5_000_000,
                },
                n,
                at_ns: 5_000_000 + at_ms * 1_000_000,
                interval_us: 6000,
                writes_us: n * 2000,
                slowest_us: 9000,
                outlived,
                ended_by: None,
            };
            let mut block = [0; BlockFile::BLOCK];
            assert!(seal(MAGIC, &beat, &mut block));
            let (h, _) = self.open("a");
            h.file
                .write(&self.medium, (n % 2) as u32, &block)
                .expect("write");
        }
    }

    #[test]
    fn the_next_boot_reads_the_last_stamp() {
        let w = World::new();
        assert_eq!(w.open("a").1, None, "zeros are no measurement");
        w.stamp(10, 1200, false);
        w.stamp(11, 1206, false);
        let m = w.open("b").1.expect("measured");
        assert_eq!(m.gave, Duration::from_millis(1206));
        assert_eq!(m.resolution, Duration::from_millis(6));
        assert_eq!((m.stamps, m.at_least), (12, false));
        assert_eq!(m.write_mean, Duration::from_millis(2));
    }

    #[test]
    fn a_torn_stamp_costs_one_stamp_and_not_the_last_good_one() {
        let w = World::new();
        w.stamp(10, 1200, false);
        w.stamp(11, 1206, false);
        let (h, _) = w.open("a");
        let mut torn = h.file.read(1).expect("read");
        // Still a number: only the checksum tells.
        let key = b"\"at_ns\":";
        let stamp = torn.windows(key.len()).position(|w| w == key);
        torn[stamp.expect("the stamp") + key.len() + 1] ^= 1;
        h.file.write(&w.medium, 1, &torn).expect("write");
        let m = w.open("b").1.expect("measured");
        assert_eq!(m.gave, Duration::from_millis(1200));
    }

    #[test]
    fn a_stamp_that_nobody_can_have_written_is_read_without_harm() {
        let w = World::new();
        w.stamp(1, u64::from(u32::MAX), false);
        let mut beat: Beat<'_> = {
            let block = w.open("a").0.file.read(1).expect("read");
            unseal(MAGIC, &block).expect("a stamp")
        };
        beat.n = u64::MAX;
        beat.interval_us = u64::MAX;
        beat.subject.wall_ms = i64::MIN;
        beat.subject.lost_at_ns = u64::MAX;
        let mut block = [0; BlockFile::BLOCK];
        assert!(seal(MAGIC, &beat, &mut block));
        w.open("a")
            .0
            .file
            .write(&w.medium, 0, &block)
            .expect("write");
        w.open("a")
            .0
            .file
            .write(&w.medium, 1, &block)
            .expect("write");
        let m = w.open("b").1.expect("measured");
        assert_eq!((m.stamps, m.gave), (u64::MAX, Duration::ZERO));
    }

    #[test]
    fn a_supply_that_outlived_the_measurement_gave_at_least_that() {
        let w = World::new();
        w.stamp(10, 1200, false);
        let same_boot = w.open("a").1.expect("measured");
        assert!(same_boot.at_least, "only the agent died");
        assert_eq!(same_boot.ended_by, Some(Outlived::AgentEnded));
        w.stamp(11, 1206, true);
        assert!(w.open("b").1.expect("measured").at_least);
    }

    #[test]
    fn an_agent_that_is_told_to_end_does_not_say_that_power_was_back() {
        for (order, back, says) in [
            (order::EXIT, false, Outlived::AgentEnded),
            (order::RESUME, false, Outlived::AgentEnded),
            (order::RESUME, true, Outlived::PowerBack),
        ] {
            let w = World::new();
            let (h, _) = w.open("a");
            let clock = crate::clock::SystemClock;
            let orders = Orders::default();
            orders.measure();
            if back {
                orders.measured(clock.mono());
            }
            orders.give(order);
            let subject = Subject {
                boot: "a".into(),
                source: "capacitor".into(),
                configured_ms: None,
                wall_ms: 7,
                synchronised: true,
                lost_at_ns: clock.mono().as_nanos(),
            };
            let (measured, _) = h.run(&subject, &w.medium, &clock, &orders).expect("run");
            assert_eq!((measured.at_least, measured.ended_by), (true, Some(says)));
        }
    }

    #[test]
    fn power_back_ends_it_and_other_orders_do_not() {
        let w = World::new();
        let (h, _) = w.open("a");
        let clock = crate::clock::SystemClock;
        let orders = Orders::default();
        orders.measure();
        orders.give(order::EARLY | order::SETTLE);
        let subject = Subject {
            boot: "a".into(),
            source: "capacitor".into(),
            configured_ms: Some(2000),
            wall_ms: 7,
            synchronised: true,
            lost_at_ns: clock.mono().as_nanos(),
        };
        std::thread::scope(|s| {
            let run = s.spawn(|| h.run(&subject, &w.medium, &clock, &orders).expect("run"));
            // Some stamps pass before the order comes.
            let patience = clock.mono() + Duration::from_secs(60);
            while w.open("a").1.is_none_or(|m| m.stamps < 5) {
                assert!(!run.is_finished(), "it ended by itself");
                assert!(clock.mono() < patience, "no stamps");
                std::thread::yield_now();
            }
            let back_at = clock.mono();
            orders.measured(back_at);
            let (measured, bits) = run.join().expect("joined");
            assert_eq!(bits, order::MEASURED);
            assert!(measured.at_least && measured.stamps >= 5);
            let lost_at = Mono::from_nanos(subject.lost_at_ns);
            assert_eq!(
                measured.gave.as_micros(),
                back_at.since(lost_at).as_micros(),
                "not a moment longer than power was away"
            );
            let in_turn: Vec<_> = (0..SLOTS)
                .map(|slot| h.file.read(slot).expect("read"))
                .filter_map(|block| unseal::<Beat<'_>>(MAGIC, &block))
                .map(|beat| beat.n)
                .collect();
            assert_eq!(
                in_turn.iter().max(),
                Some(&(measured.stamps - 1)),
                "{in_turn:?}"
            );
            assert_eq!(in_turn.iter().min(), Some(&(measured.stamps - 2)));
            let read = w.open("b").1.expect("on the medium");
            assert_eq!(read.gave, measured.gave);
        });
    }
}
