//! Quotas, budget, unproven addresses, behaviour discovery, hostile bytes.

use proptest::prelude::*;

use super::*;

#[test]
fn quotas_hold_for_a_node_and_for_all() {
    let now = start();
    let quotas = RelayConfig { allocations_per_node_max: 2, allocations_max: 3, ..config() };
    let mut server = relay(quotas);
    let results: Vec<_> = [(1, 1), (2, 1), (3, 1), (4, 2), (5, 3)]
        .map(|(port, node)| Client::new(&server, now, port, node).allocate(&mut server, now))
        .into_iter()
        .map(|result| result.map(|_| ()))
        .collect();
    assert_eq!(results, [Ok(()), Ok(()), Err(486), Ok(()), Err(508)]);
}

#[test]
fn an_exhausted_port_range_is_said_and_a_freed_port_used_again() {
    let now = start();
    let mut server = relay(RelayConfig { ports: 50_000..=50_002, ..config() });
    let mut clients: Vec<_> = (1..=4).map(|n| Client::new(&server, now, n, n as u8)).collect();
    let mut ports: Vec<_> = clients[..3]
        .iter_mut()
        .map(|client| client.allocate(&mut server, now).unwrap().port())
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [50_000, 50_001, 50_002]);
    assert_eq!(clients[3].allocate(&mut server, now), Err(508));
    clients[1].refresh(&mut server, now, 0).unwrap();
    clients[3].allocate(&mut server, now).unwrap();
}

#[test]
fn a_port_taken_by_another_program_is_replaced_and_at_last_refused() {
    let (now, mut server) = (start(), relay(config()));
    let mut client = Client::new(&server, now, 1000, 1);
    let challenge = client.message(ALLOCATE, &[&RequestedTransport::new(17)]);
    let answer = exchange(&mut server, now, client.id, &challenge).unwrap();
    let message = Message::from_bytes(&answer).unwrap();
    client.nonce = Some(message.attribute::<Nonce>().unwrap().nonce().to_owned());
    let request = client.message(ALLOCATE, &[&RequestedTransport::new(17)]);
    server.handle_message(now, client.id, None, &request);
    let mut tried = Vec::new();
    loop {
        match server.poll_output().unwrap() {
            RelayOutput::BindRelayed { allocation, relayed } => {
                tried.push(relayed.port());
                server.handle_bound(allocation, false);
            }
            RelayOutput::Transmit { bytes, .. } => {
                let message = Message::from_bytes(&bytes).unwrap();
                assert_eq!(message.attribute::<ErrorCode>().unwrap().code(), 508);
                break;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(tried.len(), 16);
    assert_eq!(server.counts().allocations, 0);
}

#[test]
fn no_budget_means_no_relaying_and_a_spent_one_drops() {
    let now = start();
    let mut none = relay(RelayConfig { budget_bytes_per_s: 0, ..config() });
    assert_eq!(Client::new(&none, now, 1, 1).allocate(&mut none, now), Err(508));
    let mut small = relay(RelayConfig { budget_bytes_per_s: 4000, ..config() });
    let mut client = Client::new(&small, now, 1, 1);
    client.allocate(&mut small, now).unwrap();
    client.bind(&mut small, now, 0x4001, address("8.8.4.4:7000")).unwrap();
    let data = channel_data(0x4001, &[0; 100]);
    let sent = |server: &mut RelayServer, at: Instant| {
        let send = |_: &i32| server.forward_from_client(at, &client.id, &data) != FromClient::Drop;
        (0..100).filter(send).count()
    };
    assert_eq!(sent(&mut small, now.instant), 10, "a quarter second's worth");
    assert_eq!(Client::new(&small, now, 2, 2).allocate(&mut small, now), Err(508));
    assert_eq!(sent(&mut small, now.instant + Duration::from_millis(100)), 4);
    assert_eq!(small.counts().dropped_over_budget, 186);
}

#[test]
fn unproven_addresses_get_few_and_small_answers() {
    let now = start();
    let mut server = relay(RelayConfig { unproven_replies_per_s: 10, ..config() });
    let victim = ClientId::Udp { remote: address("9.9.9.9:53"), socket: 0 };
    let kind = MessageType::from_class_method(MessageClass::Request, ALLOCATE);
    let builder = Message::builder(kind, 5.into(), MessageWriteVec::new());
    let request = builder.finish();
    let answers: Vec<_> =
        (0..1000).filter_map(|_| exchange(&mut server, now, victim, &request)).collect();
    assert_eq!(answers.len(), 20);
    assert!(answers.iter().all(|answer| answer.len() <= 120), "{}", answers[0].len());
    assert_eq!(server.counts().replies_withheld, 980);
    let proven = ClientId::Stream { number: 1, remote: address("9.9.9.9:53") };
    assert!(exchange(&mut server, now, proven, &request).is_some());
}

#[test]
fn a_closed_stream_takes_its_allocation_along() {
    let (now, mut server) = (start(), relay(config()));
    let mut client = Client::new(&server, now, 1000, 1);
    client.id = ClientId::Stream { number: 7, remote: client.id.remote() };
    client.allocate(&mut server, now).unwrap();
    server.handle_stream_closed(&client.id);
    assert_eq!(server.counts().allocations, 0);
    assert!(matches!(server.poll_output(), Some(RelayOutput::CloseRelayed { .. })));
}

#[test]
fn binding_tells_the_mapped_address_and_changes_port_and_address_where_it_can() {
    let now = start();
    let mut server = relay(config());
    let client = ClientId::Udp { remote: address("9.9.9.9:1234"), socket: 0 };
    let ask = |change: Option<BindingRequestOptions>| {
        let kind = MessageType::from_class_method(MessageClass::Request, BINDING);
        let mut message = Message::builder(kind, 5.into(), MessageWriteVec::new());
        if let Some(options) = change {
            let value = change_request_value(options);
            let raw = stun_types::attribute::RawAttribute::new(CHANGE_REQUEST, &value);
            message.add_attribute(&raw).unwrap();
        }
        message.finish()
    };
    let answer = exchange(&mut server, now, client, &ask(None)).unwrap();
    let message = Message::from_bytes(&answer).unwrap();
    let mapped = message.attribute::<XorMappedAddress>().unwrap();
    assert_eq!(mapped.addr(message.transaction_id()), client.remote());
    assert_eq!(answer.len(), 32);
    let port = BindingRequestOptions { change_port: true, ..Default::default() };
    let refused = exchange(&mut server, now, client, &ask(Some(port))).unwrap();
    let refused = Message::from_bytes(&refused).unwrap();
    assert_eq!(refused.attribute::<ErrorCode>().unwrap().code(), 420);
    server.set_alternate_port(Some(3479));
    server.handle_message(now, client, None, &ask(Some(port)));
    assert!(matches!(server.poll_output(), Some(RelayOutput::TransmitAlternate { remote, .. })
        if remote == client.remote()));
    let partner = address("8.8.8.8:3478");
    server.set_partner(Some(partner));
    let answer = exchange(&mut server, now, client, &ask(None)).unwrap();
    assert_eq!(other_address(&Message::from_bytes(&answer).unwrap()), Some(partner));
    let both = BindingRequestOptions { change_ip: true, change_port: true, ..Default::default() };
    server.handle_message(now, client, None, &ask(Some(both)));
    let Some(RelayOutput::AskPartner { mapped, transaction, change_port: true }) =
        server.poll_output()
    else {
        panic!("partner not asked");
    };
    let answer = partner_response(mapped, transaction);
    let message = Message::from_bytes(&answer).unwrap();
    assert_eq!(u128::from(message.transaction_id()), 5);
}

proptest! {
    #[test]
    fn any_bytes_from_anybody_are_survived_and_change_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..200), first in 0_u8..80,
    ) {
        let (now, mut server) = (start(), relay(config()));
        let mut client = Client::new(&server, now, 1000, 1);
        client.allocate(&mut server, now).unwrap();
        let before = server.counts().allocations;
        let bytes = [&[first], &bytes[..]].concat();
        if server.forward_from_client(now.instant, &client.id, &bytes) == FromClient::Message {
            exchange(&mut server, now, client.id, &bytes);
        }
        prop_assert_eq!(server.counts().allocations, before);
    }

    #[test]
    fn a_signed_request_with_any_bit_flipped_or_cut_does_nothing(
        flip in 0_usize..2000, cut in 0_usize..150,
    ) {
        let (now, mut server) = (start(), relay(config()));
        let mut client = Client::new(&server, now, 1000, 1);
        client.allocate(&mut server, now).unwrap();
        client.transactions += 1;
        let mut request = client.message(REFRESH, &[&Lifetime::new(0)]);
        let at = flip % (8 * request.len());
        request[at / 8] ^= 1 << (at % 8);
        exchange(&mut server, now, client.id, &request);
        request[at / 8] ^= 1 << (at % 8);
        let cut = request.len().saturating_sub(1 + cut);
        exchange(&mut server, now, client.id, &request[..cut]);
        prop_assert_eq!(server.counts().allocations, 1);
        exchange(&mut server, now, client.id, &request);
        prop_assert_eq!(server.counts().allocations, 0);
    }
}
