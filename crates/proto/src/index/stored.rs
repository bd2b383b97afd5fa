//! What a keeper holds, as it lies on the disk over a restart.
//!
//! Layout: 8 bytes `cooee ix`, 1 byte version, then frames of 4 bytes length (big-endian) and one
//! [`v1::Entry`]. Whoever can write the file can withhold entries, as any keeper can, and nothing
//! more: at the load each entry is checked like one from the network. A file cut short or damaged
//! gives what comes before the damage. Entries that change are appended; of two with one key and
//! device the later sequence holds, as everywhere.
//!
//! A mass restart (August 2007, Skype) so loses no record of a user who is offline.

use std::{collections::BTreeSet, time::Duration};

use prost::Message;

use super::{Held, Keeper, StoreResult, View};
use crate::{
    identity::{NameKey, NodeId},
    overlay::placement::shard_of,
    wire::v1,
};

/// How long what was restored is no vote in look-ups unless another keeper confirmed it: it may be
/// out of date (chosen: joining, the offers of all shards, a repair round).
const RESTORED_TIME: Duration = Duration::from_secs(120);

const MAGIC: &[u8; 8] = b"cooee ix";
const VERSION: u8 = 1;

/// Longest entry that is read back (chosen: three times the longest that the protocol allows).
const ENTRY_BYTES_MAX: usize = 4096;

/// Changed entries that are remembered between two writes (chosen: 3 megabytes; with more the
/// whole file is written).
const CHANGED_MAX: usize = 4_096;

/// What changed since the file was written or added to.
#[derive(Default)]
pub(super) enum Journal {
    /// Nothing was written yet, or too much has changed: only the whole file helps.
    #[default]
    Whole,
    /// These entries, by key and device.
    Changed(BTreeSet<(NameKey, NodeId)>),
}

impl Journal {
    pub(super) fn note(&mut self, place: (NameKey, NodeId)) {
        if let Self::Changed(places) = self {
            places.insert(place);
            if places.len() > CHANGED_MAX {
                *self = Self::Whole;
            }
        }
    }
}

impl Keeper {
    /// Everything held, shard by shard.
    pub fn held(&self) -> impl Iterator<Item = &Held> {
        self.shards.values().flat_map(|shard| shard.entries.iter())
    }

    /// Changes with everything held.
    pub fn digest(&self) -> u64 {
        self.shards.values().fold(0, |digest, shard| digest ^ shard.digest)
    }

    /// Everything held, as a file's bytes. Bound: the keeper's entries.
    pub fn to_file(&mut self) -> Vec<u8> {
        const TYPICAL_BYTES: usize = 640;
        self.journal = Journal::Changed(BTreeSet::new());
        let mut bytes = Vec::with_capacity(16 + self.entries() * TYPICAL_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        self.held().for_each(|held| put_frame(&mut bytes, held));
        bytes
    }

    /// The entries that changed since the last call of this or of [`Self::to_file`], to be added at
    /// the file's end; `None` if the whole file must be written.
    pub fn to_append(&mut self) -> Option<Vec<u8>> {
        let Journal::Changed(places) = &mut self.journal else { return None };
        let places = std::mem::take(places);
        let mut bytes = Vec::new();
        for place in &places {
            let Some(shard) = self.shards.get(&shard_of(&place.0)) else { continue };
            if let Ok(at) = shard.search(place) {
                put_frame(&mut bytes, &shard.entries[at]);
            }
        }
        Some(bytes)
    }

    /// What was given for the file did not reach it: the whole file is asked for next.
    pub fn not_written(&mut self) {
        self.journal = Journal::Whole;
    }

    /// Files what was held before a restart. Returns whether it was taken: not if it is malformed,
    /// not signed, over, or older than what is held by now.
    pub fn restore(&mut self, view: &View, entry: &v1::Entry) -> bool {
        let StoreResult::Changed(key) = self.store(view, entry) else { return false };
        let shard = shard_of(&key);
        if let Some(state) = self.shards.get_mut(&shard) {
            state.complete_at = Some(view.now.instant + RESTORED_TIME);
            self.transfer.to_compare.insert(shard);
        }
        true
    }
}

fn put_frame(bytes: &mut Vec<u8>, held: &Held) {
    let entry = held.to_wire();
    let length = entry.encoded_len() as u32;
    bytes.extend_from_slice(&length.to_be_bytes());
    entry.encode(bytes).expect("a vector grows");
}

/// The entries of a file, until its end or its first damage.
pub fn stored_entries(file: bytes::Bytes) -> impl Iterator<Item = v1::Entry> {
    let is_ours = file.get(..9).is_some_and(|head| head[..8] == *MAGIC && head[8] == VERSION);
    let mut rest = if is_ours { file.slice(9..) } else { bytes::Bytes::new() };
    std::iter::from_fn(move || {
        let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        if length > ENTRY_BYTES_MAX || rest.len() < 4 + length {
            return None;
        }
        let frame = rest.split_to(4 + length).slice(4..);
        v1::Entry::decode(frame).ok()
    })
}
