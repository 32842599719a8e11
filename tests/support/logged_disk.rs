//! A disk that remembers every write and flush in their order, and what power would have left of
//! it at any of them.
//!
//! qemu-storage-daemon logs below a loop device (its `blklogwrites`, shown as a file by FUSE); the
//! file system above is the kernel's own ext4, so that what a cut leaves is what ext4 makes of it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::blocklog::{BlockLog, Entry, EntryKind, Mark};
use crate::disk::{Mounted, leave, run, unmount};
use crate::home::poll;

/// An ext4 file system on a disk that is logged; undone when dropped.
pub(crate) struct LoggedDisk {
    home: tempfile::TempDir,
    daemon: Child,
    device: Option<String>,
    log: BlockLog,
}

/// What the disk held at one moment, and everything that was written to it since.
pub(crate) struct Recorded {
    base: PathBuf,
    log: BlockLog,
    entries: Vec<Entry>,
}

/// What power left: all in front of a flush that was answered, and of what came after it either
/// all up to a write, or some.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cut {
    upto: usize,
    /// Of the entries in front of it, those that the disk had only in its cache and lost.
    lost: BTreeSet<usize>,
}

impl LoggedDisk {
    /// Of so many MiB; or why there is none on this machine.
    pub(crate) fn new(mib: u64) -> Result<Self, String> {
        // Memory where there is some: a thousand copies of an image wear a card for nothing.
        let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let home = home.map_err(|e| e.to_string())?;
        let image = home.path().join("image");
        File::create(&image)
            .and_then(|file| file.set_len(mib << 20))
            .map_err(|e| e.to_string())?;
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        let at = image.display().to_string();
        run(
            "mkfs.ext4",
            &["-q", "-F", "-m", "0", "-J", "size=4", "-E", options, &at],
        )?;
        let log = BlockLog::create(&home.path().join("log"));
        let shown = home.path().join("device");
        File::create(&shown).map_err(|e| e.to_string())?;
        fs::create_dir(home.path().join("mnt")).map_err(|e| e.to_string())?;
        let daemon = daemon(&image, log.path(), &shown)?;
        let mut disk = Self {
            home,
            daemon,
            device: None,
            log,
        };
        disk.appear(&shown, mib << 20)?;
        let device = run(
            "losetup",
            &["--find", "--show", &shown.display().to_string()],
        )?;
        disk.device = Some(device.clone());
        let mount = disk.mount().display().to_string();
        run("mount", &["-o", "noatime", &device, &mount])?;
        Ok(disk)
    }

    /// Waits until the daemon shows the device.
    fn appear(&mut self, shown: &Path, bytes: u64) -> Result<(), String> {
        let daemon = &mut self.daemon;
        poll("the logged device", || {
            if let Ok(Some(ended)) = daemon.try_wait() {
                return Some(Err(format!("qemu-storage-daemon ended: {ended}")));
            }
            let there = fs::metadata(shown).is_ok_and(|m| m.len() == bytes);
            there.then_some(Ok(()))
        })
    }

    pub(crate) fn mount(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// Everything so far is on the disk; what comes next is recorded.
    pub(crate) fn begin(&self) -> (PathBuf, Mark) {
        self.flush();
        let base = self.home.path().join("base");
        fs::copy(self.home.path().join("image"), &base).expect("copy of the image");
        (base, self.log.mark())
    }

    fn flush(&self) {
        let mount = self.mount().display().to_string();
        run("sync", &["--file-system", &mount]).expect("sync");
    }

    /// What reached the disk since, nothing more being asked of it.
    pub(crate) fn recorded(&self, (base, mark): (PathBuf, Mark)) -> Recorded {
        let mut entries = self.log.since(mark);
        entries.retain(|e| e.kind != EntryKind::Discard);
        Recorded {
            base,
            log: self.log.clone(),
            entries,
        }
    }
}

impl Drop for LoggedDisk {
    fn drop(&mut self) {
        leave(&self.mount());
        if let Some(device) = &self.device
            && let Err(e) = run("losetup", &["-d", device])
        {
            eprintln!("{e}");
        }
        // Asked to end, it takes its file system away.
        let pid = self.daemon.id().to_string();
        if let Err(e) = run("kill", &["-TERM", &pid]) {
            eprintln!("{e}");
        }
        if let Err(e) = self.daemon.wait() {
            eprintln!("{e}");
        }
        // A mount that was left behind would keep the folder from going.
        unmount(&self.home.path().join("device")).ok();
    }
}

fn daemon(image: &Path, log: &Path, shown: &Path) -> Result<Child, String> {
    let file = |node: &str, path: &Path| {
        format!(
            "driver=file,node-name={node},filename={},cache.direct=off",
            path.display()
        )
    };
    Command::new("qemu-storage-daemon")
        .arg("--blockdev")
        .arg(file("file", image))
        .arg("--blockdev")
        .arg(file("log", log))
        .arg("--blockdev")
        .arg("driver=blklogwrites,node-name=disk,file=file,log=log,log-super-update-interval=1")
        .arg("--export")
        .arg(format!(
            "type=fuse,id=device,node-name=disk,mountpoint={},writable=on",
            shown.display()
        ))
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("qemu-storage-daemon: {e}"))
}

impl Recorded {
    /// Where a disk after a cut can be mounted.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.base.with_file_name(name)
    }

    /// How many writes and flushes there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Every instant at which power may go: before the first write, after each one, and for each
    /// stretch between two flushes once with some of its writes lost, as `roll` has it.
    pub(crate) fn cuts(&self, mut roll: impl FnMut() -> u64) -> Vec<Cut> {
        let mut cuts: Vec<Cut> = (0..=self.len())
            .filter(|n| *n == 0 || self.entries[n - 1].kind == EntryKind::Write)
            .map(|upto| Cut {
                upto,
                lost: BTreeSet::new(),
            })
            .collect();
        let mut cached: Vec<usize> = Vec::new();
        for (n, entry) in self.entries.iter().enumerate() {
            if entry.kind == EntryKind::Write {
                cached.push(n);
                continue;
            }
            let lost = cached.iter().copied().filter(|_| roll() & 1 == 0).collect();
            cuts.push(Cut { upto: n, lost });
            cached.clear();
        }
        cuts.sort();
        cuts.dedup();
        cuts
    }

    /// The moment after the last flush, with nothing that came behind it: the least that is left
    /// once a program has ended.
    pub(crate) fn settled(&self) -> Cut {
        let flush = |e: &Entry| e.kind == EntryKind::Flush;
        let upto = self.entries.iter().rposition(flush).map_or(0, |n| n + 1);
        Cut {
            upto,
            lost: BTreeSet::new(),
        }
    }

    /// The disk as `cut` left it, mounted at the new folder `at`.
    pub(crate) fn after(&self, cut: &Cut, at: &Path) -> Left {
        let image = at.with_extension("img");
        fs::copy(&self.base, &image).expect("copy of the base");
        let disk = File::options().write(true).open(&image).expect("image");
        for (n, entry) in self.entries[..cut.upto].iter().enumerate() {
            if entry.kind == EntryKind::Write && !cut.lost.contains(&n) {
                disk.write_all_at(&self.log.data(entry), entry.sector * 512)
                    .expect("replay");
            }
        }
        drop(disk);
        let mounted = Mounted::new(&image, at).expect("mount");
        Left { mounted, image }
    }
}

/// A disk after a cut, mounted; undone when dropped.
pub(crate) struct Left {
    #[expect(dead_code, reason = "unmounts when dropped")]
    mounted: Mounted,
    image: PathBuf,
}

impl Drop for Left {
    fn drop(&mut self) {
        // The loop device keeps what it still needs of it.
        fs::remove_file(&self.image).ok();
    }
}
