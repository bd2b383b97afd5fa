//! Runs a near and a far voice through the sound processing.
//!
//! `cargo run -p cooee-media --example processing_bench -- NEAR.wav FAR.wav ECHO.wav OUT.wav PARTS`
//! where PARTS is any of `echo,noise,gain` or `off`. All files are 48 kHz mono; a path of `-` is
//! silence (or no output). The microphone hears NEAR plus ECHO, the loudspeaker plays FAR. Prints
//! one JSON line: the time per block of 10 ms.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use cooee_media::processing::{BLOCK_SAMPLES, ProcessingConfig, Processor};

fn read(path: &str) -> Vec<f32> {
    if path == "-" {
        return Vec::new();
    }
    let mut reader = hound::WavReader::open(path).expect("input is a WAV file");
    assert_eq!(reader.spec().sample_rate, 48_000, "input is sampled at 48 kHz");
    reader.samples::<i16>().map(|s| f32::from(s.expect("readable")) / 32_768.0).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [near, far, echo, out, parts] = &arguments[..] else {
        panic!("NEAR.wav FAR.wav ECHO.wav OUT.wav PARTS");
    };
    let has = |part: &str| parts.split(',').any(|given| given == part);
    let config = ProcessingConfig {
        echo_cancellation: has("echo"),
        noise_suppression: has("noise"),
        gain_control: has("gain"),
    };
    let (near, far, echo) = (read(near), read(far), read(echo));
    let length = near.len().max(echo.len()).max(far.len());
    let at = |sound: &[f32], index: usize| sound.get(index).copied().unwrap_or(0.0);
    let mut processor = Processor::new(config);
    let mut heard = Vec::with_capacity(length);
    let mut times = Vec::new();
    for block in (0..length / BLOCK_SAMPLES).map(|block| block * BLOCK_SAMPLES) {
        let place = block..block + BLOCK_SAMPLES;
        let played: Vec<f32> = place.clone().map(|i| at(&far, i)).collect();
        let captured: Vec<f32> = place.map(|i| at(&near, i) + at(&echo, i)).collect();
        let began = Instant::now();
        processor.render(&played);
        processor.capture(&captured, &mut |sound| heard.extend_from_slice(sound));
        times.push(began.elapsed());
    }
    if out != "-" {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 48_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(out, spec).expect("output can be created");
        for sample in &heard {
            writer
                .write_sample((sample * 32_767.0).clamp(-32_768.0, 32_767.0) as i16)
                .expect("room");
        }
        writer.finalize().expect("room");
    }
    times.sort_unstable();
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let pick = |share: f64| us(times[((times.len() - 1) as f64 * share) as usize]);
    println!(
        "{{\"blocks\":{},\"median_us\":{:.1},\"p99_us\":{:.1},\"worst_us\":{:.1}}}",
        times.len(),
        pick(0.5),
        pick(0.99),
        pick(1.0)
    );
}
