//! A directory without an index, for tests: every super node knows its attached nodes and asks all
//! others.
//!
//! Right for a handful of super nodes. It proves nothing by records: a node bears the name in its
//! certificate, which the super node has checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Duration,
};

use bytes::Bytes;
use cooee_proto::{
    control::{RECORD_BYTES_MAX, WATCHED_NAMES_MAX},
    identity::{Certificate, NameKey, NetworkId, NodeId},
    wire::v1::{Found, LookUp, Search, SearchResult, Watch, answer, request},
};
use futures::future::{BoxFuture, FutureExt, join_all};
use tokio::time::timeout;

use super::{Depth, Directory, DirectoryError, Notifier, SuperNodePeers};

/// Time for one other super node to answer. Chosen: a round trip around the world, three times.
const PEER_TIME: Duration = Duration::from_secs(1);
/// Most super nodes asked for one look-up. Chosen.
const PEERS_MAX: usize = 64;

/// See the module.
pub(super) struct LocalDirectory {
    me: Weak<Self>,
    network: NetworkId,
    peers: OnceLock<Arc<dyn SuperNodePeers>>,
    state: Mutex<State>,
    admits_all: bool,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, Held>,
    watchers: BTreeMap<NodeId, Watcher>,
}

struct Held {
    key: Option<NameKey>,
    record: Bytes,
}

struct Watcher {
    keys: BTreeSet<NameKey>,
    /// Whether the watcher is a super node, which is told of our own nodes only.
    local_only: bool,
    notifier: Notifier,
}

impl LocalDirectory {
    /// The directory of one super node, with links for all or only for those whom the operator made
    /// super nodes.
    pub(super) fn admitting(network: NetworkId, admits_all: bool) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            network,
            peers: OnceLock::new(),
            state: Mutex::default(),
            admits_all,
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn own(&self) -> Bytes {
        self.peers.get().map_or_else(Bytes::new, |p| Bytes::copy_from_slice(p.own().as_bytes()))
    }

    /// What is held here under a name.
    fn held(&self, state: &State, key: NameKey) -> Vec<Found> {
        let nodes = state.nodes.iter().filter(|(_, held)| held.key == Some(key));
        nodes
            .map(|(node, held)| Found {
                node: Bytes::copy_from_slice(node.as_bytes()),
                super_nodes: vec![self.own()],
                record: held.record.clone(),
                departed_unix_ms: 0,
            })
            .collect()
    }

    /// Tells super nodes what is held here, and our own nodes the whole picture.
    fn changed(&self, key: Option<NameKey>) {
        let Some(key) = key else { return };
        let state = self.state();
        let held = self.held(&state, key);
        let watchers = state.watchers.values().filter(|watcher| watcher.keys.contains(&key));
        for watcher in watchers.filter(|watcher| watcher.local_only) {
            watcher.notifier.notify(key, held.clone());
        }
        drop(state);
        self.tell_own(key);
    }

    /// Tells our own nodes that watch the name where its devices are now, at all super nodes: one
    /// of them may have lost a device that another still holds.
    fn tell_own(&self, key: NameKey) {
        let watches = |watcher: &&Watcher| !watcher.local_only && watcher.keys.contains(&key);
        if !self.state().watchers.values().any(|watcher| watches(&watcher)) {
            return;
        }
        let Some(me) = self.me.upgrade() else { return };
        tokio::spawn(async move {
            let mut found = me.held(&me.state(), key);
            found.extend(me.ask_others(key).await);
            let found = merged(found);
            let watches = |watcher: &&Watcher| !watcher.local_only && watcher.keys.contains(&key);
            for watcher in me.state().watchers.values().filter(watches) {
                watcher.notifier.notify(key, found.clone());
            }
        });
    }

    async fn ask_others(&self, key: NameKey) -> Vec<Found> {
        let Some(peers) = self.peers.get() else { return Vec::new() };
        let name_key = Bytes::copy_from_slice(key.as_bytes());
        let look_up = request::Kind::LookUp(LookUp { name_key, local_only: true, fresh: false });
        let questions = peers.linked().into_iter().take(PEERS_MAX).map(|peer| {
            let question = peers.request(peer, look_up.clone());
            async move { timeout(PEER_TIME, question).await.ok()?.ok() }
        });
        let answers = join_all(questions).await;
        let results = answers.into_iter().flatten().filter_map(|answer| match answer {
            answer::Kind::LookUpResult(result) => Some(result.found),
            _ => None,
        });
        results.flatten().take(64).collect()
    }

    /// Sends the union of what our nodes watch to the other super nodes.
    fn watch_at_others(&self, only: Option<NodeId>) {
        let Some(peers) = self.peers.get().cloned() else { return };
        let keys: BTreeSet<NameKey> = self
            .state()
            .watchers
            .values()
            .filter(|watcher| !watcher.local_only)
            .flat_map(|watcher| watcher.keys.iter().copied())
            .take(WATCHED_NAMES_MAX)
            .collect();
        let name_keys = keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
        let kind = request::Kind::Watch(Watch { name_keys, local_only: true });
        tokio::spawn(async move {
            let linked = peers.linked().into_iter().filter(|n| only.is_none_or(|only| only == *n));
            let requests = linked.map(|peer| peers.request(peer, kind.clone()));
            join_all(requests).await;
        });
    }
}

/// One entry per device; the super nodes of several answers are joined.
fn merged(found: Vec<Found>) -> Vec<Found> {
    let mut by_node = BTreeMap::<Bytes, Found>::new();
    for one in found {
        match by_node.get_mut(&one.node) {
            Some(known) => {
                for super_node in one.super_nodes {
                    if !known.super_nodes.contains(&super_node) && known.super_nodes.len() < 8 {
                        known.super_nodes.push(super_node);
                    }
                }
            }
            None => {
                by_node.insert(one.node.clone(), one);
            }
        }
    }
    by_node.into_values().collect()
}

impl Directory for LocalDirectory {
    fn start(&self, peers: Arc<dyn SuperNodePeers>) {
        // A second start would be the caller's mistake; the first one's peers stay.
        let _ = self.peers.set(peers);
    }

    fn attached(&self, node: &Certificate) {
        let key = node.user().map(|user| user.key(self.network));
        self.state().nodes.insert(node.node(), Held { key, record: Bytes::new() });
        self.changed(key);
    }

    fn departed(&self, node: NodeId) {
        let mut state = self.state();
        let held = state.nodes.remove(&node);
        state.watchers.remove(&node);
        drop(state);
        self.changed(held.and_then(|held| held.key));
    }

    fn linked(&self, super_node: NodeId) {
        self.watch_at_others(Some(super_node));
    }

    fn unlinked(&self, super_node: NodeId) {
        self.state().watchers.remove(&super_node);
    }

    fn publish<'a>(
        &'a self,
        from: &'a Certificate,
        record: Bytes,
    ) -> BoxFuture<'a, Result<(), DirectoryError>> {
        async move {
            if record.len() > RECORD_BYTES_MAX {
                return Err(DirectoryError::Malformed("record too long".into()));
            }
            let mut state = self.state();
            let held = state.nodes.get_mut(&from.node());
            let held = held.ok_or_else(|| DirectoryError::NotAllowed("not attached".into()))?;
            held.record = record;
            let key = held.key;
            drop(state);
            self.changed(key);
            Ok(())
        }
        .boxed()
    }

    fn look_up<'a>(
        &'a self,
        _from: &'a Certificate,
        key: NameKey,
        depth: Depth,
    ) -> BoxFuture<'a, Result<Vec<Found>, DirectoryError>> {
        async move {
            let mut found = self.held(&self.state(), key);
            if depth != Depth::Local {
                found.extend(self.ask_others(key).await);
            }
            Ok(merged(found))
        }
        .boxed()
    }

    fn search<'a>(
        &'a self,
        _from: &'a Certificate,
        _search: Search,
    ) -> BoxFuture<'a, Result<SearchResult, DirectoryError>> {
        async { Err(DirectoryError::NotAvailable("no index here".into())) }.boxed()
    }

    fn admits(&self, _node: NodeId) -> bool {
        self.admits_all
    }

    fn address_of(&self, _super_node: NodeId) -> Option<SocketAddr> {
        None
    }

    fn try_these(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    fn watch<'a>(
        &'a self,
        from: &'a Certificate,
        keys: Vec<NameKey>,
        local_only: bool,
        notifier: Notifier,
    ) -> BoxFuture<'a, Result<(), DirectoryError>> {
        async move {
            if keys.len() > WATCHED_NAMES_MAX {
                return Err(DirectoryError::TooMany("watched names"));
            }
            let keys: BTreeSet<NameKey> = keys.into_iter().collect();
            {
                let mut state = self.state();
                let keys = keys.clone();
                let watcher = Watcher { keys, local_only, notifier: notifier.clone() };
                state.watchers.insert(from.node(), watcher);
            }
            if local_only {
                for key in keys {
                    let held = self.held(&self.state(), key);
                    if !held.is_empty() {
                        notifier.notify(key, held);
                    }
                }
            } else {
                // The others tell of those that they hold, which tells our own.
                self.watch_at_others(None);
                for key in keys {
                    if !self.held(&self.state(), key).is_empty() {
                        self.tell_own(key);
                    }
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn notified(&self, _from: &Certificate, key: NameKey, _found: Vec<Found>) {
        // That something changed is enough: who else holds the name is asked anyway.
        self.tell_own(key);
    }

    fn index_message<'a>(
        &'a self,
        _from: &'a Certificate,
        _message: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, DirectoryError>> {
        async { Err(DirectoryError::NotAvailable("no index here".into())) }.boxed()
    }
}
