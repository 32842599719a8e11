//! The page's charts: bars in inline SVG, in shares of their width, so that they fit any.

use std::fmt;

use super::super::evidence::{Evidence, Outcome, PhaseName, Took};
use super::{Grouped, Safe};

/// A bar that is there is seen, in percent of the width.
const LEAST: f64 = 0.35;

/// One bar a scenario, stacked of its phases, and below it what of the RTO was used.
pub(super) fn phases(f: &mut fmt::Formatter<'_>, e: &Evidence) -> fmt::Result {
    let whole = e.scenarios.iter().map(Outcome::took_ms).fold(0.0, f64::max);
    let rto = e.rto_s as f64 * 1000.0;
    writeln!(
        f,
        "<figure>\n<figcaption>Upper bar: each phase, all scenarios to one scale of {}. Lower bar: \
         recover and compare, which a site waits for, of the {} allowed.</figcaption>\n<div class=\"bars\">",
        Took(whole),
        Took(rto),
    )?;
    for o in &e.scenarios {
        let share = 100.0 * o.recovery_ms / rto.max(1.0);
        let shown = if share > 0.0 && share < 0.1 {
            "under 0.1 %".to_owned()
        } else {
            format!("{share:.1} %")
        };
        name(
            f,
            &o.scenario,
            &format!("{}, {shown} of RTO", Took(o.recovery_ms)),
            |f| {
                write!(
                    f,
                    "<svg height=\"26\" role=\"img\" aria-label=\"{}: {}; {shown} of the time allowed\">",
                    Safe(&o.scenario),
                    told(o)
                )?;
                let mut at = 0.0;
                for p in PhaseName::ALL {
                    let Some(ms) = o.phase_ms(p) else { continue };
                    let wide = 100.0 * ms / whole.max(0.001);
                    write!(
                        f,
                        "<rect class=\"{}\" x=\"{at:.3}%\" y=\"0\" width=\"{wide:.3}%\" height=\"16\"><title>{} {}</title></rect>",
                        class(p),
                        p.name(),
                        Took(ms)
                    )?;
                    at += wide;
                }
                bar(f, 20.0, 6.0, share, share > 100.0)?;
                f.write_str("</svg>")
            },
        )?;
    }
    writeln!(f, "</div>\n<p class=\"legend\">")?;
    let held = |p: &PhaseName| e.scenarios.iter().any(|o| o.phase_ms(*p).is_some());
    for p in PhaseName::ALL.into_iter().filter(held) {
        writeln!(f, "<span><i class=\"{}\"></i>{}</span>", class(p), p.name())?;
    }
    writeln!(f, "</p>\n</figure>")
}

/// What was found, of what was expected.
pub(super) fn rows(f: &mut fmt::Formatter<'_>, e: &Evidence) -> fmt::Result {
    writeln!(
        f,
        "<figure>\n<figcaption>Full width: every row that should be there.</figcaption>\n<div class=\"bars\">"
    )?;
    for o in &e.scenarios {
        let (Some(expected), Some(found)) = (&o.expected, &o.found) else {
            name(f, &o.scenario, "not reached", |f| {
                f.write_str("<svg height=\"12\" role=\"img\" aria-label=\"not reached\">")?;
                bar(f, 0.0, 12.0, 0.0, true)?;
                f.write_str("</svg>")
            })?;
            continue;
        };
        let words = format!(
            "{} of {} {}",
            Grouped(found.count),
            Grouped(expected.count),
            o.what
        );
        let share = 100.0 * found.count as f64 / (expected.count as f64).max(1.0);
        let lacks = found.count < expected.count || found.sha256 != expected.sha256;
        name(f, &o.scenario, &words, |f| {
            write!(
                f,
                "<svg height=\"12\" role=\"img\" aria-label=\"{}\">",
                Safe(&words)
            )?;
            bar(f, 0.0, 12.0, share, lacks)?;
            f.write_str("</svg>")
        })?;
    }
    writeln!(f, "</div>\n</figure>")
}

/// A row of a chart.
fn name(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    value: &str,
    bar: impl FnOnce(&mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    // On a narrow screen the bar goes below; its order in the source stays for those who listen.
    let name = Safe(name);
    write!(
        f,
        "<div class=\"row\"><span class=\"name\">{name}</span><span class=\"bar\">"
    )?;
    bar(f)?;
    writeln!(
        f,
        "</span><span class=\"value\">{}</span></div>",
        Safe(value)
    )
}

fn bar(f: &mut fmt::Formatter<'_>, y: f64, height: f64, share: f64, bad: bool) -> fmt::Result {
    let wide = if share > 0.0 {
        share.clamp(LEAST, 100.0)
    } else {
        0.0
    };
    let fill = if bad { "fill-bad" } else { "fill-good" };
    write!(
        f,
        "<rect class=\"track\" x=\"0\" y=\"{y}\" width=\"100%\" height=\"{height}\"/>\
         <rect class=\"{fill}\" x=\"0\" y=\"{y}\" width=\"{wide:.3}%\" height=\"{height}\"/>"
    )
}

const fn class(p: PhaseName) -> &'static str {
    match p {
        PhaseName::Baseline => "baseline",
        PhaseName::Backup => "backup",
        PhaseName::Damage => "damage",
        PhaseName::Recover => "recover",
        PhaseName::Compare => "compare",
        PhaseName::CleanUp => "clean-up",
    }
}

fn told(o: &Outcome) -> String {
    let each = PhaseName::ALL.into_iter();
    let words = each.filter_map(|p| Some(format!("{} {}", p.name(), Took(o.phase_ms(p)?))));
    words.collect::<Vec<_>>().join(", ")
}
