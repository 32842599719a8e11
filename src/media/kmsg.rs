//! What the kernel has said of this medium since it booted: card, host, power, file system.
//!
//! Reads `/dev/kmsg` from its oldest record, without waiting; needs CAP_SYSLOG where
//! `dmesg_restrict` is on. It promises bounded memory whatever stands there, and that lines about
//! other devices count for nothing. Kept of each kind: how often, and the last line.

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{Mode, OFlags};

use super::device::Disk;
use super::evidence::{Evidence, Says, Suspect};
use super::tree::{Tree, printable};

/// One record; the kernel's own limit is 8 KiB.
const RECORD: usize = 8192;
/// Records that are looked at.
const MOST: usize = 100_000;
/// Bytes of a copied log.
const MOST_BYTES: usize = 16 << 20;
/// Kept of a line.
const LINE: usize = 160;
/// Of programs that write to the log only those that stand for the kernel (tests).
const FACILITIES: std::ops::RangeInclusive<u32> = 0..=1;

/// A kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// The supply sagged.
    UnderVoltage,
    /// The command queue had to be recovered.
    QueueRecovery,
    /// The host controller or its driver had trouble: time-outs, DMA, CRC, resets.
    HostTrouble,
    /// A discard failed: not every card can.
    DiscardFailed,
    /// The card stayed busy.
    StuckBusy,
    /// The card could not be started, or went away.
    CardLost,
    /// The driver gave a request up.
    RecoveryFailed,
    /// A sector could not be read.
    ReadError,
    /// A sector could not be written, or a flush failed.
    WriteError,
    /// The medium itself called its data bad.
    MediumError,
    /// The file system found its own structures wrong.
    FsError,
    /// The journal was aborted, or the file system turned read-only.
    FsReadOnly,
}

impl Sign {
    const ALL: [Self; 12] = [
        Self::UnderVoltage,
        Self::QueueRecovery,
        Self::HostTrouble,
        Self::DiscardFailed,
        Self::StuckBusy,
        Self::CardLost,
        Self::RecoveryFailed,
        Self::ReadError,
        Self::WriteError,
        Self::MediumError,
        Self::FsError,
        Self::FsReadOnly,
    ];

    /// Whom it accuses, how badly when seen `n` times, what it is, what to do.
    fn meaning(self, n: u32) -> (Suspect, Says, &'static str, &'static str) {
        let often = |limit, then| if n >= limit { then } else { Says::Watch };
        match self {
            Self::UnderVoltage => (
                Suspect::Power,
                Says::Watch,
                "the supply sagged",
                "use a 5 V / 5 A supply and a short cable; a card fails like this too",
            ),
            Self::QueueRecovery => (
                Suspect::Host,
                Says::Watch,
                "command queueing had to recover",
                "set dtparam=sd_cqe=off in /boot/firmware/config.txt and reboot",
            ),
            Self::HostTrouble => (
                Suspect::Host,
                Says::Watch,
                "the host controller had trouble",
                "reseat the card, try another supply, update the kernel",
            ),
            Self::DiscardFailed => (
                Suspect::Host,
                Says::Note,
                "a discard failed, which says nothing of data",
                "mount without discard and disable fstrim.timer",
            ),
            Self::StuckBusy => (
                Suspect::Card,
                often(3, Says::ReplaceSoon),
                "the card stayed busy",
                "take a backup now; replace the card if it happens again",
            ),
            Self::CardLost => (
                Suspect::Card,
                often(3, Says::ReplaceSoon),
                "the card could not be started or went away",
                "clean its contacts and reseat it; replace it if it happens again",
            ),
            Self::RecoveryFailed => (
                Suspect::Card,
                Says::ReplaceSoon,
                "the driver gave up a request",
                "take a backup now; replace the card",
            ),
            Self::ReadError => (
                Suspect::Card,
                often(10, Says::ReplaceNow).max(Says::ReplaceSoon),
                "sectors cannot be read",
                "take a backup now; replace the card",
            ),
            Self::WriteError => (
                Suspect::Card,
                Says::ReplaceNow,
                "writes failed",
                "replace the card; look at the backups",
            ),
            Self::MediumError => (
                Suspect::Card,
                Says::ReplaceNow,
                "it calls its own data bad",
                "replace it; look at the backups",
            ),
            Self::FsError => (
                Suspect::FileSystem,
                Says::Watch,
                "the file system found errors in itself",
                "take a backup, then check it offline with `fsck -f`",
            ),
            Self::FsReadOnly => (
                Suspect::FileSystem,
                Says::Watch,
                "the file system stopped writing",
                "take a backup, then check it offline with `fsck -f`",
            ),
        }
    }
}

/// How often a sign was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    sign: Sign,
    times: u32,
    last: String,
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelLog {
    seen: Vec<Seen>,
    /// Records that were looked at.
    pub records: usize,
}

impl KernelLog {
    /// Counts the message of one line, as it is after `;` in /dev/kmsg.
    pub fn note(&mut self, disk: &Disk, message: &str) {
        self.records += 1;
        let Some(sign) = sign_of(disk, message) else {
            return;
        };
        let kept: String = message.chars().take(LINE).collect();
        let last = printable(kept.as_bytes());
        match self.seen.iter_mut().find(|s| s.sign == sign) {
            Some(seen) => {
                seen.times = seen.times.saturating_add(1);
                seen.last = last;
            }
            None => self.seen.push(Seen {
                sign,
                times: 1,
                last,
            }),
        }
    }

    /// Counts a record of /dev/kmsg, or a line of a copy of it.
    pub fn record(&mut self, disk: &Disk, record: &[u8]) {
        let text = String::from_utf8_lossy(&record[..record.len().min(RECORD)]);
        // What follows the first line is the record's dictionary.
        let line = text.lines().next().unwrap_or_default();
        let Some((prefix, message)) = line.split_once(';') else {
            return;
        };
        let priority = prefix.split(',').next().and_then(|p| p.parse::<u32>().ok());
        if priority.is_some_and(|p| FACILITIES.contains(&(p >> 3))) {
            self.note(disk, message);
        }
    }

    /// How often.
    pub fn times(&self, sign: Sign) -> u32 {
        let seen = self.seen.iter().find(|s| s.sign == sign);
        seen.map_or(0, |s| s.times)
    }

    /// What it bears; the medium's own lines come last, so that the others are ruled out first.
    pub fn evidence(&self) -> Vec<Evidence> {
        const SOURCE: &str = "kernel log of this boot";
        let mut out = Vec::new();
        for sign in Sign::ALL {
            let Some(seen) = self.seen.iter().find(|s| s.sign == sign) else {
                continue;
            };
            let (of, says, what, remedy) = sign.meaning(seen.times);
            let value = format!("{what}, {} times; last: {}", seen.times, seen.last);
            let mut told = Evidence::of(of, SOURCE, says, value).remedy(remedy);
            // What the medium says of itself no supply and no host made up.
            told.doubtful = of == Suspect::Card && sign != Sign::MediumError;
            out.push(told);
        }
        if out.is_empty() {
            let value = format!("no trouble in {} lines", self.records);
            out.push(Evidence::card(SOURCE, Says::Note, value));
        }
        out
    }
}

/// Reads the log of this boot.
///
/// # Errors
/// It may not or cannot be read.
pub(super) fn read(tree: &Tree, disk: &Disk) -> io::Result<KernelLog> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let mut file = File::from(rustix::fs::open(
        tree.at("/dev/kmsg"),
        flags,
        Mode::empty(),
    )?);
    let mut log = KernelLog::default();
    if file.metadata()?.is_file() {
        let mut copy = Vec::new();
        file.take(MOST_BYTES as u64).read_to_end(&mut copy)?;
        for line in copy.split(|b| *b == b'\n').take(MOST) {
            log.record(disk, line);
        }
        return Ok(log);
    }
    let mut record = [0; RECORD];
    for _ in 0..MOST {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(n) => log.record(disk, &record[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            // Overwritten while it was read, or interrupted: the next one stands.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(log)
}

/// The evidence of the kernel's log, or why there is none.
pub(super) fn collect(tree: &Tree, disk: &Disk) -> Vec<Evidence> {
    match read(tree, disk) {
        Ok(log) => log.evidence(),
        Err(e) => vec![
            Evidence::unknown(
                "kernel log of this boot",
                format!("cannot read /dev/kmsg: {e}"),
            )
            .remedy("ask as root, or give the service CAP_SYSLOG"),
        ],
    }
}

fn sign_of(disk: &Disk, message: &str) -> Option<Sign> {
    let has = |needle: &str| message.contains(needle);
    // The supply is everybody's.
    if starts_without_case(message, "hwmon") || has("oltage") {
        let lower = message.to_ascii_lowercase();
        let sagged =
            lower.contains("undervoltage detected") || lower.contains("under-voltage detected");
        if sagged {
            return Some(Sign::UnderVoltage);
        }
    }
    if let Some(rest) = after_host(disk, message) {
        return of_host(rest);
    }
    if !disk.devices.iter().any(|d| names(message, d)) {
        return None;
    }
    if has("EXT4-fs") || has("JBD2") || has("F2FS-fs") || has("BTRFS") || has("XFS") {
        let stopped = [
            "Remounting filesystem read-only",
            "Aborting journal",
            "shutting down",
        ];
        return if stopped.iter().any(|s| has(s)) || has("forced readonly") {
            Some(Sign::FsReadOnly)
        } else if has("error") || has("Corruption") || has("corrupt") {
            Some(Sign::FsError)
        } else {
            None
        };
    }
    if has("Aborting journal on device") {
        return Some(Sign::FsReadOnly);
    }
    if has("critical medium error") {
        return Some(Sign::MediumError);
    }
    if has("I/O error, dev") || has("I/O error on dev") || has("error, dev ") {
        return Some(operation(message));
    }
    if has("recovery failed") {
        return Some(Sign::RecoveryFailed);
    }
    (has("timed out") || has("timeout") || has("error -110")).then_some(Sign::HostTrouble)
}

/// What the request was whose failure is told: `op 0x0:(READ)`.
fn operation(message: &str) -> Sign {
    let has = |needle: &str| message.contains(needle);
    if has("(DISCARD)") || has("(SECURE_ERASE)") || has("op 0x3:") {
        Sign::DiscardFailed
    } else if has("(WRITE")
        || has("(FLUSH)")
        || has("lost async page write")
        || has("lost sync page")
    {
        Sign::WriteError
    } else {
        Sign::ReadError
    }
}

/// The message of the controller that the medium hangs on, without its name.
fn after_host<'m>(disk: &Disk, message: &'m str) -> Option<&'m str> {
    let host = disk.host.as_deref()?;
    let rest = message.strip_prefix("nvme ").unwrap_or(message);
    let rest = rest.strip_prefix(host)?;
    rest.strip_prefix(": ")
}

fn of_host(rest: &str) -> Option<Sign> {
    let has = |needle: &str| rest.contains(needle);
    let lower = rest.to_ascii_lowercase();
    if has("CQE recovery") || has("cqhci: timeout") || has("cqhci: error") {
        Some(Sign::QueueRecovery)
    } else if has("stuck being busy") || has("stuck in programming state") || has("wrong state") {
        Some(Sign::StuckBusy)
    } else if has("whilst initialising") || has("card") && has("removed") || has("Card removed") {
        Some(Sign::CardLost)
    } else if has("is down")
        || has("timeout")
        || has("Timeout")
        || has("ADMA error")
        || lower.contains("crc") && lower.contains("error")
        || has("REGISTER DUMP")
        || has("Got data interrupt")
        || has("Unexpected interrupt")
        || has("tried to HW reset")
    {
        Some(Sign::HostTrouble)
    } else {
        None
    }
}

/// Is `device`, or a partition of it, named in `message` as a word of its own?
fn names(message: &str, device: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    message.match_indices(device).any(|(at, _)| {
        let before = message[..at].chars().next_back();
        let mut after = message[at + device.len()..].chars().peekable();
        // `p2` after a name that ends in a digit.
        if after.peek() == Some(&'p') {
            after.next();
            while after.next_if(char::is_ascii_digit).is_some() {}
        }
        !before.is_some_and(is_word) && !after.next().is_some_and(is_word)
    })
}

fn starts_without_case(text: &str, start: &str) -> bool {
    text.get(..start.len())
        .is_some_and(|s| s.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::device::Kind;
    use super::*;

    fn disk() -> Disk {
        Disk {
            name: "mmcblk0".to_owned(),
            kind: Kind::Sd,
            dir: PathBuf::new(),
            bytes: None,
            layers: Vec::new(),
            devices: vec![
                "dm-0".to_owned(),
                "mmcblk0p2".to_owned(),
                "mmcblk0".to_owned(),
            ],
            fs: "ext4".to_owned(),
            host: Some("mmc0".to_owned()),
        }
    }

    fn of(message: &str) -> Option<Sign> {
        sign_of(&disk(), message)
    }

    #[test]
    fn each_message_is_told_as_what_it_is() {
        for (message, sign) in [
            (
                "mmc0: Card stuck being busy! __mmc_poll_for_busy",
                Sign::StuckBusy,
            ),
            ("mmcblk0: recovery failed!", Sign::RecoveryFailed),
            (
                "mmc0: error -110 whilst initialising SD card",
                Sign::CardLost,
            ),
            ("mmc0: card aaaa removed", Sign::CardLost),
            (
                "I/O error, dev mmcblk0, sector 2048 op 0x0:(READ) flags 0x80700",
                Sign::ReadError,
            ),
            (
                "blk_update_request: I/O error, dev mmcblk0, sector 8 op 0x1:(WRITE)",
                Sign::WriteError,
            ),
            (
                "I/O error, dev mmcblk0, sector 0 op 0x1:(WRITE) flags 0x800",
                Sign::WriteError,
            ),
            (
                "I/O error, dev mmcblk0, sector 99 op 0x3:(DISCARD) flags 0x800",
                Sign::DiscardFailed,
            ),
            (
                "Buffer I/O error on dev dm-0, logical block 5, async page read",
                Sign::ReadError,
            ),
            (
                "Buffer I/O error on dev mmcblk0p2, logical block 5, lost async page write",
                Sign::WriteError,
            ),
            (
                "critical medium error, dev mmcblk0, sector 77 op 0x0:(READ)",
                Sign::MediumError,
            ),
            ("mmc0: running CQE recovery", Sign::QueueRecovery),
            (
                "mmc0: Timeout waiting for hardware interrupt.",
                Sign::HostTrouble,
            ),
            ("mmc0: ADMA error: 0x02000000", Sign::HostTrouble),
            ("hwmon hwmon1: Undervoltage detected!", Sign::UnderVoltage),
            ("Under-voltage detected! (0x00050005)", Sign::UnderVoltage),
            (
                "EXT4-fs error (device mmcblk0p2): ext4_lookup:1855: inode #2",
                Sign::FsError,
            ),
            (
                "EXT4-fs (mmcblk0p2): Remounting filesystem read-only",
                Sign::FsReadOnly,
            ),
            ("Aborting journal on device mmcblk0p2-8.", Sign::FsReadOnly),
            (
                "JBD2: Detected IO errors while flushing file data on mmcblk0p2-8: error",
                Sign::FsError,
            ),
        ] {
            assert_eq!(of(message), Some(sign), "{message}");
        }
    }

    #[test]
    fn lines_about_other_devices_and_good_news_count_for_nothing() {
        for message in [
            "I/O error, dev mmcblk1, sector 2048 op 0x0:(READ)",
            "I/O error, dev mmcblk01, sector 2048 op 0x0:(READ)",
            "I/O error, dev xmmcblk0, sector 2048 op 0x0:(READ)",
            "I/O error, dev sda, sector 2048 op 0x0:(READ)",
            "mmc1: Card stuck being busy!",
            "mmc01: running CQE recovery",
            "mmc0: new ultra high speed SDR104 SDHC card at address aaaa",
            "mmcblk0: mmc0:aaaa SC32G 29.7 GiB",
            " mmcblk0: p1 p2",
            "hwmon hwmon1: Voltage normalised",
            "EXT4-fs (mmcblk0p2): mounted filesystem with ordered data mode",
            "EXT4-fs error (device sda1): ext4_lookup",
            "",
        ] {
            assert_eq!(of(message), None, "{message}");
        }
    }

    #[test]
    fn only_the_kernels_records_count_and_their_dictionary_does_not() {
        let mut log = KernelLog::default();
        let disk = disk();
        log.record(
            &disk,
            b"3,841,1200,-;I/O error, dev mmcblk0, sector 9 op 0x0:(READ)\n SUBSYSTEM=block\n",
        );
        log.record(
            &disk,
            b"11,842,1201,-;I/O error, dev mmcblk0, sector 9 op 0x0:(READ)",
        );
        assert_eq!(
            log.times(Sign::ReadError),
            2,
            "the kernel, and /dev/kmsg written by root"
        );
        log.record(
            &disk,
            b"30,843,1202,-;I/O error, dev mmcblk0, sector 9 op 0x0:(READ)",
        );
        log.record(&disk, b"no record at all");
        log.record(&disk, b"");
        assert_eq!(log.times(Sign::ReadError), 2);
        let told = &log.evidence()[0];
        assert_eq!((told.of, told.says), (Suspect::Card, Says::ReplaceSoon));
        assert!(told.value.contains("sector 9"), "{}", told.value);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, text in "[a-z0-9:; ,mcblk]{0,60}") {
            let mut log = KernelLog::default();
            log.record(&disk(), &bytes);
            log.record(&disk(), text.as_bytes());
            log.note(&disk(), &text);
            assert!(!log.evidence().is_empty());
        }
    }
}
