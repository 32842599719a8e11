//! Another application with an SQLite database: this test binary once more, as a process of its
//! own, because locks between two connections of one process are not those between two programs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;

const DATABASE: &str = "HOLDUP_TEST_DATABASE";
/// Tells its answers from what the harness prints.
const ANSWER: &str = "application: ";

/// The application; killed when dropped.
pub(crate) struct Application {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Application {
    /// Starts it; `test` is the test that calls [`serve`].
    pub(crate) fn start(test: &str, database: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(DATABASE, database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the application starts");
        let mut it = Self {
            orders: child.stdin.take().expect("stdin"),
            answers: BufReader::new(child.stdout.take().expect("stdout")),
            child,
        };
        assert_eq!(it.answer(), "ready");
        it
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs statements; `ok`, or the error's text.
    pub(crate) fn sql(&mut self, sql: &str) -> String {
        self.order(sql);
        self.answer()
    }

    /// The same; they must succeed.
    pub(crate) fn run(&mut self, sql: &str) {
        assert_eq!(self.sql(sql), "ok", "{sql}");
    }

    /// Has it insert rows for ever; answers are the rows' numbers then.
    pub(crate) fn stream(&mut self) {
        self.order("stream");
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the application listens");
    }

    /// Its next answer.
    pub(crate) fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            let n = self.answers.read_line(&mut line).expect("an answer");
            assert_ne!(n, 0, "the application is gone");
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return answer.trim().to_owned();
            }
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What the application does; nothing where this is the test run itself.
#[expect(clippy::print_stdout, reason = "its answers")]
#[expect(
    clippy::disallowed_methods,
    reason = "stands for a program that knows nothing of holdup's rules"
)]
pub(crate) fn serve() {
    let Some(database) = std::env::var_os(DATABASE) else {
        return;
    };
    let db = Connection::open(database).expect("open");
    db.busy_timeout(Duration::ZERO).expect("busy time-out");
    println!("{ANSWER}ready");
    for order in std::io::stdin().lines() {
        let order = order.expect("an order");
        if order == "stream" {
            db.busy_timeout(Duration::from_secs(60)).expect("patience");
            for n in 1u64.. {
                db.execute("INSERT INTO t VALUES(?1)", [n as i64])
                    .expect("insert");
                println!("{ANSWER}{n}");
                // As one that measures now and then; without a pause the lock is never free.
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        match db.execute_batch(&order) {
            Ok(()) => println!("{ANSWER}ok"),
            Err(e) => println!("{ANSWER}{e}"),
        }
    }
}
