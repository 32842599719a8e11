//! The machine's checks against copied trees.

use std::fs;
use std::io::Write;

use super::*;
use crate::config;

struct World {
    home: tempfile::TempDir,
    loaded: Loaded,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("temp dir");
        let site = home.path().join("holdup.toml");
        fs::File::create(&site)
            .and_then(|mut f| f.write_all(b"[power]\nboard = \"sim\"\n"))
            .expect("config");
        let loaded = config::load(&site).expect("load");
        let world = Self { home, loaded };
        world.put(
            "proc/self/mountinfo",
            "29 1 179:2 / / rw - ext4 /dev/mmcblk0p2 rw\n",
        );
        world
    }

    fn pi5() -> Self {
        let world = Self::new();
        world.put("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0");
        world
    }

    fn put(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.home.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::File::create(path)
            .and_then(|mut f| f.write_all(text.as_ref()))
            .expect("file");
        self
    }

    fn link(&self, from: &str, to: &str) -> &Self {
        let from = self.home.path().join(from);
        fs::create_dir_all(from.parent().expect("a folder")).expect("folders");
        std::os::unix::fs::symlink(self.home.path().join(to), from).expect("link");
        self
    }

    fn card(&self) -> &Self {
        let card = "sys/devices/mmc0:0001";
        self.put(&format!("{card}/type"), "SD\n")
            .put(&format!("{card}/block/mmcblk0/mmcblk0p2/partition"), "2")
            .link(&format!("{card}/block/mmcblk0/device"), card)
            .link(
                "sys/dev/block/179:2",
                &format!("{card}/block/mmcblk0/mmcblk0p2"),
            )
    }

    /// Level and words of every check of that name.
    fn checks(&self, name: &str) -> Vec<(Level, String)> {
        let patient = Patient {
            settings: &self.loaded.settings,
            agent: None,
            hidden: false,
            silent: false,
            tree: Tree::new(self.home.path()),
        };
        let mut all = Vec::new();
        machine(&patient, &mut all);
        all.into_iter()
            .filter(|c| c.name == name)
            .map(|c| (c.level, format!("{} -> {}", c.found, c.remedy)))
            .collect()
    }

    /// Of the only check of that name.
    #[track_caller]
    fn one(&self, name: &str) -> (Level, String) {
        let mut all = self.checks(name);
        assert_eq!(all.len(), 1, "{name}: {all:?}");
        all.remove(0)
    }
}

#[test]
fn memory_that_may_stay_unwritten_is_weighed_against_the_hold_up_time() {
    let w = World::new();
    assert_eq!(w.one("vm.dirty").0, Level::Unknown);
    w.put(
        "proc/meminfo",
        "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n",
    )
    .put("proc/sys/vm/dirty_background_bytes", "0\n")
    .put("proc/sys/vm/dirty_bytes", "0\n")
    .put("proc/sys/vm/dirty_background_ratio", "10\n")
    .put("proc/sys/vm/dirty_ratio", "20\n");
    let (level, words) = w.one("vm.dirty");
    assert_eq!(level, Level::Warn);
    assert!(words.starts_with("409 MB may wait"), "{words}");
    w.put("proc/sys/vm/dirty_background_bytes", "4194304\n");
    assert_eq!(w.one("vm.dirty").0, Level::Ok);
}

#[test]
fn swap_on_the_card_is_warned_about_and_zram_is_not() {
    let w = World::new();
    let head = "Filename Type Size Used Priority\n";
    w.put("proc/swaps", head);
    assert_eq!(w.one("swap").0, Level::Ok);
    w.put(
        "proc/swaps",
        format!("{head}/dev/zram0 partition 1 0 100\n"),
    );
    assert_eq!(w.one("swap").0, Level::Ok);
    w.put("proc/swaps", format!("{head}/var/swap file 102396 0 -2\n"));
    assert_eq!(w.one("swap").0, Level::Warn);
}

#[test]
fn a_journal_on_the_card_needs_a_limit() {
    let w = World::new();
    w.put("etc/systemd/journald.conf", "[Journal]\n#SystemMaxUse=\n");
    assert_eq!(w.one("journal").0, Level::Ok, "no /var/log/journal");
    w.put("var/log/journal/x", "");
    assert_eq!(w.one("journal").0, Level::Warn);
    w.put(
        "usr/lib/systemd/journald.conf.d/40-rpi.conf",
        "[Journal]\nStorage=volatile\n",
    );
    assert_eq!(w.one("journal").0, Level::Ok);
    w.put(
        "etc/systemd/journald.conf.d/50.conf",
        "Storage=persistent\nSystemMaxUse=64M\n",
    );
    assert_eq!(
        w.one("journal"),
        (Level::Ok, "on the medium, at most 64M -> ".to_owned())
    );
}

#[test]
fn command_queueing_on_a_pi_5_is_told_by_the_kernel_first() {
    let w = World::new();
    w.card();
    assert!(w.checks("sd_cqe").is_empty(), "no Pi 5");
    let w = World::pi5();
    assert!(w.checks("sd_cqe").is_empty(), "no card");
    w.card();
    assert_eq!(w.one("sd_cqe").0, Level::Unknown);
    w.put(
        "boot/firmware/config.txt",
        "[all]\ndtparam=i2c_arm=on,sd_cqe=off\n",
    );
    assert_eq!(w.one("sd_cqe").0, Level::Ok);
    w.put("proc/device-tree/axi/mmc@fff000/supports-cqe", [0, 0, 0, 1]);
    assert_eq!(w.one("sd_cqe").0, Level::Warn, "not rebooted yet");
    w.put("proc/device-tree/axi/mmc@fff000/supports-cqe", [0, 0, 0, 0]);
    assert_eq!(w.one("sd_cqe").0, Level::Ok);
    w.put("boot/firmware/config.txt", "dtparam=sd_cqe\n");
    w.put("proc/device-tree/axi/mmc@fff000/supports-cqe", "");
    assert_eq!(w.one("sd_cqe").0, Level::Warn);
}

#[test]
fn a_console_or_a_login_on_the_technicians_line_is_found_through_its_link() {
    let mut w = World::new();
    w.loaded.settings.console.port = "/dev/serial0".into();
    assert!(w.checks("port").is_empty(), "no such line");
    w.put("dev/ttyAMA10", "")
        .link("dev/serial0", "dev/ttyAMA10");
    w.put(
        "proc/consoles",
        "ttyAMA1              -W- (EC  p a)   204:65\n",
    );
    assert_eq!(w.one("port").0, Level::Ok, "another line's console");
    w.put(
        "proc/consoles",
        "ttyAMA10             -W- (EC  p a)   204:74\n",
    );
    let (level, words) = w.one("port");
    assert_eq!(level, Level::Warn);
    assert!(words.contains("cmdline.txt"), "{words}");
    w.put("proc/consoles", "");
    let unit = "serial-getty@ttyAMA10.service";
    w.put(
        &format!("run/systemd/generator/getty.target.wants/{unit}"),
        "",
    );
    assert!(w.one("port").1.contains("mask"));
    w.put("dev/null", "")
        .link(&format!("etc/systemd/system/{unit}"), "dev/null");
    assert_eq!(w.one("port").0, Level::Ok, "masked");
}

#[test]
fn a_watchdog_that_nobody_feeds_is_no_watchdog() {
    let w = World::new();
    assert_eq!(w.one("watchdog").0, Level::Warn);
    w.put(
        "sys/class/watchdog/watchdog0/identity",
        "Broadcom BCM2835 Watchdog timer\n",
    );
    assert_eq!(w.one("watchdog").0, Level::Unknown);
    w.put("sys/class/watchdog/watchdog0/state", "inactive\n");
    assert_eq!(w.one("watchdog").0, Level::Warn);
    w.put("sys/class/watchdog/watchdog0/state", "active\n");
    w.put("sys/class/watchdog/watchdog0/timeout", "15\n");
    assert_eq!(w.one("watchdog").0, Level::Ok);
}

#[test]
fn a_name_that_somebody_chose_is_shown_escaped() {
    let w = World::new();
    w.put(
        "proc/self/mountinfo",
        "29 1 179:2 / /\u{1b}[2J rw - ext4 x rw\n30 1 179:2 / /var rw - ext4 x rw,\u{1b}[2J\n",
    );
    w.put("proc/swaps", "head\n/\u{1b}[2J file 1 0 1\n");
    w.put("sys/class/watchdog/watchdog0/identity", "\u{1b}[2J\n");
    for name in ["mount", "swap", "watchdog"] {
        let (_, words) = w.one(name);
        assert!(!words.contains('\u{1b}'), "{words:?}");
    }
}

#[test]
fn a_clock_without_a_cell_is_told() {
    let w = World::new();
    assert_eq!(w.one("clock").0, Level::Warn);
    w.put("sys/class/rtc/rtc0/name", "rpi_rtc\n");
    assert_eq!(w.one("clock").0, Level::Ok);
    w.put("sys/class/rtc/rtc0/battery_voltage", "9876\n");
    assert_eq!(w.one("clock").0, Level::Warn);
    w.put("sys/class/rtc/rtc0/battery_voltage", "3012345\n");
    assert!(w.one("clock").1.contains("3.01 V"));
}

#[test]
fn a_pi_5_that_waits_for_its_button_is_bad() {
    assert!(World::new().checks("eeprom").is_empty());
    let mut w = World::pi5();
    w.loaded.settings.board.cycles_supply = false;
    assert_eq!(w.one("eeprom").0, Level::Unknown, "not readable");
    let node = "reserved-memory/nvram@1";
    w.put("proc/device-tree/aliases/blconfig", format!("/{node}\0"))
        .put(&format!("proc/device-tree/{node}/status"), "okay")
        .put(
            "proc/device-tree/chosen/bootloader/build-timestamp",
            1_712_313_679u32.to_be_bytes(),
        )
        .link(
            "sys/bus/nvmem/devices/blconfig0/of_node",
            &format!("proc/device-tree/{node}"),
        )
        .put(
            "sys/bus/nvmem/devices/blconfig0/nvmem",
            "[all]\nBOOT_UART=1\nPOWER_OFF_ON_HALT=0\nBOOT_ORDER=0xf461\n\0\0",
        );
    let (level, words) = w.one("eeprom");
    assert_eq!(level, Level::Ok);
    assert!(words.contains("built 2024-04-05"), "{words}");
    w.put(
        "sys/bus/nvmem/devices/blconfig0/nvmem",
        "[all]\nWAIT_FOR_POWER_BUTTON=1\nPOWER_OFF_ON_HALT=1\n",
    );
    let levels: Vec<_> = w.checks("eeprom").into_iter().map(|(l, _)| l).collect();
    assert_eq!(levels, [Level::Bad, Level::Warn]);
}

#[test]
fn under_voltage_in_the_past_is_told() {
    let w = World::pi5();
    assert!(w.checks("rail").is_empty());
    w.put(
        "proc/device-tree/chosen/power/power_reset",
        2u32.to_be_bytes(),
    );
    assert_eq!(w.one("rail").0, Level::Warn);
    w.put(
        "proc/device-tree/chosen/power/power_reset",
        0u32.to_be_bytes(),
    );
    assert_eq!(w.one("rail").0, Level::Ok);
    let throttled = "sys/devices/platform/soc/soc:firmware/get_throttled";
    for (flags, level) in [
        ("0", Level::Ok),
        ("50000", Level::Warn),
        ("50005", Level::Bad),
    ] {
        w.put(throttled, format!("{flags}\n"));
        assert_eq!(w.checks("rail")[1].0, level, "{flags}");
    }
}
