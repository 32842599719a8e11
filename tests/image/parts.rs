//! What an emulated gateway is made of, brought here once a test run: QEMU, Debian's kernel, a
//! static busybox and the programs built for aarch64.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::initramfs::{Initramfs, KernelModules};

/// The programs of `tests/image/guest/`, in one cargo example, built beside the agent.
const GUEST: &str = "guest";
const GUEST_PROGRAMS: [&str; 3] = ["line_watch", "foreign_writer", "board_watch"];
/// The card, its file system and nothing else: consoles, GPIO and virtio are built in.
const MODULES: [&str; 3] = ["sdhci-pci", "mmc_block", "ext4"];

/// What the scripts exit with when a tool is missing on this machine.
const UNAVAILABLE: i32 = 69;

/// Why there are no parts.
#[derive(Debug, Clone)]
enum Obstacle {
    /// Something that tests/install would bring; a reason to skip.
    Missing(String),
    /// Everything is here and it failed: always a failure.
    Broken(String),
}

/// Everything needed to boot.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) kernel: PathBuf,
    /// The device trees that the kernel brings, by their path below.
    pub(crate) device_trees: PathBuf,
    pub(crate) modules: KernelModules,
    /// busybox, the programs and the modules that every machine loads.
    pub(crate) root: Initramfs,
}

/// The parts, or `None` with the reason printed: the test is skipped then. With
/// `HOLDUP_TESTS_STRICT` set, whatever is missing is a failure.
pub(crate) fn parts() -> Option<&'static Parts> {
    static PARTS: OnceLock<Result<Parts, Obstacle>> = OnceLock::new();
    told(PARTS.get_or_init(|| with_kernel("kernel", &[])))
}

/// The same with the kernel of Debian trixie, which speaks both GPIO ABIs; the usual one, of
/// trixie-backports, has v2 only.
pub(crate) fn parts_with_trixies_kernel() -> Option<&'static Parts> {
    static PARTS: OnceLock<Result<Parts, Obstacle>> = OnceLock::new();
    told(PARTS.get_or_init(|| {
        root()?;
        script(top(), "image/fetch-kernel", &["trixie"])?;
        // ext4 asks for its checksum by an alias that modules.dep does not tell.
        with_kernel("kernel-in-trixie", &["crc32c_generic"])
    }))
}

fn told<T>(what: &'static Result<T, Obstacle>) -> Option<&'static T> {
    match what {
        Ok(it) => Some(it),
        Err(Obstacle::Broken(reason)) => panic!("{reason}"),
        Err(Obstacle::Missing(missing)) => {
            assert!(
                std::env::var_os("HOLDUP_TESTS_STRICT").is_none(),
                "an emulated gateway cannot be made here: {missing}"
            );
            // Not by a print macro: the harness swallows those of tests that pass.
            let test = std::thread::current().name().unwrap_or("test").to_owned();
            writeln!(std::io::stderr(), "{test}: SKIPPED: {missing}").ok();
            None
        }
    }
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn with_kernel(name: &str, further: &[&str]) -> Result<Parts, Obstacle> {
    let mut root = root()?;
    let home = top().join("target/gateway").join(name);
    let modules = KernelModules::read_from(&home.join("modules"));
    root.modules(&modules, further);
    root.modules(&modules, &MODULES);
    Ok(Parts {
        kernel: home.join("Image"),
        device_trees: home.join("modules/dtb"),
        modules,
        root,
    })
}

/// What every machine has, whatever its kernel; made once, and the usual kernel is fetched with
/// its busybox.
fn root() -> Result<Initramfs, Obstacle> {
    static ROOT: OnceLock<Result<Initramfs, Obstacle>> = OnceLock::new();
    ROOT.get_or_init(gather).clone()
}

fn gather() -> Result<Initramfs, Obstacle> {
    need_qemu_10()?;
    script(top(), "image/fetch-kernel", &[])?;
    let programs = [GUEST].into_iter().chain(crate::FURTHER_PROGRAMS);
    let examples: Vec<&str> = programs.clone().flat_map(|p| ["--example", p]).collect();
    script(top(), "image/build-aarch64", &examples)?;

    let home = top().join("target/gateway");
    let mut root = Initramfs::new(&home.join("busybox/busybox"));
    for program in programs.chain(["holdup"]) {
        root.program(&format!("/usr/bin/{program}"), &home.join(program));
    }
    for program in GUEST_PROGRAMS {
        root.link(&format!("/usr/bin/{program}"), GUEST);
    }
    Ok(root)
}

/// Python with its sqlite3 module, as a file system to mount read-only; `None` with the reason
/// printed, as for [`parts`].
pub(crate) fn python() -> Option<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    // One at a time, as the script itself is.
    static FETCHED: OnceLock<Result<(), Obstacle>> = OnceLock::new();
    let fetched = FETCHED.get_or_init(|| script(top, "image/fetch-python", &[]));
    told(fetched).map(|()| top.join("target/gateway/python.img"))
}

/// QEMU 7.2, bookworm's own, has one UART on `virt` where the technician's port needs a second.
fn need_qemu_10() -> Result<(), Obstacle> {
    let output = Command::new("qemu-system-aarch64")
        .arg("--version")
        .output()
        .map_err(|error| {
            Obstacle::Missing(format!("qemu-system-aarch64: {error}; run tests/install"))
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let major = text
        .split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)
        .and_then(|version| version.split('.').next())
        .and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major >= 10 => Ok(()),
        Some(_) | None => Err(Obstacle::Missing(format!(
            "QEMU 10 or newer is needed, this is {}; run tests/install",
            text.lines().next().unwrap_or("unknown")
        ))),
    }
}

/// Runs one of the project's scripts; cheap when it has nothing to do.
fn script(top: &Path, path: &str, arguments: &[&str]) -> Result<(), Obstacle> {
    let output = Command::new(top.join(path))
        .args(arguments)
        .current_dir(top)
        .stdin(Stdio::null())
        // Settings of the cargo that runs these tests are not those of the build for the gateway.
        .env_remove("RUSTC")
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .map_err(|error| Obstacle::Broken(format!("{path}: {error}")))?;
    let report = || format!("{path}: {}", String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => Ok(()),
        Some(UNAVAILABLE) => Err(Obstacle::Missing(report())),
        Some(_) | None => Err(Obstacle::Broken(report())),
    }
}
