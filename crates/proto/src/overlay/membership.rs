//! Membership: joining, probing, suspicion, refutation, leaving; SWIM (Das, Gupta, Motivala 2002)
//! over the full table, with news spread in two hops as in Gupta, Liskov, Rodrigues 2004.
//!
//! * **Probe**: every `probe_period` one member in a random round is pinged; without an answer
//!   three others are asked to ping it; without theirs it is suspected and the suspicion is spread.
//! * **Refutation**: a suspected node signs a statement of a higher incarnation. Only the node
//!   itself can: statements are signed. Without one, a suspect is dead after `suspicion_time`.
//! * **Healing**: dead members are remembered and one is pinged now and then, faster while
//!   such pings are answered; who hears that it counts as dead refutes.
//! * **Reconciling** (`reconcile.rs`) repairs whatever the spreading missed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::{
    statement::{SuperNode, statement_signed_part},
    table::{State, Table},
    trust::Trust,
};
use crate::{
    clock::Now,
    identity::NodeId,
    wire::v1::{self, member_update, overlay_message::Kind},
};

/// How often and how long. All chosen, with the reason beside each.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    /// Time between two probes by one node, and so the mean time until a death is met.
    pub probe_period: Duration,
    /// How long a ping may take (above the 99th percentile of round trips in the wild).
    pub ping_timeout: Duration,
    /// How long a suspect may refute: two spreads and a slow path.
    pub suspicion_time: Duration,
    /// Time between two pings of dead members.
    pub dead_probe_period: Duration,
    /// How long the dead are remembered: how long a partition may last and still heal by itself.
    pub dead_memory: Duration,
    /// Time between two comparisons of the table with a random member's.
    pub reconcile_period: Duration,
    /// Members in each slice that are given news to pass on.
    pub delegates_per_slice: usize,
}

impl Default for MembershipConfig {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_secs(10),
            ping_timeout: Duration::from_millis(1500),
            suspicion_time: Duration::from_secs(12),
            dead_probe_period: Duration::from_secs(15),
            dead_memory: Duration::from_secs(3 * 3600),
            reconcile_period: Duration::from_secs(60),
            delegates_per_slice: 2,
        }
    }
}

/// What changed for those who depend on the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberEvent {
    /// A member joined or came back.
    Up(NodeId),
    /// A member is dead or left.
    Down(NodeId),
}

/// Counters for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct MembershipStatistics {
    /// Statements sent, in any message.
    pub statements_sent: u64,
    /// Times this node refuted a suspicion.
    pub refutations: u64,
    /// Suspicions that this node's own probes raised.
    pub suspicions_raised: u64,
}

#[derive(Debug)]
pub(super) struct Probe {
    node: NodeId,
    deadline: Instant,
    indirect: bool,
}

/// The membership machine.
pub struct Membership {
    pub(super) config: MembershipConfig,
    pub(super) own: Arc<SuperNode>,
    pub(super) table: Table,
    pub(super) rng: ChaCha12Rng,
    pub(super) out: Vec<(NodeId, Kind)>,
    pub(super) events: Vec<MemberEvent>,
    pub(super) load_percent: u32,
    /// Pings awaiting answers, by request. Bound: one per period and timeout, plus 64 urgent ones.
    pub(super) probes: BTreeMap<u64, Probe>,
    /// Pings done for others: request here to (asker, its request). Bound: [`RELAYED_MAX`].
    relayed: VecDeque<(u64, NodeId, u64)>,
    suspects: VecDeque<(Instant, NodeId, u64)>,
    round: Vec<NodeId>,
    next_probe: Instant,
    next_dead_probe: Instant,
    pub(super) next_reconcile: Instant,
    /// When the table is walked for who has been dead for long.
    next_forgetting: Instant,
    next_request: u64,
    refuted_at: Option<Instant>,
    pub(super) statistics: MembershipStatistics,
    pub(super) joining: super::joining::Joining,
}

/// Most pings done for others at a time (chosen).
const RELAYED_MAX: usize = 256;

/// Most pings under way besides the regular round (chosen).
const URGENT_PROBES_MAX: usize = 64;

/// Members asked to ping on our behalf (SWIM's k; its authors use 3).
const INDIRECT_PROBES: usize = 3;

/// Least time between two refutations (chosen: bounds what false accusers can make us send).
const REFUTATION_INTERVAL: Duration = Duration::from_secs(2);

impl Membership {
    /// A membership of this node alone.
    pub fn new(now: Now, config: MembershipConfig, own: Arc<SuperNode>, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut spread = |period: Duration| now.instant + period.mul_f64(rng.random::<f64>());
        let next_probe = spread(config.probe_period);
        let next_dead_probe = spread(config.dead_probe_period);
        let next_reconcile = spread(config.reconcile_period);
        let next_request = rng.random::<u64>() >> 1;
        Self {
            config,
            own,
            table: Table::new(),
            rng,
            out: Vec::new(),
            events: Vec::new(),
            load_percent: 0,
            probes: BTreeMap::new(),
            relayed: VecDeque::new(),
            suspects: VecDeque::new(),
            round: Vec::new(),
            next_probe,
            next_dead_probe,
            next_reconcile,
            next_forgetting: now.instant,
            next_request,
            refuted_at: None,
            statistics: MembershipStatistics::default(),
            joining: super::joining::Joining::default(),
        }
    }

    /// The table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// This node's own statement.
    pub fn own(&self) -> &Arc<SuperNode> {
        &self.own
    }

    /// Hash over all members, this node among them.
    pub fn hash(&self) -> u64 {
        self.table.hash() ^ super::mix::member_hash(self.own.node, self.own.incarnation)
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Instant {
        let mut at = self.next_probe.min(self.next_dead_probe).min(self.next_reconcile);
        if let Some(deadline) = self.probes.values().map(|probe| probe.deadline).min() {
            at = at.min(deadline);
        }
        if let Some((deadline, ..)) = self.suspects.front() {
            at = at.min(*deadline);
        }
        self.joining.next_timeout().map_or(at, |deadline| at.min(deadline))
    }

    /// Runs whatever is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let instant = now.instant;
        if instant >= self.next_probe {
            self.next_probe = instant + self.config.probe_period;
            self.probe_next(instant);
        }
        if instant >= self.next_dead_probe {
            self.next_dead_probe = instant + self.config.dead_probe_period;
            self.probe_dead(instant);
        }
        if instant >= self.next_reconcile {
            self.next_reconcile = instant + self.config.reconcile_period;
            if instant >= self.next_forgetting {
                self.next_forgetting = instant + self.config.dead_memory / 20;
                self.forget_dead(instant);
            }
            self.start_reconcile();
        }
        self.expire_probes(now);
        self.expire_suspects(instant);
        self.continue_joining(now);
    }

    /// Signs a new statement of this node and spreads it.
    pub fn restate(&mut self, now: Now, trust: &dyn Trust, change: impl FnOnce(&mut SuperNode)) {
        let mut own = SuperNode::clone(&self.own);
        change(&mut own);
        own.incarnation = now.unix.0.max(self.own.incarnation + 1);
        own.certificate = trust.certificate();
        let mut wire = own.to_wire();
        own.signature = trust.sign(&statement_signed_part(own.node, &wire));
        wire.signature = own.signature.clone();
        // The simulator's trust gives out one shared copy for all nodes.
        self.own = trust.super_node(&wire, now.unix).unwrap_or_else(|| Arc::new(own));
        let update = member_update::Kind::Statement(self.own.to_wire());
        self.originate(vec![update]);
    }

    /// Takes a statement from anywhere. Returns whether it was news.
    pub fn learn(&mut self, now: Now, trust: &dyn Trust, wire: &v1::SuperNodeStatement) -> bool {
        let Some(node) = NodeId::from_slice(&wire.node) else { return false };
        if node == self.own.node {
            return false;
        }
        if self.table.get(&node).is_some_and(|m| m.super_node.incarnation >= wire.incarnation) {
            return false;
        }
        let Some(super_node) = trust.super_node(wire, now.unix) else { return false };
        self.admit(now.instant, super_node)
    }

    /// Takes a checked statement.
    pub fn admit(&mut self, now: Instant, super_node: Arc<SuperNode>) -> bool {
        let node = super_node.node;
        let leaving = super_node.leaving;
        let block = self.table.get(&node).map(|member| member.super_node.block());
        let has_moved = block.is_some_and(|block| block != super_node.block());
        let before = self.table.insert(now, super_node);
        let was_up = before.is_some_and(|state| state != State::Dead);
        if leaving {
            self.table.set_state(now, &node, State::Dead);
            if was_up {
                self.events.push(MemberEvent::Down(node));
            }
        } else if (!was_up || has_moved) && self.table.is_present(&node) {
            self.events.push(MemberEvent::Up(node));
        }
        true
    }

    /// Somebody says that `node` does not answer. Returns whether it was news.
    pub fn suspect(&mut self, now: Now, trust: &dyn Trust, node: NodeId, incarnation: u64) -> bool {
        if node == self.own.node {
            self.refute(now, trust, incarnation);
            return false;
        }
        let Some(member) = self.table.get(&node) else { return false };
        if member.state != State::Alive || member.super_node.incarnation != incarnation {
            return false;
        }
        self.table.set_state(now.instant, &node, State::Suspect);
        let deadline = now.instant + self.config.suspicion_time;
        self.suspects.push_back((deadline, node, incarnation));
        true
    }

    /// Says that this node is alive after all.
    fn refute(&mut self, now: Now, trust: &dyn Trust, incarnation: u64) {
        let too_soon = self.refuted_at.is_some_and(|at| now.instant < at + REFUTATION_INTERVAL);
        if incarnation != self.own.incarnation || self.own.leaving || too_soon {
            return;
        }
        self.refuted_at = Some(now.instant);
        self.statistics.refutations += 1;
        self.restate(now, trust, |_| {});
    }

    /// Answers a ping.
    pub fn handle_ping(&mut self, now: Now, trust: &dyn Trust, from: NodeId, ping: &v1::Ping) {
        if ping.suspected != 0 {
            self.refute(now, trust, ping.suspected);
        }
        self.table.set_load(now.instant, &from, ping.load_percent);
        let pong = v1::Pong {
            request: ping.request,
            membership: self.hash(),
            load_percent: self.load_percent,
            suspected: self.suspected_incarnation(&from),
            on_behalf_of: bytes::Bytes::new(),
        };
        self.out.push((from, Kind::Pong(pong)));
        if ping.suspected != 0 {
            self.show_own_statement(from);
        }
    }

    /// Takes the answer to a ping of ours, or to one that was asked of another.
    pub fn handle_pong(&mut self, now: Now, trust: &dyn Trust, from: NodeId, pong: &v1::Pong) {
        if pong.suspected != 0 {
            self.refute(now, trust, pong.suspected);
            self.show_own_statement(from);
        }
        let reached = NodeId::from_slice(&pong.on_behalf_of).unwrap_or(from);
        if reached == from {
            self.table.set_load(now.instant, &from, pong.load_percent);
            self.pass_on_pong(from, pong);
        }
        let answered = self.probes.get(&pong.request).is_some_and(|probe| probe.node == reached);
        if answered {
            self.probes.remove(&pong.request);
        }
        if !answered || reached != from {
            return;
        }
        self.compare_hash(now.instant, from, pong.membership);
        if self.suspected_incarnation(&from) != 0 {
            // It answers: let it refute, and look for more of its side of a healed partition.
            self.ping(now.instant, from);
            self.next_dead_probe = self.next_dead_probe.min(now.instant + HEALING_PROBE_PERIOD);
        }
    }

    /// Pings on behalf of another member.
    pub fn handle_ping_request(&mut self, from: NodeId, request: &v1::PingRequest) {
        let Some(node) = NodeId::from_slice(&request.node) else { return };
        if self.table.get(&node).is_none() || self.relayed.len() >= RELAYED_MAX {
            return;
        }
        let own_request = self.new_request();
        self.relayed.push_back((own_request, from, request.request));
        self.push_ping(node, own_request);
    }

    /// Pings a member out of turn, because something else failed to reach it.
    pub fn check(&mut self, now: Instant, node: NodeId) {
        let known = self.table.get(&node).is_some_and(|m| m.state == State::Alive);
        let under_way = self.probes.values().any(|probe| probe.node == node);
        if known && !under_way && self.probes.len() < URGENT_PROBES_MAX {
            self.ping(now, node);
        }
    }

    /// The incarnation at which `node` counts as suspect or dead here; 0 if it does not.
    fn suspected_incarnation(&self, node: &NodeId) -> u64 {
        let member = self.table.get(node).filter(|member| member.state != State::Alive);
        member.map_or(0, |member| member.super_node.incarnation)
    }

    fn show_own_statement(&mut self, to: NodeId) {
        self.send_updates(to, vec![member_update::Kind::Statement(self.own.to_wire())], 2);
    }

    fn pass_on_pong(&mut self, from: NodeId, pong: &v1::Pong) {
        let Some(place) = self.relayed.iter().position(|entry| entry.0 == pong.request) else {
            return;
        };
        let Some((_, asker, request)) = self.relayed.remove(place) else { return };
        let answer = v1::Pong {
            request,
            membership: self.hash(),
            load_percent: self.load_percent,
            suspected: 0,
            on_behalf_of: bytes::Bytes::copy_from_slice(&from.0),
        };
        self.out.push((asker, Kind::Pong(answer)));
    }

    fn probe_next(&mut self, now: Instant) {
        while self.relayed.len() > RELAYED_MAX / 2 {
            self.relayed.pop_front();
        }
        for _ in 0..2 {
            while let Some(node) = self.round.pop() {
                if self.table.is_present(&node) {
                    return self.ping(now, node);
                }
            }
            self.round = self.table.iter().map(|member| member.super_node.node).collect();
            rand::seq::SliceRandom::shuffle(self.round.as_mut_slice(), &mut self.rng);
        }
    }

    fn probe_dead(&mut self, now: Instant) {
        if self.table.dead() == 0 {
            return;
        }
        let gone = |m: &super::table::Member| m.state == State::Dead && !m.super_node.leaving;
        if let Some(member) = self.table.random(&mut self.rng, gone) {
            let node = member.super_node.node;
            self.ping(now, node);
        }
    }

    fn ping(&mut self, now: Instant, node: NodeId) {
        let request = self.new_request();
        let deadline = now + self.config.ping_timeout;
        self.probes.insert(request, Probe { node, deadline, indirect: false });
        self.push_ping(node, request);
    }

    fn push_ping(&mut self, node: NodeId, request: u64) {
        let ping = v1::Ping {
            request,
            membership: self.hash(),
            load_percent: self.load_percent,
            suspected: self.suspected_incarnation(&node),
        };
        self.out.push((node, Kind::Ping(ping)));
    }

    fn expire_probes(&mut self, now: Now) {
        let late = self.probes.iter().filter(|(_, probe)| probe.deadline <= now.instant);
        let due: Vec<u64> = late.map(|(request, _)| *request).collect();
        for request in due {
            let Some(mut probe) = self.probes.remove(&request) else { continue };
            if !self.table.is_present(&probe.node) {
                continue;
            }
            if probe.indirect {
                self.raise_suspicion(now, probe.node);
                continue;
            }
            self.ask_others_to_ping(probe.node, request);
            probe.indirect = true;
            probe.deadline = now.instant + self.config.ping_timeout * 2;
            self.probes.insert(request, probe);
        }
    }

    fn ask_others_to_ping(&mut self, node: NodeId, request: u64) {
        for _ in 0..INDIRECT_PROBES {
            let other =
                |m: &super::table::Member| m.state == State::Alive && m.super_node.node != node;
            let Some(helper) = self.table.random(&mut self.rng, other) else { return };
            let helper = helper.super_node.node;
            let node = bytes::Bytes::copy_from_slice(&node.0);
            self.out.push((helper, Kind::PingRequest(v1::PingRequest { request, node })));
        }
        // Once more directly: the first ping or its answer may have been lost.
        self.push_ping(node, request);
    }

    fn raise_suspicion(&mut self, now: Now, node: NodeId) {
        let Some(member) = self.table.get(&node) else { return };
        let incarnation = member.super_node.incarnation;
        if member.state != State::Alive {
            return;
        }
        self.statistics.suspicions_raised += 1;
        self.table.set_state(now.instant, &node, State::Suspect);
        let deadline = now.instant + self.config.suspicion_time;
        self.suspects.push_back((deadline, node, incarnation));
        let node = bytes::Bytes::copy_from_slice(&node.0);
        let update = member_update::Kind::Suspicion(v1::Suspicion { node, incarnation });
        self.originate(vec![update]);
    }

    fn expire_suspects(&mut self, now: Instant) {
        while self.suspects.front().is_some_and(|(deadline, ..)| *deadline <= now) {
            let Some((_, node, incarnation)) = self.suspects.pop_front() else { return };
            let unrefuted = self.table.get(&node).is_some_and(|member| {
                member.state == State::Suspect && member.super_node.incarnation == incarnation
            });
            if unrefuted {
                self.table.set_state(now, &node, State::Dead);
                self.events.push(MemberEvent::Down(node));
            }
        }
    }

    fn forget_dead(&mut self, now: Instant) {
        let expired: Vec<NodeId> = (0..self.table.places())
            .filter_map(|place| self.table.at(place))
            .filter(|m| m.state == State::Dead && now >= m.since + self.config.dead_memory)
            .map(|m| m.super_node.node)
            .collect();
        for node in expired {
            self.table.forget(&node);
        }
    }

    pub(super) fn new_request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }
}

/// Time between pings of dead members while they answer: a partition is healing (chosen).
const HEALING_PROBE_PERIOD: Duration = Duration::from_millis(500);
