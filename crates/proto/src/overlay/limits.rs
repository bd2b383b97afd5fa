//! Token buckets, one per asker, in a bounded table.

use std::time::{Duration, Instant};

use indexmap::IndexMap;

use super::table::IdHasher;
use crate::identity::NodeId;

/// How much an asker may ask.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Requests in a burst.
    pub burst: u32,
    /// Requests per second in the long run.
    pub per_second: f64,
}

/// Requests that each asker has left. At the bound the asker unseen longest is forgotten, which can
/// only give it back what it would have regained.
pub struct Limits {
    rate: Rate,
    askers_max: usize,
    askers: IndexMap<NodeId, (f64, Instant), std::hash::BuildHasherDefault<IdHasher>>,
}

impl Limits {
    /// Limits for at most `askers_max` askers at a time.
    pub fn new(rate: Rate, askers_max: usize) -> Self {
        Self { rate, askers_max, askers: IndexMap::default() }
    }

    /// Takes one request from what `asker` has left; false if nothing is.
    pub fn take(&mut self, now: Instant, asker: NodeId) -> bool {
        self.take_many(now, asker, 1)
    }

    /// Takes `count` requests from what `asker` has left; false, and nothing taken, if too few are.
    pub fn take_many(&mut self, now: Instant, asker: NodeId, count: u32) -> bool {
        if !self.askers.contains_key(&asker) && self.askers.len() >= self.askers_max {
            self.forget_idle(now);
        }
        let burst = f64::from(self.rate.burst);
        let (left, at) = self.askers.entry(asker).or_insert((burst, now));
        let elapsed = now.saturating_duration_since(*at).as_secs_f64();
        *left = (*left + elapsed * self.rate.per_second).min(burst);
        *at = now;
        let enough = *left >= f64::from(count);
        if enough {
            *left -= f64::from(count);
        }
        enough
    }

    fn forget_idle(&mut self, now: Instant) {
        let full = Duration::from_secs_f64(f64::from(self.rate.burst) / self.rate.per_second);
        self.askers.retain(|_, (_, at)| now.saturating_duration_since(*at) < full);
        while self.askers.len() >= self.askers_max {
            self.askers.shift_remove_index(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asker_above_its_rate_is_refused_and_others_are_not() {
        let start = Instant::now();
        let mut limits = Limits::new(Rate { burst: 3, per_second: 1.0 }, 10);
        let (greedy, modest) = (NodeId([1; 16]), NodeId([2; 16]));
        assert!((0..3).all(|_| limits.take(start, greedy)));
        assert!(!limits.take(start, greedy));
        assert!(limits.take(start, modest));
        assert!(limits.take(start + Duration::from_secs(1), greedy));
    }

    #[test]
    fn the_table_of_askers_stays_within_its_bound() {
        let start = Instant::now();
        let mut limits = Limits::new(Rate { burst: 3, per_second: 1.0 }, 10);
        for byte in 0..200 {
            limits.take(start, NodeId([byte; 16]));
        }
        assert_eq!(limits.askers.len(), 10);
    }
}
