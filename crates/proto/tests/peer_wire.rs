//! Peer messages on the wire: what is written is read again; nothing cut or changed can panic.

use cooee_proto::wire::{
    FrameDecoder, encode_frame,
    v1::{
        CallMessage, CandidateAdded, IceCandidate, Invite, PeerMessage, TransportParameters,
        call_message::Body as CallBody, peer_message::Body,
    },
};
use proptest::prelude::*;
use prost::Message;

fn candidate() -> impl Strategy<Value = IceCandidate> {
    (0..6_i32, 0..5_i32, any::<u32>(), prop::collection::vec(any::<u8>(), 0..20), any::<u32>())
        .prop_map(|(kind, transport, priority, address, port)| IceCandidate {
            kind,
            transport,
            priority,
            address: address.into(),
            port,
            foundation: "f".into(),
        })
}

fn message() -> impl Strategy<Value = PeerMessage> {
    let transport = ("[a-zA-Z0-9+/]{0,40}", prop::collection::vec(candidate(), 0..20)).prop_map(
        |(ufrag, candidates)| TransportParameters {
            ufrag,
            candidates,
            fingerprint: vec![7; 32].into(),
            ..TransportParameters::default()
        },
    );
    let invite = (transport, ".{0,60}").prop_map(|(transport, display_name)| {
        CallBody::Invite(Invite { transport: Some(transport), display_name, ..Invite::default() })
    });
    let added = (candidate(), any::<u32>()).prop_map(|(candidate, generation)| {
        CallBody::Candidate(CandidateAdded { generation, candidate: Some(candidate) })
    });
    let body = prop_oneof![invite, added];
    (any::<[u8; 16]>(), any::<u32>(), any::<u32>(), body).prop_map(
        |(id, sequence, acknowledged, body)| PeerMessage {
            body: Some(Body::Call(CallMessage {
                call_id: id.to_vec().into(),
                sequence,
                acknowledged,
                body: Some(body),
            })),
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(message in message()) {
        let mut decoder = FrameDecoder::default();
        decoder.push(&encode_frame(&message));
        prop_assert_eq!(decoder.next::<PeerMessage>(), Ok(Some(message)));
    }

    #[test]
    fn a_cut_frame_gives_no_message(message in message(), cut in any::<prop::sample::Index>()) {
        let frame = encode_frame(&message);
        let mut decoder = FrameDecoder::default();
        decoder.push(&frame[..cut.index(frame.len())]);
        prop_assert_eq!(decoder.next::<PeerMessage>(), Ok(None));
    }

    #[test]
    fn changed_bytes_never_panic(
        message in message(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let mut bytes = message.encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let _ = PeerMessage::decode(bytes.as_slice());
    }
}
