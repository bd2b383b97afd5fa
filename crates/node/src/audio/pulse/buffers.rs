//! The smallest playback buffer that is stable here, found by listening for under-runs.
//!
//! It starts at the shortest step. A second under-run within [`WINDOW_NS`] climbs one step;
//! under-runs while a stream starts do not count. It never descends within a stream: each
//! descent would be heard, and the next climb too.

use crate::audio::clock::MonotonicNs;

/// Steps of the whole playback latency in milliseconds (chosen: each about a third longer).
const STEPS_MS: [f32; 9] = [5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0];

/// Two under-runs closer than this are no accident (chosen).
const WINDOW_NS: u64 = 10_000_000_000;

/// While a stream starts its buffer has never been full (measured: one to three under-runs).
const SETTLING_NS: u64 = 300_000_000;

/// Where on the ladder a stream is.
#[derive(Clone, Debug, Default)]
pub(super) struct BufferLadder {
    step: usize,
    settled_at_ns: MonotonicNs,
    last_underrun_ns: Option<MonotonicNs>,
}

impl BufferLadder {
    /// The latency to ask for, in milliseconds.
    pub(super) fn target_ms(&self) -> f32 {
        STEPS_MS[self.step]
    }

    /// A stream has (re)started at `now_ns`.
    pub(super) fn handle_start(&mut self, now_ns: MonotonicNs) {
        self.settled_at_ns = now_ns + SETTLING_NS;
        self.last_underrun_ns = None;
    }

    /// An under-run; says whether [`Self::target_ms`] has grown.
    pub(super) fn handle_underrun(&mut self, now_ns: MonotonicNs) -> bool {
        if now_ns < self.settled_at_ns {
            return false;
        }
        let again = self.last_underrun_ns.is_some_and(|last| now_ns - last < WINDOW_NS);
        self.last_underrun_ns = Some(now_ns);
        let climbs = again && self.step + 1 < STEPS_MS.len();
        if climbs {
            self.step += 1;
            self.handle_start(now_ns);
        }
        climbs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn a_lone_underrun_is_forgiven_a_second_one_climbs() {
        let mut ladder = BufferLadder::default();
        ladder.handle_start(0);
        assert!(!ladder.handle_underrun(SECOND_NS / 10), "while starting");
        assert!(!ladder.handle_underrun(SECOND_NS));
        assert!(!ladder.handle_underrun(20 * SECOND_NS));
        assert_eq!(ladder.target_ms(), 5.0);
        assert!(ladder.handle_underrun(21 * SECOND_NS));
        assert_eq!(ladder.target_ms(), 7.5);
    }

    #[test]
    fn it_ends_at_the_longest_step() {
        let mut ladder = BufferLadder::default();
        for second in 1..1_000 {
            ladder.handle_underrun(second * SECOND_NS);
        }
        assert_eq!(ladder.target_ms(), 80.0);
    }
}
