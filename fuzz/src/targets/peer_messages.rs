//! Instant messages, receipts, buddy requests and answers of a device that says anything.

use crate::network::{UNIX, device, name, now, pieces};
use cooee_proto::{
    contacts::{BUDDIES_MAX, Contacts},
    im::{Messages, Output},
    wire::v1::{PeerMessage, peer_message::Body},
};
use prost::Message;

pub(crate) fn run(input: &[u8]) {
    let (now, bob) = (now(), name("bob"));
    let (key, _) = device(2, Some("bob"), None);
    let (mut messages, mut contacts) = (Messages::new([6; 32]), Contacts::new(name("alice")));
    let _ = messages.send(now, &bob, "hello");
    for (choice, piece) in pieces(input) {
        let Ok(PeerMessage { body: Some(body) }) = PeerMessage::decode(piece) else { continue };
        match body {
            Body::InstantMessage(message) => {
                messages.handle_message(now, &bob, key.node_id(), &message, choice & 1 == 0);
            }
            Body::Receipt(receipt) => messages.handle_receipt(&bob, &receipt),
            Body::BuddyRequest(request) => {
                contacts.handle_request(UNIX, &bob, &request.display_name);
            }
            Body::BuddyAnswer(answer) => {
                contacts.handle_answer(UNIX, &bob, answer.accepted, &answer.display_name);
            }
            _ => {}
        }
        while contacts.poll_event().is_some() {}
        while !matches!(messages.poll_output(), Output::Timeout(..) | Output::Idle) {}
    }
    assert!(contacts.list().count() <= BUDDIES_MAX);
}
