//! Which super nodes keep a shard of the Global Index: rendezvous hashing (Thaler, Ravishankar
//! 1998).
//!
//! A key belongs to one of [`SHARDS`] shards (its first two bytes); every super node scores for
//! every shard, and the best [`KEEPERS`] keep it. Of the keepers at most two lie in one address
//! block, so that an owner of many addresses in one place cannot surround a name. Ranking whole
//! shards
//! rather than single keys makes a membership change cost a look at the few shards that a node
//! holds.

use super::{
    mix::{mix64, node64},
    statement::AddressBlock,
    table::Table,
};
use crate::identity::{NameKey, NodeId};

/// Shards of the index (part of the protocol; chosen: 5 per super node at 100,000, and a shard of
/// a few kilobytes at 2,000).
pub const SHARDS: u32 = 65_536;

/// Super nodes that hold each record. Chosen: with 30 % killed at once a shard is lost with
/// probability 0.3^16 = 4e-9, any of 65,536 with 0.03 %; with 12 it was 3.5 % (seen with one seed
/// of four), and 8, the number first asked, would lose 4 shards each time.
pub const KEEPERS: usize = 16;

/// Keepers asked first by a look-up (paper, section IV C: eight nodes).
pub const ASKED_FIRST: usize = 8;

/// Super nodes asked when the first disagree or know nothing (paper, section IV C: sixteen more).
pub const ASKED_MORE: usize = 16;

/// Super nodes that are ranked for a shard; the spare ones step in as keepers die.
pub const RANKED: usize = ASKED_FIRST + ASKED_MORE;

/// Most keepers in one address block (chosen).
const PER_BLOCK_MAX: usize = 2;

/// The shard that a key belongs to.
pub fn shard_of(key: &NameKey) -> u32 {
    u32::from(u16::from_be_bytes([key.0[0], key.0[1]]))
}

/// How well `node` suits `shard`; the highest keep it.
pub fn score(node: NodeId, shard: u32) -> u64 {
    mix64(node64(node) ^ mix64(u64::from(shard) + 1))
}

/// The lowest score that is ranked in each shard of a keeper: most changes of the membership
/// concern no shard, and are told by a walk over these few kilobytes alone.
#[derive(Default)]
pub struct Lowest {
    shards: Vec<u32>,
    /// What the score of each shard is made of, and its lowest.
    scores: Vec<(u64, u64)>,
}

impl Lowest {
    /// Remembers, or changes, the lowest of a shard.
    pub fn set(&mut self, shard: u32, lowest: u64) {
        match self.shards.binary_search(&shard) {
            Ok(place) => self.scores[place].1 = lowest,
            Err(place) => {
                self.shards.insert(place, shard);
                self.scores.insert(place, (mix64(u64::from(shard) + 1), lowest));
            }
        }
    }

    /// Forgets a shard.
    pub fn remove(&mut self, shard: u32) {
        if let Ok(place) = self.shards.binary_search(&shard) {
            self.shards.remove(place);
            self.scores.remove(place);
        }
    }

    /// The shards in which `node` scores high enough to be ranked.
    pub fn concerned(&self, node: NodeId) -> Vec<u32> {
        let node = node64(node);
        let scores = self.scores.iter().zip(&self.shards);
        let concerned = scores.filter(|((part, lowest), _)| mix64(node ^ part) >= *lowest);
        concerned.map(|(_, shard)| *shard).collect()
    }
}

/// The best super nodes for one shard, best first.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// The lowest score that is ranked, 0 while there is room: most super nodes that come or go are
    /// below it, and are told from the others without a look at the lists.
    lowest: u64,
    by_score: Vec<Scored>,
    ranked: Vec<NodeId>,
}

/// A super node with its score for the shard, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scored {
    score: u64,
    node: NodeId,
    block: AddressBlock,
}

impl Scored {
    fn new((node, block): (NodeId, AddressBlock), shard: u32) -> Self {
        Self { score: score(node, shard), node, block }
    }

    fn rank(&self) -> (u64, NodeId) {
        (self.score, self.node)
    }
}

impl Placement {
    /// Ranks all present members and this node itself.
    pub fn rank(table: &Table, own: (NodeId, AddressBlock), shard: u32) -> Self {
        let mut by_score: Vec<Scored> = Vec::with_capacity(RANKED + 1);
        insert(&mut by_score, Scored::new(own, shard));
        for place in table.iter_places() {
            insert(&mut by_score, Scored::new(place, shard));
        }
        let mut placement = Self { lowest: 0, by_score, ranked: Vec::with_capacity(RANKED) };
        placement.order();
        placement
    }

    /// The lowest score that is ranked: whoever is below it does not concern the shard.
    pub fn lowest(&self) -> u64 {
        self.lowest
    }

    /// The keepers, best first.
    pub fn keepers(&self) -> &[NodeId] {
        &self.ranked[..self.ranked.len().min(KEEPERS)]
    }

    /// The keepers and those who would step in, best first.
    pub fn ranked(&self) -> &[NodeId] {
        &self.ranked
    }

    /// Place of `node` in the ranking.
    pub fn place(&self, node: NodeId) -> Option<usize> {
        self.ranked.iter().position(|other| *other == node)
    }

    /// A super node joined, or moved to another block. Returns whether the ranking changed.
    pub fn add(&mut self, table: &Table, shard: u32, node: NodeId) -> bool {
        let Some(block) = table.get(&node).map(|member| member.super_node.block()) else {
            return false;
        };
        let scored = Scored::new((node, block), shard);
        let changed = scored.score >= self.lowest && insert(&mut self.by_score, scored);
        if changed {
            self.order();
        }
        changed
    }

    /// A super node died. Returns whether the ranking changed.
    pub fn remove(
        &mut self,
        table: &Table,
        own: (NodeId, AddressBlock),
        shard: u32,
        node: NodeId,
    ) -> bool {
        let Some(place) = self.position(shard, node) else { return false };
        self.by_score.remove(place);
        if self.by_score.len() < KEEPERS + 2 && table.present() >= self.by_score.len() {
            *self = Self::rank(table, own, shard);
        } else {
            self.order();
        }
        true
    }

    /// Whether `node` is ranked for `shard`.
    pub fn is_ranked(&self, shard: u32, node: NodeId) -> bool {
        self.position(shard, node).is_some()
    }

    fn position(&self, shard: u32, node: NodeId) -> Option<usize> {
        if score(node, shard) < self.lowest {
            return None;
        }
        self.by_score.iter().position(|entry| entry.node == node)
    }

    fn order(&mut self) {
        let is_full = self.by_score.len() >= RANKED;
        self.lowest = self.by_score.last().filter(|_| is_full).map_or(0, |last| last.score);
        self.ranked.clear();
        // Crowded blocks are rare: nothing is allocated for them unless there is one.
        let mut crowded = Vec::new();
        for (place, &Scored { node, block, .. }) in self.by_score.iter().enumerate() {
            let same = self.by_score[..place].iter().filter(|before| before.block == block);
            if same.take(PER_BLOCK_MAX).count() < PER_BLOCK_MAX {
                self.ranked.push(node);
            } else {
                crowded.push(node);
            }
        }
        self.ranked.append(&mut crowded);
    }
}

fn insert(by_score: &mut Vec<Scored>, entry: Scored) -> bool {
    if by_score.len() >= RANKED && by_score.last().is_some_and(|last| last.rank() > entry.rank()) {
        return false;
    }
    let place = by_score.partition_point(|other| other.rank() > entry.rank());
    if let Some(same) = by_score.get_mut(place).filter(|other| other.node == entry.node) {
        let moved = same.block != entry.block;
        *same = entry;
        return moved;
    }
    by_score.insert(place, entry);
    by_score.truncate(RANKED);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranking_is_by_score_and_bounded() {
        let mut by_score = Vec::new();
        for byte in 0..100_u8 {
            insert(&mut by_score, Scored::new((NodeId([byte; 16]), AddressBlock(0)), 7));
        }
        assert_eq!(by_score.len(), RANKED);
        assert!(by_score.windows(2).all(|pair| pair[0].rank() > pair[1].rank()));
        let best = (0..100_u8).map(|b| score(NodeId([b; 16]), 7)).max();
        assert_eq!(Some(by_score[0].score), best);
    }

    #[test]
    fn a_node_is_ranked_once_where_it_was_last() {
        let mut by_score = Vec::new();
        let node = NodeId([1; 16]);
        assert!(insert(&mut by_score, Scored::new((node, AddressBlock(1)), 7)));
        assert!(!insert(&mut by_score, Scored::new((node, AddressBlock(1)), 7)));
        assert!(insert(&mut by_score, Scored::new((node, AddressBlock(2)), 7)));
        assert_eq!(by_score, [Scored::new((node, AddressBlock(2)), 7)]);
    }
}
