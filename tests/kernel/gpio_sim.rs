//! A GPIO chip made by the kernel's gpio-sim, its lines pulled through sysfs.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const CONFIG: &str = "/sys/kernel/config/gpio-sim";

/// Gone when dropped.
#[derive(Debug)]
pub(crate) struct SimChip {
    config: PathBuf,
    lines: PathBuf,
    pub(crate) label: String,
}

impl SimChip {
    /// Eight lines, named `L0` to `L7` with the label before. `None`, with the reason printed,
    /// where the machine has no gpio-sim.
    pub(crate) fn new() -> Option<Self> {
        let _built_in_or_absent = Command::new("modprobe").arg("gpio-sim").output();
        if !Path::new(CONFIG).is_dir() {
            skip(&format!(
                "this kernel has no gpio-sim ({CONFIG} is not there)"
            ));
            return None;
        }
        static NTH: AtomicU32 = AtomicU32::new(0);
        let nth = NTH.fetch_add(1, Ordering::SeqCst);
        let label = format!("holdup-{}-{nth}", std::process::id());
        let config = Path::new(CONFIG).join(&label);
        let bank = config.join("bank0");
        if let Err(error) = fs::create_dir(&config) {
            skip(&format!("{} cannot be made: {error}", config.display()));
            return None;
        }
        fs::create_dir(&bank).unwrap();
        put(&bank.join("num_lines"), "8");
        put(&bank.join("label"), &label);
        for n in 0..8 {
            let line = bank.join(format!("line{n}"));
            fs::create_dir(&line).unwrap();
            put(&line.join("name"), &format!("{label}-L{n}"));
        }
        put(&config.join("live"), "1");
        let read = |path: PathBuf| fs::read_to_string(path).unwrap().trim().to_owned();
        let device = read(config.join("dev_name"));
        let chip = read(bank.join("chip_name"));
        let lines = Path::new("/sys/devices/platform").join(device).join(chip);
        Some(Self {
            config,
            lines,
            label,
        })
    }

    /// Drives an input line from outside.
    pub(crate) fn pull(&self, line: u32, high: bool) {
        let level = if high { "pull-up" } else { "pull-down" };
        put(&self.lines.join(format!("sim_gpio{line}/pull")), level);
    }

    /// The level of a line, as seen from outside.
    pub(crate) fn level(&self, line: u32) -> bool {
        let value = self.lines.join(format!("sim_gpio{line}/value"));
        fs::read_to_string(value).unwrap().trim() == "1"
    }
}

impl Drop for SimChip {
    fn drop(&mut self) {
        put(&self.config.join("live"), "0");
        let bank = self.config.join("bank0");
        for n in 0..8 {
            let _best_effort = fs::remove_dir(bank.join(format!("line{n}")));
        }
        let _best_effort = fs::remove_dir(bank);
        let _best_effort = fs::remove_dir(&self.config);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "sysfs attributes are no files to sync"
)]
fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Says so past the test runner, which keeps the output of a passing test to itself.
pub(crate) fn skip(why: &str) {
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test");
    let mut past_the_runner = std::io::stderr();
    writeln!(past_the_runner, "{test}: skipped: {why}").unwrap();
}
