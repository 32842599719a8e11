//! Is this a Raspberry Pi 5? By its device tree's model, with either kernel.

use crate::media::Tree;

/// A Pi 5, or a Compute Module 5.
pub(super) fn is_pi5(tree: &Tree) -> bool {
    let model = tree.text("/proc/device-tree/model").unwrap_or_default();
    [
        "Raspberry Pi 5",
        "Raspberry Pi Compute Module 5",
        "Raspberry Pi 500",
    ]
    .iter()
    .any(|known| model.starts_with(known))
}

/// A 32-bit value of the device tree, which is big-endian.
pub(super) fn cell(tree: &Tree, path: &str) -> Option<u32> {
    let bytes = tree.bytes(path).ok()?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}
