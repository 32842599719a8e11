//! The isolated home: a directory of the drill's own, which cannot be the live gateway's.
//!
//! It promises that nothing is made inside the live directories, whatever links or mounts lead
//! there, that the home is gone when the drill is over, and that the next drill removes one that a
//! killed drill left. It must never remove anything that a drill did not make.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// What every home is called, with six letters or digits behind it.
const PREFIX: &str = "holdup-drill-";
/// The file that makes a directory a drill's; locked while the drill lives.
const MARKER: &str = "THIS-IS-A-DRILL";
const MARK: &[u8] =
    b"A rehearsal of holdup; nothing here is the gateway's. The next drill removes it.\n";
/// Files by which a gateway's directory is known.
const LIVE_FILES: [&str; 8] = [
    "edge_store.db",
    "sync_queue.db",
    "audit.db",
    "outage.rec",
    "ledger",
    "holdup.toml",
    "ingest.sock",
    "status.sock",
];
/// The longest path of a home: what is bound below it must fit a socket's address.
const LONGEST: usize = 84;
/// Tries for a name that is free.
const TRIES: u32 = 64;

/// Why there is no home.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It would lie in a directory of the live gateway.
    #[error(
        "{} is or lies in {}, the live gateway's {what}: name another place with --home",
        parent.display(), live.display()
    )]
    Live {
        /// Where the home should have been made.
        parent: PathBuf,
        /// `data_dir` or `run_dir`.
        what: &'static str,
        /// The live directory.
        live: PathBuf,
    },
    /// A gateway lives there.
    #[error("{} holds {name}: a gateway may live there; name another place with --home", parent.display())]
    Inhabited {
        /// Where the home should have been made.
        parent: PathBuf,
        /// What was found.
        name: &'static str,
    },
    /// Too little room.
    #[error(
        "{} has {have} MiB free, the drill needs {need}: make room, or name another place with --home",
        parent.display()
    )]
    Full {
        /// Where the home should have been made.
        parent: PathBuf,
        /// MiB free.
        have: u64,
        /// MiB needed.
        need: u64,
    },
    /// Sockets below it could not be named.
    #[error("{} is too long a path for a drill: name a shorter one with --home", parent.display())]
    TooLong {
        /// Where the home should have been made.
        parent: PathBuf,
    },
    /// A file cannot be used.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl HomeError {
    /// Is it refused, rather than failed?
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Live { .. } | Self::Inhabited { .. } | Self::TooLong { .. } => true,
            Self::Full { .. } | Self::Io { .. } => false,
        }
    }

    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// The live gateway's directories, which no drill may enter.
#[derive(Debug, Clone)]
pub struct Live {
    /// `gateway.data_dir`.
    pub data_dir: PathBuf,
    /// `gateway.run_dir`.
    pub run_dir: PathBuf,
}

impl Live {
    fn dirs(&self) -> [(&'static str, &Path); 2] {
        [("data_dir", &self.data_dir), ("run_dir", &self.run_dir)]
    }

    /// Is `dir`, or one above it, a live directory? Told by device and inode: neither a link nor a
    /// bind mount nor another spelling of the path hides it.
    fn holds(&self, dir: &Path) -> Option<(&'static str, &Path)> {
        let above: Vec<Metadata> = (dir.ancestors())
            .filter_map(|a| fs::metadata(a).ok())
            .collect();
        self.dirs().into_iter().find(|(_, live)| {
            let Ok(live) = fs::metadata(live) else {
                return false;
            };
            above.iter().any(|a| same(a, &live))
        })
    }

    /// Does a live directory lie in `dir`?
    fn is_in(&self, dir: &Path) -> bool {
        let Ok(dir) = fs::metadata(dir) else {
            return true;
        };
        self.dirs().into_iter().any(|(_, live)| {
            let Ok(live) = live.canonicalize() else {
                return false;
            };
            let mut above = live.ancestors().filter_map(|a| fs::metadata(a).ok());
            above.any(|a| same(&a, &dir))
        })
    }
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// See the module's text. Dropping it removes it.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    /// Holds the lock by which the next drill knows that this one lives.
    _marker: File,
}

impl Home {
    /// A new home under `parent`, for which `need` bytes must be free.
    ///
    /// # Errors
    /// `parent` is or lies in a live directory, a gateway lives there, there is too little room,
    /// or it cannot be used.
    pub fn make(parent: &Path, live: &Live, need: u64) -> Result<Self, HomeError> {
        let parent = &parent
            .canonicalize()
            .map_err(HomeError::io("look at", parent))?;
        check(parent, live)?;
        remove_stale(parent, live);
        let stat =
            rustix::fs::statvfs(parent).map_err(|e| HomeError::io("look at", parent)(e.into()))?;
        let have = stat.f_bavail.saturating_mul(stat.f_frsize);
        if have < need {
            return Err(HomeError::Full {
                parent: parent.clone(),
                have: have >> 20,
                need: (need >> 20) + 1,
            });
        }
        let dir = fresh(parent)?;
        let marker = mark(&dir).map_err(|e| {
            fs::remove_dir(&dir).ok();
            HomeError::io("mark", &dir)(e)
        })?;
        Ok(Self {
            dir,
            _marker: marker,
        })
    }

    /// Its path: absolute, without links.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The file system it lies on: `ext4`, `tmpfs`; its number where the name is not known.
    pub fn medium(&self) -> String {
        const KNOWN: [(u32, &str); 9] = [
            (0x0000_ef53, "ext4"),
            (0x0102_1994, "tmpfs"),
            (0x9123_683e, "btrfs"),
            (0x5846_5342, "xfs"),
            (0x794c_7630, "overlay"),
            (0xf2f5_2010, "f2fs"),
            (0x0000_4d44, "vfat"),
            (0x2fc1_2fc1, "zfs"),
            (0x6573_5546, "fuse"),
        ];
        // The kernel's numbers have 32 bits, whatever width the field has here.
        let kind = match rustix::fs::statfs(&self.dir) {
            Ok(stat) => (i128::from(stat.f_type) & 0xffff_ffff) as u32,
            Err(_) => return "unknown".to_owned(),
        };
        let known = KNOWN.iter().find(|(number, _)| *number == kind);
        known.map_or_else(|| format!("{kind:#x}"), |(_, name)| (*name).to_owned())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.dir) {
            log::warn!("cannot remove {}: {e}", self.dir.display());
        }
    }
}

fn check(parent: &Path, live: &Live) -> Result<(), HomeError> {
    if let Some((what, live)) = live.holds(parent) {
        return Err(HomeError::Live {
            parent: parent.to_owned(),
            what,
            live: live.to_owned(),
        });
    }
    let there = |name: &&&str| parent.join(name).symlink_metadata().is_ok();
    if let Some(name) = LIVE_FILES.iter().find(there) {
        return Err(HomeError::Inhabited {
            parent: parent.to_owned(),
            name,
        });
    }
    if parent.as_os_str().len() + PREFIX.len() + 7 > LONGEST {
        return Err(HomeError::TooLong {
            parent: parent.to_owned(),
        });
    }
    Ok(())
}

/// A directory that nobody had, for its owner alone.
fn fresh(parent: &Path) -> Result<PathBuf, HomeError> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    for _ in 0..TRIES {
        let mut seed = [0; 6];
        getrandom(&mut seed, GetRandomFlags::empty())
            .map_err(|e| HomeError::io("draw a name in", parent)(e.into()))?;
        let letters = seed.map(|b| char::from(LETTERS[usize::from(b) % LETTERS.len()]));
        let dir = parent.join(format!("{PREFIX}{}", letters.iter().collect::<String>()));
        match rustix::fs::mkdir(&dir, Mode::RWXU) {
            Ok(()) => return Ok(dir),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(HomeError::io("make a directory in", parent)(e.into())),
        }
    }
    let full = io::Error::from(io::ErrorKind::AlreadyExists);
    Err(HomeError::io("find a free name in", parent)(full))
}

fn mark(dir: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let mut file = File::from(rustix::fs::open(dir.join(MARKER), flags, mode)?);
    // Locked before it says what it is: a drill that looks now sees either nothing or a lock.
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.write_all(MARK)?;
    Ok(file)
}

/// Homes of drills that were killed. What cannot be removed is somebody else's worry.
fn remove_stale(parent: &Path, live: &Live) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let dir = entry.path();
        let Some(_lock) = abandoned(&dir) else {
            continue;
        };
        if live.is_in(&dir) || live.holds(&dir).is_some() {
            log::warn!("{} is left alone: the live gateway is in it", dir.display());
            continue;
        }
        match fs::remove_dir_all(&dir) {
            Ok(()) => log::info!("removed {}, which a killed drill left", dir.display()),
            Err(e) => log::warn!("cannot remove {}: {e}", dir.display()),
        }
    }
}

/// Its marker, locked by us, where `dir` is a home of ours whose drill is dead.
fn abandoned(dir: &Path) -> Option<File> {
    let meta = dir.symlink_metadata().ok()?;
    let ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
    if !ours {
        return None;
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(dir.join(MARKER), flags, Mode::empty()).ok()?);
    let mut text = vec![0; MARK.len()];
    file.read_exact(&mut text).ok()?;
    let dead = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    (text == MARK && dead).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        dir: tempfile::TempDir,
        live: Live,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().expect("temp dir");
        let live = Live {
            data_dir: dir.path().join("live/data"),
            run_dir: dir.path().join("live/run"),
        };
        for d in [&live.data_dir, &live.run_dir] {
            fs::create_dir_all(d.join("deep/er")).expect("live");
        }
        World { dir, live }
    }

    impl World {
        fn make(&self, parent: &Path) -> Result<Home, HomeError> {
            Home::make(parent, &self.live, 1)
        }
    }

    #[test]
    fn a_home_in_the_live_directories_is_refused_however_it_is_named() {
        let w = world();
        let link = w.dir.path().join("innocent");
        std::os::unix::fs::symlink(&w.live.data_dir, &link).expect("link");
        for parent in [
            w.live.data_dir.clone(),
            w.live.run_dir.clone(),
            w.live.data_dir.join("deep/er"),
            w.live.run_dir.join("deep/../deep"),
            link.clone(),
            link.join("deep"),
        ] {
            let e = w.make(&parent).expect_err("refused");
            assert!(matches!(e, HomeError::Live { .. }) && e.is_refusal(), "{e}");
        }
        let left = fs::read_dir(&w.live.data_dir).expect("list").count();
        assert_eq!(left, 1, "nothing was made there");
    }

    #[test]
    fn a_live_directory_that_is_itself_a_link_is_known_by_where_it_leads() {
        let mut w = world();
        let real = w.live.data_dir.clone();
        w.live.data_dir = w.dir.path().join("link");
        std::os::unix::fs::symlink(&real, &w.live.data_dir).expect("link");
        let e = w.make(&real).expect_err("refused");
        assert!(matches!(e, HomeError::Live { .. }), "{e}");
    }

    #[test]
    fn a_place_that_holds_a_gateways_files_is_refused() {
        let w = world();
        let other = w.dir.path().join("other");
        fs::create_dir(&other).expect("dir");
        for name in LIVE_FILES {
            File::create(other.join(name)).expect("file");
            let e = w.make(&other).expect_err("refused");
            assert!(e.to_string().contains(name), "{e}");
            fs::remove_file(other.join(name)).expect("remove");
        }
        w.make(&other).expect("an empty place is well");
    }

    #[test]
    fn a_home_is_its_owners_alone_and_gone_when_dropped() {
        let w = world();
        let home = w.make(w.dir.path()).expect("home");
        let mode = fs::metadata(home.path()).expect("meta").mode();
        assert_eq!(mode & 0o777, 0o700);
        let path = home.path().to_owned();
        fs::create_dir(path.join("1")).expect("dir");
        drop(home);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_drill_left_is_removed_and_nothing_else() {
        let w = world();
        let stale = w.make(w.dir.path()).expect("home");
        let path = stale.path().to_owned();
        File::create(path.join("big")).expect("file");
        // As SIGKILL leaves it: the lock is gone, the files are not.
        let marker = stale._marker.try_clone().expect("clone");
        std::mem::forget(stale);
        let other = w.dir.path().join("holdup-drill-mine");
        fs::create_dir(&other).expect("dir");
        let alive = w.make(w.dir.path()).expect("home");
        assert!(path.exists(), "its drill lives");
        flock(&marker, FlockOperation::Unlock).expect("die");
        let next = w.make(w.dir.path()).expect("home");
        assert!(!path.exists(), "its drill is dead");
        assert!(alive.path().exists() && other.exists() && next.path().exists());
    }

    #[test]
    fn a_stale_home_with_the_live_gateway_in_it_is_left_alone() {
        let mut w = world();
        let stale = w.make(w.dir.path()).expect("home");
        w.live.data_dir = stale.path().join("data");
        fs::create_dir(&w.live.data_dir).expect("dir");
        flock(&stale._marker, FlockOperation::Unlock).expect("die");
        let next = w.make(w.dir.path()).expect("home");
        assert!(w.live.data_dir.exists());
        drop(next);
    }

    #[test]
    fn too_little_room_is_told_in_numbers() {
        let w = world();
        let e = Home::make(w.dir.path(), &w.live, u64::MAX).expect_err("full");
        assert!(e.to_string().contains("MiB free"), "{e}");
        assert!(!e.is_refusal());
    }
}
