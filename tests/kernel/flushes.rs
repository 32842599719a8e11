//! One flush a commit, counted on a block device of its own.
//!
//! SQLite built without HAVE_FDATASYNC calls fsync: on ext4 that is two flushes a commit. This
//! turns red when a build path forgets LIBSQLITE3_FLAGS.

#[path = "../host/store_world.rs"]
#[expect(dead_code, reason = "shared with the host tests, which use all of it")]
mod store_world;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use holdup::store::{Desk, Store, StoreOptions};
use holdup::{clock::SystemClock, durable::Gate, durable::Medium};

use store_world::{SETTINGS, Seen, Told, chunk, until};

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
    /// Or why there is none on this machine.
    pub(crate) fn new() -> Result<Self, String> {
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        let image = home.path().join("disk.img");
        let at = image.display().to_string();
        run("truncate", &["-s", "128M", &at])?;
        run(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
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
        for (program, what) in [("umount", self.mount().display().to_string())] {
            if let Err(e) = run(program, &[&what]) {
                eprintln!("{e}");
            }
        }
        if let Err(e) = run("losetup", &["-d", &self.device]) {
            eprintln!("{e}");
        }
    }
}

#[test]
fn a_commit_costs_one_flush() {
    let disk = match Disk::new() {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("skipped: no loop device with ext4 on this machine ({why})");
            return;
        }
    };
    let store = Store::start(StoreOptions {
        desk: Desk::new(),
        settings: SETTINGS,
        path: disk.mount().join("edge_store.db"),
        medium: Arc::new(Medium::open(&disk.mount()).expect("medium")),
        gate: Arc::new(Gate::new()),
        clock: Arc::new(SystemClock),
        observer: Arc::new(Seen::default()),
    })
    .expect("start");
    // The log grows once to its size; what comes after overwrites it.
    store.orders().set_wal_limit(50);
    let told = Arc::new(Told::default());
    let mut line = 0;
    let mut one = || {
        line += 1;
        store.intake().submit(chunk(&told, line, 1, None));
        until("it is stored", || told.upto() == line);
    };
    (0..120).for_each(|_| one());
    store.orders().set_wal_limit(u32::MAX);
    store
        .orders()
        .checkpoint(
            holdup::store::Mode::Passive,
            std::time::Duration::from_secs(60),
        )
        .expect("checkpoint");
    let (commits, before) = (store.stats().commits, disk.written());
    (0..40).for_each(|_| one());
    let (commits, after) = (store.stats().commits - commits, disk.written());
    let (flushes, bytes) = (after.1 - before.1, (after.0 - before.0) * 512);
    println!(
        "{commits} commits: {flushes} flushes, {} bytes a commit",
        bytes / commits
    );
    assert_eq!(commits, 40);
    // The restarted log's header is synced once more.
    assert!(
        (40..=42).contains(&flushes),
        "{flushes} flushes for 40 commits"
    );
}
