//! Would the gateway make it, if power failed now? Said before, with every reason.

use std::fmt;
use std::time::Duration;

use heapless::Vec;

use crate::clock::Wall;

use super::{Budget, LineHealth, Others, StepKind};

/// What to do about a data file system that takes no writes.
pub const READ_ONLY_REMEDY: &str = "look at `dmesg`, check the medium (fsck), mount it read-write, \
                                    restart the agent";

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// The plan fits the hold-up time.
    Ready,
    /// A loss would be seen, but something may not make it.
    AtRisk,
    /// A loss would not be seen, or nobody knows how long there is.
    Unprotected,
}

impl Readiness {
    /// As status spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::AtRisk => "AtRisk",
            Self::Unprotected => "Unprotected",
        }
    }
}

/// Why it is not [`Readiness::Ready`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `power.holdup_ms` is not set.
    HoldupNotMeasured,
    /// The lines cannot be read.
    LineMissing,
    /// The board has no power-fail line.
    LineNotWired,
    /// The line stayed lost for longer than any capacitor lasts.
    LineStuck,
    /// Nothing was measured on this card yet.
    NotCalibrated,
    /// Even with an empty WAL the plan takes more than half the hold-up time.
    StepTooSlow {
        /// The slowest step.
        step: StepKind,
        /// What it takes.
        takes: Duration,
        /// The glitch time, which is spent before.
        glitch: Duration,
        /// Half the hold-up time.
        allowed: Duration,
    },
    /// With what is dirty now the plan does not fit.
    PlanTooSlow {
        /// What it takes.
        predicted: Duration,
        /// Hold-up time.
        holdup: Duration,
    },
    /// The supply has not recharged since the last outage.
    NotRecharged {
        /// Hold-up time left.
        left: Duration,
    },
    /// The newest measurement of this supply is shorter than `power.holdup_ms`.
    MeasuredShorter {
        /// What the supply gave.
        measured: Duration,
        /// What is configured.
        configured: Duration,
        /// When it was measured.
        on: Wall,
    },
    /// Other processes write a guarded database and cannot be stilled.
    OtherWriters,
    /// A guarded database cannot be guarded as it is.
    GuardedUnusable,
    /// The store takes no readings: it should be open by now.
    StoreStarting,
    /// The data file system was mounted read-only.
    DataReadOnly,
    /// Readings that were acknowledged are not in the store any more.
    AcknowledgedMissing {
        /// The first id.
        from: i64,
        /// The last id.
        upto: i64,
    },
    /// The store takes no readings: its medium failed.
    StoreFailed,
    /// A sync failed: nothing is called durable any more.
    MediumFailed,
    /// The store takes no readings: the medium is full.
    DiskFull,
    /// The battery is nearly empty: a loss now runs the plan at once, on what is left.
    BatteryLow,
    /// The store was found damaged while it serves.
    StoreDamaged {
        /// What to do about it, in the words of its own room.
        remedy: &'static str,
    },
    /// The queue was found damaged while it serves.
    QueueDamaged {
        /// What to do about it, in the words of its own room.
        remedy: &'static str,
    },
    /// The queue is wanted and cannot be used.
    QueueFailed {
        /// What to do about it, in the words of its own room.
        remedy: &'static str,
    },
}

/// More than can occur at once.
pub const MOST_REASONS: usize = 20;

impl Reason {
    /// As status and scripts spell it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::HoldupNotMeasured => "holdup_not_measured",
            Self::LineMissing => "line_missing",
            Self::LineNotWired => "line_not_wired",
            Self::LineStuck => "line_stuck",
            Self::NotCalibrated => "not_calibrated",
            Self::StepTooSlow { .. } => "step_too_slow",
            Self::PlanTooSlow { .. } => "plan_too_slow",
            Self::NotRecharged { .. } => "not_recharged",
            Self::MeasuredShorter { .. } => "measured_shorter",
            Self::OtherWriters => "other_writers",
            Self::GuardedUnusable => "guarded_unusable",
            Self::StoreStarting => "store_starting",
            Self::DataReadOnly => "data_read_only",
            Self::AcknowledgedMissing { .. } => "acknowledged_missing",
            Self::StoreFailed => "store_failed",
            Self::MediumFailed => "medium_failed",
            Self::DiskFull => "disk_full",
            Self::BatteryLow => "battery_low",
            Self::StoreDamaged { .. } => "store_damaged",
            Self::QueueDamaged { .. } => "queue_damaged",
            Self::QueueFailed { .. } => "queue_failed",
        }
    }

    /// Where it is damage, something that does not mend itself: what was found, and the one thing
    /// to do about it.
    pub fn damage(&self) -> Option<(String, &'static str)> {
        const MEDIUM: &str = "check the medium, then restart the agent";
        let (found, remedy) = match self {
            Self::MediumFailed => (
                "a sync or a write of the outage record failed and outages are not recorded any more",
                MEDIUM,
            ),
            Self::StoreFailed => ("the store stopped after a failed sync", MEDIUM),
            Self::DataReadOnly => (
                "the data file system is read-only, nothing more can be stored",
                READ_ONLY_REMEDY,
            ),
            Self::StoreDamaged { remedy } => ("the store is damaged", *remedy),
            Self::QueueDamaged { remedy } => ("the queue is damaged", *remedy),
            Self::QueueFailed { remedy } => (
                "the queue is out of service, readings wait in the store",
                *remedy,
            ),
            Self::AcknowledgedMissing { from, upto } => {
                let found = format!(
                    "readings {from} to {upto} were acknowledged and are not in the store; this \
                     medium lost what it had synced, or the store was changed"
                );
                return Some((found, "look at `holdup audit show`, replace the card"));
            }
            Self::HoldupNotMeasured
            | Self::LineMissing
            | Self::LineNotWired
            | Self::LineStuck
            | Self::NotCalibrated
            | Self::StepTooSlow { .. }
            | Self::PlanTooSlow { .. }
            | Self::NotRecharged { .. }
            | Self::MeasuredShorter { .. }
            | Self::OtherWriters
            | Self::GuardedUnusable
            | Self::StoreStarting
            | Self::DiskFull
            | Self::BatteryLow => return None,
        };
        Some((found.to_owned(), remedy))
    }

    const fn weight(self) -> Readiness {
        match self {
            Self::HoldupNotMeasured | Self::LineMissing | Self::LineNotWired | Self::LineStuck => {
                Readiness::Unprotected
            }
            Self::NotCalibrated
            | Self::StepTooSlow { .. }
            | Self::PlanTooSlow { .. }
            | Self::NotRecharged { .. }
            | Self::MeasuredShorter { .. }
            | Self::OtherWriters
            | Self::GuardedUnusable
            | Self::StoreStarting
            | Self::DataReadOnly
            | Self::AcknowledgedMissing { .. }
            | Self::StoreFailed
            | Self::MediumFailed
            | Self::DiskFull
            | Self::BatteryLow
            | Self::StoreDamaged { .. }
            | Self::QueueDamaged { .. }
            | Self::QueueFailed { .. } => Readiness::AtRisk,
        }
    }
}

impl fmt::Display for Reason {
    /// What is wrong and what to do, in one sentence each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((found, remedy)) = self.damage() {
            return write!(f, "{found}: {remedy}");
        }
        match self {
            Self::HoldupNotMeasured => f.write_str(
                "nobody measured how long the supply lasts: run `holdup power measure`, pull the plug, \
                 and set power.holdup_ms to what it proposes",
            ),
            Self::LineMissing => f.write_str(
                "the power-fail line cannot be read: run `holdup doctor`, check board and wiring",
            ),
            Self::LineNotWired => {
                f.write_str("this board has no power-fail line: name one under [board.power_fail]")
            }
            Self::LineStuck => f.write_str(
                "the power-fail line says lost for longer than the supply could have lasted: \
                 check its wiring and active level",
            ),
            Self::NotCalibrated => {
                f.write_str("timing this card: no commit, checkpoint and mark was timed on it yet")
            }
            Self::StepTooSlow {
                step,
                takes,
                glitch,
                allowed,
            } => write!(
                f,
                "the glitch time of {} ms and a plan that has next to nothing to do (the {} step \
                 takes up to {} ms on this card) are more than half the hold-up time ({} ms): {}",
                glitch.as_millis(),
                step.name(),
                takes.as_millis(),
                allowed.as_millis(),
                if glitch > takes {
                    "lower power.glitch_ms, or use a larger supply"
                } else {
                    "use a faster card or a larger supply"
                }
            ),
            Self::PlanTooSlow { predicted, holdup } => write!(
                f,
                "the plan would take {} ms now, the supply lasts {} ms",
                predicted.as_millis(),
                holdup.as_millis()
            ),
            Self::NotRecharged { left } => write!(
                f,
                "the supply has {} ms left after the last outage and is recharging",
                left.as_millis()
            ),
            Self::MeasuredShorter {
                measured,
                configured,
                on,
            } => write!(
                f,
                "the supply gave {} ms when it was measured on {on}, less than power.holdup_ms = \
                 {}: replace its capacitor or battery, or lower power.holdup_ms to {}",
                measured.as_millis(),
                configured.as_millis(),
                super::proposal(*measured).map_or(0, |p| p.as_millis())
            ),
            Self::OtherWriters => {
                f.write_str("a [[database]] has writers that cannot be stilled: `holdup status` says which and why")
            }
            Self::GuardedUnusable => f.write_str(
                "a [[database]] cannot be guarded as it is: `holdup status` says which and why",
            ),
            Self::StoreStarting => f.write_str(
                "the store is still being opened and takes no readings: look at the log, the card \
                 may not answer",
            ),
            Self::DiskFull => f.write_str("the medium is full: make room, service resumes alone"),
            Self::BatteryLow => f.write_str(
                "the battery is nearly empty, a loss now runs the plan at once: let it charge, or \
                 look at the charger",
            ),
            // Said above.
            Self::MediumFailed
            | Self::StoreFailed
            | Self::DataReadOnly
            | Self::StoreDamaged { .. }
            | Self::QueueDamaged { .. }
            | Self::QueueFailed { .. }
            | Self::AcknowledgedMissing { .. } => Ok(()),
        }
    }
}

/// The answer with its reasons, worst first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// The worst of the reasons.
    pub readiness: Readiness,
    /// Why; empty when ready.
    pub reasons: Vec<Reason, MOST_REASONS>,
    /// What glitch time and mandatory steps take now.
    pub predicted: Duration,
}

/// What an assessment looks at.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Whether the lines can be believed.
    pub health: LineHealth,
    /// The configured hold-up time.
    pub holdup: Option<Duration>,
    /// Hold-up time left if power failed now.
    pub left: Duration,
    /// The glitch time, which passes before the plan starts.
    pub glitch: Duration,
    /// What the card takes.
    pub budget: &'a Budget,
    /// Frames in the WAL now.
    pub wal_frames: u32,
    /// Guarded databases, and what lies in their logs.
    pub guarded: Others,
    /// Reasons that other rooms found.
    pub found: &'a [Reason],
}

/// Judges a situation.
pub fn assess(s: Situation<'_>) -> Assessment {
    let mut reasons: Vec<Reason, MOST_REASONS> = Vec::new();
    let (plan, ..) = s.budget.predict(s.wal_frames, s.guarded);
    let nothing_dirty = Others::empty(s.guarded.databases);
    let (empty, step, takes) = s.budget.predict(0, nothing_dirty);
    let predicted = s.glitch + plan;
    let mut say = |r: Reason| {
        // They hold every combination that can occur; the worst were said first.
        reasons.push(r).ok();
    };
    match s.health {
        LineHealth::Good => {}
        LineHealth::Missing => say(Reason::LineMissing),
        LineHealth::NotWired => say(Reason::LineNotWired),
        LineHealth::Stuck => say(Reason::LineStuck),
    }
    if s.holdup.is_none() {
        say(Reason::HoldupNotMeasured);
    }
    s.found.iter().copied().for_each(&mut say);
    if !s.budget.is_calibrated() {
        say(Reason::NotCalibrated);
    }
    if let Some(holdup) = s.holdup {
        if s.glitch + empty > holdup / 2 {
            say(Reason::StepTooSlow {
                step,
                takes,
                glitch: s.glitch,
                allowed: holdup / 2,
            });
        }
        if predicted > holdup {
            say(Reason::PlanTooSlow { predicted, holdup });
        } else if predicted > s.left {
            say(Reason::NotRecharged { left: s.left });
        }
    }
    let readiness = reasons
        .iter()
        .map(|r| r.weight())
        .max()
        .unwrap_or(Readiness::Ready);
    Assessment {
        readiness,
        reasons,
        predicted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(ms: u64) -> Budget {
        let mut b = Budget::default();
        b.commit.note(Duration::from_millis(ms));
        b.mark.note(Duration::from_millis(ms));
        b.note_checkpoint(Duration::from_millis(ms), 1);
        b
    }

    fn situation(budget: &Budget) -> Situation<'_> {
        Situation {
            health: LineHealth::Good,
            holdup: Some(Duration::from_secs(1)),
            left: Duration::from_secs(1),
            glitch: Duration::from_millis(30),
            budget,
            wal_frames: 10,
            guarded: Others::default(),
            found: &[],
        }
    }

    #[test]
    fn a_fast_card_and_a_measured_supply_are_ready() {
        let b = budget(5);
        assert_eq!(assess(situation(&b)).readiness, Readiness::Ready);
    }

    #[test]
    fn a_card_too_slow_for_the_supply_is_named_before_the_outage() {
        let mut b = budget(5);
        b.commit.note(Duration::from_millis(700));
        let a = assess(situation(&b));
        assert_eq!(a.readiness, Readiness::AtRisk);
        let said = a.reasons[0].to_string();
        assert!(said.contains("the commit step takes up to"), "{said}");
        assert!(
            said.ends_with("use a faster card or a larger supply"),
            "{said}"
        );
    }

    #[test]
    fn a_glitch_time_that_leaves_too_little_is_not_blamed_on_the_card() {
        let b = budget(5);
        let a = assess(Situation {
            glitch: Duration::from_millis(490),
            ..situation(&b)
        });
        assert_eq!(a.readiness, Readiness::AtRisk);
        let said = a.reasons[0].to_string();
        assert!(said.contains("the glitch time of 490 ms"), "{said}");
        assert!(said.contains("lower power.glitch_ms"), "{said}");
    }

    #[test]
    fn without_a_measurement_or_a_line_nothing_is_promised() {
        let b = budget(5);
        let a = assess(Situation {
            holdup: None,
            ..situation(&b)
        });
        assert_eq!(a.readiness, Readiness::Unprotected);
        assert_eq!(a.reasons[0], Reason::HoldupNotMeasured);
        let a = assess(Situation {
            health: LineHealth::Missing,
            ..situation(&b)
        });
        assert_eq!(a.readiness, Readiness::Unprotected);
    }

    #[test]
    fn an_uncalibrated_card_is_never_called_ready() {
        let b = Budget::default();
        assert_eq!(assess(situation(&b)).readiness, Readiness::AtRisk);
    }

    #[test]
    fn a_log_of_somebody_elses_that_cannot_be_moved_in_time_is_said_before_the_outage() {
        let b = budget(5);
        let a = assess(Situation {
            guarded: Others::with(1, 64 << 20),
            ..situation(&b)
        });
        assert_eq!(a.readiness, Readiness::AtRisk);
        assert!(
            matches!(a.reasons[..], [Reason::PlanTooSlow { .. }]),
            "{a:?}"
        );
        let a = assess(Situation {
            guarded: Others::empty(1),
            ..situation(&b)
        });
        assert_eq!(a.readiness, Readiness::Ready);
    }
}
