//! The Opus codec (RFC 6716): what may be asked of it, and the errors it answers with.
//!
//! All sound here is 48 kHz mono `f32` in −1..1. [`opus`] is the one file that talks to libopus;
//! nothing else in the crate sees a pointer. When to use which setting is [`crate::voice`]'s
//! decision, not made here.

pub mod bundle;
pub mod opus;

pub use opus::{DredState, OpusDecoder, OpusEncoder};

/// Samples per second of every block of sound in this crate.
pub const SAMPLE_RATE_HZ: u32 = 48_000;

/// Samples in one millisecond.
pub const SAMPLES_PER_MS: usize = 48;

/// Samples in 2.5 ms, the smallest Opus frame (RFC 6716 section 2.1.4).
pub const FRAME_SAMPLES_MIN: usize = 120;

/// Samples in 120 ms, the longest Opus packet (RFC 6716 section 3.2.5).
pub const FRAME_SAMPLES_MAX: usize = 5_760;

/// The longest Opus payload that is kept, in bytes. One frame of 1,275 bytes is the most RFC 6716
/// section 3.2.1 allows; several frames in one packet stay below it at up to 64 kbit/s.
pub const PAYLOAD_BYTES_MAX: usize = 1_275;

/// How long one packet's voice lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameDuration {
    /// 2.5 ms.
    Ms2_5,
    /// 5 ms.
    Ms5,
    /// 10 ms.
    Ms10,
    /// 20 ms.
    Ms20,
    /// 40 ms.
    Ms40,
    /// 60 ms.
    Ms60,
    /// 80 ms, for the slowest links.
    Ms80,
    /// 100 ms, for the slowest links.
    Ms100,
    /// 120 ms, for the slowest links.
    Ms120,
}

impl FrameDuration {
    /// Every duration, shortest first.
    pub const ALL: [Self; 9] = [
        Self::Ms2_5,
        Self::Ms5,
        Self::Ms10,
        Self::Ms20,
        Self::Ms40,
        Self::Ms60,
        Self::Ms80,
        Self::Ms100,
        Self::Ms120,
    ];

    /// Samples at 48 kHz.
    pub const fn samples(self) -> usize {
        match self {
            Self::Ms2_5 => 120,
            Self::Ms5 => 240,
            Self::Ms10 => 480,
            Self::Ms20 => 960,
            Self::Ms40 => 1_920,
            Self::Ms60 => 2_880,
            Self::Ms80 => 3_840,
            Self::Ms100 => 4_800,
            Self::Ms120 => 5_760,
        }
    }

    /// Milliseconds.
    pub const fn ms(self) -> f32 {
        self.samples() as f32 / SAMPLES_PER_MS as f32
    }

    /// The duration of exactly `samples` samples, if there is one.
    pub fn from_samples(samples: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|duration| duration.samples() == samples)
    }
}

/// What the encoder is tuned for; fixed for the life of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// CELT only, 2.5 ms of look-ahead.
    LowDelay,
    /// Speech: SILK, hybrid or CELT as the bit rate asks, 6.5 ms of look-ahead.
    Voip,
    /// As [`Application::Voip`] without its high-pass filter and speech bias.
    Audio,
}

/// The highest frequency that is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bandwidth {
    /// 4 kHz.
    Narrow,
    /// 6 kHz.
    Medium,
    /// 8 kHz.
    Wide,
    /// 12 kHz.
    SuperWide,
    /// 20 kHz.
    Full,
}

/// What went wrong at the codec's boundary. No error changes the state of a decoder or encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes are not an Opus packet: the peer's fault or damage on the way.
    #[error("malformed Opus packet")]
    Malformed,
    /// A block, buffer or setting outside what the codec allows: the caller's fault.
    #[error("codec called with a wrong size or setting")]
    Misuse,
    /// libopus could not get memory or failed inside.
    #[error("Opus failed inside ({0})")]
    Internal(i32),
}
