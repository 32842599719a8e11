//! One file a verb: what users type, and the exit code. The only room that prints.

pub mod ingest;
