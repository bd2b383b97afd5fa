//! The super node: attaches nodes, splices streams between them, leads to the login server.
//!
//! ```text
//!   connection ─┬─ control stream ── Hello ─┬─ ordinary node: attached, requests answered
//!               │                           └─ super node: a link, splices and look-ups pass
//!               ├─ splice ──▶ node attached here │ link to the super node in `via` │ this node
//!               └─ login server ──▶ bytes to and from the login server, also for the anonymous
//! ```
//!
//! What is inside a splice is ciphertext between two devices. Where a name is found is decided by
//! the [`Directory`]; which super nodes exist is learnt from seeds, links and the membership.

mod config;
mod directory;
mod links;
#[cfg(test)]
mod local_directory;
mod login_splice;
mod metrics;
mod partner;
mod quota;
mod revocation;
mod serve;
mod session;
mod splice;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use cooee_proto::{
    control::{TokenBucket, addresses_to_wire},
    identity::{Certificate, NodeId},
    wire::v1::{Drain, SpliceStream, control_message},
};
use tokio::sync::mpsc;

pub use config::{SuperNodeConfig, TurnCredentialSource};
pub use directory::{Depth, Directory, DirectoryError, Notifier, SuperNodePeers};
#[cfg(test)]
use local_directory::LocalDirectory;
pub use metrics::SuperNodeMetrics;
pub use partner::PartnerAnswer;

use crate::transport::{
    Accepted, Connection, ControlChannel, Dialer, EndToEndStream, Listener, MuxStream,
    TransportError,
};
use quota::{Budget, NodeQuota};

/// Most super nodes named at once (docs/protocol/control.md).
const OTHERS_MAX: usize = 50;

/// A splice that ends at this very node.
pub struct LocalSplice {
    /// Node that asked for it, as its super node authenticated it.
    pub from: NodeId,
    /// The stream; end-to-end TLS follows.
    pub stream: Box<dyn crate::transport::ByteStream>,
}

impl std::fmt::Debug for LocalSplice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalSplice").field("from", &self.from).finish_non_exhaustive()
    }
}

/// A running super node. Clones share it.
#[derive(Clone)]
pub struct SuperNode(Arc<Shared>);

pub(crate) struct Shared {
    config: SuperNodeConfig,
    own: NodeId,
    dialer: Dialer,
    directory: Arc<dyn Directory>,
    attached: Mutex<BTreeMap<NodeId, Attached>>,
    links: links::Links,
    anonymous: Mutex<Anonymous>,
    budget: Budget,
    metrics: SuperNodeMetrics,
    draining: AtomicBool,
    next_serial: AtomicU64,
    local: mpsc::Sender<LocalSplice>,
}

struct Attached {
    serial: u64,
    connection: Connection,
    channel: ControlChannel,
    quota: Arc<NodeQuota>,
}

/// Clients without certificate: few, slow, and soon gone.
#[derive(Default)]
struct Anonymous {
    open: usize,
    per_address: BTreeMap<IpAddr, TokenBucket>,
}

impl SuperNode {
    /// Starts the super node's own work: links to the seeds. Connections come by [`Self::serve`] or
    /// [`Self::serve_listener`]. Splices to this node itself come out of the receiver.
    pub fn start(
        config: SuperNodeConfig,
        dialer: Dialer,
        directory: Arc<dyn Directory>,
    ) -> (Self, mpsc::Receiver<LocalSplice>) {
        let (local, local_splices) = mpsc::channel(64);
        let own = dialer.tls().credentials().node();
        let budget = Budget::new(config.relay_budget_bytes_per_second, Instant::now());
        let shared = Arc::new(Shared {
            links: links::Links::new(config.seeds.clone(), config.links_max),
            config,
            own,
            dialer,
            directory: directory.clone(),
            attached: Mutex::default(),
            anonymous: Mutex::default(),
            budget,
            metrics: SuperNodeMetrics::default(),
            draining: AtomicBool::new(false),
            next_serial: AtomicU64::new(1),
            local,
        });
        let peers: Arc<dyn SuperNodePeers> = Arc::new(links::Peers(Arc::downgrade(&shared)));
        directory.start(peers);
        tokio::spawn(links::keep_linked(Arc::downgrade(&shared)));
        tokio::spawn(revocation::keep(Arc::downgrade(&shared)));
        (Self(shared), local_splices)
    }

    /// Serves one incoming control connection until it ends.
    pub async fn serve(&self, connection: Connection) {
        serve::serve(self.0.clone(), connection).await;
    }

    /// Serves everything that a listener hands out; direct end-to-end connections go to
    /// `end_to_end` and are closed if nobody takes them.
    pub async fn serve_listener(
        &self,
        mut listener: Listener,
        end_to_end: Option<mpsc::Sender<Box<EndToEndStream>>>,
    ) {
        while let Some(accepted) = listener.accept().await {
            match accepted {
                Accepted::Control(connection) => {
                    let node = self.clone();
                    tokio::spawn(async move { node.serve(connection).await });
                }
                Accepted::EndToEnd(stream) => {
                    if let Some(taker) = &end_to_end {
                        let _ = taker.try_send(stream);
                    }
                }
            }
        }
    }

    /// Opens a splice from this node itself.
    pub async fn open_splice(
        &self,
        to: NodeId,
        via: Option<NodeId>,
    ) -> Result<MuxStream, TransportError> {
        let via = via.map_or_else(Bytes::new, |via| Bytes::copy_from_slice(via.as_bytes()));
        let to = Bytes::copy_from_slice(to.as_bytes());
        let from = Bytes::new();
        splice::open_onward(&self.0, self.0.own, &SpliceStream { to, via, from }).await
    }

    /// Tells where super nodes are, as the membership knows them. Replaces nothing: entries are
    /// added or updated, at most as many as the configuration allows.
    pub fn learn_super_nodes(&self, known: impl IntoIterator<Item = (NodeId, SocketAddr)>) {
        for (node, address) in known {
            self.0.links.learn(node, address);
        }
    }

    /// Addresses of the super nodes to which this one holds a link.
    pub fn linked_addresses(&self) -> Vec<SocketAddr> {
        self.0.links.addresses()
    }

    /// Super nodes to which this one holds a link now.
    pub fn linked(&self) -> Vec<NodeId> {
        self.0.links.linked()
    }

    /// Nodes attached now.
    pub fn attached(&self) -> Vec<NodeId> {
        self.0.attached().keys().copied().collect()
    }

    /// Counters.
    pub fn metrics(&self) -> &SuperNodeMetrics {
        &self.0.metrics
    }

    /// Closes everything at once and links no more.
    pub fn stop(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        for attached in self.0.attached().values() {
            attached.connection.close();
        }
        self.0.links.close_all();
    }

    /// Takes leave: refuses new nodes, tells the attached ones where else to go, waits for them,
    /// for the splices and for what else is `busy`, but no longer than `patience`, then closes
    /// everything. Returns the nodes and splices that were left.
    pub async fn drain(&self, patience: Duration, busy: impl Fn() -> bool) -> (usize, i64) {
        self.0.draining.store(true, Ordering::Relaxed);
        let closes_in_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        let try_these = addresses_to_wire(self.0.others());
        let farewell = control_message::Kind::Drain(Drain { closes_in_ms, try_these });
        let channels: Vec<ControlChannel> =
            self.0.attached().values().map(|attached| attached.channel.clone()).collect();
        for channel in &channels {
            let _ = channel.try_send(farewell.clone());
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline
            && (self.0.metrics.splices_open() > 0 || !self.0.attached().is_empty() || busy())
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let left = (self.0.attached().len(), self.0.metrics.splices_open());
        for channel in channels {
            channel.connection().close();
        }
        self.0.links.close_all();
        left
    }
}

impl Shared {
    fn attached(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Attached>> {
        self.attached.lock().expect("no holder of this lock panics")
    }

    /// Super nodes to name to others: those with room first, then those linked.
    fn others(&self) -> Vec<SocketAddr> {
        let mut others = self.directory.try_these();
        for linked in self.links.addresses() {
            if others.len() >= OTHERS_MAX {
                break;
            }
            if !others.contains(&linked) {
                others.push(linked);
            }
        }
        others
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn serial(&self) -> u64 {
        self.next_serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Puts a node into the table; an older connection of the same node is closed.
    fn attach(&self, peer: &Certificate, channel: ControlChannel) -> Option<(u64, Arc<NodeQuota>)> {
        let serial = self.serial();
        let mut attached = self.attached();
        let node = peer.node();
        if attached.len() >= self.config.attached_max && !attached.contains_key(&node) {
            return None;
        }
        let quota = attached.get(&node).map_or_else(
            || Arc::new(NodeQuota::new(&self.config, Instant::now())),
            |old| old.quota.clone(),
        );
        let connection = channel.connection().clone();
        let entry = Attached { serial, connection, channel, quota: quota.clone() };
        if let Some(old) = attached.insert(node, entry) {
            old.connection.close();
        }
        self.metrics.set_attached(attached.len());
        Some((serial, quota))
    }

    /// Takes a node out again, unless a newer connection of it has taken the place.
    fn detach(&self, node: NodeId, serial: u64) {
        let mut attached = self.attached();
        if attached.get(&node).is_some_and(|entry| entry.serial == serial) {
            attached.remove(&node);
            self.metrics.set_attached(attached.len());
            drop(attached);
            self.directory.departed(node);
        }
    }
}

#[cfg(test)]
mod tests;
