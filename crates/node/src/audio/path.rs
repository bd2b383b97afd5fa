//! What the audio thread does with sound: the seam between devices and the voice engine.
//!
//! A call is one [`SoundPath`] (see [`super::call_path`]); [`Loop`] is another, for testing
//! devices by ear and by correlation: the microphone is heard in the speaker.

use std::time::Instant;

use super::clock::BLOCK_SAMPLES;

/// Takes captured blocks of 2.5 ms and makes blocks to play. Runs on the audio thread: it never
/// blocks and does not allocate.
pub trait SoundPath: Send + 'static {
    /// Before any block: what has arrived meanwhile.
    fn exchange(&mut self, now: Instant);

    /// A captured block.
    fn capture(&mut self, now: Instant, block: &mut [f32; BLOCK_SAMPLES]);

    /// A block to play.
    fn playout(&mut self, now: Instant, block: &mut [f32; BLOCK_SAMPLES]);

    /// After the blocks of one wake-up.
    fn finish(&mut self, now: Instant);

    /// How old captured sound is when it comes, in ms; told again whenever it is known anew.
    fn set_microphone_delay(&mut self, _ms: f32) {}
}

/// Longest loop: 10 s.
const LOOP_SAMPLES_MAX: usize = 480_000;

/// A loop's lag is looked at this often: each second.
const LAG_PULLS: u32 = 400;

/// Plays what it captures, later.
pub struct Loop {
    waiting: std::collections::VecDeque<f32>,
    delay_samples: usize,
    lowest: usize,
    pulls: u32,
}

impl Loop {
    /// Plays each sample so many samples after capture at the earliest, at most 10 s.
    pub fn new(delay_samples: usize) -> Self {
        let delay_samples = delay_samples.min(LOOP_SAMPLES_MAX);
        let mut waiting = std::collections::VecDeque::with_capacity(2 * LOOP_SAMPLES_MAX);
        waiting.extend(std::iter::repeat_n(0.0, delay_samples));
        Self { waiting, delay_samples, lowest: usize::MAX, pulls: 0 }
    }

    /// Takes a block in.
    pub fn push(&mut self, block: &[f32]) {
        self.waiting.extend(block.iter().take(self.waiting.capacity() - self.waiting.len()));
    }

    /// Gives a block out; silence where there is none. What was never needed for a second, because
    /// one device stood still or its clock is slower, is thrown away: the lag cannot grow.
    pub fn pull(&mut self, block: &mut [f32]) {
        for sample in block {
            *sample = self.waiting.pop_front().unwrap_or(0.0);
        }
        self.lowest = self.lowest.min(self.waiting.len());
        self.pulls += 1;
        if self.pulls == LAG_PULLS {
            let excess = self.lowest.saturating_sub(self.delay_samples);
            if excess > BLOCK_SAMPLES {
                self.waiting.drain(..excess);
            }
            self.lowest = usize::MAX;
            self.pulls = 0;
        }
    }
}

impl SoundPath for Loop {
    fn exchange(&mut self, _now: Instant) {}

    fn capture(&mut self, _now: Instant, block: &mut [f32; BLOCK_SAMPLES]) {
        self.push(block);
    }

    fn playout(&mut self, _now: Instant, block: &mut [f32; BLOCK_SAMPLES]) {
        self.pull(block);
    }

    fn finish(&mut self, _now: Instant) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_gives_back_each_sample_after_its_delay() {
        let mut path = Loop::new(240);
        let mut heard = Vec::new();
        let mut block = [0.0; BLOCK_SAMPLES];
        for index in 0..10 {
            path.push(&[index as f32 + 1.0; BLOCK_SAMPLES]);
            path.pull(&mut block);
            heard.extend_from_slice(&block);
        }
        assert!(heard[..240].iter().all(|s| *s == 0.0));
        assert_eq!(heard[240], 1.0);
        assert_eq!(heard[1_199], 8.0);
    }

    #[test]
    fn a_loop_whose_speaker_stood_still_does_not_lag_for_ever() {
        let mut path = Loop::new(0);
        for _ in 0..100 {
            path.push(&[0.0; BLOCK_SAMPLES]);
        }
        let mut block = [0.0; BLOCK_SAMPLES];
        for index in 0..=LAG_PULLS {
            path.push(&[index as f32; BLOCK_SAMPLES]);
            path.pull(&mut block);
        }
        assert_eq!(block[0], LAG_PULLS as f32);
    }
}
