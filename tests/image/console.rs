//! The shell inside the gateway, on the virtio port `shell`.
//!
//! One command at a time; each runs in a shell of its own, so that no `cd`, no trap and no syntax
//! error outlives it. The answer ends at a marker that no command prints by chance.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::patience::{Deadline, poll};

/// The shell.
#[derive(Debug)]
pub(crate) struct Shell {
    stream: UnixStream,
    asked: u64,
}

/// What a command in the gateway printed, standard error included, and its exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: i32,
    pub(crate) output: String,
}

/// No answer: the shell took longer than it was given, or the machine is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    TimedOut,
    MachineGone,
}

impl Shell {
    /// Connects to the port's socket and waits until the gateway's shell answers there.
    pub(crate) fn connect(socket: &Path, patience: Duration) -> Result<Self, Silence> {
        let deadline = Deadline::after(patience);
        let stream = connect(socket, patience).ok_or(Silence::MachineGone)?;
        let mut shell = Self { stream, asked: 0 };
        // What is written before the guest opened the port waits there for it.
        shell.ask("true", deadline.left())?;
        Ok(shell)
    }

    /// Runs `command`. After a time-out the shell may still be busy with it: ask nothing more.
    pub(crate) fn ask(&mut self, command: &str, patience: Duration) -> Result<Answer, Silence> {
        self.asked += 1;
        let marker = format!("<answer {} of shell>", self.asked);
        let line = format!(
            "sh -c {} </dev/null 2>&1; echo \"{marker}$?;\"\n",
            quoted(command)
        );
        self.stream
            .write_all(line.as_bytes())
            .map_err(|_| Silence::MachineGone)?;
        let deadline = Deadline::after(patience);
        let mut received = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&received);
            if let Some((output, rest)) = text.split_once(&marker)
                && let Some((status, _)) = rest.split_once(';')
            {
                return Ok(Answer {
                    status: status.parse().unwrap_or(-1),
                    output: output.to_owned(),
                });
            }
            let left = deadline.left().min(Duration::from_secs(1));
            if left.is_zero() {
                return Err(Silence::TimedOut);
            }
            self.stream
                .set_read_timeout(Some(left))
                .expect("a time-out above zero");
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Silence::MachineGone),
                Ok(count) => received.extend_from_slice(&chunk[..count]),
                Err(error) if is_timeout(&error) => {}
                Err(_) => return Err(Silence::MachineGone),
            }
        }
    }
}

/// Connects to a socket that QEMU is about to create.
pub(crate) fn connect(socket: &Path, patience: Duration) -> Option<UnixStream> {
    poll(patience, || UnixStream::connect(socket).ok())
}

/// A read or write that ran into its stream's time-out.
pub(crate) fn is_timeout(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// `text` as one word of a shell.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
