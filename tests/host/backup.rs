//! Backups by the real binary: made beside ingest, cut off anywhere, opened by Debian's own tools.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use age::secrecy::ExposeSecret;
use holdup::backup::catalogue::{Listed, Standing, list};
use holdup::backup::{Identity, Limits, Manifest, Reader};
use serde_json::Value;

use crate::home::{Home, poll};

/// A gateway whose backups `identity` opens; `more` are further lines of `[backup]`.
struct World {
    home: Home,
    identity: Identity,
}

impl World {
    fn new(more: &str) -> Self {
        Self::with(more, "")
    }

    fn with(more: &str, tables: &str) -> Self {
        let identity = Identity::generate();
        let recipient = identity.recipient();
        let tables = format!(
            "[backup]\nrecipients = [\"{}\"]\n{more}\n\n{tables}",
            recipient.text()
        );
        let power = "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0";
        let home = Home::with(power, &tables);
        let world = Self { home, identity };
        let secret = world.identity.secret_text();
        world
            .home
            .write("key.txt", secret.expose_secret().as_bytes());
        world
    }

    fn key(&self) -> String {
        self.home.path("key.txt").display().to_string()
    }

    fn dir(&self) -> PathBuf {
        self.home.data("backup")
    }

    fn listed(&self) -> Vec<Listed> {
        list(&self.dir()).expect("list")
    }

    /// Readings, all acknowledged, as a killed agent leaves them.
    fn filled(&self, readings: u64) {
        let agent = self.home.serving();
        let mut client = self.home.client();
        for n in 1..=readings {
            client.send();
            if n % 50 == 0 && n < readings {
                client.wait_acked(n);
            }
        }
        client.wait_acked(readings);
        agent.kill();
    }

    fn create(&self) -> Value {
        json(&self.home.holdup(&["backup", "create", "--json"]))
    }

    /// The store in `archive`, opened with the owner's key: its number of readings and highest id.
    fn store_in(&self, archive: &Path) -> (i64, i64) {
        let file = File::open(archive).expect("open");
        let keys = [self.identity.clone()];
        let limits = Limits::of_bytes(1 << 30);
        let mut reader = Reader::open(archive, file, &keys, limits).expect("opens");
        while let Some(mut entry) = reader.next().expect("next") {
            if entry.name == b"databases/edge_store.db" {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).expect("read");
                self.home.write("out.db", &bytes);
                return count(&self.home.path("out.db"));
            }
        }
        panic!("no store in {}", archive.display());
    }
}

fn count(database: &Path) -> (i64, i64) {
    rusqlite::Connection::open(database)
        .and_then(|c| {
            c.query_row("SELECT count(*), max(id) FROM readings", [], |r| {
                Ok((r.get(0)?, r.get(1)?))
            })
        })
        .expect("count")
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

fn json(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{:?}: {}",
        output.status,
        text(output)
    );
    serde_json::from_slice(&output.stdout).expect("json")
}

#[test]
fn a_stopped_gateway_is_backed_up_with_what_lies_in_its_log_and_opened_with_the_key() {
    let w = World::new("every_s = 0");
    w.filled(120);
    let wal = fs::metadata(w.home.data("edge_store.db-wal")).expect("a log");
    assert!(wal.len() > 0, "the readings lie in the log");
    let made = w.create();
    assert!(made["verified"].is_string(), "{made}");
    let archive = PathBuf::from(made["archive"].as_str().expect("path"));
    assert_eq!(w.store_in(&archive), (120, 120));
    let sidecar = w.listed()[0].manifest.clone().expect("manifest");
    let names: Vec<_> = sidecar.databases.iter().map(|d| d.name.as_str()).collect();
    for name in ["databases/edge_store.db", "databases/audit.db"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let config = format!("files{}", w.home.config().display());
    assert!(sidecar.files.iter().any(|f| f.name == config));
    assert!(sidecar.audit_head.is_some());
    // The key opens it, and that is remembered.
    let all = ["backup", "verify", "all", "--identity", &w.key(), "--json"];
    let checked = json(&w.home.holdup(&all));
    assert_eq!(checked["backups"][0]["with_key"], true, "{checked}");
    let state = fs::read_to_string(w.home.data("backup.state")).expect("state");
    let state: Value = serde_json::from_str(&state).expect("json");
    assert!(state["last_key_rehearsal"].is_string(), "{state}");
    let audit = text(&w.home.holdup(&["audit", "show", "--json"]));
    assert!(audit.contains("\"backup\""), "{audit}");
}

#[test]
fn a_running_gateway_makes_its_backup_and_goes_on_acknowledging() {
    let w = World::new("every_s = 0");
    let agent = w.home.serving();
    let mut client = w.home.client();
    for _ in 0..300 {
        client.send();
    }
    client.wait_acked(300);
    let config = w.home.config();
    let making = Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args(["backup", "create", "--json", "--config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    let mut sent = 300;
    while w.listed().is_empty() {
        client.send();
        sent += 1;
        client.wait_acked(sent);
    }
    let made = json(&making.wait_with_output().expect("end"));
    let archive = PathBuf::from(made["archive"].as_str().expect("path"));
    let (rows, highest) = w.store_in(&archive);
    assert_eq!(rows, highest, "the first ones without a gap");
    assert!(rows >= 300 && rows <= sent as i64, "{rows} of {sent}");
    agent.stop();
}

#[test]
fn the_schedule_makes_them_and_status_says_how_they_stand() {
    let w = World::new("every_s = 1\njitter_s = 0");
    let mut agent = w.home.serving();
    let status = agent.wait_for("two backups", |s| {
        s["backup"]["verified"].as_u64().is_some_and(|n| n >= 2)
    });
    assert_eq!(status["backup"]["missing"], false, "{status}");
    assert!(status["backup"]["last"]["last"]["name"].is_string());
    let warnings = status["backup"]["warnings"].to_string();
    assert!(warnings.contains("owner's key"), "{warnings}");
    agent.stop();
    assert!(w.listed().iter().all(Listed::counts));
    let last = w.listed().pop().expect("one");
    assert_eq!(last.manifest.expect("manifest").reason, "schedule");
}

#[test]
fn in_a_brownout_none_is_made() {
    let w = World::new("every_s = 1\njitter_s = 0");
    let mut agent = w.home.start();
    poll("the board", || {
        w.home.path("run/sim.sock").exists().then_some(())
    });
    poll("a brownout", || {
        (w.home.sim("brownout low") == "ok").then_some(())
    });
    let status = agent.wait_for("it is held off", |s| {
        s["supply"] == "Brownout" && s["backup"]["state"] == "held_off"
    });
    let why = status["backup"]["held_off"].to_string();
    assert!(why.contains("brownout"), "{status}");
    let before = w.listed().len();
    let asked = w.home.holdup(&["backup", "create"]);
    assert_eq!(asked.status.code(), Some(3), "{}", text(&asked));
    assert_eq!(w.listed().len(), before);
    w.home.sim("brownout ok");
    agent.wait_for("it is made up", |s| {
        s["backup"]["verified"]
            .as_u64()
            .is_some_and(|n| n as usize > before)
    });
    agent.stop();
}

#[test]
fn without_a_recipient_it_is_refused_and_says_what_to_do() {
    let home = Home::new();
    let refused = home.holdup(&["backup", "create"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused).contains("keygen"), "{}", text(&refused));
    let mut agent = home.serving();
    let status = agent.wait_for("backups were looked at", |s| {
        s["backup"]["state"] == "no_recipient" && s["backup"]["missing"] == true
    });
    assert!(status["backup"]["warnings"].to_string().contains("keygen"));
    agent.stop();
    assert_eq!(home.log().matches("there is no recipient").count(), 1);
}

#[test]
fn killed_anywhere_it_leaves_no_half_backup_and_the_next_one_tidies_up() {
    let w = World::new("every_s = 0");
    w.filled(200);
    let whole = SystemTimer::of(|| drop(w.create()));
    for n in 0..12u32 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_holdup"))
            .args(["backup", "create", "--config"])
            .arg(w.home.config())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start");
        whole.wait_part(n, 12);
        child.kill().expect("kill");
        child.wait().expect("end");
        for one in w.listed() {
            let unnamed = one.standing == Standing::NoManifest
                && PathBuf::from(format!("{}.part", one.sidecar().display())).exists();
            assert!(
                one.counts() || unnamed,
                "{n}: {:?} {}",
                one.standing,
                one.name
            );
        }
    }
    w.create();
    let all = w.listed();
    assert!(all.iter().all(Listed::counts));
    assert_eq!(fs::read_dir(w.dir()).expect("list").count(), all.len() * 2);
    let work = fs::read_dir(w.home.data("backup.work")).expect("list");
    assert_eq!(work.count(), 0);
}

/// How long something takes, to do something else for a part of it.
struct SystemTimer(std::time::Duration);

impl SystemTimer {
    fn of(act: impl FnOnce()) -> Self {
        use holdup::clock::{Clock, SystemClock};
        let began = SystemClock.mono();
        act();
        Self(SystemClock.mono().since(began))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a kill at any time must be harmless; the time is only to spread the kills"
    )]
    fn wait_part(&self, part: u32, of: u32) {
        std::thread::sleep(self.0 * part / of);
    }
}

#[test]
fn what_is_there_without_its_other_half_is_listed_as_that() {
    let w = World::new("every_s = 0");
    w.filled(20);
    for _ in 0..4 {
        w.create();
    }
    let all = w.listed();
    fs::remove_file(all[0].archive()).expect("remove");
    fs::remove_file(all[1].sidecar()).expect("remove");
    // Of another size than it was.
    let longer = File::options().append(true).open(all[2].archive());
    longer.and_then(|mut f| f.write_all(b"x")).expect("append");
    let listed = w.home.holdup(&["backup", "list"]);
    let said = text(&listed);
    for words in ["no archive", "no manifest", "odd", "verified"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let json: Value =
        serde_json::from_slice(&w.home.holdup(&["backup", "list", "--json"]).stdout).expect("json");
    let counting = json["backups"].as_array().expect("list").iter();
    assert_eq!(counting.filter(|b| b["counts"] == true).count(), 1);
    // With the key a manifest comes back.
    let name = all[1].name.to_string();
    let back = w
        .home
        .holdup(&["backup", "verify", &name, "--identity", &w.key()]);
    assert!(back.status.success(), "{}", text(&back));
    let manifest = fs::read(all[1].sidecar()).expect("it is there again");
    let manifest = Manifest::parse(&manifest, Path::new("x")).expect("manifest");
    assert!(manifest.is_verified());
    assert!(w.listed()[1].counts());
}

#[test]
fn a_flipped_bit_and_another_key_are_told_from_each_other() {
    let w = World::new("every_s = 0");
    w.filled(50);
    let made = w.create();
    let archive = PathBuf::from(made["archive"].as_str().expect("path"));
    let name = made["name"].as_str().expect("name");
    let other = Identity::generate().secret_text();
    w.home.write("other.txt", other.expose_secret().as_bytes());
    let other = w.home.path("other.txt").display().to_string();
    let wrong = w
        .home
        .holdup(&["backup", "verify", name, "--identity", &other]);
    assert_eq!(wrong.status.code(), Some(1));
    let fingerprint = w.identity.recipient().fingerprint();
    assert!(text(&wrong).contains(&fingerprint), "{}", text(&wrong));
    assert!(w.home.holdup(&["backup", "verify", name]).status.success());
    let mut bytes = fs::read(&archive).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    w.home.write(
        archive
            .strip_prefix(w.home.path(""))
            .expect("in the home")
            .to_str()
            .expect("text"),
        &bytes,
    );
    for args in [
        vec!["backup", "verify", name],
        vec!["backup", "verify", "all", "--identity", &w.key()],
    ] {
        let bad = w.home.holdup(&args);
        assert_eq!(bad.status.code(), Some(1), "{}", text(&bad));
        assert!(text(&bad).contains("BAD"), "{}", text(&bad));
    }
}

#[test]
fn the_rule_prunes_but_for_the_last_verified_one_and_a_kill_is_finished_by_the_next_run() {
    let w = World::new("every_s = 0\nkeep_last = 1\nkeep_days = 0");
    w.filled(20);
    let first = w.create();
    let second = w.create();
    assert_eq!(second["pruned"][0], first["name"], "{second}");
    assert_eq!(w.listed().len(), 1);
    // As a kill between the two removals leaves it.
    let last = w.listed().remove(0);
    let copy = |name: String, from: &Path| {
        let bytes = fs::read(from).expect("read");
        w.home.write(&format!("data/backup/{name}"), &bytes);
    };
    let old = "holdup-host-test-20200101T000000.000Z-0001";
    copy(format!("{old}.json.pruning"), &last.sidecar());
    let listed = text(&w.home.holdup(&["backup", "list"]));
    assert!(listed.contains("being pruned"), "{listed}");
    let pruned = w.home.holdup(&["backup", "prune"]);
    assert!(pruned.status.success(), "{}", text(&pruned));
    let left = fs::read_dir(w.dir()).expect("list").count();
    assert_eq!(left, 2, "the last verified one stays");
    assert!(w.listed()[0].counts());
}

#[test]
fn the_command_after_it_gets_both_files_and_its_status_stands_in_the_manifest() {
    let w = World::new(
        "every_s = 0\nafter = '''cp \"$1\" \"$2\" /tmp/nowhere/at/all 2>/dev/null; exit 9'''",
    );
    w.filled(10);
    let made = w.home.holdup(&["backup", "create", "--json"]);
    assert_eq!(made.status.code(), Some(1), "made, and not taken elsewhere");
    let manifest = w.listed().remove(0).manifest.expect("manifest");
    assert!(manifest.is_verified(), "it counts all the same");
    assert_eq!(manifest.after.expect("it ran").exit, Some(9));
    let taken = World::new(
        "every_s = 0\nafter = 'cp \"$1\" \"$HOLDUP_MANIFEST\" \"$(dirname \"$1\")/../..\"'",
    );
    taken.filled(10);
    let made = taken.create();
    assert_eq!(made["after"]["exit"], 0, "{made}");
    let name = made["name"].as_str().expect("name");
    for end in ["tar.zst.age", "json"] {
        assert!(taken.home.path(&format!("{name}.{end}")).exists(), "{end}");
    }
}

#[test]
fn a_copy_on_the_gateways_own_medium_is_refused_and_one_on_another_is_read_back() {
    let shm = tempfile::tempdir_in("/dev/shm").expect("another file system");
    let more = format!("every_s = 0\ncopies = [\"{}\"]", shm.path().display());
    let w = World::new(&more);
    w.filled(10);
    let made = w.create();
    assert_eq!(made["targets"][0][1], Value::Null, "{made}");
    let there = list(shm.path()).expect("list");
    assert!(there.len() == 1 && there[0].counts());
    let mode = fs::metadata(there[0].archive())
        .expect("stat")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let same = World::new("every_s = 0");
    let here = same.home.path("elsewhere");
    fs::create_dir(&here).expect("directory");
    let config = fs::read_to_string(same.home.config()).expect("config");
    let copies = format!("every_s = 0\ncopies = [\"{}\"]", here.display());
    let config = config.replace("every_s = 0", &copies);
    same.home.write("holdup.toml", config.as_bytes());
    same.filled(10);
    let made = same.home.holdup(&["backup", "create", "--json"]);
    assert_eq!(made.status.code(), Some(1));
    assert!(text(&made).contains("own medium"), "{}", text(&made));
    assert_eq!(fs::read_dir(&here).expect("list").count(), 0);
    assert!(same.listed()[0].counts(), "the backup itself was made");
}

#[test]
fn another_applications_database_comes_along_whether_it_runs_or_not() {
    let dir = tempfile::tempdir().expect("temp dir");
    let app = dir.path().join("app.db");
    let missing = dir.path().join("missing.db");
    let tables = format!(
        "[[database]]\npath = \"{}\"\n\n[[database]]\npath = \"{}\"\n",
        app.display(),
        missing.display()
    );
    let w = World::with("every_s = 0", &tables);
    let conn = rusqlite::Connection::open(&app).expect("open");
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE a(x); INSERT INTO a VALUES (1), (2);",
    )
    .expect("rows");
    w.filled(10);
    let rows = |made: Value| {
        let name = made["name"].as_str().expect("name").to_owned();
        let one = w.listed().into_iter().find(|l| l.name.to_string() == name);
        let manifest = one.and_then(|l| l.manifest).expect("manifest");
        let passed = manifest
            .passed
            .iter()
            .any(|p| p.path.ends_with("missing.db"));
        assert!(passed, "{:?}", manifest.passed);
        let entry = manifest
            .databases
            .into_iter()
            .find(|d| d.name == "databases/app.db");
        entry.expect("app.db").rows["a"]
    };
    assert_eq!(rows(w.create()), 2, "while it has it open");
    conn.execute_batch("INSERT INTO a VALUES (3);")
        .expect("row");
    drop(conn);
    assert_eq!(rows(w.create()), 3, "when it is stopped");
    assert!(!dir.path().join("app.db-wal").exists());
}

#[test]
fn a_damaged_queue_is_left_out_and_named_and_the_store_is_backed_up() {
    let w = World::with("every_s = 0", "[queue]\nenabled = true\n");
    w.filled(200);
    let queue = w.home.data("sync_queue.db");
    // By the agent, which finds it when it copies it; then without one.
    let mut agent = w.home.serving();
    agent.wait_for("a fed queue", |s| s["queue"]["depth"] == 200);
    agent.stop();
    let sound = fs::read(&queue).expect("read");
    assert!(sound.len() > 16 << 10, "{}", sound.len());
    let mut bytes = sound.clone();
    let middle = bytes.len() / 2048 * 1024;
    bytes[middle..middle + 1024].fill(0xa5);
    w.home.write("data/sync_queue.db", &bytes);
    let mut agent = w.home.serving();
    agent.wait_for("a queue that failed", |s| s["queue"]["state"] == "failed");
    for with_agent in [true, false] {
        let made = w.home.holdup(&["backup", "create", "--json"]);
        assert_eq!(made.status.code(), Some(1), "{}", text(&made));
        let made: Value = serde_json::from_slice(&made.stdout).expect("json");
        let lacks = made["lacks"][0].as_str().expect("named");
        assert!(!lacks.contains(['\n', '*']), "one line: {lacks}");
        for words in ["sync_queue.db: it is damaged", "run `holdup queue rebuild`"] {
            assert!(lacks.contains(words), "{made}");
        }
        let archive = PathBuf::from(made["archive"].as_str().expect("path"));
        assert_eq!(w.store_in(&archive), (200, 200));
        let newest = w.listed().pop().expect("one");
        assert!(newest.counts());
        let manifest = newest.manifest.expect("manifest");
        let names: Vec<_> = manifest.databases.iter().map(|d| &d.name).collect();
        assert!(!names.iter().any(|n| n.contains("sync_queue")), "{names:?}");
        let show = text(
            &w.home
                .holdup(&["backup", "show", made["name"].as_str().expect("name")]),
        );
        assert!(show.contains("LACKS"), "{show}");
        assert!(
            w.home.data("sync_queue.db-suspect").exists(),
            "{with_agent}"
        );
        if with_agent {
            let status = agent.wait_for("a warning", |s| {
                let warnings = s["backup"]["warnings"].to_string();
                warnings.contains("the newest backup lacks")
            });
            assert_eq!(status["readiness"], "AtRisk");
            assert!(
                status["reasons"].to_string().contains("queue_failed"),
                "{status}"
            );
            agent.signal("KILL");
            agent.ended();
        }
    }
}

/// Debian's own programs open a backup by the steps that stand in it.
#[test]
fn age_zstd_and_tar_open_a_backup() {
    for program in ["age", "zstd", "tar"] {
        let found = Command::new(program).arg("--version").output();
        if !found.is_ok_and(|o| o.status.success()) {
            let strict = std::env::var("HOLDUP_TESTS_STRICT").is_ok_and(|v| v == "1");
            assert!(!strict, "{program} is missing: tests/install installs it");
            eprintln!("skipped: {program} is not installed");
            return;
        }
    }
    let w = World::new("every_s = 0");
    w.filled(77);
    let made = w.create();
    let archive = made["archive"].as_str().expect("path");
    let out = w.home.path("unpacked");
    fs::create_dir(&out).expect("directory");
    let line = "set -o pipefail; age -d -i \"$1\" \"$2\" | zstd -d | tar x";
    let done = Command::new("bash")
        .args(["-c", line, "bash", &w.key(), archive])
        .current_dir(&out)
        .output()
        .expect("bash");
    assert!(done.status.success(), "{}", text(&done));
    assert_eq!(count(&out.join("databases/edge_store.db")).0, 77);
    let how = fs::read_to_string(out.join("HOW-TO-OPEN.txt")).expect("how to");
    assert!(how.contains("age -d -i IDENTITY"));
    let inner = fs::read(out.join("manifest.json")).expect("manifest");
    let inner = Manifest::parse(&inner, Path::new("manifest.json")).expect("manifest");
    let store = inner
        .databases
        .iter()
        .find(|d| d.name.ends_with("edge_store.db"));
    assert_eq!(store.expect("the store").rows["readings"], 77);
    assert!(inner.archive.is_none(), "it cannot hold its own hash");
}
