//! A small virtual network for two sessions: NATs, relays, delay, loss and faults, in virtual time.
//!
//! Relays are real TURN server machines. Signalling is a delayed, reliable channel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cooee_media::{
    packet::VoicePacket,
    session::{
        MediaSession, Output, RelayId, RelayTransport, RemoteCandidate, SessionConfig,
        SessionEvent, TransportParameters,
    },
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;
use stun_types::{
    attribute::XorMappedAddress,
    message::{Message, MessageWrite as _, MessageWriteExt as _, MessageWriteVec},
};
use turn_server_proto::{
    api::{TurnServerApi as _, TurnServerPollRet},
    server::TurnServer,
    stun::{Instant as TurnInstant, agent::Transmit},
    types::{prelude::DelayedTransmitBuild as _, stun::TransportType},
};

use crate::{
    access::{Access, Datagram},
    nat::{Nat, NatKind},
};

pub(crate) const SPEECH: &[u8] = b"this is plain speech that nobody on the way may read";

#[derive(Debug)]
enum Occurrence {
    Datagram(Datagram),
    /// At the access of the end to which it goes.
    Inward(usize, Datagram),
    StreamOpened(usize, RelayId),
    ToRelay {
        relay: usize,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    FromRelay {
        end: usize,
        relay: RelayId,
        bytes: Vec<u8>,
    },
    Candidate(usize, RemoteCandidate),
    Parameters(usize, TransportParameters),
    Talk(usize),
}

pub(crate) struct End {
    pub(crate) session: MediaSession,
    pub(crate) nat: Nat,
    pub(crate) bases: Vec<SocketAddr>,
    pub(crate) talking: bool,
    pub(crate) sequence: u16,
    /// When each sequence number was heard, first time.
    pub(crate) heard: BTreeMap<u16, Instant>,
    pub(crate) duplicates: usize,
    pub(crate) feedback: Vec<Bytes>,
    pub(crate) events: Vec<(Instant, SessionEvent)>,
    pub(crate) sent: Vec<(Instant, Datagram)>,
    streams: BTreeMap<RelayId, (usize, SocketAddr)>,
    /// Outward and inward; datagrams alone pass it.
    pub(crate) access: [Access; 2],
    /// When streams to relays were opened.
    pub(crate) opened: Vec<(Instant, RelayId)>,
    wake: Instant,
}

struct RelayNode {
    address: SocketAddr,
    udp: TurnServer,
    tcp: TurnServer,
    next_port: u16,
    /// Relayed address to whether its client came by TCP.
    allocations: BTreeMap<SocketAddr, TransportType>,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) ends: Vec<End>,
    relays: Vec<RelayNode>,
    queue: BTreeMap<(Instant, u64), Occurrence>,
    order: u64,
    random: ChaCha12Rng,
    /// One way between two hosts that are not relays; to or from a relay it is half.
    pub(crate) delay: Duration,
    pub(crate) loss: f64,
    /// Hosts that are gone.
    pub(crate) dead: BTreeSet<IpAddr>,
    /// Directions that swallow packets, by public address.
    pub(crate) cut: BTreeSet<(IpAddr, IpAddr)>,
    pub(crate) signalling_delay: Duration,
    pub(crate) deliver_candidates: bool,
}

impl World {
    pub(crate) fn new(kinds: [NatKind; 2]) -> Self {
        #[allow(clippy::disallowed_methods)]
        let start = Instant::now();
        let ends = (0..2_u8)
            .map(|index| {
                let nat = Nat::new(kinds[usize::from(index)], [198, 51, 100, index + 1].into());
                let base = if nat.kind == NatKind::None {
                    SocketAddr::from(([198, 51, 100, index + 1], 5000))
                } else {
                    SocketAddr::from(([10, 0, index + 1, 2], 5000))
                };
                End {
                    session: MediaSession::new(
                        SessionConfig::new(index == 0, [index + 1; 32]),
                        start,
                    ),
                    nat,
                    bases: vec![base],
                    talking: false,
                    sequence: 65_500,
                    heard: BTreeMap::new(),
                    duplicates: 0,
                    feedback: Vec::new(),
                    events: Vec::new(),
                    sent: Vec::new(),
                    streams: BTreeMap::new(),
                    access: [Access::default(); 2],
                    opened: Vec::new(),
                    wake: start,
                }
            })
            .collect();
        Self {
            now: start,
            start,
            ends,
            relays: Vec::new(),
            queue: BTreeMap::new(),
            order: 0,
            random: ChaCha12Rng::seed_from_u64(7),
            delay: Duration::from_millis(50),
            loss: 0.0,
            dead: BTreeSet::new(),
            cut: BTreeSet::new(),
            signalling_delay: Duration::from_millis(60),
            deliver_candidates: true,
        }
    }

    pub(crate) fn add_relay_node(&mut self) -> SocketAddr {
        let address = SocketAddr::from(([192, 0, 2, self.relays.len() as u8 + 1], 3478));
        let make = |transport| {
            let mut server = TurnServer::new(transport, address, "cooee".to_owned());
            server.add_user("user".to_owned(), "secret".to_owned());
            server
        };
        self.relays.push(RelayNode {
            address,
            udp: make(TransportType::Udp),
            tcp: make(TransportType::Tcp),
            next_port: 50_000,
            allocations: BTreeMap::new(),
        });
        address
    }

    pub(crate) fn talk(&mut self, end: usize) {
        self.ends[end].talking = true;
        self.push(self.now, Occurrence::Talk(end));
    }

    fn push(&mut self, at: Instant, occurrence: Occurrence) {
        self.order += 1;
        self.queue.insert((at, self.order), occurrence);
    }

    pub(crate) fn run_ms(&mut self, span_ms: u64) {
        let until = self.now + Duration::from_millis(span_ms);
        self.run_until(until, |_| false);
    }

    /// Runs until the condition holds; says whether it did before the time was over.
    pub(crate) fn run_until(&mut self, until: Instant, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let queued = self.queue.keys().next().map(|(at, _)| *at);
            let woken = self.ends.iter().map(|end| end.wake).min().unwrap();
            let next = queued.map_or(woken, |queued| queued.min(woken));
            if next > until {
                self.now = until;
                return done(self);
            }
            self.now = self.now.max(next);
            if queued == Some(next) {
                let (_, occurrence) = self.queue.pop_first().unwrap();
                self.handle(occurrence);
            } else {
                for end in 0..2 {
                    if self.ends[end].wake <= self.now {
                        let now = self.now;
                        self.ends[end].session.handle_timeout(now);
                        self.drain(end);
                        let wake = &mut self.ends[end].wake;
                        *wake = (*wake).max(now + Duration::from_micros(100));
                    }
                }
            }
        }
    }

    fn handle(&mut self, occurrence: Occurrence) {
        let now = self.now;
        match occurrence {
            Occurrence::Datagram(datagram) => self.deliver(datagram),
            Occurrence::Inward(end, datagram) => {
                if let Some(wait) = self.ends[end].access[1].pass(now, datagram.bytes.len()) {
                    self.push(now + wait, Occurrence::Datagram(datagram));
                }
            }
            Occurrence::StreamOpened(end, relay) => {
                if let Some((_, local)) = self.ends[end].streams.get(&relay).copied() {
                    self.ends[end].session.handle_stream_opened(now, relay, local);
                    self.drain(end);
                }
            }
            Occurrence::ToRelay { relay, from, bytes } => {
                if !self.dead.contains(&self.relays[relay].address.ip()) {
                    self.feed_relay(
                        relay,
                        TransportType::Tcp,
                        from,
                        self.relays[relay].address,
                        bytes,
                    );
                }
            }
            Occurrence::FromRelay { end, relay, bytes } => {
                self.ends[end].session.handle_stream(now, relay, &bytes);
                self.drain(end);
            }
            Occurrence::Candidate(end, candidate) => {
                self.ends[end].session.add_remote_candidate(now, candidate).unwrap();
                self.drain(end);
            }
            Occurrence::Parameters(end, parameters) => {
                self.ends[end].session.set_remote_parameters(now, parameters).unwrap();
                self.drain(end);
            }
            Occurrence::Talk(end) => {
                if self.ends[end].talking {
                    let sequence = self.ends[end].sequence;
                    self.ends[end].sequence = sequence.wrapping_add(1);
                    let packet = VoicePacket {
                        sequence,
                        timestamp: u32::from(sequence).wrapping_mul(960),
                        payload_type: 111,
                        marker: false,
                        payload: Bytes::from_static(SPEECH),
                    };
                    self.ends[end].session.send_audio(now, &packet).unwrap();
                    self.drain(end);
                    self.push(now + Duration::from_millis(20), Occurrence::Talk(end));
                }
            }
        }
    }

    pub(crate) fn drain(&mut self, end: usize) {
        loop {
            match self.ends[end].session.poll_output() {
                Output::Timeout(at, _) => {
                    self.ends[end].wake = at;
                    return;
                }
                Output::Transmit { local, to, bytes, ttl } => {
                    assert!(bytes.len() <= 1_500, "a datagram must not need fragments");
                    let datagram = Datagram { from: local, to, bytes };
                    self.ends[end].sent.push((self.now, datagram.clone()));
                    self.emit(end, datagram, ttl);
                }
                Output::OpenStream { relay, server, transport } => {
                    self.ends[end].opened.push((self.now, relay));
                    let node = self.relays.iter().position(|node| node.address == server).unwrap();
                    let local = SocketAddr::from((
                        [198, 51, 100, end as u8 + 1],
                        40_000 + u16::from(relay.0),
                    ));
                    self.ends[end].streams.insert(relay, (node, local));
                    let trips = if transport == RelayTransport::Tls { 2 } else { 1 };
                    self.push(self.now + self.delay * trips, Occurrence::StreamOpened(end, relay));
                }
                Output::WriteStream { relay, bytes, .. } => {
                    let (from, to) = (self.ends[end].bases[0], self.relays[0].address);
                    let datagram = Datagram { from, to, bytes: bytes.clone() };
                    self.ends[end].sent.push((self.now, datagram));
                    if let Some((node, from)) = self.ends[end].streams.get(&relay).copied() {
                        let at = self.now + self.delay / 2;
                        self.push(at, Occurrence::ToRelay { relay: node, from, bytes });
                    }
                }
                Output::CloseStream { relay } => {
                    self.ends[end].streams.remove(&relay);
                }
                Output::Audio(packet) => {
                    assert_eq!(packet.payload, SPEECH);
                    let now = self.now;
                    if self.ends[end].heard.insert(packet.sequence, now).is_some() {
                        self.ends[end].duplicates += 1;
                    }
                }
                Output::Feedback(feedback) => self.ends[end].feedback.push(feedback),
                Output::Event(event) => self.signal(end, event),
            }
        }
    }

    fn signal(&mut self, end: usize, event: SessionEvent) {
        let at = self.now + self.signalling_delay;
        match &event {
            SessionEvent::CandidateFound(candidate) if self.deliver_candidates => {
                self.push(at, Occurrence::Candidate(1 - end, *candidate));
            }
            SessionEvent::ParametersChanged(parameters) => {
                self.push(at, Occurrence::Parameters(1 - end, parameters.clone()));
            }
            _ => {}
        }
        self.ends[end].events.push((self.now, event));
    }

    /// A restart by one side: its new parameters travel to the other.
    pub(crate) fn restart(&mut self, end: usize) {
        let parameters = self.ends[end].session.restart(self.now);
        self.drain(end);
        self.push(self.now + self.signalling_delay, Occurrence::Parameters(1 - end, parameters));
    }

    fn emit(&mut self, end: usize, mut datagram: Datagram, ttl: Option<u8>) {
        if !self.ends[end].bases.contains(&datagram.from) {
            return;
        }
        let Some(from) = self.ends[end].nat.outward(datagram.from, datagram.to) else { return };
        datagram.from = from;
        if ttl.is_none()
            && let Some(wait) = self.ends[end].access[0].pass(self.now, datagram.bytes.len())
        {
            self.forward_after(wait, datagram);
        }
    }

    fn one_way(&self, a: IpAddr, b: IpAddr) -> Duration {
        let relays = [a, b].iter().filter(|ip| self.is_relay(**ip)).count() as u32;
        self.delay / 2_u32.pow(relays)
    }

    fn is_relay(&self, ip: IpAddr) -> bool {
        self.relays.iter().any(|relay| relay.address.ip() == ip)
    }

    fn forward(&mut self, datagram: Datagram) {
        self.forward_after(Duration::ZERO, datagram);
    }

    fn forward_after(&mut self, wait: Duration, datagram: Datagram) {
        let (from, to) = (datagram.from.ip(), datagram.to.ip());
        let lost = self.random.random_bool(self.loss);
        if lost || self.dead.contains(&from) || self.cut.contains(&(from, to)) {
            return;
        }
        let at = self.now + wait + self.one_way(from, to);
        let end = (0..2).find(|end| self.ends[*end].nat.public == to);
        let arrives = match end {
            Some(end) => Occurrence::Inward(end, datagram),
            None => Occurrence::Datagram(datagram),
        };
        self.push(at, arrives);
    }

    /// Puts a datagram on the network as if somebody had forged or replayed it.
    pub(crate) fn inject(&mut self, datagram: Datagram) {
        self.push(self.now, Occurrence::Datagram(datagram));
    }

    fn deliver(&mut self, datagram: Datagram) {
        let Datagram { from, to, bytes } = datagram;
        if self.dead.contains(&to.ip()) {
            return;
        }
        if let Some(index) = self.relays.iter().position(|relay| relay.address.ip() == to.ip()) {
            let allocation = self.relays[index].allocations.get(&to).copied();
            let transport = allocation.unwrap_or(TransportType::Udp);
            self.feed_relay_from(index, transport, TransportType::Udp, from, to, bytes);
            return;
        }
        for end in 0..2 {
            if let Some(base) = self.ends[end].nat.inward(from, to)
                && self.ends[end].bases.contains(&base)
            {
                let now = self.now;
                self.ends[end].session.handle_datagram(now, base, from, &bytes);
                self.drain(end);
            }
        }
    }

    fn feed_relay(
        &mut self,
        index: usize,
        kind: TransportType,
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    ) {
        self.feed_relay_from(index, kind, kind, from, to, bytes);
    }

    fn feed_relay_from(
        &mut self,
        index: usize,
        kind: TransportType,
        carried: TransportType,
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    ) {
        let now = self.turn_now();
        let node = &mut self.relays[index];
        if to == node.address && bytes.starts_with(&[0, 1]) {
            // The library sends its Binding response to itself, so the mapping is told here.
            if let Ok(request) = Message::from_bytes(&bytes) {
                let mapped = XorMappedAddress::new(from, request.transaction_id());
                let mut response = Message::builder_success(&request, MessageWriteVec::new());
                response.add_attribute(&mapped).unwrap();
                self.forward(Datagram { from: to, to: from, bytes: response.finish() });
            }
            return;
        }
        let server = if kind == TransportType::Udp { &mut node.udp } else { &mut node.tcp };
        let mut replies = Vec::new();
        if let Some(reply) = server.recv(Transmit::new(bytes, carried, from, to), now) {
            replies.push((reply.transport, reply.from, reply.to, reply.data.build()));
        }
        while let TurnServerPollRet::AllocateSocket {
            transport,
            listen_addr,
            client_addr,
            allocation_transport,
            family,
        } = server.poll(now)
        {
            let relayed = SocketAddr::new(node.address.ip(), node.next_port);
            node.next_port += 1;
            node.allocations.insert(relayed, kind);
            server.allocated_socket(
                transport,
                listen_addr,
                client_addr,
                allocation_transport,
                family,
                Ok(relayed),
                now,
            );
        }
        while let Some(reply) = server.poll_transmit(now) {
            replies.push((reply.transport, reply.from, reply.to, reply.data.to_vec()));
        }
        for (transport, from, to, bytes) in replies {
            if transport == TransportType::Udp {
                self.forward(Datagram { from, to, bytes });
                continue;
            }
            let stream = self.ends.iter().enumerate().find_map(|(end, state)| {
                let mut streams = state.streams.iter();
                streams
                    .find(|(_, (node, local))| *node == index && *local == to)
                    .map(|(id, _)| (end, *id))
            });
            if let Some((end, relay)) = stream {
                let at = self.now + self.delay / 2;
                self.push(at, Occurrence::FromRelay { end, relay, bytes });
            }
        }
    }

    fn turn_now(&self) -> TurnInstant {
        TurnInstant::from_nanos((self.now - self.start).as_nanos() as i64)
    }
}
