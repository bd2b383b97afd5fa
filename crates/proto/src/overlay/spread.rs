//! Spreading news to all members in two hops.
//!
//! The table is cut into about √n *slices* by the leading bits of the node id. Who has news sends
//! it
//! to `delegates_per_slice` random members of each slice (`hops` 1); each of these sends it to its
//! whole slice (`hops` 0). Everybody hears it within two one-way delays, nobody sends more
//! than a few times √n datagrams, and what a lost datagram or a hostile delegate swallowed is
//! repaired by reconciling.
//!
//! ```text
//!   origin ──hops 1──▶ delegate of slice 0 ──hops 0──▶ members of slice 0
//!          ──hops 1──▶ delegate of slice 1 ──hops 0──▶ members of slice 1 …
//! ```

use prost::Message;
use rand::Rng;

use super::{
    DATAGRAM_PAYLOAD_BYTES_MAX,
    membership::Membership,
    table::{BUCKETS, State},
    trust::Trust,
};
use crate::{
    clock::Now,
    identity::NodeId,
    wire::v1::{self, member_update, overlay_message::Kind},
};

/// Most updates taken from one datagram (chosen: more than fit).
const UPDATES_MAX: usize = 64;

/// How many slices a network of `members` has: the power of two next above √n, at most one per
/// bucket.
pub(super) fn slices(members: usize) -> usize {
    let root = (members as f64).sqrt().ceil() as usize;
    root.next_power_of_two().min(BUCKETS)
}

impl Membership {
    /// Starts spreading news to everybody.
    pub(super) fn originate(&mut self, updates: Vec<member_update::Kind>) {
        let slices = slices(self.table.present());
        for slice in 0..slices {
            for delegate in self.delegates(slice, slices) {
                self.send_updates(delegate, updates.clone(), 1);
            }
        }
    }

    /// Takes news from another member and passes on what is new.
    pub fn handle_spread(&mut self, now: Now, trust: &dyn Trust, from: NodeId, spread: v1::Spread) {
        let mut news = Vec::new();
        for update in spread.updates.into_iter().take(UPDATES_MAX) {
            let Some(kind) = update.kind else { continue };
            let is_news = match &kind {
                member_update::Kind::Statement(statement) => self.learn(now, trust, statement),
                member_update::Kind::Suspicion(suspicion) => {
                    self.hear_suspicion(now, trust, from, suspicion)
                }
            };
            if is_news {
                news.push(kind);
            }
        }
        match spread.hops {
            _ if news.is_empty() => {}
            0 => {}
            1 => self.spread_in_own_slice(from, news),
            _ => self.originate(news),
        }
    }

    fn hear_suspicion(
        &mut self,
        now: Now,
        trust: &dyn Trust,
        from: NodeId,
        suspicion: &v1::Suspicion,
    ) -> bool {
        let Some(node) = NodeId::from_slice(&suspicion.node) else { return false };
        let newer = self
            .table
            .get(&node)
            .filter(|m| m.super_node.incarnation > suspicion.incarnation)
            .map(|m| member_update::Kind::Statement(m.super_node.to_wire()));
        if let Some(statement) = newer {
            // Old news: the suspect has refuted since.
            self.send_updates(from, vec![statement], 0);
            return false;
        }
        self.suspect(now, trust, node, suspicion.incarnation)
    }

    fn spread_in_own_slice(&mut self, from: NodeId, news: Vec<member_update::Kind>) {
        let slices = slices(self.table.present());
        let width = BUCKETS / slices;
        let first = usize::from(self.own.node.0[0]) / width * width;
        let members: Vec<NodeId> = (first..first + width)
            .flat_map(|bucket| self.table.bucket(bucket).iter().copied())
            .filter(|node| *node != from)
            .collect();
        for member in members {
            self.send_updates(member, news.clone(), 0);
        }
    }

    fn delegates(&mut self, slice: usize, slices: usize) -> Vec<NodeId> {
        let width = BUCKETS / slices;
        let buckets = slice * width..(slice + 1) * width;
        let size: usize = buckets.clone().map(|bucket| self.table.bucket(bucket).len()).sum();
        let mut chosen = Vec::with_capacity(self.config.delegates_per_slice);
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            if size == 0 || chosen.len() >= self.config.delegates_per_slice.min(size) {
                break;
            }
            let mut place = self.rng.random_range(0..size);
            for bucket in buckets.clone() {
                let nodes = self.table.bucket(bucket);
                if place < nodes.len() {
                    let node = nodes[place];
                    let alive = self.table.get(&node).is_some_and(|m| m.state == State::Alive);
                    if alive && !chosen.contains(&node) {
                        chosen.push(node);
                    }
                    break;
                }
                place -= nodes.len();
            }
        }
        chosen
    }

    pub(super) fn send_updates(
        &mut self,
        to: NodeId,
        updates: Vec<member_update::Kind>,
        hops: u32,
    ) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for kind in updates {
            if matches!(kind, member_update::Kind::Statement(_)) {
                self.statistics.statements_sent += 1;
            }
            let update = v1::MemberUpdate { kind: Some(kind) };
            let length = update.encoded_len() + 4;
            if bytes + length > DATAGRAM_PAYLOAD_BYTES_MAX && !batch.is_empty() {
                let updates = std::mem::take(&mut batch);
                self.out.push((to, Kind::Spread(v1::Spread { updates, hops })));
                bytes = 0;
            }
            bytes += length;
            batch.push(update);
        }
        if !batch.is_empty() {
            self.out.push((to, Kind::Spread(v1::Spread { updates: batch, hops })));
        }
    }
}
