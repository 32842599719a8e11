//! The queue as lines: any bytes are read, and what is read or written comes back the same.
#![no_main]

use holdup::queue::{Lines, Row, read_line, write_line};
use holdup_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

const MEMORY: usize = 8 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some((options, rest)) = bytes.split_first() else {
        return;
    };
    bounded(MEMORY, || {
        if options & 1 == 0 {
            lines(rest, usize::from(options >> 1) + 1);
        } else if let Some(row) = row(*options, rest) {
            export(&row);
        }
    });
});

/// Import of any bytes, which come in portions of some size.
fn lines(bytes: &[u8], portion: usize) {
    let mut lines = Lines::new(std::io::BufReader::with_capacity(portion, bytes));
    let (mut last, mut met) = (0, 0);
    while let Some((number, read)) = lines.next_row().expect("bytes can be read") {
        assert!(number > last, "line numbers go up");
        (last, met) = (number, met + 1);
        let line = bytes
            .split(|b| *b == b'\n')
            .nth(usize::try_from(number - 1).expect("small"));
        let line = line.expect("a line of that number");
        match read {
            Ok(row) => {
                assert_eq!(Ok(&row), read_line(line).as_ref());
                let again = write_line(&row);
                assert_eq!(again.find('\n'), Some(again.len() - 1), "one line");
                assert_eq!(Ok(row), read_line(again.trim_end().as_bytes()));
            }
            Err(why) => assert!(!why.is_empty() && !line.trim_ascii().is_empty()),
        }
    }
    let all = bytes
        .split(|b| *b == b'\n')
        .filter(|l| !l.trim_ascii().is_empty())
        .count();
    assert_eq!(met, all, "no line is passed over");
}

/// Export of any row, and its import.
fn export(row: &Row) {
    let line = write_line(row);
    assert!(
        line.ends_with('\n') && !line[..line.len() - 1].contains('\n'),
        "one line"
    );
    match read_line(line.trim_end().as_bytes()) {
        Ok(again) => assert_eq!(&again, row),
        // Such an id or count is none that the queue takes.
        Err(_) => assert!(
            row.retry_count < 0
                || row.message_id.is_empty()
                || row.message_id.len() > 256
                || row.message_id.chars().any(char::is_control),
            "{row:?} does not come back"
        ),
    }
}

fn row(options: u8, bytes: &[u8]) -> Option<Row> {
    let (numbers, rest) = bytes.split_first_chunk::<40>()?;
    let number = |n: usize| i64::from_le_bytes(numbers[n * 8..n * 8 + 8].try_into().expect("8"));
    let some = |bit: u8, n: usize| (options & bit != 0).then(|| number(n));
    let (id, payload) = rest.split_at(rest.len() / 4);
    Some(Row {
        id: 0,
        message_id: String::from_utf8_lossy(id).into_owned(),
        payload: payload.to_vec(),
        priority: number(0),
        created_at: some(2, 1),
        ttl_seconds: some(4, 2),
        retry_count: number(3),
        next_retry_at: some(8, 4),
        dead: (options & 16 != 0)
            .then(|| (String::from_utf8_lossy(payload).into_owned(), number(1))),
    })
}
