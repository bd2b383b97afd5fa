//! Token bucket: the rate limit used for messages, connections and bytes.

use std::time::{Duration, Instant};

/// Grants a steady rate with a burst. A request above the burst goes into debt and is told to wait.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(per_second: u64, burst: u64, now: Instant) -> Self {
        let burst = burst as f64;
        Self { per_second: per_second as f64, burst, tokens: burst, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * self.per_second).min(self.burst);
    }

    /// Takes tokens if they are there.
    pub fn try_take(&mut self, count: u64, now: Instant) -> bool {
        self.refill(now);
        let enough = self.tokens >= count as f64;
        if enough {
            self.tokens -= count as f64;
        }
        enough
    }

    /// Takes tokens in any case and says how long to wait before using them.
    pub fn take(&mut self, count: u64, now: Instant) -> Duration {
        /// A bucket with no rate would make its users wait for ever. Chosen.
        const WAIT_MAX: Duration = Duration::from_secs(3600);
        self.refill(now);
        self.tokens -= count as f64;
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.tokens / self.per_second)
            .unwrap_or(WAIT_MAX)
            .min(WAIT_MAX)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs some moment to start from")]
mod tests {
    use super::*;

    #[test]
    fn the_burst_is_free_and_the_rest_comes_at_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(100, 50, start);
        assert_eq!(bucket.take(50, start), Duration::ZERO);
        assert_eq!(bucket.take(100, start), Duration::from_secs(1));
        assert!(!bucket.try_take(1, start + Duration::from_secs(1)));
        assert!(bucket.try_take(50, start + Duration::from_secs(2)));
    }

    #[test]
    fn a_bucket_without_rate_waits_an_hour_not_for_ever() {
        let start = Instant::now();
        assert_eq!(TokenBucket::new(0, 0, start).take(1, start), Duration::from_secs(3600));
    }
}
