//! `holdup config set|undo`: one setting, changed so that it can be taken back.
//!
//! It promises that what is refused changes nothing, and that what was there before is kept, in
//! order, until it is taken back.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::agent::actor;
use crate::config::{self, Network, Settings, System};
use crate::durable::{Medium, read_own_if_there};

use super::alone::By;
use super::console_enter::Entering;
use super::{Usage, console_door as door};

const VERSION: u32 = 1;
/// Changes that can be taken back.
const MOST: usize = 20;
/// Bytes of their file.
const LARGEST: u64 = 4 << 20;

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// `gateway.id`, or `network`.
    #[arg(value_name = "KEY")]
    key: String,
    /// Its value; of `network`: `dhcp`, or `ADDRESS/PREFIX [ROUTER [DNS]]`.
    #[arg(value_name = "VALUE", required = true, num_args = 1..)]
    value: Vec<String>,
    /// The network interface; else the first that is a cable.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// The network's files are below this directory.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    #[command(flatten)]
    by: By,
}

#[derive(Debug, Args)]
pub(super) struct UndoArgs {
    #[command(flatten)]
    by: By,
}

/// What was there before changes, the latest last.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Former {
    version: u32,
    changes: Vec<Change>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Change {
    /// What was changed, for people.
    what: String,
    file: PathBuf,
    /// `None`: it was not there.
    text: Option<String>,
}

/// Changes one setting; 0.
pub(super) fn set(path: &Path, args: &SetArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let value = args.value.join(" ");
    if args.key == "network" {
        return network(path, args, &value, out);
    }
    let proposed = config::propose(path, &args.key, &value)?;
    let what = format!("{} = {value}", args.key);
    let settings = proposed.loaded.settings;
    change(
        path,
        &what,
        &proposed.file,
        proposed.former,
        Some(&proposed.text),
    )?;
    let details = json!({ "set": args.key, "to": value });
    note(path, &settings, args.by.name(), details, out)?;
    writeln!(out, "{what}")?;
    for warning in &proposed.loaded.warnings {
        writeln!(out, "warning  {warning}")?;
    }
    writeln!(
        out,
        "It counts once the agent starts anew: `restart`. `config undo` takes it back."
    )?;
    Ok(0)
}

fn network(path: &Path, args: &SetArgs, value: &str, out: &mut dyn Write) -> anyhow::Result<u8> {
    let wanted = Network::read(value).map_err(|e| Usage(e.to_string()))?;
    let system = if args.root.join("etc/NetworkManager").is_dir() {
        System::NetworkManager
    } else if args.root.join("etc/systemd/network").is_dir() {
        System::Networkd
    } else {
        anyhow::bail!(
            "neither NetworkManager nor systemd-networkd is here: set the address by hand"
        );
    };
    let interface = match &args.interface {
        Some(name) => name.clone(),
        None => first_cable(&args.root).ok_or_else(|| {
            Usage("there is no wired network interface: name one with --interface".to_owned())
        })?,
    };
    let (file, text) =
        (wanted.file(system, &interface, &args.root)).map_err(|e| Usage(e.to_string()))?;
    let former = present(&file)?;
    change(
        path,
        &format!("network {value}"),
        &file,
        former,
        Some(&text),
    )?;
    let settings = config::load(path).or_else(|_| config::defaults())?.settings;
    let details = json!({ "set": "network", "to": value, "interface": interface });
    note(path, &settings, args.by.name(), details, out)?;
    writeln!(out, "{interface}: {value}")?;
    writeln!(
        out,
        "It counts after `reboot`. `config undo` takes it back."
    )?;
    Ok(0)
}

/// Takes the last change back; 1: there is none.
pub(super) fn undo(path: &Path, args: &UndoArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let mut former = read(path)?;
    loop {
        let Some(last) = former.changes.pop() else {
            writeln!(out, "There is no change to take back.")?;
            return Ok(1);
        };
        let now = present(&last.file)?;
        // A change that was noted and not made, because power went.
        if now == last.text {
            continue;
        }
        let is_ours = last.file.extension().is_some_and(|e| e == "toml");
        if is_ours {
            config::would_load(path, &last.file, last.text.as_deref())?;
        }
        put(&last.file, last.text.as_deref())?;
        write(path, &former)?;
        let settings = config::load(path).or_else(|_| config::defaults())?.settings;
        note(
            path,
            &settings,
            args.by.name(),
            json!({ "undo": last.what }),
            out,
        )?;
        writeln!(out, "Taken back: {}", last.what)?;
        let next = if is_ours { "restart" } else { "reboot" };
        writeln!(out, "It counts after `{next}`.")?;
        return Ok(0);
    }
}

/// Notes what is there, then changes it.
fn change(
    config: &Path,
    what: &str,
    file: &Path,
    former: Option<String>,
    text: Option<&str>,
) -> anyhow::Result<()> {
    let mut all = read(config)?;
    all.changes.push(Change {
        what: what.to_owned(),
        file: file.to_owned(),
        text: former,
    });
    let late = all.changes.len().saturating_sub(MOST);
    all.changes.drain(..late);
    write(config, &all)?;
    put(file, text)
}

fn put(file: &Path, text: Option<&str>) -> anyhow::Result<()> {
    match text {
        // What names the network's secrets is for root alone: NetworkManager insists.
        Some(text) if file.extension().is_some_and(|e| e == "nmconnection") => {
            door::replace_private(file, text.as_bytes()).map_err(anyhow::Error::msg)
        }
        Some(text) => door::replace(file, text.as_bytes()).map_err(anyhow::Error::msg),
        None => {
            let folder = file.parent().unwrap_or(Path::new("/"));
            Ok(Medium::open(folder)?.remove(file)?)
        }
    }
}

/// What a file holds; `None`: it is not there.
fn present(file: &Path) -> anyhow::Result<Option<String>> {
    match read_own_if_there(file, LARGEST) {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => Ok(Some(String::from_utf8(bytes)?)),
        Err(e) => anyhow::bail!("{} cannot be read: {e}", file.display()),
    }
}

fn folder(config: &Path) -> PathBuf {
    let above = config.parent().filter(|p| !p.as_os_str().is_empty());
    above.unwrap_or(Path::new(".")).join("conf.d")
}

fn read(config: &Path) -> anyhow::Result<Former> {
    let path = folder(config).join(config::FORMER);
    let Some(text) = present(&path)? else {
        return Ok(Former::default());
    };
    match serde_json::from_str(&text) {
        Ok(
            former @ Former {
                version: VERSION, ..
            },
        ) => Ok(former),
        Ok(_) | Err(_) => anyhow::bail!(
            "{} is not understood: remove it; what it would take back is lost",
            path.display()
        ),
    }
}

fn write(config: &Path, former: &Former) -> anyhow::Result<()> {
    let folder = folder(config);
    if !folder.is_dir() {
        let above = folder.parent().unwrap_or(Path::new("."));
        Medium::open(above)?.make_dir(&folder)?;
    }
    let text = serde_json::to_string(&Former {
        version: VERSION,
        changes: former.changes.iter().map(Change::copy).collect(),
    })?;
    door::replace_private(&folder.join(config::FORMER), text.as_bytes()).map_err(anyhow::Error::msg)
}

impl Change {
    fn copy(&self) -> Self {
        Self {
            what: self.what.clone(),
            file: self.file.clone(),
            text: self.text.clone(),
        }
    }
}

fn note(
    config: &Path,
    settings: &Settings,
    by: Option<&str>,
    details: serde_json::Value,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    if let Some(warning) =
        Entering::new(config).enter(settings, "console.config", &actor(by), details)
    {
        write!(out, "{warning}")?;
    }
    Ok(())
}

/// The first interface with a device behind it that is neither wireless nor a loop.
fn first_cable(root: &Path) -> Option<String> {
    let all = fs::read_dir(root.join("sys/class/net")).ok()?;
    let cable = |path: &Path| path.join("device").exists() && !path.join("wireless").exists();
    let mut names: Vec<String> = all
        .filter_map(Result::ok)
        .filter(|e| cable(&e.path()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.into_iter().next()
}
