//! The event queue, the hosts with their machines, and the network between them.
//!
//! Everything that happens is an event at a virtual microsecond; equal times run in the order they
//! were put in. All randomness comes from one seed, so the same seed gives the same trace, of which
//! a running hash is kept.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cooee_proto::{
    clock::{Now, UnixTime},
    identity::NodeId,
    index::Held,
    overlay::{
        MembershipConfig, Output, OverlayConfig, SuperNodeOverlay, mix::mix64, sealed::SEAL_BYTES,
    },
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::tag_trust::{CLEAR_HEADER_BYTES, ClearDatagrams, TagNetwork, TagTrust, node_id};
use crate::latency::{LOSS, Place};

/// Virtual microseconds since the start.
pub(super) type Micros = u64;

/// One second.
pub(super) const SECOND: Micros = 1_000_000;

/// Bytes of UDP and IPv4 headers, and what a real seal is longer than the clear header.
const DATAGRAM_OVERHEAD: u64 = 28 + (SEAL_BYTES - CLEAR_HEADER_BYTES) as u64;

/// Longest time between two writes of a small keeper's shards (`cooee-node`, overlay).
const DISK_WRITTEN_EVERY_MS: u64 = 60_000;

/// Validity of certificates (`proto::login`): seven days.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// Wall clock at the start of every simulation.
const START_UNIX: UnixTime = UnixTime(1_790_000_000_000);

/// What happens.
pub(super) enum Event {
    /// A datagram arrives.
    Datagram {
        /// At which host.
        to: u32,
        /// From which host.
        from: u32,
        /// The whole datagram.
        bytes: Bytes,
    },
    /// A super node's timer.
    Wake {
        /// Which host.
        host: u32,
    },
    /// Something in the life of a user.
    User {
        /// Which user.
        user: u32,
        /// Which of the user's plans; older plans are dropped.
        plan: u32,
    },
    /// A step of the scenario.
    Step(Step),
}

/// What a scenario does at a planned time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A super node ends its life.
    Die(u32),
    /// A new super node begins.
    Born,
    /// A look-up by a random user.
    LookUp,
    /// Sample the series of the plot.
    Sample,
    /// The scenario's own.
    Scene(u32),
    /// Hostile super nodes accuse honest ones.
    Accuse,
}

/// One super node, alive or dead.
pub(super) struct Host {
    /// Its machine, while alive.
    pub(super) overlay: Option<Box<SuperNodeOverlay>>,
    /// Its id.
    pub(super) node: NodeId,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Where it is.
    pub(super) place: Place,
    /// Which side of a partition.
    pub(super) side: u8,
    /// Whether it is hostile.
    pub(super) hostile: bool,
    /// Program version.
    pub(super) version: u32,
    /// Datagram bytes sent and received, headers included.
    pub(super) bytes: u64,
    wake_at: Micros,
    /// What it held, if it comes back.
    disk: Vec<Held>,
}

/// What the machines told the users' side, in order.
pub(super) struct Told {
    /// Which host.
    pub(super) host: u32,
    /// What.
    pub(super) output: Output,
}

/// Queue, hosts and network.
pub(super) struct World {
    /// The moment.
    pub(super) now: Micros,
    /// All super nodes that ever were.
    pub(super) hosts: Vec<Host>,
    /// Numbers of those alive.
    pub(super) alive: Vec<u32>,
    /// Randomness of the network and the scenario.
    pub(super) rng: ChaCha12Rng,
    /// What the machines told.
    pub(super) told: Vec<Told>,
    /// Whether the two sides of a partition are cut off from each other.
    pub(super) split: bool,
    /// Hash over all datagrams delivered: equal for equal seeds.
    pub(super) trace: u64,
    /// Datagrams sent.
    pub(super) datagrams: u64,
    /// Bytes sent, headers included.
    pub(super) bytes: u64,
    /// The same by kind of message: field number in `OverlayMessage`; 0 introductions.
    pub(super) bytes_by_kind: [u64; 32],
    /// Events run.
    pub(super) events: u64,
    /// Attached devices that a super node carries at most.
    pub(super) capacity: u32,
    /// How long certificates hold; they are renewed after half of it while the login server is
    /// there.
    pub(super) certificate_life: Duration,
    /// When the login server went away, if it did.
    pub(super) login_server_gone_at: Option<Micros>,
    epoch: Instant,
    queue: super::queue::Queue,
    slots: Vec<Option<Event>>,
    free: Vec<u32>,
    order: u64,
    network: Arc<TagNetwork>,
}

impl World {
    /// An empty world. `epoch` is any instant: only differences matter.
    pub(super) fn new(epoch: Instant, seed: u64) -> Self {
        Self {
            now: 0,
            hosts: Vec::new(),
            alive: Vec::new(),
            rng: ChaCha12Rng::seed_from_u64(seed),
            told: Vec::new(),
            split: false,
            trace: seed,
            datagrams: 0,
            bytes: 0,
            bytes_by_kind: [0; 32],
            events: 0,
            capacity: 2000,
            certificate_life: CERTIFICATE_LIFE,
            login_server_gone_at: None,
            epoch,
            queue: super::queue::Queue::default(),
            slots: Vec::new(),
            free: Vec::new(),
            order: 0,
            network: Arc::new(TagNetwork::default()),
        }
    }

    /// The moment on both clocks of the machines.
    pub(super) fn clock(&self) -> Now {
        let since = Duration::from_micros(self.now);
        Now { instant: self.epoch + since, unix: START_UNIX.plus(since) }
    }

    /// The wall clock in milliseconds since 1970.
    pub(super) fn unix_ms(&self) -> u64 {
        START_UNIX.0 + self.now / 1000
    }

    /// When the certificate ends that the device of this number holds now. Renewals are due after
    /// half a life, at a moment of the device's own; without the login server the last one stays.
    pub(super) fn certified_until(&self, number: u64) -> UnixTime {
        let life_ms = self.certificate_life.as_millis() as u64;
        let half_ms = life_ms / 2;
        let served_until = self.login_server_gone_at.unwrap_or(self.now).min(self.now);
        let served_ms = START_UNIX.0 + served_until / 1000;
        let phase_ms = mix64(number ^ 0xce27) % half_ms;
        let renewed_ms = (served_ms - phase_ms) / half_ms * half_ms + phase_ms;
        UnixTime(renewed_ms + life_ms)
    }

    /// Plans an event.
    pub(super) fn at(&mut self, time: Micros, event: Event) {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
        };
        self.slots[slot as usize] = Some(event);
        self.order += 1;
        self.queue.push((time.max(self.now), self.order, slot));
    }

    /// Plans an event after a span.
    pub(super) fn after(&mut self, span: Micros, event: Event) {
        self.at(self.now + span, event);
    }

    /// The next event until `end`; moves the clock. Timers of machines run inside.
    pub(super) fn next(&mut self, end: Micros) -> Option<Event> {
        let (time, _, slot) = self.queue.pop_until(end)?;
        self.now = time;
        self.events += 1;
        self.free.push(slot);
        self.slots[slot as usize].take()
    }

    /// Adds a super node that knows nobody; returns its number.
    pub(super) fn add_host(&mut self, version: u32) -> u32 {
        self.add_host_in(version, None)
    }

    /// The same, in this address block rather than one of its own.
    pub(super) fn add_host_in(&mut self, version: u32, block: Option<u32>) -> u32 {
        let number = self.hosts.len() as u32;
        let address = block.map_or_else(|| address_of(number), |block| address_in(block, number));
        self.hosts.push(Host {
            overlay: None,
            node: node_id(u64::from(number), false),
            address,
            place: Place::of(u64::from(number)),
            side: (number % 2) as u8,
            hostile: false,
            version,
            bytes: 0,
            wake_at: Micros::MAX,
            disk: Vec::new(),
        });
        self.start(number);
        number
    }

    /// Starts a super node, for the first time or again: it knows nobody and holds what it wrote.
    pub(super) fn start(&mut self, number: u32) {
        let seed: [u8; 32] = self.rng.random();
        let host = &self.hosts[number as usize];
        let node = host.node;
        let mut config = OverlayConfig::new(host.address);
        config.program_version = host.version;
        config.capacity = self.capacity;
        config.membership = MembershipConfig::default();
        let not_after = self.certified_until(u64::from(number));
        let trust = Box::new(TagTrust::new(node, not_after, self.network.clone()));
        let protection = Box::new(ClearDatagrams::new(node));
        let overlay = SuperNodeOverlay::new(self.clock(), config, trust, protection, seed);
        let host = &mut self.hosts[number as usize];
        host.overlay = Some(Box::new(overlay));
        host.wake_at = Micros::MAX;
        let disk = std::mem::take(&mut host.disk);
        self.alive.push(number);
        self.with(number, |overlay, now| overlay.restore(now, disk.iter().map(Held::to_wire)));
    }

    /// Lets a super node join through a few random living ones.
    pub(super) fn join(&mut self, host: u32) {
        let mut contacts = Vec::new();
        for _ in 0..3 {
            let contact = self.random_alive();
            if contact != host {
                contacts.push(self.hosts[contact as usize].address);
            }
        }
        self.with(host, |overlay, now| overlay.join(now, &contacts));
    }

    /// Lets all super nodes know each other, as after a restart with kept tables.
    pub(super) fn introduce_all(&mut self) {
        let statements: Vec<_> = self
            .alive
            .iter()
            .filter_map(|host| self.hosts[*host as usize].overlay.as_ref())
            .map(|overlay| overlay.own().to_wire())
            .collect();
        for host in self.alive.clone() {
            self.with(host, |overlay, now| overlay.learn_members(now, &statements));
        }
    }

    /// Ends a super node without a word; it will come back, with what it had written to its disk.
    pub(super) fn kill_for_a_while(&mut self, host: u32) {
        let written_until = self.unix_ms().saturating_sub(DISK_WRITTEN_EVERY_MS);
        let Some(overlay) = self.hosts[host as usize].overlay.as_ref() else { return };
        let mut disk: Vec<Held> = overlay.keeper().held().cloned().collect();
        disk.retain_mut(|held| {
            held.departure = held.departure.take().filter(|d| d.at_unix_ms < written_until);
            held.record.sequence < written_until
        });
        self.hosts[host as usize].disk = disk;
        self.kill(host);
    }

    /// Ends a super node without a word.
    pub(super) fn kill(&mut self, host: u32) {
        self.hosts[host as usize].overlay = None;
        self.alive.retain(|other| *other != host);
    }

    /// A random living super node.
    pub(super) fn random_alive(&mut self) -> u32 {
        let place = self.rng.random_range(0..self.alive.len());
        self.alive[place]
    }

    /// Runs a command of a living super node and carries out what it wants.
    pub(super) fn with<R>(
        &mut self,
        host: u32,
        command: impl FnOnce(&mut SuperNodeOverlay, Now) -> R,
    ) -> Option<R> {
        let now = self.clock();
        let overlay = self.hosts[host as usize].overlay.as_mut()?;
        let result = command(overlay, now);
        self.settle(host);
        Some(result)
    }

    /// A datagram arrives at its host.
    pub(super) fn deliver(&mut self, from: u32, to: u32, bytes: &Bytes) {
        let now = self.clock();
        let source = self.hosts[from as usize].address;
        let host = &mut self.hosts[to as usize];
        let Some(overlay) = host.overlay.as_mut() else { return };
        host.bytes += bytes.len() as u64 + DATAGRAM_OVERHEAD;
        self.trace = mix64(self.trace ^ self.now ^ u64::from(to) << 40 ^ bytes.len() as u64);
        overlay.handle_datagram(now, source, bytes);
        self.settle(to);
    }

    /// A timer of a super node.
    pub(super) fn wake(&mut self, host: u32) {
        if self.hosts[host as usize].wake_at > self.now {
            return;
        }
        self.hosts[host as usize].wake_at = Micros::MAX;
        self.with(host, |overlay, now| overlay.handle_timeout(now));
    }

    /// Puts a datagram on the network.
    pub(super) fn send(&mut self, from: u32, to: u32, bytes: Bytes) {
        let length = bytes.len() as u64 + DATAGRAM_OVERHEAD;
        self.datagrams += 1;
        self.bytes += length;
        self.bytes_by_kind[kind_of(&bytes)] += length;
        self.hosts[from as usize].bytes += length;
        let Some(target) = self.hosts.get(to as usize) else { return };
        let source = &self.hosts[from as usize];
        let cut = self.split && source.side != target.side;
        if cut || target.overlay.is_none() {
            return;
        }
        let random: u64 = self.rng.random();
        if (random >> 11) as f64 / (1_u64 << 53) as f64 <= LOSS {
            return;
        }
        let delay = source.place.one_way_us(&target.place, mix64(random));
        self.after(delay, Event::Datagram { to, from, bytes });
    }

    /// Carries out what a machine wants, and plans its next timer.
    fn settle(&mut self, host: u32) {
        while let Some(overlay) = self.hosts[host as usize].overlay.as_mut() {
            let Some(output) = overlay.poll_output() else { break };
            match output {
                Output::Datagram { to, bytes } => {
                    let to = host_of(to);
                    self.send(host, to, bytes);
                }
                Output::Member(_) => {}
                output => self.told.push(Told { host, output }),
            }
        }
        let slot = &mut self.hosts[host as usize];
        let Some(overlay) = slot.overlay.as_ref() else { return };
        let since = overlay.next_timeout().saturating_duration_since(self.epoch);
        let at = (since.as_micros() as Micros + 1).max(self.now);
        if at < slot.wake_at {
            slot.wake_at = at;
            self.at(at, Event::Wake { host });
        }
    }
}

/// Field number of the message in a clear datagram; 0 for introductions.
fn kind_of(datagram: &Bytes) -> usize {
    match datagram.get(1..CLEAR_HEADER_BYTES + 2) {
        Some([0, .., low, high]) if low & 0x80 != 0 => {
            usize::from(low & 0x7f | high << 7) >> 3 & 31
        }
        Some([0, .., low, _]) => usize::from(low >> 3),
        _ => 0,
    }
}

/// The address of a host: its number in the lower half, its address block in the upper.
pub(super) fn address_of(host: u32) -> SocketAddr {
    let block = 256 + mix64(u64::from(host)) % 20_000;
    address_in(block as u32, host)
}

/// The address of a host in this block.
pub(super) fn address_in(block: u32, host: u32) -> SocketAddr {
    let ip = block << 16 | host & 0xffff;
    SocketAddr::new(Ipv4Addr::from(ip).into(), 4000)
}

fn host_of(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(v4) => u32::from(*v4.ip()) & 0xffff,
        SocketAddr::V6(_) => u32::MAX,
    }
}
