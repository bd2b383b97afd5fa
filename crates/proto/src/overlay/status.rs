//! What a super node's overlay says of itself: members, load, shards, cache, keepers of a name.

use super::{
    membership::MembershipStatistics,
    super_node::{SuperNodeOverlay, view},
};
use crate::{
    clock::Now,
    identity::{NameKey, NodeId},
    index::{KeeperStatistics, LookUpStatistics},
};

/// The overlay's own view, for status pages and metrics.
#[derive(Clone, Debug)]
pub struct OverlayStatus {
    /// Members alive or suspect, this node among them.
    pub members: usize,
    /// Members remembered as dead.
    pub dead: usize,
    /// Whether the table has been learnt.
    pub joined: bool,
    /// Shards held.
    pub shards: usize,
    /// Entries held.
    pub entries: usize,
    /// Devices attached.
    pub attached: usize,
    /// Devices attached, in percent of capacity.
    pub load_percent: u32,
    /// Names cached.
    pub cached: usize,
    /// Names watched for attached devices.
    pub watched: usize,
    /// Keepers whose voice does not count at present.
    pub distrusted: usize,
    /// Counters of look-ups.
    pub look_ups: LookUpStatistics,
    /// Counters of the keeper.
    pub keeper: KeeperStatistics,
    /// Counters of the membership.
    pub membership: MembershipStatistics,
}

impl SuperNodeOverlay {
    /// The keepers of a name as this node ranks them.
    pub fn keepers_of(&self, now: Now, key: &NameKey) -> Vec<NodeId> {
        let view = view(&self.membership, &self.config, self.trust.as_ref(), now);
        let placement = self.keeper.placement(&view, super::placement::shard_of(key));
        placement.keepers().to_vec()
    }

    /// The overlay's own view.
    pub fn status(&self) -> OverlayStatus {
        OverlayStatus {
            members: self.membership.table().present() + 1,
            dead: self.membership.table().dead(),
            joined: self.membership.is_joined(),
            shards: self.keeper.shards(),
            entries: self.keeper.entries(),
            attached: self.publisher.attached(),
            load_percent: self.load_percent(),
            cached: self.look_ups.cached(),
            watched: self.watching.keys(),
            distrusted: self.look_ups.distrusted(),
            look_ups: self.look_ups.statistics(),
            keeper: self.keeper.statistics(),
            membership: self.membership.statistics,
        }
    }
}
