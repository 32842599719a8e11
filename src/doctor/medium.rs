//! The health of the medium under the data, as the room for that judges it.

use crate::agent::MediaStatus;
use crate::media::{Asked, History, Probe, Verdict, examine};

use super::{Check, Level, Patient};

const NAME: &str = "medium";

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    let told = p.agent.map(|s| &s.media).filter(|m| m.looked.is_some());
    let found = match told {
        Some(told) => told.clone(),
        None => looked_at(p),
    };
    out.push(judged(&found));
    if let Some(before) = &found.swapped_from {
        let remedy = "if that was not you, ask who; run `holdup power measure` again";
        out.push(Check::warn(
            NAME,
            format!("another medium than before, which was: {before}"),
            remedy,
        ));
    }
}

/// Without an agent, and for who may not ask it: what can be seen from here.
fn looked_at(p: &Patient<'_>) -> MediaStatus {
    let report = examine(
        &p.tree,
        Asked {
            dir: &p.settings.gateway.data_dir,
            probe: Probe::Never,
            latency: None,
            amplification: None,
            history: &History::default(),
            now_ms: 0,
        },
    );
    let name = report.device.is_some().then(|| report.name());
    let suspects = report.judgement.suspects;
    MediaStatus {
        verdict: report.judgement.verdict,
        confidence: report.judgement.confidence,
        why: report.judgement.why,
        name,
        remedies: suspects.into_iter().flat_map(|s| s.remedies).collect(),
        ..MediaStatus::default()
    }
}

fn judged(m: &MediaStatus) -> Check {
    let name = m.name.as_deref().unwrap_or("disk not known");
    let found = format!("{name}: {}: {}", m.verdict, m.why);
    let remedy = m.remedies.join("; ");
    match m.verdict {
        Verdict::Good => Check::ok(NAME, found),
        Verdict::Unknown => {
            let remedy = "keep backups young; `holdup media` says what was looked at";
            Check::unknown(NAME, found, remedy)
        }
        Verdict::Watch => Check::warn(NAME, found, remedy),
        Verdict::ReplaceSoon | Verdict::ReplaceNow => Check {
            level: Level::Bad,
            ..Check::warn(NAME, found, remedy)
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_medium_of_which_nothing_is_known_is_not_called_ok() {
        let level = |verdict| {
            let m = MediaStatus {
                verdict,
                ..MediaStatus::default()
            };
            judged(&m).level
        };
        assert_eq!(level(Verdict::Unknown), Level::Unknown);
        assert_eq!(level(Verdict::Good), Level::Ok);
        assert_eq!(level(Verdict::Watch), Level::Warn);
        assert_eq!(level(Verdict::ReplaceSoon), Level::Bad);
    }
}
