//! Telephone tones: DTMF (ITU-T Q.23) and call progress (ITU-T E.180, European).

use core::f32::consts::TAU;

const RATE_HZ: f32 = crate::codec::SAMPLE_RATE_HZ as f32;

/// Ramp at either end of a tone against clicks, 5 ms.
const RAMP: usize = 240;

/// Peak of each of up to two frequencies.
const AMPLITUDE: f32 = 0.2;

/// What to play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// A key: 0 to 9, `*`, `#`, A to D.
    Dtmf(char),
    /// The other side is being alerted: 425 Hz, 1 s on, 4 s off.
    Ringing,
    /// Busy: 425 Hz, 0.5 s on, 0.5 s off.
    Busy,
}

impl Tone {
    /// Frequencies in Hz (0: none) and samples on and off; `None` for a key that does not exist.
    fn shape(self) -> Option<([f32; 2], usize, usize)> {
        const ROWS: [(&str, f32); 4] =
            [("123A", 697.0), ("456B", 770.0), ("789C", 852.0), ("*0#D", 941.0)];
        const COLUMNS_HZ: [f32; 4] = [1_209.0, 1_336.0, 1_477.0, 1_633.0];
        match self {
            // 100 ms on and off: twice what ITU-T Q.24 asks at least.
            Self::Dtmf(key) => ROWS.iter().find_map(|(keys, row)| {
                let column = keys.find(key.to_ascii_uppercase())?;
                Some(([*row, COLUMNS_HZ[column]], 4_800, 4_800))
            }),
            Self::Ringing => Some(([425.0, 0.0], 48_000, 192_000)),
            Self::Busy => Some(([425.0, 0.0], 24_000, 24_000)),
        }
    }
}

/// Plays one tone, once or again and again.
#[derive(Clone, Copy, Debug)]
pub struct ToneGenerator {
    frequencies: [f32; 2],
    on: usize,
    off: usize,
    at: usize,
    repeats: bool,
}

impl ToneGenerator {
    /// A generator; `None` for a key that does not exist. DTMF plays once, the others go on.
    pub fn new(tone: Tone) -> Option<Self> {
        let (frequencies, on, off) = tone.shape()?;
        Some(Self { frequencies, on, off, at: 0, repeats: !matches!(tone, Tone::Dtmf(_)) })
    }

    /// Adds the tone to `sound`; `false` once it is over.
    pub fn add_to(&mut self, sound: &mut [f32]) -> bool {
        for sample in sound {
            if self.at >= self.on + self.off {
                if !self.repeats {
                    return false;
                }
                self.at = 0;
            }
            if self.at < self.on {
                let edge = self.at.min(self.on - 1 - self.at).min(RAMP) as f32 / RAMP as f32;
                let t = self.at as f32 / RATE_HZ;
                let wave: f32 = self.frequencies.iter().map(|hz| (TAU * hz * t).sin()).sum();
                *sample += AMPLITUDE * edge * wave;
            }
            self.at += 1;
        }
        self.repeats || self.at < self.on + self.off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Power of one frequency (Goertzel).
    fn power(sound: &[f32], hz: f32) -> f32 {
        let coefficient = 2.0 * (TAU * hz / RATE_HZ).cos();
        let (mut a, mut b) = (0.0_f32, 0.0_f32);
        for sample in sound {
            (a, b) = (sample + coefficient * a - b, a);
        }
        (a * a + b * b - coefficient * a * b) / (sound.len() as f32).powi(2)
    }

    #[test]
    fn each_key_has_its_two_frequencies_and_no_other() {
        let all = [697.0, 770.0, 852.0, 941.0, 1_209.0, 1_336.0, 1_477.0, 1_633.0];
        for (key, row, column) in
            [('1', 697.0, 1_209.0), ('0', 941.0, 1_336.0), ('d', 941.0, 1_633.0)]
        {
            let mut sound = vec![0.0; 4_800];
            assert!(ToneGenerator::new(Tone::Dtmf(key)).unwrap().add_to(&mut sound));
            for hz in all {
                let expected = hz == row || hz == column;
                assert_eq!(power(&sound, hz) > 1e-3, expected, "{key}: {hz} Hz");
            }
        }
        assert!(ToneGenerator::new(Tone::Dtmf('x')).is_none());
    }

    #[test]
    fn a_key_ends_and_ringing_goes_on() {
        let mut sound = vec![0.0; 9_601];
        assert!(!ToneGenerator::new(Tone::Dtmf('5')).unwrap().add_to(&mut sound));
        let mut long = vec![0.0; 480_000];
        assert!(ToneGenerator::new(Tone::Ringing).unwrap().add_to(&mut long));
        assert_eq!(long[100_000], 0.0);
        assert!(long[240_000..260_000].iter().any(|s| s.abs() > 0.1));
    }
}
