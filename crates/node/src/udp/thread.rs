//! The thread that reads the UDP port and the server's relayed sockets.
//!
//! A thread of its own, not a task: at 100,000 packets a second the relay spends its time in the
//! kernel, and a voice packet must not wait behind other tasks.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};

use super::{
    DatagramServer, MainSocket, ReceivedDatagram, ServerDatagram, SourceId, UdpShared,
    counters::add,
    routes::{Route, Undelivered, deliver},
    socket::Batch,
};

const WAKE_TOKEN: u64 = u64::MAX;
/// Tokens below are indices of main sockets.
pub(super) const FIRST_SOURCE_TOKEN: u64 = 1 << 32;
/// Ready descriptors taken at once. Chosen: a thousand busy relayed sockets need few calls.
const EVENTS_MAX: usize = 256;
/// Batches read from one main socket before the relayed ones get their turn.
const BATCHES_PER_TURN: usize = 4;
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) fn start(shared: Arc<UdpShared>) -> io::Result<JoinHandle<()>> {
    let add = |source, token| {
        epoll::add(&shared.poll, source, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
    };
    add(std::os::fd::AsFd::as_fd(&shared.wake), WAKE_TOKEN)?;
    for (token, socket) in (0..).zip(&shared.sockets) {
        add(std::os::fd::AsFd::as_fd(socket), token)?;
    }
    std::thread::Builder::new().name("cooee-udp".into()).spawn(move || Reader::new(shared).run())
}

struct Reader {
    shared: Arc<UdpShared>,
    batch: Batch,
    sources: Vec<SourceId>,
}

impl Reader {
    fn new(shared: Arc<UdpShared>) -> Self {
        Self { shared, batch: Batch::new(), sources: Vec::with_capacity(EVENTS_MAX) }
    }

    fn run(&mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut wake_at = None;
        while !self.shared.stopping.load(Ordering::Acquire) {
            let wait = timespec(wake_at);
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.shared.poll, spare, Some(&wait)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "UDP thread cannot wait and stops");
                    return;
                }
            }
            wake_at = self.turn(&events);
        }
    }

    /// Serves what is ready; returns when timers want the next turn.
    fn turn(&mut self, events: &[epoll::Event]) -> Option<Instant> {
        let now = Instant::now();
        let server = self.server();
        self.sources.clear();
        let shared = Arc::clone(&self.shared);
        for event in events {
            // The structure is packed: the field is copied out before use.
            let data = event.data;
            let token = data.u64();
            if token == WAKE_TOKEN {
                let mut count = [0_u8; 8];
                // Nothing to read means another wake-up was already taken with this one.
                let _ = rustix::io::read(&shared.wake, &mut count);
            } else if let Some(source) = token.checked_sub(FIRST_SOURCE_TOKEN) {
                self.sources.push(SourceId::try_from(source).unwrap_or(SourceId::MAX));
            } else if let Some(socket) = shared.sockets.get(usize::try_from(token).unwrap_or(0)) {
                self.read_socket(now, socket, server.as_deref());
            }
        }
        let server = server?;
        if !self.sources.is_empty() {
            server.handle_sources(now, &self.sources);
        }
        server.handle_timeout(now)
    }

    fn server(&self) -> Option<Arc<dyn DatagramServer>> {
        let routes = self.shared.routes.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        routes.server.clone()
    }

    fn read_socket(
        &mut self,
        now: Instant,
        socket: &MainSocket,
        server: Option<&dyn DatagramServer>,
    ) {
        for _ in 0..BATCHES_PER_TURN {
            let count = match socket.receive(&mut self.batch) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A reported error of an earlier send; reading it cleared it.
                Err(_) => continue,
            };
            self.dispatch(now, socket, server, count);
            if count < quinn_udp::BATCH_SIZE {
                return;
            }
        }
    }

    fn dispatch(
        &self,
        now: Instant,
        socket: &MainSocket,
        server: Option<&dyn DatagramServer>,
        count: usize,
    ) {
        let mut for_server = Vec::with_capacity(count);
        let mut responses = Vec::new();
        let counters = &self.shared.counters;
        let mut bytes_received = 0;
        let mut datagrams_received = 0;
        let routes = self.shared.routes.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (remote, local_ip, payload) in self.batch.datagrams(count) {
            datagrams_received += 1;
            bytes_received += payload.len() as u64;
            let own = || owned(now, socket, remote, local_ip, payload);
            match routes.route(remote, payload) {
                Route::Server if server.is_some() => {
                    for_server.push(ServerDatagram { remote, local_ip, payload });
                }
                Route::Queue(queue) => self.count(deliver(queue, own())),
                Route::Queues(queues) => {
                    let datagram = own();
                    for queue in queues {
                        self.count(deliver(queue, datagram.clone()));
                    }
                }
                Route::Transaction(transaction) => responses.push((transaction, own())),
                Route::Server | Route::Unclaimed => add(&counters.unclaimed_dropped, 1),
                Route::Unknown => add(&counters.unknown_dropped, 1),
            }
        }
        drop(routes);
        add(&counters.received_datagrams, datagrams_received);
        add(&counters.received_bytes, bytes_received);
        for (transaction, datagram) in responses {
            let routes = &self.shared.routes;
            let mut routes = routes.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.count(routes.finish_transaction(transaction, datagram));
        }
        if let (Some(server), false) = (server, for_server.is_empty()) {
            server.handle_datagrams(now, socket, &for_server);
        }
    }

    fn count(&self, delivered: Result<(), Undelivered>) {
        match delivered {
            Ok(()) => {}
            Err(Undelivered::QueueFull) => add(&self.shared.counters.queue_full_dropped, 1),
            Err(Undelivered::Gone) => add(&self.shared.counters.unclaimed_dropped, 1),
        }
    }
}

fn owned(
    received: Instant,
    socket: &MainSocket,
    remote: std::net::SocketAddr,
    local_ip: Option<IpAddr>,
    payload: &[u8],
) -> ReceivedDatagram {
    let mut local = socket.address();
    if let Some(ip) = local_ip {
        local.set_ip(ip);
    }
    ReceivedDatagram { remote, local, received, payload: Bytes::copy_from_slice(payload) }
}

fn timespec(wake_at: Option<Instant>) -> Timespec {
    let wait = wake_at
        .map_or(LONGEST_WAIT, |at| at.saturating_duration_since(Instant::now()).min(LONGEST_WAIT));
    // Rounded up to a millisecond, the resolution of the older system call: never a busy loop.
    let wait_ms = wait.as_micros().div_ceil(1000);
    let nanoseconds = (wait_ms % 1000) * 1_000_000;
    Timespec {
        tv_sec: i64::try_from(wait_ms / 1000).unwrap_or(60),
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    }
}
