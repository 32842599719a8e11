//! How the data directory's file system is mounted: options that make an acknowledgement a lie,
//! and those that wear the card or slow it down.

use std::path::Path;

use super::{Check, Patient};

const NAME: &str = "mount";

pub(super) fn checks(p: &Patient<'_>, out: &mut Vec<Check>) {
    let dir = &p.settings.gateway.data_dir;
    let Some(table) = p.tree.text("/proc/self/mountinfo") else {
        out.push(Check::unknown(
            NAME,
            "cannot read /proc/self/mountinfo",
            "mount /proc",
        ));
        return;
    };
    let real = p.tree.resolve(dir).unwrap_or_else(|| dir.clone());
    if let Some((point, fs, options)) = mount_of(&table, &real) {
        judged(&point, &fs, &options, p.settings.board.is_sim(), out);
    }
}

/// Mount point, type and all options of the mount that holds `dir`.
fn mount_of(table: &str, dir: &Path) -> Option<(String, String, Vec<String>)> {
    let parse = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(4);
        let point = head.next()?.replace("\\040", " ");
        let own = head.next()?;
        let mut tail = tail.split(' ');
        let fs = tail.next()?.to_owned();
        let all = own.split(',').chain(tail.nth(1)?.split(','));
        Some((point, fs, all.map(str::to_owned).collect()))
    };
    table
        .lines()
        .filter_map(parse)
        .filter(|(point, _, _)| dir.starts_with(point))
        .max_by_key(|(point, _, _): &(String, String, Vec<String>)| {
            Path::new(point).components().count()
        })
}

fn judged(point: &str, fs: &str, options: &[String], is_sim: bool, out: &mut Vec<Check>) {
    let has = |wanted: &str| options.iter().any(|o| o == wanted);
    let before = out.len();
    if ["tmpfs", "ramfs"].contains(&fs) {
        let found = format!("{point} is {fs}: memory, nothing on it outlives a loss of power");
        let remedy = "put gateway.data_dir on the card";
        out.push(if is_sim {
            Check::warn(NAME, found, remedy)
        } else {
            Check::bad(NAME, found, remedy)
        });
        return;
    }
    if fs == "overlay" {
        out.push(Check::warn(
            NAME,
            format!("{point} is an overlay: what is written may lie in memory"),
            "put gateway.data_dir on a partition of its own",
        ));
        return;
    }
    for lie in ["nobarrier", "barrier=0", "fsync_mode=nobarrier"] {
        if has(lie) {
            out.push(Check::bad(
                NAME,
                format!("{point} is mounted with {lie}: what is synced need not be on the medium"),
                format!("take {lie} out of /etc/fstab and remount"),
            ));
        }
    }
    if has("data=writeback") {
        out.push(Check::warn(
            NAME,
            format!("{point} is mounted with data=writeback: after a cut files may hold old data"),
            "use data=ordered, the default, in /etc/fstab",
        ));
    }
    if has("data=journal") {
        out.push(Check::warn(
            NAME,
            format!("{point} is mounted with data=journal: everything is written twice"),
            "use data=ordered, the default, in /etc/fstab",
        ));
    }
    if has("discard") {
        out.push(Check::warn(
            NAME,
            format!("{point} is mounted with discard: each deletion may stall the card"),
            "take discard out of /etc/fstab; not every card survives it",
        ));
    }
    if fs == "ext4" && options.iter().any(|o| o == "errors=continue") {
        out.push(Check::warn(
            NAME,
            format!("{point} goes on writing after an error in itself (errors=continue)"),
            "mount it with errors=remount-ro",
        ));
    }
    if ["vfat", "exfat", "msdos"].contains(&fs) {
        out.push(Check::bad(
            NAME,
            format!("{point} is {fs}, which has no journal: a cut can lose whole files"),
            "put gateway.data_dir on ext4",
        ));
    }
    if out.len() == before {
        out.push(Check::ok(
            NAME,
            format!("{point}: {fs}, {}", options.join(",")),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn worst(line: &str) -> Level {
        let table = format!("20 1 179:2 / / rw - ext4 /dev/mmcblk0p2 rw\n{line}\n");
        let (point, fs, options) = mount_of(&table, Path::new("/var/lib/holdup")).expect("a mount");
        let mut out = Vec::new();
        judged(&point, &fs, &options, false, &mut out);
        out.iter().map(|c| c.level).max().expect("a check")
    }

    #[test]
    fn a_mount_that_makes_a_sync_a_lie_is_bad_and_one_that_slows_is_warned_about() {
        let at = "21 20 179:3 / /var/lib/holdup";
        for (rest, level) in [
            ("rw,noatime - ext4 /dev/x rw", Level::Ok),
            ("rw,noatime - ext4 /dev/x rw,nobarrier", Level::Bad),
            ("rw,noatime - ext4 /dev/x rw,barrier=0", Level::Bad),
            ("rw - f2fs /dev/x rw,fsync_mode=nobarrier", Level::Bad),
            ("rw - ext4 /dev/x rw,data=writeback", Level::Warn),
            ("rw - ext4 /dev/x rw,discard", Level::Warn),
            ("rw - ext4 /dev/x rw,errors=continue", Level::Warn),
            ("rw - tmpfs tmpfs rw", Level::Bad),
            ("rw - vfat /dev/x rw", Level::Bad),
            ("rw - overlay overlay rw,upperdir=/run/x", Level::Warn),
        ] {
            assert_eq!(worst(&format!("{at} {rest}")), level, "{rest}");
        }
        // Somebody else's partition is not looked at.
        assert_eq!(worst("21 20 179:3 / /other rw - vfat /dev/x rw"), Level::Ok);
    }
}
