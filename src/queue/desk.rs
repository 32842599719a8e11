//! Where agent, plan and uplink meet the queue's thread.
//!
//! The plan uses it with the power gone: every wait has an end, and nothing is allocated for an
//! order. Ringing the bell is cheap and never waits for the disk: the store's writer does it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::durable::{CopyOrder, Gate, HotCopy};
use crate::store::{CheckpointReport, Mode, OrderError};

use super::error::QueueError;
use super::message::{Enqueued, Leased, NewMessage};
use super::outbox::Outbox;
use super::stats::{QueueState, QueueStats};

/// Frames at which a routine checkpoint is made: half a megabyte.
pub const WAL_LIMIT: u32 = 128;

/// Something to be done on the queue's thread, with the queue where it is open.
pub(super) struct Errand(Box<Act>);

type Act = dyn FnOnce(Option<&mut Outbox>) + Send;

impl Errand {
    pub(super) fn run(self, outbox: Option<&mut Outbox>) {
        (self.0)(outbox);
    }
}

impl std::fmt::Debug for Errand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Errand").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Readings may have come.
    pub(super) bell: bool,
    pub(super) stop: bool,
    pub(super) order: Option<(Mode, u64)>,
    done: u64,
    report: Option<Result<CheckpointReport, OrderError>>,
    next_ticket: u64,
    pub(super) errands: VecDeque<Errand>,
    /// For the copy that is being made, or is to be begun.
    pub(super) copies: VecDeque<CopyOrder>,
    /// The thread runs: what is left here is carried out.
    serving: bool,
    /// The thread has ended: no order is answered any more.
    pub(super) ended: bool,
}

#[derive(Debug)]
pub(super) struct Inner {
    slots: Mutex<Slots>,
    to_thread: Condvar,
    from_thread: Condvar,
    rung: AtomicBool,
    pub(super) stats: Mutex<QueueStats>,
    pub(super) frames: AtomicU32,
    pub(super) wal_limit: AtomicU32,
}

/// The queue's controls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct QueueDesk {
    pub(super) inner: Arc<Inner>,
}

impl QueueDesk {
    /// A desk without a thread: the queue is off, or not started yet.
    pub fn new(enabled: bool) -> Self {
        let state = if enabled {
            QueueState::Starting
        } else {
            QueueState::Off
        };
        Self {
            inner: Arc::new(Inner {
                slots: Mutex::default(),
                to_thread: Condvar::new(),
                from_thread: Condvar::new(),
                rung: AtomicBool::new(false),
                stats: Mutex::new(QueueStats {
                    state,
                    ..QueueStats::default()
                }),
                frames: AtomicU32::new(0),
                wal_limit: AtomicU32::new(WAL_LIMIT),
            }),
        }
    }

    /// The queue is not opened, because of this.
    pub fn not_opened(&self, why: &str) {
        let stats = self.inner.stats.lock();
        let mut stats = stats.unwrap_or_else(PoisonError::into_inner);
        stats.state = QueueState::Failed(why.into());
    }

    /// The thread has ended, and another is to come, over another queue.
    pub fn reopen(&self, enabled: bool) {
        let mut slots = self.inner.slots();
        (slots.ended, slots.stop, slots.order) = (false, false, None);
        if slots.done < slots.next_ticket {
            slots.done = slots.next_ticket;
            slots.report = Some(Err(OrderError::Failed));
        }
        drop(slots);
        self.inner.frames.store(0, SeqCst);
        *self.inner.stats() = QueueStats {
            state: if enabled {
                QueueState::Starting
            } else {
                QueueState::Off
            },
            ..QueueStats::default()
        };
    }

    /// The store has committed readings. Does not block, and wakes nobody twice.
    pub fn ring(&self) {
        if !self.inner.rung.swap(true, SeqCst) {
            self.inner.leave(|s| s.bell = true);
        }
    }

    /// Orders a checkpoint and waits for it, `timeout` at most. It is made although the gate is
    /// closed: it is the plan's own. A queue that is not open has nothing to move.
    ///
    /// # Errors
    /// [`OrderError`] where it was not done in time, or failed.
    pub fn checkpoint(
        &self,
        mode: Mode,
        timeout: Duration,
    ) -> Result<CheckpointReport, OrderError> {
        if self.inner.frames.load(SeqCst) == 0 {
            return Ok(CheckpointReport::default());
        }
        let mut ticket = 0;
        self.inner.leave(|s| {
            s.next_ticket += 1;
            ticket = s.next_ticket;
            let mode = s.order.map_or(mode, |(waiting, _)| waiting.max(mode));
            s.order = Some((mode, ticket));
        });
        let (slots, answered) = self.inner.ask(timeout, |s| !s.ended && s.done < ticket);
        match slots.report {
            Some(report) if slots.done >= ticket => report,
            _ if !answered => Err(OrderError::Timeout),
            _ => Err(OrderError::Failed),
        }
    }

    /// Waits until no ordered checkpoint is being made; false when one still is after `timeout`.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        self.inner
            .ask(timeout, |s| !s.ended && s.done < s.next_ticket)
            .1
    }

    /// A routine checkpoint is made as soon as the log holds this many frames.
    pub fn set_wal_limit(&self, frames: u32) {
        self.inner.wal_limit.store(frames.max(1), SeqCst);
    }

    /// Tells the thread to end. Does not wait.
    pub fn stop(&self) {
        self.inner.leave(|s| s.stop = true);
    }

    /// The numbers, without touching the disk.
    pub fn stats(&self) -> QueueStats {
        let mut stats = self.inner.stats().clone();
        stats.wal_frames = self.inner.frames.load(SeqCst);
        stats
    }

    /// Frames of the write-ahead log that a checkpoint would have to move.
    pub fn frames(&self) -> u32 {
        self.inner.frames.load(SeqCst)
    }
}

/// For the uplink: lease, send, confirm. Every call may wait for the disk.
#[derive(Debug, Clone)]
pub struct Outgoing {
    desk: QueueDesk,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
}

impl Outgoing {
    /// Messages of the queue behind `desk`.
    pub fn new(desk: QueueDesk, gate: Arc<Gate>, clock: Arc<dyn Clock>) -> Self {
        Self { desk, gate, clock }
    }

    /// Puts messages into the queue; what became of each.
    ///
    /// # Errors
    /// [`QueueError`]: then none of them is in it.
    pub fn enqueue(&self, new: &[NewMessage]) -> Result<Vec<Enqueued>, QueueError> {
        let new = new.to_vec();
        self.with(move |o| o.enqueue(&new))
    }

    /// The next due messages, hidden from others for `time`; highest priority first, among equals
    /// the oldest. A crash ends the lease.
    ///
    /// # Errors
    /// [`QueueError`]: then nothing is leased.
    pub fn lease(&self, most: usize, time: Duration) -> Result<Vec<Leased>, QueueError> {
        let (now, wall) = (self.clock.mono(), self.clock.wall());
        let sure = self.clock.is_synchronised();
        self.with(move |o| o.lease(most, time, now, wall, sure))
    }

    /// The other side has these. Only now do they leave the queue; how many were still there.
    ///
    /// # Errors
    /// [`QueueError`]: they stay, and are sent again under the same ids.
    pub fn confirm(&self, ids: &[i64]) -> Result<usize, QueueError> {
        let wall = self.clock.wall();
        let ids = ids.to_vec();
        let done = self.with(move |o| o.confirm(&ids, wall));
        // There may be room now, and the store is told how far it has come.
        self.desk.ring();
        done
    }

    /// These could not be delivered, because of `why`; how many died of it.
    ///
    /// # Errors
    /// [`QueueError`]: their retries are not counted, and the lease goes on.
    pub fn fail(&self, ids: &[i64], why: &str) -> Result<usize, QueueError> {
        let wall = self.clock.wall();
        let (ids, why) = (ids.to_vec(), why.to_owned());
        self.with(move |o| o.fail(&ids, &why, wall))
    }

    /// On the queue's thread: its connection is nobody else's.
    fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Outbox) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        let gate = Arc::clone(&self.gate);
        let (answer, done) = sync_channel(1);
        self.desk.inner.send(Errand(Box::new(move |outbox| {
            // Where the queue is not open the sender is dropped, which says so.
            if let Some(outbox) = outbox {
                let done = match gate.try_enter() {
                    Some(_pass) => act(outbox),
                    None => Err(QueueError::GateClosed),
                };
                answer.try_send(done).ok();
            }
        })));
        done.recv().unwrap_or_else(|_| {
            let state = self.desk.stats().state;
            let why = state.problem().unwrap_or(state.name()).to_owned();
            Err(QueueError::NotOpen(why))
        })
    }
}

impl HotCopy for QueueDesk {
    fn hand_over(&self, order: CopyOrder) {
        self.inner.leave(|s| {
            // Else it is dropped: nobody would carry it out.
            if s.serving {
                s.copies.push_back(order);
            }
        });
    }
}

impl Inner {
    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> MutexGuard<'_, QueueStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, put: impl FnOnce(&mut Slots)) {
        put(&mut self.slots());
        self.to_thread.notify_one();
    }

    /// The thread sleeps until something is left here, `timeout` at most; without `heed` the bell
    /// does not wake it.
    pub(super) fn sleep(&self, timeout: Duration, heed: bool) -> MutexGuard<'_, Slots> {
        let idle = |s: &mut Slots| {
            let nothing = s.order.is_none() && s.errands.is_empty() && s.copies.is_empty();
            !s.stop && nothing && !(heed && s.bell)
        };
        self.to_thread
            .wait_timeout_while(self.slots(), timeout, idle)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// From here on a bell is news again.
    pub(super) fn heard(&self, slots: &mut Slots) {
        slots.bell = false;
        self.rung.store(false, SeqCst);
    }

    fn ask(
        &self,
        timeout: Duration,
        busy: impl FnMut(&mut Slots) -> bool,
    ) -> (MutexGuard<'_, Slots>, bool) {
        let (slots, waited) = self
            .from_thread
            .wait_timeout_while(self.slots(), timeout, busy)
            .unwrap_or_else(PoisonError::into_inner);
        (slots, !waited.timed_out())
    }

    /// Answers every order up to `ticket`.
    pub(super) fn answer(&self, ticket: u64, report: Result<CheckpointReport, OrderError>) {
        let mut slots = self.slots();
        slots.done = slots.done.max(ticket);
        slots.report = Some(report);
        drop(slots);
        self.from_thread.notify_all();
    }

    /// From here on errands are carried out.
    pub(super) fn begin(&self) {
        self.slots().serving = true;
    }

    /// Hands over an errand; dropped where nobody would carry it out, which its sender sees.
    fn send(&self, errand: Errand) {
        self.leave(|s| {
            if s.serving {
                s.errands.push_back(errand);
            }
        });
    }

    pub(super) fn end(&self) {
        let mut slots = self.slots();
        slots.ended = true;
        slots.serving = false;
        slots.errands.clear();
        slots.copies.clear();
        drop(slots);
        self.from_thread.notify_all();
    }

    /// Takes the numbers over; the state stays.
    pub(super) fn publish(&self, o: &Outbox) {
        self.frames.store(o.frames(), SeqCst);
        let mut s = self.stats();
        s.depth = o.tally.items;
        s.bytes = o.tally.bytes;
        s.dead = o.tally.dead;
        s.fed_upto = o.book.fed_upto;
        s.delivered_upto = o.book.delivered_upto;
        s.confirmed = o.book.confirmed;
        s.retries = o.book.retries;
        s.dropped = o.book.dropped;
        s.rejected = o.rejected;
        s.died = o.book.died;
        s.retry_loop = o.book.struggle.looping(o.tally.items);
    }
}
