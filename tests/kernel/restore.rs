//! Restores as a technician does them: the key on a stick, or pasted at a terminal; on a disk that
//! another program fills meanwhile; of a database of 3 GB.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use age::secrecy::ExposeSecret;
use holdup::backup::Identity;
use holdup::backup::catalogue::list;
use rusqlite::Connection;
use serde_json::Value;

use crate::disk::{Disk, Mounted};
use crate::home::{Home, poll};
use crate::usb::{Stick, mounted};

const POWER: &str = "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0";

fn say(what: &str) {
    // Not by a print macro: the harness swallows those of tests that pass.
    writeln!(std::io::stderr(), "restore: {what}").ok();
}

/// A stopped gateway with a backup of 50 readings, and 20 readings since.
struct World {
    home: Home,
    key: Identity,
    archive: PathBuf,
}

impl World {
    fn new() -> Self {
        let key = Identity::generate();
        let home = Home::with(POWER, &tables(&key, ""));
        send(&home, 50);
        let made = home.holdup(&["backup", "create"]);
        assert!(made.status.success(), "{made:?}");
        let archive = list(&home.data("backup")).expect("list")[0].archive();
        send(&home, 20);
        Self { home, key, archive }
    }

    fn secret(&self) -> String {
        self.key.secret_text().expose_secret().to_owned()
    }

    fn name(&self) -> String {
        self.archive.display().to_string()
    }

    fn readings(&self) -> usize {
        self.home.values().len()
    }
}

fn tables(key: &Identity, more: &str) -> String {
    let recipient = key.recipient();
    format!(
        "[backup]\nevery_s = 0\nrecipients = [\"{}\"]\n\n{more}",
        recipient.text()
    )
}

fn send(home: &Home, readings: u64) {
    let agent = home.serving();
    let mut client = home.client();
    for _ in 0..readings {
        client.send();
    }
    client.wait_acked(readings);
    agent.stop();
}

#[test]
fn the_identity_is_found_on_a_stick_which_is_unmounted_before_anything_is_replaced() {
    let stick = match Stick::plug(16, "k") {
        Ok(stick) => stick,
        Err(why) => return say(&format!("SKIPPED: {why}")),
    };
    let w = World::new();
    let restore = |w: &World| {
        let name = w.name();
        let args = ["backup", "restore", &name, "--yes", "--identity-usb"];
        w.home
            .holdup(&[&args[..], &[stick.label.as_str()]].concat())
    };
    let without = restore(&w);
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(!without.status.success(), "{said}");
    assert!(said.contains("no identity on the stick"), "{said}");
    assert!(!mounted(&stick.label) && w.readings() == 70);
    {
        let at = w.home.path("stick");
        let _mounted = Mounted::new(&stick.image(), &at).expect("mount");
        let put = |name: &str, text: &[u8]| {
            let file = File::create(at.join(name));
            file.and_then(|mut f| f.write_all(text)).expect("write");
        };
        put("holiday.txt", b"no key at all");
        put("key.txt", w.secret().as_bytes());
    }
    let done = restore(&w);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(!mounted(&stick.label), "it is unmounted again");
    assert_eq!(w.readings(), 50);
}

/// A verb on a terminal of its own, by script(1).
struct Terminal {
    child: Child,
    said: Vec<u8>,
}

impl Terminal {
    fn run(home: &Home, args: &[&str]) -> Self {
        let words = args.iter().map(|a| format!("'{a}'"));
        let verb = words.collect::<Vec<_>>().join(" ");
        let exe = env!("CARGO_BIN_EXE_holdup");
        let config = home.config();
        let line = format!("'{exe}' {verb} --config '{}'", config.display());
        let child = Command::new("script")
            .args(["-qefc", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script");
        let said = Vec::new();
        Self { child, said }
    }

    /// Reads until it has said `words`.
    fn wait_for(&mut self, words: &str) {
        let out = self.child.stdout.as_mut().expect("piped");
        while !String::from_utf8_lossy(&self.said).contains(words) {
            let mut piece = [0; 256];
            let n = out.read(&mut piece).expect("read");
            let said = String::from_utf8_lossy(&self.said);
            assert_ne!(n, 0, "it ended without saying {words:?}: {said}");
            self.said.extend_from_slice(&piece[..n]);
        }
    }

    fn type_in(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().expect("piped");
        input.write_all(text.as_bytes()).expect("type");
        input.flush().expect("type");
    }

    /// Its end, and all that was on the screen.
    fn end(mut self) -> (ExitStatus, String) {
        let out = self.child.stdout.as_mut().expect("piped");
        out.read_to_end(&mut self.said).expect("read");
        let status = self.child.wait().expect("wait");
        (status, String::from_utf8_lossy(&self.said).into_owned())
    }
}

#[test]
fn an_identity_is_pasted_at_a_terminal_and_never_shown() {
    let w = World::new();
    let name = w.name();
    let mut terminal = Terminal::run(&w.home, &["backup", "restore", &name]);
    terminal.wait_for("nothing is shown: ");
    terminal.type_in(&format!("{}\r\r", w.secret().trim()));
    terminal.wait_for("Type yes to do this: ");
    assert_eq!(
        w.readings(),
        70,
        "nothing is touched before it is confirmed"
    );
    terminal.type_in("yes\n");
    let (status, screen) = terminal.end();
    assert!(status.success(), "{screen}");
    assert_eq!(w.readings(), 50, "{screen}");
    let secret = w.secret();
    let secret = secret.trim();
    assert!(!screen.contains(secret), "the key was shown");
    assert!(!screen.contains(&secret[20..30]), "a part of it was shown");
}

/// Rows of a table that no compression makes smaller.
fn noise(path: &Path, mib: u64) {
    let conn = Connection::open(path).expect("open");
    conn.execute_batch(&format!(
        "PRAGMA synchronous = OFF; CREATE TABLE t(b BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO t SELECT randomblob(65000) FROM n;",
        mib * 16
    ))
    .expect("rows");
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let done = Command::new("kill").args([name, &pid]).status();
    assert!(done.expect("kill").success());
}

/// What lies beside the database while a new one is made.
fn staged(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).expect("list").flatten();
    let mut names = entries.map(|e| e.path());
    names.find(|p| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(".holdup-restore-")
    })
}

#[test]
fn a_disk_that_another_program_fills_during_a_restore_changes_nothing_and_later_it_succeeds() {
    let disk = match Disk::new(160) {
        Ok(disk) => disk,
        Err(why) => return say(&format!("SKIPPED: {why}")),
    };
    let app = disk.mount().join("app.db");
    let key = Identity::generate();
    let table = format!("[[database]]\npath = \"{}\"\n", app.display());
    let home = Home::with(POWER, &tables(&key, &table));
    noise(&app, 48);
    send(&home, 10);
    let made = home.holdup(&["backup", "create"]);
    assert!(made.status.success(), "{made:?}");
    let archive = list(&home.data("backup")).expect("list")[0].archive();
    home.write("key.txt", key.secret_text().expose_secret().as_bytes());
    let rows = |path: &Path| -> i64 {
        Connection::open(path)
            .and_then(|c| c.query_row("SELECT count(*) FROM t", [], |r| r.get(0)))
            .expect("count")
    };
    let all = rows(&app);
    let gone =
        Connection::open(&app).and_then(|c| c.execute("DELETE FROM t WHERE rowid > 700", []));
    assert!(gone.expect("delete") > 0);
    let before = fs::read(&app).expect("read");
    let restore = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdup"));
        command
            .args(["backup", "restore", "--yes", "--identity"])
            .arg(home.path("key.txt"))
            .arg(&archive)
            .arg("--config")
            .arg(home.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    };
    let child = restore().spawn().expect("start");
    // It has looked for room, and found it; it is halted in the middle.
    let file = poll("a file that is being made", || {
        let file = staged(&disk.mount())?;
        (file.metadata().is_ok_and(|m| m.len() > 0)).then_some(file)
    });
    signal(&child, "-STOP");
    let half = file.metadata().map_or(0, |m| m.len());
    assert!(half < before.len() as u64, "it is not made yet: {half}");
    let filler = disk.mount().join("filler");
    let free = rustix::fs::statvfs(disk.mount()).expect("statvfs");
    let free = (free.f_bfree * free.f_frsize).to_string();
    let filled = Command::new("fallocate")
        .args(["-l", &free])
        .arg(&filler)
        .status();
    if !filled.expect("fallocate").success() {
        // To the last block: some of what is free is not for files.
        let mut out = File::create(&filler).expect("create");
        while out.write_all(&[0; 4096]).is_ok() {}
    }
    signal(&child, "-CONT");
    let ended = child.wait_with_output().expect("end");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(fs::read(&app).expect("read"), before, "it is as it was");
    assert_eq!(staged(&disk.mount()), None, "what was begun is removed");
    fs::remove_file(&filler).expect("remove");
    let again = restore().output().expect("run");
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success(), "{said}");
    assert_eq!(rows(&app), all);
}

/// Runs a verb and watches what memory it takes, in KiB.
fn watched(home: &Home, args: &[&str]) -> (String, u64) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args(args)
        .arg("--config")
        .arg(home.config())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().expect("wait").is_none() {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    let done = child.wait_with_output().expect("end");
    assert!(done.status.success(), "{args:?}: {}", done.status);
    (String::from_utf8_lossy(&done.stdout).into_owned(), peak)
}

/// Takes minutes, and 12 GB of `TMPDIR`: only with `HOLDUP_LARGE=1`.
#[test]
fn a_database_of_3_gb_goes_to_a_backup_and_back_in_little_memory() {
    const ROWS: u64 = 3_000;
    if std::env::var_os("HOLDUP_LARGE").is_none() {
        return say("SKIPPED: a database of 3 GB only with HOLDUP_LARGE=1");
    }
    let key = Identity::generate();
    let place = tempfile::tempdir().expect("temp dir");
    let app = place.path().join("app.db");
    let table = format!("[[database]]\npath = \"{}\"\n", app.display());
    let home = Home::with(POWER, &tables(&key, &table));
    home.write("key.txt", key.secret_text().expose_secret().as_bytes());
    send(&home, 10);
    let conn = Connection::open(&app).expect("open");
    // A tenth is noise; the rest compresses well, as sensors' readings do.
    conn.execute_batch(&format!(
        "PRAGMA synchronous = OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO t SELECT i, iif(i % 10, zeroblob(1040000), randomblob(1040000)) FROM n;"
    ))
    .expect("rows");
    let sum = |conn: &Connection| -> (i64, i64) {
        conn.query_row("SELECT count(*), sum(length(b)) FROM t", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .expect("sum")
    };
    let before = sum(&conn);
    drop(conn);
    let bytes = fs::metadata(&app).expect("stat").len();
    assert!(bytes > 3_000_000_000, "{bytes}");
    let (made, create) = watched(&home, &["backup", "create", "--json"]);
    let made: Value = serde_json::from_str(&made).expect("json");
    assert!(made["verified"].is_string(), "{made}");
    let archive = made["archive"].as_str().expect("path").to_owned();
    let identity = home.path("key.txt").display().to_string();
    let (_, verify) = watched(&home, &["backup", "verify", "all", "--identity", &identity]);
    let gone = Connection::open(&app).and_then(|c| c.execute("DELETE FROM t WHERE id = 7", []));
    assert_eq!(gone.expect("delete"), 1);
    let args = [
        "backup",
        "restore",
        &archive,
        "--yes",
        "--identity",
        &identity,
    ];
    let (_, restore) = watched(&home, &args);
    let after = sum(&Connection::open(&app).expect("open"));
    assert_eq!(after, before);
    let mib = |kib: u64| kib as f64 / 1024.0;
    say(&format!(
        "{bytes} bytes, archive of {}; peak memory: create {:.1} MiB, verify {:.1} MiB, restore {:.1} \
         MiB",
        made["bytes"],
        mib(create),
        mib(verify),
        mib(restore)
    ));
    for (verb, peak) in [("create", create), ("verify", verify), ("restore", restore)] {
        assert!(peak > 0 && peak <= 48 * 1024, "{verb}: {peak} KiB");
    }
}
