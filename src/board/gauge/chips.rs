//! The chips, each over any I2C bus: registers to volts and percent.
//!
//! Nothing is written to a chip: it may be another program's too. What cannot be a battery's
//! reading is refused as nonsense; whether a reading matters is not judged here.

use std::fmt;

use embedded_hal::i2c::I2c;
use ina219::address::Address;
use ina219::calibration::UnCalibrated;
use ina219::configuration::{MeasuredSignals, OperatingMode};
use ina219::errors::{BusVoltageReadError, ConfigurationReadError, ShuntVoltageReadError};
use max170xx::{Max17043, Max17048};

use crate::config::{GaugeKind, GaugeSettings};

use super::{Chip, ChipFault, Measured};

/// A lithium cell outside of these volts does not run a gateway: the bus or the chip misread.
const CELL_VOLTS: std::ops::RangeInclusive<f32> = 2.0..=5.0;
/// A gauge that has just learned its cell overshoots a little; beyond this it is nonsense.
const MOST_PERCENT: f32 = 110.0;
/// %/h under which a cell neither charges nor discharges, as far as the chip can tell.
const RESTING: f32 = 0.5;
/// mA under which a battery neither charges nor discharges.
const RESTING_MA: f32 = 5.0;

/// The chip that `settings` name, on `bus`.
pub fn on_bus<I>(settings: &GaugeSettings, bus: I) -> Box<dyn Chip>
where
    I: I2c + Send + 'static,
    I::Error: fmt::Display,
{
    match settings.kind {
        GaugeKind::Max17040 => Box::new(Cell17040(Max17043::new(bus))),
        GaugeKind::Max17048 => Box::new(Cell17048(Max17048::new(bus))),
        GaugeKind::Ina219 {
            shunt_mohm,
            empty_mv,
            full_mv,
        } => {
            let address = Address::from_byte(settings.address).unwrap_or_default();
            Box::new(Pack {
                // Not `new`, which resets the chip.
                chip: ina219::SyncIna219::new_unchecked(bus, address, UnCalibrated),
                // In their ranges all three are exact.
                shunt_mohm: shunt_mohm as f32,
                empty: empty_mv as f32 / 1000.0,
                full: full_mv as f32 / 1000.0,
            })
        }
    }
}

fn bus_fault(e: impl fmt::Display) -> ChipFault {
    ChipFault::Bus(e.to_string())
}

fn of_max170xx<E: fmt::Display>(e: max170xx::Error<E>) -> ChipFault {
    match e {
        max170xx::Error::I2C(e) => bus_fault(e),
        max170xx::Error::InvalidInputData => ChipFault::Nonsense("a register".to_owned()),
    }
}

fn cell(volts: f32, percent: f32, charging: Option<bool>) -> Result<Measured, ChipFault> {
    if !CELL_VOLTS.contains(&volts) {
        return Err(ChipFault::Nonsense(format!("{volts:.2} V for one cell")));
    }
    if !(0.0..=MOST_PERCENT).contains(&percent) {
        return Err(ChipFault::Nonsense(format!("{percent:.1} % of charge")));
    }
    Ok(Measured {
        volts,
        percent: percent.min(100.0),
        charging,
    })
}

fn direction(rate: f32, resting: f32) -> Option<bool> {
    (rate.abs() >= resting).then_some(rate > 0.0)
}

/// MAX17040 and MAX17043 have the same registers for what is read here.
struct Cell17040<I>(Max17043<I>);

impl<I> Chip for Cell17040<I>
where
    I: I2c + Send,
    I::Error: fmt::Display,
{
    fn measure(&mut self) -> Result<Measured, ChipFault> {
        let volts = self.0.voltage().map_err(of_max170xx)?;
        let percent = self.0.soc().map_err(of_max170xx)?;
        cell(volts, percent, None)
    }
}

struct Cell17048<I>(Max17048<I>);

impl<I> Chip for Cell17048<I>
where
    I: I2c + Send,
    I::Error: fmt::Display,
{
    fn measure(&mut self) -> Result<Measured, ChipFault> {
        let volts = self.0.voltage().map_err(of_max170xx)?;
        let percent = self.0.soc().map_err(of_max170xx)?;
        let rate = self.0.charge_rate().map_err(of_max170xx)?;
        cell(volts, percent, direction(rate, RESTING))
    }
}

/// An INA219 between a battery and its load: current into the battery counts as positive.
struct Pack<I> {
    chip: ina219::SyncIna219<I, UnCalibrated>,
    shunt_mohm: f32,
    empty: f32,
    full: f32,
}

impl<I> Chip for Pack<I>
where
    I: I2c + Send,
    I::Error: fmt::Display,
{
    fn measure(&mut self) -> Result<Measured, ChipFault> {
        let mode = match self.chip.configuration() {
            Ok(c) => c.operating_mode,
            Err(ConfigurationReadError::I2cError(e)) => return Err(bus_fault(e)),
            Err(ConfigurationReadError::ConfigurationMismatch { .. }) => {
                return Err(ChipFault::Nonsense("two configurations".to_owned()));
            }
        };
        // Its registers keep the last measurement for ever: old volts would pass for new ones.
        if mode != OperatingMode::Continous(MeasuredSignals::ShutAndBusVoltage) {
            return Err(ChipFault::Nonsense(
                "a chip that another program has told not to measure all the time".to_owned(),
            ));
        }
        let bus = match self.chip.bus_voltage() {
            Ok(v) => v,
            Err(BusVoltageReadError::I2cError(e)) => return Err(bus_fault(e)),
            Err(BusVoltageReadError::BusVoltageOutOfRange { .. }) => {
                return Err(ChipFault::Nonsense("more than 32 V".to_owned()));
            }
        };
        let shunt = match self.chip.shunt_voltage() {
            Ok(v) => f32::from(v.shunt_voltage_10uv()) / 100.0,
            Err(ShuntVoltageReadError::I2cError(e)) => return Err(bus_fault(e)),
            Err(ShuntVoltageReadError::ShuntVoltageOutOfRange { .. }) => {
                return Err(ChipFault::Nonsense(
                    "more than 320 mV at the shunt".to_owned(),
                ));
            }
        };
        let volts = f32::from(bus.voltage_mv()) / 1000.0;
        // Far from both ends it is not this battery that is measured.
        let span = self.empty / 2.0..=self.full * 1.25;
        if !span.contains(&volts) {
            return Err(ChipFault::Nonsense(format!(
                "{volts:.2} V, far from gauge.empty_mv and gauge.full_mv"
            )));
        }
        let percent = (volts - self.empty) / (self.full - self.empty) * 100.0;
        let milliamps = shunt / self.shunt_mohm * 1000.0;
        Ok(Measured {
            volts,
            percent: percent.clamp(0.0, 100.0),
            charging: direction(milliamps, RESTING_MA),
        })
    }
}

#[cfg(test)]
mod tests;
