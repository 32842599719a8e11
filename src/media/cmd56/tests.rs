//! Pages as each layout has them, and what is refused: no page is believed for want of a better one.

use proptest::prelude::*;

use super::*;

/// A page of `layout` that says `used` percent and is right in everything else.
fn page(layout: Layout, used: u8) -> [u8; PAGE] {
    let left = 100u8.wrapping_sub(used);
    let mut p = [0; PAGE];
    let mut put = |at: usize, bytes: &[u8]| p[at..at + bytes.len()].copy_from_slice(bytes);
    match layout {
        Layout::SanDisk => {
            put(0, b"DS200710");
            put(8, &[used]);
            put(24, &[0, 1, 17]);
        }
        Layout::Longsys => {
            put(0, &[0x70, 0x58]);
            put(44, &u32::from(left).to_le_bytes());
        }
        Layout::Innodisk => {
            put(0, b"LX");
            put(24, &[100, 2, used]);
            put(32, &5u32.to_be_bytes());
            put(36, &90u32.to_be_bytes());
            put(44, &40u32.to_be_bytes());
        }
        Layout::Adata => {
            put(0, &[0x09, 0x41]);
            put(36, &9u32.to_be_bytes());
            put(44, &3u32.to_be_bytes());
            put(70, &[left]);
        }
        Layout::Transcend => {
            put(0, b"Tr");
            put(70, &[left]);
        }
        Layout::Micron => {
            put(0, b"ME");
            put(7, &[used]);
        }
        Layout::Swissbit => {
            put(0, b"Sw");
            put(52, &9u32.to_be_bytes());
            put(60, &3u32.to_be_bytes());
            put(80, &[left]);
        }
        Layout::Kingston | Layout::Apacer => {
            put(0, &[0x98, 0x3e, 0xa8, 0x03, 0x7a, 0xe4, 0x08, 0x16, 0x00]);
            put(64, &9_981u16.to_be_bytes());
            put(96, &(u16::from(left) * 100).to_be_bytes());
            put(98, &2u16.to_be_bytes());
            put(100, &1u16.to_be_bytes());
            put(102, &4u16.to_be_bytes());
        }
    }
    p
}

fn says(found: &Found) -> Says {
    found.evidence[0].says
}

#[test]
fn every_layout_tells_the_share_of_life_that_was_put_into_its_page() {
    for layout in Layout::ALL {
        for used in [0, 1, 42, 100] {
            let health = decode(layout, &page(layout, used)).expect("a page");
            assert_eq!(health.used, used, "{}", layout.name());
        }
        let found = judge(layout, &page(layout, 12), None);
        // Few bad blocks are no measure of wear.
        let low = if layout == Layout::Innodisk {
            Says::Note
        } else {
            Says::Good
        };
        assert_eq!(says(&found), low);
        assert_eq!(found.worn.is_some(), low == Says::Good);
        assert_eq!(says(&judge(layout, &page(layout, 85), None)), Says::Watch);
        assert_eq!(
            says(&judge(layout, &page(layout, 100), None)),
            Says::ReplaceNow
        );
        let raw = found.raw.expect("the page is kept");
        assert_eq!(raw.hex.len(), 2 * PAGE);
    }
}

#[test]
fn a_real_western_digital_page_is_read() {
    let mut p = [0; PAGE];
    let seen = b"\x44\x57\x32\x30\x30\x37\x31\x30\x01\x01\x01\x1f\x00\x00\x06\x01\
        \x01\x0c\x44\x4d\x00\x00\x00\x00\x00\x00\x11\x00\x03\x03\x03\x02\x02\x01";
    p[..seen.len()].copy_from_slice(seen);
    p[49..64].copy_from_slice(b"Western Digital");
    let health = decode(Layout::SanDisk, &p).expect("a page");
    assert_eq!(health.used, 1);
    assert_eq!(health.more, ["switched on 17 times"]);
}

#[test]
fn a_page_without_its_makers_signature_is_no_health() {
    for layout in Layout::ALL {
        if layout.writes_first() {
            continue;
        }
        let mut p = page(layout, 12);
        p[1] ^= 0x01;
        let found = judge(layout, &p, None);
        assert_eq!(says(&found), Says::Unknown, "{}", layout.name());
        assert!(found.worn.is_none());
        assert!(found.raw.is_some(), "kept all the same");
    }
}

#[test]
fn a_share_of_200_percent_and_counts_out_of_order_are_refused() {
    for layout in Layout::ALL {
        let mut p = page(layout, 12);
        match layout {
            Layout::SanDisk => p[8] = 200,
            Layout::Longsys | Layout::Transcend | Layout::Adata | Layout::Swissbit => {
                p[44] = 200;
                p[70] = 200;
                p[80] = 200;
            }
            Layout::Innodisk => p[26] = 200,
            Layout::Micron => p[7] = 200,
            Layout::Kingston | Layout::Apacer => p[96..98].copy_from_slice(&[0xff, 0xff]),
        }
        let found = judge(layout, &p, None);
        assert_eq!(says(&found), Says::Unknown, "{}: {found:?}", layout.name());
    }
    for (layout, at) in [
        (Layout::Innodisk, 44),
        (Layout::Adata, 44),
        (Layout::Swissbit, 60),
        (Layout::Kingston, 104),
    ] {
        let mut p = page(layout, 12);
        p[at] = 0x7f;
        let found = judge(layout, &p, None);
        assert_eq!(
            says(&found),
            Says::Unknown,
            "average above maximum: {layout:?}"
        );
    }
}

#[test]
fn a_page_of_one_byte_or_equal_to_the_first_sector_is_no_answer() {
    for layout in Layout::ALL {
        for byte in [0, 0xff, 0x20] {
            assert_eq!(says(&judge(layout, &[byte; PAGE], None)), Says::Unknown);
        }
        let p = page(layout, 12);
        assert_eq!(says(&judge(layout, &p, Some(&p))), Says::Unknown);
        assert_ne!(says(&judge(layout, &p, Some(&[0; PAGE]))), Says::Unknown);
    }
}

fn card(manfid: u8, product: &str) -> Identity {
    Identity {
        manfid: Some(manfid),
        product: Some(product.to_owned()),
        ..Identity::default()
    }
}

#[test]
fn only_a_card_on_the_list_is_asked_and_written_to_only_on_request() {
    let adata = card(0x1d, "IUDD3");
    assert_eq!(permitted(&adata, Probe::Listed), Ok(Layout::Adata));
    permitted(&adata, Probe::Never).expect_err("not asked");
    // A consumer card of a maker that has others: only when an operator asks.
    let ultra = card(0x03, "SD128");
    let why = permitted(&ultra, Probe::Listed).expect_err("not by name");
    assert!(why.contains("--probe-vendor"), "{why}");
    assert_eq!(permitted(&ultra, Probe::Asked(None)), Ok(Layout::SanDisk));
    // A listed card that wants a write first.
    let kingston = card(0x9f, "SDCIT");
    let why = permitted(&kingston, Probe::Listed).expect_err("it writes");
    assert!(why.contains("written to"), "{why}");
    assert_eq!(
        permitted(&kingston, Probe::Asked(None)),
        Ok(Layout::Kingston)
    );
    // A layout that the operator names.
    let named = Probe::Asked(Layout::named("innodisk"));
    assert_eq!(
        permitted(&card(0xb6, "SDCARD"), named),
        Ok(Layout::Innodisk)
    );
    assert_eq!(Layout::named(""), None);
    // Nobody's page is tried on a stranger, whoever asks.
    for stranger in [
        card(0xaa, "QEMU!"),
        card(0x1b, "EB1QT"),
        Identity::default(),
    ] {
        for probe in [Probe::Listed, Probe::Asked(None)] {
            permitted(&stranger, probe).expect_err("a stranger");
        }
    }
}

proptest! {
    #[test]
    fn any_page_is_read_without_a_panic_and_never_as_more_than_all_of_its_life(
        layout in 0..Layout::ALL.len(),
        mut bytes in proptest::collection::vec(0u8.., PAGE),
        signed: bool,
    ) {
        let layout = Layout::ALL[layout];
        if signed {
            bytes[..2].copy_from_slice(&page(layout, 0)[..2]);
        }
        let p: [u8; PAGE] = bytes.try_into().expect("512");
        let found = judge(layout, &p, None);
        if let Some(worn) = found.worn {
            assert!(worn.low <= 100);
        } else {
            assert_ne!(says(&found), Says::Good);
        }
    }
}
