//! `holdup media`: how the medium under the data is, by what, and what to do.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::agent::Status;
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::durable::read_own_if_there;
use crate::media::{
    Asked, Evidence, History, Layout, Probe, Report, Says, Tree, Verdict, examine, in_words,
};

use super::Usage;

/// What is remembered is never longer.
const LARGEST: u64 = 1 << 20;
/// A technician's terminal.
const COLUMNS: usize = 80;
/// Where values begin.
const INDENT: usize = 12;
const REFUSED: u8 = 3;

/// See [`run`].
#[derive(Debug, Args)]
pub(super) struct MediaArgs {
    /// As one JSON object.
    #[arg(long)]
    json: bool,
    /// Ask the card for its maker's health page although it is not on the list of cards that
    /// answer, or must be written to first. May stall writes for a second; some cards must be
    /// unplugged afterwards. LAYOUT: sandisk, longsys, innodisk, adata, transcend, micron,
    /// swissbit, kingston or apacer, where the card's id does not tell.
    #[arg(long, value_name = "LAYOUT", num_args = 0..=1, default_missing_value = "")]
    probe_vendor: Option<String>,
    /// The medium under this directory, instead of gateway.data_dir.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Look at a copied tree of /sys, /proc and /dev/kmsg below this folder.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
}

impl MediaArgs {
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }

    fn probe(&self) -> anyhow::Result<Probe> {
        Ok(match self.probe_vendor.as_deref() {
            None => Probe::Listed,
            Some("") => Probe::Asked(None),
            Some(name) => match Layout::named(name) {
                Some(layout) => Probe::Asked(Some(layout)),
                None => {
                    let all: Vec<_> = Layout::ALL.iter().map(|l| l.name()).collect();
                    let all = all.join(", ");
                    return Err(Usage::new(format!(
                        "no layout \"{name}\"; there are: {all}"
                    )));
                }
            },
        })
    }
}

/// Prints the report; 1 where the medium should be replaced, 3 where it may not be asked now.
pub(super) fn run(config_path: &Path, args: &MediaArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let probe = args.probe()?;
    let tree = Tree::new(&args.root);
    if !args.root.is_dir() {
        return Err(Usage::new(format!(
            "{} is not a folder",
            args.root.display()
        )));
    }
    // A copied tree is looked at on a desk, where no gateway is configured.
    let settings = match (config::load(config_path), &args.dir) {
        (Ok(loaded), _) => Some(loaded.settings),
        (Err(_), Some(_)) => None,
        (Err(e), None) => return Err(e.into()),
    };
    let status = settings
        .as_ref()
        .filter(|_| tree.is_live())
        .and_then(|s| super::status::ask(s).ok());
    if let (Probe::Asked(_), Some(why)) = (probe, status.as_ref().and_then(not_now)) {
        return refuse(args, out, &why);
    }
    let dir = match (&args.dir, &settings) {
        (Some(dir), _) => dir.clone(),
        (None, Some(s)) => s.gateway.data_dir.clone(),
        (None, None) => return Err(Usage::new("name the directory with --dir".to_owned())),
    };
    if !dir.is_absolute() {
        return Err(Usage::new(format!("{} is not absolute", dir.display())));
    }
    // Of another directory's medium the agent's times say nothing.
    let own = args.dir.is_none();
    let history = settings
        .as_ref()
        .filter(|_| own)
        .and_then(|s| read_own_if_there(&tree.at(s.gateway.media_path()), LARGEST).ok()?)
        .map_or_else(History::default, |bytes| History::parse(&bytes));
    let known = status.filter(|_| own).map(|s| s.media);
    let report = examine(
        &tree,
        Asked {
            dir: &dir,
            probe,
            latency: known.as_ref().and_then(|m| m.latency),
            amplification: known.as_ref().and_then(|m| m.bytes_per_reading),
            history: &history,
            now_ms: SystemClock.wall().as_millis(),
        },
    );
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&report, &dir, out)?;
    }
    Ok(u8::from(report.judgement.verdict.is_bad()))
}

/// Why the card is not to be bothered now.
fn not_now(s: &Status) -> Option<String> {
    (s.supply != "Good").then(|| {
        format!(
            "the supply is {}: a card that is asked may stall for a second; ask when it is Good",
            s.supply
        )
    })
}

fn refuse(args: &MediaArgs, out: &mut dyn Write, why: &str) -> anyhow::Result<u8> {
    if args.json {
        writeln!(out, "{}", json!({ "error": why }))?;
    } else {
        writeln!(out, "refused: {why}")?;
    }
    Ok(REFUSED)
}

fn print(r: &Report, dir: &Path, out: &mut dyn Write) -> std::io::Result<()> {
    row(out, "medium", &medium(r))?;
    row(
        out,
        "holds",
        &format!("{}: {}", dir.display(), r.layers.join(", ")),
    )?;
    if let Some(before) = &r.swapped_from {
        row(
            out,
            "",
            &format!("- it is another medium than before: {before}"),
        )?;
    }
    let j = &r.judgement;
    let verdict = j.verdict.to_string().to_uppercase();
    row(
        out,
        "verdict",
        &format!("{verdict} (confidence: {})", j.confidence),
    )?;
    row(out, "", &j.why)?;
    for (n, step) in next(r).iter().enumerate() {
        row(
            out,
            if n == 0 { "to do" } else { "" },
            &format!("{}. {step}", n + 1),
        )?;
    }
    if j.suspects.len() > 1 {
        let order: Vec<_> = j.suspects.iter().map(|s| s.suspect.to_string()).collect();
        row(out, "rule out", &order.join(", then "))?;
    }
    match &r.forecast {
        None => row(out, "replace by", "nothing to go by")?,
        Some(f) => {
            let (from, to) = (in_words(f.from_days), in_words(f.to_days));
            let range = if f.from_days == f.to_days {
                format!("in {from}")
            } else {
                format!("between {from} and {to} from now")
            };
            row(out, "replace by", &format!("{range}; by {}", f.by))?;
            row(out, "", &format!("assumes {}", f.assumes))?;
        }
    }
    if let Some(bytes) = r.bytes_per_reading {
        let words = format!("{bytes:.0} bytes reach the medium for each acknowledged reading");
        row(out, "writes", &words)?;
    }
    for (n, e) in r.evidence.iter().enumerate() {
        row(out, if n == 0 { "evidence" } else { "" }, &observation(e))?;
    }
    Ok(())
}

fn medium(r: &Report) -> String {
    let it = &r.identity;
    let mut words = vec![r.name()];
    words.extend(it.likely_maker.as_ref().map(|m| format!("likely {m}")));
    words.extend(it.made.as_ref().map(|m| format!("made {m}")));
    words.extend(it.capacity_class.clone());
    words.extend(r.bytes.map(|b| format!("{:.1} GB", b as f64 / 1e9)));
    words.extend(it.speed.clone());
    words.join(", ")
}

fn observation(e: &Evidence) -> String {
    let says = match e.says {
        Says::Good => "good",
        Says::Note => "noted",
        Says::Unknown => "unknown",
        Says::Watch => "WATCH",
        Says::ReplaceSoon => "REPLACE SOON",
        Says::ReplaceNow => "REPLACE NOW",
    };
    format!("[{says}] {}: {}", e.source, e.value)
}

/// What to do, the first thing first.
fn next(r: &Report) -> Vec<String> {
    let mut steps: Vec<String> = Vec::new();
    for s in r.judgement.suspects.iter().flat_map(|s| &s.remedies) {
        if !steps.contains(s) {
            steps.push(s.clone());
        }
    }
    match r.judgement.verdict {
        Verdict::Good => steps.push("nothing now".to_owned()),
        Verdict::Unknown => {
            steps.push("keep backups young: this medium may fail without a warning".to_owned());
        }
        Verdict::Watch | Verdict::ReplaceSoon | Verdict::ReplaceNow if steps.is_empty() => {
            steps.push("take a backup and look again tomorrow".to_owned());
        }
        Verdict::Watch | Verdict::ReplaceSoon | Verdict::ReplaceNow => {}
    }
    for remedy in r.evidence.iter().filter(|e| e.says == Says::Unknown) {
        if !remedy.remedy.is_empty() && !steps.contains(&remedy.remedy) {
            steps.push(remedy.remedy.clone());
        }
    }
    steps
}

/// A name and its value, broken at blanks.
fn row(out: &mut dyn Write, name: &str, value: &str) -> std::io::Result<()> {
    let mut line = format!("{name:<width$}", width = INDENT - 1);
    let mut length = line.chars().count();
    for word in value.split(' ').filter(|w| !w.is_empty()) {
        let wide = word.chars().count();
        if length > INDENT && length + 1 + wide > COLUMNS {
            writeln!(out, "{}", line.trim_end())?;
            line = " ".repeat(INDENT - 1);
            length = INDENT - 1;
        }
        line.push(' ');
        line.push_str(word);
        length += 1 + wide;
    }
    writeln!(out, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_broken_at_80_columns() {
        let mut out = Vec::new();
        let value = "word ".repeat(60) + &"x".repeat(100);
        row(&mut out, "evidence", &value).expect("memory");
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<_> = text.lines().collect();
        let (last, all) = lines.split_last().expect("lines");
        assert!(all.iter().all(|l| l.len() <= COLUMNS), "{text}");
        assert_eq!(last.trim().len(), 100, "one word is not broken");
        assert!(lines[1].starts_with("            word"), "{text}");
    }

    #[test]
    fn an_unknown_medium_is_called_unknown_and_tells_what_to_do() {
        let mut out = Vec::new();
        let report = Report {
            judgement: crate::media::judge(&mut []),
            ..Report::default()
        };
        print(&report, Path::new("/data"), &mut out).expect("memory");
        let text = String::from_utf8(out).expect("text");
        assert!(
            text.contains("verdict     UNKNOWN (confidence: none)"),
            "{text}"
        );
        assert!(text.contains("keep backups young"), "{text}");
        assert!(!text.to_lowercase().contains("good"), "{text}");
    }
}
