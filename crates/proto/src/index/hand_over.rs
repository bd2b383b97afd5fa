//! What a keeper that leaves does with its shards: it offers each to two others and goes when both
//! have said that they hold it.
//!
//! ```text
//!   leaving ── ShardOffer (digest, leaving) ──▶ who steps in, and a keeper that stays
//!           ◀─ ShardPull … ShardPage … ───────  as always
//!           ◀─ ShardOffer (digest) ───────────  once it holds all of it
//! ```
//!
//! A whole wave of super nodes may leave within minutes, those that step in among them: whoever
//! does not answer is passed over for the next in the ranking.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Keeper, View};
use crate::{
    identity::NodeId,
    overlay::placement::KEEPERS,
    wire::v1::{self, overlay_message::Kind},
};

/// Others that must have said that they hold a shard (chosen: one of them may leave next).
const HOLDERS_WANTED: usize = 2;

/// When the next two are asked, and how often in all (chosen: above the pages of a large shard).
const ASK_NEXT_AFTER: Duration = Duration::from_secs(3);
const ROUNDS_MAX: u8 = 5;

/// Shards offered in one go, and the time between two goes (chosen: 512 shards a second, 50
/// kilobytes).
const SHARDS_PER_TICK: usize = 64;
const TICK: Duration = Duration::from_millis(125);

/// A shard on its way to others.
#[derive(Debug, Default)]
struct Leaving {
    holders: Vec<NodeId>,
    offered_at: Option<Instant>,
    rounds: u8,
}

/// Shards that this node hands over, and those that others hand to it.
#[derive(Debug, Default)]
pub(super) struct HandOver {
    leaving: BTreeMap<u32, Leaving>,
    next: Option<Instant>,
    /// Whom to tell once a shard is complete. Bound: one for each shard held.
    pub(super) owed: BTreeMap<u32, NodeId>,
}

impl HandOver {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.next
    }
}

impl Keeper {
    /// Hands every shard over, before this node leaves.
    pub fn hand_over(&mut self, view: &View) {
        let filled = self.shards.iter().filter(|(_, state)| !state.entries.is_empty());
        let leaving = filled.map(|(shard, _)| (*shard, Leaving::default())).collect();
        self.hand_over.leaving = leaving;
        self.hand_over.next = Some(view.now.instant);
    }

    /// Shards that are not known to be held by enough others yet.
    pub fn handing_over(&self) -> usize {
        self.hand_over.leaving.len()
    }

    pub(super) fn continue_hand_over(&mut self, now: Instant) {
        if self.hand_over.next.is_none_or(|at| at > now) {
            return;
        }
        let is_due =
            |leaving: &Leaving| leaving.offered_at.is_none_or(|at| now >= at + ASK_NEXT_AFTER);
        let due = self.hand_over.leaving.iter().filter(|(_, leaving)| is_due(leaving));
        let due: Vec<u32> = due.map(|(shard, _)| *shard).take(SHARDS_PER_TICK).collect();
        for shard in due {
            self.offer_leaving(now, shard);
        }
        let more = !self.hand_over.leaving.is_empty();
        self.hand_over.next = more.then_some(now + TICK);
    }

    fn offer_leaving(&mut self, now: Instant, shard: u32) {
        let Some(leaving) = self.hand_over.leaving.get_mut(&shard) else { return };
        let state = self.shards.get(&shard).filter(|_| leaving.rounds < ROUNDS_MAX);
        let Some(state) = state else {
            self.hand_over.leaving.remove(&shard);
            return;
        };
        let (digest, entries) = (state.digest, state.entries.len() as u32);
        let complete = state.is_complete(now);
        let offer = v1::ShardOffer { shard, digest, entries, leaving: true, complete, ask: false };
        let others = state.placement.ranked().iter().filter(|node| **node != self.own);
        let others: Vec<NodeId> = others.copied().collect();
        // Who steps in comes first, then the keepers that stay, from the last to the first.
        let staying = others.len().min(KEEPERS);
        let order = others[..staying].iter().rev().chain(&others[staying..]);
        let skipped = usize::from(leaving.rounds) * HOLDERS_WANTED;
        let wanted = HOLDERS_WANTED - leaving.holders.len().min(HOLDERS_WANTED);
        let next = order.filter(|node| !leaving.holders.contains(node)).skip(skipped).take(wanted);
        let offers = next.map(|node| (*node, Kind::ShardOffer(offer)));
        let before = self.transfer.out.len();
        self.transfer.out.extend(offers);
        if self.transfer.out.len() == before {
            // There is nobody left to ask.
            self.hand_over.leaving.remove(&shard);
            return;
        }
        leaving.rounds += 1;
        leaving.offered_at = Some(now);
    }

    /// Another keeper says what it holds of a shard that this node hands over.
    pub(super) fn note_holder(&mut self, from: NodeId, offer: &v1::ShardOffer) {
        let Some(leaving) = self.hand_over.leaving.get_mut(&offer.shard) else { return };
        let Some(state) = self.shards.get(&offer.shard) else { return };
        let holds_all =
            offer.digest == state.digest || offer.entries as usize >= state.entries.len();
        if holds_all && !offer.leaving && !leaving.holders.contains(&from) {
            leaving.holders.push(from);
        }
        let others = state.placement.ranked().iter().filter(|node| **node != self.own).count();
        if leaving.holders.len() >= HOLDERS_WANTED.min(others) {
            self.hand_over.leaving.remove(&offer.shard);
        }
    }

    /// Tells whoever hands a shard over that all of it is held here.
    pub(super) fn confirm(&mut self, now: Instant, shard: u32) {
        let Some(to) = self.hand_over.owed.remove(&shard) else { return };
        self.offer(now, shard, to);
    }
}
