//! End-to-end connections between two devices: TLS 1.3 inside a splice or over direct TCP, then
//! framed `PeerMessage`s (`docs/protocol/peer.md`).
//!
//! [`connection`] is one of them; [`Peers`] keeps at most one for each remote device, makes them
//! when something is to be said, and closes them when nothing was said for long. Who the peer is
//! comes from its certificate alone; what its messages mean is not decided here.

pub mod connection;
mod error;
mod peers;

pub use connection::{Established, PeerStream};
pub use error::PeerError;
pub use peers::{Dialer, PeerEvent, Peers, PeersConfig, Way};

use cooee_proto::identity::{Certificate, NodeId, NodePublicKey, UserName};

/// A remote device, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The device.
    pub node: NodeId,
    /// The user it belongs to.
    pub user: UserName,
    /// Its key.
    pub key: NodePublicKey,
}

impl Identity {
    /// The device and user of a certificate that has been verified.
    pub fn of(certificate: &Certificate) -> Result<Self, PeerError> {
        let user = certificate.user().ok_or(PeerError::NoUser(certificate.node()))?.clone();
        Ok(Self { node: certificate.node(), user, key: certificate.public_key() })
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{device, device_of};
