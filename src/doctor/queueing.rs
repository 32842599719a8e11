//! SD command queueing on a Raspberry Pi 5: it turns on a cache in the card, and has bugs of its
//! own with some cards.

use crate::media::{Kind, disk_under};

use super::pi::is_pi5;
use super::{Check, Patient};

const NAME: &str = "sd_cqe";
/// The slot's controller in Raspberry Pi's own device tree.
const LIVE: &str = "/proc/device-tree/axi/mmc@fff000/supports-cqe";
const CONFIG: [&str; 2] = ["/boot/firmware/config.txt", "/boot/config.txt"];

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    let disk = disk_under(&p.tree, &p.settings.gateway.data_dir);
    if !is_pi5(&p.tree) || !disk.is_ok_and(|d| d.kind == Kind::Sd) {
        return;
    }
    let remedy = "set dtparam=sd_cqe=off in /boot/firmware/config.txt and reboot";
    out.push(match (live(p), configured(p)) {
        (Some(false), _) => Check::ok(NAME, "off"),
        (Some(true), Some(value)) if is_off(&value) => Check::warn(
            NAME,
            "still on; config.txt says off",
            "reboot, and look again",
        ),
        (Some(true), _) => Check::warn(
            NAME,
            "on for cards that the kernel trusts with it: a cache in the card holds writes",
            remedy,
        ),
        (None, Some(value)) if is_off(&value) => Check::ok(NAME, "off in config.txt"),
        (None, Some(value)) => Check::warn(NAME, format!("{value} in config.txt"), remedy),
        (None, None) => Check::unknown(
            NAME,
            "neither the device tree nor config.txt tells; newer firmware turns it on",
            remedy,
        ),
    });
}

/// What the kernel booted with; a property without a value is on.
fn live(p: &Patient<'_>) -> Option<bool> {
    if !p.tree.has("/proc/device-tree/axi/mmc@fff000") {
        return None;
    }
    let Ok(value) = p.tree.bytes(LIVE) else {
        return Some(false);
    };
    Some(value.is_empty() || value.iter().any(|b| *b != 0))
}

fn configured(p: &Patient<'_>) -> Option<String> {
    let text = CONFIG.iter().find_map(|path| p.tree.text(path))?;
    let params = text
        .lines()
        .filter_map(|l| l.trim().strip_prefix("dtparam="))
        .flat_map(|l| l.split(','));
    let last = params
        .filter_map(|p| p.trim().strip_prefix("sd_cqe"))
        .next_back()?;
    Some(last.strip_prefix('=').unwrap_or("on").to_owned())
}

fn is_off(value: &str) -> bool {
    ["off", "0", "no", "false"].contains(&value)
}
