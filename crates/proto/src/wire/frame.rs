//! Length-delimited frames on a byte stream, bounded so that a peer cannot make us buffer more.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Largest message that a frame may carry, in bytes. Chosen: the largest real message (a page of
/// search results) stays below 16 KiB.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

const LENGTH_BYTES: usize = 4;

/// Why a stream of frames cannot go on. The stream must be closed: its framing is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer announced a frame above [`FRAME_BYTES_MAX`].
    #[error("frame of {announced} bytes announced, at most {FRAME_BYTES_MAX} allowed")]
    TooLong {
        /// Length that the peer announced, in bytes.
        announced: usize,
    },
    /// The bytes of the frame are not the message expected here.
    #[error("malformed message: {0}")]
    Malformed(String),
}

/// The frame that carries `message`.
///
/// # Panics
/// If the message is longer than [`FRAME_BYTES_MAX`]: callers bound what they send.
pub fn encode_frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    assert!(length <= FRAME_BYTES_MAX, "own message of {length} bytes exceeds the frame bound");
    let mut frame = BytesMut::with_capacity(LENGTH_BYTES + length);
    frame.put_u32(u32::try_from(length).expect("bounded above"));
    message.encode(&mut frame).expect("BytesMut grows as needed");
    frame.freeze()
}

/// Cuts a byte stream into messages. Holds at most one frame plus what one read added.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Adds bytes that the stream delivered.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes arrive.
    #[expect(clippy::should_implement_trait, reason = "the message type is the caller's choice")]
    pub fn next<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { announced: length });
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        let body = self.buffer.split_to(length).freeze();
        M::decode(body).map(Some).map_err(|error| FrameError::Malformed(error.to_string()))
    }

    /// Bytes read from the stream that belong to no complete frame yet; for handing the stream
    /// over to raw use after its header.
    pub fn into_rest(self) -> Bytes {
        self.buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::v1::{SpliceStream, StreamHeader, stream_header::Kind};

    fn header(to: Vec<u8>) -> StreamHeader {
        StreamHeader {
            kind: Some(Kind::Splice(SpliceStream {
                to: to.into(),
                via: Bytes::new(),
                from: Bytes::new(),
            })),
        }
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            ids in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8),
            cut in 1_usize..9,
        ) {
            let sent: Vec<_> = ids.into_iter().map(header).collect();
            let stream: Vec<u8> = sent.iter().flat_map(|m| encode_frame(m).to_vec()).collect();
            let mut decoder = FrameDecoder::default();
            let mut received = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.push(piece);
                while let Some(message) = decoder.next::<StreamHeader>().unwrap() {
                    received.push(message);
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert!(decoder.into_rest().is_empty());
        }

        #[test]
        fn any_bytes_give_a_message_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next::<StreamHeader>() {}
        }
    }

    #[test]
    fn a_frame_above_the_bound_is_refused_before_it_is_buffered() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&(FRAME_BYTES_MAX as u32 + 1).to_be_bytes());
        let error = decoder.next::<StreamHeader>().unwrap_err();
        assert_eq!(error, FrameError::TooLong { announced: FRAME_BYTES_MAX + 1 });
    }
}
