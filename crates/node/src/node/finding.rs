//! Finding people: from a user name to devices, and from a device to ways of reaching it.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use cooee_proto::{
    call::LookUpFailure,
    identity::{NetworkId, NodeId, UserName},
};

use crate::{
    attachment::{Attachment, FoundDevice},
    call::LookUp,
    peer::{Dialer, PeerStream, Peers, Way},
};

/// Devices whose super nodes are remembered. Chosen: far above the devices of calls at once.
const DEVICES_MAX: usize = 4_096;

/// Looks up names at the super node in use and remembers where devices were found.
pub(super) struct Finder {
    attachment: Attachment,
    network: NetworkId,
    found: Arc<Mutex<BTreeMap<NodeId, FoundDevice>>>,
    peers: OnceLock<Peers>,
}

impl Finder {
    pub(super) fn new(attachment: Attachment, network: NetworkId) -> Self {
        Self { attachment, network, found: Arc::default(), peers: OnceLock::new() }
    }

    /// Tells these peers whose device is whose.
    pub(super) fn use_peers(&self, peers: &Peers) {
        let _ = self.peers.set(peers.clone());
    }
}

fn lock(
    found: &Mutex<BTreeMap<NodeId, FoundDevice>>,
) -> MutexGuard<'_, BTreeMap<NodeId, FoundDevice>> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LookUp for Finder {
    fn devices(
        &self,
        user: UserName,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<NodeId>, LookUpFailure>> + Send>> {
        let attachment = self.attachment.clone();
        let key = user.key(self.network);
        let found = self.found.clone();
        let peers = self.peers.get().cloned();
        Box::pin(async move {
            let devices = attachment.look_up(key).await.map_err(|error| {
                tracing::info!(%user, %error, "look-up failed");
                LookUpFailure::Unreachable
            })?;
            if devices.is_empty() {
                return Err(LookUpFailure::Unreachable);
            }
            let mut remembered = lock(&found);
            let mut nodes = Vec::new();
            for device in devices {
                if let Some(peers) = &peers {
                    peers.expect(device.node, user.clone());
                }
                nodes.push(device.node);
                while remembered.len() >= DEVICES_MAX {
                    remembered.pop_first();
                }
                remembered.insert(device.node, device);
            }
            Ok(nodes)
        })
    }
}

impl Dialer for Finder {
    fn ways(&self, node: NodeId) -> Pin<Box<dyn Future<Output = Vec<Way>> + Send>> {
        let device = lock(&self.found).get(&node).cloned();
        let attachment = self.attachment.clone();
        Box::pin(async move {
            let way: Way = Box::pin(async move {
                let stream = match device {
                    Some(device) => attachment.open_splice_to(&device).await?,
                    None => attachment.open_splice(node, None).await?,
                };
                Ok(Box::new(stream) as PeerStream)
            });
            vec![way]
        })
    }
}
