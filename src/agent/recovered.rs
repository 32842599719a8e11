//! Looks after the agent's own databases before they are opened, and remembers what was found.
//!
//! It promises that no damaged database of ours is opened before its evidence was kept, and that
//! what was lost is logged and shown. Other applications' databases are never touched here.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::audit::{AGENT, Audit};
use crate::backup;
use crate::backup::restore::{self, RestoreError, Resumed};
use crate::backup::snapshot::Recall;
use crate::clock::Clock;
use crate::config::Settings;
use crate::durable::{Gate, Medium};
use crate::recovery::pages::Expected;
use crate::recovery::{
    self, Acknowledged, RecoveryError, Report, Request, SetAside, Site, Verdict, Way,
};
use crate::store::{Ledger, companion};
use crate::{queue, store};

use super::costs::lock;
use super::explain;

/// What the entry in the audit log gets, before the first change.
const BEFORE: Duration = Duration::from_secs(5);
/// Bytes of a log that are read before readings are taken.
const GLANCE: u64 = 8 << 20;
/// Ranges of missing ids that an entry lists.
const MOST_RANGES: usize = 16;

/// What every table of ours looks like, for a file that cannot tell it any more.
pub fn known_tables() -> Vec<Expected<'static>> {
    let store = store::TABLES.iter().map(|(_, sql)| *sql);
    let queue = queue::TABLES.iter().map(|(_, sql)| *sql);
    store.chain(queue).map(Expected::of).collect()
}

/// What the ledger says of the store, for the store alone.
fn noted(settings: &Settings, database: &Path) -> Option<Acknowledged> {
    if database != settings.gateway.store_path() {
        return None;
    }
    match Ledger::read(&settings.gateway.ledger_path()) {
        Ok(noted) => noted.map(|n| Acknowledged {
            epoch: n.epoch,
            lowest: n.lowest,
            upto: n.highest,
        }),
        Err(e) => {
            log::warn!("what was acknowledged is not known: {}", explain(&e));
            None
        }
    }
}

/// What every table of ours looks like, and what is noted of the rows of `database` outside it.
pub fn known_of(
    settings: &Settings,
    database: &Path,
) -> (Vec<Expected<'static>>, Option<Acknowledged>) {
    let acknowledged = noted(settings, database);
    let mut tables = known_tables();
    if let Some(a) = acknowledged {
        // Readings are only added, and kept from here on.
        tables[0].kept_from = Some(a.lowest);
    }
    (tables, acknowledged)
}

/// What was recovered.
#[derive(Debug, Default)]
pub(super) struct Recoveries {
    /// The last one of each database before the agent started.
    earlier: Vec<Report>,
    /// Since then.
    since: Vec<Report>,
    /// What stood in the way, since the agent started.
    aside: Vec<SetAside>,
}

impl Recoveries {
    /// Reads what the evidence in `evidence` tells of earlier ones.
    pub(super) fn load(evidence: &Path) -> Self {
        Self {
            earlier: recovery::last_recoveries(evidence),
            since: Vec::new(),
            aside: Vec::new(),
        }
    }

    /// What stood in the way, since the agent started.
    pub(super) fn aside(&self) -> Vec<SetAside> {
        self.aside.clone()
    }

    /// This stood in the way.
    pub(super) fn set_aside(&mut self, aside: SetAside) {
        self.aside.push(aside);
    }

    /// Those since the agent started.
    pub(super) fn since(&self) -> Vec<Report> {
        self.since.clone()
    }

    /// The last one of each database, whenever it was.
    pub(super) fn last_of_each(&self) -> Vec<Report> {
        let all = self.earlier.iter().chain(&self.since);
        let last: BTreeMap<_, _> = all.map(|r| (&r.database, r)).collect();
        last.into_values().cloned().collect()
    }
}

/// Told to the status.
pub(super) type Recovered = Arc<Mutex<Recoveries>>;

/// Recovers what is damaged.
#[derive(Debug)]
pub(super) struct Recoverer {
    medium: Arc<Medium>,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
    stop: Arc<AtomicBool>,
    cut: bool,
    audit: Audit,
    recovered: Recovered,
}

impl Recoverer {
    pub(super) fn new(
        medium: Arc<Medium>,
        gate: Arc<Gate>,
        clock: Arc<dyn Clock>,
        stop: Arc<AtomicBool>,
        cut: bool,
        audit: Audit,
        recovered: Recovered,
    ) -> Self {
        Self {
            medium,
            gate,
            clock,
            stop,
            cut,
            audit,
            recovered,
        }
    }

    /// Ends a restore that a cut interrupted: with the new files, or the old ones.
    pub(super) fn finish_restore(&self, settings: &Settings) -> Result<(), RestoreError> {
        let gateway = &settings.gateway;
        if !restore::is_unfinished(&gateway.data_dir) {
            return Ok(());
        }
        let site = backup::Site {
            medium: &self.medium,
            gate: &self.gate,
            stop: &self.stop,
            clock: &*self.clock,
            work: &gateway.backup_work(),
            progress: &|_| {},
            say: &|step| log::info!("a restore that was interrupted: {step}"),
        };
        match restore::resume(&gateway.data_dir, &site)? {
            Resumed::Nothing => {}
            Resumed::Finished { archive, done } => {
                log::warn!("finished the restore of {archive} that was interrupted");
                let details = json!({ "archive": archive, "result": "finished", "done": done });
                self.audit.note("restore.resumed", AGENT, details);
            }
            Resumed::Undone { archive, why } => {
                log::warn!("undid the restore of {archive} that was interrupted: {why}");
                let details = json!({ "archive": archive, "result": "undone", "why": why });
                self.audit.note("restore.resumed", AGENT, details);
            }
        }
        Ok(())
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

    /// Sets aside what stands where recovering `database` would put its own files, under the names
    /// in `also` too.
    pub(super) fn clear_the_way(
        &self,
        settings: &Settings,
        database: &Path,
        also: &[&str],
    ) -> Result<(), RecoveryError> {
        let evidence = settings.gateway.evidence_path();
        let site = self.site(settings, &evidence);
        recovery::clear_the_way(database, also, &site, &mut |aside| self.tell_aside(aside))
    }

    /// Sets aside what stands at `path`, where a file of ours belongs, if it is none.
    pub(super) fn clear(&self, settings: &Settings, path: &Path) -> Result<(), RecoveryError> {
        let why = match path.symlink_metadata() {
            Ok(m) if !m.is_file() => recovery::kind_of(&m).to_owned(),
            // What cannot be asked is said by whoever opens it.
            Ok(_) | Err(_) => return Ok(()),
        };
        let evidence = settings.gateway.evidence_path();
        let to = self.site(settings, &evidence).set_aside(path)?;
        self.tell_aside(SetAside {
            from: path.to_owned(),
            to,
            why,
            evidence: None,
        });
        Ok(())
    }

    fn tell_aside(&self, aside: SetAside) {
        log::error!("{aside}");
        self.audit.note("recovery.set_aside", AGENT, json!(aside));
        lock(&self.recovered).set_aside(aside);
    }

    /// Is `database` sound, as far as a look that takes no time can tell? Not asked of one with a
    /// long log.
    pub(super) fn is_sound_at_a_glance(&self, database: &Path) -> bool {
        let short = ["-wal", "-journal"].iter().all(|suffix| {
            let beside = companion(database, suffix);
            beside
                .symlink_metadata()
                .map_or(true, |m| m.len() <= GLANCE)
        });
        short
            && match recovery::fault_after(database, self.cut) {
                Ok(fault) => fault.is_none(),
                Err(e) => matches!(e, RecoveryError::Nothing(_)),
            }
    }

    /// Looks at `database` as bytes and recovers it where anything is off. `suspicion`: what
    /// SQLite said of a file that looks well.
    pub(super) fn look_after(
        &self,
        settings: &Settings,
        database: &Path,
        suspicion: Option<&str>,
    ) -> Result<Verdict, RecoveryError> {
        let evidence = settings.gateway.evidence_path();
        let site = self.site(settings, &evidence);
        let case = Case {
            database,
            suspicion,
            thorough: false,
            cut: self.cut,
            may_be_fresh: true,
            set_aside: false,
            actor: AGENT,
            say: &|step| log::info!("{}: {step}", database.display()),
        };
        let report = match case.recover(settings, &site, &self.audit) {
            // A new gateway: the database is made next.
            Err(RecoveryError::Nothing(_)) => return Ok(Verdict::Clean),
            // Nothing of ours was ever in it: the opening says so and leaves it alone.
            Err(RecoveryError::Alien(_)) => return Ok(Verdict::Clean),
            other => other?,
        };
        let verdict = report.verdict;
        match verdict {
            Verdict::Clean => {}
            Verdict::Replayed => log::info!("{report}"),
            Verdict::Salvaged | Verdict::Restored | Verdict::Fresh | Verdict::Unrecoverable => {
                log::error!("{report}");
                lock(&self.recovered).since.push(report);
            }
        }
        Ok(verdict)
    }
}

/// A database of ours that is recovered in its place, with its entries in the audit log.
pub(super) struct Case<'a> {
    pub(super) database: &'a Path,
    /// What SQLite said of a file that looks well.
    pub(super) suspicion: Option<&'a str>,
    pub(super) thorough: bool,
    pub(super) cut: bool,
    pub(super) may_be_fresh: bool,
    pub(super) set_aside: bool,
    pub(super) actor: &'a str,
    pub(super) say: &'a dyn Fn(&str),
}

impl Case<'_> {
    /// The first entry is durable before the first change, where that can be had.
    pub(super) fn recover(
        &self,
        settings: &Settings,
        site: &Site<'_>,
        audit: &Audit,
    ) -> Result<Report, RecoveryError> {
        let (tables, acknowledged) = known_of(settings, self.database);
        let entry = RefCell::new(None);
        let shown = self.database.display().to_string();
        let begins = |why: &str| {
            let details = json!({ "database": shown, "found": why });
            let begun = audit.begin("recovery", self.actor, details, BEFORE);
            *entry.borrow_mut() = Some(begun.unwrap_or_else(|late| {
                log::warn!("the recovery is not in the audit log yet: {}", late.why);
                late.entry
            }));
        };
        let done = recovery::recover(
            &Request {
                database: self.database,
                way: Way::InPlace,
                tables: &tables,
                suspicion: self.suspicion,
                thorough: self.thorough,
                cut: self.cut,
                may_be_fresh: self.may_be_fresh,
                set_aside: self.set_aside,
                acknowledged,
                snapshots: Some(&Recall::new(settings.gateway.snapshots_path(), site.medium)),
                say: self.say,
                begins: &begins,
            },
            site,
        );
        let Some(entry) = entry.take() else {
            return done;
        };
        match &done {
            Err(e) => audit.end(&entry, "failed", json!({ "error": explain(e) })),
            Ok(report) => {
                let details = json!({
                    "database": shown,
                    "kept_rows": report.kept_rows,
                    "kept_transactions": report.kept_transactions,
                    "lost_transactions": report.lost_transactions,
                    "lost_rows_known": report.lost_rows_known,
                    "missing": report.missing.iter().take(MOST_RANGES).collect::<Vec<_>>(),
                    "restored": report.restored,
                    "evidence": report.evidence,
                });
                audit.end(&entry, report.verdict.name(), details);
            }
        }
        done
    }
}
