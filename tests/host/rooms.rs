//! The import rules of the house: data flows one way, nobody imports leftwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom. Rooms stand in the order of the flow, so a circle cannot be written here
/// without an arrow that points back.
const MAY: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("config", &["clock"]),
    ("durable", &["clock"]),
    ("audit", &["durable", "clock"]),
    ("board", &["clock", "config"]),
    ("power", &["clock", "config"]),
    ("hooks", &["power", "clock", "config"]),
    ("store", &["durable", "clock", "config"]),
    ("queue", &["store", "durable", "clock", "config"]),
    ("ingest", &["store", "durable", "clock", "config"]),
    ("guard", &["power", "store", "durable", "clock", "config"]),
    ("recovery", &["guard", "durable", "clock"]),
    ("media", &[]),
    (
        "backup",
        &[
            "recovery", "guard", "queue", "store", "audit", "durable", "clock", "config",
        ],
    ),
    (
        "reset",
        &[
            "recovery", "queue", "store", "audit", "durable", "clock", "config",
        ],
    ),
    (
        "drill",
        &[
            "backup", "recovery", "queue", "store", "audit", "durable", "clock", "config",
        ],
    ),
    (
        "agent",
        &[
            "board", "power", "guard", "store", "queue", "recovery", "backup", "reset", "drill",
            "ingest", "hooks", "audit", "durable", "clock", "config", "media",
        ],
    ),
    ("console", &["agent", "guard", "clock"]),
    ("demo", &["agent", "clock"]),
    (
        "doctor",
        &[
            "agent", "board", "guard", "recovery", "queue", "store", "hooks", "media", "config",
            "clock",
        ],
    ),
    (
        "cli",
        &[
            "agent", "audit", "backup", "board", "console", "doctor", "demo", "drill", "guard",
            "recovery", "reset", "ingest", "queue", "store", "config", "clock", "durable", "media",
        ],
    ),
    ("main", &["cli"]),
];

#[test]
fn no_room_imports_against_the_flow() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    let mut seen = BTreeSet::new();
    for file in rust_files(&src) {
        let shown = file
            .strip_prefix(&src)
            .expect("under src")
            .display()
            .to_string();
        let room = shown.split(['/', '.']).next().expect("a name").to_owned();
        if room == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY.iter().find(|(r, _)| *r == room) else {
            broken.push(format!(
                "{shown}: room `{room}` has no rule; give it one in {}",
                file!()
            ));
            continue;
        };
        seen.insert(room.clone());
        let text = fs::read_to_string(&file).expect("source");
        let code = text.split("#[cfg(test)]").next().expect("code");
        for (line, imported) in imports(code) {
            if imported != room && !allowed.contains(&imported.as_str()) {
                broken.push(format!(
                    "{shown}:{line}: `{room}` may not import `{imported}`"
                ));
            }
        }
    }
    assert!(
        seen.contains("guard") && seen.contains("store"),
        "read the wrong folder: {seen:?}"
    );
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_rules_themselves_have_no_circle() {
    for (place, (room, allowed)) in MAY.iter().enumerate() {
        for other in *allowed {
            let at = MAY.iter().position(|(r, _)| r == other);
            assert!(
                at.is_some_and(|at| at < place),
                "{room} -> {other} points back"
            );
        }
    }
}

/// Every `crate::ROOM` and every room inside `crate::{...}`, with its line.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let ident = |s: &str| {
        s.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        if code[..at]
            .rsplit('\n')
            .next()
            .is_some_and(|l| l.trim_start().starts_with("//"))
        {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push((line, ident(rest)));
            continue;
        };
        let (mut depth, mut start) = (0, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && depth == 0 && c.is_alphabetic() => {
                    found.push((line, ident(&group[i..])));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            all.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
    all
}

#[test]
fn the_reader_of_imports_finds_them() {
    let code = "use crate::power::{A, B};\nuse crate::{board, store::X};\n// crate::web\nlet x = crate::clock::y();";
    let names: Vec<_> = imports(code).into_iter().map(|(_, n)| n).collect();
    assert_eq!(names, ["power", "board", "store", "clock"]);
}
