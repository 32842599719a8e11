//! The configuration as it is shipped: who this gateway is and how it is wired, and nothing else.
//!
//! It promises to keep what would lock people out or find no data were it lost: the id, the
//! directories, the board, and where the console is and whose keys open it.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use toml::Value;

use crate::config::Settings;

use super::ResetError;
use super::home::Home;
use super::journal::Plain;

/// What a reset makes of the configuration.
///
/// # Errors
/// This user may not write it.
pub(super) fn plain(home: &Home) -> Result<Option<Plain>, ResetError> {
    let Some((main, drop_ins)) = home.config.split_first() else {
        return Ok(None);
    };
    for file in &home.config {
        writable(file)?;
    }
    Ok(Some(Plain {
        path: main.clone(),
        drop_ins: drop_ins.to_vec(),
    }))
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
pub(super) fn text(settings: &Settings) -> String {
    let (gateway, console) = (&settings.gateway, &settings.console);
    let word = |text: &str| Value::from(text).to_string();
    let path = |path: &PathBuf| word(&path.to_string_lossy());
    format!(
        "# As shipped: `holdup reset` wrote it. `holdup config show` lists all keys.\n\
         # The hold-up time is to be measured again: `holdup power measure`.\n\n\
         [gateway]\nid = {}\ndata_dir = {}\nrun_dir = {}\n\n\
         [power]\nboard = {}\n\n\
         [console]\nport = {}\nbaud = {}\nallowed_signers = {}\nrevoked_signers = {}\n",
        word(&gateway.id),
        path(&gateway.data_dir),
        path(&gateway.run_dir),
        word(&settings.board.name),
        path(&console.port),
        console.baud,
        path(&console.allowed_signers),
        path(&console.revoked_signers),
    )
}
