//! The health of the medium under the data: SD card, eMMC, NVMe.
//!
//! It promises a verdict with its grounds: each observation, where it was read, what it bears and
//! whom it accuses; the supply and the host are ruled out first. It must never say healthy for want
//! of data: most cards tell nothing, and then the verdict is `unknown`. It writes nothing, and reads
//! from the card only what an operator asked for.

mod blockstat;
pub mod cmd56;
mod device;
mod emmc;
mod err_stats;
mod evidence;
mod ext4;
mod forecast;
mod history;
mod identity;
mod kmsg;
mod latency;
mod makers;
mod nvme;
mod nvme_ask;
mod rail;
mod tree;
mod verdict;
mod wear;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use blockstat::{BlockStat, stat};
pub use cmd56::{Layout, Probe, RawPage};
pub use device::{Disk, Kind, NoDisk, disk_under};
pub use emmc::decode as decode_emmc;
pub use err_stats::decode as decode_err_stats;
pub use evidence::{Evidence, Says, Suspect};
pub use forecast::{Forecast, in_words};
pub use history::{History, News, Seen};
pub use identity::{Identity, mmc_cid, sd_cid, sd_csd, sd_speed};
pub use kmsg::{KernelLog, Sign};
pub use latency::Latency;
pub use nvme::{PAGE as NVME_PAGE, SmartLog};
pub use rail::{Rail, rail};
pub use tree::Tree;
pub use verdict::{Confidence, Judgement, Suspicion, Verdict, judge};
pub use wear::Wear;

/// What a look needs beside the kernel's files.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The directory whose medium is meant, absolute inside the tree.
    pub dir: &'a Path,
    /// How far the card may be asked for its maker's page.
    pub probe: Probe,
    /// What commits take, where an agent knows.
    pub latency: Option<Latency>,
    /// Bytes written to the whole disk for each acknowledged reading, where an agent knows.
    pub amplification: Option<f64>,
    /// What is remembered.
    pub history: &'a History,
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

/// What `holdup media --json` prints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `mmcblk0`; `null`: no single disk holds the directory.
    pub device: Option<String>,
    /// What sort of disk.
    pub kind: Option<Kind>,
    /// From the directory down to the disk.
    pub layers: Vec<String>,
    /// Bytes it holds.
    pub bytes: Option<u64>,
    /// Who it says it is.
    pub identity: Identity,
    /// The verdict and its grounds.
    #[serde(flatten)]
    pub judgement: Judgement,
    /// Every observation.
    pub evidence: Vec<Evidence>,
    /// Its own count of wear.
    pub wear: Option<Wear>,
    /// When to replace it.
    pub forecast: Option<Forecast>,
    /// Bytes written to the disk for each acknowledged reading.
    pub bytes_per_reading: Option<f64>,
    /// The medium that was in use before, where it was another.
    pub swapped_from: Option<String>,
    /// The vendor's page as it came.
    pub raw: Option<RawPage>,
}

impl Report {
    /// What tells the medium from every other; `None`: nothing does.
    pub fn id(&self) -> Option<&str> {
        self.identity.id.as_deref()
    }

    /// As people know it: `SD card SC32G, likely SanDisk, serial 0x1234`.
    pub fn name(&self) -> String {
        let mut name = self.kind.map_or("disk", Kind::name).to_owned();
        let it = &self.identity;
        if let Some(product) = &it.product {
            name.push_str(&format!(" \"{product}\""));
        }
        if let Some(serial) = &it.serial {
            name.push_str(&format!(", serial {serial}"));
        }
        name
    }
}

/// Looks at the medium under a directory.
pub fn examine(tree: &Tree, asked: Asked<'_>) -> Report {
    let disk = match disk_under(tree, asked.dir) {
        Ok(disk) => disk,
        Err(e) => {
            let mut evidence = vec![Evidence::unknown("disk", e.why.clone())];
            return Report {
                judgement: Judgement {
                    why: format!("which disk holds the data is not known: {}", e.why),
                    ..judge(&mut evidence)
                },
                layers: e.layers,
                evidence,
                ..Report::default()
            };
        }
    };
    let identity = identity::identity(tree, &disk);
    let known = identity.id.as_deref().and_then(|id| asked.history.of(id));
    let mut evidence = Vec::new();
    let mut wear = None;
    no_counter(&disk, &mut evidence);
    let (found, worn) = emmc::collect(tree, &disk);
    evidence.extend(found);
    wear = wear.or(worn);
    let (found, worn) = nvme_ask::collect(tree, &disk);
    evidence.extend(found);
    wear = wear.or(worn);
    let vendor = cmd56::collect(tree, &disk, &identity, asked.probe);
    evidence.extend(vendor.evidence);
    wear = wear.or(vendor.worn);
    if let Some(how) = &identity.write_protected {
        evidence.push(
            Evidence::card(
                "card register (CSD)",
                Says::ReplaceNow,
                format!("the card is write-protected {how}"),
            )
            .remedy("replace it: worn-out cards protect themselves like this"),
        );
    }
    evidence.extend(kmsg::collect(tree, &disk));
    evidence.extend(rail::collect(tree));
    evidence.extend(err_stats::collect(tree, &disk));
    let (found, lifetime) = ext4::collect(tree, &disk);
    evidence.extend(found);
    let (found, stat) = blockstat::collect(tree, &disk);
    evidence.extend(found);
    evidence.push(latency::evidence(asked.latency, known.and_then(|m| m.base)));
    let swapped_from = identity
        .id
        .as_deref()
        .and_then(|id| asked.history.swapped_from(id));
    if let Some(before) = &swapped_from {
        let value = format!("another medium than before, which was: {before}");
        evidence.push(
            Evidence::card("identity", Says::Note, value)
                .remedy("run `holdup power measure` again: its times are its own"),
        );
    }
    let judgement = judge(&mut evidence);
    let forecast = forecast::forecast(forecast::Known {
        bytes: disk.bytes,
        rate: stat.map(|(s, seconds)| (s.written, seconds)),
        written: lifetime.map(|kib| kib.saturating_mul(1024)),
        wear,
        wear_before: known.and_then(|m| m.wear_before(asked.now_ms)),
    });
    Report {
        // Where wear is the host's, a range would be made up.
        forecast: forecast.filter(|_| disk.kind != Kind::Virtual && disk.kind != Kind::Memory),
        device: Some(disk.name),
        kind: Some(disk.kind),
        layers: disk.layers,
        bytes: disk.bytes,
        identity,
        judgement,
        evidence,
        wear,
        bytes_per_reading: asked.amplification,
        swapped_from,
        raw: vendor.raw,
    }
}

/// Says of media without a counter of wear that they have none.
fn no_counter(disk: &Disk, evidence: &mut Vec<Evidence>) {
    let why = match disk.kind {
        Kind::Sd => "SD cards have no counter of wear that the standard knows",
        Kind::Virtual => "it is a virtual machine's disk: what wears is the host's",
        Kind::Scsi => "what it counts is asked by `smartctl -a`, not by holdup",
        Kind::Memory => "it is memory: nothing on it outlives a boot",
        Kind::Other => "what it is is not known",
        Kind::Emmc | Kind::Nvme => return,
    };
    evidence.push(Evidence::unknown("wear", why));
}

#[cfg(test)]
mod tests;
