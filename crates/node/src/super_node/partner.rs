//! Answers of one super node for another (RFC 5780): only a packet from an address that a client
//! never sent to tells whether its NAT filters by address. One super node has one address, so two
//! help each other over their link.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use cooee_proto::{
    control::{addresses_from_wire, addresses_to_wire},
    identity::NodeId,
    wire::v1::{PartnerBinding, control_message::Kind},
};

use super::SuperNode;
use crate::relay::PartnerRequest;

/// Sends such an answer; owned by the relay.
pub type PartnerAnswer = Arc<dyn Fn(PartnerRequest) + Send + Sync>;

impl SuperNode {
    /// Whether it takes leave.
    pub fn is_draining(&self) -> bool {
        self.0.is_draining()
    }

    /// A linked super node that listens at another address of the same family than `own`.
    pub fn partner(&self, own: SocketAddr) -> Option<(NodeId, SocketAddr)> {
        let fits = |(_, address): &(NodeId, SocketAddr)| {
            address.is_ipv4() == own.is_ipv4() && address.ip() != own.ip()
        };
        self.0.links.linked_at().into_iter().find(fits)
    }

    /// Asks a partner to answer; what cannot be said now is lost, and the client asks again.
    pub fn ask_partner(&self, partner: NodeId, request: PartnerRequest) {
        if let Some(channel) = self.0.links.channel(partner) {
            let binding = PartnerBinding {
                mapped: addresses_to_wire([request.mapped]).into_iter().next(),
                transaction: Bytes::copy_from_slice(&request.transaction),
                change_port: request.change_port,
            };
            let _ = channel.try_send(Kind::PartnerBinding(binding));
        }
    }
}

/// What a linked super node asks for, if it makes sense.
pub(super) fn request_from_wire(binding: PartnerBinding) -> Option<PartnerRequest> {
    let mapped: Vec<_> = binding.mapped.into_iter().collect();
    Some(PartnerRequest {
        mapped: addresses_from_wire(&mapped).into_iter().next()?,
        transaction: binding.transaction.as_ref().try_into().ok()?,
        change_port: binding.change_port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_not_answered() {
        let good = PartnerBinding {
            mapped: addresses_to_wire(["198.51.100.7:4000".parse().expect("legal")]).pop(),
            transaction: Bytes::from_static(&[7; 12]),
            change_port: true,
        };
        let read = request_from_wire(good.clone()).expect("whole");
        assert_eq!((read.mapped.port(), read.transaction, read.change_port), (4000, [7; 12], true));
        let short = Bytes::from_static(&[7; 11]);
        assert!(request_from_wire(PartnerBinding { transaction: short, ..good.clone() }).is_none());
        assert!(request_from_wire(PartnerBinding { mapped: None, ..good }).is_none());
    }
}
