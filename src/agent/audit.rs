//! Enters what the agent does and meets into the audit log.
//!
//! It listens to the news that the reporter tells, and never waits for the log: what must be
//! durable before it begins is begun by whoever begins it.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::audit::{AGENT, Audit, AuditOptions, AuditStatus, Clerk, Entry};
use crate::clock::Clock;
use crate::config::{Loaded, Settings};
use crate::durable::{Gate, Medium};
use crate::guard::{LastOutage, Measured};
use crate::power::Notice;
use crate::recovery::SetAside;
use crate::store::{StoreState, StoreStats};

use super::AgentError;
use super::costs::lock;

/// What the last entries get when the agent stops.
const STOPPING: Duration = Duration::from_secs(2);
/// What an operator waits for the entry that comes before the action.
const BEFORE: Duration = Duration::from_secs(5);

/// See the module's text.
#[derive(Debug)]
pub(super) struct Diary {
    audit: Audit,
    clerk: Mutex<Option<Clerk>>,
    seen: Mutex<Seen>,
}

/// What was entered of the store's state.
#[derive(Debug, Default)]
struct Seen {
    full: bool,
    failed: bool,
    ledger: bool,
    stopping: bool,
}

impl Diary {
    /// Opens the log and enters that the agent starts, by which configuration, and how the last
    /// outage ended.
    pub(super) fn start(
        loaded: &Loaded,
        medium: &Arc<Medium>,
        gate: &Arc<Gate>,
        clock: &Arc<dyn Clock>,
        boot: &str,
        last: Option<&LastOutage>,
    ) -> Result<Self, AgentError> {
        let gateway = &loaded.settings.gateway;
        let (audit, clerk) = Audit::open(AuditOptions {
            path: gateway.audit_path(),
            spool: gateway.audit_spool(),
            medium: Arc::clone(medium),
            gate: Arc::clone(gate),
            clock: Arc::clone(clock),
            boot: boot.to_owned(),
        })?;
        let diary = Self {
            audit,
            clerk: Mutex::new(Some(clerk)),
            seen: Mutex::default(),
        };
        let Settings { gateway, board, .. } = &loaded.settings;
        diary.note(
            "start",
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "pid": std::process::id(),
                "gateway": gateway.id,
                "board": board.name,
            }),
        );
        if let Some(last) = last {
            diary.outage(last);
        }
        diary.configured(loaded);
        Ok(diary)
    }

    fn note(&self, action: &str, details: Value) {
        self.audit.note(action, AGENT, details);
    }

    /// What stood in the way of the agent's own files.
    pub(super) fn set_aside(&self, aside: &SetAside) {
        self.note("recovery.set_aside", json!(aside));
    }

    /// A handle for who must have an entry durable before it acts.
    pub(super) fn audit(&self) -> Audit {
        self.audit.clone()
    }

    /// The log's own state, for status.
    pub(super) fn status(&self) -> AuditStatus {
        self.audit.status()
    }

    /// The configuration, where it is another than the one entered last.
    pub(super) fn configured(&self, loaded: &Loaded) {
        // What `holdup config show` prints without the comments: every key and its value.
        let mut hash = Sha256::new();
        for row in loaded.rows() {
            let value = row.value.as_ref().map(ToString::to_string);
            hash.update(format!("{} = {}\n", row.key(), value.unwrap_or_default()));
        }
        let mut hex = String::new();
        for byte in hash.finalize() {
            let _infallible = write!(hex, "{byte:02x}");
        }
        let details = json!({ "sha256": hex, "files": loaded.files });
        self.audit.note_once(&hex, "config", AGENT, details);
    }

    /// An outage, when it is over. One that a later session reads from the record again is known by
    /// its beginning.
    fn outage(&self, o: &LastOutage) {
        let details = json!({
            "kind": o.kind,
            "ended": o.ended,
            "at": o.at,
            "edge_to_quiet_ms": o.edge_to_quiet_ms,
            "edge_to_durable_ms": o.edge_to_durable_ms,
            "resumed": o.resumed,
        });
        if o.at.is_empty() {
            self.note("outage", details);
        } else {
            let key = format!("{} {}", o.kind, o.at);
            self.audit.note_once(&key, "outage", AGENT, details);
        }
    }

    /// The guard said something.
    pub(super) fn heed(&self, notice: Notice, last: Option<LastOutage>) {
        match notice {
            Notice::Resumed => last.iter().for_each(|o| self.outage(o)),
            Notice::RehearsalOvertaken => self.note("rehearsal.overtaken", Value::Null),
            Notice::MeasureTimedOut => self.note("measurement", json!({ "state": "timed_out" })),
            Notice::LineStuck => self.note("line_stuck", Value::Null),
            Notice::GoingOff => self.note("poweroff", Value::Null),
            Notice::Flicker { .. }
            | Notice::Failing
            | Notice::OnBattery
            | Notice::OffBattery
            | Notice::Brownout
            | Notice::BrownoutEnded
            | Notice::Parked
            | Notice::LineUnstuck
            | Notice::LinesMissing
            | Notice::LinesFound
            | Notice::StayingParked
            | Notice::Refused
            | Notice::MeasureArmed
            | Notice::MeasureDisarmed
            | Notice::Rehearsing
            | Notice::Rehearsed => {}
        }
    }

    /// A hold-up time was measured.
    pub(super) fn measured(&self, m: &Measured) {
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        let key = format!("{} {}", m.boot, m.lost_at_ns);
        let details = json!({
            "state": "measured",
            "at": m.on.to_string(),
            "source": m.source,
            "gave_ms": ms(m.gave),
            "at_least": m.at_least,
        });
        self.audit.note_once(&key, "measurement", AGENT, details);
    }

    /// What changed about the store since the last look.
    pub(super) fn look(&self, store: &StoreStats) {
        let mut seen = lock(&self.seen);
        let full = store.state == StoreState::DiskFull;
        if std::mem::replace(&mut seen.full, full) != full {
            let action = if full { "disk_full" } else { "disk_has_room" };
            self.note(action, json!({ "store_bytes": store.bytes }));
        }
        if let (StoreState::Failed(why), false) = (&store.state, seen.failed) {
            seen.failed = true;
            self.note("store_failed", json!({ "why": &**why }));
        }
        let ledger = &store.ledger;
        if !seen.ledger && (ledger.missing.is_some() || ledger.problem.is_some()) {
            seen.ledger = true;
            let details = json!({
                "missing": ledger.missing,
                "acknowledged_upto": ledger.upto,
                "epoch": format!("{:016x}", store.epoch),
                "problem": ledger.problem,
            });
            self.note("ledger", details);
        }
    }

    /// An operator's action begins. Its entry is durable when this returns, if that can be had;
    /// there is no waiting for it while writing is stopped, and then the action is refused anyway.
    pub(super) async fn begin(&self, action: &'static str, actor: String, calm: bool) -> Begun {
        self.begin_with(action, actor, Value::Null, calm).await
    }

    /// The same with what is known of it beforehand.
    pub(super) async fn begin_with(
        &self,
        action: &'static str,
        actor: String,
        details: Value,
        calm: bool,
    ) -> Begun {
        let audit = self.audit.clone();
        let patience = if calm { BEFORE } else { Duration::ZERO };
        let begin = move || audit.begin(action, &actor, details, patience);
        let (entry, durable) = match tokio::task::spawn_blocking(begin).await {
            Ok(Ok(entry)) => (Some(entry), true),
            Ok(Err(e)) => {
                log::warn!("{e}");
                (Some(e.entry), false)
            }
            // The runtime is ending.
            Err(_) => (None, false),
        };
        Begun {
            audit: self.audit.clone(),
            entry,
            durable,
        }
    }

    /// Enters what somebody else in the house did; is it durable when this returns?
    pub(super) async fn enter(
        &self,
        action: String,
        actor: String,
        details: Value,
        calm: bool,
    ) -> bool {
        self.audit.note(&action, &actor, details);
        let audit = self.audit.clone();
        let flush = move || calm && audit.flush(BEFORE);
        tokio::task::spawn_blocking(flush).await.unwrap_or(false)
    }

    /// The stop was asked for: entered at once while the gate is open.
    pub(super) fn stopping(&self, gate: &Gate) {
        if std::mem::replace(&mut lock(&self.seen).stopping, true) {
            return;
        }
        self.note("stop", json!({ "pid": std::process::id() }));
        if gate.is_closed() || !self.audit.flush(STOPPING) {
            log::info!("some audit entries wait for the next start");
        }
    }

    /// Everything has ended. What is not written stays in the spool.
    pub(super) fn end(&self) {
        let clerk = lock(&self.clerk).take();
        if let Some(clerk) = clerk {
            clerk.stop();
        }
    }
}

/// An operator's action that was begun.
#[derive(Debug)]
pub(super) struct Begun {
    audit: Audit,
    entry: Option<Entry>,
    durable: bool,
}

impl Begun {
    /// Is its entry durable? What can wait does not begin without.
    pub(super) fn is_durable(&self) -> bool {
        self.durable
    }

    /// It ended.
    pub(super) fn end(&self, result: &str, details: Value) {
        if let Some(entry) = &self.entry {
            self.audit.end(entry, result, details);
        }
    }
}
