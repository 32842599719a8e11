//! Rooms against the kernel itself. What this machine's kernel lacks is skipped, with the reason.

#[path = "../support/allocations.rs"]
mod allocations;
#[path = "../support/application.rs"]
mod application;
mod audit;
#[path = "../support/disk.rs"]
mod disk;
mod flushes;
mod foreign;
mod full_disk;
mod gpio;
mod gpio_sim;
#[path = "../support/home.rs"]
#[expect(dead_code, reason = "a world that tests/host uses more of")]
mod home;
mod readonly;
mod syncs;

#[global_allocator]
static COUNTED: allocations::Counted = allocations::Counted;
