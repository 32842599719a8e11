//! The writer: one thread, one connection.
//!
//! It promises that nobody is told "committed" before COMMIT returned, that no transaction is
//! open while it waits, and that it holds a pass of the gate from BEGIN to COMMIT. Rows that
//! cannot be committed now (gate closed, disk full, another program's lock) stay in the
//! mailbox, in order. After a failed sync it acknowledges nothing any more.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, MutexGuard, atomic::AtomicU32};
use std::time::Duration;

use rusqlite::Connection;

use crate::clock::{Clock, Mono};
use crate::config::StoreSettings;
use crate::durable::{CopyOrder, Gate, Medium, Reserve, Target};

use super::Observer;
use super::batch::{self, Clients};
use super::error::{Fault, StoreError, fault};
use super::ledger::{Ledger, Mark};
use super::look::suspicion;
use super::mailbox::{CommitReport, Mailbox, Mode, OrderError, RetractOrder, Slots};
use super::retention;
use super::rows::Chunk;
use super::schema::Book;
use super::stats::StoreState;

/// How soon a closed gate is tried again: at first, and at the longest.
pub(super) const GATE_RETRY: Duration = Duration::from_millis(5);
pub(super) const GATE_RETRY_MAX: Duration = Duration::from_millis(500);
const BUSY_RETRY: Duration = Duration::from_millis(5);
pub(super) const FULL_RETRY: Duration = Duration::from_secs(1);
/// How often a checkpoint is tried on a full disk.
pub(super) const FULL_CHECKPOINT: Duration = Duration::from_secs(60);
/// How often retention looks while rows arrive, and while none do.
pub(super) const LOOK: Duration = Duration::from_secs(1);
pub(super) const LOOK_IDLE: Duration = Duration::from_secs(3600);

/// What to do next.
enum Task {
    Commit(Vec<Chunk>),
    Checkpoint(Mode, u64),
    Routine,
    Retention,
    Retract(RetractOrder),
    Probe,
    /// A step of a hot copy.
    Copy(CopyOrder),
    Stop,
}

pub(super) struct Writer {
    /// `None` where it cannot be used.
    pub(super) ledger: Option<Ledger>,
    /// A hot copy holds it too, on this thread.
    pub(super) conn: Rc<Connection>,
    pub(super) path: PathBuf,
    pub(super) book: Book,
    pub(super) settings: StoreSettings,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) medium: Arc<Medium>,
    pub(super) gate: Arc<Gate>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn Observer>,
    /// Frames in the log, set by SQLite's hook at each commit.
    pub(super) frames: Arc<AtomicU32>,
    pub(super) clients: Clients,
    /// When the last commit began.
    pub(super) last_commit: Option<Mono>,
    /// Without a window: senders who were answered together send again together. Waiting a
    /// part of a commit's time for as many rows as were under way last makes one commit of
    /// what would be many.
    pub(super) gather: (usize, Mono),
    /// Nothing is written before this time; `None` is now.
    pub(super) blocked: Option<Mono>,
    pub(super) routine_after: Mono,
    /// When retention looks again.
    pub(super) look_at: Mono,
    /// It has not removed all that is due.
    pub(super) backlog: bool,
    /// A commit came after retention's last step.
    pub(super) turn: bool,
    /// The last thing that was done was a step of a copy: whatever is due goes first.
    pub(super) copied: bool,
    pub(super) gate_retry: Duration,
}

impl Writer {
    pub(super) fn run(mut self) {
        while self.turn().is_continue() {}
        if self.mailbox.lock().ended.is_none() {
            let gate = Arc::clone(&self.gate);
            if let Some(_pass) = gate.try_enter() {
                // Its failure is reported where it happens; the rows are in the log either way.
                self.ledger.iter().for_each(Ledger::order);
                self.checkpoint(Mode::Truncate).ok();
                self.ledger.iter().for_each(Ledger::wait);
            }
            self.end(StoreState::Stopped, "the store was told to stop");
        }
    }

    fn turn(&mut self) -> ControlFlow<()> {
        match self.next() {
            Task::Copy(order) => self.copy(order),
            task @ (Task::Commit(_)
            | Task::Checkpoint(..)
            | Task::Routine
            | Task::Retention
            | Task::Retract(_)
            | Task::Probe
            | Task::Stop) => self.carry_out(task),
        }
    }

    fn carry_out(&mut self, task: Task) -> ControlFlow<()> {
        match task {
            Task::Commit(batch) => self.commit(batch),
            Task::Checkpoint(mode, ticket) => {
                // Beside the checkpoint, and done before it is answered.
                self.ledger.iter().for_each(Ledger::order);
                let report = self.checkpoint(mode);
                self.ledger.iter().for_each(Ledger::wait);
                let mut slots = self.mailbox.lock();
                slots.done = Some((ticket, report.map_err(|_| OrderError::Failed)));
                self.mailbox.answer(slots);
            }
            Task::Routine => self.routine(),
            Task::Retention => self.retention(),
            Task::Retract(order) => self.retract(order),
            Task::Probe => self.probe(),
            Task::Copy(order) => order.idle(),
            Task::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Everything goes on while a copy is made, a few pages at a time.
    fn copy(&mut self, order: CopyOrder) -> ControlFlow<()> {
        let (conn, gate) = (Rc::clone(&self.conn), Arc::clone(&self.gate));
        let Some(mut target) = Target::open(order) else {
            return ControlFlow::Continue(());
        };
        let Some(mut copying) = target.begin(&conn) else {
            return ControlFlow::Continue(());
        };
        loop {
            match self.next() {
                Task::Copy(order) => {
                    if copying.obey(order, &gate).is_break() {
                        return ControlFlow::Continue(());
                    }
                }
                task @ (Task::Commit(_)
                | Task::Checkpoint(..)
                | Task::Routine
                | Task::Retention
                | Task::Retract(_)
                | Task::Probe
                | Task::Stop) => self.carry_out(task)?,
            }
        }
    }

    fn next(&mut self) -> Task {
        let mailbox = Arc::clone(&self.mailbox);
        let mut slots = mailbox.lock();
        loop {
            if slots.ended.is_some() {
                slots.copies.clear();
                slots.retract = None;
                if slots.stop {
                    return Task::Stop;
                }
                slots = mailbox.sleep(slots, usize::MAX, None);
                continue;
            }
            if let Some((mode, ticket)) = slots.order.take() {
                return Task::Checkpoint(mode, ticket);
            }
            // Answered at once, done or not: it never waits for the gate or for room.
            if let Some(order) = slots.retract.take() {
                return Task::Retract(order);
            }
            self.take_over(&mut slots);
            let now = self.clock.mono();
            if self.blocked.is_some_and(|until| now >= until) {
                self.blocked = None;
            }
            // In turns: neither keeps the other waiting for more than one of its own.
            if !std::mem::replace(&mut self.copied, false)
                && let Some(order) = slots.copies.pop_front()
            {
                self.copied = true;
                return Task::Copy(order);
            }
            if let Some(task) = self.due(&mut slots, now) {
                return task;
            }
            if let Some(order) = slots.copies.pop_front() {
                self.copied = true;
                return Task::Copy(order);
            }
            let rows = if slots.rows == 0 {
                1
            } else if self.settings.commit_window.is_zero() {
                self.gather.0.min(self.settings.batch_rows)
            } else {
                self.settings.batch_rows
            };
            let wait = self.wake_at(&slots, now).since(now);
            slots = mailbox.sleep(slots, rows, Some(wait.min(LOOK_IDLE)));
        }
    }

    fn take_over(&mut self, slots: &mut Slots) {
        if let Some(settings) = slots.settings.take() {
            self.settings = settings;
            self.look_at = Mono::default();
        }
        if let Some((epoch, id)) = slots.above.take()
            && epoch == self.book.epoch
            && id < i64::MAX
        {
            self.book.floor = self.book.floor.max(id);
        }
        if std::mem::take(&mut slots.undelivered) {
            self.book.delivered_upto = None;
            self.look_at = Mono::default();
        }
        if let Some(id) = slots.delivered_upto.take() {
            self.book.delivered_upto = Some(id);
            self.look_at = Mono::default();
        }
        if std::mem::take(&mut slots.retry_now) {
            self.blocked = None;
        }
    }

    fn due(&mut self, slots: &mut MutexGuard<'_, Slots>, now: Mono) -> Option<Task> {
        if self.blocked.is_some() {
            return slots.stop.then_some(Task::Stop);
        }
        let limit = self.mailbox.wal_limit.load(SeqCst);
        if self.mailbox.stats.wal_frames.load(SeqCst) >= limit && now >= self.routine_after {
            return Some(Task::Routine);
        }
        // Under unbroken load retention still gets its turn.
        if now >= self.look_at + LOOK || (self.backlog && self.turn) {
            return Some(Task::Retention);
        }
        if slots.rows > 0
            && (slots.stop
                || slots.hurry > 0
                || slots.rows >= self.settings.batch_rows
                || now >= self.commit_at(slots, now))
        {
            return Some(Task::Commit(take(slots, self.settings.batch_rows)));
        }
        if slots.stop {
            return Some(Task::Stop);
        }
        if self.mailbox.stats.state() == StoreState::DiskFull {
            return Some(Task::Probe);
        }
        (now >= self.look_at).then_some(Task::Retention)
    }

    /// When the next commit may begin.
    fn commit_at(&self, slots: &Slots, now: Mono) -> Mono {
        let (rows, until) = self.gather;
        match self.last_commit {
            Some(last) if !self.settings.commit_window.is_zero() => {
                last + self.settings.commit_window
            }
            Some(_) if slots.rows < rows => until,
            _ => now,
        }
    }

    fn wake_at(&self, slots: &Slots, now: Mono) -> Mono {
        if let Some(until) = self.blocked {
            return until;
        }
        let mut at = self.look_at;
        if slots.rows > 0 {
            at = at.min(self.commit_at(slots, now));
        }
        if self.mailbox.stats.wal_frames.load(SeqCst) >= self.mailbox.wal_limit.load(SeqCst) {
            at = at.min(self.routine_after);
        }
        at
    }

    fn commit(&mut self, mut batch: Vec<Chunk>) {
        let began = self.clock.mono();
        let gate = Arc::clone(&self.gate);
        let Some(pass) = gate.try_enter() else {
            let retry = self.gate_closed();
            self.put_back(batch, retry);
            return;
        };
        let today = retention::day(&*self.clock);
        let written = batch::write(
            &self.conn,
            &mut self.book,
            &mut self.clients,
            &mut batch,
            today,
            self.settings.remember_ids,
        );
        let took = self.clock.mono().since(began);
        let written = match written {
            Ok(written) => written,
            Err(e) => {
                let retry = self.failed("commit readings to", e);
                drop(pass);
                if let Some(retry) = retry {
                    self.put_back(batch, retry);
                } else {
                    self.refuse_all(batch);
                }
                return;
            }
        };
        drop(pass);
        self.last_commit = Some(began);
        self.gate_retry = GATE_RETRY;
        self.turn = true;
        self.look_at = self.look_at.min(began + LOOK);
        let acked = written.rows + written.repeats;
        self.mailbox
            .stats
            .committed(acked as u64, written.repeats as u64);
        self.note(took, written.rows);
        for (chunk, line, why) in written.refused {
            batch[chunk].acks.refused(line, why);
        }
        // Before anybody is told: who is answered sends again, and must not be counted twice in
        // what the next commit waits for.
        let waiting = self.mailbox.lock().rows;
        // So that what is acknowledged no longer counts as waiting.
        self.mailbox
            .release(batch.iter().map(|c| c.rows.bytes()).sum());
        for chunk in &batch {
            chunk.acks.committed(chunk.upto);
        }
        if written.rows > 0 {
            self.note_acknowledged();
        }
        let mut slots = self.mailbox.lock();
        slots.in_flight = false;
        slots.last_commit = CommitReport {
            rows: written.rows,
            wal_frames: self.frames.load(SeqCst),
            took,
        };
        self.gather = (acked + waiting, self.clock.mono() + took / 2);
        self.mailbox.answer(slots);
    }

    /// After those who sent it were told.
    fn note_acknowledged(&self) {
        if let Some(ledger) = &self.ledger {
            ledger.note(Mark {
                epoch: self.book.epoch,
                highest: self.book.next_id - 1,
                lowest: self.book.lowest_id,
            });
        }
    }

    /// After any commit that went through.
    pub(super) fn note(&mut self, took: Duration, rows: usize) {
        let frames = self.frames.load(SeqCst);
        self.mailbox.stats.wal_frames.store(frames, SeqCst);
        self.mailbox.stats.book(&self.book);
        self.observer.committed(took, rows, frames);
        // On the room kept back service does not go on.
        if self.reserve.is_held() && self.set_state(&StoreState::Running) {
            self.routine_after = Mono::default();
        }
    }

    /// The rows wait in their old place.
    fn put_back(&mut self, batch: Vec<Chunk>, retry: Duration) {
        self.blocked = Some(self.clock.mono() + retry);
        let mut slots = self.mailbox.lock();
        // They waited their time already.
        slots.hurry += batch.iter().map(|c| c.rows.len()).sum::<usize>();
        let rows: usize = batch.iter().map(|c| c.rows.len()).sum();
        slots.rows += rows;
        for chunk in batch.into_iter().rev() {
            slots.chunks.push_front(chunk);
        }
        slots.in_flight = false;
        self.mailbox.answer(slots);
    }

    fn refuse_all(&self, batch: Vec<Chunk>) {
        let why = match self.mailbox.stats.state() {
            StoreState::Failed(why) => why,
            StoreState::Starting
            | StoreState::Running
            | StoreState::DiskFull
            | StoreState::Stopped => Arc::from("the store has stopped"),
        };
        for chunk in &batch {
            chunk.acks.stopped(&why);
        }
        let bytes = batch.iter().map(|c| c.rows.bytes()).sum();
        let mut slots = self.mailbox.lock();
        slots.in_flight = false;
        self.mailbox.answer(slots);
        self.mailbox.release(bytes);
    }

    fn gate_closed(&mut self) -> Duration {
        let retry = self.gate_retry;
        self.gate_retry = (retry * 2).min(GATE_RETRY_MAX);
        retry
    }

    /// Says what to do about an error: try again after this time, or never.
    pub(super) fn failed(&mut self, doing: &'static str, e: rusqlite::Error) -> Option<Duration> {
        let kind = fault(&e);
        let e = StoreError::sqlite(&self.path, doing, e);
        match kind {
            Fault::Busy => {
                log::debug!("{e}");
                return Some(BUSY_RETRY);
            }
            Fault::Full => {
                if self.set_state(&StoreState::DiskFull) {
                    log::error!("{e}; no more readings are taken");
                }
                return Some(self.make_room());
            }
            Fault::Medium => self.medium.latch(&text(&e)),
            Fault::Row | Fault::Database => {}
        }
        let why = text(&e);
        if let Some(damage) = e.damage() {
            self.suspect(&damage);
        }
        log::error!("the store has failed: {why}");
        self.end(StoreState::Failed(why.as_str().into()), &why);
        None
    }

    /// Notes beside the database that it is damaged although its files may look well, so that the
    /// next start recovers it before it opens it.
    fn suspect(&self, why: &str) {
        let note = suspicion(&self.path);
        if let Err(e) = self.medium.replace(&note, why.as_bytes()) {
            log::error!("the next start is not told that the database is damaged: {e}");
        }
        self.mailbox.stats.suspect.store(true, SeqCst);
    }

    /// From here on nothing is acknowledged.
    fn end(&mut self, state: StoreState, why: &str) {
        let mut slots = self.mailbox.lock();
        slots.ended = Some(why.into());
        slots.rows = 0;
        slots.in_flight = false;
        let left = std::mem::take(&mut slots.chunks);
        slots.copies.clear();
        slots.retract = None;
        // Before anybody is told, so that who is told can ask.
        self.set_state(&state);
        self.mailbox.answer(slots);
        for chunk in &left {
            chunk.acks.stopped(why);
        }
        self.mailbox
            .release(left.iter().map(|c| c.rows.bytes()).sum());
    }

    pub(super) fn set_state(&self, state: &StoreState) -> bool {
        let changed = self.mailbox.stats.set_state(state);
        if changed {
            self.observer.state(state.clone());
        }
        changed
    }
}

/// Whole chunks, up to `rows` rows, at least one chunk.
fn take(slots: &mut Slots, rows: usize) -> Vec<Chunk> {
    let mut batch = Vec::with_capacity(slots.chunks.len().min(64));
    let mut taken = 0;
    while let Some(chunk) = slots.chunks.front() {
        let n = chunk.rows.len();
        if taken > 0 && taken + n > rows {
            break;
        }
        taken += n;
        batch.extend(slots.chunks.pop_front());
    }
    slots.rows -= taken;
    slots.hurry = slots.hurry.saturating_sub(taken);
    slots.in_flight = true;
    batch
}

pub(super) fn text(e: &StoreError) -> String {
    match std::error::Error::source(e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    }
}
