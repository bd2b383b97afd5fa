//! Super nodes whose connections end again and again as soon as they have begun: because they break
//! down, or because they were left for what they did. They are tried last for a while.
//!
//! A success wipes an entry's failures from the host cache, so that one that greets well and
//! misbehaves afterwards would stay first in the order for ever.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// A connection that ends within this was of no use (chosen).
const SHORT: Duration = Duration::from_secs(10);

/// So many of them, one after the other (chosen: the first may be an accident).
const SHORT_ENDS: u32 = 2;

/// How long such a super node comes last (chosen).
const SHUNNED_FOR: Duration = Duration::from_secs(600);

/// Most that are remembered; the oldest is forgotten then (chosen).
const REMEMBERED_MAX: usize = 64;

/// Who was of no use lately.
#[derive(Debug, Default)]
pub(super) struct Shunned {
    ends: BTreeMap<SocketAddr, (u32, Instant)>,
}

impl Shunned {
    /// A connection to `address` ended after it had lasted for `lasted`.
    pub(super) fn note_end(&mut self, now: Instant, address: SocketAddr, lasted: Duration) {
        self.ends.retain(|_, (_, at)| *at + SHUNNED_FOR > now);
        if lasted >= SHORT {
            self.ends.remove(&address);
            return;
        }
        if self.ends.len() >= REMEMBERED_MAX && !self.ends.contains_key(&address) {
            let oldest = self.ends.iter().min_by_key(|(_, (_, at))| *at).map(|(a, _)| *a);
            oldest.and_then(|oldest| self.ends.remove(&oldest));
        }
        let (count, at) = self.ends.entry(address).or_insert((0, now));
        *count = count.saturating_add(1);
        *at = now;
    }

    /// Whether `address` comes last for now.
    pub(super) fn holds(&self, now: Instant, address: SocketAddr) -> bool {
        self.ends
            .get(&address)
            .is_some_and(|(count, at)| *count >= SHORT_ENDS && *at + SHUNNED_FOR > now)
    }
}
