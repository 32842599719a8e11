//! The supply against tables of events; time is an argument, so nothing waits.

use super::*;

mod exercise;
use crate::config::FreezePolicy;

const T0: Mono = Mono::from_nanos(1_000_000_000_000);

fn at(ms: u64) -> Mono {
    T0 + Duration::from_millis(ms)
}

fn settings(source: Source) -> PowerSettings {
    PowerSettings {
        source,
        holdup: Some(Duration::from_millis(2000)),
        glitch: Duration::from_millis(30),
        restore: Duration::from_millis(1000),
        ride_max: Duration::from_secs(600),
        low_percent: 20,
        recharge: Duration::from_secs(60),
        settle_after: 3,
        settle: Duration::from_secs(10),
        park_max: Duration::from_secs(20),
        on_park_max: OnParkMax::PowerOff,
        freeze: FreezePolicy::Auto,
        allow_poweroff: true,
    }
}

fn gauge(read_ms: u64, percent: f32) -> Event {
    let read_at = at(read_ms);
    Event::Gauge(Some(GaugeSeen { percent, read_at }))
}

/// A supply and everything that it asked for.
struct World {
    supply: Supply,
    actions: Vec<Action>,
}

impl World {
    fn new(source: Source) -> Self {
        Self::with(settings(source), true)
    }

    fn with(settings: PowerSettings, can_cut: bool) -> Self {
        Self {
            supply: Supply::new(settings, can_cut),
            actions: Vec::new(),
        }
    }

    fn event(&mut self, ms: u64, event: Event) -> &mut Self {
        self.supply.handle_event(event, at(ms));
        self.drain()
    }

    fn power(&mut self, ms: u64, lost: bool) -> &mut Self {
        self.event(
            ms,
            Event::Edge {
                line: Line::PowerFail,
                asserted: lost,
            },
        )
    }

    fn levels(&mut self, ms: u64, lost: bool) -> &mut Self {
        self.event(
            ms,
            Event::Levels(Levels {
                power_fail: Some(lost),
                ..Levels::default()
            }),
        )
    }

    /// Lets time pass as the guard does: from deadline to deadline.
    fn run_to(&mut self, ms: u64) -> &mut Self {
        let mut now = T0;
        while let Some(next) = self.supply.next_deadline(now) {
            if next > at(ms) {
                break;
            }
            now = next.max(now);
            let before = (self.supply.state(), self.actions.len());
            self.supply.handle_timeout(now);
            self.drain();
            if before == (self.supply.state(), self.actions.len())
                && self.supply.next_deadline(now) == Some(next)
            {
                panic!(
                    "deadline {next:?} in {:?} leads nowhere",
                    self.supply.state()
                );
            }
        }
        self
    }

    fn drain(&mut self) -> &mut Self {
        while let Some(a) = self.supply.poll_action() {
            self.actions.push(a);
        }
        self
    }

    fn plans(&self) -> usize {
        self.actions
            .iter()
            .filter(|a| matches!(a, Action::RunPlan { .. }))
            .count()
    }

    fn asked(&self, action: Action) -> bool {
        self.actions.contains(&action)
    }

    /// Lost at `ms`, plan done 50 ms after the commit point.
    fn park(&mut self, ms: u64) -> &mut Self {
        self.power(ms, true).run_to(ms + 30);
        assert!(
            matches!(self.supply.state(), State::Failing { .. }),
            "{:?}",
            self.supply.state()
        );
        self.event(ms + 80, Event::PlanDone)
    }
}

#[test]
fn a_flicker_closes_the_gate_and_opens_it_again_and_runs_no_plan() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).power(100, true);
    assert!(w.asked(Action::CloseGate), "the first edge stops writing");
    w.power(120, false);
    assert_eq!(w.supply.state(), State::Good);
    assert_eq!(
        w.actions.last(),
        Some(&Action::Notice(Notice::Flicker {
            lost: Duration::from_millis(20)
        }))
    );
    w.run_to(10_000);
    assert_eq!(w.plans(), 0);
}

#[test]
fn the_plan_starts_at_the_commit_point_and_its_deadline_counts_from_the_first_edge() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).power(100, true).run_to(129);
    assert_eq!(w.plans(), 0, "not before the commit point");
    w.run_to(130);
    assert!(w.asked(Action::RunPlan {
        cause: Cause::PowerFail,
        lost_at: at(100),
        deadline: at(2100),
    }));
}

#[test]
fn power_back_before_the_commit_point_resumes_ingest() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false)
        .power(100, true)
        .run_to(128)
        .power(129, false);
    assert_eq!(w.supply.state(), State::Good);
    assert!(w.asked(Action::OpenGate));
    assert_eq!(w.plans(), 0);
}

#[test]
fn chatter_commits_once_and_no_later_than_a_clean_loss_would_by_much() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false);
    for k in 0..200 {
        w.power(100 + k * 10, true).run_to(100 + k * 10 + 5);
        w.power(105 + k * 10, false);
    }
    assert_eq!(w.plans(), 1);
    let Some(Action::RunPlan { lost_at, .. }) = w
        .actions
        .iter()
        .find(|a| matches!(a, Action::RunPlan { .. }))
        .copied()
    else {
        panic!("no plan")
    };
    assert_eq!(lost_at, at(100), "the first edge of the chatter");
}

#[test]
fn power_back_after_the_commit_point_still_parks_and_then_resumes_without_a_reboot() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false)
        .power(100, true)
        .run_to(130)
        .power(140, false);
    assert!(
        matches!(w.supply.state(), State::Failing { .. }),
        "the plan runs to its end"
    );
    w.event(200, Event::PlanDone);
    assert!(matches!(w.supply.state(), State::Parked { .. }));
    w.run_to(1139);
    assert!(!w.asked(Action::Resume), "not before power was steady");
    w.run_to(1140);
    assert!(w.asked(Action::Resume));
    w.event(1200, Event::Resumed);
    assert_eq!(w.supply.state(), State::Good);
    assert_eq!(w.actions.last(), Some(&Action::Notice(Notice::Resumed)));
}

#[test]
fn power_that_is_back_while_parked_says_what_it_waits_for_and_until_when() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).park(100);
    assert_eq!(w.supply.wait(at(500)), None, "power is lost");
    w.power(1000, false);
    let wait = |until, settling| Some(Wait { until, settling });
    assert_eq!(w.supply.wait(at(1200)), wait(at(2000), false));
    w.run_to(2000).event(2000, Event::Resumed);
    assert_eq!(w.supply.wait(at(2100)), None, "it serves");
    for ms in [3000, 6000] {
        w.park(ms).power(ms + 500, false);
        if ms == 3000 {
            w.run_to(ms + 1500).event(ms + 1500, Event::Resumed);
        }
    }
    assert_eq!(
        w.supply.wait(at(6600)),
        wait(at(16_500), true),
        "the third outage: settle"
    );
}

#[test]
fn power_that_comes_and_goes_while_parked_does_not_resume() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).park(100);
    for k in 0..5 {
        w.power(1000 + k * 900, false).run_to(1000 + k * 900 + 800);
        w.power(1800 + k * 900, true);
    }
    assert!(!w.asked(Action::Resume));
}

#[test]
fn power_lost_again_while_thawing_runs_a_second_plan_and_never_opens_the_gate() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).park(100).power(500, false).run_to(1500);
    assert!(w.asked(Action::Resume));
    let opened = |w: &World| w.actions.iter().filter(|a| **a == Action::OpenGate).count();
    let before = opened(&w);
    w.power(1510, true).event(1600, Event::Resumed).run_to(1700);
    assert_eq!(w.plans(), 2);
    assert_eq!(opened(&w), before);
}

#[test]
fn an_outage_that_begins_while_thawing_has_its_own_glitch_time_and_deadline() {
    let mut s = settings(Source::Capacitor);
    s.recharge = Duration::ZERO;
    let mut w = World::with(s, true);
    w.levels(0, false).park(100).power(150, false).run_to(1150);
    assert!(matches!(w.supply.state(), State::Resuming { .. }));
    w.power(1160, true).event(1170, Event::Resumed).run_to(1189);
    assert_eq!(w.plans(), 1, "its glitch time is not over");
    w.run_to(1190);
    assert!(w.asked(Action::RunPlan {
        cause: Cause::PowerFail,
        lost_at: at(1160),
        deadline: at(3160),
    }));
}

#[test]
fn a_line_that_is_low_at_start_is_power_loss_now() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, true).run_to(30);
    assert_eq!(w.plans(), 1);
    assert!(!w.asked(Action::OpenGate));
}

#[test]
fn a_loss_whose_edge_was_dropped_is_found_by_the_level() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).levels(500, true).run_to(530);
    assert_eq!(w.plans(), 1);
}

#[test]
fn a_line_that_stays_lost_longer_than_any_capacitor_lasts_is_stuck() {
    let mut w = World::new(Source::Capacitor);
    let mut s = settings(Source::Capacitor);
    s.park_max = Duration::from_secs(300);
    w.supply = Supply::new(s, true);
    w.levels(0, false).park(100).run_to(30_099);
    assert!(!w.asked(Action::Resume));
    w.run_to(30_100);
    assert!(w.asked(Action::Notice(Notice::LineStuck)));
    w.event(30_150, Event::Resumed);
    assert_eq!(w.supply.state(), State::Good);
    assert_eq!(w.supply.line_health(), LineHealth::Stuck);
    w.levels(31_000, true).run_to(1_000_000);
    assert_eq!(w.plans(), 1, "a line that lies starts no plan");
    assert!(
        !w.actions.iter().any(|a| matches!(a, Action::Off(_))),
        "and powers nothing off"
    );
    w.levels(40_000, false);
    assert_eq!(w.supply.line_health(), LineHealth::Good);
    w.power(50_000, true).run_to(50_030);
    assert_eq!(w.plans(), 2, "believed again");
}

#[test]
fn missing_lines_leave_the_agent_serving() {
    let mut w = World::new(Source::Capacitor);
    w.event(0, Event::LinesMissing);
    assert_eq!(w.supply.state(), State::Good);
    assert!(w.asked(Action::OpenGate));
    assert_eq!(w.supply.line_health(), LineHealth::Missing);
    w.levels(100, false);
    assert_eq!(w.supply.line_health(), LineHealth::Good);
}

#[test]
fn brownout_sheds_and_checkpoints_and_never_stops_service() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).event(
        100,
        Event::Edge {
            line: Line::Brownout,
            asserted: true,
        },
    );
    assert_eq!(w.supply.state(), State::Brownout);
    assert!(w.asked(Action::Shed(true)) && w.asked(Action::EarlyCheckpoint));
    w.run_to(60_000);
    assert!(!w.asked(Action::CloseGate));
    w.event(
        60_000,
        Event::Edge {
            line: Line::Brownout,
            asserted: false,
        },
    )
    .run_to(61_000);
    assert_eq!(w.supply.state(), State::Good);
    assert!(w.asked(Action::Shed(false)));
}

#[test]
fn a_battery_goes_on_serving_until_it_is_low() {
    let mut w = World::new(Source::Battery);
    w.levels(0, false).power(100, true).run_to(130);
    assert_eq!(w.supply.state(), State::OnBattery { since: at(100) });
    assert!(w.asked(Action::Ride(true)));
    assert_eq!(
        w.actions
            .iter()
            .rev()
            .find(|a| matches!(a, Action::OpenGate | Action::CloseGate)),
        Some(&Action::OpenGate)
    );
    w.event(
        5000,
        Event::Edge {
            line: Line::BatteryLow,
            asserted: true,
        },
    );
    assert!(w.asked(Action::RunPlan {
        cause: Cause::BatteryLow,
        lost_at: at(5000),
        deadline: at(7000),
    }));
}

#[test]
fn riding_draws_nothing_from_the_hold_up_time_which_begins_when_the_battery_is_low() {
    let mut w = World::new(Source::Battery);
    let full = Duration::from_secs(2);
    w.levels(0, false).power(100, true).run_to(300_000);
    assert!(matches!(w.supply.state(), State::OnBattery { .. }));
    assert_eq!(w.supply.holdup_left(at(300_000)), full, "while riding");
    w.power(310_000, false).run_to(311_000);
    assert_eq!(w.supply.holdup_left(at(311_000)), full, "after the ride");
    w.power(320_000, true).run_to(320_030).event(
        320_500,
        Event::Edge {
            line: Line::BatteryLow,
            asserted: true,
        },
    );
    assert_eq!(
        w.supply.holdup_left(at(321_000)),
        Duration::from_millis(1500),
        "since it is low"
    );
    w.event(320_900, Event::PlanDone)
        .power(321_500, false)
        .power(321_510, true);
    let left = w.supply.holdup_left(at(321_600));
    assert!(
        left < Duration::from_millis(950),
        "lost again while parked, it draws on: {left:?}"
    );
}

#[test]
fn a_battery_that_is_low_again_has_what_the_first_plan_left() {
    let mut w = World::new(Source::Battery);
    let low = Event::Edge {
        line: Line::BatteryLow,
        asserted: true,
    };
    w.levels(0, false).event(1, low).park(100);
    w.power(1130, false)
        .run_to(2130)
        .event(2130, Event::Resumed)
        .power(2200, true)
        .run_to(2230);
    let left = |a: &Action| {
        let Action::RunPlan { deadline, .. } = a else {
            return None;
        };
        Some(deadline.since(at(2230)))
    };
    let left = w.actions.iter().rev().find_map(left).expect("a plan");
    assert!(
        left > Duration::from_millis(1000) && left < Duration::from_millis(1100),
        "a second of two was drawn, a second of sixty recharged: {left:?}"
    );
}

#[test]
fn one_misread_gauge_does_not_end_the_ride() {
    let mut w = World::new(Source::Battery);
    w.levels(0, false).power(100, true).run_to(130);
    w.event(1000, gauge(1000, 0.0))
        .event(2000, gauge(2000, 80.0));
    assert_eq!(w.plans(), 0);
    w.event(3000, gauge(3000, 19.0))
        .event(4000, gauge(4000, 19.0));
    assert_eq!(w.plans(), 1);
}

#[test]
fn a_low_gauge_reading_that_is_looked_at_twice_counts_once() {
    let mut w = World::new(Source::Battery);
    w.levels(0, false).power(100, true).run_to(130);
    for ms in [1000, 2000, 3000, 4000] {
        w.event(ms, gauge(900, 3.0));
    }
    assert_eq!(w.plans(), 0, "one reading, looked at four times");
    // Gone in between: what it said before is no longer there to agree.
    w.event(5000, Event::Gauge(None))
        .event(6000, gauge(5900, 3.0));
    assert_eq!(w.plans(), 0);
    w.event(7000, gauge(6900, 3.0));
    assert_eq!(w.plans(), 1);
}

#[test]
fn a_capacitor_runs_no_plan_because_a_gauge_says_empty() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false);
    for k in 1..10 {
        w.event(k * 1000, gauge(k * 1000, 0.0));
    }
    w.run_to(60_000);
    assert_eq!((w.plans(), w.supply.state()), (0, State::Good));
}

#[test]
fn a_ride_ends_at_its_longest_time() {
    let mut w = World::new(Source::Battery);
    w.levels(0, false).power(100, true).run_to(600_099);
    assert_eq!(w.plans(), 0);
    w.run_to(600_100);
    assert_eq!(w.plans(), 1);
}

#[test]
fn mains_back_ends_the_ride_without_a_trace() {
    let mut w = World::new(Source::Battery);
    w.levels(0, false)
        .power(100, true)
        .run_to(130)
        .power(60_000, false)
        .run_to(61_000);
    assert_eq!(w.supply.state(), State::Good);
    assert!(w.asked(Action::Ride(false)));
    assert_eq!(w.plans(), 0);
}

#[test]
fn power_goes_off_only_after_park_max_and_only_where_something_brings_it_back() {
    let mut w = World::new(Source::Battery);
    w.levels(0, false).event(
        1,
        Event::Edge {
            line: Line::BatteryLow,
            asserted: true,
        },
    );
    w.park(100).run_to(20_179);
    assert!(!w.asked(Action::Off(OnParkMax::PowerOff)));
    w.run_to(20_180);
    assert!(w.asked(Action::Off(OnParkMax::PowerOff)));

    for (allow, can_cut) in [(false, true), (true, false)] {
        let mut s = settings(Source::Battery);
        s.allow_poweroff = allow;
        let mut w = World::with(s, can_cut);
        w.levels(0, false).event(
            1,
            Event::Edge {
                line: Line::BatteryLow,
                asserted: true,
            },
        );
        w.park(100).run_to(10_000_000);
        assert!(!w.actions.iter().any(|a| matches!(a, Action::Off(_))));
        assert!(w.asked(Action::Notice(Notice::StayingParked)));
        w.power(10_000_001, false).run_to(10_001_001);
        assert!(
            w.asked(Action::Resume),
            "and still resumes when power is back"
        );
    }
}

#[test]
fn an_old_countdown_does_not_cut_the_next_outage_short() {
    let mut s = settings(Source::Battery);
    s.settle_after = 0;
    let mut w = World::with(s, true);
    w.levels(0, false).event(
        1,
        Event::Edge {
            line: Line::BatteryLow,
            asserted: true,
        },
    );
    w.park(100).run_to(15_000);
    w.power(15_000, false)
        .run_to(16_000)
        .event(16_000, Event::Resumed);
    w.park(18_000).run_to(38_079);
    assert!(
        !w.asked(Action::Off(OnParkMax::PowerOff)),
        "the first outage's park_max is over"
    );
    w.run_to(38_080);
    assert!(w.asked(Action::Off(OnParkMax::PowerOff)));
}

#[test]
fn after_repeated_outages_resuming_waits_until_power_is_steady_or_the_gauge_says_charged() {
    for (percent, resumes_after) in [(50.0, 10_000), (95.0, 1000)] {
        let mut w = World::new(Source::Capacitor);
        w.levels(0, false).event(1, gauge(1, percent));
        for k in 0..2u64 {
            let t = 100 + k * 5000;
            w.park(t)
                .power(t + 200, false)
                .run_to(t + 1200)
                .event(t + 1300, Event::Resumed);
            assert_eq!(w.supply.state(), State::Good);
        }
        w.park(20_000)
            .power(20_500, false)
            .run_to(20_500 + resumes_after - 1);
        assert!(matches!(w.supply.state(), State::Parked { .. }));
        w.run_to(20_500 + resumes_after);
        assert!(matches!(w.supply.state(), State::Resuming { .. }));
    }
}

#[test]
fn after_repeated_outages_a_gateway_that_boots_waits_too() {
    let booted = |outages: u64| {
        let mut w = World::new(Source::Capacitor);
        for _ in 0..outages {
            w.supply.remember(T0 - Duration::from_secs(30));
        }
        w
    };
    let mut w = booted(2);
    w.levels(0, false);
    assert_eq!(w.supply.state(), State::Good, "two are not repeated yet");
    let mut w = booted(3);
    w.levels(0, false).run_to(9999);
    assert_eq!(w.supply.state(), State::Starting);
    assert!(!w.asked(Action::OpenGate));
    w.run_to(10_000);
    assert_eq!(w.supply.state(), State::Good);
    // Not steady: from the start again.
    let mut w = booted(3);
    w.levels(0, false)
        .power(5000, true)
        .power(5005, false)
        .run_to(15_004);
    assert_eq!(w.supply.state(), State::Starting);
    w.run_to(15_005);
    assert_eq!(w.supply.state(), State::Good);
    // The gauge says charged.
    let mut w = booted(3);
    w.levels(0, false).event(1000, gauge(1000, 95.0));
    assert_eq!(w.supply.state(), State::Good);
}

#[test]
fn a_second_loss_has_the_time_that_the_first_one_left() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false)
        .park(100)
        .power(1100, false)
        .run_to(2100)
        .event(2100, Event::Resumed);
    w.power(2200, true).run_to(2230);
    let Some(Action::RunPlan {
        deadline, lost_at, ..
    }) = w
        .actions
        .iter()
        .rfind(|a| matches!(a, Action::RunPlan { .. }))
        .copied()
    else {
        panic!("no plan")
    };
    let left = deadline.since(lost_at);
    assert!(
        left < Duration::from_millis(1050),
        "1 s was drawn of 2 s: {left:?}"
    );
    assert!(left > Duration::from_millis(950), "{left:?}");
}

#[test]
fn a_stop_runs_the_plan_and_a_stop_while_parked_thaws_first() {
    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).event(100, Event::Stop);
    assert_eq!(w.supply.state(), State::Stopping);
    assert_eq!(w.plans(), 1);
    w.event(200, Event::PlanDone);
    assert!(w.asked(Action::Exit));

    let mut w = World::new(Source::Capacitor);
    w.levels(0, false).park(100).event(500, Event::Stop);
    assert!(w.asked(Action::Resume));
    assert!(!w.asked(Action::Exit));
    w.event(600, Event::Resumed).event(700, Event::PlanDone);
    assert!(w.asked(Action::Exit));
}

#[test]
fn any_order_of_events_keeps_the_gate_closed_from_the_plan_to_the_thaw() {
    use proptest::prelude::*;
    let event = prop_oneof![
        4 => any::<bool>().prop_map(|l| Event::Edge { line: Line::PowerFail, asserted: l }),
        2 => any::<bool>().prop_map(|l| Event::Levels(Levels { power_fail: Some(l), ..Levels::default() })),
        1 => any::<bool>().prop_map(|l| Event::Edge { line: Line::Brownout, asserted: l }),
        1 => any::<bool>().prop_map(|l| Event::Edge { line: Line::BatteryLow, asserted: l }),
        1 => (0f32..100.0).prop_map(|percent| gauge(0, percent)),
        1 => Just(Event::LinesMissing),
        3 => Just(Event::PlanDone),
        3 => Just(Event::Resumed),
        1 => Just(Event::Rehearse),
        1 => any::<bool>().prop_map(Event::Measure),
    ];
    let source = prop_oneof![Just(Source::Capacitor), Just(Source::Battery)];
    let steps = prop::collection::vec((event, 0u64..2000), 1..200);
    proptest!(|(source in source, steps in steps)| {
        let mut w = World::new(source);
        w.event(0, Event::Levels(Levels { power_fail: Some(false), ..Levels::default() }));
        let mut ms = 1;
        let (mut parked, mut open) = (false, true);
        for (event, wait) in steps {
            let seen = w.actions.len();
            w.event(ms, event);
            ms += wait;
            w.run_to(ms);
            for a in &w.actions[seen..] {
                match a {
                    Action::CloseGate => open = false,
                    Action::OpenGate => {
                        prop_assert!(!parked, "the gate opened before the thaw");
                        open = true;
                    }
                    Action::RunPlan { .. } => {
                        prop_assert!(!open, "a plan ran with the gate open");
                        parked = true;
                    }
                    Action::Resume => parked = false,
                    Action::Ride(_)
                    | Action::Shed(_)
                    | Action::EarlyCheckpoint
                    | Action::Off(_)
                    | Action::Measure
                    | Action::Measured(_)
                    | Action::Exit
                    | Action::Notice(_) => {}
                }
            }
        }
    });
}
