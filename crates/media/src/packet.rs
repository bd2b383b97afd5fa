//! The unit that crosses from the voice engine to the transport of a call leg, and back.
//!
//! One [`VoicePacket`] becomes one RTP packet (RFC 3550 section 5.1): sequence number, timestamp,
//! payload type and marker are carried as they are; SSRC and header protection belong to
//! [`crate::session`]. What the payload means belongs to the voice engine.

use bytes::Bytes;

/// One RTP packet's worth of voice, before encryption or after decryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoicePacket {
    /// RTP sequence number; wraps.
    pub sequence: u16,
    /// RTP timestamp in samples at 48 kHz; wraps.
    pub timestamp: u32,
    /// RTP payload type, 7 bits; see `docs/protocol/media.md`.
    pub payload_type: u8,
    /// RTP marker bit: the first packet after a silence.
    pub marker: bool,
    /// The encoded voice.
    pub payload: Bytes,
}
