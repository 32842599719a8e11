//! What all connections are told at once, and each one's side of the store's answers.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;

use crate::store::Acks;

use super::{Pause, PowerNews};

/// One connection, as others see it: the writer tells it what is durable, the hub to look up.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    durable: AtomicU64,
    waker: Mutex<Option<Waker>>,
    refused: Mutex<Vec<(u64, String)>>,
    has_refused: AtomicBool,
    look_for_hangup: AtomicBool,
    stopped: OnceLock<String>,
}

impl Mailbox {
    /// Wake this task from now on. Comes before looking at anything here.
    pub(super) fn register(&self, waker: &Waker) {
        let mut slot = lock(&self.waker);
        if !slot.as_ref().is_some_and(|w| w.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    pub(super) fn wake(&self) {
        // Cloned, so that the lock is not held while the runtime is told.
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable.load(SeqCst)
    }

    pub(super) fn take_refused(&self) -> Vec<(u64, String)> {
        if self.has_refused.swap(false, SeqCst) {
            std::mem::take(&mut *lock(&self.refused))
        } else {
            Vec::new()
        }
    }

    pub(super) fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    pub(super) fn take_look_for_hangup(&self) -> bool {
        self.look_for_hangup.swap(false, SeqCst)
    }
}

impl Acks for Mailbox {
    fn refused(&self, line: u64, why: String) {
        lock(&self.refused).push((line, why));
        self.has_refused.store(true, SeqCst);
    }

    fn committed(&self, upto: u64) {
        self.durable.fetch_max(upto, SeqCst);
        self.wake();
    }

    fn stopped(&self, why: &str) {
        // Told once; a second reason adds nothing.
        self.stopped.set(why.to_owned()).ok();
        self.wake();
    }
}

#[derive(Debug)]
pub(super) struct Hub {
    connections: Mutex<Vec<Weak<Mailbox>>>,
    /// Looked at for every read, so no lock.
    pause: AtomicU8,
    /// How many words of `news` there are, ever; looked at as often.
    told: AtomicU64,
    news: Mutex<PowerNews>,
    shutdown: AtomicBool,
}

impl Hub {
    pub(super) fn new(pause: Option<Pause>) -> Self {
        Self {
            connections: Mutex::new(Vec::new()),
            pause: AtomicU8::new(code(pause)),
            told: AtomicU64::new(0),
            news: Mutex::default(),
            shutdown: AtomicBool::new(false),
        }
    }

    pub(super) fn join(&self) -> Arc<Mailbox> {
        let mailbox = Arc::new(Mailbox::default());
        let mut connections = lock(&self.connections);
        connections.retain(|c| c.strong_count() > 0);
        connections.push(Arc::downgrade(&mailbox));
        mailbox
    }

    pub(super) fn pause(&self) -> Option<Pause> {
        match self.pause.load(SeqCst) {
            1 => Some(Pause::PowerFailing),
            2 => Some(Pause::DiskFull),
            3 => Some(Pause::Starting),
            _ => None,
        }
    }

    /// How many words about power were told, ever.
    pub(super) fn told(&self) -> u64 {
        self.told.load(SeqCst)
    }

    pub(super) fn news(&self) -> PowerNews {
        *lock(&self.news)
    }

    pub(super) fn set_news(&self, news: PowerNews) {
        *lock(&self.news) = news;
        self.told.store(news.told(), SeqCst);
        self.each(Mailbox::wake);
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.shutdown.load(SeqCst)
    }

    pub(super) fn set_pause(&self, pause: Option<Pause>) {
        self.pause.store(code(pause), SeqCst);
        self.each(Mailbox::wake);
    }

    pub(super) fn shut_down(&self) {
        self.shutdown.store(true, SeqCst);
        self.each(Mailbox::wake);
    }

    pub(super) fn look_for_hangups(&self) {
        self.each(|m| {
            m.look_for_hangup.store(true, SeqCst);
            m.wake();
        });
    }

    fn each(&self, tell: impl Fn(&Mailbox)) {
        let all: Vec<_> = lock(&self.connections)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for mailbox in all {
            tell(&mailbox);
        }
    }
}

const fn code(pause: Option<Pause>) -> u8 {
    match pause {
        None => 0,
        Some(Pause::PowerFailing) => 1,
        Some(Pause::DiskFull) => 2,
        Some(Pause::Starting) => 3,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
