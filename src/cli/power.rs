//! `holdup power measure|rehearse|history`: how long the supply lasts, and whether the plan fits.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use crate::agent::{ControlAnswer, ControlRequest, HistoryEntry, RehearsalReport, read_history};
use crate::config::{self, Settings, Source};

use super::{connect, is_late, status};

#[derive(Debug, Subcommand)]
pub(super) enum PowerVerb {
    /// Measure the hold-up time at the next loss: arms it, then you pull the plug.
    Measure {
        /// Do not ask; the gateway will lose power.
        #[arg(long, conflicts_with = "cancel")]
        yes: bool,
        /// Take an armed measurement back.
        #[arg(long)]
        cancel: bool,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Run the whole plan now, with the power on, and say whether it would have fitted.
    Rehearse {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The hold-up times that were measured, and how the supply ages.
    History {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

impl PowerVerb {
    pub(super) fn wants_json(&self) -> bool {
        match self {
            Self::Measure { json, .. } | Self::Rehearse { json } | Self::History { json } => *json,
        }
    }
}

/// Refused: exit code 3.
const REFUSED: u8 = 3;

pub(super) fn run(config: &Path, verb: &PowerVerb, out: &mut dyn Write) -> anyhow::Result<u8> {
    let settings = config::load(config)?.settings;
    match verb {
        PowerVerb::Measure { yes, cancel, json } => measure(&settings, *yes, *cancel, *json, out),
        PowerVerb::Rehearse { json } => rehearse(&settings, *json, out),
        PowerVerb::History { json } => history(&settings, *json, out),
    }
}

fn measure(
    settings: &Settings,
    yes: bool,
    cancel: bool,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    if !yes && !cancel && !confirmed()? {
        return refused(
            "the gateway will lose power: confirm it, or give --yes",
            json,
            out,
        );
    }
    let request = match cancel {
        true => ControlRequest::Disarm,
        false => ControlRequest::Measure,
    };
    match talk(
        &settings.gateway.control_socket(),
        request,
        PATIENCE,
        &mut |_| {},
    )? {
        Talk::Answer(ControlAnswer::Armed(true)) if json => {
            writeln!(out, "{:#}", json!({ "armed": true, "for_s": 1800 }))?;
            Ok(0)
        }
        Talk::Answer(ControlAnswer::Armed(false)) if json => {
            writeln!(out, "{:#}", json!({ "armed": false }))?;
            Ok(0)
        }
        Talk::Answer(ControlAnswer::Armed(false)) => {
            writeln!(out, "the next loss of power is not measured")?;
            Ok(0)
        }
        Talk::Answer(ControlAnswer::Armed(true)) => {
            let from = match settings.power.source {
                Source::Capacitor => "the first lost edge",
                Source::Battery => "the moment the battery is low (let it run down)",
            };
            writeln!(
                out,
                "armed for 30 minutes, for one loss; a restart of the agent disarms it\n\
                 now pull the plug of the supply's input, and leave it out until the gateway is dark\n\
                 measured is from {from} to the last stamp that the card took\n\
                 then plug it in: `holdup power history` says what it gave\n\
                 (the stamps load the card: what you get is a worst case)"
            )?;
            Ok(0)
        }
        other @ (Talk::Answer(_) | Talk::NotAllowed(_)) => other.refuse(json, out),
    }
}

fn confirmed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut ask = io::stderr();
    write!(
        ask,
        "the next loss of power will be measured until the gateway is dark; go on? [y/N] "
    )?;
    ask.flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn rehearse(settings: &Settings, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let progress = !json && io::stderr().is_terminal();
    let mut begun = |answer: &ControlAnswer| {
        if progress && matches!(answer, ControlAnswer::Rehearsing(_)) {
            // Progress is a courtesy.
            writeln!(io::stderr(), "rehearsing: clients are paused ...").ok();
        }
    };
    // Nothing is predicted where no agent tells; the request then says why.
    let predicted = status::ask(settings).map_or(0, |s| s.predicted_ms);
    let silence = longest_rehearsal(Duration::from_millis(predicted), settings.power.restore);
    let path = settings.gateway.control_socket();
    let report = match talk(&path, ControlRequest::Rehearse, silence, &mut begun)? {
        Talk::Answer(ControlAnswer::Rehearsed(report)) => report,
        other @ (Talk::Answer(_) | Talk::NotAllowed(_)) => return other.refuse(json, out),
    };
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&report, out)?;
    }
    Ok(u8::from(report.made_it != Some(true)))
}

fn print(r: &RehearsalReport, out: &mut dyn Write) -> anyhow::Result<()> {
    let ms = |us: Option<u64>| us.map_or_else(String::new, |us| format!("{:.1}", us as f64 / 1e3));
    writeln!(
        out,
        "{:>10}  {:>9}  {:>9}  {:>9}  step (times in ms)",
        "at", "took", "predicted", "worst"
    )?;
    for s in &r.plan.steps {
        let database = s.database.as_deref().unwrap_or("");
        let why = s
            .why
            .as_ref()
            .map_or_else(String::new, |w| format!(": {w}"));
        writeln!(
            out,
            "{:>10.1}  {:>9.1}  {:>9}  {:>9}  {} {database} {}{why}",
            s.at_ms(),
            s.took_us as f64 / 1e3,
            ms(s.expected_us),
            ms(s.worst_us),
            s.step,
            s.outcome
        )?;
    }
    writeln!(
        out,
        "predicted before: {} ms at worst, of which {} ms glitch time",
        r.predicted_ms, r.glitch_ms
    )?;
    let used = r.used_ms.map_or_else(
        || "not everything became durable".to_owned(),
        |ms| format!("everything durable {ms:.1} ms after the edge"),
    );
    match (r.holdup_ms, r.used_percent) {
        (Some(holdup), Some(percent)) => {
            writeln!(
                out,
                "{used}: {percent} % of the hold-up time of {holdup} ms"
            )?;
        }
        (Some(holdup), None) => writeln!(out, "{used}; the hold-up time is {holdup} ms")?,
        (None, _) => writeln!(out, "{used}")?,
    }
    if r.overtaken {
        writeln!(
            out,
            "power was really lost in the middle: the real plan followed at once"
        )?;
    }
    let verdict = match r.made_it {
        Some(true) => "a loss at this moment would have been survived in time".to_owned(),
        Some(false) => format!(
            "a loss at this moment would NOT have been survived in time ({} ms were left)",
            r.left_ms
        ),
        None => "nobody knows whether that is in time: measure the supply with \
                 `holdup power measure` and set power.holdup_ms"
            .to_owned(),
    };
    writeln!(out, "{verdict}")?;
    Ok(())
}

fn history(settings: &Settings, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let path = settings.gateway.holdup_history_path();
    let history = read_history(&path)?;
    let entries = history.measurements;
    if json {
        let answer = json!({ "measurements": entries, "damage": history.damage });
        writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
        return Ok(0);
    }
    if let Some(why) = history.damage {
        writeln!(
            io::stderr(),
            "holdup: {} is damaged ({why}): the agent sets it aside, look at it there",
            path.display()
        )?;
    }
    if entries.is_empty() {
        writeln!(
            out,
            "nothing was measured yet: `holdup power measure`, then pull the plug"
        )?;
        return Ok(0);
    }
    for (i, e) in entries.iter().enumerate() {
        let clock = if e.synchronised {
            ""
        } else {
            " (clock not set)"
        };
        let least = if e.at_least { "at least " } else { "" };
        // Files of older versions proposed on a lower bound, too.
        let proposed = e
            .proposed_ms
            .filter(|_| !e.at_least)
            .map_or_else(String::new, |p| format!(", propose {p} ms"));
        let configured = e
            .configured_ms
            .map_or_else(|| "none".to_owned(), |c| format!("{c} ms"));
        writeln!(
            out,
            "{}{clock}  {} {}: {least}{:.0} ms (+{:.0} ms){}; configured then {configured}{proposed}; card {}",
            e.at,
            e.board,
            e.source,
            e.gave_ms,
            e.resolution_ms,
            change(&entries[..i], e),
            e.card
        )?;
    }
    Ok(0)
}

/// Against the first measurement of the same supply; what only says "at least" compares with
/// nothing.
fn change(before: &[HistoryEntry], e: &HistoryEntry) -> String {
    let same = |o: &&HistoryEntry| o.board == e.board && o.source == e.source && !o.at_least;
    match before.iter().find(same) {
        Some(first) if !e.at_least && first.gave_ms > 0.0 => {
            let percent = (e.gave_ms / first.gave_ms - 1.0) * 100.0;
            format!(", {percent:+.0} % since {}", first.at)
        }
        Some(_) | None => String::new(),
    }
}

/// How a talk with the agent ended.
pub(super) enum Talk {
    Answer(ControlAnswer),
    NotAllowed(String),
}

impl Talk {
    pub(super) fn refuse(self, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
        match self {
            Self::Answer(ControlAnswer::Refused(why)) | Self::NotAllowed(why) => {
                refused(&why, json, out)
            }
            Self::Answer(other) => anyhow::bail!("the agent's answer is not understood: {other:?}"),
        }
    }
}

pub(super) fn refused(why: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    if json {
        writeln!(out, "{:#}", json!({ "refused": why }))?;
    } else {
        writeln!(io::stderr(), "holdup: refused: {why}")?;
    }
    Ok(REFUSED)
}

/// The agent answers a request within milliseconds; longer than this and it is not well.
const PATIENCE: Duration = Duration::from_secs(5);
/// A rehearsal says nothing while its steps run. A card that stalls takes many times what was
/// predicted, and that is what a rehearsal is to find out: this is waited beyond it.
const STALL: Duration = Duration::from_secs(60);

/// How long a rehearsal may be silent once it has begun: twice what its steps were predicted to
/// take, the time for which it stays parked, and a stall.
fn longest_rehearsal(predicted: Duration, restore: Duration) -> Duration {
    predicted
        .saturating_mul(2)
        .saturating_add(restore)
        .saturating_add(STALL)
}

/// Asks the agent and reads to its last answer; `also` sees each. `silence` is how long a
/// rehearsal that has begun may say nothing.
pub(super) fn talk(
    path: &Path,
    request: ControlRequest,
    silence: Duration,
    also: &mut dyn FnMut(&ControlAnswer),
) -> anyhow::Result<Talk> {
    let mut patience = match request {
        ControlRequest::Rehearse
        | ControlRequest::Measure
        | ControlRequest::Disarm
        | ControlRequest::Enter { .. }
        | ControlRequest::Backup => PATIENCE,
        // The agent answers after the audit log and the store, of which each has its time.
        ControlRequest::Retract { .. } | ControlRequest::Unretract { .. } => 4 * PATIENCE,
        ControlRequest::Reset(_) => silence,
    };
    let stream = match connect(path, patience) {
        Ok(stream) => stream,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let why = format!("{} is for root and the agent's user alone", path.display());
            return Ok(Talk::NotAllowed(why));
        }
        Err(e) if is_late(&e) => return Err(silent(path, patience)),
        Err(e) => {
            return Err(e).with_context(|| {
                format!(
                    "cannot reach {}: start the agent with `holdup run`",
                    path.display()
                )
            });
        }
    };
    let heard = |e: io::Error, patience| {
        if is_late(&e) {
            silent(path, patience)
        } else {
            anyhow::Error::new(e).context(format!("no answer from {}", path.display()))
        }
    };
    writeln!(&stream, "{}", serde_json::to_string(&request)?).map_err(|e| heard(e, patience))?;
    let (mut last, mut begun) = (None, false);
    for line in BufReader::new(&stream).lines() {
        let line = line.map_err(|e| heard(e, patience))?;
        let answer = serde_json::from_str(&line).context("the agent's answer is not understood")?;
        also(&answer);
        match &answer {
            ControlAnswer::Rehearsing(_) => {
                begun = true;
                patience = silence;
                stream.set_read_timeout(Some(patience))?;
            }
            // What has begun can no longer be refused.
            ControlAnswer::Refused(why) if begun => anyhow::bail!("{why}"),
            ControlAnswer::Refused(_)
            | ControlAnswer::Rehearsed(_)
            | ControlAnswer::Armed(_)
            | ControlAnswer::Step(_)
            | ControlAnswer::BackedUp(_)
            | ControlAnswer::Failed(_)
            | ControlAnswer::Entered(_)
            | ControlAnswer::Reset(_)
            | ControlAnswer::Retracted(_) => {}
        }
        last = Some(answer);
    }
    match last {
        Some(ControlAnswer::Rehearsing(_)) => anyhow::bail!("the agent stopped in the middle"),
        Some(answer) => Ok(Talk::Answer(answer)),
        None => anyhow::bail!("{} closed without an answer", path.display()),
    }
}

fn silent(path: &Path, patience: Duration) -> anyhow::Error {
    anyhow::anyhow!(
        "the agent does not answer: nothing came from {} for {} s; look at `journalctl -u holdup`, \
         restart it",
        path.display(),
        patience.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Talks to an agent that says this, and then nothing, or closes.
    fn told(says: &str, closes: bool) -> anyhow::Result<Talk> {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("control.sock");
        let agent = UnixListener::bind(&path).expect("bind");
        std::thread::scope(|s| {
            let client = s.spawn(|| {
                let silence = Duration::from_millis(20);
                talk(&path, ControlRequest::Rehearse, silence, &mut |_| {})
            });
            let (mut stream, _) = agent.accept().expect("accept");
            let mut line = String::new();
            BufReader::new(&stream)
                .read_line(&mut line)
                .expect("request");
            stream.write_all(says.as_bytes()).expect("say");
            let open = (!closes).then_some(stream);
            let end = client.join().expect("client");
            drop(open);
            end
        })
    }

    #[test]
    fn a_rehearsal_that_falls_silent_or_is_cut_off_in_the_middle_is_an_error() {
        for (says, closes, why) in [
            ("{\"rehearsing\":true}\n", false, "does not answer"),
            (
                "{\"rehearsing\":true}\n",
                true,
                "the agent stopped in the middle",
            ),
            (
                "{\"rehearsing\":true}\n{\"refused\":\"the agent stopped in the middle\"}\n",
                true,
                "the agent stopped in the middle",
            ),
        ] {
            let e = told(says, closes).err().expect("an error");
            assert!(e.to_string().contains(why), "{e}");
        }
        let refused = told("{\"refused\":\"parked\"}\n", true).expect("an answer");
        assert!(matches!(refused, Talk::Answer(ControlAnswer::Refused(_))));
    }

    #[test]
    fn a_rehearsal_may_be_silent_for_its_steps_its_rest_and_a_stall() {
        let s = Duration::from_secs;
        assert_eq!(longest_rehearsal(s(3), s(10)), s(76));
        assert_eq!(longest_rehearsal(Duration::MAX, s(10)), Duration::MAX);
    }
}
