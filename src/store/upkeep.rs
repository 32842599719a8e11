//! What the writer does beside readings: checkpoints, retention, a trial after a full disk.
//!
//! It promises that each of them passes the gate, but the checkpoint that the plan orders.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::clock::Mono;
use crate::durable::Reserve;

use super::StoreState;
use super::error::{Fault, StoreError, fault};
use super::mailbox::{CheckpointReport, Mode, RetractOrder};
use super::retention;
use super::retraction::{self, RetractError};
use super::schema::set_meta;
use super::writer::{FULL_CHECKPOINT, FULL_RETRY, GATE_RETRY_MAX, LOOK, LOOK_IDLE, Writer, text};

impl Writer {
    /// Copies the log into the database. The caller holds a pass, or the plan's order.
    pub(super) fn checkpoint(&mut self, mode: Mode) -> Result<CheckpointReport, ()> {
        let sql = match mode {
            Mode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
            Mode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
        };
        let began = self.clock.mono();
        let row = self.conn.prepare_cached(sql).and_then(|mut s| {
            s.query_row([], |r| {
                Ok((
                    r.get::<_, i64>(0)?,
                    r.get::<_, i64>(1)?,
                    r.get::<_, i64>(2)?,
                ))
            })
        });
        let took = self.clock.mono().since(began);
        let (busy, log, done) = match row {
            Ok(row) => row,
            Err(e) if fault(&e) == Fault::Busy => (1, -1, -1),
            // The power-fail plan may be the first to meet the full disk.
            Err(e) if fault(&e) == Fault::Full && self.give_room() => {
                return self.checkpoint(mode);
            }
            Err(e) if fault(&e) == Fault::Full => {
                // The rows are safe in the log; whether new ones fit, the next commit tells. While
                // the disk is known to be full it was said before.
                if self.mailbox.stats.state() != StoreState::DiskFull {
                    log::warn!("{}", text(&StoreError::sqlite(&self.path, "checkpoint", e)));
                }
                return Err(());
            }
            Err(e) => {
                self.failed("checkpoint", e);
                return Err(());
            }
        };
        // -1: it could not even look.
        let log = u32::try_from(log).unwrap_or_else(|_| self.frames.load(SeqCst));
        let report = CheckpointReport {
            busy: busy != 0,
            wal_frames: log,
            backfilled: u32::try_from(done).unwrap_or(0),
            took,
        };
        let left = if report.complete() { 0 } else { log };
        self.frames.store(left, SeqCst);
        self.mailbox.stats.wal_frames.store(left, SeqCst);
        self.observer.checkpointed(took, report.backfilled);
        Ok(report)
    }

    pub(super) fn routine(&mut self) {
        let gate = Arc::clone(&self.gate);
        let Some(_pass) = gate.try_enter() else {
            self.routine_after = self.clock.mono() + GATE_RETRY_MAX;
            return;
        };
        self.try_checkpoint();
    }

    /// Not at every commit where a reader pins the log, and seldom where it does not fit: trying
    /// is writing.
    fn try_checkpoint(&mut self) {
        let complete = self.checkpoint(Mode::Passive).is_ok_and(|r| r.complete());
        self.routine_after = match self.mailbox.stats.state() {
            _ if complete => Mono::default(),
            StoreState::DiskFull => self.clock.mono() + FULL_CHECKPOINT,
            StoreState::Starting
            | StoreState::Running
            | StoreState::Failed(_)
            | StoreState::Stopped => self.clock.mono() + LOOK,
        };
    }

    pub(super) fn retention(&mut self) {
        let now = self.clock.mono();
        self.look_at = now + LOOK_IDLE;
        self.backlog = false;
        self.turn = false;
        let gate = Arc::clone(&self.gate);
        let Some(_pass) = gate.try_enter() else {
            self.look_at = now + LOOK;
            return;
        };
        let today = retention::day(&*self.clock);
        let due = retention::bytes(&self.conn).and_then(|bytes| {
            self.mailbox.stats.bytes.store(bytes, SeqCst);
            retention::keep_from(&self.conn, &self.book, &self.settings, today, bytes)
        });
        let removed = due.and_then(|from| {
            if from > self.book.lowest_id {
                retention::expire(&self.conn, &mut self.book, from)
            } else {
                Ok(0)
            }
        });
        match removed {
            Ok(0) => {}
            Ok(_) => {
                self.note(self.clock.mono().since(now), 0);
                // There may be more: rows that wait go first, then the next step.
                self.look_at = self.clock.mono();
                self.backlog = true;
            }
            Err(e) => {
                if let Some(retry) = self.failed("remove old readings from", e) {
                    self.look_at = now + LOOK;
                    self.blocked = Some(now + retry);
                }
            }
        }
    }

    /// One row; who asked is told what became of it.
    pub(super) fn retract(&mut self, order: RetractOrder) {
        let RetractOrder { what, tell } = order;
        let gate = Arc::clone(&self.gate);
        let Some(pass) = gate.try_enter() else {
            tell.send(Err(RetractError::GateClosed)).ok();
            return;
        };
        let began = self.clock.mono();
        let at = self.clock.wall().as_millis();
        let done = match retraction::write(&self.conn, &what, at) {
            Ok(done) => {
                self.note(self.clock.mono().since(began), 0);
                retraction::answer(&what, done)
            }
            Err(e) => Err(self.not_retracted(e)),
        };
        drop(pass);
        // Who does not wait any more can look it up.
        tell.send(done).ok();
    }

    /// Readings are taken on, whatever became of the retraction, but not on a medium or a file
    /// that failed. A full disk is for the next commit to meet.
    fn not_retracted(&mut self, e: rusqlite::Error) -> RetractError {
        const DOING: &str = "retract readings in";
        let kind = fault(&e);
        let malformed = matches!(
            e.sqlite_error_code(),
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
        );
        match kind {
            Fault::Medium => {}
            Fault::Database if malformed => {}
            Fault::Busy | Fault::Full | Fault::Row | Fault::Database => {
                return StoreError::sqlite(&self.path, DOING, e).into();
            }
        }
        self.failed(DOING, e);
        // The failed commit may have reached the medium.
        RetractError::NotAnswered
    }

    /// The disk is full: what was taken from clients still goes in, by the room kept back, and
    /// out of the log, so that the plan has nothing to move. Says when to try again.
    pub(super) fn make_room(&mut self) -> Duration {
        if self.give_room() {
            return Duration::ZERO;
        }
        // An emptied log is written from its start again and needs no room.
        if self.clock.mono() >= self.routine_after {
            self.try_checkpoint();
        }
        FULL_RETRY
    }

    /// Gives up the reserve; false when that is done already.
    fn give_room(&mut self) -> bool {
        match self.reserve.release(&self.medium) {
            Ok(true) => {
                self.note_reserve();
                self.set_state(&StoreState::DiskFull);
                log::warn!("the disk is full: the room kept back for this was given up");
                true
            }
            Ok(false) => false,
            Err(e) => {
                log::error!("the room kept back cannot be given up: {e}");
                false
            }
        }
    }

    /// Takes the reserve at the start. Without it the store serves, and says so.
    pub(super) fn keep_room(&mut self) {
        match self.reserve.take(&self.medium) {
            Ok(true) => {}
            Ok(false) => {
                log::error!(
                    "{} has no room for the reserve (store.reserve_mb): no readings are taken until there is",
                    self.medium.dir().display()
                );
                self.set_state(&StoreState::DiskFull);
            }
            Err(e) => {
                log::warn!("no room is kept back for a full disk: {e}");
                self.without_reserve();
            }
        }
        self.note_reserve();
        // Unless the first checkpoint has ended the store.
        let state = self.mailbox.stats.state();
        if self.reserve.is_held() && matches!(state, StoreState::Starting | StoreState::DiskFull) {
            self.set_state(&StoreState::Running);
        }
    }

    /// This file system cannot keep room back.
    fn without_reserve(&mut self) {
        self.reserve = Arc::new(Reserve::new(&self.path, 0));
    }

    fn note_reserve(&self) {
        let held = self.reserve.held_bytes();
        self.mailbox.stats.reserve.store(held, SeqCst);
    }

    /// Is there room again? Asked while no rows wait. Nothing is written before the file system
    /// says that there is.
    pub(super) fn probe(&mut self) {
        let gate = Arc::clone(&self.gate);
        let Some(_pass) = gate.try_enter() else {
            self.blocked = Some(self.clock.mono() + FULL_RETRY);
            return;
        };
        match self.reserve.restore(&self.medium) {
            Ok(true) => {
                self.note_reserve();
                self.routine_after = Mono::default();
            }
            Ok(false) => {
                // What the plan would have to move is moved while there is time.
                if self.frames.load(SeqCst) > 0 && self.clock.mono() >= self.routine_after {
                    self.try_checkpoint();
                }
                self.blocked = Some(self.clock.mono() + FULL_RETRY);
                return;
            }
            Err(e) => {
                log::warn!("no room is kept back for a full disk any more: {e}");
                self.without_reserve();
            }
        }
        self.blocked = self
            .sample()
            .err()
            .and_then(|e| self.failed("write a trial row to", e))
            .map(|retry| self.clock.mono() + retry.max(FULL_RETRY));
    }

    /// One small real commit, for the observer. The caller holds a pass.
    pub(super) fn sample(&mut self) -> rusqlite::Result<()> {
        let began = self.clock.mono();
        let boot = crate::clock::boot_id().unwrap_or_default();
        set_meta(
            &self.conn,
            "started",
            format!("{} boot {boot}", self.clock.wall()),
        )?;
        self.note(self.clock.mono().since(began), 0);
        Ok(())
    }
}
