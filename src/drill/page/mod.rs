//! The evidence as one page: no network, no script, no font but the reader's own; for a screen of
//! any width, by day and night, and for A4.

mod chart;

use std::fmt::{self, Write as _};

use super::evidence::{Evidence, Outcome, PhaseName, Rows, Took, Verdict};

const STYLE: &str = include_str!("style.css");

/// The page.
pub fn html(e: &Evidence) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _infallible = write!(out, "{}", Page(e));
    out
}

/// Text that means nothing to HTML.
pub(super) struct Safe<T>(pub(super) T);

impl<T: fmt::Display> fmt::Display for Safe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// `1 000 000`, with spaces that do not break.
pub(super) struct Grouped(pub(super) u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (at, c) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                f.write_char('\u{202f}')?;
            }
            f.write_char(c)?;
        }
        Ok(())
    }
}

struct Page<'a>(&'a Evidence);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = self.0;
        write!(
            f,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <title>Recovery drill of {}, {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
            Safe(&e.gateway),
            Safe(day(&e.began)),
        )?;
        head(f, e)?;
        facts(f, e)?;
        writeln!(f, "<h2>Time by phase</h2>")?;
        chart::phases(f, e)?;
        writeln!(f, "<h2>Rows expected and found</h2>")?;
        chart::rows(f, e)?;
        writeln!(f, "<h2 class=\"sheet\">Evidence</h2>")?;
        table(f, e)?;
        writeln!(f, "<h2>What was seen</h2>")?;
        for o in &e.scenarios {
            article(f, o)?;
        }
        foot(f, e)?;
        f.write_str("</body>\n</html>\n")
    }
}

/// `2026-11-21`
fn day(began: &str) -> &str {
    began.split('T').next().unwrap_or(began)
}

/// `2026-11-21 15:40:12 UTC`
fn moment(began: &str) -> String {
    let seconds = began.split('.').next().unwrap_or(began);
    format!("{} UTC", seconds.replacen('T', " ", 1))
}

/// The time of day, where the day is the drill's own.
fn time_of(scenario: &str, drill: &str) -> String {
    let whole = moment(scenario);
    let own = format!("{} ", day(drill));
    whole
        .strip_prefix(&own)
        .map_or(whole.clone(), str::to_owned)
}

fn badge(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Pass => ("pass", "Passed"),
        Verdict::Fail => ("fail", "Failed"),
    }
}

fn head(f: &mut fmt::Formatter<'_>, e: &Evidence) -> fmt::Result {
    let verdict = if e.passed {
        Verdict::Pass
    } else {
        Verdict::Fail
    };
    let (class, word) = badge(verdict);
    let held = if e.reason == "schedule" {
        "on schedule by the"
    } else {
        "by"
    };
    writeln!(
        f,
        "<header>\n<div><h1>Recovery drill of {}</h1>\n<p class=\"soft\">Held {} {held} {}</p></div>\n\
         <p class=\"badge {class}\">{word}</p>\n</header>",
        Safe(&e.gateway),
        Safe(moment(&e.began)),
        Safe(&e.operator),
    )
}

fn facts(f: &mut fmt::Formatter<'_>, e: &Evidence) -> fmt::Result {
    let slowest = e
        .scenarios
        .iter()
        .map(|o| o.recovery_ms)
        .fold(0.0, f64::max);
    let compared: u64 = found(e).iter().map(|(_, found)| found).sum();
    let missing: u64 = (found(e).iter())
        .map(|(expected, found)| expected.saturating_sub(*found))
        .sum();
    writeln!(f, "<dl class=\"facts\">")?;
    let mut fact =
        |name: &str, value: String| writeln!(f, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    fact(
        "Scenarios passed",
        format!("{} of {}", e.passes(), e.scenarios.len()),
    )?;
    let rto = Took(e.rto_s as f64 * 1000.0);
    fact(
        "Slowest recovery",
        format!("{} of {rto} allowed", Took(slowest)),
    )?;
    fact("Rows compared", Grouped(compared).to_string())?;
    fact("Rows missing", Grouped(missing).to_string())?;
    writeln!(f, "</dl>")
}

/// Rows expected and found of each scenario.
fn found(e: &Evidence) -> Vec<(u64, u64)> {
    let count = |r: &Option<Rows>| r.as_ref().map_or(0, |r| r.count);
    let each = e.scenarios.iter();
    each.map(|o| (count(&o.expected), count(&o.found)))
        .collect()
}

fn table(f: &mut fmt::Formatter<'_>, e: &Evidence) -> fmt::Result {
    const HEADS: [(&str, &str); 7] = [
        ("Scenario", ""),
        ("Result", ""),
        ("Recovered in", "number"),
        ("Rows found", "number"),
        ("Last id", "number"),
        ("Integrity", ""),
        ("Backup", ""),
    ];
    writeln!(f, "<table>\n<thead><tr>")?;
    for (head, class) in HEADS {
        writeln!(f, "<th class=\"{class}\">{head}</th>")?;
    }
    writeln!(f, "</tr></thead>\n<tbody>")?;
    for o in &e.scenarios {
        let (class, word) = badge(o.verdict);
        let last = |r: &Option<Rows>| {
            let id = r.as_ref().and_then(|r| r.last_id);
            id.map_or_else(|| "–".to_owned(), |id| id.to_string())
        };
        let rows = match (&o.found, &o.expected) {
            (Some(found), Some(expected)) => {
                let (found, expected) = (Grouped(found.count), Grouped(expected.count));
                format!("{found}<small>of {expected} {}</small>", Safe(&o.what))
            }
            (Some(_), None) | (None, _) => "not reached".to_owned(),
        };
        let backup = o.backup.as_ref().map_or_else(
            || "none used".to_owned(),
            |b| {
                let counts = if b.verified {
                    "verified"
                } else {
                    "NOT verified"
                };
                format!(
                    "{counts}, {} old<small>{}, {} bytes</small>",
                    Took(b.age_ms as f64),
                    Safe(&b.name),
                    Grouped(b.bytes)
                )
            },
        );
        let cells = [
            format!(
                "{}<small>{}</small>",
                Safe(&o.scenario),
                Safe(time_of(&o.began, &e.began))
            ),
            format!("<span class=\"badge {class}\">{word}</span>"),
            Took(o.recovery_ms).to_string(),
            rows,
            format!(
                "{}<small>expected {}</small>",
                last(&o.found),
                last(&o.expected)
            ),
            Safe(o.integrity.as_deref().unwrap_or("not reached")).to_string(),
            backup,
        ];
        writeln!(f, "<tr>")?;
        for ((head, class), cell) in HEADS.iter().zip(cells) {
            writeln!(
                f,
                "<td class=\"{class}\" data-head=\"{head}\"><span>{cell}</span></td>"
            )?;
        }
        writeln!(f, "</tr>")?;
    }
    writeln!(f, "</tbody>\n</table>")
}

fn article(f: &mut fmt::Formatter<'_>, o: &Outcome) -> fmt::Result {
    let (class, word) = badge(o.verdict);
    writeln!(
        f,
        "<article>\n<h3>{}</h3><span class=\"badge {class}\">{word}</span>\n<p>{}</p>",
        Safe(&o.scenario),
        Safe(&o.title),
    )?;
    writeln!(f, "<ul>")?;
    for why in &o.failures {
        writeln!(f, "<li class=\"bad\">{}</li>", Safe(why))?;
    }
    for note in &o.notes {
        writeln!(f, "<li>{}</li>", Safe(note))?;
    }
    let each = PhaseName::ALL.into_iter();
    let phases: Vec<_> = each
        .filter_map(|p| Some(format!("{} {}", p.name(), Took(o.phase_ms(p)?))))
        .collect();
    writeln!(
        f,
        "<li class=\"soft\">{}; seed {}</li>",
        phases.join(", "),
        o.seed
    )?;
    writeln!(f, "</ul>\n</article>")
}

fn foot(f: &mut fmt::Formatter<'_>, e: &Evidence) -> fmt::Result {
    let clock = if e.synchronised {
        "set by a time server"
    } else {
        "not known to be right: no time server had set it"
    };
    writeln!(
        f,
        "<div class=\"signed\"><span>Held by</span><span>Seen by</span><span>Date</span></div>\n\
         <footer><p>holdup {} on {}; the isolated home lay on {}; the clock was {clock}; {} readings \
         before each disaster; {} in all. Rows are compared one by one, with their contents.</p>\n\
         <p>Every gateway in this drill ran in a home of its own, on a simulated power supply: \
         nothing of the live gateway was opened or written.</p></footer>",
        Safe(&e.holdup),
        Safe(&e.system),
        Safe(&e.medium),
        Grouped(e.rows),
        Took(e.took_ms),
    )
}
