//! The link emulator: TUN devices on both ends of a wire, and between them the link model that the
//! simulator uses, in real time.
//!
//! ```text
//!   namespace A          emulator thread            namespace B
//!   [TUN] ── read ──▶ Link::offer ▶ heap by time ── write ──▶ [TUN]
//! ```
//!
//! One thread serves all wires of a network. Packets wait in a heap until their time has come;
//! the heap is bounded, and a packet above the bound is dropped and counted.

mod tun;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use cooee_sim::link::{Link, LinkConfig, LinkCounts};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::topology::plan::Wire;

/// Most packets that may be on their way at once. Chosen: two seconds of 100 Mbit/s.
const IN_FLIGHT_MAX: usize = 20_000;

/// Longest sleep, so that the end is noticed.
const NAP: Duration = Duration::from_millis(50);

/// Longest packet that a TUN device hands over.
const PACKET_BYTES_MAX: usize = 65_536;

/// A wire's two directions, to change and to read while it runs.
#[derive(Debug, Clone)]
pub struct LinkHandle {
    /// From the host or gateway towards the core, and back.
    directions: Arc<Mutex<[Link; 2]>>,
}

impl LinkHandle {
    /// Sets both directions.
    pub fn set(&self, config: LinkConfig) {
        self.set_each(config, config);
    }

    /// Sets the direction towards the core and the one back from it.
    pub fn set_each(&self, up: LinkConfig, down: LinkConfig) {
        let mut directions = self.directions.lock().unwrap_or_else(PoisonError::into_inner);
        directions[0].set(up);
        directions[1].set(down);
    }

    /// What both directions did so far, towards the core first.
    pub fn counts(&self) -> [LinkCounts; 2] {
        let directions = self.directions.lock().unwrap_or_else(PoisonError::into_inner);
        [directions[0].counts(), directions[1].counts()]
    }
}

/// The thread that carries the packets; ends when dropped.
#[derive(Debug)]
pub struct Emulator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Makes the TUN devices of `wires` and starts to carry packets between them.
    pub fn start(
        wires: &[&Wire],
        prefix: &str,
        seed: u64,
    ) -> Result<(Self, BTreeMap<String, LinkHandle>)> {
        let mut ports = Vec::new();
        let mut handles = BTreeMap::new();
        for (index, wire) in wires.iter().enumerate() {
            let config = wire.link.unwrap_or_default();
            let seed = seed.wrapping_mul(1_000_003).wrapping_add(2 * index as u64);
            let directions =
                Arc::new(Mutex::new([Link::new(config, seed), Link::new(config, seed + 1)]));
            let inner = tun::open(&format!("{prefix}{}", wire.inner), wire.inner_interface)?;
            let outer = tun::open(&format!("{prefix}{}", wire.outer), &wire.outer_interface)?;
            ports.push(Port { file: inner, directions: directions.clone(), direction: 0 });
            ports.push(Port { file: outer, directions: directions.clone(), direction: 1 });
            handles.insert(wire.inner.clone(), LinkHandle { directions });
        }
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::Builder::new()
            .name("link emulator".to_owned())
            .spawn(move || Carrier::new(ports).run(&told))
            .context("cannot start the link emulator's thread")?;
        Ok((Self { stop, thread: Some(thread) }, handles))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One end of a wire; its other end is the port beside it (index with the last bit flipped).
struct Port {
    file: File,
    directions: Arc<Mutex<[Link; 2]>>,
    direction: usize,
}

/// A packet on its way: due time, order of arrival, port to leave by, bytes.
type InFlight = Reverse<(Instant, u64, usize, Vec<u8>)>;

struct Carrier {
    ports: Vec<Port>,
    in_flight: BinaryHeap<InFlight>,
    carried: u64,
    buffer: Vec<u8>,
}

impl Carrier {
    fn new(ports: Vec<Port>) -> Self {
        Self { ports, in_flight: BinaryHeap::new(), carried: 0, buffer: vec![0; PACKET_BYTES_MAX] }
    }

    fn run(mut self, stop: &AtomicBool) {
        // Wake-ups 50 µs late (the default slack) would add up over a path of several wires.
        let _ = nix::sys::prctl::set_timerslack(1);
        while !stop.load(Ordering::Relaxed) {
            for port in self.wait() {
                self.take_from(port);
            }
            self.deliver_due();
        }
    }

    /// Sleeps until a port can be read or a packet is due; the ports that can be read.
    fn wait(&self) -> Vec<usize> {
        let nap = self.in_flight.peek().map_or(NAP, |Reverse((due, ..))| {
            due.saturating_duration_since(Instant::now()).min(NAP)
        });
        let timeout = Timespec {
            tv_sec: i64::try_from(nap.as_secs()).unwrap_or(0),
            tv_nsec: i64::from(nap.subsec_nanos()),
        };
        let mut watched: Vec<_> = self
            .ports
            .iter()
            .map(|port| PollFd::from_borrowed_fd(port.file.as_fd(), PollFlags::IN))
            .collect();
        match poll(&mut watched, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => tracing::error!(%error, "link emulator cannot wait"),
        }
        let ready = watched.iter().enumerate();
        ready.filter(|(_, fd)| fd.revents().contains(PollFlags::IN)).map(|(port, _)| port).collect()
    }

    /// Offers everything that waits on a port to the link.
    fn take_from(&mut self, port: usize) {
        loop {
            let from = &mut self.ports[port];
            let Ok(length) = from.file.read(&mut self.buffer) else { return };
            let now = Instant::now();
            let mut directions = from.directions.lock().unwrap_or_else(PoisonError::into_inner);
            let arrivals = directions[from.direction].offer(now, length);
            drop(directions);
            for due in [arrivals.first, arrivals.second].into_iter().flatten() {
                if self.in_flight.len() < IN_FLIGHT_MAX {
                    let packet = self.buffer[..length].to_vec();
                    self.in_flight.push(Reverse((due, self.carried, port ^ 1, packet)));
                    self.carried += 1;
                }
            }
        }
    }

    fn deliver_due(&mut self) {
        while let Some(Reverse((due, ..))) = self.in_flight.peek() {
            if *due > Instant::now() {
                return;
            }
            if let Some(Reverse((_, _, port, packet))) = self.in_flight.pop() {
                // An interface that is down refuses the packet: it is lost, as on a real wire.
                let _ = self.ports[port].file.write(&packet);
            }
        }
    }
}
