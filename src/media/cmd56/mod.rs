//! Vendors' health pages on SD cards, asked for by CMD56.
//!
//! There is no standard: cards answer with noise, with zeros, with a sector of data, or vanish
//! from the bus. So it promises: no card is asked that is not allow-listed by manufacturer id and
//! name (or named by the operator); no page is believed without its maker's signature, percentages
//! up to 100 and counts in their order; a page of one byte, or equal to sector 0, is no answer; the
//! raw page is kept. It must never write to a card unless an operator asked for that.

mod ask;
mod layouts;

use serde::{Deserialize, Serialize};

use super::device::{Disk, Kind};
use super::evidence::{Evidence, Says};
use super::identity::Identity;
use super::tree::Tree;
use super::wear::Wear;

pub use layouts::{Health, Layout, decode};

/// The reply's length.
pub const PAGE: usize = 512;
const SOURCE: &str = "vendor page (CMD56)";

/// A reply as it came, so that nobody has to ask the card again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawPage {
    /// The layout that was asked for.
    pub layout: String,
    /// The command's argument.
    pub argument: String,
    /// 512 bytes in hexadecimal.
    pub hex: String,
}

/// How far a card may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Not at all.
    Never,
    /// Cards on the list, by reading alone.
    Listed,
    /// The operator asked: also cards of a listed maker whose name is not known, and by writing
    /// first where the maker wants that; any card for a layout that the operator named.
    Asked(Option<Layout>),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Found {
    /// What it bears.
    pub evidence: Vec<Evidence>,
    /// The share of life used.
    pub worn: Option<Wear>,
    /// The reply, believed or not.
    pub raw: Option<RawPage>,
}

impl Found {
    fn unknown(why: impl Into<String>) -> Self {
        Self {
            evidence: vec![Evidence::unknown(SOURCE, why)],
            ..Self::default()
        }
    }
}

/// Which layout a card may be asked for; else why it is not asked.
///
/// # Errors
/// The card is on no list, or only an operator may have it asked.
pub fn permitted(identity: &Identity, probe: Probe) -> Result<Layout, String> {
    let ask = "`holdup media --probe-vendor` asks it all the same: only while a second of stalled \
               writes, or a card that must be unplugged, does no harm";
    match probe {
        Probe::Never => return Err("not asked".to_owned()),
        Probe::Asked(Some(layout)) => return Ok(layout),
        Probe::Asked(None) | Probe::Listed => {}
    }
    let Some(manfid) = identity.manfid else {
        return Err("the card does not say who made it, so it is not asked".to_owned());
    };
    let name = identity.product.as_deref().unwrap_or_default();
    let Some((layout, is_named)) = layouts::listed(manfid, name) else {
        return Err(format!(
            "no health page is known for cards of maker 0x{manfid:02x}, so it is not asked"
        ));
    };
    if probe == Probe::Asked(None) {
        return Ok(layout);
    }
    if !is_named {
        return Err(format!(
            "\"{name}\" of maker 0x{manfid:02x} is not on the list of cards that answer; {ask}"
        ));
    }
    if layout.writes_first() {
        return Err(format!(
            "{} cards must be written to before they answer; {ask}",
            layout.name()
        ));
    }
    Ok(layout)
}

/// Asks the card, where that is permitted.
pub(super) fn collect(tree: &Tree, disk: &Disk, identity: &Identity, probe: Probe) -> Found {
    if disk.kind != Kind::Sd || probe == Probe::Never {
        return Found::default();
    }
    let layout = match permitted(identity, probe) {
        Ok(layout) => layout,
        Err(why) => return Found::unknown(why),
    };
    if !tree.is_live() {
        return Found::unknown("the card cannot be asked in a copied tree");
    }
    let (page, sector) = match ask::ask(tree, disk, layout) {
        Ok(answer) => answer,
        Err(why) => return Found::unknown(why),
    };
    let mut found = judge(layout, &page, Some(&sector));
    if tree.text(disk.dir.join("device/cid")).as_ref() != identity.id.as_ref() {
        found.evidence.push(
            Evidence::card(
                SOURCE,
                Says::Watch,
                "after it was asked the card is no longer there",
            )
            .remedy("restart the gateway, do not ask this card again"),
        );
    }
    found
}

/// What a page bears that a card of `layout` gave; `sector`: its first 512 bytes of data.
pub fn judge(layout: Layout, page: &[u8; PAGE], sector: Option<&[u8; PAGE]>) -> Found {
    let raw = Some(RawPage {
        layout: layout.name().to_owned(),
        argument: format!("0x{:08x}", layout.argument()),
        hex: page.iter().map(|b| format!("{b:02x}")).collect(),
    });
    let decoded = if page.iter().all(|b| *b == page[0]) {
        Err(format!("all its bytes are 0x{:02x}: no answer", page[0]))
    } else if sector == Some(page) {
        Err("it is the card's first sector: no answer".to_owned())
    } else {
        decode(layout, page)
    };
    match decoded {
        Ok(health) => Found {
            evidence: health.evidence(layout),
            worn: (!health.spares).then(|| Wear::percent(health.used)),
            raw,
        },
        Err(why) => Found {
            raw,
            ..Found::unknown(format!("the {} page is not believed: {why}", layout.name()))
        },
    }
}

impl Health {
    fn evidence(&self, layout: Layout) -> Vec<Evidence> {
        let source = format!("{SOURCE}, {}", layout.name());
        let what = if self.spares {
            "its spare blocks"
        } else {
            "its life"
        };
        let used = format!("{} % of {what} is used", self.used);
        let mut out = vec![match self.used {
            0..=79 if self.spares => Evidence::card(&source, Says::Note, used),
            0..=79 => Evidence::card(&source, Says::Good, used),
            80..=89 => {
                Evidence::card(&source, Says::Watch, used).remedy("have a replacement at hand")
            }
            90..=99 => Evidence::card(&source, Says::ReplaceSoon, used)
                .remedy("plan its replacement; take a backup now"),
            _ => Evidence::card(&source, Says::ReplaceNow, used)
                .remedy("replace it; take a backup now"),
        }];
        if !self.more.is_empty() {
            out.push(Evidence::card(&source, Says::Note, self.more.join(", ")));
        }
        out
    }
}

#[cfg(test)]
mod tests;
