//! What comes back from damaged files: a corpus of faults, scored against what the files still
//! hold, beside plain SQLite and its shell's `.recover`.

use std::fs;
use std::path::Path;

mod corpus;
mod score;

use corpus::{Case, Dice, Fault, Files, READINGS, Where, Workload};
use holdup::recovery::pages::{Expected, Image, page_size_of, rebuild};
use holdup::recovery::wal::{Known, Overlay, Wal};
use score::{Got, Score, by_shell, by_sqlite, readable, recovering_shell, score, still_there};

const META: &str = "CREATE TABLE holdup_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID";

/// Page salvage of the database file with its log.
fn by_pages(case: &Case) -> Got {
    let dir = tempfile::tempdir().expect("temp dir");
    let new = dir.path().join("new.db");
    let Files { db, wal, .. } = &case.files;
    let db: &[u8] = db.as_deref().unwrap_or_default();
    let log: &[u8] = wal.as_deref().unwrap_or_default();
    let kept_from = (case.workload == Workload::Append).then_some(1);
    let readings = Expected {
        sql: READINGS,
        kept_from,
    };
    let known = [readings, Expected::of(META)];
    if log.is_empty() {
        let image = Image::new(db).expect("bytes");
        rebuild(&image, &known, &new, &mut ()).expect("rebuild");
    } else {
        let read = Wal::read(&log, Known::of(&db));
        let stated = (!db.is_empty()).then(|| page_size_of(&db).expect("bytes"));
        let stated = stated.and_then(|n| u32::try_from(n).ok());
        let pages = Overlay::new(Some(&db), Some(&log), &read, stated);
        rebuild(&pages, &known, &new, &mut ()).expect("rebuild");
    }
    readable(&new)
}

/// One kind of damage to one kind of workload, over all seeds.
struct Line {
    name: String,
    fault: Fault,
    ours: Score,
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
                plain: Score::default(),
                shells: shell.is_some().then(Score::default),
            };
            for seed in 0..seeds {
                let mut dice = Dice::new(seed);
                let page_size = [4096, 512, 1024, 4096, 65_536, 4096][dice.below(6)];
                let mut case = corpus::made(&mut dice, workload, place, page_size, 600);
                fault.strike(&mut case, &mut dice);
                let there = still_there(&case);
                let got = by_pages(&case);
                let one = score(&case, &there, &got);
                if verbose {
                    let lost = there.iter().filter(|i| !got.iter().any(|g| g.0 == **i));
                    eprintln!("   {:?}", lost.collect::<Vec<_>>());
                    eprintln!("{workload:?} {fault:?} seed {seed} page {page_size}: {one:?}");
                }
                if let Some(dir) = &keep {
                    let dir = Path::new(dir).join(format!("{workload:?}-{fault:?}-{seed}"));
                    fs::create_dir_all(&dir).expect("directory");
                    case.files.lay(&dir);
                }
                line.ours.add(one);
                line.plain
                    .add(score(&case, &there, &by_sqlite(&case.files)));
                if let (Some(shell), Some(shells)) = (&shell, &mut line.shells) {
                    shells.add(score(&case, &there, &by_shell(shell, &case.files)));
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
        "{:52} {:>6} {:>24} {:>24} {:>24}",
        "damage (workload)", "rows", "holdup: new, del, old", "SQLite", ".recover"
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
            "{:52} {:>6} {:>24} {:>24} {shells:>24}",
            l.name,
            l.ours.there,
            cell(l.ours),
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
fn rows_come_back_from_damaged_files_with_half_the_rows_in_the_log() {
    let all: Vec<Fault> = [Fault::DATABASE.as_slice(), &Fault::LOG].concat();
    let lines = strike(&all, Where::HalfInLog, seeds());
    print("half of the rows only in the log", &lines);
    hold_to_the_target(&lines, seeds());
}

#[test]
fn a_thousand_readings_in_a_log_survive_random_bytes_over_its_start() {
    for seed in 0..5 {
        let mut dice = Dice::new(seed);
        let mut case = corpus::made(&mut dice, Workload::Append, Where::Log, 4096, 1000);
        Fault::WalHeadRandom.strike(&mut case, &mut dice);
        let score = score(&case, &still_there(&case), &by_pages(&case));
        let back = by_pages(&case).len();
        assert!(
            back >= 990 && score.invented == 0,
            "seed {seed}: {back} {score:?}"
        );
    }
}
