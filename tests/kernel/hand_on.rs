//! What README gives for `backup.after`, as it stands there: rclone brings the finished archive to
//! an S3 server, or its exit status says in the manifest that it did not.
//!
//! The server is this file's own and speaks as much of S3 as rclone asks of one; Debian's rclone
//! has no `serve s3`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use holdup::backup::Identity;
use holdup::backup::catalogue::{Listed, list};
use serde_json::Value;

use crate::home::Home;

const README: &str = include_str!("../../README.md");

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// An S3 server with one bucket or more.
struct Server {
    objects: Objects,
    refused: Arc<AtomicBool>,
    port: u16,
    ends: Arc<AtomicBool>,
}

impl Server {
    /// With `refuse` it takes nothing.
    fn start(refuse: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("address").port();
        let (objects, ends) = (Objects::default(), Arc::<AtomicBool>::default());
        let refused = Arc::<AtomicBool>::default();
        let (store, over, no) = (objects.clone(), ends.clone(), refused.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (store, no) = (store.clone(), refuse.then(|| no.clone()));
                // A client that goes away in the middle is no concern of the server's.
                thread::spawn(move || serve(stream, &store, no.as_deref()).ok());
            }
        });
        Self {
            objects,
            refused,
            port,
            ends,
        }
    }

    fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.objects.lock().expect("objects").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        TcpStream::connect(("127.0.0.1", self.port)).ok();
    }
}

/// One connection: request after request. `refused`: takes nothing, and notes that it was asked to.
fn serve(
    stream: TcpStream,
    objects: &Objects,
    refused: Option<&AtomicBool>,
) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next(), words.next());
        let (method, target) = (method.unwrap_or_default(), target.unwrap_or_default());
        let (mut length, mut asks) = (0, false);
        loop {
            let mut header = String::new();
            input.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap_or(0),
                "expect" => asks = true,
                _ => {}
            }
        }
        if asks {
            out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body)?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let key = path.trim_start_matches('/').to_owned();
        let is_object = key.contains('/') && !key.ends_with('/');
        let mut objects = objects.lock().expect("objects");
        let (status, headers, body) = match method.as_str() {
            "PUT" if refused.is_some() => {
                refused.iter().for_each(|r| r.store(true, Ordering::SeqCst));
                denied()
            }
            "PUT" if is_object => {
                objects.insert(key, body);
                ("200 OK", "ETag: \"here\"\r\n".to_owned(), Vec::new())
            }
            // A bucket is there as soon as it is asked for.
            "PUT" => ("200 OK", String::new(), Vec::new()),
            "GET" if !is_object || query.contains("list-type") || query.contains("delimiter") => {
                let empty = "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false\
                             </IsTruncated></ListBucketResult>";
                ("200 OK", String::new(), empty.as_bytes().to_vec())
            }
            "HEAD" | "GET" => match objects.get(&key) {
                Some(bytes) => {
                    let headers =
                        "ETag: \"here\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n";
                    ("200 OK", headers.to_owned(), bytes.clone())
                }
                None => ("404 Not Found", String::new(), Vec::new()),
            },
            _ => ("501 Not Implemented", String::new(), Vec::new()),
        };
        drop(objects);
        write!(
            out,
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        )?;
        if method != "HEAD" {
            out.write_all(&body)?;
        }
    }
}

fn denied() -> (&'static str, String, Vec<u8>) {
    let why =
        "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    ("403 Forbidden", String::new(), why.as_bytes().to_vec())
}

/// The line of README that sets `backup.after` to rclone.
fn example() -> &'static str {
    let mut lines = README.lines().filter(|l| l.starts_with("after = 'rclone "));
    let line = lines.next().expect("README's example");
    assert!(line.contains("remote:gateways/"), "{line}");
    line
}

/// A stopped gateway that hands its backups on as README says.
fn gateway() -> Home {
    let key = Identity::generate().recipient();
    let home = Home::with(
        "holdup_ms = 4000\nglitch_ms = 50\nrestore_ms = 100\nsettle_after = 0",
        &format!(
            "[backup]\nevery_s = 0\nrecipients = [\"{}\"]\n{}",
            key.text(),
            example()
        ),
    );
    let agent = home.serving();
    let mut client = home.client();
    for _ in 0..200 {
        client.send();
    }
    client.wait_acked(200);
    agent.stop();
    home
}

/// Makes a backup where `remote` is that server; exit code, report, and what was said.
fn create(home: &Home, server: &Server) -> (Option<i32>, Value, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_holdup"))
        .args(["backup", "create", "--json", "--config"])
        .arg(home.config())
        // This machine's own settings for real clouds are not the test's.
        .env_remove("AWS_CA_BUNDLE")
        .env("RCLONE_CONFIG", home.path("rclone.conf"))
        .env("RCLONE_CONFIG_REMOTE_TYPE", "s3")
        .env("RCLONE_CONFIG_REMOTE_PROVIDER", "Other")
        .env("RCLONE_CONFIG_REMOTE_ACCESS_KEY_ID", "holdup")
        .env("RCLONE_CONFIG_REMOTE_SECRET_ACCESS_KEY", "holdup-test")
        .env(
            "RCLONE_CONFIG_REMOTE_ENDPOINT",
            format!("http://127.0.0.1:{}", server.port),
        )
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&done.stderr);
    let report = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    (done.status.code(), report, said.into_owned())
}

/// Is it here? Says so if not.
fn has_rclone() -> bool {
    let there = Command::new("rclone").arg("version").output().is_ok();
    if !there {
        // Not by a print macro: the harness swallows those of tests that pass.
        writeln!(
            std::io::stderr(),
            "hand_on: SKIPPED: no rclone; run tests/install"
        )
        .ok();
    }
    there
}

fn only(home: &Home) -> Listed {
    list(&home.data("backup")).expect("list").remove(0)
}

#[test]
fn readmes_example_brings_the_archive_into_an_s3_bucket_byte_for_byte() {
    if !has_rclone() {
        return;
    }
    let (home, server) = (gateway(), Server::start(false));
    let (code, report, said) = create(&home, &server);
    assert_eq!(code, Some(0), "{report:#} {said}");
    let made = only(&home);
    let there = server.objects();
    let names: Vec<_> = there.keys().collect();
    assert_eq!(names, [&format!("gateways/{}", made.name.archive())]);
    let here = fs::read(made.archive()).expect("archive");
    assert!(there.values().all(|bytes| *bytes == here), "byte for byte");
    let after = made.manifest.expect("manifest").after.expect("it ran");
    assert_eq!(after.exit, Some(0));
}

#[test]
fn a_bucket_that_takes_nothing_is_told_by_the_manifest_and_the_exit_code() {
    if !has_rclone() {
        return;
    }
    let (home, server) = (gateway(), Server::start(true));
    let (code, report, said) = create(&home, &server);
    assert_eq!(code, Some(1), "{report:#} {said}");
    assert!(
        server.refused.load(Ordering::SeqCst),
        "it was asked: {said}"
    );
    assert!(server.objects().is_empty());
    let made = only(&home);
    assert!(made.counts(), "the backup itself is whole");
    let after = made.manifest.expect("manifest").after.expect("it ran");
    assert!(after.exit.is_some_and(|code| code != 0), "{after:?}");
    assert_eq!(report["after"]["exit"], after.exit.expect("a code"));
}
