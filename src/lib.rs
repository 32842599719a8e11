//! holdup makes a gateway survive the loss of power, and says beforehand whether it would.
//!
//! Data flows one way: `board -> power -> guard -> store -> durable`. Each room's own page says
//! what it promises and what it must never do; `tests/host/rooms.rs` holds the imports to it.

pub mod cli;
pub mod clock;
pub mod config;
pub mod durable;
pub mod ingest;
pub mod queue;
pub mod store;
