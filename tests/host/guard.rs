//! The guard's threads against lines, a machine and databases that note what was asked of them.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdup::clock::{Clock, Mono, SystemClock};
use holdup::config::{FreezePolicy, OnParkMax, PowerSettings, Source};
use holdup::durable::{Gate, Medium};
use holdup::guard::{
    Answer, DatabaseView, Ended, Guard, GuardOptions, GuardedDatabase, Heartbeat, Lamps,
    LineOpener, LineReader, LinesLost, Machine, OutageRecord, PlanOptions, Request, Shared,
    read_last,
};
use holdup::power::{Budget, GaugeSeen, Levels, Line, Measuring, State};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll as poll_fds};

use crate::allocations;
use crate::home::poll;

/// What was asked of machine and databases, in order.
type Journal = Arc<Mutex<Vec<String>>>;

fn note(journal: &Journal, what: impl Into<String>) {
    journal.lock().expect("journal").push(what.into());
}

struct Wire {
    lost: bool,
    edges: Vec<(Line, bool, Mono)>,
}

#[derive(Clone)]
struct FakeLines {
    wire: Arc<Mutex<Wire>>,
    bell: Arc<OwnedFd>,
    /// The guard thread's allocations when the first edge was handed over, and now.
    at_edge: Arc<AtomicU64>,
    at_last: Arc<AtomicU64>,
}

impl FakeLines {
    fn set(&self, lost: bool) {
        let mut wire = self.wire.lock().expect("wire");
        wire.lost = lost;
        wire.edges.push((Line::PowerFail, lost, SystemClock.mono()));
        rustix::io::write(&*self.bell, &1u64.to_ne_bytes()).expect("bell");
    }
}

impl LineReader for FakeLines {
    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) -> Result<(), LinesLost> {
        self.at_last.store(allocations::so_far(), Ordering::SeqCst);
        let timeout = rustix::time::Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut fds = [
            PollFd::new(&*self.bell, PollFlags::IN),
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
        ];
        poll_fds(&mut fds, Some(&timeout)).ok();
        rustix::io::read(&*self.bell, &mut [0u8; 8]).ok();
        Ok(())
    }

    fn next_edge(&mut self) -> Result<Option<(Line, bool, Mono)>, LinesLost> {
        let mut wire = self.wire.lock().expect("wire");
        if wire.edges.is_empty() {
            return Ok(None);
        }
        self.at_edge
            .compare_exchange(
                u64::MAX,
                allocations::so_far(),
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .ok();
        Ok(Some(wire.edges.remove(0)))
    }

    fn levels(&mut self) -> Result<Levels, LinesLost> {
        let lost = self.wire.lock().expect("wire").lost;
        Ok(Levels {
            power_fail: Some(lost),
            ..Levels::default()
        })
    }

    fn gauge(&mut self) -> Option<GaugeSeen> {
        None
    }
}

struct Opener(FakeLines);

impl LineOpener for Opener {
    fn open(&mut self) -> Option<Box<dyn LineReader>> {
        Some(Box::new(self.0.clone()))
    }
}

struct NoLamps;

impl Lamps for NoLamps {
    fn set_status(&mut self, _on: bool) {}
    fn set_safe_to_cut(&mut self, _on: bool) {}
}

#[derive(Debug)]
struct FakeMachine {
    journal: Journal,
    refuses: Option<&'static str>,
}

impl Machine for FakeMachine {
    fn freeze_refusal(&self) -> Option<&str> {
        self.refuses
    }
    fn freeze(&self) -> io::Result<()> {
        note(&self.journal, "freeze");
        Ok(())
    }
    fn thaw(&self) -> io::Result<bool> {
        note(&self.journal, "thaw");
        Ok(true)
    }
    fn off(&self, _how: OnParkMax) -> io::Error {
        note(&self.journal, "off");
        io::Error::other("a fake")
    }
}

#[derive(Debug)]
struct FakeDatabase {
    name: &'static str,
    priority: i32,
    fails: bool,
    /// Another application's: so often its writer is not to be stilled.
    guarded: Option<u32>,
    /// What its log holds.
    frames: u32,
    journal: Journal,
}

impl GuardedDatabase for FakeDatabase {
    fn name(&self) -> &str {
        self.name
    }
    fn priority(&self) -> i32 {
        self.priority
    }
    fn frames(&self) -> u32 {
        self.frames
    }
    fn settle(&mut self) {}
    fn commit(&mut self, _left: Duration) -> Result<(), String> {
        note(&self.journal, format!("commit {}", self.name));
        if self.fails {
            Err("no answer from the card".to_owned())
        } else {
            Ok(())
        }
    }
    fn is_guarded(&self) -> bool {
        self.guarded.is_some()
    }
    fn still(&mut self, _patience: Duration) -> Result<(), String> {
        let refusals = self.guarded.unwrap_or_default();
        self.guarded = Some(refusals.saturating_sub(1));
        let how = if refusals > 0 {
            "cannot still"
        } else {
            "still"
        };
        note(&self.journal, format!("{how} {}", self.name));
        if refusals > 0 {
            return Err("a writer holds the lock".to_owned());
        }
        Ok(())
    }
    fn checkpoint(&mut self, _left: Duration) -> Result<u32, String> {
        note(&self.journal, format!("checkpoint {}", self.name));
        Ok(1)
    }
    fn is_quiet(&mut self, _patience: Duration) -> bool {
        true
    }
    fn checkpoint_early(&mut self) {}
    fn inspect(&mut self, _hurry: &dyn Fn() -> bool) {}
    fn release(&mut self) {
        note(&self.journal, format!("release {}", self.name));
    }
    fn view(&self) -> DatabaseView {
        DatabaseView {
            path: self.name.to_owned(),
            role: "own",
            priority: self.priority,
            wal_frames: None,
            wal_bytes: 0,
            problem: false,
            other_writers: false,
            state: String::new(),
        }
    }
}

struct World {
    home: tempfile::TempDir,
    lines: FakeLines,
    gate: Arc<Gate>,
    shared: Arc<Shared>,
    budget: Arc<Mutex<Budget>>,
    journal: Journal,
    guard: Option<Guard>,
}

/// What is special about a world.
#[derive(Clone, Copy, Default)]
struct Special {
    /// The first database's commits fail.
    fails: bool,
    /// The file system cannot be frozen.
    no_freeze: bool,
    /// The second database is another application's; see [`FakeDatabase`].
    guarded: Option<u32>,
    /// Blocks in that one's log.
    log: u32,
}

impl World {
    fn new(fails: bool) -> Self {
        Self::with(Special {
            fails,
            ..Special::default()
        })
    }

    fn with(special: Special) -> Self {
        let home = tempfile::tempdir().expect("temp dir");
        let settings = PowerSettings {
            source: Source::Capacitor,
            // Long enough for whatever a build machine has dirty: the freeze must fit.
            holdup: Some(Duration::from_secs(36_000)),
            glitch: Duration::from_millis(20),
            restore: Duration::from_millis(50),
            ride_max: Duration::from_secs(60),
            low_percent: 20,
            recharge: Duration::from_secs(1),
            settle_after: 0,
            settle: Duration::ZERO,
            park_max: Duration::from_secs(3600),
            on_park_max: OnParkMax::Stay,
            freeze: FreezePolicy::Auto,
            allow_poweroff: false,
        };
        let journal = Journal::default();
        let lines = FakeLines {
            wire: Arc::new(Mutex::new(Wire {
                lost: false,
                edges: Vec::with_capacity(64),
            })),
            bell: Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("eventfd")),
            at_edge: Arc::new(AtomicU64::new(u64::MAX)),
            at_last: Arc::new(AtomicU64::new(0)),
        };
        let medium = Arc::new(Medium::open(home.path()).expect("medium"));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (record, marks, _) = OutageRecord::open(
            &medium,
            &home.path().join("outage.rec"),
            "g",
            "boot-a",
            clock.wall(),
        )
        .expect("record");
        let (heartbeat, _) =
            Heartbeat::open(&medium, &home.path().join("beat"), "boot-a").expect("heartbeat");
        let database = |name, priority, fails, guarded| -> Box<dyn GuardedDatabase> {
            Box::new(FakeDatabase {
                name,
                priority,
                fails,
                guarded,
                frames: guarded.map_or(1, |_| special.log),
                journal: Arc::clone(&journal),
            })
        };
        let shared = Arc::new(Shared::new(settings, None).expect("shared"));
        let gate = Arc::new(Gate::new());
        let budget = Arc::new(Mutex::new(Budget::default()));
        let (guard, _notices) = Guard::start(GuardOptions {
            settings,
            can_cut: false,
            before: record.charge_before(),
            gate: Arc::clone(&gate),
            clock,
            machine: Arc::new(FakeMachine {
                journal: Arc::clone(&journal),
                refuses: special.no_freeze.then_some("a test"),
            }),
            opener: Box::new(Opener(lines.clone())),
            lamps: Box::new(NoLamps),
            shared: Arc::clone(&shared),
            plan: PlanOptions {
                medium,
                record,
                marks,
                databases: vec![
                    database("low", 1, special.fails, None),
                    database("high", 9, false, special.guarded),
                ],
                budget: Arc::clone(&budget),
                heartbeat: Some(heartbeat),
            },
            ended: Box::new(|| ()),
        })
        .expect("guard");
        let world = Self {
            home,
            lines,
            gate,
            shared,
            budget,
            journal,
            guard: Some(guard),
        };
        world.wait_for("Good");
        world
    }

    fn wait_for(&self, state: &str) {
        poll(state, || {
            (self.shared.published().state.name() == state).then_some(())
        });
    }

    fn journal(&self) -> Vec<String> {
        self.journal.lock().expect("journal").clone()
    }

    fn ended(&self) -> Ended {
        let record = self.home.path().join("outage.rec");
        read_last(&record, "boot-b")
            .expect("read")
            .expect("an outage")
            .ended
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(guard) = self.guard.take() {
            guard.join();
        }
    }
}

#[test]
fn the_plan_goes_by_priority_and_service_resumes_only_after_the_thaw() {
    let w = World::new(false);
    w.lines.set(true);
    w.wait_for("Parked");
    assert_eq!(
        w.journal(),
        [
            "commit high",
            "commit low",
            "checkpoint high",
            "checkpoint low",
            "freeze"
        ]
    );
    assert!(w.gate.is_closed());
    assert_eq!(w.ended(), Ended::Clean);
    w.lines.set(false);
    w.wait_for("Good");
    assert_eq!(w.journal()[5..], ["thaw", "release high", "release low"]);
    assert!(!w.gate.is_closed());
    assert!(w.shared.last_outage().expect("outage").resumed);
}

#[test]
fn the_guard_thread_allocates_nothing_from_the_edge_to_the_resume() {
    let w = World::new(false);
    w.lines.set(true);
    w.wait_for("Parked");
    w.lines.set(false);
    w.wait_for("Good");
    let turn = w.shared.beat();
    poll("one more turn", || (w.shared.beat() > turn).then_some(()));
    let before = w.lines.at_edge.load(Ordering::SeqCst);
    assert_ne!(before, u64::MAX, "no edge was handed over");
    assert_eq!(w.lines.at_last.load(Ordering::SeqCst) - before, 0);
}

#[test]
fn a_burst_of_edges_in_one_look_loses_no_action() {
    let w = World::new(false);
    {
        let mut wire = w.lines.wire.lock().expect("wire");
        let now = SystemClock.mono();
        for k in 0..32u64 {
            let at = now + Duration::from_micros(k * 10);
            wire.edges.push((Line::PowerFail, true, at));
            wire.edges
                .push((Line::PowerFail, false, at + Duration::from_micros(5)));
        }
        // The last level is lost, without an edge.
        wire.lost = true;
    }
    rustix::io::write(&*w.lines.bell, &1u64.to_ne_bytes()).expect("bell");
    w.wait_for("Parked");
    w.lines.set(false);
    w.wait_for("Good");
    assert!(!w.gate.is_closed());
}

#[test]
fn parked_is_not_said_while_a_writer_is_still_inside_the_gate() {
    let w = World::new(false);
    let pass = w.gate.try_enter().expect("open");
    w.lines.set(true);
    poll("the commits", || (w.journal().len() >= 2).then_some(()));
    // A second turn of the guard: the plan has gone on as far as it may.
    let turn = w.shared.beat();
    poll("two more turns", || {
        (w.shared.beat().since(turn) > Duration::from_secs(2)).then_some(())
    });
    assert!(matches!(w.shared.published().state, State::Failing { .. }));
    assert_eq!(
        w.journal(),
        ["commit high", "commit low"],
        "nothing after the gate"
    );
    drop(pass);
    w.wait_for("Parked");
}

#[test]
fn quiet_is_when_the_last_writer_left_not_when_the_loss_was_certain() {
    let w = World::new(false);
    // Longer than a busy machine leaves a thread waiting.
    let glitch = Duration::from_secs(3);
    let settings = w.shared.published().settings;
    w.shared.set_settings(PowerSettings { glitch, ..settings });
    poll("the settings", || {
        (w.shared.published().settings.glitch == glitch).then_some(())
    });
    let quiet = |leaves_in: &str| {
        let pass = w.gate.try_enter().expect("open");
        w.lines.set(true);
        w.wait_for(leaves_in);
        drop(pass);
        w.wait_for("Parked");
        let last = w.shared.last_outage().expect("outage");
        w.lines.set(false);
        w.wait_for("Good");
        last.edge_to_quiet_ms.expect("quiet")
    };
    let early = quiet("Suspect");
    assert!(early > 0.0 && early < 3000.0, "{early} ms");
    let late = quiet("Failing");
    assert!(late >= 3000.0, "{late} ms");
}

#[test]
fn what_is_not_durable_gets_no_end_mark() {
    let w = World::new(true);
    w.lines.set(true);
    w.wait_for("Parked");
    let last = w.shared.last_outage().expect("outage");
    assert_eq!(last.ended, Ended::Unfinished, "the gateway is still there");
    assert_eq!(last.edge_to_durable_ms, None);
    assert_eq!(w.ended(), Ended::Cut);
}

#[test]
fn a_rehearsal_runs_the_whole_plan_freezes_thaws_and_is_no_outage() {
    let w = World::new(false);
    w.shared.request(Request::Rehearse);
    poll("its end", || {
        (w.shared.answered() == Answer::Rehearsed).then_some(())
    });
    assert_eq!(
        w.journal(),
        [
            "commit high",
            "commit low",
            "checkpoint high",
            "checkpoint low",
            "freeze",
            "thaw",
            "release high",
            "release low"
        ]
    );
    let report = w.shared.last_rehearsal().expect("a report");
    assert_eq!(
        (report.kind.as_str(), report.ended, report.resumed),
        ("rehearsal", Ended::Clean, true)
    );
    let steps: Vec<_> = report.steps.iter().map(|s| &*s.step).collect();
    assert_eq!(
        steps,
        [
            "commit",
            "commit",
            "quiet",
            "checkpoint",
            "checkpoint",
            "end_mark",
            "syncfs",
            "freeze",
            "thaw"
        ]
    );
    assert!(
        report.steps[..8]
            .iter()
            .all(|s| s.outcome == "done" && s.worst_us.is_some()),
        "{report:?}"
    );
    assert!(!w.gate.is_closed());
    assert_eq!(w.shared.last_outage(), None);
    let record = w.home.path().join("outage.rec");
    let last = read_last(&record, "boot-b").expect("read").expect("gone");
    assert_eq!(
        last.kind, "power_cut",
        "a finished rehearsal leaves no trace"
    );
}

#[test]
fn power_lost_in_a_rehearsal_thaws_and_runs_the_real_plan_before_the_gate_opens() {
    let w = World::new(false);
    // Holds the rehearsal in its plan until power is lost.
    let pass = w.gate.try_enter().expect("open");
    w.shared.request(Request::Rehearse);
    poll("the rehearsal's commits", || {
        (w.journal().len() == 2).then_some(())
    });
    w.lines.set(true);
    drop(pass);
    w.wait_for("Parked");
    assert_eq!(w.shared.answered(), Answer::Overtaken);
    let real = w.shared.last_outage().expect("an outage");
    assert_eq!(
        (real.kind.as_str(), real.ended),
        ("power_fail", Ended::Clean)
    );
    assert_eq!(
        w.journal()[4..],
        [
            "freeze",
            "thaw",
            "release high",
            "release low",
            "commit high",
            "commit low",
            "checkpoint high",
            "checkpoint low",
            "freeze"
        ]
    );
    assert!(w.gate.is_closed());
}

#[test]
fn the_guard_thread_allocates_nothing_in_a_rehearsal() {
    let w = World::new(false);
    let turn = w.shared.beat();
    poll("one more turn", || (w.shared.beat() > turn).then_some(()));
    let before = w.lines.at_last.load(Ordering::SeqCst);
    w.shared.request(Request::Rehearse);
    poll("its end", || {
        (w.shared.answered() == Answer::Rehearsed).then_some(())
    });
    let turn = w.shared.beat();
    poll("one more turn", || (w.shared.beat() > turn).then_some(()));
    assert_eq!(w.lines.at_last.load(Ordering::SeqCst) - before, 0);
}

#[test]
fn a_measured_loss_is_not_frozen_and_power_back_ends_its_heartbeat_before_service_resumes() {
    let w = World::new(false);
    w.shared.request(Request::Arm);
    poll("the answer", || {
        (w.shared.answered() == Answer::Armed).then_some(())
    });
    w.lines.set(true);
    w.wait_for("Parked");
    assert!(
        !w.journal().contains(&"freeze".to_owned()),
        "{:?}",
        w.journal()
    );
    let last = w.shared.last_outage().expect("outage");
    let freeze = last.steps.iter().find(|s| s.step == "freeze");
    assert_eq!(
        freeze.and_then(|s| s.why.as_deref()),
        Some("measuring"),
        "{last:?}"
    );
    assert_eq!(last.ended, Ended::Clean);
    let medium = Medium::open(w.home.path()).expect("medium");
    let beat = w.home.path().join("beat");
    let stamps = || Heartbeat::open(&medium, &beat, "boot-b").expect("open").1;
    poll("stamps", || stamps().filter(|m| m.stamps > 5));
    assert!(
        !stamps().expect("stamps").at_least,
        "as a cut would leave it"
    );
    assert_eq!(w.shared.published().measuring, Measuring::Running);
    w.lines.set(false);
    w.wait_for("Good");
    let measured = w.shared.take_measured().expect("measured");
    assert!(measured.at_least);
    assert_eq!(measured.stamps, stamps().expect("stamps").stamps);
    assert_eq!(w.shared.published().measuring, Measuring::Off);
    // And the next loss is an ordinary one.
    w.lines.set(true);
    w.wait_for("Parked");
    assert!(
        w.journal().contains(&"freeze".to_owned()),
        "{:?}",
        w.journal()
    );
}

#[test]
fn what_is_not_durable_is_not_measured() {
    let w = World::new(true);
    w.shared.request(Request::Arm);
    poll("the answer", || {
        (w.shared.answered() == Answer::Armed).then_some(())
    });
    w.lines.set(true);
    w.wait_for("Parked");
    w.lines.set(false);
    w.wait_for("Good");
    assert_eq!(w.shared.take_measured(), None);
    let medium = Medium::open(w.home.path()).expect("medium");
    let beat = w.home.path().join("beat");
    assert_eq!(
        Heartbeat::open(&medium, &beat, "b").expect("open").1,
        None,
        "no stamp before the end mark"
    );
}

#[test]
fn a_writer_that_could_not_be_stilled_is_tried_once_more_when_nothing_is_endangered() {
    for (no_freeze, refusals) in [(true, 0), (true, 1), (true, 2), (false, 1)] {
        let w = World::with(Special {
            no_freeze,
            guarded: Some(refusals),
            ..Special::default()
        });
        w.lines.set(true);
        w.wait_for("Parked");
        let mut expected = vec![
            "commit low",
            "commit high",
            if refusals > 0 {
                "cannot still high"
            } else {
                "still high"
            },
            "checkpoint high",
            "checkpoint low",
        ];
        // A frozen file system holds everybody.
        expected.extend((!no_freeze).then_some("freeze"));
        expected.extend((no_freeze && refusals == 1).then_some("still high"));
        expected.extend((no_freeze && refusals == 2).then_some("cannot still high"));
        assert_eq!(w.journal(), expected);
        let outage = w.shared.last_outage().expect("an outage");
        assert_eq!(outage.ended, Ended::Clean, "ours is durable all the same");
        let stilled: Vec<_> = outage.steps.iter().filter(|s| s.step == "still").collect();
        let last = stilled.last().expect("a step");
        assert_eq!(last.outcome == "done", no_freeze && refusals < 2, "{last}");
    }
}

#[test]
fn another_applications_log_is_moved_only_where_that_fits_and_teaches_what_it_took() {
    for (log, fits) in [(u32::MAX, false), (100, true), (0, true)] {
        let w = World::with(Special {
            guarded: Some(0),
            log,
            ..Special::default()
        });
        w.lines.set(true);
        w.wait_for("Parked");
        let moved = w.journal().iter().any(|e| e == "checkpoint high");
        assert_eq!(moved, fits, "{log} blocks");
        let outage = w.shared.last_outage().expect("an outage");
        assert_eq!(outage.ended, Ended::Clean, "{log} blocks");
        let budget = w.budget.lock().expect("lock").clone();
        assert_eq!(budget.block.is_empty(), log != 100, "{log} blocks");
        assert_eq!(budget.other.is_empty(), log != 100, "{log} blocks");
        assert!(
            budget.checkpoint.is_empty() && budget.frame.is_empty(),
            "ours"
        );
    }
}
