//! The poller against a chip that says what it is told to, under a clock that stands still.

use std::path::PathBuf;

use super::*;
use crate::board::gauge::{ChipFault, Measured};
use crate::clock::ManualClock;
use crate::config::GaugeKind;

#[derive(Clone, Default)]
struct Script(Arc<Mutex<Vec<Result<Measured, ChipFault>>>>);

impl Chip for Script {
    fn measure(&mut self) -> Result<Measured, ChipFault> {
        lock(&self.0).remove(0)
    }
}

struct World {
    script: Script,
    clock: Arc<ManualClock>,
    poller: Poller,
    view: GaugeView,
}

impl World {
    fn new() -> Self {
        let script = Script::default();
        let clock = Arc::new(ManualClock::new());
        let settings = GaugeSettings {
            kind: GaugeKind::Max17040,
            bus: PathBuf::from("/dev/i2c-1"),
            address: 0x36,
            poll: Duration::from_secs(5),
        };
        let chip: Box<dyn Chip> = Box::new(script.clone());
        let (poller, view) = Poller::new(settings, Some(chip), Arc::clone(&clock) as Arc<_>);
        Self {
            script,
            clock,
            poller,
            view,
        }
    }

    /// The next poll gives this, 5 s later.
    fn poll(&mut self, said: Result<Measured, ChipFault>) -> Duration {
        lock(&self.script.0).push(said);
        self.clock.advance(Duration::from_secs(5));
        self.poller.poll()
    }
}

fn charge(percent: f32) -> Result<Measured, ChipFault> {
    Ok(Measured {
        volts: 3.8,
        percent,
        charging: None,
    })
}

fn silence() -> Result<Measured, ChipFault> {
    Err(ChipFault::Bus("no acknowledge".to_owned()))
}

#[test]
fn a_reading_that_three_polls_did_not_renew_is_none() {
    let mut w = World::new();
    let mut tap = w.view.tap();
    assert_eq!(tap.look(w.clock.mono()), None);
    w.poll(charge(60.0));
    let percent = |r: Option<GaugeReading>| r.map(|r| r.percent);
    for _ in 0..3 {
        w.poll(silence());
        assert_eq!(percent(tap.look(w.clock.mono())), Some(60.0));
    }
    w.poll(silence());
    assert_eq!(percent(tap.look(w.clock.mono())), None, "for the guard");
    assert_eq!(percent(w.view.reading(w.clock.mono())), None, "for status");
    w.poll(charge(59.0));
    assert_eq!(percent(tap.look(w.clock.mono())), Some(59.0));
}

#[test]
fn every_poll_without_a_reading_is_counted_and_says_why() {
    let mut w = World::new();
    w.poll(charge(60.0));
    w.poll(Err(ChipFault::Nonsense("0.00 V for one cell".to_owned())));
    w.poll(silence());
    let seen = w.view.seen();
    assert_eq!(seen.failures, 2);
    let why = seen.problem.expect("a problem");
    assert!(
        why.contains("max17040 answers at 0x36 on /dev/i2c-1 (no acknowledge)"),
        "{why}"
    );
    assert_eq!(seen.reading.expect("kept").percent, 60.0, "never acted on");
    w.poll(charge(61.0));
    assert_eq!(w.view.seen().problem, None);
}

#[test]
fn the_second_reading_comes_soon_because_one_alone_is_not_believed() {
    let mut w = World::new();
    assert_eq!(w.poll(silence()), Duration::from_secs(5));
    assert_eq!(w.poll(charge(3.0)), Duration::from_secs(1));
    assert_eq!(w.poll(charge(3.0)), Duration::from_secs(5));
}

#[test]
fn the_guard_never_waits_for_the_poller() {
    let mut w = World::new();
    let mut tap = w.view.tap();
    w.poll(charge(60.0));
    tap.look(w.clock.mono());
    w.poll(charge(50.0));
    let held = w
        .poller
        .shared
        .seen
        .lock()
        .expect("held as the poller does");
    let seen = tap.look(w.clock.mono()).map(|r| r.percent);
    assert_eq!(seen, Some(60.0), "the one before");
    drop(held);
    assert_eq!(
        tap.look(w.clock.mono()).map(|r| r.percent),
        Some(50.0),
        "now the new one"
    );
}

#[test]
fn a_bus_that_is_not_there_is_named_with_its_remedy() {
    let w = World::new();
    let settings = GaugeSettings {
        bus: PathBuf::from("/dev/i2c-nowhere"),
        ..w.poller.settings
    };
    let (mut poller, view) = Poller::new(settings, None, w.clock);
    poller.poll();
    let why = view.seen().problem.expect("a problem");
    assert!(
        why.contains("/dev/i2c-nowhere") && why.contains("dtparam=i2c_arm=on"),
        "{why}"
    );
}
