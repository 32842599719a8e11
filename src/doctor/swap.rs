//! Swap on a card wears it, and stalls everybody when memory is short.

use super::{Check, Patient};

const NAME: &str = "swap";

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    let Some(table) = p.tree.text("/proc/swaps") else {
        return;
    };
    let mut in_memory = false;
    let mut on_disk = Vec::new();
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace();
        let Some(file) = fields.next() else {
            continue;
        };
        if file.starts_with("/dev/zram") {
            in_memory = true;
        } else {
            on_disk.push(file.to_owned());
        }
    }
    if on_disk.is_empty() {
        let found = if in_memory {
            "in memory (zram)"
        } else {
            "none"
        };
        out.push(Check::ok(NAME, found));
        return;
    }
    out.push(Check::warn(
        NAME,
        format!(
            "on {}: it wears the medium and may stall commits",
            on_disk.join(", ")
        ),
        "use zram, or `swapoff` it and take it out of /etc/fstab (Raspberry Pi OS: disable \
         dphys-swapfile)",
    ));
}
