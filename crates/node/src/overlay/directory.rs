//! The overlay as the super node's [`Directory`].

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use cooee_proto::{
    control::{address_from_wire, node_id},
    identity::{Certificate, NameKey, NodeId},
    index::{self, Pattern, PublishRefused},
    overlay::super_node::Refused,
    wire::v1::{Admit, Admitted, DialBack, DialedBack, Found, Search, SearchResult},
};
use futures::future::{BoxFuture, FutureExt};
use prost::Message;
use tokio::sync::oneshot;

use super::OverlayDirectory;
use crate::super_node::{Depth, Directory, DirectoryError, Notifier, SuperNodePeers};

/// Found devices as nodes get them.
pub(super) fn found_to_wire(found: &[index::Found]) -> Vec<Found> {
    let device = |found: &index::Found| Found {
        node: Bytes::copy_from_slice(&found.record.device.0),
        super_nodes: found.record.wire.super_nodes.clone(),
        record: found.record.wire.encode_to_vec().into(),
        departed_unix_ms: found.departed.map_or(0, |at| at.0),
    };
    found.iter().map(device).collect()
}

fn refused(refused: Refused) -> DirectoryError {
    match refused {
        Refused::TooMany => DirectoryError::TooMany("searches: wait a little"),
        Refused::Busy => DirectoryError::NotAvailable(refused.to_string()),
    }
}

fn not_published(error: PublishRefused) -> DirectoryError {
    match error {
        PublishRefused::Invalid => DirectoryError::Malformed(error.to_string()),
        _ => DirectoryError::NotAllowed(error.to_string()),
    }
}

fn gave_up(_: oneshot::error::RecvError) -> DirectoryError {
    DirectoryError::NotAvailable("the overlay gave this search up".into())
}

impl Directory for OverlayDirectory {
    fn start(&self, peers: Arc<dyn SuperNodePeers>) {
        // The overlay talks over UDP; links carry wishes to be admitted. A second start would be
        // the
        // caller's mistake; the first one's peers stay.
        let _ = self.peers.set(peers);
    }

    fn admit<'a>(
        &'a self,
        from: &'a Certificate,
        remote: Option<SocketAddr>,
        wish: Admit,
    ) -> BoxFuture<'a, Result<Admitted, DirectoryError>> {
        self.consider(from, remote, wish).boxed()
    }

    fn dial_back(&self, wanted: DialBack) -> BoxFuture<'_, Result<DialedBack, DirectoryError>> {
        let malformed = || DirectoryError::Malformed("an address and a node are wanted".into());
        let address = wanted.address.as_ref().and_then(address_from_wire);
        let node = node_id(&wanted.node).ok();
        async move {
            let (Some(address), Some(node)) = (address, node) else { return Err(malformed()) };
            Ok(OverlayDirectory::dial_back(self, node, address).await)
        }
        .boxed()
    }

    fn attached(&self, node: &Certificate) {
        self.with(|overlay, now| overlay.attach(now, node.node()));
    }

    fn departed(&self, node: NodeId) {
        self.state().notifiers.remove(&node);
        self.with(|overlay, now| overlay.detach(now, node));
    }

    fn linked(&self, _super_node: NodeId) {}

    fn unlinked(&self, _super_node: NodeId) {}

    fn publish<'a>(
        &'a self,
        from: &'a Certificate,
        record: Bytes,
    ) -> BoxFuture<'a, Result<(), DirectoryError>> {
        let published = self.with(|overlay, now| overlay.publish(now, from.node(), &record));
        std::future::ready(published.map_err(not_published)).boxed()
    }

    fn look_up<'a>(
        &'a self,
        from: &'a Certificate,
        key: NameKey,
        depth: Depth,
    ) -> BoxFuture<'a, Result<Vec<Found>, DirectoryError>> {
        if depth == Depth::Local {
            let held = self.held(key);
            return std::future::ready(Ok(held)).boxed();
        }
        let (sender, receiver) = oneshot::channel();
        let asked = {
            let mut state = self.state();
            let fresh = depth == Depth::Fresh;
            let asked = state.overlay.look_up(self.now(), from.node(), key, fresh);
            if let Ok(number) = asked {
                state.look_ups.insert(number, sender);
            }
            self.carry_out(&mut state);
            asked
        };
        self.wake.notify_one();
        async move {
            asked.map_err(refused)?;
            Ok(found_to_wire(&receiver.await.map_err(gave_up)?.found))
        }
        .boxed()
    }

    fn search<'a>(
        &'a self,
        from: &'a Certificate,
        search: Search,
    ) -> BoxFuture<'a, Result<SearchResult, DirectoryError>> {
        let (sender, receiver) = oneshot::channel();
        let asked = Pattern::parse(&search.pattern)
            .map_err(|error| DirectoryError::Malformed(error.to_string()))
            .and_then(|pattern| {
                let mut state = self.state();
                let asked = state.overlay.search(self.now(), from.node(), pattern, search.after);
                if let Ok(number) = asked {
                    state.searches.insert(number, sender);
                }
                self.carry_out(&mut state);
                asked.map_err(refused)
            });
        self.wake.notify_one();
        async move {
            asked?;
            let answer = receiver.await.map_err(gave_up)?;
            let last = answer.matches.last().map(|last| last.cursor.clone());
            let next = last.filter(|_| answer.more).unwrap_or_default();
            let found: Vec<_> = answer.matches.into_iter().map(|one| one.found).collect();
            Ok(SearchResult { found: found_to_wire(&found), next })
        }
        .boxed()
    }

    fn takes_devices(&self) -> bool {
        !self.state().overlay.is_entering()
    }

    fn admits(&self, node: NodeId) -> bool {
        self.state().overlay.table().is_present(&node)
    }

    fn address_of(&self, super_node: NodeId) -> Option<SocketAddr> {
        self.state().overlay.address_of(&super_node)
    }

    fn try_these(&self) -> Vec<SocketAddr> {
        self.state().overlay.try_these()
    }

    fn watch<'a>(
        &'a self,
        from: &'a Certificate,
        keys: Vec<NameKey>,
        local_only: bool,
        notifier: Notifier,
    ) -> BoxFuture<'a, Result<(), DirectoryError>> {
        // Super nodes watch at keepers, by datagram.
        if !local_only {
            let node = from.node();
            self.state().notifiers.insert(node, notifier);
            self.with(|overlay, now| {
                // Whoever connects anew is told everything once more.
                overlay.watch(now, node, &[]);
                overlay.watch(now, node, &keys);
            });
        }
        std::future::ready(Ok(())).boxed()
    }

    fn notified(&self, _from: &Certificate, _key: NameKey, _found: Vec<Found>) {}

    fn index_message<'a>(
        &'a self,
        _from: &'a Certificate,
        _message: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, DirectoryError>> {
        let error = DirectoryError::NotAvailable("the index speaks over UDP".into());
        std::future::ready(Err(error)).boxed()
    }
}

impl OverlayDirectory {
    /// What this super node keeps under a name itself.
    fn held(&self, key: NameKey) -> Vec<Found> {
        let state = self.state();
        let held = state.overlay.keeper().find(self.now().unix, &key);
        found_to_wire(&held.into_iter().map(index::Held::found).collect::<Vec<_>>())
    }
}
