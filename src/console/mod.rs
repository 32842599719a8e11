//! The technician's console: a laptop, a cable, and nobody to call.
//!
//! It promises that everything a technician needs to know and do at a gateway can be known and done
//! through a serial port of 80 columns, by a technician and by nobody else. It runs as a process of
//! its own, so that it answers while the agent is down, starts, or is parked. It must never trust a
//! byte, and never touch the data directory itself: commands are the binary's own verbs.

pub mod commands;
pub mod editor;
pub mod keys;
pub mod login;
mod look;
pub mod pager;
mod port;
mod session;
mod transfer;

pub use commands::{COMMANDS, Command, Does, Needs, Order};
pub use editor::{Terminal, WIDTH};
pub use look::{Trouble, look, troubles};
pub use port::{Came, Port, PortError};
pub use session::{Begun, Host, IDLE, Purpose, Session};
pub use transfer::{Sent, Source, Transfer};
