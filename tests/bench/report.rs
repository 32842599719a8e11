//! What every benchmark prints: the machine, one table, and each target as met or missed.
//!
//! Compared figures come from one run, in turns, so that a slow minute slows both; a figure is
//! the median of its rounds.
#![allow(
    clippy::print_stdout,
    reason = "a benchmark's result is what it prints"
)]

use std::fs;
use std::path::Path;

/// The middle one of an odd number of figures, the mean of the two middle ones of an even number.
pub(crate) fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}

/// The figure below which this part of them lies, interpolated.
pub(crate) fn quantile(figures: &[f64], part: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = part * last as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * at.fract()
}

/// Prints what is measured and on what machine.
pub(crate) fn title(what: &str, data: &Path) {
    println!("\n{what}");
    println!("{}\n", machine(data));
}

/// Model and number of processors, kernel, file system under `data`.
fn machine(data: &Path) -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("unknown processor", |l| {
            l.trim_start_matches([' ', '\t', ':'])
        });
    let cores = cpus.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "machine: {model}, {cores} cores, Linux {}, {}; load before {}",
        kernel.trim(),
        file_system(data),
        load.split(' ').next().unwrap_or_default()
    )
}

fn file_system(data: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let under = mounts
        .lines()
        .filter_map(|l| {
            let mut fields = l.split(' ');
            let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
            data.starts_with(at)
                .then(|| (at.len(), format!("{kind} on {device}")))
        })
        .max_by_key(|m| m.0);
    under.map_or_else(|| "unknown file system".to_owned(), |m| m.1)
}

/// Prints rows under their heads, in columns as wide as they need to be.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(n, head)| {
            let cells = rows.iter().map(|r| r[n].chars().count());
            cells.max().unwrap_or(0).max(head.chars().count())
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        println!("| {} |", padded.join(" | "));
    };
    line(&mut heads.iter().copied());
    let rules: Vec<_> = widths.iter().map(|w| "-".repeat(*w)).collect();
    line(&mut rules.iter().map(String::as_str));
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

/// Prints whether a target is met.
pub(crate) fn target(what: &str, figure: &str, wanted: &str, met: bool) {
    let verdict = if met { "met" } else { "MISSED" };
    println!("target {verdict}: {what}: {figure} (wanted {wanted})");
}

/// Thousands apart, for people.
pub(crate) fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut out = String::new();
    for (n, c) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 && c.is_ascii_digit() {
            out.push(',');
        }
        out.push(c);
    }
    out
}
