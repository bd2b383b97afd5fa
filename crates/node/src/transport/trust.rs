//! Whom this node trusts, who it is, and whom it expects.

use std::sync::{Arc, RwLock};

use cooee_proto::{
    clock::UnixTime,
    identity::{
        Certificate, CertificateError, NetworkRoot, NodeId, NodeKey, RevocationList, Role, UserName,
    },
};
use tokio::sync::watch;

/// This device's key and what the network says about it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The device's key.
    pub key: Arc<NodeKey>,
    /// Its certificate; `None` until the first login.
    pub certificate: Option<Certificate>,
}

impl Credentials {
    /// Of a device that has logged in.
    pub fn new(key: NodeKey, certificate: Certificate) -> Self {
        Self { key: Arc::new(key), certificate: Some(certificate) }
    }

    /// Of a device before its first login.
    pub fn anonymous(key: NodeKey) -> Self {
        Self { key: Arc::new(key), certificate: None }
    }

    /// The node that this device is.
    pub fn node(&self) -> NodeId {
        self.key.node_id()
    }
}

type Clock = dyn Fn() -> UnixTime + Send + Sync;

/// The network's root, what it took back, and the wall clock.
pub struct Trust {
    root: NetworkRoot,
    revoked: RwLock<RevocationList>,
    /// Number of the list, for those who wait for a newer one.
    number: watch::Sender<u64>,
    clock: Box<Clock>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("network", &self.root.network_id()).finish_non_exhaustive()
    }
}

impl Trust {
    /// Trust in one network, by this machine's clock.
    pub fn new(root: NetworkRoot) -> Arc<Self> {
        Self::with_clock(root, system_clock)
    }

    /// The same by another clock.
    pub fn with_clock(
        root: NetworkRoot,
        clock: impl Fn() -> UnixTime + Send + Sync + 'static,
    ) -> Arc<Self> {
        let revoked = RwLock::new(RevocationList::empty(root.network_id()));
        Arc::new(Self { root, revoked, number: watch::Sender::new(0), clock: Box::new(clock) })
    }

    /// The network's root.
    pub fn root(&self) -> &NetworkRoot {
        &self.root
    }

    /// The wall clock.
    pub fn unix_now(&self) -> UnixTime {
        (self.clock)()
    }

    /// Takes in a newer revocation list and tells those who wait for it; whoever holds open
    /// connections closes those that no longer [hold](Self::still_holds).
    pub fn replace_revocation_list(&self, list: RevocationList) -> bool {
        let number = list.number();
        let newer =
            self.revoked.write().expect("no holder of this lock panics").replace_if_newer(list);
        if newer {
            self.number.send_replace(number);
        }
        newer
    }

    /// The newest revocation list known.
    pub fn revocation_list(&self) -> RevocationList {
        self.revoked.read().expect("no holder of this lock panics").clone()
    }

    /// Tells when a newer revocation list has come.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    /// Whether a certificate that was checked before holds now: not removed, not ended.
    pub fn still_holds(&self, certificate: &Certificate) -> bool {
        let revoked = self.revoked.read().expect("no holder of this lock panics");
        !revoked.contains(certificate.node()) && self.unix_now() <= certificate.not_after()
    }

    /// Parses and checks a certificate.
    pub fn check(&self, der: &[u8]) -> Result<Certificate, CertificateError> {
        let certificate = Certificate::parse(der)?;
        self.check_again(&certificate)?;
        Ok(certificate)
    }

    /// Checks a certificate as of now.
    pub fn check_again(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        let revoked = self.revoked.read().expect("no holder of this lock panics");
        certificate.verify(&self.root, self.unix_now(), &revoked)
    }
}

/// The machine's wall clock.
fn system_clock() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime(since.map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

/// Whom a connection must lead to, beyond being of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// Anybody of the network.
    Anybody,
    /// This node.
    Node(NodeId),
    /// A device of this user.
    User(UserName),
    /// This node, and it must be a device of this user.
    Device(NodeId, UserName),
    /// A node that the operator gave this role.
    Role(Role),
}

impl ExpectedPeer {
    /// Whether the certificate is of the one expected.
    pub fn is_met_by(&self, certificate: &Certificate) -> bool {
        match self {
            Self::Anybody => true,
            Self::Node(node) => certificate.node() == *node,
            Self::User(user) => certificate.user() == Some(user),
            Self::Device(node, user) => {
                certificate.node() == *node && certificate.user() == Some(user)
            }
            Self::Role(role) => certificate.roles().contains(*role),
        }
    }
}
