//! A gateway in QEMU, as seen from outside: plug in the card, switch on, pull the plug.
//!
//! The guest's page cache dies with [`Machine::cut_power`]; what the card was given stays, as with
//! a real card. Serial console, GPIO lines, virtio ports and the monitor are sockets in a
//! temporary folder. A machine that is dropped is cut, too; if the test is failing, it first says
//! what its kernel and its agent had to say.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::blocklog::BlockLog;
use crate::card::Card;
use crate::console::{Answer, Shell, Silence, connect, quoted};
use crate::parts::Parts;
use crate::patience::{GENEROUS, poll};
use crate::qtest::{Lines, Qmp};

pub(crate) const CONFIG: &str = "/etc/holdup/holdup.toml";
/// Virtio ports for [`crate::load::Load`], one for each client at a time.
pub(crate) const FEEDS: [&str; 2] = ["feed0", "feed1"];

/// How a machine is built and started.
#[derive(Debug, Default)]
pub(crate) struct MachineOptions<'a> {
    /// The content of `/etc/holdup/holdup.toml`.
    pub(crate) config_toml: &'a str,
    /// Lines that are high before the first instruction runs.
    pub(crate) high_lines: &'a [u8],
    /// Bytes a second that the card takes.
    pub(crate) throttle_bps_write: Option<u64>,
    /// Log every write to the card.
    pub(crate) block_log: bool,
    /// Further kernel modules, loaded by init.
    pub(crate) modules: &'a [&'a str],
    /// Further kernel arguments.
    pub(crate) kernel_args: &'a str,
    /// Further arguments of QEMU.
    pub(crate) qemu_args: &'a [&'a str],
    /// Further files of the guest's root: absolute path and content.
    pub(crate) files: &'a [(&'a str, &'a [u8])],
}

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Mutex<Child>,
    shell: Mutex<Shell>,
    qmp: Qmp,
    /// Its GPIO lines.
    pub(crate) lines: Lines,
    block_log: Option<BlockLog>,
    jobs: Mutex<Vec<Job>>,
    home: TempDir,
}

/// A program running in the gateway beside the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    name: String,
    pid: u32,
}

impl Job {
    /// Its process id in the guest.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

impl Machine {
    /// Switches a gateway on with `card` in its slot, and waits for its shell.
    pub(crate) fn boot(parts: &Parts, card: &Card, options: &MachineOptions<'_>) -> Self {
        let home = tempfile::Builder::new()
            .prefix("holdup-machine-")
            .tempdir()
            .expect("a folder for the machine");
        let block_log = options
            .block_log
            .then(|| BlockLog::create(&home.path().join("blocks.log")));
        let qemu = qemu(parts, card, options, &home, block_log.as_ref())
            .spawn()
            .expect("qemu-system-aarch64 starts");

        let qmp = Qmp::connect(&home.path().join("qmp"));
        let lines = Lines::connect(&home.path().join("qtest"), qmp.find_pl061());
        for line in options.high_lines {
            lines.set(*line, true);
        }
        qmp.execute("cont", json!({}));
        let shell = Shell::connect(&home.path().join("shell"), GENEROUS);
        let shell = shell.unwrap_or_else(|silence| {
            panic!(
                "the gateway did not boot ({silence:?}):\n{}",
                console_log(&home)
            )
        });
        Self {
            qemu: Mutex::new(qemu),
            shell: Mutex::new(shell),
            qmp,
            lines,
            block_log,
            jobs: Mutex::default(),
            home,
        }
    }

    /// Runs a command and returns its status and output, whatever they are.
    pub(crate) fn try_sh(&self, command: &str) -> Result<Answer, Silence> {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        shell.ask(command, GENEROUS)
    }

    /// Runs a command; panics only if the gateway does not answer.
    pub(crate) fn sh(&self, command: &str) -> Answer {
        self.try_sh(command)
            .unwrap_or_else(|silence| panic!("no answer ({silence:?}) to: {command}"))
    }

    /// Runs a command that must succeed, and returns its output.
    pub(crate) fn run(&self, command: &str) -> String {
        let answer = self.sh(command);
        assert_eq!(answer.status, 0, "{command}: {}", answer.output);
        answer.output
    }

    /// Mounts the card's data partition.
    pub(crate) fn mount(&self, folder: &str) {
        self.wait_for("the card", |machine| {
            (machine.sh("[ -b /dev/mmcblk0p1 ]").status == 0).then_some(())
        });
        self.run(&format!(
            "mkdir -p {folder} && mount -t ext4 -o noatime /dev/mmcblk0p1 {folder}"
        ));
    }

    /// Starts a program in the background; its output goes to a log in the guest's memory.
    pub(crate) fn spawn(&self, name: &str, command: &str) -> Job {
        let log = format!("/run/jobs/{name}.log");
        let script = quoted(&format!("exec {command}"));
        let pid = self
            .run(&format!(
                "setsid sh -c {script} </dev/null >{log} 2>&1 & echo $!"
            ))
            .trim()
            .parse()
            .expect("a shell prints the id of what it started");
        let job = Job {
            name: name.to_owned(),
            pid,
        };
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(job.clone());
        job
    }

    /// Starts `holdup run`.
    pub(crate) fn spawn_agent(&self) -> Job {
        self.spawn("agent", &format!("holdup run --config {CONFIG}"))
    }

    /// What `holdup status --json` prints; `None` while it fails.
    pub(crate) fn status(&self) -> Option<Value> {
        let answer = self.sh(&format!(
            "holdup status --json --config {CONFIG} 2>/dev/null"
        ));
        serde_json::from_str(&answer.output).ok()
    }

    /// What a job printed so far.
    pub(crate) fn log_of(&self, job: &Job) -> String {
        self.sh(&format!("cat /run/jobs/{}.log", job.name)).output
    }

    /// Whether a job still runs; a zombie does not.
    pub(crate) fn is_running(&self, job: &Job) -> bool {
        self.sh(&format!(
            "grep -q '^State:[[:space:]]*[^ZX]' /proc/{}/status",
            job.pid
        ))
        .status
            == 0
    }

    /// Sends a signal, named as kill(1) names it, to a job.
    pub(crate) fn signal(&self, job: &Job, signal: &str) {
        self.run(&format!("kill -{signal} {}", job.pid));
    }

    /// Kills a job, unless it has ended by itself.
    pub(crate) fn kill(&self, job: &Job) {
        self.sh(&format!("kill -KILL {}", job.pid));
        self.wait_for_end(job);
    }

    /// Waits until a job has ended.
    pub(crate) fn wait_for_end(&self, job: &Job) {
        self.wait_for(&format!("the end of {}", job.name), |machine| {
            (!machine.is_running(job)).then_some(())
        });
    }

    /// Asks again and again until `condition` answers; panics when it does not in minutes.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        mut condition: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        poll(GENEROUS, || condition(self)).unwrap_or_else(|| panic!("waited in vain for {what}"))
    }

    /// The technician's serial port, `/dev/ttyAMA1` in the guest.
    pub(crate) fn serial_port(&self) -> UnixStream {
        connect(&self.home.path().join("serial"), GENEROUS).expect("the serial port's socket")
    }

    /// Connects to one of [`FEEDS`].
    pub(crate) fn feed(&self, name: &str) -> UnixStream {
        connect(&self.home.path().join(name), GENEROUS).expect("the feed's socket")
    }

    /// The log of the card's writes; the machine must have been booted with `block_log`.
    pub(crate) fn block_log(&self) -> &BlockLog {
        self.block_log
            .as_ref()
            .expect("booted with block_log: true")
    }

    /// Changes how many bytes a second the card takes; `None` for as many as it can.
    pub(crate) fn throttle_writes(&self, bytes_per_second: Option<u64>) {
        self.qmp.execute(
            "block_set_io_throttle",
            json!({
                "id": "card", "bps": 0, "bps_rd": 0, "bps_wr": bytes_per_second.unwrap_or(0),
                "iops": 0, "iops_rd": 0, "iops_wr": 0,
            }),
        );
    }

    /// Changes a property of one of the machine's devices.
    pub(crate) fn set_property(&self, device: &str, property: &str, value: Value) {
        self.qmp.execute(
            "qom-set",
            json!({ "path": format!("/machine/peripheral/{device}"), "property": property, "value": value }),
        );
    }

    /// Whether the guest has switched itself off; only for machines booted with `-no-shutdown`,
    /// whose chips can still be looked at then.
    pub(crate) fn has_switched_itself_off(&self) -> bool {
        self.qmp.execute("query-status", json!({}))["status"] == "shutdown"
    }

    /// What the kernel and init printed on the console.
    pub(crate) fn console_log(&self) -> String {
        console_log(&self.home)
    }

    /// Pulls the plug: what is in the guest's memory is gone, what the card was given stays.
    pub(crate) fn cut_power(&self) {
        let mut qemu = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        qemu.kill().expect("killing QEMU");
        qemu.wait().expect("QEMU ends");
    }

    /// Whether the machine is on: not cut, not halted by itself.
    pub(crate) fn is_on(&self) -> bool {
        let mut qemu = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
        qemu.try_wait().expect("asking for QEMU").is_none()
    }

    /// Asks every job to end, unmounts the card and switches off, in order.
    pub(crate) fn power_off(self) {
        let jobs = self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for job in jobs.iter().filter(|job| self.is_running(job)) {
            self.signal(job, "TERM");
        }
        for job in &jobs {
            self.wait_for_end(job);
        }
        self.run("! grep -q '^/dev/mmcblk0' /proc/mounts || umount /dev/mmcblk0p1");
        // The shell cannot answer this one.
        self.try_sh("poweroff -f").err();
        self.wait_for("the machine to switch off", |machine| {
            (!machine.is_on()).then_some(())
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.is_on() {
            let jobs = self
                .shell
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .ask("tail -n 60 /run/jobs/*", Duration::from_secs(20))
                .map_or_else(|silence| format!("{silence:?}"), |answer| answer.output);
            eprintln!("--- jobs ---\n{jobs}");
        }
        if std::thread::panicking() {
            eprintln!("--- console ---\n{}", self.console_log());
        }
        let qemu = self.qemu.get_mut().unwrap_or_else(PoisonError::into_inner);
        qemu.kill().ok();
        qemu.wait().ok();
    }
}

/// What the kernel and init printed.
pub(crate) fn console_log(home: &TempDir) -> String {
    let bytes = fs::read(home.path().join("console.log")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The command that starts the machine, its processors stopped.
fn qemu(
    parts: &Parts,
    card: &Card,
    options: &MachineOptions<'_>,
    home: &TempDir,
    block_log: Option<&BlockLog>,
) -> Command {
    let at = |name: &str| home.path().join(name).display().to_string();
    let initramfs: PathBuf = home.path().join("initramfs");
    let mut root = parts.root.clone();
    root.file(CONFIG, options.config_toml.as_bytes(), 0o644);
    for (path, content) in options.files {
        root.file(path, content, 0o644);
    }
    root.modules(&parts.modules, options.modules);
    #[expect(
        clippy::disallowed_methods,
        reason = "a temporary file: nothing to make durable"
    )]
    fs::write(&initramfs, root.finish()).expect("writing the initramfs");

    let image = card.image().display();
    let mut drive = match block_log {
        Some(log) => format!(
            "driver=blklogwrites,file.driver=file,file.filename={image},log.driver=file,\
             log.filename={},log-super-update-interval=1",
            log.path().display()
        ),
        None => format!("format=raw,file={image}"),
    };
    if let Some(bps) = options.throttle_bps_write {
        drive += &format!(",throttling.bps-write={bps}");
    }

    let mut qemu = Command::new("qemu-system-aarch64");
    qemu.args([
        "-S",
        "-M",
        "virt",
        "-cpu",
        "cortex-a76",
        "-smp",
        "2",
        "-m",
        "512",
    ])
    .args(["-nodefaults", "-display", "none", "-nic", "none"])
    .arg("-kernel")
    .arg(&parts.kernel)
    .arg("-initrd")
    .arg(&initramfs)
    .arg("-append")
    .arg(format!("console=ttyAMA0 panic=0 {}", options.kernel_args))
    .args(["-serial", &format!("file:{}", at("console.log"))])
    .args([
        "-serial",
        &format!("unix:{},server=on,wait=off", at("serial")),
    ])
    .args([
        "-qtest",
        &format!("unix:{},server=on,wait=off", at("qtest")),
    ])
    .args(["-qtest-log", "/dev/null"])
    .args(["-qmp", &format!("unix:{},server=on,wait=off", at("qmp"))])
    .args([
        "-device",
        "sdhci-pci",
        "-device",
        "sd-card,drive=sd0,id=card",
    ])
    .args(["-drive", &format!("id=sd0,if=none,{drive}")])
    .args(["-device", "virtio-serial-pci,romfile="]);
    for port in FEEDS.into_iter().chain(["shell"]) {
        qemu.args([
            "-chardev",
            &format!("socket,id={port},path={},server=on,wait=off", at(port)),
        ])
        .args([
            "-device",
            &format!("virtserialport,chardev={port},name={port}"),
        ]);
    }
    qemu.args(options.qemu_args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    qemu
}
