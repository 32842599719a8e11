//! Priority and locked memory for the threads that must not wait, where the system permits.

use std::io;

use super::rights::{self, Rights};

/// Real-time priorities: the guard before the plan, the plan before the marker.
#[derive(Debug, Clone, Copy)]
pub(super) enum Priority {
    Guard = 30,
    Plan = 29,
    Marker = 28,
}

/// Runs the calling thread as `SCHED_FIFO`. `Err`: not permitted (CAP_SYS_NICE or RLIMIT_RTPRIO);
/// the thread goes on as it was.
#[expect(unsafe_code, reason = "rustix has no sched_setscheduler")]
pub(super) fn schedule(priority: Priority) -> io::Result<()> {
    let param = libc::sched_param {
        sched_priority: priority as i32,
    };
    // SAFETY: pid 0 is the calling thread; `param` lives across the call.
    match unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const param,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Locks what is in memory and what will be touched, but reserves nothing (MCL_ONFAULT).
///
/// Only with CAP_IPC_LOCK or an unlimited RLIMIT_MEMLOCK: with a small limit the call succeeds
/// and the next allocation fails.
#[expect(unsafe_code, reason = "rustix has no mlockall")]
pub fn lock_memory() -> io::Result<()> {
    let unlimited = rustix::process::getrlimit(rustix::process::Resource::Memlock)
        .current
        .is_none();
    if !unlimited && !Rights::own().has(rights::IPC_LOCK) {
        return Err(io::Error::other(
            "needs CAP_IPC_LOCK or an unlimited RLIMIT_MEMLOCK (LimitMEMLOCK=infinity)",
        ));
    }
    const MCL_ONFAULT: libc::c_int = 4;
    // SAFETY: mlockall takes no pointer.
    match unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | MCL_ONFAULT) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
