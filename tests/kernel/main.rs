//! Rooms against the kernel itself. What this machine's kernel lacks is skipped, with the reason.

#[path = "../support/allocations.rs"]
mod allocations;
#[path = "../support/application.rs"]
mod application;
mod audit;
#[path = "../image/blocklog.rs"]
#[expect(dead_code, reason = "tests/image asks more of it")]
mod blocklog;
#[path = "../crash/corpus.rs"]
#[expect(dead_code, reason = "tests/crash strikes with all of it")]
mod corpus;
mod cuts;
#[path = "../support/disk.rs"]
mod disk;
mod flushes;
mod foreign;
mod full_disk;
mod gpio;
mod gpio_sim;
mod hand_on;
#[path = "../support/home.rs"]
#[expect(dead_code, reason = "a world that tests/host uses more of")]
mod home;
mod kills;
#[path = "../support/logged_disk.rs"]
mod logged_disk;
mod readonly;
mod reset;
mod restore;
mod syncs;
mod usb;

#[global_allocator]
static COUNTED: allocations::Counted = allocations::Counted;
