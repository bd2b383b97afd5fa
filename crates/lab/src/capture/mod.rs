//! What passes a host's interface, packet by packet: the laboratory's Ethereal.
//!
//! A packet socket in the host's namespace sees every IP packet of the interface towards the core,
//! both ways, after the namespace's own rules; a firewall further out does not hide what a host
//! tries to send. Packets are read by a thread of their own, parsed ([`packet`]) and kept; what
//! counts and sums is in [`flows`].

pub mod flows;
pub mod packet;
mod tls;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::{
        socket::{
            AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt,
            socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

pub use flows::{Flow, flows};
pub use packet::{Packet, Transport};

use crate::{
    network::{Network, inside},
    topology::plan::OUTSIDE,
};

/// Most packets that are kept: an hour of a call. What comes after is counted, not kept.
const PACKETS_MAX: usize = 1_000_000;

/// Socket buffer: a second of 100 Mbit/s.
const BUFFER_BYTES: usize = 12_500_000;

/// How often the thread looks whether it shall end, in ms.
const LOOK_MS: i64 = 20;

/// Longest packet: TCP offloading may hand over several segments as one.
const PACKET_BYTES_MAX: usize = 65_536;

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
        let (fd, interface) = inside(&network.namespace(host), open)
            .with_context(|| format!("cannot listen at the interface of {host}"))?;
        let start = Instant::now();
        let packets = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = Reader { fd, interface, own, start, packets: packets.clone() };
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

/// A packet socket in this thread's namespace, and the interface to listen at.
fn open() -> Result<(OwnedFd, usize)> {
    let fd = socket(
        AddressFamily::Packet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("no packet socket: the laboratory needs its own network namespace")?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK_MS))?;
    // Root may exceed the limit; without the privilege the kernel's own size has to do.
    let _ = setsockopt(&fd, sockopt::RcvBufForce, &BUFFER_BYTES);
    let interface = if_nametoindex(OUTSIDE)?;
    Ok((fd, usize::try_from(interface)?))
}

struct Reader {
    fd: OwnedFd,
    interface: usize,
    own: Vec<IpAddr>,
    start: Instant,
    packets: Arc<Mutex<Vec<Packet>>>,
}

impl Reader {
    fn run(self, stop: &AtomicBool) {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let mut streams = BTreeMap::new();
        while !stop.load(Ordering::Relaxed) {
            let (length, from) = match recvfrom::<LinkAddr>(self.fd.as_raw_fd(), &mut buffer) {
                Ok(got) => got,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "the capture ends");
                    return;
                }
            };
            if from.is_none_or(|from| from.ifindex() != self.interface) {
                continue;
            }
            let at_s = self.start.elapsed().as_secs_f64();
            let Some(mut packet) = packet::parse(&buffer[..length], &mut streams) else { continue };
            packet.at_s = at_s;
            packet.outgoing = self.own.contains(&packet.from.ip());
            let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
            if packets.len() < PACKETS_MAX {
                packets.push(packet);
            }
        }
    }
}
