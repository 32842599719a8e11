//! What is asked of the gateway, a file for each matter.

mod console;
mod drill;
mod emulator;
mod faults;
mod foreign;
mod kernels;
mod measure;
mod media;
mod outage;
mod recovery;
mod soak;
mod supply;
