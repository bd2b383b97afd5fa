//! Token buckets: the relay's budget, and replies to addresses that have proved nothing.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use indexmap::IndexMap;

/// Address blocks remembered at one time; the oldest is forgotten first (64 KiB or so).
const BLOCKS_MAX: usize = 1024;

/// A rate with a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    level: f64,
    refilled: Option<Instant>,
}

impl Bucket {
    pub(super) fn full(burst: f64) -> Self {
        Self { level: burst, refilled: None }
    }

    fn refill(&mut self, now: Instant, rate_per_s: f64, burst: f64) {
        if let Some(last) = self.refilled {
            let span_s = now.saturating_duration_since(last).as_secs_f64();
            self.level = (self.level + span_s * rate_per_s).min(burst);
        }
        self.refilled = Some(now);
    }

    /// Takes `amount` if it is there.
    pub(super) fn take(&mut self, now: Instant, rate_per_s: f64, burst: f64, amount: f64) -> bool {
        self.refill(now, rate_per_s, burst);
        let enough = self.level >= amount;
        if enough {
            self.level -= amount;
        }
        enough
    }

    /// Share of the burst that is left, 0 to 1.
    pub(super) fn share_left(&mut self, now: Instant, rate_per_s: f64, burst: f64) -> f64 {
        self.refill(now, rate_per_s, burst);
        self.level / burst
    }
}

/// Bounds what a forged sender address can make us send to its owner.
#[derive(Debug)]
pub(super) struct ReplyLimit {
    per_block_per_s: f64,
    blocks: IndexMap<IpAddr, Bucket>,
}

impl ReplyLimit {
    pub(super) fn new(per_block_per_s: u32) -> Self {
        Self { per_block_per_s: f64::from(per_block_per_s), blocks: IndexMap::new() }
    }

    /// Whether one more reply to `ip` is within its block's limit.
    pub(super) fn take(&mut self, now: Instant, ip: IpAddr) -> bool {
        // Twice the rate: a NAT with many nodes behind it may start them together.
        let burst = 2.0 * self.per_block_per_s;
        let block = block(ip);
        if !self.blocks.contains_key(&block) && self.blocks.len() >= BLOCKS_MAX {
            self.blocks.swap_remove_index(0);
        }
        let bucket = self.blocks.entry(block).or_insert_with(|| Bucket::full(burst));
        bucket.take(now, self.per_block_per_s, burst, 1.0)
    }
}

/// What one owner can be assumed to hold: an IPv4 /24, an IPv6 /48.
fn block(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xFF).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80).into(),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs some moment to start from")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(10.0);
        let taken = (0..100).filter(|_| bucket.take(start, 5.0, 10.0, 1.0)).count();
        assert_eq!(taken, 10);
        let later = start + Duration::from_secs(1);
        let taken = (0..100).filter(|_| bucket.take(later, 5.0, 10.0, 1.0)).count();
        assert_eq!(taken, 5);
        assert!(bucket.share_left(later, 5.0, 10.0) < 0.01);
    }

    #[test]
    fn one_block_cannot_use_up_anothers_replies_and_memory_is_bounded() {
        let now = Instant::now();
        let mut limit = ReplyLimit::new(10);
        let taken = (0..=255).filter(|d| limit.take(now, [1, 2, 3, *d].into())).count();
        assert_eq!(taken, 20);
        assert!(limit.take(now, [1, 2, 4, 1].into()));
        for bits in 0..100_000_u32 {
            limit.take(now, Ipv4Addr::from_bits(bits << 8).into());
        }
        assert!(limit.blocks.len() <= BLOCKS_MAX);
    }
}
