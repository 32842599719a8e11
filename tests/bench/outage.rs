//! How long a gateway under load takes to be quiet and durable when power fails.
//!
//! In the emulated gateway of tests/image (QEMU, arm64, SD card), 200 readings a second. First
//! 30 outages of the real agent: the times are those of its record, counted from the kernel's
//! time of the first lost edge. Then, with nobody else writing, the bytes that the card was given
//! from just before each edge until parked (QEMU's log of writes) are written over a file of
//! that size and synced with one fdatasync. Then 30 outages of the usual way on the same card:
//! an application with the same load, and a shell script that looks at the line every 200 ms,
//! stops it, checkpoints and syncs. What it calls for gpioget and sqlite3 are static programs
//! that do no more than needed (`guest/usual_way.rs`), so it is faster than the real one.
//! Emulated times are no gateway's; only their ratios say something.
#![allow(
    clippy::print_stdout,
    reason = "a benchmark's result is what it prints"
)]
#![allow(dead_code, reason = "the harness of tests/image, which uses all of it")]

#[path = "../image/blocklog.rs"]
mod blocklog;
#[path = "../image/card.rs"]
mod card;
#[path = "../image/console.rs"]
mod console;
#[path = "../image/initramfs.rs"]
mod initramfs;
#[path = "../image/load.rs"]
mod load;
#[path = "../image/machine.rs"]
mod machine;
#[path = "../image/parts.rs"]
mod parts;
#[path = "../image/patience.rs"]
mod patience;
#[path = "../image/qtest.rs"]
mod qtest;
mod report;
#[path = "../image/scene.rs"]
mod scene;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use card::Card;
use machine::MachineOptions;
use patience::pace;
use report::{median, quantile, target};
use scene::{POWER_FAIL, Scene, Setting};

/// What the usual script calls.
const FURTHER_PROGRAMS: [&str; 1] = ["usual_way"];

const OUTAGES: usize = 30;
const GLITCH_MS: u32 = 30;
const CHIP: &str = "9030000.pl061";
/// Raised with the power-fail line, which the script holds again and again, for its time.
const WITNESS: u8 = 2;
/// Uptime is in hundredths of a second; reading it starts no program.
const SCRIPT: &str = r#"
db=/data/usual.db
start() { usual_way write $db & writer=$!; echo writing; }
start
while :; do
    sleep 0.2
    level=$(usual_way get $1 $2)
    if [ "$level" = 1 ] && [ -n "$writer" ]; then
        kill $writer; wait $writer
        read quiet _ </proc/uptime
        usual_way checkpoint $db
        sync
        read durable _ </proc/uptime
        writer=
        echo "lost $quiet $durable"
    elif [ "$level" = 0 ] && [ -z "$writer" ]; then
        start
    fi
done
"#;
/// The log of the usual way's rows grows for this long before each of its outages.
const WRITES: Duration = Duration::from_millis(1000);

/// Milliseconds of each outage.
#[derive(Default)]
struct Times {
    quiet: Vec<f64>,
    durable: Vec<f64>,
    syncfs: Vec<f64>,
    freeze: Vec<f64>,
    raw: Vec<f64>,
    bytes: Vec<f64>,
}

fn main() {
    let Some(parts) = parts::parts() else { return };
    report::title(
        "Edge to quiet and edge to durable, emulated gateway under load",
        Path::new("/"),
    );
    let outages = std::env::args()
        .find_map(|a| a.parse().ok())
        .unwrap_or(OUTAGES);
    let card = Card::create(scene::CARD);
    let setting = Setting {
        glitch_ms: GLITCH_MS,
        ..Setting::default()
    };
    let toml = setting.toml();
    let options = MachineOptions {
        config_toml: &toml,
        block_log: true,
        files: &[("/usr/bin/usual.sh", SCRIPT.as_bytes())],
        ..MachineOptions::default()
    };
    let scene = Scene::boot("outage", parts, &card, &options);
    scene.wait_for_service();
    let mut ours = ours(&scene, outages);
    scene.machine.signal(&scene.agent, "TERM");
    scene.machine.wait_for_end(&scene.agent);
    for bytes in ours.bytes.clone() {
        let command = format!("usual_way sync /data/raw {} 5", bytes.max(512.0));
        let synced = numbers(&scene.machine.run(&command), "synced");
        let ms: Vec<f64> = synced.iter().map(|us| us[0] / 1000.0).collect();
        ours.raw.push(median(&ms));
    }
    let theirs = theirs(&scene, outages);
    scene.machine.power_off();
    print(&ours, &theirs);
}

fn ours(scene: &Scene, outages: usize) -> Times {
    let load = scene.load();
    scene.wait_for_status("readiness", |s| s["readiness"] == "Ready");
    let mut times = Times::default();
    for n in 0..outages {
        let log = scene.machine.block_log().clone();
        let mark = log.mark();
        scene.machine.lines.set(POWER_FAIL, true);
        let parked = scene.wait_for_supply("Parked");
        let bytes: u64 = log.since(mark).iter().map(|e| e.sectors * 512).sum();
        let last = &parked["last_outage"];
        times.quiet.extend(last["edge_to_quiet_ms"].as_f64());
        times.durable.extend(last["edge_to_durable_ms"].as_f64());
        times.syncfs.extend(step(&parked, "syncfs"));
        times.freeze.extend(step(&parked, "freeze"));
        let acked = load.account().acked;
        scene.machine.lines.set(POWER_FAIL, false);
        scene.wait_for_supply("Good");
        times.bytes.push(bytes as f64);
        // A second's worth of readings, so that each outage has a log to check in.
        load.wait_for("acknowledgements", |a| a.acked > acked + 200);
        let (n, ended) = (n + 1, &last["ended"]);
        scene.saw(&format!(
            "{n} of {outages}: {ended}, {bytes} bytes to the card"
        ));
    }
    let account = load.finish();
    scene.saw(&format!("{} readings acknowledged", account.acked));
    times
}

fn theirs(scene: &Scene, outages: usize) -> Times {
    let machine = &scene.machine;
    let witness = machine.spawn("witness", &format!("line_watch {CHIP} {WITNESS}"));
    let script = format!("sh /usr/bin/usual.sh {CHIP} {POWER_FAIL}");
    let job = machine.spawn("usual", &script);
    let lines = |what: &str| numbers(&machine.log_of(&job), what);
    machine.wait_for("the witness", |m| {
        m.log_of(&witness).contains("level").then_some(())
    });
    for n in 0..outages {
        machine.wait_for("the usual writer", |_| {
            (lines("writing").len() > n).then_some(())
        });
        // Not in step with its looks: they are counted from its start, these from the answer.
        pace(WRITES + Duration::from_millis(n as u64 * 73 % 200));
        machine.lines.set(WITNESS, true);
        machine.lines.set(POWER_FAIL, true);
        machine.wait_for("the usual way", |_| (lines("lost").len() > n).then_some(()));
        machine.lines.set(WITNESS, false);
        machine.lines.set(POWER_FAIL, false);
    }
    let mut times = Times::default();
    let edges = numbers(&machine.log_of(&witness), "rising");
    for (lost, edge) in lines("lost").iter().zip(&edges) {
        let since = |s: f64| s * 1000.0 - edge[0] / 1e6;
        times.quiet.push(since(lost[0]));
        times.durable.push(since(lost[1]));
    }
    // The script first, so that it starts no writer again.
    machine.signal(&job, "KILL");
    machine.signal(&witness, "KILL");
    machine.run("killall usual_way 2>/dev/null; true");
    times
}

fn print(ours: &Times, theirs: &Times) {
    let ms = |figures: &[f64]| {
        vec![
            format!("{:.1} ms", median(figures)),
            format!("{:.1} ms", quantile(figures, 1.0)),
            figures.len().to_string(),
        ]
    };
    let later = |figures: &[f64]| -> Vec<f64> {
        figures.iter().map(|t| t - f64::from(GLITCH_MS)).collect()
    };
    let (quiet, durable) = (later(&ours.quiet), later(&ours.durable));
    let kib = median(&ours.bytes) / 1024.0;
    let raw = format!("one raw fdatasync of the same bytes (median {kib:.0} KiB)");
    let rows: Vec<_> = [
        ("holdup: edge to quiet", &ours.quiet),
        ("holdup: edge to durable", &ours.durable),
        ("holdup: commit point to quiet", &quiet),
        ("holdup: commit point to durable", &durable),
        (&raw, &ours.raw),
        ("holdup: syncfs, after durable", &ours.syncfs),
        ("holdup: freeze, after durable", &ours.freeze),
        ("usual way: edge to quiet", &theirs.quiet),
        ("usual way: edge to durable", &theirs.durable),
    ]
    .into_iter()
    .map(|(what, figures)| [vec![what.to_owned()], ms(figures)].concat())
    .collect();
    report::table(&["what", "p50", "worst", "of"], &rows);
    println!("glitch time {GLITCH_MS} ms, which is what lies between edge and commit point");
    let times = |a: f64, b: f64| (a / b, format!("{:.1}x", a / b));
    for (what, part) in [("p50", 0.5), ("worst", 1.0)] {
        let (ratio, text) = times(quantile(&durable, part), quantile(&ours.raw, part));
        let what = format!("commit point to durable against one fdatasync, {what}");
        target(&what, &text, "at most 4x", ratio <= 4.0);
    }
    for (what, ours, theirs, wanted) in [
        ("quiet, from the edge", &ours.quiet, &theirs.quiet, 20.0),
        ("quiet, from the commit point", &quiet, &theirs.quiet, 20.0),
        (
            "durable, from the commit point",
            &durable,
            &theirs.durable,
            4.0,
        ),
    ] {
        let what = format!("{what}: the usual way against holdup, p50");
        let wanted_text = format!("at least {wanted}x");
        if median(ours) <= 0.0 {
            target(&what, "done before it", &wanted_text, true);
            continue;
        }
        let (ratio, text) = times(median(theirs), median(ours));
        target(&what, &text, &wanted_text, ratio >= wanted);
    }
    let (_, text) = times(median(&theirs.durable), median(&ours.durable));
    println!("durable, from the edge, glitch time and all: {text}");
}

/// What a step took, if it was done.
fn step(status: &Value, name: &str) -> Option<f64> {
    let steps = status["last_outage"]["steps"].as_array()?;
    let step = steps
        .iter()
        .find(|s| s["step"] == name && s["outcome"] == "done")?;
    Some(step["took_us"].as_f64()? / 1000.0)
}

/// The numbers of each line that begins with `word`.
fn numbers(text: &str, word: &str) -> Vec<Vec<f64>> {
    text.lines()
        .filter_map(|l| l.strip_prefix(word))
        .map(|l| {
            l.split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect()
        })
        .collect()
}
