//! A Raspberry Pi 3 in QEMU, with Debian's kernel and its own device tree: what is a Pi's and not
//! the `virt` machine's. It has no PCI and so no virtio ports: it runs one script, whose output
//! comes out of its second UART. Nobody can drive its GPIO from outside.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::card::Card;
use crate::console::{connect, is_timeout};
use crate::machine::{CONFIG, console_log};
use crate::parts::Parts;
use crate::patience::{Deadline, GENEROUS};

/// The card's controller, beside what every machine loads.
const MODULES: [&str; 1] = ["bcm2835"];
const DEVICE_TREE: &str = "broadcom/bcm2837-rpi-3-b.dtb";
/// Said by init behind the script, with its status.
const END: &str = "end of the script: ";

/// Switched off at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Boots a Pi with `card` in its slot, runs `script` there, and returns what it printed. The
/// script must succeed.
pub(crate) fn run(parts: &Parts, card: &Card, config_toml: &str, script: &str) -> String {
    let home = tempfile::Builder::new()
        .prefix("holdup-pi3-")
        .tempdir()
        .expect("a folder for the machine");
    let mut root = parts.root.clone();
    root.file(CONFIG, config_toml.as_bytes(), 0o644);
    root.file("/etc/script", script.as_bytes(), 0o644);
    root.modules(&parts.modules, &MODULES);
    let initramfs = home.path().join("initramfs");
    #[expect(
        clippy::disallowed_methods,
        reason = "a temporary file: nothing to make durable"
    )]
    std::fs::write(&initramfs, root.finish()).expect("writing the initramfs");
    let serial = home.path().join("serial");
    let qemu = qemu(parts, card, &initramfs, &home, &serial).spawn();
    let running = Running(qemu.expect("qemu-system-aarch64 starts"));
    let port = connect(&serial, GENEROUS).expect("the serial port's socket");
    let (printed, ended) = listen(port);
    drop(running);
    let status = printed
        .split_once(END)
        .and_then(|(_, rest)| rest.split_once(';'));
    assert!(
        ended && status.is_some_and(|(status, _)| status == "0"),
        "the script did not end well:\n{printed}\n--- console ---\n{}",
        console_log(&home)
    );
    printed
}

/// Everything until the script's end, and whether that came.
fn listen(mut port: UnixStream) -> (String, bool) {
    let deadline = Deadline::after(GENEROUS * 2);
    let mut printed = Vec::new();
    port.set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a time-out above zero");
    while !deadline.expired() {
        let text = String::from_utf8_lossy(&printed);
        if text
            .split_once(END)
            .is_some_and(|(_, rest)| rest.contains(';'))
        {
            return (text.into_owned(), true);
        }
        let mut chunk = [0; 4096];
        match port.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => printed.extend_from_slice(&chunk[..count]),
            Err(error) if is_timeout(&error) => {}
            Err(_) => break,
        }
    }
    (String::from_utf8_lossy(&printed).into_owned(), false)
}

fn qemu(parts: &Parts, card: &Card, initramfs: &Path, home: &TempDir, serial: &Path) -> Command {
    let console = home.path().join("console.log");
    let mut qemu = Command::new("qemu-system-aarch64");
    qemu.args(["-M", "raspi3b", "-display", "none", "-nic", "none"])
        .arg("-kernel")
        .arg(&parts.kernel)
        .arg("-dtb")
        .arg(parts.device_trees.join(DEVICE_TREE))
        .arg("-initrd")
        .arg(initramfs)
        // The second UART is the script's alone. The kernel gives the first to Bluetooth; its
        // messages go there by the early console, which needs no driver.
        .args([
            "-append",
            "console=tty0 earlycon=pl011,mmio32,0x3f201000 keep_bootcon panic=0 script_on=ttyS1",
        ])
        .args(["-serial", &format!("file:{}", console.display())])
        .args([
            "-serial",
            &format!("unix:{},server=on,wait=off", serial.display()),
        ])
        .args([
            "-drive",
            &format!("if=sd,format=raw,file={}", card.image().display()),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    qemu
}
