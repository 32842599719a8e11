//! Which files a configuration consists of, and their text.
//!
//! Nothing is written, and nothing is read that could block or fill memory.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::problem::{Place, Problem};

/// Far above any configuration, far below what hurts.
const LARGEST: u64 = 1 << 20;

/// The text of `path`.
pub(super) fn read(path: &Path) -> Result<String, Problem> {
    let problem = |line: Option<usize>, what: String, remedy: &str| Problem {
        place: Some(Place {
            file: path.to_owned(),
            line,
        }),
        key: String::new(),
        what,
        remedy: remedy.to_owned(),
    };
    let odd = || {
        problem(
            None,
            "is not a regular file".to_owned(),
            "put a regular file in its place",
        )
    };
    let io = |error: &std::io::Error| {
        let (what, remedy) = if error.kind() == ErrorKind::NotFound {
            let remedy = "write it, or name another with --config";
            ("there is no such file".to_owned(), remedy)
        } else if error.kind() == ErrorKind::PermissionDenied {
            let remedy = "run as the service's user, or change the file's mode";
            ("may not be read by this user".to_owned(), remedy)
        } else {
            (format!("cannot be read: {error}"), "check the file")
        };
        problem(None, what, remedy)
    };
    // A FIFO would keep whoever opens it waiting for its other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file: File = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd.into(),
        // A socket.
        Err(Errno::NXIO) => return Err(odd()),
        Err(e) => return Err(io(&e.into())),
    };
    let kind = file.metadata().map_err(|e| io(&e))?.file_type();
    if kind.is_dir() {
        return Err(problem(
            None,
            "is a directory".to_owned(),
            "name the file in it",
        ));
    }
    if !kind.is_file() {
        return Err(odd());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| io(&e))?;
    if bytes.len() as u64 > LARGEST {
        return Err(problem(
            None,
            "is larger than 1 MiB".to_owned(),
            "name a configuration file",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..good];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        problem(
            Some(line),
            "is not UTF-8".to_owned(),
            "save it as UTF-8 text",
        )
    })
}

/// `conf.d/*.toml` beside `main`, by name. Hidden files are an editor's, not the site's.
pub(super) fn drop_ins(main: &Path) -> Result<Vec<PathBuf>, Problem> {
    let folder = beside(main).join("conf.d");
    let problem = |error: &std::io::Error| Problem {
        place: Some(Place {
            file: folder.clone(),
            line: None,
        }),
        key: String::new(),
        what: format!("cannot be listed: {error}"),
        remedy: "make it a directory that this user may read".to_owned(),
    };
    let list = match fs::read_dir(&folder) {
        Ok(list) => list,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(problem(&error)),
    };
    let mut files = Vec::new();
    for entry in list {
        let path = entry.map_err(|e| problem(&e))?.path();
        let hidden = path
            .file_name()
            .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        // A pipe or device would block the read; a dangling link is reported by the read.
        let odd = fs::metadata(&path).is_ok_and(|m| !m.is_file() && !m.is_dir());
        if path.extension().is_some_and(|e| e == "toml") && !hidden && !odd {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The folder that `file` is in.
pub(super) fn beside(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
