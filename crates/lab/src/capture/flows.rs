//! Sums over packets: who exchanged how many messages and bytes with whom, by protocol.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use super::{Packet, Transport};
use crate::network::Network;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// IP packets, acknowledgements and handshakes of TCP among them.
    pub packets: usize,
    /// Messages: datagrams and TLS records.
    pub messages: usize,
    /// Bytes of payload: what the paper counts.
    pub payload: usize,
    /// Bytes of the IP packets.
    pub bytes: usize,
}

impl Count {
    fn add(&mut self, packet: &Packet) {
        self.packets += 1;
        self.messages += packet.messages;
        self.payload += payload(packet);
        self.bytes += packet.bytes;
    }
}

/// What a packet carries above UDP or TCP.
fn payload(packet: &Packet) -> usize {
    if packet.transport == Transport::Other { 0 } else { packet.payload }
}

/// What the watched host exchanged with one machine over one transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Name of the other machine.
    pub peer: String,
    /// Over what.
    pub transport: Transport,
    /// From the watched host.
    pub sent: Count,
    /// To it.
    pub received: Count,
}

/// Names of addresses.
#[derive(Debug, Clone, Default)]
pub struct Names(BTreeMap<IpAddr, String>);

impl Names {
    /// The names of these places of a network; a gateway's address bears the name given with it.
    pub fn of(network: &Network, places: &[(&str, &str)]) -> Self {
        let mut names = BTreeMap::new();
        for (place, name) in places {
            let addresses =
                [network.ipv4(place).map(IpAddr::from), network.ipv6(place).map(IpAddr::from)];
            for address in addresses.into_iter().flatten() {
                names.insert(address, (*name).to_owned());
            }
        }
        Self(names)
    }

    /// The name of an address, or the address itself.
    pub fn name(&self, ip: IpAddr) -> String {
        self.0.get(&ip).cloned().unwrap_or_else(|| ip.to_string())
    }
}

/// Sums packets up by the other machine and transport, TCP first.
pub fn flows(packets: &[Packet], names: &Names) -> Vec<Flow> {
    let mut flows: BTreeMap<(String, Transport), [Count; 2]> = BTreeMap::new();
    for packet in packets {
        let key = (names.name(packet.peer().ip()), packet.transport);
        flows.entry(key).or_default()[usize::from(!packet.outgoing)].add(packet);
    }
    flows
        .into_iter()
        .map(|((peer, transport), [sent, received])| Flow { peer, transport, sent, received })
        .collect()
}

/// All packets as one count for each direction: sent, received.
pub fn totals(packets: &[Packet]) -> [Count; 2] {
    let mut totals = [Count::default(); 2];
    for packet in packets {
        totals[usize::from(!packet.outgoing)].add(packet);
    }
    totals
}
