//! The thread that writes: spool first, then the log, then whoever waits is told.
//!
//! It promises that entries reach the log in the order in which they were made, none of them twice,
//! and that nothing is written while the gate is closed.

use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::durable::{CopyOrder, Medium, Target};

use super::aside;
use super::entry::{Draft, Head};
use super::error::AuditError;
use super::file::{self, LogFile};
use super::salvage;
use super::spool::{Left, Spool, Waiting};
use super::{AGENT, AuditOptions, Desk, Item};

/// How soon it is tried again: while the gate is closed, while somebody reads, on a full disk, and
/// after any other failure.
const GATE: Duration = Duration::from_millis(500);
const BUSY: Duration = Duration::from_millis(200);
const FULL: Duration = Duration::from_secs(5);
const FAILED: Duration = Duration::from_secs(30);
/// Entries in one transaction.
const BATCH: usize = 256;

/// Not now.
struct Later {
    again: Duration,
    state: &'static str,
    why: String,
}

/// What ended the waiting.
struct Wakened {
    items: VecDeque<Item>,
    copy: Option<CopyOrder>,
    stop: bool,
}

struct Waiter {
    waiting: Waiting,
    written: Option<SyncSender<i64>>,
}

struct Scribe {
    options: AuditOptions,
    desk: Arc<Desk>,
    spool: Spool,
    log: Option<LogFile>,
    backlog: VecDeque<Waiter>,
    /// What the spool says of the log's end, until that was looked at.
    known: Option<Head>,
    head: Option<Head>,
    /// Wrong with the log, but no reason not to write.
    flaw: Option<String>,
    said: Option<String>,
}

pub(super) fn start(
    options: AuditOptions,
    session: u64,
    desk: Arc<Desk>,
) -> Result<JoinHandle<()>, AuditError> {
    std::thread::Builder::new()
        .name("audit".to_owned())
        .spawn(move || {
            let (spool, left) = Spool::open(&options.spool, session);
            let mut scribe = Scribe {
                options,
                desk,
                spool,
                log: None,
                backlog: VecDeque::new(),
                known: None,
                head: None,
                flaw: None,
                said: None,
            };
            scribe.inherit(left);
            scribe.serve();
        })
        .map_err(AuditError::Thread)
}

impl Scribe {
    /// Takes over what an earlier agent left in the spool.
    fn inherit(&mut self, left: Left) {
        self.known = left.head;
        self.backlog
            .extend(left.waiting.into_iter().map(|waiting| Waiter {
                waiting,
                written: None,
            }));
        if left.damaged > 0 {
            let details = json!({ "lines": left.damaged, "why": "they cannot be read" });
            self.enter(self.own("audit.spool_damaged", details), None);
        }
        let spool = self.options.spool.clone();
        let taken = aside::take_over(&spool, |drafts, damaged| {
            for draft in drafts {
                self.enter(draft, None);
            }
            if damaged > 0 {
                let details = json!({ "lines": damaged, "why": "they cannot be read" });
                self.enter(self.own("audit.spool_damaged", details), None);
            }
        });
        if let Err(e) = taken {
            log::warn!("entries beside {} are left there: {e}", spool.display());
        }
    }

    fn own(&self, action: &str, details: serde_json::Value) -> Draft {
        let AuditOptions { clock, boot, .. } = &self.options;
        Draft::new(&**clock, boot, AGENT, action, details, None)
    }

    fn enter(&mut self, draft: Draft, written: Option<SyncSender<i64>>) {
        match self.spool.push(draft) {
            Some(waiting) => self.backlog.push_back(Waiter { waiting, written }),
            None => {
                let mut slots = self.desk.lock();
                slots.dropped += 1;
                slots.status.dropped += 1;
            }
        }
    }

    fn serve(&mut self) {
        // The log is opened at once: damage is to be found before it matters.
        let mut again = Some(Duration::ZERO);
        while let Some(order) = self.round(&mut again) {
            self.copy(order, &mut again);
        }
    }

    /// Writes what comes until the next step of a copy; `None` at the end.
    fn round(&mut self, again: &mut Option<Duration>) -> Option<CopyOrder> {
        loop {
            let Wakened { items, copy, stop } = self.wait(*again);
            for Item { draft, written } in items {
                self.enter(draft, written);
            }
            let done = self.write();
            *again = done.as_ref().err().map(|later| later.again);
            self.publish(done.err(), stop);
            if stop {
                return None;
            }
            if copy.is_some() {
                return copy;
            }
        }
    }

    /// Entries are written meanwhile. A log that had to be opened anew ends it.
    fn copy(&mut self, order: CopyOrder, again: &mut Option<Duration>) {
        let Some(conn) = self.log.as_ref().map(|log| Rc::clone(log.connection())) else {
            return;
        };
        let gate = Arc::clone(&self.options.gate);
        let Some(mut target) = Target::open(order) else {
            return;
        };
        let Some(mut copying) = target.begin(&conn) else {
            return;
        };
        while let Some(order) = self.round(again) {
            let same = (self.log.as_ref()).is_some_and(|log| Rc::ptr_eq(log.connection(), &conn));
            if !same || copying.obey(order, &gate).is_break() {
                return;
            }
        }
    }

    /// Waits until there is something to do, or it is time to try again.
    fn wait(&self, again: Option<Duration>) -> Wakened {
        let mut slots = self.desk.lock();
        while slots.incoming.is_empty() && slots.copies.is_empty() && !slots.stop {
            slots = match again {
                None => (self.desk.to_clerk.wait(slots)).unwrap_or_else(PoisonError::into_inner),
                Some(time) => {
                    let woken = self.desk.to_clerk.wait_timeout(slots, time);
                    let (slots, timeout) = woken.unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() {
                        let stop = slots.stop;
                        return Wakened {
                            items: VecDeque::new(),
                            copy: None,
                            stop,
                        };
                    }
                    slots
                }
            };
        }
        slots.busy = true;
        Wakened {
            items: std::mem::take(&mut slots.incoming),
            copy: slots.copies.pop_front(),
            stop: slots.stop,
        }
    }

    fn publish(&mut self, later: Option<Later>, ended: bool) {
        if let Some(later) = &later
            && later.state != "paused"
            && self.said.as_ref() != Some(&later.why)
        {
            log::error!("audit entries wait: {}", later.why);
            self.said = Some(later.why.clone());
        }
        if later.is_none() && self.said.take().is_some() {
            log::info!("the audit log is written again");
        }
        let mut slots = self.desk.lock();
        slots.busy = !self.backlog.is_empty();
        slots.ended = ended;
        if ended {
            slots.copies.clear();
        }
        slots.status.waiting = self.backlog.len();
        slots.status.head.clone_from(&self.head);
        let (state, problem) = match later {
            None => ("writing", self.flaw.clone()),
            Some(Later {
                state: "paused",
                why,
                ..
            }) => ("waiting", self.flaw.clone().or(Some(why))),
            Some(Later { state, why, .. }) => (state, Some(why)),
        };
        slots.status.state = state.to_owned();
        slots.status.problem = problem;
        drop(slots);
        self.desk.from_clerk.notify_all();
    }

    /// Opens the log if need be and appends everything that waits.
    fn write(&mut self) -> Result<(), Later> {
        let gate = Arc::clone(&self.options.gate);
        let Some(_pass) = gate.try_enter() else {
            return Err(Later {
                again: GATE,
                state: "paused",
                why: "writing is stopped".to_owned(),
            });
        };
        let done = self.try_write();
        done.map_err(|e| self.later(&e))
    }

    fn try_write(&mut self) -> Result<(), AuditError> {
        self.options.medium.healthy()?;
        let mut log = match self.log.take() {
            Some(log) => log,
            None => self.open()?,
        };
        // Put back only when all went well: after an error it is opened, and looked at, again.
        match self.append(&mut log) {
            Err(AuditError::Damaged { path, why }) => {
                drop(log);
                self.mend(&path, &why)?;
                let mut log = self.open()?;
                self.append(&mut log)?;
                self.log = Some(log);
            }
            Err(e @ (AuditError::Busy(_) | AuditError::Full(_))) => {
                self.log = Some(log);
                return Err(e);
            }
            Err(e) => return Err(e),
            Ok(()) => self.log = Some(log),
        }
        Ok(())
    }

    fn append(&mut self, log: &mut LogFile) -> Result<(), AuditError> {
        while !self.backlog.is_empty() {
            let some = self.backlog.len().min(BATCH);
            let drafts: Vec<&Draft> = (self.backlog.iter().take(some))
                .map(|w| &w.waiting.draft)
                .collect();
            let taken = self.backlog[some - 1].waiting.place.clone();
            let (places, head) = log.append(&drafts, Some(&taken))?;
            self.head = head;
            for (waiter, place) in self.backlog.drain(..some).zip(places) {
                if let (Some(written), Some(sequence)) = (waiter.written, place) {
                    // Who asked may have gone.
                    written.try_send(sequence).ok();
                }
            }
            if self.backlog.is_empty() {
                self.spool.clear(self.head.as_ref());
                // There is room for it now.
                self.confess();
            }
        }
        Ok(())
    }

    /// Entries that were lost for want of room are themselves entered.
    fn confess(&mut self) {
        let dropped = std::mem::take(&mut self.desk.lock().dropped);
        if dropped > 0 {
            let details = json!({ "entries": dropped, "why": "no room while they had to wait" });
            self.enter(self.own("audit.dropped", details), None);
        }
    }

    /// Opens, makes or mends the log.
    fn open(&mut self) -> Result<LogFile, AuditError> {
        let path = self.options.path.clone();
        let (mut log, flaw) = match self.look(&path) {
            Ok(true) => match LogFile::open(&path, &self.options.gate) {
                Err(AuditError::Damaged { why, .. }) => {
                    self.mend(&path, &why)?;
                    LogFile::open(&path, &self.options.gate)?
                }
                other => other?,
            },
            Ok(false) => LogFile::open(&path, &self.options.gate)?,
            Err(AuditError::Damaged { why, .. }) => {
                self.mend(&path, &why)?;
                LogFile::open(&path, &self.options.gate)?
            }
            Err(e) => return Err(e),
        };
        if let Some(flaw) = &flaw {
            log::error!("audit log {}: {flaw}", path.display());
        }
        self.flaw = flaw;
        if let Some(known) = self.known.clone() {
            self.hold_to(&mut log, &known)?;
            self.known = None;
        }
        self.head = log.head()?;
        // An agent that was killed after the commit and before it cleared the spool.
        if let Some(taken) = log.meta("spool")? {
            let at = self.backlog.iter().position(|w| w.waiting.place == taken);
            self.backlog.drain(..at.map_or(0, |n| n + 1));
        }
        Ok(log)
    }

    /// Is there a log? Where there is none, one is made, or one that was made already is put in
    /// its place: then it answers false.
    fn look(&self, path: &Path) -> Result<bool, AuditError> {
        if file::look(path)? {
            return Ok(true);
        }
        let medium = &self.options.medium;
        let new = file::beside(path, ".new");
        // The last step of a mending that was cut.
        let whole = file::look(&new).is_ok_and(|there| there)
            && LogFile::open(&new, &self.options.gate)
                .is_ok_and(|(log, _)| log.head().is_ok_and(|h| h.is_some()));
        if !whole {
            let AuditOptions { clock, boot, .. } = &self.options;
            let details = match &self.known {
                None => json!({ "why": "there was no audit log" }),
                Some(known) => json!({ "why": "the audit log is gone", "last_good": known }),
            };
            let first = match &self.known {
                None => self
                    .own("audit.first", details)
                    .at(1, super::entry::NOTHING),
                Some(known) => salvage::name(&**clock, boot, details)
                    .at(known.sequence + 1, super::entry::NOTHING),
            };
            file::make(path, medium, |put| put(&first))?;
        }
        let aside = file::beside(path, ".stray");
        file::install(path, &aside, medium)?;
        Ok(false)
    }

    /// A log that does not hold an entry that was durable in this boot was cut or exchanged.
    fn hold_to(&self, log: &mut LogFile, known: &Head) -> Result<(), AuditError> {
        let head = log.head()?;
        let ends = head.as_ref().map_or(0, |h| h.sequence);
        let found = log.hash_of(known.sequence)?;
        // Or the log was mended since, and says so.
        if found.as_ref() == Some(&known.hash) || log.first_break_from(known.sequence)?.is_some() {
            return Ok(());
        }
        let why = "an entry that was durable in this boot is not in the log";
        log::error!(
            "audit log {}: {why}: {}:{}",
            self.options.path.display(),
            known.sequence,
            known.hash
        );
        let missing = (known.sequence > ends).then(|| [[ends + 1, known.sequence]]);
        let details = json!({ "why": why, "seen": known, "missing": missing, "last_good": head });
        let AuditOptions { clock, boot, .. } = &self.options;
        let draft = salvage::name(&**clock, boot, details);
        log.name_break(&draft, ends.max(known.sequence))?;
        Ok(())
    }

    fn mend(&mut self, path: &Path, why: &str) -> Result<(), AuditError> {
        let AuditOptions {
            medium,
            gate,
            clock,
            boot,
            ..
        } = &self.options;
        let known = self.head.as_ref().or(self.known.as_ref());
        let aside = salvage::mend(path, medium, gate, &**clock, boot, why, known)?;
        log::error!(
            "the audit log {} was damaged ({why}): it was kept as {}, and what can be read of it was \
             carried over; an entry names the break",
            path.display(),
            aside.display()
        );
        Ok(())
    }

    fn later(&self, e: &AuditError) -> Later {
        let medium: &Medium = &self.options.medium;
        if e.is_medium() {
            medium.latch(&e.in_words());
        }
        let (again, state) = match e {
            AuditError::Stopped(_) => (GATE, "paused"),
            AuditError::Busy(_) => (BUSY, "waiting"),
            AuditError::Full(_) => (FULL, "waiting"),
            AuditError::Durable(d) if d.is_full() => (FULL, "waiting"),
            AuditError::Missing(_)
            | AuditError::Damaged { .. }
            | AuditError::Newer { .. }
            | AuditError::Sqlite { .. }
            | AuditError::Io { .. }
            | AuditError::Durable(_)
            | AuditError::Thread(_) => (FAILED, "unusable"),
        };
        Later {
            again,
            state,
            why: e.in_words(),
        }
    }
}
