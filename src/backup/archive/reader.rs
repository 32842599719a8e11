//! Reading an archive, entry by entry, with nothing of it believed.
//!
//! It promises that [`Reader::next`] answers `None` only after every byte was read and was what
//! the writer wrote, that a name it gives is relative, without `..`, given once and not beneath a
//! file or a link, and that memory and output stay within [`Limits`]. It must never write.

use std::collections::HashMap;
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use age::stream::StreamReader;
use age::{DecryptError, Decryptor};
use sha2::{Digest, Sha256};

use super::error::{ArchiveError, Overflow, SourceFault};
use super::tape::{self, Raw};
use crate::backup::Identity;

/// Bytes of an age header: about 400 recipients.
const HEADER: u64 = 64 << 10;
/// The largest window of the compression, as a power of two: memory. `zstd -19` uses 23.
const WINDOW: u32 = 25;
/// Bytes of a name.
const LONGEST_NAME: usize = 4096;

/// How much an archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that come out of it, headers included.
    pub bytes: u64,
    /// Entries, and directories that their names imply.
    pub entries: usize,
}

impl Limits {
    /// Of `bytes`, and as many entries as a gateway could sensibly have.
    pub fn of_bytes(bytes: u64) -> Self {
        Self {
            bytes,
            entries: 200_000,
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file; read it.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, to these bytes: anywhere. It must not be followed.
    Link(Vec<u8>),
}

/// One entry. As a [`Read`] it gives the file's bytes; what is not read is passed over.
#[derive(Debug)]
pub struct Entry<'a, R: Read> {
    /// Relative, of plain components, without a slash at its end; any bytes but NUL.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Of the file's bytes.
    pub size: u64,
    reader: &'a mut Reader<R>,
}

impl<R: Read> Entry<'_, R> {
    /// What an error met while reading it means.
    pub fn explain(&self, e: io::Error) -> ArchiveError {
        ArchiveError::reading(&self.reader.path, e)
    }
}

impl<R: Read> Read for Entry<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.reader.left;
        let most = usize::try_from(left).map_or(buf.len(), |l| l.min(buf.len()));
        if most == 0 {
            return Ok(0);
        }
        let n = self.reader.plain.read(&mut buf[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.reader.left -= n as u64;
        Ok(n)
    }
}

/// What a name stands for already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A directory above an entry.
    Implied,
    Directory,
    Other,
}

/// An archive that is being read.
pub struct Reader<R: Read> {
    path: PathBuf,
    plain: Plain<R>,
    limits: Limits,
    /// Of the entry before, unread.
    left: u64,
    padding: u64,
    /// By the first half of the name's SHA-256: names can be long and many.
    seen: HashMap<[u8; 16], Seen>,
    ended: bool,
}

impl<R: Read> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("path", &self.path)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Reader<R> {
    /// Decrypts the archive `source` with one of `identities`. `path` is for errors.
    ///
    /// # Errors
    /// It is no age file, or encrypted to other keys.
    pub fn open(
        path: &Path,
        source: R,
        identities: &[Identity],
        limits: Limits,
    ) -> Result<Self, ArchiveError> {
        let reading = |e| ArchiveError::reading(path, e);
        let sealed = headed(Source(source), path)?;
        let sealed = Decryptor::new_buffered(sealed).map_err(|e| opening(path, e))?;
        if sealed.is_scrypt() {
            return Err(ArchiveError::Foreign {
                path: path.to_owned(),
                why: "it is encrypted with a passphrase, not to a recipient".to_owned(),
            });
        }
        let keys = identities.iter().map(Identity::key);
        let packed = sealed.decrypt(keys).map_err(|e| opening(path, e))?;
        let mut plain = zstd::Decoder::new(packed).map_err(reading)?;
        plain.window_log_max(WINDOW).map_err(reading)?;
        Ok(Self {
            path: path.to_owned(),
            plain: Plain {
                from: plain,
                read: 0,
                most: limits.bytes,
            },
            limits,
            left: 0,
            padding: 0,
            seen: HashMap::new(),
            ended: false,
        })
    }

    /// The next entry, in the order of the archive; `None` at its end.
    #[expect(
        clippy::should_implement_trait,
        reason = "an entry borrows the reader, which no iterator can say"
    )]
    pub fn next(&mut self) -> Result<Option<Entry<'_, R>>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        self.pass_over()
            .map_err(|e| ArchiveError::reading(&self.path, e))?;
        let raw = tape::next(&mut self.plain).map_err(|e| ArchiveError::reading(&self.path, e))?;
        let Some(raw) = raw else {
            self.ended = true;
            return Ok(None);
        };
        let (name, kind) = self.judge(&raw)?;
        self.left = raw.size;
        self.padding = tape::padding(raw.size);
        // Nobody has a larger one; a header that says so does not decide who owns a file.
        let id = |id: u64| u32::try_from(id).unwrap_or(u32::MAX - 1);
        Ok(Some(Entry {
            name,
            kind,
            mode: raw.mode & 0o7777,
            uid: id(raw.uid),
            gid: id(raw.gid),
            size: raw.size,
            reader: self,
        }))
    }

    /// Bytes that came out so far.
    pub fn position(&self) -> u64 {
        self.plain.read
    }

    fn pass_over(&mut self) -> io::Result<()> {
        let rest = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        let passed = io::copy(&mut (&mut self.plain).take(rest), &mut io::sink())?;
        if passed < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The entry's name and kind, if it may be used.
    fn judge(&mut self, raw: &Raw) -> Result<(Vec<u8>, EntryKind), ArchiveError> {
        let shown = String::from_utf8_lossy(&raw.name).into_owned();
        let refuse = |why: &str| ArchiveError::Refused {
            path: self.path.clone(),
            why: format!("the entry {shown:?} {why}"),
        };
        let name = plain_name(&raw.name).map_err(refuse)?;
        let kind = if raw.kind.is_dir() || (raw.kind.is_file() && raw.name.ends_with(b"/")) {
            EntryKind::Directory
        } else if raw.kind.is_file() || raw.kind.is_contiguous() {
            EntryKind::File
        } else if raw.kind.is_symlink() {
            EntryKind::Link(raw.link.clone())
        } else if raw.kind.is_hard_link() {
            return Err(refuse(
                "is a hard link: make it without (tar --hard-dereference)",
            ));
        } else {
            return Err(refuse(
                "is neither a file nor a directory nor a symbolic link",
            ));
        };
        if kind != EntryKind::File && raw.size != 0 {
            return Err(refuse("has bytes although it is no file"));
        }
        if let EntryKind::Link(to) = &kind
            && (to.is_empty() || to.len() > LONGEST_NAME || to.contains(&0))
        {
            return Err(refuse("is a link to nowhere"));
        }
        let is = match kind {
            EntryKind::Directory => Seen::Directory,
            EntryKind::File | EntryKind::Link(_) => Seen::Other,
        };
        note(&mut self.seen, &name, is).map_err(refuse)?;
        if self.seen.len() > self.limits.entries {
            return Err(ArchiveError::Refused {
                path: self.path.clone(),
                why: format!("it has more than {} entries", self.limits.entries),
            });
        }
        Ok((name, kind))
    }
}

/// Notes the name; an error if it, or one above it, stands for something else already.
fn note(seen: &mut HashMap<[u8; 16], Seen>, name: &[u8], is: Seen) -> Result<(), &'static str> {
    let hash = |name: &[u8]| {
        let mut half = [0; 16];
        half.copy_from_slice(&Sha256::digest(name)[..16]);
        half
    };
    // "." alone is the place where it is unpacked.
    if name.is_empty() {
        return Ok(());
    }
    for (end, _) in name.iter().enumerate().filter(|(_, b)| **b == b'/') {
        if *seen.entry(hash(&name[..end])).or_insert(Seen::Implied) == Seen::Other {
            return Err("lies beneath a file or a link");
        }
    }
    match seen.insert(hash(name), is) {
        None => Ok(()),
        Some(Seen::Implied) if is == Seen::Directory => Ok(()),
        Some(Seen::Implied) => Err("lies above another one and is no directory"),
        Some(Seen::Directory | Seen::Other) => Err("is there twice"),
    }
}

/// `name` without `./` before it and `/` behind it.
fn plain_name(name: &[u8]) -> Result<Vec<u8>, &'static str> {
    if name.starts_with(b"/") {
        return Err("has an absolute name");
    }
    if name.contains(&0) {
        return Err("has a NUL in its name");
    }
    if name.len() > LONGEST_NAME {
        return Err("has a name that is too long");
    }
    let mut rest = name;
    while let Some(less) = rest.strip_prefix(b"./") {
        rest = less;
    }
    let rest = rest.strip_suffix(b"/").unwrap_or(rest);
    if rest.is_empty() || rest == b"." {
        return if name.is_empty() {
            Err("has no name")
        } else {
            Ok(Vec::new())
        };
    }
    for part in rest.split(|b| *b == b'/') {
        match part {
            b"" | b"." | b".." => return Err("has a name that leads elsewhere"),
            _ => {}
        }
    }
    Ok(rest.to_owned())
}

/// The source with its header whole in memory, so that no header is longer than [`HEADER`].
fn headed<R: Read>(mut source: Source<R>, path: &Path) -> Result<Headed<R>, ArchiveError> {
    let mut head = Vec::new();
    (&mut source)
        .take(HEADER)
        .read_to_end(&mut head)
        .map_err(|e| ArchiveError::reading(path, e))?;
    let ends = head.windows(4).any(|w| w == b"\n---");
    if !ends {
        let why = if head.starts_with(b"age-encryption.org/") {
            "its header has no end"
        } else {
            "it does not begin as an age file"
        };
        return Err(ArchiveError::Foreign {
            path: path.to_owned(),
            why: why.to_owned(),
        });
    }
    Ok(BufReader::with_capacity(
        128 << 10,
        Cursor::new(head).chain(source),
    ))
}

fn opening(path: &Path, e: DecryptError) -> ArchiveError {
    if let DecryptError::Io(e) = e {
        return ArchiveError::reading(path, e);
    }
    let path = path.to_owned();
    let why = e.to_string();
    if matches!(e, DecryptError::NoMatchingKeys) {
        ArchiveError::WrongKey(path)
    } else if matches!(e, DecryptError::InvalidHeader | DecryptError::UnknownFormat) {
        ArchiveError::Foreign { path, why }
    } else {
        ArchiveError::Damaged { path, why }
    }
}

/// Errors of the source, told apart from those of what is made of its bytes.
struct Source<R>(R);

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done.map_err(|e| io::Error::other(SourceFault(e))),
            }
        }
    }
}

type Headed<R> = BufReader<io::Chain<Cursor<Vec<u8>>, Source<R>>>;
type Packed<R> = StreamReader<Headed<R>>;

/// What comes out, counted.
struct Plain<R: Read> {
    from: zstd::Decoder<'static, BufReader<Packed<R>>>,
    read: u64,
    most: u64,
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf)?;
        self.read += n as u64;
        if self.read > self.most {
            return Err(io::Error::other(Overflow(self.most)));
        }
        Ok(n)
    }
}
