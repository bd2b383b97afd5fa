//! How long the packets on a slow path are beside each other.
//!
//! Receivers tell delays above the least that they remember, which a short packet had: on a slow
//! path a longer one takes longer to be sent, and that is no queue. At 12 kbit/s the difference
//! between packets of 10 ms and bundles of 180 ms is 70 ms.

use std::time::Instant;

use crate::jitter::delay::WindowedMinimum;

/// As long as receivers remember the least transit.
const REMEMBERED_MS: f64 = 10_000.0;

/// Lengths of the packets sent of late.
#[derive(Clone, Debug)]
pub(super) struct SentSizes {
    since: Option<Instant>,
    least: WindowedMinimum,
}

impl Default for SentSizes {
    fn default() -> Self {
        Self { since: None, least: WindowedMinimum::new(REMEMBERED_MS) }
    }
}

impl SentSizes {
    /// Notes a packet with its length on the wire.
    pub(super) fn sent(&mut self, now: Instant, wire_bytes: usize) {
        let since = *self.since.get_or_insert(now);
        let now_ms = now.saturating_duration_since(since).as_secs_f64() * 1e3;
        self.least.add(now_ms, wire_bytes as f64);
    }

    /// Bytes by which a packet is longer than the shortest of late.
    pub(super) fn beyond_least(&self, wire_bytes: usize) -> f64 {
        let beyond = wire_bytes as f64 - self.least.get();
        if beyond.is_finite() { beyond.max(0.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::time::Duration;

    use super::*;

    #[test]
    fn short_packets_are_forgotten_when_receivers_forget_them() {
        let mut sizes = SentSizes::default();
        let start = Instant::now();
        assert_eq!(sizes.beyond_least(200), 0.0);
        sizes.sent(start, 136);
        for second in 1..20 {
            sizes.sent(start + Duration::from_secs(second), 250);
            let expected = if second < 9 { 114.0 } else { 0.0 };
            if second != 9 && second != 10 {
                assert_eq!(sizes.beyond_least(250), expected, "{second} s");
            }
        }
    }
}
