//! A scheduled drill yields to everything else on the gateway.

use std::io;

/// From ioprio_set(2): this process, and the class that gets the disk when nobody else wants it.
const WHO_PROCESS: libc::c_long = 1;
const CLASS_IDLE: libc::c_long = 3 << 13;

/// Gives this process, and what it starts from now on, the idle class of I/O and the lowest
/// priority of the processor.
///
/// # Errors
/// The kernel refuses; a drill at the usual priority is no worse than one held by hand.
#[expect(unsafe_code, reason = "rustix has no ioprio_set")]
pub fn be_idle() -> io::Result<()> {
    rustix::process::nice(19)?;
    // SAFETY: ioprio_set(2) takes three numbers and no pointer.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
