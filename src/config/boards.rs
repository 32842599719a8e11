//! Boards are data: the descriptions that are compiled in, and the site's own.

use std::path::{Path, PathBuf};

use super::files;
use super::fragment::{self, Author, Entry, Fragment, Value};
use super::identify::Identity;
use super::problem::{Place, Problem, printable};

/// Name and description of each board that needs no file.
pub const BUILT_IN: [(&str, &str); 5] = [
    ("rpi5", include_str!("../../board/rpi5/board.toml")),
    ("rpi4", include_str!("../../board/rpi4/board.toml")),
    ("rpi3", include_str!("../../board/rpi3/board.toml")),
    (
        "qemu-virt",
        include_str!("../../board/qemu-virt/board.toml"),
    ),
    ("sim", include_str!("../../board/sim/board.toml")),
];

/// The name that means: whichever board this machine is.
const AUTO: &str = "auto";

/// The description that `power.board` means, and its file where it is not compiled in.
///
/// A name with a slash is a path; else `board/NAME/board.toml` beside `main` goes before what is
/// compiled in.
///
/// `auto` is what `identify` says that this machine is.
pub(super) fn read(
    main: &Path,
    wanted: &Entry,
    identify: &dyn Fn() -> Identity,
) -> (Fragment, Option<PathBuf>) {
    let Value::Text(name) = &wanted.value else {
        return (Fragment::default(), None);
    };
    let folder = files::beside(main);
    let name = if name == AUTO {
        let machine = identify();
        match machine.profile {
            Some(profile) => profile,
            None => return (nobody_knows(&machine, wanted, folder), None),
        }
    } else {
        name
    };
    if name.contains('/') {
        let path = folder.join(name);
        return (from_file(&path, None, wanted), Some(path));
    }
    let path = folder.join("board").join(name).join("board.toml");
    if path.exists() {
        return (from_file(&path, Some(name), wanted), Some(path));
    }
    let built_in = BUILT_IN.iter().find(|(n, _)| *n == name);
    let Some((_, text)) = built_in else {
        let what = format!("there is no board \"{}\"", printable(name));
        return (no_board(wanted, what, &path), None);
    };
    let file = PathBuf::from(format!("board/{name}/board.toml"));
    (fragment::parse(&file, text, Author::Board(name)), None)
}

fn nobody_knows(machine: &Identity, wanted: &Entry, folder: &Path) -> Fragment {
    let seen = printable(&machine.to_string());
    let what = format!("is \"auto\", and no board is known for what this is: {seen}");
    no_board(wanted, what, &folder.join("board/NAME/board.toml"))
}

/// Without a board nothing can be said about its lines.
fn no_board(wanted: &Entry, what: String, path: &Path) -> Fragment {
    let known: Vec<&str> = BUILT_IN.iter().map(|(n, _)| *n).collect();
    let remedy = format!(
        "use one of {}, or describe it in {}",
        known.join(", "),
        path.display()
    );
    Fragment {
        problems: vec![Problem {
            place: wanted.origin.place(),
            key: "power.board".to_owned(),
            what,
            remedy,
        }],
        broken: true,
        ..Fragment::default()
    }
}

fn from_file(path: &Path, name: Option<&str>, wanted: &Entry) -> Fragment {
    let text = match files::read(path) {
        Ok(text) => text,
        Err(mut problem) => {
            if let Some(place) = wanted.origin.place() {
                problem.remedy = format!("correct power.board at {place}");
            }
            return Fragment {
                problems: vec![problem],
                broken: true,
                ..Fragment::default()
            };
        }
    };
    // The board's own name is only known once the file is read.
    let own = fragment::parse(path, &text, Author::Board(name.unwrap_or_default()));
    let said = match own.entries.get("board.name").map(|e| &e.value) {
        Some(Value::Text(said)) => said.clone(),
        _ => String::new(),
    };
    if own.broken {
        return own;
    }
    let complaint = match name {
        _ if said.is_empty() && !own.refused.iter().any(|k| k == "board.name") => {
            Some(("is missing".to_owned(), "add name to [board]".to_owned()))
        }
        Some(name) if !said.is_empty() && name != said => Some((
            format!("is \"{}\"", printable(&said)),
            format!("make it \"{}\", as its folder is", printable(name)),
        )),
        _ => None,
    };
    let mut fragment = fragment::parse(path, &text, Author::Board(&said));
    if let Some((what, remedy)) = complaint {
        let origin = own.entries.get("board.name").map(|e| e.origin.place());
        fragment.problems.push(Problem {
            place: origin.flatten().or(Some(Place {
                file: path.to_owned(),
                line: None,
            })),
            key: "board.name".to_owned(),
            what,
            remedy,
        });
    }
    fragment
}
