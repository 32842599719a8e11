//! Walks what a backup includes beside its databases.
//!
//! It promises that everything met is either given or named with why it is not, that no link is
//! followed and no pipe waited for, and that what must not be read with plain file calls, the
//! agent's own databases, is not even opened. It must never leave the file system on which it
//! began.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::archive::Attributes;

/// What a database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Entries of all trees together; a reader of archives takes no more than some 200,000.
const MOST: usize = 150_000;

/// Something that was met.
#[derive(Debug)]
pub(super) enum Met {
    /// It goes into the archive.
    Found(Found),
    /// It does not; why.
    Passed(PathBuf, String),
}

/// An entry.
#[derive(Debug)]
pub(super) struct Found {
    /// Where it is.
    pub(super) path: PathBuf,
    /// What it is.
    pub(super) kind: FoundKind,
    /// Whose it is.
    pub(super) attributes: Attributes,
}

#[derive(Debug)]
pub(super) enum FoundKind {
    /// A file of so many bytes.
    File(File, u64),
    /// A database of no `[[database]]`: it is copied as one.
    Database,
    Directory,
    /// To these bytes.
    Link(Vec<u8>),
}

/// What is not included, wherever it is met.
#[derive(Debug, Default)]
pub(super) struct Avoid {
    /// With all below, and why.
    paths: Vec<(PathBuf, String)>,
    /// Device and inode of files that are not opened.
    files: HashSet<(u64, u64)>,
}

impl Avoid {
    /// `path` and all below it.
    pub(super) fn path(&mut self, path: &Path, why: &str) {
        self.paths.push((path.to_owned(), why.to_owned()));
        if let Ok(real) = path.canonicalize()
            && real != path
        {
            self.paths.push((real, why.to_owned()));
        }
    }

    /// A database that is backed up as such, and what lies beside it.
    pub(super) fn database(&mut self, path: &Path) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            if let Ok(m) = fs::metadata(crate::store::companion(path, suffix)) {
                self.files.insert((m.dev(), m.ino()));
            }
        }
    }

    fn why_not(&self, path: &Path) -> Option<&str> {
        let hit = self.paths.iter().find(|(p, _)| path.starts_with(p));
        hit.map(|(_, why)| why.as_str())
    }
}

/// What was walked so far: nothing is given twice.
#[derive(Debug, Default)]
pub(super) struct Walked {
    given: HashSet<PathBuf>,
}

impl Walked {
    /// Gives `root` and all below it, in the order of their names.
    ///
    /// # Errors
    /// Those of `each`.
    pub(super) fn walk<E>(
        &mut self,
        root: &Path,
        avoid: &Avoid,
        each: &mut dyn FnMut(Met) -> Result<(), E>,
    ) -> Result<(), E> {
        let device = fs::symlink_metadata(root).map(|m| m.dev()).ok();
        let mut todo = vec![root.to_owned()];
        let mut databases: HashSet<PathBuf> = HashSet::new();
        while let Some(path) = todo.pop() {
            if self.given.contains(&path) {
                continue;
            }
            if self.given.len() >= MOST {
                return each(Met::Passed(
                    path,
                    format!("there are more than {MOST} entries"),
                ));
            }
            if let Some(why) = avoid.why_not(&path) {
                each(Met::Passed(path.clone(), why.to_owned()))?;
                continue;
            }
            if is_companion(&path, &databases) {
                continue;
            }
            match look(&path, avoid, device) {
                Ok(found) => {
                    match &found.kind {
                        FoundKind::Directory => match children(&path) {
                            Ok(list) => todo.extend(list),
                            Err(e) => each(Met::Passed(path.clone(), e.to_string()))?,
                        },
                        FoundKind::Database => {
                            databases.insert(path.clone());
                        }
                        FoundKind::File(..) | FoundKind::Link(_) => {}
                    }
                    self.given.insert(path);
                    each(Met::Found(found))?;
                }
                Err(why) => each(Met::Passed(path, why))?,
            }
        }
        Ok(())
    }
}

/// Beside a database that is copied as one.
fn is_companion(path: &Path, databases: &HashSet<PathBuf>) -> bool {
    let name = path.as_os_str().as_bytes();
    ["-wal", "-shm", "-journal"].iter().any(|suffix| {
        let stem = name.strip_suffix(suffix.as_bytes());
        stem.is_some_and(|s| databases.contains(Path::new(std::ffi::OsStr::from_bytes(s))))
    })
}

/// Last name first: they are taken from the end.
fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut list = Vec::new();
    for entry in fs::read_dir(dir)? {
        list.push(entry?.path());
    }
    list.sort_unstable_by(|a, b| b.cmp(a));
    Ok(list)
}

fn look(path: &Path, avoid: &Avoid, device: Option<u64>) -> Result<Found, String> {
    let meta = fs::symlink_metadata(path).map_err(|e| {
        if e.kind() == io::ErrorKind::NotFound {
            "it is gone".to_owned()
        } else {
            e.to_string()
        }
    })?;
    let kind = meta.file_type();
    if avoid.files.contains(&(meta.dev(), meta.ino())) {
        return Err("it is a database of the gateway, which is backed up as one".to_owned());
    }
    if Some(meta.dev()) != device {
        return Err("it lies on another file system: name it by itself".to_owned());
    }
    let what = if kind.is_dir() {
        FoundKind::Directory
    } else if kind.is_symlink() {
        let to = fs::read_link(path).map_err(|e| e.to_string())?;
        FoundKind::Link(to.into_os_string().into_vec())
    } else if kind.is_file() {
        return file(path);
    } else {
        let what = if kind.is_socket() {
            "a socket"
        } else if kind.is_fifo() {
            "a pipe"
        } else {
            "a device"
        };
        return Err(format!("it is {what}"));
    };
    Ok(Found {
        path: path.to_owned(),
        kind: what,
        attributes: attributes(&meta),
    })
}

fn file(path: &Path) -> Result<Found, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file: File = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| io::Error::from(e).to_string())?
        .into();
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("it changed while it was looked at".to_owned());
    }
    let mut first = Vec::new();
    (&mut file)
        .take(MAGIC.len() as u64)
        .read_to_end(&mut first)
        .and_then(|_| file.rewind())
        .map_err(|e| e.to_string())?;
    let kind = if first == MAGIC {
        FoundKind::Database
    } else {
        FoundKind::File(file, meta.len())
    };
    Ok(Found {
        path: path.to_owned(),
        kind,
        attributes: attributes(&meta),
    })
}

pub(super) fn attributes(meta: &Metadata) -> Attributes {
    Attributes {
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        modified_s: meta.mtime(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    /// A path and what is said of it.
    type Said = Vec<(PathBuf, String)>;

    fn walk(root: &Path, avoid: &Avoid) -> (Said, Said) {
        let (mut found, mut passed) = (Vec::new(), Vec::new());
        let mut each = |met: Met| {
            match met {
                Met::Found(f) => {
                    let kind = match f.kind {
                        FoundKind::File(_, n) => format!("file {n}"),
                        FoundKind::Database => "database".to_owned(),
                        FoundKind::Directory => "directory".to_owned(),
                        FoundKind::Link(to) => format!("link {}", String::from_utf8_lossy(&to)),
                    };
                    found.push((f.path, kind));
                }
                Met::Passed(path, why) => passed.push((path, why)),
            }
            Ok::<(), std::convert::Infallible>(())
        };
        let mut walked = Walked::default();
        walked.walk(root, avoid, &mut each).expect("walk");
        // A second time there is nothing new.
        walked.walk(root, avoid, &mut each).expect("walk");
        (found, passed)
    }

    #[test]
    fn whatever_lies_in_a_tree_is_given_or_named() {
        let home = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| home.path().join(name);
        fs::create_dir(at("sub dir")).expect("directory");
        let odd = std::ffi::OsStr::from_bytes(b"sub dir/new\nline '\" \xff%");
        File::create(home.path().join(odd)).expect("file");
        symlink("/etc/shadow", at("link")).expect("link");
        symlink("nowhere", at("dangling")).expect("link");
        let _socket = UnixListener::bind(at("socket")).expect("socket");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .expect("pipe");
        let db = rusqlite::Connection::open(at("app.db")).expect("open");
        db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a(b);")
            .expect("table");
        let own = rusqlite::Connection::open(at("own.db")).expect("open");
        own.execute_batch("CREATE TABLE a(b);").expect("table");
        fs::create_dir(at("keys")).expect("directory");
        let mut avoid = Avoid::default();
        avoid.database(&at("own.db"));
        avoid.path(&at("keys"), "it is a key");
        let (found, passed) = walk(home.path(), &avoid);
        let names: Vec<_> = found.iter().map(|(p, k)| (p.clone(), k.as_str())).collect();
        assert_eq!(
            names,
            [
                (home.path().to_owned(), "directory"),
                (at("app.db"), "database"),
                (at("dangling"), "link nowhere"),
                (at("link"), "link /etc/shadow"),
                (at("sub dir"), "directory"),
                (home.path().join(odd), "file 0"),
            ]
        );
        let why = |name: &str| {
            let hit = passed.iter().find(|(p, _)| *p == at(name));
            hit.map(|(_, why)| why.clone()).expect(name)
        };
        assert!(why("socket").contains("a socket"));
        assert!(why("pipe").contains("a pipe"));
        assert!(why("own.db").contains("backed up as one"));
        assert!(why("keys").contains("a key"));
    }
}
