//! The relay of a super node: TURN (RFC 8656) and STUN with behaviour discovery (RFC 5780), pure.
//!
//! ```text
//!   client datagram or stream frame ─▶ RelayServer::forward_from_client ─▶ peer, other client
//!                                   └▶ RelayServer::handle_message ──────▶ RelayOutput (drained)
//!   datagram at a relayed address  ──▶ RelayServer::forward_from_peer ───▶ client
//! ```
//! Voice packets take the two `forward_` calls, which look up and charge and allocate nothing.
//! Everything else is a STUN message and goes through `handle_message`. Parsing and integrity are
//! `stun-types`' and `turn-types`'; see `docs/protocol/relay.md` and the decision on TURN.

mod allocation;
mod binding;
mod credentials;
mod forward;
mod limits;
mod nonce;
mod policy;
mod request;
mod response;
mod server;
mod stream;

pub use allocation::{AllocationId, ClientId};
pub use binding::{
    ALTERNATE_PORT, BindingRequestOptions, CHANGE_REQUEST, OTHER_ADDRESS, RESPONSE_ORIGIN,
    change_request_value, other_address, partner_response,
};
pub use credentials::{REALM, RelayCredentials, RelaySecret};
pub use forward::{ClientForward, ClientHeader, DATA_HEADER_BYTES_MAX, FromClient};
pub use policy::{AddressBlock, AddressBlockError, PeerPolicy};
pub use server::{RelayConfig, RelayCounts, RelayOutput, RelayServer};
pub use stream::{STREAM_FRAME_BYTES_MAX, StreamError, StreamFrames};

#[cfg(test)]
mod tests;
