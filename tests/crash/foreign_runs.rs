//! The databases of applications, struck and brought back by each way.

use holdup::durable::{Gate, Medium};
use holdup::recovery::{RecoveryError, Report, Request, Site, Way, recover};
use std::path::Path;
use std::sync::Arc;

use holdup::clock::SystemClock;

use crate::corpus::{Dice, Fault, Where};
use crate::foreign::{App, Val, World, readable};
use crate::score::Score;
use crate::ways::{holds_what_was_damaged, laid, recovering_shell, shelled};

type Rows = Vec<(usize, Vec<Val>)>;

/// The whole way of `holdup recover DB`, of which the schema is nobody's.
fn by_verb(world: &World) -> (Rows, Option<Report>) {
    let case = &world.case;
    let (dir, db) = laid(case);
    let medium = Medium::open(dir.path()).expect("medium");
    let request = Request {
        database: &db,
        way: Way::InPlace,
        tables: &[],
        suspicion: None,
        thorough: true,
        cut: false,
        may_be_fresh: false,
        set_aside: false,
        acknowledged: None,
        snapshots: None,
        say: &|_| {},
        begins: &|_| {},
    };
    let site = Site {
        medium: &medium,
        gate: &Arc::new(Gate::new()),
        stop: &Arc::default(),
        clock: &SystemClock,
        evidence: &dir.path().join("evidence"),
        evidence_max: 1 << 30,
    };
    let report = match recover(&request, &site) {
        Ok(report) => report,
        Err(RecoveryError::Nothing(_)) => return (Vec::new(), None),
        Err(e) => panic!("{}: {e}", db.display()),
    };
    if report.evidence.is_some() {
        holds_what_was_damaged(case, &report);
    }
    (readable(&db, Some(world)), Some(report))
}

/// Tables without blobs, and those with.
#[derive(Debug, Clone, Copy, Default)]
struct Two(Score, Score);

impl Two {
    fn add(&mut self, world: &World, there: &std::collections::HashSet<(usize, Val)>, got: &Rows) {
        self.0.add(world.score(there, got, false));
        self.1.add(world.score(there, got, true));
    }

    fn percent(self) -> f64 {
        let mut all = self.0;
        all.add(self.1);
        all.percent()
    }

    fn cell(self) -> String {
        format!(
            "{:>6.1} % {:>4} {:>4} {:>5} {:>4}",
            self.percent(),
            self.0.invented,
            self.1.invented,
            self.0.deleted + self.1.deleted,
            self.0.older + self.1.older
        )
    }
}

pub(crate) struct Line {
    name: String,
    fault: Fault,
    there: usize,
    ours: Two,
    plain: Two,
    shells: Option<Two>,
    unrecoverable: u64,
}

pub(crate) fn strike(faults: &[Fault], place: Where, seeds: u64) -> Vec<Line> {
    let shell = recovering_shell();
    let only = std::env::var("HOLDUP_FAULT").unwrap_or_default();
    let verbose = std::env::var_os("HOLDUP_VERBOSE").is_some();
    let keep = std::env::var_os("HOLDUP_KEEP");
    let mut lines = Vec::new();
    for app in App::ALL {
        for fault in faults.iter().filter(|f| f.name().contains(&only)) {
            let mut line = Line {
                name: format!("{} ({})", fault.name(), app.name()),
                fault: *fault,
                there: 0,
                ours: Two::default(),
                plain: Two::default(),
                shells: shell.is_some().then(Two::default),
                unrecoverable: 0,
            };
            for seed in 0..seeds {
                let mut dice = Dice::new(seed);
                let page_size = [4096, 512, 1024, 4096, 65_536, 4096][dice.below(6)];
                let mut world = World::made(&mut dice, app, place, page_size, 500);
                fault.strike(&mut world.case, &mut dice);
                if *fault == Fault::WalTruncated {
                    world.cut_off();
                }
                let there = world.still_there();
                let (got, report) = by_verb(&world);
                line.there += there.len();
                let mut one = Two::default();
                one.add(&world, &there, &got);
                line.ours.add(&world, &there, &got);
                let verdict = report.as_ref().map(|r| r.verdict.name());
                line.unrecoverable += u64::from(verdict == Some("unrecoverable"));
                if verbose {
                    eprintln!("{app:?} {fault:?} seed {seed} page {page_size}: {one:?}");
                    eprintln!("   {verdict:?} {:?}", report.map(|r| (r.found, r.steps)));
                    for (table, row) in world.invented(&got).into_iter().take(5) {
                        eprintln!("   never written: {table} {row:?}");
                    }
                    let has = |k: &&(usize, Val)| !got.iter().any(|g| g.0 == k.0 && g.1[0] == k.1);
                    let mut lost = [0; 6];
                    for key in there.iter().filter(has) {
                        lost[key.0] += 1;
                    }
                    eprintln!("   lost by table: {lost:?}");
                }
                if let Some(dir) = &keep {
                    let dir = Path::new(dir).join(format!("{app:?}-{fault:?}-{seed}"));
                    std::fs::create_dir_all(&dir).expect("directory");
                    world.case.files.lay(&dir);
                }
                let (_dir, db) = laid(&world.case);
                line.plain.add(&world, &there, &readable(&db, None));
                if let (Some(shell), Some(shells)) = (&shell, &mut line.shells) {
                    let (_dir, new) = shelled(shell, &world.case);
                    shells.add(&world, &there, &readable(&new, Some(&world)));
                }
            }
            lines.push(line);
        }
    }
    lines
}

pub(crate) fn print(title: &str, lines: &[Line]) {
    eprintln!("\n{title}");
    eprintln!(
        "{:58} {:>6} {:>30} {:>30} {:>30} unrecoverable",
        "damage (application)", "rows", "holdup: new, blobs, del, old", "SQLite", ".recover"
    );
    for l in lines {
        let shells = l.shells.map_or_else(|| "-".to_owned(), Two::cell);
        eprintln!(
            "{:58} {:>6} {:>30} {:>30} {shells:>30} {}",
            l.name,
            l.there,
            l.ours.cell(),
            l.plain.cell(),
            l.unrecoverable
        );
    }
}

pub(crate) fn hold_to_the_target(lines: &[Line], seeds: u64) {
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
        let unseen = if l.fault.changes_single_bytes() {
            seeds
        } else {
            0
        };
        assert!(ours.0.invented as u64 <= unseen, "{name}: {ours:?}");
    }
}
