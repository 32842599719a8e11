//! A USB stick, mounted only while it is used.
//!
//! It promises that programs and devices on a stick mean nothing, and that the stick is unmounted
//! whatever happens. It must never mount what is not named.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::backup::BackupError;

/// Where udev names file systems by their labels.
const BY_LABEL: &str = "/dev/disk/by-label";
/// Tried in this order, of those that the kernel has.
const TYPES: [&str; 6] = ["vfat", "exfat", "ext4", "btrfs", "xfs", "f2fs"];
/// Of these nobody owns a file: all belong to who mounts, and are nobody else's to read.
const OWNERLESS: [&str; 2] = ["vfat", "exfat"];

/// A mounted stick.
#[derive(Debug)]
pub struct Stick {
    dir: PathBuf,
    mounted: bool,
}

impl Stick {
    /// Mounts the file system with `label` below `run_dir`.
    ///
    /// # Errors
    /// No such stick is plugged in, or it cannot be mounted.
    pub fn mount(label: &str, run_dir: &Path) -> Result<Self, BackupError> {
        let device = Path::new(BY_LABEL).join(escaped(label));
        Self::mount_device(&device, label, run_dir)
    }

    fn mount_device(device: &Path, label: &str, run_dir: &Path) -> Result<Self, BackupError> {
        let no = |why: String| BackupError::Stick {
            label: label.to_owned(),
            why,
        };
        let device = fs::canonicalize(device).map_err(|e| {
            if e.kind() == io::ErrorKind::NotFound {
                no(format!(
                    "it is not plugged in ({} is not there); `lsblk -o NAME,LABEL` shows what is",
                    device.display()
                ))
            } else {
                no(e.to_string())
            }
        })?;
        let dir = run_dir.join("usb").join(escaped(label));
        fs::create_dir_all(&dir).map_err(BackupError::io("make directory", &dir))?;
        // A killed run may have left it mounted; that is nobody's.
        while unmount(&dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let known = filesystems();
        let mut last = "the kernel knows none of the file systems that sticks have".to_owned();
        for kind in TYPES.iter().filter(|t| known.iter().any(|k| k == *t)) {
            let options = if OWNERLESS.contains(kind) {
                Some(c"umask=0077")
            } else {
                None
            };
            match mount(&device, &dir, *kind, flags, options) {
                Ok(()) => {
                    return Ok(Self { dir, mounted: true });
                }
                Err(Errno::PERM) => {
                    return Err(no(
                        "mounting needs CAP_SYS_ADMIN: run this as root, or give the service \
                         AmbientCapabilities=CAP_SYS_ADMIN"
                            .to_owned(),
                    ));
                }
                Err(Errno::ROFS) => return Err(no("it is write-protected".to_owned())),
                Err(e) => last = format!("as {kind}: {e}"),
            }
        }
        Err(no(format!("{} cannot be mounted {last}", device.display())))
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// It is still used, or its medium failed.
    pub fn unmount(mut self) -> Result<(), BackupError> {
        self.mounted = false;
        let done = unmount(&self.dir, UnmountFlags::NOFOLLOW);
        if let Err(e) = done {
            self.mounted = true;
            return Err(BackupError::io("unmount", &self.dir)(e.into()));
        }
        Ok(())
    }
}

impl Drop for Stick {
    fn drop(&mut self) {
        if self.mounted
            && let Err(e) = unmount(&self.dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        {
            log::warn!("cannot unmount {}: {e}", self.dir.display());
        }
    }
}

/// A label as udev writes it: all but a few characters as `\xNN`.
fn escaped(label: &str) -> String {
    let mut text = String::new();
    for c in label.chars() {
        if c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c) || !c.is_ascii() {
            text.push(c);
        } else {
            text.push_str(&format!("\\x{:02x}", u32::from(c)));
        }
    }
    text
}

/// File systems that the kernel has now; a module that is not loaded is tried all the same.
fn filesystems() -> Vec<String> {
    let mut text = String::new();
    let read =
        fs::File::open("/proc/filesystems").and_then(|f| f.take(1 << 16).read_to_string(&mut text));
    let mut known: Vec<String> = text
        .lines()
        .filter_map(|l| l.strip_prefix('\t'))
        .map(str::to_owned)
        .collect();
    // mount(2) loads a module by the name of its file system.
    if read.is_err() || known.len() < TYPES.len() {
        known.extend(TYPES.iter().map(|t| (*t).to_owned()));
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_written_as_udev_writes_it() {
        assert_eq!(escaped("HOLDUP-1"), "HOLDUP-1");
        assert_eq!(escaped("my stick/.."), "my\\x20stick\\x2f..");
    }

    #[test]
    fn a_stick_that_is_not_plugged_in_is_named_with_what_to_look_at() {
        let run = tempfile::tempdir().expect("temp dir");
        let e = Stick::mount("no such stick", run.path()).expect_err("none");
        let text = e.to_string();
        assert!(
            text.contains("no such stick") && text.contains("lsblk"),
            "{text}"
        );
    }
}
