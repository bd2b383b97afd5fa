//! One attempt: connect, authenticate, greet.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cooee_proto::{
    attachment::Failure,
    control::{Greeting, NodeRole},
    identity::NodeId,
};

use crate::transport::{
    CertificateProblem, ControlChannel, Dialer, Inbox, TransportError, greeting,
};

/// Super nodes that hold a connection of this node, or are being greeted. A super node has several
/// addresses and takes a second connection for the end of the first: it must not be greeted twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Greeted(Arc<Mutex<BTreeSet<NodeId>>>);

impl Greeted {
    fn take(&self, node: NodeId) -> Option<Place> {
        self.nodes().insert(node).then(|| Place { greeted: self.clone(), node })
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to a super node's one connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    greeted: Greeted,
    node: NodeId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.greeted.nodes().remove(&self.node);
    }
}

/// An attempt that worked.
pub(super) struct Connected {
    pub(super) channel: ControlChannel,
    pub(super) inbox: Inbox,
    pub(super) theirs: Greeting,
    pub(super) round_trip: Duration,
    pub(super) place: Place,
}

pub(super) async fn connect(
    dialer: &Dialer,
    to: SocketAddr,
    listening_port: Option<u16>,
    greeted: &Greeted,
    is_open: impl Future<Output = ()>,
) -> Result<Connected, TransportError> {
    let connection = dialer.attach(to, is_open).await?;
    let node = connection.node().ok_or(TransportError::Closed)?;
    let place = greeted.take(node).ok_or(TransportError::AlreadyConnected(node))?;
    let now = dialer.tls().trust().unix_now();
    let hello = greeting(NodeRole::Ordinary, &connection, listening_port, now);
    let start = Instant::now();
    let (channel, inbox, theirs) = ControlChannel::open(&connection, &hello).await?;
    Ok(Connected { channel, inbox, theirs, round_trip: start.elapsed(), place })
}

/// What the failure means to the machine.
pub(super) fn failure(error: TransportError) -> Failure {
    let text = error.to_string();
    if error.suggests_wrong_clock() {
        return Failure::Clock(text);
    }
    match error {
        TransportError::NoNetwork(_) => Failure::NoNetwork,
        TransportError::ConnectionRefused(_) => Failure::ConnectionRefused,
        TransportError::TimedOut(_) => Failure::TimedOut,
        TransportError::AlreadyConnected(_) => Failure::AlreadyConnected,
        TransportError::Proxy(text) => Failure::Proxy(text),
        TransportError::Busy { try_these } => Failure::Busy { try_these },
        TransportError::PeerCertificate { problem: CertificateProblem::Revoked, .. } => {
            Failure::Protocol(text)
        }
        TransportError::PeerCertificate { .. } => Failure::Foreign,
        TransportError::OwnCertificate(_)
        | TransportError::NoCertificate
        | TransportError::Credentials(_) => Failure::OwnCertificate(text),
        TransportError::Refused { .. } => Failure::Refused(text),
        _ => Failure::Protocol(text),
    }
}
