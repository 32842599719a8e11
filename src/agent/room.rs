//! Room on a full disk for what the guard itself needs.
//!
//! It promises that a gateway whose disk is full still starts, as long as room was kept back. It
//! must never stand before anything that needs no room.

use crate::durable::{DurableError, Medium, Reserve};
use crate::guard::RecordError;

use super::explain;

/// What may fail for want of room.
pub(super) trait Full {
    /// Did it?
    fn is_full(&self) -> bool;
}

impl Full for DurableError {
    fn is_full(&self) -> bool {
        Self::is_full(self)
    }
}

impl Full for RecordError {
    fn is_full(&self) -> bool {
        match self {
            Self::Durable(e) => e.is_full(),
        }
    }
}

/// Opens something; where there is no room for it the reserve is given up and it is tried again.
pub(super) fn with_room<T, E: Full + std::error::Error>(
    reserve: &Reserve,
    medium: &Medium,
    open: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    let first = match open() {
        Err(e) if e.is_full() => e,
        other => return other,
    };
    match reserve.release(medium) {
        Ok(true) => {
            log::warn!(
                "{}; the room kept back for this was given up",
                explain(&first)
            );
            open()
        }
        Ok(false) => Err(first),
        Err(e) => {
            log::error!("the room kept back cannot be given up: {}", explain(&e));
            Err(first)
        }
    }
}
