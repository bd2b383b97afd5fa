//! How long a change of presence takes to a device that watches: from before the changed record is
//! handed to the super node until the watcher, attached elsewhere, is told.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cooee_proto::{identity::NameKey, wire::v1::Presence};
use tokio::time::sleep;

use super::client::{Clients, quantile};

/// Pairs that are measured at most. Chosen: a hundred give a 99th percentile.
const PAIRS_MAX: usize = 100;

/// Time for the watches to reach the keepers. Chosen.
const SETTLE: Duration = Duration::from_secs(2);

/// Time between two changes. Chosen: one after the other, not a burst.
const BETWEEN: Duration = Duration::from_millis(30);

/// A change that is not heard after this counts as not heard.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of the changes.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) changes: u64,
    delays_ms: Vec<f64>,
}

impl Heard {
    pub(super) fn heard(&self) -> u64 {
        self.delays_ms.len() as u64
    }

    pub(super) fn in_a_second_percent(&self) -> f64 {
        let prompt = self.delays_ms.iter().filter(|delay| **delay <= 1000.0).count();
        prompt as f64 * 100.0 / self.changes.max(1) as f64
    }

    pub(super) fn quantile(&self, share: f64) -> f64 {
        quantile(&self.delays_ms, share)
    }
}

impl Clients {
    /// Half of some pairs watches the other half, which then goes away, one after the other.
    pub(super) async fn changes_of_presence(&mut self) -> Heard {
        let mut changed: BTreeMap<NameKey, Option<Instant>> = BTreeMap::new();
        for pair in self.pairs(PAIRS_MAX) {
            let [watcher, watched] = pair;
            let Some(attachment) = watcher.attachment() else { continue };
            if attachment.watch(vec![watched.key]).await.is_ok() {
                changed.insert(watched.key, None);
            }
        }
        sleep(SETTLE).await;
        self.take_notices();
        for (key, at) in &mut changed {
            *at = Some(Instant::now());
            self.show(key, Presence::Away);
            sleep(BETWEEN).await;
        }
        let mut heard = Heard { changes: changed.len() as u64, ..Heard::default() };
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && heard.heard() < heard.changes {
            for (key, presence, at) in self.take_notices() {
                let asked = changed.get_mut(&key).filter(|_| presence == Presence::Away);
                if let Some(asked) = asked.and_then(Option::take) {
                    let delay = at.saturating_duration_since(asked);
                    heard.delays_ms.push(delay.as_secs_f64() * 1000.0);
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        heard
    }
}
