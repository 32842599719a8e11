//! Rooms and the real binary against the simulated board, without root.

mod agent;
mod board;
mod config;
mod cross;
mod demo;
mod faults;
mod guard;
#[path = "../support/home.rs"]
mod home;
mod rooms;
