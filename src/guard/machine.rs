//! The one seam to what must never happen on a developer's machine: freezing a file system and
//! turning the machine off.
//!
//! [`KernelMachine`] does both for real and can only be made for a board with real lines; the
//! simulated board gets a [`SimMachine`], for which "off" is the end of the process.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::system::{RebootCommand, reboot};

use crate::config::{BoardSettings, FreezePolicy, OnParkMax};
use crate::durable;

use super::mount::freeze_refusal;
use super::rights::{self, Rights};

/// Exit code of the process when the simulated board goes off.
const SIM_OFF: i32 = 10;

/// Freeze, thaw, off.
pub trait Machine: Send + Sync + fmt::Debug {
    /// `None` if parking may freeze the data file system, else why not.
    fn freeze_refusal(&self) -> Option<&str>;
    /// Freezes the data file system.
    fn freeze(&self) -> io::Result<()>;
    /// Thaws it; `Ok(false)` when it was not frozen.
    fn thaw(&self) -> io::Result<bool>;
    /// Powers off or halts. Returns only when that failed.
    fn off(&self, how: OnParkMax) -> io::Error;
}

/// Why a real machine is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The board is simulated.
    #[error("board {0} is simulated: it may not freeze file systems or power anything off")]
    Simulated(String),
    /// The data directory cannot be opened.
    #[error("cannot open directory {path}")]
    Open {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// The machine that the agent runs on.
#[derive(Debug)]
pub struct KernelMachine {
    data: OwnedFd,
    /// Why the data file system may not be frozen at all.
    refusal: Option<String>,
    /// Why parking does not freeze it; thawing what an earlier agent froze is still allowed.
    policy: Option<String>,
}

impl KernelMachine {
    /// For a board with real lines, and the file system under `data_dir`.
    pub fn new(
        board: &BoardSettings,
        data_dir: &Path,
        freeze: FreezePolicy,
    ) -> Result<Self, MachineError> {
        if board.is_sim() {
            return Err(MachineError::Simulated(board.name.clone()));
        }
        let data = rustix::fs::open(
            data_dir,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| MachineError::Open {
            path: data_dir.display().to_string(),
            source: e.into(),
        })?;
        let refusal = freeze_refusal(data_dir).or_else(|| {
            let may = Rights::own().has(rights::SYS_ADMIN);
            (!may).then(|| "the agent has no right to freeze (CAP_SYS_ADMIN)".to_owned())
        });
        let policy = match freeze {
            FreezePolicy::Never => Some("power.freeze is \"never\"".to_owned()),
            FreezePolicy::Auto => None,
        };
        Ok(Self {
            data,
            refusal,
            policy,
        })
    }
}

impl Machine for KernelMachine {
    fn freeze_refusal(&self) -> Option<&str> {
        self.refusal.as_deref().or(self.policy.as_deref())
    }

    fn freeze(&self) -> io::Result<()> {
        match self.freeze_refusal() {
            Some(why) => Err(io::Error::other(why.to_owned())),
            None => durable::freeze(self.data.as_fd()),
        }
    }

    fn thaw(&self) -> io::Result<bool> {
        if self.refusal.is_some() {
            return Ok(false);
        }
        match durable::thaw(self.data.as_fd()) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn off(&self, how: OnParkMax) -> io::Error {
        let command = match how {
            OnParkMax::PowerOff => RebootCommand::PowerOff,
            OnParkMax::Halt => RebootCommand::Halt,
            OnParkMax::Stay => return io::Error::other("power.on_park_max is \"stay\""),
        };
        match reboot(command) {
            Ok(()) => io::Error::other("reboot(2) returned"),
            Err(e) => e.into(),
        }
    }
}

/// The simulated board's machine: nothing is frozen, off ends the process.
#[derive(Debug, Default)]
pub struct SimMachine;

impl Machine for SimMachine {
    fn freeze_refusal(&self) -> Option<&str> {
        Some("the board is simulated")
    }

    fn freeze(&self) -> io::Result<()> {
        Err(io::Error::other("the board is simulated"))
    }

    fn thaw(&self) -> io::Result<bool> {
        Ok(false)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a simulated power cut ends the process at once"
    )]
    fn off(&self, _how: OnParkMax) -> io::Error {
        std::process::exit(SIM_OFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BoardKind;

    #[test]
    fn a_simulated_board_cannot_have_the_real_machine() {
        let board = BoardSettings {
            name: "sim".into(),
            kind: BoardKind::Sim {
                control: "/tmp/none".into(),
            },
            abi: crate::config::GpioAbi::Auto,
            cycles_supply: true,
            power_fail: None,
            brownout: None,
            battery_low: None,
            presence: None,
            status: None,
            safe_to_cut: None,
        };
        let e =
            KernelMachine::new(&board, Path::new("/"), FreezePolicy::Auto).expect_err("refused");
        assert!(matches!(e, MachineError::Simulated(_)));
    }
}
