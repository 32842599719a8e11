//! A data directory on a medium that turned read-only, as a worn card's file system does.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::home::Home;

/// A read-only tmpfs, unmounted when dropped.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        fs::create_dir_all(at).expect("folder");
        let mount = |options: &str| {
            let mut mount = Command::new("mount");
            mount
                .args(["-t", "tmpfs", "-o", options, "none"])
                .arg(at)
                .output()
        };
        let done = mount("ro").ok().filter(|out| out.status.success());
        if done.is_none() {
            // Not by a print macro: the harness swallows those of tests that pass.
            writeln!(std::io::stderr(), "readonly: SKIPPED: mounting needs root").ok();
        }
        done.map(|_| Self(at))
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0).status().ok();
    }
}

#[test]
fn a_read_only_data_directory_is_named_with_the_reason() {
    let home = Home::new();
    let data = home.path("data");
    let Some(_mounted) = ReadOnly::mount(&data) else {
        return;
    };
    let out = home.holdup(&["run"]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(4), "{text}");
    assert!(
        text.contains("/data") && text.contains("Read-only"),
        "{text}"
    );
    let out = home.holdup(&["doctor"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot be written"), "{text}");
}
