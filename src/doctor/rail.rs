//! What the 5 V rail has been through: the cause of the last reset, and sagging since boot.

use crate::media::{Rail, rail};

use super::pi::cell;
use super::{Check, Patient};

const NAME: &str = "rail";
const RESET: &str = "/proc/device-tree/chosen/power/power_reset";
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
    match rail(&p.tree) {
        None => {}
        Some(Rail::TooLow) => out.push(Check::bad(NAME, "5 V is too low now", SUPPLY)),
        Some(Rail::Sagged) => out.push(Check::warn(NAME, "5 V was too low since boot", SUPPLY)),
        Some(Rail::Held) => out.push(Check::ok(NAME, "5 V held since boot")),
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
