//! Which of the two GPIO ABIs a chip is spoken to in.
//!
//! The kernel is asked by a request for line information in each, never by its version: vendors
//! backport, and distributions build without one or the other. v2 goes first: it has time stamps
//! on a known clock and numbers its edges.

use std::path::Path;

use super::KernelError;
use crate::config::GpioAbi;

/// One of the kernel's GPIO ABIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    /// Since Linux 4.8; optional since 5.10.
    V1,
    /// Since Linux 5.10.
    V2,
}

impl Abi {
    /// As status and doctor name it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// A chip, opened in the ABI it is spoken to in.
#[derive(Debug)]
pub(super) enum Chip {
    V1(gpio_cdev::Chip),
    V2(gpiocdev::Chip),
}

/// What a chip says of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LineInfo {
    pub(super) offset: u32,
    /// Empty where the device tree gives none.
    pub(super) name: String,
    /// Empty where nobody has it.
    pub(super) consumer: String,
    pub(super) used: bool,
}

impl Chip {
    /// Opens a chip in the ABI that the settings choose; `Err` is what it does speak.
    pub(super) fn open(chip: gpiocdev::Chip, choice: GpioAbi) -> Result<Self, &'static str> {
        let v2 = || chip.line_info(0).is_ok();
        let v1 = || speaks_v1(chip.path());
        match choice {
            GpioAbi::V2 if !v2() => Err(v1().map_or("none", |_| "v1")),
            GpioAbi::V1 => match v1() {
                Some(old) => Ok(Self::V1(old)),
                None => Err(if v2() { "v2" } else { "none" }),
            },
            GpioAbi::Auto if !v2() => v1().map(Self::V1).ok_or("none"),
            GpioAbi::V2 | GpioAbi::Auto => Ok(Self::V2(chip)),
        }
    }

    /// What the chip says of line `offset`, which must be one of its lines.
    pub(super) fn line_info(&self, offset: u32) -> Result<LineInfo, KernelError> {
        match self {
            Self::V2(chip) => {
                let info = chip.line_info(offset)?;
                Ok(LineInfo {
                    offset,
                    name: info.name,
                    consumer: info.consumer,
                    used: info.used,
                })
            }
            Self::V1(chip) => {
                let info = old_line(chip, offset)?.info()?;
                Ok(LineInfo {
                    offset,
                    name: info.name().unwrap_or_default().to_owned(),
                    consumer: info.consumer().unwrap_or_default().to_owned(),
                    // The crate's `is_used` also counts a line that merely is an output.
                    used: info.is_kernel(),
                })
            }
        }
    }
}

/// The chip through v1, if the kernel has it: a kernel without it still tells the chip's label,
/// and refuses all about lines with EINVAL.
fn speaks_v1(path: &Path) -> Option<gpio_cdev::Chip> {
    let mut chip = gpio_cdev::Chip::new(path).ok()?;
    chip.get_line(0).ok()?.info().ok()?;
    Some(chip)
}

/// Line `offset`; the crate's own way there wants the chip for itself.
pub(super) fn old_line(
    chip: &gpio_cdev::Chip,
    offset: u32,
) -> Result<gpio_cdev::Line, KernelError> {
    Ok(gpio_cdev::Chip::new(chip.path())?.get_line(offset)?)
}
