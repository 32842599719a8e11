//! The layouts of vendors' pages, and which cards are known to speak them.
//!
//! Offsets as sdmon's authors found them in data sheets and on cards.

use super::PAGE;

/// Whose page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// SanDisk and Western Digital, industrial cards and WD Purple.
    SanDisk,
    /// Longsys, and brands that buy from it.
    Longsys,
    /// Innodisk.
    Innodisk,
    /// ADATA industrial.
    Adata,
    /// Transcend industrial.
    Transcend,
    /// Micron industrial.
    Micron,
    /// Swissbit.
    Swissbit,
    /// Phison's page as Kingston industrial cards give it, after a write.
    Kingston,
    /// The same from Apacer.
    Apacer,
}

/// What a page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Percent used, up to 100.
    pub used: u8,
    /// Of what: its life, or only its spare blocks, which tell of failures but not of wear.
    pub spares: bool,
    /// What else it says, in words.
    pub more: Vec<String>,
}

/// Manufacturer id, the beginning of the product's name, layout. A name of its own means that such
/// a card was seen to answer; an empty one only that this maker has such cards: then an operator
/// must ask. Innodisk's id is not known for certain: its layout must be named.
const LISTED: &[(u8, &str, Layout)] = &[
    (0x03, "", Layout::SanDisk),
    (0xad, "", Layout::Longsys),
    (0x1d, "IUDD", Layout::Adata),
    (0x1d, "", Layout::Adata),
    (0x1c, "", Layout::Transcend),
    (0x74, "", Layout::Transcend),
    (0xfe, "", Layout::Micron),
    (0x5d, "", Layout::Swissbit),
    (0x9f, "SDCIT", Layout::Kingston),
    (0x41, "SDCIT", Layout::Kingston),
    (0x27, "SDCIT", Layout::Kingston),
    (0x41, "", Layout::Kingston),
    (0x27, "", Layout::Apacer),
];

/// The layout for a card; is it listed by its name?
pub(super) fn listed(manfid: u8, name: &str) -> Option<(Layout, bool)> {
    let of_maker = || LISTED.iter().filter(|(id, _, _)| *id == manfid);
    let named = of_maker().find(|(_, known, _)| !known.is_empty() && name.starts_with(known));
    let found = named.or_else(|| of_maker().find(|(_, known, _)| known.is_empty()))?;
    Some((found.2, named.is_some()))
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::SanDisk,
        Self::Longsys,
        Self::Innodisk,
        Self::Adata,
        Self::Transcend,
        Self::Micron,
        Self::Swissbit,
        Self::Kingston,
        Self::Apacer,
    ];

    /// By the name that [`Self::name`] gives, or its beginning; in any case.
    pub fn named(text: &str) -> Option<Self> {
        let wanted = text.to_lowercase();
        let is = |l: &&Self| !wanted.is_empty() && l.name().to_lowercase().starts_with(&wanted);
        Self::ALL.iter().find(is).copied()
    }

    /// The maker.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SanDisk => "SanDisk/WD",
            Self::Longsys => "Longsys",
            Self::Innodisk => "Innodisk",
            Self::Adata => "ADATA",
            Self::Transcend => "Transcend",
            Self::Micron => "Micron",
            Self::Swissbit => "Swissbit",
            Self::Kingston => "Kingston",
            Self::Apacer => "Apacer",
        }
    }

    /// The argument of the command that reads.
    pub const fn argument(self) -> u32 {
        match self {
            Self::SanDisk | Self::Longsys => 0x0000_0001,
            Self::Innodisk => 0x1100_05fd,
            Self::Adata => 0x1100_05f1,
            Self::Transcend => 0x1100_05f9,
            Self::Micron => 0x1100_05fb,
            Self::Swissbit => 0x5342_0001,
            Self::Kingston | Self::Apacer => 0x0000_0021,
        }
    }

    /// Must the card be written to (CMD56 with argument 0x10) before it answers?
    pub const fn writes_first(self) -> bool {
        matches!(self, Self::Kingston | Self::Apacer)
    }

    /// What the page begins with; `None`: nothing fixed.
    const fn signatures(self) -> Option<&'static [[u8; 2]]> {
        match self {
            Self::SanDisk => Some(&[[0x44, 0x53], [0x44, 0x57]]),
            Self::Longsys => Some(&[[0x70, 0x58]]),
            Self::Innodisk => Some(&[[0x4c, 0x58]]),
            Self::Adata => Some(&[[0x09, 0x41]]),
            Self::Transcend => Some(&[[0x54, 0x72]]),
            Self::Micron => Some(&[[0x4d, 0x45]]),
            Self::Swissbit => Some(&[[0x53, 0x77]]),
            Self::Kingston | Self::Apacer => None,
        }
    }
}

/// Reads a page.
///
/// # Errors
/// It lacks the signature, or says what cannot be; says which.
pub fn decode(layout: Layout, page: &[u8; PAGE]) -> Result<Health, String> {
    if let Some(known) = layout.signatures()
        && !known.iter().any(|s| page.starts_with(s))
    {
        return Err(format!(
            "it begins with {:02x} {:02x}, which is not its maker's signature",
            page[0], page[1]
        ));
    }
    let be = |at: usize, len: usize| {
        let bytes = &page[at..at + len];
        bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b))
    };
    let le = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&page[at..at + 4]);
        u64::from(u32::from_le_bytes(bytes))
    };
    match layout {
        Layout::SanDisk => Ok(Health {
            used: percent(be(8, 1))?,
            spares: false,
            more: vec![format!("switched on {} times", be(24, 3))],
        }),
        Layout::Longsys => Ok(Health {
            used: used(le(44))?,
            spares: false,
            more: vec![format!("{} blocks went bad in use", le(20))],
        }),
        Layout::Innodisk => {
            // It tells no percentage but how many spare blocks are used up.
            let (spare, bad) = (be(24, 1), be(26, 1));
            let erased = erased(be(32, 4), be(44, 4), be(36, 4))?;
            if bad > spare {
                return Err(format!("{bad} bad blocks of {spare} spare ones"));
            }
            if spare == 0 {
                return Err("it has no spare blocks, so their use is no measure".to_owned());
            }
            Ok(Health {
                used: percent(bad * 100 / spare)?,
                spares: true,
                more: vec![
                    format!("{bad} of {spare} spare blocks are in use"),
                    format!("{} blocks bad from the factory", be(25, 1)),
                    erased,
                ],
            })
        }
        Layout::Adata => Ok(Health {
            used: used(be(70, 1))?,
            spares: false,
            more: vec![
                erased(be(32, 4), be(44, 4), be(36, 4))?,
                format!("{} blocks went bad in use", be(26, 1)),
                format!("switched on {} times", be(76, 4)),
            ],
        }),
        Layout::Transcend => Ok(Health {
            used: used(be(70, 1))?,
            spares: false,
            more: vec![format!("{} blocks went bad in use", be(26, 1))],
        }),
        Layout::Micron => Ok(Health {
            used: percent(be(7, 1))?,
            spares: false,
            more: Vec::new(),
        }),
        Layout::Swissbit => Ok(Health {
            used: used(be(80, 1))?,
            spares: false,
            more: vec![
                erased(0, be(60, 4), be(52, 4))?,
                format!("switched on {} times", be(116, 4)),
            ],
        }),
        Layout::Kingston | Layout::Apacer => {
            // Without a signature everything that can be checked is.
            let (good, left) = (be(64, 2), be(96, 2));
            for (what, hundredths) in [("good blocks", good), ("life left", left)] {
                if hundredths > 10_000 {
                    let percent = hundredths as f64 / 100.0;
                    return Err(format!("{what} of {percent:.2} %"));
                }
            }
            if good == 0 || page[..9].iter().all(|b| *b == 0) {
                return Err("it names no flash chip, or no good block".to_owned());
            }
            let count = |low: usize, high: usize| be(high, 2) << 16 | be(low, 2);
            let erased = erased(count(100, 106), count(98, 104), count(102, 108))?;
            let left = u8::try_from(left / 100).unwrap_or(0);
            Ok(Health {
                used: 100 - left,
                spares: false,
                more: vec![
                    erased,
                    format!("switched on {} times", be(112, 4)),
                    format!("{} unannounced losses of power", be(128, 2)),
                ],
            })
        }
    }
}

/// A percentage used.
fn percent(value: u64) -> Result<u8, String> {
    u8::try_from(value)
        .ok()
        .filter(|p| *p <= 100)
        .ok_or_else(|| format!("{value} % is no percentage"))
}

/// A percentage left, as used.
fn used(left: u64) -> Result<u8, String> {
    Ok(100 - percent(left)?)
}

fn erased(least: u64, average: u64, most: u64) -> Result<String, String> {
    if least > average || average > most {
        return Err(format!(
            "blocks erased {least} (least), {average} (average), {most} (most) times: not in order"
        ));
    }
    Ok(format!(
        "blocks erased {average} times on average, {most} at most"
    ))
}
