//! What a unit's cgroup is stopped and let go by, on a folder that imitates the kernel's.

use std::io::Write;

use super::*;
use crate::clock::SystemClock;

/// A folder that imitates the kernel's files as far as nobody has to react to them.
struct Imitation {
    home: tempfile::TempDir,
}

impl Imitation {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("temp dir");
        Self { home }
    }

    fn cgroups(&self) -> Cgroups {
        Cgroups::at(&self.home.path().join("cgroup"), self.home.path())
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.home.path().join("cgroup").join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        File::create(&path)
            .and_then(|mut f| f.write_all(text.as_bytes()))
            .expect("write");
    }

    fn unit(&self, folder: &str, pid: u32, frozen: bool) {
        self.put(&format!("{folder}/cgroup.procs"), &format!("{pid}\n"));
        self.put(&format!("{folder}/cgroup.freeze"), "0\n");
        let events = format!("populated 1\nfrozen {}\n", u8::from(frozen));
        self.put(&format!("{folder}/cgroup.events"), &events);
    }

    fn freeze_of(&self, folder: &str) -> String {
        let path = self.home.path().join("cgroup").join(folder);
        let text = fs::read_to_string(path.join("cgroup.freeze")).expect("read");
        text.trim().to_owned()
    }

    fn noted(&self) -> usize {
        fs::read_dir(notes(self.home.path())).map_or(0, Iterator::count)
    }
}

fn soon() -> Mono {
    SystemClock.mono() + Duration::from_millis(30)
}

#[test]
fn a_unit_is_found_under_its_slice_whatever_its_name() {
    let it = Imitation::new();
    for (unit, folder) in [
        ("app.service", "system.slice/app.service"),
        (
            "app@1.service",
            "system.slice/system-app.slice/app@1.service",
        ),
        (
            r"two\x2dwords.service",
            r"system.slice/two\x2dwords.service",
        ),
        ("cpu.service", "system.slice/_cpu.service"),
        ("data.slice", "data.slice"),
    ] {
        let mut u = Unit::new(unit, it.cgroups());
        assert_eq!(u.look(), UnitState::NotRunning, "{unit}");
        it.unit(folder, 4_000_000, true);
        assert_eq!(u.look(), UnitState::Ready, "{unit}");
        assert!(u.holds(4_000_000));
    }
    // A user's unit of that name is not the system's.
    it.unit(
        "user.slice/user-1000.slice/user@1000.service/app.slice/mine.service",
        4_000_001,
        true,
    );
    let mut u = Unit::new("mine.service", it.cgroups());
    assert_eq!(u.look(), UnitState::NotRunning);
}

#[test]
fn the_agents_own_cgroup_and_what_lies_above_it_are_never_stopped() {
    let it = Imitation::new();
    it.unit("system.slice/app.service", 4_000_000, true);
    it.unit("system.slice/holdup.service/deep", std::process::id(), true);
    it.unit("system.slice/holdup.service", 4_000_001, true);
    it.unit("system.slice", 4_000_002, true);
    it.unit("init.scope", 1, true);
    for (unit, why) in [
        ("holdup.service", "the agent itself"),
        ("system.slice", "the agent itself"),
        ("init.scope", "process 1"),
    ] {
        let mut u = Unit::new(unit, it.cgroups());
        let e = u.stop(soon(), &SystemClock).expect_err(unit);
        assert!(e.contains(why) && e.contains(unit), "{e}");
        assert_eq!(it.noted(), 0, "{unit}");
    }
    assert_eq!(it.freeze_of("system.slice/holdup.service"), "0");
    assert_eq!(it.freeze_of("system.slice"), "0");
}

#[test]
fn what_is_stopped_is_noted_before_and_goes_on_after() {
    let it = Imitation::new();
    it.unit("system.slice/app.service", 4_000_000, true);
    let mut u = Unit::new("app.service", it.cgroups());
    assert_eq!(u.stop(soon(), &SystemClock), Ok(true));
    assert_eq!(it.freeze_of("system.slice/app.service"), "1");
    assert_eq!(it.noted(), 1);
    u.go_on().expect("goes on");
    assert_eq!(it.freeze_of("system.slice/app.service"), "0");
    assert_eq!(it.noted(), 0);
}

#[test]
fn without_a_place_for_the_note_nothing_is_stopped() {
    let it = Imitation::new();
    it.unit("system.slice/app.service", 4_000_000, true);
    let mut u = Unit::new("app.service", it.cgroups());
    assert_eq!(u.look(), UnitState::Ready);
    File::create(notes(it.home.path())).expect("a file in its place");
    let e = u.stop(soon(), &SystemClock).expect_err("no note");
    assert!(e.contains("run directory"), "{e}");
    assert_eq!(it.freeze_of("system.slice/app.service"), "0");
}

#[test]
fn a_unit_that_does_not_stop_in_time_is_named_and_still_goes_on_after() {
    let it = Imitation::new();
    it.unit("system.slice/app.service", 4_000_000, false);
    let mut u = Unit::new("app.service", it.cgroups());
    let e = u.stop(soon(), &SystemClock).expect_err("not in time");
    assert!(e.contains("app.service did not stop in time"), "{e}");
    u.go_on().expect("goes on");
    assert_eq!(it.freeze_of("system.slice/app.service"), "0");
}

#[test]
fn what_somebody_else_stopped_stays_stopped() {
    let it = Imitation::new();
    it.unit("system.slice/app.service", 4_000_000, true);
    it.put("system.slice/app.service/cgroup.freeze", "1\n");
    let mut u = Unit::new("app.service", it.cgroups());
    assert_eq!(u.stop(soon(), &SystemClock), Ok(true));
    u.go_on().expect("nothing to do");
    assert_eq!(it.freeze_of("system.slice/app.service"), "1");
}

#[test]
fn what_an_agent_that_died_had_stopped_goes_on_at_the_next_start() {
    let it = Imitation::new();
    it.unit("system.slice/app.service", 4_000_000, true);
    let mut u = Unit::new("app.service", it.cgroups());
    assert_eq!(u.stop(soon(), &SystemClock), Ok(true));
    // Killed: nothing of it runs any more.
    std::mem::forget(u);
    let done = let_go_on(it.home.path());
    assert!(
        matches!(&done[..], [(unit, Ok(()))] if unit == "app.service"),
        "{done:?}"
    );
    assert_eq!(it.freeze_of("system.slice/app.service"), "0");
    assert!(let_go_on(it.home.path()).is_empty());
}

#[test]
fn a_unit_that_was_restarted_is_found_again_when_it_is_stopped() {
    let it = Imitation::new();
    it.unit("system.slice/app.service", 4_000_000, true);
    let mut u = Unit::new("app.service", it.cgroups());
    assert_eq!(u.look(), UnitState::Ready);
    let root = it.home.path().join("cgroup");
    // The kernel's file would answer ENODEV; here the old one says that it is empty.
    it.put(
        "system.slice/app.service/cgroup.events",
        "populated 0\nfrozen 0\n",
    );
    rustix::fs::rename(root.join("system.slice/app.service"), root.join("old")).expect("move");
    it.unit("system.slice/app.service", 4_000_009, true);
    assert_eq!(u.stop(soon(), &SystemClock), Ok(true));
    assert_eq!(it.freeze_of("system.slice/app.service"), "1");
    assert!(u.holds(4_000_009));
}

#[test]
fn the_hierarchy_is_found_wherever_it_is_mounted() {
    let hybrid = "\
41 40 0:34 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
42 40 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    assert_eq!(
        mounted(hybrid),
        Some(PathBuf::from("/sys/fs/cgroup/unified"))
    );
    assert_eq!(mounted("41 40 0:34 / /sys rw - cgroup cgroup rw\n"), None);
}

/// What it answers; a wait without an end is a failure.
fn bounded<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(what()).ok());
    told.recv_timeout(Duration::from_secs(20))
        .expect("it waits for a FIFO's other end")
}

#[test]
fn a_fifo_or_a_link_among_the_notes_keeps_nobody_waiting_and_the_others_go_on() {
    let it = Imitation::new();
    it.unit("system.slice/app.service", 4_000_000, true);
    let stuck = |name: &str| {
        let fifo = rustix::fs::FileType::Fifo;
        let rights = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let at = notes(it.home.path()).join(name);
        rustix::fs::mknodat(rustix::fs::CWD, at, fifo, rights, 0).expect("fifo");
    };
    fs::create_dir(notes(it.home.path())).expect("folder");
    stuck("app.service");
    let mut u = Unit::new("app.service", it.cgroups());
    assert_eq!(bounded(move || u.stop(soon(), &SystemClock)), Ok(true));
    stuck("other.service");
    std::os::unix::fs::symlink("/dev/zero", notes(it.home.path()).join("link.service"))
        .expect("link");
    let run_dir = it.home.path().to_owned();
    let mut left = bounded(move || let_go_on(&run_dir));
    left.sort_by(|a, b| a.0.cmp(&b.0));
    let names: Vec<_> = left
        .iter()
        .map(|(n, done)| (n.as_str(), done.is_ok()))
        .collect();
    let want = [
        ("app.service", true),
        ("link.service", false),
        ("other.service", false),
    ];
    assert_eq!(names, want);
    assert_eq!(it.freeze_of("system.slice/app.service"), "0");
}

#[test]
fn a_unit_whose_note_could_not_be_removed_is_stopped_again() {
    let it = Imitation::new();
    it.unit("system.slice/app.service", 4_000_000, true);
    let mut u = Unit::new("app.service", it.cgroups());
    assert_eq!(u.stop(soon(), &SystemClock), Ok(true));
    fs::remove_dir_all(notes(it.home.path())).expect("remove");
    u.go_on().expect_err("no note");
    it.unit("system.slice/app.service", 4_000_000, true);
    assert_eq!(u.stop(soon(), &SystemClock), Ok(true));
    assert_eq!(it.freeze_of("system.slice/app.service"), "1");
    assert_eq!(it.noted(), 1);
}

#[test]
fn a_unit_that_ended_while_it_was_being_stopped_is_let_go_and_stopped_again() {
    let it = Imitation::new();
    let folder = "system.slice/app.service";
    it.unit(folder, 4_000_000, false);
    let mut u = Unit::new("app.service", it.cgroups());
    u.stop(soon(), &SystemClock).expect_err("too late");
    it.put(
        &format!("{folder}/cgroup.events"),
        "populated 0\nfrozen 0\n",
    );
    assert_eq!(u.stop(soon(), &SystemClock), Ok(false));
    assert_eq!(u.go_on(), Ok(()));
    assert!(it.freeze_of(folder).starts_with('0'), "left stopped");
    it.unit(folder, 4_000_001, true);
    assert_eq!(u.stop(soon(), &SystemClock), Ok(true));
    assert_eq!(it.freeze_of(folder), "1");
}
