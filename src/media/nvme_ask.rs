//! Asks an NVMe controller for its SMART log: `NVME_IOCTL_ADMIN_CMD` on `/dev/nvmeN`.
//!
//! Needs root (CAP_SYS_ADMIN). In a copied tree the log is a file, `dev/nvmeN.smart`, of 512 bytes
//! as `nvme smart-log --raw-binary` writes it.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};

use super::device::{Disk, Kind};
use super::evidence::Evidence;
use super::nvme::{PAGE, SmartLog};
use super::tree::Tree;
use super::wear::Wear;

/// <linux/nvme_ioctl.h>.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct NvmeAdminCmd {
    opcode: u8,
    flags: u8,
    rsvd1: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<NvmeAdminCmd>() == 72);
const _: () = assert!(std::mem::offset_of!(NvmeAdminCmd, addr) == 24);
const _: () = assert!(std::mem::offset_of!(NvmeAdminCmd, data_len) == 36);
const _: () = assert!(std::mem::offset_of!(NvmeAdminCmd, cdw10) == 40);
const _: () = assert!(std::mem::offset_of!(NvmeAdminCmd, timeout_ms) == 64);

const NVME_IOCTL_ADMIN_CMD: Opcode = opcode::read_write::<NvmeAdminCmd>(b'N', 0x41);
const _: () = assert!(NVME_IOCTL_ADMIN_CMD as u64 == 0xc048_4e41);

const GET_LOG_PAGE: u8 = 0x02;
const SMART: u32 = 0x02;
const EVERY_NAMESPACE: u32 = 0xffff_ffff;
const TIMEOUT_MS: u32 = 2000;

/// Its evidence, and the worn share.
pub(super) fn collect(tree: &Tree, disk: &Disk) -> (Vec<Evidence>, Option<Wear>) {
    const SOURCE: &str = "NVMe SMART log";
    if disk.kind != Kind::Nvme {
        return (Vec::new(), None);
    }
    let page = match &disk.host {
        None => Err("its controller is not known".to_owned()),
        Some(host) if tree.is_live() => ask(tree, host),
        Some(host) => read(tree, host),
    };
    match page.and_then(|page| SmartLog::decode(&page)) {
        Ok(log) => (log.evidence(), Some(log.wear())),
        Err(why) => (vec![Evidence::unknown(SOURCE, why)], None),
    }
}

fn read(tree: &Tree, host: &str) -> Result<[u8; PAGE], String> {
    let mut page = [0; PAGE];
    let path = tree.at(format!("/dev/{host}.smart"));
    File::open(&path)
        .and_then(|mut f| f.read_exact(&mut page))
        .map_err(|e| format!("the copied tree has no log {}: {e}", path.display()))?;
    Ok(page)
}

#[expect(unsafe_code, reason = "NVME_IOCTL_ADMIN_CMD has no wrapper in rustix")]
fn ask(tree: &Tree, host: &str) -> Result<[u8; PAGE], String> {
    let path = tree.at(format!("/dev/{host}"));
    let shown = path.display();
    let denied = |e: Errno| match e {
        Errno::ACCESS | Errno::PERM => {
            format!("{shown} may not be asked by this user: ask as root")
        }
        e => format!("{shown} does not answer: {e}"),
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = rustix::fs::open(&path, flags, Mode::empty()).map_err(denied)?;
    let mut page = [0; PAGE];
    let dwords = PAGE as u32 / 4 - 1;
    let mut cmd = NvmeAdminCmd {
        opcode: GET_LOG_PAGE,
        nsid: EVERY_NAMESPACE,
        addr: page.as_mut_ptr() as u64,
        data_len: PAGE as u32,
        cdw10: SMART | dwords << 16,
        timeout_ms: TIMEOUT_MS,
        ..NvmeAdminCmd::default()
    };
    // SAFETY: the struct is the kernel's, as asserted above; addr points at data_len bytes that
    // outlive the call.
    unsafe {
        let ioctl = Updater::<NVME_IOCTL_ADMIN_CMD, NvmeAdminCmd>::new(&mut cmd);
        rustix::ioctl::ioctl(device.as_fd(), ioctl).map_err(denied)?;
    }
    Ok(page)
}
