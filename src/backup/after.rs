//! Hands a finished backup to what the site already uses.
//!
//! It promises that the command and all that it starts ends within its time, and that how it ended
//! is known. It must never be part of whether a backup counts.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::clock::{Clock, Mono};

use super::AfterRun;

/// Between two looks whether it shall go on.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// Runs `command` by the shell with the archive as `$1` and the manifest as `$2`, also as
/// `HOLDUP_ARCHIVE` and `HOLDUP_MANIFEST`, for `timeout` at most.
pub(super) fn run(
    command: &str,
    archive: &Path,
    manifest: &Path,
    timeout: Duration,
    stop: &AtomicBool,
    clock: &dyn Clock,
) -> AfterRun {
    let began = clock.mono();
    let started = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .arg("holdup")
        .args([archive, manifest])
        .env("HOLDUP_ARCHIVE", archive)
        .env("HOLDUP_MANIFEST", manifest)
        .current_dir("/")
        .stdin(Stdio::null())
        // What the verb prints may be read by a program.
        .stdout(Stdio::null())
        // Its own group, so that its children can be killed with it.
        .process_group(0)
        .spawn();
    let (exit, why) = match started {
        Err(e) => (None, Some(format!("it cannot be started: {e}"))),
        Ok(child) => watch(child, clock, began + timeout, stop),
    };
    let took = clock.mono().since(began);
    AfterRun {
        command: command.to_owned(),
        exit,
        why,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    }
}

fn watch(
    mut child: Child,
    clock: &dyn Clock,
    end: Mono,
    stop: &AtomicBool,
) -> (Option<i32>, Option<String>) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut killed: Option<(&str, Mono)> = None;
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => {
                if let (Some((why, _)), Some(group)) = (killed, group) {
                    // What it started may not heed the first signal; nothing left is no error.
                    kill_process_group(group, Signal::KILL).ok();
                    return (None, Some(why.to_owned()));
                }
                let why = status
                    .signal()
                    .map(|n| format!("it was killed by signal {n}"));
                return (status.code(), why);
            }
            Err(e) => return (None, Some(format!("it cannot be waited for: {e}"))),
        }
        let now = clock.mono();
        let why = if stop.load(Ordering::Relaxed) {
            Some("it was killed: the backup was told to stop")
        } else if now >= end {
            Some("it was killed: it took longer than backup.after_timeout_s")
        } else {
            None
        };
        match (why, killed, group) {
            (Some(why), None, Some(group)) => {
                // It may have ended this moment.
                kill_process_group(group, Signal::TERM).ok();
                killed = Some((why, now));
            }
            (_, Some((_, since)), Some(group)) if now.since(since) > GRACE => {
                kill_process_group(group, Signal::KILL).ok();
            }
            _ => {}
        }
        wait(group);
    }
}

/// Until it ends, or for a moment.
fn wait(pid: Option<Pid>) {
    let fd = pid.and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok());
    // Whatever comes of it, the process is looked at next.
    match &fd {
        Some(fd) => poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&LOOK)).ok(),
        None => poll(&mut [], Some(&LOOK)).ok(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn go(command: &str, timeout_ms: u64) -> AfterRun {
        let (a, m) = (Path::new("/a b/'x'.age"), Path::new("/a b/'x'.json"));
        let timeout = Duration::from_millis(timeout_ms);
        run(
            command,
            a,
            m,
            timeout,
            &AtomicBool::new(false),
            &SystemClock,
        )
    }

    #[test]
    fn its_arguments_come_whole_and_its_status_is_told() {
        let ok = r#"[ "$1" = "/a b/'x'.age" ] && [ "$2" = "$HOLDUP_MANIFEST" ] && exit 7"#;
        assert_eq!(go(ok, 20_000).exit, Some(7));
        let died = go("kill -9 $$", 20_000);
        assert_eq!(
            (died.exit, died.why.as_deref()),
            (None, Some("it was killed by signal 9"))
        );
    }

    #[test]
    fn one_that_hangs_is_killed_with_its_children() {
        let home = tempfile::tempdir().expect("temp dir");
        let pid = home.path().join("pid");
        let hung = go(
            &format!("sleep 1000 & echo $! > {}; wait", pid.display()),
            1_500,
        );
        assert!(hung.why.is_some_and(|w| w.contains("after_timeout_s")));
        let child = std::fs::read_to_string(&pid).expect("its child began");
        let stat = format!("/proc/{}/stat", child.trim());
        let end = SystemClock.mono() + Duration::from_secs(60);
        // Gone, or dead and not reaped yet by whoever inherited it.
        while !std::fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z")) {
            assert!(SystemClock.mono() < end, "its child lives");
            std::thread::yield_now();
        }
    }
}
