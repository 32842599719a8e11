//! From a directory down to the disk that holds it: mount, partition, mapper, loop, disk.
//!
//! It promises to name every layer it went through, and to say "not found" where data lies on
//! several disks or on none, instead of picking one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tree::{Tree, printable};

/// Layers below one another; more is a circle.
const DEEPEST: usize = 12;
/// File systems that keep nothing, or keep it elsewhere.
const NO_DISK: [&str; 6] = ["tmpfs", "ramfs", "nfs", "nfs4", "cifs", "9p"];

/// What sort of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An SD card.
    Sd,
    /// Soldered eMMC.
    Emmc,
    /// An NVMe disk.
    Nvme,
    /// A virtual machine's disk: whatever wears is the host's.
    Virtual,
    /// USB or SATA.
    Scsi,
    /// Memory.
    Memory,
    /// Something else.
    Other,
}

impl Kind {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sd => "SD card",
            Self::Emmc => "eMMC",
            Self::Nvme => "NVMe disk",
            Self::Virtual => "virtual disk",
            Self::Scsi => "USB or SATA disk",
            Self::Memory => "memory",
            Self::Other => "disk",
        }
    }
}

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// As the kernel names it: `mmcblk0`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its folder in sysfs, inside the tree.
    pub dir: PathBuf,
    /// Its size.
    pub bytes: Option<u64>,
    /// From the directory down to the disk, in words.
    pub layers: Vec<String>,
    /// Every block device on the way, the disk last: the kernel logs by these names.
    pub devices: Vec<String>,
    /// The file system's type.
    pub fs: String,
    /// `mmc0`, or `nvme0`.
    pub host: Option<String>,
}

/// Why no single disk holds a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NoDisk {
    /// In words.
    pub why: String,
    /// The layers that were found.
    pub layers: Vec<String>,
}

struct Mount {
    dev: String,
    point: PathBuf,
    fs: String,
    source: String,
}

/// The disk under `dir`, absolute inside the tree.
///
/// # Errors
/// None holds it alone, or the kernel does not tell.
pub fn disk_under(tree: &Tree, dir: &Path) -> Result<Disk, NoDisk> {
    let mut walk = Walk {
        tree,
        layers: Vec::new(),
        devices: Vec::new(),
    };
    let found = walk.below_dir(dir, 0);
    // Who mounts and maps chooses names.
    for layer in &mut walk.layers {
        *layer = printable(layer.as_bytes());
    }
    match found {
        Ok((node, fs)) => walk.disk(&node, fs),
        Err(why) => Err(NoDisk {
            why: printable(why.as_bytes()),
            layers: walk.layers,
        }),
    }
}

struct Walk<'a> {
    tree: &'a Tree,
    layers: Vec<String>,
    devices: Vec<String>,
}

impl Walk<'_> {
    fn below_dir(&mut self, dir: &Path, depth: usize) -> Result<(PathBuf, String), String> {
        if depth > DEEPEST {
            return Err("its layers go round in a circle".to_owned());
        }
        // On a live machine the kernel's own path; a tree may not hold the directory itself.
        let dir = self.tree.resolve(dir).unwrap_or_else(|| dir.to_owned());
        let table = self
            .tree
            .read("/proc/self/mountinfo")
            .map_err(|e| format!("cannot read /proc/self/mountinfo: {e}"))?;
        let mount = table
            .lines()
            .filter_map(parse_mount)
            .filter(|m| dir.starts_with(&m.point))
            // Of two on one point the later covers the earlier.
            .max_by_key(|m| m.point.components().count())
            .ok_or_else(|| format!("no mount holds {}", dir.display()))?;
        let Mount {
            dev,
            point,
            fs,
            source,
        } = mount;
        self.layers.push(format!("{fs} on {}", point.display()));
        let shown = point.display();
        if NO_DISK.contains(&fs.as_str()) {
            return Err(format!(
                "{shown} is {fs}: it lies on no disk of this machine"
            ));
        }
        if fs == "overlay" {
            return Err(format!(
                "{shown} is an overlay: where a file lies depends on the file"
            ));
        }
        let by_number = self.tree.resolve(format!("/sys/dev/block/{dev}"));
        let by_name = || {
            let name = source.strip_prefix("/dev/")?;
            let name = name
                .strip_prefix("mapper/")
                .map_or_else(|| Some(name.to_owned()), |mapped| self.mapper(mapped))?;
            self.tree.resolve(format!("/sys/class/block/{name}"))
        };
        let node = by_number.or_else(by_name).ok_or_else(|| {
            format!("the kernel does not tell which device ({dev}, {source}) {shown} lies on")
        })?;
        Ok((self.down(node, depth)?, fs))
    }

    /// The device-mapper's number for a name.
    fn mapper(&self, name: &str) -> Option<String> {
        let names = self.tree.names("/sys/class/block");
        names.into_iter().find(|dm| {
            let said = self.tree.text(format!("/sys/class/block/{dm}/dm/name"));
            said.is_some_and(|n| n == name)
        })
    }

    /// From a block device's folder to the whole disk's.
    fn down(&mut self, node: PathBuf, depth: usize) -> Result<PathBuf, String> {
        if depth > DEEPEST {
            return Err("its layers go round in a circle".to_owned());
        }
        let name = name_of(&node);
        if self.devices.contains(&name) {
            return Err("its layers go round in a circle".to_owned());
        }
        self.devices.push(name.clone());
        if self.tree.has(node.join("partition")) {
            self.layers.push(format!("partition {name}"));
            let disk = node.parent().map(Path::to_owned);
            let disk = disk.ok_or_else(|| format!("{name} is a partition of nothing"))?;
            return self.down(disk, depth + 1);
        }
        if self.tree.has(node.join("loop")) {
            let file = self.tree.text(node.join("loop/backing_file"));
            let file = file.ok_or_else(|| format!("{name} is a loop device without a file"))?;
            self.layers.push(format!("{name} on the file {file}"));
            return Ok(self.below_dir(Path::new(&file), depth + 1)?.0);
        }
        let slaves = self.tree.names(node.join("slaves"));
        match &slaves[..] {
            [] => Ok(node),
            [one] => {
                let mapped = self.tree.text(node.join("dm/name"));
                let mapped = mapped.map_or_else(String::new, |n| format!(" ({n})"));
                self.layers.push(format!("{name}{mapped}"));
                let below = self.tree.resolve(node.join("slaves").join(one));
                let below = below.ok_or_else(|| format!("{one} under {name} cannot be found"))?;
                self.down(below, depth + 1)
            }
            several => Err(format!(
                "{name} spans {} devices ({}): look at each by itself",
                several.len(),
                several.join(", ")
            )),
        }
    }

    fn disk(self, node: &Path, fs: String) -> Result<Disk, NoDisk> {
        let tree = self.tree;
        let name = name_of(node);
        let kind = kind_of(tree, node, &name);
        let mut layers = self.layers;
        layers.push(format!("{} {name}", kind.name()));
        let device = tree.resolve(node.join("device"));
        let host = match kind {
            // .../mmc_host/mmc0/mmc0:0001
            Kind::Sd | Kind::Emmc => device.as_deref().and_then(|d| {
                let address = name_of(d);
                Some(address.split_once(':')?.0.to_owned())
            }),
            Kind::Nvme => device.as_deref().and_then(|d| controller(tree, d)),
            Kind::Virtual | Kind::Scsi | Kind::Memory | Kind::Other => None,
        };
        Ok(Disk {
            bytes: tree
                .number(node.join("size"))
                .and_then(|sectors| sectors.checked_mul(512)),
            dir: node.to_owned(),
            name,
            kind,
            layers,
            devices: self.devices,
            fs,
            host,
        })
    }
}

/// The controller of an NVMe disk. With multipath (the kernel's default) `device` is the subsystem,
/// and its controllers, most often one, are links in it.
fn controller(tree: &Tree, device: &Path) -> Option<String> {
    let name = name_of(device);
    if !name.starts_with("nvme-subsys") {
        return Some(name);
    }
    let is_one = |n: &String| {
        let number = n.strip_prefix("nvme").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    tree.names(device).into_iter().find(is_one)
}

fn kind_of(tree: &Tree, node: &Path, name: &str) -> Kind {
    let starts = |prefix| name.starts_with(prefix);
    if starts("mmcblk") {
        return match tree.text(node.join("device/type")).as_deref() {
            Some("SD") => Kind::Sd,
            Some("MMC") => Kind::Emmc,
            Some(_) | None => Kind::Other,
        };
    }
    if starts("nvme") {
        Kind::Nvme
    } else if starts("vd") || starts("xvd") || starts("nbd") {
        Kind::Virtual
    } else if starts("sd") {
        Kind::Scsi
    } else if starts("zram") || starts("ram") {
        Kind::Memory
    } else {
        Kind::Other
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_mount(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ');
    let dev = head.nth(2)?.to_owned();
    let point = unescape(head.nth(1)?);
    let mut tail = tail.split(' ');
    Some(Mount {
        dev,
        point: PathBuf::from(point),
        fs: tail.next()?.to_owned(),
        source: unescape(tail.next().unwrap_or_default()),
    })
}

/// The kernel writes blanks and the like as `\040`.
fn unescape(field: &str) -> String {
    let mut plain = field.to_owned();
    for (code, c) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        plain = plain.replace(code, c);
    }
    plain
}
