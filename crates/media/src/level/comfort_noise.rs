//! Quiet noise in place of dead silence, so that nobody asks "are you still there?".

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One-pole low-pass: room noise has little above 2 kHz.
const SMOOTHING: f32 = 0.25;

/// Power lost to the low-pass, made up for: (2 − a) / a for a one-pole with gain a.
const MAKE_UP: f32 = (2.0 - SMOOTHING) / SMOOTHING;

/// A source of noise.
pub struct ComfortNoise {
    random: ChaCha8Rng,
    state: f32,
    amplitude: f32,
}

impl ComfortNoise {
    /// Noise at `level_dbov` (for instance −70), the same for the same seed.
    pub fn new(seed: u64, level_dbov: f32) -> Self {
        let mut noise =
            Self { random: ChaCha8Rng::seed_from_u64(seed), state: 0.0, amplitude: 0.0 };
        noise.set_level(level_dbov);
        noise
    }

    /// Changes the level.
    pub fn set_level(&mut self, level_dbov: f32) {
        // Uniform noise of amplitude a has the power a²/3.
        self.amplitude = 10_f32.powf(level_dbov.min(-20.0) / 20.0) * (3.0 * MAKE_UP).sqrt();
    }

    /// Adds noise to `sound`.
    pub fn add_to(&mut self, sound: &mut [f32]) {
        for sample in sound {
            let white = self.random.random::<f32>() * 2.0 - 1.0;
            self.state += SMOOTHING * (white * self.amplitude - self.state);
            *sample += self.state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_the_level_asked_for() {
        for level in [-70.0, -50.0] {
            let mut sound = vec![0.0; 48_000];
            ComfortNoise::new(3, level).add_to(&mut sound);
            assert!((crate::level::level_dbov(&sound) - level).abs() < 0.5);
        }
    }
}
