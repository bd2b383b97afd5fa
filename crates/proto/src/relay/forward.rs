//! The way of a voice packet: look-ups and a charge against the budget, no library, no allocation.
//!
//! A packet for another allocation of this same relay never enters the kernel in between: it goes
//! from client to client, with both sides' permissions checked as if it had.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    time::Instant,
};

use super::{AllocationId, ClientId, server::RelayServer};

/// Longest [`ClientHeader`]: STUN header, XOR-PEER-ADDRESS of IPv6, header of DATA.
pub const DATA_HEADER_BYTES_MAX: usize = 48;

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const SEND_INDICATION: [u8; 2] = [0x00, 0x16];
const DATA_INDICATION: [u8; 2] = [0x00, 0x17];
const XOR_PEER_ADDRESS: u16 = 0x0012;
const DATA: u16 = 0x0013;
/// Attribute types below must be understood (RFC 8489 section 14).
const COMPREHENSION_OPTIONAL: u16 = 0x8000;

/// What to do with bytes of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// Send this part of them from the relayed address to the peer.
    ToPeer {
        /// Whose relayed address.
        allocation: AllocationId,
        /// Whereto.
        peer: SocketAddr,
        /// Which part.
        payload: Range<usize>,
    },
    /// Send this part of them, after the header, to another client of this relay.
    ToClient {
        /// Whereto, and after what.
        forward: ClientForward,
        /// Which part.
        payload: Range<usize>,
    },
    /// A STUN message for [`RelayServer::handle_message`].
    Message,
    /// Nothing: no allocation, no permission, no budget, or malformed.
    Drop,
}

/// Where a peer's packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientForward {
    /// The client that holds the allocation.
    pub client: ClientId,
    /// Our address that it knows.
    pub local_ip: Option<IpAddr>,
    /// How its packet starts.
    pub header: ClientHeader,
}

/// What stands before a payload on the way to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientHeader {
    /// ChannelData of this channel.
    Channel(u16),
    /// A Data indication of this peer.
    Indication(SocketAddr),
}

impl ClientHeader {
    /// Appends header, payload and, for a stream or an indication, padding to `out`.
    pub fn write(&self, payload: &[u8], stream: bool, out: &mut Vec<u8>) {
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        let payload = &payload[..usize::from(length)];
        let padding = payload.len().next_multiple_of(4) - payload.len();
        match self {
            Self::Channel(number) => {
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(payload);
                if !stream {
                    return;
                }
            }
            Self::Indication(peer) => {
                write_indication_header(*peer, length, padding, out);
                out.extend_from_slice(payload);
            }
        }
        out.extend_from_slice(&[0; 3][..padding]);
    }
}

impl RelayServer {
    /// Decides about bytes of `client`: one datagram, or one frame of its stream.
    pub fn forward_from_client(
        &mut self,
        now: Instant,
        client: &ClientId,
        bytes: &[u8],
    ) -> FromClient {
        let (wanted, payload) = match bytes {
            [64..=127, low, high_length, low_length, rest @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high_length, *low_length]));
                if length > rest.len() {
                    return FromClient::Drop;
                }
                (Wanted::Channel(u16::from_be_bytes([bytes[0], *low])), 4..4 + length)
            }
            [first, second, ..] if [*first, *second] == SEND_INDICATION => {
                match parse_send(bytes) {
                    Some((peer, payload)) => (Wanted::Peer(peer), payload),
                    None => return FromClient::Drop,
                }
            }
            [0..=3, ..] => return FromClient::Message,
            _ => return FromClient::Drop,
        };
        let Some(id) = self.table.by_client(client) else {
            self.counts.dropped_no_allocation += 1;
            return FromClient::Drop;
        };
        let Some(allocation) = self.table.get(id).filter(|a| a.expires > now) else {
            return FromClient::Drop;
        };
        let peer = match wanted {
            Wanted::Channel(number) => allocation.channel(now, number),
            Wanted::Peer(peer) => allocation.permits(now, peer.ip()).then_some(peer),
        };
        let Some(peer) = peer else {
            self.counts.dropped_no_permission += 1;
            return FromClient::Drop;
        };
        let relayed = allocation.relayed;
        if !self.charge(now, payload.len()) {
            return FromClient::Drop;
        }
        if !self.is_own_relayed(peer) {
            return FromClient::ToPeer { allocation: id, peer, payload };
        }
        match self.route_to_client(now, self.table.by_relayed(&peer), relayed) {
            Some(forward) => FromClient::ToClient { forward, payload },
            None => FromClient::Drop,
        }
    }

    /// Decides about `length` bytes that `peer` sent to an allocation's relayed address.
    pub fn forward_from_peer(
        &mut self,
        now: Instant,
        allocation: AllocationId,
        peer: SocketAddr,
        length: usize,
    ) -> Option<ClientForward> {
        let forward = self.route_to_client(now, Some(allocation), peer)?;
        self.charge(now, length).then_some(forward)
    }

    fn route_to_client(
        &mut self,
        now: Instant,
        allocation: Option<AllocationId>,
        peer: SocketAddr,
    ) -> Option<ClientForward> {
        let standing = |id| self.table.get(id).filter(|a| a.expires > now && a.standing);
        let Some(allocation) = allocation.and_then(standing) else {
            self.counts.dropped_no_allocation += 1;
            return None;
        };
        let header = match allocation.channel_of(now, peer) {
            Some(number) => ClientHeader::Channel(number),
            None => ClientHeader::Indication(peer),
        };
        if !allocation.permits(now, peer.ip()) {
            self.counts.dropped_no_permission += 1;
            return None;
        }
        Some(ClientForward { client: allocation.client, local_ip: allocation.local_ip, header })
    }
}

enum Wanted {
    Channel(u16),
    Peer(SocketAddr),
}

/// Peer and payload of a Send indication; `None` if malformed or with an attribute that must be
/// understood and is not (RFC 8656 section 11.2 has it dropped).
fn parse_send(bytes: &[u8]) -> Option<(SocketAddr, Range<usize>)> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[4..8] != MAGIC_COOKIE || bytes.len() != 20 + length {
        return None;
    }
    let (mut peer, mut payload) = (None, None);
    let mut at = 20;
    while at < bytes.len() {
        let header: &[u8; 4] = bytes.get(at..)?.first_chunk()?;
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let value = at + 4..at + 4 + length;
        let bytes_of = bytes.get(value.clone())?;
        match kind {
            XOR_PEER_ADDRESS if peer.is_none() => {
                peer = Some(unmask_address(bytes_of, &bytes[4..20])?);
            }
            DATA if payload.is_none() => payload = Some(value),
            XOR_PEER_ADDRESS | DATA | COMPREHENSION_OPTIONAL.. => {}
            _ => return None,
        }
        at += 4 + length.next_multiple_of(4);
    }
    Some((peer?, payload?))
}

/// XOR-PEER-ADDRESS; `mask` is the cookie and the transaction (RFC 8489 section 14.2).
fn unmask_address(value: &[u8], mask: &[u8]) -> Option<SocketAddr> {
    let (&[_, family, port_high, port_low], masked) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([port_high ^ mask[0], port_low ^ mask[1]]);
    match (family, masked.len()) {
        (1, 4) => {
            let ip: [u8; 4] = std::array::from_fn(|i| masked[i] ^ mask[i]);
            Some((ip, port).into())
        }
        (2, 16) => {
            let ip: [u8; 16] = std::array::from_fn(|i| masked[i] ^ mask[i]);
            Some((ip, port).into())
        }
        _ => None,
    }
}

fn write_indication_header(peer: SocketAddr, length: u16, padding: usize, out: &mut Vec<u8>) {
    let address_bytes: u16 = if peer.is_ipv4() { 8 } else { 20 };
    let body = 4 + address_bytes + 4 + length + padding as u16;
    let start = out.len();
    out.extend_from_slice(&DATA_INDICATION);
    out.extend_from_slice(&body.to_be_bytes());
    out.extend_from_slice(&MAGIC_COOKIE);
    // An indication is never answered, so its transaction need not be unpredictable.
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&XOR_PEER_ADDRESS.to_be_bytes());
    out.extend_from_slice(&address_bytes.to_be_bytes());
    out.extend_from_slice(&[0, if peer.is_ipv4() { 1 } else { 2 }]);
    out.extend_from_slice(&(peer.port() ^ 0x2112).to_be_bytes());
    let masked_from = out.len();
    match peer.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    for at in masked_from..out.len() {
        out[at] ^= out[start + 4 + at - masked_from];
    }
    out.extend_from_slice(&DATA.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stun_types::message::{
        Message, MessageWrite, MessageWriteExt, MessageWriteVec, TransactionId,
    };
    use turn_types::attribute::{Data, XorPeerAddress};

    use super::*;

    fn address(v6: bool, ip: u128, port: u16) -> SocketAddr {
        if v6 {
            (std::net::Ipv6Addr::from_bits(ip), port).into()
        } else {
            (std::net::Ipv4Addr::from_bits(ip as u32), port).into()
        }
    }

    proptest! {
        #[test]
        fn a_send_indication_of_the_library_is_read(
            v6 in any::<bool>(), ip in any::<u128>(), port in any::<u16>(), id in any::<u128>(),
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let peer = address(v6, ip, port);
            let kind = stun_types::message::MessageType::from_class_method(
                stun_types::message::MessageClass::Indication, turn_types::message::SEND);
            let id = TransactionId::from(id);
            let mut message = Message::builder(kind, id, MessageWriteVec::new());
            message.add_attribute(&XorPeerAddress::new(peer, id)).unwrap();
            message.add_attribute(&Data::new(&payload)).unwrap();
            let bytes = message.finish();
            let (found, range) = parse_send(&bytes).unwrap();
            prop_assert_eq!(found, peer);
            prop_assert_eq!(&bytes[range], &payload[..]);
            for cut in 0..bytes.len() {
                prop_assert_eq!(parse_send(&bytes[..cut]), None);
            }
        }

        #[test]
        fn a_data_indication_is_read_by_the_library(
            v6 in any::<bool>(), ip in any::<u128>(), port in any::<u16>(),
            payload in prop::collection::vec(any::<u8>(), 0..200), stream in any::<bool>(),
        ) {
            let peer = address(v6, ip, port);
            let mut bytes = Vec::new();
            ClientHeader::Indication(peer).write(&payload, stream, &mut bytes);
            let message = Message::from_bytes(&bytes).unwrap();
            prop_assert!(message.has_method(turn_types::message::DATA));
            let found = message.attribute::<XorPeerAddress>().unwrap();
            prop_assert_eq!(found.addr(message.transaction_id()), peer);
            let data = message.attribute::<Data>().unwrap();
            prop_assert_eq!(data.data(), &payload[..]);
        }

        #[test]
        fn any_bytes_after_the_type_are_survived(
            rest in prop::collection::vec(any::<u8>(), 0..100), flips in any::<[u8; 8]>(),
        ) {
            let mut bytes = [&SEND_INDICATION[..], &rest].concat();
            parse_send(&bytes);
            if bytes.len() >= 20 {
                let length = (bytes.len() - 20) as u16;
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                bytes[4..8].copy_from_slice(&MAGIC_COOKIE);
                parse_send(&bytes);
                for flip in flips {
                    let at = usize::from(flip) % bytes.len();
                    bytes[at] ^= 1 << (flip % 8);
                    parse_send(&bytes);
                }
            }
        }
    }
}
