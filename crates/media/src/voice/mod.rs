//! One direction of a call's voice: [`VoiceSender`] at the mouth, [`VoiceReceiver`] at the ear.
//!
//! Both work on 48 kHz mono blocks, take time as an argument, and after construction neither
//! allocates nor blocks: they may run on a real-time audio thread. The payloads are described in
//! `docs/protocol/voice.md`.

mod config;
mod pool;
mod receiver;
mod sender;
mod statistics;

pub use config::{OperatingPoint, VoiceConfig};
pub use receiver::VoiceReceiver;
pub use sender::VoiceSender;
pub use statistics::{ReceiverStatistics, SenderStatistics};

/// RTP payload type of plain Opus (RFC 7587).
pub const PAYLOAD_TYPE_OPUS: u8 = 111;

/// RTP payload type of Opus with redundancy (`docs/protocol/voice.md`).
pub const PAYLOAD_TYPE_REDUNDANT: u8 = 112;

/// RTP payload type of several Opus packets in one (`docs/protocol/voice.md`).
pub const PAYLOAD_TYPE_BUNDLE: u8 = 113;

/// Longest payload a sender emits, in bytes: fits every path MTU with headers and relay framing.
pub const PAYLOAD_BYTES_MAX: usize = 1_100;
