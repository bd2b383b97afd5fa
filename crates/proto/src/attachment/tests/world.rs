//! A network in virtual time, in which the machine runs.

#![allow(clippy::disallowed_methods, reason = "a test needs some moment to start from")]

use std::{collections::BTreeSet, net::IpAddr};

use super::super::*;
use crate::clock::UnixTime;

/// What happens to a TCP attempt at an address.
#[derive(Clone, Debug)]
pub(super) enum Tcp {
    /// Packets vanish: the attempt never reports.
    Dropped,
    Answers(Failure),
    Attaches(u8),
}

/// A world of virtual time: round trips of 100 ms everywhere.
pub(super) struct World {
    pub(super) now: Now,
    pub(super) start: Instant,
    pub(super) machine: Attachment,
    pub(super) tcp: BTreeMap<SocketAddr, Tcp>,
    pub(super) udp_hosts: BTreeSet<SocketAddr>,
    pub(super) pending: VecDeque<(Instant, Pending)>,
    pub(super) open: BTreeMap<AttemptId, SocketAddr>,
    pub(super) events: Vec<(u64, Event)>,
    pub(super) connects: Vec<(u64, SocketAddr)>,
    pub(super) checks: usize,
}

pub(super) enum Pending {
    Probe(SocketAddr),
    Tcp(AttemptId, SocketAddr),
}

pub(super) const ROUND_TRIP: Duration = Duration::from_millis(100);

pub(super) fn host(n: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::from([n, 1, 1, 1]), 4000)
}

pub(super) fn port(n: u8, port: u16) -> SocketAddr {
    SocketAddr::new(host(n).ip(), port)
}

pub(super) fn node(n: u8) -> NodeId {
    NodeId([n; 16])
}

impl World {
    pub(super) fn new(hosts: &[u8]) -> Self {
        Self::with_seed(hosts, 1)
    }

    pub(super) fn with_seed(hosts: &[u8], seed: u8) -> Self {
        let start = Instant::now();
        let cache = HostCache::new(hosts.iter().map(|n| host(*n)));
        let own = node(255);
        let machine = Attachment::new(Config::default(), own, cache, PortKind::Own, [seed; 32]);
        Self {
            now: Now { instant: start, unix: UnixTime(1_800_000_000_000) },
            start,
            machine,
            tcp: hosts.iter().map(|n| (host(*n), Tcp::Attaches(*n))).collect(),
            udp_hosts: hosts.iter().map(|n| host(*n)).collect(),
            pending: VecDeque::new(),
            open: BTreeMap::new(),
            events: Vec::new(),
            connects: Vec::new(),
            checks: 0,
        }
    }

    pub(super) fn all_tcp(mut self, tcp: &Tcp) -> Self {
        self.tcp.values_mut().for_each(|host| *host = tcp.clone());
        self
    }

    pub(super) fn no_udp(mut self) -> Self {
        self.udp_hosts.clear();
        self
    }

    pub(super) fn elapsed_ms(&self) -> u64 {
        (self.now.instant - self.start).as_millis() as u64
    }

    pub(super) fn drain(&mut self) -> Option<Instant> {
        loop {
            let after = self.now.instant + ROUND_TRIP;
            match self.machine.poll_output() {
                Output::Probe { to } => {
                    if self.udp_hosts.contains(&to) {
                        self.pending.push_back((after, Pending::Probe(to)));
                    }
                }
                Output::Connect { attempt, to } => {
                    self.connects.push((self.elapsed_ms(), to));
                    // TCP, TLS and greeting: three round trips, a refusal one.
                    let takes = match self.tcp.get(&to) {
                        Some(Tcp::Dropped) => continue,
                        Some(Tcp::Attaches(_)) => ROUND_TRIP * 3,
                        Some(Tcp::Answers(_)) | None => ROUND_TRIP,
                    };
                    self.pending.push_back((self.now.instant + takes, Pending::Tcp(attempt, to)));
                }
                Output::Abandon { attempt } => self.pending.retain(
                    |(_, pending)| !matches!(pending, Pending::Tcp(id, _) if *id == attempt),
                ),
                Output::Close { attempt } => {
                    self.open.remove(&attempt);
                }
                Output::Check { .. } => self.checks += 1,
                Output::Event(event) => self.events.push((self.elapsed_ms(), event)),
                Output::Timeout(at) => return at,
            }
        }
    }

    pub(super) fn deliver(&mut self, pending: Pending) {
        match pending {
            Pending::Probe(from) => self.machine.handle_probe_answer(self.now, from),
            Pending::Tcp(attempt, to) => match self.tcp.get(&to).cloned() {
                Some(Tcp::Attaches(n)) => {
                    self.open.insert(attempt, to);
                    self.machine.handle_attached(self.now, attempt, node(n), ROUND_TRIP);
                }
                Some(Tcp::Answers(failure)) => {
                    self.machine.handle_failure(self.now, attempt, failure);
                }
                Some(Tcp::Dropped) => {}
                None => {
                    self.machine.handle_failure(self.now, attempt, Failure::ConnectionRefused);
                }
            },
        }
    }

    pub(super) fn start(&mut self) {
        self.machine.start(self.now);
        self.drain();
    }

    pub(super) fn run_for(&mut self, span: Duration) {
        let end = self.now.instant + span;
        for _ in 0..10_000 {
            let timeout = self.drain();
            let first = self.pending.iter().map(|(at, _)| *at).min();
            let next = [timeout, first].into_iter().flatten().min();
            let Some(next) = next.filter(|at| *at <= end) else {
                self.now = self.now.plus(end - self.now.instant);
                return;
            };
            self.now = self.now.plus(next.saturating_duration_since(self.now.instant));
            let due = self.pending.iter().position(|(at, _)| *at <= self.now.instant);
            match due.and_then(|place| self.pending.remove(place)) {
                Some((_, pending)) => self.deliver(pending),
                None => self.machine.handle_timeout(self.now),
            }
        }
        panic!("the machine spins: {:?}", self.machine);
    }

    pub(super) fn lose(&mut self, n: u8) {
        self.tcp.insert(host(n), Tcp::Dropped);
        self.break_off(n);
    }

    /// The connections to it end, and it may be reached again.
    pub(super) fn break_off(&mut self, n: u8) {
        let lost: Vec<AttemptId> =
            self.open.iter().filter(|(_, at)| at.ip() == host(n).ip()).map(|(id, _)| *id).collect();
        for attempt in lost {
            self.open.remove(&attempt);
            self.machine.handle_lost(self.now, attempt);
        }
        self.drain();
    }

    pub(super) fn attached_after(&self) -> Option<u64> {
        self.events
            .iter()
            .find(|(_, event)| matches!(event, Event::Attached { .. }))
            .map(|(at, _)| *at)
    }

    pub(super) fn status(&self) -> &Status {
        self.machine.status()
    }

    pub(super) fn in_use(&self) -> Option<NodeId> {
        match self.status() {
            Status::Attached { node, .. } => Some(*node),
            _ => None,
        }
    }

    pub(super) fn warm(&self) -> Option<NodeId> {
        match self.status() {
            Status::Attached { warm, .. } => *warm,
            _ => None,
        }
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        match self.status() {
            Status::Waiting { why, .. } => Some(why.clone()),
            _ => None,
        }
    }
}
