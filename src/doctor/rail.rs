//! What the 5 V rail has been through: the cause of the last reset, and sagging since boot.

use super::pi::cell;
use super::{Check, Patient};

const NAME: &str = "rail";
const RESET: &str = "/proc/device-tree/chosen/power/power_reset";
const PLATFORM: &str = "/sys/devices/platform";
/// As Raspberry Pi documents it for the Pi 5.
const UNDER_VOLTAGE: u32 = 2;
const SUPPLY: &str = "use the 27 W supply or a better regulator, and a short thick cable";

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    match cell(&p.tree, RESET) {
        None => {}
        Some(cause) if cause & UNDER_VOLTAGE != 0 => out.push(Check::warn(
            NAME,
            "the last reset was forced by under-voltage",
            SUPPLY,
        )),
        Some(cause) => out.push(Check::ok(NAME, format!("cause of the last reset: {cause}"))),
    }
    let flags = throttled(p);
    match flags {
        None => {}
        Some(flags) if flags & 0x1 != 0 => {
            out.push(Check::bad(NAME, "5 V is too low now", SUPPLY));
        }
        Some(flags) if flags & 0x1_0000 != 0 => {
            out.push(Check::warn(NAME, "5 V was too low since boot", SUPPLY));
        }
        Some(_) => out.push(Check::ok(NAME, "5 V held since boot")),
    }
    // Before a kernel's driver tells, its sensor does.
    for hwmon in p.tree.names("/sys/class/hwmon") {
        let of = |name: &str| p.tree.text(format!("/sys/class/hwmon/{hwmon}/{name}"));
        if of("name").as_deref() == Some("rpi_volt")
            && of("in0_lcrit_alarm").as_deref() == Some("1")
        {
            out.push(Check::bad(NAME, "5 V is too low now (rpi_volt)", SUPPLY));
        }
    }
}

/// The firmware's flags; the folder's name differs between boards.
fn throttled(p: &Patient<'_>) -> Option<u32> {
    let socs = p.tree.names(PLATFORM).into_iter();
    let text = socs.filter(|n| n.starts_with("soc")).find_map(|soc| {
        let folder = format!("{PLATFORM}/{soc}");
        let names = p.tree.names(&folder).into_iter();
        let mut firmware = names.filter(|n| n.ends_with("firmware"));
        firmware.find_map(|n| p.tree.text(format!("{folder}/{n}/get_throttled")))
    })?;
    u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}
