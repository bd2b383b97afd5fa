//! Levels, and sounds that are made rather than captured: telephone tones and comfort noise.

mod comfort_noise;
mod tone;

pub use comfort_noise::ComfortNoise;
pub use tone::{Tone, ToneGenerator};

/// Level of digital silence, in dBov (RFC 6464 section 3).
pub const SILENCE_DBOV: f32 = -127.0;

/// Root mean square of a block in dB relative to full scale, −127 to 0.
pub fn level_dbov(sound: &[f32]) -> f32 {
    if sound.is_empty() {
        return SILENCE_DBOV;
    }
    let power = sound.iter().map(|s| s * s).sum::<f32>() / sound.len() as f32;
    if power <= 0.0 { SILENCE_DBOV } else { (10.0 * power.log10()).clamp(SILENCE_DBOV, 0.0) }
}

/// Peak of a block, 0 to 1 and above when it would clip.
pub fn peak(sound: &[f32]) -> f32 {
    sound.iter().fold(0.0, |peak, s| peak.max(s.abs()))
}

/// Follows the level of a stream: rises in about 20 ms, falls in about 300 ms.
#[derive(Clone, Copy, Debug)]
pub struct LevelMeter {
    power: f32,
    /// Power of the background, which rises slowly and falls at once.
    floor: f32,
}

impl Default for LevelMeter {
    fn default() -> Self {
        Self { power: 0.0, floor: 1e-3 }
    }
}

/// Time constants in samples at 48 kHz.
const RISE: f32 = 960.0;
const FALL: f32 = 14_400.0;
const FLOOR_RISE: f32 = 480_000.0;

/// A voice is this much above the background, in power (9 dB), and above −60 dBov.
const VOICE_ABOVE_FLOOR: f32 = 8.0;
const VOICE_POWER_MIN: f32 = 1e-6;

impl LevelMeter {
    /// Takes a block.
    pub fn add(&mut self, sound: &[f32]) {
        if sound.is_empty() {
            return;
        }
        let length = sound.len() as f32;
        let power = sound.iter().map(|s| s * s).sum::<f32>() / length;
        let constant = if power > self.power { RISE } else { FALL };
        self.power += (1.0 - (-length / constant).exp()) * (power - self.power);
        if power < self.floor {
            self.floor = power.max(1e-10);
        } else {
            self.floor += (1.0 - (-length / FLOOR_RISE).exp()) * (power - self.floor);
        }
    }

    /// The level, in dBov.
    pub fn level_dbov(&self) -> f32 {
        if self.power <= 0.0 { SILENCE_DBOV } else { 10.0 * self.power.log10() }
    }

    /// The level as RFC 6464 carries it: 0 is full scale, 127 silence.
    pub fn level_rfc6464(&self) -> u8 {
        -self.level_dbov().clamp(SILENCE_DBOV, 0.0) as u8
    }

    /// Whether somebody speaks.
    pub fn is_voice(&self) -> bool {
        self.power > VOICE_POWER_MIN && self.power > self.floor * VOICE_ABOVE_FLOOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_known_sounds() {
        assert_eq!(level_dbov(&[0.0; 480]), SILENCE_DBOV);
        assert!((level_dbov(&[1.0; 480])).abs() < 1e-3);
        assert!((level_dbov(&[0.1; 480]) + 20.0).abs() < 1e-3);
        assert_eq!(peak(&[0.1, -0.7, 0.3]), 0.7);
    }

    #[test]
    fn a_voice_is_told_from_steady_noise() {
        let mut meter = LevelMeter::default();
        for _ in 0..1_000 {
            meter.add(&[0.003; 480]);
        }
        assert!(!meter.is_voice());
        for _ in 0..10 {
            meter.add(&[0.1; 480]);
        }
        assert!(meter.is_voice());
        assert!((19..=22).contains(&meter.level_rfc6464()), "{}", meter.level_rfc6464());
    }
}
