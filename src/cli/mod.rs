//! Parse, log, dispatch; one file a verb.
//!
//! It must never hold logic.

pub mod config;
