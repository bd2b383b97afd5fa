//! All peer connections of this device: one for each remote device, made when needed.
//!
//! Something to say to a device opens a connection by all known ways at once; the first that
//! proves the device wins. When both devices connect to each other at the same moment, both keep
//! the connection that the lower node id opened; later, the newest one replaces the one before,
//! which is most likely dead.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cooee_proto::{
    identity::{NodeId, UserName},
    wire::v1::{peer_goodbye, peer_message::Body},
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

use super::{
    Identity, PeerError,
    connection::{self, Established, PeerStream},
};
use crate::transport::{EndToEndStream, ExpectedPeer, Tls, TransportError};

/// One way to a device: gives a stream on which no byte has been exchanged end to end.
pub type Way = Pin<Box<dyn Future<Output = Result<PeerStream, TransportError>> + Send>>;

/// Knows the ways to a device: the splice through its super nodes, and direct TCP to a mutual
/// buddy. A way that should start later waits by itself.
pub trait Dialer: Send + Sync + 'static {
    /// All ways to try now, best first; none if the device is nowhere to be found.
    fn ways(&self, node: NodeId) -> Pin<Box<dyn Future<Output = Vec<Way>> + Send>>;

    /// A mutual buddy's device said where it takes direct connections.
    fn learn_addresses(&self, _device: &Identity, _addresses: Vec<SocketAddr>) {}
}

/// Bounds of the table of peers.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// Devices connected at once. Chosen: a person talks to few; a popular echo user to more.
    pub peers_max: usize,
    /// Messages that wait for a connection that is being made.
    pub queue_max: usize,
    /// Incoming connections whose handshake is under way.
    pub handshakes_max: usize,
}

impl Default for PeersConfig {
    fn default() -> Self {
        Self { peers_max: 512, queue_max: 128, handshakes_max: 32 }
    }
}

/// What happened at the peer connections.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time is handed over, never stored")]
pub enum PeerEvent {
    /// A connection to a device is up (again).
    Connected(Identity),
    /// The connection to a device ended; a new one is made when something is to be said.
    Lost {
        /// The device.
        peer: Identity,
        /// Why.
        reason: PeerError,
    },
    /// No connection to a device can be made now.
    Unreachable {
        /// The device.
        node: NodeId,
        /// Why the best way failed.
        reason: PeerError,
    },
    /// A device said something.
    Message {
        /// The device.
        from: Identity,
        /// What it said.
        body: Body,
    },
}

/// All peer connections; clones share them. Dropping the last clone closes them.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

struct Shared {
    tls: Arc<Tls>,
    dialer: Arc<dyn Dialer>,
    config: PeersConfig,
    events: mpsc::Sender<PeerEvent>,
    handshakes: Semaphore,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    peers: BTreeMap<NodeId, Peer>,
    /// Users that devices must belong to, as look-ups said.
    expected: BTreeMap<NodeId, UserName>,
    next_number: u64,
}

#[derive(Default)]
struct Peer {
    link: Option<Link>,
    is_dialing: bool,
    queue: VecDeque<Body>,
}

struct Link {
    number: u64,
    outgoing: mpsc::Sender<Body>,
    opened_by: NodeId,
    since: Instant,
    identity: Identity,
}

/// Two connections count as made at the same moment within this time. Chosen: a handshake over
/// two slow relays.
const SAME_MOMENT: Duration = Duration::from_secs(5);
/// Messages between a connection's task and its users.
const LINK_QUEUE: usize = 64;
/// Devices whose user is remembered from look-ups; the rest are only checked by node. Chosen.
const EXPECTED_MAX: usize = 4_096;

impl Peers {
    /// No connections yet. Events go to the receiver, which must be drained.
    pub fn new(
        tls: Arc<Tls>,
        dialer: Arc<dyn Dialer>,
        config: PeersConfig,
    ) -> (Self, mpsc::Receiver<PeerEvent>) {
        let (events, receiver) = mpsc::channel(256);
        let handshakes = Semaphore::new(config.handshakes_max);
        let table = Mutex::default();
        (Self(Arc::new(Shared { tls, dialer, config, events, handshakes, table })), receiver)
    }

    /// From now on `node` is only accepted as a device of `user`: a look-up said so.
    pub fn expect(&self, node: NodeId, user: UserName) {
        let mut table = self.0.table();
        if table.expected.len() >= EXPECTED_MAX {
            table.expected.pop_first();
        }
        table.expected.insert(node, user);
    }

    /// A mutual buddy's device said where it takes direct connections.
    pub fn learn_addresses(&self, device: &Identity, addresses: Vec<SocketAddr>) {
        self.0.dialer.learn_addresses(device, addresses);
    }

    /// Says something to a device, over the connection that exists or a new one. What cannot be
    /// said within the bounds is dropped: whoever needs certainty repeats until acknowledged.
    pub fn send(&self, node: NodeId, body: Body) {
        let mut table = self.0.table();
        let is_room = table.peers.len() < self.0.config.peers_max;
        if !is_room && !table.peers.contains_key(&node) {
            tracing::warn!(%node, "too many peers: a message is dropped");
            return;
        }
        let peer = table.peers.entry(node).or_default();
        let body = match &peer.link {
            Some(link) => match link.outgoing.try_send(body) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::debug!(%node, "the peer takes nothing: a message is dropped");
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(body)) => body,
            },
            None => body,
        };
        peer.link = None;
        if peer.queue.len() < self.0.config.queue_max {
            peer.queue.push_back(body);
        }
        self.dial(peer, node);
    }

    /// Makes a connection to a device before there is something to say.
    pub fn prepare(&self, node: NodeId) {
        let mut table = self.0.table();
        if table.peers.len() >= self.0.config.peers_max && !table.peers.contains_key(&node) {
            return;
        }
        let peer = table.peers.entry(node).or_default();
        if peer.link.is_none() {
            self.dial(peer, node);
        }
    }

    /// Gives up the connection to a device, which seems dead, and makes a new one.
    pub fn reconnect(&self, node: NodeId) {
        if let Some(peer) = self.0.table().peers.get_mut(&node) {
            peer.link = None;
        }
        self.prepare(node);
    }

    /// A splice arrived; the super node says that `from` opened it, which is verified.
    pub fn accept_splice(&self, from: NodeId, stream: PeerStream) {
        let this = self.clone();
        let expected = self.0.expected(from);
        tokio::spawn(async move {
            let Ok(_permit) = this.0.handshakes.try_acquire() else {
                tracing::warn!(%from, "too many handshakes: a splice is refused");
                return;
            };
            match connection::accept(&this.0.tls, stream, expected).await {
                Ok(established) => {
                    let opened_by = established.peer.node;
                    this.take(established, opened_by);
                }
                Err(error) => tracing::info!(%from, %error, "a splice was refused"),
            }
        });
    }

    /// A direct connection arrived.
    pub fn accept_direct(&self, direct: EndToEndStream) {
        let this = self.clone();
        tokio::spawn(async move {
            let Ok(_permit) = this.0.handshakes.try_acquire() else { return };
            let from = direct.peer.node();
            match connection::adopt(&this.0.tls, Box::new(direct.stream), &direct.peer).await {
                Ok(established) => this.take(established, from),
                Err(error) => tracing::info!(%from, %error, "a direct connection was refused"),
            }
        });
    }

    /// Who is connected now.
    pub fn connected(&self) -> Vec<Identity> {
        let table = self.0.table();
        table.peers.values().filter_map(|p| p.link.as_ref()).map(|l| l.identity.clone()).collect()
    }

    /// Closes all connections, with a word to the peers.
    pub fn close(&self) {
        self.0.table().peers.clear();
    }

    fn dial(&self, peer: &mut Peer, node: NodeId) {
        if std::mem::replace(&mut peer.is_dialing, true) {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let result = this.0.race(node).await;
            if let Some(peer) = this.0.table().peers.get_mut(&node) {
                peer.is_dialing = false;
            }
            match result {
                Ok(established) => this.take(established, this.0.own_node()),
                Err(reason) => this.fail(node, reason).await,
            }
        });
    }

    async fn fail(&self, node: NodeId, reason: PeerError) {
        tracing::debug!(%node, %reason, "no peer connection");
        {
            let mut table = self.0.table();
            if table.peers.get(&node).is_some_and(|peer| peer.link.is_some()) {
                return;
            }
            table.peers.remove(&node);
        }
        let _ = self.0.events.send(PeerEvent::Unreachable { node, reason }).await;
    }

    /// A connection is up: keeps it or the one that exists.
    fn take(&self, established: Established, opened_by: NodeId) {
        let identity = established.peer.clone();
        let node = identity.node;
        let (outgoing, receiver) = mpsc::channel(LINK_QUEUE + self.0.config.queue_max);
        let (number, is_kept) = {
            let mut table = self.0.table();
            table.next_number += 1;
            let number = table.next_number;
            let is_room = table.peers.len() < self.0.config.peers_max;
            let is_kept = (is_room || table.peers.contains_key(&node))
                && table.peers.entry(node).or_default().keeps_new(opened_by, self.0.own_node());
            if is_kept && let Some(peer) = table.peers.get_mut(&node) {
                for body in peer.queue.drain(..) {
                    // The channel was made long enough for the whole queue.
                    let _ = outgoing.try_send(body);
                }
                let since = Instant::now();
                let identity = identity.clone();
                peer.link = Some(Link { number, outgoing, opened_by, since, identity });
            }
            (number, is_kept)
        };
        let this = Arc::downgrade(&self.0);
        let events = self.0.events.clone();
        tokio::spawn(async move {
            if is_kept {
                let _ = events.send(PeerEvent::Connected(identity.clone())).await;
            }
            let farewell = || match this.upgrade() {
                Some(shared) if shared.table().peers.contains_key(&node) => {
                    peer_goodbye::Reason::Duplicate
                }
                _ => peer_goodbye::Reason::ShutDown,
            };
            let reason = established.run(receiver, &events, farewell).await;
            let was_current = this.upgrade().is_some_and(|shared| shared.forget(node, number));
            if was_current {
                let _ = events.send(PeerEvent::Lost { peer: identity, reason }).await;
            }
        });
    }
}

impl Peer {
    /// Whether a connection that `opened_by` opened takes the place of what there is.
    fn keeps_new(&self, opened_by: NodeId, own: NodeId) -> bool {
        let Some(link) = &self.link else { return true };
        let is_same_moment = link.since.elapsed() < SAME_MOMENT;
        let is_crossed = link.opened_by != opened_by;
        if is_same_moment && is_crossed && !link.outgoing.is_closed() {
            let other = link.identity.node;
            return opened_by == own.min(other);
        }
        true
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_node(&self) -> NodeId {
        self.tls.credentials().node()
    }

    fn expected(&self, node: NodeId) -> ExpectedPeer {
        match self.table().expected.get(&node) {
            Some(user) => ExpectedPeer::Device(node, user.clone()),
            None => ExpectedPeer::Node(node),
        }
    }

    /// Tries all ways at once, TLS included; the first that proves the device wins. Only the winner
    /// is greeted, so that the other side never takes up a connection that is about to be dropped.
    async fn race(&self, node: NodeId) -> Result<Established, PeerError> {
        let expected = self.expected(node);
        let attempt = async |way: Way| {
            let stream = way.await?;
            connection::prove(&self.tls, stream, expected.clone()).await
        };
        let mut attempts: FuturesUnordered<_> =
            self.dialer.ways(node).await.into_iter().map(attempt).collect();
        let mut failure: Option<PeerError> = None;
        while let Some(result) = attempts.next().await {
            let error = match result {
                Ok(proven) => match proven.greet(&self.tls).await {
                    Ok(established) => return Ok(established),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tracing::debug!(%node, %error, "a way failed");
            // That somebody answered in the device's place says more than that a way is closed.
            if failure.as_ref().is_none_or(|before| error.is_impostor() && !before.is_impostor()) {
                failure = Some(error);
            }
        }
        Err(failure.unwrap_or(PeerError::NoWay(node)))
    }

    /// Removes an ended connection; false if another has taken its place.
    fn forget(&self, node: NodeId, number: u64) -> bool {
        let mut table = self.table();
        let Some(peer) = table.peers.get_mut(&node) else { return false };
        if peer.link.as_ref().is_none_or(|link| link.number != number) {
            return false;
        }
        peer.link = None;
        if !peer.is_dialing && peer.queue.is_empty() {
            table.peers.remove(&node);
        }
        true
    }
}
