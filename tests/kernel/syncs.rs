//! What the outage record and file replacement rest on: each reaches the device when it returns.
//! Counted as flushes of a loop device, because no file can show a missing sync.

use holdup::durable::{BlockFile, Medium};

use crate::disk::Disk;

/// Flushes of the device while `work` ran.
fn flushes(disk: &Disk, work: impl FnOnce()) -> u64 {
    let before = disk.written().1;
    work();
    disk.written().1 - before
}

#[test]
fn a_mark_a_replacement_and_a_preallocation_are_flushed_when_they_return() {
    let disk = match Disk::new(128) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("skipped: no loop device with ext4 on this machine ({why})");
            return;
        }
    };
    let medium = Medium::open(&disk.mount()).expect("medium");
    let record = disk.mount().join("record");
    // Its blocks and its name.
    let made = flushes(&disk, || {
        drop(medium.preallocate(&record, 64 << 10).expect("made"))
    });
    let file = BlockFile::open(&medium, &record, 16).expect("open");
    let marks = flushes(&disk, || {
        for n in 0..10u8 {
            file.write(&medium, u32::from(n), &[n + 1; BlockFile::BLOCK])
                .expect("mark");
        }
    });
    let path = disk.mount().join("settings");
    medium.replace(&path, b"old").expect("first");
    // The new file before the rename, the directory after it.
    let replaced = flushes(&disk, || medium.replace(&path, b"new").expect("replace"));
    println!("{made} flushes to make a file, {marks} for 10 marks, {replaced} to replace one");
    assert!(made >= 2, "{made}");
    assert!(marks >= 10, "{marks}");
    // Two of them ext4 makes by itself for a rename over a file.
    assert!(replaced >= 3, "{replaced}");
}
