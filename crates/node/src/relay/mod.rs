//! Runs the relay of `cooee_proto::relay` on the node's UDP port and on streams.
//!
//! ```text
//!   UDP thread ──batch──▶ Core (one lock a batch) ──▶ relayed sockets, clients, streams
//!   TCP/TLS task ─frame─▶ Core                    ──▶ the same; to itself through a queue
//! ```
//! The relayed sockets are read by the UDP thread, so a voice packet over UDP meets no task and no
//! queue. It decides nothing about TURN.

mod core;
mod stream;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cooee_proto::{
    clock::{Now, UnixTime},
    datagram::TransactionBytes,
    identity::NodeId,
    relay::{RelayConfig, RelayCounts, RelayCredentials, RelaySecret, RelayServer},
};
use tokio::sync::mpsc;

use self::core::Core;
use crate::udp::{DatagramServer, MainSocket, ServerDatagram, SourceId, UdpEndpoint, UdpShared};

pub use self::stream::RelayStreamError;

/// How a relay is run.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// What the protocol machine is told. Relayed addresses that are left out here are taken from
    /// the bound address where it names one.
    pub config: RelayConfig,
    /// Address to bind relayed IPv4 ports to, when it is not the one told to clients (behind a
    /// one-to-one NAT).
    pub bind_v4: Option<IpAddr>,
    /// The same for IPv6.
    pub bind_v6: Option<IpAddr>,
}

/// Why a relay cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The alternate port for behaviour discovery cannot be opened.
    #[error("relay: cannot open a second UDP port: {0}")]
    AlternatePort(io::Error),
    /// The system gave no randomness.
    #[error("relay: no randomness: {0}")]
    Randomness(String),
}

/// What a partner is to be asked over the control connection (RFC 5780 CHANGE-REQUEST): it calls
/// [`RelayHandle::answer_for_partner`] with these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartnerRequest {
    /// The client's address as the asking super node sees it.
    pub mapped: SocketAddr,
    /// The client's transaction.
    pub transaction: TransactionBytes,
    /// Answer from the alternate port.
    pub change_port: bool,
}

/// A running relay. Clones are the same one; it runs as long as the UDP port does.
#[derive(Clone, Debug)]
pub struct RelayHandle {
    shell: Arc<Shell>,
}

#[derive(Debug)]
struct Shell {
    core: Mutex<Core>,
    /// Weak: the port owns the server, not the other way round.
    udp: Weak<UdpShared>,
}

impl RelayHandle {
    /// Starts the STUN and TURN server on `endpoint`. Its secret and seed are drawn here.
    pub fn start(endpoint: &UdpEndpoint, options: RelayOptions) -> Result<Self, RelayError> {
        let mut random = [0; 64];
        getrandom::fill(&mut random).map_err(|error| RelayError::Randomness(error.to_string()))?;
        let (secret, seed) = random.split_at(32);
        let secret = RelaySecret::new(secret.try_into().expect("64 bytes split in the middle"));
        let seed = seed.try_into().expect("64 bytes split in the middle");
        let mut config = options.config.clone();
        for address in endpoint.local_addresses() {
            let ip = address.ip();
            let known = if ip.is_ipv4() { &mut config.relayed_v4 } else { &mut config.relayed_v6 };
            if !ip.is_unspecified() {
                known.get_or_insert(ip);
            }
        }
        raise_descriptor_limit(config.allocations_max);
        let machine = RelayServer::new(config, secret, seed);
        let core =
            Core::new(endpoint.shared(), machine, &options).map_err(RelayError::AlternatePort)?;
        let udp = Arc::downgrade(endpoint.shared());
        let shell = Arc::new(Shell { core: Mutex::new(core), udp });
        endpoint.set_server(Arc::<Shell>::clone(&shell));
        Ok(Self { shell })
    }

    /// Credentials for `node`, whom the control connection has authenticated.
    pub fn mint(&self, node: NodeId, lifetime: Duration) -> RelayCredentials {
        self.shell.lock().machine.mint(moment(Instant::now()), node, lifetime)
    }

    /// Counts now, for metrics.
    pub fn counts(&self) -> RelayCounts {
        self.shell.lock().machine.counts()
    }

    /// Our second port for behaviour discovery.
    pub fn alternate_port(&self) -> Option<u16> {
        self.shell.lock().alternate_port()
    }

    /// Names the super node that answers from another address for us, and where to put requests
    /// for it; `None` ends that. A full queue drops: the client asks again.
    pub fn set_partner(&self, partner: Option<(SocketAddr, mpsc::Sender<PartnerRequest>)>) {
        self.shell.lock().set_partner(partner);
    }

    /// Sends the answer that another super node asked of us over its control connection.
    pub fn answer_for_partner(&self, request: PartnerRequest) {
        if let Some(udp) = self.shell.udp.upgrade() {
            self.shell.lock().answer_for_partner(&udp, request);
        }
    }
}

impl Shell {
    fn lock(&self) -> MutexGuard<'_, Core> {
        // Whoever panicked here did so between two packets' worth of whole changes.
        self.core.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl DatagramServer for Shell {
    fn handle_datagrams(&self, now: Instant, socket: &MainSocket, batch: &[ServerDatagram<'_>]) {
        if let Some(udp) = self.udp.upgrade() {
            let mut core = self.lock();
            for datagram in batch {
                core.handle_datagram(&udp, now, socket, datagram);
            }
        }
    }

    fn handle_sources(&self, now: Instant, sources: &[SourceId]) {
        if let Some(udp) = self.udp.upgrade() {
            let mut core = self.lock();
            for source in sources {
                core.handle_source(&udp, now, *source);
            }
        }
    }

    fn handle_timeout(&self, now: Instant) -> Option<Instant> {
        let udp = self.udp.upgrade()?;
        self.lock().handle_timeout(&udp, now)
    }
}

/// Each allocation is a descriptor, and the usual soft limit is 1,024. What the hard limit does not
/// give shows later as a port that cannot be opened (508).
fn raise_descriptor_limit(allocations_max: u32) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::from(allocations_max) + DESCRIPTORS_BESIDES;
    let wanted = limit.maximum.map_or(wanted, |hard| hard.min(wanted));
    if limit.current.is_some_and(|soft| soft < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "few descriptors: fewer calls can be relayed");
        }
    }
}

/// Descriptors for everything but allocations. Chosen: connections of a busy super node.
const DESCRIPTORS_BESIDES: u64 = 8192;

/// `instant` with the wall clock of this moment.
fn moment(instant: Instant) -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { instant, unix: UnixTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)) }
}
