//! Who else is on the technician's serial line: a kernel console, or a login prompt.

use super::{Check, Patient};

const NAME: &str = "port";

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    let port = &p.settings.console.port;
    // /dev/serial0 is a link.
    let Some(real) = p.tree.resolve(port) else {
        return;
    };
    let Some(tty) = real.file_name().map(|n| n.to_string_lossy().into_owned()) else {
        return;
    };
    let before = out.len();
    let consoles = p.tree.text("/proc/consoles").unwrap_or_default();
    if consoles.lines().any(|l| l.split(' ').next() == Some(&tty)) {
        out.push(Check::warn(
            NAME,
            format!("the kernel writes to {tty}, the technician's line; systemd logs in there too"),
            format!("take console={tty} (or serial0) out of /boot/firmware/cmdline.txt and reboot"),
        ));
    }
    let unit = format!("serial-getty@{tty}.service");
    let wants = [
        "/run/systemd/generator/getty.target.wants",
        "/etc/systemd/system/getty.target.wants",
    ];
    let mask = format!("/etc/systemd/system/{unit}");
    let is_masked = p
        .tree
        .resolve(&mask)
        .is_some_and(|to| to.ends_with("dev/null"));
    let there = |dir: &&str| p.tree.names(dir).contains(&unit);
    if !is_masked && wants.iter().any(there) {
        out.push(Check::warn(
            NAME,
            format!("{unit} asks for a login on {tty}, the technician's line"),
            format!("`systemctl mask --now {unit}`"),
        ));
    }
    if out.len() == before {
        out.push(Check::ok(
            NAME,
            format!("{tty}: no kernel console, no login prompt"),
        ));
    }
}
