//! Cleaning up captured sound: echo cancellation, noise suppression, gain control.
//!
//! ```text
//!   microphone ─▶ DC ─▶ echo canceller ─▶ noise suppressor, while there is noise ─▶ gain ─▶
//!   loudspeaker ────────────▲
//! ```
//! The parts are those of `sonora`, the pure Rust port of the WebRTC audio processing module, each
//! run by itself ([`stage`]): together the library puts a high-pass filter before them, which alone
//! costs clean speech 0.6 of PESQ, and the noise suppressor, which costs 10 ms, runs when there is
//! nothing to suppress. Here it is used only while the microphone's own noise asks for it
//! ([`noise`]).
//!
//! It works in blocks of 10 ms, as long as the quiet path's Opus frame: fed from the start of a
//! call together with the sender, collecting the block costs no time beyond the frame's own.

mod noise;
mod stage;

use noise::Suppressor;
use stage::Stage;

use crate::scratch::Scratch;

/// Samples in a processed block, 10 ms.
pub const BLOCK_SAMPLES: usize = 480;

/// A block of sound.
type Block = [f32; BLOCK_SAMPLES];

/// Corner of the filter that takes a constant offset out, as a share of the sample it keeps: 8 Hz.
const OFFSET_KEPT: f32 = 0.998_95;

/// Delay of the canceller and of the suppressor, in ms (measured by correlation).
const ECHO_DELAY_MS: f32 = 9.0;
const NOISE_DELAY_MS: f32 = 9.7;

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
}

/// A block being collected.
struct Collected {
    sound: Block,
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

/// Takes out what does not change: a first-order filter that turns no phase in the voice's range.
#[derive(Default)]
struct OffsetFilter {
    last_in: f32,
    last_out: f32,
}

impl OffsetFilter {
    fn process(&mut self, block: &mut Block) {
        for sample in block {
            self.last_out = OFFSET_KEPT * self.last_out + *sample - self.last_in;
            self.last_in = *sample;
            *sample = self.last_out;
        }
    }
}

/// The processing of one microphone and one loudspeaker.
pub struct Processor {
    is_on: bool,
    offset: OffsetFilter,
    echo: Option<Stage>,
    noise: Option<Suppressor>,
    gain: Option<Stage>,
    captured: Collected,
    rendered: Collected,
    /// What the library asks for, block by block. Last, so that it outlives what was made of it.
    scratch: Scratch,
}

impl Processor {
    /// A processor. Allocates what it will need; what the library asks for block by block comes
    /// from [`crate::scratch`].
    pub fn new(config: ProcessingConfig) -> Self {
        Self {
            is_on: config != ProcessingConfig::OFF,
            offset: OffsetFilter::default(),
            echo: config.echo_cancellation.then(Stage::echo_canceller),
            noise: config.noise_suppression.then(Suppressor::new),
            gain: config.gain_control.then(Stage::gain_control),
            captured: Collected::EMPTY,
            rendered: Collected::EMPTY,
            scratch: Scratch::default(),
        }
    }

    /// Takes sound about to be played by the loudspeaker.
    pub fn render(&mut self, mut sound: &[f32]) {
        let Some(echo) = &mut self.echo else { return };
        while !sound.is_empty() {
            sound = self.rendered.take(sound);
            if self.rendered.length == BLOCK_SAMPLES {
                self.rendered.length = 0;
                self.scratch.run(|| echo.render(&self.rendered.sound));
            }
        }
    }

    /// Takes captured sound of any length; gives out processed blocks of 10 ms as they fill, or
    /// everything at once when nothing runs.
    pub fn capture(&mut self, mut sound: &[f32], emit: &mut dyn FnMut(&[f32])) {
        if !self.is_on {
            emit(sound);
            return;
        }
        while !sound.is_empty() {
            sound = self.captured.take(sound);
            if self.captured.length == BLOCK_SAMPLES {
                self.captured.length = 0;
                let mut block = self.captured.sound;
                self.offset.process(&mut block);
                let Self { echo, noise, gain, scratch, .. } = self;
                scratch.run(|| clean(&mut block, echo, noise, gain));
                emit(&block);
            }
        }
    }

    /// Tells the canceller how long after being rendered sound is captured again, in ms.
    pub fn set_device_delay_ms(&mut self, delay_ms: u16) {
        if let Some(echo) = &mut self.echo {
            echo.set_device_delay_ms(delay_ms);
        }
    }

    /// By so much what comes out lags what was captured, in ms; collecting a block is not counted.
    pub fn delay_ms(&self) -> f32 {
        let echo_ms = if self.echo.is_some() { ECHO_DELAY_MS } else { 0.0 };
        let noise_ms = if self.suppresses_noise() { NOISE_DELAY_MS } else { 0.0 };
        echo_ms + noise_ms
    }

    /// Whether noise is being suppressed at present.
    pub fn suppresses_noise(&self) -> bool {
        self.noise.as_ref().is_some_and(Suppressor::is_used)
    }
}

fn clean(
    block: &mut Block,
    echo: &mut Option<Stage>,
    noise: &mut Option<Suppressor>,
    gain: &mut Option<Stage>,
) {
    if let Some(echo) = echo {
        echo.capture(block);
    }
    if let Some(noise) = noise {
        noise.process(block);
    }
    if let Some(gain) = gain {
        gain.capture(block);
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

    const NOISE_ONLY: ProcessingConfig =
        ProcessingConfig { noise_suppression: true, ..ProcessingConfig::OFF };

    /// Steady noise at `level_db` below full scale.
    fn hiss(seconds: usize, level_db: f32) -> Vec<f32> {
        let mut state = 5;
        let amplitude = 3.0_f32.sqrt() * 10.0_f32.powf(level_db / 20.0);
        (0..48_000 * seconds).map(|_| noise(&mut state) * amplitude).collect()
    }

    #[test]
    fn steady_noise_is_suppressed() {
        for level_db in [-65.0, -45.0, -30.0] {
            let hiss = hiss(10, level_db);
            let out = process(NOISE_ONLY, &vec![0.0; hiss.len()], &hiss);
            let from = 48_000 * 7;
            let reduction = power_db(&hiss[from..]) - power_db(&out[from..]);
            println!("noise of {level_db} dB reduced by {reduction:.1} dB");
            assert!(reduction > 6.0, "{level_db} dB: {reduction} dB");
        }
    }

    #[test]
    fn a_voice_in_a_quiet_room_is_left_as_it_is_and_in_a_noisy_one_it_is_not() {
        let near = voice(77, 16, 0.9);
        let far = vec![0.0; near.len()];
        for (level_db, wanted) in [(-75.0, false), (-45.0, true)] {
            let both: Vec<f32> = near.iter().zip(hiss(16, level_db)).map(|(n, h)| n + h).collect();
            let mut processor = Processor::new(NOISE_ONLY);
            let mut out = Vec::new();
            for (far, near) in far.chunks(480).zip(both.chunks(480)) {
                processor.render(far);
                processor.capture(near, &mut |block| out.extend_from_slice(block));
            }
            assert_eq!(processor.suppresses_noise(), wanted, "{level_db} dB");
            let step = |s: &[f32]| s.windows(2).map(|w| (w[1] - w[0]).abs()).fold(0.0, f32::max);
            assert!(step(&out) < 1.3 * step(&both), "{level_db} dB: a click");
            let change = power_db(&out[48_000 * 10..]) - power_db(&near[48_000 * 10..]);
            assert!(change.abs() < 1.5, "{level_db} dB: the voice changed by {change} dB");
        }
    }

    #[test]
    fn a_constant_offset_is_taken_out() {
        let out = process(ProcessingConfig::default(), &[0.0; 96_000], &[0.2; 96_000]);
        assert!(power_db(&out[90_000..]) < -60.0);
    }

    #[test]
    fn without_processing_sound_passes_at_once() {
        let mut processor = Processor::new(ProcessingConfig::OFF);
        let mut out = Vec::new();
        processor.capture(&[0.5; 120], &mut |block| out.extend_from_slice(block));
        assert_eq!(out, [0.5; 120]);
    }
}
