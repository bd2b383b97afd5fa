//! CPU of the voice path per 10 ms (or per frame), for one stream.
//!
//! `cargo bench -p cooee-media --bench voice`
#![allow(clippy::disallowed_methods, missing_docs)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use cooee_media::{
    codec::{Application, FrameDuration, OpusDecoder, OpusEncoder},
    jitter::{
        buffer::{Content, FrameBuffer},
        delay::DelayEstimator,
        sound::{Direction, Place, SoundQueue},
    },
    loss::{Code, RepairWindow, SendWindow},
    mixer::Mixer,
    processing::{ProcessingConfig, Processor},
    voice::{OperatingPoint, VoiceConfig, VoiceReceiver, VoiceSender},
};
use criterion::{Criterion, criterion_group, criterion_main};

fn voice(samples: usize) -> Vec<f32> {
    let mut phase = 0.0_f32;
    (0..samples)
        .map(|i| {
            let seconds = i as f32 / 48_000.0;
            phase += core::f32::consts::TAU * (130.0 + 40.0 * (seconds * 3.0).sin()) / 48_000.0;
            (1..20).map(|k| (phase * k as f32).sin() / k as f32).sum::<f32>() * 0.1
        })
        .collect()
}

fn codec(c: &mut Criterion) {
    let sound = voice(48_000);
    for (name, application, frame, bits) in [
        ("low delay 10 ms 64 kbit/s", Application::LowDelay, FrameDuration::Ms10, 64_000),
        ("speech 20 ms 16 kbit/s", Application::Voip, FrameDuration::Ms20, 16_000),
        ("speech 20 ms 32 kbit/s", Application::Voip, FrameDuration::Ms20, 32_000),
    ] {
        let mut encoder = OpusEncoder::new(application).unwrap();
        encoder.set_bit_rate(bits).unwrap();
        encoder.set_variable_bit_rate(false).unwrap();
        let mut decoder = OpusDecoder::new().unwrap();
        decoder.set_complexity(7).unwrap();
        let frames: Vec<&[f32]> = sound.chunks_exact(frame.samples()).collect();
        let mut payload = [0; 1_275];
        let mut at = 0;
        c.bench_function(&format!("encode {name}"), |b| {
            b.iter(|| {
                at = (at + 1) % frames.len();
                black_box(encoder.encode(frames[at], &mut payload).unwrap())
            });
        });
        let bytes = encoder.encode(frames[0], &mut payload).unwrap();
        let mut heard = [0.0; 5_760];
        c.bench_function(&format!("decode {name}"), |b| {
            b.iter(|| black_box(decoder.decode(&payload[..bytes], &mut heard).unwrap()));
        });
        c.bench_function(&format!("conceal 10 ms after {name}"), |b| {
            b.iter(|| black_box(decoder.conceal(&mut heard[..480]).unwrap()));
        });
    }
}

fn playout(c: &mut Criterion) {
    let mut buffer = FrameBuffer::default();
    let mut delay = DelayEstimator::default();
    let mut packet = 1_u64 << 32;
    c.bench_function("jitter buffer: one packet in and out", |b| {
        b.iter(|| {
            packet += 1;
            let timestamp = packet as i64 * 480;
            buffer.insert(packet, timestamp, 480, Content::Opus, &[7; 80]);
            delay.arrived(packet as f64 * 10.0, 40.0 + (packet % 7) as f64, 10.0);
            if let Some(frame) = buffer.take(packet) {
                buffer.recycle(frame);
            }
        });
    });
    let sound = voice(9_600);
    let mut queue = SoundQueue::default();
    c.bench_function("time stretch: search and cut one period", |b| {
        b.iter(|| {
            queue.clear();
            queue.push(&sound[..2_400]);
            black_box(queue.stretch(Direction::Shorter, Place::Anywhere))
        });
    });
}

fn redundancy(c: &mut Criterion) {
    let code = Code::new(3, 4, 1, 8);
    let (mut sender, mut receiver) = (SendWindow::default(), RepairWindow::default());
    let mut packet = 1_u64 << 32;
    let frame = [9; 40];
    let mut parity = vec![0; 4 * code.symbol_bytes(40)];
    c.bench_function("parity: send, lose every third packet, repair", |b| {
        b.iter(|| {
            packet += 1;
            sender.write_parity(code, packet, code.symbol_bytes(40), &mut parity);
            sender.remember(packet, &frame);
            if !packet.is_multiple_of(3) {
                let own = Some((code, code.symbol_bytes(40), &parity[..]));
                receiver.receive(packet, &frame, own, &mut |_, frame| {
                    black_box(frame);
                });
            }
        });
    });
}

/// A whole direction: 10 ms of capture, transport without delay, 10 ms of playout.
fn direction(c: &mut Criterion) {
    let sound = voice(480_000);
    let lossy = OperatingPoint {
        frame: FrameDuration::Ms20,
        bundled: 1,
        application: Application::Voip,
        codec_bits_per_s: 13_600,
        code: Some(Code::new(3, 4, 1, 8)),
        in_band: false,
        deep_10ms: 0,
    };
    for (name, point, lose) in [("quiet", OperatingPoint::QUIET, 0), ("20 % loss", lossy, 5)] {
        let config = VoiceConfig { fixed: Some(point), ..VoiceConfig::default() };
        let mut sender = VoiceSender::new(config).unwrap();
        let mut receiver = VoiceReceiver::new(config).unwrap();
        let start = Instant::now();
        let (mut block, mut worst) = (0_u64, Duration::ZERO);
        let mut out = [0.0; 480];
        c.bench_function(&format!("10 ms of one direction, {name}"), |b| {
            b.iter(|| {
                let began = Instant::now();
                let now = start + Duration::from_millis(block * 10);
                let at = (block as usize * 480) % (sound.len() - 480);
                sender.capture(now, &sound[at..at + 480], &mut |packet| {
                    if lose == 0 || packet.sequence % lose != 0 {
                        receiver.handle_packet(now, packet);
                    }
                });
                receiver.playout(now, &mut out);
                block += 1;
                if block > 100 {
                    worst = worst.max(began.elapsed());
                }
            });
        });
        println!("worst 10 ms of one direction, {name}: {worst:?}");
    }
}

fn processing(c: &mut Criterion) {
    let sound = voice(48_000);
    let mut processor = Processor::new(ProcessingConfig::default());
    let mut at = 0;
    c.bench_function("processing: echo, noise and gain, 10 ms", |b| {
        b.iter(|| {
            at = (at + 480) % 47_520;
            processor.render(&sound[at..at + 480]);
            processor.capture(&sound[at..at + 480], &mut |block| {
                black_box(block);
            });
        });
    });
    let inputs = [[0.1_f32; 480]; 8];
    let slices: [&[f32]; 8] = std::array::from_fn(|i| &inputs[i][..]);
    let mut mixer = Mixer::default();
    c.bench_function("mixer: 8 participants, 10 ms", |b| {
        b.iter(|| {
            mixer.mix(&slices, &mut |_, heard| {
                black_box(heard);
            })
        });
    });
}

criterion_group!(benches, codec, playout, redundancy, direction, processing);
criterion_main!(benches);
