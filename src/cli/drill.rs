//! `holdup drill`: the worst days, rehearsed where they cannot hurt.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::alone::By;
use crate::clock::{Clock, Mono, SystemClock};
use crate::config::{self, Settings};
use crate::drill::{self, DrillError, Evidence, Options, Scenario, Stop};
use crate::durable::Medium;

/// Refused: exit code 3.
const REFUSED: u8 = 3;
/// How often a running agent is asked whether power is still good.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct DrillArgs {
    /// Which disaster; may be given more than once.
    #[arg(long, value_name = "NAME", default_value = "all")]
    scenario: Vec<String>,
    /// Write the evidence to this file too: one page that needs no network.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
    /// Readings before each disaster; fewer lie in one page of the log, which is lost or not as a
    /// whole.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    rows: u64,
    /// Where the isolated home is made: never in the live directories. Default: $TMPDIR, or
    /// drill.home.
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// The seed of what is random, to hold the same drill again.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Take a row away before the comparison, to see such a drill fail.
    #[arg(long)]
    sabotage: bool,
    #[command(flatten)]
    by: By,
    /// For the agent's schedule: at idle priority.
    #[arg(long, hide = true)]
    scheduled: bool,
}

impl DrillArgs {
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }
}

/// 0: every scenario passed; 1: one did not; 3: refused.
pub(super) fn run(config: &Path, args: &DrillArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    // Whoever wants to see it first has nothing configured yet.
    let loaded = if config == Path::new(config::DEFAULT_PATH) && !config.exists() {
        config::defaults()?
    } else {
        config::load(config)?
    };
    let settings = loaded.settings;
    let scenarios = match scenarios(&args.scenario) {
        Ok(scenarios) => scenarios,
        Err(why) => {
            writeln!(io::stderr(), "holdup: {why}")?;
            return Ok(2);
        }
    };
    if let Some(report) = args.report.as_ref().filter(|r| r.is_dir()) {
        let why = format!(
            "{} is a directory: name a file for the report",
            report.display()
        );
        return Err(super::Usage::new(why));
    }
    if let Some(why) = not_now(&settings) {
        return refused(&why, args.json, out);
    }
    if args.scheduled
        && let Err(e) = drill::be_idle()
    {
        log::info!("the drill does not yield the disk: {e}");
    }
    // The story is told by the evidence.
    log::set_max_level(log::LevelFilter::Warn);
    let told = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&told)).context("cannot heed signals")?;
    }
    let looked = Cell::new(Mono::default());
    let why = || {
        if told.load(Ordering::SeqCst) {
            return Some("told to end".to_owned());
        }
        let now = SystemClock.mono();
        if now.since(looked.get()) < LOOK {
            return None;
        }
        looked.set(now);
        not_now(&settings)
    };
    let progress = !args.json && io::stderr().is_terminal();
    let say = |step: &str| {
        if progress {
            // Progress is a courtesy.
            write!(io::stderr(), "\r\x1b[K{step} ...").ok();
        }
    };
    let parent = home(args, &settings);
    let held = drill::run(
        &Options {
            settings: &settings,
            scenarios: &scenarios,
            parent: &parent,
            rows: args.rows,
            exe: std::env::current_exe().context("cannot find this program")?,
            operator: operator(args),
            reason: if args.scheduled {
                "schedule"
            } else {
                "operator"
            }
            .to_owned(),
            sabotage: args.sabotage,
            seed: args.seed.map_or_else(random, Ok)?,
        },
        &Stop::when(&why),
        &say,
    );
    if progress {
        write!(io::stderr(), "\r\x1b[K").ok();
    }
    let evidence = match held {
        Err(DrillError::Home(e)) if e.is_refusal() => {
            return refused(&e.to_string(), args.json, out);
        }
        held => held?,
    };
    // Before anything is told: a reader that goes away must not cost the evidence.
    if let Some(path) = &args.report {
        write_report(path, &evidence)?;
    }
    keep(&settings, &evidence);
    tell(args, &evidence, out)?;
    Ok(u8::from(!evidence.passed))
}

fn write_report(path: &Path, evidence: &Evidence) -> anyhow::Result<()> {
    let path = std::path::absolute(path).context("the working directory cannot be read")?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let written = Medium::open(folder)
        .and_then(|medium| medium.replace(&path, drill::html(evidence).as_bytes()));
    written.with_context(|| format!("cannot write the report {}", path.display()))
}

/// Where the gateway keeps them. A machine that is none has no such place.
fn keep(settings: &Settings, evidence: &Evidence) {
    if !settings.gateway.data_dir.is_dir() {
        return;
    }
    if let Err(e) = drill::keep(&settings.gateway.drill_path(), evidence) {
        log::warn!(
            "the evidence is not kept on the gateway: {}",
            crate::agent::explain(&e)
        );
    }
}

fn tell(args: &DrillArgs, evidence: &Evidence, out: &mut dyn Write) -> anyhow::Result<()> {
    if args.json {
        writeln!(out, "{:#}", serde_json::to_value(evidence)?)?;
    } else {
        out.write_all(drill::text(evidence).as_bytes())?;
    }
    Ok(())
}

fn scenarios(names: &[String]) -> Result<Vec<Scenario>, String> {
    if names.iter().any(|n| n == "all") {
        return Ok(Scenario::ALL.to_vec());
    }
    names.iter().map(|n| n.parse()).collect()
}

/// Why no drill may write now: a running agent that has not good power.
fn not_now(settings: &Settings) -> Option<String> {
    let status = super::status::ask(settings).ok()?;
    (status.supply != "Good").then(|| {
        format!(
            "the supply is {}: a drill waits until it is Good",
            status.supply
        )
    })
}

fn home(args: &DrillArgs, settings: &Settings) -> PathBuf {
    let temporary = std::env::var_os("TMPDIR").filter(|t| !t.is_empty());
    let given = args.home.clone().or_else(|| temporary.map(PathBuf::from));
    given.unwrap_or_else(|| settings.drill.home.clone())
}

/// Who says so, or became root for it, or runs it.
fn operator(args: &DrillArgs) -> String {
    if args.scheduled {
        return "agent".to_owned();
    }
    if let Some(name) = args.by.name() {
        return name.to_owned();
    }
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter();
    let mut names = named.filter_map(|name| std::env::var(name).ok());
    let name = names.find(|n| !n.is_empty() && !n.chars().any(char::is_control));
    name.unwrap_or_else(|| crate::agent::actor(None))
}

fn random() -> anyhow::Result<u64> {
    let mut seed = [0; 8];
    getrandom(&mut seed, GetRandomFlags::empty()).context("cannot draw a seed")?;
    // Short enough to be typed again.
    Ok(u64::from_le_bytes(seed) % 1_000_000_000)
}

fn refused(why: &str, as_json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if as_json {
        writeln!(out, "{:#}", json!({ "refused": why }))?;
    } else {
        writeln!(io::stderr(), "refused: {why}")?;
    }
    Ok(REFUSED)
}
