//! `holdup backup restore`: from a backup to files in their places, or to nothing changed at all.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::agent::{ByHand, actor, explain};
use crate::audit::Entry;
use crate::backup::restore::{
    self, Change, Done, Home, Plan, Request, RestoreError, Resumed, look, resume,
};
use crate::backup::target::Stick;
use crate::backup::{BackupError, Identity, Site, rows_sent};
use crate::config::{self, Settings};

use super::alone::{By, alone};
use super::backup_find::{Candidates, Places};
use super::secret;

/// The backup is bad, or not for us: exit code 1.
const BAD: u8 = 1;
/// Refused: exit code 3.
const REFUSED: u8 = 3;
/// Files that are listed one by one.
const MOST_SHOWN: usize = 100;
/// A file on a stick that is longer is no identity.
const LONGEST_IDENTITY: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The backup: its name, or the file.
    #[arg(value_name = "NAME|FILE", required_unless_present_any = ["at", "resume"])]
    name: Option<PathBuf>,
    /// The newest backup made at or before this moment: 2026-11-21T15:00:00Z, or 2026-11-21 (UTC).
    #[arg(long, value_name = "TIME", conflicts_with = "name")]
    at: Option<String>,
    /// Look for it here too.
    #[arg(long, value_name = "DIR")]
    from: Vec<PathBuf>,
    /// Look for it on the USB stick with this label too.
    #[arg(long, value_name = "LABEL")]
    usb: Option<String>,
    /// The secret key; without any of these it is asked for.
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// The secret key is a file on the USB stick with this label.
    #[arg(long, value_name = "LABEL")]
    identity_usb: Option<String>,
    /// Only what was at these paths, or below them.
    #[arg(long, value_name = "PATH", value_parser = parse_only)]
    only: Vec<PathBuf>,
    /// The configuration too.
    #[arg(long)]
    with_config: bool,
    /// Take an archive without a manifest, made with tar, zstd and age.
    #[arg(long)]
    without_manifest: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Finish or undo a restore that was interrupted.
    #[arg(long, conflicts_with_all = ["name", "at", "only"])]
    resume: bool,
    #[command(flatten)]
    by: By,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

impl RestoreArgs {
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }
}

fn parse_only(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(
            "give the whole path that it had, such as /etc/app/app.conf; the configuration comes \
             with --with-config"
                .to_owned(),
        );
    }
    Ok(path)
}

/// 0: restored; 1: the backup is not used; 3: an agent runs, somebody has a database open, or it
/// was not confirmed.
pub(super) fn run(config: &Path, args: &RestoreArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let settings = config::load(config)?.settings;
    let by_hand = match alone(&settings)? {
        Ok(by_hand) => by_hand,
        Err(who) => return refused(&who, args.json, out),
    };
    let say = |step: &str| {
        if !args.json && io::stderr().is_terminal() {
            // Progress is a courtesy.
            writeln!(io::stderr(), "{step} ...").ok();
        }
    };
    let work = settings.gateway.backup_work();
    let site = Site {
        medium: &by_hand.medium,
        gate: &by_hand.gate,
        stop: &by_hand.stop,
        clock: &*by_hand.clock,
        work: &work,
        progress: &|_| {},
        say: &say,
    };
    if let Some(code) = unfinished(&settings, &by_hand, args, &site, out)? {
        return Ok(code);
    }
    let places = Places {
        settings: &settings,
        from: &args.from,
        usb: args.usb.as_deref(),
    };
    let found = match (&args.name, &args.at) {
        (_, Some(at)) => places.newest(at)?,
        (Some(name), None) => places.named(name)?,
        (None, None) => anyhow::bail!("name a backup, or give --at TIME"),
    };
    let identities = identities(&settings, args)?;
    let home = home(&settings, config);
    let request = |archive| Request {
        archive,
        identities: &identities,
        home: &home,
        only: &args.only,
        with_config: args.with_config,
        without_manifest: args.without_manifest,
    };
    let (plan, passed) = match first_sound(&found, &request, &site, args.json)? {
        Ok(some) => some,
        Err(e) => return not_done(e, args.json, out),
    };
    let request = request(&plan.archive);
    if !args.json {
        print(&plan, out)?;
    }
    if !args.yes && !confirmed(args.json)? {
        let why = "not confirmed: nothing was changed; --yes restores without asking";
        return refused(why, args.json, out);
    }
    let entry: RefCell<Option<Entry>> = RefCell::new(None);
    let begins = || {
        let details = json!({ "archive": plan.archive, "files": targets(&plan) });
        *entry.borrow_mut() = Some(by_hand.begin("restore", &actor(args.by.name()), details));
        Ok(())
    };
    let done = restore::restore(&plan, &request, &site, &begins);
    let done = match entry.take() {
        Some(entry) => by_hand.ended(&entry, done, |d| json!(d)),
        None => done,
    };
    match done {
        Err(e) => not_done(e, args.json, out),
        Ok(done) => told(&plan, &done, &passed, args.json, out).map(|()| 0),
    }
}

/// A copy that was not taken.
#[derive(Debug, Serialize)]
struct PassedOver {
    archive: PathBuf,
    why: String,
}

type Sound = (Plan, Vec<PassedOver>);

/// The first of the copies that is what was written, read in full, and what was wrong with those
/// before it. Where none is, what is wrong with the last.
fn first_sound<'a>(
    found: &'a Candidates,
    request: &dyn Fn(&'a Path) -> Request<'a>,
    site: &Site<'_>,
    json: bool,
) -> anyhow::Result<Result<Sound, RestoreError>> {
    let mut passed = Vec::new();
    let mut last = None;
    for archive in &found.archives {
        let e = match look(&request(archive), site) {
            Ok(plan) => return Ok(Ok((plan, passed))),
            Err(e) => e,
        };
        if !e.is_of_this_copy() {
            return Ok(Err(e));
        }
        if found.archives.len() > 1 {
            let why = explain(&e);
            let shown = archive.display().to_string();
            // Which one it is stands before it.
            let why = why.strip_prefix(&shown).unwrap_or(&why);
            let why = why.trim_start_matches([':', ' ']).to_owned();
            if !json {
                writeln!(io::stderr(), "passed over {shown}: {why}")?;
            }
            passed.push(PassedOver {
                archive: archive.clone(),
                why,
            });
        }
        last = Some(e);
    }
    match (last, &found.before) {
        (Some(e), Some(before)) => Ok(Err(RestoreError::NoneSound {
            why: explain(&e),
            before: before.to_string(),
        })),
        (Some(e), None) => Ok(Err(e)),
        (None, _) => anyhow::bail!("there is no such backup: `holdup backup list` shows them"),
    }
}

fn home(settings: &Settings, config: &Path) -> Home {
    let gateway = &settings.gateway;
    let main = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    Home {
        gateway: gateway.id.clone(),
        data_dir: gateway.data_dir.clone(),
        store: gateway.store_path(),
        queue: gateway.queue_path(),
        ledger: gateway.ledger_path(),
        databases: settings.databases.iter().map(|d| d.path.clone()).collect(),
        include: settings.backup.include.clone(),
        config: main.parent().unwrap_or(Path::new("/")).to_owned(),
        keys: settings.backup.keys.clone(),
    }
}

/// Ends what a cut left; the exit code where that was all that was asked for.
fn unfinished(
    settings: &Settings,
    by_hand: &ByHand,
    args: &RestoreArgs,
    site: &Site<'_>,
    out: &mut dyn Write,
) -> anyhow::Result<Option<u8>> {
    let ended = match resume(&settings.gateway.data_dir, site) {
        Ok(ended) => ended,
        Err(e) => return not_done(e, args.json, out).map(Some),
    };
    let (result, text) = match &ended {
        Resumed::Nothing => ("nothing", "no restore was interrupted".to_owned()),
        Resumed::Finished { archive, done } => {
            let details = json!({ "archive": archive, "result": "finished", "done": done });
            let who = actor(args.by.name());
            by_hand.audit().note("restore.resumed", &who, details);
            (
                "finished",
                format!("finished the restore of {archive} that was interrupted"),
            )
        }
        Resumed::Undone { archive, why } => {
            let details = json!({ "archive": archive, "result": "undone", "why": why });
            let who = actor(args.by.name());
            by_hand.audit().note("restore.resumed", &who, details);
            (
                "undone",
                format!("undid the restore of {archive} that was interrupted: {why}"),
            )
        }
    };
    if !args.resume {
        if ended != Resumed::Nothing {
            writeln!(io::stderr(), "{text}")?;
        }
        return Ok(None);
    }
    if args.json {
        writeln!(out, "{:#}", json!({ "resumed": result, "why": text }))?;
    } else {
        writeln!(out, "{text}")?;
    }
    Ok(Some(0))
}

fn identities(settings: &Settings, args: &RestoreArgs) -> anyhow::Result<Vec<Identity>> {
    let mut found = Vec::new();
    for path in &args.identity {
        found.extend(from_file(path)?);
    }
    if let Some(label) = &args.identity_usb {
        found.extend(from_stick(label, &settings.gateway.run_dir)?);
    }
    if found.is_empty() {
        let question = "Paste the identity (AGE-SECRET-KEY-1..., or all of a protected one), then an \
                        empty line; nothing is shown: ";
        let Some(text) = secret::ask(question, true)? else {
            anyhow::bail!(
                "no secret key was given: --identity FILE, --identity-usb LABEL, or run this on a \
                 terminal and paste it"
            );
        };
        let pasted = Path::new("what was pasted");
        let bytes = text.expose_secret().as_bytes();
        found = Identity::read_all(bytes, pasted, &mut secret::passphrase)?;
    }
    Ok(found)
}

fn from_file(path: &Path) -> anyhow::Result<Vec<Identity>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Identity::read_all(file, path, &mut secret::passphrase)?)
}

/// Every identity in the files of the stick's first directory.
fn from_stick(label: &str, run_dir: &Path) -> anyhow::Result<Vec<Identity>> {
    let stick = Stick::mount(label, run_dir)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(stick.dir()).context("cannot list the stick")? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if !meta.is_file() || meta.len() > LONGEST_IDENTITY {
            continue;
        }
        let path = entry.path();
        let mut start = Vec::new();
        File::open(&path)?
            .take(LONGEST_IDENTITY)
            .read_to_end(&mut start)?;
        let text = String::from_utf8_lossy(&start);
        if text.contains("AGE-SECRET-KEY-1") || text.contains("BEGIN AGE ENCRYPTED FILE") {
            found.extend(from_file(&path)?);
        }
    }
    stick.unmount()?;
    if found.is_empty() {
        anyhow::bail!("there is no identity on the stick {label}");
    }
    Ok(found)
}

fn confirmed(json: bool) -> anyhow::Result<bool> {
    if json || !io::stdin().is_terminal() {
        return Ok(false);
    }
    write!(io::stderr(), "Type yes to do this: ")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

fn targets(plan: &Plan) -> Vec<String> {
    plan.changes
        .iter()
        .take(100)
        .map(|c| c.target.display().to_string())
        .collect()
}

fn now(change: &Change) -> String {
    let Some(now) = &change.now else {
        return if change.exists { "a file" } else { "nothing" }.to_owned();
    };
    if let Some(why) = &now.unreadable {
        return format!("a database that cannot be read ({why})");
    }
    let mut text = match (now.rows, now.last_id) {
        (Some(rows), Some(id)) => format!("{rows} readings, the last {id}"),
        (Some(rows), None) => format!("{rows} readings"),
        (None, _) => "a database".to_owned(),
    };
    if let Some(at) = &now.last_at {
        text.push_str(&format!(" at {at}"));
    }
    if now.has_log {
        text.push_str(", and what its log holds");
    }
    text
}

fn then(plan: &Plan, change: &Change) -> String {
    let made = plan.manifest.as_ref().map_or("", |m| m.made.as_str());
    let rows = change.rows.as_ref();
    match rows.and_then(|r| r.get("readings").map(|n| (n, change.highest()))) {
        Some((n, Some(id))) => format!("{n} readings, the last {id}, of {made}"),
        Some((n, None)) => format!("{n} readings, of {made}"),
        None => match rows {
            Some(rows) => format!("{} rows, of {made}", rows_sent(rows)),
            None => format!("{} bytes {made}", change.bytes).trim().to_owned(),
        },
    }
}

fn print(plan: &Plan, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "backup     {}", plan.archive.display())?;
    if let Some(m) = &plan.manifest {
        let sure = if m.synchronised {
            ""
        } else {
            " (by a clock that was not synchronised)"
        };
        writeln!(out, "made       {}{sure} by {}", m.made, m.gateway)?;
    }
    if let Some(other) = &plan.other_gateway {
        writeln!(out, "ATTENTION  it is a backup of ANOTHER gateway: {other}")?;
    }
    for change in plan.changes.iter().take(MOST_SHOWN) {
        let path = change.target.display().to_string();
        writeln!(out, "replace    {}", path.escape_debug())?;
        writeln!(out, "  now      {}", now(change))?;
        writeln!(out, "  then     {}", then(plan, change))?;
    }
    if let Some(more) = plan
        .changes
        .len()
        .checked_sub(MOST_SHOWN)
        .filter(|n| *n > 0)
    {
        writeln!(out, "replace    {more} more; --json names all")?;
    }
    for skipped in plan.skipped.iter().take(MOST_SHOWN) {
        writeln!(
            out,
            "leave      {}: {}",
            skipped.path.escape_debug(),
            skipped.why
        )?;
    }
    writeln!(out, "What is replaced is kept, by rename.")?;
    Ok(())
}

fn told(
    plan: &Plan,
    done: &Done,
    passed: &[PassedOver],
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    if json {
        let changes: Vec<Value> = (plan.changes.iter())
            .map(|c| {
                json!({
                    "path": c.target.display().to_string(),
                    "now": c.now,
                    "then": { "bytes": c.bytes, "rows": c.rows, "last_id": c.highest() },
                })
            })
            .collect();
        let answer = json!({
            "archive": plan.archive,
            "passed_over": passed,
            "made": plan.manifest.as_ref().map(|m| &m.made),
            "other_gateway": plan.other_gateway,
            "restored": changes,
            "skipped": plan.skipped,
            "kept": done.kept.iter().map(|p| p.display().to_string()).collect::<Vec<_>>(),
            "ids_above": done.ids_above,
        });
        writeln!(out, "{answer:#}")?;
        return Ok(());
    }
    writeln!(
        out,
        "restored   {} files, tried out with a query and a write",
        done.restored.len()
    )?;
    for dir in &done.kept {
        writeln!(out, "kept       {}", dir.display())?;
    }
    if let Some(id) = done.ids_above {
        writeln!(out, "new ids    above {id}")?;
    }
    writeln!(out, "next       systemctl start holdup")?;
    Ok(())
}

fn not_done(e: RestoreError, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let bad = matches!(
        e,
        RestoreError::NotAsWritten { .. }
            | RestoreError::NoManifest(_)
            | RestoreError::NeedsKey { .. }
            | RestoreError::Nothing { .. }
            | RestoreError::NoneSound { .. }
            | RestoreError::Backup(BackupError::Archive(_))
    );
    let code = if matches!(e, RestoreError::Held(_)) {
        REFUSED
    } else if bad {
        BAD
    } else {
        return Err(e.into());
    };
    let why = explain(&e);
    if json {
        let key = if code == REFUSED { "refused" } else { "error" };
        writeln!(out, "{:#}", json!({ key: why }))?;
    } else {
        writeln!(io::stderr(), "holdup: {why}")?;
    }
    Ok(code)
}

fn refused(why: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if json {
        writeln!(out, "{:#}", json!({ "refused": why }))?;
    } else {
        writeln!(io::stderr(), "holdup: refused: {why}")?;
    }
    Ok(REFUSED)
}
