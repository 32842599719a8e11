//! Asking for what nobody may read over a shoulder.
//!
//! It promises that the terminal echoes nothing meanwhile and is as it was afterwards, also when the
//! question is given up with Ctrl-C.

use std::fs::File;
use std::io::{self, Read, Write};

use age::secrecy::SecretString;
use age::secrecy::zeroize::Zeroizing;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Bytes of an answer.
const LONGEST: usize = 16 << 10;
const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const ERASE: [u8; 2] = [8, 0x7f];

struct Silent {
    terminal: File,
    before: Termios,
}

impl Silent {
    /// `None`: there is no terminal.
    fn take() -> io::Result<Option<Self>> {
        let opened = File::options().read(true).write(true).open("/dev/tty");
        let Ok(terminal) = opened else {
            return Ok(None);
        };
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Err(e) = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before) {
            log::warn!("the terminal stays silent ({e}): type `stty echo`");
        }
    }
}

/// One line, or with `lines` everything up to an empty line; `None`: nobody is there to ask.
///
/// # Errors
/// The terminal fails, or the question was given up.
pub(super) fn ask(question: &str, lines: bool) -> io::Result<Option<SecretString>> {
    let Some(mut silent) = Silent::take()? else {
        return Ok(None);
    };
    write!(silent.terminal, "{question}")?;
    silent.terminal.flush()?;
    let mut answer = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0]);
    loop {
        if silent.terminal.read(&mut byte[..])? == 0 || byte[0] == CTRL_D {
            break;
        }
        match byte[0] {
            CTRL_C => {
                writeln!(silent.terminal)?;
                return Err(io::Error::new(io::ErrorKind::Interrupted, "given up"));
            }
            b'\r' | b'\n' if !lines || answer.is_empty() || answer.ends_with(b"\n") => break,
            b'\r' | b'\n' => answer.push(b'\n'),
            b if ERASE.contains(&b) => drop(answer.pop()),
            b if answer.len() < LONGEST => answer.push(b),
            _ => return Err(io::Error::other("the answer is too long")),
        }
    }
    writeln!(silent.terminal)?;
    let text = std::str::from_utf8(&answer).map_err(io::Error::other)?;
    Ok(Some(text.to_owned().into()))
}

/// For an identity that is protected with a passphrase.
pub(super) fn passphrase(question: &str) -> io::Result<Option<SecretString>> {
    ask(question, false)
}
