//! How long single frames take, worst case beside the middle: what the audio thread must fit into
//! its deadline is the slowest frame, not the mean.
//!
//! `cargo bench -p cooee-media --bench frame_times [-- --frames N] [--call]`; times are wall
//! clock, so a busy machine shows in the last two columns first.
#![allow(clippy::disallowed_methods, missing_docs)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use cooee_media::{
    codec::{Application, DredState, FrameDuration, OpusDecoder, OpusEncoder},
    jitter::{
        buffer::{Content, FrameBuffer},
        delay::DelayEstimator,
    },
    loss::Code,
    mixer::Mixer,
    processing::{ProcessingConfig, Processor},
    scratch::ScratchHeap,
    voice::{OperatingPoint, VoiceConfig, VoiceReceiver, VoiceSender},
};

#[global_allocator]
static HEAP: ScratchHeap<std::alloc::System> = ScratchHeap(std::alloc::System);

/// Frames that are run before any is counted: 1 s.
const WARM_UP: usize = 100;

struct Times {
    name: String,
    all: Vec<Duration>,
}

impl Times {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), all: Vec::new() }
    }

    fn take<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let began = Instant::now();
        let made = black_box(work());
        self.all.push(began.elapsed());
        made
    }

    fn print(mut self) {
        self.all.drain(..WARM_UP.min(self.all.len() / 2));
        self.all.sort_unstable();
        let us = |share: f64| {
            let index = ((self.all.len() - 1) as f64 * share).ceil() as usize;
            self.all[index].as_secs_f64() * 1e6
        };
        let mean = self.all.iter().sum::<Duration>().as_secs_f64() * 1e6 / self.all.len() as f64;
        println!(
            "| {} | {} | {mean:.1} | {:.1} | {:.1} | {:.1} |",
            self.name,
            self.all.len(),
            us(0.5),
            us(0.999),
            us(1.0)
        );
    }
}

/// Syllables of a gliding voice in a little noise.
fn voice(samples: usize, pitch_hz: f32, noise: f32) -> Vec<f32> {
    let (mut phase, mut state) = (0.0_f32, 1_u32);
    (0..samples)
        .map(|i| {
            let seconds = i as f32 / 48_000.0;
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let hiss = ((state >> 8) as f32 / 8_388_608.0 - 1.0) * noise;
            let hz = pitch_hz + 40.0 * (seconds * 3.0).sin();
            phase = (phase + core::f32::consts::TAU * hz / 48_000.0) % core::f32::consts::TAU;
            let loud = (seconds * 4.0 * core::f32::consts::PI).sin().max(0.0);
            (1..20).map(|k| (phase * k as f32).sin() / k as f32).sum::<f32>() * 0.1 * loud + hiss
        })
        .collect()
}

/// Encodes, decodes, and conceals one frame in ten, as a lossy call does.
fn codec(frames: usize, name: &str, application: Application, frame: FrameDuration, bits: u32) {
    let sound = voice(480_000, 130.0, 1e-3);
    let mut encoder = OpusEncoder::new(application).expect("an encoder");
    encoder.set_bit_rate(bits).expect("the rate");
    encoder.set_variable_bit_rate(false).expect("constant rate");
    encoder.set_complexity(9).expect("the effort");
    let mut decoder = OpusDecoder::new().expect("a decoder");
    decoder.set_complexity(7).expect("the effort");
    let mut encode = Times::new(format!("encode, {name}"));
    let mut decode = Times::new(format!("decode, {name}"));
    let mut conceal = Times::new(format!("conceal 10 ms (deep), {name}"));
    let mut after = Times::new(format!("decode the frame after concealment, {name}"));
    let (mut payload, mut heard, mut was_lost) = ([0; 1_275], [0.0; 5_760], false);
    let all: Vec<&[f32]> = sound.chunks_exact(frame.samples()).collect();
    for index in 0..frames {
        let sound = all[index % all.len()];
        let bytes = encode.take(|| encoder.encode(sound, &mut payload)).expect("encodes");
        if index % 10 == 9 {
            for _ in 0..frame.samples() / 480 {
                conceal.take(|| decoder.conceal(&mut heard[..480])).expect("conceals");
            }
            was_lost = true;
            continue;
        }
        let times = if core::mem::take(&mut was_lost) { &mut after } else { &mut decode };
        times.take(|| decoder.decode(&payload[..bytes], &mut heard)).expect("decodes");
    }
    [encode, decode, conceal, after].into_iter().for_each(Times::print);
}

fn deep_redundancy(frames: usize) {
    let sound = voice(480_000, 130.0, 1e-3);
    let mut encoder = OpusEncoder::new(Application::Voip).expect("an encoder");
    encoder.set_bit_rate(32_000).expect("the rate");
    encoder.set_expected_loss(20).expect("loss");
    encoder.set_deep_redundancy(50).expect("redundancy");
    let mut decoder = OpusDecoder::new().expect("a decoder");
    let mut deep = DredState::new().expect("a state");
    let mut encode = Times::new("encode with deep redundancy, 20 ms at 32 kbit/s");
    let mut parse = Times::new("read deep redundancy of a packet");
    let mut fill = Times::new("decode 10 ms of deep redundancy");
    let (mut payload, mut heard) = ([0; 1_275], [0.0; 960]);
    for frame in sound.chunks_exact(960).cycle().take(frames / 4) {
        let bytes = encode.take(|| encoder.encode(frame, &mut payload)).expect("encodes");
        let covered = parse.take(|| deep.parse(&payload[..bytes], 48_000)).unwrap_or(0);
        if covered >= 960 {
            decoder.decode(&payload[..bytes], &mut heard).expect("decodes");
            let made = fill.take(|| decoder.decode_deep_redundancy(&deep, 960, &mut heard[..480]));
            made.expect("decodes");
        }
    }
    [encode, parse, fill].into_iter().for_each(Times::print);
}

fn jitter_buffer(frames: usize) {
    let (mut buffer, mut delay) = (FrameBuffer::default(), DelayEstimator::default());
    let mut times = Times::new("jitter buffer: a packet in, its delay, a frame out");
    for packet in (1_u64 << 32..).take(frames) {
        times.take(|| {
            buffer.insert(packet, packet as i64 * 480, 480, Content::Opus, &[7; 80]);
            delay.arrived((packet as u32 * 10).into(), 40.0 + (packet % 7) as f64, 10.0);
            if let Some(frame) = buffer.take(packet) {
                buffer.recycle(frame);
            }
        });
    }
    times.print();
}

/// A whole direction: 10 ms of capture and 10 ms of playout, with jitter and loss.
fn direction(frames: usize, name: &str, point: OperatingPoint, lose: u16, jitter: usize) {
    let config = VoiceConfig { fixed: Some(point), ..VoiceConfig::default() };
    let mut sender = VoiceSender::new(config).expect("a sender");
    let mut receiver = VoiceReceiver::new(config).expect("a receiver");
    let (sound, start) = (voice(480_000, 130.0, 1e-3), Instant::now());
    let mut capture = Times::new(format!("sender, 10 ms, {name}"));
    let mut playout = Times::new(format!("receiver: packets in and 10 ms out, {name}"));
    let mut way = std::collections::VecDeque::new();
    let mut out = [0.0; 480];
    for (index, block) in sound.chunks_exact(480).cycle().take(frames).enumerate() {
        let now = start + Duration::from_millis(index as u64 * 10);
        capture.take(|| {
            sender.capture(now, block, &mut |packet| {
                if lose == 0
                    || !packet.sequence.wrapping_mul(40_503).rotate_left(7).is_multiple_of(lose)
                {
                    let late = if jitter == 0 { 0 } else { index * 7_919 % jitter };
                    way.push_back((index + late, packet));
                }
            });
        });
        playout.take(|| {
            for _ in 0..way.len() {
                let Some((at, packet)) = way.pop_front() else { break };
                if at <= index {
                    receiver.handle_packet(now, packet);
                } else {
                    way.push_back((at, packet));
                }
            }
            receiver.playout(now, &mut out);
        });
    }
    [capture, playout].into_iter().for_each(Times::print);
}

fn processing(frames: usize, name: &str, config: ProcessingConfig) {
    let (far, near) = (voice(480_000, 210.0, 1e-3), voice(480_000, 120.0, 2e-2));
    let mut processor = Processor::new(config);
    let mut times = Times::new(format!("capture processing, 10 ms: {name}"));
    for at in (0..480_000 - 5_000).step_by(480).cycle().take(frames) {
        let mut microphone: [f32; 480] = std::array::from_fn(|i| near[at + i]);
        let echo = far.iter().skip(at.saturating_sub(1_500));
        microphone.iter_mut().zip(echo).for_each(|(m, e)| *m += 0.3 * e);
        times.take(|| {
            processor.render(&far[at..at + 480]);
            processor.capture(&microphone, &mut |block| {
                black_box(block);
            });
        });
    }
    times.print();
}

/// One side of a two-way call on a quiet path, everything on: what its audio thread works for
/// 10 ms of sound. 100 µs are 1 % of a core.
fn call_side(frames: usize) {
    let config = VoiceConfig::default();
    let mut sender = VoiceSender::new(config).expect("a sender");
    let mut receiver = VoiceReceiver::new(config).expect("a receiver");
    let mut processor = Processor::new(ProcessingConfig::default());
    let (sound, start) = (voice(480_000, 130.0, 1e-4), Instant::now());
    let mut times = Times::new("one side of a quiet call, 10 ms, everything");
    let mut out = [0.0_f32; 480];
    for (index, near) in sound.chunks_exact(480).cycle().take(frames).enumerate() {
        let now = start + Duration::from_millis(index as u64 * 10);
        times.take(|| {
            // What this side sends comes back as the other's voice.
            processor.capture(near, &mut |clean| {
                sender.capture(now, clean, &mut |packet| receiver.handle_packet(now, packet));
            });
            receiver.playout(now, &mut out);
            processor.render(&out);
            if let Some(feedback) = receiver.poll_feedback(now) {
                sender.handle_feedback(now, &feedback);
            }
        });
    }
    times.print();
}

fn mixing(frames: usize, participants: usize) {
    let inputs: Vec<Vec<f32>> =
        (0..participants).map(|p| voice(48_000, 100.0 + 20.0 * p as f32, 1e-3)).collect();
    let mut mixer = Mixer::default();
    let mut times = Times::new(format!("mixer, 10 ms, {participants} participants"));
    for at in (0..47_000).step_by(480).cycle().take(frames) {
        let slices: Vec<&[f32]> = inputs.iter().map(|input| &input[at..at + 480]).collect();
        times.take(|| {
            mixer.mix(&slices, &mut |_, heard| {
                black_box(heard);
            });
        });
    }
    times.print();
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let given = arguments.iter().position(|a| a == "--frames").and_then(|at| arguments.get(at + 1));
    let frames = given.and_then(|n| n.parse().ok()).unwrap_or(20_000_usize).max(4 * WARM_UP);
    println!(
        "| what | frames | mean µs | p50 | p99.9 | max |\n| --- | --- | --- | --- | --- | --- |"
    );
    call_side(frames);
    if arguments.iter().any(|a| a == "--call") {
        return;
    }
    let (low, speech) = (Application::LowDelay, Application::Audio);
    codec(frames, "low delay 10 ms at 64 kbit/s", low, FrameDuration::Ms10, 64_000);
    codec(frames / 2, "speech 20 ms at 32 kbit/s", speech, FrameDuration::Ms20, 32_000);
    codec(frames / 2, "speech 20 ms at 16 kbit/s", speech, FrameDuration::Ms20, 16_000);
    deep_redundancy(frames);
    jitter_buffer(frames);
    direction(frames, "quiet path", OperatingPoint::QUIET, 0, 0);
    let lossy = OperatingPoint {
        frame: FrameDuration::Ms20,
        application: speech,
        codec_bits_per_s: 13_600,
        code: Some(Code::new(3, 4, 1, 8)),
        ..OperatingPoint::QUIET
    };
    direction(frames, "20 % loss, 40 ms of jitter, parity", lossy, 5, 5);
    let off = ProcessingConfig::OFF;
    processing(frames, "echo", ProcessingConfig { echo_cancellation: true, ..off });
    processing(frames, "noise", ProcessingConfig { noise_suppression: true, ..off });
    processing(frames, "gain", ProcessingConfig { gain_control: true, ..off });
    processing(frames, "all", ProcessingConfig::default());
    mixing(frames, 8);
}
