//! The readings' socket: one JSON object a line in, cumulative acknowledgements out.
//!
//! It promises that `{"acked":N}` means: each of this connection's first N lines is durable, or
//! had its error before. Memory is bounded: for each connection, and over all by
//! `queue_bytes`; a slow disk pushes back on the socket, a slow reader only on itself. It must
//! never acknowledge what the store has not synced, nor discard a line without saying so.

mod connection;
mod hub;
mod line;
mod listen;
mod news;
mod plain;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::IngestSettings;
use crate::store::Intake;

use connection::Connection;
use hub::Hub;
pub use listen::{IngestError, bind, make_way};
pub use news::PowerNews;

/// Why the agent has stopped reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Power is failing, or gone.
    PowerFailing,
    /// No room on the medium.
    DiskFull,
    /// The store is not open yet, or power has not been steady for long enough.
    Starting,
}

impl Pause {
    /// The protocol's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::PowerFailing => "power_failing",
            Self::DiskFull => "disk_full",
            Self::Starting => "starting",
        }
    }
}

/// How the socket is served.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// `[ingest]`
    pub settings: IngestSettings,
    /// Where it listens.
    pub socket: PathBuf,
}

/// At shutdown, how long connections may wait for their last acknowledgements.
const LAST_ACKS: Duration = Duration::from_secs(2);
/// After a failed accept: descriptors may be free again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Serves `listener`, which [`bind`] made, until `shutdown` turns true (or its sender is gone).
/// `pause` and what is told of power are the agent's.
pub async fn serve(
    listener: UnixListener,
    options: IngestOptions,
    intake: Intake,
    mut pause: watch::Receiver<Option<Pause>>,
    mut power: watch::Receiver<PowerNews>,
    mut shutdown: watch::Receiver<bool>,
) {
    let hub = Arc::new(Hub::new(*pause.borrow_and_update()));
    hub.set_news(*power.borrow_and_update());
    let mut connections = JoinSet::new();
    while !*shutdown.borrow_and_update() {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    while connections.try_join_next().is_some() {}
                    if connections.len() >= options.settings.max_clients {
                        // Those that hung up while nobody read from them make room.
                        hub.look_for_hangups();
                        connection::turn_away(&stream, options.settings.max_clients);
                    } else {
                        let connection = Connection::new(
                            stream, &options.settings, intake.clone(), Arc::clone(&hub),
                        );
                        connections.spawn(connection.run());
                    }
                }
                Err(e) => {
                    log::warn!("cannot accept on {}: {e}", options.socket.display());
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            changed = pause.changed() => {
                if changed.is_err() {
                    break;
                }
                // The news first: what ended or began the pause was told before it.
                let pause = *pause.borrow_and_update();
                hub.set_news(*power.borrow_and_update());
                hub.set_pause(pause);
            }
            changed = power.changed() => {
                if changed.is_err() {
                    break;
                }
                hub.set_news(*power.borrow_and_update());
            }
            changed = shutdown.changed() => {
                if changed.is_err() {
                    break;
                }
            }
        }
    }
    intake.flush();
    hub.shut_down();
    let last = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_ACKS, last).await.is_err() {
        log::info!("some ingest clients did not get their last acknowledgements");
    }
    listen::unlink(&options.socket);
}
