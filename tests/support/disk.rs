//! A disk of its own: ext4 on a loop device, whose writes and flushes the kernel counts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An ext4 file system on a loop device; undone when dropped.
pub(crate) struct Disk {
    home: tempfile::TempDir,
    device: String,
}

pub(crate) fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let done = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    } else {
        Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        ))
    }
}

/// Unmounts. What another test starts at this moment holds this one's files until its exec: a busy
/// mount is tried again, for 10 s at most. What is not mounted is well.
#[expect(
    clippy::disallowed_methods,
    reason = "between two attempts, never instead of one"
)]
pub(crate) fn unmount(mount: &Path) -> Result<(), String> {
    let at = mount.display().to_string();
    let mut tries = 500;
    loop {
        match run("umount", &[&at]) {
            Err(e) if e.contains("not mounted") => return Ok(()),
            Err(e) if e.contains("busy") && tries > 0 => tries -= 1,
            done => return done.map(|_| ()),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The same in a drop, where the mount must go in any case: out of sight, and in truth when its
/// last user ends. Its loop device goes with it.
pub(crate) fn leave(mount: &Path) {
    if let Err(e) = unmount(mount) {
        eprintln!("{e}");
        if let Err(e) = run("umount", &["--lazy", &mount.display().to_string()]) {
            eprintln!("{e}");
        }
    }
}

/// A copy of a disk's image, mounted; undone when dropped.
#[allow(dead_code, reason = "for tests/kernel")]
pub(crate) struct Mounted(PathBuf);

#[allow(dead_code, reason = "for tests/kernel")]
impl Mounted {
    /// Mounts `image` at the new folder `mount`. Its loop device goes when it is unmounted.
    pub(crate) fn new(image: &Path, mount: &Path) -> Result<Self, String> {
        std::fs::create_dir(mount).map_err(|e| e.to_string())?;
        let (image, at) = (image.display().to_string(), mount.display().to_string());
        run("mount", &["-o", "loop", &image, &at])?;
        Ok(Self(mount.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        leave(&self.0);
    }
}

impl Disk {
    /// Of so many MiB, all of them written once so that the file beneath has no holes; or why
    /// there is none on this machine.
    pub(crate) fn new(mib: u64) -> Result<Self, String> {
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        let image = home.path().join("disk.img");
        let at = image.display().to_string();
        let zeros = [
            "if=/dev/zero",
            "bs=1M",
            "conv=fsync",
            &format!("count={mib}"),
            &format!("of={at}"),
        ];
        run("dd", &zeros)?;
        run(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
                &at,
            ],
        )?;
        let device = run("losetup", &["--find", "--show", &at])?;
        let disk = Self { home, device };
        std::fs::create_dir(disk.mount()).map_err(|e| e.to_string())?;
        run(
            "mount",
            &[
                "-o",
                "noatime",
                &disk.device,
                &disk.mount().display().to_string(),
            ],
        )?;
        Ok(disk)
    }

    pub(crate) fn mount(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// Gives up the room that only root may use.
    #[allow(dead_code, reason = "for tests/kernel")]
    pub(crate) fn without_roots_share(&self) {
        run("tune2fs", &["-m", "0", &self.device]).expect("tune2fs");
    }

    /// What is written here the file system takes for an error of its own.
    #[allow(dead_code, reason = "for tests/kernel")]
    pub(crate) fn trigger(&self) -> PathBuf {
        let name = Path::new(&self.device).file_name().expect("name");
        Path::new("/sys/fs/ext4")
            .join(name)
            .join("trigger_fs_error")
    }

    /// Sectors written and flushes since the device was made.
    /// Source: the kernel's Documentation/block/stat.rst, fields 7 and 16.
    pub(crate) fn written(&self) -> (u64, u64) {
        let name = Path::new(&self.device).file_name().expect("name");
        let stat = Path::new("/sys/block").join(name).join("stat");
        let stat = std::fs::read_to_string(stat).expect("stat");
        let n: Vec<u64> = stat
            .split_whitespace()
            .map(|n| n.parse().expect("number"))
            .collect();
        (n[6], n[15])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        leave(&self.mount());
        if let Err(e) = run("losetup", &["-d", &self.device]) {
            eprintln!("{e}");
        }
    }
}
