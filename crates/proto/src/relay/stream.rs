//! Cuts a TCP or TLS stream into STUN messages and ChannelData (RFC 8656 sections 3.1 and 12.5).
//!
//! Both carry their length; ChannelData is padded to four bytes here, unlike over UDP.

use bytes::{Buf, BytesMut};

/// Largest frame taken from a stream, in bytes. Chosen: above any datagram that can be relayed on
/// an Ethernet path, so a slow client cannot make us hold more.
pub const STREAM_FRAME_BYTES_MAX: usize = 4096;

/// The stream is no TURN and must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// First byte of a frame is neither STUN's nor ChannelData's.
    #[error("neither STUN nor ChannelData")]
    Foreign,
    /// The client announced a frame above [`STREAM_FRAME_BYTES_MAX`].
    #[error("frame of {announced} bytes announced, at most {STREAM_FRAME_BYTES_MAX} allowed")]
    TooLong {
        /// Length that it announced, in bytes.
        announced: usize,
    },
}

/// Holds at most one frame and what one read added.
#[derive(Debug, Default)]
pub struct StreamFrames {
    buffer: BytesMut,
}

impl StreamFrames {
    /// Adds bytes that the stream delivered.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame without padding, or `None` until more bytes arrive.
    pub fn next_frame(&mut self) -> Result<Option<BytesMut>, StreamError> {
        let Some(header) = self.buffer.first_chunk::<4>() else {
            return match self.buffer.first() {
                None | Some(0..=3 | 64..=127) => Ok(None),
                Some(_) => Err(StreamError::Foreign),
            };
        };
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let (frame, padding) = match header[0] {
            0..=3 => (20 + length, 0),
            64..=127 => (4 + length, length.next_multiple_of(4) - length),
            _ => return Err(StreamError::Foreign),
        };
        if frame > STREAM_FRAME_BYTES_MAX {
            return Err(StreamError::TooLong { announced: frame });
        }
        if self.buffer.len() < frame + padding {
            return Ok(None);
        }
        let whole = self.buffer.split_to(frame);
        self.buffer.advance(padding);
        Ok(Some(whole))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(channel: bool, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        if channel {
            [&[0x40, 1], &length[..], body].concat()
        } else {
            [&[0, 1], &length[..], &[0; 16], body].concat()
        }
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            frames in prop::collection::vec(
                (any::<bool>(), prop::collection::vec(any::<u8>(), 0..90)), 1..9,
            ),
            cut in 1_usize..70,
        ) {
            let sent: Vec<_> = frames.iter().map(|(channel, body)| frame(*channel, body)).collect();
            let mut stream = Vec::new();
            for ((channel, body), bytes) in frames.iter().zip(&sent) {
                stream.extend_from_slice(bytes);
                if *channel {
                    stream.resize(stream.len() + body.len().next_multiple_of(4) - body.len(), 0);
                }
            }
            let mut decoder = StreamFrames::default();
            let mut received = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.push(piece);
                while let Some(whole) = decoder.next_frame().unwrap() {
                    received.push(whole.to_vec());
                }
            }
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn any_bytes_give_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = StreamFrames::default();
            decoder.push(&bytes);
            while let Ok(Some(whole)) = decoder.next_frame() {
                prop_assert!(whole.len() <= STREAM_FRAME_BYTES_MAX);
            }
        }
    }

    #[test]
    fn a_foreign_or_oversized_frame_ends_the_stream() {
        for first in [4_u8, 20, 63, 128, 0x16, 0xFF] {
            let mut decoder = StreamFrames::default();
            decoder.push(&[first]);
            assert_eq!(decoder.next_frame(), Err(StreamError::Foreign), "first byte {first}");
        }
        let mut decoder = StreamFrames::default();
        decoder.push(&[0x40, 0, 0xFF, 0xFF]);
        assert_eq!(decoder.next_frame(), Err(StreamError::TooLong { announced: 65_539 }));
    }
}
