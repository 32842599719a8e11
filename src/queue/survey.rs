//! What a queue's file says of itself, for people: read without the agent.

use std::path::Path;

use serde::Serialize;

use super::backoff::LOOP_AFTER;
use super::error::QueueError;
use super::feed::read_only;
use super::rows::first;
use super::schema::{Book, CREATED_MS, columns_of};
use crate::store::{Look, look};

/// The numbers of `holdup queue stats`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Survey {
    /// Messages that wait.
    pub depth: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// When the oldest of them came into being, ms since 1970; `None`: none waits, or unknown.
    pub oldest_at: Option<i64>,
    /// Failed attempts of those that wait.
    pub total_retries: u64,
    /// Messages that were tried at least once.
    pub retrying: u64,
    /// Dead letters that are kept.
    pub dead: u64,
    /// Messages dropped because the queue was full, ever.
    pub dropped: u64,
    /// Dead letters that made room for newer ones, ever.
    pub dead_dropped: u64,
    /// Messages confirmed, ever.
    pub confirmed: u64,
    /// When the last one was, ms since 1970; `None`: never.
    pub last_confirmed_at: Option<i64>,
    /// Failed attempts, ever.
    pub retries: u64,
    /// Readings up to this id have been queued.
    pub fed_upto: i64,
    /// Readings up to this id have left the queue.
    pub delivered_upto: i64,
    /// Seconds for which attempts have failed without one confirmation while the queue grew.
    pub retry_loop_s: Option<u64>,
}

impl Survey {
    /// The loop in words, with the remedy.
    pub fn loop_in_words(&self) -> Option<String> {
        let minutes = self.retry_loop_s? / 60;
        Some(format!(
            "retry loop: for {minutes} minutes (at least {} count) every attempt failed, nothing was confirmed, and the queue grew; see why the other side refuses",
            LOOP_AFTER.as_secs() / 60
        ))
    }
}

/// Reads the queue at `path`; `None` where there is none. Not while this process has it open.
///
/// # Errors
/// [`QueueError`] where it cannot be read: `holdup queue export` may still read some of it.
pub fn survey(path: &Path) -> Result<Option<Survey>, QueueError> {
    if look(path)? == Look::Fresh {
        return Ok(None);
    }
    let failed = |e| QueueError::sqlite(path, "read", e);
    let conn = read_only(path).map_err(failed)?;
    conn.busy_timeout(std::time::Duration::from_secs(5))
        .map_err(failed)?;
    let read = || -> rusqlite::Result<Survey> {
        let one = |sql: &str| first::<i64>(&conn, sql);
        let count = |sql: &str| one(sql).map(|n| n.unwrap_or(0).unsigned_abs());
        let book = if columns_of(&conn, "holdup_meta")?.is_empty() {
            Book::default()
        } else {
            Book::read(&conn)?
        };
        let depth = count("SELECT count(*) FROM sync_queue")?;
        Ok(Survey {
            depth,
            bytes: count("SELECT CAST(total(octet_length(payload)) AS INTEGER) FROM sync_queue")?,
            oldest_at: one(&format!(
                "SELECT CAST(min({CREATED_MS}) AS INTEGER) FROM sync_queue"
            ))?,
            total_retries: count(
                "SELECT CAST(total(max(CAST(retry_count AS INTEGER), 0)) AS INTEGER) FROM sync_queue",
            )?,
            retrying: count(
                "SELECT count(*) FROM sync_queue WHERE CAST(retry_count AS INTEGER) > 0",
            )?,
            dead: count("SELECT count(*) FROM dead_letters")?,
            dropped: book.dropped,
            dead_dropped: book.dead_dropped,
            confirmed: book.confirmed,
            last_confirmed_at: Some(book.last_confirmed_at).filter(|at| *at > 0),
            retries: book.retries,
            fed_upto: book.fed_upto,
            delivered_upto: book.delivered_upto,
            retry_loop_s: book.struggle.looping(depth).map(|t| t.as_secs()),
        })
    };
    read().map(Some).map_err(failed)
}
