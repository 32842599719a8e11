//! The thread that writes marks, so that the begin mark goes beside the first commit.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::durable::{Block, BlockFile, Medium};

use super::realtime::{self, Priority};

#[derive(Debug)]
enum Slot {
    Idle,
    Asked(u32),
    Writing,
    Done(Result<Duration, String>),
    Exit,
}

#[derive(Debug)]
struct Desk {
    slot: Slot,
    block: Box<Block>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Marker {
    desk: Arc<(Mutex<Desk>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Marker {
    /// Starts the thread.
    pub(super) fn start(
        file: BlockFile,
        medium: Arc<Medium>,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let desk = Arc::new((
            Mutex::new(Desk {
                slot: Slot::Idle,
                block: Box::new([0; BlockFile::BLOCK]),
            }),
            Condvar::new(),
        ));
        let theirs = Arc::clone(&desk);
        let thread = std::thread::Builder::new()
            .name("holdup-mark".into())
            .spawn(move || {
                // Not permitted is no fault: `doctor` tells.
                realtime::schedule(Priority::Marker).ok();
                serve(&theirs, &file, &medium, &*clock);
            })?;
        Ok(Self {
            desk,
            thread: Some(thread),
        })
    }

    /// Asks for one mark: `fill` fills the block and says where it goes. False when the last
    /// one is still being written.
    pub(super) fn ask(&self, fill: impl FnOnce(&mut Block) -> u32) -> bool {
        let mut desk = lock(&self.desk.0);
        if matches!(desk.slot, Slot::Asked(_) | Slot::Writing | Slot::Exit) {
            return false;
        }
        let index = fill(&mut desk.block);
        desk.slot = Slot::Asked(index);
        self.desk.1.notify_all();
        true
    }

    /// Waits at most `timeout` for the mark that was asked for; what the write took.
    pub(super) fn wait(&self, timeout: Duration) -> Result<Duration, String> {
        let desk = lock(&self.desk.0);
        let busy = |d: &mut Desk| matches!(d.slot, Slot::Asked(_) | Slot::Writing);
        let (mut desk, _) = self
            .desk
            .1
            .wait_timeout_while(desk, timeout, busy)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match std::mem::replace(&mut desk.slot, Slot::Idle) {
            Slot::Done(result) => result,
            Slot::Idle => Err("no mark was asked for".to_owned()),
            still @ (Slot::Asked(_) | Slot::Writing | Slot::Exit) => {
                desk.slot = still;
                Err("the medium did not answer in time".to_owned())
            }
        }
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        lock(&self.desk.0).slot = Slot::Exit;
        self.desk.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends when its write returns; a panic there has been reported already.
            thread.join().ok();
        }
    }
}

fn serve(desk: &(Mutex<Desk>, Condvar), file: &BlockFile, medium: &Medium, clock: &dyn Clock) {
    let mut copy = Box::new([0u8; BlockFile::BLOCK]);
    let mut held = lock(&desk.0);
    loop {
        match held.slot {
            Slot::Asked(index) => {
                copy.copy_from_slice(&held.block[..]);
                held.slot = Slot::Writing;
                drop(held);
                let began = clock.mono();
                let result = file.write(medium, index, &copy);
                let took = clock.mono().since(began);
                held = lock(&desk.0);
                if matches!(held.slot, Slot::Exit) {
                    return;
                }
                held.slot = Slot::Done(result.map(|()| took).map_err(|e| e.to_string()));
                desk.1.notify_all();
            }
            Slot::Exit => return,
            Slot::Idle | Slot::Writing | Slot::Done(_) => {
                held = desk
                    .1
                    .wait(held)
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
            }
        }
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
