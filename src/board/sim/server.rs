//! The simulated board's socket: one thread, no client waits for another.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::super::BoardError;
use super::lines::SimLines;
use super::protocol::{LONGEST, answer};
use crate::clock::{Clock, SystemClock};

/// Connections at one time; far more than a test needs.
const CLIENTS: usize = 32;

/// The socket and its thread, until dropped.
#[derive(Debug)]
pub(super) struct Server {
    path: PathBuf,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(path: &Path, lines: Arc<SimLines>) -> Result<Self, BoardError> {
        let failed = |doing: &'static str, source: io::Error| BoardError::SimSocket {
            path: path.to_owned(),
            doing,
            source,
        };
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(|e| failed("bound", e))?;
        // Whoever may write here may fake a power loss.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .and_then(|()| listener.set_nonblocking(true))
            .map_err(|e| failed("set up", e))?;
        let stop = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|e| failed("served", e.into()))?;
        let stop = Arc::new(stop);
        let heard = Arc::clone(&stop);
        let thread = Builder::new()
            .name("sim-board".to_owned())
            .spawn(move || serve(&listener, &heard, &lines))
            .map_err(|e| failed("served", e))?;
        Ok(Self {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let told = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| told)
            && thread.join().is_err()
        {
            log::warn!(
                "{}: the simulated board's thread panicked",
                self.path.display()
            );
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("{}: not removed: {error}", self.path.display());
        }
    }
}

/// Removes a socket that nobody listens on, and nothing else.
fn clear_stale(path: &Path) -> Result<(), BoardError> {
    let failed = |doing: &'static str, source: io::Error| BoardError::SimSocket {
        path: path.to_owned(),
        doing,
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looked at", error)),
        Ok(found) if !found.file_type().is_socket() => {
            let path = path.to_owned();
            return Err(BoardError::SimOccupied { path });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|e| failed("replaced", e))
        }
        Ok(_) => Err(BoardError::SimBusy {
            path: path.to_owned(),
        }),
        Err(error) => Err(failed("probed", error)),
    }
}

struct Client {
    stream: UnixStream,
    /// The line so far.
    line: Vec<u8>,
    /// The line was too long: its rest is not for us.
    skipping: bool,
}

fn serve(listener: &UnixListener, stop: &OwnedFd, lines: &SimLines) {
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let fds = [stop.as_fd(), listener.as_fd()].into_iter();
        let mut fds: Vec<PollFd<'_>> = fds
            .chain(clients.iter().map(|c| c.stream.as_fd()))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return log::error!("the simulated board stopped: {error}"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            return;
        }
        let mut ready_clients = ready[2..].iter();
        clients.retain_mut(|client| {
            let ready = ready_clients.next().copied().unwrap_or(false);
            !ready || client.serve(lines).is_ok()
        });
        if ready[1] && !welcome(listener, &mut clients) {
            return;
        }
    }
}

/// Takes one connection. False: none can be taken any more.
fn welcome(listener: &UnixListener, clients: &mut Vec<Client>) -> bool {
    let mut stream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
        Err(error) if error.kind() == ErrorKind::Interrupted => return true,
        Err(error) => {
            log::error!("the simulated board takes no more connections: {error}");
            return false;
        }
    };
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    if clients.len() >= CLIENTS {
        let _gone = stream.write(b"error: too many connections; close one\n");
        return true;
    }
    clients.push(Client {
        stream,
        line: Vec::with_capacity(LONGEST),
        skipping: false,
    });
    true
}

impl Client {
    /// One read, so that a client that never stops talking leaves the others their turn.
    fn serve(&mut self, lines: &SimLines) -> io::Result<()> {
        let mut bytes = [0; 512];
        let got = match self.stream.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        let now = SystemClock.mono();
        for byte in &bytes[..got] {
            match byte {
                b'\n' if self.skipping => self.skipping = false,
                b'\n' => {
                    let reply = answer(lines, &self.line, now);
                    self.line.clear();
                    self.reply(&reply)?;
                }
                _ if self.skipping => {}
                _ if self.line.len() == LONGEST => {
                    self.line.clear();
                    self.skipping = true;
                    self.reply(&format!("error: longer than {LONGEST} bytes"))?;
                }
                byte => self.line.push(*byte),
            }
        }
        Ok(())
    }

    /// A client that does not read its answers is let go.
    fn reply(&mut self, text: &str) -> io::Result<()> {
        let line = format!("{text}\n");
        let written = self.stream.write(line.as_bytes())?;
        if written == line.len() {
            Ok(())
        } else {
            Err(ErrorKind::WriteZero.into())
        }
    }
}
