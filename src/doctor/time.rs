//! Does the clock outlive an outage? Times in the audit log and the age of backups rest on it.

use crate::clock::{Clock, SystemClock};

use super::{Check, Patient};

const NAME: &str = "clock";
/// A lithium cell below this is empty, or not there.
const EMPTY_UV: u64 = 2_000_000;

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    match p.tree.names("/sys/class/rtc").first() {
        None => out.push(Check::warn(
            NAME,
            "no clock runs without power: after an outage time is wrong until a server is reached",
            "fit a real-time clock (on a Pi 5 a cell at J5)",
        )),
        Some(rtc) => {
            let of = |name: &str| p.tree.number(format!("/sys/class/rtc/{rtc}/{name}"));
            let cell = of("battery_voltage");
            out.push(match cell {
                Some(uv) if uv < EMPTY_UV => Check::warn(
                    NAME,
                    format!(
                        "{rtc}'s cell gives {:.2} V: empty, or not there",
                        uv as f64 / 1e6
                    ),
                    "fit a cell (on a Pi 5 at J5); a rechargeable one needs \
                     dtparam=rtc_bbat_vchg=3000000",
                ),
                Some(uv) => Check::ok(
                    NAME,
                    format!("{rtc}, its cell gives {:.2} V", uv as f64 / 1e6),
                ),
                None => Check::ok(NAME, format!("{rtc}; whether it has a cell is not told")),
            });
        }
    }
    if p.tree.is_live() {
        out.push(if SystemClock.is_synchronised() {
            Check::ok(NAME, "set by a time server")
        } else {
            Check::warn(
                NAME,
                "no time server has set it: times in the audit log may be wrong",
                "enable systemd-timesyncd or chrony",
            )
        });
    }
}
