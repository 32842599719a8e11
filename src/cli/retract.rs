//! `holdup retract SENSOR`: readings of a bad source are marked, not deleted.
//!
//! Which readings are meant is found out here, by reading, in portions; the mark is written by the
//! running agent, or by this verb where none runs. Nothing is read while the agent is parked: its
//! file system may be frozen then.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::agent::{
    ControlAnswer, ControlRequest, Retracting, RetractingError, actor, store_is_sound,
};
use crate::clock::Wall;
use crate::config::{self, Settings};
use crate::store::{Found, RetractError, Retraction, Span, Stamp, check_reason, find, retractions};

use super::alone::{By, alone};
use super::power::{Talk, refused, talk};
use super::queue::{agent, frozen};

/// No reading is meant: exit code 1.
const NOTHING: u8 = 1;
/// Bytes of a time: more than any way to write one.
const LONGEST_TIME: usize = 64;

#[derive(Debug, Args)]
pub(super) struct RetractArgs {
    /// The sensor, as its readings name it.
    #[arg(value_name = "SENSOR", required_unless_present_any = ["list", "undo"],
          conflicts_with_all = ["list", "undo"])]
    sensor: Option<String>,
    /// Only readings with this timestamp or a later one, written as the sender writes them: a
    /// number, or a text such as 2026-11-21T10:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true,
          conflicts_with_all = ["list", "undo"])]
    since: Option<Stamp<String>>,
    /// Only readings with this timestamp or an earlier one.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true,
          conflicts_with_all = ["list", "undo"])]
    until: Option<Stamp<String>>,
    /// Why; it stays with the retraction and in the audit log.
    #[arg(long, value_name = "TEXT", value_parser = parse_reason,
          required_unless_present_any = ["list", "dry_run"])]
    reason: Option<String>,
    /// Show the retractions that were made.
    #[arg(long, conflicts_with_all = ["undo", "dry_run", "reason"])]
    list: bool,
    /// Take this retraction back: its readings count again.
    #[arg(long, value_name = "SEQ", conflicts_with = "dry_run")]
    undo: Option<i64>,
    /// Say which readings are meant; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    by: By,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

impl RetractArgs {
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }
}

fn parse_reason(reason: &str) -> Result<String, String> {
    check_reason(reason).map(|()| reason.to_owned())
}

fn parse_time(time: &str) -> Result<Stamp<String>, String> {
    if time.is_empty() || time.len() > LONGEST_TIME || time.chars().any(char::is_control) {
        return Err(format!(
            "a time has 1 to {LONGEST_TIME} bytes and no control characters"
        ));
    }
    if let Ok(n) = time.parse() {
        return Ok(Stamp::Int(n));
    }
    Ok(match time.parse::<f64>() {
        Ok(x) if x.is_finite() => Stamp::Real(x),
        Ok(_) | Err(_) => Stamp::Text(time.to_owned()),
    })
}

/// 0: done; 1: no reading is meant; 3: not confirmed, or not now.
pub(super) fn run(config: &Path, args: &RetractArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let settings = config::load(config)?.settings;
    if let Err(why) = readable(&settings) {
        return refused(&why, args.json, out);
    }
    let path = settings.gateway.store_path();
    if args.list {
        return list(&retractions(&path)?, args.json, out);
    }
    let reason = args.reason.clone().unwrap_or_default();
    if let Some(seq) = args.undo {
        return match undo(&settings, seq, reason, args.by.name())? {
            Err(why) => refused(&why, args.json, out),
            Ok(seq) => tell_undone(seq, &path, args.json, out),
        };
    }
    let span = Span {
        sensor_name: args.sensor.clone().unwrap_or_default(),
        since: args.since.clone(),
        until: args.until.clone(),
    };
    let found = match meant(&settings, &span, args.json)? {
        Ok(found) => found,
        Err(why) => return refused(&why, args.json, out),
    };
    if found.rows == 0 || args.dry_run {
        return tell(&span, found, None, args.json, out);
    }
    let what = in_words(&span, found);
    if !args.yes && !confirmed(&what)? {
        let why = format!("{what} would be retracted: confirm it, or give --yes");
        return refused(&why, args.json, out);
    }
    match mark(&settings, &span, found, reason, args.by.name())? {
        Ok(seq) => tell(&span, found, Some(seq), args.json, out),
        Err(why) => refused(&why, args.json, out),
    }
}

/// May the store be read now? Without an agent, not where the reading could do harm.
fn readable(settings: &Settings) -> Result<(), String> {
    match agent(settings) {
        Some(status) => frozen(Some(&status)).map_or(Ok(()), |supply| {
            Err(format!(
                "the store is not read while the supply is {supply}"
            ))
        }),
        None => store_is_sound(settings).map_err(|e| crate::agent::explain(&e)),
    }
}

fn meant(settings: &Settings, span: &Span, json: bool) -> anyhow::Result<Result<Found, String>> {
    let progress = !json && io::stderr().is_terminal();
    let served = agent(settings).is_some();
    let mut why = String::new();
    let found = find(&settings.gateway.store_path(), span, &mut |seen| {
        if progress {
            // Progress is a courtesy.
            write!(io::stderr(), "\r\x1b[Klooked at {seen} readings").ok();
        }
        if served && let Some(supply) = frozen(agent(settings).as_ref()) {
            why = format!("the store is not read while the supply is {supply}");
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    if progress {
        write!(io::stderr(), "\r\x1b[K").ok();
    }
    Ok(found.ok_or(why))
}

fn mark(
    settings: &Settings,
    span: &Span,
    found: Found,
    reason: String,
    by: Option<&str>,
) -> anyhow::Result<Result<i64, String>> {
    if agent(settings).is_some() {
        let request = ControlRequest::Retract {
            span: span.clone(),
            found,
            reason,
            by: by.map(str::to_owned),
        };
        return ask(settings, request);
    }
    let case = Retracting::mark(span.clone(), found, reason, actor(by));
    by_hand(settings, &case)
}

fn undo(
    settings: &Settings,
    seq: i64,
    reason: String,
    by: Option<&str>,
) -> anyhow::Result<Result<i64, String>> {
    if agent(settings).is_some() {
        let by = by.map(str::to_owned);
        return ask(settings, ControlRequest::Unretract { seq, reason, by });
    }
    by_hand(settings, &Retracting::undo(seq, reason, actor(by)))
}

/// Has the running agent do it.
fn ask(settings: &Settings, request: ControlRequest) -> anyhow::Result<Result<i64, String>> {
    let path = settings.gateway.control_socket();
    match talk(&path, request, Duration::ZERO, &mut |_| {})? {
        Talk::Answer(ControlAnswer::Retracted(seq)) => Ok(Ok(seq)),
        Talk::Answer(ControlAnswer::Refused(why)) | Talk::NotAllowed(why) => Ok(Err(why)),
        Talk::Answer(other) => anyhow::bail!("the agent's answer is not understood: {other:?}"),
    }
}

fn by_hand(settings: &Settings, case: &Retracting) -> anyhow::Result<Result<i64, String>> {
    let by_hand = match alone(settings)? {
        Ok(by_hand) => by_hand,
        Err(who) => return Ok(Err(who)),
    };
    match by_hand.retract(settings, case) {
        Ok(seq) => Ok(Ok(seq)),
        Err(
            e @ (RetractingError::NotAudited
            | RetractingError::Damaged(_)
            | RetractingError::Retract(RetractError::Unknown(_) | RetractError::Invalid(_))),
        ) => Ok(Err(e.to_string())),
        Err(e @ (RetractingError::Look(_) | RetractingError::Retract(_))) => Err(e.into()),
    }
}

/// Readings that another retraction names too do not count again.
fn tell_undone(seq: i64, store: &Path, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let all = retractions(store)?;
    let undone = all.iter().find(|r| r.seq == seq);
    let still: Vec<i64> = undone.map_or_else(Vec::new, |undone| {
        let others = all.iter().filter(|r| r.covers_some_of(undone));
        others.map(|r| r.seq).collect()
    });
    if json {
        let answer = json!({ "undone": seq, "still_covered_by": still });
        writeln!(out, "{answer:#}")?;
        return Ok(0);
    }
    write!(out, "retraction {seq} is undone: its readings count again")?;
    if !still.is_empty() {
        let names: Vec<_> = still.iter().map(i64::to_string).collect();
        let other = if still.len() == 1 {
            "retraction"
        } else {
            "retractions"
        };
        write!(
            out,
            ", but for those that {other} {} covers too",
            names.join(", ")
        )?;
    }
    writeln!(out)?;
    Ok(0)
}

fn in_words(span: &Span, found: Found) -> String {
    format!(
        "{} readings of {:?}, ids {} to {}",
        found.rows, span.sensor_name, found.first_id, found.last_id
    )
}

fn confirmed(what: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut ask = io::stderr();
    write!(ask, "{what} will be marked as retracted; go on? [y/N] ")?;
    ask.flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// What was found, and with `seq` what became of it.
fn tell(
    span: &Span,
    found: Found,
    seq: Option<i64>,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let code = if found.rows == 0 { NOTHING } else { 0 };
    if json {
        let some = found.rows > 0;
        let answer = json!({
            "seq": seq,
            "sensor": span.sensor_name,
            "since": span.since,
            "until": span.until,
            "rows": found.rows,
            "first_id": some.then_some(found.first_id),
            "last_id": some.then_some(found.last_id),
        });
        writeln!(out, "{answer:#}")?;
        return Ok(code);
    }
    let words = in_words(span, found);
    match seq {
        _ if found.rows == 0 => writeln!(
            out,
            "no reading of {:?} in that time is in the store; nothing was retracted",
            span.sensor_name
        )?,
        None => writeln!(out, "{words} would be retracted (nothing was changed)")?,
        Some(seq) => writeln!(
            out,
            "{words} are retracted; to take it back: holdup retract --undo {seq} --reason ..."
        )?,
    }
    Ok(code)
}

fn list(all: &[Retraction], json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if json {
        writeln!(out, "{:#}", json!({ "retractions": all }))?;
        return Ok(0);
    }
    if all.is_empty() {
        writeln!(out, "nothing was retracted")?;
    }
    for r in all {
        let mut span = format!("ids {} to {}", r.first_id, r.last_id);
        for (word, stamp) in [("since", &r.since), ("until", &r.until)] {
            if let Some(stamp) = stamp {
                span.push_str(&format!(", {word} {}", shown(stamp)));
            }
        }
        let undone = r.undone.map_or_else(String::new, |at| {
            format!("; undone {}", Wall::from_millis(at))
        });
        writeln!(
            out,
            "{}  {}  {:?}, {span}: {:?} ({}){undone}",
            r.seq,
            Wall::from_millis(r.at),
            r.sensor_name,
            r.reason,
            r.actor
        )?;
    }
    Ok(0)
}

fn shown(stamp: &Stamp<String>) -> String {
    match stamp {
        Stamp::Int(n) => n.to_string(),
        Stamp::Real(x) => x.to_string(),
        Stamp::Text(text) => format!("{text:?}"),
    }
}
