//! holdup makes a gateway survive the loss of power, and says beforehand whether it would.
//!
//! Data flows one way: `board -> power -> guard -> store -> durable`. Each room's own page says
//! what it promises and what it must never do; `tests/host/rooms.rs` holds the imports to it.

pub mod agent;
pub mod audit;
pub mod backup;
pub mod board;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod demo;
pub mod doctor;
pub mod drill;
pub mod durable;
pub mod guard;
pub mod hooks;
pub mod ingest;
pub mod media;
pub mod power;
pub mod queue;
pub mod recovery;
pub mod reset;
pub mod store;
