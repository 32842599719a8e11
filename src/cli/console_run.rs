//! What a command at the console runs: programs one after the other, or a text.
//!
//! Each runs as a process of its own, whose output is read without waiting: one that hangs in a
//! frozen file system is left behind, and the console goes on.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process_group};

/// A program, and whether it runs also after one before it failed.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) title: Option<&'static str>,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) always: bool,
    /// What it reads; empty: nothing.
    pub(super) input: String,
}

/// A command.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) steps: VecDeque<Step>,
    child: Option<Child>,
    output: Option<io::PipeReader>,
    /// What is to be shown before anything else.
    pub(super) text: VecDeque<u8>,
    failed: Option<String>,
}

impl Running {
    pub(super) fn output(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }

    /// Reads what it printed, without waiting; 0: nothing now, or [`Running::ended`].
    pub(super) fn printed(&mut self, buffer: &mut [u8]) -> usize {
        if !self.text.is_empty() {
            return io::Read::read(&mut self.text, buffer).unwrap_or(0);
        }
        let Some(output) = &mut self.output else {
            return 0;
        };
        match io::Read::read(output, buffer) {
            Ok(n) if n > 0 => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Ok(_) | Err(_) => {
                self.output = None;
                0
            }
        }
    }

    /// Has all of it ended, and how? Begins its next program where there is one.
    pub(super) fn ended(&mut self) -> Option<String> {
        if self.output.is_some() || !self.text.is_empty() {
            return None;
        }
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => return None,
                Ok(Some(status)) if status.success() => {}
                Ok(Some(status)) => {
                    let how = match status.code() {
                        Some(1) => "(1: see above)".to_owned(),
                        Some(2) => "(2: it is not meant so, see above)".to_owned(),
                        Some(3) => "(3: refused, see above)".to_owned(),
                        Some(code) => format!("({code}: failed, see above)"),
                        None => "(it was killed)".to_owned(),
                    };
                    self.failed.get_or_insert(how);
                }
                Err(e) => {
                    self.failed.get_or_insert(e.to_string());
                }
            }
            self.child = None;
        }
        while let Some(step) = self.steps.pop_front() {
            if self.failed.is_some() && !step.always {
                continue;
            }
            match self.start(&step) {
                Ok(()) => return None,
                Err(why) => {
                    self.failed.get_or_insert(why);
                }
            }
        }
        Some(self.failed.take().unwrap_or_default())
    }

    /// Kills what runs; what does not die at once is answered.
    pub(super) fn stop(mut self) -> Option<Child> {
        let mut child = self.child.take()?;
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
            && let Err(e) = kill_process_group(group, Signal::KILL)
        {
            log::warn!("a command could not be stopped: {e}");
        }
        (!matches!(child.try_wait(), Ok(Some(_)))).then_some(child)
    }

    fn start(&mut self, step: &Step) -> Result<(), String> {
        let failed = |e: io::Error| format!("{} cannot be run: {e}", step.program.display());
        let (reader, writer) = io::pipe().map_err(failed)?;
        let flags = rustix::fs::fcntl_getfl(&reader).map_err(|e| failed(e.into()))?;
        rustix::fs::fcntl_setfl(&reader, flags | OFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
        let errors = writer.try_clone().map_err(failed)?;
        let mut command = Command::new(&step.program);
        if step.input.is_empty() {
            command.stdin(Stdio::null());
        } else {
            let (input, mut ours) = io::pipe().map_err(failed)?;
            // A line is shorter than what a pipe holds.
            ours.write_all(step.input.as_bytes()).map_err(failed)?;
            command.stdin(input);
        }
        let child = command
            .args(&step.args)
            .env("RUST_LOG", "warn")
            .env("SYSTEMD_COLORS", "0")
            .stdout(writer)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        if let Some(title) = step.title {
            self.text.extend(format!("== {title}\n").into_bytes());
        }
        self.child = Some(child);
        self.output = Some(reader);
        Ok(())
    }
}
