//! What look-ups found lately, at the super node of the one who asked.
//!
//! Bounded in entries and in age; the entry filed first goes first. What nobody found is not
//! cached, so that a user who has just come is found. Records in the cache were checked like all
//! others: it cannot be poisoned, only be out of date by at most [`CACHE_LIFE`], and not where the
//! super node that a record names is known to be dead.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{Found, View};
use crate::identity::NameKey;

/// Names in the cache (chosen: 3 megabytes).
pub const CACHED_NAMES_MAX: usize = 4096;

/// Age at which a cached answer is not given any more (chosen: a device that moved is found where
/// it is within this time, at once when its caller asks for a fresh answer).
pub const CACHE_LIFE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Cache {
    names: BTreeMap<NameKey, (Vec<Found>, Instant)>,
    order: VecDeque<(NameKey, Instant)>,
}

impl Cache {
    /// What was found lately, unless a super node in use has died since: its devices are elsewhere
    /// by now.
    pub(super) fn get(&self, view: &View, key: &NameKey) -> Option<&Vec<Found>> {
        let (found, at) = self.names.get(key)?;
        let holds = view.now.instant < *at + CACHE_LIFE;
        (holds && !found.iter().any(|one| one.lost_home(view))).then_some(found)
    }

    pub(super) fn put(&mut self, now: Instant, key: NameKey, found: Vec<Found>) {
        self.names.insert(key, (found, now));
        self.order.push_back((key, now));
        while self.order.len() > CACHED_NAMES_MAX
            || self.order.front().is_some_and(|(_, at)| now >= *at + CACHE_LIFE)
        {
            let Some((old, at)) = self.order.pop_front() else { break };
            if self.names.get(&old).is_some_and(|(_, filed)| *filed == at) {
                self.names.remove(&old);
            }
        }
    }

    pub(super) fn forget(&mut self, key: &NameKey) {
        self.names.remove(key);
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}
