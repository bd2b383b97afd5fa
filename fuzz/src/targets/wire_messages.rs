//! Every message that a stream or a datagram can begin with: whatever decodes, encodes again to what
//! decodes to the same; frames keep their bound however the bytes arrive.

use cooee_proto::wire::{FRAME_BYTES_MAX, FrameDecoder, v1};
use prost::Message;

fn check<M: Message + Default + PartialEq>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let again = M::decode(message.encode_to_vec().as_slice()).expect("own bytes");
        // NaN differs from itself: no message has floating point numbers.
        assert!(message == again);
    }
}

pub(crate) fn run(input: &[u8]) {
    let Some((&kind, bytes)) = input.split_first() else { return };
    match kind % 12 {
        0 => check::<v1::LoginRequest>(bytes),
        1 => check::<v1::LoginResponse>(bytes),
        2 => check::<v1::StreamHeader>(bytes),
        3 => check::<v1::StreamAnswer>(bytes),
        4 => check::<v1::ControlMessage>(bytes),
        5 => check::<v1::OverlayMessage>(bytes),
        6 => check::<v1::PeerMessage>(bytes),
        7 => check::<v1::UserRecord>(bytes),
        8 => check::<v1::BuddyList>(bytes),
        9 => check::<v1::SignedRevocationList>(bytes),
        10 => check::<v1::SuperNodeStatement>(bytes),
        _ => {
            let mut decoder = FrameDecoder::default();
            for piece in bytes.chunks(7) {
                decoder.push(piece);
                while let Ok(Some(message)) = decoder.next::<v1::ControlMessage>() {
                    assert!(message.encoded_len() <= 2 * FRAME_BYTES_MAX);
                }
            }
        }
    }
}
