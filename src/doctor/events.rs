//! The scripts that are run when power changes: which are, and which are not and why.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::hooks::{shown, survey};

use super::{Check, Patient};

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    let dir = &p.settings.events.dir;
    if p.hidden {
        let why = "which scripts are trusted depends on the agent's user";
        out.push(Check::skip("events", why));
        return;
    }
    // Whose scripts are trusted: the agent's own user's where one runs, else who asks.
    let process = p
        .agent
        .map_or_else(|| "self".to_owned(), |s| s.pid.to_string());
    let user = fs::metadata(format!("/proc/{process}")).map_or(0, |m| m.uid());
    let (found, refused) = survey(dir, user);
    let scripts: Vec<String> = found
        .iter()
        .flat_map(|(_, scripts)| scripts)
        .map(|s| shown(Path::new(s.path.file_name().unwrap_or_default())))
        .collect();
    if !scripts.is_empty() {
        let all = scripts.join(", ");
        out.push(Check::ok("events", format!("{}: {all}", dir.display())));
    } else if refused.is_empty() {
        out.push(Check::ok(
            "events",
            format!("no scripts in {}", dir.display()),
        ));
    }
    for r in refused {
        out.push(Check::warn(
            "events",
            format!("{} is not run", shown(&r.path)),
            r.why,
        ));
    }
}
