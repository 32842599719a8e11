//! What the other threads leave for the writer, and how it answers.
//!
//! Chunks of readings from ingest, orders from guard and agent. Everything is a slot under one
//! mutex, nothing grows but the chunks, which the connections bound. The plan thread uses it
//! with the power gone: it allocates nothing here, and every wait has an end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::config::StoreSettings;
use crate::durable::{CopyOrder, HotCopy};

use super::retraction::{Retract, RetractError};
use super::rows::Chunk;
use super::stats::{Stats, StoreState, StoreStats};

/// How far a checkpoint goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Copies what it can without waiting for readers; the log keeps its size.
    Passive,
    /// Copies all and empties the log. With a reader on it, it is a passive one and `busy`.
    Truncate,
}

/// What a checkpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckpointReport {
    /// A reader or another writer kept it from finishing.
    pub busy: bool,
    /// Frames in the log.
    pub wal_frames: u32,
    /// Of these, copied into the database.
    pub backfilled: u32,
    /// How long it took.
    pub took: Duration,
}

impl CheckpointReport {
    /// Everything in the log is in the database too.
    pub fn complete(&self) -> bool {
        self.backfilled >= self.wal_frames
    }
}

/// The last commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitReport {
    /// Rows in it.
    pub rows: usize,
    /// Frames in the log after it.
    pub wal_frames: u32,
    /// How long it took.
    pub took: Duration,
}

/// An order that was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Not within the time given; it may still be done later.
    #[error("the store's writer did not answer in time")]
    Timeout,
    /// The store has failed or stopped; its state says why.
    #[error("the store has failed or stopped")]
    Failed,
}

/// A retraction, and where its number is told. Dropped, it was not carried out.
#[derive(Debug)]
pub(super) struct RetractOrder {
    pub(super) what: Retract,
    pub(super) tell: SyncSender<Result<i64, RetractError>>,
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    pub(super) chunks: VecDeque<Chunk>,
    pub(super) rows: usize,
    /// Rows that must not wait for the window.
    pub(super) hurry: usize,
    /// The writer has taken a batch and not yet said what became of it.
    pub(super) in_flight: bool,
    pub(super) last_commit: CommitReport,
    pub(super) order: Option<(Mode, u64)>,
    pub(super) done: Option<(u64, Result<CheckpointReport, OrderError>)>,
    next_ticket: u64,
    pub(super) settings: Option<StoreSettings>,
    pub(super) delivered_upto: Option<i64>,
    /// Nothing is to be delivered.
    pub(super) undelivered: bool,
    /// Epoch, and an id that its readings must stay above.
    pub(super) above: Option<(u64, i64)>,
    /// Others who give out its ids could not say yet how far they had come.
    pub(super) unheard: bool,
    pub(super) retry_now: bool,
    /// For the copy that is being made, or is to be begun.
    pub(super) copies: VecDeque<CopyOrder>,
    pub(super) retract: Option<RetractOrder>,
    pub(super) stop: bool,
    /// The writer has the database open; until then a checkpoint has nothing to do.
    pub(super) open: bool,
    /// Nothing will be acknowledged any more; says why.
    pub(super) ended: Option<Arc<str>>,
    /// Threads that wait for the writer; without any, telling them costs nothing.
    asking: usize,
    /// The writer sleeps; this many rows wake it.
    pub(super) wake_at: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Mailbox {
    slots: Mutex<Slots>,
    to_writer: Condvar,
    from_writer: Condvar,
    pub(super) wal_limit: AtomicU32,
    pub(super) stats: Stats,
    bytes: AtomicUsize,
    waiting: AtomicBool,
    waiters: Mutex<Vec<Waker>>,
}

impl Mailbox {
    pub(super) fn new(wal_limit: u32) -> Self {
        Self {
            slots: Mutex::new(Slots::default()),
            to_writer: Condvar::new(),
            from_writer: Condvar::new(),
            wal_limit: AtomicU32::new(wal_limit),
            stats: Stats::new(),
            bytes: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            waiters: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until something is left here: an order, or `rows` readings; at most `timeout`.
    pub(super) fn sleep<'a>(
        &self,
        mut slots: MutexGuard<'a, Slots>,
        rows: usize,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, Slots> {
        slots.wake_at = Some(rows);
        let mut slots = match timeout {
            Some(t) => {
                self.to_writer
                    .wait_timeout(slots, t)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            None => self
                .to_writer
                .wait(slots)
                .unwrap_or_else(PoisonError::into_inner),
        };
        slots.wake_at = None;
        slots
    }

    fn leave(&self, put: impl FnOnce(&mut Slots)) {
        let mut slots = self.lock();
        put(&mut slots);
        if slots.wake_at.take().is_some() {
            drop(slots);
            self.to_writer.notify_one();
        }
    }

    /// Tells those who wait for the writer to look again.
    pub(super) fn answer(&self, slots: MutexGuard<'_, Slots>) {
        let asking = slots.asking > 0;
        drop(slots);
        if asking {
            self.from_writer.notify_all();
        }
    }

    /// Waits while `busy` holds, at most `timeout`; false when it still does.
    fn ask(
        &self,
        timeout: Duration,
        busy: impl FnMut(&mut Slots) -> bool,
    ) -> (MutexGuard<'_, Slots>, bool) {
        let mut slots = self.lock();
        slots.asking += 1;
        let (mut slots, waited) = self
            .from_writer
            .wait_timeout_while(slots, timeout, busy)
            .unwrap_or_else(PoisonError::into_inner);
        slots.asking -= 1;
        (slots, !waited.timed_out())
    }

    /// Gives back memory that rows took, and lets connections read again.
    pub(super) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, SeqCst);
        if self.waiting.swap(false, SeqCst) {
            let waiters =
                std::mem::take(&mut *self.waiters.lock().unwrap_or_else(PoisonError::into_inner));
            for waker in waiters {
                waker.wake();
            }
        }
    }

    pub(super) fn stats(&self) -> StoreStats {
        self.stats.snapshot(self.bytes.load(SeqCst))
    }

    /// For the next writer: nothing is left of what was said to the last one but its tickets, and
    /// the readings that came since.
    pub(super) fn reopen(&self) {
        let mut slots = self.lock();
        let slots = &mut *slots;
        slots.ended = None;
        slots.stop = false;
        slots.open = false;
        slots.order = None;
        let answered = slots.done.map_or(0, |(upto, _)| upto);
        if answered < slots.next_ticket {
            slots.done = Some((slots.next_ticket, Err(OrderError::Failed)));
        }
        slots.above = None;
        slots.delivered_upto = None;
        slots.undelivered = false;
        slots.last_commit = CommitReport::default();
        self.stats.set_state(&StoreState::Starting);
        self.stats.wal_frames.store(0, SeqCst);
    }
}

/// Where connections hand over readings.
#[derive(Debug, Clone)]
pub struct Intake {
    pub(super) mailbox: Arc<Mailbox>,
}

impl Intake {
    /// Hands over a chunk. It is taken in this order, and its `acks` are told.
    pub fn submit(&self, chunk: Chunk) {
        let bytes = chunk.rows.bytes();
        let rows = chunk.rows.len();
        let mut slots = self.mailbox.lock();
        if let Some(why) = slots.ended.clone() {
            drop(slots);
            chunk.acks.stopped(&why);
            return;
        }
        self.mailbox.bytes.fetch_add(bytes, SeqCst);
        slots.chunks.push_back(chunk);
        slots.rows += rows;
        let wake = slots.wake_at.is_some_and(|at| slots.rows >= at);
        if wake {
            slots.wake_at = None;
        }
        drop(slots);
        if wake {
            self.mailbox.to_writer.notify_one();
        }
    }

    /// What has been handed over so far does not wait for the window.
    pub fn flush(&self) {
        self.mailbox.leave(|s| s.hurry = s.rows);
    }

    /// Bytes of readings in memory that wait for a commit.
    pub fn waiting_bytes(&self) -> usize {
        self.mailbox.bytes.load(SeqCst)
    }

    /// Wakes `waker` once when memory is given back. Look at [`Self::waiting_bytes`] again
    /// after this call: it may have happened in between.
    pub fn wake_when_released(&self, waker: &Waker) {
        let mut waiters = self
            .mailbox
            .waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !waiters.iter().any(|w| w.will_wake(waker)) {
            waiters.push(waker.clone());
        }
        drop(waiters);
        self.mailbox.waiting.store(true, SeqCst);
    }
}

/// The store's other controls, for guard and agent. Cheap to clone; safe on a real-time thread.
#[derive(Debug, Clone)]
pub struct Orders {
    pub(super) mailbox: Arc<Mailbox>,
}

impl Orders {
    /// Stop waiting for the window: commit what has been handed over, if the gate lets it.
    pub fn settle(&self) {
        self.mailbox.leave(|s| s.hurry = s.rows);
    }

    /// Waits until no commit is under way. With the gate closed before, none follows.
    pub fn commit_in_flight(&self, timeout: Duration) -> Result<CommitReport, OrderError> {
        let (slots, quiet) = self.mailbox.ask(timeout, |s| s.in_flight);
        if !quiet {
            Err(OrderError::Timeout)
        } else if slots.ended.is_some() {
            Err(OrderError::Failed)
        } else {
            Ok(slots.last_commit)
        }
    }

    /// Waits until the writer neither commits nor has a checkpoint to do that was ordered; false
    /// when it still does after `timeout`.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let busy = |s: &mut Slots| {
            let answered = s.done.map_or(0, |(upto, _)| upto);
            s.ended.is_none() && (s.in_flight || s.order.is_some() || answered < s.next_ticket)
        };
        self.mailbox.ask(timeout, busy).1
    }

    /// Orders a checkpoint and waits for it. It is done although the gate is closed: it is the
    /// plan's own. A stronger order replaces a weaker one that still waits.
    pub fn checkpoint(
        &self,
        mode: Mode,
        timeout: Duration,
    ) -> Result<CheckpointReport, OrderError> {
        if !self.mailbox.lock().open {
            return Ok(CheckpointReport::default());
        }
        let mut ticket = 0;
        self.mailbox.leave(|s| {
            s.next_ticket += 1;
            ticket = s.next_ticket;
            let mode = s.order.map_or(mode, |(waiting, _)| waiting.max(mode));
            s.order = Some((mode, ticket));
        });
        // Who ordered earlier is answered by the later one.
        let unanswered = |s: &mut Slots| {
            s.ended.is_none() && s.done.is_none_or(|(answered, _)| answered < ticket)
        };
        let (slots, answered) = self.mailbox.ask(timeout, unanswered);
        match slots.done {
            Some((upto, report)) if upto >= ticket => report,
            _ if !answered => Err(OrderError::Timeout),
            _ => Err(OrderError::Failed),
        }
    }

    /// A routine checkpoint is made as soon as the log holds this many frames.
    pub fn set_wal_limit(&self, frames: u32) {
        let before = self.mailbox.wal_limit.swap(frames.max(1), SeqCst);
        if frames < before {
            self.mailbox.leave(|_| ());
        }
    }

    /// Frames at which a routine checkpoint is made.
    pub fn wal_limit(&self) -> u32 {
        self.mailbox.wal_limit.load(SeqCst)
    }

    /// Takes over new settings, except `index`, which is read at the start.
    pub fn reconfigure(&self, settings: StoreSettings) {
        self.mailbox.leave(|s| s.settings = Some(settings));
    }

    /// Whoever else knows how far ids had come is not heard before the store opens. One that lost
    /// rows leaves a gap then, which is wider than what can have been given out.
    pub fn unheard(&self, yet: bool) {
        self.mailbox.leave(|s| s.unheard = yet);
    }

    /// Readings of the store `epoch` get ids above `id`, although their rows may be missing: the
    /// queue has given it to one already. Said late, it counts from the next commit on.
    pub fn keep_above(&self, epoch: u64, id: i64) {
        self.mailbox.leave(|s| s.above = Some((epoch, id)));
    }

    /// Ids up to this one are at the other side. Once set, retention removes no others. It lasts
    /// from the next commit on.
    pub fn set_delivered_upto(&self, id: i64) {
        self.mailbox.leave(|s| s.delivered_upto = Some(id));
    }

    /// Nothing is delivered anywhere: retention need not wait for it. The mark that the tables keep
    /// stays, for the day on which somebody delivers again.
    pub fn deliver_nothing(&self) {
        self.mailbox.leave(|s| s.undelivered = true);
    }

    /// The gate has opened, or room was made: try again now instead of at the next look.
    pub fn retry_now(&self) {
        self.mailbox.leave(|s| s.retry_now = true);
    }

    /// Has the writer retract readings, or take that back, and waits until it is durable; the
    /// retraction's number. `timeout` is for its beginning, and once more for its end. It is not
    /// done later when it was not begun by then, and never while the gate is closed. One asks at a
    /// time.
    ///
    /// # Errors
    /// [`RetractError::NotAnswered`]: it may have been done. All others: it was not.
    pub fn retract(&self, what: Retract, timeout: Duration) -> Result<i64, RetractError> {
        what.check()?;
        let (tell, told) = sync_channel(1);
        let mut refused = None;
        self.mailbox.leave(|s| {
            if !s.open || s.ended.is_some() {
                refused = Some(RetractError::NotRunning);
            } else if s.retract.is_some() {
                refused = Some(RetractError::Another);
            } else {
                s.retract = Some(RetractOrder { what, tell });
            }
        });
        if let Some(refused) = refused {
            return Err(refused);
        }
        match told.recv_timeout(timeout) {
            Ok(done) => return done,
            Err(RecvTimeoutError::Disconnected) => return Err(RetractError::NotRunning),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if self.mailbox.lock().retract.take().is_some() {
            return Err(RetractError::NotBegun);
        }
        told.recv_timeout(timeout)
            .unwrap_or(Err(RetractError::NotAnswered))
    }

    /// Commits what it may, checkpoints and stops. Does not wait: dropping the store does.
    pub fn stop(&self) {
        self.mailbox.leave(|s| s.stop = true);
    }

    /// See [`super::Store::stats`].
    pub fn stats(&self) -> StoreStats {
        self.mailbox.stats()
    }
}

impl HotCopy for Orders {
    fn hand_over(&self, order: CopyOrder) {
        self.mailbox.leave(|s| {
            // Else it is dropped: nobody would carry it out.
            if s.open && s.ended.is_none() {
                s.copies.push_back(order);
            }
        });
    }
}
