//! The blocks of a tar stream: one header after the other, with GNU's and POSIX's long names.
//!
//! Our own, since a library's reader takes as much memory as a long name's header asks for.

use std::io::{self, Read};

use tar::{EntryType, Header};

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;
/// Bytes of a name, or of the extended header before an entry, that are read.
const LONGEST: u64 = 64 << 10;
/// Extended headers before one entry.
const MOST_EXTENDED: u32 = 8;

/// What an entry's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: EntryType,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
}

/// What an extended header says instead of the entry's own.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
}

/// The next entry's header; `None` at the end mark, behind which there are only zeros.
pub(super) fn next(from: &mut impl Read) -> io::Result<Option<Raw>> {
    let mut extended = Extended::default();
    for _ in 0..=MOST_EXTENDED {
        let Some(header) = block(from)? else {
            only_zeros(from)?;
            return Ok(None);
        };
        let kind = header.entry_type();
        let size = header.entry_size()?;
        if kind.is_gnu_longname() {
            extended.name = Some(text(from, size)?);
        } else if kind.is_gnu_longlink() {
            extended.link = Some(text(from, size)?);
        } else if kind.is_pax_local_extensions() {
            records(&body(from, size)?, &mut extended)?;
        } else if kind.is_pax_global_extensions() {
            body(from, size)?;
        } else {
            return raw(&header, extended).map(Some);
        }
    }
    Err(wrong("too many extended headers before one entry"))
}

fn raw(header: &Header, extended: Extended) -> io::Result<Raw> {
    let own = |name: Option<std::borrow::Cow<'_, [u8]>>| name.unwrap_or_default().into_owned();
    Ok(Raw {
        name: extended
            .name
            .unwrap_or_else(|| own(Some(header.path_bytes()))),
        link: extended
            .link
            .unwrap_or_else(|| own(header.link_name_bytes())),
        kind: header.entry_type(),
        size: extended.size.map_or_else(|| header.entry_size(), Ok)?,
        mode: header.mode()?,
        uid: extended.uid.map_or_else(|| header.uid(), Ok)?,
        gid: extended.gid.map_or_else(|| header.gid(), Ok)?,
    })
}

/// One header; `None`: it is all zeros.
fn block(from: &mut impl Read) -> io::Result<Option<Header>> {
    let mut header = Header::new_old();
    from.read_exact(header.as_mut_bytes()).map_err(|e| {
        if e.kind() == io::ErrorKind::UnexpectedEof {
            wrong("it ends without its end mark")
        } else {
            e
        }
    })?;
    let bytes = header.as_bytes();
    if bytes.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(at, b)| {
            if (148..156).contains(&at) {
                u32::from(b' ')
            } else {
                u32::from(*b)
            }
        })
        .sum();
    if header.cksum()? != sum {
        return Err(wrong("a header's checksum is wrong"));
    }
    Ok(Some(header))
}

fn only_zeros(from: &mut impl Read) -> io::Result<()> {
    let mut rest = [0; 8192];
    loop {
        match from.read(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(n) if rest[..n].iter().all(|b| *b == 0) => {}
            Ok(_) => return Err(wrong("there is something behind its end mark")),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The bytes to be passed over behind `size` bytes of an entry.
pub(super) fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn body(from: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    if size > LONGEST {
        return Err(wrong("an extended header is too long"));
    }
    let mut bytes = vec![0; usize::try_from(size + padding(size)).unwrap_or_default()];
    from.read_exact(&mut bytes)?;
    bytes.truncate(usize::try_from(size).unwrap_or_default());
    Ok(bytes)
}

/// A long name: up to its NUL.
fn text(from: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = body(from, size)?;
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    Ok(bytes)
}

/// `LENGTH KEY=VALUE\n`, of which a value may hold any byte.
fn records(mut bytes: &[u8], into: &mut Extended) -> io::Result<()> {
    let bad = || wrong("an extended header cannot be understood");
    let number = |value: &[u8]| {
        let text = std::str::from_utf8(value).ok();
        text.and_then(|t| t.parse().ok()).ok_or_else(bad)
    };
    while !bytes.is_empty() {
        let blank = bytes.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let length = usize::try_from(number(&bytes[..blank])?).map_err(|_| bad())?;
        let record = bytes.get(blank + 1..length).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let value = &record[equals + 1..];
        match &record[..equals] {
            b"path" => into.name = Some(value.to_owned()),
            b"linkpath" => into.link = Some(value.to_owned()),
            b"size" => into.size = Some(number(value)?),
            b"uid" => into.uid = Some(number(value)?),
            b"gid" => into.gid = Some(number(value)?),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(wrong("it has sparse files: make it without tar --sparse"));
            }
            _ => {}
        }
        bytes = &bytes[length..];
    }
    Ok(())
}

fn wrong(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
