//! One script, from its start to its end: bounded in time and in output.
//!
//! It must never wait for a process without a limit, not even for one that was killed.

use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::clock::{Clock, Mono};

use super::Happened;

/// Output kept for the log, in bytes and in lines.
const KEPT: usize = 4096;
const LINES: usize = 40;
/// Between two looks whether it has ended.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// From SIGTERM to SIGKILL, and from there until it is given up.
const GRACE: Duration = Duration::from_secs(1);
/// All that a script may rely on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How it went.
#[derive(Debug)]
pub(super) enum Outcome {
    Exited(ExitStatus),
    /// It and its children ran for too long.
    Killed,
    /// Not even SIGKILL ended it: it sleeps in the kernel. To be reaped when it wakes.
    LeftBehind(Child),
    NotStarted(io::Error),
}

/// What there is to say of it.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) outcome: Outcome,
    /// Its first lines, safe to print.
    pub(super) output: Vec<String>,
    /// Bytes that are not among them.
    pub(super) left_out: usize,
}

/// See the module's text.
pub(super) struct Run<'a> {
    pub(super) script: &'a Path,
    pub(super) event: &'a Happened,
    pub(super) timeout: Duration,
    pub(super) clock: &'a dyn Clock,
    /// An earlier end than the time-out, once the agent ends.
    pub(super) ends_at: &'a dyn Fn() -> Option<Mono>,
}

impl Run<'_> {
    pub(super) fn to_the_end(&self) -> Report {
        let mut output = Output::default();
        let outcome = match self.start() {
            Ok((child, pipe)) => {
                output.pipe = Some(pipe);
                self.watch(child, &mut output)
            }
            Err(e) => Outcome::NotStarted(e),
        };
        let (lines, left_out) = output.lines();
        Report {
            outcome,
            output: lines,
            left_out,
        }
    }

    fn start(&self) -> io::Result<(Child, PipeReader)> {
        let (from, to) = io::pipe()?;
        rustix::io::ioctl_fionbio(&from, true)?;
        let word = self.event.word.name();
        let child = Command::new(self.script)
            .arg(word)
            // The service manager's sockets and the agent's secrets are not the script's.
            .env_clear()
            .env("PATH", PATH)
            .env("HOLDUP_EVENT", word)
            .envs(self.event.facts.iter().map(|(k, v)| (*k, v.as_str())))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(to.try_clone()?)
            .stderr(to)
            // Its own group, so that its children can be killed with it.
            .process_group(0)
            .spawn()?;
        Ok((child, from))
    }

    fn watch(&self, mut child: Child, output: &mut Output) -> Outcome {
        let deadline = self.clock.mono() + self.timeout;
        loop {
            output.take(false);
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    output.take(true);
                    return Outcome::Exited(status);
                }
                Err(e) => return Outcome::NotStarted(e),
            }
            let end = (self.ends_at)().map_or(deadline, |t| t.min(deadline));
            if self.clock.mono() >= end {
                return self.kill(child, output);
            }
            output.wait();
        }
    }

    /// The whole group: first asked, then made to.
    fn kill(&self, mut child: Child, output: &mut Output) -> Outcome {
        let group = Pid::from_child(&child);
        let signal = |signal| {
            // Gone already is what is wanted.
            kill_process_group(group, signal).ok();
        };
        signal(Signal::TERM);
        // Not reaped yet, it keeps the group's number from being given to others.
        self.until(output, || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            matches!(waitid(WaitId::Pid(group), options), Ok(Some(_)) | Err(_))
        });
        signal(Signal::KILL);
        if self.until(output, || !matches!(child.try_wait(), Ok(None))) {
            Outcome::Killed
        } else {
            Outcome::LeftBehind(child)
        }
    }

    fn until(&self, output: &mut Output, mut done: impl FnMut() -> bool) -> bool {
        let end = self.clock.mono() + GRACE;
        loop {
            output.take(false);
            if done() {
                return true;
            }
            if self.clock.mono() >= end {
                return false;
            }
            output.wait();
        }
    }
}

/// What it writes: the beginning is kept, all is read, so that it never waits for us.
#[derive(Default)]
struct Output {
    pipe: Option<PipeReader>,
    kept: Vec<u8>,
    left_out: usize,
}

impl Output {
    /// Takes what is there, but no more than a buffer's worth unless it is the last time.
    fn take(&mut self, last: bool) {
        let mut buffer = [0; 16 * 1024];
        // The last time too: children that still write must not hold us.
        for _ in 0..if last { 64 } else { 1 } {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(n) => {
                    let keep = n.min(KEPT - self.kept.len());
                    self.kept.extend_from_slice(&buffer[..keep]);
                    self.left_out += n - keep;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    /// Until there is more, or for a moment.
    fn wait(&self) {
        let pipe = self.pipe.iter();
        let mut fds: Vec<_> = pipe.map(|p| PollFd::new(p, PollFlags::IN)).collect();
        // Interrupted is a moment too.
        poll(&mut fds, Some(&LOOK)).ok();
    }

    fn lines(self) -> (Vec<String>, usize) {
        let text = String::from_utf8_lossy(&self.kept);
        let mut all = text.lines().filter(|l| !l.trim().is_empty());
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let lines = all.by_ref().take(LINES);
        let lines: Vec<String> = lines.map(|l| l.chars().map(printable).collect()).collect();
        let rest: usize = all.map(|l| l.len() + 1).sum();
        (lines, self.left_out + rest)
    }
}
