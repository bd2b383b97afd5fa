//! What mutual buddies are told of a device: that it is there, and where it takes direct
//! connections.

use std::net::SocketAddr;

use cooee_proto::{
    control::{address_from_wire, address_to_wire},
    wire::v1::{PresenceDetail, peer_message::Body, presence_detail},
};

/// Addresses of a device for direct connections. Chosen: two families, a few interfaces.
const DIRECT_ADDRESSES_MAX: usize = 8;

/// This device is there.
pub(super) fn online(display_name: String, addresses: Vec<SocketAddr>) -> Body {
    let addresses = addresses.into_iter().take(DIRECT_ADDRESSES_MAX);
    Body::Presence(PresenceDetail {
        state: presence_detail::State::Online as i32,
        display_name,
        direct_addresses: addresses.map(address_to_wire).collect(),
        ..PresenceDetail::default()
    })
}

/// Where the sender takes direct connections.
pub(super) fn addresses(detail: &PresenceDetail) -> Vec<SocketAddr> {
    let addresses = detail.direct_addresses.iter().take(DIRECT_ADDRESSES_MAX);
    addresses.filter_map(address_from_wire).collect()
}
