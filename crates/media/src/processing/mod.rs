//! Cleaning up captured sound: echo cancellation, noise suppression, gain control.
//!
//! A thin, bounded wrapper of `sonora`, the pure Rust port of the WebRTC audio processing module.
//! It works in blocks of 10 ms, as long as the quiet path's Opus frame: fed from the start of a
//! call together with the sender, collecting the block costs no time beyond the frame's own.

use sonora::{
    AudioProcessing, Config, StreamConfig,
    config::{
        AdaptiveDigital, EchoCanceller, GainController2, NoiseSuppression, NoiseSuppressionLevel,
        TransparentModeType,
    },
};

use crate::codec::SAMPLE_RATE_HZ;

/// Samples in a processed block, 10 ms.
pub const BLOCK_SAMPLES: usize = 480;

/// Gain before anything is known of the microphone (the library's 15 dB clip a good one), and how
/// fast it changes: a level that moves within a sentence is heard.
const INITIAL_GAIN_DB: f32 = 3.0;
const GAIN_CHANGE_DB_PER_S: f32 = 3.0;

/// Which parts run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessingConfig {
    /// Remove what the loudspeaker plays from what the microphone hears.
    pub echo_cancellation: bool,
    /// Remove steady noise.
    pub noise_suppression: bool,
    /// Bring quiet voices up and keep loud ones below clipping.
    pub gain_control: bool,
}

impl Default for ProcessingConfig {
    fn default() -> Self {
        Self { echo_cancellation: true, noise_suppression: true, gain_control: true }
    }
}

impl ProcessingConfig {
    /// Nothing runs: for headsets with their own processing, and for measuring.
    pub const OFF: Self =
        Self { echo_cancellation: false, noise_suppression: false, gain_control: false };

    fn is_off(self) -> bool {
        self == Self::OFF
    }
}

/// A block being collected.
struct Collected {
    sound: [f32; BLOCK_SAMPLES],
    length: usize,
}

impl Collected {
    const EMPTY: Self = Self { sound: [0.0; BLOCK_SAMPLES], length: 0 };

    /// Takes what fits; returns the rest. Full when `length` is [`BLOCK_SAMPLES`].
    fn take<'a>(&mut self, sound: &'a [f32]) -> &'a [f32] {
        let count = sound.len().min(BLOCK_SAMPLES - self.length);
        self.sound[self.length..self.length + count].copy_from_slice(&sound[..count]);
        self.length += count;
        &sound[count..]
    }
}

/// The processing of one microphone and one loudspeaker.
pub struct Processor {
    inside: Option<Box<AudioProcessing>>,
    captured: Collected,
    rendered: Collected,
}

impl Processor {
    /// A processor. Allocates all it will need.
    pub fn new(config: ProcessingConfig) -> Self {
        let inside = (!config.is_off()).then(|| {
            let stream = StreamConfig::new(SAMPLE_RATE_HZ, 1);
            let settings = Config {
                // Headsets have no echo: the hidden Markov model finds that sooner, and lets the
                // near voice through while both speak.
                echo_canceller: config.echo_cancellation.then(|| EchoCanceller {
                    transparent_mode: TransparentModeType::Hmm,
                    ..EchoCanceller::default()
                }),
                noise_suppression: config.noise_suppression.then(|| NoiseSuppression {
                    level: NoiseSuppressionLevel::Moderate,
                    ..NoiseSuppression::default()
                }),
                gain_controller2: config.gain_control.then(|| GainController2 {
                    adaptive_digital: Some(AdaptiveDigital {
                        initial_gain_db: INITIAL_GAIN_DB,
                        max_gain_change_db_per_second: GAIN_CHANGE_DB_PER_S,
                        ..AdaptiveDigital::default()
                    }),
                    ..GainController2::default()
                }),
                ..Config::default()
            };
            let built = AudioProcessing::builder()
                .config(settings)
                .capture_config(stream)
                .render_config(stream)
                .build();
            Box::new(built)
        });
        Self { inside, captured: Collected::EMPTY, rendered: Collected::EMPTY }
    }

    /// Takes sound about to be played by the loudspeaker.
    pub fn render(&mut self, mut sound: &[f32]) {
        let Some(inside) = &mut self.inside else { return };
        while !sound.is_empty() {
            sound = self.rendered.take(sound);
            if self.rendered.length == BLOCK_SAMPLES {
                self.rendered.length = 0;
                let mut out = [0.0; BLOCK_SAMPLES];
                // Lengths and channels match the configuration, which is all it can refuse.
                let _ = inside.process_render_f32(&[&self.rendered.sound], &mut [&mut out]);
            }
        }
    }

    /// Takes captured sound of any length; gives out processed blocks of 10 ms as they fill, or
    /// everything at once when nothing runs.
    pub fn capture(&mut self, mut sound: &[f32], emit: &mut dyn FnMut(&[f32])) {
        let Some(inside) = &mut self.inside else {
            emit(sound);
            return;
        };
        while !sound.is_empty() {
            sound = self.captured.take(sound);
            if self.captured.length == BLOCK_SAMPLES {
                self.captured.length = 0;
                let mut out = [0.0; BLOCK_SAMPLES];
                let source = &self.captured.sound;
                match inside.process_capture_f32(&[source], &mut [&mut out]) {
                    Ok(()) => emit(&out),
                    Err(_) => emit(source),
                }
            }
        }
    }

    /// Tells the canceller how long after being rendered sound is captured again, in ms.
    pub fn set_device_delay_ms(&mut self, delay_ms: u16) {
        if let Some(inside) = &mut self.inside {
            let _ = inside.set_stream_delay_ms(i32::from(delay_ms.min(500)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(state: &mut u32) -> f32 {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 8) as f32 / 8_388_608.0 - 1.0
    }

    /// Speech-like: noise in syllables through a resonance.
    fn voice(seed: u32, seconds: usize, per_s: f32) -> Vec<f32> {
        let mut state = seed;
        let (mut a, mut b) = (0.0_f32, 0.0_f32);
        (0..seconds * 48_000)
            .map(|i| {
                let t = i as f32 / 48_000.0;
                let loud = (t * per_s * core::f32::consts::TAU).sin().max(0.0);
                let next = 1.97 * a - 0.975 * b + 0.01 * noise(&mut state);
                (b, a) = (a, next);
                (next * loud).clamp(-0.9, 0.9)
            })
            .collect()
    }

    fn power_db(sound: &[f32]) -> f32 {
        let power = sound.iter().map(|s| s * s).sum::<f32>() / sound.len() as f32;
        10.0 * (power + 1e-12).log10()
    }

    fn process(config: ProcessingConfig, far: &[f32], near: &[f32]) -> Vec<f32> {
        let mut processor = Processor::new(config);
        let mut out = Vec::new();
        for (far, near) in far.chunks(240).zip(near.chunks(240)) {
            processor.render(far);
            processor.capture(near, &mut |block| out.extend_from_slice(block));
        }
        out
    }

    const ECHO_ONLY: ProcessingConfig =
        ProcessingConfig { echo_cancellation: true, ..ProcessingConfig::OFF };

    /// A room: a direct path of `delay` samples and a decaying tail.
    fn room(far: &[f32], delay: usize) -> Vec<f32> {
        let taps = [(0, 0.5), (171, -0.2), (533, 0.13), (1_201, -0.07), (2_907, 0.04)];
        (0..far.len())
            .map(|i| {
                let tap = |(at, gain): &(usize, f32)| {
                    i.checked_sub(delay + at).map_or(0.0, |from| far[from] * gain)
                };
                taps.iter().map(tap).sum()
            })
            .collect()
    }

    #[test]
    fn an_echo_loses_at_least_twenty_decibels() {
        let far = voice(1, 12, 2.3);
        for delay_ms in [20, 60, 120] {
            let echo = room(&far, delay_ms * 48);
            let out = process(ECHO_ONLY, &far, &echo);
            let from = 8 * 48_000;
            let enhancement = power_db(&echo[from..]) - power_db(&out[from..]);
            println!("{delay_ms} ms: echo return loss enhancement {enhancement:.1} dB");
            assert!(enhancement > 20.0, "{delay_ms} ms: {enhancement} dB");
        }
    }

    #[test]
    fn the_near_voice_survives_double_talk() {
        let (far, near) = (voice(1, 16, 2.3), voice(77, 16, 1.7));
        let echo = room(&far, 60 * 48);
        let both: Vec<f32> = echo.iter().zip(&near).map(|(e, n)| e + n).collect();
        let out = process(ECHO_ONLY, &far, &both);
        let from = 8 * 48_000;
        let change = power_db(&out[from..]) - power_db(&near[from..]);
        println!("near voice after double talk: {change:.1} dB");
        assert!((-9.0..3.0).contains(&change), "{change} dB");
    }

    #[test]
    fn steady_noise_is_suppressed() {
        let mut state = 5;
        let hiss: Vec<f32> = (0..48_000 * 6).map(|_| noise(&mut state) * 0.01).collect();
        let config = ProcessingConfig { noise_suppression: true, ..ProcessingConfig::OFF };
        let out = process(config, &vec![0.0; hiss.len()], &hiss);
        let reduction = power_db(&hiss[48_000 * 4..]) - power_db(&out[48_000 * 4..]);
        println!("noise reduced by {reduction:.1} dB");
        assert!(reduction > 6.0, "{reduction} dB");
    }

    #[test]
    fn without_processing_sound_passes_at_once() {
        let mut processor = Processor::new(ProcessingConfig::OFF);
        let mut out = Vec::new();
        processor.capture(&[0.5; 120], &mut |block| out.extend_from_slice(block));
        assert_eq!(out, [0.5; 120]);
    }
}
