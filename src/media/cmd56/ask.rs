//! CMD56 through the block driver: `MMC_IOC_CMD` on the whole disk, which needs CAP_SYS_RAWIO.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};

use super::super::device::Disk;
use super::super::tree::Tree;
use super::{Layout, PAGE};

/// <linux/mmc/ioctl.h>.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct MmcIocCmd {
    write_flag: i32,
    is_acmd: i32,
    opcode: u32,
    arg: u32,
    response: [u32; 4],
    flags: u32,
    blksz: u32,
    blocks: u32,
    postsleep_min_us: u32,
    postsleep_max_us: u32,
    data_timeout_ns: u32,
    cmd_timeout_ms: u32,
    pad: u32,
    data_ptr: u64,
}

// What the kernel was built with: a wrong size is another ioctl.
const _: () = assert!(size_of::<MmcIocCmd>() == 72);
const _: () = assert!(std::mem::offset_of!(MmcIocCmd, arg) == 12);
const _: () = assert!(std::mem::offset_of!(MmcIocCmd, flags) == 32);
const _: () = assert!(std::mem::offset_of!(MmcIocCmd, data_ptr) == 64);

const MMC_IOC_CMD: Opcode = opcode::read_write::<MmcIocCmd>(0xb3, 0);
const _: () = assert!(MMC_IOC_CMD as u64 == 0xc048_b300);

/// GEN_CMD.
const CMD56: u32 = 56;
/// <linux/mmc/core.h>: MMC_RSP_R1 and MMC_RSP_SPI_R1, MMC_CMD_ADTC.
const FLAGS: u32 = 0x15 | 0x80 | 0x20;
const WRITE_ARGUMENT: u32 = 0x10;

/// The page and the card's first sector.
pub(super) fn ask(
    tree: &Tree,
    disk: &Disk,
    layout: Layout,
) -> Result<([u8; PAGE], [u8; PAGE]), String> {
    let path = tree.at(format!("/dev/{}", disk.name));
    let shown = path.display();
    // The driver takes commands on the whole disk and for those who may write it only.
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let card = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| match e {
        Errno::ACCESS | Errno::PERM => {
            format!("{shown} may not be opened by this user: ask as root")
        }
        e => format!("cannot open {shown}: {e}"),
    })?;
    let mut card = File::from(card);
    let mut sector = [0; PAGE];
    card.read_exact(&mut sector)
        .map_err(|e| format!("cannot read {shown}: {e}"))?;
    let asked = |e: Errno| match e {
        Errno::PERM | Errno::ACCESS => "the right CAP_SYS_RAWIO is missing: ask as root".to_owned(),
        Errno::NOTTY | Errno::INVAL => format!("{shown} takes no such command"),
        e => format!("the card does not answer: {e}"),
    };
    let mut page = [0; PAGE];
    if layout.writes_first() {
        command(&card, true, WRITE_ARGUMENT, &mut page).map_err(asked)?;
    }
    command(&card, false, layout.argument(), &mut page).map_err(asked)?;
    Ok((page, sector))
}

#[expect(unsafe_code, reason = "MMC_IOC_CMD has no wrapper in rustix")]
fn command(card: &File, write: bool, arg: u32, page: &mut [u8; PAGE]) -> Result<(), Errno> {
    let mut cmd = MmcIocCmd {
        write_flag: i32::from(write),
        opcode: CMD56,
        arg,
        flags: FLAGS,
        blksz: PAGE as u32,
        blocks: 1,
        data_ptr: page.as_mut_ptr() as u64,
        ..MmcIocCmd::default()
    };
    // SAFETY: the struct is the kernel's, as asserted above; data_ptr points at 512 bytes, as
    // blksz and blocks say, which outlive the call.
    unsafe {
        let ioctl = Updater::<MMC_IOC_CMD, MmcIocCmd>::new(&mut cmd);
        rustix::ioctl::ioctl(card.as_fd(), ioctl)
    }
}
