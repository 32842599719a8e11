//! The gateway's SD card: a raw image on the host with one ext4 partition for the data.
//!
//! It outlives the machines that boot with it, as a card does. No loop device and no rights are
//! needed: e2fsprogs works at an offset inside the image. Reading the card on the host is for
//! when no machine has it; [`Card::copy`] gives a copy to repair without touching the evidence.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const SECTOR: u64 = 512;
/// Where the partition begins, in sectors: 1 MiB, as every partitioner aligns it.
pub(crate) const PARTITION_START: u64 = 2048;

/// An SD card.
#[derive(Debug)]
pub(crate) struct Card {
    image: PathBuf,
    _home: TempDir,
}

/// What `e2fsck` said.
#[derive(Debug)]
pub(crate) struct Fsck {
    /// What was damaged. A replayed journal and the free counts, which ext4 brings up to date only
    /// at an unmount, are no damage.
    pub(crate) damage: Vec<String>,
    pub(crate) report: String,
}

impl Card {
    /// A fresh card of at least `bytes` (the emulated card's size must be a power of two).
    pub(crate) fn create(bytes: u64) -> Self {
        let bytes = bytes.next_power_of_two();
        let home = tempfile::Builder::new()
            .prefix("holdup-card-")
            .tempdir()
            .expect("a directory for the card");
        let image = home.path().join("card.img");
        let file = File::create(&image).expect("creating the card's image");
        file.set_len(bytes).expect("sizing the card's image");
        let sectors = bytes / SECTOR - PARTITION_START;
        file.write_all_at(&partition_table(sectors), 0)
            .expect("writing the partition table");
        let card = Self { image, _home: home };
        // Lazy initialisation would have the kernel write to a card that the tests expect quiet.
        let mut mkfs = tool("mkfs.ext4");
        mkfs.args(["-q", "-F", "-b", "4096", "-L", "data", "-E"])
            .arg(format!(
                "offset={},nodiscard,lazy_itable_init=0,lazy_journal_init=0",
                PARTITION_START * SECTOR
            ))
            .arg(&card.image)
            .arg((sectors * SECTOR / 4096).to_string());
        succeed(mkfs);
        card
    }

    /// The image file.
    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    /// A second card with the same bytes.
    pub(crate) fn copy(&self) -> Self {
        let home = TempDir::new().expect("a directory for the card's copy");
        let image = home.path().join("card.img");
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(&self.image).arg(&image);
        succeed(copy);
        Self { image, _home: home }
    }

    /// Replays the journal and checks the file system, repairing what it must.
    pub(crate) fn fsck(&self) -> Fsck {
        // e2fsck forgets the offset when it opens the file system again after a replay, so the
        // partition is taken out for it.
        let partition = self.image.with_extension("partition");
        let mut take_out = dd(&self.image, &partition);
        take_out.args(["skip=1", "conv=sparse"]);
        succeed(take_out);
        let mut e2fsck = tool("e2fsck");
        e2fsck.arg("-fy").arg(&partition);
        let output = run(&mut e2fsck);
        let report = text(&output);
        let code = output.status.code().unwrap_or(255);
        assert!(code <= 1, "e2fsck could not repair the card: {report}");
        let mut put_back = dd(&partition, &self.image);
        put_back.args(["seek=1", "conv=notrunc"]);
        succeed(put_back);
        fs::remove_file(partition).expect("removing the partition's copy");
        Fsck {
            damage: damage(&report),
            report,
        }
    }

    /// Copies `inside` (an absolute path on the data partition) to `outside`. The card must be
    /// cleanly unmounted or checked: the journal is not replayed for reading.
    ///
    /// Returns whether the file was there.
    pub(crate) fn extract(&self, inside: &str, outside: &Path) -> bool {
        let mut debugfs = tool("debugfs");
        debugfs
            .arg("-R")
            .arg(format!("dump \"{inside}\" \"{}\"", outside.display()))
            .arg(self.partition());
        let report = text(&run(&mut debugfs));
        if report.contains("File not found") {
            fs::remove_file(outside).ok();
            return false;
        }
        assert!(outside.exists(), "debugfs did not dump {inside}: {report}");
        true
    }

    /// Extracts a SQLite database with whatever companions it has into `folder`; the path of the
    /// database there.
    pub(crate) fn extract_database(&self, inside: &str, folder: &Path) -> PathBuf {
        let name = Path::new(inside)
            .file_name()
            .expect("a database has a name");
        let outside = folder.join(name);
        assert!(
            self.extract(inside, &outside),
            "{inside} is not on the card"
        );
        for suffix in ["-wal", "-journal"] {
            let companion = format!("{}{suffix}", outside.display());
            self.extract(&format!("{inside}{suffix}"), Path::new(&companion));
        }
        outside
    }

    /// Writes `bytes` over the start of the file `inside`, behind the file system's back. At most
    /// one of its blocks. The card must be cleanly unmounted or checked.
    pub(crate) fn overwrite(&self, inside: &str, bytes: &[u8]) {
        let ask = |question: &str| {
            let mut debugfs = tool("debugfs");
            debugfs.arg("-R").arg(question).arg(self.partition());
            text(&run(&mut debugfs))
        };
        let last_number = |text: &str| -> u64 {
            let mut words = text.split_whitespace().filter_map(|w| w.parse().ok());
            words
                .next_back()
                .unwrap_or_else(|| panic!("no number: {text}"))
        };
        let block = last_number(&ask(&format!("bmap \"{inside}\" 0")));
        let stats = ask("stats -h");
        let size = stats
            .lines()
            .find_map(|l| l.strip_prefix("Block size:"))
            .unwrap_or_else(|| panic!("no block size: {stats}"));
        let size = last_number(size);
        assert!(block > 0 && bytes.len() as u64 <= size, "{inside}: {block}");
        File::options()
            .write(true)
            .open(&self.image)
            .and_then(|image| image.write_all_at(bytes, PARTITION_START * SECTOR + block * size))
            .expect("the card takes a write");
    }

    /// e2fsprogs' own way to name a file system inside an image.
    fn partition(&self) -> String {
        format!(
            "{}?offset={}",
            self.image.display(),
            PARTITION_START * SECTOR
        )
    }
}

/// A master boot record with one Linux partition.
fn partition_table(sectors: u64) -> [u8; 512] {
    let mut record = [0; 512];
    let entry = &mut record[446..462];
    entry[4] = 0x83;
    entry[8..12].copy_from_slice(&(PARTITION_START as u32).to_le_bytes());
    entry[12..16].copy_from_slice(&(sectors as u32).to_le_bytes());
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    record
}

/// The findings which e2fsck asked about, each with its question.
fn damage(report: &str) -> Vec<String> {
    let lines: Vec<&str> = report
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    (0..lines.len())
        .filter(|&at| lines[at].contains("? yes"))
        .map(|at| lines[at.saturating_sub(1)..=at].join(" "))
        .filter(|finding| !finding.contains("Free blocks count wrong"))
        .filter(|finding| !finding.contains("Free inodes count wrong"))
        .collect()
}

/// Copies in blocks of 1 MiB, which is also where the partition begins.
fn dd(from: &Path, to: &Path) -> Command {
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", from.display()))
        .arg(format!("of={}", to.display()))
        .args(["bs=1M", "status=none"]);
    dd
}

/// A tool of e2fsprogs; a plain user's PATH lacks the folders they are in.
fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run tests/install"))
}

fn succeed(mut command: Command) {
    let output = run(&mut command);
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}

fn text(output: &Output) -> String {
    let mut text = Vec::new();
    text.write_all(&output.stdout)
        .expect("a Vec takes any bytes");
    text.write_all(&output.stderr)
        .expect("a Vec takes any bytes");
    String::from_utf8_lossy(&text).into_owned()
}
