//! Whole looks at copied trees, laid out as sysfs lays them out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// A tree that is filled file by file.
struct World {
    home: tempfile::TempDir,
}

const DATA: &str = "/var/lib/holdup";
const HOST: &str = "sys/devices/platform/axi/1000fff000.mmc/mmc_host/mmc0";

impl World {
    fn new() -> Self {
        let world = Self {
            home: tempfile::tempdir().expect("temp dir"),
        };
        world.put("proc/uptime", "864000.00 1000.0\n");
        world.put("dev/kmsg", "6,1,0,-;Booting Linux\n");
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    fn put(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::File::create(path)
            .and_then(|mut f| std::io::Write::write_all(&mut f, text.as_ref()))
            .expect("file");
        self
    }

    fn link(&self, from: &str, to: &str) -> &Self {
        let from = self.at(from);
        fs::create_dir_all(from.parent().expect("a folder")).expect("folders");
        let up = "../".repeat(
            from.strip_prefix(self.home.path())
                .expect("inside")
                .components()
                .count()
                - 1,
        );
        symlink(format!("{up}{to}"), from).expect("link");
        self
    }

    fn mounts(&self, table: &str) -> &Self {
        self.put("proc/self/mountinfo", table)
    }

    /// A card with a partition 2 that holds the data.
    fn card(&self, kind: &str, files: &[(&str, &str)]) -> &Self {
        let disk = format!("{HOST}/mmc0:0001/block/mmcblk0");
        self.put(&format!("{HOST}/mmc0:0001/type"), format!("{kind}\n"));
        for (name, value) in files {
            self.put(&format!("{HOST}/mmc0:0001/{name}"), format!("{value}\n"));
        }
        self.put(&format!("{disk}/size"), "62333952\n")
            .put(&format!("{disk}/ro"), "0\n")
            .put(
                &format!("{disk}/stat"),
                "100 0 2000 30 4000 5 16777216 80000 0 90 110 0 0 0 0 3 7\n",
            )
            .put(&format!("{disk}/mmcblk0p2/partition"), "2\n")
            .link(&format!("{disk}/device"), &format!("{HOST}/mmc0:0001"))
            .link("sys/dev/block/179:2", &format!("{disk}/mmcblk0p2"))
            .link("sys/class/block/mmcblk0p2", &format!("{disk}/mmcblk0p2"))
            .link("sys/class/block/mmcblk0", &disk)
            .mounts("29 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw\n")
            .put("sys/fs/ext4/mmcblk0p2/errors_count", "0\n")
            .put("sys/fs/ext4/mmcblk0p2/lifetime_write_kbytes", "10485760\n")
            .put(
                "sys/kernel/debug/mmc0/err_stats",
                "# Command Timeout Occurred:\t 2\n# Data CRC Errors Occurred:\t 0\n",
            )
    }

    fn sandisk(&self) -> &Self {
        self.card(
            "SD",
            &[
                ("cid", "035344534333324780b1a2c3d4013700"),
                ("csd", "400e00325b590000edc87f800a404000"),
                (
                    "ssr",
                    &format!("{}0400000000003{}", "0".repeat(16), "0".repeat(99)),
                ),
            ],
        )
    }

    fn qemu(&self) -> &Self {
        self.card(
            "SD",
            &[
                ("cid", "aa585951454d552101deadbeef006219"),
                ("csd", "400e00325b590000ffff7f800a404000"),
                ("ssr", &"0".repeat(128)),
            ],
        )
    }

    fn look(&self) -> Report {
        self.look_with(&History::default(), Probe::Listed)
    }

    fn look_with(&self, history: &History, probe: Probe) -> Report {
        let asked = Asked {
            dir: Path::new(DATA),
            probe,
            latency: None,
            amplification: None,
            history,
            now_ms: 1_767_225_600_000,
        };
        examine(&Tree::new(self.home.path()), asked)
    }

    fn kernel(&self, lines: &[&str]) -> &Self {
        let log: String = lines
            .iter()
            .zip(1..)
            .map(|(l, n)| format!("3,{n},{n}000,-;{l}\n"))
            .collect();
        self.put("dev/kmsg", log)
    }
}

#[test]
fn a_consumer_card_without_trouble_is_unknown_and_its_maker_only_likely() {
    let world = World::new();
    let report = world.sandisk().look();
    assert_eq!(report.judgement.verdict, Verdict::Unknown);
    assert_eq!(report.judgement.confidence, Confidence::None);
    assert_eq!(report.device.as_deref(), Some("mmcblk0"));
    assert_eq!(report.kind, Some(Kind::Sd));
    assert_eq!(report.identity.product.as_deref(), Some("SC32G"));
    assert_eq!(
        report.identity.likely_maker.as_deref(),
        Some("SanDisk or Western Digital")
    );
    assert_eq!(
        report.layers,
        ["ext4 on /", "partition mmcblk0p2", "SD card mmcblk0"]
    );
    assert_eq!(report.bytes, Some(62_333_952 * 512));
    let f = report.forecast.expect("ten days of writes");
    assert!(f.from_days < f.to_days, "{f:?}");
}

#[test]
fn qemus_card_is_unknown_whoever_asks() {
    let world = World::new();
    world.qemu();
    for probe in [Probe::Never, Probe::Listed, Probe::Asked(None)] {
        let report = world.look_with(&History::default(), probe);
        assert_eq!(report.judgement.verdict, Verdict::Unknown, "{probe:?}");
        assert_eq!(report.identity.product.as_deref(), Some("QEMU!"));
        assert_eq!(report.identity.serial.as_deref(), Some("0xdeadbeef"));
        assert_eq!(report.identity.speed, None);
    }
}

#[test]
fn an_emmc_that_counts_its_wear_is_good_until_it_is_worn() {
    for (life, eol, verdict) in [
        ("0x01 0x02", "0x01", Verdict::Good),
        ("0x00 0x00", "0x00", Verdict::Unknown),
        ("0x08 0x02", "0x01", Verdict::Watch),
        ("0x0a 0x02", "0x01", Verdict::ReplaceSoon),
        ("0x01 0x0b", "0x01", Verdict::ReplaceNow),
        ("0x01 0x01", "0x03", Verdict::ReplaceNow),
    ] {
        let world = World::new();
        world.card(
            "MMC",
            &[
                ("cid", "150100424a5444345207d2f3b1c75a00"),
                ("rev", "0x8"),
                ("life_time", life),
                ("pre_eol_info", eol),
                ("date", "05/2023"),
            ],
        );
        let report = world.look();
        assert_eq!(report.judgement.verdict, verdict, "{life} {eol}");
        assert_eq!(report.identity.likely_maker.as_deref(), Some("Samsung"));
        assert_eq!(report.identity.product.as_deref(), Some("BJTD4R"));
        assert_eq!(report.identity.made.as_deref(), Some("2023-05"));
    }
}

#[test]
fn an_nvme_disk_is_judged_by_its_log_and_unknown_without_one() {
    let world = World::new();
    let ctrl = "sys/devices/platform/axi/1000110000.pcie/pci0000:00/0000:01:00.0/nvme/nvme0";
    let disk = format!("{ctrl}/nvme0n1");
    world
        .put(&format!("{ctrl}/model"), "WD Red SN700 500GB   \n")
        .put(&format!("{ctrl}/serial"), "21334A802345\n")
        .put(&format!("{ctrl}/firmware_rev"), "111130WD\n")
        .put(&format!("{disk}/size"), "976773168\n")
        .put(&format!("{disk}/stat"), "1 0 8 0 1 0 8 0 0 0 0\n")
        .put(&format!("{disk}/nvme0n1p1/partition"), "1\n")
        .link(&format!("{disk}/device"), ctrl)
        .link("sys/dev/block/259:1", &format!("{disk}/nvme0n1p1"))
        .mounts("29 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n");
    assert_eq!(world.look().judgement.verdict, Verdict::Unknown);
    world.put("dev/nvme0.smart", nvme::tests::page(3));
    let report = world.look();
    assert_eq!(report.judgement.verdict, Verdict::Good);
    assert_eq!(report.judgement.confidence, Confidence::High);
    assert_eq!(report.id(), Some("WD Red SN700 500GB 21334A802345"));
    assert_eq!(
        report.layers.last().map(String::as_str),
        Some("NVMe disk nvme0n1")
    );
    world.put("dev/nvme0.smart", [0; NVME_PAGE]);
    assert_eq!(world.look().judgement.verdict, Verdict::Unknown, "zeros");
}

#[test]
fn an_nvme_disk_under_multipath_is_asked_through_its_controller() {
    let world = World::new();
    let subsys = "sys/devices/virtual/nvme-subsystem/nvme-subsys0";
    let disk = format!("{subsys}/nvme0n1");
    let ctrl = "sys/devices/pci0000:00/0000:00:03.0/nvme/nvme3";
    world
        .put(&format!("{subsys}/model"), "QEMU NVMe Ctrl\n")
        .put(&format!("{subsys}/serial"), "worn-1\n")
        .put(&format!("{ctrl}/state"), "live\n")
        .put(&format!("{disk}/size"), "262144\n")
        .put(&format!("{disk}/nvme0n1p1/partition"), "1\n")
        .link(&format!("{subsys}/nvme3"), ctrl)
        .link(&format!("{disk}/device"), subsys)
        .link("sys/dev/block/259:1", &format!("{disk}/nvme0n1p1"))
        .mounts("29 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n");
    world.put("dev/nvme3.smart", nvme::tests::page(3));
    assert_eq!(world.look().judgement.verdict, Verdict::Good);
}

#[test]
fn read_errors_accuse_the_card_unless_the_supply_sagged_or_the_host_stumbled() {
    let error = "I/O error, dev mmcblk0, sector 2048 op 0x0:(READ) flags 0x80700";
    for (other, verdict, first) in [
        ("usb 1-1: new device", Verdict::ReplaceSoon, Suspect::Card),
        (
            "hwmon hwmon1: Undervoltage detected!",
            Verdict::Watch,
            Suspect::Power,
        ),
        ("mmc0: running CQE recovery", Verdict::Watch, Suspect::Host),
        (
            "I/O error, dev mmcblk0, sector 1 op 0x3:(DISCARD)",
            Verdict::ReplaceSoon,
            Suspect::Card,
        ),
    ] {
        let world = World::new();
        let report = world.sandisk().kernel(&[error, other]).look();
        assert_eq!(report.judgement.verdict, verdict, "{other}");
        assert_eq!(report.judgement.suspects[0].suspect, first, "{other}");
    }
    let world = World::new();
    let discard = "I/O error, dev mmcblk0, sector 1 op 0x3:(DISCARD)";
    let report = world.sandisk().kernel(&[discard; 40]).look();
    assert_eq!(report.judgement.verdict, Verdict::Unknown, "discards alone");
}

#[test]
fn a_rail_that_sagged_by_the_firmwares_word_excuses_the_card() {
    let world = World::new();
    let error = "I/O error, dev mmcblk0, sector 2048 op 0x1:(WRITE) flags 0x80700";
    world.sandisk().kernel(&[error]);
    let throttled = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled";
    for (flags, verdict) in [
        ("0", Verdict::ReplaceNow),
        ("50000", Verdict::Watch),
        ("50005", Verdict::Watch),
        ("nonsense", Verdict::ReplaceNow),
    ] {
        world.put(throttled, format!("{flags}\n"));
        assert_eq!(world.look().judgement.verdict, verdict, "{flags}");
    }
}

#[test]
fn names_that_somebody_chose_write_nothing_to_a_terminal() {
    let world = World::new();
    let table =
        "29 1 0:30 / / rw - overlay \u{1b}[2J rw\n30 29 0:31 / /var/lib rw - tmpfs\u{1b}[2J x rw\n";
    let report = world.mounts(table).look();
    let json = format!("{report:?}");
    assert!(!json.contains("\\u{1b}"), "{json}");
}

#[test]
fn a_file_system_with_errors_is_watched_and_the_card_is_not_accused() {
    let world = World::new();
    world
        .sandisk()
        .put("sys/fs/ext4/mmcblk0p2/errors_count", "3\n");
    world.put("sys/fs/ext4/mmcblk0p2/last_error_time", "1767225600\n");
    let report = world.look();
    assert_eq!(report.judgement.verdict, Verdict::Watch);
    assert_eq!(report.judgement.suspects.len(), 1);
    assert_eq!(report.judgement.suspects[0].suspect, Suspect::FileSystem);
    assert!(
        report.judgement.why.contains("2026-01-01"),
        "{}",
        report.judgement.why
    );
}

#[test]
fn what_lies_on_no_single_disk_is_unknown_and_says_why() {
    for (table, why) in [
        (
            "29 1 0:30 / / rw - overlay overlay rw,lowerdir=/a\n",
            "overlay",
        ),
        ("29 1 0:30 / / rw - tmpfs tmpfs rw\n", "no disk"),
        ("29 1 7:1 / / rw - ext4 /dev/loop1 rw\n", "does not tell"),
        ("garbage\n", "no mount"),
    ] {
        let world = World::new();
        let report = world.mounts(table).look();
        assert_eq!(report.judgement.verdict, Verdict::Unknown, "{table}");
        assert_eq!(report.device, None);
        assert!(
            report.judgement.why.contains(why),
            "{}",
            report.judgement.why
        );
    }
    assert_eq!(
        World::new().look().judgement.verdict,
        Verdict::Unknown,
        "no table of mounts"
    );
}

#[test]
fn a_mapped_partition_and_a_loop_are_followed_down_to_the_card() {
    let world = World::new();
    let dm = "sys/devices/virtual/block/dm-0";
    let disk = format!("{HOST}/mmc0:0001/block/mmcblk0");
    world
        .sandisk()
        .put(&format!("{dm}/dm/name"), "data\n")
        .link(
            &format!("{dm}/slaves/mmcblk0p2"),
            &format!("{disk}/mmcblk0p2"),
        )
        .link("sys/dev/block/254:0", dm)
        .mounts(
            "29 1 179:2 / / rw - ext4 /dev/mmcblk0p2 rw\n\
             30 29 254:0 / /var/lib/holdup rw - ext4 /dev/mapper/data rw\n",
        );
    let report = world.look();
    assert_eq!(
        report.layers,
        [
            "ext4 on /var/lib/holdup",
            "dm-0 (data)",
            "partition mmcblk0p2",
            "SD card mmcblk0"
        ]
    );
    // An error that the kernel tells of the mapped device counts.
    world.kernel(&["Buffer I/O error on dev dm-0, logical block 7, async page read"]);
    assert_eq!(world.look().judgement.verdict, Verdict::ReplaceSoon);

    let lo = "sys/devices/virtual/block/loop0";
    world
        .put(&format!("{lo}/loop/backing_file"), "/images/data.img\n")
        .link("sys/dev/block/7:0", lo)
        .mounts(
            "29 1 179:2 / / rw - ext4 /dev/mmcblk0p2 rw\n\
             30 29 7:0 / /var/lib/holdup rw - ext4 /dev/loop0 rw\n",
        );
    let report = world.look();
    assert_eq!(report.device.as_deref(), Some("mmcblk0"));
    assert_eq!(report.layers[1], "loop0 on the file /images/data.img");
}

#[test]
fn layers_that_go_in_a_circle_or_span_several_disks_are_told() {
    let world = World::new();
    let (a, b) = (
        "sys/devices/virtual/block/dm-0",
        "sys/devices/virtual/block/dm-1",
    );
    world
        .link(&format!("{a}/slaves/dm-1"), b)
        .link(&format!("{b}/slaves/dm-0"), a)
        .link("sys/dev/block/254:0", a)
        .mounts("29 1 254:0 / / rw - ext4 /dev/dm-0 rw\n");
    assert!(world.look().judgement.why.contains("circle"));
    world.link(&format!("{a}/slaves/sda1"), b);
    assert!(world.look().judgement.why.contains("spans 2 devices"));
    // A loop on a file of its own file system.
    let world = World::new();
    let lo = "sys/devices/virtual/block/loop0";
    world
        .put(&format!("{lo}/loop/backing_file"), "/data.img\n")
        .link("sys/dev/block/7:0", lo)
        .mounts("29 1 7:0 / / rw - ext4 /dev/loop0 rw\n");
    assert!(world.look().judgement.why.contains("circle"));
}

#[test]
fn files_that_are_pipes_folders_or_huge_hold_nobody_up() {
    let world = World::new();
    world.sandisk();
    let card = format!("{HOST}/mmc0:0001");
    for name in ["cid", "ssr"] {
        let path = world.at(&format!("{card}/{name}"));
        fs::remove_file(&path).expect("remove");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .expect("fifo");
    }
    fs::remove_file(world.at(&format!("{card}/csd"))).expect("remove");
    fs::create_dir(world.at(&format!("{card}/csd"))).expect("folder");
    world.put("sys/fs/ext4/mmcblk0p2/errors_count", "7".repeat(200_000));
    let report = world.look();
    assert_eq!(report.judgement.verdict, Verdict::Unknown);
    assert_eq!(report.identity.id, None);
}

#[test]
fn a_card_that_declares_itself_read_only_is_to_be_replaced() {
    let world = World::new();
    world.sandisk();
    let csd = "400e00325b590000edc87f800a406000";
    world.put(&format!("{HOST}/mmc0:0001/csd"), csd);
    assert_eq!(world.look().judgement.verdict, Verdict::ReplaceNow);
}

#[test]
fn a_swapped_card_is_told_with_the_one_before() {
    let world = World::new();
    let first = world.sandisk().look();
    let mut history = History::default();
    history.note(Seen {
        id: first.id().expect("a cid"),
        name: &first.name(),
        now_ms: 1,
        verdict: first.judgement.verdict,
        wear: None,
        latency: None,
    });
    assert_eq!(world.look_with(&history, Probe::Never).swapped_from, None);
    let cid = "035344534333324780b1a2c3d5013700";
    world.put(&format!("{HOST}/mmc0:0001/cid"), cid);
    let report = world.look_with(&history, Probe::Never);
    let before = report.swapped_from.expect("another serial");
    assert!(before.contains("0xb1a2c3d4"), "{before}");
}
