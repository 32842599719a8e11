//! Other people's databases: how each is kept, who has it open, and what an outage does to them.
//!
//! Looks from outside, as the guard does while service goes on. Never opens one as a database.

use std::fs;

use crate::config::{DatabaseSettings, one_line};
use crate::guard::{
    Cgroups, Header, Holders, Unit, UnitState, header, holders, is_read_only, not_writable,
    process_in_words,
};

use super::{Check, Patient};

const NAME: &str = "database";

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    for d in &p.settings.databases {
        out.extend(match fs::metadata(&d.path) {
            Ok(m) if m.is_file() => one(p, d),
            Ok(_) => vec![Check::bad(
                NAME,
                format!("{} is not a file", d.path.display()),
                "correct its path",
            )],
            Err(e) => vec![Check::warn(
                NAME,
                format!("{}: {e}", d.path.display()),
                "correct its path, or start its application",
            )],
        });
    }
}

fn one(p: &Patient<'_>, d: &DatabaseSettings) -> Vec<Check> {
    let shown = d.path.display().to_string();
    let head = match header(&d.path) {
        Ok(Some(head)) => head,
        Ok(None) => return vec![Check::ok(NAME, format!("{shown} is still empty"))],
        Err(e) => return vec![Check::bad(NAME, e, "correct its path")],
    };
    if is_read_only(&d.path) {
        let found = format!("{shown} lies on a read-only file system: nothing of it can be lost");
        return vec![Check::ok(NAME, found)];
    }
    let agent = p.agent.map(|s| s.pid);
    let open = holders(&d.path, &|| false);
    let open = open.ok().flatten().map(|mut open| {
        open.pids.retain(|pid| Some(*pid) != agent);
        open
    });
    let journal = head.journal.name();
    let mut out = vec![Check::ok(
        NAME,
        format!("{shown}: {journal}, {}", who(open.as_ref())),
    )];
    if let Some(why) = not_writable(&d.path) {
        let remedy = "run the agent as root, or as the application's user";
        out.push(Check::warn(NAME, format!("{shown}: {why}"), remedy));
    }
    out.push(match &d.unit {
        Some(unit) => stopped(p, &shown, unit, open.as_ref()),
        None => waits(&shown, open.as_ref()),
    });
    out.extend(at_risk(p, &shown));
    out.extend(old(&shown, head));
    out
}

fn who(open: Option<&Holders>) -> String {
    let Some(open) = open else {
        return "who has it open cannot be seen".to_owned();
    };
    let mut text = match &open.pids[..] {
        [] => "nobody has it open".to_owned(),
        pids => {
            let all: Vec<_> = pids.iter().map(|p| process_in_words(*p)).collect();
            format!("open by {}", all.join(", "))
        }
    };
    if open.unseen {
        text.push_str(" (as far as this user may see)");
    }
    text
}

/// What an outage does to an application with a unit.
fn stopped(p: &Patient<'_>, shown: &str, unit: &str, open: Option<&Holders>) -> Check {
    let mut cgroups = Cgroups::of_this_machine(&p.settings.gateway.run_dir);
    if let Some(s) = p.agent {
        cgroups = cgroups.sparing(s.pid);
    }
    let mut it = Unit::new(unit, cgroups);
    match it.look() {
        UnitState::Ready => {
            let outside = |pid: &&u32| !it.holds(**pid);
            let other = open.and_then(|o| o.pids.iter().find(outside));
            if let Some(pid) = other {
                return Check::warn(
                    NAME,
                    format!(
                        "{shown}: {} writes it too and is not of unit {unit}: readiness is AtRisk",
                        process_in_words(*pid)
                    ),
                    "end it, or start it in the unit",
                );
            }
            Check::ok(
                NAME,
                format!(
                    "{shown}: unit {unit} is stopped for an outage and notices only a jump in time"
                ),
            )
        }
        UnitState::NotRunning => Check::warn(
            NAME,
            format!("{shown}: unit {unit} is not running: its writers would wait for the lock"),
            "start it, or correct its name in [[database]]",
        ),
        UnitState::Refused(why) => Check::warn(
            NAME,
            format!("{shown}: unit {unit} cannot be stopped: {why}"),
            "name the application's own unit, and run the agent as root on cgroup v2",
        ),
    }
}

/// What the lock does to an application without one.
fn waits(shown: &str, open: Option<&Holders>) -> Check {
    let unit = open
        .into_iter()
        .flat_map(|o| &o.pids)
        .find_map(|p| unit_of(*p));
    let remedy = match unit {
        Some(unit) => {
            format!("add unit = \"{unit}\" to its [[database]]: then it is stopped instead")
        }
        None => "name its unit in [[database]]: then it is stopped instead".to_owned(),
    };
    Check::warn(
        NAME,
        format!(
            "{shown}: its writers wait for a lock until power is back; Python's sqlite3 gives up \
             after 5 s with \"database is locked\""
        ),
        remedy,
    )
}

/// The unit that a process runs in, by its cgroup's name.
fn unit_of(pid: u32) -> Option<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = table.lines().find_map(|l| l.strip_prefix("0::"))?;
    let mut folders = path.split('/');
    folders
        .find(|f| f.ends_with(".service"))
        .map(|f| one_line(f.strip_prefix('_').unwrap_or(f)))
}

/// What the running agent has seen over time, such as a lock that is never let go.
fn at_risk(p: &Patient<'_>, shown: &str) -> Option<Check> {
    let status = p.agent?;
    let it = status.databases.iter().find(|d| d.path == shown)?;
    it.other_writers.then(|| {
        Check::warn(
            NAME,
            format!("{shown}: {}", it.state),
            "until then readiness is AtRisk{other_writers}",
        )
    })
}

fn old(shown: &str, head: Header) -> Option<Check> {
    let n = head.sqlite;
    let version = format!("{}.{}.{}", n / 1_000_000, n / 1000 % 1000, n % 1000);
    head.has_wal_reset_bug().then(|| {
        Check::warn(
            NAME,
            format!(
                "{shown} was last written by SQLite {version}: before 3.51.3 two connections can \
                 corrupt a database in WAL mode (WAL-reset)"
            ),
            "update the application's SQLite, unless its vendor has mended it",
        )
    })
}
