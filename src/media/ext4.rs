//! ext4's own counters: errors it found, and what it wrote in its life.
//!
//! Reads `/sys/fs/ext4/DEV/`, which everybody may. They are this file system's alone.

use super::device::Disk;
use super::evidence::{Evidence, Says, Suspect};
use super::tree::Tree;

const SOURCE: &str = "file system (ext4 counters)";

/// Its evidence, and the KiB written in the file system's life.
pub(super) fn collect(tree: &Tree, disk: &Disk) -> (Vec<Evidence>, Option<u64>) {
    if disk.fs != "ext4" {
        let why = format!("{} keeps no counters that are read here", disk.fs);
        return (
            vec![Evidence::of(
                Suspect::FileSystem,
                SOURCE,
                Says::Unknown,
                why,
            )],
            None,
        );
    }
    let Some(dev) = disk.devices.first() else {
        return (Vec::new(), None);
    };
    let dir = format!("/sys/fs/ext4/{dev}");
    let number = |name: &str| tree.number(format!("{dir}/{name}"));
    let written = number("lifetime_write_kbytes");
    let mut out = vec![match number("errors_count") {
        None => Evidence::of(
            Suspect::FileSystem,
            SOURCE,
            Says::Unknown,
            format!("{dir}/errors_count cannot be read"),
        ),
        Some(0) => Evidence::of(
            Suspect::FileSystem,
            SOURCE,
            Says::Note,
            "no errors recorded",
        ),
        Some(n) => {
            // Seconds since 1970.
            let at = |name: &str| number(name).and_then(|s| i64::try_from(s).ok()).map(when);
            let mut value = format!("{n} errors since it was checked last");
            if let Some(last) = at("last_error_time") {
                value.push_str(&format!("; the last on {last}"));
            }
            Evidence::of(Suspect::FileSystem, SOURCE, Says::Watch, value)
                .remedy("take a backup, then check it offline with `fsck -f`")
        }
    }];
    if let Some(kib) = written {
        let value = format!("{:.1} GB written in its life", kib as f64 * 1024.0 / 1e9);
        out.push(Evidence::of(Suspect::FileSystem, SOURCE, Says::Note, value));
    }
    (out, written)
}

fn when(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| format!("{seconds} s since 1970"), |t| t.to_string())
}
