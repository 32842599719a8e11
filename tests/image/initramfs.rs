//! The gateway's root: an initramfs of busybox, kernel modules and the programs under test.
//!
//! Written as an uncompressed newc archive by this file, so that neither cpio nor a compressor is
//! needed and the kernel unpacks it at once. The init script ends in a shell on the virtio port
//! `shell`; it mounts no card, since when and how that happens is the test's business. With the
//! kernel argument `holdup.root=card` it moves to the card instead: then that is the root.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounts what a Linux needs, loads the modules listed in /etc/modules, names the virtio ports as
/// udev would, and hands one of them to a shell. That shell must not be the console's: kernel
/// messages would land amid its answers. A machine without virtio ports is given a script instead:
/// the kernel argument `script_on` names the serial port that its output goes to.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /data /root
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/root
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/virtio-ports
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=0755 run /run
mount -t tmpfs tmp /tmp
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t debugfs debug /sys/kernel/debug
mkdir -p /run/jobs
while read -r module; do
    insmod "/lib/modules/$module" || echo "init: $module did not load" >/dev/kmsg
done </etc/modules
mount -t configfs config /sys/kernel/config 2>/dev/null
if [ -n "$script_on" ]; then
    exec 3<>"/dev/$script_on"
    stty raw -echo <&3
    sh /etc/script >&3 2>&3 </dev/null
    echo "end of the script: $?;" >&3
fi
until [ -e /dev/virtio-ports/shell ]; do
    for port in /sys/class/virtio-ports/*; do
        [ -r "$port/name" ] && ln -sf "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
    done
done
if grep -qw holdup.root=card /proc/cmdline; then
    until [ -b /dev/mmcblk0p1 ]; do sleep 0.1; done
    mkdir /card
    mount -t ext4 -o noatime /dev/mmcblk0p1 /card
    cp -a /bin /usr /etc /card && sync
    for folder in proc sys dev run tmp; do
        mkdir -p "/card/$folder"
        mount --move "/$folder" "/card/$folder"
    done
    exec switch_root /card /bin/sh -c 'while :; do
        /bin/sh 0<>/dev/virtio-ports/shell 1>&0 2>&0
    done'
fi
while :; do
    /bin/sh 0<>/dev/virtio-ports/shell 1>&0 2>&0
done
"#;

/// An archive under construction.
#[derive(Debug, Default, Clone)]
pub(crate) struct Initramfs {
    archive: Vec<u8>,
    inodes: u32,
    modules: Vec<String>,
    folders: Vec<String>,
}

impl Initramfs {
    /// A root with busybox and the init script.
    pub(crate) fn new(busybox: &Path) -> Self {
        let mut root = Self::default();
        root.program("/bin/busybox", busybox);
        root.file("/init", INIT.as_bytes(), 0o755);
        root.entry("/dev/console", 0o020_600, &[], (5, 1));
        root
    }

    /// Adds a program from the host.
    pub(crate) fn program(&mut self, path: &str, source: &Path) {
        let bytes =
            fs::read(source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        self.file(path, &bytes, 0o755);
    }

    /// Adds a file and the folders above it.
    pub(crate) fn file(&mut self, path: &str, bytes: &[u8], mode: u32) {
        self.folders_above(path);
        self.entry(path, 0o100_000 | mode, bytes, (0, 0));
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.folders_above(path);
        self.entry(path, 0o120_777, to.as_bytes(), (0, 0));
    }

    /// Adds modules by name, each after what it depends on; init loads them in that order. Names
    /// that the kernel has built in, or that are here already, add nothing.
    pub(crate) fn modules(&mut self, kernel: &KernelModules, names: &[&str]) {
        for name in names {
            for module in kernel.closure(name) {
                let file = module_name(&module).to_owned() + ".ko";
                if !self.modules.contains(&file) {
                    self.file(
                        &format!("/lib/modules/{file}"),
                        &kernel.read(&module),
                        0o644,
                    );
                    self.modules.push(file);
                }
            }
        }
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let list: String = self
            .modules
            .iter()
            .map(|module| format!("{module}\n"))
            .collect();
        self.file("/etc/modules", list.as_bytes(), 0o644);
        self.entry("/TRAILER!!!", 0, &[], (0, 0));
        self.archive
    }

    fn folders_above(&mut self, path: &str) {
        for (end, _) in path.match_indices('/').skip(1) {
            let folder = path[..end].to_owned();
            if !self.folders.contains(&folder) {
                self.entry(&folder, 0o040_755, &[], (0, 0));
                self.folders.push(folder);
            }
        }
    }

    /// One newc entry: a header of thirteen 8-digit hex fields, the name, the data, each padded to
    /// four bytes.
    fn entry(&mut self, path: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        self.inodes += 1;
        let name = path.trim_start_matches('/');
        let size = u32::try_from(data.len()).expect("a file below 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a short name");
        let fields = [
            self.inodes,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.archive.extend_from_slice(b"070701");
        for field in fields {
            self.archive
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.archive.extend_from_slice(name.as_bytes());
        self.archive.push(0);
        self.pad();
        self.archive.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.archive
            .resize(self.archive.len().next_multiple_of(4), 0);
    }
}

/// The modules of an unpacked kernel.
#[derive(Debug)]
pub(crate) struct KernelModules {
    home: PathBuf,
    /// Module path -> the paths it needs, nearest first, as depmod wrote them.
    needs: HashMap<String, Vec<String>>,
    built_in: Vec<String>,
}

impl KernelModules {
    pub(crate) fn read_from(home: &Path) -> Self {
        let read = |name: &str| {
            let path = home.join(name);
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let needs = read("modules.dep")
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(module, needs)| {
                (
                    module.to_owned(),
                    needs.split_whitespace().map(str::to_owned).collect(),
                )
            })
            .collect();
        let built_in = read("modules.builtin")
            .lines()
            .map(|path| module_name(path).to_owned())
            .collect();
        Self {
            home: home.to_owned(),
            needs,
            built_in,
        }
    }

    /// What must be loaded for `name`, in order, itself last; empty if it is built in.
    fn closure(&self, name: &str) -> Vec<String> {
        let same = |module: &str| module.replace('-', "_") == name.replace('-', "_");
        if self.built_in.iter().any(|module| same(module)) {
            return Vec::new();
        }
        let (module, needs) = self
            .needs
            .iter()
            .find(|(module, _)| same(module_name(module)))
            .unwrap_or_else(|| panic!("the kernel has no module {name}"));
        needs.iter().rev().chain([module]).cloned().collect()
    }

    /// The module itself, unpacked: busybox's insmod leaves that to the kernel, which may not.
    fn read(&self, module: &str) -> Vec<u8> {
        let path = self.home.join(module);
        if !module.ends_with(".xz") {
            return fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        let output = Command::new("xz")
            .arg("-dc")
            .arg(&path)
            .output()
            .unwrap_or_else(|error| panic!("xz: {error}; run tests/install"));
        assert!(
            output.status.success(),
            "xz cannot unpack {}",
            path.display()
        );
        output.stdout
    }
}

/// `kernel/fs/ext4/ext4.ko.xz` -> `ext4`.
fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file)
}
