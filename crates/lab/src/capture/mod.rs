//! What passes a host's interface, packet by packet: the laboratory's Ethereal.
//!
//! A packet socket in the host's namespace sees every IP packet of the interface towards the core,
//! both ways, after the namespace's own rules; a firewall further out does not hide what a host
//! tries to send. Packets are read by a thread of their own, parsed ([`packet`]) and kept; what
//! counts and sums is in [`flows`]; voice over TCP is told by its rhythm ([`rhythm`]).

pub mod flows;
pub mod packet;
pub mod rhythm;
mod tls;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

pub use flows::{Flow, flows};
pub use packet::{Packet, Transport};

use crate::{
    namespace::inside, network::Network, packet_socket::PacketSocket, topology::plan::OUTSIDE,
};

/// Most packets that are kept: an hour of a call. What comes after is counted, not kept.
const PACKETS_MAX: usize = 1_000_000;

/// A capture that runs; ends when dropped.
#[derive(Debug)]
pub struct Capture {
    start: Instant,
    packets: Arc<Mutex<Vec<Packet>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts to listen at a host's interface towards the core.
    pub fn start(network: &Network, host: &str) -> Result<Self> {
        let own: Vec<IpAddr> =
            [network.ipv4(host).map(IpAddr::from), network.ipv6(host).map(IpAddr::from)]
                .into_iter()
                .flatten()
                .collect();
        let namespace = network.namespace(host);
        let explain = || format!("cannot listen at the interface of {host}");
        let socket = PacketSocket::open(&namespace).with_context(explain)?;
        let interface =
            inside(&namespace, || Ok(if_nametoindex(OUTSIDE)?)).with_context(explain)?;
        let interface = usize::try_from(interface)?;
        let start = Instant::now();
        let packets = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = Reader { socket, interface, own, start, packets: packets.clone() };
        let told = stop.clone();
        let thread = std::thread::Builder::new()
            .name(format!("captures {host}"))
            .spawn(move || reader.run(&told))?;
        Ok(Self { start, packets, stop, thread: Some(thread) })
    }

    /// Seconds since the start: the clock of the packets.
    pub fn now_s(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// When the packets' clock was zero.
    pub fn started(&self) -> Instant {
        self.start
    }

    /// Every packet so far, in order.
    pub fn packets(&self) -> Vec<Packet> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The packets from one moment to another.
    pub fn between(&self, from_s: f64, to_s: f64) -> Vec<Packet> {
        let mut packets = self.packets();
        packets.retain(|packet| (from_s..to_s).contains(&packet.at_s));
        packets
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Reader {
    socket: PacketSocket,
    interface: usize,
    own: Vec<IpAddr>,
    start: Instant,
    packets: Arc<Mutex<Vec<Packet>>>,
}

impl Reader {
    fn run(mut self, stop: &AtomicBool) {
        let mut streams = BTreeMap::new();
        while !stop.load(Ordering::Relaxed) {
            let (bytes, from) = match self.socket.read() {
                Ok(Some(got)) => got,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(%error, "the capture ends");
                    return;
                }
            };
            if from.ifindex() != self.interface {
                continue;
            }
            let at_s = self.start.elapsed().as_secs_f64();
            let Some(mut packet) = packet::parse(bytes, &mut streams) else { continue };
            packet.at_s = at_s;
            packet.outgoing = self.own.contains(&packet.from.ip());
            let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
            if packets.len() < PACKETS_MAX {
                packets.push(packet);
            }
        }
    }
}
