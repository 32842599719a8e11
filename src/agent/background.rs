//! A thread that works beside everything else, and is told when to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{JoinHandle, Thread};

use super::AgentError;

/// The thread; `None` where there is nothing to do.
#[derive(Debug)]
pub(super) struct Background {
    /// What it is for, in the plural.
    what: &'static str,
    /// Set to end it, and what it is doing.
    stop: Vec<Arc<AtomicBool>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs `work` until all of `stop` are set; it parks between.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(
        name: &'static str,
        what: &'static str,
        stop: Vec<Arc<AtomicBool>>,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<Self, AgentError> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(AgentError::Guard)?;
        Ok(Self {
            what,
            stop,
            thread: Some(thread),
        })
    }

    /// Nothing is to be done.
    pub(super) fn idle(what: &'static str) -> Self {
        Self {
            what,
            stop: Vec::new(),
            thread: None,
        }
    }

    /// To wake it.
    pub(super) fn thread(&self) -> Option<&Thread> {
        self.thread.as_ref().map(JoinHandle::thread)
    }

    /// Gives up what is being done. Does not wait.
    pub(super) fn stop(&self) {
        self.stop.iter().for_each(|flag| flag.store(true, SeqCst));
        self.thread().into_iter().for_each(Thread::unpark);
    }

    /// The same, and waits for its end.
    pub(super) fn end(mut self) {
        self.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the {}' thread panicked", self.what);
        }
    }
}
