//! The queue's database: what waits, what was leased, what died.
//!
//! It promises that a message leaves `sync_queue` only when it was confirmed, was moved to
//! `dead_letters`, or was dropped by the policy that the settings name, and that each of these is
//! counted in the same transaction. Leases live in memory: a crash ends them, and who takes the
//! message then sends it under the same id. The caller holds a pass of the gate.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::{Clock, Mono, Wall};
use crate::config::{QueueSettings, WhenFull};
use crate::durable::{Gate, Medium};
use crate::store::{self, CheckpointReport, Mode};

use super::backoff::{self, Dice};
use super::dead::EXPIRED;
use super::error::QueueError;
use super::message::{Enqueued, Leased, NewMessage};
use super::schema::{self, Book, CREATED_MS};

/// What the queue holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) items: u64,
    /// Of their payloads.
    pub(super) bytes: u64,
    pub(super) dead: u64,
}

/// A message that is not handed out any more, and why.
type Deceased = (i64, &'static str);

/// See the module's text.
#[derive(Debug)]
pub(super) struct Outbox {
    /// A hot copy holds it too, on this thread.
    pub(super) conn: Rc<Connection>,
    pub(super) path: PathBuf,
    pub(super) book: Book,
    pub(super) tally: Tally,
    /// Messages refused since the opening because the queue was full.
    pub(super) rejected: u64,
    settings: QueueSettings,
    pub(super) leases: HashMap<i64, Mono>,
    dice: Dice,
    /// Columns beside the ones that every `dead_letters` has.
    pub(super) dead_columns: Vec<String>,
    /// Changes by other programs move it.
    version: i64,
    /// The first message dies then, in ms since 1970.
    pub(super) next_death: Option<i64>,
    pub(super) sweep_after: Mono,
    /// Set by SQLite's hook at each commit.
    frames: Arc<AtomicU32>,
}

impl Outbox {
    /// Opens or makes the database with the store's settings. The gate must be open.
    pub(super) fn open(
        path: &Path,
        settings: QueueSettings,
        medium: &Medium,
        gate: &Gate,
        clock: &dyn Clock,
    ) -> Result<Self, QueueError> {
        let (mut conn, _pass) = store::open(path, medium, gate, clock.wall())?;
        let book = schema::prepare(&mut conn, path)?;
        conn.set_prepared_statement_cache_capacity(48);
        let failed = |e| QueueError::sqlite(path, "read", e);
        let frames = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&frames);
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, n: i32| {
            seen.store(n.unsigned_abs(), SeqCst);
            Ok(())
        }))
        .map_err(failed)?;
        let wanted = ["priority", "created_at", "ttl_seconds", "retry_count"];
        let dead_columns = schema::columns_of(&conn, "dead_letters").map_err(failed)?;
        let dead_columns = dead_columns
            .into_iter()
            .filter(|c| wanted.contains(&c.as_str()) || c == "reason" || c == "died_at")
            .collect();
        let mut outbox = Self {
            conn: Rc::new(conn),
            path: path.to_owned(),
            book,
            tally: Tally::default(),
            rejected: 0,
            settings,
            leases: HashMap::new(),
            dice: Dice::from_kernel(clock.mono().as_nanos()),
            dead_columns,
            version: 0,
            next_death: None,
            sweep_after: Mono::default(),
            frames,
        };
        outbox.count().map_err(failed)?;
        // What an earlier agent left in the log is not counted by the hook.
        outbox.checkpoint(Mode::Passive, clock)?;
        Ok(outbox)
    }

    /// Reads the tally from the tables: at the opening, and after another program wrote.
    fn count(&mut self) -> rusqlite::Result<()> {
        self.version = version(&self.conn)?;
        let (items, bytes, next_death): (i64, i64, Option<i64>) = self.conn.query_row(
            &format!(
                "SELECT count(*), ifnull(sum(octet_length(payload)), 0),
                        CAST(min({CREATED_MS} + ttl_seconds * 1000) AS INTEGER)
                 FROM sync_queue"
            ),
            [],
            |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
        )?;
        let dead: i64 = self
            .conn
            .query_row("SELECT count(*) FROM dead_letters", [], |r| r.get(0))?;
        self.tally = Tally {
            items: items.unsigned_abs(),
            bytes: bytes.unsigned_abs(),
            dead: dead.unsigned_abs(),
        };
        self.next_death = next_death;
        Ok(())
    }

    /// One transaction. After an error nothing of it is in the database, and book and tally are as
    /// they were.
    pub(super) fn write<T>(
        &mut self,
        doing: &'static str,
        act: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> Result<T, QueueError> {
        let before = (self.book.clone(), self.tally, self.next_death);
        let done = self.attempt(&before.0, act);
        done.map_err(|e| {
            (self.book, self.tally, self.next_death) = before;
            if !self.conn.is_autocommit()
                && let Err(also) = self.conn.execute_batch("ROLLBACK")
            {
                log::warn!("rollback after \"{e}\": {also}");
            }
            QueueError::sqlite(&self.path, doing, e)
        })
    }

    fn attempt<T>(
        &mut self,
        before: &Book,
        act: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.raw_execute()?;
        if version(&self.conn)? != self.version {
            self.count()?;
        }
        let done = act(self)?;
        // What was never queued has not left: a rebuilt queue's first message says nothing of those
        // before it, which are still to be queued again.
        let fed = self.book.fed_upto;
        let left = self.lowest_outstanding()?.map_or(fed, |n| fed.min(n - 1));
        self.book.delivered_upto = self.book.delivered_upto.max(left);
        self.book.highest = self.book.highest.max(self.book.fed_upto);
        self.book.keep(&self.conn, before)?;
        self.conn.prepare_cached("COMMIT")?.raw_execute()?;
        Ok(done)
    }

    /// The lowest reading of this store that waits: ids of one store sort as their readings do.
    fn lowest_outstanding(&self) -> rusqlite::Result<Option<i64>> {
        let Some(origin) = &self.book.origin else {
            return Ok(None);
        };
        let prefix = origin.prefix();
        let first: Option<String> = self
            .conn
            .prepare_cached(
                "SELECT message_id FROM sync_queue WHERE message_id >= ?1 ORDER BY message_id LIMIT 1",
            )?
            .query_row([&prefix], |r| r.get(0))
            .optional()?;
        let id = first.and_then(|f| f.strip_prefix(&prefix).and_then(|id| id.parse().ok()));
        Ok(id)
    }

    /// Puts messages into the queue, all in one transaction; what became of each.
    pub(super) fn enqueue(&mut self, new: &[NewMessage]) -> Result<Vec<Enqueued>, QueueError> {
        let rejected = self.rejected;
        let done = self.write("put messages into", |o| {
            new.iter().map(|m| o.add(m)).collect()
        });
        if done.is_err() {
            self.rejected = rejected;
        }
        done
    }

    /// Inside a transaction: one message, by the limits.
    pub(super) fn add(&mut self, m: &NewMessage) -> rusqlite::Result<Enqueued> {
        if self.is_known(&m.message_id)? {
            return Ok(Enqueued::Duplicate);
        }
        let bytes = m.payload.len() as u64;
        if !self.make_room(m.priority, bytes)? {
            self.rejected += 1;
            return Ok(Enqueued::Rejected);
        }
        let ttl = m
            .ttl
            .map(|t| i64::try_from(t.as_secs()).unwrap_or(i64::MAX));
        self.conn
            .prepare_cached(
                "INSERT INTO sync_queue(payload, priority, created_at, ttl_seconds, retry_count, message_id)
                 VALUES(?1, ?2, ?3, ?4, 0, ?5)",
            )?
            .execute(params![
                m.payload,
                m.priority,
                m.created_at.as_millis(),
                ttl,
                m.message_id
            ])?;
        self.note_added(
            bytes,
            backoff::expires_at(Some(m.created_at.as_millis()), ttl),
        );
        Ok(Enqueued::Added)
    }

    pub(super) fn note_added(&mut self, bytes: u64, dies: Option<i64>) {
        self.tally.items += 1;
        self.tally.bytes += bytes;
        if let Some(at) = dies {
            self.next_death = Some(self.next_death.map_or(at, |first| first.min(at)));
        }
    }

    /// Is there a message under this id, waiting or dead?
    pub(super) fn is_known(&self, message_id: &str) -> rusqlite::Result<bool> {
        self.conn
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM sync_queue WHERE message_id = ?1)
                     OR EXISTS(SELECT 1 FROM dead_letters WHERE message_id = ?1)",
            )?
            .query_row([message_id], |r| r.get(0))
    }

    /// May there be room for one more?
    pub(super) fn has_room(&self) -> bool {
        self.fits(1)
    }

    /// Would so much more fit?
    fn fits(&self, bytes: u64) -> bool {
        self.tally.items < self.settings.max_items
            && self.tally.bytes.saturating_add(bytes) <= self.settings.max_bytes
    }

    /// Makes room by the policy; false where the new one is to be refused.
    pub(super) fn make_room(&mut self, priority: i64, bytes: u64) -> rusqlite::Result<bool> {
        if self.fits(bytes) {
            return Ok(true);
        }
        // What could never fit must not empty the queue first.
        if self.settings.when_full == WhenFull::Reject || bytes > self.settings.max_bytes {
            return Ok(false);
        }
        let mut victims = Vec::new();
        let mut room = self.tally;
        {
            let mut scan = self.conn.prepare_cached(
                "SELECT id, octet_length(payload) FROM sync_queue
                 WHERE priority <= ?1 ORDER BY priority, id",
            )?;
            let mut rows = scan.query([priority])?;
            let full = |t: &Tally| {
                t.items >= self.settings.max_items
                    || t.bytes.saturating_add(bytes) > self.settings.max_bytes
            };
            while full(&room) {
                let Some(row) = rows.next()? else {
                    return Ok(false);
                };
                let id: i64 = row.get(0)?;
                // What is being sent is not worth dropping.
                if self.leases.contains_key(&id) {
                    continue;
                }
                room.items = room.items.saturating_sub(1);
                room.bytes = room.bytes.saturating_sub(length(row, 1));
                victims.push(id);
            }
        }
        for id in &victims {
            self.conn
                .prepare_cached("DELETE FROM sync_queue WHERE id = ?1")?
                .execute([id])?;
        }
        self.tally = room;
        self.book.dropped += victims.len() as u64;
        Ok(true)
    }

    /// The next due messages, hidden from others for `time`: highest priority first, among equals
    /// the oldest. What has expired, or has no id, dies instead.
    pub(super) fn lease(
        &mut self,
        most: usize,
        time: Duration,
        now: Mono,
        wall: Wall,
        sure: bool,
    ) -> Result<Vec<Leased>, QueueError> {
        self.leases.retain(|_, until| *until > now);
        let (found, dead) = self
            .due(most, wall, sure)
            .map_err(|e| QueueError::sqlite(&self.path, "read", e))?;
        if !dead.is_empty() {
            self.write("remove expired messages from", |o| {
                for (id, why) in &dead {
                    o.bury(*id, why, wall)?;
                }
                o.trim_dead()
            })?;
        }
        for message in &found {
            self.leases.insert(message.id, now + time);
        }
        Ok(found)
    }

    fn due(
        &self,
        most: usize,
        wall: Wall,
        sure: bool,
    ) -> rusqlite::Result<(Vec<Leased>, Vec<Deceased>)> {
        let now = wall.as_millis();
        let longest = i64::try_from(self.settings.retry_max.as_millis()).unwrap_or(i64::MAX);
        let mut scan = self.conn.prepare_cached(&format!(
            "SELECT id, message_id, payload, priority, retry_count, {CREATED_MS}, ttl_seconds
             FROM sync_queue
             WHERE next_retry_at IS NULL OR next_retry_at <= ?1 OR next_retry_at > ?2
             ORDER BY priority DESC, id"
        ))?;
        let mut rows = scan.query([now, now.saturating_add(longest)])?;
        let (mut found, mut dead) = (Vec::new(), Vec::new());
        while found.len() < most {
            let Some(row) = rows.next()? else { break };
            let id: i64 = row.get(0)?;
            if self.leases.contains_key(&id) {
                continue;
            }
            let dies = backoff::expires_at(int(row, 5), int(row, 6));
            // One boot with a clock far off must not empty the queue.
            if sure && dies.is_some_and(|at| at <= now) {
                dead.push((id, EXPIRED));
                continue;
            }
            let message_id = String::from_utf8_lossy(&bytes(row, 1)).into_owned();
            if message_id.is_empty() {
                dead.push((id, "it has no message id"));
                continue;
            }
            found.push(Leased {
                id,
                message_id,
                payload: bytes(row, 2),
                priority: int(row, 3).unwrap_or(0),
                retry_count: int(row, 4).unwrap_or(0).max(0).unsigned_abs(),
            });
        }
        Ok((found, dead))
    }

    /// The other side has these: they leave the queue. How many were still there.
    pub(super) fn confirm(&mut self, ids: &[i64], wall: Wall) -> Result<usize, QueueError> {
        let done = self.write("confirm messages in", |o| {
            let mut gone = 0;
            for id in ids {
                gone += usize::from(o.take(*id)?);
            }
            if gone > 0 {
                o.book.confirmed += gone as u64;
                o.book.last_confirmed_at = wall.as_millis();
                o.book.struggle = backoff::Struggle::default();
            }
            Ok(gone)
        })?;
        self.release(ids);
        Ok(done)
    }

    /// These could not be delivered: each is tried again later, or dies when it was tried too
    /// often. How many died.
    pub(super) fn fail(&mut self, ids: &[i64], why: &str, wall: Wall) -> Result<usize, QueueError> {
        let settings = self.settings;
        let done = self.write("put off messages in", |o| {
            let mut died = 0;
            for id in ids {
                let tried: Option<i64> = o
                    .conn
                    .prepare_cached(
                        "SELECT CAST(retry_count AS INTEGER) FROM sync_queue WHERE id = ?1",
                    )?
                    .query_row([id], |r| r.get(0))
                    .optional()?;
                let Some(tried) = tried else { continue };
                let tried = tried.max(0).saturating_add(1);
                o.book.retries += 1;
                o.book.struggle = o.book.struggle.failed(wall.as_millis(), o.tally.items);
                let wait = backoff::delay(
                    tried.unsigned_abs(),
                    settings.retry_min,
                    settings.retry_max,
                    &mut o.dice,
                );
                let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                o.conn
                    .prepare_cached(
                        "UPDATE sync_queue SET retry_count = ?2, next_retry_at = ?3 WHERE id = ?1",
                    )?
                    .execute([*id, tried, wall.as_millis().saturating_add(wait)])?;
                if tried.unsigned_abs() > settings.max_retries {
                    o.bury(*id, &format!("tried {tried} times; last: {why}"), wall)?;
                    died += 1;
                }
            }
            o.trim_dead()?;
            Ok(died)
        })?;
        self.release(ids);
        Ok(done)
    }

    fn release(&mut self, ids: &[i64]) {
        for id in ids {
            self.leases.remove(id);
        }
    }

    /// Frames of the log that are not in the database yet.
    pub(super) fn frames(&self) -> u32 {
        self.frames.load(SeqCst)
    }

    /// Copies the log into the database. The caller holds a pass, or the plan's order.
    pub(super) fn checkpoint(
        &self,
        mode: Mode,
        clock: &dyn Clock,
    ) -> Result<CheckpointReport, QueueError> {
        let sql = match mode {
            Mode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
            Mode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
        };
        let began = clock.mono();
        let (busy, log, done): (i64, i64, i64) = self
            .conn
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))))
            .map_err(|e| QueueError::sqlite(&self.path, "checkpoint", e))?;
        let report = CheckpointReport {
            busy: busy != 0,
            // -1: it could not even look.
            wal_frames: u32::try_from(log).unwrap_or_else(|_| self.frames()),
            backfilled: u32::try_from(done).unwrap_or(0),
            took: clock.mono().since(began),
        };
        let left = if report.complete() {
            0
        } else {
            report.wal_frames
        };
        self.frames.store(left, SeqCst);
        Ok(report)
    }

    /// Inside a transaction: removes one row; was it there?
    pub(super) fn take(&mut self, id: i64) -> rusqlite::Result<bool> {
        let bytes: Option<u64> = self
            .conn
            .prepare_cached("SELECT octet_length(payload) FROM sync_queue WHERE id = ?1")?
            .query_row([id], |r| Ok(length(r, 0)))
            .optional()?;
        let Some(bytes) = bytes else {
            return Ok(false);
        };
        self.conn
            .prepare_cached("DELETE FROM sync_queue WHERE id = ?1")?
            .execute([id])?;
        self.tally.items = self.tally.items.saturating_sub(1);
        self.tally.bytes = self.tally.bytes.saturating_sub(bytes);
        Ok(true)
    }

    /// Messages that are leased now; for tests of what a crash forgets.
    #[cfg(test)]
    pub(super) fn leased(&self) -> std::collections::BTreeSet<i64> {
        self.leases.keys().copied().collect()
    }
}

fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("PRAGMA data_version")?
        .query_row([], |r| r.get(0))
}

/// A number, whatever an adopted row has there.
pub(super) fn int(row: &Row<'_>, at: usize) -> Option<i64> {
    match row.get_ref(at).ok()? {
        ValueRef::Integer(n) => Some(n),
        // Saturates, as casts do.
        ValueRef::Real(x) => Some(x as i64),
        ValueRef::Text(t) => std::str::from_utf8(t).ok()?.trim().parse().ok(),
        ValueRef::Null | ValueRef::Blob(_) => None,
    }
}

/// Bytes, whatever an adopted row has there.
pub(super) fn bytes(row: &Row<'_>, at: usize) -> Vec<u8> {
    match row.get_ref(at) {
        Ok(ValueRef::Text(b) | ValueRef::Blob(b)) => b.to_vec(),
        Ok(ValueRef::Integer(n)) => n.to_string().into_bytes(),
        Ok(ValueRef::Real(x)) => x.to_string().into_bytes(),
        Ok(ValueRef::Null) | Err(_) => Vec::new(),
    }
}

fn length(row: &Row<'_>, at: usize) -> u64 {
    int(row, at).unwrap_or(0).unsigned_abs()
}
