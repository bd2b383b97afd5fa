//! Where a name is found: the seam between the super node and the Global Index.
//!
//! The super node hands over what nodes publish, look up and watch; the directory answers from what
//! it holds or by asking other super nodes. Records are opaque here.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use cooee_proto::{
    identity::{Certificate, NameKey, NodeId},
    wire::v1::{
        Admit, Admitted, DialBack, DialedBack, Found, Notify, Search, SearchResult, answer,
        control_message, request,
    },
};
use futures::future::BoxFuture;

use crate::transport::{ControlChannel, TransportError};

/// Why the directory refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The record or message makes no sense.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The asker may not do this.
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// A bound is reached.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// It cannot be done now.
    #[error("not available: {0}")]
    NotAvailable(String),
}

/// Tells one node or super node of changes.
#[derive(Clone, Debug)]
pub struct Notifier(pub(super) ControlChannel);

impl Notifier {
    /// Sends what a watched name looks like now. A receiver that does not keep up misses it.
    pub fn notify(&self, key: NameKey, found: Vec<Found>) {
        let name_key = Bytes::copy_from_slice(key.as_bytes());
        let _ = self.0.try_send(control_message::Kind::Notify(Notify { name_key, found }));
    }
}

/// How far a look-up goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What is held here.
    Local,
    /// The whole network, by way of the cache.
    Cached,
    /// The whole network, passing by the cache.
    Fresh,
}

/// The other super nodes, as the directory may use them.
pub trait SuperNodePeers: Send + Sync {
    /// This super node.
    fn own(&self) -> NodeId;
    /// Super nodes to which a link is held now.
    fn linked(&self) -> Vec<NodeId>;
    /// Sends a request to a super node, linking to it first if its address is known.
    fn request(
        &self,
        to: NodeId,
        kind: request::Kind,
    ) -> BoxFuture<'_, Result<answer::Kind, TransportError>>;
    /// Tells where a super node is, so that it can be linked to.
    fn learn(&self, node: NodeId, address: SocketAddr);
}

/// Holds what attached nodes publish, and finds what others published.
///
/// Calls come from many tasks at once. `from` has been authenticated by TLS.
pub trait Directory: Send + Sync + 'static {
    /// Called once, before anything else.
    fn start(&self, peers: Arc<dyn SuperNodePeers>);
    /// A node attached here.
    fn attached(&self, node: &Certificate);
    /// A node's connection ended.
    fn departed(&self, node: NodeId);
    /// A link to a super node came up; `notifier` reaches it.
    fn linked(&self, super_node: NodeId);
    /// A link to a super node ended.
    fn unlinked(&self, super_node: NodeId);
    /// A node publishes its record.
    fn publish<'a>(
        &'a self,
        from: &'a Certificate,
        record: Bytes,
    ) -> BoxFuture<'a, Result<(), DirectoryError>>;
    /// A node (or, with [`Depth::Local`], a super node) looks a name up.
    fn look_up<'a>(
        &'a self,
        from: &'a Certificate,
        key: NameKey,
        depth: Depth,
    ) -> BoxFuture<'a, Result<Vec<Found>, DirectoryError>>;
    /// A node searches by wildcard; one page.
    fn search<'a>(
        &'a self,
        from: &'a Certificate,
        search: Search,
    ) -> BoxFuture<'a, Result<SearchResult, DirectoryError>>;
    /// A node wants to serve at an address; `remote` is where its connection comes from, `None` if
    /// a
    /// super node passes its wish on.
    fn admit<'a>(
        &'a self,
        _from: &'a Certificate,
        _remote: Option<SocketAddr>,
        _wish: Admit,
    ) -> BoxFuture<'a, Result<Admitted, DirectoryError>> {
        let error = DirectoryError::NotAvailable("nobody is admitted here".into());
        Box::pin(std::future::ready(Err(error)))
    }
    /// Another super node wants to know whether a node can be reached.
    fn dial_back(&self, _wanted: DialBack) -> BoxFuture<'_, Result<DialedBack, DirectoryError>> {
        let error = DirectoryError::NotAvailable("nobody is dialled here".into());
        Box::pin(std::future::ready(Err(error)))
    }
    /// Whether nodes may attach: not while those that they would ask for are still unknown here.
    fn takes_devices(&self) -> bool {
        true
    }
    /// Whether a node may act as a super node although its certificate does not say so.
    fn admits(&self, node: NodeId) -> bool;
    /// Where a super node listens.
    fn address_of(&self, super_node: NodeId) -> Option<SocketAddr>;
    /// Super nodes with room, for a node that is told of others.
    fn try_these(&self) -> Vec<SocketAddr>;
    /// A node (or, with `local_only`, a super node) replaces what it watches. The present state of
    /// each name is notified at once.
    fn watch<'a>(
        &'a self,
        from: &'a Certificate,
        keys: Vec<NameKey>,
        local_only: bool,
        notifier: Notifier,
    ) -> BoxFuture<'a, Result<(), DirectoryError>>;
    /// A super node tells what a name watched at it looks like now.
    fn notified(&self, from: &Certificate, key: NameKey, found: Vec<Found>);
    /// A message of the index from another super node; the answer goes back to it.
    fn index_message<'a>(
        &'a self,
        from: &'a Certificate,
        message: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, DirectoryError>>;
}
