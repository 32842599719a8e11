//! How much the kernel lets programs leave unwritten: all of it must reach the card in an outage.

use super::{Check, Patient};

const NAME: &str = "vm.dirty";
/// So much takes a card about a second.
const MOST: u64 = 32 << 20;

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    let vm = |name: &str| p.tree.number(format!("/proc/sys/vm/{name}"));
    let available = p
        .tree
        .text("/proc/meminfo")
        .and_then(|t| kib_of(&t, "MemAvailable:"));
    let limit = |what: &str| {
        let bytes = vm(&format!("dirty_{what}bytes")).filter(|b| *b > 0);
        bytes.or_else(|| {
            let ratio = vm(&format!("dirty_{what}ratio"))?;
            Some(available?.saturating_mul(1024) / 100 * ratio.min(100))
        })
    };
    let (Some(background), Some(hard)) = (limit("background_"), limit("")) else {
        out.push(Check::unknown(
            NAME,
            "the limits in /proc/sys/vm cannot be read",
            "",
        ));
        return;
    };
    let mb = |b: u64| b / 1_000_000;
    let found = format!(
        "{} MB may wait before the kernel begins to write, {} MB at most",
        mb(background),
        mb(hard)
    );
    out.push(if background > MOST {
        Check::warn(
            NAME,
            format!("{found}: a freeze would write them all inside the hold-up time"),
            "set vm.dirty_background_bytes = 4194304 and vm.dirty_bytes = 16777216 in \
             /etc/sysctl.d/90-holdup.conf",
        )
    } else {
        Check::ok(NAME, found)
    });
}

fn kib_of(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().split(' ').next()?.parse().ok()
}
