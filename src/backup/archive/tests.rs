//! Archives as they are, and as nobody should have written them.

use std::io::{self, Read, Write};
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::{ArchiveError, EntryKind, Limits, Reader};
use crate::backup::Identity;

const PATH: &str = "/usb/holdup-a.tar.zst.age";

type Item = (String, EntryKind, Vec<u8>);

fn sealed(tar: &[u8], to: &Identity) -> Vec<u8> {
    let packed = zstd::encode_all(tar, 3).expect("zstd");
    let to = to.recipient();
    let seal = age::Encryptor::with_recipients(std::iter::once(to.key())).expect("age");
    let mut out = Vec::new();
    let mut writer = seal.wrap_output(&mut out).expect("age");
    writer.write_all(&packed).expect("age");
    writer.finish().expect("age");
    out
}

fn header(name: &[u8], kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_uid(7);
    header.set_gid(8);
    header.set_size(size);
    header.set_cksum();
    header
}

/// A tar of files with these names, as they are.
fn files(names: &[&[u8]]) -> Vec<u8> {
    let mut tar = Vec::new();
    for name in names {
        tar.extend(header(name, EntryType::Regular, 5).as_bytes());
        tar.extend(b"hello");
        tar.extend([0; 507]);
    }
    tar.extend([0; 1024]);
    tar
}

fn limits() -> Limits {
    Limits {
        bytes: 1 << 20,
        entries: 100,
    }
}

fn read_with(bytes: &[u8], key: &Identity, limits: Limits) -> Result<Vec<Item>, ArchiveError> {
    let keys = std::slice::from_ref(key);
    let mut reader = Reader::open(Path::new(PATH), bytes, keys, limits)?;
    let mut found = Vec::new();
    while let Some(mut entry) = reader.next()? {
        let mut body = Vec::new();
        if let Err(e) = entry.read_to_end(&mut body) {
            return Err(entry.explain(e));
        }
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        found.push((name, entry.kind, body));
    }
    Ok(found)
}

/// The same, without reading what is in the files.
fn names(bytes: &[u8], key: &Identity) -> Result<Vec<String>, ArchiveError> {
    let keys = std::slice::from_ref(key);
    let mut reader = Reader::open(Path::new(PATH), bytes, keys, limits())?;
    let mut found = Vec::new();
    while let Some(entry) = reader.next()? {
        found.push(String::from_utf8_lossy(&entry.name).into_owned());
    }
    Ok(found)
}

fn read_tar(tar: &[u8]) -> Result<Vec<Item>, ArchiveError> {
    let key = Identity::generate();
    read_with(&sealed(tar, &key), &key, limits())
}

fn refused(tar: &[u8]) -> String {
    let e = read_tar(tar).expect_err("refused");
    assert!(e.to_string().contains(PATH), "{e}");
    e.to_string()
}

#[test]
fn files_directories_links_and_long_names_come_out_as_they_went_in() {
    let mut tar = Builder::new(Vec::new());
    let long = format!("files/{}/ü\n'x'", "d".repeat(200));
    tar.append_data(
        &mut header(b"x", EntryType::Regular, 5),
        &long,
        &b"hello"[..],
    )
    .expect("long");
    tar.append_data(
        &mut header(b"x", EntryType::Directory, 0),
        "files/etc/",
        io::empty(),
    )
    .expect("directory");
    tar.append_link(
        &mut header(b"x", EntryType::Symlink, 0),
        "files/etc/l",
        "/etc/shadow",
    )
    .expect("link");
    let mut pax = b"22 path=files/\xc3\xa4\nrest\n".to_vec();
    pax.splice(0..2, format!("{}", pax.len()).into_bytes());
    let mut tar = tar.into_inner().expect("tar");
    tar.truncate(tar.len() - 1024);
    tar.extend(header(b"pax", EntryType::XHeader, pax.len() as u64).as_bytes());
    tar.extend(&pax);
    tar.extend(vec![0; 512 - pax.len()]);
    tar.extend(files(&[b"short"]));
    let found = read_tar(&tar).expect("read");
    assert_eq!(
        found,
        [
            (long, EntryKind::File, b"hello".to_vec()),
            ("files/etc".to_owned(), EntryKind::Directory, Vec::new()),
            (
                "files/etc/l".to_owned(),
                EntryKind::Link(b"/etc/shadow".to_vec()),
                Vec::new()
            ),
            (
                "files/ä\nrest".to_owned(),
                EntryKind::File,
                b"hello".to_vec()
            ),
        ]
    );
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [
        &b"/etc/passwd"[..],
        b"../x",
        b"files/../../x",
        b"files/..",
        b"files//x",
        b"files/./x",
        b"",
    ] {
        let why = refused(&files(&[name]));
        assert!(why.contains("name"), "{why}");
    }
    assert_eq!(read_tar(&files(&[b"./a/b"])).expect("plain")[0].0, "a/b");
}

#[test]
fn a_name_given_twice_or_beneath_a_link_is_refused() {
    assert!(refused(&files(&[b"a", b"a"])).contains("twice"));
    assert!(refused(&files(&[b"a", b"./a"])).contains("twice"));
    assert!(refused(&files(&[b"a", b"a/b"])).contains("beneath"));
    assert!(refused(&files(&[b"a/b", b"a"])).contains("above"));
    let mut link = header(b"a", EntryType::Symlink, 0);
    link.set_link_name("/etc").expect("link");
    link.set_cksum();
    let tar = [link.as_bytes().to_vec(), files(&[b"a/cron.d"])].concat();
    assert!(refused(&tar).contains("beneath a file or a link"));
}

#[test]
fn devices_and_hard_links_are_refused() {
    for (kind, word) in [
        (EntryType::Char, "neither"),
        (EntryType::Block, "neither"),
        (EntryType::Fifo, "neither"),
        (EntryType::GNUSparse, "neither"),
        (EntryType::Link, "hard link"),
    ] {
        let tar = [header(b"a", kind, 0).as_bytes().to_vec(), vec![0; 1024]].concat();
        let why = refused(&tar);
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn a_size_that_lies_is_found() {
    let mut tar = files(&[b"a"]);
    tar[..512].copy_from_slice(header(b"a", EntryType::Regular, 5000).as_bytes());
    assert!(matches!(read_tar(&tar), Err(ArchiveError::Damaged { .. })));
    tar[..512].copy_from_slice(header(b"a", EntryType::Regular, u64::MAX >> 1).as_bytes());
    assert!(matches!(read_tar(&tar), Err(ArchiveError::Damaged { .. })));
    let key = Identity::generate();
    names(&sealed(&tar, &key), &key).expect_err("passed over");
    // A long name of 8 GiB.
    let name = header(b"a", EntryType::GNULongName, 8 << 30);
    let why = refused(&[name.as_bytes().to_vec(), vec![0; 4096]].concat());
    assert!(why.contains("too long"), "{why}");
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let key = Identity::generate();
    let mut tar = header(b"a", EntryType::Regular, 64 << 20)
        .as_bytes()
        .to_vec();
    tar.resize(65 << 20, 0);
    let bytes = sealed(&tar, &key);
    assert!(bytes.len() < 100_000, "{}", bytes.len());
    for e in [
        read_with(&bytes, &key, limits())
            .expect_err("large")
            .to_string(),
        names(&bytes, &key).expect_err("passed over").to_string(),
    ] {
        assert!(e.contains("more than 1048576 bytes"), "{e}");
    }
    let many: Vec<_> = (0..101).map(|n| format!("{n}").into_bytes()).collect();
    let many: Vec<_> = many.iter().map(Vec::as_slice).collect();
    assert!(refused(&files(&many)).contains("more than 100 entries"));
}

#[test]
fn what_stands_behind_the_end_and_a_missing_end_are_found() {
    let tar = files(&[b"a"]);
    let behind = [&tar[..], b"more"].concat();
    assert!(refused(&behind).contains("behind its end mark"));
    assert!(refused(&tar[..1024]).contains("without its end mark"));
    let key = Identity::generate();
    let trailing = [&sealed(&tar, &key)[..], b"more"].concat();
    let e = read_with(&trailing, &key, limits()).expect_err("trailing");
    assert!(matches!(e, ArchiveError::Damaged { .. }), "{e}");
}

#[test]
fn an_archive_cut_off_at_any_byte_is_never_read_to_its_end() {
    let key = Identity::generate();
    let bytes = sealed(&files(&[b"a", b"b"]), &key);
    for cut in 0..bytes.len() {
        let e = names(&bytes[..cut], &key).expect_err("cut").to_string();
        assert!(e.contains(PATH), "{e}");
    }
    assert_eq!(names(&bytes, &key).expect("whole"), ["a", "b"]);
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let key = Identity::generate();
    let bytes = sealed(&files(&[b"a", b"b"]), &key);
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        names(&bad, &key).expect_err("flipped");
    }
}

#[test]
fn another_key_and_other_files_are_told_apart() {
    let bytes = sealed(&files(&[b"a"]), &Identity::generate());
    let e = names(&bytes, &Identity::generate()).expect_err("key");
    assert!(matches!(e, ArchiveError::WrongKey(_)), "{e}");
    for other in [&b"SQLite format 3\0"[..], b"", b"age-encryption.org/v1\n"] {
        let e = names(other, &Identity::generate()).expect_err("foreign");
        assert!(matches!(e, ArchiveError::Foreign { .. }), "{e}");
    }
    let mut endless = b"age-encryption.org/v1\n-> X25519 a\n".to_vec();
    endless.resize(1 << 20, b'\n');
    assert!(names(&endless, &Identity::generate()).is_err());
}

#[test]
fn a_source_that_fails_is_no_damage() {
    struct Failing<'a>(&'a [u8]);
    impl Read for Failing<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buf)? {
                0 => Err(io::Error::from_raw_os_error(libc::EIO)),
                n => Ok(n),
            }
        }
    }
    let key = Identity::generate();
    let mut tar = header(b"a", EntryType::Regular, 300_000)
        .as_bytes()
        .to_vec();
    let mut noise = 1u32;
    tar.extend((0..300_032).map(|_| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    }));
    tar.extend([0; 1024]);
    let bytes = sealed(&tar, &key);
    let keys = std::slice::from_ref(&key);
    let source = Failing(&bytes[..200_000]);
    let mut reader = Reader::open(Path::new(PATH), source, keys, limits()).expect("open");
    let e = loop {
        match reader.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("half of it is missing"),
            Err(e) => break e,
        }
    };
    assert!(matches!(e, ArchiveError::Source { .. }), "{e}");
}
