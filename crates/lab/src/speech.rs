//! Speech-like sound made from nothing: several voices that babble, for demos and measurements.
//!
//! A formant synthesiser (Klatt, "Software for a cascade/parallel formant synthesizer", 1980, much
//! reduced): glottal pulses with jitter and a falling pitch through four resonators whose
//! frequencies glide between vowels, broadband noise for fricatives, closures and bursts for
//! stops, pauses between phrases as people make them (about a third of the time). It means
//! nothing, belongs to nobody, and has what a codec, a loss concealment and a correlation need:
//! pitch, formants, onsets, energy up to 12 kHz, silence. The same voice and seed give the same
//! samples.

use std::f64::consts::TAU;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;

/// Samples per second of everything made here.
pub const RATE_HZ: u32 = 48_000;

/// Who babbles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// A low voice, about 110 Hz.
    Low,
    /// A high voice, about 205 Hz.
    High,
    /// A child's voice, about 280 Hz.
    Child,
}

impl Voice {
    /// Pitch in Hz and length of the vocal tract relative to the low voice's.
    fn shape(self) -> (f64, f64) {
        match self {
            Self::Low => (110.0, 1.0),
            Self::High => (205.0, 1.17),
            Self::Child => (280.0, 1.3),
        }
    }
}

/// Formant frequencies in Hz of vowels spoken by a man (Peterson and Barney, 1952; the fourth
/// formant chosen).
const VOWELS: [[f64; 4]; 8] = [
    [270.0, 2290.0, 3010.0, 3700.0],
    [390.0, 1990.0, 2550.0, 3600.0],
    [530.0, 1840.0, 2480.0, 3600.0],
    [660.0, 1720.0, 2410.0, 3500.0],
    [730.0, 1090.0, 2440.0, 3500.0],
    [570.0, 840.0, 2410.0, 3400.0],
    [300.0, 870.0, 2240.0, 3300.0],
    [490.0, 1350.0, 1690.0, 3300.0],
];

/// Bandwidths of the formants in Hz (Klatt 1980).
const BANDWIDTHS_HZ: [f64; 4] = [60.0, 90.0, 150.0, 250.0];

/// Peak of the result, full scale 1 (chosen: speech then lies near -26 dB).
const PEAK: f32 = 0.5;

/// Babbles for `seconds`.
pub fn speak(voice: Voice, seed: u64, seconds: f64) -> Vec<f32> {
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    let mut tract = Tract::new(voice);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let length = (seconds * f64::from(RATE_HZ)) as usize;
    let mut sound = Vec::with_capacity(length + 1);
    while sound.len() < length {
        for segment in phrase(&mut random) {
            tract.say(&segment, &mut random, &mut sound);
        }
    }
    sound.truncate(length);
    let peak = sound.iter().fold(f32::MIN_POSITIVE, |peak, s| peak.max(s.abs()));
    sound.iter_mut().for_each(|sample| *sample *= PEAK / peak);
    sound
}

/// A stretch of sound with one target for everything.
#[derive(Clone, Copy, Debug)]
struct Segment {
    seconds: f64,
    voicing: f64,
    noise: f64,
    /// Noise above this frequency.
    noise_hz: f64,
    formants: [f64; 4],
    /// Relative to the voice's pitch.
    pitch: f64,
}

fn phrase(random: &mut ChaCha12Rng) -> Vec<Segment> {
    let syllables = random.random_range(4..10);
    let mut segments = Vec::new();
    for syllable in 0..syllables {
        let stress = if random.random_bool(0.35) { 1.0 } else { 0.6 };
        let declination = 1.18 - 0.3 * f64::from(syllable) / f64::from(syllables);
        let pitch = declination * (0.94 + 0.12 * stress) * random.random_range(0.96..1.04);
        let formants = VOWELS[random.random_range(0..VOWELS.len())];
        let vowel = Segment {
            seconds: random.random_range(0.07..0.13) * (0.7 + 0.6 * stress),
            voicing: stress,
            noise: 0.01,
            noise_hz: 3_000.0,
            formants,
            pitch,
        };
        segments.extend(consonant(random, &vowel));
        segments.push(vowel);
    }
    let silence = |seconds| Segment { seconds, voicing: 0.0, noise: 0.0, ..segments[0] };
    segments.push(silence(random.random_range(0.25..0.8)));
    segments
}

fn consonant(random: &mut ChaCha12Rng, vowel: &Segment) -> Vec<Segment> {
    let quiet = Segment { voicing: 0.0, noise: 0.0, ..*vowel };
    match random.random_range(0..5) {
        // A fricative such as s or sh.
        0 => vec![Segment {
            seconds: random.random_range(0.06..0.12),
            noise: 0.25,
            noise_hz: random.random_range(2_000.0..5_500.0),
            ..quiet
        }],
        // A stop such as t: closure, burst.
        1 => vec![
            Segment { seconds: random.random_range(0.04..0.08), ..quiet },
            Segment { seconds: 0.015, noise: 0.6, noise_hz: 1_500.0, ..quiet },
        ],
        // A nasal such as m.
        2 => vec![Segment {
            seconds: random.random_range(0.05..0.09),
            voicing: 0.35,
            formants: [250.0, 1_100.0, 2_200.0, 3_300.0],
            ..quiet
        }],
        // A voiced fricative such as z.
        3 => vec![Segment {
            seconds: random.random_range(0.05..0.08),
            voicing: 0.3,
            noise: 0.1,
            noise_hz: 3_500.0,
            ..*vowel
        }],
        _ => Vec::new(),
    }
}

/// The state that glides from segment to segment.
struct Tract {
    pitch_hz: f64,
    scale: f64,
    phase: f64,
    voicing: f64,
    noise: f64,
    pitch: f64,
    formants: [f64; 4],
    resonators: [[f64; 2]; 4],
    highpass: f64,
    highpass_input: f64,
    glottis: f64,
}

impl Tract {
    fn new(voice: Voice) -> Self {
        let (pitch_hz, scale) = voice.shape();
        Self {
            pitch_hz,
            scale,
            phase: 0.0,
            voicing: 0.0,
            noise: 0.0,
            pitch: 1.0,
            formants: VOWELS[7],
            resonators: [[0.0; 2]; 4],
            highpass: 0.0,
            highpass_input: 0.0,
            glottis: 0.0,
        }
    }

    fn say(&mut self, segment: &Segment, random: &mut ChaCha12Rng, sound: &mut Vec<f32>) {
        let rate = f64::from(RATE_HZ);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let samples = (segment.seconds * rate) as usize;
        // Glides: amplitude within 4 ms, formants and pitch within 20 ms.
        let (fast, slow) =
            (1.0 - (-1.0 / (0.004 * rate)).exp(), 1.0 - (-1.0 / (0.02 * rate)).exp());
        for _ in 0..samples {
            self.voicing += fast * (segment.voicing - self.voicing);
            self.noise += fast * (segment.noise - self.noise);
            self.pitch += slow * (segment.pitch - self.pitch);
            for (formant, target) in self.formants.iter_mut().zip(segment.formants) {
                *formant += slow * (target - *formant);
            }
            let white: f64 = random.random_range(-1.0..1.0);
            let source = self.voicing * self.pulse(white);
            let voiced = self.resonate(source);
            let hiss = self.noise * self.hiss(white, segment.noise_hz);
            #[allow(clippy::cast_possible_truncation)]
            sound.push((voiced + hiss) as f32);
        }
    }

    /// Differentiated glottal flow: a smooth opening, an abrupt closure, some breath.
    fn pulse(&mut self, white: f64) -> f64 {
        let jitter = 1.0 + 0.01 * white;
        self.phase += self.pitch_hz * self.pitch * jitter / f64::from(RATE_HZ);
        self.phase -= self.phase.floor();
        let open = 0.6;
        let flow = if self.phase < open {
            let x = self.phase / open;
            x * x * (1.0 - x) * 6.75
        } else {
            0.0
        };
        let derivative = (flow - self.glottis) * 12.0;
        self.glottis = flow;
        derivative + 0.02 * white * flow
    }

    fn resonate(&mut self, mut input: f64) -> f64 {
        let rate = f64::from(RATE_HZ);
        for ((state, hz), bandwidth) in
            self.resonators.iter_mut().zip(self.formants).zip(BANDWIDTHS_HZ)
        {
            let radius = (-TAU / 2.0 * bandwidth / rate).exp();
            let b = 2.0 * radius * (TAU * hz * self.scale / rate).cos();
            let c = -radius * radius;
            let output = (1.0 - b - c) * input + b * state[0] + c * state[1];
            *state = [output, state[0]];
            input = output;
        }
        input
    }

    fn hiss(&mut self, white: f64, above_hz: f64) -> f64 {
        let keep = 1.0 / (1.0 + TAU * above_hz / f64::from(RATE_HZ));
        self.highpass = keep * (self.highpass + white - self.highpass_input);
        self.highpass_input = white;
        self.highpass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level_db(samples: &[f32]) -> f64 {
        let power: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
        10.0 * (power / samples.len() as f64).max(1e-12).log10()
    }

    #[test]
    fn a_voice_and_a_seed_give_the_same_samples_and_others_give_others() {
        let first = speak(Voice::Low, 7, 1.0);
        assert_eq!(first, speak(Voice::Low, 7, 1.0));
        assert_ne!(first, speak(Voice::Low, 8, 1.0));
        assert_ne!(first, speak(Voice::High, 7, 1.0));
        assert_eq!(first.len(), 48_000);
    }

    #[test]
    fn it_pauses_as_people_do() {
        for voice in [Voice::Low, Voice::High, Voice::Child] {
            let sound = speak(voice, 1, 30.0);
            let active = sound.chunks(960).filter(|c| level_db(c) > -45.0).count();
            let share = active as f64 / (sound.len() / 960) as f64;
            assert!((0.5..0.9).contains(&share), "{voice:?} speaks {share} of the time");
        }
    }

    #[test]
    fn its_pitch_is_the_voices() {
        for (voice, low, high) in
            [(Voice::Low, 85.0, 140.0), (Voice::High, 165.0, 260.0), (Voice::Child, 225.0, 350.0)]
        {
            let sound = speak(voice, 3, 20.0);
            let mut pitches: Vec<f64> = sound.chunks_exact(2_400).filter_map(pitch_hz).collect();
            assert!(pitches.len() > 30, "{voice:?} is never voiced");
            pitches.sort_by(f64::total_cmp);
            let median = pitches[pitches.len() / 2];
            assert!((low..high).contains(&median), "{voice:?}: {median} Hz");
        }
    }

    /// Pitch by autocorrelation of a voiced chunk.
    fn pitch_hz(chunk: &[f32]) -> Option<f64> {
        let at = |lag: usize| -> f64 {
            chunk.iter().zip(&chunk[lag..]).map(|(a, b)| f64::from(a * b)).sum()
        };
        let best = (130..600).max_by(|a, b| at(*a).total_cmp(&at(*b)))?;
        (level_db(chunk) > -35.0 && at(best) > 0.5 * at(0)).then(|| 48_000.0 / best as f64)
    }

    #[test]
    fn it_reaches_high_frequencies() {
        let sound = speak(Voice::High, 5, 10.0);
        // First difference twice: +12 dB an octave, leaves mostly what lies above 6 kHz.
        let high: Vec<f32> = sound.windows(3).map(|w| (w[0] - 2.0 * w[1] + w[2]) / 4.0).collect();
        let difference = level_db(&sound) - level_db(&high);
        assert!(difference < 40.0, "only {difference} dB below");
    }
}
