//! The queue's thread: opens it, feeds it, checkpoints it.
//!
//! It promises that whatever is wrong with the queue stays here: nothing of it reaches the store or
//! the agent but a state that says so. It sleeps until readings are committed, an order comes, or a
//! message expires, and feeds at most once a second.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{Clock, Mono};
use crate::config::QueueSettings;
use crate::durable::{CopyOrder, Gate, Medium, Target};
use crate::store::{CheckpointReport, Mode, OrderError, Orders, StoreState};

use super::desk::{Inner, QueueDesk};
use super::error::{Fault, QueueError};
use super::feed::Readings;
use super::outbox::Outbox;
use super::rebuild;
use super::stats::QueueState;

/// At most one commit of readings in this time.
const FEED_EVERY: Duration = Duration::from_secs(1);
/// After a failure that may pass, and while the queue is full.
const AGAIN: Duration = Duration::from_secs(5);
/// While the gate is closed.
const GATE_AGAIN: Duration = Duration::from_secs(1);
/// Without anything to wait for.
const FOR_EVER: Duration = Duration::from_secs(7 * 86_400);

/// What a queue is made of.
#[derive(Debug)]
pub struct QueueOptions {
    /// Where the others leave what they want.
    pub desk: QueueDesk,
    /// `[queue]`
    pub settings: QueueSettings,
    /// Names the gateway in message ids.
    pub gateway: String,
    /// The queue's database.
    pub path: PathBuf,
    /// The readings' database.
    pub store: PathBuf,
    /// The store's controls: its state, and where the delivered mark goes.
    pub orders: Orders,
    /// The file system of both.
    pub medium: Arc<Medium>,
    /// Passed before anything is read or written.
    pub gate: Arc<Gate>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The running queue. Dropping it stops its thread and waits for it.
#[derive(Debug)]
pub struct Queue {
    desk: QueueDesk,
    thread: Option<JoinHandle<()>>,
}

impl Queue {
    /// Starts the thread; the database is opened behind it.
    ///
    /// # Errors
    /// [`QueueError::Thread`].
    pub fn start(options: QueueOptions) -> Result<Self, QueueError> {
        let desk = options.desk.clone();
        let inner = Arc::clone(&desk.inner);
        let thread = std::thread::Builder::new()
            .name("holdup-queue".to_owned())
            .spawn(move || {
                let worker = Worker {
                    inner,
                    wake: Some(options.clock.mono()),
                    options,
                    outbox: None,
                    readings: None,
                    next_feed: Mono::default(),
                    told: None,
                    full: false,
                };
                worker.run();
            })
            .map_err(QueueError::Thread)?;
        Ok(Self {
            desk,
            thread: Some(thread),
        })
    }

    /// Stops the thread.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.desk.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the queue's thread panicked");
        }
    }
}

struct Worker {
    inner: Arc<Inner>,
    options: QueueOptions,
    /// `None` until it is open, and after it failed.
    outbox: Option<Outbox>,
    readings: Option<Readings>,
    /// When to look unasked.
    wake: Option<Mono>,
    /// Not before.
    next_feed: Mono,
    /// The delivered mark that the store was told.
    told: Option<i64>,
    /// Readings wait for room.
    full: bool,
}

impl Worker {
    fn run(mut self) {
        self.inner.begin();
        while let Some(order) = self.round() {
            self.copy(order);
        }
        self.readings = None;
        self.outbox = None;
        self.say(QueueState::Stopped);
        self.inner.end();
    }

    /// Does what is due until the next step of a copy; `None` at the end.
    fn round(&mut self) -> Option<CopyOrder> {
        loop {
            let now = self.options.clock.mono();
            // Within the second the bell waits; then it alone, or the time, ends the sleep.
            let heed = now >= self.next_feed;
            let until = if heed {
                self.wake.unwrap_or(Mono::NEVER)
            } else {
                self.next_feed
            };
            let mut slots = self.inner.sleep(until.since(now).min(FOR_EVER), heed);
            if slots.stop {
                return None;
            }
            if let Some((mode, ticket)) = slots.order.take() {
                drop(slots);
                let report = self.checkpoint(mode);
                self.inner.answer(ticket, report);
                continue;
            }
            let (errand, copy) = (slots.errands.pop_front(), slots.copies.pop_front());
            let now = self.options.clock.mono();
            let asked = slots.bell || self.wake.is_some_and(|at| now >= at);
            let due = now >= self.next_feed && asked;
            if due {
                self.inner.heard(&mut slots);
            }
            drop(slots);
            if let Some(errand) = errand {
                errand.run(self.outbox.as_mut());
                self.outbox.iter().for_each(|o| self.inner.publish(o));
            }
            if due {
                self.look();
            }
            if copy.is_some() {
                return copy;
            }
        }
    }

    /// Everything goes on while a copy is made, a few pages at a time. A queue that had to be given
    /// up ends it.
    fn copy(&mut self, order: CopyOrder) {
        let Some(conn) = self.outbox.as_ref().map(|o| Rc::clone(&o.conn)) else {
            return;
        };
        let gate = Arc::clone(&self.options.gate);
        let Some(mut target) = Target::open(order) else {
            return;
        };
        let Some(mut copying) = target.begin(&conn) else {
            return;
        };
        while let Some(order) = self.round() {
            let same = (self.outbox.as_ref()).is_some_and(|o| Rc::ptr_eq(&o.conn, &conn));
            if !same || copying.obey(order, &gate).is_break() {
                return;
            }
        }
    }

    fn look(&mut self) {
        self.wake = match self.turn() {
            Ok(next) => next.map(|t| self.options.clock.mono() + t),
            Err(e) => match self.faulty(&e) {
                Some(again) => {
                    self.next_feed = self.options.clock.mono() + again;
                    Some(self.next_feed)
                }
                None => {
                    self.next_feed = Mono::NEVER;
                    None
                }
            },
        };
    }

    /// One look at everything; says when to look again unasked, `None`: not at all.
    fn turn(&mut self) -> Result<Option<Duration>, QueueError> {
        let gate = Arc::clone(&self.options.gate);
        let Some(_pass) = gate.try_enter() else {
            return Err(QueueError::GateClosed);
        };
        let mut outbox = match self.outbox.take() {
            Some(outbox) => outbox,
            None => {
                let opened = self.open()?;
                log::info!(
                    "queue open: {} messages, {} dead letters",
                    opened.tally.items,
                    opened.tally.dead
                );
                opened
            }
        };
        let done = self.turn_with(&mut outbox);
        self.outbox = Some(outbox);
        done
    }

    fn turn_with(&mut self, outbox: &mut Outbox) -> Result<Option<Duration>, QueueError> {
        let (mono, wall) = (self.options.clock.mono(), self.options.clock.wall());
        let done = outbox
            .sweep(mono, wall, self.options.clock.is_synchronised())
            .and_then(|_| self.feed(outbox));
        self.inner.publish(outbox);
        let more = done?;
        let state = if self.full {
            QueueState::Full
        } else {
            QueueState::Running
        };
        self.say(state);
        self.routine(outbox);
        self.tell(outbox.book.delivered_upto);
        self.next_feed = self.options.clock.mono() + FEED_EVERY;
        if more {
            return Ok(Some(FEED_EVERY));
        }
        let sure = self.options.clock.is_synchronised();
        let sweep = outbox.next_sweep(mono, wall, sure);
        let again = self.full.then_some(AGAIN);
        Ok([sweep, again].into_iter().flatten().min())
    }

    fn open(&self) -> Result<Outbox, QueueError> {
        let o = &self.options;
        rebuild::finish_swap(&o.path, &o.medium)?;
        Outbox::open(&o.path, o.settings, &o.medium, &o.gate, &*o.clock)
    }

    /// Queues a batch; true when there may be more. The caller holds a pass: the plan finds no
    /// reader on the store's log.
    fn feed(&mut self, outbox: &mut Outbox) -> Result<bool, QueueError> {
        let store = self.options.orders.stats();
        // On a full disk the room that is left is the store's.
        if store.state != StoreState::Running {
            return Ok(false);
        }
        outbox.meet(&self.options.gateway, store.epoch)?;
        if store.next_id - 1 <= outbox.book.fed_upto {
            self.full = false;
            return Ok(false);
        }
        if self.full && !outbox.has_room() {
            return Ok(false);
        }
        let readings = match self.readings.take() {
            Some(readings) => readings,
            None => Readings::open(&self.options.store)?,
        };
        let batch = readings.after(outbox.book.fed_upto)?;
        self.readings = Some(readings);
        if batch.readings.is_empty() {
            return Ok(false);
        }
        let dropped = outbox.book.dropped;
        let fed = outbox.feed(&batch, &self.options.settings, self.options.clock.wall())?;
        let dropped = outbox.book.dropped - dropped;
        if dropped > 0 {
            log::warn!("the queue is full: {dropped} messages were dropped for newer ones");
        }
        if fed.full && !self.full {
            log::warn!(
                "the queue is full ({} messages, {} bytes): readings wait in the store",
                outbox.tally.items,
                outbox.tally.bytes
            );
        }
        self.full = fed.full;
        self.inner.stats().conflicts += fed.conflicts;
        Ok(batch.full && !fed.full)
    }

    fn tell(&mut self, mark: i64) {
        if self.told != Some(mark) {
            self.options.orders.set_delivered_upto(mark);
            self.told = Some(mark);
        }
    }

    fn say(&self, state: QueueState) {
        self.inner.stats().state = state;
    }

    /// What a failure means; `None`: the queue is out of service.
    fn faulty(&mut self, e: &QueueError) -> Option<Duration> {
        self.readings = None;
        let text = in_words(e);
        let kind = e.fault();
        if kind == Fault::Sync {
            self.options.medium.latch(&text);
        }
        if kind == Fault::Later {
            if e.is_full() {
                self.say(QueueState::DiskFull);
            } else if !matches!(e, QueueError::GateClosed) {
                self.say(QueueState::Waiting(text.as_str().into()));
                log::debug!("{text}");
            }
            return Some(if matches!(e, QueueError::GateClosed) {
                GATE_AGAIN
            } else {
                AGAIN
            });
        }
        log::error!("the queue is out of service, everything else goes on: {text}");
        self.say(QueueState::Failed(text.as_str().into()));
        self.inner.frames.store(0, SeqCst);
        self.outbox = None;
        None
    }

    /// The caller holds a pass.
    fn routine(&self, outbox: &Outbox) {
        if self.inner.frames.load(SeqCst) >= self.inner.wal_limit.load(SeqCst) {
            // A reader in the way, or no room: the next turn tries again.
            outbox.checkpoint(Mode::Passive, &*self.options.clock).ok();
            self.inner.publish(outbox);
        }
    }

    fn checkpoint(&self, mode: Mode) -> Result<CheckpointReport, OrderError> {
        let Some(outbox) = &self.outbox else {
            return Ok(CheckpointReport::default());
        };
        let report = outbox.checkpoint(mode, &*self.options.clock).map_err(|e| {
            log::warn!("{}", in_words(&e));
            OrderError::Failed
        });
        self.inner.publish(outbox);
        report
    }
}

fn in_words(e: &QueueError) -> String {
    let mut text = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(s) = source {
        text.push_str(": ");
        text.push_str(&s.to_string());
        source = s.source();
    }
    text
}
