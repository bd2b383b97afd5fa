//! Tones the audio thread makes itself: DTMF (ITU-T Q.23) and the prompt of the echo user.

use super::clock::SAMPLE_RATE_HZ;

/// Length of one DTMF digit and of the pause after it (ITU-T Q.24 asks for 40 ms; chosen longer).
const DIGIT_SAMPLES: u32 = 4_800;
const PAUSE_SAMPLES: u32 = 3_360;

/// Peak of each of the two tones, full scale 1 (chosen: both together 6 dB below full scale).
const TONE_PEAK: f64 = 0.25;

/// Rise and fall of a tone, 2.5 ms: no clicks.
const RAMP_SAMPLES: u32 = 120;

/// A key of the telephone's dial, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DtmfDigit(u8);

impl DtmfDigit {
    /// One of `0` to `9`, `A` to `D`, `*`, `#`.
    pub fn new(key: char) -> Option<Self> {
        const KEYS: &[u8; 16] = b"123A456B789C*0#D";
        let key = u8::try_from(key.to_ascii_uppercase()).ok()?;
        let place = KEYS.iter().position(|k| *k == key)?;
        u8::try_from(place).ok().map(Self)
    }

    /// Low and high frequency in Hz.
    pub fn frequencies_hz(self) -> (f64, f64) {
        const ROWS: [f64; 4] = [697.0, 770.0, 852.0, 941.0];
        const COLUMNS: [f64; 4] = [1209.0, 1336.0, 1477.0, 1633.0];
        (ROWS[usize::from(self.0 / 4)], COLUMNS[usize::from(self.0 % 4)])
    }
}

/// A sequence of digits being sounded; at most 32 wait.
#[derive(Debug, Default)]
pub struct DtmfPlayer {
    waiting: std::collections::VecDeque<DtmfDigit>,
    position: u32,
}

/// Digits waiting at most; further ones are refused.
const DIGITS_MAX: usize = 32;

impl DtmfPlayer {
    /// An empty player with its memory taken.
    pub fn new() -> Self {
        Self { waiting: std::collections::VecDeque::with_capacity(DIGITS_MAX), position: 0 }
    }

    /// Appends a digit; false if too many wait.
    pub fn push(&mut self, digit: DtmfDigit) -> bool {
        let room = self.waiting.len() < DIGITS_MAX;
        if room {
            self.waiting.push_back(digit);
        }
        room
    }

    /// Replaces `block` by the digits' sound while any is waiting; says whether it did.
    pub fn replace(&mut self, block: &mut [f32]) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        for sample in block {
            *sample = self.next_sample();
        }
        true
    }

    fn next_sample(&mut self) -> f32 {
        let Some(digit) = self.waiting.front() else { return 0.0 };
        let (low, high) = digit.frequencies_hz();
        let position = self.position;
        self.position += 1;
        if self.position == DIGIT_SAMPLES + PAUSE_SAMPLES {
            self.position = 0;
            self.waiting.pop_front();
        }
        if position >= DIGIT_SAMPLES {
            return 0.0;
        }
        sine(low, position, DIGIT_SAMPLES) + sine(high, position, DIGIT_SAMPLES)
    }
}

/// One sample of a ramped tone of `length` samples.
fn sine(hz: f64, position: u32, length: u32) -> f32 {
    let edge = f64::from(position.min(length - 1 - position).min(RAMP_SAMPLES));
    let ramp = edge / f64::from(RAMP_SAMPLES);
    let phase = std::f64::consts::TAU * hz * f64::from(position) / f64::from(SAMPLE_RATE_HZ);
    #[allow(clippy::cast_possible_truncation)]
    let value = (TONE_PEAK * ramp * phase.sin()) as f32;
    value
}

/// The echo user's prompt: three rising notes, then a beep: "speak, and hear yourself".
pub fn echo_prompt() -> Vec<f32> {
    const NOTES: [(f64, u32); 4] =
        [(523.25, 9_600), (659.25, 9_600), (783.99, 14_400), (1046.5, 4_800)];
    let mut prompt = Vec::new();
    for (hz, length) in NOTES {
        prompt.extend((0..length).map(|position| sine(hz, position, length)));
        prompt.extend(std::iter::repeat_n(0.0, 2_400));
    }
    prompt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power_at(samples: &[f32], hz: f64) -> f64 {
        let (mut re, mut im) = (0.0, 0.0);
        for (n, sample) in samples.iter().enumerate() {
            let phase = std::f64::consts::TAU * hz * n as f64 / 48_000.0;
            re += f64::from(*sample) * phase.cos();
            im += f64::from(*sample) * phase.sin();
        }
        (re * re + im * im) / (samples.len() as f64).powi(2)
    }

    #[test]
    fn each_key_sounds_its_two_frequencies_and_no_other() {
        for key in "123A456B789C*0#D".chars() {
            let mut player = DtmfPlayer::new();
            let digit = DtmfDigit::new(key).unwrap();
            assert!(player.push(digit));
            let mut sound = vec![0.0; 4_800];
            assert!(player.replace(&mut sound));
            let (low, high) = digit.frequencies_hz();
            for hz in [697.0, 770.0, 852.0, 941.0, 1209.0, 1336.0, 1477.0, 1633.0] {
                let power = power_at(&sound, hz);
                let expected = hz == low || hz == high;
                assert_eq!(power > 0.01, expected, "{key} at {hz} Hz: {power}");
            }
        }
    }

    #[test]
    fn digits_end_and_the_microphone_returns() {
        let mut player = DtmfPlayer::new();
        player.push(DtmfDigit::new('5').unwrap());
        let mut sound = vec![0.0; 8_160];
        assert!(player.replace(&mut sound));
        assert!(!player.replace(&mut sound));
        assert_eq!(DtmfDigit::new('x'), None);
    }

    #[test]
    fn too_many_digits_are_refused() {
        let mut player = DtmfPlayer::new();
        let digit = DtmfDigit::new('#').unwrap();
        assert_eq!((0..100).filter(|_| player.push(digit)).count(), DIGITS_MAX);
    }
}
