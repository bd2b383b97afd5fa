//! The payload of a packet with redundancy (`docs/protocol/voice.md`, payload type 112).
//!
//! ```text
//!  0                   1
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5
//! +-+-+---+-----+-------+-------+ - - - - - - - - +------------+---------------------+
//! |V|E|P-1|  R-1|offset-1|window-1| symbol bytes if E | Opus frame | R parity symbols    |
//! +-+-+---+-----+-------+-------+ - - - - - - - - +------------+---------------------+
//! ```
//! V is 0. Without E the symbol length follows from the payload length, because all covered frames
//! are as long as this one (constant bit rate).

use super::{COVERED_FRAME_BYTES_MAX, Code};

/// Bytes of the header when all covered frames have one length.
pub const HEADER_BYTES_MIN: usize = 2;

/// What is wrong with a redundancy payload. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Shorter than its header and symbols.
    #[error("redundancy payload is cut off")]
    Truncated,
    /// A later version, which this program cannot read.
    #[error("redundancy payload of an unknown version")]
    UnknownVersion,
}

/// One payload with redundancy, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// Which frames the parity covers.
    pub code: Code,
    /// The packet's own Opus frame.
    pub frame: &'a [u8],
    /// Length of one parity symbol.
    pub symbol_bytes: usize,
    /// The parity symbols, one after the other.
    pub parity: &'a [u8],
}

impl<'a> Payload<'a> {
    /// Takes a payload apart.
    ///
    /// # Errors
    /// [`PayloadError`] for bytes that no sender of this version writes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PayloadError> {
        let [first, second, rest @ ..] = bytes else { return Err(PayloadError::Truncated) };
        if first & 0x80 != 0 {
            return Err(PayloadError::UnknownVersion);
        }
        let code = Code {
            pieces: (first >> 4 & 0x3) + 1,
            parity: (first >> 1 & 0x7) + 1,
            offset: (second >> 4) + 1,
            window: (second & 0xf) + 1,
        };
        let parity = usize::from(code.parity);
        let (frame_bytes, symbol_bytes, rest) = if first & 0x40 != 0 {
            let [symbol_bytes, rest @ ..] = rest else { return Err(PayloadError::Truncated) };
            let symbol_bytes = usize::from(*symbol_bytes);
            let frame_bytes = rest.len().checked_sub(parity * symbol_bytes);
            (frame_bytes.ok_or(PayloadError::Truncated)?, symbol_bytes, rest)
        } else {
            let frame_bytes = code.frame_bytes_for(bytes.len()).ok_or(PayloadError::Truncated)?;
            if code.payload_bytes(frame_bytes) != bytes.len() {
                return Err(PayloadError::Truncated);
            }
            (frame_bytes, code.symbol_bytes(frame_bytes), rest)
        };
        if frame_bytes == 0 || symbol_bytes == 0 {
            return Err(PayloadError::Truncated);
        }
        let (frame, parity) = rest.split_at(frame_bytes);
        Ok(Self { code, frame, symbol_bytes, parity })
    }

    /// Writes header and frame to `to`; the parity symbols follow at the returned offset, each
    /// `symbol_bytes` long. `None` when `to` is too short or the frame too long for the code.
    pub fn write_head(
        code: Code,
        frame: &[u8],
        symbol_bytes: usize,
        to: &mut [u8],
    ) -> Option<usize> {
        let uniform = code.symbol_bytes(frame.len()) == symbol_bytes;
        if frame.is_empty() || frame.len() > COVERED_FRAME_BYTES_MAX || symbol_bytes > 255 {
            return None;
        }
        let header_bytes = HEADER_BYTES_MIN + usize::from(!uniform);
        let parity_at = header_bytes + frame.len();
        if parity_at + usize::from(code.parity) * symbol_bytes > to.len() {
            return None;
        }
        to[0] = u8::from(!uniform) << 6 | (code.pieces - 1) << 4 | (code.parity - 1) << 1;
        to[1] = (code.offset - 1) << 4 | (code.window - 1);
        if !uniform {
            to[2] = symbol_bytes as u8;
        }
        to[header_bytes..parity_at].copy_from_slice(frame);
        Some(parity_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_and_length_survives_the_wire() {
        let mut to = [0; 4_096];
        for pieces in 1..=4 {
            for parity in 1..=8 {
                for frame_bytes in [1, 2, 39, 40, 41, 254, 255] {
                    for other in [0, 1] {
                        let code = Code::new(pieces, parity, 3, 7);
                        let symbol_bytes = code.symbol_bytes(frame_bytes) + other;
                        if symbol_bytes > 255 {
                            continue;
                        }
                        let frame = vec![7; frame_bytes];
                        let at = Payload::write_head(code, &frame, symbol_bytes, &mut to).unwrap();
                        let bytes = &to[..at + usize::from(parity) * symbol_bytes];
                        let parsed = Payload::parse(bytes).unwrap();
                        assert_eq!((parsed.code, parsed.frame), (code, &frame[..]));
                        assert_eq!(parsed.symbol_bytes, symbol_bytes);
                    }
                }
            }
        }
    }

    #[test]
    fn cut_or_foreign_bytes_are_refused() {
        for length in 0..3 {
            assert_eq!(Payload::parse(&[0; 3][..length]), Err(PayloadError::Truncated));
        }
        assert_eq!(Payload::parse(&[0x80; 60]), Err(PayloadError::UnknownVersion));
        assert_eq!(Payload::parse(&[0x40, 0, 200, 1]), Err(PayloadError::Truncated));
    }
}
