//! Runs in the emulated gateway: the board room alone, on the board `qemu-virt`.
//!
//! `board_watch v1|v2`. Opens inputs and outputs, prints `ready ABI`, and waits for the file
//! /run/go, so that edges can pile up before it looks. Then it reads all of them, toggles
//! `safe_to_cut` an odd number of times, and prints in one line what it saw and how many
//! allocations the calls made that the guard thread makes after an edge.
#![expect(clippy::print_stdout, reason = "printing is its whole task")]

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use holdup::board::{open_inputs, open_outputs};
use holdup::clock::{Clock, SystemClock};
use holdup::config::{GpioAbi, load};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::allocations;

pub(super) fn run() -> Result<()> {
    let abi = std::env::args()
        .nth(1)
        .context("usage: board_watch v1|v2")?;
    let mut board = load(Path::new("/etc/holdup/holdup.toml"))?.settings.board;
    board.abi = if abi == "v1" {
        GpioAbi::V1
    } else {
        GpioAbi::V2
    };
    let opened = SystemClock.mono();
    let mut inputs = open_inputs(&board)?;
    let mut outputs = open_outputs(&board);
    anyhow::ensure!(outputs.missing().is_empty(), "{:?}", outputs.missing());
    let wake = eventfd(0, EventfdFlags::NONBLOCK)?;
    println!("ready {}", inputs.describe().abi);
    let tick = Some(Duration::from_millis(20));
    while !Path::new("/run/go").exists() {
        // A nap: nothing is ever written to `wake`.
        let nap = tick.and_then(|t| Timespec::try_from(t).ok());
        poll(&mut [PollFd::new(&wake, PollFlags::IN)], nap.as_ref())?;
    }

    let before = allocations::so_far();
    std::hint::black_box(vec![1_u8]);
    anyhow::ensure!(allocations::so_far() == before + 1, "the counter counts");

    let before = allocations::so_far();
    let (mut edges, mut ordered, mut last) = (0_u32, true, opened);
    while inputs.wait(wake.as_fd(), Some(Duration::ZERO))?.lines {
        while let Some(edge) = inputs.next_edge()? {
            edges += 1;
            ordered &= last <= edge.at && edge.at <= SystemClock.mono();
            last = edge.at;
        }
    }
    let empty = inputs.next_edge()?.is_none();
    let levels = inputs.levels()?;
    for nth in 0..5 {
        outputs.set_safe_to_cut(nth % 2 == 0)?;
        outputs.set_status(nth % 2 == 1)?;
    }
    let allocated = allocations::so_far() - before;
    println!(
        "edges {edges} ordered {ordered} empty {empty} power_fail {:?} brownout {:?} allocations {allocated}",
        levels.power_fail, levels.brownout
    );
    // The outputs stay as they are until the test has looked.
    while Path::new("/run/go").exists() {
        inputs.wait(wake.as_fd(), tick)?;
    }
    Ok(())
}
