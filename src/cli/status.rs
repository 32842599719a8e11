//! `holdup status`: what the agent says, in words or as JSON.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use crate::agent::{DrillStatus, Status};
use crate::clock::boot_id;
use crate::config::{self, Settings};
use crate::guard::{Ended, LastOutage, read_last};

/// The agent answers from memory; longer than this and it is not well.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints the status; 0 when the agent answered, 1 when none runs.
pub(super) fn run(config_path: &Path, out: &mut dyn Write, as_json: bool) -> anyhow::Result<u8> {
    let settings = config::load(config_path)?.settings;
    let status = match ask(&settings) {
        Ok(status) => status,
        Err(e) => return no_agent(&settings, &e, out, as_json),
    };
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?;
    } else {
        print(&status, out)?;
    }
    Ok(0)
}

/// The running agent's status.
pub(super) fn ask(settings: &Settings) -> anyhow::Result<Status> {
    let path = settings.gateway.status_socket();
    let mut stream = super::connect(&path, PATIENCE)
        .with_context(|| format!("cannot reach {}", path.display()))?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("no answer from {}", path.display()))?;
    serde_json::from_str(&answer).context("the agent's answer is not understood")
}

/// Did the agent's socket refuse this user? Then one may run.
pub(super) fn is_refused(why: &anyhow::Error) -> bool {
    has_kind(why, io::ErrorKind::PermissionDenied)
}

/// Did nobody answer in time? Then one may run and not be well.
pub(super) fn is_slow(why: &anyhow::Error) -> bool {
    has_kind(why, io::ErrorKind::WouldBlock) || has_kind(why, io::ErrorKind::TimedOut)
}

fn has_kind(why: &anyhow::Error, kind: io::ErrorKind) -> bool {
    why.chain()
        .filter_map(|c| c.downcast_ref::<io::Error>())
        .any(|e| e.kind() == kind)
}

fn no_agent(
    settings: &Settings,
    why: &anyhow::Error,
    out: &mut dyn Write,
    as_json: bool,
) -> anyhow::Result<u8> {
    let record = settings.gateway.record_path();
    let last = read_last(&record, &boot_id().unwrap_or_default())
        .with_context(|| format!("cannot read {}", record.display()))?;
    let (refused, slow) = (is_refused(why), is_slow(why));
    let why = super::explain(why);
    if refused {
        anyhow::bail!("{why}: an agent may run; ask as root or as a member of the agent's group");
    }
    if slow {
        anyhow::bail!(
            "the agent does not answer ({why}): look at `journalctl -u holdup`, restart it"
        );
    }
    if as_json {
        let answer = json!({ "running": false, "error": why, "last_outage": last });
        writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
    } else {
        writeln!(
            out,
            "no agent runs for {}: {why}",
            settings.gateway.run_dir.display()
        )?;
        writeln!(
            out,
            "start it with `holdup run`, or look at `journalctl -u holdup`"
        )?;
        if let Some(last) = last {
            print_outage(&last, out)?;
        }
    }
    Ok(1)
}

fn print(s: &Status, out: &mut dyn Write) -> anyhow::Result<()> {
    let row = |out: &mut dyn Write, name: &str, value: String| writeln!(out, "{name:<11} {value}");
    row(
        out,
        "gateway",
        format!(
            "{} ({} on a {}, holdup {})",
            s.gateway, s.board, s.source, s.version
        ),
    )?;
    row(out, "supply", s.supply_in_words())?;
    if let (Some(why), Some(ms)) = (&s.waits_for, s.resumes_in_ms) {
        let left = format!("- {why}: {:.1} s to go", ms as f64 / 1000.0);
        row(out, "", left)?;
    }
    row(out, "readiness", s.readiness.clone())?;
    for advice in &s.advice {
        row(out, "", format!("- {advice}"))?;
    }
    let holdup = match s.holdup_ms {
        Some(ms) => format!("{ms} ms, left now {} ms", s.holdup_left_ms),
        None => "not measured".to_owned(),
    };
    let value = format!("{holdup}; the plan would take {} ms", s.predicted_ms);
    row(out, "hold-up", value)?;
    if let Some(m) = &s.measurement {
        let least = if m.at_least { "at least " } else { "" };
        let value = format!("{least}{:.0} ms on {}", m.gave_ms, m.at);
        row(out, "measured", value)?;
    }
    if let Some(measuring) = &s.measuring {
        row(out, "measuring", measuring.clone())?;
    }
    let line = match (&s.gpio.chip, s.gpio.line) {
        (Some(chip), Some(line)) => {
            let reads = s.gpio.reads.as_deref().unwrap_or("unknown");
            format!(
                "{chip} line {line}, {}, reads {reads}",
                s.gpio.abi_in_words()
            )
        }
        (Some(chip), None) => format!("{chip}, {}", s.gpio.abi_in_words()),
        (None, _) => s
            .gpio
            .error
            .clone()
            .unwrap_or_else(|| "not open".to_owned()),
    };
    row(out, "line", line)?;
    if let Some(gauge) = gauge(s) {
        row(out, "gauge", gauge)?;
    }
    row(
        out,
        "store",
        format!(
            "{}; {} readings, {} acknowledged in this run, WAL {} frames",
            s.store, s.stored, s.acked, s.wal_frames
        ),
    )?;
    if let Some((from, upto)) = s.ledger.missing {
        let value = format!("ACKNOWLEDGED READINGS {from} to {upto} ARE MISSING");
        row(out, "ledger", value)?;
    }
    if let Some(problem) = &s.ledger.problem {
        row(out, "ledger", problem.clone())?;
    }
    if let Some(problem) = &s.audit.problem {
        let value = format!(
            "{}, {} entries wait: {problem}",
            s.audit.state, s.audit.waiting
        );
        row(out, "audit log", value)?;
    }
    row(out, "queue", queue(s))?;
    row(out, "snapshots", s.snapshots.in_words())?;
    row(out, "backup", s.backup.in_words())?;
    for warning in &s.backup.health.warnings {
        row(out, "", format!("- {warning}"))?;
    }
    for d in s.databases.iter().filter(|d| d.role != "own") {
        row(
            out,
            "guarded",
            format!("{} (priority {}): {}", d.path, d.priority, d.state),
        )?;
    }
    for aside in &s.set_aside {
        row(out, "set aside", aside.to_string())?;
    }
    for report in &s.last_recovered {
        row(out, "recovered", format!("{} {report}", report.at))?;
    }
    for (n, words) in drill(&s.drill).into_iter().enumerate() {
        row(out, if n == 0 { "drill" } else { "" }, words)?;
    }
    row(out, "medium", s.media.in_words())?;
    for remedy in &s.media.remedies {
        row(out, "", format!("- {remedy}"))?;
    }
    let freeze = s
        .freeze_refused
        .as_ref()
        .map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"));
    row(out, "freeze", freeze)?;
    match &s.last_outage {
        Some(last) => print_outage(last, out)?,
        None => row(out, "last outage", "none recorded".to_owned())?,
    }
    Ok(())
}

/// `running; 12 messages (3400 bytes), 0 dead`
fn queue(s: &Status) -> String {
    let q = &s.queue;
    let mut words = q.state.clone();
    if q.state != "off" {
        words.push_str(&format!(
            "; {} messages ({} bytes), {} dead, {} dropped",
            q.depth, q.bytes, q.dead, q.dropped
        ));
    }
    if let Some(t) = q.retry_loop_s {
        words.push_str(&format!("; retry loop for {} minutes", t / 60));
    }
    // What it failed of stands under readiness.
    if let Some(why) = q.problem.as_ref().filter(|_| q.state != "failed") {
        words.push_str(&format!("; {why}"));
    }
    words
}

/// What of drills an operator should know.
fn drill(d: &DrillStatus) -> Vec<String> {
    let mut lines = Vec::new();
    match &d.last {
        None => lines.push("none was held yet: `holdup drill`".to_owned()),
        Some(l) => {
            let result = if l.passed {
                format!("passed, {} scenarios", l.scenarios)
            } else {
                format!("FAILED: {}", l.failed.join(", "))
            };
            lines.push(format!(
                "{result}; slowest recovery {:.1} s; {} by {}",
                l.slowest_ms / 1000.0,
                l.began,
                l.operator
            ));
        }
    }
    if d.stale {
        lines.push("- it is too long ago: hold one with `holdup drill`".to_owned());
    }
    if d.running {
        lines.push("- one runs now, on schedule".to_owned());
    }
    lines.extend(
        d.problem
            .iter()
            .map(|why| format!("- the one that was due was not held: {why}")),
    );
    lines
}

/// `3.91 V, 84 %, charging, read 2 s ago`
fn gauge(s: &Status) -> Option<String> {
    let Some(g) = &s.gauge else {
        return s.gauge_percent.map(|p| format!("{p:.0} %"));
    };
    let mut words = match (g.volts, g.percent) {
        (Some(volts), Some(percent)) => vec![format!("{volts:.2} V"), format!("{percent:.0} %")],
        _ => vec!["no reading".to_owned()],
    };
    words.extend(
        g.charging
            .map(|on| if on { "charging" } else { "discharging" }.to_owned()),
    );
    words.extend(g.age_s.map(|age| format!("read {age} s ago")));
    words.extend(g.problem.clone());
    Some(words.join(", "))
}

fn print_outage(o: &LastOutage, out: &mut dyn Write) -> anyhow::Result<()> {
    let ended = match o.ended {
        Ended::Clean => "clean",
        Ended::Late => "late",
        Ended::Cut => "cut",
        Ended::Unfinished => "unfinished",
        Ended::NeverAnnounced => "never announced",
    };
    let resumed = if o.resumed {
        ", resumed without a reboot"
    } else {
        ""
    };
    let at = if o.at.is_empty() {
        String::new()
    } else {
        format!(" at {}", o.at)
    };
    writeln!(out, "last outage {}{at}: {ended}{resumed}", o.kind)?;
    let ms = |v: Option<f64>| v.map_or_else(|| "unknown".to_owned(), |v| format!("{v:.1} ms"));
    if o.edge_to_quiet_ms.is_some() || o.edge_to_durable_ms.is_some() {
        writeln!(
            out,
            "            edge to quiet {}, edge to durable {}",
            ms(o.edge_to_quiet_ms),
            ms(o.edge_to_durable_ms)
        )?;
    }
    for s in &o.steps {
        writeln!(out, "            {:>9.1} ms  {s}", s.at_ms())?;
    }
    Ok(())
}
