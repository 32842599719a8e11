//! Rehearsals and measurements, asked for at good and at bad moments.

use super::*;
use crate::power::Measuring;

fn rehearsal(world: &World) -> Option<(Mono, Mono)> {
    world.actions.iter().find_map(|a| {
        let Action::RunPlan {
            cause: Cause::Rehearsal,
            lost_at,
            deadline,
        } = a
        else {
            return None;
        };
        Some((*lost_at, *deadline))
    })
}

#[test]
fn a_supply_that_has_not_recharged_is_not_measured() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false);
    w.park(100)
        .power(1600, false)
        .run_to(2600)
        .event(2600, Event::Resumed);
    assert_eq!(w.supply.state(), State::Good);
    w.actions.clear();
    w.event(3600, Event::Measure(true));
    assert_eq!(w.supply.measuring(), Measuring::Off);
    assert!(w.asked(Action::Notice(Notice::Refused)));
    // Three quarters of sixty seconds, less the two since.
    let ms = w.supply.measurable_in(at(3600)).as_millis();
    assert!((42_990..=43_000).contains(&ms), "{ms} ms");
    w.event(40_600, Event::Measure(true));
    assert_eq!(w.supply.measuring(), Measuring::Armed, "nine tenths");
}

/// A rehearsal whose plan took 50 ms, still parked.
fn rehearsing(world: &mut World, ms: u64) -> &mut World {
    world
        .event(ms, Event::Rehearse)
        .event(ms + 50, Event::PlanDone)
}

#[test]
fn a_rehearsal_is_the_whole_plan_thawed_again_and_no_outage() {
    let mut s = settings(Source::Capacitor);
    s.settle_after = 2;
    let mut w = World::with(s, true);
    w.levels(0, false);
    rehearsing(&mut w, 100);
    assert!(w.asked(Action::CloseGate));
    assert_eq!(
        rehearsal(&w),
        Some((at(70), at(2070))),
        "the glitch time is part of it"
    );
    assert!(matches!(w.supply.state(), State::Rehearsing { .. }));
    w.run_to(1149);
    assert!(!w.asked(Action::Resume), "parked for as long as an outage");
    w.run_to(1150);
    assert!(w.asked(Action::Resume));
    w.actions.clear();
    w.event(1160, Event::Resumed);
    assert_eq!(w.supply.state(), State::Good);
    assert_eq!(
        w.actions,
        [Action::OpenGate, Action::Notice(Notice::Rehearsed)]
    );
    assert_eq!(
        w.supply.holdup_left(at(1160)),
        Duration::from_secs(2),
        "nothing was drawn"
    );
    // The next outage is the first, not the second: power back for restore_ms is enough.
    w.park(2000).power(2200, false).run_to(3200);
    assert!(matches!(w.supply.state(), State::Resuming { .. }));
}

#[test]
fn a_rehearsal_is_refused_unless_the_supply_is_good() {
    let refused = |w: &World| {
        assert_eq!(rehearsal(w), None);
        w.asked(Action::Notice(Notice::Refused))
    };
    let mut starting = World::new(Source::Capacitor);
    starting.event(0, Event::Rehearse);
    assert!(refused(&starting), "starting");

    let mut suspect = World::new(Source::Capacitor);
    suspect
        .levels(0, false)
        .power(100, true)
        .event(110, Event::Rehearse);
    assert!(refused(&suspect), "suspect");

    let mut parked = World::new(Source::Capacitor);
    parked
        .levels(0, false)
        .park(100)
        .event(500, Event::Rehearse);
    assert!(refused(&parked), "parked");

    let mut blind = World::new(Source::Capacitor);
    blind
        .event(0, Event::LinesMissing)
        .event(1, Event::Rehearse);
    assert!(refused(&blind), "a real loss would not be seen");

    let mut twice = World::new(Source::Capacitor);
    twice.levels(0, false).event(100, Event::Rehearse);
    assert!(!twice.asked(Action::Notice(Notice::Refused)));
    twice.event(110, Event::Rehearse);
    assert!(twice.asked(Action::Notice(Notice::Refused)), "one runs");
    assert_eq!(twice.plans(), 1);
}

#[test]
fn power_lost_in_a_rehearsal_thaws_at_once_and_the_real_plan_follows_behind_a_closed_gate() {
    // Lost while the plan runs, while it is parked, while it is thawed.
    for lost_at in [120, 400, 1155] {
        let mut w = World::new(Source::Capacitor);
        w.levels(0, false).event(100, Event::Rehearse);
        w.actions.clear();
        if lost_at < 150 {
            w.power(lost_at, true);
        }
        w.event(150, Event::PlanDone).run_to(lost_at - 1);
        if lost_at > 150 {
            w.power(lost_at, true);
        }
        assert!(w.asked(Action::Resume), "{lost_at}: no pause of its own");
        w.event(1200, Event::Resumed);
        assert!(w.asked(Action::Notice(Notice::RehearsalOvertaken)));
        assert!(!w.asked(Action::OpenGate), "{lost_at}");
        w.run_to(1200 + 30);
        assert!(
            w.asked(Action::RunPlan {
                cause: Cause::PowerFail,
                lost_at: at(lost_at),
                deadline: at(lost_at + 2000),
            }),
            "{lost_at}: {:?}",
            w.actions
        );
    }
}

#[test]
fn chatter_does_not_hide_behind_a_rehearsal() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).event(100, Event::Rehearse);
    for k in 0..4 {
        w.power(110 + 20 * k, true).power(120 + 20 * k, false);
    }
    w.event(195, Event::PlanDone).run_to(1300);
    w.event(1300, Event::Resumed);
    assert_eq!(w.supply.state(), State::Good, "long past its window");

    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).event(100, Event::Rehearse);
    for k in 0..4 {
        w.power(110 + 20 * k, true).power(120 + 20 * k, false);
    }
    w.event(195, Event::PlanDone)
        .power(196, true)
        .power(197, false)
        .event(198, Event::Resumed);
    assert!(
        w.actions.iter().any(|a| matches!(
            a,
            Action::RunPlan {
                cause: Cause::PowerFail,
                ..
            }
        )),
        "40 ms lost within the window: {:?}",
        w.actions
    );
}

#[test]
fn a_stop_in_a_rehearsal_thaws_first_and_then_ends() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false);
    rehearsing(&mut w, 100).event(200, Event::Stop);
    assert!(w.asked(Action::Resume));
    assert!(!w.asked(Action::Exit));
    w.event(210, Event::Resumed).event(220, Event::PlanDone);
    assert!(w.asked(Action::Exit));
}

#[test]
fn only_the_armed_loss_is_measured() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).event(50, Event::Measure(true));
    assert_eq!(w.supply.measuring(), Measuring::Armed);
    w.park(100);
    assert_eq!(w.supply.measuring(), Measuring::Running);
    let (measure, plan) = (
        w.actions.iter().position(|a| *a == Action::Measure),
        w.actions
            .iter()
            .position(|a| matches!(a, Action::RunPlan { .. })),
    );
    assert!(measure.is_some() && measure < plan, "said before the plan");
    w.power(1000, false);
    assert!(w.asked(Action::Measured(at(1000))), "ends with the loss");
    w.run_to(2000).event(2010, Event::Resumed);
    assert_eq!(w.supply.measuring(), Measuring::Off);
    w.actions.clear();
    w.park(5000);
    assert!(!w.asked(Action::Measure));
}

#[test]
fn a_flicker_does_not_use_up_the_armed_measurement() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false)
        .event(50, Event::Measure(true))
        .power(100, true)
        .power(110, false);
    assert_eq!(w.supply.measuring(), Measuring::Armed);
    w.event(120, Event::Measure(false));
    assert_eq!(w.supply.measuring(), Measuring::Off);
    w.park(5000);
    assert!(!w.asked(Action::Measure), "disarmed");
}

#[test]
fn nobody_pulled_the_plug_for_half_an_hour_and_the_next_loss_is_an_ordinary_one() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false)
        .event(0, Event::Measure(true))
        .run_to(1_799_999);
    assert_eq!(w.supply.measuring(), Measuring::Armed);
    w.run_to(1_800_000);
    assert!(w.asked(Action::Notice(Notice::MeasureTimedOut)));
    w.park(1_900_000);
    assert!(!w.asked(Action::Measure));
}

#[test]
fn a_battery_is_measured_from_when_it_is_low_however_long_it_was_ridden() {
    let mut s = settings(Source::Battery);
    s.ride_max = Duration::from_secs(7200);
    let mut w = World::with(s, true);
    w.levels(0, false)
        .event(10, Event::Measure(true))
        .power(100, true)
        .run_to(7_100_000);
    assert_eq!(w.supply.measuring(), Measuring::Armed, "still riding");
    w.event(
        7_100_000,
        Event::Edge {
            line: Line::BatteryLow,
            asserted: true,
        },
    );
    assert_eq!(w.supply.measuring(), Measuring::Running);
    assert!(w.asked(Action::RunPlan {
        cause: Cause::BatteryLow,
        lost_at: at(7_100_000),
        deadline: at(7_102_000),
    }));
}

#[test]
fn a_running_measurement_is_not_ended_by_a_stuck_line_or_by_park_max_for_ten_minutes() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false)
        .event(50, Event::Measure(true))
        .park(100)
        .run_to(600_129);
    assert!(matches!(w.supply.state(), State::Parked { .. }));
    assert!(!w.actions.iter().any(|a| matches!(a, Action::Off(_))));
    w.run_to(600_130);
    assert!(w.asked(Action::Notice(Notice::LineStuck)));
}

#[test]
fn an_unmeasured_supply_can_be_measured() {
    let mut s = settings(Source::Capacitor);
    s.holdup = None;
    let mut w = World::with(s, true);
    w.levels(0, false).event(50, Event::Measure(true));
    w.power(100, true).run_to(130);
    assert!(w.asked(Action::Measure));
    assert!(w.asked(Action::RunPlan {
        cause: Cause::PowerFail,
        lost_at: at(100),
        deadline: at(600),
    }));
}

#[test]
fn a_boot_after_darkness_counts_the_empty_supply_in_the_deadline() {
    use crate::power::Before;
    let now = Mono::from_nanos(6_000_000_000);
    let mut supply = Supply::new(settings(Source::Capacitor), true).after(Before::Drained, now);
    supply.handle_event(
        Event::Levels(Levels {
            power_fail: Some(false),
            ..Levels::default()
        }),
        now,
    );
    // 6 s of 60 s of recharging give a tenth of 2 s.
    assert_eq!(supply.holdup_left(now), Duration::from_millis(200));
    supply.handle_event(
        Event::Edge {
            line: Line::PowerFail,
            asserted: true,
        },
        now,
    );
    supply.handle_timeout(now + Duration::from_millis(30));
    let State::Failing { deadline, .. } = supply.state() else {
        panic!("{:?}", supply.state())
    };
    assert_eq!(deadline.since(now), Duration::from_millis(200));
}
