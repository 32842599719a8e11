//! `[backup]`: what its keys mean together.
//!
//! It must never let a secret key stand where a recipient should: configuration is backed up.

use std::path::PathBuf;
use std::time::Duration;

use super::merge::Merged;
use super::problem::Problem;
use super::settings::{BackupSettings, GatewaySettings};

/// What a secret key begins with.
const SECRET: &str = "AGE-SECRET-KEY-";

/// The settings, with complaints in `m.problems`.
pub(super) fn backup(
    m: &mut Merged,
    gateway: &GatewaySettings,
    warnings: &mut Vec<Problem>,
) -> BackupSettings {
    let paths = |m: &Merged, key: &str| m.list(key).into_iter().map(PathBuf::from).collect();
    let every = Some(m.int("backup.every_s")).filter(|s| *s > 0);
    let backup = BackupSettings {
        every: every.map(Duration::from_secs),
        jitter: Duration::from_secs(m.int("backup.jitter_s")),
        dir: m
            .maybe_text("backup.dir")
            .map_or_else(|| gateway.data_dir.join("backup"), PathBuf::from),
        recipients: m.list("backup.recipients"),
        include: paths(m, "backup.include"),
        keys: paths(m, "backup.keys"),
        keep_last: usize::try_from(m.int("backup.keep_last")).unwrap_or(usize::MAX),
        keep_days: u32::try_from(m.int("backup.keep_days")).unwrap_or(u32::MAX),
        copies: paths(m, "backup.copies"),
        usb_labels: m.list("backup.usb_labels"),
        after: m.maybe_text("backup.after").map(str::to_owned),
        after_timeout: Duration::from_secs(m.int("backup.after_timeout_s")),
    };
    if backup
        .recipients
        .iter()
        .any(|r| r.to_ascii_uppercase().contains(SECRET))
    {
        m.complain(
            "backup.recipients",
            "holds a secret key, which must not be on the gateway",
            "remove it, take it to be known, and run `holdup backup keygen` for a new one",
        );
    } else if let Some(odd) = backup.recipients.iter().find(|r| !is_recipient(r)) {
        m.complain(
            "backup.recipients",
            format!("holds {odd:?}, which is no recipient"),
            "give what `holdup backup keygen` printed, \"age1...\"",
        );
    }
    for (key, dirs) in [
        ("backup.dir", vec![&backup.dir]),
        ("backup.copies", backup.copies.iter().collect()),
    ] {
        if m.sound(&[key]) && dirs.iter().any(|d| **d == gateway.data_dir) {
            m.complain(
                key,
                "is data_dir itself",
                "give a directory of its own: backups are pruned there",
            );
        }
    }
    if m.sound(&["backup.usb_labels"])
        && let Some(odd) = backup
            .usb_labels
            .iter()
            .find(|l| l.is_empty() || l.contains('/') || l.as_str() == "." || l.as_str() == "..")
    {
        m.complain(
            "backup.usb_labels",
            format!("holds {odd:?}, which no file system is called"),
            "give a label as `lsblk -o LABEL` shows it",
        );
    }
    if m.sound(&["backup.jitter_s", "backup.every_s"])
        && backup.every.is_some_and(|e| backup.jitter > e)
    {
        warnings.push(m.about(
            "backup.jitter_s",
            "is longer than every_s: backups come at half that pace",
            "lower it",
        ));
    }
    backup
}

/// `age1` and 58 letters and digits of Bech32; whether they fit each other shows when it is used.
fn is_recipient(text: &str) -> bool {
    let bech32 = |b: u8| (b.is_ascii_lowercase() || b.is_ascii_digit()) && !b"1bio".contains(&b);
    text.strip_prefix("age1")
        .is_some_and(|rest| rest.len() == 58 && rest.bytes().all(bech32))
}
