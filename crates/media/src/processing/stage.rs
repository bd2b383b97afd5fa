//! One part of the library's audio processing, run by itself on blocks of 10 ms.

use sonora::{
    AudioProcessing, Config, StreamConfig,
    config::{
        AdaptiveDigital, EchoCanceller, GainController2, MaxProcessingRate, NoiseSuppression,
        NoiseSuppressionLevel, Pipeline, TransparentModeType,
    },
};

use super::{BLOCK_SAMPLES, Block};
use crate::codec::SAMPLE_RATE_HZ;

/// Gain before anything is known of the microphone (the library's 15 dB clip a good one), and how
/// fast it changes: a level that moves within a sentence is heard.
const INITIAL_GAIN_DB: f32 = 3.0;
const GAIN_CHANGE_DB_PER_S: f32 = 3.0;

/// A part at work.
pub(super) struct Stage {
    inside: Box<AudioProcessing>,
}

impl Stage {
    /// Removes the loudspeaker's sound. Headsets have no echo: the hidden Markov model finds that
    /// sooner, and lets the near voice through while both speak.
    pub(super) fn echo_canceller() -> Self {
        Self::new(Config {
            echo_canceller: Some(EchoCanceller {
                enforce_high_pass_filtering: false,
                transparent_mode: TransparentModeType::Hmm,
            }),
            ..Config::default()
        })
    }

    /// Removes steady noise, and what lies below 100 Hz.
    pub(super) fn noise_suppressor() -> Self {
        Self::new(Config {
            noise_suppression: Some(NoiseSuppression {
                level: NoiseSuppressionLevel::Moderate,
                ..NoiseSuppression::default()
            }),
            ..Config::default()
        })
    }

    /// Brings the voice to one level.
    pub(super) fn gain_control() -> Self {
        Self::new(Config {
            gain_controller2: Some(GainController2 {
                adaptive_digital: Some(AdaptiveDigital {
                    initial_gain_db: INITIAL_GAIN_DB,
                    max_gain_change_db_per_second: GAIN_CHANGE_DB_PER_S,
                    ..AdaptiveDigital::default()
                }),
                ..GainController2::default()
            }),
            ..Config::default()
        })
    }

    fn new(parts: Config) -> Self {
        let stream = StreamConfig::new(SAMPLE_RATE_HZ, 1);
        // The library's usual 32 kHz inside would cut off what lies above 12 kHz.
        let pipeline = Pipeline {
            maximum_internal_processing_rate: MaxProcessingRate::Rate48kHz,
            ..Pipeline::default()
        };
        let inside = AudioProcessing::builder()
            .config(Config { pipeline, ..parts })
            .capture_config(stream)
            .render_config(stream)
            .build();
        Self { inside: Box::new(inside) }
    }

    /// Takes a block that is about to be played.
    pub(super) fn render(&mut self, block: &Block) {
        let mut out = [0.0; BLOCK_SAMPLES];
        // Lengths and channels match the configuration, which is all it can refuse.
        let _ = self.inside.process_render_f32(&[block], &mut [&mut out]);
    }

    /// Processes a captured block in place.
    pub(super) fn capture(&mut self, block: &mut Block) {
        let mut out = [0.0; BLOCK_SAMPLES];
        if self.inside.process_capture_f32(&[&block[..]], &mut [&mut out]).is_ok() {
            *block = out;
        }
    }

    pub(super) fn set_device_delay_ms(&mut self, delay_ms: u16) {
        let _ = self.inside.set_stream_delay_ms(i32::from(delay_ms.min(500)));
    }
}
