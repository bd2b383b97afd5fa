//! The relay driven by scripted clients in virtual time.
#![allow(clippy::disallowed_methods, reason = "a test needs some moment to start from")]

mod limits;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use stun_types::{
    attribute::{ErrorCode, Nonce, Realm, Username, XorMappedAddress},
    message::{
        BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass,
        MessageIntegrityCredentials, MessageType, MessageWrite, MessageWriteExt, MessageWriteVec,
        Method, TransactionId,
    },
    prelude::AttributeWrite,
};
use turn_types::{
    attribute::{ChannelNumber, Lifetime, RequestedTransport, XorPeerAddress, XorRelayedAddress},
    message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH},
};

use super::*;
use crate::{
    clock::{Now, UnixTime},
    identity::NodeId,
};

const HOUR: Duration = Duration::from_secs(3600);

fn start() -> Now {
    Now { instant: Instant::now(), unix: UnixTime::from_seconds(1_800_000_000) }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn config() -> RelayConfig {
    RelayConfig { relayed_v4: Some([198, 41, 0, 4].into()), ..RelayConfig::default() }
}

fn relay(config: RelayConfig) -> RelayServer {
    RelayServer::new(config, RelaySecret::new([3; 32]), [4; 32])
}

struct Client {
    id: ClientId,
    credentials: RelayCredentials,
    nonce: Option<String>,
    transactions: u128,
}

impl Client {
    fn new(server: &RelayServer, now: Now, port: u16, node: u8) -> Self {
        let remote = SocketAddr::from(([9, 9, 9, 9], port));
        Self {
            id: ClientId::Udp { remote, socket: 0 },
            credentials: server.mint(now, NodeId([node; 16]), HOUR),
            nonce: None,
            transactions: u128::from(port) << 32,
        }
    }

    fn key(&self) -> MessageIntegrityCredentials {
        let RelayCredentials { username, password, realm, .. } = self.credentials.clone();
        LongTermKeyCredentials::new(username, password, realm).into()
    }

    fn message(&self, method: Method, attributes: &[&dyn AttributeWrite]) -> Vec<u8> {
        let kind = MessageType::from_class_method(MessageClass::Request, method);
        let id = TransactionId::from(self.transactions);
        let mut message = Message::builder(kind, id, MessageWriteVec::new());
        for attribute in attributes {
            message.add_attribute(*attribute).unwrap();
        }
        if let Some(nonce) = &self.nonce {
            message.add_attribute(&Username::new(&self.credentials.username).unwrap()).unwrap();
            message.add_attribute(&Realm::new(&self.credentials.realm).unwrap()).unwrap();
            message.add_attribute(&Nonce::new(nonce).unwrap()).unwrap();
            message.add_message_integrity(&self.key(), IntegrityAlgorithm::Sha256).unwrap();
        }
        message.finish()
    }

    /// Error code of the answer, or `Ok`; takes nonces from challenges and tries once more.
    fn ask(
        &mut self,
        server: &mut RelayServer,
        now: Now,
        method: Method,
        attributes: &[&dyn AttributeWrite],
    ) -> Result<Vec<u8>, u16> {
        for _ in 0..2 {
            self.transactions += 1;
            let request = self.message(method, attributes);
            let answer = exchange(server, now, self.id, &request).expect("no answer");
            let message = Message::from_bytes(&answer).unwrap();
            let Ok(error) = message.attribute::<ErrorCode>() else {
                message.validate_integrity(&self.key()).expect("answer not signed by the relay");
                return Ok(answer);
            };
            let challenge = message.attribute::<Nonce>();
            match challenge {
                Ok(nonce) if self.nonce.as_deref() != Some(nonce.nonce()) => {
                    self.nonce = Some(nonce.nonce().to_owned());
                }
                _ => return Err(error.code()),
            }
        }
        Err(401)
    }

    fn allocate(&mut self, server: &mut RelayServer, now: Now) -> Result<SocketAddr, u16> {
        let answer = self.ask(server, now, ALLOCATE, &[&RequestedTransport::new(17)])?;
        let message = Message::from_bytes(&answer).unwrap();
        let relayed = message.attribute::<XorRelayedAddress>().unwrap();
        let mapped = message.attribute::<XorMappedAddress>().unwrap();
        assert_eq!(mapped.addr(message.transaction_id()), self.id.remote());
        Ok(relayed.addr(message.transaction_id()))
    }

    fn bind(
        &mut self,
        server: &mut RelayServer,
        now: Now,
        number: u16,
        peer: SocketAddr,
    ) -> Result<(), u16> {
        self.transactions += 1;
        let attribute = XorPeerAddress::new(peer, TransactionId::from(self.transactions));
        self.transactions -= 1;
        self.ask(server, now, CHANNEL_BIND, &[&ChannelNumber::new(number), &attribute]).map(|_| ())
    }

    fn permit(&mut self, server: &mut RelayServer, now: Now, peer: SocketAddr) -> Result<(), u16> {
        self.transactions += 1;
        let attribute = XorPeerAddress::new(peer, TransactionId::from(self.transactions));
        self.transactions -= 1;
        self.ask(server, now, CREATE_PERMISSION, &[&attribute]).map(|_| ())
    }

    fn refresh(&mut self, server: &mut RelayServer, now: Now, seconds: u32) -> Result<(), u16> {
        self.ask(server, now, REFRESH, &[&Lifetime::new(seconds)]).map(|_| ())
    }
}

/// One message in, the bytes sent back to its sender out; every bind succeeds.
fn exchange(server: &mut RelayServer, now: Now, client: ClientId, bytes: &[u8]) -> Option<Vec<u8>> {
    server.handle_message(now, client, None, bytes);
    let mut answer = None;
    while let Some(output) = server.poll_output() {
        match output {
            RelayOutput::Transmit { client: to, bytes, .. } => {
                assert_eq!(to, client, "answer to somebody else");
                answer = Some(bytes);
            }
            RelayOutput::BindRelayed { allocation, .. } => server.handle_bound(allocation, true),
            _ => {}
        }
    }
    answer
}

fn channel_data(number: u16, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    [&number.to_be_bytes(), &length.to_be_bytes()[..], payload].concat()
}

#[test]
fn a_call_is_relayed_both_ways_over_a_channel() {
    let (now, mut server) = (start(), relay(config()));
    let mut client = Client::new(&server, now, 1000, 1);
    let relayed = client.allocate(&mut server, now).unwrap();
    assert_eq!(relayed.ip(), SocketAddr::from(([198, 41, 0, 4], 0)).ip());
    let peer = address("8.8.4.4:7000");
    client.bind(&mut server, now, 0x4001, peer).unwrap();
    let data = channel_data(0x4001, b"voice");
    let FromClient::ToPeer { allocation, peer: to, payload } =
        server.forward_from_client(now.instant, &client.id, &data)
    else {
        panic!("not forwarded");
    };
    assert_eq!((to, &data[payload]), (peer, &b"voice"[..]));
    let back = server.forward_from_peer(now.instant, allocation, peer, 5).unwrap();
    assert_eq!((back.client, back.header), (client.id, ClientHeader::Channel(0x4001)));
    let stranger = address("8.8.4.5:7000");
    assert_eq!(server.forward_from_peer(now.instant, allocation, stranger, 5), None);
    let other_port = server.forward_from_peer(now.instant, allocation, address("8.8.4.4:1"), 5);
    assert_eq!(other_port.unwrap().header, ClientHeader::Indication(address("8.8.4.4:1")));
    assert_eq!(server.counts().relayed_packets, 3);
    assert_eq!(server.counts().dropped_no_permission, 1);
}

#[test]
fn two_clients_of_one_relay_meet_without_the_kernel_and_only_with_both_permissions() {
    let (now, mut server) = (start(), relay(config()));
    let mut alice = Client::new(&server, now, 1000, 1);
    let mut bob = Client::new(&server, now, 2000, 2);
    let at_alice = alice.allocate(&mut server, now).unwrap();
    let at_bob = bob.allocate(&mut server, now).unwrap();
    alice.bind(&mut server, now, 0x4001, at_bob).unwrap();
    let data = channel_data(0x4001, b"hello");
    let before = server.forward_from_client(now.instant, &alice.id, &data);
    assert_eq!(before, FromClient::Drop, "bob has not permitted alice");
    bob.bind(&mut server, now, 0x4777, at_alice).unwrap();
    let FromClient::ToClient { forward, .. } =
        server.forward_from_client(now.instant, &alice.id, &data)
    else {
        panic!("not forwarded");
    };
    assert_eq!((forward.client, forward.header), (bob.id, ClientHeader::Channel(0x4777)));
}

#[test]
fn forbidden_peers_are_refused_however_they_are_asked_for() {
    let (now, mut server) = (start(), relay(config()));
    let mut client = Client::new(&server, now, 1000, 1);
    client.allocate(&mut server, now).unwrap();
    for peer in ["127.0.0.1:53", "10.0.0.1:80", "169.254.169.254:80", "224.0.0.1:5353"] {
        assert_eq!(client.bind(&mut server, now, 0x4000, address(peer)), Err(403), "{peer}");
        assert_eq!(client.permit(&mut server, now, address(peer)), Err(403), "{peer}");
    }
    for peer in ["[::1]:80", "[::ffff:127.0.0.1]:80"] {
        assert_eq!(client.permit(&mut server, now, address(peer)), Err(443), "{peer}");
    }
    assert_eq!(server.counts().forbidden_peers, 8);
    let data = channel_data(0x4000, b"x");
    assert_eq!(server.forward_from_client(now.instant, &client.id, &data), FromClient::Drop);
}

#[test]
fn permissions_channels_and_allocations_lapse_on_time_and_are_renewed() {
    let (now, mut server) = (start(), relay(config()));
    let mut client = Client::new(&server, now, 1000, 1);
    client.allocate(&mut server, now).unwrap();
    let peer = address("8.8.4.4:7000");
    client.bind(&mut server, now, 0x4001, peer).unwrap();
    let allocation = AllocationId(0);
    let reaches = |server: &mut RelayServer, seconds| {
        let at = now.instant + Duration::from_secs(seconds);
        server.forward_from_peer(at, allocation, peer, 1).is_some()
    };
    assert!(reaches(&mut server, 299));
    assert!(!reaches(&mut server, 300), "permission lives 5 minutes");
    client.permit(&mut server, now.plus(Duration::from_secs(400)), peer).unwrap();
    client.refresh(&mut server, now.plus(Duration::from_secs(500)), 900).unwrap();
    let channel_gone = now.instant + Duration::from_secs(600);
    let data = channel_data(0x4001, b"x");
    let sent = server.forward_from_client(channel_gone, &client.id, &data);
    assert_eq!(sent, FromClient::Drop, "channel lives 10 minutes");
    assert!(reaches(&mut server, 650), "the permission was renewed");
    server.handle_timeout(now.instant + Duration::from_secs(1399));
    assert_eq!(server.counts().allocations, 1);
    server.handle_timeout(now.instant + Duration::from_secs(1401));
    assert_eq!(server.counts().allocations, 0);
    assert_eq!(server.poll_output(), Some(RelayOutput::CloseRelayed { allocation }));
}

#[test]
fn refresh_with_zero_ends_the_allocation() {
    let (now, mut server) = (start(), relay(config()));
    let mut client = Client::new(&server, now, 1000, 1);
    client.allocate(&mut server, now).unwrap();
    client.refresh(&mut server, now, 0).unwrap();
    assert_eq!(server.counts().allocations, 0);
    assert_eq!(client.refresh(&mut server, now, 600), Err(437));
}

#[test]
fn expired_foreign_and_forged_credentials_get_nothing() {
    let (now, mut server) = (start(), relay(config()));
    let mut late = Client::new(&server, now, 1000, 1);
    assert_eq!(late.allocate(&mut server, now.plus(HOUR)), Err(401));
    let elsewhere = RelayServer::new(config(), RelaySecret::new([99; 32]), [4; 32]);
    let mut foreign = Client::new(&elsewhere, now, 2000, 1);
    assert_eq!(foreign.allocate(&mut server, now), Err(401));
    let mut forged = Client::new(&server, now, 3000, 1);
    forged.credentials.username = forged.credentials.username.replace("01", "02");
    assert_eq!(forged.allocate(&mut server, now), Err(401));
    assert_eq!(server.counts().allocations_made, 0);
    assert!(server.counts().unauthorized >= 3);
}

#[test]
fn a_standing_call_outlives_its_credentials_but_not_by_a_day() {
    let (now, mut server) = (start(), relay(config()));
    let mut client = Client::new(&server, now, 1000, 1);
    client.allocate(&mut server, now).unwrap();
    client.refresh(&mut server, now, 3600).unwrap();
    let mut at = now;
    for _ in 0..16 {
        at = at.plus(Duration::from_secs(3300));
        if at.unix >= client.credentials.expires.plus(12 * HOUR) {
            break;
        }
        client.refresh(&mut server, at, 3600).unwrap();
    }
    assert_eq!(client.refresh(&mut server, at, 3600), Err(401));
}

#[test]
fn another_users_credentials_do_not_touch_an_allocation() {
    let (now, mut server) = (start(), relay(config()));
    let mut client = Client::new(&server, now, 1000, 1);
    client.allocate(&mut server, now).unwrap();
    client.credentials = server.mint(now, NodeId([2; 16]), HOUR);
    assert_eq!(client.refresh(&mut server, now, 0), Err(441));
    assert_eq!(server.counts().allocations, 1);
}

#[test]
fn a_retransmitted_allocate_is_answered_alike_and_a_second_one_refused() {
    let (now, mut server) = (start(), relay(config()));
    let mut client = Client::new(&server, now, 1000, 1);
    let first = client.allocate(&mut server, now).unwrap();
    let again = client.message(ALLOCATE, &[&RequestedTransport::new(17)]);
    let answer = exchange(&mut server, now, client.id, &again).unwrap();
    let message = Message::from_bytes(&answer).unwrap();
    let relayed = message.attribute::<XorRelayedAddress>().unwrap();
    assert_eq!(relayed.addr(message.transaction_id()), first);
    assert_eq!(client.allocate(&mut server, now), Err(437));
    assert_eq!(server.counts().allocations, 1);
}

#[test]
fn a_request_replayed_from_another_address_or_later_is_stale() {
    let (now, mut server) = (start(), relay(config()));
    let mut client = Client::new(&server, now, 1000, 1);
    client.allocate(&mut server, now).unwrap();
    let request = client.message(ALLOCATE, &[&RequestedTransport::new(17)]);
    let code = |answer: Option<Vec<u8>>| {
        let answer = answer.unwrap();
        Message::from_bytes(&answer).unwrap().attribute::<ErrorCode>().unwrap().code()
    };
    let thief = ClientId::Udp { remote: address("7.7.7.7:1000"), socket: 0 };
    assert_eq!(code(exchange(&mut server, now, thief, &request)), 438);
    let later = now.plus(Duration::from_secs(700));
    assert_eq!(code(exchange(&mut server, later, client.id, &request)), 438);
}
