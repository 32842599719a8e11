//! Who likely made a card, by its manufacturer id.
//!
//! The SD association publishes no list; ids are shared between brands. So the word is "likely".

use super::device::Kind;

/// Ids seen on cards, as mmc-utils and others collected them.
const SD: &[(u8, &str)] = &[
    (0x01, "Panasonic"),
    (0x02, "Toshiba, Kioxia or Kingston"),
    (0x03, "SanDisk or Western Digital"),
    (0x06, "Ritek"),
    (0x08, "Silicon Power"),
    (0x09, "ATP"),
    (0x12, "Patriot"),
    (0x13, "Kingmax"),
    (0x18, "Infineon"),
    (0x1b, "Samsung"),
    (0x1c, "Transcend"),
    (0x1d, "ADATA or Corsair"),
    (0x27, "Phison (sold by many)"),
    (0x28, "Lexar"),
    (0x30, "SanDisk"),
    (0x31, "Silicon Power"),
    (0x33, "STMicroelectronics"),
    (0x41, "Kingston"),
    (0x51, "STEC"),
    (0x5d, "Swissbit"),
    (0x61, "Netlist"),
    (0x63, "Cactus"),
    (0x6f, "STMicroelectronics"),
    (0x74, "Transcend or PNY"),
    (0x76, "Patriot"),
    (0x82, "Gobe or Sony"),
    (0x89, "Netac"),
    (0x9c, "Angelbird or Hoodman"),
    (0x9e, "Lexar"),
    (0x9f, "Kingston or Texas Instruments"),
    (0xaa, "QEMU (emulated)"),
    (0xad, "Longsys or Lexar"),
    (0xdf, "Lenovo"),
    (0xfe, "Micron"),
];

const MMC: &[(u8, &str)] = &[
    (0x02, "SanDisk"),
    (0x11, "Toshiba or Kioxia"),
    (0x13, "Micron"),
    (0x15, "Samsung"),
    (0x45, "SanDisk"),
    (0x70, "Kingston"),
    (0x88, "Foresee (Longsys)"),
    (0x90, "SK Hynix"),
    (0x9b, "YMTC"),
    (0xd6, "Foresee (Longsys)"),
    (0xec, "Rayson"),
    (0xf4, "Biwin"),
    (0xfe, "Micron"),
];

/// A name to be shown after "likely"; `None` for an id that is not known.
pub(super) fn likely(kind: Kind, id: u8) -> Option<&'static str> {
    let list = match kind {
        Kind::Emmc => MMC,
        Kind::Sd | Kind::Nvme | Kind::Virtual | Kind::Scsi | Kind::Memory | Kind::Other => SD,
    };
    list.iter().find(|(i, _)| *i == id).map(|(_, name)| *name)
}
