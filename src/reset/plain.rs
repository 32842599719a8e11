//! The configuration as it is shipped: who this gateway is and how it is wired, and nothing else.
//!
//! It promises to keep what would lock people out or find no data were it lost: the id, the
//! directories, the board, and where the console is and whose keys open it.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use toml::Value;

use crate::config::FORMER;

use super::ResetError;
use super::home::Home;
use super::journal::Plain;

/// What a reset makes of the configuration.
///
/// # Errors
/// This user may not write it.
pub(super) fn plain(home: &Home) -> Result<Option<Plain>, ResetError> {
    let Some(main) = home.config.first() else {
        return Ok(None);
    };
    let drop_ins = drop_ins(main)?;
    for file in drop_ins.iter().chain([main]) {
        writable(file)?;
    }
    Ok(Some(Plain {
        path: main.clone(),
        drop_ins,
    }))
}

/// What lies in `conf.d` now, read by the agent already or not, and what `config undo` would bring
/// back.
fn drop_ins(main: &Path) -> Result<Vec<PathBuf>, ResetError> {
    let folder = main.with_file_name("conf.d");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(ResetError::io("list", &folder)(e)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(ResetError::io("list", &folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".toml") || name == FORMER {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

/// May files come and go beside `path`?
pub(super) fn writable(path: &Path) -> Result<(), ResetError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    access(dir, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| {
        ResetError::Refused(format!(
            "{} cannot be changed by this user ({e}): stop the agent and run this as root; nothing \
             was touched",
            path.display()
        ))
    })
}

/// What will be in the main file.
///
/// # Errors
/// How the site is wired cannot be read.
pub(super) fn text(home: &Home) -> Result<String, ResetError> {
    let settings = &home.settings;
    let (gateway, console) = (&settings.gateway, &settings.console);
    let word = |text: &str| Value::from(text).to_string();
    let path = |path: &PathBuf| word(&path.to_string_lossy());
    let passphrase = console.passphrase_file.as_ref();
    let passphrase = passphrase.map_or_else(String::new, |file| {
        format!("passphrase_file = {}\n", path(file))
    });
    Ok(format!(
        "# As shipped: `holdup reset` wrote it. `holdup config show` lists all keys.\n\
         # The hold-up time is to be measured again: `holdup power measure`.\n\n\
         [gateway]\nid = {}\ndata_dir = {}\nrun_dir = {}\n\n\
         [power]\nboard = {}\n\n\
         [console]\nport = {}\nbaud = {}\nallowed_signers = {}\nrevoked_signers = {}\n\
         {passphrase}{}",
        word(&gateway.id),
        path(&gateway.data_dir),
        path(&gateway.run_dir),
        word(&settings.board.name),
        path(&console.port),
        console.baud,
        path(&console.allowed_signers),
        path(&console.revoked_signers),
        wiring(&home.config)?,
    ))
}

/// How this site's lines are wired, as its files say: all of `[board]`. The main file is replaced
/// before the others go, so after a cut it is found again.
fn wiring(files: &[PathBuf]) -> Result<String, ResetError> {
    let mut board = toml::Table::new();
    for file in files {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            // Gone already, before a cut.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(ResetError::io("read", file)(e)),
        };
        let mut all = text.parse::<toml::Table>().map_err(|e| {
            ResetError::Refused(format!("{} is no TOML any more: {e}", file.display()))
        })?;
        if let Some(Value::Table(more)) = all.remove("board") {
            merge(&mut board, more);
        }
    }
    if board.is_empty() {
        return Ok(String::new());
    }
    let all = toml::Table::from_iter([("board".to_owned(), Value::Table(board))]);
    Ok(format!("\n{all}"))
}

/// A later file's value wins, table by table.
fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
