//! Files for the laptop, and the agent's log.
//!
//! It promises that only what is evidence, a receipt, a backup or the audit log leaves by the cable:
//! never a key, never what a link points to elsewhere.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::config::Settings;
use crate::console::{Order, Source};

use super::console_run::{Running, Step};

/// Files that are listed.
const MOST: usize = 200;

/// Rows of the log at once.
const LINES: &str = "--lines=200";

/// Where the agent's log is without a journal, the first that is there.
const LOGS: &[&str] = &[
    "/var/log/holdup.log",
    "/var/log/messages",
    "/var/log/syslog",
];

/// A file on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    file: File,
    name: String,
    size: u32,
}

impl Source for Outgoing {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn read(&mut self, offset: u32, piece: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(piece, u64::from(offset))
    }
}

/// Folders whose files may leave, by the name that is typed before theirs.
fn folders(settings: &Settings) -> Vec<(&'static str, PathBuf)> {
    let data = &settings.gateway.data_dir;
    vec![
        ("evidence", settings.gateway.evidence_path()),
        ("receipts", data.join("receipts")),
        ("backups", settings.backup.dir.clone()),
    ]
}

/// Opens `name`, `FOLDER/FILE` as [`list`] shows it.
pub(super) fn open(settings: &Settings, name: &str) -> Result<Outgoing, String> {
    let refused = || format!("{name} is not among the files that are sent: `send` lists them");
    let (path, file) = if name == "audit.db" {
        let path = settings.gateway.audit_path();
        let file = inside(
            path.parent().unwrap_or(Path::new("/")),
            Path::new("audit.db"),
        );
        (path, file)
    } else {
        let (folder, rest) = name.split_once('/').ok_or_else(refused)?;
        let all = folders(settings);
        let (_, dir) = all.iter().find(|(n, _)| *n == folder).ok_or_else(refused)?;
        let rest = Path::new(rest);
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
        if rest.as_os_str().is_empty() || !rest.components().all(plain) || is_secret(rest) {
            return Err(refused());
        }
        (dir.join(rest), inside(dir, rest))
    };
    let failed = |e: io::Error| format!("{name} cannot be sent: {e}");
    let file = file.map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(format!("{name} is no file: `send` lists them"));
    }
    let too_long = || format!("{name} has 4 GiB or more: copy it to a USB stick");
    let size = u32::try_from(meta.len()).map_err(|_| too_long())?;
    if size == 0 {
        return Err(format!("{name} is empty"));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Outgoing {
        file,
        name: name.into_owned(),
        size,
    })
}

/// Opens a file below `dir` without following any link.
fn inside(dir: &Path, rest: &Path) -> io::Result<File> {
    let folder = File::open(dir)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(folder, rest, flags, Mode::empty(), how)?.into())
}

/// An archive of keys, or a key, never leaves here, encrypted or not.
fn is_secret(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_lowercase();
    name.contains("keys")
        || [".key", ".pem", ".identity"]
            .iter()
            .any(|e| name.ends_with(e))
}

/// The files that may be sent, one a row, with their bytes.
pub(super) fn list(settings: &Settings) -> Vec<u8> {
    let mut rows = Vec::new();
    if let Ok(meta) = fs::metadata(settings.gateway.audit_path()) {
        rows.push(format!("{:>12} audit.db", meta.len()));
    }
    for (name, dir) in folders(settings) {
        walk(&dir, Path::new(name), 3, &mut rows);
    }
    if rows.is_empty() {
        rows.push("There is nothing to send.".to_owned());
    } else if rows.len() >= MOST {
        rows.push("... and more.".to_owned());
    }
    (rows.join("\n") + "\n").into_bytes()
}

fn walk(dir: &Path, shown: &Path, deep: u32, rows: &mut Vec<String>) {
    let Ok(list) = fs::read_dir(dir) else {
        return;
    };
    let mut entries: Vec<_> = list.filter_map(Result::ok).take(10 * MOST).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), shown.join(entry.file_name()));
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        if rows.len() >= MOST {
            return;
        }
        if meta.is_dir() && deep > 0 {
            walk(&path, &name, deep - 1, rows);
        } else if meta.is_file() && meta.len() > 0 && !is_secret(&path) {
            rows.push(format!("{:>12} {}", meta.len(), name.display()));
        }
    }
}

/// The agent's log: from the journal, else from a file.
pub(super) fn log(order: &Order, running: &mut Running) {
    let live = order.command.name == "log live";
    let word = order.words().next();
    if Path::new("/run/systemd/journal").exists() {
        let mut args: Vec<String> = ["--no-pager", "--unit=holdup", LINES, "--output=short-iso"]
            .map(str::to_owned)
            .into();
        if live {
            args.push("--follow".to_owned());
        }
        if let Some(word) = word {
            let quoted: String = word.chars().map(quote).collect();
            args.extend([
                format!("--grep={quoted}"),
                "--case-sensitive=false".to_owned(),
            ]);
        }
        running.steps.push_back(Step {
            program: PathBuf::from("journalctl"),
            args,
            ..Step::default()
        });
        return;
    }
    let Some(path) = LOGS.iter().find(|p| Path::new(p).is_file()) else {
        let none = format!("There is no journal and none of {}.\n", LOGS.join(", "));
        running.text.extend(none.into_bytes());
        return;
    };
    // As one program, so that a stop stops all of it.
    let script = r#"tail $1 "$2" | grep --line-buffered -i -F -- holdup | grep --line-buffered -i -F -e "$3""#;
    let how = if live { "-n200 -F" } else { "-n5000" };
    let words = ["-c", script, "log", how, path, word.unwrap_or_default()];
    running.steps.push_back(Step {
        program: PathBuf::from("sh"),
        args: words.map(str::to_owned).into(),
        ..Step::default()
    });
}

/// A word is looked for as it is typed: no character of it is a pattern.
fn quote(c: char) -> String {
    if c.is_ascii_alphanumeric() || !c.is_ascii() {
        c.to_string()
    } else {
        format!("\\{c}")
    }
}
