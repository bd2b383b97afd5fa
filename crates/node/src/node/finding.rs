//! Finding people: from a user name to devices, and from a device to ways of reaching it.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use cooee_proto::{
    call::LookUpFailure,
    identity::{NodeId, UserName},
    index::UserRecord,
    overlay::Trust,
    wire::v1,
};
use prost::Message;

use crate::{
    attachment::{Attachment, FoundDevice},
    call::LookUp,
    login_access::LoginAccess,
    login_server::unix_now,
    overlay::LiveTrust,
    peer::{Dialer, PeerStream, Peers, Way},
};

/// Devices whose super nodes are remembered. Chosen: far above the devices of calls at once.
const DEVICES_MAX: usize = 4_096;

/// Looks up names at the super node in use and remembers where devices were found.
pub(super) struct Finder {
    attachment: Attachment,
    trust: LiveTrust,
    login: LoginAccess,
    found: Arc<Mutex<BTreeMap<NodeId, FoundDevice>>>,
    peers: OnceLock<Peers>,
}

impl Finder {
    pub(super) fn new(attachment: Attachment, trust: LiveTrust, login: LoginAccess) -> Self {
        Self { attachment, trust, login, found: Arc::default(), peers: OnceLock::new() }
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

/// The record that came with a device, if the device itself signed it.
pub(super) fn record_of(device: &FoundDevice, trust: &LiveTrust) -> Option<Arc<UserRecord>> {
    let wire = v1::UserRecord::decode(device.record.clone()).ok()?;
    let record = trust.record(&wire, unix_now())?;
    (record.device == device.node).then_some(record)
}

/// Leaves the user's own devices that are attached somewhere, with the super nodes that they name
/// themselves: nobody on the way can send a caller elsewhere.
fn retain_reachable(devices: &mut Vec<FoundDevice>, user: &UserName, trust: &LiveTrust) {
    devices.retain_mut(|device| {
        let Some(record) = record_of(device, trust) else {
            tracing::warn!(%user, node = %device.node, "a record that its device did not sign");
            return false;
        };
        device.super_nodes.clone_from(&record.super_nodes);
        record.user == *user && record.is_live(unix_now()) && device.departed.is_none()
    });
}

impl LookUp for Finder {
    fn devices(
        &self,
        user: UserName,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<NodeId>, LookUpFailure>> + Send>> {
        let attachment = self.attachment.clone();
        let trust = self.trust.clone();
        let login = self.login.clone();
        let found = self.found.clone();
        let peers = self.peers.get().cloned();
        Box::pin(async move {
            let key = user.key(trust.network());
            let mut devices = attachment.look_up(key).await.map_err(|error| {
                tracing::info!(%user, %error, "look-up failed");
                LookUpFailure::Unreachable
            })?;
            retain_reachable(&mut devices, &user, &trust);
            if devices.is_empty() {
                // The cache of the super node may be from before the user came.
                devices = attachment.look_up_fresh(key).await.unwrap_or_default();
                retain_reachable(&mut devices, &user, &trust);
            }
            if devices.is_empty() {
                // The last resort: only the login server knows a user whom nobody has seen.
                return Err(match login.user_exists(&user).await {
                    Some(false) => LookUpFailure::UnknownUser,
                    Some(true) | None => LookUpFailure::Unreachable,
                });
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
        let (attachment, trust) = (self.attachment.clone(), self.trust.clone());
        let found = self.found.clone();
        Box::pin(async move {
            let way: Way = Box::pin(async move {
                let Some(device) = device else {
                    return Ok(Box::new(attachment.open_splice(node, None).await?) as PeerStream);
                };
                let error = match attachment.open_splice_to(&device).await {
                    Ok(stream) => return Ok(Box::new(stream) as PeerStream),
                    Err(error) => error,
                };
                // It may have moved to another super node since.
                let Some(record) = record_of(&device, &trust) else { return Err(error) };
                let mut devices = attachment.look_up_fresh(record.name_key).await?;
                retain_reachable(&mut devices, &record.user, &trust);
                let moved = devices.into_iter().find(|moved| moved.node == node);
                let moved = moved.ok_or(error)?;
                let stream = attachment.open_splice_to(&moved).await?;
                lock(&found).insert(node, moved);
                Ok(Box::new(stream) as PeerStream)
            });
            vec![way]
        })
    }
}
