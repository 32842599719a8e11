//! A Raspberry Pi 5's boot settings: will it start by itself when power comes back?
//!
//! Reads the copy that the firmware leaves in memory (nvmem), which needs root.

use jiff::Timestamp;

use super::pi::{cell, is_pi5};
use super::{Check, Patient};

const NAME: &str = "eeprom";
const ALIAS: &str = "/proc/device-tree/aliases/blconfig";
const DEVICES: &str = "/sys/bus/nvmem/devices";

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    if !is_pi5(&p.tree) {
        return;
    }
    let built = cell(
        &p.tree,
        "/proc/device-tree/chosen/bootloader/build-timestamp",
    )
    .and_then(|s| Timestamp::from_second(i64::from(s)).ok())
    .map_or_else(
        || "its date is not told".to_owned(),
        |t| format!("built {}", t.strftime("%Y-%m-%d")),
    );
    let Some(text) = settings(p) else {
        out.push(Check::unknown(
            NAME,
            format!("{built}; its settings cannot be read"),
            "ask as root, or look with `rpi-eeprom-config`",
        ));
        return;
    };
    // The part for all boards is enough: others are conditional.
    let of = |key: &str| {
        let line = |l: &str| {
            let (k, v) = l.split_once('=')?;
            (k.trim() == key).then(|| v.trim().to_owned())
        };
        text.lines().filter_map(line).next_back()
    };
    if of("WAIT_FOR_POWER_BUTTON").as_deref() == Some("1") {
        out.push(Check::bad(
            NAME,
            "WAIT_FOR_POWER_BUTTON=1: after a loss of power nothing but its button starts it",
            "set WAIT_FOR_POWER_BUTTON=0 with `rpi-eeprom-config --edit`",
        ));
    }
    let off_on_halt = of("POWER_OFF_ON_HALT").unwrap_or_else(|| "0".to_owned());
    let cycles = p.settings.board.cycles_supply;
    let found = format!("{built}; POWER_OFF_ON_HALT={off_on_halt}");
    out.push(if off_on_halt == "1" && !cycles {
        Check::warn(
            NAME,
            format!("{found}: once off, nothing wakes it while 5 V stays up"),
            "set POWER_OFF_ON_HALT=0 with `rpi-eeprom-config --edit`, or use a board that cycles \
             the supply (board.cycles_supply)",
        )
    } else {
        Check::ok(NAME, found)
    });
}

fn settings(p: &Patient<'_>) -> Option<String> {
    let alias = p.tree.text(ALIAS)?;
    let node = p
        .tree
        .resolve(format!("/proc/device-tree{}", alias.trim_matches('\0')))?;
    let names = p.tree.names(DEVICES);
    let device = names.iter().find(|name| {
        let own = p.tree.resolve(format!("{DEVICES}/{name}/of_node"));
        own.as_ref() == Some(&node)
    })?;
    p.tree.text(format!("{DEVICES}/{device}/nvmem"))
}
