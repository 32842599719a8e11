//! The gateway that is reset: its files, and what must stay.

use std::path::{Path, PathBuf};

use crate::config::{Loaded, Settings};

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Home {
    /// Its settings.
    pub settings: Settings,
    /// Its configuration, with what lies in `conf.d`; the board's own file is none of it.
    pub config: Vec<PathBuf>,
}

impl Home {
    /// Of what was loaded.
    pub fn of(loaded: &Loaded) -> Self {
        Self::new(&loaded.settings, &loaded.files)
    }

    /// Of `settings` from `files`, the main one first.
    pub fn new(settings: &Settings, files: &[PathBuf]) -> Self {
        let main = files.first();
        let folder = main.and_then(|m| m.parent()).map(|dir| dir.join("conf.d"));
        let of_site = |file: &&PathBuf| {
            Some(*file) == main || file.parent().is_some_and(|p| Some(p) == folder.as_deref())
        };
        Self {
            settings: settings.clone(),
            config: files.iter().filter(of_site).cloned().collect(),
        }
    }

    /// Everything that must last.
    pub(super) fn data_dir(&self) -> &Path {
        &self.settings.gateway.data_dir
    }

    /// Whose keys log in, which no longer do, and the passphrase's hash with its count of guesses.
    pub(super) fn technicians(&self) -> Vec<PathBuf> {
        let console = &self.settings.console;
        let mut all = vec![
            console.allowed_signers.clone(),
            console.revoked_signers.clone(),
        ];
        if let Some(hash) = &console.passphrase_file {
            let mut guesses = hash.clone().into_os_string();
            guesses.push(".guesses");
            all.extend([hash.clone(), guesses.into()]);
        }
        all
    }

    /// What no level erases: other applications' databases, and what the site backs up by name.
    pub(super) fn others(&self) -> impl Iterator<Item = &Path> {
        let databases = self.settings.databases.iter().map(|d| &*d.path);
        let backup = &self.settings.backup;
        databases.chain(backup.include.iter().map(|p| &**p))
    }

    /// What only [`super::Level::Everything`] erases, where it lies in the data directory.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Path> {
        self.settings.backup.keys.iter().map(|p| &**p)
    }
}
