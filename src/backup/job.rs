//! A backup from its beginning to its end: made, copied to every target, handed on, and the old
//! ones pruned.
//!
//! It promises that a target that fails, or a command that does, costs nothing of the backup that
//! was made, and is told. It must never prune before the new one is verified, but for want of room,
//! and then only within the rule.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::audit::Head;
use crate::config::Settings;
use crate::durable::Medium;
use crate::store;

use super::create::in_full;
use super::part::rewrite;
use super::prune::{self, Cause};
use super::retention::Rule;
use super::state::{BackupState, LastBackup, LastFailure, TargetState};
use super::target::{Target, copy_to};
use super::{
    AfterRun, BackupError, Copier, Kind, Made, Recipient, Request, Role, Site, Source, after,
    create,
};

/// Who copies the databases.
#[derive(Clone, Copy)]
pub struct Hands<'a> {
    /// The readings.
    pub store: Copier<'a>,
    /// The outbound queue.
    pub queue: Copier<'a>,
    /// The audit log.
    pub audit: Copier<'a>,
    /// Does this process guard that database of another application, which has it open? Then it is
    /// copied through a connection: plain file calls would drop the guard's locks.
    pub guards: &'a (dyn Fn(&Path) -> bool + Sync),
}

impl fmt::Debug for Hands<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands")
            .field("store", &self.store)
            .field("queue", &self.queue)
            .field("audit", &self.audit)
            .finish_non_exhaustive()
    }
}

/// A backup of a gateway, as it is configured.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// The settings.
    pub settings: &'a Settings,
    /// The files that they were read from.
    pub config: &'a [PathBuf],
    /// Who copies.
    pub hands: Hands<'a>,
    /// The audit log's head.
    pub audit_head: Option<Head>,
    /// Why it is made: `schedule`, `operator`, `drill`, `reset`, `restore`.
    pub reason: &'a str,
    /// Who asks for it.
    pub actor: &'a str,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The backup.
    pub made: Made,
    /// Every further target, and why the backup is not there; `None`: it is, and was read back.
    pub targets: Vec<(Target, Option<String>)>,
    /// The names of those that were pruned here.
    pub pruned: Vec<String>,
}

impl Job<'_> {
    /// Does all of it. What is remembered of backups is brought up to date also after an error.
    ///
    /// # Errors
    /// No backup was made.
    pub fn run(&self, site: &Site<'_>) -> Result<Outcome, BackupError> {
        let path = self.settings.gateway.backup_state();
        let began = site.clock.mono();
        let done = self.make(site);
        let mut state = BackupState::read(&path);
        let now = site.clock.wall();
        match &done {
            Ok(made) => {
                let took = site.clock.mono().since(began);
                state.last = Some(LastBackup {
                    name: made.name.to_string(),
                    at: now.to_string(),
                    at_ms: now.as_millis(),
                    bytes: made.manifest.archive.as_ref().map_or(0, |a| a.bytes),
                    took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                });
                state.failed = None;
            }
            // It is begun again: no failure to be told.
            Err(BackupError::Stopped) => return Err(BackupError::Stopped),
            Err(e) => {
                state.failed = Some(LastFailure {
                    at: now.to_string(),
                    why: in_full(e),
                });
            }
        }
        keep(&state, &path, site);
        let mut outcome = Outcome {
            made: done?,
            targets: Vec::new(),
            pruned: Vec::new(),
        };
        self.hand_on(&mut outcome, site);
        outcome.pruned = self.prune(&self.settings.backup.dir, site);
        self.copies(&mut outcome, &mut state, site);
        keep(&state, &path, site);
        Ok(outcome)
    }

    /// Makes it; where room is wanting, once more after pruning.
    fn make(&self, site: &Site<'_>) -> Result<Made, BackupError> {
        match self.create(site) {
            Err(BackupError::NoRoom { path, free, needed }) => {
                let dir = &self.settings.backup.dir;
                let pruned = self.remove(dir, Cause::Room(needed.saturating_sub(free)), site);
                if pruned.is_empty() {
                    return Err(BackupError::NoRoom { path, free, needed });
                }
                log::warn!(
                    "{} is nearly full: {} backups were pruned for the next one",
                    path.display(),
                    pruned.len()
                );
                self.create(site)
            }
            done => done,
        }
    }

    fn create(&self, site: &Site<'_>) -> Result<Made, BackupError> {
        let Settings {
            gateway, backup, ..
        } = self.settings;
        let recipients = recipients(self.settings)?;
        let own = [
            (gateway.queue_path(), Role::Queue, self.hands.queue),
            (gateway.store_path(), Role::Store, self.hands.store),
            (gateway.audit_path(), Role::Audit, self.hands.audit),
        ];
        // A gateway that never queued has no queue, or an empty file.
        let held = |path: &Path| {
            let of = |suffix| fs::metadata(store::companion(path, suffix)).map_or(0, |m| m.len());
            of("") > 0 || of("-wal") > 0
        };
        let mut databases: Vec<_> = own
            .into_iter()
            .filter(|(path, _, _)| held(path))
            .map(|(path, role, copier)| Source { path, role, copier })
            .collect();
        databases.extend(self.settings.databases.iter().map(|d| Source {
            path: d.path.clone(),
            role: Role::Guarded,
            copier: if (self.hands.guards)(&d.path) {
                Copier::Connection
            } else {
                Copier::Files
            },
        }));
        let mut include = self.config.to_vec();
        include.extend(backup.include.iter().cloned());
        let key = "it is a certificate or key: `holdup backup keys` has those";
        let mut exclude: Vec<_> = backup.keys.iter().map(|k| (k.clone(), key)).collect();
        exclude.push((
            gateway.data_dir.clone(),
            "its databases are backed up as such",
        ));
        exclude.push((gateway.run_dir.clone(), "it does not outlive a boot"));
        create(
            &Request {
                gateway: &gateway.id,
                kind: Kind::Data,
                reason: self.reason,
                actor: self.actor,
                databases,
                include,
                exclude,
                recipients: &recipients,
                audit_head: self.audit_head.clone(),
                to: &backup.dir,
            },
            site,
        )
    }

    /// Runs `backup.after`, and notes in the manifest how it ended.
    fn hand_on(&self, outcome: &mut Outcome, site: &Site<'_>) {
        let Some(command) = &self.settings.backup.after else {
            return;
        };
        (site.say)("handing it to backup.after");
        let made = &mut outcome.made;
        let run = after::run(
            command,
            &made.archive,
            &made.sidecar,
            self.settings.backup.after_timeout,
            site.stop,
            site.clock,
        );
        if run.exit != Some(0) {
            log::error!("backup.after: {}", in_words(&run));
        }
        made.manifest.after = Some(run);
        let noted = Medium::open(&self.settings.backup.dir)
            .map_err(BackupError::from)
            .and_then(|medium| rewrite(&made.sidecar, &made.manifest, &medium, site));
        if let Err(e) = noted {
            log::error!("the manifest does not say so: {}", in_full(&e));
        }
    }

    fn copies(&self, outcome: &mut Outcome, state: &mut BackupState, site: &Site<'_>) {
        let gateway = &self.settings.gateway;
        for target in Target::all(&self.settings.backup) {
            if matches!(target, Target::Local(_)) {
                continue;
            }
            (site.say)(&format!("copying it to {target}"));
            let done = target
                .open(&gateway.data_dir, &gateway.run_dir)
                .and_then(|opened| {
                    let copied = self.copy_there(opened.dir(), &outcome.made, site);
                    let closed = opened.close();
                    copied.and(closed)
                });
            let problem = done.err().map(|e| in_full(&e));
            if let Some(why) = &problem {
                log::error!("the backup is not on {target}: {why}");
            }
            let name = outcome.made.name.to_string();
            let at = site.clock.wall().to_string();
            state.targets.insert(
                target.to_string(),
                TargetState {
                    at,
                    name,
                    problem: problem.clone(),
                },
            );
            outcome.targets.push((target, problem));
        }
    }

    fn copy_there(&self, dir: &Path, made: &Made, site: &Site<'_>) -> Result<(), BackupError> {
        let copied = match copy_to(dir, made, site) {
            Err(BackupError::NoRoom { free, needed, path }) => {
                let wanted = Cause::Room(needed.saturating_sub(free));
                if self.remove(dir, wanted, site).is_empty() {
                    return Err(BackupError::NoRoom { free, needed, path });
                }
                copy_to(dir, made, site)
            }
            done => done,
        };
        copied?;
        self.prune(dir, site);
        Ok(())
    }

    /// By the rule; the names of those that went.
    pub fn prune(&self, dir: &Path, site: &Site<'_>) -> Vec<String> {
        self.remove(dir, Cause::Rule(rule(self.settings)), site)
    }

    fn remove(&self, dir: &Path, cause: Cause, site: &Site<'_>) -> Vec<String> {
        let mut gone = Vec::new();
        let gateway = &self.settings.gateway.id;
        let done = Medium::open(dir)
            .map_err(BackupError::from)
            .and_then(|medium| {
                for one in prune::candidates(dir, gateway, cause, site.clock.wall())? {
                    let _pass = crate::durable::enter(site.gate, site.stop)
                        .map_err(BackupError::io("prune", dir))?;
                    prune::remove(&one, &medium)?;
                    log::info!("pruned {}", one.archive().display());
                    gone.push(one.name.to_string());
                }
                Ok(())
            });
        if let Err(e) = done {
            log::error!("{} is not pruned: {}", dir.display(), in_full(&e));
        }
        gone
    }
}

/// What is kept, as configured.
pub fn rule(settings: &Settings) -> Rule {
    Rule {
        last: settings.backup.keep_last,
        days: settings.backup.keep_days,
    }
}

/// To whom, as configured.
///
/// # Errors
/// There is none, or one that is no recipient.
pub fn recipients(settings: &Settings) -> Result<Vec<Recipient>, BackupError> {
    let all = settings.backup.recipients.iter();
    let all: Vec<Recipient> = all.map(|r| r.parse()).collect::<Result<_, _>>()?;
    if all.is_empty() {
        return Err(BackupError::NoRecipient);
    }
    Ok(all)
}

/// How a command ended.
fn in_words(run: &AfterRun) -> String {
    match (&run.why, run.exit) {
        (Some(why), _) => why.clone(),
        (None, Some(code)) => format!("it ended with exit status {code}"),
        (None, None) => "it ended without an exit status".to_owned(),
    }
}

fn keep(state: &BackupState, path: &Path, site: &Site<'_>) {
    let pass = crate::durable::enter(site.gate, site.stop);
    let done = pass
        .map_err(BackupError::io("write", path))
        .and_then(|_pass| state.write(path, site.medium));
    if let Err(e) = done {
        log::error!("what is known of backups is not kept: {}", in_full(&e));
    }
}
