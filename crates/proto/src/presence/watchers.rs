//! At a keeper: which super nodes want to know of changes to a name.
//!
//! Bounds: [`WATCHED_KEYS_MAX`] names, [`WATCHERS_PER_KEY_MAX`] super nodes each; at the bound new
//! watches are not taken, and the watcher's other keepers tell it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::identity::{NameKey, NodeId};

/// Names watched at one keeper (chosen: 10 megabytes).
pub const WATCHED_KEYS_MAX: usize = 100_000;

/// Super nodes that watch one name (chosen: a name that more watch is told to some of them late,
/// when they renew).
pub const WATCHERS_PER_KEY_MAX: usize = 1024;

/// Longest lease (chosen).
const LEASE_SECONDS_MAX: u32 = 600;

/// Time between two sweeps of ended leases (chosen).
const SWEEP_PERIOD: Duration = Duration::from_secs(300);

/// Watches held by a keeper.
pub struct Watchers {
    keys: BTreeMap<NameKey, BTreeMap<NodeId, Instant>>,
    next_sweep: Instant,
}

impl Watchers {
    /// No watches yet.
    pub fn new(now: Instant) -> Self {
        Self { keys: BTreeMap::new(), next_sweep: now + SWEEP_PERIOD }
    }

    /// Names watched.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Starts, renews or (lease 0) ends a watch. Returns whether it is held.
    pub fn watch(&mut self, now: Instant, who: NodeId, key: NameKey, lease_seconds: u32) -> bool {
        if lease_seconds == 0 {
            if let Some(watchers) = self.keys.get_mut(&key) {
                watchers.remove(&who);
            }
            return false;
        }
        if !self.keys.contains_key(&key) && self.keys.len() >= WATCHED_KEYS_MAX {
            return false;
        }
        let watchers = self.keys.entry(key).or_default();
        if !watchers.contains_key(&who) && watchers.len() >= WATCHERS_PER_KEY_MAX {
            watchers.retain(|_, until| *until > now);
            if watchers.len() >= WATCHERS_PER_KEY_MAX {
                return false;
            }
        }
        let lease = Duration::from_secs(u64::from(lease_seconds.min(LEASE_SECONDS_MAX)));
        watchers.insert(who, now + lease);
        true
    }

    /// Who wants to know of a change to `key`.
    pub fn of(&self, now: Instant, key: &NameKey) -> Vec<NodeId> {
        let Some(watchers) = self.keys.get(key) else { return Vec::new() };
        watchers.iter().filter(|(_, until)| **until > now).map(|(node, _)| *node).collect()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Instant {
        self.next_sweep
    }

    /// Forgets watches whose lease has ended.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_PERIOD;
        self.keys.retain(|_, watchers| {
            watchers.retain(|_, until| *until > now);
            !watchers.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_ends_with_its_lease() {
        let start = Instant::now();
        let (key, who) = (NameKey([1; 32]), NodeId([2; 16]));
        let mut watchers = Watchers::new(start);
        assert!(watchers.watch(start, who, key, 60));
        assert_eq!(watchers.of(start + Duration::from_secs(59), &key), [who]);
        assert!(watchers.of(start + Duration::from_secs(61), &key).is_empty());
        watchers.handle_timeout(start + SWEEP_PERIOD);
        assert_eq!(watchers.keys(), 0);
    }

    #[test]
    fn watchers_of_one_name_stay_within_their_bound() {
        let start = Instant::now();
        let mut watchers = Watchers::new(start);
        let who = |n: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(n as u64).to_be_bytes());
            NodeId(id)
        };
        let held = (0..2000).filter(|n| watchers.watch(start, who(*n), NameKey([1; 32]), 60));
        assert_eq!(held.count(), WATCHERS_PER_KEY_MAX);
    }
}
