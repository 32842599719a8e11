//! The character device, uAPI v2 and, where this kernel has it, v1, on a chip of the kernel's
//! simulator.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use holdup::board::{BoardError, Input, Levels, open_inputs, open_outputs, read_once, survey};
use holdup::clock::{Clock, SystemClock};
use holdup::config::{Bias, BoardKind, BoardSettings, GpioAbi, LineAt, LineSpec};
use rustix::event::{EventfdFlags, eventfd};

use crate::allocations;
use crate::gpio_sim::{SimChip, skip};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

fn at(chip: &SimChip, offset: u32, active_high: bool) -> LineSpec {
    LineSpec {
        chip: Some(chip.label.clone()),
        at: LineAt::Offset(offset),
        active_high,
        bias: Bias::AsIs,
    }
}

/// Power fail active low, brownout by name and active high, safe_to_cut active low.
fn board(chip: &SimChip, abi: GpioAbi) -> BoardSettings {
    let brownout = LineSpec {
        chip: None,
        at: LineAt::Name(format!("{}-L6", chip.label)),
        ..at(chip, 0, true)
    };
    BoardSettings {
        name: "gpio-sim".to_owned(),
        kind: BoardKind::Gpio,
        abi,
        cycles_supply: true,
        power_fail: Some(at(chip, 5, false)),
        brownout: Some(brownout),
        battery_low: None,
        presence: Some(at(chip, 4, true)),
        status: Some(at(chip, 0, true)),
        safe_to_cut: Some(at(chip, 1, false)),
    }
}

/// The ABIs that this kernel speaks; says which it does not.
fn abis(chip: &SimChip) -> Vec<GpioAbi> {
    match open_inputs(&board(chip, GpioAbi::V1)) {
        Err(BoardError::NoAbi { .. }) => {
            skip("v1: this kernel was built without CONFIG_GPIO_CDEV_V1");
            vec![GpioAbi::V2]
        }
        _ => vec![GpioAbi::V2, GpioAbi::V1],
    }
}

fn wake() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK).unwrap()
}

#[test]
fn levels_and_edges_are_logical_and_in_order() {
    let Some(chip) = SimChip::new() else { return };
    for abi in abis(&chip) {
        chip.pull(5, true);
        chip.pull(6, false);
        let mut inputs = open_inputs(&board(&chip, abi)).unwrap();
        let wake = wake();
        let good = Levels {
            power_fail: Some(false),
            brownout: Some(false),
            battery_low: None,
        };
        assert_eq!(inputs.levels().unwrap(), good);
        assert_eq!(inputs.next_edge().unwrap(), None);

        let before = SystemClock.mono();
        chip.pull(6, true);
        chip.pull(5, false);
        chip.pull(6, false);
        let after = SystemClock.mono();
        assert!(inputs.wait(wake.as_fd(), PATIENCE).unwrap().lines);
        let mut seen = Vec::new();
        while seen.len() < 3 {
            match inputs.next_edge().unwrap() {
                Some(edge) => seen.push(edge),
                None => assert!(inputs.wait(wake.as_fd(), PATIENCE).unwrap().lines),
            }
        }
        let what: Vec<_> = seen.iter().map(|e| (e.input, e.asserted, e.seq)).collect();
        let expected = [
            (Input::Brownout, true, 1),
            (Input::PowerFail, true, 1),
            (Input::Brownout, false, 2),
        ];
        assert_eq!(what, expected);
        assert!(
            before <= seen[0].at && seen[2].at <= after,
            "the kernel's clock is ours"
        );
        assert_eq!(inputs.levels().unwrap().power_fail, Some(true));
    }
}

#[test]
fn a_burst_beyond_the_queue_leaves_the_true_level() {
    let Some(chip) = SimChip::new() else { return };
    for abi in abis(&chip) {
        chip.pull(5, true);
        let mut inputs = open_inputs(&board(&chip, abi)).unwrap();
        for n in 0..301 {
            chip.pull(5, n % 2 == 1);
        }
        assert_eq!(inputs.levels().unwrap().power_fail, Some(true));
        let mut last = 0;
        let mut count = 0;
        while let Some(edge) = inputs.next_edge().unwrap() {
            assert!(edge.seq > last);
            (last, count) = (edge.seq, count + 1);
        }
        // v2 drops the oldest and numbers them; v1 drops the newest and numbers none.
        let (most, number) = match abi {
            GpioAbi::V1 => (16, count),
            GpioAbi::V2 | GpioAbi::Auto => (64, 301),
        };
        assert!(
            count <= most && last == number,
            "{count} edges, the last is {last}"
        );
    }
}

#[test]
fn the_guards_calls_do_not_allocate() {
    let Some(chip) = SimChip::new() else { return };
    for abi in abis(&chip) {
        chip.pull(5, true);
        let mut inputs = open_inputs(&board(&chip, abi)).unwrap();
        let wake = wake();
        let before = allocations::so_far();
        std::hint::black_box(vec![1_u8]);
        let counted = allocations::so_far() - before;
        assert_eq!(counted, 1, "the counter counts");
        for _ in 0..20 {
            chip.pull(5, false);
            chip.pull(5, true);
        }
        let before = allocations::so_far();
        let mut edges = 0;
        while inputs
            .wait(wake.as_fd(), Some(Duration::ZERO))
            .is_ok_and(|w| w.lines)
        {
            while let Ok(Some(_)) = inputs.next_edge() {
                edges += 1;
            }
        }
        assert!(inputs.levels().is_ok());
        let kept = if abi == GpioAbi::V1 { 16 } else { 40 };
        assert_eq!((edges, allocations::so_far() - before), (kept, 0));
    }
}

#[test]
fn a_line_in_use_names_who_has_it() {
    let Some(chip) = SimChip::new() else { return };
    for abi in abis(&chip) {
        let board = board(&chip, abi);
        let _held = open_inputs(&board).unwrap();
        let again = open_inputs(&board).unwrap_err();
        let text = again.to_string();
        assert!(matches!(again, BoardError::Busy { .. }), "{text}");
        assert!(text.contains("is in use by \"holdup\""), "{text}");
        let found = survey(&board);
        let used: Vec<bool> = found.iter().map(|f| f.used_by.is_some()).collect();
        assert_eq!(used, [true, true, false, false, false]);
    }
}

#[test]
fn one_line_that_cannot_be_had_costs_no_other() {
    let Some(chip) = SimChip::new() else { return };
    let mut board = board(&chip, GpioAbi::Auto);
    board.brownout = Some(at(&chip, 99, true));
    let mut inputs = open_inputs(&board).unwrap();
    let missing = inputs.describe().missing;
    assert_eq!(missing.len(), 1);
    assert!(
        missing[0].why.contains("has lines 0 to 7, not 99"),
        "{}",
        missing[0].why
    );
    assert_eq!(inputs.levels().unwrap().brownout, None);
}

#[test]
fn an_unknown_line_name_is_told_with_the_chips_that_were_searched() {
    let Some(chip) = SimChip::new() else { return };
    let mut board = board(&chip, GpioAbi::Auto);
    board.power_fail = Some(LineSpec {
        chip: None,
        at: LineAt::Name("nobody".to_owned()),
        ..at(&chip, 0, true)
    });
    let text = open_inputs(&board).unwrap_err().to_string();
    assert!(
        text.contains("no gpio line is named \"nobody\"") && text.contains(&chip.label),
        "{text}"
    );
}

#[test]
fn outputs_start_not_asserted_and_follow() {
    let Some(chip) = SimChip::new() else { return };
    for abi in abis(&chip) {
        let board = board(&chip, abi);
        let mut outputs = open_outputs(&board);
        assert!(outputs.missing().is_empty(), "{:?}", outputs.missing());
        assert!(
            !chip.level(0) && chip.level(1),
            "status high, safe_to_cut low is asserted"
        );
        outputs.set_status(true).unwrap();
        outputs.set_safe_to_cut(true).unwrap();
        assert!(chip.level(0) && !chip.level(1));
        let before = allocations::so_far();
        outputs.set_status(false).unwrap();
        outputs.set_safe_to_cut(false).unwrap();
        assert_eq!(allocations::so_far(), before, "setting a pin allocates");
        assert!(!chip.level(0) && chip.level(1));
    }
}

#[test]
fn a_line_is_read_once_and_let_go() {
    let Some(chip) = SimChip::new() else { return };
    for abi in abis(&chip) {
        let board = board(&chip, abi);
        chip.pull(4, false);
        let presence = at(&chip, 4, true);
        assert!(!read_once(&board, &presence).unwrap());
        chip.pull(4, true);
        assert!(read_once(&board, &presence).unwrap());
    }
}
