//! One attempt: connect, authenticate, greet.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cooee_proto::{
    attachment::Failure,
    control::{Greeting, NodeRole},
};

use crate::transport::{
    CertificateProblem, ConnectionLimits, ControlChannel, Dialer, Inbox, TransportError, greeting,
};

/// An attempt that worked.
pub(super) struct Connected {
    pub(super) channel: ControlChannel,
    pub(super) inbox: Inbox,
    pub(super) theirs: Greeting,
    pub(super) round_trip: Duration,
}

pub(super) async fn connect(
    dialer: &Dialer,
    to: SocketAddr,
    listening_port: Option<u16>,
) -> Result<Connected, TransportError> {
    let connection = dialer.connect(to, ConnectionLimits::ORDINARY).await?;
    let now = dialer.tls().trust().unix_now();
    let hello = greeting(NodeRole::Ordinary, &connection, listening_port, now);
    let start = Instant::now();
    let (channel, inbox, theirs) = ControlChannel::open(&connection, &hello).await?;
    Ok(Connected { channel, inbox, theirs, round_trip: start.elapsed() })
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
