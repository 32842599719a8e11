//! The factory reset in a running agent: asked for at the control socket, done by the thread that
//! opens the databases, while the guard goes on.
//!
//! It promises that the gateway's id was given, that what is undelivered and the last backup were
//! seen to or given up in so many words, and that the log says so, before anything is touched.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc::UnboundedSender;

use crate::audit::{Audit, Entry};
use crate::clock::Clock;
use crate::config::Settings;
use crate::durable::{Gate, Medium, Reserve};
use crate::queue::QueueState;
use crate::reset::{BackedUp, Begun, Home, Level, Order, Signed, Site, Undelivered};
use crate::store::suspicion;

use super::backup::BackupReport;
use super::control::ControlAnswer;
use super::costs::lock;
use super::explain;
use super::quiet::{Quiet, Still};
use super::snapshot::SnapshotsSeen;
use super::status::StatusSource;

/// What the databases get to be opened, at a start.
const OPENING: Duration = Duration::from_secs(20);
/// What a snapshot that is being taken gets to end.
const SNAPSHOT: Duration = Duration::from_secs(60);

/// What is typed to go without a backup.
pub const WITHOUT_BACKUP: &str = "without-backup";

/// What is asked of an agent, or of the files alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetAsk {
    /// How much.
    pub level: Level,
    /// The gateway's id, as it was typed.
    pub gateway: String,
    /// What is undelivered goes too.
    #[serde(default)]
    pub waive_undelivered: bool,
    /// [`WITHOUT_BACKUP`] where none is to be made.
    #[serde(default)]
    pub no_backup: Option<String>,
    /// The evidence goes too.
    #[serde(default)]
    pub with_evidence: bool,
    /// Who asks; else the user at the socket.
    #[serde(default)]
    pub by: Option<String>,
}

impl ResetAsk {
    /// Refuses what was not confirmed.
    ///
    /// # Errors
    /// What is missing, and how it is given.
    pub fn confirmed(&self, settings: &Settings, waits: &Undelivered) -> Result<(), String> {
        let id = &settings.gateway.id;
        if self.gateway != *id {
            return Err(format!(
                "the gateway's id was not given, or is another one: give `--yes-erase {id}`"
            ));
        }
        match self.no_backup.as_deref() {
            None | Some(WITHOUT_BACKUP) => {}
            Some(_) => {
                return Err(format!(
                    "to go without a backup, type `--no-backup {WITHOUT_BACKUP}`"
                ));
            }
        }
        if !waits.is_nothing() && !self.waive_undelivered {
            return Err(format!(
                "{}: let them be delivered, take them out with `holdup queue export`, or give \
                 `--waive-undelivered`",
                waits.in_words()
            ));
        }
        if self.no_backup.is_none() && settings.backup.recipients.is_empty() {
            return Err(format!(
                "no backup can be made first, since nobody could open it: make a key with `holdup \
                 backup keygen`, or type `--no-backup {WITHOUT_BACKUP}`"
            ));
        }
        Ok(())
    }

    /// For the room.
    pub fn order(
        &self,
        actor: &str,
        waits: Undelivered,
        damaged: Vec<String>,
        epoch: Option<u64>,
    ) -> Order {
        Order {
            level: self.level,
            with_evidence: self.with_evidence,
            actor: actor.to_owned(),
            backup_waived: self.no_backup.is_some(),
            undelivered_waived: (!waits.is_nothing()).then_some(waits),
            damaged,
            epoch,
        }
    }

    /// For the audit log.
    pub fn details(&self, begun: &Begun) -> serde_json::Value {
        json!({
            "reset": begun.id(),
            "level": self.level,
            "with_evidence": self.with_evidence,
            "without_backup": self.no_backup.is_some(),
            "waive_undelivered": self.waive_undelivered,
        })
    }
}

/// The backup that goes into the receipt, if it is what a reset needs.
///
/// # Errors
/// It was not verified, or lacks a database.
pub fn last_backup(report: &BackupReport) -> Result<BackedUp, String> {
    if report.verified.is_none() {
        return Err(format!("the backup {} is not verified", report.name));
    }
    if let Some(lacks) = report.lacks.first() {
        return Err(format!("the backup {} lacks {lacks}", report.name));
    }
    Ok(BackedUp {
        name: report.name.clone(),
        archive: report.archive.display().to_string(),
        sha256: report.sha256.clone(),
    })
}

/// Where it is told how it went.
type Told = Receiver<Result<Signed, String>>;

/// A reset that waits for the databases to be closed.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) begun: Box<Begun>,
    /// No snapshot or backup is being made.
    still: Still,
    answer: SyncSender<Result<Signed, String>>,
}

impl Wish {
    /// Tells how it went, and lets snapshots and backups go on.
    pub(super) fn end(self, done: Result<Signed, String>) {
        // Who asked may have gone.
        self.answer.send(done).ok();
        drop(self.still);
    }
}

#[derive(Debug, Default)]
struct Slots {
    /// The databases are open, and their thread waits.
    serving: bool,
    ended: bool,
    wish: Option<Wish>,
}

/// Between who asks and the thread that has the databases.
#[derive(Debug, Clone, Default)]
pub(super) struct ResetDesk(Arc<(Mutex<Slots>, Condvar)>);

impl ResetDesk {
    /// With the databases open, waits for a wish; `None`: the agent ends.
    pub(super) fn wait(&self) -> Option<Wish> {
        let mut slots = lock(&self.0.0);
        slots.serving = true;
        self.0.1.notify_all();
        let idle = |s: &mut Slots| s.wish.is_none() && !s.ended;
        let waited = self.0.1.wait_while(slots, idle);
        let mut slots = waited.unwrap_or_else(PoisonError::into_inner);
        slots.serving = false;
        slots.wish.take()
    }

    /// Waits until the databases are open, `patience` at most; are they?
    fn is_serving(&self, patience: Duration) -> bool {
        let starting = |s: &mut Slots| !s.serving && !s.ended;
        let waited = self
            .0
            .1
            .wait_timeout_while(lock(&self.0.0), patience, starting);
        let (slots, _) = waited.unwrap_or_else(PoisonError::into_inner);
        slots.serving
    }

    /// The agent ends.
    pub(super) fn end(&self) {
        lock(&self.0.0).ended = true;
        self.0.1.notify_all();
    }

    fn ask(&self, begun: Box<Begun>, still: Still) -> Result<Told, Box<Begun>> {
        let mut slots = lock(&self.0.0);
        if !slots.serving || slots.ended {
            return Err(begun);
        }
        let (answer, told) = sync_channel(1);
        slots.wish = Some(Wish {
            begun,
            still,
            answer,
        });
        drop(slots);
        self.0.1.notify_all();
        Ok(told)
    }
}

/// What a reset needs of the agent.
#[derive(Debug)]
pub(super) struct Resets {
    pub(super) desk: ResetDesk,
    pub(super) quiet: Quiet,
    /// Files of the configuration.
    pub(super) config: Vec<PathBuf>,
    pub(super) gate: Arc<Gate>,
    pub(super) medium: Arc<Medium>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) snapshots: SnapshotsSeen,
}

impl Resets {
    pub(super) fn site<'a>(&'a self, audit: &'a Audit, say: &'a dyn Fn(&str)) -> Site<'a> {
        Site {
            medium: &self.medium,
            gate: &self.gate,
            stop: &self.stop,
            clock: &*self.clock,
            audit,
            reserve: &self.reserve,
            discard: true,
            say,
        }
    }
}

/// Does what was asked; blocks until it is done. Power was good when it was asked.
pub(super) fn carry_out(
    source: &StatusSource,
    ask: &ResetAsk,
    actor: &str,
    answers: &UnboundedSender<ControlAnswer>,
) -> ControlAnswer {
    // Who asked may have gone.
    let say = |step: &str| drop(answers.send(ControlAnswer::Step(step.to_owned())));
    let Some(resets) = source.resets.get() else {
        return ControlAnswer::Refused("the agent is starting: ask again".to_owned());
    };
    // Before that, what the queue says of itself is not what it holds.
    if !resets.desk.is_serving(OPENING) {
        return not_open(source);
    }
    let settings = lock(&source.settings).clone();
    let waits = waits(source, &settings);
    if let Err(why) = ask.confirmed(&settings, &waits) {
        return ControlAnswer::Refused(why);
    }
    let audit = source.diary.audit();
    let site = resets.site(&audit, &say);
    let home = Home::new(&settings, &resets.config);
    let paths = [settings.gateway.store_path(), settings.gateway.queue_path()];
    let is_damaged =
        |p: &&PathBuf| source.known.of(p).is_some() || suspicion(p).symlink_metadata().is_ok();
    let damaged = paths.iter().filter(is_damaged);
    let damaged = damaged.filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    let epoch = source.orders.stats().epoch;
    let order = ask.order(actor, waits, damaged.collect(), Some(epoch));
    let mut begun = match Begun::request(&home, &order, &site) {
        Ok(begun) => Box::new(begun),
        Err(e) if e.is_refusal() => return ControlAnswer::Refused(explain(&e)),
        Err(e) => return ControlAnswer::Failed(explain(&e)),
    };
    let entry = match begun.enter(ask.details(&begun), &site) {
        Ok(entry) => entry,
        Err(late) => {
            let (entry, why) = *late;
            let why = ControlAnswer::Refused(explain(&why));
            return give_up(&begun, &site, &audit, &entry, why);
        }
    };
    let give_up = |begun: &Begun, why: ControlAnswer| give_up(begun, &site, &audit, &entry, why);
    if ask.no_backup.is_none() {
        let made = backed_up(source, actor, answers);
        let made = made.and_then(|b| begun.backed_up(b, &site).map_err(|e| explain(&e)));
        if let Err(why) = made {
            let why = format!(
                "no verified backup was made first: {why}; nothing was erased. Mend that, or type \
                 `--no-backup {WITHOUT_BACKUP}`"
            );
            return give_up(&begun, ControlAnswer::Refused(why));
        }
    }
    let Some(still) = resets.quiet.begin(SNAPSHOT) else {
        let why = "a snapshot or a backup is being made: ask again when it is done".to_owned();
        return give_up(&begun, ControlAnswer::Refused(why));
    };
    let told = match resets.desk.ask(begun, still) {
        Ok(told) => told,
        Err(begun) => return give_up(&begun, not_open(source)),
    };
    match told.recv() {
        Ok(Ok(signed)) => {
            let details = json!({ "reset": signed.receipt.id, "receipt": signed.path });
            audit.end(&entry, "done", details);
            ControlAnswer::Reset(Box::new(signed))
        }
        Ok(Err(why)) => {
            audit.end(&entry, "failed", json!({ "error": why }));
            ControlAnswer::Failed(why)
        }
        Err(_) => {
            audit.end(&entry, "interrupted", serde_json::Value::Null);
            ControlAnswer::Failed("the agent stopped in the middle".to_owned())
        }
    }
}

fn not_open(source: &StatusSource) -> ControlAnswer {
    let why = source.known.why_not_open();
    ControlAnswer::Refused(format!(
        "the databases are not open yet ({}): ask again when they are, or stop the agent \
         (systemctl stop holdup) and ask again",
        why.as_deref()
            .unwrap_or("the agent is starting or stopping")
    ))
}

/// Nothing was touched: the request is taken back.
fn give_up(
    begun: &Begun,
    site: &Site<'_>,
    audit: &Audit,
    entry: &Entry,
    answer: ControlAnswer,
) -> ControlAnswer {
    if let Err(e) = begun.forget(site) {
        log::warn!(
            "the next start takes the reset's request back: {}",
            explain(&e)
        );
    }
    audit.end(entry, "refused", json!({ "why": answer }));
    answer
}

/// What is undelivered, by what the queue says of itself.
fn waits(source: &StatusSource, settings: &Settings) -> Undelivered {
    let queue = source.queue.stats();
    let known = match queue.state {
        QueueState::Running | QueueState::Full => true,
        QueueState::Off => return off(settings),
        QueueState::Starting
        | QueueState::DiskFull
        | QueueState::Waiting(_)
        | QueueState::Failed(_)
        | QueueState::Stopped => false,
    };
    let store = source.orders.stats();
    let newest = store.next_id.saturating_sub(1);
    let after = queue.fed_upto.max(store.lowest_id.saturating_sub(1));
    let unqueued = newest.saturating_sub(after);
    Undelivered {
        queued: known.then_some(queue.depth),
        unqueued: known.then_some(u64::try_from(unqueued).unwrap_or(0)),
    }
}

/// Nothing is delivered from here; what somebody put into the queue still counts.
fn off(settings: &Settings) -> Undelivered {
    let survey = crate::queue::survey(&settings.gateway.queue_path());
    Undelivered {
        queued: survey.ok().map(|s| s.map_or(0, |s| s.depth)),
        unqueued: Some(0),
    }
}

fn backed_up(
    source: &StatusSource,
    actor: &str,
    answers: &UnboundedSender<ControlAnswer>,
) -> Result<BackedUp, String> {
    let mut told = source.backups.ask(actor.to_owned());
    while let Some(answer) = told.blocking_recv() {
        match answer {
            ControlAnswer::BackedUp(report) => return last_backup(&report),
            ControlAnswer::Refused(why) | ControlAnswer::Failed(why) => return Err(why),
            step @ ControlAnswer::Step(_) => drop(answers.send(step)),
            ControlAnswer::Rehearsing(_)
            | ControlAnswer::Rehearsed(_)
            | ControlAnswer::Armed(_)
            | ControlAnswer::Retracted(_)
            | ControlAnswer::Entered(_)
            | ControlAnswer::Reset(_) => {}
        }
    }
    Err("the agent stopped in the middle".to_owned())
}
