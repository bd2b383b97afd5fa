//! One IP packet: who to whom, how many bytes, and what it is as far as the outside shows (RFC 9443
//! for UDP on one port, RFC 8489 and 8656 for STUN and TURN, TLS record headers for TCP).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde::Serialize;

use super::tls::{Record, Stream};

/// Connections whose records are followed at most; the oldest address goes first.
const STREAMS_MAX: usize = 4096;

/// What carries the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Streams.
    Tcp,
    /// Anything else, ICMP for instance.
    Other,
}

impl Transport {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Other => "ICMP",
        }
    }
}

/// One packet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Packet {
    /// Seconds since the capture began.
    pub at_s: f64,
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// Sent by the host that is watched.
    pub outgoing: bool,
    /// What carries the payload.
    pub transport: Transport,
    /// Bytes of the IP packet.
    pub bytes: usize,
    /// Bytes of payload above UDP or TCP.
    pub payload: usize,
    /// Messages that begin in it: a datagram is one, a TLS record is one, an acknowledgement none.
    pub messages: usize,
    /// What it is, in words.
    pub kind: &'static str,
}

impl Packet {
    /// The other side of the watched host.
    pub fn peer(&self) -> SocketAddr {
        if self.outgoing { self.to } else { self.from }
    }

    /// Voice: RTP, alone or in a relay's channel.
    pub fn is_voice(&self) -> bool {
        matches!(self.kind, "RTP" | "RTP in TURN channel" | VOICE_OVER_TCP)
    }

    /// An attempt to open a TCP connection.
    pub fn is_tcp_open(&self) -> bool {
        self.kind == "TCP SYN"
    }
}

/// Kind of a TCP packet that must be voice by its rhythm.
pub(super) const VOICE_OVER_TCP: &str = "voice over TCP";

/// What is known of every TCP connection's directions.
pub(super) type Streams = BTreeMap<(SocketAddr, SocketAddr), Stream>;

/// Parses an IP packet; none for what is no IP.
pub(super) fn parse(bytes: &[u8], streams: &mut Streams) -> Option<Packet> {
    let (protocol, from, to, rest) = match bytes.first()? >> 4 {
        4 => ipv4(bytes)?,
        6 => ipv6(bytes)?,
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    let mut packet = Packet {
        at_s: 0.0,
        from: SocketAddr::new(from, 0),
        to: SocketAddr::new(to, 0),
        outgoing: false,
        transport: Transport::Other,
        bytes: bytes.len(),
        payload: rest.len(),
        messages: 1,
        kind: "ICMP",
    };
    match protocol {
        17 => {
            packet.from.set_port(port(0)?);
            packet.to.set_port(port(2)?);
            let payload = rest.get(8..)?;
            packet.transport = Transport::Udp;
            packet.payload = payload.len();
            packet.kind = datagram(payload);
        }
        6 => {
            packet.from.set_port(port(0)?);
            packet.to.set_port(port(2)?);
            packet.transport = Transport::Tcp;
            segment(&mut packet, rest, streams)?;
        }
        _ => {}
    }
    Some(packet)
}

fn ipv4(bytes: &[u8]) -> Option<(u8, IpAddr, IpAddr, &[u8])> {
    let header = usize::from(bytes[0] & 15) * 4;
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    let length = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
    let end = length.min(bytes.len());
    Some((*bytes.get(9)?, address(12)?, address(16)?, bytes.get(header..end)?))
}

fn ipv6(bytes: &[u8]) -> Option<(u8, IpAddr, IpAddr, &[u8])> {
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    Some((*bytes.get(6)?, address(8)?, address(24)?, bytes.get(40..)?))
}

fn segment(packet: &mut Packet, rest: &[u8], streams: &mut Streams) -> Option<()> {
    let header = usize::from(rest.get(12)? >> 4) * 4;
    let flags = *rest.get(13)?;
    let payload = rest.get(header..)?;
    packet.payload = payload.len();
    packet.messages = 0;
    let is = |bit: u8| flags & bit != 0;
    packet.kind = match (is(2), is(4), is(1), is(16)) {
        (true, _, _, false) => "TCP SYN",
        (true, ..) => "TCP SYN ACK",
        (_, true, ..) => "TCP RST",
        (_, _, true, _) => "TCP FIN",
        _ => "TCP ACK",
    };
    let flow = (packet.from, packet.to);
    if is(2) {
        streams.remove(&flow);
    }
    if payload.is_empty() {
        return Some(());
    }
    if streams.len() >= STREAMS_MAX {
        streams.pop_first();
    }
    let sequence = u32::from_be_bytes(rest.get(4..8)?.try_into().ok()?);
    let stream = streams.entry(flow).or_default();
    let Some(records) = stream.take(sequence, payload) else {
        packet.kind = "TCP retransmission";
        return Some(());
    };
    packet.messages = records.len();
    packet.kind = match records.first() {
        Some(Record::ClientHello) => "TLS ClientHello",
        Some(Record::ServerHello) => "TLS ServerHello",
        Some(Record::Handshake) => "TLS handshake",
        Some(Record::ChangeCipherSpec) => "TLS handshake end",
        Some(Record::Alert) => "TLS alert",
        Some(Record::Data) => "TLS data",
        None if stream.is_foreign() => "TCP data",
        None => "TLS continued",
    };
    if stream.is_foreign() {
        packet.messages = 1;
    }
    Some(())
}

/// What a datagram is, by its first bytes (RFC 9443 and Cooee's own 0xC0).
fn datagram(payload: &[u8]) -> &'static str {
    let Some(first) = payload.first() else { return "empty UDP" };
    match first {
        0..=3 if payload.len() >= 20 => stun(u16::from_be_bytes([payload[0], payload[1]])),
        20..=63 => "DTLS",
        64..=79 => match payload.get(4) {
            Some(0..=3) => "STUN in TURN channel",
            Some(20..=63) => "DTLS in TURN channel",
            Some(128..=191) if is_rtcp(&payload[4..]) => "RTCP in TURN channel",
            Some(128..=191) => "RTP in TURN channel",
            _ => "TURN channel",
        },
        128..=191 if is_rtcp(payload) => "RTCP",
        128..=191 => "RTP",
        192 => "sealed datagram",
        _ => "UDP",
    }
}

/// RFC 5761 section 4.
fn is_rtcp(payload: &[u8]) -> bool {
    payload.get(1).is_some_and(|kind| (192..=223).contains(kind))
}

fn stun(kind: u16) -> &'static str {
    match kind {
        0x0001 => "STUN Binding request",
        0x0011 => "STUN Binding indication",
        0x0101 => "STUN Binding answer",
        0x0111 => "STUN Binding error",
        0x0003 => "TURN Allocate request",
        0x0103 => "TURN Allocate answer",
        0x0113 => "TURN Allocate challenge",
        0x0004 => "TURN Refresh request",
        0x0104 => "TURN Refresh answer",
        0x0008 => "TURN CreatePermission request",
        0x0108 => "TURN CreatePermission answer",
        0x0009 => "TURN ChannelBind request",
        0x0109 => "TURN ChannelBind answer",
        0x0016 => "TURN Send indication",
        0x0017 => "TURN Data indication",
        _ => "STUN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(28 + payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0];
        bytes.extend([198, 18, 1, 2, 198, 18, 2, 2]);
        bytes.extend([0x12, 0x34, 0, 80, 0, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn datagrams_are_told_apart_by_their_first_bytes() {
        let mut binding = [0; 20];
        binding[1] = 1;
        for (payload, kind) in [
            (&binding[..], "STUN Binding request"),
            (&[22, 254, 253][..], "DTLS"),
            (&[0x80, 111, 0][..], "RTP"),
            (&[0x80, 200, 0][..], "RTCP"),
            (&[0x40, 0, 0, 3, 0x80, 111, 0][..], "RTP in TURN channel"),
            (&[0xc0, 1][..], "sealed datagram"),
        ] {
            let packet = parse(&udp(payload), &mut Streams::new()).unwrap();
            assert_eq!((packet.kind, packet.payload), (kind, payload.len()));
            assert_eq!(packet.from.to_string(), "198.18.1.2:4660");
            assert_eq!((packet.bytes, packet.messages), (28 + payload.len(), 1));
        }
    }

    #[test]
    fn damaged_packets_are_no_packets() {
        let whole = udp(&[1, 2, 3]);
        for length in 0..20 {
            assert_eq!(parse(&whole[..length], &mut Streams::new()), None, "{length}");
        }
        assert_eq!(parse(&[0x10; 40], &mut Streams::new()), None);
    }
}
