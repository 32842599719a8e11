//! What the guard's threads and the rest of the agent see of each other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use heapless::spsc::{Consumer, Producer, Queue};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::clock::Mono;
use crate::config::PowerSettings;
use crate::power::{LineHealth, Measuring, Notice, State, Wait};

use super::databases::DatabaseView;
use super::heartbeat::Measured;
use super::record::LastOutage;

/// Calls to the guard thread, as bits.
pub(super) mod call {
    pub(crate) const PLAN_DONE: u32 = 1;
    pub(crate) const RESUMED: u32 = 2;
    pub(crate) const STOP: u32 = 4;
    pub(crate) const SETTINGS: u32 = 8;
    pub(crate) const REHEARSE: u32 = 16;
    pub(crate) const ARM: u32 = 32;
    pub(crate) const DISARM: u32 = 64;
}

/// The guard's state, as of its last turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// The supply's state.
    pub state: State,
    /// Whether the lines can be believed.
    pub health: LineHealth,
    /// What the power-fail line reads, believed or not.
    pub reads_lost: Option<bool>,
    /// The gauge's last reading, in percent.
    pub gauge_percent: Option<f32>,
    /// The battery is nearly empty, by its gauge or its own line.
    pub battery_low: bool,
    /// Hold-up time left if power failed now.
    pub holdup_left: Duration,
    /// Good power that it takes before the hold-up time can be measured.
    pub measurable_in: Duration,
    /// What power that is back waits for.
    pub wait: Option<Wait>,
    /// Whether the hold-up time is being measured.
    pub measuring: Measuring,
    /// Settings in force.
    pub settings: PowerSettings,
}

/// What became of the operator's last [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    Waiting,
    /// The supply is not good.
    Refused,
    /// The rehearsal runs.
    Rehearsing,
    /// The rehearsal is over, its report is there.
    Rehearsed,
    /// The same, and power was really lost meanwhile.
    Overtaken,
    /// The next loss will be measured.
    Armed,
    /// The next loss will not be measured.
    Disarmed,
}

impl Answer {
    const ALL: [Self; 7] = [
        Self::Waiting,
        Self::Refused,
        Self::Rehearsing,
        Self::Rehearsed,
        Self::Overtaken,
        Self::Armed,
        Self::Disarmed,
    ];

    pub(super) const fn of(notice: Notice) -> Option<Self> {
        match notice {
            Notice::Refused => Some(Self::Refused),
            Notice::Rehearsing => Some(Self::Rehearsing),
            Notice::Rehearsed => Some(Self::Rehearsed),
            Notice::RehearsalOvertaken => Some(Self::Overtaken),
            Notice::MeasureArmed => Some(Self::Armed),
            Notice::MeasureDisarmed => Some(Self::Disarmed),
            Notice::Flicker { .. }
            | Notice::Failing
            | Notice::OnBattery
            | Notice::OffBattery
            | Notice::Brownout
            | Notice::BrownoutEnded
            | Notice::Parked
            | Notice::Resumed
            | Notice::LineStuck
            | Notice::LineUnstuck
            | Notice::LinesMissing
            | Notice::LinesFound
            | Notice::StayingParked
            | Notice::GoingOff
            | Notice::MeasureTimedOut => None,
        }
    }
}

/// What an operator may ask of the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A rehearsal of the plan.
    Rehearse,
    /// Measure the next loss.
    Arm,
    /// Do not.
    Disarm,
}

/// See the module's text.
#[derive(Debug)]
pub struct Shared {
    wake: OwnedFd,
    calls: AtomicU32,
    new_settings: Mutex<Option<PowerSettings>>,
    beat: AtomicU64,
    riding: AtomicBool,
    shedding: AtomicBool,
    ended: AtomicBool,
    realtime: AtomicU32,
    published: Mutex<Published>,
    last_outage: Mutex<Option<LastOutage>>,
    last_rehearsal: Mutex<Option<LastOutage>>,
    measured: Mutex<Option<Measured>>,
    answer: AtomicU32,
    databases: Mutex<Vec<DatabaseView>>,
}

impl Shared {
    /// Nothing happened yet; `last` is what the last session left.
    pub fn new(settings: PowerSettings, last: Option<LastOutage>) -> io::Result<Self> {
        Ok(Self {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            calls: AtomicU32::new(0),
            new_settings: Mutex::new(None),
            beat: AtomicU64::new(0),
            riding: AtomicBool::new(false),
            shedding: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            realtime: AtomicU32::new(0),
            published: Mutex::new(Published {
                state: State::Starting,
                health: LineHealth::Good,
                reads_lost: None,
                gauge_percent: None,
                battery_low: false,
                holdup_left: settings.holdup.unwrap_or_default(),
                measurable_in: Duration::ZERO,
                wait: None,
                measuring: Measuring::Off,
                settings,
            }),
            last_outage: Mutex::new(last),
            last_rehearsal: Mutex::new(None),
            measured: Mutex::new(None),
            answer: AtomicU32::new(0),
            databases: Mutex::new(Vec::new()),
        })
    }

    /// Asks for an orderly end: the plan runs, then the guard thread ends.
    pub fn stop(&self) {
        self.call(call::STOP);
    }

    /// Hands new power settings to the guard thread.
    pub fn set_settings(&self, settings: PowerSettings) {
        *lock(&self.new_settings) = Some(settings);
        self.call(call::SETTINGS);
    }

    /// The guard's state.
    pub fn published(&self) -> Published {
        *lock(&self.published)
    }

    /// The last outage, of this session or of the one before.
    pub fn last_outage(&self) -> Option<LastOutage> {
        lock(&self.last_outage).clone()
    }

    /// The last rehearsal of this session.
    pub fn last_rehearsal(&self) -> Option<LastOutage> {
        lock(&self.last_rehearsal).clone()
    }

    /// Asks the guard for something; [`Self::answered`] tells what became of it. One at a time.
    pub fn request(&self, request: Request) {
        self.answer(Answer::Waiting);
        self.call(match request {
            Request::Rehearse => call::REHEARSE,
            Request::Arm => call::ARM,
            Request::Disarm => call::DISARM,
        });
    }

    /// What became of the last request.
    pub fn answered(&self) -> Answer {
        let at = self.answer.load(Ordering::SeqCst) as usize;
        Answer::ALL.get(at).copied().unwrap_or(Answer::Waiting)
    }

    /// A measurement that power ended by coming back, once.
    pub fn take_measured(&self) -> Option<Measured> {
        lock(&self.measured).take()
    }

    /// The databases as they were after the last step that looked at them.
    pub fn databases(&self) -> Vec<DatabaseView> {
        lock(&self.databases).clone()
    }

    /// When the guard thread last turned.
    pub fn beat(&self) -> Mono {
        Mono::from_nanos(self.beat.load(Ordering::SeqCst))
    }

    /// Riding on a battery: the WAL is kept nearly empty.
    pub fn is_riding(&self) -> bool {
        self.riding.load(Ordering::SeqCst)
    }

    /// Load is shed: what can wait must wait.
    pub fn is_shedding(&self) -> bool {
        self.shedding.load(Ordering::SeqCst)
    }

    /// The guard thread has ended, after a stop.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// How many of the guard's threads run with real-time priority.
    pub fn realtime_threads(&self) -> u32 {
        self.realtime.load(Ordering::SeqCst)
    }

    pub(super) fn call(&self, bits: u32) {
        self.calls.fetch_or(bits, Ordering::SeqCst);
        // The counter cannot overflow: the guard reads it at every turn.
        rustix::io::write(&self.wake, &1u64.to_ne_bytes()).ok();
    }

    /// Takes all calls; for the guard thread.
    pub(super) fn take_calls(&self) -> u32 {
        let mut count = [0u8; 8];
        // Empty is no fault: the word tells.
        rustix::io::read(&self.wake, &mut count).ok();
        self.calls.swap(0, Ordering::SeqCst)
    }

    pub(super) fn take_settings(&self) -> Option<PowerSettings> {
        lock(&self.new_settings).take()
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Publishes, unless a reader holds the lock just now: the next turn publishes again.
    pub(super) fn publish(&self, now: Mono, published: Published) {
        self.beat.store(now.as_nanos(), Ordering::SeqCst);
        if let Ok(mut slot) = self.published.try_lock() {
            *slot = published;
        }
    }

    pub(super) fn set_riding(&self, on: bool) {
        self.riding.store(on, Ordering::SeqCst);
    }

    pub(super) fn set_shedding(&self, on: bool) {
        self.shedding.store(on, Ordering::SeqCst);
    }

    pub(super) fn set_ended(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    pub(super) fn count_realtime(&self) {
        self.realtime.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn set_last_outage(&self, outage: LastOutage) {
        *lock(&self.last_outage) = Some(outage);
    }

    pub(super) fn set_last_rehearsal(&self, rehearsal: LastOutage) {
        *lock(&self.last_rehearsal) = Some(rehearsal);
    }

    pub(super) fn set_measured(&self, measured: Measured) {
        *lock(&self.measured) = Some(measured);
    }

    pub(super) fn answer(&self, answer: Answer) {
        self.answer.store(answer as u32, Ordering::SeqCst);
    }

    pub(super) fn set_databases(&self, views: Vec<DatabaseView>) {
        *lock(&self.databases) = views;
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

const NOTICES: usize = 64;

/// The guard thread's end of the notices. Full, the newest is dropped: status has the truth.
pub(super) struct NoticeSender {
    queue: Producer<'static, (Mono, Notice)>,
    missed: Arc<AtomicBool>,
    bell: Arc<OwnedFd>,
}

impl NoticeSender {
    pub(super) fn send(&mut self, at: Mono, notice: Notice) {
        if self.queue.enqueue((at, notice)).is_err() {
            self.missed.store(true, Ordering::SeqCst);
        }
        rustix::io::write(&*self.bell, &1u64.to_ne_bytes()).ok();
    }
}

/// See [`Notices::bell`].
#[derive(Debug, Clone)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// Wakes whoever waits for a notice.
    pub fn ring(&self) {
        // A full counter is a bell that rings already.
        rustix::io::write(&*self.0, &1u64.to_ne_bytes()).ok();
    }
}

/// The agent's end of the notices.
#[expect(missing_debug_implementations, reason = "the queue's end has none")]
pub struct Notices {
    queue: Consumer<'static, (Mono, Notice)>,
    missed: Arc<AtomicBool>,
    bell: Arc<OwnedFd>,
}

impl Notices {
    /// A queue that lasts as long as the process.
    pub(super) fn channel() -> io::Result<(NoticeSender, Self)> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let queue: &'static mut Queue<(Mono, Notice), NOTICES> = Box::leak(Box::default());
        let (tx, rx) = queue.split();
        let missed = Arc::new(AtomicBool::new(false));
        Ok((
            NoticeSender {
                queue: tx,
                missed: Arc::clone(&missed),
                bell: Arc::clone(&bell),
            },
            Self {
                queue: rx,
                missed,
                bell,
            },
        ))
    }

    /// Something that makes a waiting [`Self::next`] return.
    pub fn bell(&self) -> Bell {
        Bell(Arc::clone(&self.bell))
    }

    /// Was one lost because nobody took those before it? Told once; what came before the loss
    /// is taken first.
    pub fn missed(&self) -> bool {
        !self.queue.ready() && self.missed.swap(false, Ordering::SeqCst)
    }

    /// The next notice, or `None` after `timeout` or a [`Bell::ring`].
    pub fn next(&mut self, timeout: Duration) -> Option<(Mono, Notice)> {
        if let Some(n) = self.queue.dequeue() {
            return Some(n);
        }
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // Interrupted or timed out: the queue tells.
        poll(
            &mut [PollFd::new(&*self.bell, PollFlags::IN)],
            Some(&timeout),
        )
        .ok();
        let mut count = [0u8; 8];
        rustix::io::read(&*self.bell, &mut count).ok();
        self.queue.dequeue()
    }
}
