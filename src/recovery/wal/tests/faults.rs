//! Every kind of damage, at every place where it can lie.

use super::world::ids;
use super::*;

fn damage(wal: &Wal) -> Damage {
    match wal.verdict() {
        Verdict::Damaged(d) => d,
        Verdict::Absent
        | Verdict::Empty
        | Verdict::Clean { .. }
        | Verdict::TornTail { .. }
        | Verdict::Unreadable => panic!("{:?}", wal.verdict()),
    }
}

#[test]
fn each_byte_of_the_header_can_be_damaged_without_loss() {
    for (page_size, readings) in [(512, 12), (1024, 1), (4096, 12), (65_536, 2)] {
        let little = written(page_size, readings);
        for was in [little.clone(), little.big_endian()] {
            for at in 0..32 {
                for change in [0x01, 0x80, 0xff] {
                    let mut now = was.clone();
                    now.wal[at] ^= change;
                    let wal = read(&now);
                    assert_truthful(&was, &now, &wal);
                    let d = damage(&wal);
                    let all = (d.transactions, d.frames_damaged, d.frames_unproven);
                    assert_eq!(all, (readings, 0, 0), "byte {at} ^ {change:#x}: {d:?}");
                    assert_eq!(d.kept_by_sqlite, 0);
                }
            }
        }
    }
}

#[test]
fn a_header_of_noise_or_zeros_is_concluded_from_the_frames() {
    for page_size in [512, 1024, 4096, 65_536] {
        let little = written(page_size, 6);
        for was in [little.clone(), little.big_endian()] {
            for seed in 0..10 {
                let mut now = was.clone();
                now.wal[..32].copy_from_slice(&noise(seed, 32));
                if seed == 0 {
                    now.wal[..32].fill(0);
                }
                if seed == 1 {
                    // Not even the database says how large its pages are.
                    now.db.clear();
                }
                let wal = read(&now);
                assert_truthful(&was, &now, &wal);
                let d = damage(&wal);
                let all = (d.transactions, d.frames_damaged, d.frames_unproven);
                assert_eq!(all, (6, 0, 0), "{page_size} {seed}: {d:?}");
                assert!(matches!(d.header, HeaderState::Mended(_)), "{d:?}");
            }
        }
    }
}

#[test]
fn one_changed_byte_anywhere_costs_its_own_frame_at_most_and_invents_nothing() {
    let little = written(512, 9);
    for was in [little.clone(), little.big_endian()] {
        let last = was.frames() - 1;
        let mut mended = 0;
        for at in 32..was.wal.len() {
            for change in [0x01, 0x10, 0x80, 0xff] {
                let mut now = was.clone();
                now.wal[at] ^= change;
                let wal = read(&now);
                assert_truthful(&was, &now, &wal);
                let (slot, field) = ((at - 32) / was.frame(), (at - 32) % was.frame());
                let states = states(&wal);
                for (i, s) in states.iter().enumerate() {
                    assert!(i == slot || *s == State::Intact, "byte {at}: {i} is {s:?}");
                }
                // Salts and checksums are vouched for by the neighbours.
                let vouched =
                    (8..16).contains(&field) || ((16..24).contains(&field) && slot != last);
                if vouched {
                    assert_eq!(states[slot], State::Mended, "field {field} of {slot}");
                }
                mended += usize::from(states.get(slot) == Some(&State::Mended));
            }
        }
        let all = 4 * (was.wal.len() - 32);
        assert!(mended * 5 > all * 2, "{mended} of {all} are mended");
    }
}

#[test]
fn a_frame_whose_header_is_lost_keeps_its_place_unproven() {
    let was = written(1024, 20);
    for slot in 0..was.frames() - 1 {
        for seed in 0..6 {
            let mut now = was.clone();
            let at = was.at(slot);
            let bytes = if seed == 0 {
                vec![0; 24]
            } else {
                noise(seed, 24)
            };
            now.wal[at..at + 24].copy_from_slice(&bytes);
            let wal = read(&now);
            assert_truthful(&was, &now, &wal);
            let f = wal.frames().nth(slot).expect("there");
            assert_eq!(f.state, State::Unproven, "slot {slot}, seed {seed}");
            let fields = (checksum::big(&was.wal, at), checksum::big(&was.wal, at + 4));
            assert_eq!((f.page, f.size_after), fields, "slot {slot}, seed {seed}");
            assert_eq!(damage(&wal).transactions, 20);
        }
    }
}

#[test]
fn noise_over_the_start_costs_two_frames_at_most() {
    for page_size in [512, 1024, 4096, 65_536] {
        let little = written(page_size, 40);
        for was in [little.clone(), little.big_endian()] {
            for seed in 0..8 {
                let mut now = was.clone();
                now.wal[..512].copy_from_slice(&noise(seed, 512));
                let wal = read(&now);
                assert_truthful(&was, &now, &wal);
                let states = states(&wal);
                assert_eq!(states.len(), was.frames());
                assert!(
                    states[2..].iter().all(|s| *s == State::Intact),
                    "{states:?}"
                );
                assert_eq!(states[1], State::Unproven);
            }
        }
    }
}

#[test]
fn a_log_cut_anywhere_is_clean_and_keeps_what_sqlite_keeps() {
    let was = written(1024, 30);
    for len in (0..was.wal.len()).step_by(100) {
        let mut now = was.clone();
        now.wal.truncate(len);
        let wal = read(&now);
        assert_truthful(&was, &now, &wal);
        let (found, frames) = now.sqlite();
        let committed = wal.transactions().last().map_or(0, |t| t.last + 1);
        match wal.verdict() {
            Verdict::Empty => assert!(len == 0 || frames == 0),
            Verdict::Unreadable => assert!(len < 32, "{len}"),
            Verdict::Clean { .. } | Verdict::TornTail { .. } => {
                assert_eq!(committed, frames, "cut at {len}");
                assert_eq!(wal.transactions().len(), found.len(), "cut at {len}");
            }
            Verdict::Absent | Verdict::Damaged(_) => panic!("{len}: {:?}", wal.verdict()),
        }
    }
}

#[test]
fn a_lost_block_costs_the_frames_it_touches_and_one_more_at_most() {
    let was = written(1024, 60);
    for (n, at) in (0..was.wal.len() - 4096).step_by(1531).enumerate() {
        for fill in [vec![0; 4096], noise(n as u64, 4096)] {
            let mut now = was.clone();
            now.wal[at..at + 4096].copy_from_slice(&fill);
            let wal = read(&now);
            assert_truthful(&was, &now, &wal);
            let first = at.saturating_sub(32) / was.frame();
            let last = (at + 4095 - 32) / was.frame();
            for f in wal.frames() {
                let (slot, s) = (f.slot as usize, f.state);
                let hit = (first..=last + 1).contains(&slot);
                assert!(hit || s == State::Intact, "block at {at}: {slot} is {s:?}");
            }
            let lost = 60 - wal.transactions().len();
            assert!(
                lost <= last - first + 2,
                "{at}: {lost} {first} {last} {:?} {:?}",
                states(&wal),
                wal.verdict()
            );
        }
    }
}

#[test]
fn damage_in_front_of_a_commit_is_told_from_a_torn_tail() {
    let was = written(1024, 20);
    let middle = was.at(was.frames() / 2) + 24 + 100;
    let mut now = was.clone();
    now.wal[middle..middle + 16].copy_from_slice(&noise(3, 16));
    let d = damage(&read(&now));
    assert_eq!((d.transactions, d.transactions_damaged), (20, 1));
    assert!(!d.only_last && d.kept_by_sqlite < 20);
    let conn = rusqlite::Connection::open(now.put().1).ok();
    assert!(conn.is_none_or(|c| ids(&c).is_err() || ids(&c).is_ok_and(|i| i.len() < 20)));

    let last = was.at(was.frames() - 1) + 24 + 100;
    let mut now = was.clone();
    now.wal[last..last + 16].copy_from_slice(&noise(3, 16));
    let Verdict::TornTail {
        transactions: 19,
        commit_in_doubt: true,
        ..
    } = read(&now).verdict()
    else {
        panic!("{:?}", read(&now).verdict());
    };
}

#[test]
fn last_frames_that_show_nothing_are_not_called_clean() {
    let was = written(1024, 20);
    for (lost, seed) in [(1, 1), (3, 2), (20, 3)] {
        let mut now = was.clone();
        let at = was.at(was.frames().saturating_sub(lost));
        let n = now.wal.len() - at;
        now.wal[at..].copy_from_slice(&noise(seed, n));
        let wal = read(&now);
        let Verdict::TornTail {
            unfinished,
            commit_in_doubt: true,
            ..
        } = wal.verdict()
        else {
            panic!("{:?}", wal.verdict());
        };
        assert_eq!(unfinished as usize, lost);
    }
}

/// A sector that the card no longer gives.
struct BadSector<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl Bytes for BadSector<'_> {
    fn len(&self) -> u64 {
        Bytes::len(self.bytes)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> std::io::Result<usize> {
        if at < self.at + 512 && self.at < at + buf.len() as u64 {
            return Err(std::io::Error::from_raw_os_error(libc::EIO));
        }
        self.bytes.read_at(buf, at)
    }
}

#[test]
fn a_sector_that_cannot_be_read_costs_its_frame() {
    let was = written(4096, 30);
    let bad = BadSector {
        bytes: &was.wal,
        at: 167 * 512,
    };
    let wal = Wal::read(&bad, Known::of(&was.db));
    assert_truthful(&was, &was, &wal);
    assert_eq!(wal.unreadable_bytes(), 512);
    let d = damage(&wal);
    assert_eq!((d.transactions, d.frames_damaged), (30, 1), "{d:?}");
}

#[derive(Debug, Clone)]
enum Fault {
    Byte {
        at: prop::sample::Index,
        change: u8,
    },
    Noise {
        at: prop::sample::Index,
        len: usize,
        seed: u64,
    },
    Zeros {
        at: prop::sample::Index,
        len: usize,
    },
    FrameHeader {
        slot: prop::sample::Index,
        seed: u64,
    },
    WalHeader {
        seed: u64,
    },
    Cut {
        at: prop::sample::Index,
    },
    /// A frame's place shows what another frame holds: a misdirected write.
    Copied {
        from: prop::sample::Index,
        to: prop::sample::Index,
    },
}

fn fault() -> impl Strategy<Value = Fault> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), 1u8..).prop_map(|(at, change)| Fault::Byte { at, change }),
        2 => (at(), 1usize..5000, any::<u64>())
            .prop_map(|(at, len, seed)| Fault::Noise { at, len, seed }),
        2 => (at(), 1usize..5000).prop_map(|(at, len)| Fault::Zeros { at, len }),
        2 => (at(), any::<u64>()).prop_map(|(slot, seed)| Fault::FrameHeader { slot, seed }),
        1 => any::<u64>().prop_map(|seed| Fault::WalHeader { seed }),
        1 => at().prop_map(|at| Fault::Cut { at }),
        1 => (at(), at()).prop_map(|(from, to)| Fault::Copied { from, to }),
    ]
}

fn strike(files: &mut Files, fault: &Fault) {
    if files.wal.len() < 32 + files.frame() {
        return;
    }
    let len = files.wal.len();
    let mut over = |at: usize, bytes: &[u8]| {
        let n = bytes.len().min(len - at);
        files.wal[at..at + n].copy_from_slice(&bytes[..n]);
    };
    match fault {
        Fault::Byte { at, change } => files.wal[at.index(len)] ^= change,
        Fault::Noise { at, len: n, seed } => over(at.index(len), &noise(*seed, *n)),
        Fault::Zeros { at, len: n } => over(at.index(len), &vec![0; *n]),
        Fault::FrameHeader { slot, seed } => {
            let at = files.at(slot.index(files.frames()));
            files.wal[at..at + 24].copy_from_slice(&noise(*seed, 24));
        }
        Fault::WalHeader { seed } => over(0, &noise(*seed, 32)),
        Fault::Cut { at } => files.wal.truncate(at.index(len)),
        Fault::Copied { from, to } => {
            let (from, to) = (from.index(files.frames()), to.index(files.frames()));
            let (from, to) = (files.at(from), files.at(to));
            let frame = files.frame();
            files.wal.copy_within(from..from + frame, to);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn several_faults_at_once_never_make_the_reader_lie(
        faults in proptest::collection::vec(fault(), 1..7), big: bool, small: bool, stale: bool,
    ) {
        use std::sync::LazyLock;
        static LOGS: LazyLock<Vec<Files>> = LazyLock::new(|| {
            [false, true]
                .into_iter()
                .flat_map(|stale| [512, 4096].map(|size| {
                    let mut gateway = Gateway::new(size);
                    if stale {
                        gateway.readings(40).restart();
                    }
                    gateway.readings(25).files()
                }))
                .collect()
        });
        let mut was = LOGS[usize::from(stale) * 2 + usize::from(!small)].clone();
        if big && !stale {
            was = was.big_endian();
        }
        let generation = read(&was);
        let mut now = was.clone();
        for f in &faults {
            strike(&mut now, f);
        }
        let wal = read(&now);
        // Two copies may bring a run of frames that links in itself to another place.
        let copies = faults.iter().filter(|f| matches!(f, Fault::Copied { .. }));
        if wal.salts() == generation.salts() && copies.count() < 2 {
            assert_truthful(&was, &now, &wal);
            // A current frame written into an old one's place is taken for what it says it is.
            if !faults.iter().any(|f| matches!(f, Fault::Copied { .. })) {
                let committed = wal.transactions().last().map_or(0, |t| t.last + 1);
                prop_assert!(committed as usize <= generation.frames.len());
            }
        }
    }
}

#[test]
fn what_lies_torn_among_older_frames_is_no_damage() {
    let mut gateway = Gateway::new(1024);
    gateway.readings(30).restart().readings(5);
    let mut files = gateway.files();
    let sound = Wal::read(&files.wal, Known::of(&files.db)).verdict();
    assert!(matches!(sound, Verdict::Clean { .. }), "{sound:?}");
    // A frame of the older generation, of which neither header nor page was written in full.
    let at = 32 + 20 * (24 + 1024);
    files.wal[at..at + 24].fill(0);
    files.wal[at + 24 + 512..at + 24 + 1024].fill(0);
    let now = Wal::read(&files.wal, Known::of(&files.db)).verdict();
    assert_eq!(now, sound);
}

#[test]
fn frames_behind_the_bound_are_counted() {
    let mut gateway = Gateway::new(1024);
    gateway.readings(30);
    let files = gateway.files();
    let known = Known::of(&files.db);
    let all = Wal::read(&files.wal, known);
    assert_eq!(all.skipped(), 0);
    let some = Wal::read(
        &files.wal,
        Known {
            most_frames: Some(10),
            ..known
        },
    );
    assert_eq!(some.frames().count(), 10);
    assert_eq!(some.skipped(), all.frames().count() as u64 - 10);
}

#[test]
fn a_frame_behind_one_without_a_header_does_not_vouch_for_itself() {
    let was = written(512, 12);
    let lost = 4;
    let mut bare = was.clone();
    let at = was.at(lost);
    bare.wal[at..at + 24].copy_from_slice(&noise(9, 24));
    let next = was.at(lost + 1) + 24;
    for place in (3..512).step_by(4) {
        for change in 1..=255 {
            let mut now = bare.clone();
            now.wal[next + place] ^= change;
            assert_truthful(&was, &now, &read(&now));
        }
    }
    // It has its place all the same, and the one behind it is sound.
    let all = states(&read(&bare));
    assert_eq!(
        all[lost..lost + 3],
        [State::Unproven, State::Unproven, State::Intact]
    );
}
