//! What a keeper holds, as it lies on the disk over a restart.
//!
//! Layout: 8 bytes `cooee ix`, 1 byte version, then frames of 4 bytes length (big-endian) and one
//! [`v1::Entry`]. Whoever can write the file can withhold entries, as any keeper can, and nothing
//! more: at the load each entry is checked like one from the network. A file cut short or damaged
//! gives what comes before the damage.
//!
//! A mass restart (August 2007, Skype) so loses no record of a user who is offline.

use std::time::Duration;

use prost::Message;

use super::{Held, Keeper, StoreResult, View};
use crate::{overlay::placement::shard_of, wire::v1};

/// How long what was restored is no vote in look-ups unless another keeper confirmed it: it may be
/// out of date (chosen: joining, the offers of all shards, a repair round).
const RESTORED_TIME: Duration = Duration::from_secs(120);

const MAGIC: &[u8; 8] = b"cooee ix";
const VERSION: u8 = 1;

/// Longest entry that is read back (chosen: three times the longest that the protocol allows).
const ENTRY_BYTES_MAX: usize = 4096;

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
    pub fn to_file(&self) -> Vec<u8> {
        const TYPICAL_BYTES: usize = 640;
        let mut bytes = Vec::with_capacity(16 + self.entries() * TYPICAL_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        for held in self.held() {
            let entry = held.to_wire();
            let length = entry.encoded_len() as u32;
            bytes.extend_from_slice(&length.to_be_bytes());
            entry.encode(&mut bytes).expect("a vector grows");
        }
        bytes
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
