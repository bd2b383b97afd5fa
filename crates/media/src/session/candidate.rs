//! Transport candidates (RFC 8445 section 5.1) and the paths made of them.
//!
//! A candidate is an address at which one side may be reached; a path is a way by which this
//! side sends: a local socket or a relay, towards one address of the peer. What reveals whose
//! address is decided by the caller, who chooses when to add which candidate.

use std::{fmt, net::SocketAddr};

/// How a candidate was found (RFC 8445 section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// An address of a local interface.
    Host,
    /// The address that a STUN server saw.
    ServerReflexive,
    /// An address allocated at a TURN server.
    Relayed,
    /// The same, at a server that its owner reaches over TCP or TLS.
    RelayedOverStream,
}

impl CandidateKind {
    /// An address of a TURN server, which reveals nothing about its owner's.
    pub fn is_relayed(self) -> bool {
        matches!(self, Self::Relayed | Self::RelayedOverStream)
    }
}

/// A candidate of the peer, as it travels in the signalling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteCandidate {
    /// How the peer found it.
    pub kind: CandidateKind,
    /// Where the peer may be reached.
    pub address: SocketAddr,
}

/// A candidate of this side that the caller adds; relayed ones come from
/// [`crate::session::MediaSession::add_relay`] instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LocalCandidate {
    /// The address of a socket on a local interface, never an unspecified address.
    Host(SocketAddr),
    /// `address` is what a STUN server saw of the socket `base`.
    ServerReflexive {
        /// The mapped address, told to the peer.
        address: SocketAddr,
        /// The local socket behind it.
        base: SocketAddr,
    },
}

impl LocalCandidate {
    /// The candidate as the peer is told of it.
    pub fn advertised(self) -> RemoteCandidate {
        match self {
            Self::Host(address) => RemoteCandidate { kind: CandidateKind::Host, address },
            Self::ServerReflexive { address, .. } => {
                RemoteCandidate { kind: CandidateKind::ServerReflexive, address }
            }
        }
    }

    /// The socket from which packets of this candidate leave.
    pub fn base(self) -> SocketAddr {
        match self {
            Self::Host(base) | Self::ServerReflexive { base, .. } => base,
        }
    }
}

/// Names one relay of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u8);

/// By what a datagram leaves or has come in on this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LocalPath {
    /// The UDP socket with this local address.
    Direct(SocketAddr),
    /// An allocation at a relay.
    Relay(RelayId),
}

/// How this side reaches a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RelayTransport {
    /// Datagrams.
    Udp,
    /// A TCP connection.
    Tcp,
    /// TLS over TCP, usually to port 443.
    Tls,
}

/// What kind of path the media takes, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathKind {
    /// UDP between the two nodes, through NATs if need be.
    Direct,
    /// Through the peer's relay only: this side sends UDP to the peer's relayed address.
    RelayedByPeer,
    /// Through a relay of this side, reached over UDP.
    RelayedUdp,
    /// Through a relay of this side, reached over TCP.
    RelayedTcp,
    /// Through a relay that the peer reaches over TCP or TLS.
    RelayedTcpByPeer,
    /// Through a relay of this side, reached over TLS.
    RelayedTls,
}

impl PathKind {
    /// Header bytes of each voice packet by this path on this side's access, towards a peer of that
    /// address: SRTP's 28 (RTP and tag) and
    ///
    /// | path | headers |
    /// | --- | --- |
    /// | UDP | IP, UDP 8 |
    /// | relay over UDP | and ChannelData 4 |
    /// | relay over TCP | IP, TCP with time stamps 32, Send indication 36 or 48 |
    /// | relay over TLS | and TLS record 22 |
    pub fn overhead_bytes(self, peer_is_ipv4: bool) -> usize {
        let (ip, indication) = if peer_is_ipv4 { (20, 36) } else { (40, 48) };
        let below = match self {
            Self::Direct | Self::RelayedByPeer | Self::RelayedTcpByPeer => 8,
            Self::RelayedUdp => 8 + 4,
            Self::RelayedTcp => 32 + indication,
            Self::RelayedTls => 32 + indication + 22,
        };
        28 + ip + below
    }

    /// Milliseconds of round trip that a path of this kind must be faster by to be preferred
    /// over a direct one (chosen: a relay costs its owner bandwidth, TCP stalls on loss).
    pub(crate) fn handicap_ms(self) -> u64 {
        match self {
            Self::Direct => 0,
            Self::RelayedByPeer => 40,
            Self::RelayedUdp => 45,
            Self::RelayedTcp => 400,
            Self::RelayedTcpByPeer => 410,
            Self::RelayedTls => 430,
        }
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct UDP",
            Self::RelayedByPeer => "relayed UDP (the peer's relay)",
            Self::RelayedUdp => "relayed UDP",
            Self::RelayedTcp => "relayed TCP",
            Self::RelayedTcpByPeer => "relayed TCP (the peer's relay)",
            Self::RelayedTls => "relayed TLS",
        })
    }
}

/// One path as the caller sees it in events and statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathDescription {
    /// By what this side sends.
    pub local: LocalPath,
    /// The peer's address.
    pub remote: SocketAddr,
    /// What kind of path it is.
    pub kind: PathKind,
}
