//! Other people's databases on a real file system, whose device is copied as a cut would leave
//! it, and under a real cgroup.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use holdup::clock::SystemClock;
use holdup::config::DatabaseSettings;
use holdup::guard::{Cgroups, ForeignDatabase, GuardedDatabase, let_go_on};
use rusqlite::Connection;

use crate::application::{self, Application};
use crate::disk::{Disk, Mounted, unmount};
use crate::home::{Home, poll};

const LONG: Duration = Duration::from_secs(40);
const ROWS: i64 = 20;

/// Not a check of its own: what [`Application`] runs.
#[test]
fn the_other_application() {
    application::serve();
}

fn application(database: &Path) -> Application {
    Application::start("foreign::the_other_application", database)
}

fn skipped(why: &str) {
    // Not by a print macro: the harness swallows those of tests that pass.
    writeln!(std::io::stderr(), "foreign: SKIPPED: {why}").ok();
}

fn guarded(path: &Path, unit: Option<&str>, cgroups: Cgroups) -> ForeignDatabase {
    let settings = DatabaseSettings {
        path: path.to_owned(),
        priority: 50,
        unit: unit.map(str::to_owned),
    };
    ForeignDatabase::new(settings, Vec::new(), cgroups, Arc::new(SystemClock))
}

fn run(program: &str, args: &[&Path]) {
    let done = Command::new(program).args(args).output().expect(program);
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {args:?}: {told}");
}

/// What the device holds now and nothing of what the kernel still keeps, mounted and opened as
/// after a cut: how many rows, or why not even that can be told.
fn after_a_cut(disk: &Disk, database: &str) -> Result<i64, String> {
    let home = tempfile::tempdir().expect("temp dir");
    let image = home.path().join("copy.img");
    run("cp", &[&disk.mount().with_file_name("disk.img"), &image]);
    let mount = home.path().join("mnt");
    let mounted = Mounted::new(&image, &mount).expect("mount");
    let rows = Connection::open(mount.join(database)).and_then(|db| {
        let sound: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0))?;
        let rows: i64 = db.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?;
        Ok((sound, rows))
    });
    drop(mounted);
    match rows {
        Ok((sound, rows)) if sound == "ok" => Ok(rows),
        Ok((sound, _)) => Err(sound),
        Err(e) => Err(e.to_string()),
    }
}

/// The last row is committed by the removal of the journal, which nobody but the plan syncs; with
/// `synchronous=OFF` nothing at all is synced.
#[test]
fn what_was_committed_is_on_the_medium_in_every_journal_mode() {
    let modes = ["DELETE", "TRUNCATE", "PERSIST", "WAL"];
    for (mode, synchronous) in modes.into_iter().flat_map(|m| [(m, "FULL"), (m, "OFF")]) {
        let disk = match Disk::new(128) {
            Ok(disk) => disk,
            Err(why) => return skipped(&format!("no loop device with ext4 here ({why})")),
        };
        // Else the kernel would write back by itself, sooner or later.
        let mount = disk.mount();
        run(
            "mount",
            &[Path::new("-o"), Path::new("remount,commit=600"), &mount],
        );
        let path = disk.mount().join("app.db");
        let mut app = application(&path);
        app.run(&format!("PRAGMA journal_mode={mode}"));
        app.run(&format!(
            "PRAGMA synchronous={synchronous}; CREATE TABLE t(a)"
        ));
        for n in 0..ROWS {
            app.run(&format!("INSERT INTO t VALUES({n})"));
        }
        let without = after_a_cut(&disk, "app.db");
        let mut db = guarded(
            &path,
            None,
            Cgroups::refused("a test", disk.mount().as_path()),
        );
        db.commit(LONG).expect("commit");
        let with = after_a_cut(&disk, "app.db");
        println!("{mode}, {synchronous}: without the sync {without:?} of {ROWS}, with it {with:?}");
        assert_eq!(with, Ok(ROWS), "{mode}, {synchronous}");
        if synchronous == "OFF" || mode == "DELETE" {
            assert_ne!(
                without,
                Ok(ROWS),
                "{mode}, {synchronous}: the control lost nothing"
            );
        }
        // The same for what was committed after that sync and before the lock.
        app.run("INSERT INTO t VALUES(100)");
        db.still(LONG).expect("still");
        db.checkpoint(LONG).expect("checkpoint");
        assert_eq!(
            after_a_cut(&disk, "app.db"),
            Ok(ROWS + 1),
            "{mode}, {synchronous}"
        );
        db.release();
    }
}

#[test]
fn a_mount_of_these_tests_that_is_busy_for_a_moment_is_undone_with_its_loop_device() {
    let disk = match Disk::new(16) {
        Ok(disk) => disk,
        Err(why) => return skipped(&format!("no loop device with ext4 here ({why})")),
    };
    let home = tempfile::tempdir().expect("temp dir");
    let image = home.path().join("copy.img");
    run("cp", &[&disk.mount().with_file_name("disk.img"), &image]);
    let mounts = [disk.mount(), home.path().join("mnt")];
    let mounted = Mounted::new(&image, &mounts[1]).expect("mount");
    let mut users = mounts.each_ref().map(|mount| {
        let mut user = Command::new("sleep");
        user.arg("1").current_dir(mount).spawn().expect("a user")
    });
    assert_eq!(unmount(&mounts[0]), Ok(()));
    drop(mounted);
    drop(disk);
    for user in &mut users {
        user.wait().expect("its end");
    }
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let left = Command::new("losetup").arg("-a").output().expect("losetup");
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    for mount in mounts {
        let home = mount.parent().expect("home").display().to_string();
        assert!(
            !table.contains(&home) && !left.contains(&home),
            "{table}{left}"
        );
    }
}

#[test]
fn a_database_on_a_read_only_file_system_is_said_to_be_and_left_alone() {
    let disk = match Disk::new(128) {
        Ok(disk) => disk,
        Err(why) => return skipped(&format!("no loop device with ext4 here ({why})")),
    };
    let path = disk.mount().join("app.db");
    Connection::open(&path)
        .and_then(|c| c.execute_batch("CREATE TABLE t(a)"))
        .expect("fill");
    let mount = disk.mount();
    run("mount", &[Path::new("-o"), Path::new("remount,ro"), &mount]);
    let mut db = guarded(
        &path,
        None,
        Cgroups::refused("a test", disk.mount().as_path()),
    );
    db.inspect(&|| false);
    let view = db.view();
    assert!(!view.problem && !view.other_writers, "{view:?}");
    assert!(view.state.contains("read-only"), "{view:?}");
    db.commit(LONG).expect("nothing to sync");
    assert_eq!(db.still(LONG), Ok(()));
    assert_eq!(db.checkpoint(LONG), Ok(0));
}

/// A slice of our own in the machine's hierarchy; removed when dropped.
struct Slice {
    root: PathBuf,
    folder: PathBuf,
    /// The unit's.
    name: String,
}

impl Slice {
    fn new(test: &str) -> Result<Self, String> {
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
        let root = table
            .lines()
            .find(|l| l.contains(" - cgroup2 "))
            .and_then(|l| l.split(' ').nth(4))
            .ok_or("no cgroup v2 is mounted")?;
        // Tests run side by side on one hierarchy: each has a unit of its own name.
        let name = format!("holdup{test}{}", std::process::id());
        let folder = Path::new(root).join(format!("{name}.slice"));
        let name = format!("{name}.service");
        let unit = folder.join(&name);
        fs::create_dir_all(&unit).map_err(|e| format!("{}: {e}", unit.display()))?;
        let it = Self {
            root: root.into(),
            folder,
            name,
        };
        match unit.join("cgroup.freeze").exists() {
            true => Ok(it),
            false => Err("this kernel's cgroups cannot be frozen".to_owned()),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(&self.name).join(name)
    }

    fn add(&self, app: &Application) -> Result<(), String> {
        fs::File::options()
            .write(true)
            .open(self.file("cgroup.procs"))
            .and_then(|mut f| f.write_all(app.pid().to_string().as_bytes()))
            .map_err(|e| format!("a process cannot be moved: {e}"))
    }

    fn is_frozen(&self) -> bool {
        let text = fs::read_to_string(self.file("cgroup.events")).expect("read");
        text.contains("frozen 1")
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        // A cgroup can be removed once its last process is gone for good.
        poll("the end of the cgroup", || {
            fs::remove_dir(self.folder.join(&self.name)).ok();
            fs::remove_dir(&self.folder).ok();
            (!self.folder.exists()).then_some(())
        });
    }
}

#[test]
fn a_writer_in_a_real_cgroup_is_stopped_between_two_commits_and_goes_on() {
    let slice = match Slice::new("writer") {
        Ok(slice) => slice,
        Err(why) => return skipped(&why),
    };
    for mode in ["WAL", "DELETE"] {
        let home = tempfile::tempdir().expect("temp dir");
        let path = home.path().join("app.db");
        let mut app = application(&path);
        if let Err(why) = slice.add(&app) {
            return skipped(&why);
        }
        app.run(&format!("PRAGMA journal_mode={mode}; CREATE TABLE t(a)"));
        app.stream();
        let cgroups = || Cgroups::at(&slice.root, home.path());
        let mut db = guarded(&path, Some(&slice.name), cgroups());
        db.inspect(&|| false);
        assert!(db.view().state.contains("can be stopped"), "{db:?}");
        for _ in 0..10 {
            assert_ne!(app.answer(), "");
        }
        db.commit(LONG).expect("commit");
        db.still(LONG).expect("still");
        db.checkpoint(LONG).expect("checkpoint");
        assert!(slice.is_frozen(), "{db:?}");
        // Nobody else writes: what is there stays as it is, and the lock is free.
        let now = || -> rusqlite::Result<i64> {
            Connection::open(&path)?.query_row("SELECT count(*) FROM t", [], |r| r.get(0))
        };
        let count = || now().expect("the lock is free");
        let rows = count();
        println!("{mode}: stopped at {rows} rows");
        for _ in 0..50 {
            assert_eq!(count(), rows, "it writes on");
        }
        db.release();
        poll("the writer to go on", || {
            now().is_ok_and(|n| n > rows).then_some(())
        });
        assert!(!slice.is_frozen());

        // The same once more, and the agent dies: what it has left is let go by the next one.
        db.commit(LONG).expect("commit");
        db.still(LONG).expect("still");
        db.checkpoint(LONG).expect("checkpoint");
        assert!(slice.is_frozen(), "{db:?}");
        std::mem::forget(db);
        let rows = count();
        assert_eq!(let_go_on(home.path()).len(), 1);
        poll("the writer to go on", || {
            now().is_ok_and(|n| n > rows).then_some(())
        });
        app.kill();
    }
}

#[test]
fn doctor_says_whether_a_unit_can_be_stopped_and_names_one_that_should_be_given() {
    let slice = match Slice::new("doctor") {
        Ok(slice) => slice,
        Err(why) => return skipped(&why),
    };
    let home = Home::with("", "");
    let path = home.path("app.db");
    let mut app = application(&path);
    if let Err(why) = slice.add(&app) {
        return skipped(&why);
    }
    app.run("CREATE TABLE t(a)");
    let config = fs::read_to_string(home.config()).expect("config");
    let doctor = |unit: &str| {
        let table = format!(
            "{config}[[database]]\npath = \"{}\"\n{unit}",
            path.display()
        );
        home.write("holdup.toml", table.as_bytes());
        let out = home.holdup(&["doctor"]);
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let named = format!("unit = \"{}\"", slice.name);
    let said = doctor(&named);
    let stopped = format!("unit {} is stopped for an outage", slice.name);
    assert!(said.contains(&stopped), "{said}");
    let said = doctor("");
    assert!(said.contains(&format!("add {named}")), "{said}");
    // Somebody else has it open as well.
    let other = application(&path);
    let said = doctor(&named);
    let pid = format!("pid {}", other.pid());
    assert!(
        said.contains(&pid) && said.contains("writes it too"),
        "{said}"
    );
}
