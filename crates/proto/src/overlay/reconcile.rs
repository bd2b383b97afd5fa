//! Reconciling: two members compare their tables and each learns what it lacks.
//!
//! ```text
//!   A ── Reconcile (256 bucket hashes) ──────▶ B      nothing comes back if all agree
//!   A ◀─ BucketListing (ids, incarnations) ─── B      for each bucket that differs, a few at a
//! time
//!   A ── BucketListing, last ────────────────▶ B
//!   A ── MembersRequest (what A lacks) ──────▶ B      and B likewise
//!   A ◀─ MembersPage ───────────────────────── B
//! ```
//!
//! A member that one side holds for dead at the same incarnation is not resurrected: the other side
//! is told the suspicion, pings the member itself, and the member refutes if it lives.
//!
//! Every `reconcile_period` the partner is a random member. Besides, pings and their answers carry
//! a hash over the whole table: who hears a different one while its own table has been quiet for
//! [`NEWS_TIME`] lacks something that is not on its way, and compares with that member at once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use super::{
    DATAGRAM_PAYLOAD_BYTES_MAX,
    membership::Membership,
    mix::{node64, prefix64},
    table::{BUCKETS, State},
};
use crate::{
    identity::NodeId,
    wire::v1::{self, member_update, overlay_message::Kind},
};

/// Most buckets that one reconciliation lists (chosen: a burst of at most so many datagrams).
const BUCKETS_PER_RECONCILE: usize = 24;

/// How long after a change differing hashes may only mean that news is on its way (chosen: three
/// slow hops). In a network where something changes more often the regular round has to do.
const NEWS_TIME: Duration = Duration::from_secs(3);

/// Bytes of one member in a listing: 8 of its id, 8 of its incarnation.
const LISTED_BYTES: usize = 16;

/// Most members in one listing.
const LISTED_MAX: usize = DATAGRAM_PAYLOAD_BYTES_MAX / LISTED_BYTES;

impl Membership {
    pub(super) fn start_reconcile(&mut self) {
        let alive = |m: &super::table::Member| m.state == State::Alive;
        let Some(partner) = self.table.random(&mut self.rng, alive) else { return };
        let partner = partner.super_node.node;
        self.reconcile_with(partner);
    }

    /// Compares tables with who answered a ping with this hash over its table, if that must differ.
    pub(super) fn compare_hash(&mut self, now: Instant, partner: NodeId, hash: u64) {
        if hash != self.hash() && self.table.is_quiet(now, NEWS_TIME) {
            self.reconcile_with(partner);
        }
    }

    /// Compares tables with `partner` now.
    pub(super) fn reconcile_with(&mut self, partner: NodeId) {
        let buckets = Bytes::from(self.bucket_hashes_with_own());
        self.out.push((partner, Kind::Reconcile(v1::Reconcile { buckets })));
    }

    /// Compares another's table with ours.
    pub fn handle_reconcile(&mut self, from: NodeId, reconcile: &v1::Reconcile) {
        if reconcile.buckets.len() != BUCKETS * 4 {
            return;
        }
        let own = self.bucket_hashes_with_own();
        let differing: Vec<usize> = (0..BUCKETS)
            .filter(|b| own[b * 4..b * 4 + 4] != reconcile.buckets[b * 4..b * 4 + 4])
            .collect();
        let start = rand::Rng::random_range(&mut self.rng, 0..differing.len().max(1));
        let chosen = differing.iter().cycle().skip(start);
        for bucket in chosen.take(BUCKETS_PER_RECONCILE.min(differing.len())) {
            self.send_listing(from, *bucket, false);
        }
    }

    /// Takes a bucket as another knows it.
    pub fn handle_listing(&mut self, from: NodeId, listing: &v1::BucketListing) {
        let bucket = listing.bucket as usize;
        let well_formed = bucket < BUCKETS && listing.members.len().is_multiple_of(LISTED_BYTES);
        if !well_formed || listing.members.len() > LISTED_MAX * LISTED_BYTES {
            return;
        }
        let mut wanted = Vec::new();
        let mut dead_here = Vec::new();
        for listed in listing.members.chunks_exact(LISTED_BYTES) {
            let (id, incarnation) = (prefix64(listed), prefix64(&listed[8..]));
            if id == node64(self.own.node) {
                continue;
            }
            match self.known_by_prefix(bucket, id) {
                Some((node, State::Dead, known)) if known >= incarnation => {
                    let node = Bytes::copy_from_slice(&node.0);
                    let suspicion = v1::Suspicion { node, incarnation: known };
                    dead_here.push(member_update::Kind::Suspicion(suspicion));
                }
                Some((_, _, known)) if known >= incarnation => {}
                _ => wanted.push(Bytes::copy_from_slice(&listed[..8])),
            }
        }
        if !wanted.is_empty() {
            let request = v1::MembersRequest { nodes: wanted, ..Default::default() };
            self.out.push((from, Kind::MembersRequest(request)));
        }
        self.send_updates(from, dead_here, 0);
        if !listing.last {
            self.send_listing(from, bucket, true);
        }
    }

    /// Sends members that another asked for by the beginning of their ids.
    pub(super) fn send_wanted(&mut self, to: NodeId, wanted: &[Bytes]) {
        let mut statements = Vec::new();
        for id in wanted.iter().take(LISTED_MAX) {
            let Some(first) = id.first() else { continue };
            if prefix64(id) == node64(self.own.node) {
                statements.push(self.own.to_wire());
                continue;
            }
            let known = self.known_by_prefix(usize::from(*first), prefix64(id));
            let Some((node, state, _)) = known else { continue };
            if state != State::Dead
                && let Some(member) = self.table.get(&node)
            {
                statements.push(member.super_node.to_wire());
            }
        }
        self.send_statements(to, statements);
    }

    fn send_statements(&mut self, to: NodeId, statements: Vec<v1::SuperNodeStatement>) {
        self.statistics.statements_sent += statements.len() as u64;
        let mut page = v1::MembersPage::default();
        let mut bytes = 0;
        for statement in statements {
            let length = statement.encoded_len() + 4;
            if bytes + length > DATAGRAM_PAYLOAD_BYTES_MAX && !page.statements.is_empty() {
                self.out.push((to, Kind::MembersPage(std::mem::take(&mut page))));
                bytes = 0;
            }
            bytes += length;
            page.statements.push(statement);
        }
        if !page.statements.is_empty() {
            self.out.push((to, Kind::MembersPage(page)));
        }
    }

    fn send_listing(&mut self, to: NodeId, bucket: usize, last: bool) {
        let mut members = Vec::new();
        let mut list = |node: NodeId, incarnation: u64| {
            members.extend_from_slice(&node.0[..8]);
            members.extend_from_slice(&incarnation.to_be_bytes());
        };
        let nodes = self.table.bucket(bucket);
        // A bucket above the bound is listed from a random place: repeated comparisons cover it.
        let start =
            if nodes.len() > LISTED_MAX { self.statistics.statements_sent as usize } else { 0 };
        for step in 0..nodes.len().min(LISTED_MAX - 1) {
            let node = nodes[(start + step) % nodes.len()];
            let incarnation = self.table.get(&node).map_or(0, |m| m.super_node.incarnation);
            list(node, incarnation);
        }
        if usize::from(self.own.node.0[0]) == bucket {
            list(self.own.node, self.own.incarnation);
        }
        let listing = v1::BucketListing { bucket: bucket as u32, members: members.into(), last };
        self.out.push((to, Kind::BucketListing(listing)));
    }

    /// The hashes of all buckets, with this node itself in its own.
    fn bucket_hashes_with_own(&self) -> Vec<u8> {
        let mut hashes = self.table.bucket_hashes();
        let own = super::mix::member_hash(self.own.node, self.own.incarnation).to_be_bytes();
        let place = usize::from(self.own.node.0[0]) * 4;
        for (byte, own) in hashes[place..place + 4].iter_mut().zip(own) {
            *byte ^= own;
        }
        hashes
    }

    fn known_by_prefix(&self, bucket: usize, id: u64) -> Option<(NodeId, State, u64)> {
        self.table.find_by_prefix(bucket, id).map(|member| {
            let super_node = &member.super_node;
            (super_node.node, member.state, super_node.incarnation)
        })
    }
}
