//! One listener for everything that arrives by TCP; the first byte and ALPN tell what it is.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use cooee_proto::identity::Certificate;
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    ByteCount, ByteStream, Connection, ConnectionLimits, Counted, ExpectedPeer, Side, Tls,
    TransportError, Trust, alpn, connection::Parts, dial::set_socket_options,
};

/// Time for a new connection to say what it is and finish its handshake. Chosen: a slow mobile link
/// needs three round trips of a second.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// First byte of a TLS record that carries a handshake (RFC 8446).
const TLS_HANDSHAKE: u8 = 0x16;

/// How a TURN stream came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnTransport {
    /// Plain TCP.
    Tcp,
    /// TLS with ALPN `stun.turn`.
    Tls,
}

/// A stream that speaks TURN; the relay owns it from here on.
pub struct TurnStream {
    /// The bytes.
    pub stream: Box<dyn ByteStream>,
    /// The client's address.
    pub remote: SocketAddr,
    /// Our address.
    pub local: SocketAddr,
    /// How it came in.
    pub transport: TurnTransport,
}

impl std::fmt::Debug for TurnStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurnStream").field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// Takes TURN streams over. Must not block.
pub type TurnAcceptor = Arc<dyn Fn(TurnStream) + Send + Sync>;

/// An end-to-end connection that arrived directly, without a splice.
#[derive(Debug)]
pub struct EndToEndStream {
    /// The bytes inside TLS.
    pub stream: TlsStream<Counted<TcpStream>>,
    /// Who it is.
    pub peer: Certificate,
    /// From where.
    pub remote: SocketAddr,
}

/// What a listener hands out.
#[derive(Debug)]
pub enum Accepted {
    /// A control connection.
    Control(Connection),
    /// A direct end-to-end connection.
    EndToEnd(Box<EndToEndStream>),
}

/// Where to listen and within which bounds.
#[derive(Clone)]
pub struct ListenerConfig {
    /// Addresses to listen on; the first must succeed, the others (443, 80) may fail.
    pub addresses: Vec<SocketAddr>,
    /// Takes TURN streams; without it they are closed.
    pub turn: Option<TurnAcceptor>,
    /// Connections whose handshake is under way, in all.
    pub handshakes_max: usize,
    /// Connections whose handshake is under way, from one address.
    pub handshakes_per_address_max: usize,
    /// Whether clients without certificate may connect, to reach the login server.
    pub anonymous_allowed: bool,
}

impl ListenerConfig {
    /// Listens on `address`, hands out what arrives, with the chosen bounds.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            addresses: vec![address],
            turn: None,
            handshakes_max: 512,
            handshakes_per_address_max: 64,
            anonymous_allowed: true,
        }
    }
}

/// A listener. Dropping it stops accepting; connections already handed out live on.
#[derive(Debug)]
pub struct Listener {
    accepted: mpsc::Receiver<Accepted>,
    addresses: Vec<SocketAddr>,
    tasks: tokio::task::JoinSet<()>,
}

struct Shared {
    tls: Arc<Tls>,
    turn: Option<TurnAcceptor>,
    anonymous_allowed: bool,
    accepted: mpsc::Sender<Accepted>,
    handshakes: Arc<Semaphore>,
    per_address: Mutex<BTreeMap<IpAddr, usize>>,
    per_address_max: usize,
    configs: Mutex<Option<(u64, Configs)>>,
}

#[derive(Clone)]
struct Configs {
    control: Arc<ServerConfig>,
    end_to_end: Arc<ServerConfig>,
    turn: Arc<ServerConfig>,
}

impl Listener {
    /// Starts to listen. The error names the address that is taken.
    pub async fn bind(config: ListenerConfig, tls: Arc<Tls>) -> Result<Self, TransportError> {
        let (sender, accepted) = mpsc::channel(64);
        let shared = Arc::new(Shared {
            tls,
            turn: config.turn,
            anonymous_allowed: config.anonymous_allowed,
            accepted: sender,
            handshakes: Arc::new(Semaphore::new(config.handshakes_max)),
            per_address: Mutex::default(),
            per_address_max: config.handshakes_per_address_max,
            configs: Mutex::default(),
        });
        let mut tasks = tokio::task::JoinSet::new();
        let mut addresses = Vec::new();
        for (index, address) in config.addresses.into_iter().enumerate() {
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    addresses.push(listener.local_addr()?);
                    tasks.spawn(accept_all(listener, shared.clone()));
                }
                Err(error) if index == 0 => {
                    let text = format!("cannot listen on {address}: {error}");
                    return Err(TransportError::Io(error.kind(), text));
                }
                Err(error) => tracing::info!(%address, %error, "not listening here"),
            }
        }
        Ok(Self { accepted, addresses, tasks })
    }

    /// Addresses on which it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The next connection whose handshake is done.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.accepted.recv().await
    }

    /// Stops accepting.
    pub fn stop(&mut self) {
        self.tasks.abort_all();
    }
}

async fn accept_all(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // At the bound new connections wait in the kernel's queue.
        let Ok(permit) = shared.handshakes.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, remote)) => {
                if let Some(place) = Place::take(&shared, remote.ip().to_canonical(), permit) {
                    tokio::spawn(welcome(socket, remote, shared.clone(), place));
                }
            }
            Err(error) => {
                // Out of file descriptors, most likely: let some go before the next try.
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A place among the handshakes under way.
struct Place {
    shared: Arc<Shared>,
    ip: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(shared: &Arc<Shared>, ip: IpAddr, permit: OwnedSemaphorePermit) -> Option<Self> {
        let mut per_address = shared.per_address.lock().expect("no holder of this lock panics");
        let count = per_address.entry(ip).or_default();
        if *count >= shared.per_address_max {
            return None;
        }
        *count += 1;
        Some(Self { shared: shared.clone(), ip, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut per_address =
            self.shared.per_address.lock().expect("no holder of this lock panics");
        if let Some(count) = per_address.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                per_address.remove(&self.ip);
            }
        }
    }
}

async fn welcome(socket: TcpStream, remote: SocketAddr, shared: Arc<Shared>, place: Place) {
    let result = timeout(HANDSHAKE_TIME, identify(socket, remote, &shared)).await;
    drop(place);
    match result {
        Ok(Ok(Some(accepted))) => {
            let _ = shared.accepted.send(accepted).await;
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(%remote, %error, "connection refused"),
        Err(_) => tracing::debug!(%remote, "connection did not finish its handshake in time"),
    }
}

/// Finds out what a new connection speaks. `None` if it was handed to the relay.
async fn identify(
    socket: TcpStream,
    remote: SocketAddr,
    shared: &Shared,
) -> Result<Option<Accepted>, TransportError> {
    set_socket_options(&socket)?;
    let mut first = [0];
    if socket.peek(&mut first).await? == 0 {
        return Err(TransportError::Closed);
    }
    match first[0] {
        TLS_HANDSHAKE => accept_tls(socket, remote, shared).await,
        // The two highest bits of a STUN message are zero, its class and method leave 0 and 1.
        0 | 1 => {
            let local = socket.local_addr()?;
            let transport = TurnTransport::Tcp;
            hand_to_relay(TurnStream { stream: Box::new(socket), remote, local, transport }, shared)
        }
        other => Err(TransportError::Protocol(format!("first byte {other:#04x}"))),
    }
}

fn hand_to_relay(turn: TurnStream, shared: &Shared) -> Result<Option<Accepted>, TransportError> {
    let acceptor = shared.turn.as_ref();
    let acceptor = acceptor.ok_or_else(|| TransportError::Protocol("no relay here".into()))?;
    acceptor(turn);
    Ok(None)
}

async fn accept_tls(
    socket: TcpStream,
    remote: SocketAddr,
    shared: &Shared,
) -> Result<Option<Accepted>, TransportError> {
    let local = socket.local_addr()?;
    let bytes = ByteCount::default();
    let counted = Counted::new(socket, bytes.clone());
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), counted).await?;
    let offered: Vec<Vec<u8>> =
        start.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
    let offers = |name: &[u8]| offered.iter().any(|offer| offer == name);
    let configs = shared.configs()?;
    let config = if offers(alpn::CONTROL) {
        configs.control
    } else if offers(alpn::END_TO_END) {
        configs.end_to_end
    } else {
        configs.turn
    };
    let stream = match start.into_stream(config).into_fallible().await {
        Ok(stream) => stream,
        Err((error, socket)) => {
            linger(socket).await;
            return Err(error.into());
        }
    };
    let session = stream.get_ref().1;
    let peer = peer_of(session.peer_certificates(), shared.tls.trust())?;
    match session.alpn_protocol() {
        Some(name) if name == alpn::CONTROL => {
            let limits = match &peer {
                Some(_) => ConnectionLimits::ORDINARY,
                None => ConnectionLimits::ANONYMOUS,
            };
            let parts = Parts { stream, side: Side::Server, peer, remote, local, bytes };
            Ok(Some(Accepted::Control(Connection::start(parts, limits))))
        }
        Some(name) if name == alpn::END_TO_END => {
            let peer = peer.ok_or(TransportError::NoCertificate)?;
            Ok(Some(Accepted::EndToEnd(Box::new(EndToEndStream { stream, peer, remote }))))
        }
        // A TURN client need not know about ALPN (RFC 7443 recommends it).
        _ => {
            let stream = Box::new(stream);
            hand_to_relay(
                TurnStream { stream, remote, local, transport: TurnTransport::Tls },
                shared,
            )
        }
    }
}

/// Lets the alert reach a peer that is still sending: closing at once would reset the connection
/// and the peer would never read why.
async fn linger(mut socket: Counted<TcpStream>) {
    let _ = socket.shutdown().await;
    let drain = async {
        let mut rest = [0; 1024];
        for _ in 0..64 {
            if matches!(socket.read(&mut rest).await, Ok(0) | Err(_)) {
                break;
            }
        }
    };
    let _ = timeout(Duration::from_secs(1), drain).await;
}

/// The peer's certificate, checked as of now: a resumed session skips the verifier.
pub(super) fn peer_of(
    chain: Option<&[CertificateDer<'_>]>,
    trust: &Trust,
) -> Result<Option<Certificate>, TransportError> {
    let Some(der) = chain.and_then(<[_]>::first) else { return Ok(None) };
    match trust.check(der) {
        Ok(certificate) => Ok(Some(certificate)),
        Err(error) => {
            Err(TransportError::PeerCertificate { problem: (&error).into(), ours_bad: false })
        }
    }
}

impl Shared {
    /// The configurations for the certificate now in use.
    fn configs(&self) -> Result<Configs, TransportError> {
        let serial = self.tls.credentials().certificate.map_or(0, |c| c.serial());
        let mut cached = self.configs.lock().expect("no holder of this lock panics");
        if let Some((of, configs)) = &*cached
            && *of == serial
        {
            return Ok(configs.clone());
        }
        let anybody = ExpectedPeer::Anybody;
        let configs = Configs {
            control: self.tls.server_config(
                &[alpn::CONTROL],
                anybody.clone(),
                self.anonymous_allowed,
            )?,
            end_to_end: self.tls.server_config(&[alpn::END_TO_END], anybody, false)?,
            turn: self.tls.server_config_for_strangers(&[alpn::TURN])?,
        };
        *cached = Some((serial, configs.clone()));
        Ok(configs)
    }
}
