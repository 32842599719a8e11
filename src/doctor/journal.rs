//! A journal that lies on the card is written all day and may grow.

use std::path::Path;

use super::{Check, Patient};

const NAME: &str = "journal";

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    if !p.tree.has("/run/systemd/system") && !p.tree.has("/etc/systemd/journald.conf") {
        return;
    }
    let settings = settings(p);
    let of = |key: &str| settings.iter().rev().find(|(k, _)| k == key);
    let storage = of("Storage").map_or("auto", |(_, v)| v.as_str());
    let persistent = match storage {
        "persistent" => true,
        "auto" => p.tree.has("/var/log/journal"),
        _ => false,
    };
    if !persistent {
        let found = format!("in memory (Storage={storage}): gone after a cut, no wear");
        out.push(Check::ok(NAME, found));
        return;
    }
    out.push(match of("SystemMaxUse").filter(|(_, v)| !v.is_empty()) {
        Some((_, most)) => Check::ok(NAME, format!("on the medium, at most {most}")),
        None => Check::warn(
            NAME,
            "on the medium and without a limit of its own: up to a tenth of the file system",
            "set SystemMaxUse=64M in /etc/systemd/journald.conf.d/holdup.conf, or \
             Storage=volatile",
        ),
    });
}

/// Keys and values in the order in which journald reads them: the last one counts.
fn settings(p: &Patient<'_>) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for dir in ["/usr/lib/systemd", "/run/systemd", "/etc/systemd"] {
        let parts = format!("{dir}/journald.conf.d");
        for name in p.tree.names(&parts) {
            if Path::new(&name).extension().is_some_and(|e| e == "conf") {
                files.push((name.clone(), format!("{parts}/{name}")));
            }
        }
    }
    files.sort();
    files.insert(0, (String::new(), "/etc/systemd/journald.conf".to_owned()));
    let text = |(_, path): &(String, String)| p.tree.text(path);
    let texts: Vec<_> = files.iter().filter_map(text).collect();
    texts.iter().flat_map(|t| keys(t)).collect()
}

/// `Key=value` lines.
fn keys(text: &str) -> Vec<(String, String)> {
    let line = |l: &str| {
        let l = l.trim();
        let (key, value) = l.split_once('=')?;
        (!l.starts_with(['#', ';'])).then(|| (key.trim().to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(line).collect()
}
