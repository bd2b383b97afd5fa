//! Links: control connections between super nodes.
//!
//! A small network is fully linked from its seeds: each link tells of further super nodes. A larger
//! one links on demand, by the addresses that the membership knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use cooee_proto::{
    control::NodeRole,
    identity::NodeId,
    wire::v1::{answer, request},
};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::Notify;

use super::{Shared, SuperNodePeers, serve, session};
use crate::transport::{ConnectionLimits, ControlChannel, TransportError, greeting};

/// Addresses known of other super nodes. Chosen: the paper's host cache times twenty.
const ADDRESSES_MAX: usize = 4096;
/// Addresses that were told but not tried yet. Chosen.
const CANDIDATES_MAX: usize = 256;
/// Pause between two rounds of linking. Chosen: a lost link is back within seconds.
const ROUND: Duration = Duration::from_secs(2);

pub(super) struct Links {
    state: Mutex<State>,
    links_max: usize,
    wake: Notify,
}

#[derive(Default)]
struct State {
    links: BTreeMap<NodeId, Link>,
    addresses: BTreeMap<NodeId, SocketAddr>,
    candidates: BTreeSet<SocketAddr>,
    own_addresses: BTreeSet<SocketAddr>,
    /// Who answered where: a super node with several addresses needs one link only.
    answered: BTreeMap<SocketAddr, NodeId>,
    dialing: BTreeSet<SocketAddr>,
}

struct Link {
    serial: u64,
    channel: ControlChannel,
}

impl Links {
    pub(super) fn new(seeds: Vec<SocketAddr>, links_max: usize) -> Self {
        let candidates = seeds.into_iter().take(CANDIDATES_MAX).collect();
        let state = Mutex::new(State { candidates, ..State::default() });
        Self { state, links_max, wake: Notify::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Tells where a super node is.
    pub(super) fn learn(&self, node: NodeId, address: SocketAddr) {
        let mut state = self.state();
        if state.addresses.len() < ADDRESSES_MAX || state.addresses.contains_key(&node) {
            state.addresses.insert(node, address);
        }
    }

    /// Tells where super nodes may be.
    pub(super) fn suggest(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let mut state = self.state();
        for address in addresses {
            let known = state.own_addresses.contains(&address)
                || state.addresses.values().any(|known| *known == address);
            if !known && state.candidates.len() < CANDIDATES_MAX {
                state.candidates.insert(address);
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Super nodes linked now.
    pub(super) fn linked(&self) -> Vec<NodeId> {
        self.state().links.keys().copied().collect()
    }

    /// Where the super nodes linked now listen.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let state = self.state();
        state.links.keys().filter_map(|node| state.addresses.get(node)).copied().collect()
    }

    /// The same with their names.
    pub(super) fn linked_at(&self) -> Vec<(NodeId, SocketAddr)> {
        let state = self.state();
        let at = |node: &NodeId| Some((*node, *state.addresses.get(node)?));
        state.links.keys().filter_map(at).collect()
    }

    pub(super) fn has_room(&self) -> bool {
        self.state().links.len() < self.links_max
    }

    pub(super) fn channel(&self, node: NodeId) -> Option<ControlChannel> {
        let state = self.state();
        let link = state.links.get(&node)?;
        (!link.channel.connection().has_ended()).then(|| link.channel.clone())
    }

    /// Takes a link in. An older one to the same super node lives on until its streams end.
    pub(super) fn insert(&self, node: NodeId, serial: u64, channel: ControlChannel) -> usize {
        let mut state = self.state();
        state.links.insert(node, Link { serial, channel });
        state.links.len()
    }

    /// Takes a link out, unless a newer one has taken its place.
    pub(super) fn remove(&self, node: NodeId, serial: u64) -> Option<usize> {
        let mut state = self.state();
        let link = state.links.get(&node)?;
        if link.serial != serial {
            return None;
        }
        state.links.remove(&node);
        Some(state.links.len())
    }

    /// The control streams of all links.
    pub(super) fn channels(&self) -> Vec<ControlChannel> {
        self.state().links.values().map(|link| link.channel.clone()).collect()
    }

    pub(super) fn close_all(&self) {
        for link in self.state().links.values() {
            link.channel.connection().close();
        }
    }

    /// Addresses to dial in this round.
    fn to_dial(&self) -> Vec<SocketAddr> {
        let mut state = self.state();
        let room = self.links_max.saturating_sub(state.links.len() + state.dialing.len());
        let linked: BTreeSet<SocketAddr> =
            state.links.keys().filter_map(|node| state.addresses.get(node)).copied().collect();
        let wanted: Vec<SocketAddr> = state
            .candidates
            .iter()
            .filter(|address| {
                let held = state.answered.get(*address);
                !linked.contains(*address)
                    && !held.is_some_and(|node| state.links.contains_key(node))
                    && !state.dialing.contains(*address)
                    && !state.own_addresses.contains(*address)
            })
            .copied()
            .take(room)
            .collect();
        state.dialing.extend(wanted.iter().copied());
        wanted
    }

    fn dialed(&self, address: SocketAddr, node: Option<NodeId>, own: NodeId) {
        let mut state = self.state();
        state.dialing.remove(&address);
        match node {
            Some(node) if node == own => {
                state.candidates.remove(&address);
                // Only this node has this many addresses.
                if state.own_addresses.len() < 64 {
                    state.own_addresses.insert(address);
                }
            }
            Some(node) => {
                if state.answered.len() >= ADDRESSES_MAX {
                    state.answered.pop_first();
                }
                state.answered.insert(address, node);
                // Of two families IPv4 is kept: all know what to do with it.
                let known = state.addresses.get(&node);
                if address.is_ipv4() || known.is_none_or(SocketAddr::is_ipv6) {
                    state.addresses.insert(node, address);
                }
            }
            None => {}
        }
    }
}

/// Links to what is known and not linked, until the super node is gone.
pub(super) async fn keep_linked(shared: Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        if !strong.is_draining() {
            for address in strong.links.to_dial() {
                let shared = strong.clone();
                tokio::spawn(async move {
                    if let Err(error) = dial(shared, address).await {
                        tracing::debug!(%address, %error, "no link to this super node");
                    }
                });
            }
        }
        let wait = async {
            let woken = strong.links.wake.notified();
            let _ = tokio::time::timeout(ROUND, woken).await;
        };
        wait.await;
    }
}

/// Opens a link. Returns once it is in use; it is served in a task of its own. Boxed, because the
/// streams that the task serves may open links in turn.
fn dial(
    shared: Arc<Shared>,
    address: SocketAddr,
) -> BoxFuture<'static, Result<ControlChannel, TransportError>> {
    async move {
        let result = greet(&shared, address).await;
        let node = result.as_ref().ok().and_then(|(channel, ..)| channel.connection().node());
        shared.links.dialed(address, node, shared.own);
        let (channel, inbox, _) = result?;
        let connection = channel.connection().clone();
        let peer = connection.peer().cloned().ok_or(TransportError::NoCertificate)?;
        if peer.node() == shared.own {
            connection.close();
            return Err(TransportError::Protocol("this is ourselves".into()));
        }
        connection.raise_limits(ConnectionLimits::SUPER_NODE);
        let asker = session::link_up(&shared, peer, channel.clone(), inbox);
        tokio::spawn(serve::streams(shared.clone(), connection, Some(asker)));
        Ok(channel)
    }
    .boxed()
}

type Greeted = (ControlChannel, crate::transport::Inbox, cooee_proto::control::Greeting);

async fn greet(shared: &Arc<Shared>, address: SocketAddr) -> Result<Greeted, TransportError> {
    let connection = shared.dialer.connect(address, ConnectionLimits::ORDINARY).await?;
    let now = shared.dialer.tls().trust().unix_now();
    let hello = greeting(NodeRole::SuperNode, &connection, shared.config.listening_port, now);
    ControlChannel::open(&connection, &hello).await
}

/// The link to a super node, opened now if there is none.
pub(super) async fn reach(
    shared: &Arc<Shared>,
    node: NodeId,
) -> Result<ControlChannel, TransportError> {
    if let Some(channel) = shared.links.channel(node) {
        return Ok(channel);
    }
    let known = || shared.links.state().addresses.get(&node).copied();
    let address = shared.directory.address_of(node).or_else(known);
    let address = address.ok_or(TransportError::NotReachable(node))?;
    let channel = dial(shared.clone(), address).await?;
    if channel.connection().node() == Some(node) {
        Ok(channel)
    } else {
        // Somebody else lives there now: its link is as good as any, but not what was asked for.
        Err(TransportError::NotReachable(node))
    }
}

/// The super nodes as the directory sees them.
pub(super) struct Peers(pub(super) Weak<Shared>);

impl SuperNodePeers for Peers {
    fn own(&self) -> NodeId {
        self.0.upgrade().map_or(NodeId([0; 16]), |shared| shared.own)
    }

    fn linked(&self) -> Vec<NodeId> {
        self.0.upgrade().map_or_else(Vec::new, |shared| shared.links.linked())
    }

    fn request(
        &self,
        to: NodeId,
        kind: request::Kind,
    ) -> BoxFuture<'_, Result<answer::Kind, TransportError>> {
        let shared = self.0.upgrade();
        async move {
            let shared = shared.ok_or(TransportError::Closed)?;
            reach(&shared, to).await?.request(kind).await
        }
        .boxed()
    }

    fn learn(&self, node: NodeId, address: SocketAddr) {
        if let Some(shared) = self.0.upgrade() {
            shared.links.learn(node, address);
        }
    }
}
