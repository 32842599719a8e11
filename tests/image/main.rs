//! The gateway as a whole, from outside: a machine in QEMU with an SD card, GPIO lines and serial
//! ports, whose plug is pulled at will.
//!
//! Emulation is slow and noisy: these tests assert order, counts and durability, never
//! milliseconds. Run with `--test-threads=2` at most.

mod blocklog;
mod card;
mod cases;
mod console;
mod initramfs;
mod load;
mod machine;
mod parts;
mod patience;
mod pi3;
mod qtest;
mod scene;
mod transcript;

/// Programs that only a benchmark wants in the gateway.
const FURTHER_PROGRAMS: [&str; 0] = [];
