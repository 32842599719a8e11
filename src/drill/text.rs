//! The evidence for a terminal, a log or a mail.

use std::fmt::Write as _;

use super::evidence::{Evidence, Outcome, PhaseName, Rows, Took, Verdict};

/// The evidence table, in plain text of at most 100 columns but for long notes.
pub fn text(e: &Evidence) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(format!("drill of {} on {}", e.began, e.gateway));
    line(format!("held by    {} ({})", e.operator, e.reason));
    let unsure = if e.synchronised {
        ""
    } else {
        "; no time server had set the clock"
    };
    line(format!(
        "holdup     {} on {}, home on {}{unsure}",
        e.holdup, e.system, e.medium
    ));
    line(format!(
        "scale      {} readings before each disaster",
        e.rows
    ));
    line(String::new());
    line(format!(
        "{:<18} {:<5} {:>9} {:>21} {:>13} {:>10}",
        "scenario", "", "recovered", "rows found/expected", "backup's age", "integrity"
    ));
    for o in &e.scenarios {
        line(row(o));
    }
    line(String::new());
    for o in &e.scenarios {
        line(format!("{}: {}", o.scenario, o.title));
        line(format!("  time       {}", phases(o)));
        for why in &o.failures {
            line(format!("  FAILED     {why}"));
        }
        for note in &o.notes {
            line(format!("  note       {note}"));
        }
    }
    line(String::new());
    let (passes, of) = (e.passes(), e.scenarios.len());
    let rto = Took(e.rto_s as f64 * 1000.0);
    let verdict = if e.passed { "PASSED" } else { "FAILED" };
    line(format!(
        "{verdict}: {passes} of {of} scenarios, {} in all; a recovery may take {rto}",
        Took(e.took_ms)
    ));
    out
}

fn row(o: &Outcome) -> String {
    let verdict = match o.verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
    };
    let count = |r: &Option<Rows>| {
        r.as_ref()
            .map_or_else(|| "-".to_owned(), |r| r.count.to_string())
    };
    let age = o.backup.as_ref().map(|b| Took(b.age_ms as f64).to_string());
    let mut words = format!(
        "{:<18} {verdict:<5} {:>9} {:>21} {:>13}",
        o.scenario,
        Took(o.recovery_ms).to_string(),
        format!("{}/{}", count(&o.found), count(&o.expected)),
        age.as_deref().unwrap_or("-"),
    );
    let _infallible = write!(words, " {:>10}", o.integrity.as_deref().unwrap_or("-"));
    words
}

/// `baseline 0.8 s, damage 1 ms, ...`
fn phases(o: &Outcome) -> String {
    let each = PhaseName::ALL.into_iter();
    let words = each.filter_map(|p| Some(format!("{} {}", p.name(), Took(o.phase_ms(p)?))));
    words.collect::<Vec<_>>().join(", ")
}
