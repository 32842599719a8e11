//! What can be wrong with the lines, for the person with the screwdriver.

use std::path::PathBuf;

use thiserror::Error;

/// The kernel's word, as the crate that was asked says it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Through uAPI v2.
    #[error("{0}")]
    V2(#[from] gpiocdev::Error),
    /// Through uAPI v1.
    #[error("{0}")]
    V1(#[from] gpio_cdev::Error),
    /// Through uAPI v1, an output.
    #[error("{0}")]
    Pin(#[from] linux_embedded_hal::CdevPinError),
}

/// A line or chip is not to be had. `line` is the line's purpose, as in the configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BoardError {
    /// The board's description has no such line.
    #[error("board {board} has no {line} line; describe it as [board.{line}]")]
    NotWired {
        /// The board.
        board: String,
        /// The line's purpose.
        line: &'static str,
    },
    /// No chip has the label.
    #[error(
        "{line}: no gpio chip is labelled \"{label}\" (there is: {have}); correct board.{line}.chip"
    )]
    NoChip {
        /// The line's purpose.
        line: &'static str,
        /// The label that was looked for.
        label: String,
        /// The chips there are.
        have: String,
    },
    /// No line has the name.
    #[error(
        "{line}: no gpio line is named \"{name}\" (looked at: {have}); give its chip and offset, or correct board.{line}.line"
    )]
    NoLine {
        /// The line's purpose.
        line: &'static str,
        /// The name that was looked for.
        name: String,
        /// The chips that were searched.
        have: String,
    },
    /// Several chips or lines fit.
    #[error(
        "{line}: more than one fits: {which}; say which by chip and offset or by a unique line name"
    )]
    Ambiguous {
        /// The line's purpose.
        line: &'static str,
        /// What fits.
        which: String,
    },
    /// The chip is smaller.
    #[error(
        "{line}: chip \"{chip}\" has lines 0 to {last}, not {offset}; correct board.{line}.offset"
    )]
    NoOffset {
        /// The line's purpose.
        line: &'static str,
        /// The chip's label.
        chip: String,
        /// Its last line.
        last: u32,
        /// What was asked for.
        offset: u32,
    },
    /// The kernel speaks another ABI than the one that is asked for, or none at all.
    #[error(
        "{line}: this kernel does not speak {wanted} on \"{chip}\" (it speaks {speaks}); {remedy}"
    )]
    NoAbi {
        /// The line's purpose.
        line: &'static str,
        /// The chip's label.
        chip: String,
        /// What was asked for.
        wanted: &'static str,
        /// What there is.
        speaks: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Another program or driver has the line.
    #[error(
        "{line}: line {offset} of \"{chip}\" is in use by \"{consumer}\"; stop that, or use another line"
    )]
    Busy {
        /// The line's purpose.
        line: &'static str,
        /// The chip's label.
        chip: String,
        /// The line's number.
        offset: u32,
        /// Who has it.
        consumer: String,
    },
    /// The kernel refuses the request.
    #[error("{line}: line {offset} of \"{chip}\" cannot be requested; check its bias, its direction and this user's rights on {}", .path.display())]
    Request {
        /// The line's purpose.
        line: &'static str,
        /// The chip's label.
        chip: String,
        /// The line's number.
        offset: u32,
        /// The chip's device.
        path: PathBuf,
        /// The kernel's word.
        source: KernelError,
    },
    /// The line was ours and cannot be read any more.
    #[error("{line}: the line can no longer be read; check whether its chip is still there")]
    Read {
        /// The line's purpose.
        line: &'static str,
        /// The kernel's word.
        source: KernelError,
    },
    /// An output cannot be driven.
    #[error("{line}: the line cannot be driven; check whether its chip is still there")]
    Write {
        /// The line's purpose.
        line: &'static str,
        /// The kernel's word.
        source: KernelError,
    },
    /// The chip went away under the request.
    #[error("{line}: the line's chip is gone; restart the agent when it is back")]
    Gone {
        /// The line's purpose.
        line: &'static str,
    },
    /// poll(2) failed.
    #[error("waiting for the lines failed")]
    Wait {
        /// The kernel's word.
        source: rustix::io::Errno,
    },
    /// A simulated line has no level outside the agent.
    #[error("board {board} is simulated; ask its socket for `state`")]
    Simulated {
        /// The board.
        board: String,
    },
    /// Another simulated board is alive at this path.
    #[error("{}: another process listens there; stop it, or set board.sim.control to another path", .path.display())]
    SimBusy {
        /// The socket.
        path: PathBuf,
    },
    /// The path is taken by something that is not ours to remove.
    #[error("{}: is there and is no socket; remove it, or set board.sim.control to another path", .path.display())]
    SimOccupied {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be set up.
    #[error("{}: the simulated board's socket cannot be {doing}; check its directory", .path.display())]
    SimSocket {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The kernel's word.
        source: std::io::Error,
    },
}
