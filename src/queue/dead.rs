//! Dead letters: what was too old, or was tried too often, with its reason.
//!
//! It promises that a message is moved here in one transaction with its removal from the queue, and
//! that the letters stay bounded: the oldest make room, counted. It must never call a message too
//! old while nobody knows what time it is.

use std::time::Duration;

use rusqlite::params;

use crate::clock::{Mono, Wall};

use super::backoff;
use super::error::QueueError;
use super::outbox::{Outbox, int};
use super::rows::Row as Letter;
use super::schema::CREATED_MS;

/// Dead letters that are kept; older ones make room.
pub const DEAD_KEPT: u64 = 10_000;
/// Why a message died of age.
pub(super) const EXPIRED: &str = "older than its time to live";
/// Expired messages are looked for this often at most: it reads the whole table.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Not sooner, so that messages which die one after the other die together.
const SWEEP_LEAST: Duration = Duration::from_secs(10);
/// Messages in one transaction of the sweep.
const SWEEP_STEP: usize = 5_000;

impl Outbox {
    /// Moves what is too old to the dead letters, if any is and the last look is long ago.
    pub(super) fn sweep(&mut self, now: Mono, wall: Wall, sure: bool) -> Result<u64, QueueError> {
        let due = self.next_death.is_some_and(|at| at <= wall.as_millis());
        if !sure || !due || now < self.sweep_after {
            return Ok(0);
        }
        self.sweep_after = now + SWEEP_EVERY;
        self.leases.retain(|_, until| *until > now);
        let mut all = 0;
        loop {
            let died = self.write("remove expired messages from", |o| o.sweep_step(wall))?;
            all += died as u64;
            if died < SWEEP_STEP {
                break;
            }
        }
        if all > 0 {
            log::warn!(
                "{all} messages were older than their time to live: moved to the dead letters"
            );
        }
        Ok(all)
    }

    fn sweep_step(&mut self, wall: Wall) -> rusqlite::Result<usize> {
        let mut dead = Vec::new();
        let mut next = None;
        {
            let mut scan = self.conn.prepare_cached(&format!(
                "SELECT id, {CREATED_MS}, ttl_seconds FROM sync_queue WHERE ttl_seconds IS NOT NULL"
            ))?;
            let mut rows = scan.query([])?;
            while let Some(row) = rows.next()? {
                let id: i64 = row.get(0)?;
                let Some(at) = backoff::expires_at(int(row, 1), int(row, 2)) else {
                    continue;
                };
                if at > wall.as_millis() || self.leases.contains_key(&id) {
                    next = Some(next.map_or(at, |n: i64| n.min(at)));
                } else if dead.len() < SWEEP_STEP {
                    dead.push(id);
                } else {
                    next = Some(at);
                    break;
                }
            }
        }
        for id in &dead {
            self.bury(*id, EXPIRED, wall)?;
        }
        self.trim_dead()?;
        self.next_death = next;
        Ok(dead.len())
    }

    /// In what time the sweep has something to do; `None`: nothing ever expires.
    pub(super) fn next_sweep(&self, now: Mono, wall: Wall, sure: bool) -> Option<Duration> {
        let at = self.next_death?;
        let left = u64::try_from(at.saturating_sub(wall.as_millis())).unwrap_or(0);
        let least = if sure { SWEEP_LEAST } else { SWEEP_EVERY };
        let left = Duration::from_millis(left).max(least);
        Some(left.max(self.sweep_after.since(now)))
    }

    /// Inside a transaction: moves one message to the dead letters.
    pub(super) fn bury(&mut self, id: i64, why: &str, wall: Wall) -> rusqlite::Result<()> {
        let mut names = String::new();
        let mut values = String::new();
        for c in &self.dead_columns {
            names.push_str(", ");
            names.push_str(c);
            values.push_str(match c.as_str() {
                "reason" => ", ?2",
                "died_at" => ", ?3",
                "priority" => ", priority",
                "created_at" => ", created_at",
                "ttl_seconds" => ", ttl_seconds",
                _ => ", retry_count",
            });
        }
        // A statement counts its parameters by the highest that it names.
        let sql = format!(
            "INSERT INTO dead_letters(payload, message_id{names})
             SELECT payload, ifnull(message_id, ''){values} FROM sync_queue
             WHERE id = ?1 AND ?2 IS NOT NULL AND ?3 IS NOT NULL"
        );
        let moved = self
            .conn
            .prepare_cached(&sql)?
            .execute(params![id, why, wall.as_millis()])?;
        if moved > 0 && self.take(id)? {
            self.tally.dead += 1;
            self.book.died += 1;
        }
        Ok(())
    }

    /// Inside a transaction: a dead letter of another queue.
    pub(super) fn inject_dead(&mut self, row: &Letter, why: &str, at: i64) -> rusqlite::Result<()> {
        let mut names = String::new();
        let mut values = String::new();
        for c in &self.dead_columns {
            names.push_str(", ");
            names.push_str(c);
            values.push_str(match c.as_str() {
                "reason" => ", ?3",
                "died_at" => ", ?4",
                "priority" => ", ?5",
                "created_at" => ", ?6",
                "ttl_seconds" => ", ?7",
                _ => ", ?8",
            });
        }
        let sql = format!(
            "INSERT INTO dead_letters(payload, message_id{names})
             SELECT ?1, ?2{values} WHERE coalesce(?3, ?4, ?5, ?6, ?7, ?8) IS NOT NULL"
        );
        self.conn.prepare_cached(&sql)?.execute(params![
            row.payload,
            row.message_id,
            why,
            at,
            row.priority,
            row.created_at.unwrap_or(at),
            row.ttl_seconds,
            row.retry_count
        ])?;
        self.tally.dead += 1;
        self.trim_dead()
    }

    /// Inside a transaction: the dead letters stay bounded.
    pub(super) fn trim_dead(&mut self) -> rusqlite::Result<()> {
        if self.tally.dead <= DEAD_KEPT {
            return Ok(());
        }
        let gone = self
            .conn
            .prepare_cached(
                "DELETE FROM dead_letters WHERE id IN
                   (SELECT id FROM dead_letters ORDER BY id LIMIT ?1)",
            )?
            .execute([i64::try_from(self.tally.dead - DEAD_KEPT).unwrap_or(0)])?;
        self.tally.dead = self.tally.dead.saturating_sub(gone as u64);
        self.book.dead_dropped += gone as u64;
        Ok(())
    }
}
