//! The shards of the Global Index that this super node holds.
//!
//! Everything stored was checked: certificate, signature, key, age. A record replaces an older one
//! of
//! the same device; an older or equal one is refused, so replays change nothing. What is filed
//! under a search term must really contain the term. Bounds: [`KeeperConfig`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Found, View,
    record::{RECORD_LIFE_HOURS, UserRecord, compact_departure, entry_hash},
};
use crate::{
    clock::UnixTime,
    identity::{NameKey, NodeId},
    overlay::placement::{Lowest, Placement, RANKED, shard_of},
    wire::v1,
};

/// Bounds of what a keeper holds. All chosen.
#[derive(Clone, Copy, Debug)]
pub struct KeeperConfig {
    /// Entries in all shards; 600 bytes each.
    pub entries_max: usize,
    /// Devices under one name.
    pub devices_per_name_max: usize,
    /// Entries under one search term.
    pub entries_per_term_max: usize,
}

impl Default for KeeperConfig {
    fn default() -> Self {
        Self { entries_max: 400_000, devices_per_name_max: 16, entries_per_term_max: 20_000 }
    }
}

/// One record in a shard.
#[derive(Clone, Debug)]
pub struct Held {
    /// What it is filed under.
    pub key: NameKey,
    /// The record.
    pub record: Arc<UserRecord>,
    /// A departure that ends it early.
    pub departure: Option<Box<v1::Departure>>,
}

impl Held {
    pub(super) fn hash(&self) -> u64 {
        let record = &self.record;
        entry_hash(&self.key, record.device, record.sequence, self.departure.is_some())
    }

    pub(super) fn place(&self) -> (NameKey, NodeId) {
        (self.key, self.record.device)
    }

    /// Whether it may be given out at `now`.
    pub fn is_live(&self, now: UnixTime) -> bool {
        is_live(&self.record, self.departure.as_deref(), now)
    }

    /// The entry as it crosses the network.
    pub fn to_wire(&self) -> v1::Entry {
        v1::Entry {
            key: bytes::Bytes::copy_from_slice(&self.key.0),
            record: Some(self.record.wire.clone()),
            departure: self.departure.as_deref().cloned(),
        }
    }

    /// The entry as a result.
    pub fn found(&self) -> Found {
        Found {
            record: self.record.clone(),
            departed: self.departure.as_ref().map(|d| UnixTime(d.at_unix_ms)),
        }
    }
}

/// What became of an entry that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreResult {
    /// It is new or newer; whoever watches the key wants to know.
    Changed(NameKey),
    /// It was held already.
    Unchanged,
    /// Malformed, not valid, older than what is held, not ours to keep, or no room.
    Refused,
}

/// Counters for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeeperStatistics {
    /// Entries stored, new or newer.
    pub stored: u64,
    /// Entries refused.
    pub refused: u64,
    /// Entries dropped because their 72 hours were over.
    pub expired: u64,
    /// Pages of shards sent.
    pub pages_sent: u64,
}

/// When a shard that was taken up counts as complete although no page said so (chosen: a hand-over
/// takes 2 s and a few round trips).
const FILLING_TIME: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Shard {
    /// Sorted by key and device.
    pub(super) entries: Vec<Held>,
    pub(super) digest: u64,
    pub(super) placement: Placement,
    /// When what is held counts as all there is: what was taken up just now may lack something.
    pub(super) complete_at: Option<Instant>,
    /// Since when this node is not among the keepers any more.
    pub(super) surplus_since: Option<Instant>,
}

impl Shard {
    /// Whether what is held is all there is.
    pub(super) fn is_complete(&self, now: Instant) -> bool {
        self.complete_at.is_none_or(|at| at <= now)
    }

    pub(super) fn search(&self, place: &(NameKey, NodeId)) -> Result<usize, usize> {
        // The device lies behind the record: it is looked at only where the keys are equal.
        let (key, device) = place;
        let by_device = |held: &Held| held.record.device.cmp(device);
        self.entries.binary_search_by(|held| held.key.cmp(key).then_with(|| by_device(held)))
    }

    fn range(&self, key: &NameKey) -> &[Held] {
        let start = self.entries.partition_point(|held| held.key < *key);
        let end = self.entries.partition_point(|held| held.key <= *key);
        &self.entries[start..end]
    }
}

/// The shards held, and the work of keeping them where they belong.
pub struct Keeper {
    pub(super) config: KeeperConfig,
    pub(super) shards: BTreeMap<u32, Shard>,
    /// The lowest score ranked in each.
    pub(super) lowest: Lowest,
    pub(super) entries: usize,
    pub(super) transfer: super::transfer::Transfer,
    pub(super) hand_over: super::hand_over::HandOver,
    /// This node.
    pub(super) own: NodeId,
    pub(super) statistics: KeeperStatistics,
    pub(super) journal: super::stored::Journal,
}

impl Keeper {
    /// A keeper of nothing yet.
    pub fn new(now: Instant, own: NodeId, config: KeeperConfig, seed: [u8; 32]) -> Self {
        Self {
            config,
            shards: BTreeMap::new(),
            lowest: Lowest::default(),
            entries: 0,
            transfer: super::transfer::Transfer::new(now, seed),
            hand_over: super::hand_over::HandOver::default(),
            own,
            statistics: KeeperStatistics::default(),
            journal: super::stored::Journal::default(),
        }
    }

    /// Entries held.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Shards held.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Counters.
    pub fn statistics(&self) -> KeeperStatistics {
        self.statistics
    }

    /// What is filed under `key` and alive at `now`.
    pub fn find(&self, now: UnixTime, key: &NameKey) -> Vec<&Held> {
        let Some(shard) = self.shards.get(&shard_of(key)) else { return Vec::new() };
        shard.range(key).iter().filter(|held| held.is_live(now)).collect()
    }

    /// The same as results.
    pub fn found(&self, now: UnixTime, key: &NameKey) -> Vec<Found> {
        self.find(now, key).iter().map(|held| held.found()).collect()
    }

    /// Whether "nothing" is an answer: whoever took the shard up just now, or does not hold it,
    /// cannot know.
    pub fn knows_all(&self, now: Instant, key: &NameKey) -> bool {
        let shard = self.shards.get(&shard_of(key));
        shard.is_some_and(|shard| shard.is_complete(now))
    }

    /// Files an entry that came from elsewhere.
    pub fn store(&mut self, view: &View, entry: &v1::Entry) -> StoreResult {
        let result = self.check_and_store(view, entry).unwrap_or(StoreResult::Refused);
        match result {
            StoreResult::Changed(_) => self.statistics.stored += 1,
            StoreResult::Refused => self.statistics.refused += 1,
            StoreResult::Unchanged => {}
        }
        result
    }

    fn check_and_store(&mut self, view: &View, entry: &v1::Entry) -> Option<StoreResult> {
        let key = NameKey::from_slice(&entry.key)?;
        let Some(wire) = entry.record.as_ref() else {
            return Some(self.depart(view, entry.departure.as_ref()?, &key));
        };
        let record = view.trust.record(wire, view.now.unix)?;
        let belongs = key == record.name_key || record.terms(view.trust.network()).contains(&key);
        let departure = entry.departure.as_ref().filter(|d| departure_fits(view, &record, d));
        if !belongs || !is_live(&record, departure, view.now.unix) {
            return None;
        }
        if !self.shards.contains_key(&shard_of(&key)) && !self.take_up(view, shard_of(&key)) {
            return None;
        }
        let held = Held { key, record, departure: departure.map(compact_departure).map(Box::new) };
        self.file(held)
    }

    /// Begins to hold a shard if this node is ranked for it.
    pub(super) fn take_up(&mut self, view: &View, shard: u32) -> bool {
        if self.shards.contains_key(&shard) {
            return true;
        }
        let placement = Placement::rank(view.table, view.own, shard);
        // Views of the membership differ a little: whoever is ranked at all takes the entry.
        let ranked = placement.place(view.own.0).is_some_and(|place| place < RANKED);
        if ranked {
            let complete_at = Some(view.now.instant + FILLING_TIME);
            self.lowest.set(shard, placement.lowest());
            self.shards.insert(shard, Shard { placement, complete_at, ..Shard::default() });
        }
        ranked
    }

    /// Files a departure of a device that is held under its name.
    pub fn depart(&mut self, view: &View, departure: &v1::Departure, key: &NameKey) -> StoreResult {
        let Some(device) = NodeId::from_slice(&departure.device) else {
            return StoreResult::Refused;
        };
        let Some(shard) = self.shards.get(&shard_of(key)) else { return StoreResult::Refused };
        let Ok(place) = shard.search(&(*key, device)) else { return StoreResult::Refused };
        let record = shard.entries[place].record.clone();
        if !departure_fits(view, &record, departure) {
            return StoreResult::Refused;
        }
        let departure = Some(Box::new(compact_departure(departure)));
        let held = Held { key: *key, record, departure };
        self.file(held).unwrap_or(StoreResult::Refused)
    }

    fn file(&mut self, held: Held) -> Option<StoreResult> {
        let (key, hash, at) = (held.key, held.hash(), held.place());
        let is_term = key != held.record.name_key;
        let shard = self.shards.get_mut(&shard_of(&key))?;
        match shard.search(&held.place()) {
            Ok(place) => {
                let old = &mut shard.entries[place];
                let rank = |held: &Held| (held.record.sequence, held.departure.is_some());
                if rank(&held) <= rank(old) {
                    let same = rank(&held) == rank(old);
                    return Some(if same { StoreResult::Unchanged } else { StoreResult::Refused });
                }
                shard.digest ^= old.hash() ^ hash;
                *old = held;
            }
            Err(place) => {
                let per_key_max = if is_term {
                    self.config.entries_per_term_max
                } else {
                    self.config.devices_per_name_max
                };
                let full = self.entries >= self.config.entries_max;
                if full || shard.range(&key).len() >= per_key_max {
                    return None;
                }
                shard.entries.insert(place, held);
                shard.digest ^= hash;
                self.entries += 1;
            }
        }
        self.journal.note(at);
        Some(StoreResult::Changed(key))
    }

    /// Drops entries whose life is over from one shard.
    pub(super) fn expire_shard(&mut self, now: UnixTime, shard: u32) {
        let Some(shard) = self.shards.get_mut(&shard) else { return };
        let before = shard.entries.len();
        let mut digest = shard.digest;
        shard.entries.retain(|held| {
            let live = held.is_live(now);
            if !live {
                digest ^= held.hash();
            }
            live
        });
        shard.digest = digest;
        let gone = before - shard.entries.len();
        self.entries -= gone;
        self.statistics.expired += gone as u64;
    }

    pub(super) fn drop_shard(&mut self, shard: u32) {
        self.lowest.remove(shard);
        self.hand_over.owed.remove(&shard);
        if let Some(shard) = self.shards.remove(&shard) {
            self.entries -= shard.entries.len();
        }
    }

    /// Bytes of memory that the shards hold, without the records themselves.
    pub fn memory_bytes(&self) -> usize {
        let per_shard = size_of::<Shard>() + RANKED * 40;
        let entries: usize = self.shards.values().map(|shard| shard.entries.capacity()).sum();
        self.shards.len() * per_shard + entries * size_of::<Held>()
    }
}

/// Whether a record may be held and given out at `now`: until its expiry, or until 72 hours after
/// the
/// device was last seen attached, whichever is later.
pub(super) fn is_live(
    record: &UserRecord,
    departure: Option<&v1::Departure>,
    now: UnixTime,
) -> bool {
    let seen = departure.map(|d| UnixTime(d.at_unix_ms)).filter(|at| *at <= record.expiry);
    let life = Duration::from_secs(RECORD_LIFE_HOURS * 3600);
    record.is_live(now) || seen.is_some_and(|at| at <= now && now < at.plus(life))
}

/// Whether a departure ends this record: signed by the super node in use, for this very record.
pub(super) fn departure_fits(view: &View, record: &UserRecord, departure: &v1::Departure) -> bool {
    let Some(signer) = NodeId::from_slice(&departure.super_node) else { return false };
    if record.home() != Some(signer)
        || NodeId::from_slice(&departure.device) != Some(record.device)
        || departure.sequence != record.sequence
    {
        return false;
    }
    if signer == view.own.0 {
        return true;
    }
    let certified = view.trust.certified(&departure.certificate, view.now.unix);
    certified.is_some_and(|certified| {
        certified.node == signer && view.trust.departure(departure, &certified.public_key)
    })
}
