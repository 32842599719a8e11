//! Which Raspberry Pi this is, and so which board description it needs: `power.board = "auto"`.
//!
//! It promises to say what was seen, also where that is nothing known. rppal is asked first; it
//! reads /proc/cpuinfo and the device tree, and knows a Pi 5 under a mainline device tree by its
//! `compatible` (the model there is `Raspberry Pi 5`, which rppal does not know). What rppal does
//! not know (its last version is of 2025) is told by the SoC in `compatible`.
//!
//! It stands here, not in the board room, because the answer chooses which file is read as
//! configuration. It must never touch a line: which chip there is, is found by its label.

use std::fmt;
use std::fs;
use std::path::Path;

use rppal::system::{DeviceInfo, Model, SoC};

/// Where the kernel shows the device tree.
const DEVICE_TREE: &str = "/proc/device-tree";

/// What this machine was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The model: as rppal names it, else as the device tree does; `None` without a device tree.
    pub model: Option<String>,
    /// The SoC, where known.
    pub soc: Option<String>,
    /// The compiled-in board for it, if there is one.
    pub profile: Option<&'static str>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.model, &self.soc) {
            (Some(model), Some(soc)) => write!(f, "{model} ({soc})"),
            (Some(model), None) => write!(f, "{model}"),
            (None, _) => write!(f, "no machine with a device tree"),
        }
    }
}

/// Identifies this machine.
pub fn identify() -> Identity {
    match DeviceInfo::new() {
        Ok(info) => known(info.model(), info.soc()),
        Err(_) => by_device_tree(Path::new(DEVICE_TREE)),
    }
}

/// What rppal knows.
fn known(model: Model, soc: SoC) -> Identity {
    let profile = match (model, soc) {
        // Their header has 26 pins: none of it is GPIO6.
        (Model::RaspberryPiA | Model::RaspberryPiBRev1 | Model::RaspberryPiBRev2, _) => None,
        (_, SoC::Bcm2712) => Some("rpi5"),
        (_, SoC::Bcm2711) => Some("rpi4"),
        (_, SoC::Bcm2835 | SoC::Bcm2836 | SoC::Bcm2837A1 | SoC::Bcm2837B0) => Some("rpi3"),
        (_, _) => None,
    };
    Identity {
        model: Some(model.to_string()),
        soc: Some(soc.to_string()),
        profile,
    }
}

/// By the `model` and `compatible` of the device tree in this folder. Both end in a zero byte;
/// `compatible` is a list, the most particular first.
pub fn by_device_tree(folder: &Path) -> Identity {
    let texts = |name: &str| -> Vec<String> {
        let bytes = fs::read(folder.join(name)).unwrap_or_default();
        bytes
            .split(|b| *b == 0)
            .filter(|text| !text.is_empty())
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .collect()
    };
    let compatible = texts("compatible");
    let has = |wanted: &str| compatible.iter().any(|c| c == wanted);
    let by_soc = [
        ("brcm,bcm2712", "BCM2712", "rpi5"),
        ("brcm,bcm2711", "BCM2711", "rpi4"),
        ("brcm,bcm2837", "BCM2837", "rpi3"),
        ("linux,dummy-virt", "QEMU virt", "qemu-virt"),
    ];
    let hit = by_soc.into_iter().find(|(c, ..)| has(c));
    // Other makers use these SoCs, too, with headers of their own.
    let ours = compatible
        .iter()
        .any(|c| c.starts_with("raspberrypi,") || c == "linux,dummy-virt");
    let model = texts("model").into_iter().next();
    Identity {
        model: model.or_else(|| compatible.first().cloned()),
        soc: hit
            .map(|(_, soc, _)| soc.to_owned())
            .or_else(|| compatible.last().cloned()),
        profile: hit.filter(|_| ours).map(|(_, _, profile)| profile),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rppal_names_has_the_board_of_its_chip() {
        for (model, soc, profile) in [
            (Model::RaspberryPi5, SoC::Bcm2712, Some("rpi5")),
            (
                Model::RaspberryPiComputeModule5Lite,
                SoC::Bcm2712,
                Some("rpi5"),
            ),
            (Model::RaspberryPi4B, SoC::Bcm2711, Some("rpi4")),
            (Model::RaspberryPiComputeModule4, SoC::Bcm2711, Some("rpi4")),
            (Model::RaspberryPi3B, SoC::Bcm2837A1, Some("rpi3")),
            (Model::RaspberryPiZero2W, SoC::Bcm2837A1, Some("rpi3")),
            (Model::RaspberryPiBPlus, SoC::Bcm2835, Some("rpi3")),
            (Model::RaspberryPiBRev1, SoC::Bcm2835, None),
        ] {
            let found = known(model, soc);
            assert_eq!(found.profile, profile, "{found}");
        }
        let found = known(Model::RaspberryPi5, SoC::Bcm2712);
        assert_eq!(found.to_string(), "Raspberry Pi 5 (BCM2712)");
    }
}
