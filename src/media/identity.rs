//! Who the medium says it is: CID, CSD and SSR of SD and eMMC, model and serial of others.
//!
//! Reads `/sys/block/DISK/device/{cid,csd,ssr,name,date,...}`, which everybody may. A register that
//! is missing or makes no sense is left out, never guessed.

use serde::{Deserialize, Serialize};

use super::device::{Disk, Kind};
use super::makers::likely;
use super::tree::{Tree, printable, unhex};

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What tells this medium from every other: CID, or model and serial. `None`: nothing does.
    pub id: Option<String>,
    /// The manufacturer's id, on cards.
    pub manfid: Option<u8>,
    /// Who that likely is; ids are shared between brands.
    pub likely_maker: Option<String>,
    /// Two letters, on SD cards.
    pub oem: Option<String>,
    /// The product's name.
    pub product: Option<String>,
    /// Hardware and firmware revision.
    pub revision: Option<String>,
    /// The serial number.
    pub serial: Option<String>,
    /// Month of manufacture, `2023-07`.
    pub made: Option<String>,
    /// `SDHC`, `SDXC`...
    pub capacity_class: Option<String>,
    /// What the card's own register says it holds, in bytes.
    pub capacity: Option<u64>,
    /// Speed classes the card declares: `C10 U3 V30 A1`.
    pub speed: Option<String>,
    /// The card declares itself read-only: `permanently` or `until told otherwise`.
    pub write_protected: Option<String>,
}

/// What is known of `disk`.
pub(super) fn identity(tree: &Tree, disk: &Disk) -> Identity {
    let device = disk.dir.join("device");
    let text = |name: &str| tree.text(device.join(name)).map(|t| one_line(&t));
    match disk.kind {
        Kind::Sd | Kind::Emmc => {
            let mut it = Identity::default();
            if let Some(cid) = text("cid").and_then(|hex| unhex::<16>(&hex)) {
                it = match disk.kind {
                    Kind::Sd => sd_cid(&cid),
                    Kind::Emmc
                    | Kind::Nvme
                    | Kind::Virtual
                    | Kind::Scsi
                    | Kind::Memory
                    | Kind::Other => mmc_cid(&cid),
                };
                it.id = text("cid").map(|hex| hex.to_lowercase());
                // The kernel knows the century that an eMMC's four bits do not tell.
                if disk.kind == Kind::Emmc {
                    it.made = text("date").as_deref().and_then(month);
                }
            } else {
                it.product = text("name");
                it.serial = text("serial");
            }
            it.likely_maker = it
                .manfid
                .and_then(|id| likely(disk.kind, id))
                .map(str::to_owned);
            if let (Kind::Sd, Some(csd)) = (disk.kind, text("csd").and_then(|h| unhex::<16>(&h))) {
                sd_csd(&csd, &mut it);
            }
            if let Some(ssr) = text("ssr").and_then(|h| unhex::<64>(&h)) {
                it.speed = sd_speed(&ssr);
            }
            it
        }
        Kind::Nvme | Kind::Scsi | Kind::Virtual | Kind::Memory | Kind::Other => {
            let product = text("model");
            let serial = text("serial").or_else(|| {
                let own = tree.text(disk.dir.join("serial"));
                own.map(|s| one_line(&s))
            });
            Identity {
                id: serial
                    .as_ref()
                    .map(|s| format!("{} {s}", product.as_deref().unwrap_or_default()))
                    .map(|id| id.trim().to_owned()),
                product,
                serial,
                revision: text("firmware_rev").or_else(|| text("rev")),
                ..Identity::default()
            }
        }
    }
}

/// The bits `high..=low` of a register, numbered as its specification does: 127 (or 511) first.
fn bits(register: &[u8], high: usize, low: usize) -> u64 {
    let mut value = 0;
    for bit in (low..=high).rev() {
        let from_top = register.len() * 8 - 1 - bit;
        let byte = register.get(from_top / 8).copied().unwrap_or(0);
        value = value << 1 | u64::from(byte >> (7 - from_top % 8) & 1);
    }
    value
}

/// SD Physical Layer Specification, 5.2.
pub fn sd_cid(cid: &[u8; 16]) -> Identity {
    let month = bits(cid, 11, 8);
    let year = 2000 + bits(cid, 19, 12);
    Identity {
        manfid: Some(cid[0]),
        oem: Some(printable(&cid[1..3])).filter(|t| !t.is_empty()),
        product: Some(printable(&cid[3..8])).filter(|t| !t.is_empty()),
        revision: Some(format!("{}.{}", cid[8] >> 4, cid[8] & 0xf)),
        serial: Some(format!("0x{:08x}", bits(cid, 55, 24))),
        made: (1..=12)
            .contains(&month)
            .then(|| format!("{year}-{month:02}")),
        ..Identity::default()
    }
}

/// JEDEC JESD84, 7.2; the date is the kernel's to tell.
pub fn mmc_cid(cid: &[u8; 16]) -> Identity {
    Identity {
        manfid: Some(cid[0]),
        product: Some(printable(&cid[3..9])).filter(|t| !t.is_empty()),
        revision: Some(format!("{}.{}", cid[9] >> 4, cid[9] & 0xf)),
        serial: Some(format!("0x{:08x}", bits(cid, 47, 16))),
        ..Identity::default()
    }
}

/// SD Physical Layer Specification, 5.3: capacity, its class, write protection.
pub fn sd_csd(csd: &[u8; 16], it: &mut Identity) {
    const KIB: u64 = 1024;
    let capacity = match bits(csd, 127, 126) {
        0 => {
            let length = bits(csd, 83, 80);
            let blocks = (bits(csd, 73, 62) + 1) << (bits(csd, 49, 47) + 2);
            (9..=11).contains(&length).then(|| blocks << length)
        }
        1 => Some((bits(csd, 69, 48) + 1) * 512 * KIB),
        2 => Some((bits(csd, 75, 48) + 1) * 512 * KIB),
        _ => None,
    };
    it.capacity = capacity;
    it.capacity_class = capacity.map(|bytes| {
        match (bits(csd, 127, 126), bytes >> 30) {
            (0, _) => "SDSC",
            (1, 0..=32) => "SDHC",
            (1, _) => "SDXC",
            _ => "SDUC",
        }
        .to_owned()
    });
    it.write_protected = if capacity.is_none() {
        None
    } else if bits(csd, 13, 13) == 1 {
        Some("permanently".to_owned())
    } else {
        (bits(csd, 12, 12) == 1).then(|| "until told otherwise".to_owned())
    };
}

/// SD Physical Layer Specification, 4.10.2; `None` where the card (as QEMU's) declares nothing.
pub fn sd_speed(ssr: &[u8; 64]) -> Option<String> {
    let mut classes = Vec::new();
    match bits(ssr, 447, 440) {
        code @ 1..=3 => classes.push(format!("C{}", code * 2)),
        4 => classes.push("C10".to_owned()),
        _ => {}
    }
    if let grade @ (1 | 3) = bits(ssr, 399, 396) {
        classes.push(format!("U{grade}"));
    }
    if let class @ (6 | 10 | 30 | 60 | 90) = bits(ssr, 391, 384) {
        classes.push(format!("V{class}"));
    }
    if let class @ (1 | 2) = bits(ssr, 339, 336) {
        classes.push(format!("A{class}"));
    }
    (!classes.is_empty()).then(|| classes.join(" "))
}

/// `07/2023` is `2023-07`.
fn month(date: &str) -> Option<String> {
    let (month, year) = date.split_once('/')?;
    let (month, year): (u8, u16) = (month.parse().ok()?, year.parse().ok()?);
    ((1..=12).contains(&month) && year >= 1997).then(|| format!("{year}-{month:02}"))
}

fn one_line(text: &str) -> String {
    let line: String = text.chars().take(128).collect();
    printable(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandisk_cards_registers_are_decoded() {
        // As a 32 GB card has them.
        let cid = unhex("035344534333324780b1a2c3d4013700").expect("cid");
        let mut it = sd_cid(&cid);
        assert_eq!(it.manfid, Some(3));
        assert_eq!(it.oem.as_deref(), Some("SD"));
        assert_eq!(it.product.as_deref(), Some("SC32G"));
        assert_eq!(it.revision.as_deref(), Some("8.0"));
        assert_eq!(it.serial.as_deref(), Some("0xb1a2c3d4"));
        assert_eq!(it.made.as_deref(), Some("2019-07"));
        let csd = unhex("400e00325b590000edc87f800a404000").expect("csd");
        sd_csd(&csd, &mut it);
        assert_eq!(it.capacity, Some((0xedc8 + 1) * 512 * 1024));
        assert_eq!(it.capacity_class.as_deref(), Some("SDHC"));
        assert_eq!(it.write_protected, None);
    }

    #[test]
    fn a_card_that_declares_itself_read_only_is_told() {
        let mut csd: [u8; 16] = unhex("400e00325b590000edc87f800a404000").expect("csd");
        csd[14] |= 0x20;
        let mut it = Identity::default();
        sd_csd(&csd, &mut it);
        assert_eq!(it.write_protected.as_deref(), Some("permanently"));
    }

    #[test]
    fn an_old_small_cards_capacity_comes_from_three_fields() {
        // C_SIZE 0xeff = 3839, C_SIZE_MULT 7, READ_BL_LEN 10: 2 GB.
        let mut csd = [0u8; 16];
        csd[5] = 0x0a;
        csd[6] = 0x03;
        csd[7] = 0xbf;
        csd[8] = 0xc0;
        csd[9] = 0x03;
        csd[10] = 0x80;
        let mut it = Identity::default();
        sd_csd(&csd, &mut it);
        assert_eq!(it.capacity, Some(3840 * 512 * 1024));
        assert_eq!(it.capacity_class.as_deref(), Some("SDSC"));
    }

    #[test]
    fn speed_classes_come_from_the_status_register_and_zeros_declare_none() {
        let mut ssr = [0u8; 64];
        assert_eq!(sd_speed(&ssr), None, "QEMU's card");
        ssr[8] = 4;
        ssr[14] = 0x30;
        ssr[15] = 30;
        ssr[21] = 1;
        assert_eq!(sd_speed(&ssr).as_deref(), Some("C10 U3 V30 A1"));
    }

    proptest::proptest! {
        #[test]
        fn any_register_is_read_without_a_panic(
            cid: [u8; 16], csd: [u8; 16], ssr in proptest::collection::vec(0u8.., 64)
        ) {
            let mut it = sd_cid(&cid);
            sd_csd(&csd, &mut it);
            if let Some(made) = &it.made {
                assert!(month_is_one(made), "{made}");
            }
            let product = mmc_cid(&cid).product.unwrap_or_default();
            assert!(product.bytes().all(|b| (b' '..=b'~').contains(&b)));
            sd_speed(&ssr.try_into().expect("64"));
        }
    }

    fn month_is_one(made: &str) -> bool {
        let month: u8 = made[5..].parse().expect("a number");
        (1..=12).contains(&month)
    }
}
