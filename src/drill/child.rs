//! Verbs of this very binary, run in the drill's home and never left behind.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{Timespec, poll};
use rustix::process::{
    Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit,
};

use crate::clock::{Clock, Mono, SystemClock};

use super::DrillError;
use super::run::Stop;

/// Set for what a drill runs, to the drill's process id.
pub const CHILD: &str = "HOLDUP_DRILL_CHILD";
/// The longest file, in bytes, that such a process may write: the disk that is full.
const LONGEST_FILE: &str = "HOLDUP_DRILL_LONGEST_FILE";
/// All that they may rely on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Between two looks.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};
/// Nothing in a drill takes longer; a drill that hangs is a failed one.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// What a process that a drill started does first: it never outlives the drill.
///
/// # Errors
/// The kernel refuses; then it must not go on.
pub fn heed() -> std::io::Result<()> {
    let Some(drill) = std::env::var_os(CHILD) else {
        return Ok(());
    };
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A drill that was killed before this line sends no signal any more.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.is_none_or(|parent| drill != *parent) {
        return Err(std::io::Error::other(
            "the drill that started this has ended",
        ));
    }
    let limit = std::env::var(LONGEST_FILE).ok();
    if let Some(bytes) = limit.and_then(|l| l.parse().ok()) {
        // Handled, the signal does not kill: the write fails, as on a full disk.
        let told = std::sync::Arc::default();
        signal_hook::flag::register(signal_hook::consts::SIGXFSZ, told)?;
        let limit = Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        setrlimit(Resource::Fsize, limit)?;
    }
    Ok(())
}

/// How a verb ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Done {
    /// The first line that says why.
    pub(super) fn why(&self) -> String {
        let said = self.stderr.lines().chain(self.stdout.lines());
        let mut lines = said.map(str::trim).filter(|l| !l.is_empty());
        let line = lines.rfind(|l| l.starts_with("holdup:") || l.starts_with("refused"));
        line.or_else(|| self.stderr.lines().next_back())
            .unwrap_or("it said nothing")
            .to_owned()
    }
}

/// Where verbs run, and what they say.
#[derive(Debug)]
pub(super) struct Verbs<'a> {
    pub(super) exe: &'a Path,
    pub(super) stop: &'a Stop<'a>,
}

/// One process, killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
    out: PathBuf,
    err: PathBuf,
}

impl Verbs<'_> {
    /// Starts `holdup ARGS --config CONFIG`; what it says goes to files in `logs`.
    pub(super) fn start(
        &self,
        config: &Path,
        logs: &Path,
        args: &[OsString],
        longest_file: Option<u64>,
    ) -> Result<Process, DrillError> {
        let name: Vec<_> = args.iter().take(2).map(|a| a.to_string_lossy()).collect();
        let name = name.join(" ");
        let [out, err] =
            ["out", "err"].map(|kind| logs.join(format!("{name}.{kind}").replace(' ', "-")));
        let open = |path: &PathBuf| {
            // Those of an agent that was killed are worth keeping; a verb's own start anew.
            let mut options = File::options();
            options.create(true).write(true);
            options.truncate(name != "run").append(name == "run");
            if name == "run" {
                options.truncate(false);
            }
            options.open(path).map_err(DrillError::io("open", path))
        };
        let mut command = Command::new(self.exe);
        command
            .args(args)
            .arg("--config")
            .arg(config)
            // The service manager's sockets are not theirs.
            .env_clear()
            .env("PATH", PATH)
            .env("TMPDIR", logs)
            .env(CHILD, std::process::id().to_string())
            .current_dir(logs)
            .stdin(Stdio::null())
            .stdout(open(&out)?)
            .stderr(open(&err)?)
            // A terminal's Ctrl-C is the drill's to heed: it ends them in its own order.
            .process_group(0);
        if let Some(bytes) = longest_file {
            command.env(LONGEST_FILE, bytes.to_string());
        }
        let child = command.spawn().map_err(DrillError::io("start", self.exe))?;
        Ok(Process {
            child,
            name,
            out,
            err,
        })
    }

    /// Runs it to its end.
    pub(super) fn run(
        &self,
        config: &Path,
        logs: &Path,
        args: &[OsString],
        longest_file: Option<u64>,
    ) -> Result<Done, DrillError> {
        let mut process = self.start(config, logs, args, longest_file)?;
        let end = SystemClock.mono() + PATIENCE;
        loop {
            if let Some(done) = process.done()? {
                return Ok(done);
            }
            self.go_on(end, || format!("holdup {} to end", process.name))?;
        }
    }

    /// A moment, unless the drill was told to end or `end` has come.
    pub(super) fn go_on(&self, end: Mono, what: impl Fn() -> String) -> Result<(), DrillError> {
        self.stop.check()?;
        if SystemClock.mono() >= end {
            let s = PATIENCE.as_secs();
            return Err(DrillError::Stuck(format!("waited {s} s for {}", what())));
        }
        moment();
        Ok(())
    }
}

/// A few milliseconds.
pub(super) fn moment() {
    // Interrupted is a moment too.
    poll(&mut [], Some(&LOOK)).ok();
}

impl Process {
    /// How it ended, once it has.
    pub(super) fn done(&mut self) -> Result<Option<Done>, DrillError> {
        let Some(status) = self.ended()? else {
            return Ok(None);
        };
        Ok(Some(Done {
            status,
            stdout: said(&self.out),
            stderr: said(&self.err),
        }))
    }

    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>, DrillError> {
        let waited = self.child.try_wait();
        waited.map_err(DrillError::io("wait for", Path::new(&self.name)))
    }

    /// As sudden as it gets without losing the kernel; true if it was still running.
    pub(super) fn kill(&mut self) -> Result<bool, DrillError> {
        let failed = |e| DrillError::io("kill", Path::new(&self.name))(e);
        if self.child.try_wait().map_err(failed)?.is_some() {
            return Ok(false);
        }
        self.child.kill().map_err(failed)?;
        let status = self.child.wait().map_err(failed)?;
        Ok(status.code().is_none())
    }

    /// SIGTERM.
    pub(super) fn ask_to_end(&self) -> Result<(), DrillError> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM)
            .map_err(|e| DrillError::io("stop", Path::new(&self.name))(e.into()))
    }

    /// What it wrote to standard error.
    pub(super) fn log(&self) -> String {
        said(&self.err)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only on the way out of a failure; there is nobody left to tell.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

/// The last of what a file holds, as text.
fn said(path: &Path) -> String {
    const MOST: u64 = 1 << 20;
    match crate::durable::read_own(path, MOST) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) => format!("(cannot read {}: {e})", path.display()),
    }
}
