//! Putting the records of attached devices into the Global Index, and taking them offline.
//!
//! A device signs its record and hands it to its super node, which stores it at the keepers of the
//! name and, if the device wants to be found by wildcard, of its search terms. When a device
//! vanishes,
//! its super node signs a departure. Stores that are not answered are repeated a few times; what
//! fails still is repaired between the keepers (`transfer`), and stored again when whoever is dead
//! is known to be: all keepers may have died at once.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;

use super::{Found, Keeper, StoreResult, View, record::UserRecord};
use crate::{
    identity::{NameKey, NodeId},
    overlay::placement::shard_of,
    wire::v1::{self, overlay_message::Kind},
};

/// When an unanswered store is repeated (chosen: above the 99th percentile of round trips).
const STORE_TIMEOUT: Duration = Duration::from_millis(1500);

/// How often a store is sent (chosen; the keepers repair the rest among themselves).
const STORE_TRIES: u8 = 3;

/// Most stores awaiting answers; at the bound they are sent once only (chosen).
const PENDING_MAX: usize = 65_536;

/// When listed records are filed under their search terms anew (chosen: thrice in their life).
const TERMS_REFRESH_HOURS: u64 = 24;

/// When the membership has doubled or halved, records are stored again after this (chosen: a node
/// that joins has learnt the table by then, and a mass restart is over for most).
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// Devices whose records are stored again at once, and the pause between (chosen: 2,000 devices
/// take six seconds, and no keeper gets more than it answers).
const AGAIN_AT_ONCE: usize = 16;
const AGAIN_PAUSE: Duration = Duration::from_millis(50);

/// When a record is stored again that a keeper did not answer for (chosen: a death is known after
/// 3 s and 12 s of suspicion).
const UNHEARD_PAUSE: Duration = Duration::from_secs(20);

/// Why a record was not published. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishRefused {
    /// The device has no connection to this super node.
    #[error("the device is not attached here")]
    NotAttached,
    /// Not a record, or its certificate or signature fails.
    #[error("the record is malformed or not signed by a certified device")]
    Invalid,
    /// The record belongs to another device.
    #[error("the record belongs to another device")]
    OtherDevice,
    /// The record does not name this super node first.
    #[error("the record names another super node as the one in use")]
    OtherHome,
    /// Its life is over or it comes from the future: the clock of the device is wrong.
    #[error("the record is expired or from the future: check the clock")]
    WrongTime,
    /// Older than the one before.
    #[error("a newer record has been published")]
    Stale,
}

#[derive(Default)]
struct Attached {
    record: Option<Arc<UserRecord>>,
    terms: Vec<NameKey>,
    terms_filed_ms: u64,
}

struct Pending {
    to: NodeId,
    device: NodeId,
    entry: v1::Entry,
    tries: u8,
}

/// The devices attached to this super node, and the stores under way for them.
#[derive(Default)]
pub struct Publisher {
    attached: BTreeMap<NodeId, Attached>,
    /// The attached devices that published under a name.
    names: BTreeSet<(NameKey, NodeId)>,
    pending: BTreeMap<u64, Pending>,
    deadlines: VecDeque<(Instant, u64)>,
    next_request: u64,
    /// Members when the records were last stored at their keepers.
    stored_among: usize,
    /// When to store on, if the membership has changed that much.
    again_at: Option<Instant>,
    /// Devices whose turn is still to come. Bound: those attached.
    again: Vec<NodeId>,
    /// Devices whose record some keeper did not answer for, and when it is stored again. Bound:
    /// those attached.
    unheard: VecDeque<(Instant, NodeId)>,
    out: Vec<(NodeId, Kind)>,
    silent: Vec<NodeId>,
}

impl Publisher {
    /// A device is attached.
    pub fn attach(&mut self, device: NodeId) {
        self.attached.entry(device).or_default();
    }

    /// Devices attached.
    pub fn attached(&self) -> usize {
        self.attached.len()
    }

    /// Whether the device is attached.
    pub fn is_attached(&self, device: &NodeId) -> bool {
        self.attached.contains_key(device)
    }

    /// The record that an attached device published last.
    pub fn record(&self, device: &NodeId) -> Option<&Arc<UserRecord>> {
        self.attached.get(device)?.record.as_ref()
    }

    /// What the devices attached here published last under a name.
    pub fn found_here(&self, key: &NameKey) -> Vec<Found> {
        let (first, last) = ((*key, NodeId([0; 16])), (*key, NodeId([0xFF; 16])));
        let devices = self.names.range(first..=last);
        let records = devices.filter_map(|(_, device)| self.record(device));
        records.map(|record| Found { record: record.clone(), departed: None }).collect()
    }

    /// Stores awaiting answers.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        let store = self.deadlines.front().map(|(at, _)| *at);
        let unheard = self.unheard.front().map(|(at, _)| *at);
        [store, self.again_at, unheard].into_iter().flatten().min()
    }

    /// The membership changed. Records stored while few members were known, or at keepers that are
    /// gone by the half, are stored again: hand-over reaches only keepers who know of each other.
    pub fn handle_members(&mut self, now: Instant, present: usize) {
        if present.abs_diff(self.stored_among) * 2 > self.stored_among {
            self.again_at.get_or_insert(now + SETTLE_TIME);
        }
    }

    fn store_again(&mut self, view: &View, keeper: &mut Keeper) -> Vec<NameKey> {
        let mut changed = Vec::new();
        if self.again_at.is_none_or(|at| at > view.now.instant) {
            return changed;
        }
        if self.again.is_empty() {
            self.stored_among = view.table.present();
            self.again = self.attached.keys().copied().collect();
        }
        let rest = self.again.len().saturating_sub(AGAIN_AT_ONCE);
        for device in self.again.split_off(rest) {
            changed.extend(self.store_device(view, keeper, device));
        }
        let more = !self.again.is_empty();
        self.again_at = more.then_some(view.now.instant + AGAIN_PAUSE);
        if !more {
            self.handle_members(view.now.instant, view.table.present());
        }
        changed
    }

    /// Stores what an attached device published, at whoever keeps it now.
    fn store_device(&mut self, view: &View, keeper: &mut Keeper, device: NodeId) -> Vec<NameKey> {
        let Some(attached) = self.attached.get(&device) else { return Vec::new() };
        let Some(record) = attached.record.clone() else { return Vec::new() };
        let keys = std::iter::once(record.name_key).chain(attached.terms.iter().copied());
        let mut changed = Vec::new();
        for key in keys.collect::<Vec<_>>() {
            let entry = v1::Entry {
                key: Bytes::copy_from_slice(&key.0),
                record: Some(record.wire.clone()),
                departure: None,
            };
            changed.extend(self.store_at_keepers(view, keeper, (key, device), entry));
        }
        changed
    }

    fn store_unheard(&mut self, view: &View, keeper: &mut Keeper) -> Vec<NameKey> {
        let mut changed = Vec::new();
        while self.unheard.front().is_some_and(|(at, _)| *at <= view.now.instant) {
            let Some((_, device)) = self.unheard.pop_front() else { break };
            changed.extend(self.store_device(view, keeper, device));
        }
        changed
    }

    /// Messages to send.
    pub fn take_messages(&mut self) -> Vec<(NodeId, Kind)> {
        std::mem::take(&mut self.out)
    }

    /// Keepers that did not answer at all: worth a ping.
    pub fn take_silent(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.silent)
    }

    /// Publishes the record of an attached device. Returns keys that changed at this node itself.
    pub fn publish(
        &mut self,
        view: &View,
        keeper: &mut Keeper,
        device: NodeId,
        record: &[u8],
    ) -> Result<Vec<NameKey>, PublishRefused> {
        let attached = self.attached.get_mut(&device).ok_or(PublishRefused::NotAttached)?;
        let wire = v1::UserRecord::decode(Bytes::copy_from_slice(record))
            .map_err(|_| PublishRefused::Invalid)?;
        let record = view.trust.record(&wire, view.now.unix).ok_or(PublishRefused::Invalid)?;
        if record.device != device {
            return Err(PublishRefused::OtherDevice);
        }
        if record.home() != Some(view.own.0) {
            return Err(PublishRefused::OtherHome);
        }
        if !record.is_live(view.now.unix) {
            return Err(PublishRefused::WrongTime);
        }
        let known = attached.record.as_ref().map_or(0, |known| known.sequence);
        if record.sequence < known {
            return Err(PublishRefused::Stale);
        }
        let terms = record.terms(view.trust.network());
        let terms_due = view.now.unix.0 > attached.terms_filed_ms + TERMS_REFRESH_HOURS * 3_600_000;
        let mut keys = vec![record.name_key];
        if terms_due || terms != attached.terms {
            keys.extend_from_slice(&terms);
            attached.terms_filed_ms = view.now.unix.0;
            attached.terms = terms;
        }
        if let Some(before) = attached.record.replace(record.clone()) {
            self.names.remove(&(before.name_key, device));
        }
        self.names.insert((record.name_key, device));
        let mut changed = Vec::new();
        for key in keys {
            let entry = v1::Entry {
                key: Bytes::copy_from_slice(&key.0),
                record: Some(wire.clone()),
                departure: None,
            };
            changed.extend(self.store_at_keepers(view, keeper, (key, device), entry));
        }
        Ok(changed)
    }

    /// A device vanished or said good-bye: tells the keepers. Returns keys that changed here.
    pub fn detach(&mut self, view: &View, keeper: &mut Keeper, device: NodeId) -> Vec<NameKey> {
        let Some(attached) = self.attached.remove(&device) else { return Vec::new() };
        let Some(record) = attached.record else { return Vec::new() };
        self.names.remove(&(record.name_key, device));
        let mut departure = v1::Departure {
            device: Bytes::copy_from_slice(&device.0),
            super_node: Bytes::copy_from_slice(&view.own.0.0),
            sequence: record.sequence,
            at_unix_ms: view.now.unix.0,
            signature: Bytes::new(),
            certificate: view.trust.certificate(),
        };
        departure.signature = view.trust.sign(&super::departure_signed_part(&departure));
        let key = record.name_key;
        let entry = v1::Entry {
            key: Bytes::copy_from_slice(&key.0),
            record: None,
            departure: Some(departure),
        };
        self.store_at_keepers(view, keeper, (key, device), entry)
    }

    fn store_at_keepers(
        &mut self,
        view: &View,
        keeper: &mut Keeper,
        (key, device): (NameKey, NodeId),
        entry: v1::Entry,
    ) -> Vec<NameKey> {
        let placement = keeper.placement(view, shard_of(&key)).into_owned();
        let mut changed = Vec::new();
        for to in placement.keepers() {
            if *to == view.own.0 {
                if let StoreResult::Changed(key) = keeper.store(view, &entry) {
                    changed.push(key);
                }
                continue;
            }
            let request = self.next_request;
            self.next_request += 1;
            self.send(request, *to, &entry);
            if self.pending.len() < PENDING_MAX {
                self.pending
                    .insert(request, Pending { to: *to, device, entry: entry.clone(), tries: 1 });
                self.deadlines.push_back((view.now.instant + STORE_TIMEOUT, request));
            }
        }
        changed
    }

    fn send(&mut self, request: u64, to: NodeId, entry: &v1::Entry) {
        let store = v1::Store { request, entries: vec![entry.clone()] };
        self.out.push((to, Kind::Store(store)));
    }

    /// A keeper answered.
    pub fn handle_stored(&mut self, from: NodeId, stored: &v1::Stored) {
        if self.pending.get(&stored.request).is_some_and(|pending| pending.to == from) {
            self.pending.remove(&stored.request);
        }
    }

    /// Repeats stores that were not answered, and stores again what is due. Returns keys that
    /// changed at this node itself.
    pub fn handle_timeout(&mut self, view: &View, keeper: &mut Keeper) -> Vec<NameKey> {
        self.repeat(view.now.instant);
        let mut changed = self.store_unheard(view, keeper);
        changed.extend(self.store_again(view, keeper));
        changed
    }

    fn repeat(&mut self, now: Instant) {
        while self.deadlines.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, request)) = self.deadlines.pop_front() else { return };
            let Some(mut pending) = self.pending.remove(&request) else { continue };
            if pending.tries >= STORE_TRIES {
                self.silent.push(pending.to);
                let waits = self.unheard.iter().any(|(_, device)| *device == pending.device);
                if pending.entry.record.is_some() && self.is_attached(&pending.device) && !waits {
                    self.unheard.push_back((now + UNHEARD_PAUSE, pending.device));
                }
                continue;
            }
            pending.tries += 1;
            self.send(request, pending.to, &pending.entry);
            self.pending.insert(request, pending);
            self.deadlines.push_back((now + STORE_TIMEOUT, request));
        }
    }
}
