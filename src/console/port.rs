//! The port under a session: a serial line, or the terminal the verb was typed on.
//!
//! It promises that no byte waits for a reader who is gone: what cannot be written within its time
//! is a hang-up. A BREAK is told apart from bytes. The terminal is as it was when it is left.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::termios::{InputModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

/// What is written must be taken within this time: at 9600 baud it is two screens.
const PATIENCE: Duration = Duration::from_secs(4);

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// It cannot be opened or set up as a serial line.
    #[error("{}: {why}", path.display())]
    Serial {
        /// The port.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// Standard input is no terminal.
    #[error("standard input is no terminal: name the port with --port, or in console.port")]
    NoTerminal,
    /// The terminal cannot be set up.
    #[error("the terminal cannot be set up")]
    Terminal(#[source] io::Error),
}

/// What came from the other end.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    /// So many bytes, at the start of the buffer; 0: nothing yet.
    Bytes(usize),
    /// A BREAK; bytes beside it are noise.
    Break,
    /// Nobody is there any more.
    HangUp,
}

/// See the module's text.
pub struct Port {
    fd: OwnedFd,
    marks: Marks,
    before: Option<Termios>,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

impl Port {
    /// Opens a serial line (or a pseudo-terminal) for this process alone.
    ///
    /// # Errors
    /// It is not there, somebody else has it, or it is no serial line.
    pub fn serial(path: &Path, baud: u32) -> Result<Self, PortError> {
        let error = |why: String| PortError::Serial {
            path: path.to_owned(),
            why,
        };
        let name = path
            .to_str()
            .ok_or_else(|| error("its name is no text".to_owned()))?;
        let port = serialport::new(name, baud)
            .open_native()
            .map_err(|e| error(in_words(&e)))?;
        #[expect(
            unsafe_code,
            reason = "serialport hands its descriptor over as a number"
        )]
        // SAFETY: the descriptor was the port's alone, which has given it up.
        let fd = unsafe { OwnedFd::from_raw_fd(port.into_raw_fd()) };
        let setup = || -> rustix::io::Result<()> {
            let mut modes = tcgetattr(&fd)?;
            // A BREAK comes as FF 00 00, FF as FF FF.
            modes
                .input_modes
                .remove(InputModes::IGNBRK | InputModes::BRKINT | InputModes::ISTRIP);
            modes.input_modes.remove(InputModes::IGNPAR);
            modes.input_modes.insert(InputModes::PARMRK);
            tcsetattr(&fd, OptionalActions::Now, &modes)?;
            fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)
        };
        setup().map_err(|e| error(format!("it cannot be set up: {}", io::Error::from(e))))?;
        Ok(Self {
            fd,
            marks: Marks::default(),
            before: None,
        })
    }

    /// The terminal of standard input.
    ///
    /// # Errors
    /// It is none.
    pub fn terminal() -> Result<Self, PortError> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Err(PortError::NoTerminal);
        }
        let setup = || -> rustix::io::Result<(OwnedFd, Termios)> {
            let before = tcgetattr(&stdin)?;
            // Opened anew: whether it waits is not to change for others who have it.
            let name = rustix::termios::ttyname(&stdin, Vec::new())?;
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::open(name, flags, rustix::fs::Mode::empty())?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(&fd, OptionalActions::Now, &raw)?;
            Ok((fd, before))
        };
        let (fd, before) = setup().map_err(|e| PortError::Terminal(e.into()))?;
        Ok(Self {
            fd,
            marks: Marks::off(),
            before: Some(before),
        })
    }

    /// Reads what is there, without waiting.
    pub fn read(&mut self, buffer: &mut [u8]) -> Came {
        match rustix::io::read(&self.fd, &mut *buffer) {
            Ok(0) => Came::HangUp,
            Ok(n) => match self.marks.strip(buffer, n) {
                Some(n) => Came::Bytes(n),
                None => Came::Break,
            },
            Err(Errno::AGAIN | Errno::INTR) => Came::Bytes(0),
            Err(_) => Came::HangUp,
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Nobody takes them, or nobody is there.
    pub fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait_for_room()?,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn wait_for_room(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
        let patience = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&patience)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(e) = tcsetattr(&self.fd, OptionalActions::Now, before)
        {
            log::warn!("the terminal could not be set back (`reset` does): {e}");
        }
    }
}

/// What is wrong with a port, and the remedy where there is one.
fn in_words(e: &serialport::Error) -> String {
    match e.kind() {
        serialport::ErrorKind::NoDevice => format!(
            "{e}: somebody else has it, perhaps a getty (systemctl disable --now \
             serial-getty@NAME), or it is not there"
        ),
        serialport::ErrorKind::InvalidInput
        | serialport::ErrorKind::Unknown
        | serialport::ErrorKind::Io(_) => e.to_string(),
    }
}

/// The kernel's marks in what is read (PARMRK of termios(3)).
#[derive(Debug, Default)]
struct Marks {
    state: Mark,
    off: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mark {
    #[default]
    None,
    /// After FF.
    One,
    /// After FF 00.
    Two,
}

impl Marks {
    fn off() -> Self {
        Self {
            off: true,
            ..Self::default()
        }
    }

    /// Takes the marks out of the first `n` bytes; what is left. None: there was a BREAK.
    fn strip(&mut self, buffer: &mut [u8], n: usize) -> Option<usize> {
        if self.off {
            return Some(n);
        }
        let (mut kept, mut broke) = (0, false);
        for i in 0..n {
            let byte = buffer[i];
            let (state, keeps) = match (self.state, byte) {
                (Mark::None, 0xff) => (Mark::One, false),
                (Mark::None, _) => (Mark::None, true),
                (Mark::One, 0x00) => (Mark::Two, false),
                (Mark::One, _) => (Mark::None, byte == 0xff),
                (Mark::Two, _) => {
                    // A byte with a parity or framing error is noise, a zero one is a BREAK.
                    broke |= byte == 0;
                    (Mark::None, false)
                }
            };
            self.state = state;
            if keeps {
                buffer[kept] = byte;
                kept += 1;
            }
        }
        (!broke).then_some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::fs::File;
    use std::io::{Read, Write};

    /// The two ends of a line.
    fn pair() -> (File, PathBuf) {
        let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pty");
        grantpt(&main)
            .and_then(|()| unlockpt(&main))
            .expect("unlocked");
        let name = ptsname(&main, Vec::new()).expect("its name");
        let name = name.into_string().expect("text");
        (File::from(main), PathBuf::from(name))
    }

    #[test]
    fn bytes_go_both_ways_and_nobody_else_gets_the_port() {
        let (mut laptop, path) = pair();
        let mut port = Port::serial(&path, 115_200).expect("open");
        assert!(Port::serial(&path, 115_200).is_err());
        laptop.write_all(b"status\r\xff").expect("write");
        let mut buffer = [0; 64];
        let mut got = Vec::new();
        while got.len() < 8 {
            match port.read(&mut buffer) {
                Came::Bytes(n) => got.extend_from_slice(&buffer[..n]),
                other @ (Came::Break | Came::HangUp) => panic!("{other:?}"),
            }
        }
        assert_eq!(got, b"status\r\xff");
        port.write(b"\x1b[Kok\n").expect("write");
        let mut back = [0; 6];
        laptop.read_exact(&mut back).expect("read");
        assert_eq!(&back, b"\x1b[Kok\n", "nothing is made of a newline");
        drop(laptop);
        assert_eq!(port.read(&mut buffer), Came::HangUp);
    }

    #[test]
    fn a_break_is_told_apart_from_bytes() {
        let mut marks = Marks::default();
        let mut strip = |bytes: &[u8]| {
            let mut buffer = bytes.to_vec();
            marks
                .strip(&mut buffer, bytes.len())
                .map(|n| buffer[..n].to_vec())
        };
        assert_eq!(strip(b"a\xff\xffb"), Some(b"a\xffb".to_vec()));
        assert_eq!(
            strip(b"a\xff\x00Zb"),
            Some(b"ab".to_vec()),
            "a framing error"
        );
        assert_eq!(strip(b"a\xff\x00"), Some(b"a".to_vec()));
        assert_eq!(strip(b"\x00b"), None);
        assert_eq!(strip(b"\xff"), Some(Vec::new()));
        assert_eq!(strip(b"\xffc"), Some(b"\xffc".to_vec()));
    }

    #[test]
    fn a_reader_who_is_gone_is_a_hang_up_and_not_a_wait() {
        let (laptop, path) = pair();
        let port = Port::serial(&path, 115_200).expect("open");
        // Nobody reads: the kernel's buffer fills, and the port gives up in its time.
        let e = port.write(&vec![b'x'; 1 << 20]).expect_err("nobody reads");
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
        drop(laptop);
    }

    #[test]
    fn what_is_no_port_is_named() {
        let e = Port::serial(Path::new("/nowhere/tty"), 115_200).expect_err("none");
        assert!(e.to_string().contains("/nowhere/tty"), "{e}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(Port::serial(file.path(), 115_200).is_err());
    }
}
