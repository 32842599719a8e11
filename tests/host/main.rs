//! Rooms against a simulated world, in one binary.

mod ingest;
mod ingest_verb;
mod measure;
mod store;
mod store_world;
