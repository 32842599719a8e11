//! The medium's health in the emulated gateway: a real SD card on a real host controller that tells
//! nothing, the kernel's own words about it, and an NVMe disk that counts its wear.

use serde_json::Value;

use crate::card::Card;
use crate::machine::{CONFIG, MachineOptions};
use crate::parts::parts;
use crate::scene::{CARD, Scene, Setting, compare, saw};

const NAME: &str = "media";

/// What `holdup media --json` says of the medium under `dir`.
fn media(scene: &Scene, dir: &str) -> Value {
    let answer = scene.machine.sh(&format!(
        "holdup media --json --dir {dir} --config {CONFIG} 2>/dev/null"
    ));
    serde_json::from_str(&answer.output).unwrap_or_else(|e| panic!("{e}: {}", answer.output))
}

#[test]
fn a_card_that_tells_nothing_is_unknown_and_the_kernels_words_make_it_worse() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let disk = Card::create(CARD);
    let drive = format!("id=nv,if=none,format=raw,file={}", disk.image().display());
    let toml = Setting::default().toml();
    let options = MachineOptions {
        config_toml: &toml,
        modules: &["nvme"],
        qemu_args: &[
            "-drive",
            &drive,
            "-device",
            "nvme,id=nvme0,serial=worn-1,drive=nv",
        ],
        ..MachineOptions::default()
    };
    let scene = Scene::boot(NAME, parts, &card, &options);
    scene.wait_for_service();
    let load = scene.load();

    // QEMU's card answers every question with zeros.
    let said = media(&scene, "/data");
    assert_eq!(said["verdict"], "unknown", "{said:#}");
    assert_eq!(said["confidence"], "none", "{said:#}");
    assert_eq!(said["device"], "mmcblk0", "{said:#}");
    assert_eq!(said["identity"]["product"], "QEMU!", "{said:#}");
    let asked = scene.machine.sh(&format!(
        "holdup media --probe-vendor sandisk --config {CONFIG}"
    ));
    saw(NAME, &format!("asked for its page:\n{}", asked.output));
    assert!(asked.output.contains("UNKNOWN"), "{}", asked.output);
    assert!(!asked.output.contains("[good]"), "{}", asked.output);

    // The NVMe disk counts.
    scene
        .machine
        .run("mkdir -p /mnt && mount -t ext4 -o ro,noload /dev/nvme0n1p1 /mnt");
    let said = media(&scene, "/mnt");
    assert_eq!(said["device"], "nvme0n1", "{said:#}");
    assert_eq!(said["verdict"], "good", "{said:#}");
    assert_eq!(said["confidence"], "high", "{said:#}");
    scene
        .machine
        .set_property("nvme0", "smart_critical_warning", 4.into());
    let said = media(&scene, "/mnt");
    assert_eq!(said["verdict"], "replace_now", "{said:#}");
    saw(NAME, &format!("NVMe with its warning set: {}", said["why"]));

    // What the kernel says when a card dies; another disk's troubles are not this one's.
    let log = |line: &str| {
        scene.machine.run(&format!("echo '<3>{line}' >/dev/kmsg"));
    };
    log("I/O error, dev mmcblk7, sector 81920 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2");
    assert_eq!(media(&scene, "/data")["verdict"], "unknown");
    log("mmc0: Card stuck being busy! __mmc_poll_for_busy");
    let watch = media(&scene, "/data");
    assert_eq!(watch["verdict"], "watch", "{watch:#}");
    log("I/O error, dev mmcblk0, sector 81920 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 2");
    let worse = media(&scene, "/data");
    assert_eq!(worse["verdict"], "replace_now", "{worse:#}");
    let text = scene.machine.sh(&format!("holdup media --config {CONFIG}"));
    assert_eq!(text.status, 1, "{}", text.output);
    assert!(
        text.output.lines().all(|l| l.chars().count() <= 80),
        "{}",
        text.output
    );
    saw(NAME, &format!("after the kernel's words:\n{}", text.output));

    // The agent notices by itself, tells and audits it, and serves on.
    scene.wait_for_status("its own verdict", |s| {
        s["media"]["verdict"] == "replace_now"
    });
    scene.machine.wait_for("its entry in the audit log", |m| {
        let shown = m.run(&format!("holdup audit show --json --config {CONFIG}"));
        let entered = |l: &str| l.contains("medium_worse") && l.contains("replace_now");
        shown.lines().any(entered).then_some(())
    });
    let account = load.finish();
    scene.machine.power_off();
    compare(NAME, &card, &account);
}
