//! The emulated gateway itself: what every other case relies on, proven without the agent.

use std::time::Duration;

use crate::card::Card;
use crate::load::{Load, Rate};
use crate::machine::{Machine, MachineOptions};
use crate::parts::parts;

const CARD: u64 = 64 << 20;
const CHIP: &str = "9030000.pl061";

#[test]
fn what_was_synced_survives_a_cut_and_what_was_not_is_lost() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let machine = Machine::boot(parts, &card, &MachineOptions::default());
    machine.mount("/data");
    machine.run("echo kept >/data/synced && sync && echo lost >/data/unsynced");
    assert_eq!(machine.run("cat /data/unsynced"), "lost\n");
    machine.cut_power();
    assert!(!machine.is_on());

    let after = card.copy();
    let checked = after.fsck();
    assert!(checked.damage.is_empty(), "{}", checked.report);
    let folder = tempfile::tempdir().expect("a folder");
    let outside = folder.path().join("file");
    assert!(after.extract("/synced", &outside));
    assert_eq!(
        std::fs::read_to_string(&outside).expect("reading it"),
        "kept\n"
    );
    assert!(!after.extract("/unsynced", &outside));

    let machine = Machine::boot(parts, &card, &MachineOptions::default());
    machine.mount("/data");
    assert_eq!(machine.run("ls /data"), "lost+found\nsynced\n");
    machine.power_off();
    let checked = card.fsck();
    assert!(checked.damage.is_empty(), "{}", checked.report);
    assert!(
        !checked.report.contains("recovering journal"),
        "{}",
        checked.report
    );
}

#[test]
fn a_line_driven_from_outside_is_seen_in_the_guest() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let options = MachineOptions {
        high_lines: &[6],
        ..MachineOptions::default()
    };
    let machine = Machine::boot(parts, &card, &options);
    let brownout = machine.spawn("brownout", &format!("line_watch {CHIP} 6"));
    let power_fail = machine.spawn("power_fail", &format!("line_watch {CHIP} 5"));
    machine.wait_for("both levels", |machine| {
        let levels = (machine.log_of(&brownout), machine.log_of(&power_fail));
        (levels == ("level 1\n".to_owned(), "level 0\n".to_owned())).then_some(())
    });

    let edges = |edge: &str| machine.log_of(&power_fail).matches(edge).count();
    machine.lines.set(5, true);
    machine.wait_for("a rising edge", |_| (edges("rising") == 1).then_some(()));
    assert_eq!(machine.lines.level(5), Some(true));
    assert_eq!(machine.lines.is_output(5), Some(false));
    machine.lines.set(5, false);
    machine.wait_for("a falling edge", |_| (edges("falling") == 1).then_some(()));

    let [high, low] = [Duration::from_millis(30), Duration::from_millis(30)];
    let chatter = machine.lines.chatter(5, high, low, Duration::from_secs(1));
    let pulses = chatter.join().expect("the chatter ends") as usize;
    assert!(pulses > 1);
    machine.wait_for("every pulse", |_| {
        (edges("falling") == 1 + pulses).then_some(())
    });
    assert!(
        machine.is_running(&brownout),
        "{}",
        machine.log_of(&brownout)
    );
}

#[test]
fn the_block_log_lists_what_reaches_the_card_and_nothing_once_frozen() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let before = card.copy();
    let options = MachineOptions {
        block_log: true,
        ..MachineOptions::default()
    };
    let machine = Machine::boot(parts, &card, &options);
    machine.mount("/data");
    let log = machine.block_log().clone();

    let mark = log.mark();
    machine.run("echo 'a line for the log' >/data/file && sync");
    let written = log.since(mark);
    assert!(
        written
            .iter()
            .any(|entry| log.data(entry).starts_with(b"a line for the log\n")),
        "{written:?}"
    );

    machine.run("fsfreeze --freeze /data");
    let parked = log.mark();
    let writer = machine.spawn("writer", "sh -c 'echo too late >/data/late; sync'");
    machine.run("sync; sync");
    assert_eq!(log.since(parked), []);
    assert!(
        machine.is_running(&writer),
        "a write to a frozen file system waits"
    );
    machine.run("fsfreeze --unfreeze /data");
    machine.wait_for_end(&writer);
    machine.run("sync");
    assert!(log.mark() > parked);

    let all = log.entries();
    machine.cut_power();
    log.replay(all.len(), before.image());
    let same = |card: &Card| std::fs::read(card.image()).expect("reading a card");
    assert!(
        same(&before) == same(&card),
        "the log replayed is not what the card holds"
    );
}

#[test]
fn a_feed_carries_lines_both_ways_and_the_account_outlives_the_machine() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let machine = Machine::boot(parts, &card, &MachineOptions::default());
    // Stands for `holdup ingest`: acknowledges each line, pauses once.
    let program = "awk '{ print \"{\\\"acked\\\":\" NR \"}\"; \
                   if (NR == 20) print \"{\\\"paused\\\":\\\"power_failing\\\"}\\n{\\\"resumed\\\":true}\"; \
                   fflush() }'";
    let paced = Rate::Every(Duration::from_millis(2));
    let (load, job) = Load::through(&machine, "feed0", program, paced, |n| n.to_string());
    let account = load.wait_for("acknowledgements", |account| account.acked >= 50);
    assert_eq!(account.pauses, [("power_failing".to_owned(), 20)]);
    assert!(!account.is_paused());
    assert_eq!(
        (account.errors.len(), account.others.len()),
        (0, 0),
        "{account:?}"
    );
    let account = load.finish();
    assert_eq!(account.acked, account.sent);
    machine.wait_for_end(&job);

    let (load, _) = Load::through(&machine, "feed1", program, Rate::FlatOut, |n| n.to_string());
    load.wait_for("acknowledgements", |account| account.acked >= 50);
    machine.cut_power();
    let account = load.wait_for("the end", |account| account.ended);
    assert!(
        account.acked >= 50 && account.acked <= account.sent,
        "{account:?}"
    );
}

#[test]
fn the_technicians_port_is_a_second_uart() {
    use std::io::{BufRead, BufReader};

    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let machine = Machine::boot(parts, &card, &MachineOptions::default());
    let mut port = BufReader::new(machine.serial_port());
    machine.run("echo hello technician >/dev/ttyAMA1");
    let mut line = String::new();
    port.read_line(&mut line).expect("reading the port");
    assert_eq!(line.trim_end(), "hello technician");
}

#[test]
fn a_foreign_writers_database_can_be_read_from_the_card() {
    let Some(parts) = parts() else { return };
    let card = Card::create(CARD);
    let machine = Machine::boot(parts, &card, &MachineOptions::default());
    machine.mount("/data");
    let writer = machine.spawn("writer", "foreign_writer /data/foreign.db wal 10");
    machine.wait_for("commits", |machine| {
        machine
            .log_of(&writer)
            .contains("committed 5\n")
            .then_some(())
    });
    machine.throttle_writes(Some(256 << 10));
    let log = machine.log_of(&writer);
    machine.cut_power();
    let promised: i64 = log
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("committed ")?.parse().ok())
        .expect("a commit was printed");

    card.fsck();
    let folder = tempfile::tempdir().expect("a folder");
    let database = card.extract_database("/foreign.db", folder.path());
    let count: i64 = rusqlite::Connection::open(database)
        .and_then(|database| database.query_row("SELECT max(n) FROM items", [], |row| row.get(0)))
        .expect("reading the foreign database");
    assert!(count >= promised, "{count} rows of {promised} promised");
}
