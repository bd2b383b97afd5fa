//! The Global Index: anyone seen in the last 72 hours, one hop away (paper, sections I and IV C).
//!
//! * `record`: what a device signs, what it is filed under;
//! * `keeper`: the shards that this super node holds;
//! * `transfer`: handing shards over when the membership changes, and repairing them;
//! * `hand_over`: what a super node that leaves does with them;
//! * `stored`: what is held, over a restart;
//! * `publisher`: putting the records of attached devices into the index;
//! * `look_up`: finding a name, from the cache, the keepers, more keepers, the login server;
//! * `wildcard`: finding names that match a pattern.

mod cache;
mod hand_over;
mod keeper;
mod look_up;
mod patience;
mod publisher;
mod record;
mod stored;
mod transfer;
mod voices;
mod wildcard;

pub use cache::{CACHE_LIFE, CACHED_NAMES_MAX};
pub use keeper::{Held, Keeper, KeeperConfig, KeeperStatistics, StoreResult};
pub use look_up::{Answer, LookUpStatistics, LookUps, Source, check as check_entry};
pub use publisher::{PublishRefused, Publisher};
pub use record::{
    DISPLAY_NAME_BYTES_MAX, RECORD_LIFE_HOURS, RECORD_SUPER_NODES_MAX, TERM_CHARACTERS, UserRecord,
    compact, departure_signed_part, entry_hash, fold, record_signed_part, term_key,
};
pub use stored::stored_entries;
pub use wildcard::{Match, Pattern, PatternError, WildcardAnswer, Wildcards};

use std::sync::Arc;

use crate::{
    clock::{Now, UnixTime},
    identity::NodeId,
    overlay::{statement::AddressBlock, table::Table, trust::Trust},
    wire::v1,
};

/// What the machines of the index see of the rest of the super node.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The moment.
    pub now: Now,
    /// The membership.
    pub table: &'a Table,
    /// This node and its address block.
    pub own: (NodeId, AddressBlock),
    /// The network's certificates.
    pub trust: &'a dyn Trust,
}

/// A record found, with what is known beyond what the device itself said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The record, checked.
    pub record: Arc<UserRecord>,
    /// When the super node in use said that the device had gone, if it did.
    pub departed: Option<UnixTime>,
}

impl Found {
    /// The presence to show: what the device says while it is attached, offline otherwise.
    pub fn presence(&self) -> v1::Presence {
        match self.record.home() {
            Some(_) if self.departed.is_none() => self.record.presence,
            _ => v1::Presence::Offline,
        }
    }

    /// When the device was last seen, if it is offline.
    pub fn last_seen(&self) -> Option<UnixTime> {
        let offline = self.presence() == v1::Presence::Offline;
        offline.then(|| self.departed.unwrap_or(UnixTime(self.record.sequence)))
    }

    /// Whether the super node that the record names as in use is gone, and nobody said what became
    /// of the device.
    pub fn lost_home(&self, view: &View) -> bool {
        let present = |home: NodeId| home == view.own.0 || view.table.is_present(&home);
        self.departed.is_none() && self.record.home().is_some_and(|home| !present(home))
    }

    /// Higher replaces lower: newest record, and a departure beats none.
    pub fn rank(&self) -> (u64, bool) {
        (self.record.sequence, self.departed.is_some())
    }
}
