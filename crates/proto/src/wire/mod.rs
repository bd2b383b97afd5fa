//! The byte layer: generated messages and the framing that carries them on a stream.
//!
//! A frame is a 4-byte big-endian length followed by one Protocol Buffers message.

mod frame;

pub use frame::{FRAME_BYTES_MAX, FrameDecoder, FrameError, encode_frame};

#[allow(missing_docs, clippy::all, unreachable_pub)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

pub use generated::cooee::v1;
