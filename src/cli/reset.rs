//! `holdup reset`: the factory reset, by the running agent or, where none runs, by the verb itself.
//!
//! Nothing is erased but on `--yes-erase` with the gateway's id; `--dry-run` shows what would be.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::agent::{
    BackupReport, ByHand, ControlAnswer, ControlRequest, ResetAsk, actor, explain, last_backup,
};
use crate::config::{self, Loaded, Settings};
use crate::durable::Reserve;
use crate::reset::{self, ABOUT_FLASH, Begun, Fate, Home, Item, Level, Signed, Site};

use super::alone::{By, alone, alone_after_a_cut};
use super::{backup, connect};

/// What was looked at is bad: exit code 1.
const BAD: u8 = 1;
/// Refused: exit code 3.
const REFUSED: u8 = 3;
/// The agent takes a request within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// A step may take this long: the backup of a large store on a slow card.
const STEP: Duration = Duration::from_secs(6 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Readings, queue, ledger, snapshots.
    Data,
    /// That, and the configuration becomes the shipped one.
    Settings,
    /// That, evidence, technicians' keys and identity: for disposal.
    Everything,
    /// Is one unfinished, and what the last one did.
    Status,
    /// The last receipt, checked.
    Receipt,
    /// End one that was interrupted, as the agent's start does.
    Resume,
}

#[derive(Debug, Args)]
pub(super) struct ResetArgs {
    /// How much goes; or what is to be shown.
    #[arg(value_enum, default_value = "data")]
    what: What,
    /// Erase. ID is the gateway's, typed out.
    #[arg(long, value_name = "ID")]
    yes_erase: Option<String>,
    /// Show what would be erased and what kept, and touch nothing.
    #[arg(long)]
    dry_run: bool,
    /// What was not delivered goes too.
    #[arg(long)]
    waive_undelivered: bool,
    /// Make no backup first; WORD is `without-backup`.
    #[arg(long, value_name = "WORD")]
    no_backup: Option<String>,
    /// The evidence of recoveries goes too; it holds readings.
    #[arg(long)]
    with_evidence: bool,
    #[command(flatten)]
    by: By,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

impl ResetArgs {
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }

    fn ask(&self, level: Level, gateway: &str) -> ResetAsk {
        ResetAsk {
            level,
            gateway: gateway.to_owned(),
            waive_undelivered: self.waive_undelivered,
            no_backup: self.no_backup.clone(),
            with_evidence: self.with_evidence,
            by: self.by.name().map(str::to_owned),
        }
    }
}

pub(super) fn run(config: &Path, args: &ResetArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let loaded = config::load(config)?;
    if let Some(why) = backup::frozen(&loaded.settings) {
        return refused(&why, args.json, out);
    }
    let level = match args.what {
        What::Data => Level::Data,
        What::Settings => Level::Settings,
        What::Everything => Level::Everything,
        What::Status => return status(&loaded.settings, args.json, out),
        What::Receipt => return receipt(&loaded.settings, args.json, out),
        What::Resume => return resume(&loaded, args.json, out),
    };
    let ask = match &args.yes_erase {
        Some(id) if !args.dry_run => args.ask(level, id),
        Some(_) | None => return show(&loaded, args, level, out),
    };
    match ask_agent(&loaded.settings, &ask, args.json)? {
        Asked::Done(signed) => tell(&signed, args.json, out),
        Asked::Refused(why) => refused(&why, args.json, out),
        Asked::NoAgent => by_hand(&loaded, &ask, args.json, out),
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

/// What it would do; refused unless that was all that was asked for.
fn show(
    loaded: &Loaded,
    args: &ResetArgs,
    level: Level,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let settings = &loaded.settings;
    let found = reset::look(settings);
    let home = Home::of(loaded);
    let inventory = match reset::take(&home, level, args.with_evidence, &found.damaged) {
        Ok(inventory) => inventory,
        Err(e) if e.is_refusal() => return refused(&explain(&e), args.json, out),
        Err(e) => return Err(e.into()),
    };
    let id = &settings.gateway.id;
    let ask = args.ask(level, id);
    let hindrance = ask.confirmed(settings, &found.undelivered).err();
    let go = format!("holdup reset {} --yes-erase {id}", level.name());
    if args.json {
        let shown = json!({
            "level": level,
            "gateway": id,
            "items": inventory.items,
            "bytes_erased": inventory.bytes_erased(),
            "reading_ids": found.ids,
            "undelivered": found.undelivered,
            "damaged": found.damaged,
            "backup_to": args.no_backup.is_none().then_some(&settings.backup.dir),
            "would_be_refused": hindrance,
            "about_the_medium": ABOUT_FLASH,
            "to_do_it": go,
        });
        writeln!(out, "{shown:#}")?;
    } else {
        print(&inventory.items, out)?;
        if let Some((lowest, highest)) = found.ids {
            writeln!(
                out,
                "erased  the readings with the ids {lowest} to {highest}"
            )?;
        }
        if let Some(queued @ 1..) = found.undelivered.queued {
            writeln!(out, "erased  {queued} messages that wait to be sent")?;
        }
        if level >= Level::Settings {
            let main = loaded.files.first().map(|f| f.display().to_string());
            writeln!(
                out,
                "reset   {} to the shipped configuration",
                main.unwrap_or_default()
            )?;
        }
        if level == Level::Everything {
            writeln!(
                out,
                "erased  the technicians' keys and the gateway's identity, at the end"
            )?;
        }
        match &args.no_backup {
            None => writeln!(
                out,
                "\nfirst a backup is made and read back, in {}",
                settings.backup.dir.display()
            )?,
            Some(_) => writeln!(out, "\nNO BACKUP is made first")?,
        }
        writeln!(out, "{ABOUT_FLASH}")?;
        if let Some(why) = &hindrance {
            writeln!(out, "as asked it would be refused: {why}")?;
        }
        writeln!(out, "nothing was touched; to do it: {go}")?;
    }
    Ok(if args.dry_run { 0 } else { REFUSED })
}

fn print(items: &[Item], out: &mut dyn Write) -> io::Result<()> {
    for item in items {
        let fate = match item.fate {
            Fate::Erased => "erased",
            Fate::Evidence => "moved to the evidence",
            Fate::Kept => "kept",
            Fate::Left => "left",
        };
        let link = item
            .link
            .as_ref()
            .map(|to| format!(" (a link; {to} stays)"));
        writeln!(
            out,
            "{fate:<7} {}: {}, {} files, {} bytes{}",
            item.path.escape_debug(),
            item.what,
            item.files,
            item.bytes,
            link.unwrap_or_default().escape_debug()
        )?;
    }
    Ok(())
}

fn tell(signed: &Signed, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if json {
        writeln!(out, "{:#}", serde_json::to_value(signed)?)?;
        return Ok(0);
    }
    let r = &signed.receipt;
    writeln!(
        out,
        "reset       {} ({}), asked for by {}",
        r.id,
        r.level.name(),
        r.actor
    )?;
    print(&r.items, out)?;
    if r.unlisted > 0 {
        writeln!(out, "        and {} more", r.unlisted)?;
    }
    match &r.backup {
        Some(b) => writeln!(out, "backup      {}", b.archive)?,
        None => writeln!(out, "backup      none: that was waived")?,
    }
    if let Some(u) = &r.undelivered_waived {
        writeln!(out, "given up    {}", u.in_words())?;
    }
    if let Some(path) = &r.configuration_reset {
        writeln!(
            out,
            "settings    {} is as shipped; restart the agent",
            path.display()
        )?;
    }
    for key in &r.keys_removed {
        writeln!(out, "removed     {}", key.display())?;
    }
    let epoch = |e: &Option<String>| e.clone().unwrap_or_else(|| "unknown".to_owned());
    writeln!(
        out,
        "epoch       {} -> {}",
        epoch(&r.epoch_before),
        epoch(&r.epoch_after)
    )?;
    match (&r.discard.bytes, &r.discard.why_not) {
        (Some(bytes), None) => writeln!(
            out,
            "discard     the medium was asked to discard {bytes} bytes that no file has; it may not"
        )?,
        (_, why) => writeln!(
            out,
            "discard     not asked of the medium: {}",
            why.as_deref().unwrap_or("nothing to discard")
        )?,
    }
    writeln!(out, "medium      {}", r.about_the_medium)?;
    let path = signed.path.display();
    writeln!(out, "receipt     {path}, signed by {}", r.fingerprint)?;
    writeln!(
        out,
        "check       ssh-keygen -Y check-novalidate -n {} -s {path}.sig < {path}",
        reset::NAMESPACE
    )?;
    Ok(0)
}

fn status(settings: &Settings, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let dir = &settings.gateway.data_dir;
    let unfinished = reset::state(dir);
    let last = reset::newest(dir)?;
    let code = u8::from(!matches!(unfinished, Ok(None))) * BAD;
    if json {
        let shown = json!({
            "unfinished": unfinished.as_ref().ok(),
            "problem": unfinished.as_ref().err().map(|e| explain(e)),
            "last": last.as_ref().map(|l| json!({
                "id": l.receipt.id,
                "level": l.receipt.level,
                "finished": l.receipt.finished,
                "receipt": l.path,
            })),
        });
        writeln!(out, "{shown:#}")?;
        return Ok(code);
    }
    match &unfinished {
        Ok(None) => writeln!(out, "no reset is unfinished")?,
        Ok(Some(s)) => writeln!(
            out,
            "the reset {} ({}) of {} was interrupted at `{}`: the agent's start, or `holdup reset \
             resume`, {} it",
            s.id,
            s.level.name(),
            s.requested,
            s.step,
            if s.goes_on { "finishes" } else { "undoes" }
        )?,
        Err(e) => writeln!(out, "{}: `holdup reset resume` ends it", explain(e))?,
    }
    if let Some(l) = last {
        let r = &l.receipt;
        writeln!(
            out,
            "the last one: {} ({}), {}",
            r.finished.at,
            r.level.name(),
            l.path.display()
        )?;
    }
    Ok(code)
}

fn receipt(settings: &Settings, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let Some(last) = reset::newest(&settings.gateway.data_dir)? else {
        if json {
            writeln!(out, "{:#}", json!({ "receipt": null }))?;
        } else {
            writeln!(
                io::stderr(),
                "holdup: no receipt: this gateway was never reset"
            )?;
        }
        return Ok(BAD);
    };
    tell(&last, json, out)?;
    if !last.signature_holds {
        writeln!(
            io::stderr(),
            "holdup: the signature beside {} is not of this receipt: it was changed, or damaged",
            last.path.display()
        )?;
        return Ok(BAD);
    }
    Ok(0)
}

fn resume(loaded: &Loaded, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let settings = &loaded.settings;
    let by_hand = match alone_after_a_cut(settings)? {
        Ok(by_hand) => by_hand,
        Err(who) => return refused(&who, json, out),
    };
    let reserve = reserve(settings);
    let say = backup::teller(json);
    let site = site(&by_hand, &reserve, &say);
    let resumed = reset::resume(&Home::of(loaded), &site)?;
    let words = resumed.in_words();
    if words.is_some() {
        by_hand.enter("reset.resumed", &actor(None), resumed.details());
    }
    if json {
        writeln!(out, "{:#}", json!({ "resumed": resumed.details() }))?;
    } else {
        writeln!(
            out,
            "{}",
            words.as_deref().unwrap_or("no reset is unfinished")
        )?;
    }
    Ok(0)
}

fn reserve(settings: &Settings) -> Reserve {
    Reserve::new(&settings.gateway.reserve_path(), settings.store.reserve)
}

fn site<'a>(by_hand: &'a ByHand, reserve: &'a Reserve, say: &'a dyn Fn(&str)) -> Site<'a> {
    Site {
        medium: &by_hand.medium,
        gate: &by_hand.gate,
        stop: &by_hand.stop,
        clock: &*by_hand.clock,
        audit: by_hand.audit(),
        reserve,
        discard: true,
        say,
    }
}

/// No agent runs: the verb has the files for itself.
fn by_hand(loaded: &Loaded, ask: &ResetAsk, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let settings = &loaded.settings;
    let by_hand = match alone(settings)? {
        Ok(by_hand) => by_hand,
        Err(who) => return refused(&who, json, out),
    };
    let found = reset::look(settings);
    if let Err(why) = ask.confirmed(settings, &found.undelivered) {
        return refused(&why, json, out);
    }
    let who = actor(ask.by.as_deref());
    let (reserve, say) = (reserve(settings), backup::teller(json));
    let site = site(&by_hand, &reserve, &say);
    let order = ask.order(&who, found.undelivered, found.damaged, found.epoch);
    let mut begun = match Begun::request(&Home::of(loaded), &order, &site) {
        Ok(begun) => begun,
        Err(e) if e.is_refusal() => return refused(&explain(&e), json, out),
        Err(e) => return Err(e.into()),
    };
    let audit = by_hand.audit();
    let entry = match begun.enter(ask.details(&begun), &site) {
        Ok(entry) => entry,
        Err(late) => {
            let (entry, why) = *late;
            let why = explain(&why);
            begun.forget(&site)?;
            audit.end(&entry, "refused", json!({ "why": why }));
            return refused(&why, json, out);
        }
    };
    if ask.no_backup.is_none()
        && let Err(why) = backed_up(loaded, &by_hand, &who, &mut begun, &site, json)
    {
        begun.forget(&site)?;
        audit.end(&entry, "refused", json!({ "why": why }));
        return refused(&why, json, out);
    }
    let done = begun.carry_out(&site);
    let done = by_hand.ended(
        &entry,
        done,
        |signed| json!({ "reset": signed.receipt.id, "receipt": signed.path }),
    );
    match done {
        Ok(signed) => tell(&signed, json, out),
        Err(e) if e.is_refusal() && !begun.is_touched() => refused(&explain(&e), json, out),
        Err(e) if begun.is_touched() => Err(anyhow::Error::new(e)
            .context("the reset is not at its end: start the agent, or run `holdup reset resume`")),
        Err(e) => Err(anyhow::Error::new(e).context("nothing was erased")),
    }
}

fn backed_up(
    loaded: &Loaded,
    by_hand: &ByHand,
    who: &str,
    begun: &mut Begun,
    site: &Site<'_>,
    json: bool,
) -> Result<(), String> {
    let made = backup::make(loaded, by_hand, who, "reset", &backup::teller(json));
    let made = match made {
        Ok(Ok(made)) => last_backup(&BackupReport::new(&made)),
        Ok(Err(e)) => Err(explain(&e)),
        Err(e) => Err(format!("{e:#}")),
    };
    made.and_then(|b| begun.backed_up(b, site).map_err(|e| explain(&e)))
        .map_err(|why| {
            format!(
                "no verified backup was made first: {why}; nothing was erased. Mend that, or type \
                 `--no-backup {}`",
                crate::agent::WITHOUT_BACKUP
            )
        })
}

enum Asked {
    Done(Box<Signed>),
    Refused(String),
    NoAgent,
}

/// Has the running agent do it.
fn ask_agent(settings: &Settings, ask: &ResetAsk, json: bool) -> anyhow::Result<Asked> {
    let path: PathBuf = settings.gateway.control_socket();
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
    let request = serde_json::to_string(&ControlRequest::Reset(ask.clone()))?;
    writeln!(&stream, "{request}").with_context(broken)?;
    stream.set_read_timeout(Some(STEP))?;
    let progress = !json && io::stderr().is_terminal();
    for line in BufReader::new(&stream).lines() {
        let line = line.with_context(broken)?;
        match serde_json::from_str(&line).context("the agent's answer is not understood")? {
            ControlAnswer::Step(step) if progress => {
                // Progress is a courtesy.
                writeln!(io::stderr(), "{step} ...").ok();
            }
            ControlAnswer::Step(_) => {}
            ControlAnswer::Reset(signed) => return Ok(Asked::Done(signed)),
            ControlAnswer::Refused(why) => return Ok(Asked::Refused(why)),
            ControlAnswer::Failed(why) => anyhow::bail!("{why}"),
            other @ (ControlAnswer::Rehearsing(_)
            | ControlAnswer::Rehearsed(_)
            | ControlAnswer::Armed(_)
            | ControlAnswer::Entered(_)
            | ControlAnswer::BackedUp(_)
            | ControlAnswer::Retracted(_)) => {
                anyhow::bail!("the agent's answer is not understood: {other:?}")
            }
        }
    }
    anyhow::bail!("the agent stopped in the middle: `holdup reset status` tells what became of it")
}
