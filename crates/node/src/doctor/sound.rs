//! Whether a sound server is there and the microphone delivers sound.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Finding, Verdict};
use crate::{
    audio::{
        AudioConfig, AudioLeg, Device, DeviceKind, MicrophoneSpec, SpeakerSpec,
        clock::BLOCK_SAMPLES, list_devices, path::SoundPath,
    },
    settings::Settings,
};

/// How long the microphone is listened to.
const LISTENING: Duration = Duration::from_millis(1500);

/// Below this peak a microphone delivers digital silence: 16-bit sound has no smaller sample.
const SILENCE_PEAK: f32 = 1.0 / 32_768.0;

pub(super) async fn examine(settings: &Settings) -> Vec<Finding> {
    let microphone: MicrophoneSpec = match settings.microphone.parse() {
        Ok(microphone) => microphone,
        Err(error) => {
            return vec![
                Finding::new("sound", Verdict::Bad, format!("{error}."))
                    .advise("Correct `microphone` in config.toml."),
            ];
        }
    };
    let found = tokio::task::spawn_blocking(move || {
        let mut found = vec![server(&microphone)];
        if microphone.is_device() && found[0].verdict == Verdict::Good {
            found.push(listen(microphone));
        }
        found
    });
    found.await.unwrap_or_else(|error| {
        vec![Finding::new("sound", Verdict::Unknown, format!("It could not be told: {error}."))]
    })
}

fn server(microphone: &MicrophoneSpec) -> Finding {
    let devices: Vec<Device> = match list_devices() {
        Ok(devices) => devices,
        Err(error) => {
            let verdict = if microphone.is_device() { Verdict::Bad } else { Verdict::Fair };
            return Finding::new("sound", verdict, format!("{error}."));
        }
    };
    let count = |kind| devices.iter().filter(|device| device.kind == kind).count();
    let (microphones, speakers) = (count(DeviceKind::Microphone), count(DeviceKind::Speaker));
    let data = json!({ "microphones": microphones, "speakers": speakers, "devices": devices });
    let says = format!("A sound server is there: microphones {microphones}, speakers {speakers}.");
    Finding::new("sound", Verdict::Good, says).with(data)
}

/// Remembers the loudest sample.
struct Meter {
    peak: Arc<AtomicU32>,
    blocks: Arc<AtomicU64>,
}

impl SoundPath for Meter {
    fn exchange(&mut self, _now: Instant) {}

    fn capture(&mut self, _now: Instant, block: &mut [f32; BLOCK_SAMPLES]) {
        let loudest = block.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        // The bits of positive numbers are ordered as the numbers are.
        self.peak.fetch_max(loudest.to_bits(), Ordering::Relaxed);
        self.blocks.fetch_add(1, Ordering::Relaxed);
    }

    fn playout(&mut self, _now: Instant, block: &mut [f32; BLOCK_SAMPLES]) {
        block.fill(0.0);
    }

    fn finish(&mut self, _now: Instant) {}
}

fn listen(microphone: MicrophoneSpec) -> Finding {
    let (peak, blocks) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
    let meter = Meter { peak: peak.clone(), blocks: blocks.clone() };
    let config = AudioConfig { microphone, speaker: SpeakerSpec::Null, ..AudioConfig::default() };
    let leg = match AudioLeg::start(&config, meter) {
        Ok(leg) => leg,
        Err(error) => return Finding::new("microphone", Verdict::Bad, format!("{error}.")),
    };
    std::thread::sleep(LISTENING);
    let device = leg.stop().devices.microphone;
    let peak = f32::from_bits(peak.load(Ordering::Relaxed));
    let blocks = blocks.load(Ordering::Relaxed);
    let level_dbfs = (peak > 0.0).then(|| 20.0 * peak.log10());
    let data = json!({ "device": device, "blocks": blocks, "level_dbfs": level_dbfs });
    let name = device.unwrap_or_else(|| "The microphone".to_owned());
    let finding = match level_dbfs {
        _ if blocks == 0 => {
            Finding::new("microphone", Verdict::Bad, format!("{name} delivers nothing."))
                .advise("Plug one in or choose one: `cooee devices` lists them.")
        }
        Some(level) if peak > SILENCE_PEAK => Finding::new(
            "microphone",
            Verdict::Good,
            format!("{name} delivers sound; its loudest was {level:.0} dB below full scale."),
        ),
        _ => Finding::new(
            "microphone",
            Verdict::Fair,
            format!("{name} delivers silence: nobody would hear you."),
        )
        .advise("Unmute it, raise its level, or choose another: `cooee devices` lists them."),
    };
    finding.with(data)
}
