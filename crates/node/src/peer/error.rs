//! What can go wrong between two devices, sorted by who is at fault.

use cooee_proto::{
    identity::NodeId,
    wire::{FrameError, v1::peer_goodbye},
};

use crate::transport::{CertificateProblem, TransportError};

/// Why a peer connection was not made, or ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    /// The stream below, the TLS handshake, or whom it proved the peer to be.
    #[error("end-to-end connection: {0}")]
    Transport(#[from] TransportError),
    /// What was read is no sequence of messages.
    #[error("end-to-end connection: {0}")]
    Frame(#[from] FrameError),
    /// The other end is a node of the network, but of no user.
    #[error("node {0} belongs to no user: it can neither call nor be called")]
    NoUser(NodeId),
    /// We reached ourselves.
    #[error("this is our own device")]
    Oneself,
    /// The first message was something else, or came twice.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// The peer speaks another version.
    #[error("the peer speaks version {0} of the peer protocol, we speak 1: update the older one")]
    Version(u32),
    /// Nothing came in time.
    #[error("the peer did not answer in time ({0})")]
    TimedOut(&'static str),
    /// The peer said why it closes.
    #[error("the peer closed the connection ({0:?})")]
    Goodbye(peer_goodbye::Reason),
    /// The stream ended without a word: the peer or the path died.
    #[error("the connection was lost")]
    Lost,
    /// There is no way to try.
    #[error("no way to node {0} is known now")]
    NoWay(NodeId),
    /// Too many devices at once.
    #[error("too many peer connections")]
    TooMany,
}

impl PeerError {
    /// Whether somebody who is not the device wanted answered in its place.
    pub fn is_impostor(&self) -> bool {
        match self {
            Self::NoUser(_) => true,
            Self::Transport(TransportError::PeerCertificate { problem, .. }) => matches!(
                problem,
                CertificateProblem::SomebodyElse
                    | CertificateProblem::Foreign
                    | CertificateProblem::Malformed
            ),
            _ => false,
        }
    }
}
