//! `holdup backup prune`, `holdup backup create` and `holdup reset`, killed at each call that changes
//! a file system: no half backup is ever listed as one, the last verified one is there, and the next
//! run finishes or removes what was begun; a reset erases all or nothing.
//!
//! strace kills the process when it makes the call, before the kernel does anything of it.
//! A prune is killed at all of them, a create at a sample that is always the same; `HOLDUP_KILLS`
//! says at how many else, or `all`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use holdup::backup::catalogue::{Listed, Standing, list};
use holdup::backup::{ArchiveName, Identity};

use crate::corpus::Dice;
use crate::home::Home;

/// What changes a file system; a question mark: not every machine has it.
const CHANGES: &str = "?open,openat,?creat,?rename,renameat,?renameat2,?link,linkat,?symlink,\
    symlinkat,?unlink,unlinkat,?mkdir,mkdirat,?rmdir,write,writev,pwrite64,pwritev,?pwritev2,\
    ?sendfile,?copy_file_range,?truncate,ftruncate,fallocate,?chmod,fchmod,fchmodat,?utimensat,\
    fsync,fdatasync,?syncfs";
/// Kills of a create, unless asked for more.
const SAMPLE: usize = 60;

fn say(what: &str) {
    // Not by a print macro: the harness swallows those of tests that pass.
    writeln!(std::io::stderr(), "kills: {what}").ok();
}

/// Why strace cannot do it here, if so.
fn obstacle() -> Option<String> {
    let tried = Command::new("strace")
        .args(["-qqq", "-o", "/dev/null", "-e", "trace=write", "true"])
        .output();
    match tried {
        Ok(done) if done.status.success() => None,
        Ok(done) => Some(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
        Err(e) => Some(format!("strace: {e}; run tests/install")),
    }
}

/// A stopped gateway with three verified backups, and a copy of all that it has.
struct World {
    home: Home,
    before: PathBuf,
    last: ArchiveName,
}

impl World {
    /// `keep`: how many backups the rule keeps from now on.
    fn new(keep: u32) -> Self {
        let tables = |keep| {
            let key = Identity::generate().recipient();
            format!(
                "[backup]\nevery_s = 0\nkeep_last = {keep}\nkeep_days = 0\nrecipients = [\"{}\"]",
                key.text()
            )
        };
        let power = "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0";
        let home = Home::with(power, &tables(9));
        let agent = home.serving();
        let mut client = home.client();
        for _ in 0..50 {
            client.send();
        }
        client.wait_acked(50);
        agent.stop();
        for _ in 0..3 {
            let made = home.holdup(&["backup", "create"]);
            assert!(made.status.success(), "{made:?}");
        }
        let config = fs::read_to_string(home.config()).expect("config");
        let kept = config.replace("keep_last = 9", &format!("keep_last = {keep}"));
        home.write("holdup.toml", kept.as_bytes());
        let all = list(&home.data("backup")).expect("list");
        let last = all.last().expect("three").name.clone();
        let before = home.path("before");
        let world = Self { home, before, last };
        world.copy("data", "before");
        world
    }

    fn copy(&self, from: &str, to: &str) {
        let to = self.home.path(to);
        if to.exists() {
            fs::remove_dir_all(&to).expect("remove");
        }
        let copied = Command::new("cp")
            .arg("-a")
            .args([&self.home.path(from), &to])
            .status();
        assert!(copied.expect("cp").success());
    }

    /// As before the first run, and as after a boot: else the audit log's head, which is kept in
    /// `run_dir`, rightly tells that entries are missing.
    fn reset(&self) {
        assert!(self.before.exists());
        self.copy("before", "data");
        let run = self.home.path("run");
        if run.exists() {
            fs::remove_dir_all(run).expect("remove");
        }
    }

    fn verb(&self, args: &[&str]) {
        let done = self.home.holdup(args);
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(done.status.success(), "{args:?}: {} {said}", done.status);
    }

    fn traced(&self, strace: &[&str], args: &[&str]) -> std::process::ExitStatus {
        Command::new("strace")
            .args(["-f", "-qqq"])
            .args(strace)
            .arg(env!("CARGO_BIN_EXE_holdup"))
            .args(args)
            .arg("--config")
            .arg(self.home.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("strace")
    }

    /// The calls of one whole run that change something: each by its name and by its number among
    /// those of that name that its thread makes. Most files are opened to be read alone.
    fn calls(&self, args: &[&str]) -> BTreeSet<(String, u32)> {
        self.reset();
        let log = self.home.path("calls");
        let at = log.display().to_string();
        let ended = self.traced(&["-o", &at, "-e", &format!("trace={CHANGES}")], args);
        assert!(ended.success(), "{ended}");
        let mut each: BTreeMap<(String, String), u32> = BTreeMap::new();
        let mut calls = BTreeSet::new();
        for line in fs::read_to_string(&log).expect("log").lines() {
            let call = line.split_once(' ').and_then(|(thread, rest)| {
                let (name, args) = rest.trim_start().split_once('(')?;
                let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                plain.then(|| (thread.to_owned(), name.to_owned(), args))
            });
            let Some((thread, name, args)) = call else {
                continue;
            };
            let n = each.entry((thread, name.clone())).or_default();
            *n += 1;
            if !name.starts_with("open") || args.contains("O_CREAT") || args.contains("O_TRUNC") {
                calls.insert((name, *n));
            }
        }
        calls
    }

    /// Runs `args` again and again, each time killed at another call; `after` looks at what is
    /// left, and runs it to its end.
    fn kill_everywhere(&self, args: &[&str], usual: usize, after: impl Fn(&Self)) {
        let mut points: Vec<_> = self.calls(args).into_iter().collect();
        let all = points.len();
        let most = match std::env::var("HOLDUP_KILLS").ok().as_deref() {
            Some("all") => all,
            Some(n) => n.parse().expect("HOLDUP_KILLS is a number or `all`"),
            None => usual,
        };
        let mut dice = Dice::new(5);
        while points.len() > most {
            points.swap_remove(dice.below(points.len()));
        }
        let mut killed = 0;
        for (name, n) in &points {
            self.reset();
            let inject = format!("inject={name}:signal=KILL:when={n}");
            let trace = format!("trace={name}");
            let ended = self.traced(&["-o", "/dev/null", "-e", &trace, "-e", &inject], args);
            killed += usize::from(ended.signal() == Some(9));
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| after(self)));
            assert!(
                done.is_ok(),
                "{args:?} killed at {name} number {n}: {ended}"
            );
        }
        say(&format!("{args:?}: killed at {killed} of {all} calls"));
        // How often a thread calls depends on what others do; a few runs may get to their end.
        assert!(
            killed * 10 >= points.len() * 9,
            "{killed} of {}",
            points.len()
        );
    }

    fn listed(&self) -> Vec<Listed> {
        list(&self.home.data("backup")).expect("list")
    }

    fn last_counts(&self) {
        let counts = |l: &Listed| l.name == self.last && l.counts();
        assert!(self.listed().iter().any(counts), "{:?}", self.listed());
    }

    /// Every backup counts, with its two files, and there is nothing else.
    fn is_tidy(&self) {
        let all = self.listed();
        assert!(all.iter().all(Listed::counts), "{all:?}");
        let files = fs::read_dir(self.home.data("backup"))
            .expect("list")
            .count();
        assert_eq!(files, all.len() * 2);
        let work = self.home.data("backup.work");
        let work = fs::read_dir(work).map_or(0, |all| all.count());
        assert_eq!(work, 0, "copies are left");
    }
}

#[test]
fn a_prune_killed_at_any_call_keeps_the_last_verified_backup_and_the_next_one_finishes() {
    if let Some(why) = obstacle() {
        return say(&format!("SKIPPED: {why}"));
    }
    let world = World::new(1);
    world.kill_everywhere(&["backup", "prune"], usize::MAX, |w| {
        w.last_counts();
        for one in w.listed() {
            let told = one.counts() || one.standing == Standing::Pruning;
            assert!(told, "{} is {:?}", one.name, one.standing);
        }
        w.verb(&["backup", "prune"]);
        w.last_counts();
        w.is_tidy();
        assert_eq!(w.listed().len(), 1);
        w.verb(&["audit", "verify"]);
    });
}

#[test]
fn a_create_that_prunes_killed_at_any_call_leaves_backups_that_count() {
    if let Some(why) = obstacle() {
        return say(&format!("SKIPPED: {why}"));
    }
    let world = World::new(2);
    world.kill_everywhere(&["backup", "create"], SAMPLE, |w| {
        let all = w.listed();
        // One of the two newest that count is always there: old ones go when the new one is.
        assert!(all.iter().filter(|l| l.counts()).count() >= 2, "{all:?}");
        for one in &all {
            // Between its two names an archive has its manifest beside it, under a name that the
            // next run puts right.
            let part = PathBuf::from(format!("{}.part", one.sidecar().display()));
            let unnamed = one.standing == Standing::NoManifest && part.exists();
            let told = one.counts() || unnamed || one.standing == Standing::Pruning;
            assert!(told, "{} is {:?}", one.name, one.standing);
        }
        w.verb(&["backup", "create"]);
        w.is_tidy();
        assert_eq!(w.listed().len(), 2);
        w.verb(&["audit", "verify"]);
    });
}

#[test]
fn a_reset_killed_at_any_call_ends_with_all_readings_or_none() {
    if let Some(why) = obstacle() {
        return say(&format!("SKIPPED: {why}"));
    }
    let world = World::new(2);
    let args = [
        "reset",
        "data",
        "--yes-erase",
        "host-test",
        "--no-backup",
        "without-backup",
    ];
    world.kill_everywhere(&args, SAMPLE / 3, |w| {
        w.verb(&["reset", "resume"]);
        assert!(!w.home.data("reset.journal").exists());
        let rows = w.home.values().len();
        assert!(rows == 50 || rows == 0, "{rows} readings");
        assert_eq!(rows == 50, w.home.data("ledger").exists());
        if rows == 0 {
            w.verb(&["reset", "receipt"]);
        }
        w.verb(&["audit", "verify"]);
    });
}
