//! `holdup recover DB`: whatever is damaged, the evidence is kept and the least is lost.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use rustix::fs::Mode;

use crate::agent::{actor, known_of, known_tables};
use crate::backup::snapshot::Recall;
use crate::clock::SystemClock;
use crate::config::{self, Settings};
use crate::durable::{Gate, Medium};
use crate::recovery::{
    self, HoldError, RecoveryError, Report, Request, Site, Snapshots, Verdict, Way,
};

use super::Usage;
use super::alone::{By, alone};

/// Evidence that `holdup recover` keeps where no configuration says otherwise.
const EVIDENCE_MAX: u64 = 1 << 30;
/// Refused: exit code 3.
const REFUSED: u8 = 3;

#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    /// The database: any SQLite file. Nobody else may have it open.
    #[arg(value_name = "DB")]
    database: PathBuf,
    /// Say what would come of it; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Leave DB as it is and write what can be recovered to this new file.
    #[arg(long, value_name = "COPY", conflicts_with = "dry_run")]
    output: Option<PathBuf>,
    /// A file in DB's place that is text goes to the evidence; what its log and its snapshots hold
    /// takes its place, else a new database at the agent's next start.
    #[arg(long, conflicts_with_all = ["dry_run", "output"])]
    set_aside: bool,
    #[command(flatten)]
    by: By,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

impl RecoverArgs {
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }
}

/// 0: all that is known to have been in it stands now; 1: something is lost, or (with
/// `--dry-run`) there is something to recover; 3: somebody has it open.
pub(super) fn run(config: &Path, args: &RecoverArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let database = absolute(&args.database)?;
    if database.is_dir() {
        return Err(Usage::new(format!(
            "{} is a directory: name the database file in it",
            database.display()
        )));
    }
    let folder = database.parent().unwrap_or(Path::new("/")).to_owned();
    // Any SQLite file can be recovered, on a machine that is no gateway too.
    let settings = config::load(config).ok().map(|l| l.settings);
    let own = settings
        .as_ref()
        .filter(|s| is_own(&s.gateway.data_dir, &folder));
    let progress = !args.json && io::stderr().is_terminal();
    let say = |step: &str| {
        if progress {
            // Progress is a courtesy.
            writeln!(io::stderr(), "{step} ...").ok();
        }
    };
    let done = match own {
        Some(settings) if args.output.is_none() && !args.dry_run => {
            match in_the_gateway(settings, &database, args, &say)? {
                Ok(done) => done,
                Err(why) => return refused(&why, args.json, out),
            }
        }
        Some(_) | None => anywhere(own, &database, &folder, args, &say)?,
    };
    let report = match done {
        Ok(report) => report,
        Err(RecoveryError::Held(e @ HoldError::InUse { .. })) => {
            return refused(&e.to_string(), args.json, out);
        }
        Err(RecoveryError::Nothing(_)) if database.is_file() => {
            return nothing_in(&database, args.json, out);
        }
        Err(e @ RecoveryError::Alien(_)) => {
            return Err(e).context("move it away, or keep it as evidence with --set-aside");
        }
        Err(e) => return Err(e).with_context(|| format!("cannot recover {}", database.display())),
    };
    if args.json {
        writeln!(out, "{:#}", serde_json::to_value(&report)?)?;
    } else {
        print(&report, args.dry_run, out)?;
    }
    let whole = match report.verdict {
        Verdict::Clean | Verdict::Replayed => true,
        Verdict::Salvaged | Verdict::Restored => {
            let told = report.lost_transactions == 0 && report.missing.is_empty();
            !args.dry_run && told && report.damaged_places == 0 && report.left_out.is_empty()
        }
        Verdict::Fresh | Verdict::Unrecoverable => false,
    };
    Ok(u8::from(!whole))
}

/// Is `folder`, which is no link, the data directory?
fn is_own(data_dir: &Path, folder: &Path) -> bool {
    data_dir.canonicalize().is_ok_and(|d| d == folder)
}

/// A database of the gateway in its place: no agent runs meanwhile, and it is audited.
fn in_the_gateway(
    settings: &Settings,
    database: &Path,
    args: &RecoverArgs,
    say: &dyn Fn(&str),
) -> anyhow::Result<Result<Result<Report, RecoveryError>, String>> {
    let named = |path: PathBuf| path.file_name() == database.file_name();
    if named(settings.gateway.audit_path()) {
        return Ok(Err(format!(
            "{} is never replaced: the agent mends it when it starts and enters the break; `holdup \
             audit verify` looks at it, --output COPY salvages a copy",
            database.display()
        )));
    }
    let gateway = &settings.gateway;
    let others = [
        gateway.ledger_path(),
        gateway.record_path(),
        gateway.reserve_path(),
        gateway.heartbeat_path(),
    ];
    if others.into_iter().any(named) {
        return Ok(Err(format!(
            "{} is a file of holdup's own and no database: the agent makes it anew where it cannot \
             be used",
            database.display()
        )));
    }
    Ok(alone(settings)?.map(|by_hand| {
        // As the settings spell it: what is noted of it goes by its path.
        let ours = [settings.gateway.store_path(), settings.gateway.queue_path()];
        let path = ours
            .into_iter()
            .find(|p| p.file_name() == database.file_name());
        let path = path.unwrap_or_else(|| database.to_owned());
        let done = by_hand.recover(settings, &path, args.set_aside, &actor(args.by.name()), say);
        if let Ok(report) = &done
            && report.verdict != Verdict::Unrecoverable
            && let Err(e) = by_hand.trust(&path)
        {
            // Then the next start looks at it once more.
            log::warn!("{}", crate::agent::explain(&e));
        }
        done
    }))
}

/// Any database, or a copy of one of the gateway's.
fn anywhere(
    own: Option<&Settings>,
    database: &Path,
    folder: &Path,
    args: &RecoverArgs,
    say: &dyn Fn(&str),
) -> anyhow::Result<Result<Report, RecoveryError>> {
    let scratch = args.dry_run.then(Scratch::new).transpose()?;
    let way = match (&args.output, &scratch) {
        (Some(to), _) => Way::Copy(fresh(to)?),
        (None, Some(scratch)) => Way::Look(scratch.0.clone()),
        (None, None) => Way::InPlace,
    };
    let medium = Medium::open(folder)?;
    let site = Site {
        medium: &medium,
        gate: &Arc::new(Gate::new()),
        stop: &Arc::default(),
        clock: &SystemClock,
        evidence: &folder.join("evidence"),
        evidence_max: own.map_or(EVIDENCE_MAX, |s| s.recovery.evidence_max),
    };
    let (tables, acknowledged) = match own {
        Some(settings) => {
            let name = database.file_name().unwrap_or_default();
            known_of(settings, &settings.gateway.data_dir.join(name))
        }
        // What the tables of others look like is only in their own schema.
        None if is_ours_by_name(database) => (known_tables(), None),
        None => (Vec::new(), None),
    };
    let recall = own.map(|s| Recall::new(s.gateway.snapshots_path(), &medium));
    let request = Request {
        database,
        way,
        tables: &tables,
        suspicion: None,
        thorough: true,
        cut: false,
        may_be_fresh: args.set_aside,
        set_aside: args.set_aside,
        acknowledged,
        snapshots: recall.as_ref().map(|r| r as &dyn Snapshots),
        say,
        begins: &|_| {},
    };
    Ok(recovery::recover(&request, &site))
}

/// A gateway's database on another machine.
fn is_ours_by_name(database: &Path) -> bool {
    let name = database.file_name().and_then(|n| n.to_str());
    name.is_some_and(|n| n.contains("edge_store") || n.contains("sync_queue"))
}

/// A directory for copies that nobody keeps; removed when dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn new() -> anyhow::Result<Self> {
        let name = format!("holdup-recover-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        rustix::fs::mkdir(&dir, Mode::RWXU)
            .with_context(|| format!("cannot make directory {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            log::warn!("cannot remove {}: {e}", self.0.display());
        }
    }
}

/// Where a copy may be written: there is nothing yet.
fn fresh(path: &Path) -> anyhow::Result<PathBuf> {
    if path.symlink_metadata().is_ok() {
        anyhow::bail!("{} exists: name a file that does not", path.display());
    }
    std::path::absolute(path).context("the working directory cannot be read: give a full path")
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    // A link's target is what SQLite puts -wal and -journal beside.
    let path = path.canonicalize().or_else(|_| std::path::absolute(path));
    path.context("the working directory cannot be read: give a full path")
}

/// Nothing could be done: exit code 1.
fn nothing_in(database: &Path, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let why = format!(
        "{} is empty, and neither a log nor a journal lies beside it: there is nothing to recover",
        database.display()
    );
    if json {
        writeln!(out, "{:#}", serde_json::json!({ "error": why }))?;
    } else {
        writeln!(io::stderr(), "holdup: {why}")?;
    }
    Ok(1)
}

fn refused(why: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if json {
        writeln!(out, "{:#}", serde_json::json!({ "refused": why }))?;
    } else {
        writeln!(io::stderr(), "holdup: refused: {why}")?;
    }
    Ok(REFUSED)
}

fn print(r: &Report, dry: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let row = |out: &mut dyn Write, name: &str, value: String| writeln!(out, "{name:<13} {value}");
    row(out, "database", r.database.display().to_string())?;
    let would = if dry { " (nothing was changed)" } else { "" };
    row(out, "verdict", format!("{}{would}", r.verdict.name()))?;
    row(out, "found", r.found.clone())?;
    if r.kept_transactions + r.lost_transactions > 0 {
        row(
            out,
            "log",
            format!(
                "{} transactions kept, {} lost; {} frames kept, {} damaged",
                r.kept_transactions, r.lost_transactions, r.kept_frames, r.lost_frames
            ),
        )?;
    }
    if r.skipped_frames > 0 {
        let value = format!("{} frames at its end were not looked at", r.skipped_frames);
        row(out, "log", value)?;
    }
    for left in &r.left_out {
        row(out, "left out", format!("{}: {}", left.name, left.why))?;
    }
    if r.damaged_places > 0 {
        let value = format!(
            "{} pages could not be read in full: rows of them may be lost, or be older ones",
            r.damaged_places
        );
        row(out, "tables", value)?;
    }
    for table in &r.tables {
        row(out, "table", format!("{}: {} rows", table.name, table.rows))?;
    }
    for m in &r.missing {
        row(
            out,
            "missing",
            format!("readings {} to {} ({} rows)", m.first, m.last, m.rows()),
        )?;
    }
    if let Some(evidence) = &r.evidence {
        row(out, "evidence", evidence.display().to_string())?;
    }
    if let Some(output) = &r.output {
        row(out, "written to", output.display().to_string())?;
    }
    for step in &r.steps {
        row(
            out,
            "step",
            format!("{:>9.1} ms  {}", step.took_ms, step.what),
        )?;
    }
    row(out, "took", format!("{:.1} ms", r.took_ms))?;
    Ok(())
}
