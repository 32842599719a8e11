//! Work on the gateway's own files by a verb, while no agent runs.
//!
//! It promises that no agent starts meanwhile, that what is done is in the audit log before it
//! begins, with who asked for it, and that what root made here still belongs to the agent's user
//! afterwards. It must never thaw: an agent that was killed while parked is for the next one to
//! end.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
use serde_json::{Value, json};

use crate::audit::{Audit, AuditOptions, Clerk, Entry};
use crate::clock::{Clock, SystemClock, boot_id};
use crate::config::Settings;
use crate::durable::{Gate, Medium};
use crate::guard::{Instance, SimMachine};
use crate::recovery::{Evidence, RecoveryError, Report, Site};
use crate::store::suspicion;

use super::recovered::Case;
use super::{AgentError, damage, explain, make_dir};

/// What the first entry gets, before the first change.
const BEFORE: Duration = Duration::from_secs(10);
/// Directories below the data directory that are given back, so deep.
const DEEP: u32 = 4;

/// The gateway's files, for one verb.
#[derive(Debug)]
pub struct ByHand {
    /// The file system of the data directory.
    pub medium: Arc<Medium>,
    /// Open: nobody closes it here.
    pub gate: Arc<Gate>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Never set here; for rooms that ask.
    pub stop: Arc<AtomicBool>,
    audit: Audit,
    clerk: Option<Clerk>,
    dirs: [PathBuf; 2],
    _instance: Instance,
}

/// Who asks: a technician by the name given, else the user who runs the verb.
pub fn actor(technician: Option<&str>) -> String {
    let user = || format!("uid:{}", rustix::process::getuid().as_raw());
    let sudo = || {
        let id = std::env::var("SUDO_UID").ok()?;
        let is_number = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| format!("uid:{id}"))
    };
    technician.map_or_else(|| sudo().unwrap_or_else(user), str::to_owned)
}

impl ByHand {
    /// Takes the instance locks and opens the audit log.
    ///
    /// # Errors
    /// [`AgentError::Instance`] while an agent runs; a directory that cannot be used.
    pub fn take(settings: &Settings) -> Result<Self, AgentError> {
        let gateway = &settings.gateway;
        make_dir("gateway.run_dir", &gateway.run_dir)?;
        make_dir("gateway.data_dir", &gateway.data_dir)?;
        let (instance, _) = Instance::take(&gateway.run_dir, &gateway.data_dir, &SimMachine)?;
        let medium = Arc::new(Medium::open(&gateway.data_dir)?);
        let gate = Arc::new(Gate::new());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (audit, clerk) = Audit::open(AuditOptions {
            path: gateway.audit_path(),
            spool: gateway.audit_spool(),
            medium: Arc::clone(&medium),
            gate: Arc::clone(&gate),
            clock: Arc::clone(&clock),
            boot: boot_id().unwrap_or_else(|| "unknown".to_owned()),
        })?;
        Ok(Self {
            medium,
            gate,
            clock,
            stop: Arc::default(),
            audit,
            clerk: Some(clerk),
            dirs: [gateway.data_dir.clone(), gateway.run_dir.clone()],
            _instance: instance,
        })
    }

    /// The audit log.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Enters that an action begins. Where the log cannot be written (a full disk, say) the entry
    /// waits in the spool and the action goes on: a repair must not wait for what it repairs.
    pub fn begin(&self, action: &str, actor: &str, details: Value) -> Entry {
        match self.audit.begin(action, actor, details, BEFORE) {
            Ok(entry) => entry,
            Err(late) => {
                log::warn!("{}", explain(&late));
                late.entry
            }
        }
    }

    /// Enters one fact; is it durable when this returns?
    pub fn enter(&self, action: &str, actor: &str, details: Value) -> bool {
        self.audit.note(action, actor, details);
        self.audit.flush(BEFORE)
    }

    /// Enters how it ended: with `told` of what came of it, or with its error.
    ///
    /// # Errors
    /// Those of `done`.
    pub fn ended<T, E>(
        &self,
        entry: &Entry,
        done: Result<T, E>,
        told: impl FnOnce(&T) -> Value,
    ) -> Result<T, E>
    where
        E: std::error::Error + 'static,
    {
        match &done {
            Ok(t) => self.audit.end(entry, "done", told(t)),
            Err(e) => self
                .audit
                .end(entry, "failed", json!({ "error": explain(e) })),
        }
        done
    }

    /// Notes that `database`, of ours, was found damaged, for the agent's next start.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn suspect(&self, database: &Path, why: &str) -> Result<(), AgentError> {
        Ok(damage::note(database, why, &self.medium)?)
    }

    /// `database` was mended: nothing is suspected of it any more.
    ///
    /// # Errors
    /// The note cannot be removed.
    pub fn trust(&self, database: &Path) -> Result<(), AgentError> {
        Ok(self.medium.remove(&suspicion(database))?)
    }

    /// Recovers a database of ours in its place, checking all of it. `set_aside`: text that stands
    /// there goes to the evidence, and where nothing else is left the next start makes a new one.
    ///
    /// # Errors
    /// As [`crate::recovery::recover`].
    pub fn recover(
        &self,
        settings: &Settings,
        database: &Path,
        set_aside: bool,
        actor: &str,
        say: &dyn Fn(&str),
    ) -> Result<Report, RecoveryError> {
        let case = Case {
            database,
            suspicion: None,
            thorough: true,
            cut: false,
            may_be_fresh: set_aside,
            set_aside,
            actor,
            say,
        };
        let evidence = settings.gateway.evidence_path();
        case.recover(settings, &self.site(settings, &evidence), &self.audit)
    }

    /// Keeps the files of a database of ours as evidence, before something else is made of it.
    ///
    /// # Errors
    /// As [`Evidence::keep`].
    pub fn keep(
        &self,
        settings: &Settings,
        database: &Path,
        reason: &str,
    ) -> Result<PathBuf, RecoveryError> {
        let evidence = settings.gateway.evidence_path();
        let kept = Evidence::keep(database, reason, &self.site(settings, &evidence))?;
        Ok(kept.dir)
    }

    fn site<'a>(&'a self, settings: &Settings, evidence: &'a Path) -> Site<'a> {
        Site {
            medium: &self.medium,
            gate: &self.gate,
            stop: &self.stop,
            clock: &*self.clock,
            evidence,
            evidence_max: settings.recovery.evidence_max,
        }
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        if let Some(clerk) = self.clerk.take() {
            clerk.stop();
        }
        if rustix::process::geteuid().is_root() {
            for dir in &self.dirs {
                give_back(dir);
            }
        }
    }
}

/// What root made in a directory of the agent's user belongs to that user.
fn give_back(dir: &Path) {
    let Ok(meta) = dir.symlink_metadata() else {
        return;
    };
    if meta.uid() != 0
        && let Err(e) = give(dir, &meta, DEEP)
    {
        log::warn!(
            "what is new in {} belongs to root: {e}; chown it to the agent's user",
            dir.display()
        );
    }
}

fn give(dir: &Path, owner: &std::fs::Metadata, deep: u32) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        // Another file system below is none of ours.
        if meta.dev() != owner.dev() {
            continue;
        }
        let path = entry.path();
        if meta.uid() == 0 {
            let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
            chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if meta.is_dir() && deep > 0 {
            give(&path, owner, deep - 1)?;
        }
    }
    Ok(())
}
