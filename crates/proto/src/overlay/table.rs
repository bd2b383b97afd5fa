//! The table of members: who they are, in which state, and the hashes by which two tables compare.
//!
//! State of a member, as one node sees it:
//!
//! ```text
//!            statement                suspicion (own probe failed, or told)
//!   unknown ───────────▶ alive ─────────────────────────────▶ suspect
//!                          ▲   statement of higher incarnation   │ suspicion time over
//!                          └──────────────◀──────────────────────┤
//!                          └──────────────◀───────────────────  dead ──▶ forgotten
//! ```
//!
//! Bound: [`MEMBERS_MAX`]; at the bound new members are not taken (a network of that size needs the
//! second tier of the design).

use std::{
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use indexmap::IndexMap;
use rand::Rng;
use rand_chacha::ChaCha12Rng;

use super::{
    mix::member_hash,
    statement::{AddressBlock, SuperNode},
};
use crate::identity::NodeId;

/// Most members in the table (chosen: twice the size that the design aims at).
pub const MEMBERS_MAX: usize = 200_000;

/// Buckets of the table, by first byte of the node id (part of the protocol).
pub const BUCKETS: usize = 256;

/// What this node thinks of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Answers, as far as anyone said.
    Alive,
    /// Did not answer somebody; may still refute.
    Suspect,
    /// Did not refute in time, or left.
    Dead,
}

/// One member.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its newest statement.
    pub super_node: Arc<SuperNode>,
    /// What this node thinks of it.
    pub state: State,
    /// When that began.
    pub since: Instant,
    /// Its load as it told last, in percent of its capacity.
    pub load_percent: u8,
    /// The block of its address: rankings look at all members, and at nothing else of them.
    block: AddressBlock,
    /// When it told; `None` if it did not yet.
    pub load_told: Option<Instant>,
}

impl Member {
    /// Whether it counts as a member: alive or suspect.
    pub fn is_present(&self) -> bool {
        self.state != State::Dead
    }
}

/// Node ids are hashes already: their first eight bytes need no hashing again.
#[derive(Default, Clone)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            self.0 = super::mix::mix64(self.0 ^ super::mix::prefix64(chunk));
        }
    }

    fn write_usize(&mut self, _length_prefix: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Members and their hashes.
#[derive(Default)]
pub struct Table {
    members: IndexMap<NodeId, Member, BuildHasherDefault<IdHasher>>,
    buckets: Vec<Bucket>,
    present: usize,
    hash: u64,
    changed: Option<Instant>,
}

#[derive(Default, Clone)]
struct Bucket {
    nodes: Vec<NodeId>,
    dead: Vec<NodeId>,
    hash: u64,
}

impl Table {
    /// An empty table.
    pub fn new() -> Self {
        Self { buckets: vec![Bucket::default(); BUCKETS], ..Self::default() }
    }

    /// How many members are alive or suspect.
    pub fn present(&self) -> usize {
        self.present
    }

    /// How many members are remembered as dead.
    pub fn dead(&self) -> usize {
        self.members.len() - self.present
    }

    /// Hash over all present members.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether nothing changed for this long.
    pub fn is_quiet(&self, now: Instant, span: Duration) -> bool {
        self.changed.is_none_or(|at| now >= at + span)
    }

    /// What is known of `node`.
    pub fn get(&self, node: &NodeId) -> Option<&Member> {
        self.members.get(node)
    }

    /// Whether `node` is alive or suspect.
    pub fn is_present(&self, node: &NodeId) -> bool {
        self.members.get(node).is_some_and(Member::is_present)
    }

    /// Remembers the load that a member told.
    pub fn set_load(&mut self, now: Instant, node: &NodeId, percent: u32) {
        if let Some(member) = self.members.get_mut(node) {
            member.load_told = Some(now);
            member.load_percent = percent.min(255) as u8;
        }
    }

    /// Takes a statement that is newer than what is known. Returns the state before.
    pub fn insert(&mut self, now: Instant, super_node: Arc<SuperNode>) -> Option<State> {
        let node = super_node.node;
        let before = self.members.get(&node).map(|member| member.state);
        if before.is_none() && self.members.len() >= MEMBERS_MAX {
            return None;
        }
        self.changed = Some(now);
        self.unlink(&node);
        let known = self.members.get(&node);
        let load_percent = known.map_or(0, |member| member.load_percent);
        let load_told = known.and_then(|member| member.load_told);
        let block = super_node.block();
        let (state, since) = (State::Alive, now);
        let member = Member { super_node, state, since, load_percent, load_told, block };
        self.members.insert(node, member);
        self.link(&node);
        before
    }

    /// Moves a known member to another state.
    pub fn set_state(&mut self, now: Instant, node: &NodeId, state: State) {
        self.changed = Some(now);
        self.unlink(node);
        if let Some(member) = self.members.get_mut(node) {
            member.state = state;
            member.since = now;
        }
        self.link(node);
    }

    /// Forgets a member.
    pub fn forget(&mut self, node: &NodeId) {
        self.unlink(node);
        self.members.swap_remove(node);
    }

    /// The member at a place in the table, for walking it; places change with every forgetting.
    pub fn at(&self, place: usize) -> Option<&Member> {
        self.members.get_index(place).map(|(_, member)| member)
    }

    /// Places in the table.
    pub fn places(&self) -> usize {
        self.members.len()
    }

    /// All present members.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.is_present())
    }

    /// Who all present members are, and in which blocks they lie.
    pub fn iter_places(&self) -> impl Iterator<Item = (NodeId, AddressBlock)> {
        let present = self.members.iter().filter(|(_, member)| member.is_present());
        present.map(|(node, member)| (*node, member.block))
    }

    /// A random member for which `wanted` holds, or `None` after a bounded number of tries.
    pub fn random(
        &self,
        rng: &mut ChaCha12Rng,
        wanted: impl Fn(&Member) -> bool,
    ) -> Option<&Member> {
        if self.members.is_empty() {
            return None;
        }
        const TRIES: usize = 48;
        for _ in 0..TRIES {
            let member = &self.members[rng.random_range(0..self.members.len())];
            if wanted(member) {
                return Some(member);
            }
        }
        let start = rng.random_range(0..self.members.len());
        (0..self.members.len().min(4096))
            .map(|step| &self.members[(start + step) % self.members.len()])
            .find(|member| wanted(member))
    }

    /// Present members of a bucket.
    pub fn bucket(&self, bucket: usize) -> &[NodeId] {
        &self.buckets[bucket].nodes
    }

    /// The member whose id begins with these eight bytes, present or dead.
    pub fn find_by_prefix(&self, bucket: usize, id: u64) -> Option<&Member> {
        let bucket = self.buckets.get(bucket)?;
        let mut nodes = bucket.nodes.iter().chain(&bucket.dead);
        let node = nodes.find(|node| super::mix::node64(**node) == id)?;
        self.members.get(node)
    }

    /// Four bytes of each bucket's hash.
    pub fn bucket_hashes(&self) -> Vec<u8> {
        let mut hashes = Vec::with_capacity(BUCKETS * 4);
        for bucket in &self.buckets {
            hashes.extend_from_slice(&bucket.hash.to_be_bytes()[..4]);
        }
        hashes
    }

    /// Bytes of memory that the table holds, without what members share.
    pub fn memory_bytes(&self) -> usize {
        let per_member = size_of::<(u64, NodeId, Member)>() + 16;
        self.members.capacity() * per_member + self.present * size_of::<NodeId>()
    }

    fn unlink(&mut self, node: &NodeId) {
        let Some(member) = self.members.get(node) else { return };
        let bucket = &mut self.buckets[usize::from(node.0[0])];
        let list = if member.is_present() { &mut bucket.nodes } else { &mut bucket.dead };
        if let Some(place) = list.iter().position(|other| other == node) {
            list.swap_remove(place);
        }
        if member.is_present() {
            let hash = member_hash(*node, member.super_node.incarnation);
            bucket.hash ^= hash;
            self.hash ^= hash;
            self.present -= 1;
        }
    }

    fn link(&mut self, node: &NodeId) {
        let Some(member) = self.members.get(node) else { return };
        let bucket = &mut self.buckets[usize::from(node.0[0])];
        if !member.is_present() {
            bucket.dead.push(*node);
            return;
        }
        let hash = member_hash(*node, member.super_node.incarnation);
        bucket.nodes.push(*node);
        bucket.hash ^= hash;
        self.hash ^= hash;
        self.present += 1;
    }
}
