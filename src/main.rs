//! `holdup`: parses, logs, dispatches. No logic lives here.
fn main() {}
