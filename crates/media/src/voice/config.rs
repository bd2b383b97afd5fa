//! What a caller may choose about a voice direction, and one point of operation of the sender.

use crate::{
    codec::{Application, FrameDuration, bundle::Bundler},
    loss::Code,
};

/// How the sender encodes at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatingPoint {
    /// Sound in one Opus packet.
    pub frame: FrameDuration,
    /// Opus packets in one packet on the wire, 1 to 4; more than one is a bundle, without
    /// redundancy.
    pub bundled: u8,
    /// The encoder's tuning.
    pub application: Application,
    /// Bit rate of the Opus frames alone, in bit/s.
    pub codec_bits_per_s: u32,
    /// Our redundancy, if any.
    pub code: Option<Code>,
    /// Opus in-band redundancy (LBRR).
    pub in_band: bool,
    /// Opus deep redundancy (DRED), in units of 10 ms; 0 is none.
    pub deep_10ms: u8,
}

impl OperatingPoint {
    /// The quiet path's point: 10 ms frames, 2.5 ms look-ahead.
    pub const QUIET: Self = Self {
        frame: FrameDuration::Ms10,
        bundled: 1,
        application: Application::LowDelay,
        codec_bits_per_s: 64_000,
        code: None,
        in_band: false,
        deep_10ms: 0,
    };

    /// Bytes of one Opus frame at this point.
    pub fn frame_bytes(&self) -> usize {
        let bits = self.codec_bits_per_s as usize * self.frame.samples();
        (bits / 8 / crate::codec::SAMPLE_RATE_HZ as usize).max(2)
    }

    /// Samples in one packet on the wire.
    pub fn packet_samples(&self) -> usize {
        self.frame.samples() * usize::from(self.bundled.max(1))
    }

    /// Bytes of one packet's payload at this point.
    pub fn payload_bytes(&self) -> usize {
        let frame_bytes = self.frame_bytes();
        if self.bundled > 1 {
            return Bundler::payload_bytes(usize::from(self.bundled), frame_bytes);
        }
        self.code.map_or(frame_bytes, |code| code.payload_bytes(frame_bytes))
    }

    /// Bit/s on the wire with `overhead_bytes` of headers in each packet.
    pub fn wire_bits_per_s(&self, overhead_bytes: usize) -> u32 {
        let bytes = self.payload_bytes() + overhead_bytes;
        (bytes * 8 * crate::codec::SAMPLE_RATE_HZ as usize / self.packet_samples()) as u32
    }
}

/// Choices for one direction of voice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VoiceConfig {
    /// First RTP sequence number; random per RFC 3550 section 5.1, so the caller gives it.
    pub initial_sequence: u16,
    /// First RTP timestamp; random likewise.
    pub initial_timestamp: u32,
    /// Header bytes that each packet costs on this path: IPv4 20 + UDP 8 + RTP 12 + SRTP tag 16
    /// by default; more through a relay or over TCP.
    pub overhead_bytes: usize,
    /// Most bit/s of payload the sender may use, redundancy included.
    pub payload_bits_per_s_max: u32,
    /// Bit/s on the wire to start with, headers included.
    pub wire_bits_per_s_start: u32,
    /// Holds the sender at one point whatever the receiver reports.
    pub fixed: Option<OperatingPoint>,
    /// Variable bit rate: a little better, but packet sizes then tell of what is said.
    pub variable_bit_rate: bool,
    /// Encoder effort, 0 to 10.
    pub encoder_complexity: u8,
    /// Decoder effort, 0 to 10: 5 conceals with the neural network, 7 enhances speech.
    pub decoder_complexity: u8,
    /// Slack added to what the arrival distribution asks for, in ms.
    pub margin_ms: f64,
    /// Slack added to that while little is known of the path, in ms.
    pub initial_slack_ms: f64,
}

impl Default for VoiceConfig {
    fn default() -> Self {
        Self {
            initial_sequence: 0,
            initial_timestamp: 0,
            overhead_bytes: 56,
            payload_bits_per_s_max: 64_000,
            wire_bits_per_s_start: 110_000,
            fixed: None,
            variable_bit_rate: false,
            encoder_complexity: 9,
            decoder_complexity: 7,
            initial_slack_ms: 2.0,
            margin_ms: 0.5,
        }
    }
}
