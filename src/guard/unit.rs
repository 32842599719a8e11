//! A unit's cgroup: how an application's processes are stopped for an outage and let go on.
//!
//! A stopped process notices nothing but a jump in time, where one that waits for a lock gives
//! up. What is stopped is noted in the run directory *before* it is stopped, so that the next
//! agent lets go what one that died had stopped. Never stopped are the agent's own unit, what
//! lies above it, and process 1; never let go is what somebody else had stopped.
//!
//! Only units of the system's service manager are found: they lie under slices and nothing else
//! (systemd's docs/CGROUP_DELEGATION.md). The files are those of the kernel's
//! Documentation/admin-guide/cgroup-v2.rst.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::clock::{Clock, Mono};
use crate::config::one_line;
use crate::durable::{read_own, write_own};

/// Folders looked at in search of a unit, at most.
const MOST_FOLDERS: usize = 4096;
/// Bytes in a note: no path is longer (PATH_MAX).
const LONGEST_NOTE: u64 = 4096;
/// The kernel says when a cgroup has stopped; it is asked this often all the same.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// The cgroup v2 hierarchy, or a folder that imitates it.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: Result<PathBuf, String>,
    /// Where it is noted what is stopped.
    notes: PathBuf,
    /// Processes that must never be stopped.
    spared: Vec<u32>,
}

impl Cgroups {
    /// The one that this machine has mounted; notes go below `run_dir`.
    pub fn of_this_machine(run_dir: &Path) -> Self {
        let table = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| format!("cannot read /proc/self/mountinfo: {e}"));
        let root = table.and_then(|t| {
            mounted(&t).ok_or_else(|| {
                "no cgroup v2 is mounted here: boot without systemd.unified_cgroup_hierarchy=0"
                    .to_owned()
            })
        });
        Self::new(root, run_dir)
    }

    /// The hierarchy under `root`.
    pub fn at(root: &Path, run_dir: &Path) -> Self {
        Self::new(Ok(root.to_owned()), run_dir)
    }

    /// None: no unit may be stopped, for this reason.
    pub fn refused(why: &str, run_dir: &Path) -> Self {
        Self::new(Err(why.to_owned()), run_dir)
    }

    fn new(root: Result<PathBuf, String>, run_dir: &Path) -> Self {
        Self {
            root,
            notes: notes(run_dir),
            spared: vec![1, std::process::id()],
        }
    }

    /// The same, and this process is not stopped either: the agent, where another one asks.
    pub fn sparing(mut self, pid: u32) -> Self {
        self.spared.push(pid);
        self
    }

    /// The folder of a unit, or `None` where it does not run.
    fn find(&self, unit: &str) -> Result<Option<PathBuf>, String> {
        let root = self.root.clone()?;
        let mut waiting = VecDeque::from([root]);
        let mut seen = 0;
        while let Some(folder) = waiting.pop_front() {
            let inside = match fs::read_dir(&folder) {
                Ok(inside) => inside,
                // It went away meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(format!("cannot list {}: {e}", folder.display())),
            };
            for entry in inside.flatten() {
                if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                    continue;
                }
                seen += 1;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                // systemd puts an underscore before names that the kernel uses itself.
                if name == unit || name.strip_prefix('_') == Some(unit) {
                    return Ok(Some(entry.path()));
                }
                if name.ends_with(".slice") && seen < MOST_FOLDERS {
                    waiting.push_back(entry.path());
                }
            }
        }
        Ok(None)
    }
}

/// The mount point of the first cgroup v2 in a mountinfo.
fn mounted(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let point = head.split(' ').nth(4)?;
        (tail.split(' ').next()? == "cgroup2").then(|| PathBuf::from(point))
    })
}

fn notes(run_dir: &Path) -> PathBuf {
    run_dir.join("stopped")
}

/// What a unit is to the guard now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitState {
    /// Nothing runs under that name.
    NotRunning,
    /// It can be stopped.
    Ready,
    /// It must not, or cannot, be stopped.
    Refused(String),
}

/// A cgroup whose files are open.
#[derive(Debug)]
struct Ready {
    folder: PathBuf,
    freeze: File,
    events: File,
    pids: Vec<u32>,
}

impl Ready {
    fn open(folder: PathBuf, cgroups: &Cgroups) -> Result<Option<Self>, String> {
        let explain = |name: &'static str| {
            let path = folder.join(name);
            move |e: io::Error| {
                let path = path.display();
                if e.kind() == io::ErrorKind::NotFound {
                    format!("{path} does not exist on this kernel")
                } else {
                    format!("cannot open {path}: {e}; run the agent as root")
                }
            }
        };
        let pids = processes(&folder)?;
        if let Some(own) = pids.iter().find(|p| cgroups.spared.contains(p)) {
            return Err(match own {
                1 => "it holds process 1".to_owned(),
                pid => format!("it holds the agent itself (pid {pid})"),
            });
        }
        let events = File::open(folder.join("cgroup.events")).map_err(explain("cgroup.events"))?;
        if !says(&events, "populated 1").unwrap_or(false) {
            return Ok(None);
        }
        let freeze = OpenOptions::new()
            .read(true)
            .write(true)
            .open(folder.join("cgroup.freeze"))
            .map_err(explain("cgroup.freeze"))?;
        Ok(Some(Self {
            folder,
            freeze,
            events,
            pids,
        }))
    }

    fn is_populated(&self) -> bool {
        // A cgroup that was removed answers ENODEV.
        says(&self.events, "populated 1").unwrap_or(false)
    }
}

/// A unit that may be stopped. Used from one thread.
#[derive(Debug)]
pub struct Unit {
    name: String,
    cgroups: Cgroups,
    ready: Option<Ready>,
    /// The folder that we have stopped, or may have.
    stopped: Option<PathBuf>,
}

impl Unit {
    /// The unit of that name, running or not.
    pub fn new(name: &str, cgroups: Cgroups) -> Self {
        Self {
            name: name.to_owned(),
            cgroups,
            ready: None,
            stopped: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Was this process one of the unit's at the last look?
    pub fn holds(&self, pid: u32) -> bool {
        self.ready.as_ref().is_some_and(|r| r.pids.contains(&pid))
    }

    /// Does it stand still, whoever stopped it?
    pub fn is_stopped(&self) -> bool {
        let it = self.ready.as_ref().filter(|r| r.is_populated());
        it.is_some_and(|r| says(&r.events, "frozen 1").unwrap_or(false))
    }

    /// Finds it again: its application may have been restarted. While service goes on.
    pub fn look(&mut self) -> UnitState {
        self.ready = None;
        let found = self.cgroups.find(&self.name);
        let opened = found.and_then(|f| f.map_or(Ok(None), |f| Ready::open(f, &self.cgroups)));
        match opened {
            Ok(None) => UnitState::NotRunning,
            Ok(ready) => {
                self.ready = ready;
                UnitState::Ready
            }
            Err(why) => UnitState::Refused(why),
        }
    }

    /// Stops all its processes; `Ok(false)` where none run. After an error some may have been
    /// stopped: [`Self::go_on`] lets them go in any case.
    pub fn stop(&mut self, until: Mono, clock: &dyn Clock) -> Result<bool, String> {
        if !self.ready.as_ref().is_some_and(Ready::is_populated) {
            match self.look() {
                UnitState::NotRunning => return Ok(false),
                UnitState::Ready => {}
                UnitState::Refused(why) => return Err(self.cannot(&why)),
            }
        }
        let Some(ready) = &self.ready else {
            return Ok(false);
        };
        // By an operator, or for another of its databases: whoever did it lets it go on.
        // The file is asked, not our memory: it may have been let go on, or started, since.
        if !says(&ready.freeze, "1").unwrap_or(false) {
            note(&self.cgroups.notes, &self.name, &ready.folder)
                .map_err(|e| self.cannot(&format!("cannot note it in the run directory: {e}")))?;
            self.stopped = Some(ready.folder.clone());
            ready
                .freeze
                .write_all_at(b"1", 0)
                .map_err(|e| self.cannot(&e.to_string()))?;
        }
        while !says(&ready.events, "frozen 1").unwrap_or(false) {
            let left = until.since(clock.mono());
            if left.is_zero() {
                return Err(format!("unit {} did not stop in time", self.name));
            }
            wait_for_news(&ready.events, left.min(ASK_AGAIN));
        }
        Ok(true)
    }

    fn cannot(&self, why: &str) -> String {
        format!("unit {} cannot be stopped: {why}", self.name)
    }

    /// Lets it go on, if we stopped it.
    pub fn go_on(&mut self) -> Result<(), String> {
        let Some(folder) = &self.stopped else {
            return Ok(());
        };
        release(folder).map_err(|e| format!("cannot let unit {} go on: {e}", self.name))?;
        // It runs: what is stopped from here on is not ours, whatever becomes of the note.
        self.stopped = None;
        fs::remove_file(self.cgroups.notes.join(&self.name))
            .map_err(|e| format!("unit {} goes on, but not its note: {e}", self.name))
    }
}

/// Lets go on what an earlier agent has left stopped; tells each unit and how that went. The
/// instance lock must be held: what a living agent stopped is not ours.
pub fn let_go_on(run_dir: &Path) -> Vec<(String, io::Result<()>)> {
    let Ok(left) = fs::read_dir(notes(run_dir)) else {
        return Vec::new();
    };
    left.flatten()
        .map(|note| {
            let done = read_own(&note.path(), LONGEST_NOTE)
                // Empty: it died before it stopped anything.
                .and_then(|folder| match folder.trim_ascii() {
                    b"" => Ok(()),
                    folder => release(Path::new(OsStr::from_bytes(folder))),
                })
                .and_then(|()| fs::remove_file(note.path()));
            (one_line(&note.file_name().to_string_lossy()), done)
        })
        .collect()
}

/// Lets a cgroup's processes go on. One that is gone needs nothing.
fn release(folder: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(folder.join("cgroup.freeze"));
    match file.and_then(|f| f.write_all_at(b"0", 0)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound || is_gone(&e) => Ok(()),
        other => other,
    }
}

fn is_gone(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::ENODEV)
}

fn note(notes: &Path, unit: &str, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(notes)?;
    write_own(&notes.join(unit), folder.as_os_str().as_bytes())
}

/// Has this file of the kernel's such a line now?
fn says(file: &File, line: &str) -> io::Result<bool> {
    let mut text = [0u8; 256];
    let n = file.read_at(&mut text, 0)?;
    Ok(String::from_utf8_lossy(&text[..n])
        .lines()
        .any(|l| l.trim() == line))
}

/// The kernel tells changes of cgroup.events as POLLPRI; an ordinary file never does.
fn wait_for_news(events: &File, at_most: Duration) {
    let timeout = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: at_most.subsec_nanos().into(),
    };
    // Interrupted or timed out: the file tells.
    poll(&mut [PollFd::new(events, PollFlags::PRI)], Some(&timeout)).ok();
}

/// Every process of a cgroup and of those below it, which stop with it.
fn processes(folder: &Path) -> Result<Vec<u32>, String> {
    let mut all = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        let text = match fs::read_to_string(folder.join("cgroup.procs")) {
            // A threaded cgroup lists threads only; its processes are listed above it.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
            Err(e) if e.kind() == io::ErrorKind::NotFound || is_gone(&e) => String::new(),
            Err(e) => {
                return Err(format!(
                    "cannot read {}/cgroup.procs: {e}",
                    folder.display()
                ));
            }
            Ok(text) => text,
        };
        all.extend(text.lines().filter_map(|l| l.trim().parse::<u32>().ok()));
        let inside = fs::read_dir(&folder).into_iter().flatten().flatten();
        waiting.extend(
            inside
                .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                .map(|e| e.path()),
        );
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
