//! A folder with files in it, loaded as the agent would.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdup::config::{
    Bias, ConfigError, GpioAbi, KEYS, LineAt, LineSpec, Loaded, Origin, Source, Value,
    by_device_tree, load, load_on,
};
use proptest::prelude::*;
use tempfile::TempDir;

/// A configuration folder.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new(main: &str) -> Self {
        let dir = TempDir::new().unwrap();
        Self { dir }.file("holdup.toml", main)
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own files need no sync")]
    fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn main(&self) -> PathBuf {
        self.dir.path().join("holdup.toml")
    }

    fn load(&self) -> Loaded {
        match load(&self.main()) {
            Ok(loaded) => loaded,
            Err(error) => panic!("refused:\n{error}"),
        }
    }

    fn refused(&self) -> ConfigError {
        load(&self.main()).expect_err("accepted")
    }

    /// The messages, with the folder's name taken out.
    fn complaints(&self) -> Vec<String> {
        let folder = format!("{}/", self.dir.path().display());
        let error = self.refused().to_string();
        error.lines().map(|l| l.replace(&folder, "")).collect()
    }
}

fn complaints(main: &str) -> Vec<String> {
    Site::new(main).complaints()
}

fn warnings(main: &str) -> Vec<String> {
    let site = Site::new(main);
    let mut warnings = site.load().warnings;
    // This machine's host name is not the test's.
    warnings.retain(|w| w.key != "gateway.id" || w.place.is_some());
    let folder = format!("{}/", site.dir.path().display());
    let shown = warnings.iter().map(|w| w.to_string().replace(&folder, ""));
    shown.collect()
}

fn rp1(offset: u32, active_high: bool, bias: Bias) -> LineSpec {
    LineSpec {
        chip: Some("pinctrl-rp1".to_owned()),
        at: LineAt::Offset(offset),
        active_high,
        bias,
    }
}

/// A device tree's root as the kernel shows it: every text ends in a zero byte.
fn device_tree(model: &str, compatible: &[&str]) -> TempDir {
    let site = Site::new("")
        .file("model", format!("{model}\0"))
        .file("compatible", compatible.join("\0") + "\0");
    site.dir
}

#[test]
fn auto_is_the_board_of_the_raspberry_pi_that_this_is() {
    // As in Debian's and Raspberry Pi's device trees; the last three are of no rppal.
    for (model, compatible, board, chip) in [
        (
            "Raspberry Pi 5",
            ["raspberrypi,5-model-b", "brcm,bcm2712"],
            "rpi5",
            "pinctrl-rp1",
        ),
        (
            "Raspberry Pi 5 Model B Rev 1.1",
            ["raspberrypi,5-model-b", "brcm,bcm2712"],
            "rpi5",
            "pinctrl-rp1",
        ),
        (
            "Raspberry Pi Compute Module 5 Rev 1.0",
            ["raspberrypi,5-compute-module", "brcm,bcm2712"],
            "rpi5",
            "pinctrl-rp1",
        ),
        (
            "Raspberry Pi 4 Model B",
            ["raspberrypi,4-model-b", "brcm,bcm2711"],
            "rpi4",
            "pinctrl-bcm2711",
        ),
        (
            "Raspberry Pi 3 Model B",
            ["raspberrypi,3-model-b", "brcm,bcm2837"],
            "rpi3",
            "pinctrl-bcm2835",
        ),
        (
            "Raspberry Pi 500+",
            ["raspberrypi,500-plus", "brcm,bcm2712"],
            "rpi5",
            "pinctrl-rp1",
        ),
        (
            "Raspberry Pi Compute Module 4 IO Board",
            ["raspberrypi,4-compute-module-io", "brcm,bcm2711"],
            "rpi4",
            "pinctrl-bcm2711",
        ),
        (
            "linux,dummy-virt",
            ["linux,dummy-virt", ""],
            "qemu-virt",
            "9030000.pl061",
        ),
    ] {
        let tree = device_tree(model, &compatible);
        let site = Site::new("[power]\nboard = \"auto\"\n");
        let loaded = load_on(&site.main(), &|| by_device_tree(tree.path())).unwrap();
        let settings = &loaded.settings;
        assert_eq!(settings.board.name, board, "{model}");
        let line = settings.board.power_fail.as_ref().unwrap();
        assert_eq!(line.chip.as_deref(), Some(chip), "{model}");
    }
}

#[test]
fn auto_on_an_unknown_machine_names_what_was_seen_and_the_remedy() {
    let site = Site::new("[power]\nboard = \"auto\"\n");
    let refused = |tree: &Path| {
        let error = load_on(&site.main(), &|| by_device_tree(tree)).unwrap_err();
        let folder = format!("{}/", site.dir.path().display());
        error.to_string().replace(&folder, "")
    };
    let rock = device_tree("Radxa ROCK 5B", &["radxa,rock-5b", "rockchip,rk3588"]);
    assert_eq!(
        refused(rock.path()),
        "holdup.toml:2: power.board: is \"auto\", and no board is known for what this is: \
         Radxa ROCK 5B (rockchip,rk3588); use one of rpi5, rpi4, rpi3, qemu-virt, sim, or describe \
         it in board/NAME/board.toml"
    );
    // A Pi's processor on another maker's board says nothing about its header.
    let other = device_tree("Some Box", &["somebody,box", "brcm,bcm2711"]);
    assert!(refused(other.path()).contains("what this is: Some Box (BCM2711); "));
    let none = TempDir::new().unwrap();
    assert!(refused(none.path()).contains("what this is: no machine with a device tree; "));
}

#[test]
fn the_machine_is_asked_only_for_auto() {
    let site = Site::new("");
    let asked = || panic!("nobody wanted to know");
    assert_eq!(
        load_on(&site.main(), &asked).unwrap().settings.board.name,
        "rpi5"
    );
}

#[test]
fn the_gpio_abi_is_asked_of_the_kernel_unless_it_is_named() {
    let abi = |text: &str| Site::new(text).load().settings.board.abi;
    assert_eq!(abi(""), GpioAbi::Auto);
    assert_eq!(abi("[gpio]\nabi = \"v1\"\n"), GpioAbi::V1);
    assert_eq!(abi("[gpio]\nabi = \"v2\"\n"), GpioAbi::V2);
    assert_eq!(
        complaints("[gpio]\nabi = \"v3\"\n"),
        ["holdup.toml:2: gpio.abi: \"v3\" is not known; give \"auto\" or \"v1\" or \"v2\""]
    );
}

#[test]
fn an_empty_file_is_a_raspberry_pi_5_with_a_capacitor_of_unknown_size() {
    let site = Site::new("");
    let loaded = site.load();
    let settings = &loaded.settings;
    assert_eq!(settings.gateway.data_dir, Path::new("/var/lib/holdup"));
    assert_eq!(settings.power.source, Source::Capacitor);
    assert_eq!(settings.power.holdup, None);
    assert_eq!(settings.power.glitch, Duration::from_millis(30));
    assert_eq!(settings.ingest.queue_bytes, 2 << 20);
    assert_eq!(settings.board.name, "rpi5");
    assert!(!settings.board.cycles_supply && !settings.board.is_sim());
    assert_eq!(settings.board.power_fail, Some(rp1(6, false, Bias::PullUp)));
    assert_eq!(settings.board.safe_to_cut, None, "no pin is driven unasked");
    assert!(!settings.gateway.id.is_empty());
    let unset: Vec<&str> = loaded.warnings.iter().map(|w| w.key.as_str()).collect();
    assert!(unset.contains(&"power.holdup_ms"), "{unset:?}");
}

#[test]
fn the_emulated_board_has_the_lines_that_its_drivers_pull() {
    let loaded = Site::new("[power]\nboard = \"qemu-virt\"\n").load();
    let board = loaded.settings.board;
    let line = |offset| {
        Some(LineSpec {
            chip: Some("9030000.pl061".to_owned()),
            ..rp1(offset, true, Bias::AsIs)
        })
    };
    assert_eq!(board.power_fail, line(5));
    assert_eq!(board.brownout, line(6));
    assert_eq!(board.presence, line(4));
    assert_eq!(board.status, line(0));
    assert_eq!(board.safe_to_cut, line(1));
    assert!(board.cycles_supply && board.battery_low.is_none());
}

#[test]
fn a_test_needs_a_dozen_lines_and_no_root() {
    let loaded = Site::new(
        r#"
[gateway]
id = "test"
data_dir = "/tmp/t/data"
run_dir = "/tmp/t/run"
[power]
board = "sim"
holdup_ms = 1500
"#,
    )
    .load();
    let board = &loaded.settings.board;
    assert_eq!(board.sim_control(), Some(Path::new("/tmp/t/run/sim.sock")));
    assert!(board.brownout.is_some() && board.battery_low.is_some());
    assert_eq!(loaded.warnings, vec![]);
    let holdup = loaded.settings.power.holdup;
    assert_eq!(holdup, Some(Duration::from_millis(1500)));
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_the_nearest_word() {
    assert_eq!(
        complaints("[power]\n\nhold_up_ms = 5\n"),
        ["holdup.toml:3: power.hold_up_ms: unknown key; did you mean `holdup_ms`?"]
    );
    assert_eq!(
        complaints("holdup_ms = 500\n[powr]\nx = 1\n"),
        [
            "holdup.toml:1: holdup_ms: unknown key; `holdup_ms` belongs to [power]",
            "holdup.toml:2: powr: unknown table; did you mean `power`?",
        ]
    );
    assert_eq!(
        complaints("[\"board.sim\"]\ncontrol = \"/x\"\n")[0],
        "holdup.toml:1: board.sim: unknown table; did you mean `board.sim`?"
    );
}

#[test]
fn every_mistake_of_every_file_is_told_at_once() {
    let site = Site::new("[power]\nglitch_ms = 1.5\nlow_percent = 95\n")
        .file(
            "conf.d/a.toml",
            "[store]\nindex = \"yes\"\n\n[[database]]\npriority = 1\n",
        )
        .file("conf.d/b.toml", "[ingest\n");
    let found = site.complaints();
    let expected = [
        "holdup.toml:2: power.glitch_ms: is a fraction (1.5); give a whole number from 1 to 60000 (ms)",
        "holdup.toml:3: power.low_percent: 95 is out of range; give a whole number from 1 to 90 (%)",
        "conf.d/a.toml:2: store.index: is text (\"yes\"); give true or false",
        "conf.d/a.toml:4: database.path: is missing; add the database's path",
        "conf.d/b.toml:1: ",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn a_number_that_no_type_can_hold_is_an_error() {
    let huge = "9".repeat(400);
    for bad in [
        "-1",
        "60001",
        "18446744073709551616",
        "0xffffffffffffffffffffff",
        "nan",
        "-inf",
        "1e400",
        "9223372036854775808",
        "1979-05-27",
        "[30]",
        "{ a = 1 }",
        "\"30\"",
        "true",
        &huge,
    ] {
        let found = complaints(&format!("[power]\nglitch_ms = {bad}\n"));
        assert_eq!(found.len(), 1, "{bad}: {found:?}");
        assert!(
            found[0].starts_with("holdup.toml:2: power.glitch_ms: "),
            "{}",
            found[0]
        );
        assert!(
            found[0].ends_with("give a whole number from 1 to 60000 (ms)"),
            "{}",
            found[0]
        );
        assert!(found[0].len() < 250, "{}", found[0].len());
    }
}

#[test]
fn what_is_no_toml_is_refused_and_nothing_else_is_guessed_from_it() {
    let found = complaints("[power]\nboard = \"nosuch\"\nglitch_ms = = 3\n");
    assert!(
        found.iter().all(|l| l.starts_with("holdup.toml:3: ")),
        "{found:?}"
    );
    let twice = complaints("[power]\nglitch_ms = 3\nglitch_ms = 4\n");
    assert!(twice[0].starts_with("holdup.toml:3: "), "{twice:?}");
    let deep = format!("[power]\nglitch_ms = {}\n", "[".repeat(100_000));
    assert!(complaints(&deep)[0].starts_with("holdup.toml:2: "));
    let dotted = format!("{}x = 1\n", "a.".repeat(100_000));
    let found = complaints(&dotted);
    assert_eq!(found, ["holdup.toml: recursion limit; correct the TOML"]);
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let dir = TempDir::new().unwrap();
    let said = |path: &Path| load(path).expect_err("accepted").to_string();
    let missing = dir.path().join("no.toml");
    assert!(said(&missing).contains("no.toml: there is no such file; write it"));
    assert!(said(dir.path()).contains("is a directory; name the file in it"));
    assert_eq!(
        Site::new("")
            .file("holdup.toml", b"[power]\n# \xff\n")
            .complaints(),
        ["holdup.toml:2: is not UTF-8; save it as UTF-8 text"]
    );
    let large = Site::new("").file("holdup.toml", "#".repeat(2 << 20));
    assert!(large.complaints()[0].contains("is larger than 1 MiB"));
    let site = Site::new("").file("conf.d", "a file");
    assert!(site.complaints()[0].starts_with("conf.d: cannot be listed: "));
}

#[test]
fn drop_ins_are_read_by_name_and_the_later_wins() {
    let site =
        Site::new("[power]\nholdup_ms = 1000\nglitch_ms = 10\n[[database]]\npath = \"/a\"\n")
            .file("conf.d/20-x.toml", "[power]\nholdup_ms = 3000\n")
            .file(
                "conf.d/10-x.toml",
                "[power]\nholdup_ms = 2000\n[[database]]\npath = \"/b\"\npriority = 70\n",
            )
            .file("conf.d/.30-x.toml", "not read")
            .file("conf.d/30-x.toml~", "not read");
    let loaded = site.load();
    assert_eq!(loaded.settings.power.holdup, Some(Duration::from_secs(3)));
    let paths = loaded.settings.databases.iter().map(|d| d.path.to_str());
    assert_eq!(paths.collect::<Vec<_>>(), [Some("/b"), Some("/a")]);
    let names = loaded.files.iter().map(|f| f.file_name().unwrap());
    let names: Vec<_> = names.collect();
    assert_eq!(names, ["holdup.toml", "10-x.toml", "20-x.toml"]);

    let origin = |key: &str| loaded.origin(key).map(ToString::to_string).unwrap();
    assert!(origin("power.holdup_ms").ends_with("/conf.d/20-x.toml:2"));
    assert!(origin("power.glitch_ms").ends_with("/holdup.toml:3"));
    assert_eq!(origin("board.power_fail.offset"), "board rpi5");
    assert_eq!(origin("store.index"), "default");
    assert_eq!(loaded.origin("store.keep_days"), None);
}

#[test]
fn a_site_overrides_single_keys_of_the_boards_lines() {
    let site = Site::new(
        r#"
[board]
cycles_supply = true
[board.power_fail]
active = "high"
[board.brownout]
offset = 5
[board.status]
chip = "pcf8574"
offset = 5
"#,
    )
    .file("conf.d/a.toml", "[board.power_fail]\nline = \"GPIO6\"\n");
    let board = site.load().settings.board;
    assert!(board.cycles_supply);
    let by_name = LineSpec {
        chip: None,
        at: LineAt::Name("GPIO6".to_owned()),
        active_high: true,
        bias: Bias::PullUp,
    };
    assert_eq!(
        board.power_fail,
        Some(by_name),
        "the later name replaces the offset"
    );
    assert_eq!(board.brownout, Some(rp1(5, true, Bias::AsIs)));
    let chip = board.status.and_then(|s| s.chip);
    assert_eq!(
        chip.as_deref(),
        Some("pcf8574"),
        "the same offset on another chip"
    );
}

#[test]
fn a_line_can_be_unwired() {
    let text = "[power]\nboard = \"sim\"\n[board.brownout]\nwired = false\n";
    assert_eq!(Site::new(text).load().settings.board.brownout, None);
    let text = "[power]\nboard = \"sim\"\nholdup_ms = 900\n[board.power_fail]\nwired = false\n";
    let said = warnings(text);
    assert!(
        said[0].starts_with("holdup.toml:5: board.power_fail: is not wired"),
        "{said:?}"
    );
}

#[test]
fn a_line_that_cannot_be_meant_is_refused() {
    assert_eq!(
        complaints("[board.brownout]\noffset = 5\nline = \"GPIO5\"\n"),
        ["holdup.toml:3: board.brownout.line: is given beside `offset`; keep one of the two"]
    );
    assert_eq!(
        complaints("[board.brownout]\noffset = 6\n"),
        [
            "holdup.toml:2: board.brownout: is the same line as board.power_fail; \
          give each its own, or unwire one with wired = false"
        ]
    );
    assert_eq!(
        complaints("[board.status]\nactive = \"low\"\n"),
        [
            "holdup.toml:2: board.status: says neither which offset nor which line; \
          add offset or line, or wired = false"
        ]
    );
    assert_eq!(
        complaints("[board]\nname = \"x\"\n"),
        [
            "holdup.toml:2: board.name: belongs into a board's description; \
          name your board.toml in power.board"
        ]
    );
    let label = format!("[board.brownout]\nline = \"{}\"\n", "x".repeat(32));
    assert!(complaints(&label)[0].contains("has 32 bytes; give 1 to 31 bytes"));
}

const OWN_BOARD: &str = r#"
[board]
name = "rpi5"
[board.power_fail]
chip = "expander"
offset = 3
"#;

#[test]
fn a_board_beside_the_file_goes_before_the_one_compiled_in() {
    let site = Site::new("").file("board/rpi5/board.toml", OWN_BOARD);
    let loaded = site.load();
    let chip = loaded.settings.board.power_fail.unwrap().chip;
    assert_eq!(chip.as_deref(), Some("expander"));
    assert!(loaded.files[1].ends_with("board/rpi5/board.toml"));

    let text = "[power]\nboard = \"boards/mine.toml\"\n";
    let site = Site::new(text).file("boards/mine.toml", OWN_BOARD);
    let loaded = site.load();
    assert_eq!(loaded.settings.board.name, "rpi5");
    let origin = loaded.origin("board.power_fail.offset").unwrap();
    assert!(matches!(origin, Origin::Board { place, .. } if place.line == Some(6)));
}

#[test]
fn a_board_that_is_not_there_or_not_a_board_is_refused() {
    let found = complaints("[power]\nboard = \"rpi6\"\n");
    assert!(
        found[0].starts_with(
            "holdup.toml:2: power.board: there is no board \"rpi6\"; \
             use one of rpi5, rpi4, rpi3, qemu-virt, sim, or describe it in board/rpi6/board.toml"
        ),
        "{found:?}"
    );
    let found = complaints("[power]\nboard = \"./no.toml\"\n");
    assert!(found[0].contains("no.toml: there is no such file; correct power.board at "));

    let site = Site::new("").file("board/rpi5/board.toml", "[board]\nname = \"rpi4\"\n");
    assert_eq!(
        site.complaints(),
        ["board/rpi5/board.toml:2: board.name: is \"rpi4\"; make it \"rpi5\", as its folder is"]
    );
    let site = Site::new("[power]\nboard = \"./b.toml\"\n").file(
        "b.toml",
        "[gateway]\nid = \"x\"\n[board.power_fail]\noffset = 1\n",
    );
    let found = site.complaints();
    assert!(
        found
            .iter()
            .any(|l| l.contains("b.toml:2: gateway.id: does not belong into")),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|l| l.contains("board.name: is missing; add name")),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|l| l.contains("board.power_fail.offset: is on no chip")),
        "{found:?}"
    );
}

#[test]
fn values_that_are_wrong_together_are_refused() {
    for (text, expected) in [
        (
            "[power]\nholdup_ms = 50\nglitch_ms = 50\n",
            "holdup.toml:3: power.glitch_ms: 50 ms leaves nothing of holdup_ms (50) for the plan; ",
        ),
        (
            "[power]\nholdup_ms = 25\n",
            "holdup.toml:2: power.glitch_ms: 30 ms leaves nothing of holdup_ms (25) for the plan; ",
        ),
        (
            "[gateway]\nrun_dir = \"/var/lib/holdup\"\n",
            "holdup.toml:2: gateway.run_dir: are the same directory; ",
        ),
        (
            "[gateway]\ndata_dir = \"/run/holdup/data\"\n",
            "holdup.toml:2: gateway.data_dir: /run/holdup/data lies in run_dir, which a boot empties; ",
        ),
        (
            "[gateway]\nrun_dir = \"run\"\n",
            "holdup.toml:2: gateway.run_dir: \"run\" is relative; ",
        ),
        (
            "[gateway]\ndata_dir = \"/a/../b\"\n",
            "holdup.toml:2: gateway.data_dir: \"/a/../b\" holds `..`; ",
        ),
        (
            "[gateway]\nid = \"a/b\"\n",
            "holdup.toml:2: gateway.id: \"a/b\" holds a slash; ",
        ),
        (
            "[gateway]\nid = \"\\u001b[2J\"\n",
            "holdup.toml:2: gateway.id: \"\\u{1b}[2J\" holds a control character; ",
        ),
        (
            "[gateway]\nid = \" \"\n",
            "holdup.toml:2: gateway.id: is empty; ",
        ),
        (
            "[ingest]\nmax_line_bytes = 65536\nqueue_bytes = 65535\n",
            "holdup.toml:3: ingest.queue_bytes: 65535 cannot hold one line of max_line_bytes (65536); ",
        ),
        (
            "[[database]]\npath = \"/a\"\n[[database]]\npath = \"/a\"\n",
            "holdup.toml:4: database.path: /a is named twice; ",
        ),
        (
            "[[database]]\npath = \"/var/lib/holdup/edge_store.db\"\n",
            "holdup.toml:2: database.path: /var/lib/holdup/edge_store.db is the agent's own; ",
        ),
        (
            "[[database]]\npath = \"/a\"\nunit = \"app\"\n",
            "holdup.toml:3: database.unit: \"app\" is no unit; ",
        ),
        (
            "[[database]]\npath = \"/a\"\nunit = \"holdup.service\"\n",
            "holdup.toml:3: database.unit: holdup.service is the agent's own, which is never stopped; \
             name the application's own unit",
        ),
        (
            "[[database]]\npath = \"/a\"\nunit = \"init.scope\"\n",
            "holdup.toml:3: database.unit: init.scope holds process 1, which is never stopped; ",
        ),
        (
            "[[database]]\npath = \"/a\"\nunit = \"system.slice\"\n",
            "holdup.toml:3: database.unit: system.slice holds every service",
        ),
        (
            "[[database]]\npath = \"/a\"\nrole = \"owned\"\n",
            "holdup.toml:3: database.role: \"owned\" is not known; give \"guarded\"",
        ),
        (
            "[database]\npath = \"/a\"\n",
            "holdup.toml:1: database: is a table, not a list of tables; ",
        ),
    ] {
        let found = complaints(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].starts_with(expected), "{}\n{expected}", found[0]);
    }
    let long = format!("[gateway]\nrun_dir = \"/{}\"\n", "x".repeat(100));
    let found = complaints(&long);
    assert_eq!(found.len(), 1, "told once: {found:?}");
    assert!(
        found[0].contains("makes a socket path of 113 bytes"),
        "{found:?}"
    );
}

#[test]
fn what_is_odd_but_works_is_a_warning() {
    let said = warnings("[power]\nholdup_ms = 900\nallow_poweroff = true\n");
    assert!(
        said[0].starts_with(
            "holdup.toml:3: power.allow_poweroff: has no effect: board rpi5 has no safe_to_cut line"
        ),
        "{said:?}"
    );
    let said = warnings("[power]\nholdup_ms = 900\n[board.sim]\ncontrol = \"/x/s\"\n");
    assert!(said[0].starts_with("holdup.toml:4: board.sim.control: has no effect on board rpi5"));
    let said = warnings("[power]\nholdup_ms = 900\nboard = \"sim\"\n[gpio]\nabi = \"v1\"\n");
    assert!(
        said[0].starts_with("holdup.toml:5: gpio.abi: has no effect on board sim"),
        "{said:?}"
    );
    let said = warnings("[power]\nholdup_ms = 900\nboard = \"sim\"\n[gpio]\nabi = \"auto\"\n");
    assert!(said.is_empty(), "{said:?}");
    let said = warnings("[power]\nholdup_ms = 900\nsettle_ms = 1\n");
    assert!(said[0].starts_with("holdup.toml:3: power.settle_ms: is shorter than restore_ms"));
    let said = warnings("[gateway]\nid = \"localhost\"\n[power]\nholdup_ms = 900\n");
    assert!(said[0].starts_with("holdup.toml:2: gateway.id: is `localhost`"));
}

const FULL: &str = r#"
[gateway]
id = "gw \"7\""
[power]
board = "sim"
holdup_ms = 1500
source = "battery"
[board.sim]
control = "/tmp/x.sock"
[board.brownout]
wired = false
[board.battery_low]
line = "BAT"
active = "low"
bias = "pull-up"
[store]
keep_days = 30
[[database]]
path = "/opt/app/a.db"
[[database]]
path = "/opt/app/b.db"
priority = 120
unit = "app@1.service"
"#;

#[test]
fn what_show_prints_loads_to_the_same_settings() {
    for text in [FULL, "", "[power]\nboard = \"qemu-virt\"\n"] {
        let loaded = Site::new(text).load();
        let shown = loaded.to_toml();
        let again = Site::new(&shown).load();
        assert_eq!(again.settings, loaded.settings, "{shown}");
    }
}

#[test]
fn show_names_the_origin_of_every_value() {
    let site = Site::new(FULL);
    let rows = site.load().rows();
    let row = |key: &str| rows.iter().find(|r| r.key() == key).expect(key);
    assert!(row("power.holdup_ms").origin.ends_with("/holdup.toml:6"));
    assert_eq!(row("board.power_fail.offset").origin, "board sim");
    assert_eq!(row("power.glitch_ms").origin, "default");
    assert_eq!(row("store.max_bytes").value, None);
    assert_eq!(row("board.brownout.wired").value, Some(Value::Bool(false)));
    let first = row("database[0].path").value.clone();
    assert_eq!(first, Some(Value::Text("/opt/app/b.db".to_owned())));
    for key in KEYS
        .iter()
        .filter(|k| !["board.LINE", "database"].contains(&k.table))
    {
        row(&format!("{}.{}", key.table, key.name));
    }

    let mut out = Vec::new();
    assert_eq!(
        holdup::cli::config::show(&site.main(), &mut out, false).unwrap(),
        0
    );
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("\n[power]\nboard = \"sim\""), "{text}");
    assert!(
        text.lines()
            .any(|l| l.starts_with("glitch_ms = 30 ") && l.ends_with("  # default"))
    );
    assert!(text.contains("# max_bytes is not set"), "{text}");

    let mut out = Vec::new();
    holdup::cli::config::show(&site.main(), &mut out, true).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let glitch = json.as_array().unwrap().iter();
    let glitch = glitch.filter(|r| r["key"] == "power.glitch_ms");
    let glitch: Vec<_> = glitch
        .map(|r| (r["value"].as_u64(), r["origin"].as_str()))
        .collect();
    assert_eq!(glitch, [(Some(30), Some("default"))]);
}

#[test]
fn check_lists_files_and_warnings() {
    let site = Site::new("").file("conf.d/x.toml", "");
    let mut out = Vec::new();
    assert_eq!(
        holdup::cli::config::check(&site.main(), &mut out, false).unwrap(),
        0
    );
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "ok");
    assert!(lines[1].starts_with("read     ") && lines[1].ends_with("/holdup.toml"));
    assert!(lines[2].ends_with("/conf.d/x.toml"));
    assert!(
        text.contains("\nwarning  power.holdup_ms: is not set"),
        "{text}"
    );

    let mut out = Vec::new();
    holdup::cli::config::check(&site.main(), &mut out, true).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(json["ok"], true);

    let mut out = Vec::new();
    let bad = Site::new("x = 1");
    let error = holdup::cli::config::check(&bad.main(), &mut out, true).unwrap_err();
    assert!(error.downcast_ref::<ConfigError>().is_some() && out.is_empty());
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        any::<bool>().prop_map(|b| b.to_string()),
        "[-a-z0-9/._]{0,12}".prop_map(|t| format!("{t:?}")),
        Just("\"high\"".to_owned()),
        Just("\"sim\"".to_owned()),
        Just("\"/a/b\"".to_owned()),
        Just("[]".to_owned()),
        "\\PC{0,20}",
    ]
}

fn any_line() -> impl Strategy<Value = String> {
    let lines = ["power_fail", "brownout", "status"];
    (0..KEYS.len(), 0..lines.len(), any_value()).prop_map(move |(key, line, value)| {
        let key = &KEYS[key];
        if key.table == "database" {
            return format!("[[database]]\n{} = {value}\n", key.name);
        }
        let table = key.table.replace("LINE", lines[line]);
        format!("{table}.{} = {value}\n", key.name)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*|[\\[\\]={}\"'.,#a-z0-9\n ]{0,200}") {
        let site = Site::new(&text);
        if let Err(error) = load(&site.main()) {
            prop_assert!(!error.problems.is_empty());
        }
    }

    #[test]
    fn known_keys_with_any_value_are_taken_or_refused_by_line(
        lines in proptest::collection::vec(any_line(), 0..12),
    ) {
        let site = Site::new(&lines.concat());
        match load(&site.main()) {
            Ok(loaded) => {
                let again = Site::new(&loaded.to_toml()).load();
                prop_assert_eq!(again.settings, loaded.settings);
            }
            Err(error) => for problem in error.problems {
                prop_assert!(problem.place.is_some(), "{}", problem);
                prop_assert!(!problem.remedy.is_empty());
            },
        }
    }
}

#[test]
fn more_databases_than_the_plan_has_places_for_are_refused() {
    let named = |n: usize| -> String {
        (0..n)
            .map(|i| format!("[[database]]\npath = \"/d{i}\"\n"))
            .collect()
    };
    assert_eq!(Site::new(&named(15)).load().settings.databases.len(), 15);
    let said = complaints(&named(16));
    assert!(
        said.iter()
            .any(|c| c.contains("holdup.toml:32: database.path: /d15 is one too many: 15 ")),
        "{said:?}"
    );
}
