//! The audio thread's clock: CLOCK_MONOTONIC, the same in every process of a machine.
//!
//! Recordings carry it (see [`super::recorder`]), so that what one process spoke and another
//! heard can be laid side by side. [`Instant`] is the same clock on Linux, but hides its origin.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Samples per second everywhere inside (contract of the voice engine).
pub const SAMPLE_RATE_HZ: u32 = 48_000;

/// Samples of one block: 2.5 ms, the shortest Opus frame (RFC 6716 section 2.1.4).
pub const BLOCK_SAMPLES: usize = 120;

/// Nanoseconds of CLOCK_MONOTONIC.
pub type MonotonicNs = u64;

/// Translates between [`Instant`] and [`MonotonicNs`], and reads both at once.
#[derive(Clone, Copy, Debug)]
pub struct AudioClock {
    anchor: Instant,
    anchor_ns: MonotonicNs,
}

impl AudioClock {
    /// Anchors the two readings of the one clock to each other.
    pub fn new() -> Self {
        let before = Instant::now();
        let time = clock_gettime(ClockId::Monotonic);
        let anchor = before + before.elapsed() / 2;
        let seconds = u64::try_from(time.tv_sec).expect("CLOCK_MONOTONIC starts at zero");
        let nanoseconds = u64::try_from(time.tv_nsec).expect("a fraction of a second");
        Self { anchor, anchor_ns: seconds * 1_000_000_000 + nanoseconds }
    }

    /// Now.
    pub fn now_ns(&self) -> MonotonicNs {
        self.anchor_ns + nanoseconds(self.anchor.elapsed())
    }

    /// The instant of a reading; the anchor if it lies before it.
    pub fn instant(&self, at_ns: MonotonicNs) -> Instant {
        self.anchor + Duration::from_nanos(at_ns.saturating_sub(self.anchor_ns))
    }
}

impl Default for AudioClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Processor time that the calling thread has used.
pub fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The length of `samples` at 48 kHz in nanoseconds, rounded up (a deadline is never early).
pub fn samples_to_ns(samples: u64) -> u64 {
    let rate = u128::from(SAMPLE_RATE_HZ);
    let ns = (u128::from(samples) * 1_000_000_000).div_ceil(rate);
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Whole samples at 48 kHz in `ns`.
pub fn ns_to_samples(ns: u64) -> u64 {
    let samples = u128::from(ns) * u128::from(SAMPLE_RATE_HZ) / 1_000_000_000;
    u64::try_from(samples).unwrap_or(u64::MAX)
}

/// A duration in nanoseconds, saturating after 584 years.
pub fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_in_samples_is_reached_exactly_when_it_has_passed() {
        for samples in [1, 119, 120, 121, 47_999, 48_000, 3_600 * 48_000 * 24 * 365] {
            let ns = samples_to_ns(samples);
            assert_eq!(ns_to_samples(ns), samples);
            assert_eq!(ns_to_samples(ns - 1), samples - 1);
        }
    }

    #[test]
    fn two_clocks_of_a_machine_agree() {
        // An anchor that was preempted half-way is off by that; real skew is below a microsecond.
        let agree = || {
            let (a, b) = (AudioClock::new(), AudioClock::new());
            let (first, second, third) = (a.now_ns(), b.now_ns(), a.now_ns());
            assert!(a.instant(third) >= a.instant(first));
            first <= second + 1_000 && second <= third + 1_000
        };
        assert!((0..100).any(|_| agree()));
    }
}
