//! What the audio thread spends per 10 ms of sound, each part and the whole of a call:
//! `cargo bench -p cooee-node --bench audio`. 10 ms are 4 blocks; 1 % of a core is 100 µs.

#![allow(missing_docs)] // criterion's macros make public functions

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use cooee_node::audio::{
    CallPath, CallSound,
    clock::BLOCK_SAMPLES,
    headless::{PacedMicrophone, PacedSpeaker},
    link::{VoiceMessage, voice_link},
    path::{Loop, SoundPath},
    recorder::Recorder,
    tones::echo_prompt,
};
use criterion::{Criterion, criterion_group, criterion_main};

const BLOCKS: usize = 4;
const BLOCK_TIME: Duration = Duration::from_micros(2_500);

fn pacing(criterion: &mut Criterion) {
    let (mut microphone, mut speaker) = (PacedMicrophone::new(0), PacedSpeaker::new(0));
    let mut now_ns = 0;
    criterion.bench_function("pacing, 10 ms", |bench| {
        bench.iter(|| {
            now_ns += 10_000_000;
            while black_box(microphone.next_block(now_ns)).is_some() {}
            while black_box(speaker.next_due(now_ns)).is_some() {}
        });
    });
}

fn device_loop(criterion: &mut Criterion) {
    let mut path = Loop::new(480);
    let mut block = [0.1; BLOCK_SAMPLES];
    let now = Instant::now();
    criterion.bench_function("loop path, 10 ms", |bench| {
        bench.iter(|| {
            for _ in 0..BLOCKS {
                path.capture(now, &mut block);
                path.playout(now, &mut block);
            }
        });
    });
}

fn recording(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for the recording");
    let mut recorder = Recorder::create(&folder.path().join("ear.wav")).expect("a recording");
    recorder.start(1);
    criterion.bench_function("recording, audio thread's share, 10 ms", |bench| {
        bench.iter(|| {
            for _ in 0..BLOCKS {
                recorder.write(black_box(&[0.1; BLOCK_SAMPLES]));
            }
        });
    });
}

/// A whole leg against itself: what it sends arrives before its next block.
fn call(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let (end, mut reader, mut writer) = voice_link().expect("a link");
    let (mut path, _controls) = CallPath::new(CallSound::default(), end).expect("a codec");
    let sound = echo_prompt();
    let mut now = Instant::now();
    let mut at = 0;
    let mut block = [0.0; BLOCK_SAMPLES];
    criterion.bench_function("call path with codec, 10 ms", |bench| {
        bench.iter(|| {
            for _ in 0..BLOCKS {
                now += BLOCK_TIME;
                while let Some(message) = reader.try_receive() {
                    if let VoiceMessage::Packet(_) = &message {
                        writer.send(now, message);
                    }
                }
                path.exchange(now);
                at = (at + BLOCK_SAMPLES) % (sound.len() - BLOCK_SAMPLES);
                block.copy_from_slice(&sound[at..at + BLOCK_SAMPLES]);
                path.capture(now, &mut block);
                path.playout(now, black_box(&mut block));
                path.finish(now);
            }
        });
    });
}

criterion_group!(benches, pacing, device_loop, recording, call);
criterion_main!(benches);
