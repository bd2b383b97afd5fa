//! Finding people: from a user name to devices, and from a device to ways of reaching it.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use cooee_proto::{
    call::{LookUpFailure, Relation},
    identity::{NodeId, UserName},
    index::UserRecord,
    overlay::Trust,
    wire::v1,
};
use prost::Message;
use tokio::time::timeout;

use crate::{
    attachment::{Attachment, FoundDevice},
    call::{LookUp, Relations},
    login_access::LoginAccess,
    login_server::unix_now,
    overlay::LiveTrust,
    peer::{Dialer, Identity, PeerStream, Peers, Way},
    people::{BuddyList, People},
    transport::{ProxyConfig, TransportError, connect_tcp},
};

/// Devices whose super nodes are remembered. Chosen: far above the devices of calls at once.
const DEVICES_MAX: usize = 4_096;

/// Time for a direct TCP connection. Chosen: two lost packets; the splice is tried at once too.
const DIRECT_MAX: Duration = Duration::from_secs(4);
/// Time for a look-up, after which a buddy is tried where it last was. Chosen below the call
/// machine's own.
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(8);

/// Looks up names at the super node in use and remembers where devices were found.
pub(super) struct Finder {
    attachment: Attachment,
    trust: LiveTrust,
    login: LoginAccess,
    found: Arc<Mutex<BTreeMap<NodeId, FoundDevice>>>,
    peers: OnceLock<Peers>,
    relations: OnceLock<BuddyList>,
    direct: Arc<Mutex<BTreeMap<NodeId, Direct>>>,
}

/// Where a mutual buddy's device takes direct connections, by its own words.
#[derive(Clone)]
struct Direct {
    user: UserName,
    addresses: Vec<SocketAddr>,
}

impl Finder {
    pub(super) fn new(attachment: Attachment, trust: LiveTrust, login: LoginAccess) -> Self {
        let (found, peers, relations) = (Arc::default(), OnceLock::new(), OnceLock::new());
        let direct = Arc::default();
        Self { attachment, trust, login, found, peers, relations, direct }
    }

    /// Asks this buddy list who may learn our address by a direct connection.
    pub(super) fn use_relations(&self, people: &People) {
        let _ = self.relations.set(people.buddy_list());
    }

    fn is_mutual_buddy(&self, user: &UserName) -> bool {
        let relation = self.relations.get().map(|buddies| buddies.relation(user));
        relation == Some(Relation::MutualBuddy)
    }

    fn direct(&self) -> MutexGuard<'_, BTreeMap<NodeId, Direct>> {
        self.direct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The devices of a mutual buddy that can be tried without anybody's help.
    fn direct_devices(&self, user: &UserName) -> Vec<NodeId> {
        if !self.is_mutual_buddy(user) {
            return Vec::new();
        }
        let direct = self.direct();
        direct.iter().filter(|(_, it)| it.user == *user).map(|(node, _)| *node).collect()
    }

    /// Ways by TCP without anybody between; only mutual buddies learn our address so.
    fn direct_ways(&self, node: NodeId) -> Vec<Way> {
        let Some(direct) = self.direct().get(&node).cloned() else { return Vec::new() };
        if !self.is_mutual_buddy(&direct.user) {
            return Vec::new();
        }
        let way = |to: SocketAddr| -> Way {
            Box::pin(async move {
                let proxy = ProxyConfig::none();
                let connecting = timeout(DIRECT_MAX, connect_tcp(to, &proxy));
                let stream =
                    connecting.await.map_err(|_| TransportError::TimedOut("connection"))?;
                Ok(Box::new(stream?) as PeerStream)
            })
        };
        direct.addresses.into_iter().map(way).collect()
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

/// Whether a super node has said what no honest one says: each checks what it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Honesty {
    Plausible,
    Lied,
}

/// Leaves the user's own devices that are attached somewhere, with the super nodes that they name
/// themselves: nobody on the way can send a caller elsewhere.
fn retain_reachable(devices: &mut Vec<FoundDevice>, user: &UserName, trust: &LiveTrust) -> Honesty {
    let mut unsigned = 0;
    devices.retain_mut(|device| {
        let Some(record) = record_of(device, trust) else {
            unsigned += 1;
            return false;
        };
        device.super_nodes.clone_from(&record.super_nodes);
        record.user == *user && record.is_live(unix_now()) && device.departed.is_none()
    });
    if unsigned > 0 {
        tracing::warn!(%user, unsigned, "records that their devices did not sign");
        return Honesty::Lied;
    }
    Honesty::Plausible
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
        let direct = self.direct_devices(&user);
        Box::pin(async move {
            let key = user.key(trust.network());
            let looked_up = timeout(LOOK_UP_PATIENCE, attachment.look_up_and_tell(key)).await;
            let (mut devices, answerer) =
                match looked_up.unwrap_or(Err(TransportError::TimedOut("look-up"))) {
                    Ok(found) => found,
                    Err(error) => {
                        tracing::info!(%user, %error, "look-up failed");
                        // Buddies who know where they are need nobody to find each other.
                        let known = (!direct.is_empty()).then_some(direct);
                        return known.ok_or(LookUpFailure::Unreachable);
                    }
                };
            if retain_reachable(&mut devices, &user, &trust) == Honesty::Lied {
                answerer.leave();
            }
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
        let mut ways = self.direct_ways(node);
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
            ways.insert(0, way);
            ways
        })
    }

    fn learn_addresses(&self, device: &Identity, addresses: Vec<SocketAddr>) {
        let mut direct = self.direct();
        direct.remove(&device.node);
        if !addresses.is_empty() {
            while direct.len() >= DEVICES_MAX {
                direct.pop_first();
            }
            direct.insert(device.node, Direct { user: device.user.clone(), addresses });
        }
    }
}
