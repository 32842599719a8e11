//! One connection: lines in, answers out, both without a task or a copy between.
//!
//! It stops reading, and so pushes back on the sender, while the agent pauses, while too much
//! of its own or of all waits for a commit, and while its answers are not read.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::config::IngestSettings;
use crate::store::{Chunk, Intake, Rows};

use super::Pause;
use super::hub::{Hub, Mailbox};
use super::line::{Line, parse};

/// Size of the read buffer at first, and at least how far it may grow.
const BUFFER_FIRST: usize = 8 * 1024;
const BUFFER: usize = 64 * 1024;
/// Rows in one chunk at most.
const CHUNK_ROWS: usize = 256;
/// Unread answers at which reading stops.
const ANSWERS: usize = 16 * 1024;
/// A subscription may come while the agent pauses: so many bytes are read ahead to find it, and
/// no longer a line is one.
const AHEAD: usize = BUFFER_FIRST;
const ASK: usize = 256;
/// Unread answers at which acknowledgements wait to be merged.
const MERGE: usize = 1024;

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    intake: Intake,
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
    max_line: usize,
    /// Bytes that may wait for a commit: of this connection, of all.
    own_limit: usize,
    all_limit: usize,
    /// Bytes read; `start..scanned` holds no newline, `filled` is the end.
    buffer: Vec<u8>,
    start: usize,
    scanned: usize,
    filled: usize,
    /// Inside a line that is too long.
    skipping: bool,
    eof: bool,
    out: Vec<u8>,
    sent: usize,
    /// Lines counted so far.
    lines: u64,
    acked: u64,
    chunk: Rows,
    client: Option<Arc<str>>,
    /// Chunks that are not durable yet: last line, bytes.
    pending: VecDeque<(u64, usize)>,
    pending_bytes: usize,
    paused: Option<Pause>,
    /// Words about power that were told, once it was asked for.
    heard: Option<u64>,
    /// Bytes behind `start` that were looked through for a subscription during this pause.
    looked: usize,
    /// A subscription was heard before it was its line's turn.
    asked_ahead: bool,
    over: bool,
}

impl Connection {
    pub(super) fn new(
        stream: UnixStream,
        settings: &IngestSettings,
        intake: Intake,
        hub: Arc<Hub>,
    ) -> Self {
        Self {
            stream,
            intake,
            mailbox: hub.join(),
            hub,
            max_line: settings.max_line_bytes,
            own_limit: settings.queue_bytes / 4,
            all_limit: settings.queue_bytes.max(1),
            buffer: vec![0; BUFFER_FIRST],
            start: 0,
            scanned: 0,
            filled: 0,
            skipping: false,
            eof: false,
            out: Vec::new(),
            sent: 0,
            lines: 0,
            acked: 0,
            chunk: Rows::default(),
            client: None,
            pending: VecDeque::new(),
            pending_bytes: 0,
            paused: None,
            heard: None,
            looked: 0,
            asked_ahead: false,
            over: false,
        }
    }

    pub(super) async fn run(mut self) {
        if let Err(e) = poll_fn(|cx| self.poll(cx)).await {
            log::debug!("ingest connection ended: {e}");
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // First, so that nothing that changes after the looks below is missed.
        self.mailbox.register(cx.waker());
        loop {
            self.hear();
            let more = self.lines(cx);
            self.acknowledge();
            let written = self.write(cx)?;
            if self.over || self.finished() {
                // Best effort: who does not read his answers is not waited for.
                return Poll::Ready(Ok(()));
            }
            // Answers that waited for others to be read have room now.
            if written.is_ready() && (self.settled() > self.acked || self.has_news()) {
                continue;
            }
            if more && self.unread() < ANSWERS && self.has_room(cx) {
                continue;
            }
            if more || !self.may_read(cx) {
                if self.mailbox.take_look_for_hangup() && hung_up(&self.stream) {
                    return Poll::Ready(Ok(()));
                }
                return Poll::Pending;
            }
            ready!(self.read(cx))?;
        }
    }

    /// What others had to say: the agent's pause, the store's refusals, its end.
    fn hear(&mut self) {
        // Who does not read is told the newest when he does.
        if let Some(heard) = self
            .heard
            .filter(|_| self.has_news() && self.unread() < MERGE)
        {
            self.tell_power(heard);
        }
        let pause = self.hub.pause();
        if pause != self.paused {
            self.paused = pause;
            self.looked = 0;
            match pause {
                Some(pause) => self.say(format_args!("{{\"paused\":\"{}\"}}", pause.word())),
                None => self.say(format_args!("{{\"resumed\":true}}")),
            }
        }
        for (line, why) in self.mailbox.take_refused() {
            self.error(&why, Some(line));
        }
        if let Some(why) = self.mailbox.stopped()
            && !self.over
        {
            let why = format!(
                "{why}; nothing after line {} is known to be stored: send it again",
                self.acked
            );
            self.over = true;
            self.error(&why, None);
        }
    }

    fn has_news(&self) -> bool {
        self.heard.is_some_and(|heard| self.hub.told() > heard)
    }

    fn tell_power(&mut self, heard: u64) {
        let news = self.hub.news();
        for word in news.since(heard) {
            self.say(format_args!("{{\"power\":\"{word}\"}}"));
        }
        self.heard = Some(news.told());
    }

    /// While the agent pauses nothing is taken but a subscription, which needs no commit.
    fn waits(&self) -> bool {
        self.paused.is_some()
            && !(self.hub.told() > 0
                && !self.skipping
                && self.line_ahead(0).is_some_and(is_subscription))
    }

    /// The whole line that begins so many bytes behind `start`, without its newline.
    fn line_ahead(&self, at: usize) -> Option<&[u8]> {
        let lines = self.buffer.get(self.start + at..self.filled)?;
        let end = lines.iter().position(|b| *b == b'\n')?;
        Some(&lines[..end])
    }

    /// Behind lines that wait for the end of the pause there may be a subscription. It keeps its
    /// place and its number; its answer does not wait.
    fn look_ahead(&mut self) {
        if self.paused.is_none() || self.hub.told() == 0 || self.heard.is_some() {
            return;
        }
        while let Some(line) = self.line_ahead(self.looked) {
            // The end of a line that is too long is none.
            let found = is_subscription(line) && !(self.skipping && self.looked == 0);
            self.looked += line.len() + 1;
            if found {
                self.asked_ahead = true;
                self.tell_power(self.hub.told().saturating_sub(1));
                return;
            }
        }
    }

    /// Takes whole lines from the buffer; true when some are left, for want of room.
    fn lines(&mut self, cx: &Context<'_>) -> bool {
        let mut more = false;
        while !self.over && self.start < self.filled && !self.waits() {
            let found = self.buffer[self.scanned..self.filled]
                .iter()
                .position(|b| *b == b'\n');
            let Some(at) = found.map(|n| self.scanned + n) else {
                self.scanned = self.filled;
                if self.skipping || self.filled - self.start > self.max_line {
                    self.skipping = true;
                    self.start = self.filled;
                }
                break;
            };
            if self.unread() >= ANSWERS {
                more = true;
                break;
            }
            if !self.has_room(cx) {
                more = true;
                break;
            }
            let line = self.start..at;
            self.looked = self.looked.saturating_sub(line.len() + 1);
            self.start = at + 1;
            self.scanned = self.start;
            self.lines += 1;
            if std::mem::take(&mut self.skipping) || line.len() > self.max_line {
                let why = format!(
                    "longer than {} bytes: shorten it, or raise ingest.max_line_bytes",
                    self.max_line
                );
                self.error(&why, Some(self.lines));
            } else {
                // Taken out so that the line may borrow from it.
                let buffer = std::mem::take(&mut self.buffer);
                self.line(&buffer[line]);
                self.buffer = buffer;
            }
        }
        self.look_ahead();
        self.submit();
        if self.eof && self.paused.is_none() && (self.start < self.filled || self.skipping) && !more
        {
            self.last_words();
        }
        more
    }

    /// The end came in the middle of a line.
    fn last_words(&mut self) {
        if self.buffer[self.start..self.filled].contains(&b'\n') {
            return;
        }
        self.start = self.filled;
        self.scanned = self.filled;
        self.skipping = false;
        self.error(
            "the last line has no newline and was not stored: end it with one",
            Some(self.lines + 1),
        );
    }

    fn line(&mut self, bytes: &[u8]) {
        match parse(bytes) {
            Ok(Line::Reading(reading)) => {
                if reading.id.is_some() && self.client.is_none() {
                    self.error(
                        "\"id\" needs a client: send {\"client\":\"NAME\"} before it on this connection",
                        Some(self.lines),
                    );
                    return;
                }
                self.chunk.push(self.lines, &reading);
                if self.chunk.len() >= CHUNK_ROWS {
                    self.submit();
                }
            }
            Ok(Line::Blank) => {}
            Ok(Line::Client(name)) => {
                self.submit();
                self.client = Some(Arc::from(&*name));
            }
            Ok(Line::Flush) => {
                self.submit();
                self.intake.flush();
            }
            Ok(Line::SubscribePower) if std::mem::take(&mut self.asked_ahead) => {}
            Ok(Line::SubscribePower) => {
                // The present state at once, be it told before.
                self.tell_power(self.hub.told().saturating_sub(1));
            }
            Err(why) => self.error(&why, Some(self.lines)),
        }
    }

    fn submit(&mut self) {
        if self.chunk.is_empty() {
            return;
        }
        let rows = std::mem::take(&mut self.chunk);
        let bytes = rows.bytes();
        self.pending.push_back((self.lines, bytes));
        self.pending_bytes += bytes;
        self.intake.submit(Chunk {
            rows,
            client: self.client.clone(),
            upto: self.lines,
            acks: Arc::clone(&self.mailbox) as Arc<_>,
        });
    }

    fn acknowledge(&mut self) {
        let durable = self.mailbox.durable();
        while let Some((upto, bytes)) = self.pending.front().copied()
            && upto <= durable
        {
            self.pending.pop_front();
            self.pending_bytes -= bytes;
        }
        let acked = if self.pending.is_empty() {
            self.lines
        } else {
            durable
        };
        // A refusal that came in just now goes out before its line is acknowledged.
        for (line, why) in self.mailbox.take_refused() {
            self.error(&why, Some(line));
        }
        if acked > self.acked && self.unread() < MERGE {
            self.acked = acked;
            self.say(format_args!("{{\"acked\":{acked}}}"));
        }
    }

    /// Lines that are durable or had their error.
    fn settled(&self) -> u64 {
        if self.pending.is_empty() {
            self.lines
        } else {
            self.mailbox.durable().max(self.acked)
        }
    }

    fn finished(&self) -> bool {
        let read_all = self.eof && self.start == self.filled && !self.skipping;
        (read_all || self.hub.is_shut_down())
            && self.pending.is_empty()
            && self.acked == self.lines
            && self.unread() == 0
    }

    fn may_read(&self, cx: &Context<'_>) -> bool {
        !self.eof
            && (self.paused.is_none() || self.may_ask())
            && !self.hub.is_shut_down()
            && self.unread() < ANSWERS
            && self.has_room(cx)
    }

    fn may_ask(&self) -> bool {
        self.filled - self.start < AHEAD
    }

    /// Is there room for more that waits for a commit? If not, this task is woken when there
    /// may be.
    fn has_room(&self, cx: &Context<'_>) -> bool {
        if self.pending_bytes + self.chunk.bytes() >= self.own_limit.max(1) {
            return false;
        }
        if self.intake.waiting_bytes() < self.all_limit {
            return true;
        }
        self.intake.wake_when_released(cx.waker());
        self.intake.waiting_bytes() < self.all_limit
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.start == self.filled {
            (self.start, self.scanned, self.filled) = (0, 0, 0);
        }
        if self.filled == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.filled, 0);
                self.filled -= self.start;
                self.scanned -= self.start;
                self.start = 0;
            } else {
                // Room for the longest line and its newline.
                let longest = BUFFER.max(self.max_line.saturating_add(2));
                let len = (self.buffer.len() * 2).min(longest);
                self.buffer.resize(len, 0);
            }
        }
        let mut buffer = ReadBuf::new(&mut self.buffer[self.filled..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let n = buffer.filled().len();
        self.eof = n == 0;
        self.filled += n;
        if self.filled == self.buffer.len() && self.buffer.len() < BUFFER {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        while self.sent < self.out.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out[self.sent..]) {
                Poll::Ready(n) => self.sent += n?,
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        self.out.clear();
        self.out.shrink_to(ANSWERS);
        self.sent = 0;
        Ok(Poll::Ready(()))
    }

    fn unread(&self) -> usize {
        self.out.len() - self.sent
    }

    fn say(&mut self, answer: std::fmt::Arguments<'_>) {
        // Writing to a Vec cannot fail.
        writeln!(self.out, "{answer}").ok();
    }

    fn error(&mut self, why: &str, line: Option<u64>) {
        let why = serde_json::Value::from(why);
        match line {
            Some(line) => self.say(format_args!("{{\"error\":{why},\"line\":{line}}}")),
            None => self.say(format_args!("{{\"error\":{why}}}")),
        }
    }
}

fn is_subscription(line: &[u8]) -> bool {
    line.len() <= ASK && parse(line) == Ok(Line::SubscribePower)
}

/// One client too many: told so, as far as its socket takes it without waiting.
pub(super) fn turn_away(stream: &UnixStream, max: usize) {
    let answer = format!(
        "{{\"error\":\"{max} clients are connected already: close one, or raise ingest.max_clients\"}}\n"
    );
    if let Err(e) = stream.try_write(answer.as_bytes()) {
        log::debug!("cannot turn a client away in words: {e}");
    }
}

fn hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(&stream, PollFlags::empty())];
    rustix::event::poll(&mut fds, Some(&Timespec::default())).is_ok()
        && fds[0].revents().contains(PollFlags::HUP)
}
