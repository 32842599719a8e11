//! Rooms against the kernel itself. What this machine's kernel lacks is skipped, with the reason.

mod allocations;
mod gpio;
mod gpio_sim;

#[global_allocator]
static COUNTED: allocations::Counted = allocations::Counted;
