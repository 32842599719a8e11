//! The kernel's files below a root: `/` on a gateway, a copied tree in tests and on a desk.
//!
//! It promises never to wait for the other end of a FIFO and never to read more than asked for.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// No value of sysfs is longer.
const LONGEST: u64 = 64 << 10;
/// No folder of sysfs that is listed here holds more.
const MOST_NAMES: usize = 4096;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            // Links are resolved against it.
            root: root.canonicalize().unwrap_or_else(|_| root.to_owned()),
        }
    }

    /// Is it this machine's own? Only there a device can be asked.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where `path`, absolute inside the tree, lies outside of it.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where `path`, which lies outside, stands inside the tree.
    pub fn inside(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path.strip_prefix(&self.root).unwrap_or(path))
    }

    /// The text at `path`, trimmed.
    ///
    /// # Errors
    /// It is missing, not a regular file, not readable, or longer than 64 KiB.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let text = String::from_utf8_lossy(&bytes(&self.at(path), LONGEST)?).into_owned();
        Ok(text.trim_matches(['\0', '\n', ' ', '\t']).to_owned())
    }

    /// The bytes at `path`, as they are.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn bytes(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        bytes(&self.at(path), LONGEST)
    }

    /// The text at `path`; `None` where it cannot be read or is empty.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        self.read(path).ok().filter(|t| !t.is_empty())
    }

    /// A decimal number, or a hexadecimal one after `0x`.
    pub fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        number(&self.text(path)?)
    }

    /// The names in a folder, sorted; none where there is no folder.
    pub fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at(path)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .take(MOST_NAMES)
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    /// Where the links at `path` lead, inside the tree.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        Some(self.inside(&self.at(path).canonicalize().ok()?))
    }

    /// Is there anything at `path`?
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.at(path).exists()
    }
}

/// A decimal number, or a hexadecimal one after `0x`.
pub(super) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.strip_prefix("0x").map_or_else(
        || text.parse().ok(),
        |hex| u64::from_str_radix(hex, 16).ok(),
    )
}

/// What `hex` stands for; `None` unless it is `N` bytes.
pub(super) fn unhex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let hex = hex.trim().as_bytes();
    if hex.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// Text that a device gave: only what is printable and no more than its field.
pub(super) fn printable(bytes: &[u8]) -> String {
    let shown = |b: &u8| match b {
        b' '..=b'~' => char::from(*b),
        _ => '?',
    };
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text: String = bytes[..end].iter().map(shown).collect();
    text.trim().to_owned()
}

fn bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}
