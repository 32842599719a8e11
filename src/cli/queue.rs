//! `holdup queue stats|list|dead|export|import|rebuild`: what waits to be sent, and its repair.
//!
//! Reading works beside a running agent, but not while it is parked: its file system may be frozen
//! then. What changes the queue needs the agent stopped.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use crate::agent::{Status, actor};
use crate::clock::Wall;
use crate::config::{self, Settings};
use crate::queue::{self, AllRows, Met, QueueError, Rebuilt, Row, Site, SqlRows, Survey};
use crate::store::StoreError;

use super::Usage;
use super::alone::{By, alone};
use super::pages::salvage;
use super::recover::Scratch;

#[derive(Debug, Subcommand)]
pub(super) enum QueueVerb {
    /// How much waits, since when, and whether it moves.
    Stats {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The messages that wait, oldest first.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// As JSON lines, as `export` writes them.
        #[arg(long)]
        json: bool,
    },
    /// The dead letters, each with its reason.
    Dead {
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// As JSON lines, as `export` writes them.
        #[arg(long)]
        json: bool,
    },
    /// Write every message that can be read as a JSON line, dead letters included.
    Export {
        /// Read this queue instead of the gateway's own.
        #[arg(long, value_name = "DB")]
        from: Option<PathBuf>,
        /// Write to this new file instead of standard output.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Put the messages of JSON lines into the queue; the agent must be stopped.
    Import {
        /// The lines; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        by: By,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Make a new queue from what can be read of the old one; the agent must be stopped.
    Rebuild {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        by: By,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

impl QueueVerb {
    pub(super) fn wants_json(&self) -> bool {
        match self {
            Self::Stats { json }
            | Self::List { json, .. }
            | Self::Dead { json, .. }
            | Self::Import { json, .. }
            | Self::Rebuild { json, .. } => *json,
            Self::Export { .. } => false,
        }
    }
}

/// Refused: exit code 3.
const REFUSED: u8 = 3;

pub(super) fn run(config: &Path, verb: &QueueVerb, out: &mut dyn Write) -> anyhow::Result<u8> {
    let settings = config::load(config)?.settings;
    match verb {
        QueueVerb::Stats { json } => stats(&settings, *json, out),
        QueueVerb::List { limit, json } => list(&settings, false, *limit, *json, out),
        QueueVerb::Dead { limit, json } => list(&settings, true, *limit, *json, out),
        QueueVerb::Export { from, output } => {
            export(&settings, from.as_deref(), output.as_deref(), out)
        }
        QueueVerb::Import { file, by, json } => import(&settings, file, by.name(), *json, out),
        QueueVerb::Rebuild { yes, by, json } => rebuild(&settings, *yes, by.name(), *json, out),
    }
}

/// What a running agent says, if one answers.
pub(super) fn agent(settings: &Settings) -> Option<Status> {
    super::status::ask(settings).ok()
}

/// May the data directory be touched? The supply's state, where it may not.
pub(super) fn frozen(agent: Option<&Status>) -> Option<&str> {
    let calm = ["Good", "Brownout", "OnBattery"];
    agent
        .map(|a| a.supply.as_str())
        .filter(|s| !calm.contains(s))
}

fn refused(why: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if json {
        writeln!(out, "{:#}", json!({ "refused": why }))?;
    } else {
        writeln!(io::stderr(), "holdup: refused: {why}")?;
    }
    Ok(REFUSED)
}

fn stats(settings: &Settings, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let agent = agent(settings);
    let path = settings.gateway.queue_path();
    let (survey, problem) = match frozen(agent.as_ref()) {
        Some(supply) => (None, Some(format!("not read: supply {supply}"))),
        None => match queue::survey(&path) {
            Ok(survey) => (survey, None),
            Err(e) => (None, Some(crate::agent::explain(&e))),
        },
    };
    let state = agent.as_ref().map(|a| &a.queue);
    let bad = problem.is_some() && frozen(agent.as_ref()).is_none()
        || survey.as_ref().is_some_and(|s| s.retry_loop_s.is_some())
        || state.is_some_and(|q| q.state == "failed");
    if json {
        let answer = json!({
            "path": path,
            "enabled": settings.queue.enabled,
            "agent": state,
            "queue": survey,
            "problem": problem,
            "retry_loop": survey.as_ref().and_then(Survey::loop_in_words),
        });
        writeln!(out, "{answer:#}")?;
        return Ok(u8::from(bad));
    }
    let row = |out: &mut dyn Write, name: &str, value: String| writeln!(out, "{name:<11} {value}");
    row(out, "queue", path.display().to_string())?;
    let words = match state {
        Some(q) => q.state.clone(),
        None if settings.queue.enabled => "no agent runs".to_owned(),
        None => "off, and no agent runs".to_owned(),
    };
    row(out, "state", words)?;
    let told = state.and_then(|q| q.problem.clone());
    if let Some(problem) = told.or(problem) {
        row(out, "problem", problem)?;
    } else if survey.is_none() {
        row(out, "depth", "nothing was queued yet".to_owned())?;
    }
    let Some(s) = survey else {
        if let Some(q) = state {
            row(
                out,
                "depth",
                format!("{} messages, {} bytes", q.depth, q.bytes),
            )?;
        }
        return Ok(u8::from(bad));
    };
    let at =
        |ms: Option<i64>| ms.map_or_else(|| "-".to_owned(), |ms| Wall::from_millis(ms).to_string());
    row(
        out,
        "depth",
        format!("{} messages, {} bytes", s.depth, s.bytes),
    )?;
    row(out, "oldest", at(s.oldest_at))?;
    row(
        out,
        "retries",
        format!(
            "{} by the {} that were tried, {} ever",
            s.total_retries, s.retrying, s.retries
        ),
    )?;
    row(
        out,
        "confirmed",
        format!("{}, last {}", s.confirmed, at(s.last_confirmed_at)),
    )?;
    row(out, "dropped", s.dropped.to_string())?;
    row(
        out,
        "dead",
        format!("{} kept, {} made room", s.dead, s.dead_dropped),
    )?;
    row(
        out,
        "readings",
        format!(
            "queued up to {}, gone up to {}",
            s.fed_upto, s.delivered_upto
        ),
    )?;
    if let Some(words) = s.loop_in_words() {
        row(out, "", words)?;
    }
    Ok(u8::from(bad))
}

fn list(
    settings: &Settings,
    dead: bool,
    limit: usize,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    if let Some(supply) = frozen(agent(settings).as_ref()) {
        return refused(
            &format!("the queue is not read while the supply is {supply}"),
            json,
            out,
        );
    }
    let path = settings.gateway.queue_path();
    let mut shown: usize = 0;
    let mut faults = 0;
    let mut more = false;
    let rows = path.exists().then(|| SqlRows::open(&path)).transpose()?;
    for met in rows.into_iter().flatten() {
        match met {
            Met::Row(row) if row.dead.is_some() == dead => {
                if shown >= limit {
                    more = true;
                    break;
                }
                shown += 1;
                if json {
                    out.write_all(queue::write_line(&row).as_bytes())?;
                } else {
                    print_row(&row, out)?;
                }
            }
            // The waiting ones are read first.
            Met::Row(_) => {
                if !dead {
                    break;
                }
            }
            other @ (Met::Invalid { .. } | Met::Lost { .. }) => {
                faults += 1;
                tell_fault(&other)?;
            }
        }
    }
    if shown == 0 && faults == 0 && !json {
        writeln!(
            out,
            "{}",
            if dead {
                "no dead letters"
            } else {
                "no message waits"
            }
        )?;
    }
    if more {
        // Beside the lines, which a program may read.
        let survey = queue::survey(&path).unwrap_or_default().unwrap_or_default();
        let all = if dead { survey.dead } else { survey.depth };
        let left = all.saturating_sub(shown as u64).max(1);
        writeln!(
            io::stderr(),
            "{left} more: --limit N shows N of them, `holdup queue export` all"
        )?;
    }
    Ok(u8::from(faults > 0))
}

fn print_row(row: &Row, out: &mut dyn Write) -> anyhow::Result<()> {
    let at = row
        .created_at
        .map_or_else(|| "-".to_owned(), |ms| Wall::from_millis(ms).to_string());
    write!(
        out,
        "{}  priority {}  {at}  {} bytes  {} retries",
        row.message_id,
        row.priority,
        row.payload.len(),
        row.retry_count
    )?;
    if let Some((why, _)) = &row.dead {
        write!(out, "  {}", why.escape_debug())?;
    }
    writeln!(out)?;
    Ok(())
}

fn tell_fault(met: &Met) -> io::Result<()> {
    let mut err = io::stderr();
    match met {
        Met::Row(_) => Ok(()),
        Met::Invalid { table, id, why } => writeln!(err, "{table} row {id} is no message: {why}"),
        Met::Lost {
            table,
            from,
            upto,
            why,
        } => {
            let from = (*from).max(0);
            match upto {
                Some(upto) => writeln!(err, "{table} rows {from} to {upto} cannot be read: {why}"),
                None => writeln!(err, "{table} cannot be read from row {from} on: {why}"),
            }
        }
    }
}

fn export(
    settings: &Settings,
    from: Option<&Path>,
    output: Option<&Path>,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let path = from.map_or_else(|| settings.gateway.queue_path(), Path::to_owned);
    if from.is_none()
        && let Some(supply) = frozen(agent(settings).as_ref())
    {
        return refused(
            &format!("the queue is not read while the supply is {supply}"),
            false,
            out,
        );
    }
    if path.is_dir() {
        return Err(Usage::new(format!(
            "{} is a directory: name the queue's database in it",
            path.display()
        )));
    }
    let mut log = path.clone().into_os_string();
    log.push("-wal");
    let there = path.exists() || Path::new(&log).exists();
    anyhow::ensure!(there, "there is no queue at {}", path.display());
    let mut file;
    let target: &mut dyn Write = match output {
        Some(to) => {
            let new = File::create_new(to)
                .with_context(|| format!("cannot make {}: name a new file", to.display()))?;
            file = BufWriter::new(new);
            &mut file
        }
        None => out,
    };
    let (mut rows, mut faults) = (0u64, 0u64);
    let scratch = Scratch::new()?;
    let all = AllRows::open(&path, &scratch.path().join("copy"), &salvage);
    let all = all.map_err(|e| {
        // Somebody else's file is not to be moved away.
        if let (QueueError::Open(StoreError::NotSqlite { starts_with, .. }), Some(_)) = (&e, from) {
            let path = path.display();
            return Usage::new(format!(
                "{path} is not an SQLite database: it starts with {starts_with}; name a queue's \
                 database"
            ));
        }
        e.into()
    })?;
    if let Some(why) = &all.damage {
        writeln!(io::stderr(), "SQLite cannot read all of it: {why}")?;
    }
    if let Some(why) = &all.no_pages {
        writeln!(io::stderr(), "its pages cannot be read either: {why}")?;
    }
    let whole = all.damage.is_none();
    for met in all {
        if let Met::Row(row) = &met {
            target.write_all(queue::write_line(row).as_bytes())?;
            rows += 1;
        } else {
            faults += 1;
            tell_fault(&met)?;
        }
    }
    target.flush()?;
    if faults == 0 && !whole {
        // What leads to the rows is gone, and with it what would tell of those that are.
        writeln!(
            io::stderr(),
            "exported {rows} messages; others may be missing, and nothing is left that names them"
        )?;
    } else {
        writeln!(
            io::stderr(),
            "exported {rows} messages; {faults} places could not be read"
        )?;
    }
    Ok(u8::from(faults > 0 || !whole))
}

fn import(
    settings: &Settings,
    file: &Path,
    technician: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let by_hand = match alone(settings)? {
        Ok(by_hand) => by_hand,
        Err(who) => return refused(&who, json, out),
    };
    let input: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        Box::new(BufReader::new(opened))
    };
    let site = Site {
        medium: &by_hand.medium,
        gate: &by_hand.gate,
        clock: &*by_hand.clock,
    };
    let path = settings.gateway.queue_path();
    let details = json!({ "queue": path, "from": file });
    let entry = by_hand.begin("queue.import", &actor(technician), details);
    let done = queue::import(&path, settings.queue, site, input);
    let done = by_hand.ended(&entry, done, |d| {
        json!({ "imported": d.imported, "duplicates": d.duplicates, "rejected": d.rejected, "bad": d.bad })
    })?;
    if json {
        writeln!(out, "{:#}", serde_json::to_value(&done)?)?;
    } else {
        for (number, why) in &done.bad_lines {
            writeln!(io::stderr(), "line {number}: {why}")?;
        }
        writeln!(
            out,
            "imported {}, there already {}, refused by the full queue {}, bad lines {}",
            done.imported, done.duplicates, done.rejected, done.bad
        )?;
    }
    Ok(u8::from(done.bad > 0 || done.rejected > 0))
}

fn rebuild(
    settings: &Settings,
    yes: bool,
    technician: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let by_hand = match alone(settings)? {
        Ok(by_hand) => by_hand,
        Err(who) => return refused(&who, json, out),
    };
    let path = settings.gateway.queue_path();
    if !yes && !confirmed(&path)? {
        return refused(
            "the queue would be replaced: confirm it, or give --yes",
            json,
            out,
        );
    }
    let site = Site {
        medium: &by_hand.medium,
        gate: &by_hand.gate,
        clock: &*by_hand.clock,
    };
    let store = settings.gateway.store_path();
    let details = json!({ "queue": path });
    let entry = by_hand.begin("queue.rebuild", &actor(technician), details);
    let id = &settings.gateway.id;
    let keep = |path: &Path| {
        let kept = by_hand.keep(settings, path, "the queue is rebuilt by hand");
        kept.map_err(|e| crate::agent::explain(&e))
    };
    let done = queue::rebuild(&path, &store, id, settings.queue, site, (&keep, &salvage));
    if done.is_ok() {
        by_hand.trust(&path)?;
    }
    let done = by_hand.ended(&entry, done, |d| {
        json!({
            "kept": d.kept,
            "kept_dead": d.kept_dead,
            "invalid": d.invalid,
            "lost": d.lost.len(),
            "unreadable": d.unreadable,
            "from_pages": d.from_pages,
            "evidence": d.evidence,
        })
    })?;
    if json {
        writeln!(out, "{:#}", serde_json::to_value(&done)?)?;
    } else {
        print_rebuilt(&done, settings, out)?;
    }
    let whole = done.lost.is_empty() && done.invalid == 0 && done.unreadable.is_none();
    Ok(u8::from(!whole))
}

fn print_rebuilt(done: &Rebuilt, settings: &Settings, out: &mut dyn Write) -> anyhow::Result<()> {
    if let Some(evidence) = &done.evidence {
        writeln!(out, "the old files were copied to {}", evidence.display())?;
    }
    if let Some(why) = &done.unreadable {
        writeln!(out, "SQLite could not read all of the old queue: {why}")?;
    }
    writeln!(
        out,
        "kept {} messages and {} dead letters; {} were there twice",
        done.kept, done.kept_dead, done.duplicates
    )?;
    if done.from_pages > 0 {
        writeln!(
            out,
            "{} of them come from the pages, around SQLite",
            done.from_pages
        )?;
    }
    if let Some(why) = &done.no_pages {
        writeln!(out, "the pages could not be read: {why}")?;
    }
    for (table, id, why) in &done.invalid_rows {
        writeln!(out, "{table} row {id} is no message: {why}")?;
    }
    for gap in &done.lost {
        let upto = gap
            .upto
            .map_or_else(|| "the end".to_owned(), |n| n.to_string());
        let from = gap.from.max(0);
        writeln!(
            out,
            "{} rows {from} to {upto} could not be read: {}",
            gap.table, gap.why
        )?;
    }
    match done.fed_from {
        Some(id) if settings.queue.enabled => writeln!(
            out,
            "when the agent runs, readings above {id} that are missing here are queued again from the store"
        )?,
        Some(_) => writeln!(
            out,
            "queue.enabled is false: what is missing here is not queued again from the store"
        )?,
        None => writeln!(out, "the store could not be asked what was delivered")?,
    }
    Ok(())
}

fn confirmed(path: &Path) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut ask = io::stderr();
    write!(
        ask,
        "{} will be replaced by what can be read of it (a copy is kept); go on? [y/N] ",
        path.display()
    )?;
    ask.flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
