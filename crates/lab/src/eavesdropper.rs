//! Everything that passes a namespace, as somebody on the path sees it: a raw packet socket, the
//! packets' payloads, and a search for words in every common writing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::packet_socket::PacketSocket;
use anyhow::{Result, anyhow};

/// Most that is kept in memory; a longer capture fails.
const CAPTURE_BYTES_MAX: usize = 256 << 20;
/// `PACKET_OUTGOING` of packet(7): a forwarded packet is seen coming and going; once is enough.
const OUTGOING: u8 = 4;

/// How a packet's payload travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// A segment and its sequence number.
    Tcp(u32),
    /// A datagram.
    Udp,
}

/// One IPv4 packet with a payload.
#[derive(Debug, Clone)]
pub struct Packet {
    /// When it was read.
    pub at: Instant,
    /// Where it came from.
    pub from: SocketAddr,
    /// Where it went.
    pub to: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What it carried.
    pub payload: Vec<u8>,
}

/// A capture that goes on.
pub struct Capture {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Result<Vec<Packet>>>,
}

impl Capture {
    /// Starts to read everything that leaves a namespace by any interface.
    pub fn start(namespace: &str) -> Result<Self> {
        let socket = PacketSocket::open(namespace)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let reader = thread::Builder::new()
            .name("capture".into())
            .spawn(move || read_all(socket, &stopped))?;
        Ok(Self { stop, reader })
    }

    /// What passed until now.
    pub fn finish(self) -> Result<Vec<Packet>> {
        thread::sleep(Duration::from_millis(200));
        self.stop.store(true, Ordering::Relaxed);
        self.reader.join().map_err(|_| anyhow!("the capturing thread panicked"))?
    }
}

fn read_all(mut socket: PacketSocket, stopped: &AtomicBool) -> Result<Vec<Packet>> {
    let mut packets = Vec::new();
    let mut bytes = 0;
    loop {
        let Some((packet, from)) = socket.read()? else {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            continue;
        };
        if from.pkttype() != OUTGOING {
            continue;
        }
        if let Some(packet) = parse(Instant::now(), packet) {
            bytes += packet.payload.len();
            anyhow::ensure!(bytes < CAPTURE_BYTES_MAX, "too much traffic to keep");
            packets.push(packet);
        }
    }
    Ok(packets)
}

/// Reads IPv4 with TCP or UDP (RFC 791, 9293, 768); anything else, and what is empty, is left out.
/// A later fragment counts as a datagram from and to port 0, so that nothing goes unsearched.
fn parse(at: Instant, bytes: &[u8]) -> Option<Packet> {
    let first = *bytes.first()?;
    let header = usize::from(first & 15) * 4;
    if first >> 4 != 4 || bytes.len() < header.max(20) {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    // 0 with segments joined above 64 KiB.
    let end = if total == 0 { bytes.len() } else { total.min(bytes.len()) };
    let ip = |at: usize| {
        IpAddr::from(Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]))
    };
    let body = bytes.get(header..end)?;
    let is_later_fragment = u16::from_be_bytes([bytes[6], bytes[7]]) & 0x1FFF != 0;
    let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let (protocol, ports, skip) = match bytes[9] {
        _ if is_later_fragment => (Protocol::Udp, (0, 0), 0),
        6 => {
            let sequence = u32::from_be_bytes(body.get(4..8)?.try_into().ok()?);
            let skip = usize::from(*body.get(12)? >> 4) * 4;
            (Protocol::Tcp(sequence), (port(0)?, port(2)?), skip)
        }
        17 => (Protocol::Udp, (port(0)?, port(2)?), 8),
        _ => return None,
    };
    let payload = body.get(skip..)?.to_vec();
    let (from, to) = (SocketAddr::new(ip(12), ports.0), SocketAddr::new(ip(16), ports.1));
    (!payload.is_empty()).then_some(Packet { at, from, to, protocol, payload })
}

/// What one side of a connection said, put together.
#[derive(Debug)]
pub struct Flow {
    /// Where it came from.
    pub from: SocketAddr,
    /// Where it went.
    pub to: SocketAddr,
    /// The payloads in order, repeated segments once.
    pub bytes: Vec<u8>,
}

/// Puts packets together into flows, one for each direction of a connection.
pub fn flows(packets: &[Packet]) -> Vec<Flow> {
    let mut order = BTreeMap::<_, BTreeMap<u64, &[u8]>>::new();
    for (index, packet) in packets.iter().enumerate() {
        let (is_tcp, place) = match packet.protocol {
            Protocol::Tcp(sequence) => (true, u64::from(sequence)),
            Protocol::Udp => (false, index as u64),
        };
        let flow = order.entry((packet.from, packet.to, is_tcp)).or_default();
        let longest = flow.entry(place).or_default();
        if packet.payload.len() > longest.len() {
            *longest = &packet.payload;
        }
    }
    let join = |parts: BTreeMap<u64, &[u8]>| parts.into_values().flatten().copied().collect();
    order.into_iter().map(|((from, to, _), parts)| Flow { from, to, bytes: join(parts) }).collect()
}

/// In which writing and flow something was found.
#[derive(Debug)]
pub struct Sighting {
    /// What was looked for.
    pub what: String,
    /// How it was written.
    pub writing: &'static str,
    /// Where it came from.
    pub from: SocketAddr,
    /// Where it went.
    pub to: SocketAddr,
}

/// Looks for bytes in flows as they are (letters in either case), as UTF-16, hexadecimal and
/// Base64 at each of its three alignments.
pub fn find(flows: &[Flow], what: &str, bytes: &[u8]) -> Vec<Sighting> {
    let mut writings = vec![
        ("as it is", bytes.to_vec()),
        ("UTF-16", bytes.iter().flat_map(|byte| [*byte, 0]).collect()),
        ("hexadecimal", bytes.iter().flat_map(|b| format!("{b:02x}").into_bytes()).collect()),
    ];
    for skip in 0..3 {
        // Whole groups only: what comes before and after changes the letters at both ends.
        let inner = bytes.get(skip..).unwrap_or_default();
        writings.push(("Base64", base64(&inner[..inner.len() / 3 * 3])));
    }
    let mut seen = Vec::new();
    for flow in flows {
        for (writing, needle) in &writings {
            if needle.len() >= 4 && contains(&flow.bytes, needle) {
                let what = what.to_owned();
                seen.push(Sighting { what, writing, from: flow.from, to: flow.to });
            }
        }
    }
    seen
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let first = [needle[0].to_ascii_lowercase(), needle[0].to_ascii_uppercase()];
    let starts = hay.len().checked_sub(needle.len()).map_or(0, |last| last + 1);
    (0..starts).any(|at| {
        first.contains(&hay[at]) && hay[at..at + needle.len()].eq_ignore_ascii_case(needle)
    })
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let bits = u32::from_be_bytes([0, chunk[0], chunk[1], chunk[2]]);
        [18, 12, 6, 0].map(|shift| LETTERS[(bits >> shift & 63) as usize])
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u32, payload: &[u8]) -> Packet {
        Packet {
            at: Instant::now(),
            from: "192.0.2.1:5".parse().unwrap(),
            to: "192.0.2.2:6".parse().unwrap(),
            protocol: Protocol::Tcp(sequence),
            payload: payload.to_vec(),
        }
    }

    #[test]
    fn a_word_is_found_across_segments_and_writings() {
        for written in ["xxwILHELMINAxx", "57696c68656c6d696e61", "AFdpbGhlbG1pbmE="] {
            let (one, other) = written.as_bytes().split_at(9);
            let packets = [packet(109, other), packet(100, one), packet(109, other)];
            assert!(!find(&flows(&packets), "name", b"Wilhelmina").is_empty(), "{written}");
            assert!(find(&flows(&packets[1..2]), "name", b"Wilhelmina").is_empty());
        }
    }

    #[test]
    fn udp_and_tcp_are_read_and_the_rest_is_not() {
        let mut udp = vec![0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        udp.extend([0, 5, 0, 6, 0, 11, 0, 0, b'a', b'b', b'c']);
        let read = parse(Instant::now(), &udp).unwrap();
        assert_eq!((read.to.to_string().as_str(), &read.payload[..]), ("192.0.2.2:6", &b"abc"[..]));
        for length in 0..udp.len() {
            assert!(parse(Instant::now(), &udp[..length]).is_none_or(|p| p.payload.len() < 3));
        }
        udp[9] = 1;
        assert!(parse(Instant::now(), &udp).is_none());
    }
}
