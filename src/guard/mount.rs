//! The mount under the data directory: may it be frozen, and does it take writes?
//!
//! Frozen is only where the data directory is the mount point of a file system that nobody else
//! stands on: freezing the root file system stops every program that logs or logs in.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// File systems whose freeze is a flush and a barrier, and nothing else.
const FREEZABLE: [&str; 4] = ["ext4", "xfs", "btrfs", "f2fs"];

/// `None` if it may be frozen, else why not.
pub fn freeze_refusal(data_dir: &Path) -> Option<String> {
    let shown = data_dir.display();
    let dir = match data_dir.canonicalize() {
        Ok(dir) => dir,
        Err(e) => return Some(format!("cannot look at {shown}: {e}")),
    };
    let dev = |p: &Path| fs::metadata(p).map(|m| m.dev());
    match (dev(&dir), dev(Path::new("/"))) {
        (Ok(data), Ok(root)) if data == root => {
            return Some(format!("{shown} lies on the root file system"));
        }
        (Ok(_), Ok(_)) => {}
        (Err(e), _) | (_, Err(e)) => return Some(format!("cannot look at {shown}: {e}")),
    }
    match fs::read_to_string("/proc/self/mountinfo") {
        Ok(table) => refusal_in(&table, &dir),
        Err(e) => Some(format!("cannot read /proc/self/mountinfo: {e}")),
    }
}

/// Why nothing can be written below the directory that `dir` is open on; `None` where that is
/// possible, or not known. Reads a table of the kernel's, never the file system itself.
pub fn read_only(dir: BorrowedFd<'_>) -> Option<String> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_raw_fd())).ok()?;
    let id = about.lines().find_map(|l| l.strip_prefix("mnt_id:"))?;
    let table = fs::read("/proc/self/mountinfo").ok()?;
    read_only_in(&String::from_utf8_lossy(&table), id.trim())
}

fn read_only_in(table: &str, id: &str) -> Option<String> {
    let line = table.lines().find(|l| l.split(' ').next() == Some(id))?;
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(4);
    let point = head.next()?;
    let options = [head.next()?, tail.split(' ').nth(2)?];
    let mut all = options.iter().flat_map(|o| o.split(','));
    // An ext4 that stopped writing after an error says so on newer kernels, and leaves `rw`.
    let why = all.find(|o| ["ro", "emergency_ro", "shutdown"].contains(o))?;
    Some(format!("{point} is mounted read-only ({why})"))
}

fn refusal_in(table: &str, dir: &Path) -> Option<String> {
    let mounts: Vec<Mount<'_>> = table.lines().filter_map(Mount::parse).collect();
    let shown = dir.display();
    let Some(own) = mounts
        .iter()
        .rfind(|m| unescape(m.point) == dir.to_string_lossy())
    else {
        return Some(format!("{shown} is not a mount point of its own"));
    };
    if !FREEZABLE.contains(&own.kind) {
        return Some(format!("{shown} is {}, which is not frozen", own.kind));
    }
    let other = mounts
        .iter()
        .find(|m| m.device == own.device && m.point != own.point);
    other.map(|m| {
        format!(
            "the file system of {shown} is also mounted at {}",
            unescape(m.point)
        )
    })
}

/// One line of mountinfo, see proc(5): `id parent major:minor root point options ... - kind ...`.
struct Mount<'a> {
    device: &'a str,
    point: &'a str,
    kind: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(2);
        let device = head.next()?;
        let point = head.nth(1)?;
        Some(Self {
            device,
            point,
            kind: tail.split(' ').next()?,
        })
    }
}

/// The kernel writes space, tab, newline and backslash as octal.
fn unescape(s: &str) -> String {
    s.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const TABLE: &str = "\
24 1 179:2 / / rw,relatime - ext4 /dev/mmcblk0p2 rw
30 24 179:3 / /var/lib/holdup rw,noatime - ext4 /dev/mmcblk0p3 rw
31 24 0:30 / /run rw - tmpfs tmpfs rw
32 24 179:4 / /srv/two\\040words rw - ext4 /dev/mmcblk0p4 rw
33 24 179:4 / /mnt/again rw - ext4 /dev/mmcblk0p4 rw
";

    #[test]
    fn only_a_mount_of_its_own_is_frozen() {
        assert_eq!(refusal_in(TABLE, Path::new("/var/lib/holdup")), None);
        for (dir, why) in [
            ("/var/lib/holdup/deep", "not a mount point"),
            ("/run", "tmpfs"),
            ("/srv/two words", "also mounted at /mnt/again"),
        ] {
            let got = refusal_in(TABLE, Path::new(dir)).expect(dir);
            assert!(got.contains(why), "{got}");
        }
    }

    #[test]
    fn a_mount_or_a_file_system_that_takes_no_writes_is_named() {
        assert_eq!(read_only_in(TABLE, "30"), None);
        assert_eq!(read_only_in(TABLE, "3"), None, "not there");
        let was = "/var/lib/holdup rw,noatime - ext4 /dev/mmcblk0p3 rw";
        for (is, why) in [
            (
                "/var/lib/holdup ro,noatime - ext4 /dev/mmcblk0p3 rw",
                "(ro)",
            ),
            (
                "/var/lib/holdup rw,noatime - ext4 /dev/mmcblk0p3 ro",
                "(ro)",
            ),
            (
                "/var/lib/holdup rw,noatime - ext4 /dev/mmcblk0p3 rw,errors=remount-ro,emergency_ro",
                "(emergency_ro)",
            ),
        ] {
            let table = TABLE.replace(was, is);
            let got = read_only_in(&table, "30").expect(is);
            assert!(
                got.contains("/var/lib/holdup") && got.contains(why),
                "{got}"
            );
        }
        let here = fs::File::open("/tmp").expect("open");
        assert_eq!(read_only(here.as_fd()), None);
    }

    #[test]
    fn the_root_file_system_is_never_frozen() {
        assert!(
            freeze_refusal(Path::new("/"))
                .expect("refused")
                .contains("root file system")
        );
    }
}
