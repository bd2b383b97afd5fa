//! Quotas of splices: how many, how fast, per node and in all.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use cooee_proto::control::TokenBucket;

use super::SuperNodeConfig;

/// Bytes per second for all splices together.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Mutex<TokenBucket>>);

impl Budget {
    pub(super) fn new(bytes_per_second: u64, now: Instant) -> Self {
        // A burst of a quarter of a second smooths what the sockets deliver.
        let bucket = TokenBucket::new(bytes_per_second, bytes_per_second / 4 + 16 * 1024, now);
        Self(Arc::new(Mutex::new(bucket)))
    }

    /// Waits until so many bytes may pass.
    pub(super) async fn spend(&self, bytes: usize) {
        let now = Instant::now();
        let wait = self.0.lock().expect("no holder of this lock panics").take(bytes as u64, now);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Quota of one node.
#[derive(Debug)]
pub(super) struct NodeQuota {
    splices: AtomicUsize,
    splices_max: usize,
    pub(super) bytes: Budget,
    pub(super) requests: Mutex<TokenBucket>,
}

impl NodeQuota {
    pub(super) fn new(config: &SuperNodeConfig, now: Instant) -> Self {
        let rate = config.requests_per_second_per_node;
        Self {
            splices: AtomicUsize::new(0),
            splices_max: config.splices_per_node_max,
            bytes: Budget::new(config.bytes_per_second_per_node, now),
            requests: Mutex::new(TokenBucket::new(rate, rate.saturating_mul(10), now)),
        }
    }

    /// Takes one of the node's splices, given back when dropped.
    pub(super) fn take_splice(self: &Arc<Self>) -> Option<SplicePlace> {
        let taken = self.splices.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < self.splices_max).then_some(count + 1)
        });
        taken.ok().map(|_| SplicePlace(self.clone()))
    }
}

/// One of a node's splices.
#[derive(Debug)]
pub(super) struct SplicePlace(Arc<NodeQuota>);

impl SplicePlace {
    pub(super) fn bytes(&self) -> &Budget {
        &self.0.bytes
    }
}

impl Drop for SplicePlace {
    fn drop(&mut self) {
        self.0.splices.fetch_sub(1, Ordering::Relaxed);
    }
}
