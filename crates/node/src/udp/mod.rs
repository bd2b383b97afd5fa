//! The node's UDP port: one socket for each bound address, read by one thread, shared by STUN,
//! TURN, media, overlay and probes (RFC 9443; see [`cooee_proto::datagram`]).
//!
//! ```text
//!                          ┌─ sealed overlay ───────────────▶ overlay consumer (queue)
//!   sockets ─▶ thread ─────┼─ response, by transaction ─────▶ probe (one shot) or media session
//!    (epoll)   classify    ├─ check, by our ufrag ──────────▶ media session (queue)
//!                          ├─ by remote address ────────────▶ media session (queue)
//!                          ├─ other STUN, TURN channel ─────▶ server (same thread, in batches)
//!                          └─ anything else: counted and dropped
//! ```
//!
//! It decides nothing about a protocol. Every queue is bounded; a full one drops the datagram and
//! counts it, as a full socket buffer would.

mod counters;
mod media;
mod routes;
mod socket;
mod thread;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use bytes::Bytes;
use cooee_proto::datagram::TransactionBytes;
use rustix::event::{EventfdFlags, epoll, eventfd};
use tokio::sync::{mpsc, oneshot};

pub use counters::{UdpCounters, UdpCounts};
pub use media::MediaPort;
use routes::Routes;
pub use socket::MainSocket;

/// Datagrams that wait for one consumer. Chosen: 256 packets are 2.5 s of one 10 ms voice stream.
pub const CONSUMER_QUEUE_DATAGRAMS: usize = 256;

/// What the port is bound to.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// Addresses to bind; an unspecified one (`0.0.0.0`, `[::]`) covers all of its family. An IPv6
    /// address that cannot be bound is left out when another could.
    pub bind: Vec<SocketAddr>,
    /// Receive and send buffer to ask of the kernel for each socket, in bytes; it may give less.
    pub kernel_buffer_bytes: usize,
}

impl UdpConfig {
    /// The same port on all IPv4 and IPv6 addresses; 0 lets the system choose (for both alike).
    pub fn any(port: u16) -> Self {
        let v4 = SocketAddr::from(([0, 0, 0, 0], port));
        let v6 = SocketAddr::from(([0_u16; 8], port));
        Self { bind: vec![v4, v6], ..Self::at(v4) }
    }

    /// One address only.
    pub fn at(address: SocketAddr) -> Self {
        // Chosen: 20 ms of 100,000 voice packets a second.
        Self { bind: vec![address], kernel_buffer_bytes: 1 << 20 }
    }
}

/// Why the port cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// The system refused an address; another port or address may work.
    #[error("cannot open UDP {address}: {source}")]
    Bind {
        /// Address that was asked for.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The configuration names no address.
    #[error("no UDP address to bind")]
    NoAddress,
    /// The system refused something else (descriptors, threads).
    #[error("UDP port: {0}")]
    System(#[from] io::Error),
}

/// A datagram as consumers get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedDatagram {
    /// Who sent it, as far as the network tells.
    pub remote: SocketAddr,
    /// Our address that it was sent to.
    pub local: SocketAddr,
    /// When it was read from the socket.
    pub received: Instant,
    /// All its bytes.
    pub payload: Bytes,
}

/// A datagram as the server gets it, for the length of one call.
#[derive(Clone, Copy, Debug)]
pub struct ServerDatagram<'a> {
    /// Who sent it, as far as the network tells.
    pub remote: SocketAddr,
    /// Our address that it was sent to.
    pub local_ip: Option<IpAddr>,
    /// All its bytes.
    pub payload: &'a [u8],
}

/// A descriptor that the server has the UDP thread watch.
pub type SourceId = u32;

/// The STUN and TURN server of a super node. Called on the UDP thread: it must not block.
pub trait DatagramServer: Send + Sync {
    /// STUN and ChannelData on `socket` that no session claims.
    fn handle_datagrams(&self, now: Instant, socket: &MainSocket, batch: &[ServerDatagram<'_>]);
    /// Sources that became readable. One that stays readable is reported again.
    fn handle_sources(&self, now: Instant, sources: &[SourceId]);
    /// Timers; says when to call again. `None` sleeps until something arrives.
    fn handle_timeout(&self, now: Instant) -> Option<Instant>;
}

/// What the thread and everybody who sends share.
#[derive(Debug)]
pub struct UdpShared {
    sockets: Vec<MainSocket>,
    poll: OwnedFd,
    wake: OwnedFd,
    routes: RwLock<Routes>,
    counters: UdpCounters,
    stopping: AtomicBool,
}

impl UdpShared {
    /// Has the thread report `source` to the server whenever it can be read.
    pub fn watch(&self, source: impl AsFd, id: SourceId) -> io::Result<()> {
        let data = epoll::EventData::new_u64(thread::FIRST_SOURCE_TOKEN + u64::from(id));
        Ok(epoll::add(&self.poll, source, data, epoll::EventFlags::IN)?)
    }

    /// Undoes [`Self::watch`]; to be called before the descriptor is closed.
    pub fn unwatch(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.poll, source)?)
    }

    /// Makes the thread ask for timers again.
    pub fn wake(&self) {
        // A full event counter already wakes the thread, so the error can be left alone.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The socket that can send to `remote`: same family, same interface where that can be told.
    pub fn socket_for(&self, remote: SocketAddr) -> Option<&MainSocket> {
        let same_family = |socket: &&MainSocket| socket.address().is_ipv4() == remote.is_ipv4();
        let mut fitting = self.sockets.iter().filter(same_family);
        let first = fitting.next()?;
        let loopback = |socket: &&MainSocket| socket.address().ip().is_loopback();
        if loopback(&first) == remote.ip().is_loopback() || first.address().ip().is_unspecified() {
            return Some(first);
        }
        fitting.find(|socket| loopback(socket) == remote.ip().is_loopback()).or(Some(first))
    }

    /// Sends one datagram. `local` picks the source address on a socket bound to all of them; an
    /// unspecified or foreign one is ignored.
    pub fn send(
        &self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        payload: &[u8],
    ) -> io::Result<()> {
        let bound = |socket: &&MainSocket| local == Some(socket.address().ip());
        let socket = self.sockets.iter().find(bound).or_else(|| self.socket_for(remote));
        let socket = socket.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let sent = socket.send(remote, local, payload);
        self.counters.count_sent(&sent, payload.len());
        sent
    }

    /// The sockets, in the order of the configuration.
    pub fn sockets(&self) -> &[MainSocket] {
        &self.sockets
    }
}

/// The node's UDP port. Clones are the same port; it closes with the last one.
#[derive(Clone, Debug)]
pub struct UdpEndpoint {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<UdpShared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake();
        let mut routes = self.shared.routes.write().unwrap_or_else(|e| e.into_inner());
        // The server may hold the shared part: the circle is cut here.
        let server = routes.server.take();
        drop(routes);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the thread was already reported by the panic hook.
            let _ = thread.join();
        }
        drop(server);
    }
}

impl UdpEndpoint {
    /// Binds the sockets and starts the thread.
    pub fn bind(config: &UdpConfig) -> Result<Self, UdpError> {
        let sockets = socket::bind_all(config)?;
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        let wake =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let shared = Arc::new(UdpShared {
            sockets,
            poll,
            wake,
            routes: RwLock::default(),
            counters: UdpCounters::default(),
            stopping: AtomicBool::new(false),
        });
        let thread = thread::start(Arc::clone(&shared))?;
        Ok(Self { handle: Arc::new(Handle { shared, thread: Some(thread) }) })
    }

    /// The bound addresses with their real port, one for each socket.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.shared().sockets.iter().map(MainSocket::address).collect()
    }

    /// The part shared with the thread, for the server.
    pub fn shared(&self) -> &Arc<UdpShared> {
        &self.handle.shared
    }

    /// See [`UdpShared::send`].
    pub fn send(
        &self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        payload: &[u8],
    ) -> io::Result<()> {
        self.shared().send(remote, local, payload)
    }

    /// What came, went and was dropped, and why.
    pub fn counts(&self) -> UdpCounts {
        self.shared().counters.read()
    }

    /// Gives all unclaimed STUN and ChannelData to `server` from now on.
    pub fn set_server(&self, server: Arc<dyn DatagramServer>) {
        self.with_routes(|routes| routes.server = Some(server));
        self.shared().wake();
    }

    /// All sealed overlay datagrams from now on; replaces an earlier consumer.
    pub fn register_overlay(&self) -> mpsc::Receiver<ReceivedDatagram> {
        let (sender, receiver) = mpsc::channel(CONSUMER_QUEUE_DATAGRAMS);
        self.with_routes(|routes| routes.overlay = Some(sender));
        receiver
    }

    /// The response to the request `transaction`, once, from whatever address it comes: the
    /// caller compares it with the one it asked. Drop the receiver to stop waiting.
    ///
    /// To be called before the request is sent. At most [`routes::TRANSACTIONS_MAX`] are open;
    /// above that the oldest is given up.
    pub fn register_probe(
        &self,
        transaction: TransactionBytes,
    ) -> oneshot::Receiver<ReceivedDatagram> {
        let (sender, receiver) = oneshot::channel();
        self.with_routes(|routes| routes.expect_probe(transaction, sender));
        receiver
    }

    /// A media session's share of the port. It unregisters when dropped.
    pub fn register_media(&self) -> MediaPort {
        let (sender, receiver) = mpsc::channel(CONSUMER_QUEUE_DATAGRAMS);
        let id = self.with_routes(|routes| routes.add_session(sender));
        MediaPort::new(self.clone(), id, receiver)
    }

    fn with_routes<T>(&self, change: impl FnOnce(&mut Routes) -> T) -> T {
        // A holder that panicked left the maps whole: each change is one call into them.
        change(&mut self.shared().routes.write().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

#[cfg(test)]
mod tests;
