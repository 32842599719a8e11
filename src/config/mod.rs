//! Fragments, merged, validated: the settings the agent runs by.
//!
//! It promises that a key is refused, with file and line, or has its effect; and that each value
//! can name where it came from. It must never be read twice: a reload makes new [`Settings`].

mod settings;

pub use settings::*;
