//! The socket file: replaced when stale, never taken from a live agent.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
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
    make_way(path)?;
    let listener = UnixListener::bind(path).map_err(failed("listen on", path))?;
    let rights = Permissions::from_mode(MODE);
    fs::set_permissions(path, rights).map_err(failed("set the rights of", path))?;
    Ok(listener)
}

/// Removes a stale socket file at `path`, and nothing else that has the name.
pub fn make_way(path: &Path) -> Result<(), IngestError> {
    match fs::symlink_metadata(path) {
        Ok(m) if !m.file_type().is_socket() => Err(IngestError::NotASocket(path.to_owned())),
        Ok(_) if is_live(path).map_err(failed("look at", path))? => {
            Err(IngestError::InUse(path.to_owned()))
        }
        Ok(_) => fs::remove_file(path).map_err(failed("replace the stale", path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("look at", path)(e)),
    }
}

/// Does somebody listen there? Asked without waiting for who does not accept.
fn is_live(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        // A full backlog is a live listener too.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IngestError {
    move |source| IngestError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

pub(super) fn unlink(path: &Path) {
    if let Err(e) = fs::remove_file(path) {
        log::debug!("cannot remove {}: {e}", path.display());
    }
}
