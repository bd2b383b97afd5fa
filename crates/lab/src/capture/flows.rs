//! Sums over packets: who exchanged how many messages and bytes with whom, by protocol.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;

use super::{Packet, Transport, packet::VOICE_OVER_TCP};
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

/// Marks voice that goes over TCP, where nothing but its rhythm shows it: data packets from
/// `from_s` on of every connection that then carries at least [`VOICE_RATE_MIN`] messages a second
/// each way; and before, as long as the same rhythm goes back (a path is tried with silent packets
/// while it rings).
pub fn mark_voice_over_tcp(packets: &mut [Packet], from_s: f64, to_s: f64) {
    let is_data = |packet: &Packet| {
        packet.transport == Transport::Tcp
            && packet.messages > 0
            && (from_s..to_s).contains(&packet.at_s)
    };
    let mut counts: BTreeMap<(SocketAddr, SocketAddr), [f64; 2]> = BTreeMap::new();
    for packet in packets.iter().filter(|packet| is_data(packet)) {
        let (own, peer) = ends(packet);
        counts.entry((own, peer)).or_default()[usize::from(packet.outgoing)] +=
            packet.messages as f64;
    }
    let least = VOICE_RATE_MIN * (to_s - from_s);
    counts.retain(|_, [one, other]| one.min(*other) >= least);
    for connection in counts.keys() {
        for outgoing in [false, true] {
            let begin_s = beginning(packets, connection, outgoing, from_s);
            for packet in packets.iter_mut() {
                let is_one = packet.transport == Transport::Tcp
                    && packet.payload > 0
                    && packet.at_s >= begin_s
                    && (packet.outgoing == outgoing || packet.at_s >= from_s);
                if is_one && ends(packet) == *connection {
                    packet.kind = VOICE_OVER_TCP;
                }
            }
        }
    }
}

/// How far back from `from_s` the messages of one direction follow each other as voice does.
fn beginning(
    packets: &[Packet],
    connection: &(SocketAddr, SocketAddr),
    outgoing: bool,
    from_s: f64,
) -> f64 {
    let mut begin_s = from_s;
    loop {
        let step = (begin_s - RHYTHM_S)..begin_s;
        let messages: usize = packets
            .iter()
            .filter(|p| p.transport == Transport::Tcp && p.outgoing == outgoing)
            .filter(|p| step.contains(&p.at_s) && ends(p) == *connection)
            .map(|p| p.messages)
            .sum();
        if begin_s <= 0.0 || (messages as f64) < RHYTHM_MIN * RHYTHM_S {
            return begin_s;
        }
        begin_s -= RHYTHM_S;
    }
}

/// Steps in which the rhythm is looked for, in s, and messages a second that make it: voice of
/// which no loss is known comes in packets of 20 ms at most, and a path's checks more rarely.
const RHYTHM_S: f64 = 0.2;
const RHYTHM_MIN: f64 = 30.0;

/// Messages a second from which a connection counts as voice: frames are 120 ms at most.
const VOICE_RATE_MIN: f64 = 5.0;

/// The watched host's end and the other.
fn ends(packet: &Packet) -> (SocketAddr, SocketAddr) {
    if packet.outgoing { (packet.from, packet.to) } else { (packet.to, packet.from) }
}

/// All packets as one count for each direction: sent, received.
pub fn totals(packets: &[Packet]) -> [Count; 2] {
    let mut totals = [Count::default(); 2];
    for packet in packets {
        totals[usize::from(!packet.outgoing)].add(packet);
    }
    totals
}
