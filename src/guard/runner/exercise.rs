//! What the plan thread does beyond an outage: it tells a rehearsal apart, and measures.

use std::time::Duration;

use crate::clock::Mono;
use crate::guard::heartbeat::Subject;
use crate::guard::record::{Ended, StepReport};
use crate::power::Cause;

use super::{Outage, Runner, micros, us};

/// How the thaw went.
#[derive(Debug)]
pub(super) struct Thaw {
    pub(super) began: Mono,
    pub(super) took: Duration,
    pub(super) failed: Option<String>,
}

impl Runner {
    /// For status; a rehearsal is no outage.
    pub(super) fn tell(&self, outage: &Outage) {
        if outage.cause == Cause::Rehearsal {
            self.shared.set_last_rehearsal(outage.last.clone());
        } else {
            self.shared.set_last_outage(outage.last.clone());
        }
    }

    /// A rehearsal reports its thaw, too.
    pub(super) fn note_thaw(&self, outage: &mut Outage, thaw: Option<Thaw>) {
        let (Cause::Rehearsal, Some(thaw)) = (outage.cause, thaw) else {
            return;
        };
        outage.last.steps.push(StepReport {
            step: "thaw".into(),
            database: None,
            at_us: us(thaw.began, outage.lost_at),
            took_us: micros(thaw.took),
            expected_us: None,
            worst_us: None,
            needs_us: None,
            outcome: match thaw.failed {
                None => "done",
                Some(_) => "failed",
            }
            .into(),
            why: thaw.failed.map(Into::into),
        });
    }

    /// Notes how long the supply lasts, if this loss is measured and everything is durable; the
    /// orders that ended it.
    pub(super) fn beat(&self) -> u32 {
        let measured = |o: &&Outage| o.measured && o.last.ended != Ended::Unfinished;
        let outage = self.outage.as_ref().filter(measured);
        let (Some(outage), Some(heartbeat)) = (outage, &self.heartbeat) else {
            return 0;
        };
        let settings = self.shared.published().settings;
        let subject = Subject {
            boot: self.record.boot().into(),
            source: settings.source.name().into(),
            configured_ms: settings.holdup.map(|d| micros(d) / 1000),
            wall_ms: outage.wall.as_millis(),
            synchronised: self.clock.is_synchronised(),
            lost_at_ns: outage.lost_at.as_nanos(),
        };
        let clock = &*self.clock;
        match heartbeat.run(&subject, &self.medium, clock, &self.orders) {
            Ok((measured, orders)) => {
                self.shared.set_measured(measured);
                orders
            }
            Err(e) => {
                log::error!("the hold-up time is not measured: {e}");
                0
            }
        }
    }
}
