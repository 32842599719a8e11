//! What a technician does is entered in the audit log, whoever writes that just now.
//!
//! It promises that the console never waits for a file system that does not answer: where no agent
//! runs, a process of its own writes the entry, and where that hangs or fails the entry waits in
//! `run_dir` until the log is opened again.

use std::io::{self, PipeReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::Value;

use crate::agent::{ByHand, ControlAnswer, ControlRequest};
use crate::audit::lay_aside;
use crate::clock::{Clock, Mono, SystemClock, boot_id};
use crate::config::Settings;

use super::{Usage, power};

/// What an entry in the audit log gets from a running agent.
const ENTER: Duration = Duration::from_secs(8);

/// What the process that writes it by hand gets; a commit on a slow card takes 2 s.
const BY_HAND: Duration = Duration::from_secs(6);

/// Between two looks whether it has ended.
const NAP: Duration = Duration::from_millis(5);

/// The exit code of an entry that waits in the log's own spool.
const WAITS: u8 = 1;

/// Enters for a console.
#[derive(Debug)]
pub(super) struct Entering {
    config: PathBuf,
    /// One that never answered: it hangs in the kernel, and so would the next.
    stuck: Option<Child>,
}

impl Entering {
    pub(super) fn new(config: &Path) -> Self {
        Self {
            config: config.to_owned(),
            stuck: None,
        }
    }

    /// Enters what a technician does; where that cannot be had, says so. Nothing waits for it: a
    /// technician must be able to mend what keeps the log from being written.
    pub(super) fn enter(
        &mut self,
        settings: &Settings,
        action: &str,
        by: &str,
        details: Value,
    ) -> Option<String> {
        let why = match ask_agent(settings, action, by, &details) {
            Asked::Entered => return None,
            Asked::Waits => "it waits in memory until the log can be written".to_owned(),
            Asked::Refused(why) => why,
            Asked::Nobody => match self.by_hand(action, by, &details) {
                Ok(true) => return None,
                Ok(false) => "it waits until the log can be written".to_owned(),
                Err(why) => {
                    let boot = boot_id().unwrap_or_else(|| "unknown".to_owned());
                    let entry = (action, by, details.clone());
                    let spool = settings.gateway.audit_spool();
                    match lay_aside(&spool, &SystemClock, &boot, entry) {
                        Ok(()) => format!("{why}; it waits until the agent runs"),
                        Err(e) => format!("{why}, and it cannot be kept: {e}"),
                    }
                }
            },
        };
        // The journal is the second witness.
        log::warn!("not in the audit log yet: {action} by {by} {details}: {why}");
        Some(format!("(The audit log does not have this yet: {why})\n"))
    }

    /// By a process of its own, which may hang; is it durable, or does it wait in the spool?
    fn by_hand(&mut self, action: &str, by: &str, details: &Value) -> Result<bool, String> {
        if let Some(child) = &mut self.stuck {
            match child.try_wait() {
                Ok(None) => return Err("the data partition does not answer".to_owned()),
                Ok(Some(_)) | Err(_) => self.stuck = None,
            }
        }
        let failed = |e: io::Error| format!("it cannot be written: {e}");
        let (mut reader, writer) = io::pipe().map_err(failed)?;
        let mut child = Command::new("/proc/self/exe")
            .arg("--config")
            .arg(&self.config)
            .args(["audit", "enter", action, by])
            .arg(details.to_string())
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .map_err(failed)?;
        let end = SystemClock.mono() + BY_HAND;
        let said = until_closed(&mut reader, end);
        // It says its last word before it has ended.
        let mut ended = child.try_wait().map_err(failed)?;
        while ended.is_none() && SystemClock.mono() < end {
            pause(NAP);
            ended = child.try_wait().map_err(failed)?;
        }
        match ended {
            Some(status) if status.success() => Ok(true),
            Some(status) if status.code() == Some(i32::from(WAITS)) => Ok(false),
            Some(_) => {
                let why = said.trim().strip_prefix("holdup: ").unwrap_or(said.trim());
                Err(if why.is_empty() {
                    "it cannot be written"
                } else {
                    why
                }
                .to_owned())
            }
            None => {
                // What was written meanwhile may be there twice; what was not must not be lost.
                if let Err(e) = child.kill() {
                    log::warn!("an audit entry's process does not end: {e}");
                }
                if !matches!(child.try_wait(), Ok(Some(_))) {
                    self.stuck = Some(child);
                }
                Err("the data partition does not answer".to_owned())
            }
        }
    }
}

enum Asked {
    Entered,
    Waits,
    Refused(String),
    /// No agent answers.
    Nobody,
}

fn ask_agent(settings: &Settings, action: &str, by: &str, details: &Value) -> Asked {
    let request = ControlRequest::Enter {
        action: action.to_owned(),
        by: by.to_owned(),
        details: details.clone(),
    };
    let path = settings.gateway.control_socket();
    match power::talk(&path, request, ENTER, &mut |_| {}) {
        Ok(power::Talk::Answer(ControlAnswer::Entered(true))) => Asked::Entered,
        Ok(power::Talk::Answer(ControlAnswer::Entered(false))) => Asked::Waits,
        Ok(power::Talk::Answer(ControlAnswer::Refused(why)) | power::Talk::NotAllowed(why)) => {
            Asked::Refused(why)
        }
        Ok(power::Talk::Answer(_)) => {
            Asked::Refused("the agent's answer is not understood".to_owned())
        }
        Err(_) => Asked::Nobody,
    }
}

fn pause(time: Duration) {
    if let Ok(time) = Timespec::try_from(time) {
        // Woken early by a signal: the loop looks again.
        match poll(&mut [], Some(&time)) {
            Ok(_) | Err(_) => {}
        }
    }
}

/// What comes until the other end closes, or the time is over.
fn until_closed(reader: &mut PipeReader, end: Mono) -> String {
    let clock = SystemClock;
    let mut said = Vec::new();
    loop {
        let left = end.since(clock.mono());
        let Ok(time) = Timespec::try_from(left) else {
            break;
        };
        let mut fds = [PollFd::new(&*reader, PollFlags::IN)];
        match poll(&mut fds, Some(&time)) {
            Ok(0) => break,
            Ok(_) => {
                let mut piece = [0; 512];
                match reader.read(&mut piece) {
                    Ok(n) if n > 0 && said.len() < 4096 => {
                        said.extend_from_slice(piece.get(..n).unwrap_or_default());
                    }
                    Ok(_) | Err(_) => break,
                }
            }
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// `holdup audit enter`: 0, or 1 while it waits.
pub(super) fn by_hand(
    settings: &Settings,
    action: &str,
    by: &str,
    details: &str,
) -> anyhow::Result<u8> {
    if !action.starts_with("console.") {
        anyhow::bail!(Usage(
            "only what is done at the console is entered".to_owned()
        ));
    }
    let details = serde_json::from_str(details)?;
    let taken = ByHand::take(settings)?;
    Ok(if taken.enter(action, by, details) {
        0
    } else {
        WAITS
    })
}
