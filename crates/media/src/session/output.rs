//! What a session tells its shell: effects to carry out, events to act on, when to call again.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{PathDescription, RelayId, RelayTransport, RemoteCandidate, TransportParameters};
use crate::packet::VoicePacket;

/// In which direction a path failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// This side hears nothing.
    Inbound,
    /// The peer hears nothing on the path by which this side sent.
    Outbound,
}

/// What happened to the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// Tell the peer of this candidate, in the end-to-end signalling.
    CandidateFound(RemoteCandidate),
    /// Tell the peer, if it asks, that this candidate is gone.
    CandidateLost(RemoteCandidate),
    /// Keys agreed with the signalled peer: media can flow.
    Connected {
        /// The first path.
        path: PathDescription,
        /// What protects the media.
        cipher: &'static str,
    },
    /// The media leaves by another path from now on.
    PathChanged(PathDescription),
    /// A path went deaf in one direction; a replacement is used if there is one.
    PathDeaf {
        /// Which direction.
        direction: Direction,
        /// The path that carried the media.
        path: PathDescription,
    },
    /// Nothing gets through, on no path; the session keeps trying.
    PathLost,
    /// Media gets through again after [`SessionEvent::PathLost`].
    PathRestored,
    /// Gather anew and call [`MediaSession::restart`]: nothing has worked for a while.
    RestartWanted,
    /// No direct path came about: open another local port, ask for its mapping, add both.
    NewPortWanted,
    /// This side's ICE credentials changed: tell the peer.
    ParametersChanged(TransportParameters),
    /// The peer could not prove to be the signalled one, or the handshake failed. The end.
    Refused,
    /// The peer closed the session. The end.
    Closed,
}

/// Why the session wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerReason {
    /// ICE, DTLS or RTCP.
    Transport,
    /// A relay: refresh, retransmission or another attempt.
    Relay,
    /// A STUN request.
    Reflexive,
    /// A report is due.
    Report,
    /// Silence becomes suspicious.
    Liveness,
    /// Nothing is due; the time is far away.
    Idle,
}

/// What the shell must do.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram from the UDP socket with this local address.
    Transmit {
        /// Local address of the socket.
        local: SocketAddr,
        /// Destination.
        to: SocketAddr,
        /// Contents.
        bytes: Vec<u8>,
        /// Time to live for this datagram alone, if the shell can set it; otherwise do not send.
        ttl: Option<u8>,
    },
    /// Connect to a relay by TCP or TLS, then call `handle_stream_opened`.
    OpenStream {
        /// Names the stream.
        relay: RelayId,
        /// Where to.
        server: SocketAddr,
        /// TCP or TLS.
        transport: RelayTransport,
    },
    /// Write to a relay's stream.
    WriteStream {
        /// The relay.
        relay: RelayId,
        /// Contents: one whole message.
        bytes: Vec<u8>,
        /// From then on not worth sending any more (voice); never, if `None` (control messages).
        /// What waits for the stream waits in a [`FreshQueue`](super::FreshQueue).
        useless_from: Option<Instant>,
    },
    /// Close a relay's stream after what was written.
    CloseStream {
        /// The relay.
        relay: RelayId,
    },
    /// Voice from the peer.
    Audio(VoicePacket),
    /// The peer's voice engine says something to ours.
    Feedback(Bytes),
    /// Something happened.
    Event(SessionEvent),
    /// Nothing more; call `handle_timeout` then.
    Timeout(Instant, TimerReason),
}
