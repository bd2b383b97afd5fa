//! How long the packets on a slow path take beside each other.
//!
//! Receivers tell delays above the least that they remember, which a short packet had: on a slow
//! path a longer one takes longer to be sent, and that is no queue. At 12 kbit/s the difference
//! between packets of 10 ms and bundles of 180 ms is 70 ms; and where the path has only just become
//! slow, what receivers remember took no time at all.

use std::time::Instant;

use crate::jitter::delay::WindowedMinimum;

/// As long as receivers remember the least transit.
const REMEMBERED_MS: f64 = 10_000.0;

/// Lengths of the packets sent of late, and how long they took at the rate thought possible then.
#[derive(Clone, Debug)]
pub(super) struct SentSizes {
    since: Option<Instant>,
    least_bytes: WindowedMinimum,
    least_ms: WindowedMinimum,
}

impl Default for SentSizes {
    fn default() -> Self {
        let least = WindowedMinimum::new(REMEMBERED_MS);
        Self { since: None, least_bytes: least.clone(), least_ms: least }
    }
}

impl SentSizes {
    /// Notes a packet with its length on the wire, sent where `rate` bit/s are thought possible.
    pub(super) fn sent(&mut self, now: Instant, wire_bytes: usize, rate: f64) {
        let since = *self.since.get_or_insert(now);
        let now_ms = now.saturating_duration_since(since).as_secs_f64() * 1e3;
        self.least_bytes.add(now_ms, wire_bytes as f64);
        self.least_ms.add(now_ms, wire_bytes as f64 * 8e3 / rate);
    }

    /// By so much longer than the shortest or the quickest of late a packet takes at `rate` bit/s.
    pub(super) fn longer_ms(&self, wire_bytes: usize, rate: f64) -> f64 {
        let than_shortest_ms = (wire_bytes as f64 - self.least_bytes.get()) * 8e3 / rate;
        let than_quickest_ms = wire_bytes as f64 * 8e3 / rate - self.least_ms.get();
        let longer_ms = than_shortest_ms.max(than_quickest_ms);
        if longer_ms.is_finite() { longer_ms.max(0.0) } else { 0.0 }
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
        assert_eq!(sizes.longer_ms(200, 8_000.0), 0.0);
        sizes.sent(start, 136, 8_000.0);
        for second in 1..20 {
            sizes.sent(start + Duration::from_secs(second), 250, 8_000.0);
            let expected = if second < 9 { 114.0 } else { 0.0 };
            if second != 9 && second != 10 {
                assert_eq!(sizes.longer_ms(250, 8_000.0), expected, "{second} s");
            }
        }
    }

    #[test]
    fn on_a_path_that_was_wide_a_packet_of_the_same_length_took_no_time() {
        let mut sizes = SentSizes::default();
        let start = Instant::now();
        sizes.sent(start, 150, 120_000.0);
        sizes.sent(start + Duration::from_secs(2), 150, 12_000.0);
        assert_eq!(sizes.longer_ms(150, 12_000.0), 90.0);
    }
}
