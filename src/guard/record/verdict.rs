//! What the marks of a record say about the session before this one.

use crate::clock::{Mono, Wall};
use crate::power::{Before, Cause};

use super::{Ended, LastOutage, Mark, StepReport, millis, outage_of};

/// The session before this one.
struct Session<'a> {
    id: u64,
    boot: &'a str,
    drained: bool,
    stopped: bool,
}

fn last_session<'a>(marks: &'a [Mark<'_>]) -> Option<Session<'a>> {
    let stopped = |id| {
        marks
            .iter()
            .any(|m| matches!(m, Mark::Stopped { session, .. } if *session == id))
    };
    marks.iter().find_map(|m| match m {
        Mark::Session {
            session,
            boot,
            drained,
            ..
        } => Some(Session {
            id: *session,
            boot,
            drained: *drained,
            stopped: stopped(*session),
        }),
        Mark::Stopped { .. } | Mark::Begin { .. } | Mark::End { .. } | Mark::Resumed { .. } => None,
    })
}

/// What is left of the supply's charge after the session before this one.
pub(super) fn charge_before(marks: &[Mark<'_>], boot: &str) -> Before {
    let Some(session) = last_session(marks) else {
        return Before::Full;
    };
    let same_boot = session.boot == boot;
    match last_announced(marks, Cause::PowerFail) {
        Some(last) if last.session == session.id && !last.outage.resumed && !session.stopped => {
            if same_boot {
                Before::LostSince(last.lost_at)
            } else {
                Before::Drained
            }
        }
        _ if same_boot && session.drained => Before::Drained,
        _ => Before::Full,
    }
}

/// How the last session ended, and its last outage.
pub(super) fn verdict(marks: &[Mark<'_>], boot: &str) -> Option<LastOutage> {
    let last = last_announced(marks, Cause::PowerFail).map(|mut a| {
        let same_boot = a.boot == boot;
        if a.outage.ended == Ended::Cut
            && (same_boot || a.outage.resumed || stopped_after(marks, &a))
        {
            a.outage.ended = Ended::Unfinished;
        }
        (a.session, a.outage)
    });
    let Some(Session {
        id: session,
        boot: session_boot,
        stopped,
        ..
    }) = last_session(marks)
    else {
        return last.map(|(_, o)| o);
    };
    let rehearsal = last_announced(marks, Cause::Rehearsal)
        .filter(|r| r.session == session && !r.outage.resumed)
        .map(|r| r.outage);
    match last {
        // The last session ended in this outage, or ended in order after it.
        Some((of, outage)) if stopped || (of == session && !outage.resumed) => Some(outage),
        other if stopped => other.map(|(_, o)| o),
        // Gone in the middle of a rehearsal: no loss was announced, and no plan was cut.
        _ if rehearsal.is_some() => rehearsal.map(|r| LastOutage {
            ended: Ended::NeverAnnounced,
            ..r
        }),
        // It served on, and then was gone.
        _ => Some(LastOutage {
            kind: if session_boot == boot {
                "agent_died"
            } else {
                "power_cut"
            }
            .to_owned(),
            ended: Ended::NeverAnnounced,
            at: String::new(),
            edge_to_quiet_ms: None,
            edge_to_durable_ms: None,
            steps: Vec::new(),
            resumed: false,
        }),
    }
}

/// Did its agent end in order?
fn stopped_after(marks: &[Mark<'_>], outage: &Announced) -> bool {
    last_session(marks).is_some_and(|s| s.id == outage.session && s.stopped)
}

/// An outage, or a rehearsal, that has a begin mark.
struct Announced {
    session: u64,
    boot: String,
    lost_at: Mono,
    outage: LastOutage,
}

/// The newest rehearsal, or the newest that was none.
fn last_announced(marks: &[Mark<'_>], like: Cause) -> Option<Announced> {
    let rehearsal = Cause::Rehearsal.name();
    let (n, session, boot, cause, wall_ms, lost_at_ns, deadline_ns) = marks
        .iter()
        .filter_map(|m| match m {
            Mark::Begin {
                n,
                session,
                boot,
                cause,
                wall_ms,
                lost_at_ns,
                deadline_ns,
            } if (cause == rehearsal) == (like == Cause::Rehearsal) => Some((
                *n,
                *session,
                boot,
                cause,
                *wall_ms,
                *lost_at_ns,
                *deadline_ns,
            )),
            Mark::Begin { .. }
            | Mark::Session { .. }
            | Mark::Stopped { .. }
            | Mark::End { .. }
            | Mark::Resumed { .. } => None,
        })
        .max_by_key(|(n, ..)| *n)?;
    let mut outage = LastOutage {
        kind: cause.clone().into_owned(),
        ended: Ended::Cut,
        at: Wall::from_millis(wall_ms).to_string(),
        edge_to_quiet_ms: None,
        edge_to_durable_ms: None,
        steps: Vec::new(),
        resumed: false,
    };
    for mark in marks.iter().filter(|m| outage_of(m) == Some(n)) {
        match mark {
            Mark::End {
                at_ns,
                quiet_us,
                durable_us,
                steps,
                ..
            } => {
                outage.ended = if *at_ns <= deadline_ns {
                    Ended::Clean
                } else {
                    Ended::Late
                };
                outage.edge_to_quiet_ms = quiet_us.map(millis);
                outage.edge_to_durable_ms = durable_us.map(millis);
                outage
                    .steps
                    .splice(0..0, steps.iter().map(StepReport::to_owned_report));
            }
            Mark::Resumed { steps, .. } => {
                outage.resumed = true;
                outage
                    .steps
                    .extend(steps.iter().map(StepReport::to_owned_report));
            }
            Mark::Session { .. } | Mark::Stopped { .. } | Mark::Begin { .. } => {}
        }
    }
    Some(Announced {
        session,
        boot: boot.clone().into_owned(),
        lost_at: Mono::from_nanos(lost_at_ns),
        outage,
    })
}
