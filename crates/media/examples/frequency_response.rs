//! What comes out of a voice direction, in dB of what goes in, at each frequency and bit rate.
//!
//! `cargo run --release -p cooee-media --example frequency_response [-- processing]`
//!
//! For each rate of payload the point that rate control takes for it; tones of -23 dB below full
//! scale in faint noise, one after the other, through sender and receiver, and before that through
//! the sound processing if asked for. Prints one row of the table in `docs/measurements/voice.md`
//! each.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use cooee_media::{
    processing::{BLOCK_SAMPLES, ProcessingConfig, Processor},
    voice::{VoiceConfig, VoiceReceiver, VoiceSender},
};

const RATES_BPS: [u32; 9] = [6_000, 8_000, 12_000, 16_000, 20_000, 24_000, 32_000, 48_000, 64_000];
const TONES_HZ: [f32; 12] = [
    50.0, 100.0, 300.0, 1_000.0, 3_400.0, 5_000.0, 7_000.0, 8_000.0, 10_000.0, 12_000.0, 13_500.0,
    15_000.0,
];

/// Power near `hz`: mean over short windows, since codecs keep no phase and playout may slip.
fn power_at(sound: &[f32], hz: f32) -> f64 {
    let length = if hz < 1_000.0 { 9_600 } else { 1_200 };
    let turn = core::f64::consts::TAU;
    let windows = sound.chunks_exact(length);
    let count = windows.len() as f64;
    let of = |window: &[f32]| {
        let (mut a, mut b) = (0.0, 0.0);
        for (index, sample) in window.iter().enumerate() {
            let hann = 1.0 - (turn * index as f64 / length as f64).cos();
            let angle = turn * f64::from(hz) / 48_000.0 * index as f64;
            a += hann * f64::from(*sample) * angle.cos();
            b += hann * f64::from(*sample) * angle.sin();
        }
        2.0 * (a * a + b * b) / (length * length) as f64
    };
    windows.map(of).sum::<f64>() / count
}

/// What is heard of `sound` at `payload_bps`.
fn heard(sound: &[f32], payload_bps: u32, processed: bool) -> Vec<f32> {
    let config = VoiceConfig {
        payload_bits_per_s_max: payload_bps,
        wire_bits_per_s_start: 192_000,
        ..VoiceConfig::default()
    };
    let mut sender = VoiceSender::new(config).expect("sender");
    let mut receiver = VoiceReceiver::new(config).expect("receiver");
    let parts = if processed { ProcessingConfig::default() } else { ProcessingConfig::OFF };
    let mut processor = Processor::new(parts);
    let start = Instant::now();
    let mut out = Vec::with_capacity(sound.len());
    for (index, block) in sound.chunks_exact(BLOCK_SAMPLES).enumerate() {
        let now = start + Duration::from_millis(10 * index as u64);
        processor.render(&[0.0; BLOCK_SAMPLES]);
        processor.capture(block, &mut |clean| {
            sender.capture(now, clean, &mut |packet| receiver.handle_packet(now, packet));
        });
        let mut played = [0.0; BLOCK_SAMPLES];
        receiver.playout(now, &mut played);
        out.extend_from_slice(&played);
    }
    out
}

fn main() {
    let processed = std::env::args().nth(1).is_some_and(|part| part == "processing");
    let amplitude = 10.0_f32.powf(-23.0 / 20.0) * 2.0_f32.sqrt();
    let mut state = 9_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / 8_388_608.0 - 1.0) * 1e-4
    };
    let names: Vec<String> = TONES_HZ.iter().map(|hz| format!("{hz} Hz")).collect();
    println!("| payload, kbit/s | {} |", names.join(" | "));
    println!("|{}", " --- |".repeat(TONES_HZ.len() + 1));
    for rate in RATES_BPS {
        let mut cells = Vec::new();
        for hz in TONES_HZ {
            let step = core::f32::consts::TAU * hz / 48_000.0;
            // A second of the tone after half a second without; the middle of it is judged.
            let sound: Vec<f32> = (0..96_000_u32)
                .map(|index| {
                    let on = if index < 24_000 { 0.0 } else { amplitude };
                    on * ((index % 48_000) as f32 * step).sin() + noise()
                })
                .collect();
            let out = heard(&sound, rate, processed);
            let (from, to) = (57_600, 91_200);
            let change = power_at(&out[from..to], hz) / power_at(&sound[from..to], hz);
            cells.push(format!("{:.1}", 10.0 * (change + 1e-9).log10()));
        }
        println!("| {} | {} |", rate / 1_000, cells.join(" | "));
    }
}
