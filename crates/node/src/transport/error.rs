//! What can go wrong with a connection, sorted by who is at fault.

use std::{io, net::SocketAddr};

use cooee_proto::{
    identity::{CertificateError, NodeId},
    wire::{FrameError, v1::Refusal},
};
use rustls::{AlertDescription, CertificateError as TlsCertificateError};

/// What is wrong with the certificate of a peer, or what a peer finds wrong with ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// Issued by another network, or by somebody between us and the peer.
    #[error("it does not belong to this network")]
    Foreign,
    /// Its validity is over.
    #[error("it has expired")]
    Expired,
    /// Its validity has not begun.
    #[error("it is not valid yet")]
    NotValidYet,
    /// The network took the device back.
    #[error("the device was removed from the network")]
    Revoked,
    /// Valid, but of another node or user than the one wanted.
    #[error("it belongs to somebody else")]
    SomebodyElse,
    /// None was shown where one is needed.
    #[error("there is none")]
    Missing,
    /// Not a certificate at all, or its owner does not hold the key.
    #[error("it is malformed or not its owner's")]
    Malformed,
}

impl From<&CertificateError> for CertificateProblem {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::OtherNetwork(_) | CertificateError::Signature => Self::Foreign,
            CertificateError::NotYetValid { .. } => Self::NotValidYet,
            CertificateError::Expired { .. } => Self::Expired,
            CertificateError::Revoked(_) => Self::Revoked,
            _ => Self::Malformed,
        }
    }
}

/// Why a connection could not be made or did not last. Clones cheaply, since many streams may fail
/// for one reason.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// This machine has no way to the address at all.
    #[error("there is no network: {0}")]
    NoNetwork(String),
    /// Nothing listens there.
    #[error("{0} refuses connections: nothing listens there")]
    ConnectionRefused(SocketAddr),
    /// No answer in time.
    #[error("no answer within the time allowed for the {0}")]
    TimedOut(&'static str),
    /// The proxy is at fault, or its configuration.
    #[error("proxy {0}")]
    Proxy(String),
    /// The peer's certificate was refused here.
    #[error("the peer's certificate was refused: {problem}{}", clock_hint(.problem, *.ours_bad))]
    PeerCertificate {
        /// What is wrong with it.
        problem: CertificateProblem,
        /// Whether our own certificate is also outside its validity by our clock, which makes the
        /// clock the likely culprit.
        ours_bad: bool,
    },
    /// The peer refused our certificate.
    #[error(
        "the super node refuses this device's certificate: {problem}{}",
        way_back(.0), problem = .0
    )]
    OwnCertificate(CertificateProblem),
    /// We have no certificate and the peer wants one.
    #[error("this device has no certificate yet: log in first")]
    NoCertificate,
    /// Our own key or certificate cannot be used.
    #[error("this device's key or certificate cannot be used: {0}")]
    Credentials(String),
    /// The peer speaks something else, or broke the rules.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// A frame was malformed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer answered with a refusal.
    #[error("refused ({reason:?}): {detail}")]
    Refused {
        /// Its reason.
        reason: Refusal,
        /// Its words.
        detail: String,
    },
    /// The super node has no room; it names others.
    #[error("the super node is full and names {} others", .try_these.len())]
    Busy {
        /// Others to try.
        try_these: Vec<SocketAddr>,
    },
    /// A bound of ours was reached.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// The node wanted is not attached anywhere we know.
    #[error("node {0} is not reachable")]
    NotReachable(NodeId),
    /// There is a connection to this super node already, by another of its addresses.
    #[error("super node {0} is connected already")]
    AlreadyConnected(NodeId),
    /// The connection has ended.
    #[error("the connection is closed")]
    Closed,
    /// Anything else the operating system says.
    #[error("{1}")]
    Io(io::ErrorKind, String),
}

fn way_back(problem: &CertificateProblem) -> &'static str {
    match problem {
        CertificateProblem::Revoked => {
            "; it cannot come back: use another profile (--profile-dir) and `cooee login`"
        }
        CertificateProblem::Expired | CertificateProblem::NotValidYet => {
            ": check the clock of this machine, then log in again with `cooee login`"
        }
        _ => ": log in again with `cooee login`",
    }
}

fn clock_hint(problem: &CertificateProblem, ours_bad: bool) -> &'static str {
    match (problem, ours_bad) {
        (CertificateProblem::Expired | CertificateProblem::NotValidYet, true) => {
            "; this device's own certificate is not valid now either: its clock is wrong, set it"
        }
        (CertificateProblem::Expired | CertificateProblem::NotValidYet, false) => {
            "; if this device's clock is wrong, set it"
        }
        _ => "",
    }
}

impl TransportError {
    /// Whether the clock of this machine is a likely cause.
    pub fn suggests_wrong_clock(&self) -> bool {
        matches!(
            self,
            Self::PeerCertificate {
                problem: CertificateProblem::Expired | CertificateProblem::NotValidYet,
                ..
            } | Self::OwnCertificate(CertificateProblem::NotValidYet)
        )
    }

    fn from_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => {
                Self::PeerCertificate { problem: problem_of(error), ours_bad: false }
            }
            rustls::Error::NoCertificatesPresented => {
                Self::PeerCertificate { problem: CertificateProblem::Missing, ours_bad: false }
            }
            rustls::Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateExpired => {
                    Self::OwnCertificate(CertificateProblem::Expired)
                }
                AlertDescription::CertificateRevoked => {
                    Self::OwnCertificate(CertificateProblem::Revoked)
                }
                AlertDescription::UnknownCA => Self::OwnCertificate(CertificateProblem::Foreign),
                AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
                    Self::OwnCertificate(CertificateProblem::Malformed)
                }
                AlertDescription::CertificateRequired => Self::NoCertificate,
                other => Self::Protocol(format!("TLS alert {other:?}")),
            },
            other => Self::Protocol(other.to_string()),
        }
    }
}

fn problem_of(error: &TlsCertificateError) -> CertificateProblem {
    match error {
        TlsCertificateError::Expired | TlsCertificateError::ExpiredContext { .. } => {
            CertificateProblem::Expired
        }
        TlsCertificateError::NotValidYet | TlsCertificateError::NotValidYetContext { .. } => {
            CertificateProblem::NotValidYet
        }
        TlsCertificateError::Revoked => CertificateProblem::Revoked,
        TlsCertificateError::UnknownIssuer => CertificateProblem::Foreign,
        TlsCertificateError::NotValidForName => CertificateProblem::SomebodyElse,
        _ => CertificateProblem::Malformed,
    }
}

impl From<io::Error> for TransportError {
    fn from(error: io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::from_tls(tls);
        }
        match error.kind() {
            io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable => Self::NoNetwork(error.to_string()),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::WriteZero => Self::Closed,
            io::ErrorKind::TimedOut => Self::TimedOut("connection"),
            kind => Self::Io(kind, error.to_string()),
        }
    }
}

impl From<yamux::ConnectionError> for TransportError {
    fn from(error: yamux::ConnectionError) -> Self {
        match error {
            yamux::ConnectionError::Io(error)
            | yamux::ConnectionError::Decode(yamux::FrameDecodeError::Io(error)) => error.into(),
            yamux::ConnectionError::Closed => Self::Closed,
            other => Self::Protocol(other.to_string()),
        }
    }
}
