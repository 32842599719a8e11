//! The load: one thread that plays many clients, for holdup and for Redis alike.
//!
//! As redis-benchmark does, each client sends a burst, waits until all of it is answered, and
//! sends again. The two protocols differ only in how answers are counted.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use holdup::clock::{Clock, SystemClock};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

/// How answers are counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Speech {
    /// `{"acked":N}`: the first N of the connection.
    Holdup,
    /// One line for each request.
    Redis,
}

struct Client {
    stream: UnixStream,
    /// Answered, and sent, on this connection.
    done: u64,
    sent: u64,
    /// A cumulative answer that has not come to its end yet.
    number: u64,
}

impl Client {
    /// Counts what came in.
    fn hear(&mut self, speech: Speech, bytes: &[u8]) {
        match speech {
            Speech::Redis => {
                assert!(!bytes.contains(&b'-'), "redis refused a request");
                self.done += bytes.iter().filter(|b| **b == b'\n').count() as u64;
            }
            Speech::Holdup => {
                for b in bytes {
                    match b {
                        b'0'..=b'9' => self.number = self.number * 10 + u64::from(b - b'0'),
                        b'}' => self.done = self.number,
                        b'{' => self.number = 0,
                        b'p' => panic!("the agent paused or refused a line, or its disk is full"),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// Clients that are connected, with what each sends at once.
pub(crate) struct Load {
    epoll: std::os::fd::OwnedFd,
    clients: Vec<Client>,
    speech: Speech,
    burst: Vec<u8>,
    requests: u64,
}

impl Load {
    /// Connects `clients` to `socket`; each burst is `requests` times `request`.
    pub(crate) fn connect(
        socket: &Path,
        speech: Speech,
        clients: usize,
        request: &[u8],
        requests: u64,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let clients = (0..clients as u64)
            .map(|n| {
                let stream = UnixStream::connect(socket)?;
                stream.set_nonblocking(true)?;
                let data = epoll::EventData::new_u64(n);
                epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
                Ok(Client {
                    stream,
                    done: 0,
                    sent: 0,
                    number: 0,
                })
            })
            .collect::<io::Result<_>>()?;
        let burst = request.repeat(usize::try_from(requests).unwrap_or(usize::MAX));
        Ok(Self {
            epoll,
            clients,
            speech,
            burst,
            requests,
        })
    }

    /// Drives for `time`; answered requests a second. What is under way at the end is waited for.
    pub(crate) fn drive(&mut self, time: Duration) -> io::Result<f64> {
        let began = SystemClock.mono();
        let before: u64 = self.clients.iter().map(|c| c.done).sum();
        let mut open = self.clients.len();
        for client in &mut self.clients {
            send(client, &self.burst, self.requests)?;
        }
        let mut events = Vec::with_capacity(self.clients.len());
        let mut answers = [0u8; 16 * 1024];
        let mut over = false;
        while open > 0 {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            over = over || SystemClock.mono().since(began) >= time;
            for event in &events {
                let n = event.data.u64();
                let client = &mut self.clients[usize::try_from(n).unwrap_or(usize::MAX)];
                let n = match client.stream.read(&mut answers) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(n) => n,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                    Err(e) => return Err(e),
                };
                client.hear(self.speech, &answers[..n]);
                if client.done == client.sent {
                    if over {
                        open -= 1;
                    } else {
                        send(client, &self.burst, self.requests)?;
                    }
                }
            }
        }
        let after: u64 = self.clients.iter().map(|c| c.done).sum();
        Ok((after - before) as f64 / SystemClock.mono().since(began).as_secs_f64())
    }
}

fn send(client: &mut Client, burst: &[u8], requests: u64) -> io::Result<()> {
    // A burst is far smaller than a socket's buffer, and all of the last one was taken.
    let n = client.stream.write(burst)?;
    if n < burst.len() {
        return Err(io::Error::other("the socket did not take a burst at once"));
    }
    client.sent += requests;
    Ok(())
}
