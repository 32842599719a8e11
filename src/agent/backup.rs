//! Makes backups on a schedule and when asked, beside everything else that the agent does.
//!
//! It promises that power goes first: none is begun unless power is good, and one that is being made
//! is given up in a brownout or on battery, waits while the gate is closed, and is made again. The
//! interval runs on the monotonic clock. What it says, it says from memory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::audit::{AGENT, Audit};
use crate::backup::health::{Health, Since, health};
use crate::backup::{
    AfterRun, BackupError, BackupState, Copier, Hands, Job, Outcome, Site, recipients,
};
use crate::clock::{Clock, Mono};
use crate::config::Settings;
use crate::durable::{Gate, Medium};
use crate::guard::Shared;
use crate::power::State;
use crate::queue::{QueueDesk, QueueState};
use crate::store::{Orders, StoreState};

use super::background::Background;
use super::control::ControlAnswer;
use super::costs::lock;
use super::damage::Known;
use super::quiet::Quiet;
use super::{AgentError, explain};

/// How often it looks at power.
const LOOK: Duration = Duration::from_secs(1);
/// A missed one is made up this long after the start, or after a tenth of the interval.
const AFTER_START: Duration = Duration::from_secs(120);
/// After one that failed, or after a tenth of the interval.
const AGAIN: Duration = Duration::from_secs(900);
/// Its files are not read meanwhile.
const QUEUE_LOOK: &str = "the queue is still looked after";
/// How often the directory is looked at for status.
const LOOK_AT_DIR: Duration = Duration::from_secs(600);
/// What the entry in the audit log gets, before the first change.
const BEFORE: Duration = Duration::from_secs(5);
/// Readings and their acknowledgements go first.
const NICE: i32 = 10;

/// What `holdup status --json` says of backups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupStatus {
    /// `starting`, `off` (only when asked for), `no_recipient`, `waiting`, `held_off` or `running`.
    pub state: String,
    /// What is being done, while one is made.
    pub step: Option<String>,
    /// Why the next one is held off although it is due.
    pub held_off: Option<String>,
    /// Seconds until the next one is due.
    pub next_in_s: Option<u64>,
    /// How they stand, and what there is to say of them.
    #[serde(flatten)]
    pub health: Health,
    /// What is remembered.
    pub last: BackupState,
}

impl BackupStatus {
    /// `waiting, next in 3600 s; 7 kept, 7 verified, newest of TIME`
    pub fn in_words(&self) -> String {
        let mut words = self.state.clone();
        if let Some(step) = &self.step {
            words.push_str(&format!(": {step}"));
        }
        if let Some(s) = self.next_in_s {
            words.push_str(&format!(", next in {s} s"));
        }
        if let Some(why) = &self.held_off {
            words.push_str(&format!(": {why}"));
        }
        let h = &self.health;
        words.push_str(&format!("; {} kept, {} verified", h.count, h.verified));
        if let Some(at) = &h.newest {
            words.push_str(&format!(", newest of {at}"));
        }
        words
    }
}

/// A backup that was made, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// Its name.
    pub name: String,
    /// The archive.
    pub archive: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hex.
    pub sha256: String,
    /// When what was written was decrypted again and found the same, RFC 3339 in UTC.
    pub verified: Option<String>,
    /// Rows of all databases in it, without those of the agent's own books.
    pub rows: u64,
    /// What was left out, and why.
    pub passed: Vec<String>,
    /// The gateway's own databases among them.
    #[serde(default)]
    pub lacks: Vec<String>,
    /// Each further target, and why the backup is not there; `null`: it is, and was read back.
    pub targets: Vec<(String, Option<String>)>,
    /// The names of those that were pruned.
    pub pruned: Vec<String>,
    /// What `backup.after` did.
    pub after: Option<AfterRun>,
}

impl BackupReport {
    /// Of what came of a job.
    pub fn new(outcome: &Outcome) -> Self {
        let manifest = &outcome.made.manifest;
        let facts = manifest.archive.as_ref();
        let targets = outcome.targets.iter();
        let own = manifest.passed.iter().filter(|p| p.is_own_database());
        Self {
            name: outcome.made.name.to_string(),
            archive: outcome.made.archive.clone(),
            bytes: facts.map_or(0, |a| a.bytes),
            sha256: facts.map_or_else(String::new, |a| a.sha256.clone()),
            verified: manifest.verified.as_ref().map(|v| v.at.clone()),
            rows: manifest.rows_sent(),
            passed: manifest.passed.iter().map(ToString::to_string).collect(),
            lacks: own.map(ToString::to_string).collect(),
            targets: targets
                .map(|(t, why)| (t.to_string(), why.clone()))
                .collect(),
            pruned: outcome.pruned.clone(),
            after: manifest.after.clone(),
        }
    }

    /// Is every database of the gateway in it, is it at every target, and did `backup.after` end
    /// well?
    pub fn is_all_well(&self) -> bool {
        let after = self.after.as_ref().is_none_or(|a| a.exit == Some(0));
        after && self.lacks.is_empty() && self.targets.iter().all(|(_, why)| why.is_none())
    }

    /// In words.
    ///
    /// # Errors
    /// The output fails.
    pub fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "backup      {}", self.archive.display())?;
        writeln!(out, "holds       {} rows, {} bytes", self.rows, self.bytes)?;
        if let Some(at) = &self.verified {
            writeln!(
                out,
                "verified    {at}: decrypted again, everything in it is whole"
            )?;
        }
        for one in &self.passed {
            let word = if self.lacks.contains(one) {
                "LACKS"
            } else {
                "left out"
            };
            writeln!(out, "{word:<11} {}", one.escape_debug())?;
        }
        for (target, why) in &self.targets {
            let words = why.as_deref().unwrap_or("copied and read back");
            writeln!(out, "target      {target}: {words}")?;
        }
        if let Some(a) = &self.after {
            let code = a.exit.map(|code| format!("exit status {code}"));
            let words = a.why.clone().or(code).unwrap_or_default();
            writeln!(out, "after       {}: {words}", a.command.escape_debug())?;
        }
        for name in &self.pruned {
            writeln!(out, "pruned      {name}")?;
        }
        Ok(())
    }
}

/// Somebody wants one.
#[derive(Debug)]
struct Wish {
    actor: String,
    answers: UnboundedSender<ControlAnswer>,
}

#[derive(Debug, Default)]
struct Slots {
    wish: Option<Wish>,
    running: bool,
    ended: bool,
    thread: Option<Thread>,
    status: BackupStatus,
}

/// Where a backup is asked for, and where it says how it goes.
#[derive(Debug, Clone, Default)]
pub(super) struct BackupDesk(Arc<Mutex<Slots>>);

impl BackupDesk {
    /// Asks for one; its answers, the last of which ends it.
    pub(super) fn ask(&self, actor: String) -> UnboundedReceiver<ControlAnswer> {
        let (answers, receive) = unbounded_channel();
        let mut slots = lock(&self.0);
        let why = if slots.ended || slots.thread.is_none() {
            Some("the agent is starting or stopping")
        } else if slots.running || slots.wish.is_some() {
            Some("a backup is being made: `holdup status` says how far it is")
        } else {
            None
        };
        match why {
            // The receiver is at hand.
            Some(why) => drop(answers.send(ControlAnswer::Refused(why.to_owned()))),
            None => {
                slots.wish = Some(Wish { actor, answers });
                slots.thread.iter().for_each(Thread::unpark);
            }
        }
        receive
    }

    pub(super) fn status(&self) -> BackupStatus {
        lock(&self.0).status.clone()
    }
}

/// What it works with.
pub(super) struct BackupMeans {
    pub(super) settings: Settings,
    pub(super) config: Vec<PathBuf>,
    pub(super) orders: Orders,
    pub(super) queue: QueueDesk,
    pub(super) shared: Arc<Shared>,
    pub(super) medium: Arc<Medium>,
    pub(super) gate: Arc<Gate>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) audit: Audit,
    pub(super) desk: BackupDesk,
    pub(super) known: Known,
    pub(super) quiet: Quiet,
}

/// Starts the thread.
pub(super) fn start(means: BackupMeans) -> Result<Background, AgentError> {
    let stop = Arc::new(AtomicBool::new(false));
    let halt = Arc::new(AtomicBool::new(false));
    let desk = means.desk.clone();
    let worker = Worker {
        started: means.clock.mono(),
        made: None,
        stop: Arc::clone(&stop),
        halt: Arc::clone(&halt),
        means,
    };
    let flags = vec![stop, halt];
    let background = Background::start("holdup-backup", "backups", flags, move || worker.run())?;
    lock(&desk.0).thread = background.thread().cloned();
    Ok(background)
}

struct Worker {
    means: BackupMeans,
    started: Mono,
    /// When the last one of this run was made.
    made: Option<Mono>,
    stop: Arc<AtomicBool>,
    /// Of the one that is being made.
    halt: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self) {
        // Of this thread alone; where that is refused, it runs as the others do.
        rustix::process::setpriority_process(None, NICE).ok();
        let clock = Arc::clone(&self.means.clock);
        let backup = self.means.settings.backup.clone();
        let able = recipients(&self.means.settings).is_ok();
        if !able && backup.every.is_some() {
            log::warn!("no backup is made: {}", BackupError::NoRecipient);
        }
        let every = backup.every.filter(|_| able);
        let mut due = every.map(|every| clock.mono() + self.first(every));
        let mut look: Option<Mono> = None;
        while !self.stop.load(Ordering::SeqCst) {
            let held_off = self.held_off();
            let now = clock.mono();
            if held_off.is_none() && look.is_none_or(|at| now.since(at) > LOOK_AT_DIR) {
                self.look(able);
                look = Some(now);
            }
            self.say(able, due, held_off);
            // A wish waits for the queue: that is a moment, where nothing is wrong with it.
            let soon = held_off == Some(QUEUE_LOOK);
            let wish = lock(&self.means.desk.0).wish.take_if(|_| !soon);
            let is_due = due.is_some_and(|due| now >= due);
            match (wish, held_off) {
                (Some(wish), Some(why)) => {
                    let why = format!("{why}: ask again later");
                    // Who asked may have gone.
                    wish.answers.send(ControlAnswer::Refused(why)).ok();
                }
                (Some(wish), None) => {
                    self.make("operator", &wish.actor, Some(&wish.answers));
                    look = None;
                }
                (None, None) if is_due => {
                    let made = self.make("schedule", AGENT, None);
                    due = every.map(|e| clock.mono() + self.next(e, made));
                    look = None;
                }
                (None, _) => {
                    let left = due.map_or(LOOK, |d| d.since(now).max(LOOK / 20));
                    let look = if soon { LOOK / 20 } else { LOOK };
                    std::thread::park_timeout(look.min(left));
                }
            }
        }
        let mut slots = lock(&self.means.desk.0);
        slots.ended = true;
        slots.wish = None;
    }

    /// When the first one is due: a missed one is made up.
    fn first(&self, every: Duration) -> Duration {
        let soon = AFTER_START.min(every / 10);
        let state = BackupState::read(&self.means.settings.gateway.backup_state());
        let Some(last) = state.last else { return soon };
        let age = self
            .means
            .clock
            .wall()
            .as_millis()
            .saturating_sub(last.at_ms);
        match u64::try_from(age) {
            Ok(age) => every.saturating_sub(Duration::from_millis(age)).max(soon),
            // The clock was put back, or nobody has set it yet.
            Err(_) => soon,
        }
    }

    fn next(&self, every: Duration, made: bool) -> Duration {
        if !made {
            return AGAIN.min(every / 10).max(LOOK);
        }
        let mut byte = [0u8];
        // Without it gateways keep step.
        getrandom(&mut byte[..], GetRandomFlags::empty()).ok();
        every + self.means.settings.backup.jitter * u32::from(byte[0]) / 255
    }

    /// Why none may be begun now.
    fn held_off(&self) -> Option<&'static str> {
        if let Some(why) = unsteady(&self.means.shared.published().state) {
            return Some(why);
        }
        if self.means.gate.is_closed() {
            return Some("writing is stopped");
        }
        match self.means.orders.stats().state {
            StoreState::Running | StoreState::DiskFull
                if !self.means.known.is_queue_looked_after() =>
            {
                Some(QUEUE_LOOK)
            }
            StoreState::Running | StoreState::DiskFull => None,
            StoreState::Starting | StoreState::Failed(_) | StoreState::Stopped => {
                Some("the store is not open")
            }
        }
    }

    fn say(&self, able: bool, due: Option<Mono>, held_off: Option<&str>) {
        let left = due.map(|d| d.since(self.means.clock.mono()));
        let held_off = held_off.filter(|_| left.is_some_and(|l| l.is_zero()));
        let mut slots = lock(&self.means.desk.0);
        slots.status.state = match (able, due, held_off) {
            (false, _, _) => "no_recipient",
            (true, None, _) => "off",
            (true, Some(_), None) => "waiting",
            (true, Some(_), Some(_)) => "held_off",
        }
        .to_owned();
        slots.status.held_off = held_off.map(str::to_owned);
        slots.status.next_in_s = left.map(|l| l.as_secs());
    }

    /// How the backups stand, for status.
    fn look(&self, able: bool) {
        let BackupMeans {
            settings, clock, ..
        } = &self.means;
        let state = BackupState::read(&settings.gateway.backup_state());
        let now = clock.mono();
        let since = Since {
            start: Some(now.since(self.started)),
            made: self.made.map(|m| now.since(m)),
        };
        let (dir, id) = (&settings.backup.dir, &settings.gateway.id);
        match health(dir, id, &state, able, clock.wall(), since) {
            Ok(health) => {
                let mut slots = lock(&self.means.desk.0);
                (slots.status.health, slots.status.last) = (health, state);
            }
            Err(e) => log::warn!("backups are not looked at: {}", explain(&e)),
        }
    }

    /// Makes one; true when it was made.
    fn make(
        &mut self,
        reason: &str,
        actor: &str,
        answers: Option<&UnboundedSender<ControlAnswer>>,
    ) -> bool {
        self.halt.store(false, Ordering::SeqCst);
        if self.stop.load(Ordering::SeqCst) {
            return false;
        }
        let Some(_busy) = self.means.quiet.enter() else {
            if let Some(answers) = answers {
                let why = "the gateway is being reset: ask again later".to_owned();
                // Who asked may have gone.
                answers.send(ControlAnswer::Refused(why)).ok();
            }
            return false;
        };
        {
            let mut slots = lock(&self.means.desk.0);
            slots.running = true;
            slots.status.state = "running".to_owned();
        }
        let details = json!({ "reason": reason });
        let begun = self.means.audit.begin("backup", actor, details, BEFORE);
        let entry = begun.unwrap_or_else(|late| {
            log::warn!("the backup is not in the audit log yet: {}", late.why);
            late.entry
        });
        // So that the head that goes along is the newest; one that is behind is still a head.
        self.means.audit.flush(BEFORE);
        let done = self.job(reason, actor, answers);
        if let Some((database, why)) = damaged(&done, &self.means.settings) {
            let BackupMeans { medium, gate, .. } = &self.means;
            self.means.known.suspect(&database, &why, medium, gate);
        }
        let (result, details, answer) = match &done {
            Ok(outcome) => {
                let report = BackupReport::new(outcome);
                log::info!("backup {}: {} bytes, verified", report.name, report.bytes);
                for lacks in &report.lacks {
                    log::error!("the backup {} lacks {lacks}", report.name);
                }
                let details = json!({ "name": report.name, "sha256": report.sha256 });
                ("done", details, ControlAnswer::BackedUp(Box::new(report)))
            }
            Err(e) => {
                let why = explain(e);
                if matches!(e, BackupError::Stopped) {
                    log::info!("no backup: {why}");
                } else {
                    log::error!("no backup was made: {why}");
                }
                let details = json!({ "error": why });
                let answer = if matches!(e, BackupError::NoRecipient) {
                    ControlAnswer::Refused(why)
                } else {
                    ControlAnswer::Failed(why)
                };
                ("failed", details, answer)
            }
        };
        self.means.audit.end(&entry, result, details);
        if done.is_ok() {
            self.made = Some(self.means.clock.mono());
        }
        {
            let mut slots = lock(&self.means.desk.0);
            slots.running = false;
            slots.status.step = None;
        }
        if let Some(answers) = answers {
            // Who asked may have gone.
            answers.send(answer).ok();
        }
        done.is_ok()
    }

    fn job(
        &self,
        reason: &str,
        actor: &str,
        answers: Option<&UnboundedSender<ControlAnswer>>,
    ) -> Result<Outcome, BackupError> {
        let BackupMeans {
            settings,
            config,
            orders,
            queue,
            shared,
            medium,
            gate,
            clock,
            audit,
            desk,
            known: _,
            quiet: _,
        } = &self.means;
        let say = |step: &str| {
            lock(&desk.0).status.step = Some(step.to_owned());
            if let Some(answers) = answers {
                // Who asked may have gone.
                answers.send(ControlAnswer::Step(step.to_owned())).ok();
            }
        };
        let progress = |_: u64| {
            if sheds(&shared.published().state) || self.stop.load(Ordering::SeqCst) {
                self.halt.store(true, Ordering::SeqCst);
            }
        };
        let site = Site {
            medium,
            gate,
            stop: &self.halt,
            clock: &**clock,
            work: &settings.gateway.backup_work(),
            progress: &progress,
            say: &say,
        };
        let queued = matches!(queue.stats().state, QueueState::Running | QueueState::Full);
        let guards = |path: &Path| {
            let path = path.display().to_string();
            let mut all = shared.databases().into_iter();
            all.any(|d| d.path == path && d.wal_frames.is_some())
        };
        let job = Job {
            settings,
            config,
            hands: Hands {
                store: Copier::Writer(orders),
                // Where the agent does not use it, it is a file like others.
                queue: if queued {
                    Copier::Writer(queue)
                } else {
                    Copier::Files
                },
                audit: Copier::Writer(audit),
                guards: &guards,
            },
            audit_head: audit.head(),
            reason,
            actor,
        };
        job.run(&site)
    }
}

/// The databases of ours that a backup found damaged, and how; they are recovered by a restart.
pub fn damaged(
    done: &Result<Outcome, BackupError>,
    settings: &Settings,
) -> Option<(PathBuf, String)> {
    match done {
        Ok(outcome) => {
            let queue = settings.gateway.queue_path();
            let mut all = outcome.made.damaged.iter();
            all.find(|(path, _)| *path == queue).cloned()
        }
        Err(BackupError::OwnDamaged { database, why, .. })
            if *database == settings.gateway.store_path() =>
        {
            Some((database.clone(), why.clone()))
        }
        Err(_) => None,
    }
}

/// Why none is begun in that state.
fn unsteady(state: &State) -> Option<&'static str> {
    match state {
        State::Good => None,
        State::Brownout => Some("the supply is in a brownout"),
        State::OnBattery { .. } => Some("the gateway runs on its battery"),
        State::Starting
        | State::Suspect { .. }
        | State::Resuming { .. }
        | State::Rehearsing { .. }
        | State::Failing { .. }
        | State::Parked { .. }
        | State::Stopping
        | State::Off => Some("power is not steady"),
    }
}

/// Is one that is being made given up? While the gate is closed it waits by itself.
fn sheds(state: &State) -> bool {
    match state {
        State::Brownout | State::OnBattery { .. } | State::Stopping | State::Off => true,
        State::Good
        | State::Starting
        | State::Suspect { .. }
        | State::Resuming { .. }
        | State::Rehearsing { .. }
        | State::Failing { .. }
        | State::Parked { .. } => false,
    }
}
