//! Voice of a peer that sends anything: sound comes out, finite, whatever went in.

use std::time::{Duration, Instant};

use crate::network::pieces;
use bytes::Bytes;
use cooee_media::{
    VoicePacket,
    voice::{VoiceConfig, VoiceReceiver},
};

pub(crate) fn run(input: &[u8]) {
    let mut now = Instant::now();
    let mut receiver = VoiceReceiver::new(VoiceConfig::default()).expect("Opus starts");
    let mut sound = [0.0; 480];
    let mut sequence = 0_u16;
    for (choice, piece) in pieces(input).take(64) {
        sequence = sequence.wrapping_add(u16::from(choice >> 4));
        receiver.handle_packet(
            now,
            VoicePacket {
                sequence,
                timestamp: u32::from(sequence) * 960,
                payload_type: 111 + (choice & 1),
                marker: choice & 4 != 0,
                payload: Bytes::copy_from_slice(piece),
            },
        );
        now += Duration::from_millis(10);
        receiver.playout(now, &mut sound);
        assert!(sound.iter().all(|sample| sample.is_finite()));
        let _ = receiver.poll_feedback(now);
    }
}
