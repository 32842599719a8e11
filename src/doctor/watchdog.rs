//! A hardware watchdog restarts a kernel that hangs; without one a hang lasts until somebody comes.

use super::{Check, Patient};

const NAME: &str = "watchdog";
const DIR: &str = "/sys/class/watchdog";

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    let Some(first) = p.tree.names(DIR).into_iter().next() else {
        out.push(Check::warn(
            NAME,
            "the kernel has none: a hang lasts until somebody comes",
            "load its driver; on a Raspberry Pi dtparam=watchdog=on",
        ));
        return;
    };
    let of = |name: &str| p.tree.text(format!("{DIR}/{first}/{name}"));
    let who = of("identity").unwrap_or_else(|| first.clone());
    let remedy = "set RuntimeWatchdogSec=15s under [Manager] in \
                  /etc/systemd/system.conf.d/holdup.conf and reboot";
    out.push(match of("state").as_deref() {
        Some("active") => {
            let timeout = of("timeout").map_or_else(String::new, |t| format!(", {t} s"));
            Check::ok(NAME, format!("{who}: fed{timeout}"))
        }
        Some(state) => Check::warn(NAME, format!("{who}: {state}, nobody feeds it"), remedy),
        None => Check::unknown(
            NAME,
            format!("{who}: the kernel does not tell its state"),
            remedy,
        ),
    });
}
