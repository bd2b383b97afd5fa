//! The relay itself: its configuration, its tables, and what the shell drains from it.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use super::{
    AllocationId, ClientId, PeerPolicy, RelayCredentials, RelaySecret,
    allocation::Table,
    limits::{Bucket, ReplyLimit},
};
use crate::{clock::Now, datagram::TransactionBytes, identity::NodeId};

/// How often lapsed allocations are looked for. Chosen: a port is free a second late at most.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Share of a second that the budget may burst. Chosen: half a jitter buffer's patience.
const BURST_S: f64 = 0.25;
/// Below this share of the burst the relay takes no new allocation, so that those it has keep
/// their quality.
const ADMISSION_SHARE: f64 = 0.2;

/// What a relay may do.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Bytes of payload a second in both directions together; 0 means no relaying at all.
    pub budget_bytes_per_s: u64,
    /// Allocations at one time.
    pub allocations_max: u32,
    /// Allocations of one node at one time.
    pub allocations_per_node_max: u32,
    /// IPv4 address under which relayed ports are reached.
    pub relayed_v4: Option<IpAddr>,
    /// IPv6 address under which relayed ports are reached.
    pub relayed_v6: Option<IpAddr>,
    /// Ports to relay from.
    pub ports: RangeInclusive<u16>,
    /// Which peers may be reached.
    pub peers: PeerPolicy,
    /// Answers a second to clients of one address block that have not authenticated (UDP only).
    pub unproven_replies_per_s: u32,
    /// Our own second port for behaviour discovery.
    pub alternate_port: Option<u16>,
    /// Another super node that answers for us when an answer from another address is asked.
    pub partner: Option<SocketAddr>,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            // Chosen: a hundred calls at 2 × 2 × 12 kB/s, about 40 Mbit/s.
            budget_bytes_per_s: 5_000_000,
            allocations_max: 4000,
            // Chosen: a few devices' worth of calls, each with a warm second.
            allocations_per_node_max: 10,
            relayed_v4: None,
            relayed_v6: None,
            // The dynamic range (RFC 6335 section 6).
            ports: 49_152..=65_535,
            peers: PeerPolicy::default(),
            unproven_replies_per_s: 200,
            alternate_port: None,
            partner: None,
        }
    }
}

/// Running counts, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// Allocations that stand now.
    pub allocations: u64,
    /// Allocations made so far.
    pub allocations_made: u64,
    /// Allocate requests refused for a quota, the budget or want of ports.
    pub allocations_refused: u64,
    /// Requests whose credentials or nonce did not hold.
    pub unauthorized: u64,
    /// Peers refused by policy.
    pub forbidden_peers: u64,
    /// Binding requests answered.
    pub bindings: u64,
    /// Answers withheld from unproven addresses.
    pub replies_withheld: u64,
    /// Payloads relayed.
    pub relayed_packets: u64,
    /// Their bytes.
    pub relayed_bytes: u64,
    /// Dropped: above the budget.
    pub dropped_over_budget: u64,
    /// Dropped: no permission or channel.
    pub dropped_no_permission: u64,
    /// Dropped: no allocation.
    pub dropped_no_allocation: u64,
    /// Dropped: malformed.
    pub dropped_malformed: u64,
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayOutput {
    /// Send these bytes to the client, from the socket and address that it knows.
    Transmit {
        /// Whereto.
        client: ClientId,
        /// Our address that it wrote to.
        local_ip: Option<IpAddr>,
        /// What.
        bytes: Vec<u8>,
    },
    /// Send these bytes from our alternate port.
    TransmitAlternate {
        /// Whereto.
        remote: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Ask the partner to answer from its address (see [`super::partner_response`]).
    AskPartner {
        /// Client's address as we see it.
        mapped: SocketAddr,
        /// Its transaction.
        transaction: TransactionBytes,
        /// From the partner's alternate port.
        change_port: bool,
    },
    /// Open a UDP socket for this relayed address, then call [`RelayServer::handle_bound`].
    BindRelayed {
        /// For which allocation.
        allocation: AllocationId,
        /// Which address; with the configured relayed address and a port of the range.
        relayed: SocketAddr,
    },
    /// Close the socket of this allocation.
    CloseRelayed {
        /// Which one.
        allocation: AllocationId,
    },
}

/// TURN and STUN server. Bounded by the quotas of its configuration.
#[derive(Debug)]
pub struct RelayServer {
    pub(super) config: RelayConfig,
    pub(super) secret: RelaySecret,
    pub(super) table: Table,
    pub(super) counts: RelayCounts,
    pub(super) replies: ReplyLimit,
    pub(super) random: ChaCha12Rng,
    pub(super) pending: std::collections::BTreeMap<AllocationId, super::request::PendingAllocate>,
    budget: Bucket,
    outputs: VecDeque<RelayOutput>,
    next_sweep: Option<Instant>,
}

impl RelayServer {
    /// A relay without allocations.
    pub fn new(config: RelayConfig, secret: RelaySecret, seed: [u8; 32]) -> Self {
        Self {
            budget: Bucket::full(config.budget_bytes_per_s as f64 * BURST_S),
            replies: ReplyLimit::new(config.unproven_replies_per_s),
            config,
            secret,
            table: Table::default(),
            counts: RelayCounts::default(),
            random: ChaCha12Rng::from_seed(seed),
            pending: std::collections::BTreeMap::new(),
            outputs: VecDeque::new(),
            next_sweep: None,
        }
    }

    /// Credentials for `node`, to be handed over its authenticated control connection.
    pub fn mint(&self, now: Now, node: NodeId, lifetime: Duration) -> RelayCredentials {
        self.secret.mint(now.unix, node, lifetime)
    }

    /// Sets or clears who answers for us from another address.
    pub fn set_partner(&mut self, partner: Option<SocketAddr>) {
        self.config.partner = partner;
    }

    /// Sets our second port for behaviour discovery.
    pub fn set_alternate_port(&mut self, port: Option<u16>) {
        self.config.alternate_port = port;
    }

    /// The next thing to do; drain after every call.
    pub fn poll_output(&mut self) -> Option<RelayOutput> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_sweep
    }

    /// Drops what has lapsed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_sweep.is_none_or(|at| at > now) {
            return;
        }
        for id in self.table.expired(now) {
            self.remove(id);
        }
        self.next_sweep = (self.table.len() > 0).then(|| now + SWEEP_INTERVAL);
    }

    /// The client's connection is gone and with it its allocation.
    pub fn handle_stream_closed(&mut self, client: &ClientId) {
        if let Some(id) = self.table.by_client(client) {
            self.remove(id);
        }
    }

    /// Whether the client holds an allocation.
    pub fn has_allocation(&self, client: &ClientId) -> bool {
        self.table.by_client(client).is_some()
    }

    /// Counts now.
    pub fn counts(&self) -> RelayCounts {
        RelayCounts { allocations: self.table.len() as u64, ..self.counts }
    }

    pub(super) fn emit(&mut self, output: RelayOutput) {
        self.outputs.push_back(output);
    }

    pub(super) fn schedule_sweep(&mut self, now: Instant) {
        self.next_sweep.get_or_insert(now + SWEEP_INTERVAL);
    }

    pub(super) fn remove(&mut self, id: AllocationId) {
        self.pending.remove(&id);
        if self.table.remove(id).is_some() {
            self.emit(RelayOutput::CloseRelayed { allocation: id });
        }
    }

    /// Whether the budget leaves room for another call.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        let rate = self.config.budget_bytes_per_s as f64;
        rate > 0.0 && self.budget.share_left(now, rate, rate * BURST_S) > ADMISSION_SHARE
    }

    pub(super) fn charge(&mut self, now: Instant, bytes: usize) -> bool {
        let rate = self.config.budget_bytes_per_s as f64;
        if !self.budget.take(now, rate, rate * BURST_S, bytes as f64) {
            self.counts.dropped_over_budget += 1;
            return false;
        }
        self.counts.relayed_packets += 1;
        self.counts.relayed_bytes += bytes as u64;
        true
    }

    pub(super) fn is_own_relayed(&self, peer: SocketAddr) -> bool {
        let own = [self.config.relayed_v4, self.config.relayed_v6];
        own.contains(&Some(peer.ip())) && self.table.by_relayed(&peer).is_some()
    }
}
