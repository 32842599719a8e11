//! Opens the databases behind the guard: as soon as the gate is open, which it is not when the
//! agent starts with power lost, and after they were looked after.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::audit::{AGENT, Audit};
use crate::backup::BackupError;
use crate::backup::restore::RestoreError;
use crate::clock::Clock;
use crate::config::Settings;
use crate::durable::{Gate, Medium, Reserve, read_own_if_there, was_told_to_stop};
use crate::guard::Shared;
use crate::queue::{Queue, QueueDesk};
use crate::recovery::{HoldError, RecoveryError, Verdict};
use crate::reset::{self, Home, Identity, ResetError, Resumed};
use crate::store::{Desk, Observer, Store, StoreError, StoreOptions, StoreState, suspicion};

use super::costs::{Governor, lock};
use super::damage::Known;
use super::recovered::Recoverer;
use super::reset::{Resets, Wish};
use super::{AgentError, explain, queue};

/// How often the opener looks whether the agent ends while the gate is closed.
const GATE_LOOK: Duration = Duration::from_millis(500);
/// After a recovery that could not be done it is tried again.
const RECOVER_AGAIN: Duration = Duration::from_secs(30);
/// Beside the store, beside what every database has.
const BESIDE_STORE: [&str; 2] = ["-suspect", "-shm"];
/// A note of why a database is suspected is read up to here.
const LONGEST_SUSPICION: u64 = 4096;

/// See the module's text.
pub(super) struct Opener {
    pub(super) settings: Settings,
    pub(super) medium: Arc<Medium>,
    pub(super) gate: Arc<Gate>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) governor: Arc<Governor>,
    pub(super) desk: Desk,
    pub(super) queue_desk: QueueDesk,
    pub(super) shared: Arc<Shared>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) recoverer: Recoverer,
    pub(super) audit: Audit,
    pub(super) resets: Arc<Resets>,
    /// Told why it cannot be opened yet.
    pub(super) known: Known,
}

/// Why a database is suspected, if it is.
fn noted(database: &Path) -> Option<String> {
    match read_own_if_there(&suspicion(database), LONGEST_SUSPICION) {
        Ok(why) => why.map(|why| String::from_utf8_lossy(&why).trim().to_owned()),
        // A note that cannot be read is one all the same.
        Err(e) => Some(e.to_string()),
    }
}

/// Did it end because the agent ends? Nothing is wrong then.
fn is_stopped(e: &AgentError) -> bool {
    matches!(
        e,
        AgentError::StoppedEarly
            | AgentError::Recovery(RecoveryError::Stopped { .. })
            | AgentError::Restore(RestoreError::Backup(BackupError::Stopped))
    ) || was_told_to_stop(e)
}

/// Told what was opened. Readings are taken from the first on; the second may come much later.
pub(super) struct Told {
    pub(super) store: Sender<Result<Store, AgentError>>,
    /// `None` where it is off, or cannot be used.
    pub(super) queue: Sender<Option<Queue>>,
    opened: Arc<Mutex<Opened>>,
}

/// Where what was opened waits for the agent's end, or for a reset.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) store: Receiver<Result<Store, AgentError>>,
    pub(super) queue: Receiver<Option<Queue>>,
}

impl Told {
    /// Both ends.
    pub(super) fn new() -> (Self, Arc<Mutex<Opened>>) {
        let (store, opened) = channel();
        let (queue, queues) = channel();
        let opened = Arc::new(Mutex::new(Opened {
            store: opened,
            queue: queues,
        }));
        let told = Self {
            store,
            queue,
            opened: Arc::clone(&opened),
        };
        (told, opened)
    }

    /// Closes what is open; false where the agent's end has it already.
    fn close(&self) -> bool {
        let (store, queue) = {
            let opened = lock(&self.opened);
            (opened.store.try_recv(), opened.queue.try_recv())
        };
        let Ok(Ok(store)) = store else { return false };
        // It tells the store how far it has come.
        drop(queue);
        store.stop();
        true
    }
}

/// After an opening that failed.
enum Next {
    /// It is tried again.
    Again,
    /// There must be room first.
    Wait(AgentError),
    /// The agent ends.
    End(AgentError),
}

impl Opener {
    /// Opens the databases. Until the agent ends it does the resets that are asked for, and opens
    /// the new ones.
    pub(super) fn serve(self, told: &Told) {
        while self.open(told) {
            match self.resets.desk.wait() {
                None => return,
                Some(wish) => self.reset(told, wish),
            }
        }
    }

    /// Closes the databases and resets. Whatever comes of it, they are opened next.
    fn reset(&self, told: &Told, mut wish: Wish) {
        if !told.close() {
            let site = self.resets.site(&self.audit, &|_| {});
            if let Err(e) = wish.begun.forget(&site) {
                log::warn!("{}", explain(&e));
            }
            return wish.end(Err("the agent is stopping; nothing was erased".to_owned()));
        }
        self.desk.reopen();
        self.queue_desk.reopen(self.settings.queue.enabled);
        self.governor.pauses.update();
        let done = {
            let say = |step: &str| log::warn!("factory reset: {step}");
            wish.begun
                .carry_out(&self.resets.site(&self.audit, &say))
                .map_err(|e| {
                    let why = explain(&e);
                    log::error!("factory reset: {why}");
                    if wish.begun.is_touched() {
                        format!("{why}; it goes on by itself, `holdup reset status` tells")
                    } else {
                        format!("{why}; nothing was erased")
                    }
                })
        };
        if done.is_ok() || wish.begun.is_touched() {
            let gateway = &self.settings.gateway;
            self.known.forget(&gateway.store_path());
            self.known.forget(&gateway.queue_path());
            let mut seen = lock(&self.resets.snapshots);
            seen.newest.clear();
            seen.bytes = 0;
        }
        wish.end(done);
    }

    /// The gateway's own key, so that it is known before it signs anything.
    fn have_identity(&self) {
        let gateway = &self.settings.gateway;
        let there = Identity::read(&gateway.data_dir);
        if matches!(there, Ok(Some(_))) || self.gate.is_closed() {
            return;
        }
        let (dir, stop) = (&gateway.data_dir, &self.resets.stop);
        match there
            .and_then(|_| Identity::read_or_make(dir, &gateway.id, &self.medium, &self.gate, stop))
        {
            Ok(key) => {
                let details = json!({ "fingerprint": key.fingerprint() });
                self.audit.note("identity.made", AGENT, details);
            }
            Err(e) => log::warn!("no receipt can be signed yet: {}", explain(&e)),
        }
    }

    /// Ends a reset that a cut interrupted.
    fn finish_reset(&self) -> Result<(), ResetError> {
        let gateway = &self.settings.gateway;
        if !reset::is_unfinished(&gateway.data_dir) {
            return Ok(());
        }
        let say = |step: &str| log::warn!("a factory reset that was interrupted: {step}");
        let site = self.resets.site(&self.audit, &say);
        let home = Home::new(&self.settings, &self.resets.config);
        let resumed = reset::resume(&home, &site)?;
        if let Some(words) = resumed.in_words() {
            log::warn!("{words}");
            self.audit.note("reset.resumed", AGENT, resumed.details());
        }
        match resumed {
            Resumed::Nothing | Resumed::Finished(_) | Resumed::Undone { .. } => Ok(()),
        }
    }

    /// The store, or why the agent ends: then the guard is told to end too. Behind it the queue:
    /// whatever is wrong with that, and however long it takes, readings are taken. False where the
    /// agent ends.
    fn open(&self, told: &Told) -> bool {
        let opened = loop {
            let e = match self.try_open() {
                Ok(store) => break Ok(store),
                Err(e) => e,
            };
            match self.next(e) {
                Next::Again => {}
                Next::Wait(why) => self.wait_for_room(&why),
                Next::End(why) => break Err(why),
            }
        };
        self.known.opening(None);
        match &opened {
            Ok(_) => {
                self.known.opened(&self.settings.gateway.store_path());
                self.governor.govern();
            }
            Err(_) => self.shared.stop(),
        }
        let serves = opened.is_ok();
        // Nobody waits for it any more: then it ends here.
        told.store.send(opened).ok();
        let queue = if serves { self.open_queue() } else { None };
        self.known.queue_looked_after();
        told.queue.send(queue).ok();
        if serves {
            self.have_identity();
        }
        serves
    }

    fn open_queue(&self) -> Option<Queue> {
        let path = self.settings.gateway.queue_path();
        match self.look_after_queue(&path) {
            Ok(()) => {}
            Err(e) if is_stopped(&e) => return None,
            // SQLite opens nothing of which there is no evidence.
            Err(e) => {
                let why = explain(&e);
                log::error!("the queue is not opened: {why}");
                self.queue_desk.not_opened(&why);
                return None;
            }
        }
        queue::start(
            &self.settings,
            &self.queue_desk,
            self.desk.orders(),
            &self.medium,
            &self.gate,
            &self.clock,
        )
    }

    fn look_after_queue(&self, path: &Path) -> Result<(), AgentError> {
        // What cannot be set aside is in the way of a recovery only, which says so.
        match self.clear_the_way(path, &queue::BESIDE) {
            Err(e) if is_stopped(&e) => return Err(e),
            Err(e) => log::error!("{}", explain(&e)),
            Ok(()) => {}
        }
        let noted = noted(path);
        self.look_after(path, noted.as_deref())?;
        if noted.is_some() {
            self.medium.remove(&suspicion(path))?;
        }
        while !self.shared.has_ended() {
            match queue::keep_above(path, &self.gate, &self.desk.orders()) {
                Err(StoreError::GateClosed { .. }) => drop(self.gate.enter_timeout(GATE_LOOK)),
                other => return Ok(other?),
            }
        }
        Err(AgentError::StoppedEarly)
    }

    /// Asks the queue how far ids had come, where that takes no time.
    fn ask_queue(&self) -> Result<(), StoreError> {
        let path = self.settings.gateway.queue_path();
        let orders = self.desk.orders();
        let asked = noted(&path).is_none() && self.recoverer.is_sound_at_a_glance(&path);
        if asked {
            queue::keep_above(&path, &self.gate, &orders)?;
        }
        orders.unheard(!asked);
        Ok(())
    }

    /// What to do about an opening that failed.
    fn next(&self, e: AgentError) -> Next {
        let ended = self.shared.has_ended();
        let closed = matches!(e, AgentError::Store(StoreError::GateClosed { .. }));
        let stopped = is_stopped(&e);
        let full = matches!(e, AgentError::Store(StoreError::Full { .. }))
            || matches!(&e, AgentError::Recovery(e) if e.is_full())
            || matches!(&e, AgentError::Restore(e) if e.is_full())
            || matches!(&e, AgentError::Reset(e) if e.is_full());
        let held_up = matches!(&e, AgentError::Recovery(e) if e.is_held_up())
            || matches!(&e, AgentError::Restore(RestoreError::Held(_)))
            || matches!(
                &e,
                AgentError::Reset(ResetError::Held(HoldError::InUse { .. }))
            );
        let broken = matches!(&e, AgentError::Recovery(e) if !e.is_final())
            || matches!(&e, AgentError::Reset(_));
        let broken = broken && !stopped && !full && !held_up;
        if broken {
            self.say_once(&e);
        }
        // A recovery is stopped by nobody but an agent that ends, whose plan may still run.
        if stopped || (ended && (closed || broken)) {
            Next::End(AgentError::StoppedEarly)
        } else if ended && held_up {
            Next::End(AgentError::StillOpening(
                self.settings.gateway.data_dir.clone(),
            ))
        } else if ended {
            Next::End(e)
        } else if closed {
            drop(self.gate.enter_timeout(GATE_LOOK));
            Next::Again
        } else if held_up {
            self.say_once(&e);
            std::thread::park_timeout(GATE_LOOK);
            Next::Again
        } else if full {
            Next::Wait(e)
        } else if broken {
            // The guard is needed whatever is wrong with the store.
            self.rest(RECOVER_AGAIN);
            Next::Again
        } else {
            Next::End(e)
        }
    }

    /// Waits so long, or until the agent ends.
    fn rest(&self, time: Duration) {
        let until = self.clock.mono() + time;
        while !self.shared.has_ended() && self.clock.mono() < until {
            std::thread::park_timeout(GATE_LOOK);
        }
    }

    /// It is tried again and again; what keeps it is said when it changes.
    fn say_once(&self, e: &AgentError) {
        let why = explain(e);
        if self.known.why_not_open().as_ref() != Some(&why) {
            log::error!("{why}");
            self.known.opening(Some(why));
        }
    }

    /// Not even the opening fits: the room kept back is given up for it, or there is room
    /// later. The guard does its work meanwhile.
    fn wait_for_room(&self, e: &AgentError) {
        let released = self.reserve.release(&self.medium);
        if matches!(released, Ok(true)) {
            log::warn!("{}; the room kept back for this was given up", explain(e));
            return;
        }
        if self.desk.orders().stats().state != StoreState::DiskFull {
            log::error!("{}", explain(e));
            self.desk.no_room();
            self.governor.pauses.update();
        }
        if let Err(e) = released {
            log::error!("the room kept back cannot be given up: {}", explain(&e));
        }
        std::thread::park_timeout(GATE_LOOK);
    }

    fn try_open(&self) -> Result<Store, AgentError> {
        // Before anything is looked at: half of a reset or of a restore is no damage.
        self.finish_reset()?;
        self.recoverer.finish_restore(&self.settings)?;
        let store = self.settings.gateway.store_path();
        // What cannot be set aside is in the way of a recovery only, which says so.
        let ledger = self.settings.gateway.ledger_path();
        let cleared = self.clear_the_way(&store, &BESIDE_STORE);
        for cleared in [cleared, self.clear(&ledger)] {
            match cleared {
                Err(e) if is_stopped(&e) => return Err(e),
                Err(e) => self.say_once(&e),
                Ok(()) => {}
            }
        }
        self.ask_queue()?;
        self.sound(&store, |salvaged| self.open_store(&store, salvaged))
    }

    /// Opens `database` after it was looked after; once more where only SQLite sees that it is
    /// damaged.
    fn sound<T>(
        &self,
        database: &Path,
        open: impl Fn(bool) -> Result<T, StoreError>,
    ) -> Result<T, AgentError> {
        let noted = noted(database);
        let verdict = self.look_after(database, noted.as_deref())?;
        if noted.is_some() {
            self.medium.remove(&suspicion(database))?;
        }
        let opened = open(is_other(verdict));
        match opened.as_ref().err().and_then(StoreError::damage) {
            Some(damage) => {
                let verdict = self.look_after(database, Some(&damage))?;
                Ok(open(is_other(verdict))?)
            }
            None => Ok(opened?),
        }
    }

    fn clear_the_way(&self, database: &Path, also: &[&str]) -> Result<(), AgentError> {
        let recoverer = &self.recoverer;
        Ok(recoverer.clear_the_way(&self.settings, database, also)?)
    }

    fn clear(&self, path: &Path) -> Result<(), AgentError> {
        Ok(self.recoverer.clear(&self.settings, path)?)
    }

    fn look_after(&self, database: &Path, why: Option<&str>) -> Result<Verdict, AgentError> {
        Ok(self.recoverer.look_after(&self.settings, database, why)?)
    }

    fn open_store(&self, path: &Path, salvaged: bool) -> Result<Store, StoreError> {
        Store::start(StoreOptions {
            settings: self.settings.store,
            path: path.to_owned(),
            ledger: self.settings.gateway.ledger_path(),
            medium: Arc::clone(&self.medium),
            gate: Arc::clone(&self.gate),
            reserve: Arc::clone(&self.reserve),
            clock: Arc::clone(&self.clock),
            observer: Arc::clone(&self.governor) as Arc<dyn Observer>,
            desk: self.desk.clone(),
            salvaged,
        })
    }
}

/// Rows were lost or came back: they are counted anew.
fn is_other(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Salvaged | Verdict::Restored => true,
        Verdict::Clean | Verdict::Replayed | Verdict::Fresh | Verdict::Unrecoverable => false,
    }
}
