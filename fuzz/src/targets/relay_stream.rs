//! Any datagram: classification, ufrag, stream frames.

use cooee_proto::{
    datagram::{classify, receiver_ufrag},
    relay::{STREAM_FRAME_BYTES_MAX, StreamFrames},
};

pub(crate) fn run(bytes: &[u8]) {
    classify(bytes);
    receiver_ufrag(bytes);
    let mut frames = StreamFrames::default();
    for piece in bytes.chunks(7) {
        frames.push(piece);
        while let Ok(Some(frame)) = frames.next_frame() {
            assert!(frame.len() <= STREAM_FRAME_BYTES_MAX);
        }
    }
}
