//! Finds chips by label and lines by name; numbers differ between kernels.

use std::path::{Path, PathBuf};

use gpiocdev::chip::chips;

use super::abi::{Chip, LineInfo};
use super::{BoardError, KernelError, LineDescription};
use crate::config::{BoardSettings, GpioAbi, LineAt, LineSpec};

/// A line that exists; not yet requested.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) label: String,
    pub(super) info: LineInfo,
    pub(super) chip: Chip,
}

impl Found {
    /// The kernel refuses it.
    pub(super) fn refused(&self, line: &'static str, source: KernelError) -> BoardError {
        BoardError::Request {
            line,
            chip: self.label.clone(),
            offset: self.info.offset,
            path: self.path.clone(),
            source,
        }
    }

    /// Nobody else has it.
    pub(super) fn free(&self, line: &'static str) -> Result<(), BoardError> {
        if !self.info.used {
            return Ok(());
        }
        Err(BoardError::Busy {
            line,
            chip: self.label.clone(),
            offset: self.info.offset,
            consumer: self.info.consumer.clone(),
        })
    }

    pub(super) fn describe(&self, line: &'static str, spec: &LineSpec) -> LineDescription {
        LineDescription {
            line,
            chip: self.label.clone(),
            path: self.path.display().to_string(),
            offset: self.info.offset,
            name: self.info.name.clone(),
            active_high: spec.active_high,
        }
    }
}

struct Candidate {
    path: PathBuf,
    label: String,
    lines: u32,
    /// `Err`: what it speaks instead of what was chosen.
    chip: Result<Chip, &'static str>,
}

/// The line that `spec` means, on a chip that speaks the ABI of `choice`.
pub(super) fn find(
    line: &'static str,
    spec: &LineSpec,
    choice: GpioAbi,
) -> Result<Found, BoardError> {
    let (all, closed) = every_chip(choice);
    let have = inventory(&all, &closed);
    let mut fitting: Vec<Candidate> = all
        .into_iter()
        .filter(|c| spec.chip.as_ref().is_none_or(|label| *label == c.label))
        .collect();
    if fitting.is_empty() {
        let label = spec.chip.clone().unwrap_or_else(|| "any".to_owned());
        return Err(BoardError::NoChip { line, label, have });
    }
    match &spec.at {
        LineAt::Offset(offset) => {
            let [one] = &fitting[..] else {
                let which = fitting.iter().map(|c| shown(&c.path));
                let which = which.collect::<Vec<_>>().join(", ");
                return Err(BoardError::Ambiguous { line, which });
            };
            if *offset >= one.lines {
                return Err(BoardError::NoOffset {
                    line,
                    chip: one.label.clone(),
                    last: one.lines.saturating_sub(1),
                    offset: *offset,
                });
            }
            fitting.remove(0).found(line, *offset, choice)
        }
        LineAt::Name(name) => {
            let mut hits = Vec::new();
            for (nth, candidate) in fitting.iter().enumerate() {
                let Ok(chip) = &candidate.chip else {
                    continue;
                };
                for offset in 0..candidate.lines {
                    let info = chip.line_info(offset);
                    if info.is_ok_and(|info| info.name == *name) {
                        hits.push((nth, offset));
                    }
                }
            }
            match hits[..] {
                [(nth, offset)] => fitting.remove(nth).found(line, offset, choice),
                [] => match fitting.iter().position(|c| c.chip.is_ok()) {
                    Some(_) => Err(BoardError::NoLine {
                        line,
                        name: name.clone(),
                        have,
                    }),
                    None => fitting.remove(0).found(line, 0, choice),
                },
                _ => {
                    let which = hits.iter().map(|(nth, offset)| {
                        format!("{} line {offset}", shown(&fitting[*nth].path))
                    });
                    let which = which.collect::<Vec<_>>().join(", ");
                    Err(BoardError::Ambiguous { line, which })
                }
            }
        }
    }
}

impl Candidate {
    fn found(self, line: &'static str, offset: u32, choice: GpioAbi) -> Result<Found, BoardError> {
        let Self {
            path, label, chip, ..
        } = self;
        let chip = match chip {
            Ok(chip) => chip,
            Err(speaks) => {
                let (wanted, remedy) = match choice {
                    GpioAbi::V1 => ("GPIO ABI v1", "set gpio.abi = \"auto\""),
                    GpioAbi::V2 => ("GPIO ABI v2", "set gpio.abi = \"auto\""),
                    GpioAbi::Auto => ("any GPIO ABI", "use a kernel with CONFIG_GPIO_CDEV"),
                };
                return Err(BoardError::NoAbi {
                    line,
                    chip: label,
                    wanted,
                    speaks,
                    remedy,
                });
            }
        };
        match chip.line_info(offset) {
            Ok(info) => Ok(Found {
                path,
                label,
                info,
                chip,
            }),
            Err(source) => Err(BoardError::Request {
                line,
                chip: label,
                offset,
                path,
                source,
            }),
        }
    }
}

/// The chips that can be opened, and why the others cannot.
fn every_chip(choice: GpioAbi) -> (Vec<Candidate>, Vec<String>) {
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    // Links such as Raspberry Pi OS's gpiochip4 are resolved and counted once. What a chip says of
    // itself is the same in both ABIs.
    for path in chips().unwrap_or_default() {
        let opened = gpiocdev::Chip::from_path(&path).and_then(|chip| {
            let info = chip.info()?;
            Ok(Candidate {
                path: path.clone(),
                label: info.label,
                lines: info.num_lines,
                chip: Chip::open(chip, choice),
            })
        });
        match opened {
            Ok(candidate) => open.push(candidate),
            Err(error) => closed.push(format!("{}: {error}", path.display())),
        }
    }
    (open, closed)
}

fn inventory(open: &[Candidate], closed: &[String]) -> String {
    let mut have: Vec<String> = open
        .iter()
        .map(|c| format!("{} \"{}\" with {} lines", shown(&c.path), c.label, c.lines))
        .collect();
    have.extend_from_slice(closed);
    if have.is_empty() {
        "no gpio chip at all".to_owned()
    } else {
        have.join(", ")
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// One wired line of the board, as doctor shows it.
#[derive(Debug)]
pub struct Finding {
    /// The line's purpose, as in the configuration.
    pub line: &'static str,
    /// Where it is, or why not.
    pub found: Result<LineDescription, BoardError>,
    /// Who has requested it, if anybody; a running agent is [`super::CONSUMER`].
    pub used_by: Option<String>,
}

/// Looks for every wired line without requesting any. Empty on a simulated board.
pub fn survey(board: &BoardSettings) -> Vec<Finding> {
    if board.is_sim() {
        return Vec::new();
    }
    wired(board)
        .map(|(line, spec)| {
            let found = find(line, spec, board.abi);
            let used_by = match &found {
                Ok(found) if found.info.used => Some(found.info.consumer.clone()),
                Ok(_) | Err(_) => None,
            };
            Finding {
                line,
                found: found.map(|f| f.describe(line, spec)),
                used_by,
            }
        })
        .collect()
}

fn wired(board: &BoardSettings) -> impl Iterator<Item = (&'static str, &LineSpec)> {
    let lines = [
        ("power_fail", &board.power_fail),
        ("brownout", &board.brownout),
        ("battery_low", &board.battery_low),
        ("presence", &board.presence),
        ("status", &board.status),
        ("safe_to_cut", &board.safe_to_cut),
    ];
    lines
        .into_iter()
        .filter_map(|(line, spec)| Some((line, spec.as_ref()?)))
}

/// What this board uses the line for.
pub(super) fn purpose(board: &BoardSettings, spec: &LineSpec) -> &'static str {
    wired(board)
        .find(|(_, known)| *known == spec)
        .map_or("line", |(line, _)| line)
}
