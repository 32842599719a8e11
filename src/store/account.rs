//! Holding the store to its ledger when it is opened.
//!
//! It promises that acknowledged readings which are missing are named, that their ids are never
//! given out again, and that the store is opened whatever the ledger is.

use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::durable::{Gate, Medium};

use super::ledger::{Ledger, LedgerError, Mark, Noted, Standing, compare};
use super::mailbox::Mailbox;
use super::schema::Book;

/// Where the ledger speaks of the store: it is a note behind, at most.
pub const BEHIND: i64 = 1 << 30;
/// Where nobody knows anything: 34 years at a thousand readings a second, and eight million such
/// gaps.
pub const UNKNOWN: i64 = 1 << 40;

/// Compares, says what is missing, and opens the ledger for writing; `None` where it cannot be.
/// `salvaged`: rows may be missing. The caller holds a pass of the gate.
pub(super) fn open(
    path: &Path,
    book: &mut Book,
    salvaged: bool,
    mailbox: &Arc<Mailbox>,
    medium: &Arc<Medium>,
    gate: &Arc<Gate>,
    clock: &Arc<dyn Clock>,
) -> Option<Ledger> {
    let last = match Ledger::read(path) {
        Ok(last) => last,
        Err(e @ LedgerError::Damaged(_)) => {
            unusable(mailbox, &e);
            None
        }
        // What stands in its place is not ours to write over.
        Err(e) => {
            unusable(mailbox, &e);
            leave_gap(None, book, salvaged, mailbox);
            return None;
        }
    };
    judge(last.as_ref(), book, mailbox);
    leave_gap(last.as_ref(), book, salvaged, mailbox);
    let theirs = Arc::clone(mailbox);
    let told = move |done: Result<i64, String>| {
        theirs.stats.ledger(|l| match done {
            Ok(upto) => l.upto = Some(upto),
            Err(why) => l.problem = Some(why),
        });
    };
    let (medium, gate, clock) = (Arc::clone(medium), Arc::clone(gate), Arc::clone(clock));
    let behind = last
        .as_ref()
        .is_some_and(|n| n.epoch == book.epoch && n.highest < book.next_id - 1);
    match Ledger::open(path, last, medium, gate, clock, Box::new(told)) {
        Ok(ledger) => {
            // An agent that was killed left it behind; what is stored must not be lost from now on.
            if behind {
                ledger.note(Mark {
                    epoch: book.epoch,
                    highest: book.next_id - 1,
                    lowest: book.lowest_id,
                });
            }
            Some(ledger)
        }
        Err(e) => {
            unusable(mailbox, &e);
            None
        }
    }
}

fn judge(last: Option<&Noted>, book: &mut Book, mailbox: &Mailbox) {
    let store = Mark {
        epoch: book.epoch,
        highest: book.next_id - 1,
        lowest: book.lowest_id,
    };
    let standing = compare(last, store);
    let Some(noted) = last else { return };
    match standing {
        Standing::Nothing => {}
        Standing::Agrees => mailbox.stats.ledger(|l| l.upto = Some(noted.highest)),
        // Whoever restored it knew, and said so in the audit log.
        Standing::Missing { from, upto } if book.floor >= upto => {
            log::warn!(
                "readings {from} to {upto}, acknowledged once, are not in the store, which was restored \
                 from a backup; their ids are not used again"
            );
            mailbox.stats.ledger(|l| l.upto = Some(upto));
        }
        Standing::Missing { from, upto } => {
            log::error!(
                "ACKNOWLEDGED READINGS ARE MISSING: ids {from} to {upto} were acknowledged (noted {}), \
                 the store ends at {}; their ids are not used again",
                noted.at,
                store.highest
            );
            book.floor = book.floor.max(upto);
            mailbox.stats.ledger(|l| {
                l.upto = Some(upto);
                l.missing = Some((from, upto));
            });
        }
        Standing::Foreign => {
            let why = format!(
                "the ledger speaks of another store (epoch {:016x}, acknowledged up to id {}, noted \
                 {}); this one has epoch {:016x}: what that store held is not in it",
                noted.epoch, noted.highest, noted.at, store.epoch
            );
            log::warn!("{why}");
            mailbox.stats.ledger(|l| l.problem = Some(why));
        }
    }
}

/// The queue may have given ids to readings that the store lost, and cannot be asked before the
/// store opens: none of them is used again.
fn leave_gap(noted: Option<&Noted>, book: &mut Book, salvaged: bool, mailbox: &Mailbox) {
    let lost = salvaged || mailbox.stats.ledger(|l| l.missing).is_some();
    if !lost || !mailbox.lock().unheard {
        return;
    }
    let known = book.floor.max(book.next_id - 1);
    let gap = match noted {
        Some(n) if n.epoch == book.epoch => BEHIND,
        Some(_) | None => UNKNOWN,
    };
    // The last numbers of all are kept for the readings themselves.
    book.floor = known.checked_add(gap).unwrap_or(known);
    log::warn!(
        "the store lost readings, and the queue cannot say yet which ids it had given out: ids go on \
         above {}",
        book.floor
    );
}

fn unusable(mailbox: &Mailbox, e: &LedgerError) {
    let cause = std::error::Error::source(e).map_or_else(String::new, |s| format!(": {s}"));
    let why = format!("{e}{cause}; the store goes on without what it said");
    log::error!("{why}");
    mailbox.stats.ledger(|l| l.problem = Some(why));
}
