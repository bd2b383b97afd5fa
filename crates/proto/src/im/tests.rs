//! Messages between two devices whose connection loses and repeats.

use super::*;

fn now() -> Now {
    Now { instant: Instant::now(), unix: UnixTime(1_800_000_000_000) }
}

fn name(text: &str) -> UserName {
    text.parse().expect("a legal name")
}

fn drain(messages: &mut Messages) -> Vec<Output> {
    std::iter::from_fn(|| match messages.poll_output() {
        Output::Timeout(_) | Output::Idle => None,
        output => Some(output),
    })
    .collect()
}

fn sent(outputs: &[Output]) -> Vec<InstantMessage> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Send { message, .. } => Some(message.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_message_is_shown_once_however_often_it_is_repeated() {
    let (mut alice, mut bob) = (Messages::new([1; 32]), Messages::new([2; 32]));
    let start = now();
    let id = alice.send(start, &name("bob"), "hello").expect("short");
    let message = sent(&drain(&mut alice))[0].clone();
    for _ in 0..3 {
        bob.handle_message(start, &name("alice"), NodeId([1; 16]), &message, true);
    }
    let outputs = drain(&mut bob);
    let shown = outputs.iter().filter(|o| matches!(o, Output::Received { .. })).count();
    let receipts: Vec<MessageReceipt> = outputs
        .into_iter()
        .filter_map(|output| match output {
            Output::SendReceipt { receipt, .. } => Some(receipt),
            _ => None,
        })
        .collect();
    assert_eq!((shown, receipts.len()), (1, 3));
    for receipt in &receipts {
        alice.handle_receipt(&name("bob"), receipt);
    }
    let to = name("bob");
    assert_eq!(drain(&mut alice), [Output::Progressed { id, to, state: Progress::Delivered }]);
    assert_eq!(alice.poll_output(), Output::Idle);
}

#[test]
fn a_message_waits_for_its_receiver_and_goes_out_when_they_are_seen() {
    let mut alice = Messages::new([1; 32]);
    let start = now();
    alice.send(start, &name("bob"), "hello").expect("short");
    drain(&mut alice);
    let mut repeats = 0;
    let mut at = start;
    while at.instant < start.instant + Duration::from_secs(3_600) {
        let Output::Timeout(next) = alice.poll_output() else { panic!("a message waits") };
        at = start.plus(next - start.instant);
        alice.handle_timeout(at);
        repeats += sent(&drain(&mut alice)).len();
    }
    assert!((4..12).contains(&repeats), "{repeats} repetitions in an hour");
    alice.handle_online(at, &name("carol"));
    assert!(drain(&mut alice).is_empty());
    alice.handle_online(at, &name("bob"));
    assert_eq!(sent(&drain(&mut alice)).len(), 1);
}

#[test]
fn a_receipt_of_somebody_else_changes_nothing() {
    let mut alice = Messages::new([1; 32]);
    let id = alice.send(now(), &name("bob"), "hello").expect("short");
    drain(&mut alice);
    let receipt = MessageReceipt { id: id.0.to_vec().into(), kind: Kind::Read as i32 };
    alice.handle_receipt(&name("mallory"), &receipt);
    assert!(drain(&mut alice).is_empty());
    alice.handle_online(now(), &name("bob"));
    assert_eq!(sent(&drain(&mut alice)).len(), 1, "it still waits");
}

#[test]
fn messages_expire_and_queues_are_bounded() {
    let mut alice = Messages::new([1; 32]);
    let start = now();
    for _ in 0..WAITING_MAX {
        alice.send(start, &name("bob"), "x").expect("room");
    }
    assert_eq!(alice.send(start, &name("bob"), "x"), Err(MessageError::QueueFull));
    assert_eq!(alice.send(start, &name("bob"), ""), Err(MessageError::Empty));
    drain(&mut alice);
    alice.handle_timeout(start.plus(Duration::from_secs(8 * 24 * 3_600)));
    let expired = drain(&mut alice)
        .iter()
        .filter(|o| matches!(o, Output::Progressed { state: Progress::Expired, .. }))
        .count();
    assert_eq!(expired, WAITING_MAX);
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    assert_eq!(alice.send(start, &name("bob"), &long), Err(MessageError::TooLong(long.len())));
}

#[test]
fn a_blocked_writer_gets_no_sign() {
    let mut bob = Messages::new([2; 32]);
    let message = InstantMessage {
        id: vec![1; 16].into(),
        text: "let me in".into(),
        ..InstantMessage::default()
    };
    bob.handle_message(now(), &name("mallory"), NodeId([1; 16]), &message, false);
    assert_eq!(bob.poll_output(), Output::Idle);
}
