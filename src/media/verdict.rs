//! From evidence to a verdict: who is to blame, how bad, how sure.
//!
//! It promises that `good` is said only where the medium itself counts its wear and the count is
//! low; that the supply and the host are ruled out before the card is accused; and that every
//! verdict names its grounds. Absence of trouble is no ground.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, Says, Suspect};

/// What is said of the medium, the best first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It counts its own wear, and has much of its life left.
    Good,
    /// Nothing is known for it or against it. Not good.
    #[default]
    Unknown,
    /// Something is not as it should be.
    Watch,
    /// Plan a replacement.
    ReplaceSoon,
    /// Data is in danger.
    ReplaceNow,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Unknown => "unknown",
            Self::Watch => "watch",
            Self::ReplaceSoon => "replace soon",
            Self::ReplaceNow => "replace now",
        })
    }
}

impl Verdict {
    /// Must somebody replace it?
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::ReplaceSoon | Self::ReplaceNow)
    }

    /// Is it news that `self` follows on `before`: worse, and trouble?
    pub fn is_worse_than(self, before: Self) -> bool {
        self > before && self >= Self::Watch
    }
}

/// How far the verdict can be relied on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// There is nothing to rely on.
    #[default]
    None,
    /// It could be something else as well.
    Low,
    /// One source says so.
    Medium,
    /// The medium's own counters, or several sources, say so.
    High,
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        })
    }
}

/// One who may be to blame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    /// Who.
    pub suspect: Suspect,
    /// By what.
    pub because: Vec<String>,
    /// What to do.
    pub remedies: Vec<String>,
}

/// The verdict and its grounds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// How sure.
    pub confidence: Confidence,
    /// In one sentence.
    pub why: String,
    /// Who is to be ruled out, in that order.
    pub suspects: Vec<Suspicion>,
}

/// Judges; caps in `evidence` what the supply or the host may have caused.
pub fn judge(evidence: &mut [Evidence]) -> Judgement {
    rule_out(evidence);
    let worst = evidence
        .iter()
        .map(|e| e.says)
        .filter(|s| *s >= Says::Watch);
    let worst = worst.max();
    let proof = |e: &&Evidence| e.of == Suspect::Card && e.says == Says::Good;
    let good = evidence.iter().find(proof);
    let suspects = suspects(evidence);
    let (verdict, why) = match (worst, good) {
        (Some(worst), _) => {
            let ground = evidence.iter().find(|e| e.says == worst);
            let why = ground.map_or_else(String::new, |e| format!("{}: {}", e.of, e.value));
            (of(worst), why)
        }
        (None, Some(e)) => (Verdict::Good, format!("{}: {}", e.source, e.value)),
        (None, None) => (
            Verdict::Unknown,
            "this medium tells nothing of its wear; no trouble was seen, which proves nothing"
                .to_owned(),
        ),
    };
    Judgement {
        confidence: confidence(verdict, evidence),
        verdict,
        why,
        suspects,
    }
}

fn of(says: Says) -> Verdict {
    match says {
        Says::Good => Verdict::Good,
        Says::Note | Says::Unknown => Verdict::Unknown,
        Says::Watch => Verdict::Watch,
        Says::ReplaceSoon => Verdict::ReplaceSoon,
        Says::ReplaceNow => Verdict::ReplaceNow,
    }
}

/// A sagging supply or a failing bus makes a sound card look dead.
fn rule_out(evidence: &mut [Evidence]) {
    let to_blame = |of: Suspect| {
        let accused = |e: &Evidence| e.of == of && e.says >= Says::Watch;
        evidence.iter().any(accused).then_some(of)
    };
    let Some(other) = to_blame(Suspect::Power).or_else(|| to_blame(Suspect::Host)) else {
        return;
    };
    for e in evidence
        .iter_mut()
        .filter(|e| e.of == Suspect::Card && e.doubtful && e.says > Says::Watch)
    {
        e.says = Says::Watch;
        e.value.push_str(&format!(
            " (the {other} had trouble in the same boot: rule that out first)"
        ));
    }
}

fn suspects(evidence: &[Evidence]) -> Vec<Suspicion> {
    let mut all = Vec::new();
    for suspect in [
        Suspect::Power,
        Suspect::Host,
        Suspect::Card,
        Suspect::FileSystem,
    ] {
        let against: Vec<_> = evidence
            .iter()
            .filter(|e| e.of == suspect && e.says >= Says::Watch)
            .collect();
        if against.is_empty() {
            continue;
        }
        let mut remedies: Vec<String> = Vec::new();
        for e in &against {
            if !e.remedy.is_empty() && !remedies.contains(&e.remedy) {
                remedies.push(e.remedy.clone());
            }
        }
        all.push(Suspicion {
            suspect,
            because: against.iter().map(|e| e.source.clone()).collect(),
            remedies,
        });
    }
    all
}

fn confidence(verdict: Verdict, evidence: &[Evidence]) -> Confidence {
    let own_counter = |e: &&Evidence| e.source.starts_with("eMMC") || e.source.starts_with("NVMe");
    if verdict == Verdict::Good {
        let mut proofs = evidence.iter().filter(|e| e.says == Says::Good);
        return if proofs.any(|e| own_counter(&e)) {
            Confidence::High
        } else {
            Confidence::Medium
        };
    }
    if verdict == Verdict::Unknown {
        return Confidence::None;
    }
    let grounds: Vec<_> = evidence.iter().filter(|e| of(e.says) == verdict).collect();
    if grounds.iter().all(|e| e.doubtful) {
        return Confidence::Low;
    }
    let mut sources: Vec<_> = grounds.iter().map(|e| &e.source).collect();
    sources.dedup();
    if sources.len() > 1 || grounds.iter().any(own_counter) {
        Confidence::High
    } else {
        Confidence::Medium
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn e(of: Suspect, says: Says) -> Evidence {
        Evidence::of(of, "somewhere", says, "something").remedy("do something")
    }

    fn doubtful(says: Says) -> Evidence {
        Evidence {
            doubtful: true,
            ..e(Suspect::Card, says)
        }
    }

    #[test]
    fn without_a_counter_of_wear_the_verdict_is_unknown_and_never_good() {
        let none = judge(&mut []);
        assert_eq!(
            (none.verdict, none.confidence),
            (Verdict::Unknown, Confidence::None)
        );
        let quiet = &mut [
            e(Suspect::Card, Says::Note),
            e(Suspect::Host, Says::Note),
            e(Suspect::FileSystem, Says::Note),
            e(Suspect::Card, Says::Unknown),
        ];
        assert_eq!(judge(quiet).verdict, Verdict::Unknown);
        // What others do well is no proof for the card.
        assert_eq!(
            judge(&mut [e(Suspect::Host, Says::Good)]).verdict,
            Verdict::Unknown
        );
        assert_eq!(
            judge(&mut [e(Suspect::Card, Says::Good)]).verdict,
            Verdict::Good
        );
    }

    #[test]
    fn trouble_outweighs_a_good_counter() {
        let all = &mut [
            e(Suspect::Card, Says::Good),
            e(Suspect::Card, Says::ReplaceNow),
        ];
        assert_eq!(judge(all).verdict, Verdict::ReplaceNow);
    }

    #[test]
    fn the_supply_and_the_host_are_ruled_out_before_the_card_is_accused() {
        for other in [Suspect::Power, Suspect::Host] {
            let all = &mut [doubtful(Says::ReplaceNow), e(other, Says::Watch)];
            let found = judge(all);
            assert_eq!(found.verdict, Verdict::Watch, "{other}");
            assert_eq!(found.suspects[0].suspect, other);
            assert_eq!(found.suspects[1].suspect, Suspect::Card);
        }
        // A file system's trouble excuses nobody, nor does a supply what the card says of itself.
        let all = &mut [
            doubtful(Says::ReplaceNow),
            e(Suspect::FileSystem, Says::Watch),
        ];
        assert_eq!(judge(all).verdict, Verdict::ReplaceNow);
        let all = &mut [
            e(Suspect::Card, Says::ReplaceNow),
            e(Suspect::Power, Says::Watch),
        ];
        assert_eq!(judge(all).verdict, Verdict::ReplaceNow);
    }

    #[test]
    fn a_worse_verdict_is_news_and_a_lost_proof_is_not() {
        assert!(Verdict::Watch.is_worse_than(Verdict::Good));
        assert!(Verdict::ReplaceNow.is_worse_than(Verdict::ReplaceSoon));
        assert!(!Verdict::Unknown.is_worse_than(Verdict::Good));
        assert!(!Verdict::Watch.is_worse_than(Verdict::ReplaceNow));
    }
}
