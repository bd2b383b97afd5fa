//! Against loss: our own redundancy, a sliding-window erasure code over earlier frames.
//!
//! Each packet carries its own frame and, when the path loses packets, a few *parity symbols*:
//! linear combinations over GF(2⁸) of the frames of earlier packets. One parity symbol that
//! arrives repairs one symbol that did not, whichever it was, so half the bit rate spent on parity
//! repairs isolated losses one packet later and bursts as soon as as many packets arrived as were
//! lost. A plain copy of frame n−k is the special case of a window of one at offset k.
//!
//! [`payload`] is the wire format (`docs/protocol/voice.md`), [`window`] the sender's parity and
//! the receiver's repair. How much redundancy to send is [`crate::rate`]'s decision.

mod gf256;
pub mod payload;
pub mod window;

pub use payload::{Payload, PayloadError};
pub use window::{RepairWindow, SendWindow};

/// Longest frame that parity can cover, in bytes: its length is one byte of the symbol.
pub const COVERED_FRAME_BYTES_MAX: usize = 255;

/// Most parity symbols in one packet (3 bits on the wire).
pub const PARITY_MAX: usize = 8;

/// Most pieces a frame is cut into (2 bits on the wire).
pub const PIECES_MAX: usize = 4;

/// Most frames one parity symbol covers (4 bits on the wire).
pub const WINDOW_MAX: usize = 16;

/// Which earlier frames a packet's parity covers, and how much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Pieces into which each covered frame is cut, 1 to 4.
    pub pieces: u8,
    /// Parity symbols in each packet, each one piece long, 1 to 8.
    pub parity: u8,
    /// How many packets back the newest covered frame lies, 1 to 16.
    pub offset: u8,
    /// How many frames are covered, 1 to 16.
    pub window: u8,
}

impl Code {
    /// A code with every field forced into its bounds.
    pub fn new(pieces: u8, parity: u8, offset: u8, window: u8) -> Self {
        Self {
            pieces: pieces.clamp(1, PIECES_MAX as u8),
            parity: parity.clamp(1, PARITY_MAX as u8),
            offset: offset.clamp(1, WINDOW_MAX as u8),
            window: window.clamp(1, WINDOW_MAX as u8),
        }
    }

    /// Bytes of one parity symbol over frames of at most `frame_bytes`.
    pub fn symbol_bytes(self, frame_bytes: usize) -> usize {
        (frame_bytes + 1).div_ceil(usize::from(self.pieces))
    }

    /// Payload bytes of a packet whose frame, and all covered frames, have `frame_bytes`.
    pub fn payload_bytes(self, frame_bytes: usize) -> usize {
        payload::HEADER_BYTES_MIN
            + frame_bytes
            + usize::from(self.parity) * self.symbol_bytes(frame_bytes)
    }

    /// The longest frame that fits `payload_bytes`, if any does.
    pub fn frame_bytes_for(self, payload_bytes: usize) -> Option<usize> {
        (1..=COVERED_FRAME_BYTES_MAX).rev().find(|&f| self.payload_bytes(f) <= payload_bytes)
    }

    /// The coefficient of piece `piece` of the frame of packet `frame` in parity symbol `symbol`
    /// of packet `packet`: a Cauchy matrix, so that small sets of symbols are always independent.
    fn coefficient(self, packet: u64, symbol: usize, frame: u64, piece: usize) -> u8 {
        let row = (packet.wrapping_mul(u64::from(self.parity)) + symbol as u64) % 128;
        let column = (frame.wrapping_mul(u64::from(self.pieces)) + piece as u64) % 128;
        gf256::inverse(row as u8 ^ (128 | column as u8))
    }
}
