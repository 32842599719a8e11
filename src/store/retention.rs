//! Removing the oldest rows: a few at a time, in the writer's idle moments.
//!
//! It promises never to remove the newest row (its number would be used again), nor, once an
//! uplink exists, one that was not delivered; and that what it removed is counted.

use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::Clock;
use crate::config::StoreSettings;

use super::schema::{Book, set_meta};

/// Rows in one transaction at most.
const STEP: i64 = 500;

/// Days since 1970 UTC; `None` while nobody knows that the clock is right. Then no row is given a
/// day and none is removed for its age: one boot with a clock far off must not empty the store.
pub(super) fn day(clock: &dyn Clock) -> Option<i64> {
    let day = clock.wall().as_millis().div_euclid(86_400_000);
    clock.is_synchronised().then_some(day)
}

/// The first id to keep; equal to the lowest when nothing is due.
pub(super) fn keep_from(
    conn: &Connection,
    book: &Book,
    settings: &StoreSettings,
    today: Option<i64>,
    bytes: u64,
) -> rusqlite::Result<i64> {
    let mut from = book.lowest_id;
    if let (Some(days), Some(today)) = (settings.keep_days, today) {
        let since = arrived_since(conn, book, today - i64::from(days))?;
        from = from.max(since.min(book.undated_from.unwrap_or(i64::MAX)));
    }
    if settings.max_bytes.is_some_and(|max| bytes > max) {
        from = from.max(book.lowest_id.saturating_add(STEP));
    }
    let free = book
        .delivered_upto
        .map_or(i64::MAX, |upto| upto.saturating_add(1));
    Ok(from.min(free).min(book.next_id - 1).max(book.lowest_id))
}

/// The first id that arrived on `day` or later: rows under the oldest such mark came before.
fn arrived_since(conn: &Connection, book: &Book, day: i64) -> rusqlite::Result<i64> {
    let first: Option<i64> = conn
        .prepare_cached("SELECT first_id FROM holdup_arrival WHERE day >= ?1 ORDER BY day LIMIT 1")?
        .query_row([day], |r| r.get(0))
        .optional()?;
    Ok(first.unwrap_or(book.next_id))
}

/// Removes at most [`STEP`] rows under `from`, in one transaction; returns how many.
pub(super) fn expire(conn: &Connection, book: &mut Book, from: i64) -> rusqlite::Result<usize> {
    let mut fresh = book.clone();
    match attempt(conn, &mut fresh, from) {
        Ok(removed) => {
            *book = fresh;
            Ok(removed)
        }
        Err(e) => {
            if !conn.is_autocommit()
                && let Err(also) = conn.execute_batch("ROLLBACK")
            {
                log::warn!("rollback after \"{e}\": {also}");
            }
            Err(e)
        }
    }
}

fn attempt(conn: &Connection, book: &mut Book, from: i64) -> rusqlite::Result<usize> {
    conn.prepare_cached("BEGIN IMMEDIATE")?.raw_execute()?;
    super::batch::keep_mark(conn, book)?;
    let step: Option<i64> = conn
        .prepare_cached("SELECT id FROM readings WHERE id >= ?1 ORDER BY id LIMIT 1 OFFSET ?2")?
        .query_row(params![book.lowest_id, STEP], |r| r.get(0))
        .optional()?;
    let from = step.map_or(from, |s| s.min(from));
    let removed = conn
        .prepare_cached("DELETE FROM readings WHERE id < ?1")?
        .execute([from])?;
    let lowest: Option<i64> = conn
        .prepare_cached("SELECT min(id) FROM readings")?
        .query_row([], |r| r.get(0))?;
    let lowest = lowest.unwrap_or(book.next_id);
    let closed = lowest - book.lowest_id - i64::try_from(removed).unwrap_or(0);
    book.lowest_id = lowest;
    book.expired += removed as u64;
    if closed != 0 {
        book.holes -= closed;
        set_meta(conn, "holes", book.holes)?;
    }
    set_meta(
        conn,
        "expired",
        i64::try_from(book.expired).unwrap_or(i64::MAX),
    )?;
    // Marks that no row needs any more; the newest that covers the lowest row stays.
    conn.prepare_cached(
        "DELETE FROM holdup_arrival WHERE day <
            (SELECT max(day) FROM holdup_arrival WHERE first_id <= ?1)",
    )?
    .execute([book.lowest_id])?;
    conn.prepare_cached("COMMIT")?.raw_execute()?;
    Ok(removed)
}

/// Bytes in use: whole pages that are not free.
pub(super) fn bytes(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached(
        "SELECT (page_count - freelist_count) * page_size
         FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
    )?
    .query_row([], |r| r.get::<_, i64>(0))
    .map(i64::unsigned_abs)
}
