//! STUN Binding and the server's part of behaviour discovery (RFC 8489, RFC 5780).
//!
//! A super node has one address and two ports. An answer "from another port" leaves from its
//! alternate port; one "from another address" is sent by its partner, another super node, which is
//! asked over the control connection: only a certified super node can make it send, and only this
//! one small message.

use std::net::{IpAddr, SocketAddr};

use stun_types::{
    attribute::{Attribute, AttributeType, MappedSocketAddr, RawAttribute, XorMappedAddress},
    message::{
        BINDING, Message, MessageClass, MessageType, MessageWrite, MessageWriteExt,
        MessageWriteVec, TransactionId,
    },
};

use super::{ClientId, RelayOutput, RelayServer, response::Response};
use crate::{clock::Now, datagram::TransactionBytes};

/// CHANGE-REQUEST (RFC 5780 section 7.2).
pub const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
/// RESPONSE-ORIGIN (RFC 5780 section 7.3).
pub const RESPONSE_ORIGIN: AttributeType = AttributeType::new(0x802B);
/// OTHER-ADDRESS (RFC 5780 section 7.4): here the partner's address.
pub const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802C);
/// Ours, comprehension optional: empty in a request, the server's alternate port in a response.
pub const ALTERNATE_PORT: AttributeType = AttributeType::new(0xC0EE);

const PADDING: AttributeType = AttributeType::new(0x0026);
const CHANGE_IP: u32 = 4;
const CHANGE_PORT: u32 = 2;
/// Attributes that a connectivity check or an old client may carry; they change nothing here.
const IGNORED: [u16; 7] = [0x0006, 0x0008, 0x001C, 0x0014, 0x0015, 0x0024, 0x0025];

/// What a Binding request asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindingRequestOptions {
    /// Answer from another address.
    pub change_ip: bool,
    /// Answer from another port.
    pub change_port: bool,
    /// Tell the alternate port.
    pub alternate_port: bool,
}

/// Value of CHANGE-REQUEST.
pub fn change_request_value(options: BindingRequestOptions) -> [u8; 4] {
    let flag = |set, bit| if set { bit } else { 0 };
    (flag(options.change_ip, CHANGE_IP) | flag(options.change_port, CHANGE_PORT)).to_be_bytes()
}

/// OTHER-ADDRESS of a response.
pub fn other_address(message: &Message<'_>) -> Option<SocketAddr> {
    let raw = message.raw_attribute(OTHER_ADDRESS)?;
    MappedSocketAddr::from_raw(&raw).ok().map(|address| address.addr())
}

/// The response that a partner sends for the super node that asked it.
pub fn partner_response(mapped: SocketAddr, transaction: TransactionBytes) -> Vec<u8> {
    let mut id = [0; 16];
    id[4..].copy_from_slice(&transaction);
    let id = TransactionId::from(u128::from_be_bytes(id));
    let kind = MessageType::from_class_method(MessageClass::Success, BINDING);
    let mut message = Message::builder(kind, id, MessageWriteVec::new());
    let added = message.add_attribute(&XorMappedAddress::new(mapped, id));
    debug_assert!(added.is_ok(), "one attribute fits an empty message");
    message.finish()
}

impl RelayServer {
    pub(super) fn handle_binding(
        &mut self,
        now: Now,
        client: ClientId,
        local_ip: Option<IpAddr>,
        message: &Message<'_>,
    ) {
        if !self.may_reply(now.instant, &client) {
            return;
        }
        self.counts.bindings += 1;
        let options = parse_options(message);
        let unknown = self.unknown_attribute(message, options, client.is_stream());
        let transmit = |bytes| RelayOutput::Transmit { client, local_ip, bytes };
        if let Some(kind) = unknown {
            let unknown = stun_types::attribute::UnknownAttributes::new(&[kind]);
            let response = Response::error(message, 420).with(&unknown).finish(None);
            self.emit(transmit(response));
            return;
        }
        let mapped = client.remote();
        if options.change_ip {
            let transaction = transaction_bytes(message);
            let change_port = options.change_port;
            self.emit(RelayOutput::AskPartner { mapped, transaction, change_port });
            return;
        }
        let mut response = Response::success(message).with_mapped(message, mapped);
        let partner = self.config.partner.map(MappedSocketAddr::new);
        let other = partner.as_ref().map(|partner| partner.to_raw(OTHER_ADDRESS));
        if let Some(other) = &other {
            response = response.with(other);
        }
        if let (true, Some(port)) = (options.alternate_port, self.config.alternate_port) {
            response = response.with(&RawAttribute::new(ALTERNATE_PORT, &port.to_be_bytes()));
        }
        let bytes = response.finish(None);
        if options.change_port {
            self.emit(RelayOutput::TransmitAlternate { remote: mapped, bytes });
        } else {
            self.emit(transmit(bytes));
        }
    }

    /// The first attribute that we must understand and cannot act on (RFC 8489 section 6.3.1).
    fn unknown_attribute(
        &self,
        message: &Message<'_>,
        options: BindingRequestOptions,
        stream: bool,
    ) -> Option<AttributeType> {
        let cannot_change = options.change_ip && self.config.partner.is_none()
            || options.change_port && self.config.alternate_port.is_none()
            || (options.change_ip || options.change_port) && stream;
        message.iter_attributes().map(|(_, attribute)| attribute.get_type()).find(|kind| {
            kind.comprehension_required()
                && *kind != PADDING
                && !IGNORED.contains(&kind.value())
                && (*kind != CHANGE_REQUEST || cannot_change)
        })
    }
}

fn parse_options(message: &Message<'_>) -> BindingRequestOptions {
    let change = message.raw_attribute(CHANGE_REQUEST);
    let flags = change.and_then(|raw| raw.value.first_chunk::<4>().copied());
    let flags = u32::from_be_bytes(flags.unwrap_or_default());
    BindingRequestOptions {
        change_ip: flags & CHANGE_IP != 0,
        change_port: flags & CHANGE_PORT != 0,
        alternate_port: message.has_attribute(ALTERNATE_PORT),
    }
}

fn transaction_bytes(message: &Message<'_>) -> TransactionBytes {
    let id = u128::from(message.transaction_id()).to_be_bytes();
    std::array::from_fn(|at| id[4 + at])
}
