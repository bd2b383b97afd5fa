//! A queue so deep that the round trip shows it.
//!
//! On a slow path a queue that has been full since the first packet, or for longer than receivers
//! remember the least transit, shows no delay in reports, and at the path's own rate it never
//! empties: half a second for the whole call. No path without a queue takes so long there and back,
//! a satellite's excepted. So the least is sent for a while; where that does not shorten the round
//! trip, the way itself is long, and it is tried ever more rarely.
//!
//! Where the round trip was shorter within the last minute the queue is known for certain, whatever
//! the reports say: nothing may grow into it.

use std::time::{Duration, Instant};

use crate::jitter::delay::WindowedMinimum;

/// Round trip from which there is a queue, and below which there is none, in ms. Chosen: a
/// bundle and a report take 300 at 12 kbit/s.
const DEEP_MS: f64 = 700.0;
const SHALLOW_MS: f64 = 450.0;

/// The same above the least round trip of the last minute; and from so much above it on the queue
/// stands.
const DEEP_BEYOND_MS: f64 = 650.0;
const STANDS_BEYOND_MS: f64 = 350.0;
const REMEMBERED_MS: f64 = 60_000.0;

/// How long the least is sent at most: half a second of queue empties in 2 s at two thirds.
const DRAIN_MAX: Duration = Duration::from_secs(4);

/// From one try to the next, doubled when it was in vain.
const PAUSE: Duration = Duration::from_secs(12);
const PAUSE_MAX: Duration = Duration::from_secs(200);

/// A try that shortened the round trip by less than this share was in vain.
const SHORTER: f64 = 0.8;

/// Watches the round trip of a slow path.
#[derive(Clone, Debug)]
pub(super) struct DeepQueue {
    until: Option<Instant>,
    /// Round trip when the last try began.
    before_ms: f64,
    not_before: Option<Instant>,
    pause: Duration,
    since: Option<Instant>,
    least: WindowedMinimum,
    stands: bool,
}

impl Default for DeepQueue {
    fn default() -> Self {
        Self {
            until: None,
            before_ms: 0.0,
            not_before: None,
            pause: PAUSE,
            since: None,
            least: WindowedMinimum::new(REMEMBERED_MS),
            stands: false,
        }
    }
}

impl DeepQueue {
    /// Takes the round trip of the newest packet that a report tells of.
    pub(super) fn observe(&mut self, now: Instant, round_trip_ms: f64, is_slow_path: bool) {
        let since = *self.since.get_or_insert(now);
        let now_ms = now.saturating_duration_since(since).as_secs_f64() * 1e3;
        self.least.add(now_ms, round_trip_ms);
        let beyond_ms = round_trip_ms - self.least.get();
        self.stands = beyond_ms > STANDS_BEYOND_MS;
        if let Some(until) = self.until {
            let is_gone = round_trip_ms < SHALLOW_MS;
            if is_gone || now >= until {
                let was_in_vain = round_trip_ms > self.before_ms * SHORTER;
                self.pause = if was_in_vain { (self.pause * 2).min(PAUSE_MAX) } else { PAUSE };
                self.not_before = now.checked_add(self.pause);
                self.until = None;
            }
            return;
        }
        let may_try = self.not_before.is_none_or(|at| now >= at);
        if is_slow_path && may_try && (round_trip_ms > DEEP_MS || beyond_ms > DEEP_BEYOND_MS) {
            self.before_ms = round_trip_ms;
            self.until = now.checked_add(DRAIN_MAX);
        }
    }

    /// The round trip has been much shorter within the last minute.
    pub(super) fn stands(&self) -> bool {
        self.stands
    }

    /// Whether the least should be sent.
    pub(super) fn drains(&self) -> bool {
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    /// How many of so many seconds the least is sent, with a report each second.
    fn drained(seconds: u64, round_trip_ms: impl Fn(u64, bool) -> f64) -> u64 {
        let (mut deep, start) = (DeepQueue::default(), Instant::now());
        (0..seconds)
            .filter(|second| {
                let round_trip_ms = round_trip_ms(*second, deep.drains());
                deep.observe(start + Duration::from_secs(*second), round_trip_ms, true);
                deep.drains()
            })
            .count() as u64
    }

    #[test]
    fn a_standing_queue_is_drained_once() {
        let emptied = std::cell::Cell::new(false);
        let drained = drained(100, |second, _| {
            emptied.set(emptied.get() || second > 2);
            if emptied.get() { 300.0 } else { 1_100.0 }
        });
        assert!((2..=4).contains(&drained), "{drained} s");
    }

    #[test]
    fn a_long_way_is_left_alone_but_for_rare_tries() {
        let drained = drained(600, |_, _| 900.0);
        assert!((4..=40).contains(&drained), "{drained} of 600 s");
    }

    #[test]
    fn a_round_trip_that_was_short_a_minute_ago_tells_of_a_queue() {
        let (mut deep, start) = (DeepQueue::default(), Instant::now());
        deep.observe(start, 40.0, true);
        assert!(!deep.stands());
        for second in 1..50 {
            deep.observe(start + Duration::from_secs(second), 600.0, true);
            assert!(deep.stands(), "{second} s");
            assert!(!deep.drains(), "not so deep that it must be drained");
        }
        // For more than a minute: a longer way.
        for second in 50..80 {
            deep.observe(start + Duration::from_secs(second), 600.0, true);
        }
        assert!(!deep.stands());
    }

    #[test]
    fn a_path_that_is_not_slow_is_never_drained() {
        let mut deep = DeepQueue::default();
        deep.observe(Instant::now(), 2_000.0, false);
        assert!(!deep.drains());
    }
}
