//! Rooms against the simulated board, in files and sockets of their own.

mod board;
mod config;
