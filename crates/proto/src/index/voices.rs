//! Whose voice counts in a look-up, and how many say the same.
//!
//! A keeper that is contradicted by what others held long before loses its voice for an hour once
//! it has happened thrice; one that says what the others say is absolved. Bound:
//! [`CONTRADICTED_MAX`] keepers are remembered.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Found;
use crate::identity::NodeId;

/// Contradicted keepers from which on the network counts as hostile (chosen: above what joins and
/// deaths cause).
const WARY_FROM: usize = 4;

/// Keepers whose contradictions are remembered (chosen).
const CONTRADICTED_MAX: usize = 4096;

/// Contradictions after which a keeper's voice does not count, and for how long (chosen).
const CONTRADICTIONS_MAX: u32 = 3;
const DISTRUST_TIME: Duration = Duration::from_secs(3600);

/// What one keeper said.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Awaited,
    /// It cannot tell: asked too much, or took the shard up just now.
    Refused,
    /// Devices and the sequences of their records.
    Found(Vec<(NodeId, u64)>),
}

/// What the keepers of a look-up said so far.
#[derive(Default)]
pub(super) struct Voices {
    /// They hold the newest record of every device.
    pub(super) alike: usize,
    /// They know all of the shard and answered, whatever it was.
    pub(super) heard: usize,
    pub(super) awaited: usize,
}

/// Which keepers were contradicted lately.
#[derive(Default)]
pub(super) struct Doubts {
    /// How often, and until when it is remembered.
    contradicted: BTreeMap<NodeId, (u32, Instant)>,
}

impl Doubts {
    /// Whether several keepers have been contradicted lately.
    pub(super) fn is_wary(&self, now: Instant) -> bool {
        let lately = self.contradicted.values().filter(|(_, until)| now < *until);
        lately.take(WARY_FROM).count() >= WARY_FROM
    }

    /// Keepers whose voice does not count at present.
    pub(super) fn distrusted(&self) -> usize {
        self.contradicted.values().filter(|(count, _)| *count >= CONTRADICTIONS_MAX).count()
    }

    pub(super) fn contradict(&mut self, now: Instant, node: NodeId) {
        if self.contradicted.len() >= CONTRADICTED_MAX && !self.contradicted.contains_key(&node) {
            self.contradicted.retain(|_, (_, until)| now < *until);
            if self.contradicted.len() >= CONTRADICTED_MAX {
                return;
            }
        }
        let entry = self.contradicted.entry(node).or_insert((0, now));
        entry.0 += 1;
        entry.1 = now + DISTRUST_TIME;
    }

    /// The keeper said what the others said.
    pub(super) fn absolve(&mut self, node: &NodeId) {
        self.contradicted.remove(node);
    }

    fn trusts(&self, node: &NodeId, now: Instant) -> bool {
        let found = self.contradicted.get(node);
        !found.is_some_and(|(count, until)| *count >= CONTRADICTIONS_MAX && now < *until)
    }

    /// Counts what was said of `best`, the newest record of each device.
    pub(super) fn count(
        &self,
        replies: &BTreeMap<NodeId, Reply>,
        best: &BTreeMap<NodeId, Found>,
        now: Instant,
    ) -> Voices {
        let best: Vec<_> = best.values().map(summary).collect();
        let mut voices = Voices::default();
        for (node, reply) in replies {
            match reply {
                Reply::Awaited => {
                    voices.awaited += 1;
                    continue;
                }
                Reply::Refused => continue,
                Reply::Found(found) if *found == best && self.trusts(node, now) => {
                    voices.alike += 1;
                }
                Reply::Found(_) => {}
            }
            voices.heard += 1;
        }
        voices
    }
}

pub(super) fn summary(found: &Found) -> (NodeId, u64) {
    (found.record.device, found.record.sequence)
}
