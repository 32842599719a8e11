//! The battery's gauge on an I2C bus, read by a thread of its own.
//!
//! The guard thread looks at the last reading and never at the bus: a bus may hang for seconds.
//! It promises that a reading it hands out was measured, is in a battery's range and is not
//! older than three polls. It must never call a misread a reading, nor decide anything by one.

mod chips;
mod poll;

use std::fmt;
use std::io;
use std::path::PathBuf;

use linux_embedded_hal::I2cdev;

use crate::config::GaugeSettings;

pub use chips::on_bus;
pub use poll::{Gauge, GaugeTap, GaugeView, Poller, Seen};

/// What a chip measured, in a battery's range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Of the battery.
    pub volts: f32,
    /// Charge, 0 to 100.
    pub percent: f32,
    /// Charging (`true`) or discharging; `None`: neither, or the chip does not tell.
    pub charging: Option<bool>,
}

/// A gauge's chip.
pub trait Chip: Send {
    /// Reads it now. May block for as long as the bus does.
    ///
    /// # Errors
    /// The bus fails, or what it says cannot be.
    fn measure(&mut self) -> Result<Measured, ChipFault>;
}

/// Why a chip gave no reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChipFault {
    /// The kernel's word.
    Bus(String),
    /// What it said instead of a reading.
    Nonsense(String),
}

/// The gauge cannot be read; each says which and what to do.
#[derive(Debug, thiserror::Error)]
pub enum GaugeError {
    /// There is no such bus.
    #[error(
        "gauge: there is no {}; turn the bus on (dtparam=i2c_arm=on in config.txt, module i2c-dev), or correct gauge.bus", bus.display()
    )]
    NoBus {
        /// The bus's device.
        bus: PathBuf,
    },
    /// Not for this user.
    #[error(
        "gauge: {} may not be opened by this user; make the agent's user a member of the group i2c", bus.display()
    )]
    NoRight {
        /// The bus's device.
        bus: PathBuf,
    },
    /// It cannot be opened.
    #[error("gauge: {} cannot be opened; is it an I2C bus? correct gauge.bus", bus.display())]
    Open {
        /// The bus's device.
        bus: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// The chip does not answer.
    #[error(
        "gauge: no {kind} answers at {address:#04x} on {} ({why}); check its wiring, gauge.kind and gauge.address (i2cdetect lists what answers)", bus.display()
    )]
    Silent {
        /// The chip.
        kind: &'static str,
        /// Its address.
        address: u8,
        /// The bus's device.
        bus: PathBuf,
        /// The kernel's word.
        why: String,
    },
    /// It answers what no battery says.
    #[error(
        "gauge: the {kind} at {address:#04x} on {} says {what}; check gauge.kind and the battery", bus.display()
    )]
    Nonsense {
        /// The chip.
        kind: &'static str,
        /// Its address.
        address: u8,
        /// The bus's device.
        bus: PathBuf,
        /// What it said.
        what: String,
    },
}

impl GaugeError {
    fn of(settings: &GaugeSettings, fault: ChipFault) -> Self {
        let (kind, address, bus) = (settings.kind.name(), settings.address, settings.bus.clone());
        match fault {
            ChipFault::Bus(why) => Self::Silent {
                kind,
                address,
                bus,
                why,
            },
            ChipFault::Nonsense(what) => Self::Nonsense {
                kind,
                address,
                bus,
                what,
            },
        }
    }
}

/// Opens the gauge's bus; says nothing to the chip yet.
///
/// # Errors
/// There is no such bus, or it is not for this user.
pub fn open(settings: &GaugeSettings) -> Result<Box<dyn Chip>, GaugeError> {
    let bus = settings.bus.clone();
    match I2cdev::new(&settings.bus) {
        Ok(open) => Ok(on_bus(settings, open)),
        Err(e) => {
            let source = io::Error::from(e);
            let kind = source.kind();
            Err(if kind == io::ErrorKind::NotFound {
                GaugeError::NoBus { bus }
            } else if kind == io::ErrorKind::PermissionDenied {
                GaugeError::NoRight { bus }
            } else {
                GaugeError::Open { bus, source }
            })
        }
    }
}

/// Opens and reads the gauge once: for doctor.
///
/// # Errors
/// It cannot be read, or says nonsense.
pub fn read_once(settings: &GaugeSettings) -> Result<Measured, GaugeError> {
    open(settings)?
        .measure()
        .map_err(|fault| GaugeError::of(settings, fault))
}

impl fmt::Debug for dyn Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chip")
    }
}
