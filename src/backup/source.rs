//! A database that is to be backed up, and what is said where it cannot be.

use std::path::PathBuf;

use crate::durable::CopyError;
use crate::{queue, store};

use super::create::in_full;
use super::{BackupError, Copier, Role};

/// What to do about a damaged audit log.
const AUDIT_REMEDY: &str = "restart the agent: it keeps the damaged log and goes on with what can \
                            be read of it; `holdup audit verify` names the break";

/// A database to back up.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    /// Its path.
    pub path: PathBuf,
    /// What it is.
    pub role: Role,
    /// Who copies it.
    pub copier: Copier<'a>,
}

impl Source<'_> {
    /// What the queue holds is made again from the store, and another application's database is no
    /// reason to have no backup of the gateway's own.
    pub(super) fn may_lack(&self) -> bool {
        match self.role {
            Role::Queue | Role::Guarded => true,
            Role::Store | Role::Audit => false,
        }
    }

    /// Why it is not in the archive, with what to do about it.
    pub(super) fn lacks(&self, e: &BackupError) -> String {
        let (BackupError::Damaged { why, .. } | BackupError::OwnDamaged { why, .. }) = e else {
            return in_full(e);
        };
        let path = self.path.display();
        match self.role {
            Role::Queue => format!("it is damaged ({why}): {}", queue::REMEDY),
            Role::Guarded | Role::Store | Role::Audit => format!(
                "it is damaged ({why}): stop its application and run `holdup recover {path}`"
            ),
        }
    }

    /// What is wrong with it where there is no backup without it: of the database, not of its copy,
    /// and with what to do about it.
    pub(super) fn fails(&self, e: BackupError) -> BackupError {
        let remedy = match self.role {
            Role::Store => store::REMEDY,
            Role::Audit => AUDIT_REMEDY,
            Role::Queue => queue::REMEDY,
            Role::Guarded => return e,
        };
        if let BackupError::Damaged { why, .. } = e {
            let database = self.path.clone();
            return BackupError::OwnDamaged {
                database,
                why,
                remedy,
            };
        }
        e
    }
}

/// Why a database is not in the archive.
pub(super) enum Unpacked {
    /// It is named with this.
    Passed(String),
    /// There is no backup.
    Failed(BackupError),
}

impl<E: Into<BackupError>> From<E> for Unpacked {
    fn from(e: E) -> Self {
        Self::Failed(e.into())
    }
}

/// Is the database to blame, and not the place of its copy?
pub(super) fn is_its_own(e: &BackupError) -> bool {
    match e {
        BackupError::Damaged { .. }
        | BackupError::OwnDamaged { .. }
        | BackupError::Unusable { .. }
        | BackupError::NoDatabase(_)
        | BackupError::Busy(_)
        | BackupError::Held(_)
        | BackupError::Sqlite { .. } => !e.is_full(),
        BackupError::Io { what, .. } => matches!(*what, "open" | "read" | "look at"),
        // A medium that fails its copy fails the next one too.
        BackupError::Copy { source, .. } => match source {
            CopyError::NotOpen | CopyError::Sqlite { .. } => !e.is_full(),
            CopyError::Stopped
            | CopyError::GivenUp(_)
            | CopyError::Busy
            | CopyError::Durable(_) => false,
        },
        BackupError::Durable(_)
        | BackupError::Stopped
        | BackupError::NoRoom { .. }
        | BackupError::NoRecipient
        | BackupError::SameMedium(_)
        | BackupError::Stick { .. }
        | BackupError::NotVerified { .. }
        | BackupError::Archive(_)
        | BackupError::Key(_)
        | BackupError::Manifest { .. } => false,
    }
}
