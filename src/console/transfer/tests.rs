//! Transfers to the receiver of the same crate; tests/host has the laptop's own `rz`.

use zmodem2::Receiver;

use super::*;

#[derive(Debug)]
struct Bytes(Vec<u8>);

impl Source for Bytes {
    fn name(&self) -> &str {
        "manifest.json"
    }

    fn size(&self) -> u32 {
        u32::try_from(self.0.len()).expect("small")
    }

    fn read(&mut self, offset: u32, piece: &mut [u8]) -> io::Result<usize> {
        let from = self.0.get(offset as usize..).unwrap_or_default();
        let n = from.len().min(piece.len());
        piece[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 % 251) as u8).collect()
}

/// Runs both ends; what the receiver has, and the last that was sent to it.
fn both(transfer: &mut Transfer) -> (Vec<u8>, Vec<u8>) {
    let mut receiver = Receiver::new().expect("a receiver");
    let (mut got, mut now, mut turns) = (Vec::new(), Mono::from_nanos(1), 0);
    let (mut back, mut last) = (Vec::new(), Vec::new());
    while transfer.ended(Mono::NEVER).is_none() && turns < 20_000 {
        turns += 1;
        let mut line = Vec::new();
        if back.is_empty() {
            now = now.max(transfer.deadline());
            transfer.timeout(now, &mut line);
        } else {
            transfer.received(&std::mem::take(&mut back), now, &mut line);
        }
        if !line.is_empty() {
            last.clone_from(&line);
        }
        let mut rest = line.as_slice();
        loop {
            let used = receiver.submit_wire(rest).unwrap_or(rest.len());
            rest = &rest[used..];
            let mut moved = used > 0;
            loop {
                match receiver.poll() {
                    Action::WriteWire(b) => {
                        back.extend_from_slice(b);
                        let n = b.len();
                        receiver.wire_written(n);
                    }
                    Action::WriteFile(b) => {
                        got.extend_from_slice(b);
                        let n = b.len();
                        receiver.file_written(n).expect("written");
                    }
                    Action::Event(_) => {}
                    Action::ReadFile { .. } | Action::Idle | _ => break,
                }
                moved = true;
            }
            if !moved {
                break;
            }
        }
    }
    (got, last)
}

#[test]
fn a_file_arrives_whole_and_the_end_says_how_long_it_was() {
    for n in [1, 1023, 1024, 1025, 300_000] {
        let mut t = Transfer::new(Box::new(Bytes(bytes(n))), Mono::from_nanos(1));
        let (got, last) = both(&mut t);
        assert_eq!(t.ended(Mono::NEVER), Some(&Sent::Done(n as u32)), "{n}");
        assert!(got == bytes(n), "{n}");
        // Without it the laptop's rz waits, and swallows what follows.
        assert!(last.ends_with(b"OO"), "{last:?}");
    }
}

#[test]
fn nobody_who_receives_ends_by_itself() {
    let start = Mono::from_nanos(1);
    let mut t = Transfer::new(Box::new(Bytes(bytes(10))), start);
    let (mut now, mut out, mut turns) = (start, Vec::new(), 0);
    while t.ended(Mono::NEVER).is_none() {
        now = now.max(t.deadline());
        t.timeout(now, &mut out);
        turns += 1;
        assert!(turns < 100);
    }
    assert_eq!(t.ended(Mono::NEVER), Some(&Sent::Silent));
    assert!(
        now.since(start) <= PATIENCE && out.len() < 1000,
        "{}",
        out.len()
    );
}

#[test]
fn either_side_can_give_up() {
    for typed in [&b"\x03"[..], &[CAN; 5]] {
        let mut t = Transfer::new(Box::new(Bytes(bytes(10))), Mono::from_nanos(1));
        let mut out = Vec::new();
        t.timeout(Mono::from_nanos(2), &mut out);
        t.received(typed, Mono::from_nanos(3), &mut out);
        assert_eq!(t.ended(Mono::NEVER), Some(&Sent::Cancelled));
        assert!(
            out.windows(5).any(|w| w == [CAN; 5]),
            "the receiver is told"
        );
    }
}

#[test]
fn a_file_that_shrinks_is_said_and_not_padded() {
    #[derive(Debug)]
    struct Shrinks;
    impl Source for Shrinks {
        fn name(&self) -> &str {
            "x"
        }
        fn size(&self) -> u32 {
            5000
        }
        fn read(&mut self, offset: u32, piece: &mut [u8]) -> io::Result<usize> {
            Ok(if offset < 2048 { piece.len() } else { 0 })
        }
    }
    let mut t = Transfer::new(Box::new(Shrinks), Mono::from_nanos(1));
    both(&mut t);
    assert!(
        matches!(t.ended(Mono::NEVER), Some(Sent::Unreadable(_))),
        "{:?}",
        t.ended(Mono::NEVER)
    );
}

proptest::proptest! {
    #[test]
    fn any_bytes_of_a_receiver_end_in_time(noise: Vec<u8>) {
        let mut t = Transfer::new(Box::new(Bytes(bytes(3000))), Mono::from_nanos(1));
        let mut out = Vec::new();
        t.received(&noise, Mono::from_nanos(2), &mut out);
        let mut now = Mono::from_nanos(2);
        for _ in 0..1000 {
            now = now.max(t.deadline());
            t.timeout(now, &mut out);
        }
        proptest::prop_assert!(t.ended(Mono::NEVER).is_some());
        proptest::prop_assert!(out.len() < 64 << 10, "{}", out.len());
    }
}
