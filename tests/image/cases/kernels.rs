//! Kernels that speak GPIO otherwise: v1 and v2 forced in turn where there are both, v1 where it
//! is gone, and a real Raspberry Pi's chips.

use crate::card::Card;
use crate::load::{Load, Rate};
use crate::machine::{CONFIG, Machine, MachineOptions};
use crate::parts::{Parts, parts, parts_with_trixies_kernel};
use crate::pi3;
use crate::scene::{BROWNOUT, CARD, POWER_FAIL, Scene, Setting, compare, saw};

/// Outputs of the board `qemu-virt`.
const STATUS: u8 = 0;
const SAFE_TO_CUT: u8 = 1;

#[test]
fn an_outage_through_abi_v1_loses_nothing_and_resumes() {
    an_outage_through("v1", "[gpio]\nabi = \"v1\"\n");
}

#[test]
fn an_outage_through_abi_v2_loses_nothing_and_resumes() {
    an_outage_through("v2", "[gpio]\nabi = \"v2\"\n");
}

/// On a kernel that has both.
fn an_outage_through(abi: &'static str, tables: &'static str) {
    let Some(parts) = parts_with_trixies_kernel() else {
        return;
    };
    let card = Card::create(CARD);
    let setting = Setting {
        tables,
        ..Setting::default()
    };
    let scene = Scene::serving(abi, parts, &card, setting);
    scene.saw(&format!("kernel {}", scene.machine.run("uname -r").trim()));
    names_the_abi(&scene, abi, true);
    let lines = scene.machine.lines.clone();
    assert_eq!(
        [STATUS, SAFE_TO_CUT].map(|pin| lines.is_output(pin)),
        [Some(true); 2]
    );
    let load = scene.load();
    scene.wait_for_status("readiness", |s| s["readiness"] == "Ready");
    assert_eq!(lines.level(STATUS), Some(true), "the lamp is lit");

    lines.set(POWER_FAIL, true);
    let parked = scene.wait_for_supply("Parked");
    scene.saw_outage(&parked);
    assert_eq!(parked["last_outage"]["ended"], "clean");
    assert_eq!(lines.level(STATUS), Some(false), "the lamp is out");
    let held = load.wait_for("the pause", |a| a.is_paused());
    lines.set(POWER_FAIL, false);
    let good = scene.wait_for_supply("Good");
    assert_eq!(good["last_outage"]["resumed"], true);
    load.wait_for("more acknowledgements", |a| {
        a.resumed == 1 && a.acked > held.acked + 50
    });
    assert_eq!(lines.level(STATUS), Some(true), "the lamp is lit again");

    lines.set(POWER_FAIL, true);
    scene.wait_for_supply("Parked");
    load.wait_for("the second pause", |a| a.pauses.len() == 2);
    scene.machine.cut_power();
    let account = load.close();
    drop(scene);
    off_with_safe_to_cut(abi, parts, &card, setting);
    card.fsck(); // it was never unmounted
    compare(abi, &card, &account);
}

/// The next boot: says how it ended, and then switches itself off, as the supply is told first.
fn off_with_safe_to_cut(abi: &'static str, parts: &Parts, card: &Card, setting: Setting) {
    let toml = Setting {
        power: "allow_poweroff = true\npark_max_s = 1",
        ..setting
    }
    .toml();
    let options = MachineOptions {
        config_toml: &toml,
        qemu_args: &["-no-shutdown"],
        ..MachineOptions::default()
    };
    let scene = Scene::boot(abi, parts, card, &options);
    scene.wait_for_service();
    assert_eq!(scene.status()["last_outage"]["ended"], "clean");
    let lines = &scene.machine.lines;
    assert_eq!(lines.level(SAFE_TO_CUT), Some(false));
    lines.set(POWER_FAIL, true);
    scene.machine.wait_for("the gateway to go off", |m| {
        m.has_switched_itself_off().then_some(())
    });
    assert_eq!(lines.level(SAFE_TO_CUT), Some(true), "the supply was told");
    scene.saw("the pin safe_to_cut is high on the machine that switched itself off");
    scene.machine.cut_power();
}

/// In status, in doctor beside the agent, and in its words.
fn names_the_abi(scene: &Scene, abi: &str, forced: bool) {
    let gpio = &scene.status()["gpio"];
    assert_eq!(
        (&gpio["abi"], &gpio["abi_forced"]),
        (&abi.into(), &forced.into())
    );
    let how = if forced {
        "forced by gpio.abi"
    } else {
        "chosen by asking the kernel"
    };
    let doctor = scene
        .machine
        .sh(&format!("holdup doctor --config {CONFIG}"))
        .output;
    let line = doctor
        .lines()
        .find(|l| l.contains("power_fail"))
        .unwrap_or("none")
        .trim()
        .to_owned();
    assert!(line.contains(&format!("ABI {abi} ({how})")), "{doctor}");
    scene.saw(&format!("status says {gpio}; doctor: {line}"));
}

#[test]
fn asked_the_kernel_with_both_abis_speaks_v2() {
    let Some(parts) = parts_with_trixies_kernel() else {
        return;
    };
    let card = Card::create(CARD);
    let scene = Scene::serving("both ABIs", parts, &card, Setting::default());
    names_the_abi(&scene, "v2", false);
}

#[test]
fn edges_that_piled_up_are_read_through_either_abi_without_an_allocation() {
    let Some(parts) = parts_with_trixies_kernel() else {
        return;
    };
    let card = Card::create(CARD);
    let toml = Setting {
        tables: "[board.status]\nactive = \"low\"\n",
        ..Setting::default()
    }
    .toml();
    let options = MachineOptions {
        config_toml: &toml,
        ..MachineOptions::default()
    };
    let machine = Machine::boot(parts, &card, &options);
    for (abi, kept) in [("v1", 16), ("v2", 51)] {
        machine.lines.set(POWER_FAIL, false);
        machine.run("rm -f /run/go");
        let job = machine.spawn(abi, &format!("board_watch {abi}"));
        machine.wait_for("the lines", |m| {
            m.log_of(&job)
                .contains(&format!("ready {abi}\n"))
                .then_some(())
        });
        // Not asserted: the lamp is active low.
        let outputs = || [STATUS, SAFE_TO_CUT].map(|pin| machine.lines.level(pin));
        assert_eq!(outputs(), [Some(true), Some(false)]);
        for nth in 0..51 {
            machine.lines.set(POWER_FAIL, nth % 2 == 0);
            // The guest must have taken the interrupt before the level changes again.
            machine.run("true");
        }
        machine.lines.set(BROWNOUT, abi == "v1");
        machine.run("touch /run/go");
        let saw_it = machine.wait_for("the edges", |m| {
            let log = m.log_of(&job);
            log.lines()
                .find(|l| l.starts_with("edges "))
                .map(str::to_owned)
        });
        saw("piled up", &format!("{abi}: {saw_it}"));
        let (edges, rest) = saw_it
            .strip_prefix("edges ")
            .and_then(|s| s.split_once(' '))
            .expect("how many");
        let edges: u32 = edges.parse().expect("a number");
        let brownout_edges = 1;
        // The chip may still hold an edge from before the request, which the kernel then tells.
        let latched = u32::from(abi == "v2");
        let all = kept + brownout_edges;
        assert!((all..=all + latched).contains(&edges), "{abi}: {saw_it}");
        assert_eq!(
            rest,
            format!(
                "ordered true empty true power_fail Some(true) brownout Some({}) allocations 0",
                abi == "v1"
            )
        );
        assert_eq!(outputs(), [Some(true), Some(true)]);
        machine.run("rm /run/go");
        machine.wait_for_end(&job);
    }
}

#[test]
fn a_kernel_without_v1_refuses_it_by_name_and_the_agent_serves_on() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let setting = Setting {
        tables: "[gpio]\nabi = \"v1\"\n",
        ..Setting::default()
    };
    let scene = Scene::serving("v1 is gone", parts, &card, setting);
    let status = scene.status();
    assert_eq!(status["readiness"], "Unprotected");
    assert_eq!(
        status["gpio"]["error"],
        "power_fail: this kernel does not speak GPIO ABI v1 on \"9030000.pl061\" (it speaks v2); \
         set gpio.abi = \"auto\""
    );
    let log = scene.machine.log_of(&scene.agent);
    assert!(
        log.contains("UNPROTECTED: power_fail: this kernel"),
        "{log}"
    );
    scene.saw(&format!(
        "kernel {}: {} {}: {}",
        scene.machine.run("uname -r").trim(),
        status["readiness"],
        status["reasons"],
        status["gpio"]["error"]
    ));
    let load: Load = scene.load_at(Rate::Every(std::time::Duration::from_millis(5)));
    load.wait_for("acknowledgements", |a| a.acked > 50);
    let account = load.finish();
    scene.machine.power_off();
    compare("v1 is gone", &card, &account);
}

/// What the script below must print, in this order.
const SEEN_ON_A_PI_3: &[&str] = &[
    "chips 2",
    "chip = \"pinctrl-bcm2835\" # board rpi3",
    "board rpi3; this machine is Raspberry Pi 3 B (BCM2837A1)",
    "lines power_fail is pinctrl-bcm2835 line 6; ABI v2 (chosen by asking the kernel)",
    "power_fail reads good",
    "sent 3, acknowledged 3, errors 0",
    "held by the agent: pinctrl-bcm2835 line 6, ABI v2 (chosen by asking the kernel); reads good",
    "-> set power.board = \"rpi3\" or \"auto\"",
    "stopped; 3 readings acknowledged in this run",
];

const ON_A_PI_3: &str = r#"
uname -r
until [ -b /dev/mmcblk0p1 ]; do sleep 1; done
mkdir -p /data && mount -t ext4 -o noatime /dev/mmcblk0p1 /data || exit 1
echo "chips $(ls -d /sys/bus/gpio/devices/gpiochip* | wc -l)"
holdup config show | grep pinctrl
holdup doctor
holdup run >/tmp/agent.log 2>&1 &
agent=$!
until holdup status 2>/dev/null | grep -q '^store.*running'; do
    kill -0 $agent || { cat /tmp/agent.log; exit 1; }
done
for n in 1 2 3; do
    echo "{\"sensor_name\":\"a\",\"timestamp\":1,\"value\":$n}"
done | holdup ingest
holdup doctor
sed 's/"auto"/"rpi4"/' /etc/holdup/holdup.toml >/tmp/rpi4.toml
holdup doctor --config /tmp/rpi4.toml
kill $agent
wait $agent
cat /tmp/agent.log
umount /data
"#;

#[test]
fn a_raspberry_pi_3_is_identified_and_its_chip_found_among_two() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    // Nobody can drive the emulated chip from outside: its lines read low, so low is good here.
    let toml = "[gateway]\nid = \"pi3\"\ndata_dir = \"/data\"\nrun_dir = \"/run/holdup\"\n\n\
                [power]\nboard = \"auto\"\nholdup_ms = 8000\n\n\
                [board.power_fail]\nactive = \"high\"\nbias = \"as-is\"\n\n\
                [board.status]\noffset = 27\n";
    // Columns are as wide as the widest of them.
    let printed = pi3::run(parts, &card, toml, ON_A_PI_3);
    let printed: String = printed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n")
        .collect();
    let mut rest = printed.as_str();
    for seen in SEEN_ON_A_PI_3 {
        let Some((_, after)) = rest.split_once(seen) else {
            panic!("{seen:?} is missing or out of order:\n{printed}");
        };
        saw("raspi3b", seen);
        rest = after;
    }
    assert!(
        !printed.contains("output status"),
        "the lamp's line was had"
    );
}
