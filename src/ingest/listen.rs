//! The socket file: replaced when stale, never taken from a live agent.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Somebody listens there.
    #[error("another agent already serves {}; stop it, or set gateway.run_dir elsewhere", .0.display())]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("{} is in the way and not a socket; move it away", .0.display())]
    NotASocket(PathBuf),
    /// Anything else.
    #[error("cannot {what} {}; check gateway.run_dir and its rights", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Owner and group may send readings.
const MODE: u32 = 0o660;

/// Listens on `path`. A stale socket file is replaced; one that somebody listens on is not.
pub fn bind(path: &Path) -> Result<UnixListener, IngestError> {
    let failed = |what| {
        move |source| IngestError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    };
    match fs::symlink_metadata(path) {
        Ok(m) if !m.file_type().is_socket() => {
            return Err(IngestError::NotASocket(path.to_owned()));
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed("replace the stale"))?;
            }
            // A full backlog (EAGAIN) is a live listener too.
            Ok(_) => return Err(IngestError::InUse(path.to_owned())),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(IngestError::InUse(path.to_owned()));
            }
            Err(e) => return Err(failed("look at")(e)),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed("look at")(e)),
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed("set the rights of"))?;
    Ok(listener)
}

pub(super) fn unlink(path: &Path) {
    if let Err(e) = fs::remove_file(path) {
        log::debug!("cannot remove {}: {e}", path.display());
    }
}
