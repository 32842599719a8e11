//! Outbound messages: priority, time to live, backoff, dead letters.
//!
//! It promises that a message is deleted only after the other side confirmed it, that every reading
//! gets one message id and no other reading ever has it, and that nothing that is wrong with the
//! queue stops ingest or the agent. It is fed from the readings by a cursor, off the
//! acknowledgement's path. It must never be fed while nothing empties it, unless it is told to
//! (`queue.enabled`), nor touch its files while the gate is closed, but for the plan's checkpoint.

mod backoff;
mod dead;
mod desk;
mod error;
mod feed;
mod jsonl;
mod message;
mod outbox;
mod rebuild;
mod rows;
mod salvaged;
mod schema;
mod stats;
mod survey;
#[cfg(test)]
mod tests;
mod worker;

use std::path::Path;

use crate::clock::Clock;
use crate::durable::{Gate, Medium};
use crate::store::open;

pub use backoff::{Dice, LOOP_AFTER, Struggle, ceiling, delay, expires_at, is_due};
pub use dead::DEAD_KEPT;
pub use desk::{Outgoing, QueueDesk, WAL_LIMIT};
pub use error::{QueueError, REMEDY};
pub use feed::{BATCH, Mark, mark};
pub use jsonl::{Lines, MAX_LINE, read as read_line, write as write_line};
pub use message::{Enqueued, Leased, NewMessage, Origin, parse};
pub use rebuild::{Gap, Imported, Rebuilt, Site, import, rebuild};
pub use rows::{MAX_PAYLOAD, Met, Row, SqlRows};
pub use salvaged::{AllRows, Keep, Salvage};
pub use schema::TABLES;
pub use stats::{QueueState, QueueStats};
pub use survey::{Survey, survey};
pub use worker::{Queue, QueueOptions};

/// Opens the queue at `path`, makes the tables that are missing, checks those that are there,
/// and closes it with everything in the database file. The gate must be open. For a queue that
/// is not fed.
///
/// # Errors
/// [`QueueError::Open`] that names what does not fit; nothing was changed then.
pub fn ensure(
    path: &Path,
    medium: &Medium,
    gate: &Gate,
    clock: &dyn Clock,
) -> Result<(), QueueError> {
    let (mut conn, _pass) = open(path, medium, gate, clock.wall())?;
    schema::prepare(&mut conn, path)?;
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .map_err(|e| QueueError::sqlite(path, "checkpoint", e))?;
    conn.close()
        .map_err(|(_, e)| QueueError::sqlite(path, "close", e))
}
