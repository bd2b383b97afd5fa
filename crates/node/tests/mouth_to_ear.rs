//! The delay from mouth to ear that a call shows, against the true one: two call paths in virtual
//! time, with device buffers on both sides, and the sound itself compared with what was said.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use cooee_media::processing::ProcessingConfig;
use cooee_node::audio::{
    CallControls, CallPath, CallSound,
    clock::BLOCK_SAMPLES,
    link::{VoiceMessage, VoiceReader, VoiceWriter, voice_link},
    path::SoundPath,
};

const BLOCK_US: u64 = 2_500;

/// How long sound is in the devices.
#[derive(Clone, Copy)]
struct Devices {
    microphone_us: u64,
    speaker_us: u64,
}

struct Leg {
    path: CallPath,
    controls: CallControls,
    reader: VoiceReader,
    writer: VoiceWriter,
    /// Messages on their way to this leg, by arrival.
    way: VecDeque<(u64, VoiceMessage)>,
    said: Vec<f32>,
    heard: Vec<f32>,
}

impl Leg {
    fn new(processing: Option<ProcessingConfig>, microphone_us: u64) -> Self {
        let (audio, reader, writer) = voice_link().expect("a link");
        let sound = CallSound { processing, ..CallSound::default() };
        let (mut path, controls) = CallPath::new(sound, audio).expect("a path");
        path.set_microphone_delay(microphone_us as f32 / 1e3);
        let (way, said, heard) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { path, controls, reader, writer, way, said, heard }
    }

    /// A wake-up at `now_us`: what the microphone heard up to `microphone_us` ago comes in, and a
    /// block goes out to be heard `speaker_us` later.
    fn wake_up(&mut self, start: Instant, now_us: u64, pitch: f32) {
        let now = start + Duration::from_micros(now_us);
        while self.way.front().is_some_and(|(at, _)| *at <= now_us) {
            let Some((at, message)) = self.way.pop_front() else { break };
            self.writer.send(start + Duration::from_micros(at), message);
        }
        self.path.exchange(now);
        let mut block = spoken(self.said.len(), pitch);
        self.said.extend(block);
        self.path.capture(now, &mut block);
        self.path.playout(now, &mut block);
        self.heard.extend(block);
        self.path.finish(now);
    }

    fn carry(&mut self, now_us: u64, to: &mut Self, delay_us: &mut dyn FnMut() -> u64) {
        while let Some(message) = self.reader.try_receive() {
            let last = to.way.back().map_or(0, |(at, _)| *at);
            to.way.push_back(((now_us + delay_us()).max(last), message));
        }
    }
}

/// Syllables of a gliding voice with some breath in it, so that it resembles itself nowhere.
fn spoken(from: usize, pitch: f32) -> [f32; BLOCK_SAMPLES] {
    std::array::from_fn(|i| {
        let index = from + i;
        let t = index as f32 / 48_000.0;
        let mut state = (index as u32 / 8).wrapping_mul(2_654_435_761);
        state = (state ^ (state >> 15)).wrapping_mul(2_246_822_519);
        let breath = (state >> 8) as f32 / 8_388_608.0 - 1.0;
        let phase = core::f32::consts::TAU * (pitch * t + 6.0 * (t * 1.7).sin());
        let voice: f32 = (1..10).map(|k| (phase * k as f32).sin() / k as f32).sum();
        (voice * 0.1 + breath * 0.03) * (t * 11.0).sin().max(0.0)
    })
}

/// By so many samples `heard` lags `said` around `at`.
fn lag(said: &[f32], heard: &[f32], at: usize, length: usize) -> usize {
    let score = |lag: usize, step: usize| {
        let (a, b) = (&said[at..at + length], &heard[at + lag..at + lag + length]);
        let pairs = || a.iter().zip(b).step_by(step);
        let cross: f32 = pairs().map(|(a, b)| a * b).sum();
        cross / pairs().map(|(_, b)| b * b).sum::<f32>().sqrt().max(1e-6)
    };
    let coarse = (0..48 * 400).step_by(4).max_by(|a, b| score(*a, 7).total_cmp(&score(*b, 7)));
    let near = coarse.expect("a range").saturating_sub(4)..coarse.expect("a range") + 5;
    near.max_by(|a, b| score(*a, 1).total_cmp(&score(*b, 1))).expect("a range")
}

/// The estimate and the truth after 20 s, in ms.
fn compare(
    processing: Option<ProcessingConfig>,
    devices: Devices,
    mut delay_us: impl FnMut() -> u64,
) -> (f32, f32) {
    let mut here = Leg::new(processing, devices.microphone_us);
    let mut there = Leg::new(processing, devices.microphone_us);
    let start = Instant::now();
    for block in 0..8_000 {
        let now_us = block * BLOCK_US;
        here.wake_up(start, now_us, 110.0);
        there.wake_up(start, now_us + 900, 190.0);
        here.carry(now_us, &mut there, &mut delay_us);
        there.carry(now_us + 900, &mut here, &mut delay_us);
    }
    let statistics = there.controls.statistics();
    let trip_ms = statistics.sender.round_trip_ms.expect("reports came") as f32;
    let speaker_ms = devices.speaker_us as f32 / 1e3;
    let estimate = statistics.mouth_to_ear_ms(trip_ms, speaker_ms).expect("heard");
    // A block that comes in now was said until `microphone_us` ago; one that goes out now is
    // heard from `speaker_us` on; the other side's clock is 900 µs later.
    let samples = lag(&here.said, &there.heard, 48_000 * 18, 48_000);
    let devices_us = devices.microphone_us + BLOCK_US + devices.speaker_us + 900;
    (estimate, samples as f32 / 48.0 + devices_us as f32 / 1e3)
}

#[tokio::test]
async fn the_delay_that_is_shown_is_near_the_true_one() {
    let small = Devices { microphone_us: 5_000, speaker_us: 7_500 };
    let large = Devices { microphone_us: 40_000, speaker_us: 60_000 };
    let mut state = 1_u64;
    let mut jitter = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        20_000 + (state >> 33) % 15_000
    };
    let on = Some(ProcessingConfig::default());
    let results = [
        ("quiet path, nothing processed", compare(None, small, || 300), 5.0),
        ("quiet path", compare(on, small, || 300), 5.0),
        ("40 ms of path, large buffers", compare(on, large, || 40_000), 5.0),
        ("15 ms of jitter", compare(on, small, &mut jitter), 15.0),
    ];
    for (name, (estimate, truth), bound) in results {
        let off = estimate - truth;
        println!("{name}: shown {estimate:.1} ms, true {truth:.1} ms, off {off:+.1}");
        assert!(off.abs() < bound, "{name}: shown {estimate} ms, true {truth} ms");
    }
}
