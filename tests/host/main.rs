//! Rooms and the real binary against the simulated board, without root.

mod agent;
#[path = "../support/allocations.rs"]
mod allocations;
mod board;
mod config;
mod cross;
mod demo;
mod faults;
mod guard;
#[path = "../support/home.rs"]
mod home;
mod ingest;
mod ingest_verb;
mod measure;
mod rooms;
mod store;
mod store_world;

#[global_allocator]
static COUNTED: allocations::Counted = allocations::Counted;
