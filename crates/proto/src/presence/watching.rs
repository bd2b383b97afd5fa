//! At a super node: what the attached devices watch, and what they were told last.
//!
//! ```text
//!   device ── watch(names) ─▶ super node ── WatchKeys (lease) ─▶ 3 keepers of each name
//!          ◀─ change ───────            ◀─ WatchEvent, now and at each change ─
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    identity::{NameKey, NodeId},
    index::{Found, Keeper, View},
    overlay::placement::shard_of,
    wire::v1::{self, overlay_message::Kind},
};

/// Names that one device may watch (chosen: more than anyone's buddies).
pub const KEYS_PER_DEVICE_MAX: usize = 1000;

/// Keepers at which a name is watched (chosen: two may be hostile or dead).
const WATCHED_AT: usize = 3;

/// Lease of a watch and when it is renewed (chosen).
const LEASE_SECONDS: u32 = 300;
const RENEWAL: Duration = Duration::from_secs(240);

/// Keys in one message.
const KEYS_PER_MESSAGE: usize = 30;

/// News for a device about a name that it watches.
#[derive(Clone, Debug)]
pub struct Change {
    /// Who watches.
    pub device: NodeId,
    /// The name.
    pub key: NameKey,
    /// All its devices as they are now.
    pub found: Vec<Found>,
}

#[derive(Default)]
struct Watched {
    devices: BTreeSet<NodeId>,
    known: BTreeMap<NodeId, Found>,
}

/// What the devices attached here watch.
#[derive(Default)]
pub struct Watching {
    keys: BTreeMap<NameKey, Watched>,
    devices: BTreeMap<NodeId, BTreeSet<NameKey>>,
    renewals: VecDeque<(Instant, NameKey)>,
    out: Vec<(NodeId, Kind)>,
    changes: Vec<Change>,
}

impl Watching {
    /// Replaces what a device watches. It is told at once what is known already.
    pub fn watch(&mut self, view: &View, keeper: &Keeper, device: NodeId, keys: &[NameKey]) {
        let wanted: BTreeSet<NameKey> = keys.iter().copied().take(KEYS_PER_DEVICE_MAX).collect();
        let before = self.devices.insert(device, wanted.clone()).unwrap_or_default();
        for key in before.difference(&wanted) {
            self.unwatch(device, key);
        }
        let mut fresh = Vec::new();
        for key in wanted.difference(&before) {
            let watched = self.keys.entry(*key).or_default();
            watched.devices.insert(device);
            if watched.devices.len() == 1 {
                fresh.push(*key);
            }
            let held = keeper.find(view.now.unix, key);
            for found in held.iter().map(|held| held.found()) {
                watched.known.insert(found.record.device, found);
            }
            if !watched.known.is_empty() {
                let found = watched.known.values().cloned().collect();
                self.changes.push(Change { device, key: *key, found });
            }
        }
        self.ask_keepers(view, keeper, &fresh);
    }

    /// A device is gone: nobody is left to tell.
    pub fn forget_device(&mut self, device: NodeId) {
        for key in self.devices.remove(&device).unwrap_or_default() {
            self.unwatch(device, &key);
        }
    }

    /// Names watched.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// A keeper (perhaps this node itself) tells what a name looks like.
    pub fn handle_found(&mut self, key: &NameKey, found: Vec<Found>) {
        let Some(watched) = self.keys.get_mut(key) else { return };
        let mut news = false;
        for one in found {
            let device = one.record.device;
            if watched.known.get(&device).is_none_or(|known| known.rank() < one.rank()) {
                watched.known.insert(device, one);
                news = true;
            }
        }
        if news {
            tell(watched, key, &mut self.changes);
        }
    }

    /// A super node died: the devices attached to it are offline until they say otherwise.
    pub fn handle_member_down(&mut self, view: &View, node: NodeId) {
        for (key, watched) in &mut self.keys {
            let mut news = false;
            for found in watched.known.values_mut() {
                if found.record.home() == Some(node) && found.departed.is_none() {
                    found.departed = Some(view.now.unix);
                    news = true;
                }
            }
            if news {
                tell(watched, key, &mut self.changes);
            }
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.renewals.front().map(|(at, _)| *at)
    }

    /// Renews the watches that are due.
    pub fn handle_timeout(&mut self, view: &View, keeper: &Keeper) {
        let mut due = Vec::new();
        while self.renewals.front().is_some_and(|(at, _)| *at <= view.now.instant) {
            let Some((_, key)) = self.renewals.pop_front() else { break };
            if self.keys.contains_key(&key) {
                due.push(key);
            }
        }
        self.ask_keepers(view, keeper, &due);
    }

    /// Messages to send.
    pub fn take_messages(&mut self) -> Vec<(NodeId, Kind)> {
        std::mem::take(&mut self.out)
    }

    /// News for devices.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn ask_keepers(&mut self, view: &View, keeper: &Keeper, keys: &[NameKey]) {
        let mut by_keeper: BTreeMap<NodeId, Vec<Bytes>> = BTreeMap::new();
        for key in keys {
            let placement = keeper.placement(view, shard_of(key));
            let others = placement.keepers().iter().filter(|node| **node != view.own.0);
            for node in others.take(WATCHED_AT) {
                by_keeper.entry(*node).or_default().push(Bytes::copy_from_slice(&key.0));
            }
            self.renewals.push_back((view.now.instant + RENEWAL, *key));
        }
        for (node, keys) in by_keeper {
            for keys in keys.chunks(KEYS_PER_MESSAGE) {
                let watch = v1::WatchKeys { keys: keys.to_vec(), lease_seconds: LEASE_SECONDS };
                self.out.push((node, Kind::WatchKeys(watch)));
            }
        }
    }

    fn unwatch(&mut self, device: NodeId, key: &NameKey) {
        let Some(watched) = self.keys.get_mut(key) else { return };
        watched.devices.remove(&device);
        if watched.devices.is_empty() {
            self.keys.remove(key);
        }
    }
}

fn tell(watched: &Watched, key: &NameKey, changes: &mut Vec<Change>) {
    let found: Vec<Found> = watched.known.values().cloned().collect();
    for device in &watched.devices {
        changes.push(Change { device: *device, key: *key, found: found.clone() });
    }
}
