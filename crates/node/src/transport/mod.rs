//! Connections of the network: TLS 1.3 over TCP, both sides with certificates of the network,
//! streams inside (yamux).
//!
//! ```text
//!   TCP accept ── first byte ─┬─ 0x16 ── TLS ── ALPN ─┬─ cooee/1      Connection (yamux)
//!                             │                       ├─ cooee-e2e/1  end-to-end stream
//!                             │                       └─ stun.turn    TURN over TLS
//!                             └─ 0x00, 0x01 ── STUN: plain TURN over TCP
//! ```
//!
//! Who the peer is, is decided by `cooee_proto::identity`; this module only calls it. What the
//! streams mean is decided by `super_node` and `attachment`.

mod coalesce;
mod connection;
mod control;
mod counted;
mod dial;
mod error;
mod frames;
mod listener;
mod proxy;
mod revocation;
mod tls;
mod trust;
mod verifier;

pub use connection::{Connection, ConnectionLimits, IncomingStream, MuxStream, Side};
pub use control::{ControlChannel, Inbox, greeting};
pub use counted::{ByteCount, Counted};
pub use dial::{Dialer, connect_tcp};
pub use error::{CertificateProblem, TransportError};
pub use frames::{read_frame, write_frame};
pub use listener::{
    Accepted, EndToEndStream, Listener, ListenerConfig, TurnAcceptor, TurnStream, TurnTransport,
};
pub use proxy::{Proxy, ProxyConfig};
pub use revocation::{handle_revocation_notice, revocation_notice};
pub use tls::{Tls, alpn};
pub use trust::{Credentials, ExpectedPeer, Trust};
pub(crate) use verifier::{handshake_by_device_key, verify_handshake};

/// A byte stream of any kind.
pub trait ByteStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> ByteStream for T {}

#[cfg(test)]
pub(crate) mod tests;
