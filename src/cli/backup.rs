//! `holdup backup create|list|show|verify|prune|targets`: what leaves the gateway, encrypted.
//!
//! A backup is made by the running agent, on the threads that write its databases; where none runs,
//! by the verb itself under the instance lock.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::agent::{BackupReport, ByHand, ControlAnswer, ControlRequest, actor, damaged};
use crate::backup::catalogue::{Listed, Standing, list as list_dir, room};
use crate::backup::prune::{Cause, candidates};
use crate::backup::state::BackupState;
use crate::backup::{
    BackupError, Copier, Hands, Identity, Job, Manifest, Outcome, Site, Target, VerifyReport, rule,
    verify,
};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Loaded, Settings};
use crate::durable::{Gate, Medium};

use super::alone::{By, alone};
use super::backup_find::archive_name;
use super::{backup_keygen, backup_keys, backup_restore, connect, secret, status};

/// Refused: exit code 3.
const REFUSED: u8 = 3;
/// The agent answers a request within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Once begun, a step of a backup may take this long on a slow card.
const STEP: Duration = Duration::from_secs(6 * 3600);

#[derive(Debug, Subcommand)]
pub(super) enum BackupVerb {
    /// Make a backup now, and read it back.
    Create {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        by: By,
    },
    /// The backups here and at the other targets, oldest first.
    List {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
        /// Look at the USB sticks too, which are mounted for that.
        #[arg(long)]
        usb: bool,
    },
    /// What is in a backup, by its manifest.
    Show {
        /// Its name, or the file.
        #[arg(value_name = "NAME")]
        name: String,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Read backups again: by their hash, or all that is in them with the key.
    Verify {
        /// A name, a file, or `all`.
        #[arg(value_name = "NAME|all")]
        name: String,
        /// The secret key; then everything in it is decrypted and compared.
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Remove what the rule lets go (backup.keep_last, backup.keep_days).
    Prune {
        /// Say what would go.
        #[arg(long)]
        dry_run: bool,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        by: By,
    },
    /// Put back what a backup holds; what it replaces is kept.
    Restore(backup_restore::RestoreArgs),
    /// Back up keys and certificates (backup.keys), for a recipient of their own.
    Keys(backup_keys::KeysArgs),
    /// Make a key for backups; the gateway keeps its public half alone.
    Keygen(backup_keygen::KeygenArgs),
    /// Where backups go, and whether it works.
    Targets {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

impl BackupVerb {
    pub(super) fn wants_json(&self) -> bool {
        match self {
            Self::Create { json, .. }
            | Self::List { json, .. }
            | Self::Show { json, .. }
            | Self::Verify { json, .. }
            | Self::Prune { json, .. }
            | Self::Targets { json } => *json,
            Self::Restore(args) => args.wants_json(),
            Self::Keygen(args) => args.wants_json(),
            Self::Keys(args) => args.wants_json(),
        }
    }
}

pub(super) fn run(config: &Path, verb: &BackupVerb, out: &mut dyn Write) -> anyhow::Result<u8> {
    let loaded = config::load(config)?;
    match verb {
        BackupVerb::Create { json, by } => create(&loaded, by.name(), *json, out),
        BackupVerb::List { json, usb } => list(&loaded.settings, *usb, *json, out),
        BackupVerb::Show { name, json } => show(&loaded.settings, name, *json, out),
        BackupVerb::Verify {
            name,
            identity,
            json,
        } => verify_all(&loaded.settings, name, identity.as_deref(), *json, out),
        BackupVerb::Prune { dry_run, json, by } => prune(&loaded, *dry_run, by.name(), *json, out),
        BackupVerb::Targets { json } => targets(&loaded.settings, *json, out),
        BackupVerb::Restore(args) => backup_restore::run(config, args, out),
        BackupVerb::Keygen(args) => backup_keygen::run(config, args, out),
        BackupVerb::Keys(args) => backup_keys::run(config, args, out),
    }
}

fn refused(why: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if json {
        writeln!(out, "{:#}", json!({ "refused": why }))?;
    } else {
        writeln!(io::stderr(), "holdup: refused: {why}")?;
    }
    Ok(REFUSED)
}

/// Says what is done next where a person looks.
pub(super) fn teller(json: bool) -> impl Fn(&str) + Sync {
    let progress = !json && io::stderr().is_terminal();
    move |step: &str| {
        if progress {
            // Progress is a courtesy.
            writeln!(io::stderr(), "{step} ...").ok();
        }
    }
}

fn create(
    loaded: &Loaded,
    technician: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let say = teller(json);
    match ask_agent(&loaded.settings, &say)? {
        Asked::Made(report) => return tell_made(&report, json, out),
        // The agent has the configuration of its start.
        Asked::Refused(why)
            if why == BackupError::NoRecipient.to_string()
                && !loaded.settings.backup.recipients.is_empty() =>
        {
            let why = "the agent does not know of backup.recipients yet: restart it";
            return refused(why, json, out);
        }
        Asked::Refused(why) => return refused(&why, json, out),
        Asked::NoAgent => {}
    }
    let settings = &loaded.settings;
    let by_hand = match alone(settings)? {
        Ok(by_hand) => by_hand,
        Err(who) => return refused(&who, json, out),
    };
    match make(loaded, &by_hand, &actor(technician), "operator", &say)? {
        Ok(outcome) => tell_made(&BackupReport::new(&outcome), json, out),
        Err(e @ BackupError::NoRecipient) => refused(&e.to_string(), json, out),
        Err(e) => Err(e.into()),
    }
}

/// Makes one with no agent about, for `reason`, and enters it.
///
/// # Errors
/// A database was found damaged and that cannot be noted; inside, why there is none.
pub(super) fn make(
    loaded: &Loaded,
    by_hand: &ByHand,
    who: &str,
    reason: &str,
    say: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<Result<Outcome, BackupError>> {
    let settings = &loaded.settings;
    let entry = by_hand.begin("backup", who, json!({ "reason": reason }));
    // So that the head that goes along is the newest; one that is behind is still a head.
    by_hand.audit().flush(PATIENCE);
    let site = Site {
        medium: &by_hand.medium,
        gate: &by_hand.gate,
        stop: &by_hand.stop,
        clock: &*by_hand.clock,
        work: &settings.gateway.backup_work(),
        progress: &|_| {},
        say,
    };
    let job = Job {
        settings,
        config: &loaded.files,
        hands: Hands {
            store: Copier::Files,
            queue: Copier::Files,
            audit: Copier::Writer(by_hand.audit()),
            guards: &|_| false,
        },
        audit_head: by_hand.audit().head(),
        reason,
        actor: who,
    };
    let done = job.run(&site);
    if let Some((database, why)) = damaged(&done, settings) {
        by_hand.suspect(&database, &why)?;
    }
    Ok(by_hand.ended(&entry, done, |made| {
        json!({
            "name": made.made.name.to_string(),
            "sha256": made.made.manifest.archive.as_ref().map(|a| &a.sha256),
        })
    }))
}

fn tell_made(report: &BackupReport, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if json {
        writeln!(out, "{:#}", serde_json::to_value(report)?)?;
    } else {
        report.print(out)?;
    }
    Ok(u8::from(!report.is_all_well()))
}

enum Asked {
    Made(Box<BackupReport>),
    Refused(String),
    NoAgent,
}

/// Has the running agent make it.
fn ask_agent(settings: &Settings, say: &dyn Fn(&str)) -> anyhow::Result<Asked> {
    let path = settings.gateway.control_socket();
    let stream = match connect(&path, PATIENCE) {
        Ok(stream) => stream,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let why = format!("{} is for root and the agent's user alone", path.display());
            return Ok(Asked::Refused(why));
        }
        Err(e) if super::is_late(&e) => {
            anyhow::bail!("the agent does not answer: look at `journalctl -u holdup`")
        }
        // Whether one runs, the instance lock tells.
        Err(_) => return Ok(Asked::NoAgent),
    };
    let broken = || format!("no answer from {}", path.display());
    let request = serde_json::to_string(&ControlRequest::Backup)?;
    writeln!(&stream, "{request}").with_context(broken)?;
    stream.set_read_timeout(Some(STEP))?;
    for line in BufReader::new(&stream).lines() {
        let line = line.with_context(broken)?;
        match serde_json::from_str(&line).context("the agent's answer is not understood")? {
            ControlAnswer::Step(step) => say(&step),
            ControlAnswer::BackedUp(report) => return Ok(Asked::Made(report)),
            ControlAnswer::Refused(why) => return Ok(Asked::Refused(why)),
            ControlAnswer::Failed(why) => anyhow::bail!("{why}"),
            other @ (ControlAnswer::Rehearsing(_)
            | ControlAnswer::Rehearsed(_)
            | ControlAnswer::Armed(_)
            | ControlAnswer::Entered(_)
            | ControlAnswer::Reset(_)
            | ControlAnswer::Retracted(_)) => {
                anyhow::bail!("the agent's answer is not understood: {other:?}")
            }
        }
    }
    anyhow::bail!("the agent stopped in the middle; the backup is made again when it runs")
}

/// Not while power is away: the file system may be frozen then.
pub(super) fn frozen(settings: &Settings) -> Option<String> {
    let supply = status::ask(settings).ok()?.supply;
    let calm = ["Good", "Brownout", "OnBattery"].contains(&supply.as_str());
    (!calm).then(|| format!("backups are not read while the supply is {supply}"))
}

/// The backups of every target that can be looked at, and what is wrong with the others.
type Everywhere = Vec<(Target, Result<Vec<Listed>, String>)>;

fn everywhere(settings: &Settings, usb: bool) -> Everywhere {
    let (data, run) = (&settings.gateway.data_dir, &settings.gateway.run_dir);
    Target::all(&settings.backup)
        .into_iter()
        .filter(|t| usb || !matches!(t, Target::Usb(_)))
        .map(|target| {
            let found = target.open(data, run).and_then(|opened| {
                let found = list_dir(opened.dir());
                opened.close()?;
                found
            });
            let found = found.map_err(|e| crate::agent::explain(&e));
            (target, found)
        })
        .collect()
}

fn standing(one: &Listed) -> &'static str {
    match &one.standing {
        Standing::Whole if one.counts() => "verified",
        Standing::Whole => "not verified",
        Standing::NoManifest => "no manifest",
        Standing::NoArchive => "no archive",
        Standing::Odd(_) => "odd",
        Standing::Pruning => "being pruned",
    }
}

fn listed(target: &Target, one: &Listed) -> Value {
    let manifest = one.manifest.as_ref();
    json!({
        "target": target.to_string(),
        "name": one.name.to_string(),
        "made": one.name.made().to_string(),
        "gateway": manifest.map_or(one.name.gateway(), |m| &m.gateway),
        "kind": manifest.map(|m| m.kind),
        "standing": one.standing,
        "counts": one.counts(),
        "bytes": one.bytes,
        "reason": manifest.map(|m| &m.reason),
        "rows": manifest.map(Manifest::rows_sent),
    })
}

fn list(settings: &Settings, usb: bool, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if let Some(why) = frozen(settings) {
        return refused(&why, json, out);
    }
    let all = everywhere(settings, usb);
    let bad = all.iter().any(|(_, found)| found.is_err());
    if json {
        let mut backups = Vec::new();
        let mut problems = Vec::new();
        for (target, found) in &all {
            match found {
                Ok(found) => backups.extend(found.iter().map(|one| listed(target, one))),
                Err(why) => problems.push(json!({ "target": target.to_string(), "why": why })),
            }
        }
        let answer = json!({ "backups": backups, "problems": problems });
        writeln!(out, "{answer:#}")?;
        return Ok(u8::from(bad));
    }
    for (target, found) in &all {
        match found {
            Err(why) => writeln!(io::stderr(), "{target}: {why}")?,
            Ok(found) if found.is_empty() => writeln!(out, "{target}: no backups")?,
            Ok(found) => {
                writeln!(out, "{target}")?;
                for one in found {
                    let rows = one.manifest.as_ref().map_or(0, Manifest::rows_sent);
                    writeln!(
                        out,
                        "  {}  {:<12}  {:>12} bytes  {rows:>10} rows",
                        one.name,
                        standing(one),
                        one.bytes
                    )?;
                    if let Standing::Odd(why) = &one.standing {
                        writeln!(out, "    {why}")?;
                    }
                }
            }
        }
    }
    Ok(u8::from(bad))
}

/// The backup of that name at the first target that has it, or the file.
fn find(settings: &Settings, name: &str) -> anyhow::Result<Listed> {
    let path = Path::new(name);
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty());
    let file = path.file_name().and_then(|f| f.to_str()).unwrap_or(name);
    let wanted = archive_name(path, file)?;
    let places = match dir {
        Some(dir) => vec![list_dir(dir)?],
        None => everywhere(settings, false)
            .into_iter()
            .filter_map(|(_, found)| found.ok())
            .collect(),
    };
    let hit = places.into_iter().flatten().find(|l| l.name == wanted);
    hit.with_context(|| {
        format!("there is no backup {wanted}: `holdup backup list` shows what is there")
    })
}

fn show(settings: &Settings, name: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if let Some(why) = frozen(settings) {
        return refused(&why, json, out);
    }
    let one = find(settings, name)?;
    let Some(m) = &one.manifest else {
        anyhow::bail!(
            "{} has no manifest that can be read",
            one.archive().display()
        );
    };
    if json {
        writeln!(out, "{:#}", serde_json::to_value(m)?)?;
        return Ok(u8::from(!one.counts()));
    }
    let mut row = |name: &str, value: String| writeln!(out, "{name:<11} {value}");
    row("backup", format!("{} ({})", one.name, standing(&one)))?;
    row("gateway", m.gateway.clone())?;
    let sure = if m.synchronised {
        ""
    } else {
        " (clock not synchronised)"
    };
    row(
        "made",
        format!("{}{sure}, {} for {}", m.made, m.reason, m.actor),
    )?;
    if let Some(v) = &m.verified {
        row("verified", format!("{}, in {} ms", v.at, v.took_ms))?;
    }
    for d in &m.databases {
        let rows: Vec<_> = d.rows.iter().map(|(t, n)| format!("{t} {n}")).collect();
        let whole = if d.integrity { "" } else { ", DAMAGED" };
        row(
            "database",
            format!("{} ({} bytes{whole}): {}", d.name, d.bytes, rows.join(", ")),
        )?;
    }
    row("files", m.files.len().to_string())?;
    for p in &m.passed {
        let word = if p.is_own_database() {
            "LACKS"
        } else {
            "left out"
        };
        row(word, format!("{}: {}", p.path.escape_debug(), p.why))?;
    }
    for r in &m.recipients {
        row("opens with", format!("{} ({})", r.fingerprint, r.recipient))?;
    }
    if let Some(a) = &m.after {
        let how = a.exit.map_or_else(
            || a.why.clone().unwrap_or_default(),
            |code| format!("exit status {code}"),
        );
        row("after", format!("{}: {how}", a.command.escape_debug()))?;
    }
    Ok(u8::from(!one.counts()))
}

fn verify_all(
    settings: &Settings,
    name: &str,
    identity: Option<&Path>,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    if let Some(why) = frozen(settings) {
        return refused(&why, json, out);
    }
    let keys = identity.map(read_identity).transpose()?;
    let mut wanted: Vec<Listed> = if name == "all" {
        let all = everywhere(settings, false);
        all.into_iter()
            .filter_map(|(_, found)| found.ok())
            .flatten()
            .collect()
    } else {
        vec![find(settings, name)?]
    };
    wanted.retain(|l| l.bytes > 0 || name != "all");
    if wanted.is_empty() {
        anyhow::bail!("there is no backup to verify: `holdup backup create` makes one");
    }
    let (gate, stop) = (Gate::new(), Arc::new(AtomicBool::new(false)));
    let data = &settings.gateway.data_dir;
    let medium = Medium::open(data)?;
    let say = teller(json);
    let site = Site {
        medium: &medium,
        gate: &gate,
        stop: &stop,
        clock: &SystemClock,
        work: &settings.gateway.backup_work(),
        progress: &|_| {},
        say: &say,
    };
    let (mut bad, mut opened, mut reports) = (0, 0, Vec::new());
    for one in &wanted {
        say(&format!("reading {}", one.archive().display()));
        let found = verify(one, keys.as_deref(), &site);
        let report = VerifyReport::new(one, &found, keys.is_some());
        bad += usize::from(!report.good);
        opened += usize::from(report.good && report.with_key);
        if !json {
            writeln!(out, "{report}")?;
        }
        reports.push(report);
    }
    if opened > 0 {
        let path = settings.gateway.backup_state();
        let mut state = BackupState::read(&path);
        state.last_key_rehearsal = Some(SystemClock.wall().to_string());
        if let Err(e) = state.write(&path, &medium) {
            writeln!(
                io::stderr(),
                "it is not noted that the key was tried: {}",
                crate::agent::explain(&e)
            )?;
        }
    }
    if json {
        writeln!(out, "{:#}", json!({ "backups": reports, "bad": bad }))?;
    }
    Ok(u8::from(bad > 0))
}

fn read_identity(path: &Path) -> anyhow::Result<Vec<Identity>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Identity::read_all(file, path, &mut secret::passphrase)?)
}

fn prune(
    loaded: &Loaded,
    dry: bool,
    technician: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let settings = &loaded.settings;
    if let Some(why) = frozen(settings) {
        return refused(&why, json, out);
    }
    let dir = &settings.backup.dir;
    let cause = Cause::Rule(rule(settings));
    let go = candidates(dir, &settings.gateway.id, cause, SystemClock.wall())?;
    let mut names: Vec<_> = go.iter().map(|l| l.name.to_string()).collect();
    if !dry && !names.is_empty() {
        let by_hand = match alone(settings)? {
            Ok(by_hand) => by_hand,
            Err(who) => {
                let why = format!("{who}; the agent prunes by itself after each backup");
                return refused(&why, json, out);
            }
        };
        let entry = by_hand.begin(
            "backup.prune",
            &actor(technician),
            json!({ "backups": names }),
        );
        let medium = Medium::open(dir)?;
        let done = go
            .iter()
            .try_for_each(|one| crate::backup::prune::remove(one, &medium));
        by_hand.ended(&entry, done, |()| json!({ "removed": names.len() }))?;
    }
    names.sort();
    if json {
        writeln!(out, "{:#}", json!({ "dry_run": dry, "pruned": names }))?;
        return Ok(0);
    }
    let did = if dry { "would go" } else { "pruned" };
    for name in &names {
        writeln!(out, "{did}: {name}")?;
    }
    if names.is_empty() {
        writeln!(out, "nothing is due")?;
    }
    Ok(0)
}

fn targets(settings: &Settings, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if let Some(why) = frozen(settings) {
        return refused(&why, json, out);
    }
    let state = BackupState::read(&settings.gateway.backup_state());
    let (data, run) = (&settings.gateway.data_dir, &settings.gateway.run_dir);
    let (mut bad, mut answers) = (false, Vec::new());
    for target in Target::all(&settings.backup) {
        let found = target.open(data, run).and_then(|opened| {
            let all = list_dir(opened.dir())?;
            // Where it is not made yet, of what it will lie in.
            let room = opened.dir().ancestors().find_map(|d| room(d).ok());
            let free = room.map_or(0, |r| r.free);
            opened.close()?;
            Ok((all.len(), all.iter().filter(|l| l.counts()).count(), free))
        });
        let last = state.targets.get(&target.to_string());
        let problem = match &found {
            Ok(_) => last.and_then(|l| l.problem.clone()),
            Err(e) => Some(crate::agent::explain(e)),
        };
        bad |= problem.is_some();
        let (count, verified, free) = found.unwrap_or_default();
        if json {
            answers.push(json!({
                "target": target.to_string(),
                "backups": count,
                "verified": verified,
                "free_bytes": free,
                "last": last,
                "problem": problem,
            }));
        } else {
            let words = problem.unwrap_or_else(|| {
                format!(
                    "{count} backups, {verified} verified, {} MiB free",
                    free >> 20
                )
            });
            writeln!(out, "{target}: {words}")?;
        }
    }
    if json {
        writeln!(out, "{:#}", json!({ "targets": answers }))?;
    }
    Ok(u8::from(bad))
}
