//! A disk of its own: ext4 on a loop device, whose writes and flushes the kernel counts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An ext4 file system on a loop device; undone when dropped.
pub(crate) struct Disk {
    home: tempfile::TempDir,
    device: String,
}

fn run(program: &str, args: &[&str]) -> Result<String, String> {
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
        let mount = self.mount().display().to_string();
        for undone in [
            run("umount", &[&mount]),
            run("losetup", &["-d", &self.device]),
        ] {
            if let Err(e) = undone {
                eprintln!("{e}");
            }
        }
    }
}
