//! `holdup console`: a technician at a serial line.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::clock::{Clock, Mono, SystemClock};
use crate::config::{self, Settings};
use crate::console::{Came, Host as _, Port, PortError, Session};

use super::console_desk::Desk;
use super::{Usage, console_door, secret};

/// A port that went away is looked for again so often.
const AGAIN: Duration = Duration::from_secs(1);

/// A signal, or a child that printed all it had, is looked for at least so often.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct ConsoleArgs {
    /// The serial line. Default: this terminal, else console.port.
    #[arg(long, value_name = "PATH")]
    port: Option<PathBuf>,
    /// Ask for a passphrase and keep its hash in console.passphrase_file.
    #[arg(long, conflicts_with = "port")]
    new_passphrase: bool,
}

/// Serves until it is told to stop, or until whoever sits at this terminal leaves.
pub(super) fn run(config_path: &Path, args: &ConsoleArgs) -> anyhow::Result<u8> {
    if args.new_passphrase {
        return new_passphrase(config_path);
    }
    // A gateway whose configuration is broken needs its console most.
    let (settings, broken) = match config::load(config_path) {
        Ok(loaded) => (loaded.settings, None),
        Err(e) => (config::defaults()?.settings, Some(e.to_string())),
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    lock_memory();
    let mut desk = Desk::new(config_path, settings.clone(), broken);
    if args.port.is_none() && io::stdin().is_terminal() {
        let mut port = Port::terminal()?;
        serve(&mut port, &mut desk, &stop, true);
        return Ok(0);
    }
    on_line(args, &settings, &mut desk, &stop)?;
    Ok(0)
}

/// Asks twice, so that a slip locks nobody out.
fn new_passphrase(config_path: &Path) -> anyhow::Result<u8> {
    use age::secrecy::ExposeSecret;
    let settings = config::load(config_path)?.settings;
    let Some(file) = &settings.console.passphrase_file else {
        anyhow::bail!(Usage(
            "console.passphrase_file is not set: name the file first".to_owned()
        ));
    };
    let asked = |question: &str| -> anyhow::Result<String> {
        match secret::passphrase(question)? {
            Some(text) => Ok(text.expose_secret().to_owned()),
            None => anyhow::bail!("there is no terminal to ask on"),
        }
    };
    let once = asked("New passphrase of this gateway, at least 12 characters (not shown): ")?;
    if once != asked("Once more: ")? {
        anyhow::bail!(Usage(
            "the two are not the same; nothing was changed".to_owned()
        ));
    }
    console_door::new_passphrase(file, &once).map_err(anyhow::Error::msg)?;
    Ok(0)
}

/// The console must answer while the root file system is gone: all of its code and what it has now
/// is read into memory and stays there.
fn lock_memory() {
    use rustix::mm::{MlockAllFlags, mlockall};
    if let Err(e) = mlockall(MlockAllFlags::CURRENT) {
        log::info!("the console's memory is not locked ({e}): it may wait for a dying card");
    }
}

/// A serial line that may come and go.
fn on_line(
    args: &ConsoleArgs,
    settings: &Settings,
    desk: &mut Desk,
    stop: &AtomicBool,
) -> Result<(), PortError> {
    let path = args.port.as_ref().unwrap_or(&settings.console.port);
    let mut said = false;
    while !stop.load(Ordering::Relaxed) {
        match Port::serial(path, settings.console.baud) {
            Ok(mut port) => {
                log::info!("the console is at {}", path.display());
                said = false;
                serve(&mut port, desk, stop, false);
            }
            // It may be plugged in later; a name that was typed is looked at now.
            Err(e) if args.port.is_some() && !path.exists() => return Err(e),
            Err(e) => {
                if !std::mem::replace(&mut said, true) {
                    log::warn!("no console yet: {e}");
                }
            }
        }
        pause(AGAIN);
    }
    Ok(())
}

fn pause(time: Duration) {
    if let Ok(time) = Timespec::try_from(time) {
        // Woken early by a signal: the loop looks at it.
        match poll(&mut [], Some(&time)) {
            Ok(_) | Err(_) => {}
        }
    }
}

/// One port until it hangs up; on a terminal until its owner leaves.
fn serve(port: &mut Port, desk: &mut Desk, stop: &AtomicBool, once: bool) {
    let clock = SystemClock;
    let mut out: Vec<u8> = Vec::new();
    let mut session = Session::new(clock.mono(), desk.is_lab(), &mut out);
    let mut buffer = [0; 256];
    let mut was_awake = false;
    loop {
        if let Err(e) = port.write(&out) {
            out.clear();
            let late = e.kind() == io::ErrorKind::TimedOut;
            let why = if late { "nobody reads" } else { "hang-up" };
            session.hung_up(why, desk, &mut out);
            return;
        }
        out.clear();
        was_awake |= session.is_awake();
        let left = once && was_awake && !session.is_awake();
        if left || stop.load(Ordering::Relaxed) {
            session.hung_up("stopped", desk, &mut out);
            return;
        }
        let prints = session.room() > 0;
        let ready = wait(port, desk, prints, session.deadline(), clock.mono());
        if ready.port {
            match port.read(&mut buffer) {
                Came::Bytes(n) => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    session.bytes(bytes, clock.mono(), desk, &mut out);
                }
                Came::Break => session.hung_up("break", desk, &mut out),
                Came::HangUp => {
                    session.hung_up("hang-up", desk, &mut out);
                    return;
                }
            }
        }
        if prints && session.room() > 0 {
            let room = session.room().min(buffer.len());
            let n = desk.printed(buffer.get_mut(..room).unwrap_or_default());
            if n > 0 {
                session.printed(buffer.get(..n).unwrap_or_default(), &mut out);
            } else if let Some(how) = desk.ended() {
                session.ended(how, desk, &mut out);
            }
        }
        session.timeout(clock.mono(), desk, &mut out);
    }
}

struct Ready {
    port: bool,
}

/// Until somebody types, a command prints, or it is time.
fn wait(port: &Port, desk: &Desk, prints: bool, deadline: Mono, now: Mono) -> Ready {
    let patience = deadline.since(now).min(LOOK);
    let Ok(patience) = Timespec::try_from(patience) else {
        return Ready { port: false };
    };
    let output = desk.output().filter(|_| prints);
    let mut fds = vec![PollFd::from_borrowed_fd(port.as_fd(), PollFlags::IN)];
    fds.extend(output.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    match poll(&mut fds, Some(&patience)) {
        Ok(_) => Ready {
            port: fds.first().is_some_and(|fd| !fd.revents().is_empty()),
        },
        Err(Errno::INTR) | Err(_) => Ready { port: false },
    }
}
