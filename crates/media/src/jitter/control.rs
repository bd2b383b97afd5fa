//! When to stretch time, and by how much, so that frames are just in time.
//!
//! The *slack* of playout is how long before its last possible moment an undelayed frame arrives:
//! device time minus media time of the block's end minus the base transit of [`super::delay`].
//! Device time is filtered by a minimum over 1 s, because a late callback asks no frame earlier.
//! The controller steers slack to the target delay: far off by stretching, near by slipping single
//! samples, exactly there not at all. Clock drift on either side shows as slack moving away and
//! is slipped back, so delay cannot grow over a call.

use super::{
    delay::{DelayEstimator, WindowedMinimum},
    sound::{Direction, Place},
};

/// Slack above or below the target, in ms, up to which nothing is done.
const DEAD_BAND_MS: f64 = 0.3;

/// Error up to which single samples are slipped; beyond it whole periods are cut or repeated,
/// which is quicker and, done in a pause, not heard at all. Chosen.
const SLIP_MS: f64 = 3.0;

/// Excess and deficit from which a period is cut or repeated inside speech, where the wave allows.
const CUT_IN_SPEECH_MS: f64 = 60.0;
const REPEAT_IN_SPEECH_MS: f64 = 6.0;

/// Error from which a period is cut or repeated even where it is heard.
const URGENT_MS: f64 = 150.0;

/// Excess that is jumped over instead of played fast.
const JUMP_MS: f64 = 600.0;

/// Fastest slip: one sample in 500 (0.2 %, 3 cents), and slowest worth doing.
const SLIP_SAMPLES_MIN: f64 = 500.0;
const SLIP_SAMPLES_MAX: f64 = 4_800.0;

/// Window of the filter of device time.
const DEVICE_WINDOW_MS: f64 = 1_000.0;

/// A device this late all at once has stood still.
const DEVICE_JUMP_MS: f64 = 500.0;

/// What to do before the next block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Correction {
    /// Nothing.
    None,
    /// Slip one sample over so many.
    Slip(Direction, usize),
    /// Cut or repeat one period.
    Stretch(Direction, Place),
    /// Drop so many milliseconds at once.
    Jump(f64),
}

/// The controller.
#[derive(Clone, Debug)]
pub struct PlayoutControl {
    device: WindowedMinimum,
    slack_ms: f64,
}

impl Default for PlayoutControl {
    fn default() -> Self {
        Self { device: WindowedMinimum::new(DEVICE_WINDOW_MS), slack_ms: 0.0 }
    }
}

impl PlayoutControl {
    /// Notes one block: `end_ms` is the device time of its end by the count of samples played.
    pub fn observe(&mut self, now_ms: f64, end_ms: f64) {
        let device_ms = now_ms - end_ms;
        if device_ms > self.device.get() + DEVICE_JUMP_MS {
            // The device stood still (a hold, a suspended machine): what was known is void.
            self.device = WindowedMinimum::new(DEVICE_WINDOW_MS);
        }
        self.device.add(now_ms, device_ms);
    }

    /// Decides; `lag_ms` is the count of samples played minus media time at the block's start.
    pub fn correct(&mut self, lag_ms: f64, delay: &DelayEstimator, target_ms: f64) -> Correction {
        self.slack_ms = self.device.get() + lag_ms - delay.base_ms();
        let error_ms = self.slack_ms - target_ms;
        if error_ms.abs() < delay.tolerance_ms() {
            return Correction::None;
        }
        let (direction, size_ms, in_speech_ms) = if error_ms > 0.0 {
            (Direction::Shorter, error_ms, CUT_IN_SPEECH_MS)
        } else {
            (Direction::Longer, -error_ms, REPEAT_IN_SPEECH_MS)
        };
        if !size_ms.is_finite() || size_ms < DEAD_BAND_MS {
            Correction::None
        } else if error_ms > JUMP_MS {
            Correction::Jump(error_ms)
        } else if size_ms <= SLIP_MS {
            // One sample per 1,000 for each millisecond of error.
            let samples = (1_000.0 / size_ms).clamp(SLIP_SAMPLES_MIN, SLIP_SAMPLES_MAX);
            Correction::Slip(direction, samples as usize)
        } else if size_ms > URGENT_MS {
            Correction::Stretch(direction, Place::Anywhere)
        } else if size_ms > in_speech_ms {
            Correction::Stretch(direction, Place::WhereAlike)
        } else {
            Correction::Stretch(direction, Place::InPause)
        }
    }

    /// Device time by the clock minus by the count of samples played, filtered.
    pub fn device_ms(&self) -> f64 {
        self.device.get()
    }

    /// The slack found by the last decision.
    pub fn slack_ms(&self) -> f64 {
        self.slack_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(slack_ms: f64) -> Correction {
        let mut control = PlayoutControl::default();
        control.observe(0.0, 0.0);
        let mut delay = DelayEstimator::default();
        delay.arrived(0.0, 50.0, 10.0);
        control.correct(slack_ms + 40.0, &delay, 5.0)
    }

    #[test]
    fn near_the_target_it_slips_and_far_from_it_stretches() {
        assert_eq!(decide(5.1), Correction::None);
        assert_eq!(decide(7.0), Correction::Slip(Direction::Shorter, 500));
        assert_eq!(decide(4.0), Correction::Slip(Direction::Longer, 1_000));
        assert_eq!(decide(20.0), Correction::Stretch(Direction::Shorter, Place::InPause));
        assert_eq!(decide(-5.0), Correction::Stretch(Direction::Longer, Place::WhereAlike));
        assert_eq!(decide(-160.0), Correction::Stretch(Direction::Longer, Place::Anywhere));
        assert!(matches!(decide(2_000.0), Correction::Jump(_)));
    }
}
