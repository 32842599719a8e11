//! The plan thread: runs the plan's steps, each of which may block, and tells how each went.

mod exercise;
mod stilling;

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use heapless::Vec;

use crate::clock::{Clock, Mono, Wall};
use crate::durable::{BlockFile, Gate, Medium};
use crate::power::{Budget, Cause, StepCost, StepKind};

use super::databases::GuardedDatabase;
use super::heartbeat::Heartbeat;
use super::machine::Machine;
use super::marker::Marker;
use super::orders::{Orders, order};
use super::plan::{Decision, Plan, STEPS, Step};
use super::realtime::{self, Priority};
use super::record::{Ended, LastOutage, OutageRecord, StepReport, millis};
use super::shared::{Shared, call};

use exercise::Thaw;

/// How long the thread sleeps without an order; then it looks at the databases for status.
const IDLE: Duration = Duration::from_secs(10);
/// What a step is given when the hold-up time is over but the supply still lives.
const GRACE: Duration = Duration::from_secs(2);

/// While it waits for the last writer, the thread looks this often whether there is an order.
const LOOK_UP: Duration = Duration::from_millis(2);
/// What a checkpoint is given at least: it was found to fit.
const LEAST: Duration = Duration::from_millis(10);

/// What the plan thread is made of.
#[derive(Debug)]
pub struct PlanOptions {
    /// The data file system.
    pub medium: Arc<Medium>,
    /// The outage record and its file.
    pub record: OutageRecord,
    /// The record's file.
    pub marks: BlockFile,
    /// The agent's own databases and the guarded ones.
    pub databases: std::vec::Vec<Box<dyn GuardedDatabase>>,
    /// What steps cost on this card.
    pub budget: Arc<Mutex<Budget>>,
    /// Where a measurement of the hold-up time is written; without it none is made.
    pub heartbeat: Option<Heartbeat>,
}

/// The thread's handle.
#[derive(Debug)]
pub struct PlanThread {
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

impl PlanThread {
    pub(super) fn start(
        options: PlanOptions,
        orders: Arc<Orders>,
        shared: Arc<Shared>,
        gate: Arc<Gate>,
        machine: Arc<dyn Machine>,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let PlanOptions {
            medium,
            record,
            marks,
            mut databases,
            budget,
            heartbeat,
        } = options;
        databases.sort_by_key(|d| std::cmp::Reverse(d.priority()));
        let marker = Marker::start(marks, Arc::clone(&medium), Arc::clone(&clock))?;
        let theirs = Arc::clone(&orders);
        let mut runner = Runner {
            orders: theirs,
            shared,
            gate,
            machine,
            clock,
            medium,
            record,
            marker,
            databases,
            budget,
            heartbeat,
            outage: None,
            quiet_at: None,
        };
        let thread = std::thread::Builder::new()
            .name("holdup-plan".into())
            .spawn(move || {
                if realtime::schedule(Priority::Plan).is_ok() {
                    runner.shared.count_realtime();
                }
                runner.serve();
            })?;
        Ok(Self {
            orders,
            thread: Some(thread),
        })
    }

    pub(super) fn end(&mut self) {
        self.orders.give(order::EXIT);
        if let Some(t) = self.thread.take() {
            t.join().ok();
        }
    }
}

/// How one step went.
#[derive(Debug, Clone)]
struct Trace {
    step: Step,
    began: Mono,
    took: Duration,
    /// What was known of it beforehand.
    cost: StepCost,
    outcome: Outcome,
}

#[derive(Debug, Clone)]
enum Outcome {
    Done,
    Dropped(Duration),
    Skipped(String),
    Failed(String),
}

/// The outage that is going on.
#[derive(Debug)]
struct Outage {
    cause: Cause,
    lost_at: Mono,
    wall: Wall,
    parked_at: Mono,
    frozen: bool,
    /// It ends in the heartbeat.
    measured: bool,
    /// It has a begin mark, so that its later marks have a place.
    marked: bool,
    traces: Vec<Trace, STEPS>,
    /// How many of the traces the end mark told.
    told: usize,
    last: LastOutage,
}

#[derive(Debug)]
struct Runner {
    orders: Arc<Orders>,
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    machine: Arc<dyn Machine>,
    clock: Arc<dyn Clock>,
    medium: Arc<Medium>,
    record: OutageRecord,
    marker: Marker,
    databases: std::vec::Vec<Box<dyn GuardedDatabase>>,
    budget: Arc<Mutex<Budget>>,
    heartbeat: Option<Heartbeat>,
    outage: Option<Outage>,
    /// Nobody in the agent has written since then: the gate is closed.
    quiet_at: Option<Mono>,
}

impl Runner {
    fn serve(&mut self) {
        self.calibrate();
        self.inspect();
        let mut waiting = 0;
        loop {
            let orders = match std::mem::take(&mut waiting) {
                0 => self.orders.take(IDLE),
                bits => bits,
            };
            if orders & order::RESUME != 0 {
                self.resume();
                self.shared.call(call::RESUMED);
                // Behind the answer: service does not wait for a look at other people's files.
                if orders & order::RUN == 0 {
                    self.inspect();
                }
            }
            if orders & order::SETTLE != 0 {
                self.databases.iter_mut().for_each(|d| d.settle());
                self.quiet_at = None;
                if orders & order::RUN == 0 {
                    self.note_quiet();
                }
            }
            if orders & order::EARLY != 0 {
                self.databases.iter_mut().for_each(|d| d.checkpoint_early());
            }
            if orders & order::RUN != 0 {
                let (cause, lost_at, deadline) = self.orders.ordered();
                self.run(cause, lost_at, deadline);
                // Before anyone can see that it is parked.
                self.publish_databases();
                self.shared.call(call::PLAN_DONE);
                waiting = self.beat();
            }
            if orders & order::EXIT != 0 {
                return;
            }
            if orders == 0 && self.outage.is_none() {
                self.inspect();
            }
            self.publish_databases();
        }
    }

    /// The gate was closed: from when on does nobody write? Not waited for when the plan begins.
    fn note_quiet(&mut self) {
        while self.gate.is_closed() && !self.orders.waiting() {
            if self.gate.wait_quiet(LOOK_UP) {
                self.quiet_at = Some(self.clock.mono());
                return;
            }
        }
    }

    /// Never while parked: it reads files.
    fn inspect(&mut self) {
        let hurry = || self.orders.waiting();
        self.databases.iter_mut().for_each(|d| d.inspect(&hurry));
        self.publish_databases();
    }

    /// One mark, so that its cost on this card is known before it matters.
    fn calibrate(&mut self) {
        let now = self.clock.wall();
        // An unused slot: the stopped mark of the session before this one.
        let record = &self.record;
        self.marker.ask(|block| record.not_stopped(block, now));
        match self.marker.wait(GRACE) {
            Ok(took) => lock(&self.budget).mark.note(took),
            Err(e) => log::warn!("cannot write the outage record: {e}"),
        }
    }

    fn run(&mut self, cause: Cause, lost_at: Mono, deadline: Mono) {
        let wall = self.clock.wall();
        let marked = cause != Cause::Stop && {
            let record = &mut self.record;
            self.marker
                .ask(|block| record.begin(block, cause.name(), wall, lost_at, deadline))
        };
        let mut outage = Outage {
            cause,
            lost_at,
            parked_at: lost_at,
            frozen: false,
            measured: self.orders.take_measure(),
            wall,
            marked,
            traces: Vec::new(),
            told: 0,
            last: LastOutage {
                kind: cause.name().to_owned(),
                ended: Ended::Unfinished,
                at: wall.to_string(),
                edge_to_quiet_ms: None,
                edge_to_durable_ms: None,
                steps: std::vec::Vec::new(),
                resumed: false,
            },
        };
        let no_freeze = if outage.measured {
            Some("measuring".to_owned())
        } else {
            self.machine.freeze_refusal().map(str::to_owned)
        };
        let guarded: std::vec::Vec<_> = self.databases.iter().map(|d| d.is_guarded()).collect();
        let mut plan = Plan::new(cause, &guarded, no_freeze.is_none());
        while let Some(decision) = plan.next(self.clock.mono(), deadline, |s| self.cost(s)) {
            let (Decision::Run(step) | Decision::Drop(step, _)) = decision;
            let cost = self.cost(step);
            let began = self.clock.mono();
            let (outcome, took) = match decision {
                Decision::Drop(_, cost) => (Outcome::Dropped(cost.worst), Duration::ZERO),
                Decision::Run(step) => {
                    let outcome = self.step(step, deadline, &mut outage);
                    (outcome, self.clock.mono().since(began))
                }
            };
            if matches!(outcome, Outcome::Done) {
                self.learn(step, took, &mut outage);
            }
            outage
                .traces
                .push(Trace {
                    step,
                    began,
                    took,
                    cost,
                    outcome,
                })
                .ok();
        }
        if let (false, Some(why)) = (cause == Cause::Stop, no_freeze) {
            let outcome = Outcome::Skipped(why);
            let cost = self.cost(Step::Freeze);
            let began = self.clock.mono();
            outage
                .traces
                .push(Trace {
                    step: Step::Freeze,
                    began,
                    took: Duration::ZERO,
                    cost,
                    outcome,
                })
                .ok();
        }
        self.still_again(&mut outage);
        // A checkpoint that took longer than the hold-up time is still being written: not parked
        // before it has ended, however long that takes.
        for database in &mut self.databases {
            while !database.is_quiet(GRACE) {}
        }
        outage.parked_at = self.clock.mono();
        outage.last.steps = self
            .reports(&outage, 0)
            .iter()
            .map(StepReport::to_owned_report)
            .collect();
        if cause != Cause::Stop {
            self.tell(&outage);
            self.outage = Some(outage);
        }
    }

    fn step(&mut self, step: Step, deadline: Mono, outage: &mut Outage) -> Outcome {
        let left = deadline.since(self.clock.mono()).max(GRACE);
        let done = match step {
            Step::Commit(n) => self.database(n).commit(left),
            Step::Still(n) => {
                let patience = self.patience(deadline, outage);
                self.database(n).still(patience)
            }
            Step::Checkpoint(n) => {
                // What is durable already must not cost the end mark its time.
                let mark = lock(&self.budget).cost(StepKind::Mark, 0).expected;
                let left = deadline.since(self.clock.mono()).saturating_sub(mark);
                self.database(n).checkpoint(left.max(LEAST)).map(drop)
            }
            Step::Quiet => {
                // Never called quiet while someone may still write: without end if need be. Only an
                // agent that is told to end does not wait for a file that cannot be opened.
                while !self.gate.wait_quiet(GRACE) {
                    if outage.cause == Cause::Stop && self.clock.mono() >= deadline {
                        return Outcome::Failed("somebody may still write".to_owned());
                    }
                }
                // The gate was closed at the first lost edge and has not been open since.
                let now = self.clock.mono();
                let at = self.quiet_at.take().filter(|at| *at >= outage.lost_at);
                outage.last.edge_to_quiet_ms = Some(millis(us(at.unwrap_or(now), outage.lost_at)));
                Ok(())
            }
            Step::EndMark => self.end_mark(deadline, outage),
            Step::SyncFs => self.medium.syncfs().map_err(|e| e.to_string()),
            Step::Freeze => self.machine.freeze().map_err(|e| e.to_string()),
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(why) => Outcome::Failed(why),
        }
    }

    fn end_mark(&mut self, deadline: Mono, outage: &mut Outage) -> Result<(), String> {
        let now = self.clock.mono();
        let failed = outage
            .traces
            .iter()
            .find_map(|t| match (&t.step, &t.outcome) {
                (Step::Commit(n), Outcome::Failed(why)) => Some((*n, why.clone())),
                _ => None,
            });
        if failed.is_none() {
            outage.last.edge_to_durable_ms = Some(millis(us(now, outage.lost_at)));
        }
        // Acknowledged is what our own databases said; another application's failure is told by
        // its step.
        let failed = failed.filter(|(n, _)| !self.database(*n).is_guarded());
        if let (Cause::Stop, Some((_, why))) = (outage.cause, &failed) {
            log::error!("stopped although not everything is durable: {why}");
            return Err(why.clone());
        }
        let left = deadline.since(now).max(GRACE);
        if outage.cause == Cause::Stop {
            let wall = self.clock.wall();
            let record = &self.record;
            self.marker.ask(|block| record.stopped(block, wall));
            return self.marker.wait(left).map(drop);
        }
        if !outage.marked {
            return Err("the begin mark could not be asked for".to_owned());
        }
        let begin = self.marker.wait(left);
        if let Ok(took) = begin {
            lock(&self.budget).mark.note(took);
        }
        // What is not durable gets no end mark: the next boot says that the plan was cut.
        if let Some((_, why)) = failed {
            return Err(format!("not everything is durable: {why}"));
        }
        begin?;
        let reports = self.reports(outage, 0);
        let quiet = outage.last.edge_to_quiet_ms.map(|ms| (ms * 1000.0) as u64);
        let durable = outage
            .last
            .edge_to_durable_ms
            .map(|ms| (ms * 1000.0) as u64);
        let record = &self.record;
        self.marker
            .ask(|block| record.end(block, now, quiet, durable, reports));
        outage.told = outage.traces.len();
        let took = self.marker.wait(left)?;
        lock(&self.budget).mark.note(took);
        let at = self.clock.mono();
        outage.last.ended = if at <= deadline {
            Ended::Clean
        } else {
            Ended::Late
        };
        Ok(())
    }

    fn resume(&mut self) {
        let Some(mut outage) = self.outage.take() else {
            return;
        };
        let mut thaw = None;
        if outage.frozen {
            let began = self.clock.mono();
            let failed = self.machine.thaw().err().map(|e| e.to_string());
            if let Some(e) = &failed {
                log::error!("cannot thaw the data file system: {e}");
            }
            thaw = Some(Thaw {
                began,
                took: self.clock.mono().since(began),
                failed,
            });
        }
        self.databases.iter_mut().for_each(|d| d.release());
        let now = self.clock.mono();
        let parked_us = us(now, outage.parked_at);
        let reports = self.reports(&outage, outage.told);
        if outage.marked {
            let record = &self.record;
            self.marker
                .ask(|block| record.resumed(block, now, parked_us, reports));
            if let Err(e) = self.marker.wait(GRACE) {
                log::error!("cannot write the resumed mark: {e}");
            }
        }
        outage.last.resumed = true;
        self.note_thaw(&mut outage, thaw);
        self.tell(&outage);
    }

    fn cost(&self, step: Step) -> StepCost {
        let budget = lock(&self.budget);
        match step {
            Step::Commit(n) if !self.is_guarded(n) => budget.cost(StepKind::Commit, 0),
            Step::Commit(_) | Step::Still(_) => budget.cost(StepKind::Still, 0),
            Step::Quiet => StepCost {
                expected: Duration::ZERO,
                worst: Duration::ZERO,
            },
            Step::Checkpoint(n) => {
                let frames = self.databases.get(usize::from(n)).map_or(0, |d| d.frames());
                let kind = if self.is_guarded(n) {
                    StepKind::CheckpointOther
                } else {
                    StepKind::Checkpoint
                };
                budget.cost(kind, frames)
            }
            Step::EndMark => budget.cost(StepKind::Mark, 0),
            Step::SyncFs | Step::Freeze => {
                // Dirty pages of all file systems: more than a freeze of one would flush, never
                // less. Unknown counts as too much.
                budget.write_back_cost(dirty_bytes().unwrap_or(u64::MAX / 2))
            }
        }
    }

    fn reports(&self, outage: &Outage, from: usize) -> std::vec::Vec<StepReport<'_>> {
        // A mark is one block: a real outage's has no room for what nobody asked about.
        let told_of_costs = outage.cause == Cause::Rehearsal;
        let report = |t: &Trace| StepReport {
            step: t.step.name().into(),
            database: t
                .step
                .database()
                .and_then(|n| self.databases.get(n))
                .map(|d| d.name().into()),
            at_us: us(t.began, outage.lost_at),
            took_us: micros(t.took),
            expected_us: told_of_costs.then(|| micros(t.cost.expected)),
            worst_us: told_of_costs.then(|| micros(t.cost.worst)),
            needs_us: match t.outcome {
                Outcome::Dropped(needs) => Some(micros(needs)),
                Outcome::Done | Outcome::Skipped(_) | Outcome::Failed(_) => None,
            },
            outcome: match t.outcome {
                Outcome::Done => "done",
                Outcome::Dropped(_) => "dropped",
                Outcome::Skipped(_) => "skipped",
                Outcome::Failed(_) => "failed",
            }
            .into(),
            why: match &t.outcome {
                Outcome::Done => None,
                Outcome::Dropped(_) => Some("does not fit the hold-up time that is left".into()),
                Outcome::Skipped(why) | Outcome::Failed(why) => Some(why.clone().into()),
            },
        };
        outage.traces.iter().skip(from).map(report).collect()
    }

    fn publish_databases(&self) {
        self.shared
            .set_databases(self.databases.iter().map(|d| d.view()).collect());
    }

    fn is_guarded(&self, n: u8) -> bool {
        self.databases
            .get(usize::from(n))
            .is_some_and(|d| d.is_guarded())
    }

    fn database(&mut self, n: u8) -> &mut dyn GuardedDatabase {
        // The plan was made for exactly these databases.
        &mut *self.databases[usize::from(n)]
    }
}

fn us(at: Mono, from: Mono) -> u64 {
    micros(at.since(from))
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

/// Dirty + Writeback of /proc/meminfo.
fn dirty_bytes() -> Option<u64> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| -> Option<u64> {
        let line = table.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    Some((kib("Dirty:")? + kib("Writeback:")?) * 1024)
}

fn lock(budget: &Mutex<Budget>) -> MutexGuard<'_, Budget> {
    budget
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
