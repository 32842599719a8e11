//! What comes back from damaged files: a corpus of faults, scored against what the files still
//! hold. The way of a gateway is held to the targets; beside it stand page salvage alone, plain
//! SQLite and its shell's `.recover`.

use std::fs;
use std::path::Path;

mod corpus;
mod foreign;
mod foreign_runs;
mod score;
mod ways;

use corpus::{Dice, Fault, Where, Workload};
use score::{Score, score, still_there};
use ways::{by_copy, by_gateway, by_pages, by_shell, by_sqlite, by_verb, recovering_shell};

/// One kind of damage to one kind of workload, over all seeds.
struct Line {
    name: String,
    fault: Fault,
    ours: Score,
    pages: Score,
    plain: Score,
    shells: Option<Score>,
}

/// Strikes `faults` with every workload, `seeds` times each. `HOLDUP_FAULT` picks faults by a part
/// of their name, `HOLDUP_VERBOSE` says what each case lost, `HOLDUP_KEEP` names a directory for
/// the damaged files.
fn strike(faults: &[Fault], place: Where, seeds: u64) -> Vec<Line> {
    let shell = recovering_shell();
    if shell.is_none() {
        eprintln!("no column for .recover: no sqlite3 shell here can; name one in HOLDUP_SQLITE3");
    }
    let only = std::env::var("HOLDUP_FAULT").unwrap_or_default();
    let verbose = std::env::var_os("HOLDUP_VERBOSE").is_some();
    let keep = std::env::var_os("HOLDUP_KEEP");
    let mut lines = Vec::new();
    for workload in [Workload::Append, Workload::Mixed] {
        for fault in faults.iter().filter(|f| f.name().contains(&only)) {
            let mut line = Line {
                name: format!("{} ({})", fault.name(), workload.name()),
                fault: *fault,
                ours: Score::default(),
                pages: Score::default(),
                plain: Score::default(),
                shells: shell.is_some().then(Score::default),
            };
            for seed in 0..seeds {
                let mut dice = Dice::new(seed);
                let page_size = [4096, 512, 1024, 4096, 65_536, 4096][dice.below(6)];
                let mut case = corpus::made(&mut dice, workload, place, page_size, 600);
                fault.strike(&mut case, &mut dice);
                let there = still_there(&case);
                let (got, report) = by_gateway(&case);
                let one = score(&case, &there, &got);
                if verbose {
                    let lost = there.iter().filter(|i| !got.iter().any(|g| g.0 == **i));
                    eprintln!("   {:?}", lost.collect::<Vec<_>>());
                    eprintln!("{workload:?} {fault:?} seed {seed} page {page_size}: {one:?}");
                    eprintln!("   {:?}", report.map(|r| (r.found, r.steps)));
                    for (id, reading) in &got {
                        if !case.ever.contains(&(*id, reading.clone())) {
                            eprintln!("   never written: {id} {reading:?}");
                            eprintln!("   {:?}", case.rows.get(id));
                        }
                    }
                }
                if let Some(dir) = &keep {
                    let dir = Path::new(dir).join(format!("{workload:?}-{fault:?}-{seed}"));
                    fs::create_dir_all(&dir).expect("directory");
                    case.files.lay(&dir);
                }
                line.ours.add(one);
                line.pages.add(score(&case, &there, &by_pages(&case)));
                line.plain.add(score(&case, &there, &by_sqlite(&case)));
                if let (Some(shell), Some(shells)) = (&shell, &mut line.shells) {
                    shells.add(score(&case, &there, &by_shell(shell, &case)));
                }
            }
            lines.push(line);
        }
    }
    lines
}

/// Shares of the rows that are still there; beside them, how many rows came back that nobody
/// wrote, that had been deleted, or in an older state.
fn print(title: &str, lines: &[Line]) {
    eprintln!("\n{title}");
    eprintln!(
        "{:54} {:>6} {:>24} {:>24} {:>24} {:>24}",
        "damage (workload)",
        "rows",
        "holdup: new, del, old",
        "its page salvage alone",
        "SQLite",
        ".recover"
    );
    let cell = |s: Score| {
        format!(
            "{:>6.1} % {:>4} {:>5} {:>4}",
            s.percent(),
            s.invented,
            s.deleted,
            s.older
        )
    };
    for l in lines {
        let shells = l.shells.map_or_else(|| "-".to_owned(), cell);
        eprintln!(
            "{:54} {:>6} {:>24} {:>24} {:>24} {shells:>24}",
            l.name,
            l.ours.there,
            cell(l.ours),
            cell(l.pages),
            cell(l.plain)
        );
    }
}

fn hold_to_the_target(lines: &[Line], seeds: u64) {
    for l in lines {
        let Line { name, ours, .. } = l;
        assert!(ours.percent() >= 99.0, "{name}: {ours:?}");
        assert!(
            ours.percent() >= l.plain.percent(),
            "{name}: SQLite gives more"
        );
        if let Some(shells) = l.shells {
            assert!(
                ours.percent() >= shells.percent(),
                "{name}: .recover gives more"
            );
        }
        // A database file has no checksums: one byte of a number or a text that became another
        // shows in nothing.
        let unseen = if l.fault.changes_single_bytes() {
            seeds
        } else {
            0
        };
        assert!(ours.invented as u64 <= unseen, "{name}: {ours:?}");
        if !l.fault.hides_deletions() {
            assert_eq!(ours.deleted, 0, "{name}");
        }
    }
}

/// Cases of each fault; the table in README is of 12.
fn seeds() -> u64 {
    let asked = std::env::var("HOLDUP_SEEDS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(3)
}

#[test]
fn rows_come_back_from_damaged_database_files() {
    let lines = strike(&Fault::DATABASE, Where::Database, seeds());
    print("everything checkpointed", &lines);
    hold_to_the_target(&lines, seeds());
}

#[test]
fn rows_come_back_from_damaged_database_files_with_half_the_rows_in_the_log() {
    let lines = strike(&Fault::DATABASE, Where::HalfInLog, seeds());
    print(
        "half of the rows only in the log, the database damaged",
        &lines,
    );
    hold_to_the_target(&lines, seeds());
}

#[test]
fn rows_come_back_from_damaged_logs() {
    let lines = strike(&Fault::LOG, Where::HalfInLog, seeds());
    print("half of the rows only in the log, and that damaged", &lines);
    hold_to_the_target(&lines, seeds());
}

/// The classic drill. All that is possible: what still lies in the files, which are all of them but
/// for a row or two in the bytes that were struck.
#[test]
fn of_1000_readings_in_a_log_990_survive_512_random_bytes_over_its_start() {
    for seed in 0..5 {
        let mut dice = Dice::new(seed);
        let mut case = corpus::made(&mut dice, Workload::Append, Where::Log, 4096, 1000);
        Fault::WalHeadRandom.strike(&mut case, &mut dice);
        let there = still_there(&case);
        for (way, got) in [
            ("in place", by_gateway(&case).0),
            ("a copy", by_copy(&case)),
        ] {
            let score = score(&case, &there, &got);
            eprintln!(
                "classic drill, seed {seed}, {way}: {} of {} rows back, {} still in the files",
                got.len(),
                case.rows.len(),
                there.len()
            );
            assert!(got.len() >= 990, "seed {seed}, {way}: {score:?}");
            assert_eq!(score.back, score.there, "seed {seed}, {way}: {score:?}");
            assert_eq!(score.invented, 0, "seed {seed}, {way}: {score:?}");
        }
    }
}

/// A sample of the corpus through the command line: the same rows, and a verdict that names what
/// the library's does.
#[test]
fn the_verb_gives_the_same_rows_as_the_library() {
    let sample = [
        (Fault::DbHeaderZeroed, Where::Database),
        (Fault::DbSectorRandom, Where::HalfInLog),
        (Fault::DbMissing, Where::HalfInLog),
        (Fault::IndexOnly, Where::Database),
        (Fault::WalHeadRandom, Where::HalfInLog),
        (Fault::WalSeveral, Where::HalfInLog),
    ];
    for (fault, place) in sample {
        let mut dice = Dice::new(1);
        let mut case = corpus::made(&mut dice, Workload::Mixed, place, 1024, 400);
        fault.strike(&mut case, &mut dice);
        let (rows, report) = by_gateway(&case);
        let (same, said) = by_verb(&case);
        let name = fault.name();
        let report = report.expect("a report");
        assert!(!rows.is_empty(), "{name}");
        assert_eq!(same, rows, "{name}: {said:#}");
        assert_eq!(said["verdict"], report.verdict.name(), "{name}: {said:#}");
        assert_eq!(said["found"], report.found, "{name}: {said:#}");
        assert_eq!(by_copy(&case), rows, "{name}: in place and as a copy");
    }
}

#[test]
fn an_applications_rows_come_back_from_damaged_database_files() {
    let lines = foreign_runs::strike(&Fault::DATABASE, Where::Database, seeds());
    foreign_runs::print("of applications: everything checkpointed", &lines);
    foreign_runs::hold_to_the_target(&lines, seeds());
}

#[test]
fn an_applications_rows_come_back_from_damaged_files_with_half_of_them_in_the_log() {
    let lines = foreign_runs::strike(&Fault::DATABASE, Where::HalfInLog, seeds());
    foreign_runs::print("of applications: half of the rows only in the log", &lines);
    foreign_runs::hold_to_the_target(&lines, seeds());
}

#[test]
fn an_applications_rows_come_back_from_damaged_logs() {
    let lines = foreign_runs::strike(&Fault::LOG, Where::HalfInLog, seeds());
    foreign_runs::print("of applications: the log damaged", &lines);
    foreign_runs::hold_to_the_target(&lines, seeds());
}
