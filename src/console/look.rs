//! The gateway on one screen, and what is wrong with it, worst first.
//!
//! It promises words that a person who has never seen this gateway understands, each with what to
//! do next. The screen that anybody may see names no file, no sensor, no number of readings and no
//! technician.

use std::time::Duration;

use crate::agent::Status;

/// Something that is wrong, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Trouble {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// Rows for anybody; `none` is why no agent answers.
pub fn look(gateway: &str, status: Result<&Status, &str>) -> Vec<String> {
    let row = |name: &str, value: &str| {
        let mut row = format!("{name:<12}{value}");
        // A row is cut, never wrapped.
        if let Some((at, _)) = row.char_indices().nth(super::WIDTH) {
            row.truncate(at);
        }
        row
    };
    let Ok(s) = status else {
        return vec![
            row("gateway", gateway),
            row("agent", "IT DOES NOT ANSWER: no readings are taken"),
            row(
                "do",
                "wait a minute; then login, `log` says why, `restart` starts it",
            ),
        ];
    };
    let mut rows = vec![
        row("gateway", &format!("{gateway}, holdup {}", s.version)),
        row(
            "agent",
            &format!("runs for {}", ago(Duration::from_secs(s.uptime_s))),
        ),
        row("power", power(s)),
        row("if it goes", protection(s)),
        row("data", data(s)),
        row("queue", queue(s)),
        row("backup", backup(s)),
        row("outage", &outage(s)),
    ];
    let wrong = troubles(Ok(s)).len();
    rows.push(match wrong {
        0 => row("", "Nothing needs to be done."),
        1 => row("", "One thing needs to be done."),
        n => row("", &format!("{n} things need to be done.")),
    });
    rows
}

fn power(s: &Status) -> &'static str {
    match (s.supply.as_str(), s.gpio.reads.as_deref()) {
        ("Good", Some("good")) => "is there",
        ("Good", Some(_)) => "its line says lost and is not believed",
        ("Good", None) => "taken as there: its line cannot be read",
        ("Brownout", _) => "SAGS: the supply is weak",
        ("OnBattery", _) => "LOST: running on the battery",
        ("Parked", _) => "LOST: all data is safe, waiting for it to come back",
        ("Resuming", _) => "is back: service starts when it is steady",
        ("Starting", _) => "not known yet: the agent starts",
        ("Rehearsing", _) => "is there: a loss is rehearsed",
        _ => "LOST: making everything safe",
    }
}

/// Is power away, or service not back yet?
fn is_away(s: &Status) -> bool {
    let held = [
        "Suspect", "Failing", "Parked", "Resuming", "Off", "Stopping",
    ];
    held.contains(&s.supply.as_str())
}

fn protection(s: &Status) -> &'static str {
    if is_away(s) {
        return "it has gone: see power";
    }
    match s.readiness.as_str() {
        "Ready" => "everything is safe in time",
        "AtRisk" if s.ledger.missing.is_some() => "AT RISK: see data",
        "AtRisk" => "AT RISK: it may not be done in time; what was acknowledged is safe",
        _ => "UNPROTECTED: nothing parks it; what was acknowledged is safe",
    }
}

fn data(s: &Status) -> &'static str {
    match s.store.as_str() {
        "running" if is_away(s) => "readings wait until power is back; what is stored is safe",
        "running" if s.ledger.missing.is_some() => "served; SOME READINGS ARE MISSING",
        "running" => "readings are taken and stored",
        "starting" => "NOT SERVED YET: the database is being opened or repaired",
        "disk_full" => "NOT SERVED: the disk is full",
        _ => "NOT SERVED: the database cannot be used",
    }
}

fn queue(s: &Status) -> &'static str {
    match (s.queue.state.as_str(), s.queue.retry_loop_s.is_some()) {
        ("off", _) => "off",
        (_, true) => "NOTHING IS DELIVERED: every attempt fails",
        ("running" | "starting", false) => "works",
        ("full", false) => "FULL",
        ("disk_full", false) => "waits: the disk is full",
        ("waiting", false) => "waits",
        _ => "DOES NOT WORK; readings are stored all the same",
    }
}

fn backup(s: &Status) -> &'static str {
    let h = &s.backup.health;
    if h.verified == 0 {
        "NONE"
    } else if h.warnings.is_empty() {
        "there is one, verified"
    } else {
        "there is one; something about it needs looking at"
    }
}

fn outage(s: &Status) -> String {
    use crate::guard::Ended;
    let Some(last) = &s.last_outage else {
        return "none is on record".to_owned();
    };
    let how = match last.ended {
        Ended::Clean => "everything was safe in time",
        Ended::Late => "everything was safe, LATE",
        Ended::Cut => "CUT in the middle of making it safe",
        Ended::Unfinished => "NOT FINISHED",
        Ended::NeverAnnounced if last.kind == "agent_died" => {
            "none; the agent itself ended without being stopped"
        }
        Ended::NeverAnnounced => "power went WITHOUT A SIGN on its line",
    };
    if last.at.is_empty() {
        format!("the last one: {how}")
    } else {
        format!("{}: {how}", last.at.get(..16).unwrap_or(&last.at))
    }
}

fn ago(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..120 => format!("{s} seconds"),
        120..7200 => format!("{} minutes", s / 60),
        7200..172_800 => format!("{} hours", s / 3600),
        _ => format!("{} days", s / 86_400),
    }
}

/// What is wrong, worst first: what stops service, then what loses data, then what would.
pub fn troubles(status: Result<&Status, &str>) -> Vec<Trouble> {
    let s = match status {
        Ok(s) => s,
        Err(why) => {
            let remedy = "`log` says why it ended; `restart` starts it; if it ends again: `config \
                          check`, then `doctor`";
            return vec![Trouble::new(
                format!("the agent does not answer: {why}"),
                remedy,
            )];
        }
    };
    let mut all = Vec::new();
    match s.supply.as_str() {
        "Parked" => all.push(Trouble::new(
            "power is lost; the gateway is parked and everything is safe",
            "bring the supply back: service resumes by itself. If power is there, the wire of the \
             power-fail line is off, or the line's level is set the wrong way round: `doctor`",
        )),
        "OnBattery" => all.push(Trouble::new(
            "mains are lost; the battery carries the gateway",
            "bring mains back before the battery is low",
        )),
        "Brownout" => all.push(Trouble::new(
            "the rail sags",
            "a supply that is too weak, or a long thin cable: a Pi 5 wants 5.1 V and 5 A",
        )),
        _ => {}
    }
    if s.store == "failed" {
        all.push(Trouble::new(
            "the store cannot be used: no readings are taken",
            "`data recover` checks and repairs it; evidence is kept",
        ));
    }
    if s.store == "disk_full" {
        all.push(Trouble::new(
            "the disk is full: no readings are taken",
            "set store.keep_days or store.max_bytes, or use a larger card",
        ));
    }
    // The agent's own words, which end in the remedy.
    for advice in &s.advice {
        all.push(split(advice, "`doctor` says more"));
    }
    if let Some(problem) = &s.queue.problem {
        all.push(Trouble::new(
            format!("the queue does not work: {problem}"),
            "`data recover` repairs it; nothing stored is lost meanwhile",
        ));
    }
    if let Some(seconds) = s.queue.retry_loop_s {
        all.push(Trouble::new(
            format!(
                "for {} minutes nothing was delivered and every attempt failed",
                seconds / 60
            ),
            "look at the network and at the other side; `queue dead` names what was given up",
        ));
    }
    if let Some(problem) = &s.audit.problem {
        all.push(Trouble::new(
            format!("the audit log cannot be written: {problem}"),
            "`audit verify` says more; entries wait in memory until it can",
        ));
    }
    for report in &s.last_recovered {
        let name = report.database.file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        if report.lost_rows_known > 0 {
            all.push(Trouble::new(
                format!(
                    "{name} was damaged and repaired, and {} rows of it are lost",
                    report.lost_rows_known
                ),
                "`status` names them; a backup may still have them",
            ));
        } else if report.damaged_places > 0 {
            all.push(Trouble::new(
                format!(
                    "{name} was damaged and repaired; {} pages of it could not be read in full",
                    report.damaged_places
                ),
                "nothing is known to be missing; the damaged files are kept as evidence",
            ));
        }
    }
    for warning in &s.backup.health.warnings {
        all.push(split(warning, "`backup create` makes one now"));
    }
    let failed = s.drill.last.as_ref().filter(|d| !d.passed);
    if let Some(drill) = failed {
        all.push(Trouble::new(
            format!("the last drill failed: {}", drill.failed.join(", ")),
            "`status` says when; `holdup drill` in a shell holds another and says what is wrong",
        ));
    }
    all
}

/// A sentence of the agent's, which mostly ends in its remedy.
fn split(sentence: &str, otherwise: &str) -> Trouble {
    match sentence.split_once(": ") {
        Some((what, remedy)) => Trouble::new(what, remedy),
        None => Trouble::new(sentence, otherwise),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let json = serde_json::json!({
            "gateway": "plant-7", "version": "0.1.0", "pid": 1, "uptime_s": 7300, "board": "sim",
            "source": "capacitor", "supply": "Good", "readiness": "Ready", "reasons": [],
            "advice": [], "holdup_ms": 2000, "holdup_left_ms": 2000, "predicted_ms": 90,
            "wal_frames": 1, "acked": 5, "stored": 5, "store_bytes": 1, "reserve_bytes": 1,
            "expired": 0, "commits": 1, "store": "running", "last_outage": null,
            "last_rehearsal": null, "measuring": null, "measurement": null, "databases": [],
            "gpio": {"abi": "sim", "abi_forced": false, "chip": "sim", "line": 0, "reads": "good",
                     "error": null, "notes": []},
            "gauge_percent": null, "gauge": null, "freeze_refused": null, "realtime": true,
            "card": "c",
        });
        let mut s: Status = serde_json::from_value(json).expect("a status");
        s.backup.health.verified = 7;
        s.queue.state = "off".to_owned();
        s
    }

    #[test]
    fn a_healthy_gateway_fits_the_screen_and_asks_for_nothing() {
        let rows = look("plant-7", Ok(&status()));
        assert!(rows.len() <= 20);
        assert!(rows.iter().all(|r| r.chars().count() <= 79), "{rows:#?}");
        assert_eq!(
            rows.last().map(|r| r.trim()),
            Some("Nothing needs to be done.")
        );
        assert_eq!(troubles(Ok(&status())), []);
    }

    #[test]
    fn what_anybody_sees_names_no_file_and_no_number_of_readings() {
        let mut s = status();
        s.stored = 918_273;
        s.advice = vec!["/var/lib/secret.db is off: do it".to_owned()];
        s.queue.problem = Some("/var/lib/secret.db".to_owned());
        let text = look("plant-7", Ok(&s)).join("\n");
        assert!(
            !text.contains("secret") && !text.contains("918273"),
            "{text}"
        );
        assert!(text.contains("2 things need to be done"), "{text}");
    }

    #[test]
    fn an_agent_that_does_not_answer_is_the_first_thing_said() {
        let text = look("plant-7", Err("Connection refused")).join("\n");
        assert!(text.contains("IT DOES NOT ANSWER"), "{text}");
        let all = troubles(Err("Connection refused"));
        assert!(all[0].what.contains("Connection refused") && all[0].remedy.contains("`log`"));
    }

    #[test]
    fn each_state_of_the_supply_and_the_store_has_its_words() {
        let mut s = status();
        for supply in [
            "Starting",
            "Good",
            "Brownout",
            "Suspect",
            "OnBattery",
            "Failing",
            "Parked",
            "Resuming",
            "Rehearsing",
            "Stopping",
            "Off",
        ] {
            s.supply = supply.to_owned();
            assert!(
                look("g", Ok(&s)).iter().all(|r| r.chars().count() <= 79),
                "{supply}"
            );
        }
        s.supply = "Parked".to_owned();
        s.store = "failed".to_owned();
        let all = troubles(Ok(&s));
        assert!(all[0].what.contains("parked"), "{all:?}");
        assert!(all[1].remedy.contains("data recover"), "{all:?}");
    }
}
