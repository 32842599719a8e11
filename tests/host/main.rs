//! Rooms and the real binary against the simulated board, without root.

mod agent;
#[path = "../support/allocations.rs"]
mod allocations;
#[path = "../support/application.rs"]
#[expect(dead_code, reason = "tests/kernel has it write without end")]
mod application;
mod audit;
mod backup;
mod board;
mod config;
mod console;
mod cross;
mod damage;
mod demo;
mod drill;
mod faults;
mod foreign;
mod gauge;
mod guard;
#[path = "../support/home.rs"]
mod home;
mod hooks;
mod hot_copy;
mod ingest;
mod ingest_verb;
mod ledger;
mod measure;
mod media;
mod neighbours;
mod own_files;
mod power_verb;
mod queue;
mod recover;
mod recover_memory;
mod recover_power;
mod reset;
mod restore;
mod retract;
mod rooms;
mod snapshot;
mod store;
mod store_world;
mod subscribe;
mod words;

#[global_allocator]
static COUNTED: allocations::Counted = allocations::Counted;
