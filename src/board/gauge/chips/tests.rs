//! Each chip against a bus that plays its registers.

use std::path::PathBuf;
use std::time::Duration;

use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
use embedded_hal_mock::eh1::i2c::{Mock, Transaction};

use super::*;

const PACK: GaugeKind = GaugeKind::Ina219 {
    shunt_mohm: 100,
    empty_mv: 6000,
    full_mv: 8400,
};

fn settings(kind: GaugeKind, address: u8) -> GaugeSettings {
    GaugeSettings {
        kind,
        bus: PathBuf::from("/dev/i2c-1"),
        address,
        poll: Duration::from_secs(5),
    }
}

fn register(address: u8, register: u8, value: u16) -> Transaction {
    Transaction::write_read(address, vec![register], value.to_be_bytes().to_vec())
}

/// What the chip makes of these registers; every one of them is read, and nothing written.
fn measure(kind: GaugeKind, address: u8, registers: &[(u8, u16)]) -> Result<Measured, ChipFault> {
    let plays: Vec<_> = registers
        .iter()
        .map(|(r, v)| register(address, *r, *v))
        .collect();
    let mut bus = Mock::new(&plays);
    let measured = on_bus(&settings(kind, address), bus.clone()).measure();
    bus.done();
    measured
}

fn nonsense(measured: Result<Measured, ChipFault>) -> String {
    match measured {
        Err(ChipFault::Nonsense(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_max17040_gives_volts_and_charge() {
    // VCELL counts 1.25 mV in its upper 12 bits, SOC 1/256 %.
    let m = measure(GaugeKind::Max17040, 0x36, &[(2, 3000 << 4), (4, 0x4b80)]).unwrap();
    assert!((m.volts - 3.75).abs() < 1e-4, "{m:?}");
    assert!((m.percent - 75.5).abs() < 1e-4, "{m:?}");
    assert_eq!(m.charging, None);
}

#[test]
fn a_max17048_also_gives_the_direction() {
    // CRATE counts 0.208 %/h, signed.
    for (rate, charging) in [(50, Some(true)), (-50i16, Some(false)), (1, None)] {
        let rate = u16::from_ne_bytes(rate.to_ne_bytes());
        let registers = [(2, 51_200), (4, 0x3200), (0x16, rate)];
        let m = measure(GaugeKind::Max17048, 0x36, &registers).unwrap();
        assert!((m.volts - 4.0).abs() < 1e-4, "{m:?}");
        assert!((m.percent - 50.0).abs() < 1e-4, "{m:?}");
        assert_eq!(m.charging, charging);
    }
}

#[test]
fn an_ina219_is_read_where_it_is_and_gives_charge_from_the_packs_volts() {
    // Bus voltage counts 4 mV above three flag bits, shunt voltage 10 uV.
    for (shunt, charging) in [(5000, Some(true)), (-5000i16, Some(false)), (3, None)] {
        let shunt = u16::from_ne_bytes(shunt.to_ne_bytes());
        let registers = [(0, 0x399f), (2, (7200 / 4) << 3 | 2), (1, shunt)];
        let m = measure(PACK, 0x43, &registers).unwrap();
        assert!((m.volts - 7.2).abs() < 1e-4, "{m:?}");
        assert!((m.percent - 50.0).abs() < 0.1, "{m:?}");
        assert_eq!(m.charging, charging);
    }
}

#[test]
fn a_pack_beyond_its_ends_is_empty_or_full_and_not_less_or_more() {
    for (mv, percent) in [(5800, 0.0), (8600, 100.0)] {
        let registers = [(0, 0x399f), (2, (mv / 4) << 3), (1, 0)];
        let m = measure(PACK, 0x40, &registers).unwrap();
        assert!((m.percent - percent).abs() < 1e-4, "{m:?}");
    }
}

#[test]
fn zeros_and_ones_on_the_bus_are_no_battery() {
    let cell = |vcell, soc| measure(GaugeKind::Max17040, 0x36, &[(2, vcell), (4, soc)]);
    assert_eq!(nonsense(cell(0, 0)), "0.00 V for one cell");
    assert_eq!(nonsense(cell(0xffff, 0xffff)), "5.12 V for one cell");
    assert_eq!(nonsense(cell(3000 << 4, 0xffff)), "256.0 % of charge");
    let overshoot = cell(3360 << 4, 0x6580).unwrap();
    assert!((overshoot.percent - 100.0).abs() < 1e-4, "101.5 % is full");
    let pack = |config, bus| measure(PACK, 0x40, &[(0, config), (2, bus), (1, 0)]);
    assert!(nonsense(pack(0x399f, 0)).starts_with("0.00 V, far from"));
}

#[test]
fn an_ina219_that_was_told_not_to_measure_has_no_reading() {
    for config in [0x0000, 0x399c, 0x399b] {
        let what = nonsense(measure(PACK, 0x40, &[(0, config)]));
        assert!(what.contains("another program"), "{config:#x}: {what}");
    }
}

#[test]
fn a_bus_error_is_told_as_the_kernel_says_it() {
    let silent = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);
    for kind in [GaugeKind::Max17040, GaugeKind::Max17048] {
        let mut bus = Mock::new(&[register(0x36, 2, 0).with_error(silent)]);
        let got = on_bus(&settings(kind, 0x36), bus.clone()).measure();
        bus.done();
        assert!(matches!(got, Err(ChipFault::Bus(_))), "{got:?}");
    }
    let mut bus = Mock::new(&[register(0x41, 0, 0).with_error(silent)]);
    let got = on_bus(&settings(PACK, 0x41), bus.clone()).measure();
    bus.done();
    assert!(matches!(got, Err(ChipFault::Bus(_))), "{got:?}");
}
